//! The host backing: one memfd, mapped once, whose ranges hold the bytes of device memory.
//!
//! The mapping is sparse: a byte costs memory from its first write until its range is punched. It is left out of forked
//! children (their device is gone, and they must not write into the parent's). The file's size is sealed: a broker that maps
//! it can't be hurt by a shorter one.
use super::{Written, GRANULE};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// The file of the process's backing; -1: there is none yet.
static FILE: AtomicI32 = AtomicI32::new(-1);

/// The file of the process's backing, once there is one: it lives as long as the process.
pub fn file() -> Option<BorrowedFd<'static>> {
    let fd = FILE.load(Ordering::Acquire);
    // SAFETY: the device's memory, and the backing in it, are never dropped.
    (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Whether memory of the process is mapped at all of `[at, at + len)`.
pub fn is_there(at: u64, len: u64) -> bool {
    let page = 4096;
    let start = at / page * page;
    let Some(end) = (at + len).checked_next_multiple_of(page) else { return false };
    // SAFETY: with MS_ASYNC alone the kernel only looks whether something is mapped there.
    unsafe { libc::msync(start as *mut libc::c_void, (end - start) as usize, libc::MS_ASYNC) == 0 }
}

/// A sparse file of `len` bytes and its mapping.
pub struct Backing {
    fd: OwnedFd,
    base: usize,
    len: usize,
    written: Written,
}

impl Backing {
    /// Makes a backing of `len` bytes (a multiple of the page size).
    ///
    /// # Errors
    /// `EFBIG` if the process may not make so large a file (`ulimit -f`); else what the system says.
    pub fn new(len: usize) -> std::io::Result<Self> {
        let mut most = std::mem::MaybeUninit::<libc::rlimit>::uninit();
        // SAFETY: fills the struct we pass.
        let limited = unsafe {
            libc::getrlimit(libc::RLIMIT_FSIZE, most.as_mut_ptr()) == 0 && most.assume_init().rlim_cur < len as u64
        };
        if limited {
            // asked for all the same, it would be a signal that ends the process
            return Err(std::io::Error::from_raw_os_error(libc::EFBIG));
        }
        // SAFETY: the name is a C string; the descriptor that comes back is ours alone.
        let fd = unsafe {
            let fd = libc::memfd_create(c"zerogpu-backing".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
            if fd < 0 {
                return Err(std::io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: plain calls on our own descriptor; the mapping goes where the kernel likes.
        let base = unsafe {
            if libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
            if libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_NORESERVE);
            let p = libc::mmap(std::ptr::null_mut(), len, prot, flags, fd.as_raw_fd(), 0);
            if p == libc::MAP_FAILED {
                return Err(std::io::Error::last_os_error());
            }
            // Both are advice: without them only a child's page tables or a fill's speed differ.
            libc::madvise(p, len, libc::MADV_DONTFORK);
            libc::madvise(p, len, libc::MADV_HUGEPAGE);
            p as usize
        };
        FILE.store(fd.as_raw_fd(), Ordering::Release);
        Ok(Self { fd, base, len, written: Written::new(len) })
    }

    /// Host address of the byte at `off`.
    pub fn at(&self, off: u64) -> usize {
        debug_assert!(off < self.len as u64);
        self.base + off as usize
    }

    /// Which chunks were written.
    pub fn written(&self) -> &Written {
        &self.written
    }

    /// Notes that the host is about to write `len` bytes at the host address `to`, if that is the backing's.
    pub fn mark(&self, to: usize, len: u64) {
        let off = to.wrapping_sub(self.base);
        if off < self.len {
            self.written.mark(off as u64, len);
        }
    }

    /// Gives the memory of a range back to the system; it reads as zeros afterwards.
    pub fn punch(&self, off: u64, len: u64) {
        self.written.mark(off, len);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: our own descriptor, a range inside it. Failure leaves memory in use, nothing else.
        let failed = unsafe { libc::fallocate(self.fd.as_raw_fd(), mode, off as i64, len as i64) } != 0;
        if failed {
            self.zero(off, len);
        }
    }

    /// Zeroes a range byte by byte, where a hole cannot be punched (an old tmpfs): nobody may see freed bytes.
    fn zero(&self, off: u64, len: u64) {
        // SAFETY: the range lies inside our mapping, and its owner has freed it.
        unsafe { std::ptr::write_bytes(self.at(off) as *mut u8, 0, len as usize) }
    }

    /// The parts of a range that have memory (offset, bytes); the rest reads as zeros. Holes smaller than a granule are not
    /// worth telling apart.
    pub fn data(&self, off: u64, len: u64) -> Vec<(u64, u64)> {
        let seek = |at: u64, what| {
            // SAFETY: our own descriptor, whose position nobody uses.
            let found = unsafe { libc::lseek(self.fd.as_raw_fd(), at as libc::off_t, what) };
            u64::try_from(found).ok()
        };
        let (mut at, end) = (off, off + len);
        let mut out: Vec<(u64, u64)> = Vec::new();
        while at < end {
            let start = match seek(at, libc::SEEK_DATA) {
                Some(start) if start < end => start,
                Some(_) => break,
                // no data behind it; any other refusal: all of it counts
                None if std::io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO) => break,
                None => at,
            };
            let stop = seek(start, libc::SEEK_HOLE).filter(|&stop| stop > start).unwrap_or(end).min(end);
            match out.last_mut() {
                Some((first, n)) if start - (*first + *n) < GRANULE => *n = stop - *first,
                _ => out.push((start, stop - start)),
            }
            at = stop;
        }
        out
    }

    /// What fills ranges without memory, of the first `len` bytes.
    pub fn filler(&self, len: usize) -> Filler {
        Filler { fd: self.fd(), base: self.base, len: len.min(self.len) }
    }

    /// Lays a file of `len` bytes over a range: what is read and written there is the file's.
    ///
    /// # Errors
    /// `EINVAL` for a range that is not inside of the backing; else what the system says.
    pub fn overlay(&self, off: u64, len: u64, file: RawFd) -> std::io::Result<()> {
        self.lay(off, len, file, 0)
    }

    /// Ends what [`Backing::overlay`] did.
    ///
    /// # Errors
    /// As for [`Backing::overlay`].
    pub fn restore(&self, off: u64, len: u64) -> std::io::Result<()> {
        self.lay(off, len, self.fd(), off)
    }

    fn lay(&self, off: u64, len: u64, file: RawFd, from: u64) -> std::io::Result<()> {
        if off.checked_add(len).is_none_or(|end| end > self.len as u64) {
            return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
        }
        let at = self.at(off) as *mut libc::c_void;
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_NORESERVE);
        // SAFETY: a range inside our own mapping, whose owner is the caller: nobody uses its bytes now.
        unsafe {
            if libc::mmap(at, len as usize, prot, flags | libc::MAP_FIXED, file, from as libc::off_t)
                == libc::MAP_FAILED
            {
                return Err(std::io::Error::last_os_error());
            }
            libc::madvise(at, len as usize, libc::MADV_DONTFORK);
        }
        Ok(())
    }

    /// The file, for sharing with a process that copies.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Whether a thread is writing the file.
static WRITING: AtomicBool = AtomicBool::new(false);

/// Fills ranges of a backing that have no memory yet by writing the file: a page made by a write is neither zeroed first
/// nor faulted in, which takes half the time. The kernel lets one thread write a file at a time: the others fault their
/// pages in, a whole range in one call. Valid as long as its backing.
#[derive(Clone, Copy)]
pub struct Filler {
    fd: RawFd,
    base: usize,
    len: usize,
}

impl Filler {
    /// Writes what is at `from` to the backing's host address `to`, if there is no memory there and no other thread fills;
    /// gives the bytes written, from the first on. The rest (all of them where there is memory, or the address is not the
    /// backing's) is for the caller to copy through the mapping.
    ///
    /// # Safety
    /// `len` bytes at `from` are readable, and nobody writes to the range meanwhile.
    pub unsafe fn fill(&self, to: usize, from: usize, len: usize) -> usize {
        const PAGE: usize = 4096;
        let off = to.wrapping_sub(self.base);
        if off >= self.len || len > self.len - off {
            return 0;
        }
        let page = to & !(PAGE - 1);
        let mut there = 0u8;
        // SAFETY: one page of our mapping, one byte for it.
        let asked = unsafe { libc::mincore(page as *mut libc::c_void, PAGE, &mut there) };
        if asked != 0 || there & 1 != 0 {
            return 0;
        }
        if WRITING.swap(true, Ordering::Acquire) {
            // advice: a kernel that does not know it (older than 5.14) faults the pages in one by one
            // SAFETY: whole pages of our mapping, each of which the caller is about to write.
            unsafe { libc::madvise(page as *mut libc::c_void, to + len - page, libc::MADV_POPULATE_WRITE) };
            return 0;
        }
        // SAFETY: our own descriptor and the caller's bytes; what can't be written is left to the caller.
        let written = unsafe { libc::pwrite(self.fd, from as *const libc::c_void, len, off as libc::off_t) };
        WRITING.store(false, Ordering::Release);
        usize::try_from(written).unwrap_or(0)
    }
}

/// Reserves address space without memory: at `at` exactly, or anywhere if None.
///
/// # Errors
/// `EEXIST` if anything is mapped at `at`; else what the system says, such as that the process may have no more
/// addresses.
pub fn reserve(at: Option<u64>, len: u64) -> std::io::Result<u64> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let fixed = if at.is_some() { libc::MAP_FIXED_NOREPLACE } else { 0 };
    let hint = at.unwrap_or(0) as *mut libc::c_void;
    // SAFETY: PROT_NONE address space that replaces no mapping (MAP_FIXED_NOREPLACE, or the kernel's choice).
    let p = unsafe { libc::mmap(hint, len as usize, libc::PROT_NONE, flags | fixed, -1, 0) };
    if p == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    if at.is_some_and(|a| a != p as u64) {
        // a kernel older than 4.17 takes the address as a hint only
        unreserve(p as u64, len);
        return Err(std::io::Error::from_raw_os_error(libc::EEXIST));
    }
    Ok(p as u64)
}

/// Ends a reservation made by [`reserve`], or an anonymous mapping made by [`anonymous`].
pub fn unreserve(at: u64, len: u64) {
    // SAFETY: the range is one that `reserve` or `anonymous` returned, and its owner has let go of it.
    unsafe { libc::munmap(at as *mut libc::c_void, len as usize) };
}

/// Something that the process has mapped.
pub struct Mapping {
    /// The first address.
    pub start: u64,
    /// The first address behind it.
    pub end: u64,
    /// What /proc/self/maps says of it.
    pub line: String,
}

/// All that the process has mapped; nothing where /proc can't be read.
pub fn mappings() -> Vec<Mapping> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mapping = |line: &str| {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        let address = |text| u64::from_str_radix(text, 16).ok();
        Some(Mapping { start: address(start)?, end: address(end)?, line: line.to_string() })
    };
    maps.lines().filter_map(mapping).collect()
}

/// Readable and writable zeroed host memory, private to the process (a forked child has its own copy).
///
/// # Errors
/// What the system says, such as that there is no memory, or `EINVAL` for 0 bytes.
pub fn anonymous(len: u64) -> std::io::Result<u64> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: fresh memory at an address of the kernel's choice.
    let p = unsafe { libc::mmap(std::ptr::null_mut(), len as usize, prot, flags, -1, 0) };
    if p == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    Ok(p as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_no_data() {
        let b = Backing::new(64 << 20).unwrap();
        let far = 16 * GRANULE;
        assert_eq!(b.data(0, 64 << 20), []);
        for at in [GRANULE, 2 * GRANULE, far] {
            // SAFETY: inside the mapping.
            unsafe { *(b.at(at + 5) as *mut u8) = 1 };
        }
        let found = b.data(GRANULE, 20 * GRANULE);
        assert_eq!(found.len(), 2, "{found:?}");
        let holds = |at: u64| found.iter().any(|&(start, n)| (start..start + n).contains(&at));
        assert!(holds(GRANULE + 5) && holds(2 * GRANULE + 5) && holds(far + 5) && !holds(8 * GRANULE));
        assert_eq!(b.data(3 * GRANULE + 4096, GRANULE), []);
        b.punch(far, GRANULE);
        assert_eq!(b.data(GRANULE, 20 * GRANULE).len(), 1);
    }
}

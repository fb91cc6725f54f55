//! The memory behind a Space, which Space and broker both map.
//!
//! Whoever maps a file that another can shorten dies of SIGBUS. So a Space seals its backing before it hands it over,
//! and the broker takes nothing else.
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{io, mem};

use crate::limits::CHUNK_BYTES;
use crate::packet::retry;

const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

/// Seals that would keep the broker from writing a host copy.
const READ_ONLY: libc::c_int = libc::F_SEAL_WRITE | libc::F_SEAL_FUTURE_WRITE;

/// Fixes the size of a memory file, and its seals, for ever. The file was made by `memfd_create` with
/// `MFD_ALLOW_SEALING`.
///
/// # Errors
/// What the system says, as of a file made without `MFD_ALLOW_SEALING`.
pub fn seal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes numbers.
    retry(|| unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, SEALS) }).map(|_| ())
}

/// The size, in bytes, of a backing that may be mapped without fear: a memory file in ordinary pages, sealed, open for
/// reading and writing, and whole chunks long.
///
/// # Errors
/// `InvalidInput`, with what to change, if it is no such file; else what the system says.
pub fn check_backing(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let raw = fd.as_raw_fd();
    // First, since it never waits for anyone: the file may be in a file system that its owner serves.
    // SAFETY: takes numbers.
    let seals = retry(|| unsafe { libc::fcntl(raw, libc::F_GET_SEALS) })
        .map_err(|_| refuse("it is no memory file: make it with memfd_create"))? as libc::c_int;
    if seals & SEALS != SEALS {
        return Err(refuse("it lacks F_SEAL_SHRINK, F_SEAL_GROW or F_SEAL_SEAL: add them"));
    }
    if seals & READ_ONLY != 0 {
        return Err(refuse("it is sealed against writing: leave F_SEAL_WRITE and F_SEAL_FUTURE_WRITE out"));
    }
    // SAFETY: takes numbers.
    let flags = retry(|| unsafe { libc::fcntl(raw, libc::F_GETFL) })? as libc::c_int;
    if flags & libc::O_ACCMODE != libc::O_RDWR || flags & libc::O_PATH != 0 {
        return Err(refuse("it is not open for reading and writing: pass the descriptor of memfd_create"));
    }
    // SAFETY: all zeroes is such a structure.
    let (mut system, mut file): (libc::statfs, libc::stat) = unsafe { (mem::zeroed(), mem::zeroed()) };
    // SAFETY: the kernel fills a structure of ours.
    retry(|| unsafe { libc::fstatfs(raw, &mut system) })?;
    // Touching a huge page when none is left is SIGBUS as well.
    if system.f_type != libc::TMPFS_MAGIC {
        return Err(refuse("it has huge pages: leave MFD_HUGETLB out"));
    }
    // SAFETY: the kernel fills a structure of ours.
    retry(|| unsafe { libc::fstat(raw, &mut file) })?;
    if file.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(refuse("it is no regular file"));
    }
    match u64::try_from(file.st_size) {
        Ok(size) if size > 0 && size % CHUNK_BYTES == 0 => Ok(size),
        _ => Err(refuse("its size is no multiple of 2 MiB")),
    }
}

fn refuse(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("the backing can't be used: {why}"))
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::fs::File;
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};

    use super::*;

    fn memfd(flags: libc::c_uint, size: u64) -> File {
        let name = CString::new("backing").unwrap();
        // SAFETY: the name ends with a zero.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | flags) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: it is new.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.set_len(size).unwrap();
        file
    }

    fn add(file: &File, seals: libc::c_int) {
        // SAFETY: takes numbers.
        assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }, 0);
    }

    fn refusal(file: &File) -> String {
        check_backing(file.as_fd()).unwrap_err().to_string()
    }

    #[test]
    fn a_sealed_backing_keeps_its_size() {
        let file = memfd(libc::MFD_ALLOW_SEALING, 4 << 20);
        assert!(refusal(&file).contains("F_SEAL_SHRINK"));
        seal(file.as_fd()).unwrap();
        assert_eq!(check_backing(file.as_fd()).unwrap(), 4 << 20);
        file.set_len(2 << 20).unwrap_err();
        file.set_len(6 << 20).unwrap_err();
        // SAFETY: takes numbers.
        let added = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) };
        assert_eq!(added, -1, "seals are final");
    }

    #[test]
    fn what_is_no_backing() {
        for missing in [libc::F_SEAL_SHRINK, libc::F_SEAL_GROW, libc::F_SEAL_SEAL] {
            let file = memfd(libc::MFD_ALLOW_SEALING, 2 << 20);
            add(&file, SEALS & !missing);
            assert!(refusal(&file).contains("lacks"));
        }
        for extra in [libc::F_SEAL_WRITE, libc::F_SEAL_FUTURE_WRITE] {
            let file = memfd(libc::MFD_ALLOW_SEALING, 2 << 20);
            add(&file, SEALS | extra);
            assert!(refusal(&file).contains("sealed against writing"));
        }
        for size in [0, 4096, (2 << 20) + 1] {
            let file = memfd(libc::MFD_ALLOW_SEALING, size);
            seal(file.as_fd()).unwrap();
            assert!(refusal(&file).contains("multiple of 2 MiB"), "{size}");
        }
        let file = memfd(libc::MFD_ALLOW_SEALING, 2 << 20);
        seal(file.as_fd()).unwrap();
        let again =
            |options: &mut std::fs::OpenOptions| options.open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        assert!(refusal(&again(File::options().read(true))).contains("reading and writing"));
        assert_eq!(check_backing(again(File::options().read(true).write(true)).as_fd()).unwrap(), 2 << 20);

        assert!(refusal(&memfd(0, 2 << 20)).contains("lacks"), "no seals allowed");
        let file = refusal(&tempfile::tempfile().unwrap());
        assert!(file.contains("lacks") || file.contains("no memory file"), "{file}");
        assert!(refusal(&File::open("/dev/null").unwrap()).contains("no memory file"));
    }

    #[test]
    fn huge_pages_are_refused() {
        let name = CString::new("backing").unwrap();
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_HUGETLB;
        // SAFETY: the name ends with a zero.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
        if fd < 0 {
            return; // a kernel without them
        }
        // SAFETY: it is new.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.set_len(2 << 20).unwrap();
        seal(file.as_fd()).unwrap();
        assert!(refusal(&file).contains("huge pages"));
    }
}

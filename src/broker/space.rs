//! The host backing of a Space, as the broker sees it: mapped once, page-locked once.
use nix::sys::mman::{mmap, munmap, MapFlags, ProtFlags};
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use zerogpu_abi::Res;
use zerogpu_below::{copy, Copied, Driver, Pinning, Pins, Trip, Way};
use zerogpu_protocol::Range;

/// A mapped backing. Its size is sealed, so that nothing here can be cut off under the broker.
///
/// The workers of the cards hold it; the last of them to let go unpins and unmaps it, with a context of its card current,
/// as unpinning needs one.
pub struct Backing {
    driver: &'static Driver,
    base: NonNull<c_void>,
    size: u64,
    pins: Mutex<Pins>,
    /// Bytes that are page-locked, for whoever must not wait for a copy to end.
    pinned: AtomicU64,
}

// SAFETY: the address is that of a shared mapping, used by one worker at a time or for disjoint ranges, and freed once.
unsafe impl Send for Backing {}
// SAFETY: as above; the table of pins has a lock.
unsafe impl Sync for Backing {}

impl Backing {
    /// Maps `size` bytes of a Space's file, whose seals were checked.
    pub fn map(driver: &'static Driver, file: &OwnedFd, size: u64) -> std::io::Result<Backing> {
        let length = usize::try_from(size).ok().and_then(NonZeroUsize::new).ok_or(std::io::ErrorKind::InvalidInput)?;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        // SAFETY: a fresh mapping where the kernel likes, of a file whose size can't change.
        let base = unsafe { mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags, file, 0)? };
        Ok(Backing { driver, base, size, pins: Mutex::new(Pins::new(base.as_ptr() as u64)), pinned: AtomicU64::new(0) })
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The way of a range between the card's address and the host.
    pub fn trip(&self, device: u64, range: Range) -> Trip {
        debug_assert!(range.end() <= self.size);
        Trip { device, host: self.base.as_ptr() as u64 + range.off, len: range.len }
    }

    /// Copies, and keeps page-locked what it copies from or to.
    pub fn travel(&self, way: Way, trips: &[Trip]) -> Res<Copied> {
        let mut pins = self.pins();
        let copied = copy(self.driver, way, trips, Pinning::Kept(&mut pins));
        self.pinned.store(pins.bytes(), Ordering::Relaxed);
        copied
    }

    /// Bytes that are page-locked.
    pub fn pinned(&self) -> u64 {
        self.pinned.load(Ordering::Relaxed)
    }

    /// Unpins whatever touches a range, so that its owner may punch it. The error: it is still pinned.
    pub fn forget(&self, range: Range) -> Res {
        let mut pins = self.pins();
        let forgotten = pins.forget(self.driver, self.base.as_ptr() as u64 + range.off, range.len);
        self.pinned.store(pins.bytes(), Ordering::Relaxed);
        forgotten
    }

    fn pins(&self) -> MutexGuard<'_, Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        if let Err(e) = self.pins().clear(self.driver) {
            tracing::error!(
                code = e.0,
                "a Space's host memory could not be unpinned; restart the broker if memory stays in use"
            );
            // the card may still write there: the pages must stay what they are
            return;
        }
        // SAFETY: the mapping made by `map`; nobody copies to or from it any more.
        if let Err(e) = unsafe { munmap(self.base, self.size as usize) } {
            tracing::error!("a Space's host memory could not be unmapped: {e}");
        }
    }
}

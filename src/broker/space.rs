//! The host backing of a Space, as the broker sees it: mapped once, page-locked once.
use super::ahead::Stop;
use nix::sys::mman::{mmap, munmap, MapFlags, ProtFlags};
use std::ffi::c_void;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use zerogpu_abi::Res;
use zerogpu_below::{copy, Copied, Driver, Pinning, Pins, Trip, Way};
use zerogpu_protocol::{Range, BACKING_BYTES};

/// A mapped backing. Its size is sealed, so that nothing here can be cut off under the broker.
///
/// The workers of the cards hold it; the last of them to let go unpins and unmaps it, with a context of its card current,
/// as unpinning needs one.
pub struct Backing {
    driver: &'static Driver,
    base: NonNull<c_void>,
    size: u64,
    /// The file, to be asked how much of it is there.
    file: File,
    pins: Mutex<Pins>,
    /// Bytes that are page-locked, for whoever must not wait for a copy to end.
    pinned: AtomicU64,
    /// Whether its Space is gone: then nothing has to be copied any more.
    gone: AtomicBool,
}

/// Bytes that are copied between two looks at whether the Space is still there: 20 ms on an H100.
const STRIDE: u64 = 1 << 30;

// SAFETY: the address is that of a shared mapping, used by one worker at a time or for disjoint ranges, and freed once.
unsafe impl Send for Backing {}
// SAFETY: as above; the table of pins has a lock.
unsafe impl Sync for Backing {}

impl Backing {
    /// Maps `size` bytes of a Space's file, whose seals were checked.
    pub fn map(driver: &'static Driver, file: &OwnedFd, size: u64) -> std::io::Result<Backing> {
        let length = usize::try_from(size).ok().and_then(NonZeroUsize::new).ok_or(std::io::ErrorKind::InvalidInput)?;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        if size > BACKING_BYTES {
            return Err(std::io::Error::other(format!("it is larger than {} GiB", BACKING_BYTES >> 30)));
        }
        let mine = File::from(file.try_clone()?);
        // SAFETY: a fresh mapping where the kernel likes, of a file whose size can't change.
        let base = unsafe { mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags, file, 0)? };
        Ok(Backing {
            driver,
            base,
            size,
            file: mine,
            pins: Mutex::new(Pins::new(base.as_ptr() as u64)),
            pinned: AtomicU64::new(0),
            gone: AtomicBool::new(false),
        })
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of the file that have memory behind them.
    pub fn written(&self) -> u64 {
        // a file of ours that is open: it can be asked, and if not, nothing is known of it
        self.file.metadata().map_or(0, |about| about.blocks() * 512)
    }

    /// The way of a range between the card's address and the host.
    pub fn trip(&self, device: u64, range: Range) -> Trip {
        debug_assert!(range.end() <= self.size);
        Trip { device, host: self.base.as_ptr() as u64 + range.off, len: range.len }
    }

    /// The Space is gone: copies of its bytes end early.
    pub fn leave(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Whether the Space is gone.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Copies, and keeps page-locked what it copies from or to. Fails early when the Space is gone.
    pub fn travel(&self, way: Way, trips: &[Trip]) -> Res<Copied> {
        let mut pins = self.pins();
        let mut all = Copied::default();
        for stride in strides(trips) {
            if self.is_gone() {
                return Err(zerogpu_abi::CUresult::DEINITIALIZED);
            }
            let copied = copy(self.driver, way, &stride, Pinning::Kept(&mut pins));
            self.pinned.store(pins.bytes(), Ordering::Relaxed);
            let copied = copied?;
            all.bytes += copied.bytes;
            all.pageable += copied.pageable;
            all.refused = all.refused.or(copied.refused);
        }
        Ok(all)
    }

    /// Copies one trip to the card, unless that is not to be any more. Whoever sets `stop` and then calls
    /// [`Backing::forget`] knows that nothing is pinned there afterwards.
    pub fn travel_unless(&self, stop: &Stop, trip: Trip) -> Res<Option<Copied>> {
        let mut pins = self.pins();
        if stop.is_set() || self.is_gone() {
            return Ok(None);
        }
        let copied = copy(self.driver, Way::In, &[trip], Pinning::Kept(&mut pins));
        self.pinned.store(pins.bytes(), Ordering::Relaxed);
        copied.map(Some)
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

/// Trips of at most [`STRIDE`] bytes together, in order.
fn strides(trips: &[Trip]) -> Vec<Vec<Trip>> {
    let mut all: Vec<Vec<Trip>> = Vec::new();
    let mut room = 0;
    for trip in trips {
        let mut at = 0;
        while at < trip.len {
            if room == 0 {
                all.push(Vec::new());
                room = STRIDE;
            }
            let len = room.min(trip.len - at);
            if let Some(last) = all.last_mut() {
                last.push(Trip { device: trip.device + at, host: trip.host + at, len });
            }
            (at, room) = (at + len, room - len);
        }
    }
    all
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
            tracing::error!(
                "a Space's host memory could not be unmapped: {e}; restart the broker if memory stays in use"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_hold_every_byte_in_order() {
        let trip = |at: u64, len: u64| Trip { device: at, host: at + 7, len };
        assert!(strides(&[]).is_empty());
        let cut = strides(&[trip(0, STRIDE / 2), trip(STRIDE, STRIDE), trip(4 * STRIDE, 3)]);
        let expected = [
            vec![trip(0, STRIDE / 2), trip(STRIDE, STRIDE / 2)],
            vec![trip(STRIDE + STRIDE / 2, STRIDE / 2), trip(4 * STRIDE, 3)],
        ];
        assert_eq!(cut, expected);
    }
}

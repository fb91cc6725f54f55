//! Whether the pages under a registration of host memory are still those that were registered (SOFTCUDA_STRICT_PINS).
//!
//! A card goes on using the pages that it pinned. If one of them is punched out of its file while it is registered, the
//! program soon has another page at that address, and bytes are lost without an error. Here each registration of a shared
//! mapping is mapped a second time, at an address that nobody else knows, with every page present; a punch takes the page
//! out of all mappings, and as nobody touches the second one it stays out, whatever the program does with its own.
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

const PAGE: u64 = 4096;

/// The second mappings, by the address of the registration.
#[derive(Default)]
pub struct Pins(Mutex<BTreeMap<u64, Pin>>);

struct Pin {
    len: u64,
    /// Of the page that holds the first byte.
    second: u64,
    pages: u64,
}

impl Pins {
    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Pin>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to watch a registration. Private memory, which has no file to be punched, is not watched.
    pub fn add(&self, at: u64, len: u64) {
        let first = at - at % PAGE;
        let Some(end) = at.checked_add(len).and_then(|end| end.checked_next_multiple_of(PAGE)) else { return };
        let size = (end - first) as usize;
        // SAFETY: an old size of 0 leaves the program's mapping alone and maps the same pages elsewhere; it fails where
        // they are private.
        let second = unsafe { libc::mremap(first as *mut libc::c_void, 0, size, libc::MREMAP_MAYMOVE) };
        if second == libc::MAP_FAILED {
            return;
        }
        // SAFETY: our own new mapping. Where not every page can be had the mapping is not the registration's.
        unsafe {
            libc::madvise(second, size, libc::MADV_DONTFORK);
            if libc::madvise(second, size, libc::MADV_POPULATE_READ) != 0 {
                libc::munmap(second, size);
                return;
            }
        }
        self.all().insert(at, Pin { len, second: second as u64, pages: (end - first) / PAGE });
    }

    /// The address of a page inside `[at, at + len)` that is not the one that was registered any more.
    pub fn lost(&self, at: u64, len: u64) -> Option<u64> {
        let pins = self.all();
        let (&base, pin) = pins.range(..=at).next_back().filter(|(&base, pin)| at < base + pin.len)?;
        let start = base - base % PAGE;
        let from = (at - start) / PAGE;
        let to = at.saturating_add(len.max(1)).saturating_sub(start).div_ceil(PAGE).min(pin.pages);
        let absent = absent(pin.second / PAGE + from, to - from).ok()?;
        absent.map(|page| start + (from + page) * PAGE)
    }

    /// Ends the watch over a registration.
    pub fn remove(&self, at: u64) {
        if let Some(pin) = self.all().remove(&at) {
            // SAFETY: the mapping that `add` made, and that nobody else knows.
            unsafe { libc::munmap(pin.second as *mut libc::c_void, (pin.pages * PAGE) as usize) };
        }
    }
}

/// The first of `count` pages of this process, from the page number `first` on, that is neither in memory nor swapped.
fn absent(first: u64, count: u64) -> std::io::Result<Option<u64>> {
    /// Bits of an entry of /proc/self/pagemap.
    const PRESENT_OR_SWAPPED: u64 = 0b11 << 62;
    let mut entries = vec![0u8; count as usize * 8];
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entries, first * 8)?;
    let words = entries.chunks_exact(8).map(|e| e.iter().rev().fold(0, |word, &b| word << 8 | u64::from(b)));
    Ok(words.zip(0..).find(|(word, _)| word & PRESENT_OR_SWAPPED == 0).map(|(_, page)| page))
}

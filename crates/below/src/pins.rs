//! Host memory that stays page-locked: which ranges are registered with the driver, each in pieces of 64 MiB.
//!
//! A copy call of the driver must lie inside one registration or outside all of them (recorded on an H100: else it answers
//! 1), so whoever copies asks for one [`Part`] after the other. Memory under a registration must not be punched or remapped:
//! the card would go on using the old pages. [`Pins::forget`] comes first.
use crate::{ok, twice, Driver};
use std::collections::BTreeMap;
use zerogpu_abi::*;

/// Bytes of a registration; larger ones cost the same per byte (recorded on an H100).
pub const PIECE: u64 = 64 << 20;
const PAGE: u64 = 4096;
/// CU_MEMHOSTREGISTER_PORTABLE: pinned for the contexts of all cards.
const PORTABLE: u32 = 1;
/// CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED.
const NOT_REGISTERED: CUresult = CUresult(713);

/// The registrations of one host backing. They end with [`Pins::clear`], or with the context in which they were made.
#[derive(Debug, Default)]
pub struct Pins {
    /// Where the backing begins: pieces are counted from here.
    base: u64,
    /// First address of a registration to the address behind it.
    registered: BTreeMap<u64, u64>,
}

/// The first bytes of a range, as far as one copy call may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Bytes.
    pub len: u64,
    /// Why they are not page-locked, if they are not.
    pub refused: Option<CUresult>,
}

impl Pins {
    /// No registrations yet. `base` is where the backing is mapped: a whole number of pages.
    pub fn new(base: u64) -> Self {
        Pins { base, registered: BTreeMap::new() }
    }

    /// Bytes that are registered.
    pub fn bytes(&self) -> u64 {
        self.registered.iter().map(|(start, end)| end - start).sum()
    }

    /// Whether each byte of a range is registered.
    pub fn covers(&self, host: u64, len: u64) -> bool {
        let (mut at, end) = (host, host + len);
        while at < end {
            match self.around(at) {
                Some((_, next)) => at = next,
                None => return false,
            }
        }
        true
    }

    /// Registers what is not registered yet of a mapped range.
    ///
    /// # Errors
    /// The driver's first refusal; all that it did not refuse is registered.
    pub fn ensure(&mut self, d: &Driver, host: u64, len: u64) -> Res {
        let (mut at, end) = (host, host + len);
        let mut refused = None;
        while at < end {
            let part = self.part(d, at, end - at);
            refused = refused.or(part.refused);
            at += part.len;
        }
        refused.map_or(Ok(()), Err)
    }

    /// The first part of a mapped range, not empty; registered now if it was not and the driver allows it.
    pub fn part(&mut self, d: &Driver, host: u64, len: u64) -> Part {
        let end = host + len;
        if let Some((_, next)) = self.around(host) {
            return Part { len: next.min(end) - host, refused: None };
        }
        // whole pages, up to the end of the piece, the next registration, or the range
        let start = host / PAGE * PAGE;
        let border = start + (PIECE - start.wrapping_sub(self.base) % PIECE);
        let next = self.registered.range(start..).next().map_or(u64::MAX, |(&next, _)| next);
        let stop = end.next_multiple_of(PAGE).min(border).min(next);
        // Reading maps sixteen pages at a time where this process has not seen them yet, the driver one: 16 and 8 GB/s. Advice: a
        // kernel that does not know it (older than 5.14) leaves it to the driver.
        // SAFETY: pages of the caller's mapping; no byte changes.
        unsafe { libc::madvise(start as *mut libc::c_void, (stop - start) as usize, libc::MADV_POPULATE_READ) };
        // SAFETY: pages of the caller's mapping, which it keeps until it has called `forget`.
        let answer = ok(unsafe { (d.cuMemHostRegister_v2)(start as *mut _, (stop - start) as usize, PORTABLE) });
        if answer.is_ok() {
            self.registered.insert(start, stop);
        }
        Part { len: stop.min(end) - host, refused: answer.err() }
    }

    /// Ends each registration that has a byte of a range; nothing may be copying there.
    ///
    /// # Errors
    /// The driver's first refusal to end one. Those that are left stay in the table, and the range must not be punched.
    pub fn forget(&mut self, d: &Driver, host: u64, len: u64) -> Res {
        let end = host + len;
        let first = self.around(host).map_or(host, |(start, _)| start);
        let inside: Vec<u64> = self.registered.range(first..end).map(|(&start, _)| start).collect();
        let mut result = Ok(());
        for start in inside {
            let ended = unregister(d, start);
            if ended.is_ok() {
                self.registered.remove(&start);
            }
            result = result.and(ended);
        }
        result
    }

    /// Ends all registrations; see [`Pins::forget`].
    ///
    /// # Errors
    /// As for [`Pins::forget`].
    pub fn clear(&mut self, d: &Driver) -> Res {
        self.forget(d, 0, u64::MAX)
    }

    /// The registration that holds an address.
    fn around(&self, at: u64) -> Option<(u64, u64)> {
        let (&start, &end) = self.registered.range(..=at).next_back()?;
        (at < end).then_some((start, end))
    }
}

/// Ends a registration; one that the driver does not know (any more) has ended.
pub(crate) fn unregister(d: &Driver, host: u64) -> Res {
    // SAFETY: a registration of ours that no copy uses.
    match unsafe { twice(|| (d.cuMemHostUnregister)(host as *mut _)) } {
        Err(NOT_REGISTERED) => Ok(()),
        ended => ended,
    }
}

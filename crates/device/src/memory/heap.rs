//! The arena's heap: granules of 2 MiB, handed out whole to large allocations and cut up for small ones.
//!
//! A card gives memory in granules, so this is also how a claim finds what to make: `in_use`.
use super::Ranges;
use std::collections::BTreeMap;
use zerogpu_abi::{CUresult, Res};

/// The unit of physical memory of every card of the supported kinds (driver 580, recorded): 2 MiB.
pub const GRANULE: u64 = 2 << 20;
/// Alignment of an allocation (recorded: `cuMemAlloc 100` comes aligned to 512).
const ALIGN: u64 = 512;
/// Allocations up to this size share granules.
const SMALL: u64 = GRANULE / 2;

/// Bytes of the granules that an allocation has for itself: none of a small one, which shares them.
pub(super) fn own_granules(size: u64) -> u64 {
    if size <= SMALL {
        0
    } else {
        size.next_multiple_of(GRANULE)
    }
}

/// Ranges of the arena in use and free.
pub struct Heap {
    base: u64,
    free: Ranges,
    /// Granules cut up for small allocations, by start, with what is free inside.
    shared: BTreeMap<u64, Ranges>,
    /// Whole ranges handed out: start and bytes.
    taken: BTreeMap<u64, u64>,
    used: u64,
}

/// An allocation, and the range that had to be added for it.
pub struct Taken {
    /// Address.
    pub at: u64,
    /// Address and bytes of new granules.
    pub grown: Option<(u64, u64)>,
}

impl Heap {
    /// A heap over `[base, base + len)`.
    pub fn new(base: u64, len: u64) -> Self {
        Self { base, free: Ranges::new(base, len), shared: BTreeMap::new(), taken: BTreeMap::new(), used: 0 }
    }

    /// First address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Bytes of all granules in use.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Takes `size` bytes.
    ///
    /// # Errors
    /// OUT_OF_MEMORY: no free range is large enough.
    pub fn alloc(&mut self, size: u64) -> Res<Taken> {
        if size <= SMALL {
            let size = size.next_multiple_of(ALIGN);
            if let Some(at) = self.shared.values_mut().find_map(|r| r.take(size, ALIGN)) {
                return Ok(Taken { at, grown: None });
            }
            let chunk = self.take(GRANULE)?;
            let mut inside = Ranges::new(chunk, GRANULE);
            let at = inside.take(size, ALIGN).ok_or(CUresult::OUT_OF_MEMORY)?;
            self.shared.insert(chunk, inside);
            return Ok(Taken { at, grown: Some((chunk, GRANULE)) });
        }
        let len = size.checked_next_multiple_of(GRANULE).ok_or(CUresult::OUT_OF_MEMORY)?;
        let at = self.take(len)?;
        Ok(Taken { at, grown: Some((at, len)) })
    }

    fn take(&mut self, len: u64) -> Res<u64> {
        let at = self.free.take(len, GRANULE).ok_or(CUresult::OUT_OF_MEMORY)?;
        self.taken.insert(at, len);
        self.used += len;
        Ok(at)
    }

    /// Gives an allocation back; the granules that nobody uses any more, if there are. Nobody gets them before [`Heap::give`].
    pub fn free(&mut self, at: u64, size: u64) -> Option<(u64, u64)> {
        let chunk = at - (at - self.base) % GRANULE;
        if let Some(inside) = self.shared.get_mut(&chunk) {
            inside.give(at, size.next_multiple_of(ALIGN));
            if !inside.is_whole(chunk, GRANULE) {
                return None;
            }
            self.shared.remove(&chunk);
        }
        let len = self.taken.remove(&chunk)?;
        self.used -= len;
        Some((chunk, len))
    }

    /// Granules that [`Heap::free`] gave are anyone's again.
    pub fn give(&mut self, at: u64, len: u64) {
        self.free.give(at, len);
    }

    /// Ranges in use, as they were taken: each can be given back alone.
    pub fn in_use(&self) -> Vec<(u64, u64)> {
        self.taken.iter().map(|(&at, &len)| (at, len)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_allocations_share_a_granule_and_give_it_back() {
        let mut h = Heap::new(GRANULE, 64 * GRANULE);
        let a = h.alloc(100).unwrap();
        let b = h.alloc(1000).unwrap();
        assert_eq!(a.grown, Some((GRANULE, GRANULE)));
        assert!(b.grown.is_none() && b.at % ALIGN == 0 && h.used() == GRANULE);
        assert_eq!(h.free(a.at, 100), None);
        assert_eq!(h.free(b.at, 1000), Some((GRANULE, GRANULE)));
        assert_eq!(h.used(), 0);
        // not yet anyone's
        assert_ne!(h.alloc(100).unwrap().at, a.at);
        h.give(GRANULE, GRANULE);
        assert_eq!(h.alloc(GRANULE).unwrap().at, a.at);
    }

    #[test]
    fn large_allocations_take_whole_granules() {
        let mut h = Heap::new(0, 8 * GRANULE);
        let a = h.alloc(GRANULE + 1).unwrap();
        assert_eq!(a.grown, Some((a.at, 2 * GRANULE)));
        assert!(h.alloc(7 * GRANULE).is_err());
        assert_eq!(h.in_use(), vec![(0, 2 * GRANULE)]);
        assert_eq!(h.free(a.at, GRANULE + 1), Some((0, 2 * GRANULE)));
    }
}

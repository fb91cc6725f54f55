//! Memory that a broker lends: which slabs a claim wants, and how they get under the app's addresses.
use super::lender::{Lender, Trouble};
use super::live::Live;
use super::physical::LARGEST;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use zerogpu_abi::*;
use zerogpu_below::physical::{self, READ_WRITE};
use zerogpu_below::Driver;
use zerogpu_device::memory::Memory;
use zerogpu_protocol::Range;

/// So many slabs more than need be, for each of these, are worth a copy of everything: then memory is cut anew.
const SCATTERED: (usize, usize) = (2, 16);

/// What a claim wants on the card.
pub(super) struct Wanted {
    /// All slabs, by offset in the backing.
    pub slabs: Vec<Range>,
    /// What the host has written of them since the broker was told.
    pub dirty: Vec<Range>,
}

impl Wanted {
    /// The memory in use, cut as before where that still fits, so that what is warm stays so.
    pub(super) fn of(memory: &mut Memory, shape: &BTreeMap<u64, u64>) -> Res<Wanted> {
        let base = memory.arena()?;
        let in_use: Vec<Range> = memory.in_use().into_iter().map(|(va, len)| Range::new(va - base, len)).collect();
        let mut slabs = cut_again(&in_use, shape);
        let own = memory.vmm().handles().filter(|(_, p)| p.prop.location.kind == CUmemLocation::DEVICE);
        let mut own: Vec<Range> = own.map(|(_, p)| Range::new(p.off, p.len)).collect();
        own.sort();
        slabs.extend(own);
        let written = memory.backing()?.written();
        let dirty =
            slabs.iter().flat_map(|slab| written.marked(slab.off, slab.len)).map(|(off, len)| Range::new(off, len));
        let dirty = dirty.collect();
        Ok(Wanted { slabs, dirty })
    }

    /// Bytes of all slabs.
    pub(super) fn bytes(&self) -> u64 {
        self.slabs.iter().map(|slab| slab.len).sum()
    }

    /// The broker knows what the host has written: the card holds it, or lacks it and gets it before it is used.
    pub(super) fn are_told(&self, memory: &mut Memory) -> Res {
        let written = memory.backing()?.written();
        self.slabs.iter().for_each(|slab| written.clear(slab.off, slab.len));
        Ok(())
    }
}

/// Cuts ranges in use into slabs, as they were. What came piece by piece while the app computed is cut anew once there are far
/// more slabs than there need be: each costs time at every claim, and being copied costs time at one.
fn cut_again(in_use: &[Range], shape: &BTreeMap<u64, u64>) -> Vec<Range> {
    let (as_before, anew) = (cut(in_use, shape), cut(in_use, &BTreeMap::new()));
    let (times, more) = SCATTERED;
    if as_before.len() > times * anew.len() + more {
        anew
    } else {
        as_before
    }
}

/// Cuts ranges in use into slabs: those of `shape` that are wholly in use stay, the rest is joined with its neighbours.
fn cut(in_use: &[Range], shape: &BTreeMap<u64, u64>) -> Vec<Range> {
    // neighbours as one
    let mut whole: Vec<Range> = Vec::new();
    for range in in_use {
        match whole.last_mut() {
            Some(last) if last.end() == range.off => last.len += range.len,
            _ => whole.push(*range),
        }
    }
    let mut slabs = Vec::new();
    for range in whole {
        let mut at = range.off;
        let kept = shape.range(range.off..range.end()).map(|(&off, &len)| Range::new(off, len));
        for slab in kept.filter(|slab| range.contains(slab)) {
            fill(&mut slabs, at, slab.off);
            slabs.push(slab);
            at = slab.end();
        }
        fill(&mut slabs, at, range.end());
    }
    slabs
}

fn fill(slabs: &mut Vec<Range>, mut at: u64, end: u64) {
    while at < end {
        let len = (end - at).min(LARGEST);
        slabs.push(Range::new(at, len));
        at += len;
    }
}

impl Live {
    /// Puts lent slabs where they belong: under the arena's addresses, or behind the app's own handles.
    pub(super) fn place_lent(&mut self, d: &Driver, memory: &mut Memory, slabs: &[Range], fds: &[OwnedFd]) -> Res {
        let base = memory.arena()?;
        let own: BTreeMap<u64, u64> = memory.vmm().handles().map(|(h, p)| (p.off, h)).collect();
        let mut run: Option<(u64, u64)> = None;
        for (slab, fd) in slabs.iter().zip(fds) {
            let handle = physical::import(d, fd.as_fd())?;
            self.lent.insert(handle, *slab);
            if let Some(&h) = own.get(&slab.off) {
                self.physical.insert(h, (handle, slab.len));
                continue;
            }
            let va = base + slab.off;
            if let Err(e) = physical::map(d, va, slab.len, handle, 0) {
                self.lent.remove(&handle);
                self.unmapped.push(handle);
                return Err(e);
            }
            self.extents.insert(va, (slab.len, handle));
            // access is set once for neighbours: it is what takes time
            run = match run {
                Some((start, len)) if start + len == va => Some((start, len + slab.len)),
                Some((start, len)) => {
                    physical::set_access(d, self.device, start, len, READ_WRITE)?;
                    Some((va, slab.len))
                }
                None => Some((va, slab.len)),
            };
        }
        run.map_or(Ok(()), |(start, len)| physical::set_access(d, self.device, start, len, READ_WRITE))
    }

    /// Physical memory for a range of the backing: lent while there is a lease, else of our own.
    pub(super) fn obtain(&mut self, d: &Driver, slab: Range) -> Res<u64> {
        if let Some(lender) = self.lender {
            match lender.grow(slab) {
                Ok(fd) => {
                    // one that can't be used is given back: the broker counts it as this process's
                    let handle = physical::import(d, fd.as_fd()).inspect_err(|_| self.returned.push(slab))?;
                    self.lent.insert(handle, slab);
                    return Ok(handle);
                }
                Err(Trouble::Denied(code, text)) => {
                    crate::report::error(&text);
                    return Err(code);
                }
                // the lease goes on without its broker
                Err(_) => {}
            }
        }
        physical::create(d, self.device, slab.len)
    }

    /// Tells the broker of lent memory that was let go while claimed.
    pub(super) fn give_back(&mut self) {
        let gone = std::mem::take(&mut self.returned);
        if let Some(lender) = self.lender.filter(|_| !gone.is_empty()) {
            let _a_broker_that_is_gone_has_it_back = lender.shrink(gone);
        }
    }

    /// Lent memory is not mapped any more.
    pub(super) fn end_lent(&mut self, handle: u64) {
        self.returned.extend(self.lent.remove(&handle));
    }

    /// The parts of a range of the arena that lie in memory of our own.
    pub(super) fn own_parts(&self, va: u64, len: u64) -> Vec<(u64, u64)> {
        let first = self.extents.range(..=va).next_back().map_or(va, |(&start, _)| start);
        let own = self.extents.range(first..va + len).filter(|(_, (_, handle))| !self.lent.contains_key(handle));
        let parts = own.map(|(&start, &(n, _))| (start.max(va), (start + n).min(va + len)));
        parts.filter(|(start, end)| start < end).map(|(start, end)| (start, end - start)).collect()
    }

    /// Who lends, while claimed.
    pub(super) fn lent_by(&mut self, lender: Option<&'static Lender>) {
        self.lender = lender;
        // of an earlier lease
        self.returned.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: u64 = 2 << 20;

    fn r(at: u64, n: u64) -> Range {
        Range::new(at * M, n * M)
    }

    fn shape(slabs: &[Range]) -> BTreeMap<u64, u64> {
        slabs.iter().map(|slab| (slab.off, slab.len)).collect()
    }

    #[test]
    fn neighbours_share_a_slab_up_to_its_largest_size() {
        assert_eq!(cut(&[r(0, 1), r(1, 2), r(5, 1)], &BTreeMap::new()), [r(0, 3), r(5, 1)]);
        assert_eq!(cut(&[r(0, 100), r(100, 100)], &BTreeMap::new()), [r(0, 128), r(128, 72)]);
    }

    #[test]
    fn what_came_in_pieces_is_cut_anew_once_they_are_many() {
        let pieces = |n: u64| -> Vec<Range> { (0..n).map(|i| r(i * 10, 10)).collect() };
        let few = pieces(18);
        assert_eq!(cut_again(&few, &shape(&few)), few);
        // 16 GiB in pieces of 20 MiB are 64 slabs
        let many = pieces(820);
        let anew = cut_again(&many, &shape(&many));
        assert_eq!((anew.len(), anew.iter().map(|slab| slab.len).sum::<u64>()), (65, 8200 * M));
        assert_eq!(cut_again(&many, &shape(&anew)), anew);
    }

    #[test]
    fn slabs_stay_as_they_were_where_they_are_in_use() {
        let before = shape(&[r(0, 3), r(5, 2)]);
        assert_eq!(cut(&[r(0, 1), r(1, 2), r(3, 1), r(5, 2)], &before), [r(0, 3), r(3, 1), r(5, 2)]);
        // a part of the first is free, the second was joined by neighbours on both sides
        assert_eq!(cut(&[r(0, 2), r(4, 1), r(5, 2), r(7, 1)], &before), [r(0, 2), r(4, 1), r(5, 2), r(7, 1)]);
    }
}

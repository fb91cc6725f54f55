//! What one Space has on one card: slabs, each with its bytes, its descriptor, and what is known of its chunks.
//!
//! Every function is called by the card's worker, with the card's context current. What fails leaves nothing half made:
//! a slab is in the table with right bytes, or its memory is given back.
use super::ahead::Stop;
use super::space::Backing;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use zerogpu_abi::{CUdevice, CUresult, Res};
use zerogpu_below::{ok, physical, Driver, Hash, Hasher, Trip, Way};
use zerogpu_hash::CHUNK;
use zerogpu_protocol::Range;

/// Physical memory behind a range of a backing.
struct Slab {
    len: u64,
    handle: u64,
    /// Where the broker sees it.
    va: u64,
    fd: OwnedFd,
    /// Whether its Space has ever had the descriptor: only then can it keep the memory.
    lent: bool,
    chunks: Vec<Chunk>,
}

/// Two MiB of a slab.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Chunk {
    /// Whether the card lacks what the host has.
    stale: bool,
    /// The hash of the host copy, where it is known.
    hash: Option<[u64; 2]>,
}

impl Chunk {
    const STALE: Chunk = Chunk { stale: true, hash: None };
}

/// The card, and how its bytes are hashed.
pub struct Card {
    /// The driver.
    pub driver: &'static Driver,
    /// Its ordinal.
    pub device: CUdevice,
    /// The kernel that hashes; None: it could not be loaded, and everything is copied.
    pub hasher: Option<Hasher>,
    /// Memory that is of no slab, and that the driver did not take back.
    pub left: RefCell<Vec<Left>>,
}

/// Memory that the driver keeps: address (0: it is mapped nowhere), bytes, handle.
pub type Left = (u64, u64, u64);

impl Card {
    /// Gives back memory that came to nothing. What the driver refuses to take is tried again with the next slab.
    fn give_back(&self, left: Left) {
        let mut all = self.left.borrow_mut();
        let refused = all.len();
        all.push(left);
        all.retain_mut(|(va, len, handle)| {
            if *va != 0 && physical::close_window(self.driver, *va, *len).is_ok() {
                *va = 0;
            }
            *va != 0 || physical::release(self.driver, *handle).is_err()
        });
        if all.len() > refused {
            tracing::error!(
                bytes = left.1,
                "memory of a card could not be given back; it is tried again, restart the broker if it stays in use"
            );
        }
    }

    /// Tries again to give back what the driver has refused to take.
    fn give_back_again(&self) {
        let last = self.left.borrow_mut().pop();
        last.into_iter().for_each(|left| self.give_back(left));
    }

    /// The hashes of the chunks of these ranges (address, bytes), in order; none where there is no kernel.
    fn hashes(&self, ranges: &[(u64, u64)]) -> Res<Vec<Hash>> {
        self.hasher.as_ref().map_or(Ok(Vec::new()), |hasher| hasher.hash(self.driver, ranges))
    }
}

/// Slabs by their offset in the backing.
#[derive(Default)]
pub struct Slabs(BTreeMap<u64, Slab>);

/// What became of a piece that was to be copied.
pub enum Piece {
    /// So many bytes are there.
    Copied(u64),
    /// Nothing was lacking.
    Whole,
    /// It was not to be, any more.
    Stopped,
}

/// What a move did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes that were copied.
    pub bytes: u64,
    /// Bytes that did not have to be.
    pub spared: u64,
}

impl Slabs {
    /// Bytes on the card.
    pub fn bytes(&self) -> u64 {
        self.0.values().map(|slab| slab.len).sum()
    }

    /// Bytes of them whose descriptors the Space has had.
    pub fn lent(&self) -> u64 {
        self.0.values().filter(|slab| slab.lent).map(|slab| slab.len).sum()
    }

    /// Whether this slab is there.
    pub fn has(&self, range: Range) -> bool {
        self.0.get(&range.off).is_some_and(|slab| slab.len == range.len)
    }

    /// Drops what is not wanted. `wanted` is sorted.
    pub fn keep(&mut self, card: &Card, wanted: &[Range]) -> Res {
        let kept =
            |off: u64, len: u64| wanted.binary_search_by_key(&off, |w| w.off).is_ok_and(|i| wanted[i].len == len);
        let old: Vec<u64> = self.0.iter().filter(|(&off, slab)| !kept(off, slab.len)).map(|(&off, _)| off).collect();
        old.into_iter().try_for_each(|off| self.drop_one(card, off))
    }

    /// Drops what is not wanted, makes what is missing (zeroed, so that nothing of others is ever seen), and gives a
    /// descriptor for each slab wanted, in order. The new slabs have no bytes yet: see [`Slabs::fill`].
    pub fn prepare(&mut self, card: &Card, wanted: &[Range]) -> Res<Vec<OwnedFd>> {
        self.keep(card, wanted)?;
        for range in wanted {
            self.make(card, *range)?;
        }
        self.share_all(wanted)
    }

    /// Whether exactly these slabs are there, and the card lacks none of their bytes.
    pub fn is_whole(&self, wanted: &[Range]) -> bool {
        let whole = |slab: &Slab| slab.chunks.iter().all(|chunk| !chunk.stale);
        self.0.len() == wanted.len() && wanted.iter().all(|range| self.has(*range)) && self.0.values().all(whole)
    }

    /// A descriptor of each of these slabs, in order, for their Space.
    pub fn share_all(&mut self, wanted: &[Range]) -> Res<Vec<OwnedFd>> {
        wanted.iter().map(|range| self.share(range.off)).collect()
    }

    /// Makes one slab, zeroed, unless it is there. Others that it overlaps are nobody's any more.
    pub fn make(&mut self, card: &Card, range: Range) -> Res {
        if self.has(range) {
            return Ok(());
        }
        self.drop_range(card, range)?;
        card.give_back_again();
        let (d, device, len) = (card.driver, card.device, range.len);
        let handle = physical::create_exportable(d, device, len)?;
        let va = physical::open_window(d, device, handle, len).map_err(|failed| {
            card.give_back((failed.mapped.unwrap_or(0), len, handle));
            failed.code
        })?;
        let shared = zero(d, va, len).and_then(|()| physical::export(d, handle));
        let fd = shared.inspect_err(|_| card.give_back((va, len, handle)))?;
        let chunks = vec![Chunk::STALE; len.div_ceil(CHUNK as u64) as usize];
        self.0.insert(range.off, Slab { len, handle, va, fd, lent: false, chunks });
        Ok(())
    }

    /// A descriptor of a slab, for its Space.
    pub fn share(&mut self, off: u64) -> Res<OwnedFd> {
        let slab = self.0.get_mut(&off).ok_or(CUresult::INVALID_VALUE)?;
        slab.lent = true;
        slab.fd.try_clone().map_err(|_| CUresult::OUT_OF_MEMORY)
    }

    /// Brings in the first bytes that a slab lacks, at most `most`.
    pub fn fill_piece(&mut self, card: &Card, backing: &Backing, slab: Range, most: u64, stop: &Stop) -> Res<Piece> {
        let Some(found) = self.0.get(&slab.off) else { return Ok(Piece::Whole) };
        let Some(&(first, count)) = runs(&found.chunks, |chunk| chunk.stale).first() else { return Ok(Piece::Whole) };
        let count = count.min((most / CHUNK as u64) as usize);
        let run = found.run(slab.off, first, count);
        match backing.travel_unless(stop, backing.trip(found.va + (run.off - slab.off), run))? {
            Some(copied) => self.make_fresh(card, &[(slab.off, first, count)]).map(|()| Piece::Copied(copied.bytes)),
            None => Ok(Piece::Stopped),
        }
    }

    /// Brings in what the card lacks: new slabs whole, and what the host has written of the others. `dirty` is sorted.
    pub fn fill(&mut self, card: &Card, backing: &Backing, dirty: &[Range]) -> Res<Moved> {
        for range in dirty {
            self.make_stale(*range);
        }
        let mut trips = Vec::new();
        let mut lacking = Vec::new();
        for (&off, slab) in &self.0 {
            for (first, count) in runs(&slab.chunks, |chunk| chunk.stale) {
                let run = slab.run(off, first, count);
                trips.push(backing.trip(slab.va + (run.off - off), run));
                lacking.push((off, first, count));
            }
        }
        let moved = Self::travel(backing, Way::In, &trips)?;
        self.make_fresh(card, &lacking)?;
        Ok(Moved { bytes: moved, spared: self.bytes() - moved })
    }

    /// Makes the host copy complete: what changed since it was equal goes home.
    pub fn bring_home(&mut self, card: &Card, backing: &Backing) -> Res<Moved> {
        let ranges: Vec<_> = self.0.values().map(|slab| (slab.va, slab.len)).collect();
        let now = card.hashes(&ranges)?;
        let mut trips = Vec::new();
        let mut first_of_slab = 0;
        for (&off, slab) in &self.0 {
            let same = |i: usize| now.get(first_of_slab + i).is_some_and(|hash| slab.chunks[i].hash == Some(*hash));
            let changed: Vec<bool> = (0..slab.chunks.len()).map(|i| !same(i)).collect();
            for (first, count) in runs(&changed, |changed| *changed) {
                let run = slab.run(off, first, count);
                trips.push(backing.trip(slab.va + (run.off - off), run));
            }
            first_of_slab += slab.chunks.len();
        }
        let moved = Self::travel(backing, Way::Out, &trips)?;
        // only now is the host copy what was hashed
        let mut now = now.into_iter();
        for chunk in self.0.values_mut().flat_map(|slab| &mut slab.chunks) {
            *chunk = Chunk { stale: false, hash: now.next() };
        }
        Ok(Moved { bytes: moved, spared: self.bytes() - moved })
    }

    /// Drops the slabs that touch a range; how many bytes that were.
    pub fn drop_range(&mut self, card: &Card, range: Range) -> Res<u64> {
        let touched: Vec<(u64, u64)> = self
            .0
            .iter()
            .filter(|(&off, slab)| Range::new(off, slab.len).overlaps(&range))
            .map(|(&off, slab)| (off, slab.len))
            .collect();
        let mut bytes = 0;
        for (off, len) in touched {
            self.drop_one(card, off)?;
            bytes += len;
        }
        Ok(bytes)
    }

    /// Gives everything back. What the driver refuses to take stays in the table, and is the error. `gone` is told of each slab
    /// that is given back: the bytes of it that its Space can keep.
    pub fn clear(&mut self, card: &Card, mut gone: impl FnMut(u64)) -> Res {
        card.give_back_again();
        let all: Vec<(u64, u64)> = self.0.iter().map(|(&off, s)| (off, if s.lent { s.len } else { 0 })).collect();
        let mut result = Ok(());
        for (off, lent) in all {
            // each is given back, also behind one that could not be
            let dropped = self.drop_one(card, off);
            if dropped.is_ok() {
                gone(lent);
            }
            result = result.and(dropped);
        }
        result
    }

    /// What the driver has refused to take of a Space that is gone is tried again with others' slabs.
    pub fn abandon(self, card: &Card) {
        self.0.into_values().for_each(|slab| card.give_back((slab.va, slab.len, slab.handle)));
    }

    fn drop_one(&mut self, card: &Card, off: u64) -> Res {
        let Some(slab) = self.0.get(&off) else { return Ok(()) };
        if slab.va != 0 {
            physical::close_window(card.driver, slab.va, slab.len)?;
        }
        let handle = slab.handle;
        if let Some(slab) = self.0.get_mut(&off) {
            slab.va = 0;
        }
        physical::release(card.driver, handle)?;
        self.0.remove(&off);
        Ok(())
    }

    fn travel(backing: &Backing, way: Way, trips: &[Trip]) -> Res<u64> {
        if trips.is_empty() {
            return Ok(0);
        }
        let copied = backing.travel(way, trips)?;
        if let Some(code) = copied.refused {
            tracing::warn!(
                bytes = copied.pageable,
                code = code.0,
                "host memory could not be page-locked, so copies are slow; raise the broker's limit of locked memory (LimitMEMLOCK)"
            );
        }
        Ok(copied.bytes)
    }

    /// What the host has written is not what the card holds.
    pub fn make_stale(&mut self, range: Range) {
        self.chunks_of(range).for_each(|chunk| *chunk = Chunk::STALE);
    }

    /// The host copy of a range is gone: whatever the card holds there goes home, also what it held before.
    pub fn lose_home(&mut self, range: Range) {
        self.chunks_of(range).for_each(|chunk| chunk.hash = None);
    }

    /// The chunks that a range touches.
    fn chunks_of(&mut self, range: Range) -> impl Iterator<Item = &mut Chunk> {
        let touched = self.0.range_mut(..range.end()).rev();
        touched.take_while(move |(&off, slab)| off + slab.len > range.off).flat_map(move |(&off, slab)| {
            let first = range.off.saturating_sub(off) / CHUNK as u64;
            let last = (range.end().min(off + slab.len) - off).div_ceil(CHUNK as u64);
            &mut slab.chunks[first as usize..last as usize]
        })
    }

    /// Chunks that have just been brought in: runs of (slab, first, count).
    fn make_fresh(&mut self, card: &Card, runs: &[(u64, usize, usize)]) -> Res {
        let on_card = |&(off, first, count): &(u64, usize, usize)| {
            let slab = self.0.get(&off)?;
            let run = slab.run(off, first, count);
            Some((slab.va + (run.off - off), run.len))
        };
        let ranges: Vec<_> = runs.iter().filter_map(on_card).collect();
        let mut hashes = card.hashes(&ranges)?.into_iter();
        for &(off, first, count) in runs {
            let Some(slab) = self.0.get_mut(&off) else { continue };
            for chunk in &mut slab.chunks[first..first + count] {
                *chunk = Chunk { stale: false, hash: hashes.next() };
            }
        }
        Ok(())
    }
}

impl Slab {
    /// The range of the backing of `count` chunks from the chunk `first` on.
    fn run(&self, off: u64, first: usize, count: usize) -> Range {
        let start = first as u64 * CHUNK as u64;
        Range::new(off + start, (count as u64 * CHUNK as u64).min(self.len - start))
    }
}

/// Neighbours that satisfy `wanted`: first and count.
fn runs<T>(items: &[T], wanted: impl Fn(&T) -> bool) -> Vec<(usize, usize)> {
    let mut out: Vec<(usize, usize)> = Vec::new();
    for (i, _) in items.iter().enumerate().filter(|(_, item)| wanted(item)) {
        match out.last_mut() {
            Some((first, count)) if *first + *count == i => *count += 1,
            _ => out.push((i, 1)),
        }
    }
    out
}

/// Zeroes a mapped range, to its end.
fn zero(d: &Driver, va: u64, len: u64) -> Res {
    // SAFETY: a mapping of ours of that length; the legacy stream exists with the context.
    unsafe {
        ok((d.cuMemsetD8Async)(va, 0, len as usize, zerogpu_abi::CU_STREAM_LEGACY))?;
        ok((d.cuStreamSynchronize)(zerogpu_abi::CU_STREAM_LEGACY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_make_one_run() {
        let found = runs(&[true, true, false, true, false, false, true], |b| *b);
        assert_eq!(found, [(0, 2), (3, 1), (6, 1)]);
        assert!(runs(&[false; 3], |b| *b).is_empty());
    }
}

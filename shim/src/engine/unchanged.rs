//! What a park need not bring home: bytes that the card holds as they came. By hashes that the card makes of 2 MiB chunks as
//! a claim has filled it, and again at the park. With a broker this is the broker's (`src/broker/slabs.rs`), which keeps them over
//! claims.
use std::collections::BTreeMap;
use zerogpu_abi::*;
use zerogpu_below::{Driver, Hash, Hasher, Trip};
use zerogpu_hash::CHUNK;

/// The hashes of what came to the card, and the kernel that makes them.
pub(super) struct Unchanged {
    hasher: Hasher,
    /// Of ranges of the host backing: where one begins to its bytes and hashes. Their host copies are what was hashed.
    known: BTreeMap<u64, (u64, Vec<Hash>)>,
}

impl Unchanged {
    /// Hashes what has come to the card `device`. `base` is where the backing begins in this process. Nothing runs on the card.
    ///
    /// # Errors
    /// The driver's answer to the first call that failed; with what could not be given back, if that is so.
    pub fn new(d: &Driver, device: CUdevice, base: u64, trips: &[Trip]) -> Result<Self, (CUresult, Option<Self>)> {
        let hasher = Hasher::new(d, device).map_err(|code| (code, None))?;
        let mut new = Self { hasher, known: BTreeMap::new() };
        match new.hash(d, trips) {
            Ok(hashes) => {
                let ranges = trips.iter().map(|trip| (trip.host - base, trip.len));
                new.known = ranges.zip(hashes).map(|((off, len), hashes)| (off, (len, hashes))).collect();
                Ok(new)
            }
            Err(code) => {
                let left = new.end(d).is_err().then_some(new);
                Err((code, left))
            }
        }
    }

    /// The hashes of each trip's chunks on the card.
    fn hash(&self, d: &Driver, trips: &[Trip]) -> Res<Vec<Vec<Hash>>> {
        let ranges: Vec<_> = trips.iter().map(|trip| (trip.device, trip.len)).collect();
        let mut all = self.hasher.hash(d, &ranges)?.into_iter();
        Ok(trips.iter().map(|trip| all.by_ref().take(trip.len.div_ceil(CHUNK as u64) as usize).collect()).collect())
    }

    /// A range of the backing is no longer what was hashed: whatever the card holds there goes home.
    pub fn forget(&mut self, off: u64, len: u64) {
        self.known.retain(|&start, (n, _)| start >= off + len || off >= start + *n);
    }

    /// The parts of trips home that are needed. What was known is forgotten: a park that fails has changed the host copy. Nothing
    /// runs on the card.
    pub fn changed(&mut self, d: &Driver, base: u64, trips: Vec<Trip>) -> Vec<Trip> {
        let known = std::mem::take(&mut self.known);
        let hashed = |trip: &Trip| known.get(&(trip.host - base)).filter(|(len, _)| *len == trip.len);
        let (old, mut needed): (Vec<_>, Vec<_>) = trips.into_iter().partition(|trip| hashed(trip).is_some());
        // where the card can't say, all is copied
        let Ok(now) = self.hash(d, &old) else { return [needed, old].concat() };
        for (trip, now) in old.iter().zip(now) {
            let before = hashed(trip).map_or(&[][..], |(_, hashes)| hashes);
            for chunk in (0..now.len()).filter(|&i| before.get(i) != now.get(i)) {
                let at = (chunk * CHUNK) as u64;
                let part =
                    Trip { device: trip.device + at, host: trip.host + at, len: (trip.len - at).min(CHUNK as u64) };
                join(&mut needed, part);
            }
        }
        needed
    }

    /// Gives back what it holds on the card, whose context is current.
    ///
    /// # Errors
    /// The driver's answer to the first call that failed twice: what was not given back is tried again by the next call.
    pub fn end(&mut self, d: &Driver) -> Res {
        self.known.clear();
        self.hasher.end(d)
    }

    /// The context has gone, and its objects with it; whether memory is left.
    pub fn without_context(&mut self) -> bool {
        self.hasher.without_context()
    }
}

/// Adds a part, to the last one where it goes on from there: one call copies both.
fn join(parts: &mut Vec<Trip>, part: Trip) {
    match parts.last_mut() {
        Some(last) if (last.device + last.len, last.host + last.len) == (part.device, part.host) => {
            last.len += part.len
        }
        _ => parts.push(part),
    }
}

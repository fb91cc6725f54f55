//! One card: what is leased on it, what is warm, and what must leave to make room.

use crate::policy::CardSpec;
use crate::{CardId, Evict, SpaceId};
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Card {
    pub id: CardId,
    pub spec: CardSpec,
    /// Leases on it.
    pub leases: u32,
    /// Bytes of those leases, their contexts included.
    pub leased: u64,
    /// Warm bytes, the least recently used first.
    pub warm: Vec<Warm>,
    /// Evictions that the daemon has not confirmed. Their room is given away already.
    pub leaving: Vec<Evict>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Warm {
    pub space: SpaceId,
    pub bytes: u64,
    pub since: Duration,
    /// Brought ahead of a claim that is expected until then.
    pub awaited: Option<Duration>,
}

impl Card {
    pub fn new(id: CardId, spec: CardSpec) -> Card {
        Card { id, spec, leases: 0, leased: 0, warm: Vec::new(), leaving: Vec::new() }
    }

    pub fn warm_bytes(&self) -> u64 {
        self.warm.iter().map(|warm| warm.bytes).sum()
    }

    /// Bytes neither leased nor warm.
    pub fn free(&self) -> u64 {
        self.spec.bytes.saturating_sub(self.leased).saturating_sub(self.warm_bytes())
    }

    /// Whether `need` more bytes fit beside what is leased.
    pub fn has_room(&self, need: u64) -> bool {
        self.leased.checked_add(need).is_some_and(|sum| sum <= self.spec.bytes)
    }

    /// Whether a lease of `need` bytes can begin now.
    pub fn takes(&self, need: u64, share: bool) -> bool {
        (share || self.leases == 0) && self.has_room(need)
    }

    /// Removes the Space's warm bytes without a word to the daemon: they are used, or gone.
    pub fn take_warm(&mut self, space: SpaceId) -> Option<Warm> {
        let at = self.warm.iter().position(|warm| warm.space == space)?;
        Some(self.warm.remove(at))
    }

    /// Evicts the Space's warm bytes.
    pub fn evict(&mut self, space: SpaceId) -> Option<Evict> {
        let warm = self.take_warm(space)?;
        let evict = Evict { space, card: self.id, bytes: warm.bytes };
        self.leaving.push(evict);
        Some(evict)
    }

    /// Evicts until `need` bytes are free: of what `may_go` the least recently used first, and none whose room turns out not to
    /// be needed.
    pub fn make_room(&mut self, need: u64, may_go: impl Fn(&Warm) -> bool) -> Vec<Evict> {
        let mut short = need.saturating_sub(self.free());
        let mut leave = Vec::new();
        for warm in self.warm.iter().filter(|warm| may_go(warm)) {
            if short == 0 {
                break;
            }
            leave.push(*warm);
            short = short.saturating_sub(warm.bytes);
        }
        let freed: u64 = leave.iter().map(|warm| warm.bytes).sum();
        let mut spare = freed.saturating_sub(need.saturating_sub(self.free()));
        for at in (0..leave.len()).rev() {
            if leave[at].bytes <= spare {
                spare -= leave[at].bytes;
                leave.remove(at);
            }
        }
        leave.iter().filter_map(|warm| self.evict(warm.space)).collect()
    }
}

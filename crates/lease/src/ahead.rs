//! What may be done before anyone asks: bytes brought to a card that nobody uses, for a Space that will want them soon.

use crate::card::{Card, Warm};
use crate::poll::Evict;
use crate::scheduler::{Doing, Space};
use crate::{CardId, Scheduler, SpaceId};
use std::cmp::Reverse;
use std::time::Duration;

/// Where a Space's bytes may be brought now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefetch {
    /// The card. The bytes count as warm there from now on.
    pub card: CardId,
    /// What must leave first.
    pub evict: Vec<Evict>,
}

impl Scheduler {
    /// A region of a Space began that may last `seconds`, and a claim with `bytes` may follow: which card they may be
    /// brought to meanwhile, if any. See the crate's documentation, "Ahead of a claim".
    pub fn prefetch(&mut self, now: Duration, space: SpaceId, seconds: f64, bytes: u64) -> Option<Prefetch> {
        let asking = self.spaces.get(&space)?;
        let may = self.policy.prefetch && self.policy.warm_for != Some(Duration::ZERO) && now >= self.held;
        let waited_for = self.queue.values().any(|request| request.kind == asking.spec.kind);
        if !may || waited_for || bytes == 0 || asking.doing != Doing::Nothing {
            return None;
        }
        let need = bytes.checked_add(self.policy.context_bytes)?;
        let may_evict = asking.keeps_word;
        let card = self
            .cards
            .iter()
            .filter(|card| self.is_idle_for(card, asking))
            .filter(|card| card.room_ahead(space, now, may_evict) >= need)
            .min_by_key(|card| (Reverse(card.free()), card.id))?
            .id;
        let lasts = Duration::try_from_secs_f64(seconds.clamp(0.0, self.policy.max_seconds)).unwrap_or_default();
        let on = self.cards.get_mut(card.0 as usize)?;
        on.take_warm(space);
        let evict = on.make_room(need, |warm| !warm.is_awaited(now));
        on.warm.push(Warm { space, bytes, since: now, awaited: Some(now.saturating_add(lasts)) });
        self.forget_homes(&evict);
        let asked = self.spaces.get_mut(&space)?;
        asked.home = Some(card);
        asked.keeps_word &= evict.is_empty();
        Some(Prefetch { card, evict })
    }

    /// Bringing bytes ahead of a claim ended: `bytes` of the Space are on the card. Nothing happens if they are not warm
    /// any more, but leased or evicted.
    pub fn settle_warm(&mut self, space: SpaceId, card: CardId, bytes: u64) {
        if self.spaces.get(&space).is_none_or(|found| found.home != Some(card)) {
            return;
        }
        let warm = self.card_mut(card).and_then(|on| on.warm.iter_mut().find(|warm| warm.space == space));
        let more = warm.map_or(0, |warm| warm.bytes.saturating_sub(bytes));
        self.shrink_warm(space, more);
    }

    /// Whether nobody computes on a card that this Space could use, and would.
    fn is_idle_for(&self, card: &Card, space: &Space) -> bool {
        card.leases == 0 && card.spec.kind == space.spec.kind && space.home.is_none_or(|home| home == card.id)
    }
}

impl Card {
    /// Bytes that a Space may have here ahead of its claim, while nobody computes.
    fn room_ahead(&self, space: SpaceId, now: Duration, may_evict: bool) -> u64 {
        let stays = |warm: &&Warm| warm.space != space && (!may_evict || warm.is_awaited(now));
        let others: u64 = self.warm.iter().filter(stays).map(|warm| warm.bytes).sum();
        self.spec.bytes.saturating_sub(self.leased).saturating_sub(others)
    }
}

impl Warm {
    /// Whether a claim for these bytes is expected soon.
    fn is_awaited(&self, now: Duration) -> bool {
        self.awaited.is_some_and(|until| until > now)
    }
}

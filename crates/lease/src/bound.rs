//! Spaces that are bound to their context on a card: they compute nowhere else, and between two leases the context may be
//! in the way there.

use crate::poll::Action;
use crate::scheduler::Doing;
use crate::{CardId, Scheduler, SpaceId};

/// Where the context of a bound Space is while it has no lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// On no card.
    Aside,
    /// On its way off the card, which nobody else is granted meanwhile (unless the policy shares cards).
    Leaving,
    /// On the card, where it takes room.
    Stays,
}

/// What binds a Space to a card.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    pub card: CardId,
    pub kept: Kept,
    /// Bytes of the context that count on the card.
    counted: u64,
}

impl Bound {
    /// The same while its Space has a lease there, which counts the context.
    pub(crate) fn leased(self) -> Bound {
        Bound { kept: Kept::Aside, counted: 0, ..self }
    }
}

impl Scheduler {
    /// A Space is bound to its context on `card`. While it has a lease, only the card counts.
    pub fn bind(&mut self, space: SpaceId, card: CardId, kept: Kept) {
        self.unbind(space);
        let Some(of) = self.spaces.get(&space) else { return };
        let kept = if matches!(of.doing, Doing::Leasing(_)) { Kept::Aside } else { kept };
        let counted = if kept == Kept::Aside { 0 } else { self.policy.context_bytes };
        let Some(on) = self.card_mut(card) else { return };
        on.leases += u32::from(kept == Kept::Leaving);
        let evicts = on.make_room(counted, |_| true);
        on.leased = on.leased.saturating_add(counted);
        self.forget_homes(&evicts);
        self.pending.extend(evicts.into_iter().map(Action::Evict));
        if let Some(bound) = self.spaces.get_mut(&space) {
            bound.bound = Some(Bound { card, kept, counted });
        }
    }

    /// What a Space is bound by counts no more: it is gone, or begins a lease.
    pub(crate) fn unbind(&mut self, space: SpaceId) -> Option<Bound> {
        let bound = self.spaces.get_mut(&space)?.bound.take()?;
        if let Some(on) = self.card_mut(bound.card) {
            on.leases = on.leases.saturating_sub(u32::from(bound.kept == Kept::Leaving));
            on.leased = on.leased.saturating_sub(bound.counted);
        }
        Some(bound)
    }

    /// Bytes of contexts that stay on a card, whoever computes there.
    pub(crate) fn kept_on(&self, card: CardId) -> u64 {
        let kept = |bound: &Bound| if bound.card == card && bound.kept == Kept::Stays { bound.counted } else { 0 };
        self.spaces.values().filter_map(|space| space.bound.as_ref()).map(kept).sum()
    }

    /// The only card that a Space can be granted, and bytes of its own context there that are counted already.
    pub(crate) fn bound_to(&self, space: SpaceId) -> Option<(CardId, u64)> {
        let bound = self.spaces.get(&space)?.bound?;
        Some((bound.card, if bound.kept == Kept::Stays { bound.counted } else { 0 }))
    }
}

//! What the daemon must do now, and when to ask again.

use crate::card::Card;
use crate::queue::Request;
use crate::{CardId, LeaseId, RequestId, Scheduler, SpaceId};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Something for the daemon to do. The actions of a card must be carried out in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A request has become a lease.
    Grant(Grant),
    /// A request has waited too long, and waits no more.
    TimedOut {
        /// Which.
        request: RequestId,
        /// Whose.
        space: SpaceId,
    },
    /// A lease is past its deadline: its Space must park now.
    Overdue {
        /// Which.
        lease: LeaseId,
        /// Whose.
        space: SpaceId,
    },
    /// The grace time is over as well: end the process, and [detach](Scheduler::detach) the Space when it has ended. The card
    /// is leased until then.
    Kill {
        /// Which.
        lease: LeaseId,
        /// Whose.
        space: SpaceId,
    },
    /// Warm bytes must leave: they were warm for as long as the policy allows.
    Evict(Evict),
}

/// A new lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The request, which is no more.
    pub request: RequestId,
    /// Whose.
    pub space: SpaceId,
    /// The lease.
    pub lease: LeaseId,
    /// Where.
    pub card: CardId,
    /// Until when.
    pub deadline: Duration,
    /// How long the request waited.
    pub waited: Duration,
    /// What must leave first, on this card to make room, or on another: the Space's own bytes, now old.
    pub evict: Vec<Evict>,
}

/// All warm bytes of a Space on a card that must leave. [`Scheduler::evicted`] confirms it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evict {
    /// Whose.
    pub space: SpaceId,
    /// Where.
    pub card: CardId,
    /// How many.
    pub bytes: u64,
}

impl Scheduler {
    /// What is to do. Call it after each change and at [`next_wake`](Scheduler::next_wake).
    #[must_use]
    pub fn poll(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = std::mem::take(&mut self.pending);
        self.cool(now, &mut actions);
        self.check_deadlines(now, &mut actions);
        self.grant(now, &mut actions);
        if self.time_out(now, &mut actions) {
            // whoever timed out may have kept a card reserved
            self.grant(now, &mut actions);
        }
        actions
    }

    /// When to poll although nothing has changed, counted as `now` is; not before `now`.
    #[must_use]
    pub fn next_wake(&self, now: Duration) -> Option<Duration> {
        let pending = (!self.pending.is_empty()).then_some(now);
        let held = (now < self.held && !self.queue.is_empty()).then_some(self.held);
        let expiry = self.queue.values().map(|request| request.expires).min();
        let deadline = self.leases.values().filter(|lease| !lease.killed).map(|lease| match lease.overdue {
            None => lease.deadline,
            Some(told) => told.saturating_add(self.policy.grace),
        });
        let cooling = self.policy.warm_for.and_then(|limit| {
            let oldest = self.cards.iter().filter_map(|card| card.warm.first());
            oldest.map(|warm| warm.since.saturating_add(limit)).min()
        });
        let times = [pending, held, expiry, deadline.min(), cooling];
        times.into_iter().flatten().min().map(|time| time.max(now))
    }

    /// Evicts what was warm for too long.
    fn cool(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let Some(limit) = self.policy.warm_for else { return };
        let mut evicts = Vec::new();
        for card in &mut self.cards {
            while let Some(warm) = card.warm.first().filter(|warm| now.saturating_sub(warm.since) >= limit) {
                let space = warm.space;
                evicts.extend(card.evict(space));
            }
        }
        self.forget_homes(&evicts);
        actions.extend(evicts.into_iter().map(Action::Evict));
    }

    fn check_deadlines(&mut self, now: Duration, actions: &mut Vec<Action>) {
        for (id, lease) in self.leases.iter_mut() {
            let (lease_id, space) = (*id, lease.space);
            match lease.overdue {
                None if lease.deadline <= now => {
                    lease.overdue = Some(now);
                    actions.push(Action::Overdue { lease: lease_id, space });
                }
                Some(told) if !lease.killed && told.saturating_add(self.policy.grace) <= now => {
                    lease.killed = true;
                    actions.push(Action::Kill { lease: lease_id, space });
                }
                _ => {}
            }
        }
    }

    fn time_out(&mut self, now: Duration, actions: &mut Vec<Action>) -> bool {
        let expired = self.queue.iter().filter(|(_, request)| request.expires <= now);
        let expired: Vec<_> = expired.map(|(id, request)| (*id, request.space)).collect();
        for (request, space) in &expired {
            self.cancel(*request);
            actions.push(Action::TimedOut { request: *request, space: *space });
        }
        !expired.is_empty()
    }

    /// Walks the order and grants what fits.
    fn grant(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if now < self.held || self.queue.is_empty() || !self.any_card_open() {
            return;
        }
        for account in self.accounts.values_mut() {
            account.settle(now, self.policy.half_life);
        }
        // Room only shrinks from here on. What fits nowhere now matters only if it may reserve a card.
        let (aging, share) = (self.policy.aging, self.policy.share);
        let matters = |request: &Request| self.fits(request) || (share && now.saturating_sub(request.since) >= aging);
        let mut order: BinaryHeap<_> = self.ranks(now, matters).map(Reverse).collect();
        let mut reserved = Vec::new();
        while let Some(Reverse(rank)) = order.pop() {
            let Some(request) = self.queue.get(&rank.id) else { continue };
            if let Some(card) = self.choose(request, &reserved) {
                self.start(now, rank.id, card, actions);
                if !self.any_card_open() {
                    return;
                }
            } else if rank.is_aged() && share {
                let card = self.reserve(request, &reserved);
                reserved.extend(card);
                if let Some(request) = self.queue.get_mut(&rank.id) {
                    request.reserved = card;
                }
            }
        }
    }

    fn any_card_open(&self) -> bool {
        self.policy.share || self.cards.iter().any(|card| card.leases == 0)
    }

    /// Whether any card takes the request now.
    fn fits(&self, request: &Request) -> bool {
        self.cards.iter().any(|card| self.takes(card, request))
    }

    /// Whether a card takes the request now.
    fn takes(&self, card: &Card, request: &Request) -> bool {
        let need = request.bytes.saturating_add(self.policy.context_bytes);
        let (only, own) = self.bound_to(request.space).map_or((None, 0), |(card, own)| (Some(card), own));
        card.spec.kind == request.kind
            && only.is_none_or(|only| only == card.id)
            && card.takes(need.saturating_sub(own), self.policy.share)
    }

    fn start(&mut self, now: Duration, id: RequestId, card: CardId, actions: &mut Vec<Action>) {
        let Some(request) = self.queue.remove(&id) else { return };
        // A younger request's reservation ends here: it looks for the soonest card anew.
        for other in self.queue.values_mut().filter(|other| other.reserved == Some(card)) {
            other.reserved = None;
        }
        let Request { space, length, bytes, borrowed, since, .. } = request;
        let (lease, evict) = self.begin(now, space, card, length, bytes, borrowed);
        let (deadline, waited) = (now.saturating_add(length), now.saturating_sub(since));
        actions.push(Action::Grant(Grant { request: id, space, lease, card, deadline, waited, evict }));
    }

    /// The best card that takes the request now.
    fn choose(&self, request: &Request, reserved: &[CardId]) -> Option<CardId> {
        let home = self.spaces.get(&request.space).and_then(|space| space.home);
        self.cards
            .iter()
            .filter(|card| !reserved.contains(&card.id) && self.takes(card, request))
            .min_by_key(|card| (home != Some(card.id), card.leases, Reverse(card.free()), card.id))
            .map(|card| card.id)
    }

    /// The card to keep free for an aged request that fits none: the one it has, else the one with room soonest if all
    /// leases last until their deadlines. A reservation that moved at will would let others refill the card it left.
    fn reserve(&self, request: &Request, reserved: &[CardId]) -> Option<CardId> {
        let (only, own) = self.bound_to(request.space).map_or((None, 0), |(card, own)| (Some(card), own));
        // its own context is there already, and counts there
        let need = request.bytes.saturating_add(self.policy.context_bytes).saturating_sub(own);
        let fits = |card: CardId| {
            let spec = self.cards.get(card.0 as usize).map(|card| card.spec);
            let room = |bytes: u64| bytes.saturating_sub(self.kept_on(card));
            spec.is_some_and(|spec| spec.kind == request.kind && need <= room(spec.bytes))
                && !reserved.contains(&card)
                && only.is_none_or(|only| only == card)
        };
        if let Some(kept) = request.reserved.filter(|card| fits(*card)) {
            return Some(kept);
        }
        let outlooks = self.outlooks(|lease| lease.deadline.as_secs_f64());
        self.cards
            .iter()
            .zip(outlooks)
            .filter(|(card, _)| fits(card.id))
            .filter_map(|(card, mut outlook)| outlook.opens(need, true).map(|at| (at, card.id)))
            .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
            .map(|(_, card)| card)
    }
}

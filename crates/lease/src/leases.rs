//! What can be asked of a lease, and of what it leaves behind.

use crate::bound::Bound;
use crate::card::Warm;
use crate::denial::{bytes, number};
use crate::poll::{Action, Evict};
use crate::scheduler::{Doing, Ended, Lease};
use crate::{CardId, Denial, LeaseId, Reason, Scheduler, SpaceId};
use std::time::Duration;

impl Scheduler {
    /// Takes over the lease of a Space that held a card when an earlier broker died. While grants are
    /// [held](Scheduler::hold) the card may have other such leases, whatever the policy: they are facts. Later it is taken over only
    /// if that is at nobody's cost, or whoever says so would go before those who wait.
    ///
    /// # Errors
    /// [`Reason::Busy`], [`Reason::Unknown`], [`Reason::NoCard`], [`Reason::Room`] if the card was given to others, or, later,
    /// [`Reason::OthersWait`] or [`Reason::Seconds`].
    pub fn adopt(
        &mut self,
        now: Duration,
        space: SpaceId,
        card: CardId,
        seconds_left: f64,
        bytes: u64,
    ) -> Result<LeaseId, Denial> {
        let kind = self.idle_space(space)?.spec.kind;
        let context = self.policy.context_bytes;
        let share = self.policy.share || now < self.held;
        let on = self.cards.get(card.0 as usize).ok_or_else(|| Denial::unknown(card))?;
        // what is said to be there can't be more than there is
        let bytes = bytes.min(on.spec.bytes.saturating_sub(context));
        let need = bytes.saturating_add(context);
        if on.spec.kind != kind {
            return Err(Denial::no_card(kind, &[on.spec.kind]));
        }
        if !on.takes(need, share) {
            return Err(Denial::new(
                Reason::Room,
                format!("{card} was given to others after the earlier broker's end, and {space} did not say in time that it held it: it must let go and claim again"),
            ));
        }
        let seconds =
            if seconds_left.is_nan() { 0.0 } else { seconds_left.clamp(0.0, self.policy.max_seconds.max(0.0)) };
        let left = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        if now >= self.held {
            if self.is_wanted(card) {
                return Err(Denial::new(
                    Reason::OthersWait,
                    format!("others wait for {card}, and {space} did not say in time that it held it: it must let go and claim again"),
                ));
            }
            self.check_day(now, self.idle_space(space)?.tenant, left)?;
        }
        let (lease, evicts) = self.begin(now, space, card, left, bytes, false);
        self.pending.extend(evicts.into_iter().map(Action::Evict));
        Ok(lease)
    }

    /// A lease needs `more` bytes. The warm bytes named must leave before they are used.
    ///
    /// # Errors
    /// [`Reason::Room`] or [`Reason::Unknown`].
    pub fn grow(&mut self, lease: LeaseId, more: u64) -> Result<Vec<Evict>, Denial> {
        let growing = self.leases.get_mut(&lease).ok_or_else(|| Denial::unknown(lease))?;
        let card = growing.card;
        let on = self.cards.get_mut(card.0 as usize).ok_or_else(|| Denial::unknown(card))?;
        if !on.has_room(more) {
            let (left, more) = (bytes(on.spec.bytes.saturating_sub(on.leased)), bytes(more));
            return Err(Denial::new(
                Reason::Room,
                format!("{card} has {left} left beside what is leased on it, and {more} more were asked for: free memory, or claim with less"),
            ));
        }
        growing.bytes += more;
        let evicts = on.make_room(more, |_| true);
        on.leased += more;
        self.forget_homes(&evicts);
        Ok(evicts)
    }

    /// A lease has let go of `less` bytes.
    pub fn shrink(&mut self, lease: LeaseId, less: u64) {
        let Some(shrinking) = self.leases.get_mut(&lease) else { return };
        let less = less.min(shrinking.bytes);
        shrinking.bytes -= less;
        if let Some(card) = self.cards.get_mut(shrinking.card.0 as usize) {
            card.leased = card.leased.saturating_sub(less);
        }
    }

    /// A lease should last for `seconds` from now. Gives its deadline, which is never earlier than before, and as late as may be
    /// where all of it may not. A borrowed one lasts no longer while others wait: its work claims anew, and has its turn.
    ///
    /// # Errors
    /// Where nothing more may be: [`Reason::OthersWait`], [`Reason::Seconds`], [`Reason::Overdue`], [`Reason::Invalid`] or
    /// [`Reason::Unknown`].
    pub fn extend(&mut self, now: Duration, lease: LeaseId, seconds: f64) -> Result<Duration, Denial> {
        let limit = self.policy.max_seconds;
        let length = self.length(if seconds > limit { limit } else { seconds })?;
        let held = self.leases.get(&lease).ok_or_else(|| Denial::unknown(lease))?;
        if held.overdue.is_some() || held.deadline <= now {
            return Err(Denial::new(
                Reason::Overdue,
                format!("{lease} is past its deadline: release it and claim again"),
            ));
        }
        let deadline = now.saturating_add(length);
        if deadline <= held.deadline {
            return Ok(held.deadline);
        }
        let most = match self.is_wanted(held.card) {
            false => Duration::MAX,
            true if held.borrowed => held.deadline,
            true => held.since.saturating_add(Duration::try_from_secs_f64(limit).unwrap_or(Duration::MAX)),
        };
        if most <= held.deadline {
            let (lasts, limit) = (number(deadline.saturating_sub(held.since).as_secs_f64()), number(limit));
            return Err(Denial::new(
                Reason::OthersWait,
                format!("others wait for the card, and {lease} would last {lasts} s of at most {limit} s: release it and claim again"),
            ));
        }
        let more = deadline.min(most).saturating_sub(held.deadline);
        let left = self.left_of_day(now, held.tenant).unwrap_or(Duration::MAX);
        if left.is_zero() {
            self.check_day(now, held.tenant, more)?;
        }
        let deadline = held.deadline.saturating_add(more.min(left));
        if let Some(held) = self.leases.get_mut(&lease) {
            held.deadline = deadline;
        }
        Ok(deadline)
    }

    /// The time of a lease begins only now: its holder could not use the card before. Gives its deadline.
    pub fn restart(&mut self, now: Duration, lease: LeaseId) -> Option<Duration> {
        let held = self.leases.get_mut(&lease)?;
        held.deadline = now.saturating_add(held.deadline.saturating_sub(held.since));
        (held.overdue, held.killed) = (None, false);
        Some(held.deadline)
    }

    /// The grace time of a lease begins only now, if it has begun: its holder could not let go before. Not for one that is
    /// [condemned](Scheduler::condemn).
    pub fn respite(&mut self, now: Duration, lease: LeaseId) {
        let Some(held) = self.leases.get_mut(&lease).filter(|held| held.overdue.is_some() && !held.condemned) else {
            return;
        };
        (held.overdue, held.killed) = (Some(now), false);
    }

    /// A lease goes on under another number: its Space lost its connection and is back. None if there is no such lease.
    pub fn renew(&mut self, lease: LeaseId) -> Option<LeaseId> {
        let held = self.leases.remove(&lease)?;
        let (id, space) = (LeaseId(self.new_id()), held.space);
        self.leases.insert(id, held);
        self.set_doing(space, Doing::Leasing(id));
        Some(id)
    }

    /// Bytes of a lease.
    #[must_use]
    pub fn leased_bytes(&self, lease: LeaseId) -> Option<u64> {
        self.leases.get(&lease).map(|lease| lease.bytes)
    }

    /// When a lease ends.
    #[must_use]
    pub fn deadline(&self, lease: LeaseId) -> Option<Duration> {
        self.leases.get(&lease).map(|lease| lease.deadline)
    }

    /// Since when a lease has had its time; None: it has not, or there is none.
    #[must_use]
    pub fn overdue_since(&self, lease: LeaseId) -> Option<Duration> {
        self.leases.get(&lease)?.overdue
    }

    /// Ends a lease early: its deadline is now, so the next poll says [`Action::Overdue`]. False if there is none.
    pub fn revoke(&mut self, now: Duration, lease: LeaseId) -> bool {
        let Some(held) = self.leases.get_mut(&lease) else { return false };
        held.deadline = held.deadline.min(now);
        true
    }

    /// The holder of a lease is being ended for what it did. The lease goes on until the Space is
    /// [detached](Scheduler::detach), which is when its process is gone; no [`Action`] names it before. False if there is none.
    pub fn condemn(&mut self, now: Duration, lease: LeaseId) -> bool {
        let Some(held) = self.leases.get_mut(&lease) else { return false };
        held.deadline = held.deadline.min(now);
        held.overdue = held.overdue.or(Some(now));
        (held.killed, held.condemned) = (true, true);
        true
    }

    /// A lease is over. `warm_bytes` of the Space stay on the card, as long as nobody needs the room.
    pub fn release(&mut self, now: Duration, lease: LeaseId, warm_bytes: u64) -> Option<Ended> {
        let over = self.leases.remove(&lease)?;
        let half_life = self.policy.half_life;
        if let Some(account) = self.accounts.get_mut(&over.tenant) {
            account.stop(now, half_life);
        }
        self.set_doing(over.space, Doing::Nothing);
        let warm = warm_bytes.min(over.bytes);
        if let Some(card) = self.card_mut(over.card) {
            card.leases = card.leases.saturating_sub(1);
            card.leased = card.leased.saturating_sub(over.bytes + over.context);
            if warm > 0 {
                card.warm.push(Warm { space: over.space, bytes: warm, since: now, awaited: None });
            }
        }
        if let Some(space) = self.spaces.get_mut(&over.space) {
            space.home = (warm > 0).then_some(over.card);
        }
        let lasted = now.saturating_sub(over.since);
        let asked = over.deadline.saturating_sub(over.since).as_secs_f64();
        if asked > 0.0 {
            self.pace += 0.1 * ((lasted.as_secs_f64() / asked).min(1.0) - self.pace);
        }
        Some(Ended { space: over.space, card: over.card, lasted })
    }

    /// An eviction asked for is done.
    pub fn evicted(&mut self, space: SpaceId, card: CardId) {
        let Some(on) = self.card_mut(card) else { return };
        if let Some(at) = on.leaving.iter().position(|evict| evict.space == space) {
            on.leaving.remove(at);
        }
    }

    /// A card has less room than it ought to have: all warm bytes on it must leave.
    pub fn clear(&mut self, card: CardId) -> Vec<Evict> {
        let Some(on) = self.card_mut(card) else { return Vec::new() };
        let warm: Vec<SpaceId> = on.warm.iter().map(|warm| warm.space).collect();
        let evicts: Vec<Evict> = warm.into_iter().filter_map(|space| on.evict(space)).collect();
        self.forget_homes(&evicts);
        evicts
    }

    /// `bytes` of a Space's warm bytes are gone although nobody asked: it has let go of some slabs.
    pub fn shrink_warm(&mut self, space: SpaceId, bytes: u64) {
        let Some(home) = self.spaces.get(&space).and_then(|space| space.home) else { return };
        let Some(card) = self.card_mut(home) else { return };
        let Some(warm) = card.warm.iter_mut().find(|warm| warm.space == space) else { return };
        warm.bytes = warm.bytes.saturating_sub(bytes);
        if warm.bytes == 0 {
            self.drop_warm(space);
        }
    }

    /// All of a Space's warm bytes are gone although nobody asked: nothing is left to evict.
    pub fn drop_warm(&mut self, space: SpaceId) {
        let Some(home) = self.spaces.get_mut(&space).and_then(|space| space.home.take()) else { return };
        if let Some(card) = self.card_mut(home) {
            card.take_warm(space);
        }
    }

    /// Begins a lease on a card that takes it.
    pub(crate) fn begin(
        &mut self,
        now: Duration,
        space: SpaceId,
        card: CardId,
        length: Duration,
        bytes: u64,
        borrowed: bool,
    ) -> (LeaseId, Vec<Evict>) {
        let id = LeaseId(self.new_id());
        let (context, half_life) = (self.policy.context_bytes, self.policy.half_life);
        let need = bytes.saturating_add(context);
        let mut evicts = Vec::new();
        // from here on its context is the lease's
        let bound = self.unbind(space);
        let home = self.spaces.get_mut(&space).and_then(|space| space.home.take());
        if let Some(home) = home.and_then(|home| self.card_mut(home)) {
            // What is warm elsewhere is old as soon as the Space writes here.
            if home.id == card {
                home.take_warm(space);
            } else {
                evicts.extend(home.evict(space));
            }
        }
        if let Some(on) = self.card_mut(card) {
            evicts.extend(on.make_room(need, |_| true));
            on.leases += 1;
            on.leased = on.leased.saturating_add(need);
        }
        self.forget_homes(&evicts);
        let Some(holder) = self.spaces.get_mut(&space) else { return (id, evicts) };
        holder.doing = Doing::Leasing(id);
        holder.keeps_word = true;
        holder.bound = bound.map(Bound::leased);
        let tenant = holder.tenant;
        if let Some(account) = self.accounts.get_mut(&tenant) {
            account.start(now, half_life);
        }
        let deadline = now.saturating_add(length);
        let (since, overdue, killed, condemned) = (now, None, false, false);
        let lease =
            Lease { space, tenant, card, bytes, context, borrowed, since, deadline, overdue, killed, condemned };
        self.leases.insert(id, lease);
        (id, evicts)
    }

    pub(crate) fn forget_homes(&mut self, evicts: &[Evict]) {
        for evict in evicts {
            if let Some(space) = self.spaces.get_mut(&evict.space) {
                space.home = None;
            }
        }
    }

    /// Whether anyone waits who could compute on this card.
    fn is_wanted(&self, card: CardId) -> bool {
        let Some(card) = self.cards.get(card.0 as usize) else { return false };
        let context = self.policy.context_bytes;
        self.queue
            .values()
            .any(|request| request.kind == card.spec.kind && request.bytes.saturating_add(context) <= card.spec.bytes)
    }
}

//! Memory of a card that a Space has given back, and that is missed all the same.
//!
//! A card's free memory tells nobody's name. What seems to be kept may be taken by others at that moment, or come free later. So
//! each slab is looked at by itself, and what is missed then is looked at again and again: only who still keeps it
//! when the grace time is over is ended. A claim that has no room meanwhile waits for that.
use super::card::Job;
use super::client::{Role, Stage};
use super::daemon::Daemon;
use super::desk::Fault;
use super::metrics::Cause;
use std::time::{Duration, Instant};
use zerogpu_lease::{CardId, SpaceId};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// How long a process that is ended may take to be gone.
const GOING: Duration = Duration::from_secs(5);

/// Memory that a Space seems to keep.
#[derive(Debug, Clone, Copy)]
pub struct Doubt {
    card: CardId,
    /// What was free on the card, or in slabs, before it gave its own back.
    level: u64,
    withheld: u64,
    /// Since then it is kept beyond all grace.
    until: Instant,
}

/// A claim's list of slabs that the card has no room for, as long as memory is missed there.
pub struct PutOff {
    card: CardId,
    fill: Job,
}

/// What does not come free of slabs that are given back. Each is held against what came free with it: whatever else happens to
/// the card's memory in that moment can hide one slab, or feign that one is kept, and not more.
pub struct Missing {
    free: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Missing {
    /// Nothing yet. `free`: bytes that are free on the card.
    pub fn from(free: u64) -> Missing {
        Missing { free, bytes: 0 }
    }

    /// A slab was given back of which so many bytes could be kept, and now so many are free; None: it is not known.
    pub fn gone(&mut self, bytes: u64, free: Option<u64>) {
        let Some(free) = free else { return };
        self.bytes += bytes.saturating_sub(free.saturating_sub(self.free));
        self.free = free;
    }
}

impl Daemon {
    /// What a Space had on a card is given back, but for what is missed.
    pub(super) fn evicted(&mut self, card: CardId, space: SpaceId, bytes: u64, withheld: u64, level: u64) {
        self.scheduler.evicted(space, card);
        if withheld == 0 {
            return;
        }
        let theirs = self.room_of_contexts(card);
        if withheld <= theirs.saturating_add(bytes / 2) {
            return tracing::debug!(space = space.0, withheld, theirs, "memory of a card did not come free");
        }
        if self.process_of(space).is_none() {
            return;
        }
        let until = Instant::now() + self.scheduler.policy().grace;
        tracing::debug!(space = space.0, card = card.0, withheld, "memory of a card is missed");
        self.doubts.entry(space).or_insert(Doubt { card, level, withheld, until });
        self.look_at.get_or_insert(Instant::now() + LOOK);
    }

    /// What the contexts on a card may take, which come and go while memory is given back; more than there is where a lease is of
    /// an earlier broker, whose holder takes memory by its own means.
    fn room_of_contexts(&self, card: CardId) -> u64 {
        let context = self.scheduler.policy().context_bytes;
        let room = |role: &Role| match role.space().and_then(|space| space.lease.as_ref()) {
            Some(lease) if lease.card == card && lease.stage == Stage::Adopted => u64::MAX,
            Some(lease) if lease.card == card => context,
            _ => 0,
        };
        self.clients.values().map(|client| room(&client.role)).fold(0, u64::saturating_add)
    }

    /// Looks again, when it is time to.
    pub(super) fn look_again(&mut self) {
        if self.look_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        let looks = self.doubts.iter().map(|(&space, doubt)| (doubt.card, Job::Look { space }));
        let again = std::mem::take(&mut self.put_off).into_iter().map(|off| (off.card, off.fill));
        let jobs: Vec<_> = looks.chain(again).collect();
        self.look_at = (!jobs.is_empty()).then(|| Instant::now() + LOOK);
        for (card, job) in jobs {
            if let Err(Fault::Theirs(why) | Fault::NotTheirs(why)) = self.give(card, job) {
                tracing::error!("{why}; restart the broker");
            }
        }
    }

    /// What is free on a card, or in slabs, while memory of a Space is missed there; None: it is not known.
    pub(super) fn looked(&mut self, card: CardId, space: SpaceId, level: Option<u64>) {
        let theirs = self.room_of_contexts(card);
        let Some(doubt) = self.doubts.get(&space).filter(|doubt| doubt.card == card) else { return };
        let missed = level.map_or(0, |level| doubt.level.saturating_sub(level));
        if missed <= theirs.saturating_add(doubt.withheld / 2) {
            tracing::debug!(space = space.0, card = card.0, missed, theirs, "it came free after all");
        } else if doubt.until <= Instant::now() {
            tracing::warn!(space = space.0, withheld = missed, "kept card memory that it has no lease for");
            if let Some(token) = self.process_of(space) {
                self.end_process(token, Cause::Memory, "it kept memory of a card beyond its time");
            }
        } else {
            return;
        }
        self.doubts.remove(&space);
        self.watch_suspects_only();
    }

    /// The broker ends: what waits for memory that is missed has none.
    pub(super) fn put_no_more_off(&mut self) {
        for off in std::mem::take(&mut self.put_off) {
            self.has_no_room(off.fill);
        }
    }

    /// A card has no room for a claim's slabs: whether it waits for memory that is missed there.
    pub(super) fn puts_off(&mut self, token: usize, card: CardId, fill: Job) -> Result<(), Job> {
        let longest = self.doubts.values().filter(|doubt| doubt.card == card).map(|doubt| doubt.until).max();
        let Some(lease) = self.space_mut(token).and_then(|space| space.lease.as_mut()) else { return Err(fill) };
        lease.tally.patience = lease.tally.patience.or(longest.map(|until| until + GOING));
        if lease.tally.patience.is_none_or(|until| until <= Instant::now()) {
            return Err(fill);
        }
        tracing::debug!(card = card.0, lease = lease.id.0, "a claim waits for memory that is missed");
        self.put_off.push(PutOff { card, fill });
        self.look_at.get_or_insert(Instant::now() + LOOK);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLAB: u64 = 256;

    #[test]
    fn others_can_hide_or_feign_one_slab() {
        // (what others take at that moment, what they give back)
        let missing = |kept: bool, others: [(u64, u64); 4]| {
            let mut free = 10_000;
            let mut missing = Missing::from(free);
            for (taken, given) in others {
                free = free + given + if kept { 0 } else { SLAB } - taken;
                missing.gone(SLAB, Some(free));
            }
            missing.bytes
        };
        let nothing = (0, 0);
        assert_eq!(missing(false, [nothing; 4]), 0);
        assert_eq!(missing(true, [nothing; 4]), 4 * SLAB);
        // somebody's job comes, of whatever size
        assert_eq!(missing(false, [nothing, (5000, 0), nothing, nothing]), SLAB);
        // and goes
        assert_eq!(missing(true, [nothing, (0, 5000), nothing, nothing]), 3 * SLAB);
    }

    #[test]
    fn nobody_is_suspected_for_what_is_not_known() {
        let mut missing = Missing::from(100);
        missing.gone(SLAB, None);
        assert_eq!(missing.bytes, 0);
        missing.gone(SLAB, Some(100 + 2 * SLAB));
        assert_eq!(missing.bytes, 0);
    }
}

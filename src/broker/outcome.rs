//! What the scheduler decides and the workers have done, carried on to the clients.
use super::card::{Done, Job, MAKING};
use super::client::{Lease, Role, Space, Stage};
use super::daemon::Daemon;
use super::desk::{sentence, Fault};
use super::metrics::Cause;
use std::time::Duration;
use zerogpu_lease::{Action, CardId, Ended, Evict, Grant, LeaseId, SpaceId};
use zerogpu_protocol::{clamp_seconds, Reason, ToClient, PACKET_FDS};

/// A program that brings its bytes home itself is at least so fast, in bytes in a second: memory that can't be page-locked, on a
/// bus that others use as well, is faster.
const SLOWEST: f64 = (128 << 20) as f64;

impl Daemon {
    /// Carries out what the scheduler decides now.
    pub(super) fn decide(&mut self) {
        let now = self.now();
        for action in self.scheduler.poll(now) {
            match action {
                Action::Grant(grant) => self.granted(grant),
                Action::TimedOut { space, request } => {
                    tracing::debug!(request = request.0, "claim ended: it waited too long");
                    self.timed_out(space);
                }
                // it knows of no lease yet, whose time begins anew
                Action::Overdue { space, .. } if self.is_returning(space) => {}
                Action::Overdue { lease, space } => self.overdue(lease, space),
                // one whose context is on its way back is ended when that takes too long
                Action::Kill { space, .. } if self.is_returning(space) => {}
                // the broker is at work for it: its grace begins anew when that is done
                Action::Kill { space, .. } if self.is_served(space) => {}
                Action::Kill { space, .. } => {
                    if let Some(&token) = self.spaces.get(&space) {
                        self.end_process(token, Cause::Overdue, "it kept a card beyond its time");
                    }
                }
                Action::Evict(evict) => self.evict(&[evict]),
            }
        }
    }

    fn granted(&mut self, grant: Grant) {
        self.evict(&grant.evict);
        let Some(&token) = self.spaces.get(&grant.space) else { return };
        let now = self.now();
        let Some(space) = self.space_mut(token) else { return };
        let Some((id, _)) = space.claim.take() else { return };
        let waited = grant.waited.as_secs_f64();
        tracing::debug!(
            space = grant.space.0,
            request = grant.request.0,
            lease = grant.lease.0,
            card = grant.card.0,
            waited_s = waited,
            "granted"
        );
        space.lease = Some(Lease::new(grant.lease, grant.card, id, Stage::Granted, waited));
        self.used = true;
        self.metrics.granted(waited);
        if !self.comes_back_first(token) {
            let seconds = clamp_seconds(grant.deadline.saturating_sub(now).as_secs_f64());
            self.tell_granted(token, id, grant.lease, grant.card, seconds);
        }
    }

    pub(super) fn tell_granted(&mut self, token: usize, id: u32, lease: LeaseId, card: CardId, seconds: f64) {
        let Some(card) = self.node.cards.get(card.0 as usize).map(|card| card.uuid) else { return };
        self.send(token, &ToClient::Granted { id, lease: lease.0, card, seconds });
    }

    fn timed_out(&mut self, space: SpaceId) {
        let Some(&token) = self.spaces.get(&space) else { return };
        let Some((id, _)) = self.space_mut(token).and_then(|space| space.claim.take()) else { return };
        let text = "no GPU was free in time: try again later, or allow a longer wait (ZEROGPU_WAIT)".to_string();
        self.metrics.denied();
        self.send(token, &ToClient::Denied { id, reason: Reason::Busy, text });
    }

    /// Whether the bytes of a Space are on their way, so that it can't let go of its card. Past its time it is spared for it
    /// once each way: whoever asked for its bytes again and again would stay for ever.
    fn is_served(&mut self, space: SpaceId) -> bool {
        let token = self.spaces.get(&space).copied().filter(|&token| !self.is_parting(token));
        let lease = token.and_then(|token| self.space_mut(token)?.lease.as_ref());
        lease.is_some_and(|lease| match lease.stage {
            Stage::Filling => true,
            Stage::Homing => !lease.tally.spared,
            _ => false,
        })
    }

    /// The broker has done what a holder waited for, and it may be past its time: only now it can let go.
    pub(super) fn spare(&mut self, token: usize) {
        let now = self.now();
        let Some(lease) = self.space_mut(token).and_then(|space| space.lease.as_mut()) else { return };
        let (id, homing) = (lease.id, lease.stage == Stage::Homing);
        if (homing && lease.tally.spared) || self.scheduler.overdue_since(id).is_none() {
            return;
        }
        self.scheduler.respite(now, id);
        if let Some(lease) = self.space_mut(token).and_then(|space| space.lease.as_mut()) {
            lease.tally.spared |= homing;
        }
    }

    /// A holder brings its bytes home itself, and gets on: its grace begins anew, but not for longer than all that it may have
    /// would take at the slowest pace.
    pub(super) fn gets_on(&mut self, token: usize) {
        let now = self.now();
        let Some(space) = self.space_mut(token) else { return };
        let (vram, Some(lease)) = (space.vram, &space.lease) else { return };
        let (id, card, until) = (lease.id, lease.card, lease.tally.homeward);
        let Some(since) = self.scheduler.overdue_since(id) else { return };
        let most = self.node.cards.get(card.0 as usize).map_or(0, |card| card.bytes);
        let until = until.unwrap_or(since + Duration::from_secs_f64(vram.min(most) as f64 / SLOWEST));
        if now < until {
            self.scheduler.respite(now, id);
        }
        if let Some(lease) = self.space_mut(token).and_then(|space| space.lease.as_mut()) {
            lease.tally.homeward = Some(until);
        }
    }

    fn overdue(&mut self, lease: LeaseId, space: SpaceId) {
        let Some(&token) = self.spaces.get(&space) else { return };
        self.tell_revoked(token, lease, Duration::ZERO);
    }

    /// Tells a Space that its lease has had its time, `ago` before now.
    pub(super) fn tell_revoked(&mut self, token: usize, lease: LeaseId, ago: Duration) {
        let grace = self.scheduler.policy().grace.saturating_sub(ago).as_secs_f64();
        let mut why = "the lease has had its time";
        if let Some(lease) = self.space_mut(token).and_then(|space| space.lease_mut(lease.0)) {
            lease.tally.revoked = true;
            if lease.tally.taken_back {
                why = "an administrator has taken the card back";
            }
        }
        let text = format!("{why}; the process is ended if it keeps the card for {grace:.1} s more");
        self.send(token, &ToClient::Revoked { lease: lease.0, text, grace });
    }

    /// Has warm bytes leave.
    pub(super) fn evict(&mut self, evicts: &[Evict]) {
        for evict in evicts {
            let token = self.spaces.get(&evict.space).copied();
            if let Some(space) = token.and_then(|token| self.space_mut(token)) {
                space.home = space.home.filter(|&home| home != evict.card);
                space.stop_ahead();
            }
            self.drop_slabs(evict.card, evict.space, true);
        }
    }

    /// A worker's result.
    pub(super) fn result(&mut self, card: CardId, done: Done) {
        match done {
            Done::Evicted { space, bytes, withheld, level } => self.evicted(card, space, bytes, withheld, level),
            Done::Looked { space, level } => self.looked(card, space, level),
            Done::Left { space } => self.worker_let_go(space),
            Done::Ahead { space, stop, bytes, moved, took } => {
                self.metrics.brought(moved, took);
                tracing::debug!(space = space.0, card = card.0, bytes, moved, "brought ahead");
                let Some(&token) = self.spaces.get(&space) else { return };
                let Some(space) = self.space_mut(token) else { return };
                if !space.ahead_last.as_ref().is_some_and(|last| stop.is(last)) {
                    return;
                }
                space.ahead = None;
                let id = space.id;
                self.scheduler.settle_warm(id, card, bytes);
            }
            Done::Slabs { space, lease, fds } => {
                let Some(token) = self.holder(space, lease) else { return };
                self.is_lent(token);
                for (i, part) in fds.chunks(PACKET_FDS).enumerate() {
                    let first = (i * PACKET_FDS) as u32;
                    self.send_with(token, &ToClient::SlabFds { lease: lease.0, first }, part);
                }
            }
            Done::Filled { space, lease, moved, took } => {
                let Some(token) = self.holder(space, lease) else { return };
                self.spare(token);
                if let Some(held) = self.space_mut(token).and_then(|space| space.lease_mut(lease.0)) {
                    held.stage = Stage::Ready;
                    (held.tally.brought, held.tally.warm) = (moved.bytes, moved.spared);
                }
                self.metrics.brought(moved.bytes, took);
                let micros = took.as_micros() as u64;
                self.send(token, &ToClient::Ready { lease: lease.0, bytes: moved.bytes, warm: moved.spared, micros });
            }
            Done::Grown { space, lease, slab, fd } => {
                let Some(token) = self.holder(space, lease) else { return };
                match fd {
                    Ok(fd) => {
                        self.is_lent(token);
                        self.send_with(token, &ToClient::Grown { lease: lease.0, slab }, &[fd]);
                    }
                    Err(code) => {
                        self.scheduler.shrink(lease, slab.len);
                        if let Some(held) = self.space_mut(token).and_then(|space| space.lease_mut(lease.0)) {
                            held.remove(slab);
                        }
                        let text = format!(
                            "the card has no room for {} bytes more (CUDA error {}): free memory",
                            slab.len, code.0
                        );
                        self.send(token, &ToClient::NotGrown { lease: lease.0, slab, text });
                    }
                }
            }
            Done::Home { space, lease, moved, resident, took } => {
                let Some(token) = self.holder(space, lease) else { return };
                self.spare(token);
                if let Some(held) = self.space_mut(token).and_then(|space| space.lease_mut(lease.0)) {
                    held.stage = Stage::Home { resident };
                    (held.tally.taken, held.tally.unchanged) = (moved.bytes, moved.spared);
                }
                self.metrics.taken(moved.bytes, took);
                let (bytes, unchanged, micros) = (moved.bytes, moved.spared, took.as_micros() as u64);
                self.send(token, &ToClient::Home { lease: lease.0, bytes, unchanged, micros });
            }
            Done::Forgotten { space, range, dropped } => {
                if dropped > 0 {
                    self.scheduler.shrink_warm(space, dropped);
                }
                let Some(&token) = self.spaces.get(&space) else { return };
                self.send(token, &ToClient::Forgotten { range });
            }
            Done::Begun { space } => self.begun(space),
            Done::PutAside { space, result, took } => self.is_aside(space, card, result, took),
            Done::BroughtBack { space, lease, result, took } => self.is_back(space, lease, result, took),
            Done::NoRoom { space, lease, fill } => self.no_room(card, space, lease, fill),
            Done::Failed { space, lease, what, code } => self.failed(space, lease, what, code.0),
        }
    }

    /// The list of a lease can't be had.
    pub(super) fn has_no_room(&mut self, fill: Job) {
        if let Job::Fill { space, lease, .. } = fill {
            self.failed(space, Some(lease), MAKING, zerogpu_abi::CUresult::OUT_OF_MEMORY.0);
        }
    }

    /// A card has less room than this broker knows of: somebody else is on it. What is warm there leaves, and it is tried once
    /// more.
    fn no_room(&mut self, card: CardId, space: SpaceId, lease: LeaseId, fill: Job) {
        let Some(token) = self.holder(space, lease) else { return };
        let Some(held) = self.space_mut(token).and_then(|space| space.lease_mut(lease.0)) else { return };
        let again = std::mem::replace(&mut held.tally.cleared, true);
        let evicts = if again { Vec::new() } else { self.scheduler.clear(card) };
        if evicts.is_empty() {
            if let Err(fill) = self.puts_off(token, card, fill) {
                self.has_no_room(fill);
            }
            return;
        }
        tracing::warn!(
            card = card.0,
            "a card has less room than its programs leave: others than this broker use it; warm bytes leave for a claim"
        );
        self.evict(&evicts);
        if let Err(Fault::Theirs(why) | Fault::NotTheirs(why)) = self.give(card, fill) {
            tracing::error!("{why}; restart the broker");
        }
    }

    /// A job failed. Bytes that could not go home are still on the card: their owner, who has the slabs mapped, takes them
    /// home itself, as it does when the broker dies, and connects again.
    fn failed(&mut self, space: SpaceId, lease: Option<LeaseId>, what: &str, code: u32) {
        // one that is gone, or has another connection now, has its copies broken off
        let Some(&token) = self.spaces.get(&space) else { return };
        if lease.is_some_and(|lease| self.holder(space, lease).is_none()) {
            return;
        }
        if self.is_parting(token) {
            // broken off: its process is at it by itself
            return;
        }
        tracing::error!(space = space.0, code, "{what} failed");
        let held = self.space_mut(token).and_then(|space| space.lease.as_ref()).filter(|_| lease.is_some());
        match held.map(|held| (held.stage, held.claim)) {
            Some((Stage::Filling, id)) => {
                self.give_up(token, what);
                let text = sentence(&format!(
                    "{what} failed (CUDA error {code}): the bytes are kept in host memory; call again"
                ));
                let reason =
                    if code == zerogpu_abi::CUresult::OUT_OF_MEMORY.0 { Reason::Memory } else { Reason::Internal };
                self.metrics.denied();
                self.send(token, &ToClient::Denied { id, reason, text });
            }
            held => {
                if matches!(held, Some((Stage::Homing, _))) {
                    self.spare(token);
                }
                self.lose(token, &format!("{what} failed"));
            }
        }
    }

    /// Ends a lease that came to nothing.
    pub(super) fn give_up(&mut self, token: usize, why: &str) {
        let now = self.now();
        let Some(space) = self.space_mut(token) else { return };
        let (id, Some(held)) = (space.id, space.lease.take()) else { return };
        space.home = None;
        let ended = self.scheduler.release(now, held.id, 0);
        self.still_bound(token);
        self.drop_slabs(held.card, id, false);
        if let Some(Role::Space(space)) = self.clients.get(&token).map(|client| &client.role) {
            self.lease_ended(space, &held, ended, why);
        }
    }

    fn drop_slabs(&self, card: CardId, space: SpaceId, let_go: bool) {
        if let Err(Fault::Theirs(why) | Fault::NotTheirs(why)) = self.give(card, Job::Evict { space, let_go }) {
            tracing::error!("{why}; restart the broker");
        }
    }

    /// The client that has a lease, by the number that it has now: what a worker says of an earlier one is out of date.
    pub(super) fn holder(&mut self, space: SpaceId, lease: LeaseId) -> Option<usize> {
        let token = *self.spaces.get(&space)?;
        self.space_mut(token)?.lease.as_ref().filter(|held| held.id == lease).map(|_| token)
    }

    /// A Space is about to get a descriptor of a slab.
    fn is_lent(&mut self, token: usize) {
        self.space_mut(token).into_iter().for_each(|space| space.lent = true);
    }

    /// One line of the log for each lease.
    pub(super) fn lease_ended(&self, space: &Space, lease: &Lease, ended: Option<Ended>, why: &str) {
        let lasted = ended.map_or_else(|| lease.tally.granted.elapsed(), |ended| ended.lasted);
        let tally = &lease.tally;
        self.metrics.ended(lasted);
        tracing::info!(
            lease = lease.id.0,
            space = space.id.0,
            name = ?space.name,
            tenant = %space.tenant,
            card = lease.card.0,
            waited_s = tally.waited,
            held_s = lasted.as_secs_f64(),
            bytes_in = tally.brought,
            bytes_warm = tally.warm,
            bytes_out = tally.taken,
            bytes_unchanged = tally.unchanged,
            revoked = tally.revoked,
            "lease ended: {why}"
        );
    }
}

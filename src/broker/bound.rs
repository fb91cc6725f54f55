//! Spaces that something binds to their context: between two leases the driver checkpoints them, so that the card holds
//! nothing of them.
//!
//! The calls are made by the card's worker. The Space makes no driver call meanwhile, so nobody waits but its next claim, and
//! whoever wants the card. What fails leaves the context on the card, which the scheduler then counts.
use super::card::{Done, Job};
use super::client::{Role, Space, Stage};
use super::daemon::Daemon;
use super::desk::{sentence, Dropped, Fault};
use super::metrics::Cause;
use std::time::{Duration, Instant};
use zerogpu_abi::CUresult;
use zerogpu_below::{Driver, Failure, ProcessState};
use zerogpu_lease::{CardId, Kept, LeaseId, SpaceId};
use zerogpu_protocol::{clamp_seconds, Reason, ToClient, Uuid};

/// How long a parked Space's process may still be inside a driver call.
const INSIDE: Duration = Duration::from_secs(2);
/// The same where the Space has had no lease of this broker, so that it may be anyone.
const STRANGER: Duration = Duration::from_millis(100);
/// Of the time of a card's worker such Spaces may have one part in so many, since whoever likes comes and goes.
const STRANGERS_PART: u32 = 10;
/// After this time a process that the driver is working on is ended: it may have been stopped, and the card waits.
const STUCK: Duration = Duration::from_secs(60);
/// The same for one that has had no lease of this broker: its context is all that can be there.
const STUCK_STRANGER: Duration = Duration::from_secs(10);

/// What binds a Space to its context.
pub struct Bound {
    /// The card.
    pub card: CardId,
    /// What it is, in words.
    pub by: String,
    /// Whether the driver has checkpointed the process.
    pub aside: bool,
    /// Whether it may be checkpointed once more: once after the hello, once after each lease.
    due: bool,
    /// Whether it has had a lease of this broker, so that its context counts.
    known: bool,
    /// What the driver does with it.
    work: Work,
}

/// What the driver does with a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Nothing,
    /// The card's worker is to ask it for something, and has others to serve first.
    Waits,
    /// It checkpoints or restores the process.
    Since(Instant),
}

impl Bound {
    /// Where its context is while nothing is done with it.
    fn at_rest(&self) -> Kept {
        if self.aside || !self.known {
            Kept::Aside
        } else {
            Kept::Stays
        }
    }

    /// When the driver has worked on it for too long.
    fn stuck_at(&self) -> Option<Instant> {
        match self.work {
            Work::Since(start) => Some(start + if self.known { STUCK } else { STUCK_STRANGER }),
            _ => None,
        }
    }

    /// Whether the driver works on it, or soon will.
    pub fn is_moving(&self) -> bool {
        self.work != Work::Nothing
    }
}

/// Checkpoints a process. The error is why its context stays on the card.
fn put_aside(driver: &Driver, pid: i32, patience: Duration) -> Result<(), String> {
    driver.checkpoint_process(pid, patience).map_err(|Failure { call, code }| match code {
        CUresult::NOT_SUPPORTED => {
            format!("{call} is not supported by this driver for this process; drivers from 570 on can checkpoint")
        }
        CUresult::NOT_READY => format!("the process was inside a driver call for {} ms", patience.as_millis()),
        code => format!("{call} answered CUDA error {}", code.0),
    })
}

/// Restores a process that may be checkpointed. `aside`: it is for certain. The error is a sentence for people.
fn bring_back(driver: &Driver, pid: i32, aside: bool) -> Result<(), String> {
    match driver.process_state(pid) {
        Ok(ProcessState::Failed) => {
            return Err("the driver lost the program's context in its checkpoint: start the program again".into())
        }
        Ok(_) => {}
        // an old driver, or one that may not look at the process: nobody has checkpointed it
        Err(_) if !aside => return Ok(()),
        Err(Failure { call, code }) => {
            return Err(format!("{call} answered CUDA error {} for a checkpointed program: call again", code.0))
        }
    }
    driver.restore_process(pid).map_err(|Failure { call, code }| {
        format!(
            "the program's context could not be brought back to the card ({call}: CUDA error {}): call again",
            code.0
        )
    })
}

impl Daemon {
    /// A Space says that its context stays where it is.
    pub(super) fn bound(&mut self, token: usize, card: Uuid, by: String) -> Dropped {
        let Some(card) = self.node.cards.iter().find(|of| of.uuid == card).map(|of| of.id) else {
            tracing::warn!("a program is bound to a card that is not this broker's, by {by:?}");
            return Ok(());
        };
        let Some(space) = self.space_mut(token) else { return Ok(()) };
        let (id, lease) = (space.id, space.lease.as_ref().map(|lease| lease.card));
        if lease.is_some_and(|of| of != card) {
            return Err("it is bound to another card than the one that it has".into());
        }
        match &mut space.bound {
            Some(bound) if bound.card != card => return Err("it is bound to two cards".into()),
            Some(bound) => bound.by = by,
            None => {
                tracing::info!(space = id.0, card = card.0, "bound to its context by {by:?}");
                space.bound =
                    Some(Bound { card, by, aside: false, due: true, known: lease.is_some(), work: Work::Nothing });
                self.scheduler.bind(id, card, Kept::Aside);
            }
        }
        let known = |space: &Space| space.bound.as_ref().is_some_and(|bound| bound.known);
        if lease.is_none() && self.space_mut(token).is_some_and(|space| known(space)) {
            self.put_aside(token)?;
        }
        Ok(())
    }

    /// The oldest connection of a Space that came bound, whose context may be on a card since before this broker.
    fn stranger(&self) -> Option<usize> {
        let waits = |space: &Space| space.lease.is_none() && space.bound.as_ref().is_some_and(|b| b.due && !b.known);
        self.clients.iter().find(|(_, client)| client.role.space().is_some_and(waits)).map(|(&token, _)| token)
    }

    /// When the next of them is to be put aside.
    pub(super) fn stranger_at(&self) -> Option<Instant> {
        self.stranger().map(|_| self.strangers_from)
    }

    /// Puts one of them aside, when its time has come.
    pub(super) fn receive_stranger(&mut self) {
        let now = Instant::now();
        let Some(token) = self.stranger().filter(|_| self.strangers_from <= now) else { return };
        // until it is known how long that takes
        self.strangers_from = now + STRANGER * STRANGERS_PART;
        if let Err(Fault::Theirs(why) | Fault::NotTheirs(why)) = self.put_aside(token) {
            tracing::error!("{why}; restart the broker");
        }
    }

    /// Has the driver checkpoint a Space that has no lease, if something binds it.
    pub(super) fn put_aside(&mut self, token: usize) -> Dropped {
        let Some(client) = self.clients.get_mut(&token) else { return Ok(()) };
        let (pid, Role::Space(space)) = (client.peer.pid, &mut client.role) else { return Ok(()) };
        let Some(bound) = &mut space.bound else { return Ok(()) };
        if !std::mem::take(&mut bound.due) {
            return Ok(());
        }
        bound.work = Work::Waits;
        let (id, card, backing) = (space.id, bound.card, space.backing.clone());
        let (kept, patience) = if bound.known { (Kept::Leaving, INSIDE) } else { (Kept::Aside, STRANGER) };
        self.scheduler.bind(id, card, kept);
        self.give(card, Job::PutAside { space: id, backing, pid, patience })
    }

    /// A lease of a bound Space came to nothing: its context is on the card until it says so itself, and is put aside.
    pub(super) fn still_bound(&mut self, token: usize) {
        let Some(space) = self.space_mut(token) else { return };
        let Some(bound) = &space.bound else { return };
        let (id, card, kept) = (space.id, bound.card, bound.at_rest());
        self.scheduler.bind(id, card, kept);
    }

    /// Before a Space is told of its lease its context has to be where it was; true: the grant waits for that.
    pub(super) fn comes_back_first(&mut self, token: usize) -> bool {
        let Some(client) = self.clients.get_mut(&token) else { return false };
        let (pid, Role::Space(space)) = (client.peer.pid, &mut client.role) else { return false };
        let (Some(bound), Some(lease)) = (&mut space.bound, &mut space.lease) else { return false };
        lease.stage = Stage::Returning;
        bound.work = Work::Waits;
        let (card, backing) = (bound.card, space.backing.clone());
        let job = Job::BringBack { space: space.id, backing, lease: lease.id, pid, aside: bound.aside };
        if let Err(Fault::Theirs(why) | Fault::NotTheirs(why)) = self.give(card, job) {
            tracing::error!("{why}; restart the broker");
        }
        true
    }

    /// Whether the context of a Space with a lease is on its way back.
    pub(super) fn is_returning(&mut self, space: SpaceId) -> bool {
        let token = self.spaces.get(&space).copied();
        let lease = token.and_then(|token| self.space_mut(token)?.lease.as_ref());
        lease.is_some_and(|lease| lease.stage == Stage::Returning)
    }

    /// The driver works on a Space from now on.
    pub(super) fn begun(&mut self, space: SpaceId) {
        let Some(&token) = self.spaces.get(&space) else { return };
        if let Some(bound) = self.space_mut(token).and_then(|space| space.bound.as_mut()) {
            if bound.work == Work::Waits {
                bound.work = Work::Since(Instant::now());
            }
        }
    }

    /// The driver has checkpointed a Space, or not.
    pub(super) fn is_aside(&mut self, space: SpaceId, card: CardId, result: Result<(), String>, took: Duration) {
        let Some(&token) = self.spaces.get(&space) else { return };
        let Some(bound) = self.space_mut(token).and_then(|space| space.bound.as_mut()) else { return };
        (bound.work, bound.aside) = (Work::Nothing, result.is_ok());
        let next = (!bound.known).then(|| Instant::now() + took * (STRANGERS_PART - 1));
        match result {
            Ok(()) => {
                let ms = took.as_secs_f64() * 1e3;
                tracing::info!(space = space.0, card = card.0, ms, "its context was put aside");
            }
            Err(why) => {
                tracing::warn!(space = space.0, card = card.0, by = bound.by, "its context stays on the card: {why}");
            }
        }
        let kept = bound.at_rest();
        self.scheduler.bind(space, card, kept);
        self.strangers_from = next.unwrap_or(self.strangers_from);
    }

    /// The driver has restored a Space, or not: its lease begins, or is over.
    pub(super) fn is_back(&mut self, space: SpaceId, lease: LeaseId, result: Result<(), String>, took: Duration) {
        let Some(token) = self.holder(space, lease) else { return };
        let now = self.now();
        let restarted = self.scheduler.restart(now, lease);
        let Some(held) = self.space_mut(token) else { return };
        let Some(bound) = held.bound.as_mut() else { return };
        bound.work = Work::Nothing;
        let Some(lease) = held.lease.as_mut().filter(|lease| lease.stage == Stage::Returning) else { return };
        let (id, number, card) = (lease.claim, lease.id, lease.card);
        match result {
            Ok(()) => {
                (bound.aside, bound.due, bound.known) = (false, true, true);
                lease.stage = Stage::Granted;
                tracing::info!(
                    space = space.0,
                    card = card.0,
                    ms = took.as_secs_f64() * 1e3,
                    "its context was brought back"
                );
                let seconds = restarted.map_or(0.0, |deadline| deadline.saturating_sub(now).as_secs_f64());
                self.tell_granted(token, id, number, card, clamp_seconds(seconds));
            }
            Err(why) => {
                tracing::warn!(space = space.0, card = card.0, "{why}");
                self.give_up(token, "its context could not be brought back");
                self.metrics.denied();
                self.send(token, &ToClient::Denied { id, reason: Reason::Internal, text: sentence(&why) });
            }
        }
    }

    /// When the first process that the driver works on has had its time.
    pub(super) fn stuck_at(&self) -> Option<Instant> {
        self.clients.values().filter_map(|client| client.role.space()?.bound.as_ref()?.stuck_at()).min()
    }

    /// Ends processes that the driver has worked on for too long: a stopped one would keep the card's worker for ever.
    pub(super) fn end_stuck(&mut self) {
        let now = Instant::now();
        let stuck = |role: &Role| {
            let space = role.space()?;
            space.bound.as_ref()?.stuck_at().is_some_and(|at| at <= now).then_some(space.id)
        };
        let all: Vec<SpaceId> = self.clients.values().filter_map(|client| stuck(&client.role)).collect();
        for space in all {
            tracing::warn!(space = space.0, "the driver's checkpoint of it takes too long");
            if let Some(&token) = self.spaces.get(&space) {
                self.end_process(token, Cause::Overdue, "it kept a card beyond its time");
            }
        }
    }
}

/// The worker's part.
pub fn act(driver: &Driver, job: Job, tell: &dyn Fn(Done)) {
    let start = Instant::now();
    match job {
        // whoever is gone waits for nothing
        Job::PutAside { backing, .. } | Job::BringBack { backing, .. } if backing.is_gone() => {}
        Job::PutAside { space, pid, patience, .. } => {
            tell(Done::Begun { space });
            let result = put_aside(driver, pid, patience);
            tell(Done::PutAside { space, result, took: start.elapsed() });
        }
        Job::BringBack { space, lease, pid, aside, .. } => {
            tell(Done::Begun { space });
            let result = bring_back(driver, pid, aside);
            tell(Done::BroughtBack { space, lease, result, took: start.elapsed() });
        }
        _ => {}
    }
}

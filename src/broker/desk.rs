//! What clients ask, checked and answered. The error of each function is why its client is dropped.
use super::ahead::Stop;
use super::card::{Done, Job};
use super::client::{in_order, Client, Lease, Role, Space, Stage};
use super::daemon::Daemon;
use super::slabs::Moved;
use std::time::{Duration, Instant};
use zerogpu_lease::{Claim, Denial, Reason as Why};
use zerogpu_protocol::{
    clamp_seconds, clip, report_packets, Range, Reason, Request, ToBroker, ToClient, SECONDS, TEXT_BYTES,
};

/// What a lease may hold beyond the quota: slabs are whole, and memory freed inside a lease may stay in one.
const SLACK: u64 = 512 << 20;

/// Why a client is dropped.
pub(super) enum Fault {
    /// It broke the protocol.
    Theirs(String),
    /// Its connection is over, or the broker failed.
    NotTheirs(String),
}

impl From<&str> for Fault {
    fn from(why: &str) -> Fault {
        Fault::Theirs(why.into())
    }
}

impl From<String> for Fault {
    fn from(why: String) -> Fault {
        Fault::Theirs(why)
    }
}

pub(super) type Dropped = Result<(), Fault>;

/// The number on the wire of a reason of the scheduler.
pub(super) fn reason(why: &Why) -> Reason {
    match why {
        Why::Spaces | Why::Vram | Why::Seconds { .. } => Reason::Quota,
        Why::TooLong => Reason::TooLong,
        Why::NoCard => Reason::NoCard,
        Why::TooLarge | Why::Room => Reason::Memory,
        Why::Busy | Why::Overdue | Why::Invalid | Why::Unknown => Reason::Protocol,
        Why::OthersWait => Reason::Busy,
    }
}

/// Whether a user may see and do all here: root, and who runs the broker.
pub(super) fn is_administrator(uid: u32) -> bool {
    // SAFETY: asks for a number.
    uid == 0 || uid == unsafe { libc::geteuid() }
}

/// A sentence that fits a message.
pub(super) fn sentence(text: &str) -> String {
    clip(text, TEXT_BYTES).to_string()
}

impl Daemon {
    pub(super) fn space_mut(&mut self, token: usize) -> Option<&mut Space> {
        match &mut self.clients.get_mut(&token)?.role {
            Role::Space(space) => Some(space),
            _ => None,
        }
    }

    pub(super) fn deny(&mut self, token: usize, id: u32, denial: &Denial) {
        let text = sentence(&denial.text);
        self.metrics.denied();
        self.send(token, &ToClient::Denied { id, reason: reason(&denial.reason), text });
    }

    /// A client says something.
    pub(super) fn message(&mut self, token: usize, message: ToBroker) -> Dropped {
        if matches!(message, ToBroker::Status) {
            let unread = |client: &Client| client.unread && client.endpoint.queued() > 0;
            if self.clients.get(&token).is_some_and(unread) {
                return Err("it asks for the status again, and has not read what it was told".into());
            }
            let viewer = self.clients.get(&token).map_or(u32::MAX, |client| client.peer.uid);
            let json = self.status(viewer);
            report_packets(&json).for_each(|packet| self.send(token, &packet));
            if let Some(client) = self.clients.get_mut(&token) {
                client.unread = client.endpoint.queued() > 0;
            }
            return Ok(());
        }
        if let ToBroker::TakeBack { pid } = message {
            let (done, text) = self.take_back(token, pid);
            self.send(token, &ToClient::TakenBack { done, text: sentence(&text) });
            return Ok(());
        }
        if self.space_mut(token).is_none() {
            return Err("an observer may only ask for the status, or take a card back".into());
        }
        match message {
            ToBroker::Claim { id, seconds, wait_seconds, borrowed, bytes } => {
                // who sets no limit gets the longest lease that there is
                let seconds = if seconds >= SECONDS { self.scheduler.policy().max_seconds } else { seconds };
                let wait = (wait_seconds > 0.0).then(|| Duration::from_secs_f64(wait_seconds));
                self.claim(token, id, Claim { seconds, bytes, wait, borrowed })
            }
            ToBroker::Slabs { lease, slabs, dirty, more } => self.slabs(token, lease, &slabs, &dirty, more),
            ToBroker::Cancel { id } => self.cancel(token, id),
            ToBroker::Extend { lease, seconds } => self.extend(token, lease, seconds),
            ToBroker::Grow { lease, slab } => self.grow(token, lease, slab),
            ToBroker::Shrink { lease, slabs } => self.shrink(token, lease, &slabs),
            ToBroker::Drained { lease } => self.drained(token, lease),
            ToBroker::Released { lease } => self.released(token, lease),
            ToBroker::Forget { range } => self.forget(token, range),
            ToBroker::Reserve { bytes } => self.reserve(token, bytes),
            ToBroker::Prefetch { seconds, slabs, dirty, more } => self.prefetch(token, seconds, &slabs, &dirty, more),
            ToBroker::Bound { card, by } => self.bound(token, card, by),
            ToBroker::Status | ToBroker::TakeBack { .. } => Ok(()),
        }
    }

    /// An administrator takes the card back from a process. Whether its lease ends, and a sentence for people.
    fn take_back(&mut self, token: usize, pid: u32) -> (bool, String) {
        let uid = self.clients.get(&token).map_or(u32::MAX, |client| client.peer.uid);
        if !is_administrator(uid) {
            return (false, "only root and the broker's own user may take a card back; ask one of them".into());
        }
        // processes that can't be seen from here all have the number 0
        let is_it =
            |client: &Client| pid != 0 && u32::try_from(client.peer.pid) == Ok(pid) && client.role.space().is_some();
        let tokens: Vec<usize> = self.clients.iter().filter(|(_, c)| is_it(c)).map(|(&token, _)| token).collect();
        if tokens.is_empty() {
            return (false, format!("no program of this broker has the process {pid}; zerogpu status lists them"));
        }
        let now = self.now();
        let grace = self.scheduler.policy().grace.as_secs_f64();
        for token in tokens {
            let Some(space) = self.space_mut(token) else { continue };
            let (id, name) = (space.id, space.name.clone());
            let Some(lease) = space.lease.as_mut() else { continue };
            lease.tally.taken_back = true;
            let (lease, card) = (lease.id, lease.card);
            let text = match self.scheduler.overdue_since(lease) {
                Some(_) => format!("the lease of {name} (pid {pid}) on {card} has ended already; its process is ended if it keeps the card for longer"),
                None => format!("the lease of {name} (pid {pid}) on {card} ends now; its process is ended if it keeps the card for {grace:.1} s more"),
            };
            self.scheduler.revoke(now, lease);
            tracing::info!(space = id.0, lease = lease.0, card = card.0, name = ?name, pid, "lease revoked by uid {uid}");
            return (true, text);
        }
        (false, format!("the process {pid} holds no card"))
    }

    fn claim(&mut self, token: usize, id: u32, claim: Claim) -> Dropped {
        let now = self.now();
        // who claims has no card: the connection was lost before it heard of its lease
        if let Some(before) = self.unheard_before(token) {
            self.leave(before, "its process claims anew");
        }
        let Some(space) = self.space_mut(token) else { return Ok(()) };
        let (number, vram) = (space.id, space.vram);
        let (seconds, bytes, borrowed) = (claim.seconds, claim.bytes, claim.borrowed);
        let asked = if claim.bytes > vram.saturating_add(SLACK) {
            let text = format!(
                "{} bytes were claimed by a program that was shown {vram}: it breaks its own quota",
                claim.bytes
            );
            Err(Denial { reason: Why::TooLarge, text })
        } else {
            self.scheduler.claim(now, number, claim)
        };
        match asked {
            Ok(request) => {
                let at_s = now.as_secs_f64();
                tracing::debug!(space = number.0, request = request.0, seconds, borrowed, bytes, at_s, "claim");
                if let Some(space) = self.space_mut(token) {
                    (space.claim, space.told) = (Some((id, request)), 0);
                }
            }
            Err(denial) => self.deny(token, id, &denial),
        }
        Ok(())
    }

    fn cancel(&mut self, token: usize, id: u32) -> Dropped {
        let Some(space) = self.space_mut(token) else { return Ok(()) };
        // a grant may be on its way: then there is nothing to cancel
        let Some((_, request)) = space.claim.take_if(|(waiting, _)| *waiting == id) else { return Ok(()) };
        self.scheduler.cancel(request);
        tracing::debug!(request = request.0, "claim ended: taken back");
        let text = "the program took the claim back".to_string();
        self.send(token, &ToClient::Denied { id, reason: Reason::Cancelled, text });
        Ok(())
    }

    /// The list of slabs of a lease.
    fn slabs(&mut self, token: usize, number: u64, slabs: &[Range], dirty: &[Range], more: bool) -> Dropped {
        let Some(space) = self.space_mut(token) else { return Ok(()) };
        let (size, vram, id, backing) = (space.backing.size(), space.vram, space.id, space.backing.clone());
        let lease =
            space.lease_mut(number).filter(|l| l.stage == Stage::Granted).ok_or("it listed slabs without a lease")?;
        lease.request.push(slabs, dirty, more).map_err(|e| e.to_string())?;
        let Some(request) = lease.request.take() else { return Ok(()) };
        if !in_order(&request.slabs, size) || !in_order(&request.dirty, size) {
            return Err("its ranges are out of order, overlap, or lie outside its backing".into());
        }
        lease.slabs = request.slabs;
        lease.stage = Stage::Filling;
        let (bytes, claim, lease_id, card, slabs) =
            (lease.bytes(), lease.claim, lease.id, lease.card, lease.slabs.clone());
        space.home = Some(card);
        let awaits_news = space.ahead.is_some();
        if bytes > vram.saturating_add(SLACK) {
            return Err(format!("its slabs have {bytes} bytes, and it was shown {vram}").into());
        }
        if let Err(text) = self.reserves(token, bytes) {
            self.give_up(token, "its memory does not fit");
            self.deny(token, claim, &Denial { reason: Why::Room, text });
            return Ok(());
        }
        // what it claimed was an estimate
        let planned = self.scheduler.leased_bytes(lease_id).unwrap_or(0);
        self.scheduler.shrink(lease_id, planned.saturating_sub(bytes));
        if bytes > planned {
            match self.scheduler.grow(lease_id, bytes - planned) {
                Ok(evicts) => self.evict(&evicts),
                Err(denial) => {
                    self.give_up(token, "its memory does not fit");
                    self.deny(token, claim, &denial);
                    return Ok(());
                }
            }
        }
        // a card that lacks nothing answers at once: two threads less have to wake
        let start = Instant::now();
        let idle = self.workers.get(card.0 as usize).filter(|_| request.dirty.is_empty() && !awaits_news);
        if let Some(fds) = idle.and_then(|worker| worker.lend(id, &slabs)) {
            self.result(card, Done::Slabs { space: id, lease: lease_id, fds });
            tracing::debug!(space = id.0, lease = lease_id.0, card = card.0, bytes, "the card lacks nothing");
            let moved = Moved { bytes: 0, spared: bytes };
            self.result(card, Done::Filled { space: id, lease: lease_id, moved, took: start.elapsed() });
            return Ok(());
        }
        self.give(card, Job::Fill { space: id, backing, lease: lease_id, slabs, dirty: request.dirty })
    }

    /// A region began: what a claim would want can be brought to an idle card.
    fn prefetch(&mut self, token: usize, seconds: f64, slabs: &[Range], dirty: &[Range], more: bool) -> Dropped {
        let now = self.now();
        let Some(space) = self.space_mut(token) else { return Ok(()) };
        if space.claim.is_some() || space.lease.is_some() {
            return Err("it told what it will claim while it waits or computes".into());
        }
        space.wish.push(slabs, dirty, more).map_err(|e| e.to_string())?;
        let Some(Request { slabs, dirty, .. }) = space.wish.take() else { return Ok(()) };
        let (id, size, vram, backing) = (space.id, space.backing.size(), space.vram, space.backing.clone());
        if !in_order(&slabs, size) || !in_order(&dirty, size) {
            return Err("its ranges are out of order, overlap, or lie outside its backing".into());
        }
        let bytes = slabs.iter().map(|slab| slab.len).sum();
        if bytes > vram.saturating_add(SLACK) {
            return Err(format!("its slabs have {bytes} bytes, and it was shown {vram}").into());
        }
        space.stop_ahead();
        // it does not name them again
        if let Some(card) = space.home {
            self.give(card, Job::Stale { space: id, dirty })?;
        }
        let Some(found) = self.scheduler.prefetch(now, id, seconds, bytes) else { return Ok(()) };
        self.evict(&found.evict);
        let stop = Stop::default();
        if let Some(space) = self.space_mut(token) {
            (space.home, space.ahead, space.ahead_last) = (Some(found.card), Some(stop.clone()), Some(stop.clone()));
        }
        tracing::debug!(space = id.0, card = found.card.0, bytes, "a region began: bytes are brought ahead");
        self.give(found.card, Job::Ahead { space: id, backing, slabs, stop })
    }

    fn extend(&mut self, token: usize, number: u64, seconds: f64) -> Dropped {
        let now = self.now();
        // the wish may cross the end of the lease, which another thread of the program tells of
        let Ok(lease) = self.lease(token, number) else { return Ok(()) };
        let deadline = match self.scheduler.extend(now, lease, seconds) {
            Ok(deadline) => deadline,
            // it stays as it was
            Err(_) => self.scheduler.deadline(lease).unwrap_or(now),
        };
        let seconds = clamp_seconds(deadline.saturating_sub(now).as_secs_f64());
        self.send(token, &ToClient::Extended { lease: number, seconds });
        Ok(())
    }

    fn grow(&mut self, token: usize, number: u64, slab: Range) -> Dropped {
        let Some(space) = self.space_mut(token) else { return Ok(()) };
        let (id, vram, size) = (space.id, space.vram, space.backing.size());
        let lease = space.lease_mut(number).filter(|l| l.computes()).ok_or("it grew without a lease")?;
        let (lease_id, card) = (lease.id, lease.card);
        if slab.end() > size || !lease.add(slab) {
            return Err("it grew by a slab that overlaps another or lies outside its backing".into());
        }
        let bytes = lease.bytes();
        let room = if bytes > vram.saturating_add(SLACK) {
            Err(format!("{bytes} bytes are more than the {vram} that the program was shown"))
        } else {
            let reserved = self.reserves(token, bytes);
            reserved.and_then(|()| self.scheduler.grow(lease_id, slab.len).map_err(|denial| denial.text))
        };
        match room {
            Ok(evicts) => {
                // what it has besides the bytes that are home is in use again
                if let Some(lease) = self.space_mut(token).and_then(|space| space.lease_mut(number)) {
                    lease.stage = Stage::Ready;
                }
                self.evict(&evicts);
                self.give(card, Job::Grow { space: id, lease: lease_id, slab })
            }
            Err(text) => {
                if let Some(lease) = self.space_mut(token).and_then(|space| space.lease_mut(number)) {
                    lease.remove(slab);
                }
                self.send(token, &ToClient::NotGrown { lease: number, slab, text: sentence(&text) });
                Ok(())
            }
        }
    }

    fn shrink(&mut self, token: usize, number: u64, slabs: &[Range]) -> Dropped {
        let Some(space) = self.space_mut(token) else { return Ok(()) };
        let id = space.id;
        let lease = space.lease_mut(number).filter(|l| l.computes()).ok_or("it shrank without a lease")?;
        if !slabs.iter().all(|slab| lease.remove(*slab)) {
            return Err("it gave back a slab that it does not have".into());
        }
        let (lease_id, card, bytes) = (lease.id, lease.card, slabs.iter().map(|slab| slab.len).sum());
        self.scheduler.shrink(lease_id, bytes);
        self.give(card, Job::Shrink { space: id, slabs: slabs.to_vec() })
    }

    fn drained(&mut self, token: usize, number: u64) -> Dropped {
        let Some(space) = self.space_mut(token) else { return Ok(()) };
        let (id, backing) = (space.id, space.backing.clone());
        let lease = space.lease_mut(number).ok_or("it drained a lease that it does not have")?;
        let (lease_id, card) = (lease.id, lease.card);
        match lease.stage {
            // again, if the Space could not let go the first time
            Stage::Ready | Stage::Home { .. } => {
                lease.stage = Stage::Homing;
                self.give(card, Job::Home { space: id, backing, lease: lease_id })
            }
            // its memory was never ours: it copies home itself, and says so as often as it gets on
            Stage::Adopted => {
                self.gets_on(token);
                self.send(token, &ToClient::Home { lease: number, bytes: 0, unchanged: 0, micros: 0 });
                Ok(())
            }
            _ => Err("it drained a lease that was not ready".into()),
        }
    }

    /// A Space has let go of its card.
    fn released(&mut self, token: usize, number: u64) -> Dropped {
        let lease = match (self.lease(token, number), self.holder_before(token, number)) {
            (Ok(lease), _) => lease,
            // its connection was lost before it could say so
            (Err(_), Some(before)) => {
                self.leave(before, "its process has let go, and connected again");
                return Ok(());
            }
            // it had read its grant, and not taken it
            (Err(_), None) if self.space_mut(token).is_some_and(|space| space.unheard == Some(number)) => return Ok(()),
            (Err(why), None) => return Err(why.into()),
        };
        let now = self.now();
        let Some(space) = self.space_mut(token) else { return Ok(()) };
        let (id, Some(held)) = (space.id, space.lease.take()) else { return Ok(()) };
        let warm = match held.stage {
            Stage::Home { resident } => resident,
            _ => 0,
        };
        space.home = (warm > 0).then_some(held.card);
        let ended = self.scheduler.release(now, lease, warm);
        if warm == 0 && held.stage != Stage::Adopted {
            // bytes that did not go home were of no use to it
            self.give(held.card, Job::Evict { space: id, let_go: true })?;
        }
        if let Some(Role::Space(space)) = self.clients.get(&token).map(|client| &client.role) {
            self.lease_ended(space, &held, ended, "released");
        }
        self.put_aside(token)
    }

    fn forget(&mut self, token: usize, range: Range) -> Dropped {
        let Some(space) = self.space_mut(token) else { return Ok(()) };
        if range.end() > space.backing.size() {
            return Err("it wants a range outside its backing forgotten".into());
        }
        space.stop_ahead();
        let (id, backing) = (space.id, space.backing.clone());
        // while it computes, the slab is in use although its host copy is not
        let drop = space.lease.is_none();
        let card = space.home.unwrap_or(zerogpu_lease::CardId(0));
        self.give(card, Job::Forget { space: id, backing, range, drop })
    }

    fn reserve(&mut self, token: usize, bytes: u64) -> Dropped {
        let fits = match self.space_mut(token) {
            // nobody has the node's memory by a word
            Some(space) if bytes > space.vram.saturating_add(SLACK) => {
                let vram = space.vram;
                Err(format!(
                    "{bytes} bytes of host memory are more than the {vram} that the program was shown: free memory"
                ))
            }
            // less than before
            Some(space) if bytes <= space.reserved => {
                space.reserved = bytes;
                Ok(())
            }
            _ => self.reserves(token, bytes),
        };
        let answer = match fits {
            Ok(()) => ToClient::Reserved { bytes },
            Err(text) => ToClient::NotReserved { bytes, text: sentence(&text) },
        };
        self.send(token, &answer);
        Ok(())
    }

    /// Speaks `bytes` of the node's host memory for a Space, if it has not as many. What it has written there already is a
    /// fact, which counts whether it was spoken for or not. The error is a sentence for people.
    fn reserves(&mut self, token: usize, bytes: u64) -> Result<(), String> {
        let limit = self.host_memory;
        let Some(space) = self.space_mut(token) else { return Ok(()) };
        if bytes <= space.reserved {
            return Ok(());
        }
        // what it has on a card will be written when that goes home
        let leased = |space: &Space| space.lease.as_ref().map_or(0, Lease::bytes);
        let counts = |space: &Space| space.reserved.max(space.backing.written()).max(leased(space));
        let others = self.clients.iter().filter(|(&other, _)| other != token);
        let others: u64 = others.filter_map(|(_, client)| client.role.space()).map(counts).sum();
        let Some(space) = self.space_mut(token) else { return Ok(()) };
        if others.checked_add(bytes).is_some_and(|all| all <= limit) || bytes <= space.backing.written() {
            space.reserved = bytes;
            return Ok(());
        }
        let mib = |n: u64| n >> 20;
        Err(format!(
            "the program wants {} MiB of host memory, and {} of the node's {} MiB are spoken for: end other programs, or raise host-memory in the broker's configuration",
            mib(bytes), mib(others), mib(limit)
        ))
    }

    /// The lease of this number, if the client has it.
    fn lease(&mut self, token: usize, number: u64) -> Result<zerogpu_lease::LeaseId, String> {
        let lease = self.space_mut(token).and_then(|space| space.lease_mut(number));
        lease.map(|lease| lease.id).ok_or_else(|| "it named a lease that it does not have".into())
    }

    /// Gives a card's worker a job.
    pub(super) fn give(&self, card: zerogpu_lease::CardId, job: Job) -> Dropped {
        let client = self.spaces.get(&job.space()).and_then(|token| self.clients.get(token));
        let undone = client.and_then(|client| client.role.space()).map(|space| space.backlog.add(&job));
        let given = self.workers.get(card.0 as usize).is_some_and(|worker| worker.give(job, undone));
        given.then_some(()).ok_or_else(|| Fault::NotTheirs(format!("the worker of {card} has ended")))
    }
}

//! How clients go: dropped, gone, or ended. A card that a process holds is leased on only when it has let go, or has ended.
use super::card::Job;
use super::client::{kill, Client, Role, Stage};
use super::daemon::Daemon;
use super::metrics::Cause;
use super::space::Backing;
use mio::unix::SourceFd;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Instant;
use zerogpu_lease::SpaceId;
use zerogpu_protocol::{Error, Peer, ToBroker};

/// A process whose Space has left, and which had memory of a card once: it is watched until all of that is back.
pub struct Departed {
    space: SpaceId,
    /// Who it is, as the kernel says.
    pub peer: Peer,
    /// Readable when it has ended.
    pidfd: OwnedFd,
    /// Workers that have not looked yet.
    workers: usize,
}

impl Daemon {
    /// Ends a process that has a card, or memory of one, that is not its own (any more). Its lease ends when the process has.
    pub(super) fn end_process(&mut self, token: usize, cause: Cause, why: &str) {
        let now = self.now();
        let client = self.clients.get(&token).map(|client| (client.peer.pid, client.pidfd.as_ref()));
        let departed = || self.departed.get(&token).map(|departed| (departed.peer.pid, Some(&departed.pidfd)));
        let Some((pid, process)) = client.or_else(departed) else { return };
        match kill(process) {
            Ok(()) => tracing::warn!(pid, cause = cause.label(), "a process is ended: {why}"),
            Err(e) if process.is_none() => tracing::warn!(
                pid,
                cause = cause.label(),
                "a process should be ended and can't be ({e}): {why}; its card goes to others, since its process can't be watched: run the broker outside of containers"
            ),
            Err(e) => tracing::warn!(
                pid,
                cause = cause.label(),
                "a process should be ended and can't be ({e}): {why}; its card waits for it: end it, and give the broker CAP_KILL"
            ),
        }
        self.metrics.killed(cause);
        if let Some(lease) = self.space_mut(token).and_then(|space| space.lease.as_ref()).map(|lease| lease.id) {
            self.scheduler.condemn(now, lease);
        }
        self.part(token, why);
    }

    /// Whether a client holds a card.
    pub(super) fn holds_card(&self, token: usize) -> bool {
        let role = self.clients.get(&token).map(|client| &client.role);
        matches!(role, Some(Role::Space(space)) if space.lease.is_some())
    }

    /// A connection is over. A card that its process holds stays its until the process has ended, or connects again: nobody
    /// else can say that it has let go.
    pub(super) fn lose(&mut self, token: usize, why: &str) {
        if !self.part(token, why) {
            return;
        }
        // what it could send before is said, for all that it knows
        loop {
            let Some(client) = self.clients.get_mut(&token) else { return };
            let said = client.endpoint.recv(&mut self.buffer);
            self.buffer.fds.drain(..).for_each(|fd| self.closer.close(fd));
            match said {
                Ok(Some(ToBroker::Released { lease })) if self.has_lease(token, lease) => {
                    return self.leave(token, "it has let go, and its connection is over");
                }
                Ok(Some(_)) | Err(Error::Malformed(_)) => {}
                Err(Error::Io(e)) if e.kind() == std::io::ErrorKind::InvalidData => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn has_lease(&mut self, token: usize, number: u64) -> bool {
        self.space_mut(token).is_some_and(|space| space.lease_mut(number).is_some())
    }

    /// The same, whatever it has said last. Whether its process holds a card still, and the connection has ended just now.
    fn part(&mut self, token: usize, why: &str) -> bool {
        // one that was never told of its lease holds nothing
        let told =
            |client: &Client| client.role.space().and_then(|space| space.lease.as_ref()).map(|lease| lease.stage);
        let returning = self.clients.get(&token).and_then(told) == Some(Stage::Returning);
        let holds = self.holds_card(token) && !returning;
        let Some(client) = self.clients.get_mut(&token).filter(|client| holds && client.pidfd.is_some()) else {
            self.leave(token, why);
            return false;
        };
        if client.parting.is_some() {
            return false;
        }
        let Role::Space(space) = &client.role else { return false };
        // its process goes on by itself, and the host copy is its alone
        space.backing.leave();
        let served = space.lease.as_ref().is_some_and(|lease| matches!(lease.stage, Stage::Filling | Stage::Homing));
        let socket = client.endpoint.as_fd().as_raw_fd();
        let _a_socket_that_was_watched = self.poll.registry().deregister(&mut SourceFd(&socket));
        client.endpoint.hang_up();
        client.parting = Some(why.into());
        if served {
            self.spare(token);
        }
        true
    }

    /// Whether a connection is over although its process still holds a card.
    pub(super) fn is_parting(&self, token: usize) -> bool {
        self.clients.get(&token).is_some_and(|client| client.parting.is_some())
    }

    /// A process has ended: nothing of it is on any card.
    pub(super) fn process_ended(&mut self, token: usize) {
        if let Some(departed) = self.departed.remove(&token) {
            self.watch_no_more(departed.pidfd.as_raw_fd());
            self.doubts.remove(&departed.space);
        }
        if let Some(ended) = self.clients.get_mut(&token).and_then(|client| client.pidfd.take()) {
            self.watch_no_more(ended.as_raw_fd());
        }
        self.leave(token, "its process has ended");
    }

    /// Closing takes a descriptor out of epoll as well; a duplicate elsewhere would keep it in.
    fn watch_no_more(&self, fd: RawFd) {
        let _it_is_closed_anyway = self.poll.registry().deregister(&mut SourceFd(&fd));
    }

    /// A client is gone: so is all that it held.
    pub(super) fn leave(&mut self, token: usize, why: &str) {
        let Some(client) = self.clients.remove(&token) else { return };
        let why = client.parting.as_deref().unwrap_or(why);
        self.watch_no_more(client.endpoint.as_fd().as_raw_fd());
        self.closer.close(client.endpoint.into_socket());
        let (pidfd, lent) = (client.pidfd, client.role.space().filter(|space| space.lent).map(|space| space.id));
        let watched = match (pidfd, lent) {
            (Some(pidfd), Some(space)) => {
                let departed = Departed { space, peer: client.peer, pidfd, workers: self.workers.len() };
                self.departed.insert(token, departed);
                true
            }
            (pidfd, _) => {
                pidfd.iter().for_each(|pidfd| self.watch_no_more(pidfd.as_raw_fd()));
                false
            }
        };
        let Role::Space(space) = client.role else {
            if !matches!(client.role, Role::Observer) {
                tracing::debug!(pid = client.peer.pid, "a connection was closed: {why}");
            }
            return;
        };
        self.spaces.remove(&space.id);
        let now = self.now();
        let ended = self.scheduler.detach(now, space.id);
        if let Some(lease) = &space.lease {
            self.lease_ended(&space, lease, ended, why);
        }
        tracing::info!(space = space.id.0, name = ?space.name, pid = client.peer.pid, "Space left: {why}");
        if !watched {
            self.doubts.remove(&space.id);
        }
        self.let_go(space.id, space.backing, watched);
    }

    /// The process of a Space, by its connection, while there is one, and then by the number that it had.
    pub(super) fn process_of(&self, space: SpaceId) -> Option<usize> {
        let departed = || self.departed.iter().find(|(_, departed)| departed.space == space).map(|(&token, _)| token);
        self.spaces.get(&space).copied().or_else(departed)
    }

    /// A worker has nothing of a Space any more whose process is watched.
    pub(super) fn worker_let_go(&mut self, space: SpaceId) {
        if let Some(departed) = self.departed.values_mut().find(|departed| departed.space == space) {
            departed.workers -= 1;
        }
        self.watch_suspects_only();
    }

    /// Whose memory has come free is nobody that has to be watched.
    pub(super) fn watch_suspects_only(&mut self) {
        let cleared = |departed: &Departed| departed.workers == 0 && !self.doubts.contains_key(&departed.space);
        let tokens: Vec<usize> = self.departed.iter().filter(|(_, d)| cleared(d)).map(|(&token, _)| token).collect();
        for token in tokens {
            let departed = self.departed.remove(&token);
            departed.iter().for_each(|departed| self.watch_no_more(departed.pidfd.as_raw_fd()));
        }
    }

    /// The workers drop what they have of a Space, and its memory. `check`: what its process was lent has to come free.
    pub(super) fn let_go(&self, space: SpaceId, backing: Arc<Backing>, check: bool) {
        backing.leave();
        let mut backing = Some(backing);
        let last = self.workers.len().saturating_sub(1);
        for (i, worker) in self.workers.iter().enumerate() {
            // the last one gets ours: whoever ends last is a worker, with a context to unpin in
            let share = if i == last { backing.take() } else { backing.clone() };
            worker.give(Job::Leave { space, backing: share, let_go: check }, None);
        }
    }

    /// Drops connections that never said hello.
    pub(super) fn dismiss_silent(&mut self) {
        let now = Instant::now();
        let silent = |client: &Client| matches!(client.role, Role::New(until) if until <= now);
        let tokens: Vec<usize> = self.clients.iter().filter(|(_, c)| silent(c)).map(|(&token, _)| token).collect();
        tokens.into_iter().for_each(|token| self.leave(token, "it said no hello in time"));
    }
}

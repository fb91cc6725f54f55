//! How clients arrive: their hello, and what they hold already.
//!
//! A process that comes back while this broker still has its lease takes the lease over, connection for connection: the card
//! is never free in between. One that holds a card of an earlier broker says so, and is believed as far as that harms nobody.
use super::card::Backlog;
use super::client::{Client, Lease, Role, Space, Stage};
use super::daemon::Daemon;
use super::desk::{reason, sentence, Dropped, Fault};
use super::metrics::Cause;
use super::space::Backing;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use zerogpu_lease::{Denial, Reason as Why, SpaceSpec};
use zerogpu_protocol::{
    check_backing, clamp_seconds, negotiate, Answer, Hello, Holding, Reason, Refused, Request, Role as Kind, ToClient,
    Versions, Welcome, VERSIONS,
};

/// Why a client may not come in, for itself.
type Refusal = (Reason, String);

impl Daemon {
    /// A client introduces itself.
    pub(super) fn hello(&mut self, token: usize, theirs: Versions, hello: Hello, backing: Option<OwnedFd>) -> Dropped {
        let introduced = self.introduce(token, theirs, hello, backing.as_ref());
        // that of a Space is a memory file, which is closed at once
        if let Some(file) = backing.filter(|_| self.space_mut(token).is_none()) {
            self.closer.close(file);
        }
        introduced
    }

    fn introduce(&mut self, token: usize, theirs: Versions, hello: Hello, backing: Option<&OwnedFd>) -> Dropped {
        let version = negotiate(VERSIONS, theirs).map_err(|e| e.to_string())?;
        let before = hello.holds.as_ref().and_then(|holds| self.holder_before(token, holds.lease));
        let is_ours = |holds: &Holding| self.node.cards.iter().any(|card| card.uuid == holds.card);
        let holds_ours = hello.holds.as_ref().is_some_and(is_ours);
        let mut beyond = None;
        let role = match (hello.role, backing) {
            (Kind::Observer, _) if hello.holds.is_some() => {
                return Err("it looks on, and says that it holds a card".into())
            }
            (Kind::Observer, _) => Ok(Role::Observer),
            (Kind::Space, None) => return Err("it brought no backing".into()),
            (Kind::Space, Some(file)) => match before {
                Some(before) => self.comes_back(before, &hello, file),
                None => self.admit(token, &hello, file, holds_ours, &mut beyond),
            }
            .map(|space| Role::Space(Box::new(space))),
        };
        let broker = self.id;
        let Some(client) = self.clients.get_mut(&token) else { return Ok(()) };
        match role {
            Ok(role) => {
                if let Some(space) = role.space() {
                    self.spaces.insert(space.id, token);
                }
                client.role = role;
                client.endpoint.refuse_descriptors();
                let welcome = Answer::Welcome(Welcome { broker, version });
                // who has hung up meanwhile may have a card, and comes back
                client.endpoint.answer(&welcome).map_err(|e| Fault::NotTheirs(e.to_string()))?;
            }
            Err((reason, text)) => {
                let refused = Refused { reason, text: sentence(&text) };
                client.endpoint.answer(&Answer::Refused(refused)).map_err(|e| e.to_string())?;
                if holds_ours && before.is_none() {
                    // others get the card
                    self.end_process(token, Cause::Late, &format!("it holds a card, and was refused: {text}"));
                    return Ok(());
                }
                return Err(format!("it was refused: {text}").into());
            }
        }
        self.end_unheard(token);
        match hello.holds {
            Some(_) if before.is_some() => self.tell_taken_over(token),
            Some(holds) => self.adopt(token, &holds),
            None => {}
        }
        if let Some(limit) = beyond.filter(|_| !self.scheduler.is_held(self.now())) {
            // else whoever likes could come in over its limits
            self.end_process(token, Cause::Late, &format!("it said too late that it holds a card: {limit}"));
        }
        Ok(())
    }

    /// The memory of a Space, mapped.
    fn mapped(&self, file: &OwnedFd) -> Result<Arc<Backing>, Refusal> {
        let size = check_backing(file.as_fd()).map_err(|e| (Reason::Protocol, e.to_string()))?;
        let backing = Backing::map(self.node.driver, file, size)
            .map_err(|e| (Reason::Memory, format!("the broker can't map the program's memory ({e}); end other programs, or raise the broker's limit of address space")))?;
        Ok(Arc::new(backing))
    }

    /// A Space comes in. One that holds a card is there, whatever its tenant's limits are now: which of them it is beyond is
    /// written to `beyond`.
    fn admit(
        &mut self,
        token: usize,
        hello: &Hello,
        file: &OwnedFd,
        holds: bool,
        beyond: &mut Option<Denial>,
    ) -> Result<Space, Refusal> {
        let backing = self.mapped(file)?;
        let Some(client) = self.clients.get(&token) else { return Err((Reason::Internal, "it is gone".into())) };
        let (tenant, pid) = (self.config.tenant_of(client.peer.uid), client.peer.pid);
        let spec = SpaceSpec { kind: hello.cc, vram: hello.vram };
        let now = self.now();
        let id = match self.scheduler.attach(now, &tenant, spec) {
            Err(limit) if holds && matches!(limit.reason, Why::Spaces | Why::Vram) => {
                tracing::warn!(pid, "a program holds a card, and is beyond a limit: {limit}");
                *beyond = Some(limit);
                self.scheduler.attach_holder(now, &tenant, spec)
            }
            attached => attached,
        };
        let id = id.map_err(|e| (reason(&e.reason), e.text))?;
        tracing::info!(space = id.0, name = ?hello.name, pid, tenant, "Space joined");
        Ok(Space {
            id,
            name: hello.name.clone(),
            tenant,
            vram: hello.vram,
            backing,
            reserved: 0,
            claim: None,
            told: 0,
            lease: None,
            lent: false,
            unheard: None,
            home: None,
            wish: Request::default(),
            ahead: None,
            ahead_last: None,
            bound: None,
            backlog: Backlog::new(self.waker()),
        })
    }

    /// The connection of the same process that has the lease which a client names.
    pub(super) fn holder_before(&self, token: usize, number: u64) -> Option<usize> {
        // by its number of before, if it has not heard yet of the one that it has now
        self.before(token, |_, lease| lease.id.0 == number || lease.before == Some(number))
    }

    /// A lost connection of the same process, with a lease of which it may never have heard: who has listed slabs has, and
    /// may have them still.
    pub(super) fn unheard_before(&self, token: usize) -> Option<usize> {
        self.before(token, |client, lease| client.parting.is_some() && lease.stage == Stage::Granted)
    }

    /// Who says hello has no lease but the one that it names: others were granted on connections that were lost before it heard
    /// of them.
    fn end_unheard(&mut self, token: usize) {
        if self.space_mut(token).is_none() {
            return;
        }
        // an end that was not looked at yet is behind what was said before
        let is_silent = |client: &Client, lease: &Lease| client.parting.is_none() && lease.stage == Stage::Granted;
        if let Some(before) = self.before(token, is_silent) {
            self.read(before);
        }
        while let Some(before) = self.unheard_before(token) {
            let lease = self.space_mut(before).and_then(|space| space.lease.as_ref()).map(|lease| lease.id.0);
            self.leave(before, "its process has connected again without it");
            if let Some(space) = self.space_mut(token) {
                space.unheard = lease;
            }
        }
    }

    fn before(&self, token: usize, is_meant: impl Fn(&Client, &Lease) -> bool) -> Option<usize> {
        let peer = self.clients.get(&token)?.peer;
        let is_it = |client: &Client| {
            // processes that can't be seen from here all have the number 0
            let same = peer.pid != 0 && client.peer.pid == peer.pid && client.peer.uid == peer.uid;
            let lease = client.role.space().and_then(|space| space.lease.as_ref());
            same && lease.is_some_and(|lease| is_meant(client, lease))
        };
        self.clients.iter().find(|(&other, client)| other != token && is_it(client)).map(|(&before, _)| before)
    }

    /// A process is back that lost its connection while it held a card, `before` being that connection: it is the same Space,
    /// and its lease goes on. What the broker had of it on the card is its own now, as after the death of a broker.
    fn comes_back(&mut self, before: usize, hello: &Hello, file: &OwnedFd) -> Result<Space, Refusal> {
        let backing = self.mapped(file)?;
        let another = || (Reason::Protocol, "it is another program than the one that holds the lease".to_string());
        let Some(Role::Space(old)) = self.clients.get(&before).map(|client| &client.role) else {
            return Err(another());
        };
        let spec = SpaceSpec { kind: hello.cc, vram: hello.vram };
        let card = old.lease.as_ref().and_then(|lease| self.node.cards.get(lease.card.0 as usize));
        let holds_it = card.is_some_and(|card| hello.holds.as_ref().is_some_and(|holds| holds.card == card.uuid));
        if !holds_it || self.scheduler.spec(old.id) != Some(spec) {
            return Err(another());
        }
        let Some(client) = self.clients.get_mut(&before) else { return Err(another()) };
        let Role::Space(mut old) = std::mem::replace(&mut client.role, Role::Observer) else { return Err(another()) };
        let why = "its process has connected again";
        self.leave(before, why);
        old.stop_ahead();
        let Some(lease) = old.lease.take() else { return Err(another()) };
        // under another number, so that no answer which is still on its way is taken for one about it
        let number = self.scheduler.renew(lease.id).unwrap_or(lease.id);
        if matches!(lease.stage, Stage::Filling | Stage::Homing) {
            // what the broker did for it is for itself to do now
            let now = self.now();
            self.scheduler.respite(now, number);
        }
        // all of it, so that a worker is the last to have it
        let former = std::mem::replace(&mut old.backing, backing);
        self.let_go(old.id, former, false);
        let before = hello.holds.as_ref().map(|holds| holds.lease);
        tracing::info!(
            space = old.id.0,
            before = lease.id.0,
            lease = number.0,
            card = lease.card.0,
            "lease goes on: {why}"
        );
        let (tally, card) = (lease.tally, lease.card);
        let lease = Lease { before, tally, ..Lease::new(number, card, 0, Stage::Adopted, 0.0) };
        Ok(Space {
            name: hello.name.clone(),
            claim: None,
            told: 0,
            lease: Some(lease),
            unheard: None,
            home: None,
            wish: Request::default(),
            bound: None,
            ..*old
        })
    }

    /// Tells a Space that its lease goes on here.
    fn tell_taken_over(&mut self, token: usize) {
        let now = self.now();
        let Some(space) = self.space_mut(token) else { return };
        let (id, Some((lease, card))) = (space.id, space.lease.as_ref().map(|lease| (lease.id, lease.card))) else {
            return;
        };
        let Some(uuid) = self.node.cards.get(card.0 as usize).map(|card| card.uuid) else { return };
        self.used = true;
        tracing::info!(space = id.0, lease = lease.0, card = card.0, "lease taken over from an earlier broker");
        let left = self.scheduler.deadline(lease).map_or(0.0, |at| at.saturating_sub(now).as_secs_f64());
        self.send(token, &ToClient::Granted { id: 0, lease: lease.0, card: uuid, seconds: clamp_seconds(left) });
        if let Some(since) = self.scheduler.overdue_since(lease) {
            self.tell_revoked(token, lease, now.saturating_sub(since));
        }
    }

    /// A Space that computes on a card since before this broker. What it says is a fact, as far as it can be one.
    fn adopt(&mut self, token: usize, holds: &Holding) {
        let Some(space) = self.space_mut(token).map(|space| space.id) else { return };
        let card = self.node.cards.iter().find(|card| card.uuid == holds.card).map(|card| card.id);
        let now = self.now();
        let adopted = match card {
            Some(card) => self.scheduler.adopt(now, space, card, holds.seconds_left, holds.bytes).map(|id| (id, card)),
            None => {
                Err(Denial { reason: Why::NoCard, text: "the card that the program holds is not this broker's".into() })
            }
        };
        match adopted {
            Ok((id, card)) => {
                if let Some(space) = self.space_mut(token) {
                    let before = Some(holds.lease);
                    space.lease = Some(Lease { before, ..Lease::new(id, card, 0, Stage::Adopted, 0.0) });
                }
                self.tell_taken_over(token);
            }
            // two can't have the card, and this one has it without a lease
            Err(denial) if card.is_some() => {
                self.end_process(token, Cause::Late, &format!("it said too late that it holds a card: {denial}"))
            }
            Err(denial) => self.deny(token, 0, &denial),
        }
    }
}

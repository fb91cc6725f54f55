//! Scheduler and model side by side: each operation done to both, each action checked.

use crate::state::{Lease, Model, Request, Space, Warm};
use crate::Op;
use std::time::Duration;
use zerogpu_lease::*;

pub const KINDS: [Kind; 3] = [(9, 0), (8, 0), (7, 0)];
const NEAR: f64 = 1e-6;

pub struct World {
    s: Scheduler,
    m: Model,
    now: Duration,
    held: Duration,
}

fn secs(n: u32) -> Duration {
    Duration::from_secs(n.into())
}

fn pick<T: Clone>(list: &[T], n: usize) -> Option<T> {
    (!list.is_empty()).then(|| list[n % list.len()].clone())
}

impl World {
    pub fn new(policy: Policy, cards: Vec<CardSpec>, held: Duration) -> World {
        let mut s = Scheduler::new(policy.clone(), &cards);
        s.hold(held);
        let longest = Duration::ZERO;
        let (spaces, queue, leases, warm, history) = Default::default();
        World {
            s,
            m: Model { policy, cards, spaces, queue, leases, warm, history, longest },
            now: Duration::ZERO,
            held,
        }
    }

    pub fn apply(&mut self, op: Op) {
        let now = self.now;
        match op {
            Op::Attach { tenant, kind } => self.attach(&format!("t{tenant}"), KINDS[kind]),
            Op::Detach(n) => {
                if let Some(space) = pick(&self.m.spaces, n) {
                    self.detach(space.id);
                }
            }
            Op::Claim { space, seconds, units, wait } => {
                if let Some(space) = pick(&self.m.spaces, space) {
                    self.claim(&space, seconds, units, wait.map(Duration::from_millis));
                }
            }
            Op::Cancel(n) => {
                if let Some(request) = pick(&self.m.queue, n) {
                    assert!(self.s.cancel(request.id));
                    self.m.queue.retain(|r| r.id != request.id);
                }
            }
            Op::Release { lease, warm } => {
                if let Some(lease) = pick(&self.m.leases, lease) {
                    let ended = self.s.release(now, lease.id, warm).unwrap();
                    assert_eq!((ended.space, ended.lasted), (lease.space, now - lease.since));
                    self.m.end(lease.id, now);
                    let bytes = warm.min(lease.bytes);
                    if bytes > 0 {
                        self.m.warm.push(Warm {
                            space: lease.space,
                            card: lease.card,
                            bytes,
                            since: now,
                            awaited: None,
                        });
                    }
                }
            }
            Op::Extend { lease, seconds } => {
                if let Some(lease) = pick(&self.m.leases, lease) {
                    self.extend(&lease, seconds);
                }
            }
            Op::Grow { lease, units } => {
                if let Some(lease) = pick(&self.m.leases, lease) {
                    self.grow(&lease, units);
                }
            }
            Op::Shrink { lease, units } => {
                if let Some(lease) = pick(&self.m.leases, lease) {
                    self.s.shrink(lease.id, units);
                    self.lease(lease.id).bytes -= units.min(lease.bytes);
                }
            }
            Op::Revoke(n) => {
                if let Some(lease) = pick(&self.m.leases, n) {
                    assert!(self.s.revoke(now, lease.id));
                    self.lease(lease.id).deadline = lease.deadline.min(now);
                }
            }
            Op::Condemn(n) => {
                if let Some(lease) = pick(&self.m.leases, n) {
                    assert!(self.s.condemn(now, lease.id));
                    let held = self.lease(lease.id);
                    // at the latest as the bound of the longest wait has it
                    held.gone = held.gone.or(Some(now.max(held.told.unwrap_or(held.deadline))));
                    held.deadline = held.deadline.min(now);
                    held.told = held.told.or(Some(now));
                }
            }
            Op::Prefetch { space, seconds, units, part } => {
                if let Some(space) = pick(&self.m.spaces, space) {
                    self.prefetch(&space, seconds, units, part);
                }
            }
            Op::Adopt { space, card, seconds, units } => {
                if let Some(space) = pick(&self.m.spaces, space) {
                    self.adopt(&space, card % self.m.cards.len(), seconds, units);
                }
            }
            Op::ShrinkWarm { warm, units } => {
                if let Some(at) = (!self.m.warm.is_empty()).then(|| warm % self.m.warm.len()) {
                    let warm = &mut self.m.warm[at];
                    self.s.shrink_warm(warm.space, units);
                    warm.bytes = warm.bytes.saturating_sub(units);
                    self.m.warm.retain(|w| w.bytes > 0);
                }
            }
            Op::DropWarm(n) => {
                if let Some(space) = pick(&self.m.spaces, n) {
                    self.s.drop_warm(space.id);
                    self.m.warm.retain(|w| w.space != space.id);
                }
            }
            Op::Pass(millis) => {
                let until = now + Duration::from_millis(millis);
                let mut polls = 0;
                while let Some(wake) = self.wake().filter(|wake| *wake <= until) {
                    polls = if wake == self.now { polls + 1 } else { 0 };
                    assert!(polls < 3, "it wakes for ever");
                    self.now = wake;
                    self.poll();
                }
                self.now = until;
            }
        }
        self.poll();
        self.look();
    }

    /// When something happens by itself: the scheduler's next wake, or the end of a process.
    fn wake(&self) -> Option<Duration> {
        let gone = self.m.leases.iter().filter_map(|l| l.gone).map(|at| at.max(self.now)).min();
        self.s.next_wake(self.now).into_iter().chain(gone).min()
    }

    fn space(&mut self, id: SpaceId) -> &mut Space {
        self.m.spaces.iter_mut().find(|s| s.id == id).unwrap()
    }

    fn prefetch(&mut self, space: &Space, seconds: u32, bytes: u64, part: u64) {
        let now = self.now;
        let may = now >= self.held && !self.busy(space.id);
        let card = self.m.ahead(space, bytes, now).filter(|_| may);
        let before = format!("{:?}", self.s);
        let Some(found) = self.s.prefetch(now, space.id, seconds.into(), bytes) else {
            assert_eq!(card, None, "{space:?} could have its bytes ahead");
            return assert_eq!(format!("{:?}", self.s), before, "what comes to nothing changes nothing");
        };
        let card = card.expect("a card for it");
        assert_eq!(found.card, CardId(card as u32));
        self.m.warm.retain(|w| w.space != space.id);
        let may_go = |w: &Warm| w.awaited.is_none_or(|until| until <= now);
        self.m.check_room_of(card, bytes + self.m.policy.context_bytes, &found.evict, may_go);
        assert!(found.evict.is_empty() || space.keeps_word);
        self.m.drop_evicted(&found.evict);
        self.space(space.id).keeps_word &= found.evict.is_empty();
        // the daemon says how far it came
        let there = bytes.min(part);
        self.s.settle_warm(space.id, found.card, there);
        self.s.settle_warm(space.id, CardId(77), 0);
        if there > 0 {
            let awaited = Some(now + secs(seconds.min(10)));
            self.m.warm.push(Warm { space: space.id, card, bytes: there, since: now, awaited });
        }
    }

    fn lease(&mut self, id: LeaseId) -> &mut Lease {
        self.m.leases.iter_mut().find(|l| l.id == id).unwrap()
    }

    fn refused<T: std::fmt::Debug>(
        &mut self,
        ask: impl FnOnce(&mut Scheduler) -> Result<T, Denial>,
    ) -> Result<T, Reason> {
        let before = format!("{:?}", self.s);
        ask(&mut self.s).map_err(|denial| {
            assert_eq!(format!("{:?}", self.s), before, "a refusal changes nothing");
            assert!(denial.text.len() > 20, "{denial:?}");
            denial.reason
        })
    }

    fn attach(&mut self, tenant: &str, kind: Kind) {
        let now = self.now;
        let full = self.m.spaces.iter().filter(|s| s.tenant == tenant).count() == 6;
        let none = !self.m.cards.iter().any(|c| c.kind == kind);
        match self.refused(|s| s.attach(now, tenant, SpaceSpec { kind, vram: 100 })) {
            Ok(id) => {
                assert!(!full && !none);
                self.m.spaces.push(Space { id, tenant: tenant.into(), kind, keeps_word: false });
            }
            Err(reason) => assert_eq!(reason, if full { Reason::Spaces } else { Reason::NoCard }),
        }
    }

    fn detach(&mut self, space: SpaceId) {
        self.s.detach(self.now, space);
        if let Some(lease) = self.m.leases.iter().find(|l| l.space == space).map(|l| l.id) {
            self.m.end(lease, self.now);
        }
        self.m.queue.retain(|r| r.space != space);
        self.m.warm.retain(|w| w.space != space);
        self.m.spaces.retain(|s| s.id != space);
    }

    fn busy(&self, space: SpaceId) -> bool {
        self.m.queue.iter().any(|r| r.space == space) || self.m.leases.iter().any(|l| l.space == space)
    }

    /// By how much a tenant would pass its daily limit.
    fn over(&self, tenant: &str, more: f64) -> f64 {
        let limit = self.m.policy.tenant(tenant).gpu_seconds_per_day.unwrap_or(f64::INFINITY);
        self.m.today(tenant, self.now) + self.m.promised(tenant, self.now) + more - limit
    }

    fn claim(&mut self, space: &Space, seconds: u32, bytes: u64, wait: Option<Duration>) {
        let (now, tenant, kind) = (self.now, space.tenant.clone(), space.kind);
        let busy = self.busy(space.id);
        let large = self.m.cards.iter().filter(|c| c.kind == kind).map(|c| c.bytes).max().unwrap();
        let too_large = bytes + self.m.policy.context_bytes > large;
        let over = self.over(&tenant, seconds.into());
        let claim = Claim { seconds: seconds.into(), bytes, wait, borrowed: false };
        match self.refused(|s| s.claim(now, space.id, claim)) {
            Ok(id) => {
                assert!(!busy && seconds > 0 && seconds <= 10 && !too_large && over < NEAR);
                let ahead = self.m.queue.iter().filter(|r| r.kind == kind).count() as u32;
                let expires = now + wait.unwrap_or(self.m.policy.queue_timeout);
                let (seconds, space, since) = (f64::from(seconds), space.id, now);
                let reserved = None;
                self.m.queue.push(Request { id, space, tenant, kind, seconds, bytes, since, expires, reserved, ahead });
            }
            Err(Reason::Busy) => assert!(busy),
            Err(Reason::Invalid) => assert_eq!(seconds, 0),
            Err(Reason::TooLong) => assert!(seconds > 10),
            Err(Reason::TooLarge) => assert!(too_large),
            Err(Reason::Seconds { .. }) => assert!(over > -NEAR),
            Err(other) => panic!("refused as {other:?}"),
        }
    }

    fn extend(&mut self, lease: &Lease, seconds: u32) {
        let now = self.now;
        let wanted = now + secs(seconds.min(10));
        let kind = self.m.cards[lease.card].kind;
        let context = self.m.policy.context_bytes;
        let could = |r: &Request| r.kind == kind && r.bytes + context <= self.m.cards[lease.card].bytes;
        // as long as it may be, where that is longer than it is
        let most = match self.m.queue.iter().any(could) {
            true => lease.since + secs(10),
            false => wanted,
        };
        let more = wanted.min(most).saturating_sub(lease.deadline).as_secs_f64();
        let left = more - self.over(&lease.tenant, more);
        match self.refused(|s| s.extend(now, lease.id, seconds.into())) {
            Ok(deadline) => {
                let longer = deadline.saturating_sub(lease.deadline).as_secs_f64();
                assert!(lease.deadline > now && deadline >= lease.deadline);
                assert!((longer - more.min(left.max(0.0))).abs() < NEAR, "{longer} s more of {more} s, {left} s left");
                self.lease(lease.id).deadline = deadline;
            }
            Err(Reason::Overdue) => assert!(lease.deadline <= now),
            Err(Reason::Invalid) => assert_eq!(seconds, 0),
            Err(Reason::OthersWait) => assert!(most <= lease.deadline && wanted > lease.deadline),
            Err(Reason::Seconds { .. }) => assert!(left < NEAR && more > 0.0),
            Err(other) => panic!("refused as {other:?}"),
        }
    }

    fn grow(&mut self, lease: &Lease, more: u64) {
        let room = self.m.cards[lease.card].bytes - self.m.leased(lease.card);
        match self.refused(|s| s.grow(lease.id, more)) {
            Ok(evict) => {
                assert!(more <= room);
                self.m.check_room(lease.card, more, &evict);
                self.m.drop_evicted(&evict);
                self.lease(lease.id).bytes += more;
            }
            Err(reason) => assert!(reason == Reason::Room && more > room),
        }
    }

    fn adopt(&mut self, space: &Space, card: usize, seconds: u32, bytes: u64) {
        // Only as it happens: at the start, before anything is warm.
        if self.now >= self.held {
            return;
        }
        let (now, context) = (self.now, self.m.policy.context_bytes);
        let bytes = bytes.min(self.m.cards[card].bytes - context);
        let room = self.m.leased(card) + bytes + context <= self.m.cards[card].bytes;
        let own_kind = self.m.cards[card].kind == space.kind;
        let busy = self.busy(space.id);
        if self.m.warm.iter().any(|w| w.card == card || w.space == space.id) {
            return;
        }
        match self.refused(|s| s.adopt(now, space.id, CardId(card as u32), seconds.into(), bytes)) {
            Ok(id) => {
                assert!(room && own_kind && !busy);
                let (space, tenant) = (space.id, space.tenant.clone());
                let deadline = now + secs(seconds.min(10));
                self.m.leases.push(Lease {
                    id,
                    space,
                    tenant,
                    card,
                    bytes,
                    context,
                    since: now,
                    deadline,
                    told: None,
                    gone: None,
                });
                self.space(space).keeps_word = true;
            }
            Err(Reason::Busy) => assert!(busy),
            Err(Reason::NoCard) => assert!(!own_kind),
            Err(reason) => assert!(reason == Reason::Room && !room),
        }
    }

    /// A poll, each action of which is checked; then the daemon's part of it.
    fn poll(&mut self) {
        let now = self.now;
        let mut actions = self.s.poll(now).into_iter().peekable();
        let mut cooled: Vec<Warm> = self.m.warm.clone();
        cooled.retain(|w| self.m.policy.warm_for.is_some_and(|limit| now - w.since >= limit));
        cooled.sort_by_key(|w| w.card);
        for warm in cooled {
            let evict = Evict { space: warm.space, card: CardId(warm.card as u32), bytes: warm.bytes };
            assert_eq!(actions.next(), Some(Action::Evict(evict)));
            self.m.drop_evicted(&[evict]);
        }
        let mut killed: Vec<SpaceId> = Vec::new();
        let gone = self.m.leases.iter().filter(|l| l.gone.is_some_and(|at| at <= now));
        killed.extend(gone.map(|l| l.space));
        let grace = self.m.policy.grace;
        for lease in &mut self.m.leases {
            let (id, space) = (lease.id, lease.space);
            match lease.told {
                None if lease.deadline <= now => {
                    assert_eq!(actions.next(), Some(Action::Overdue { lease: id, space }));
                    lease.told = Some(now);
                }
                Some(told) if lease.gone.is_none() && told + grace <= now => {
                    assert_eq!(actions.next(), Some(Action::Kill { lease: id, space }));
                    killed.push(space);
                }
                _ => {}
            }
        }
        self.grants(&mut actions);
        let expired: Vec<Request> = self.m.queue.iter().filter(|r| r.expires <= now).cloned().collect();
        for request in &expired {
            let (request, space) = (request.id, request.space);
            assert_eq!(actions.next(), Some(Action::TimedOut { request, space }));
            self.m.queue.retain(|r| r.id != request);
        }
        if !expired.is_empty() {
            self.grants(&mut actions);
        }
        assert_eq!(actions.next(), None);
        if !killed.is_empty() {
            for space in killed {
                self.detach(space);
            }
            self.poll();
        }
    }

    /// A walk through the order: the aged exactly, the others up to the rounding of their costs.
    fn grants(&mut self, actions: &mut std::iter::Peekable<impl Iterator<Item = Action>>) {
        let now = self.now;
        if now < self.held {
            return;
        }
        let mut reserved = Vec::new();
        for old in self.m.aged_in_order(now) {
            let request = self.m.queue.iter().find(|r| r.id == old.id).unwrap().clone();
            if let Some(card) = self.m.best(&request, &reserved) {
                let Some(Action::Grant(grant)) = actions.next() else { panic!("no grant for {request:?}") };
                assert_eq!(grant.request, request.id, "the aged in their order");
                self.granted(&request, card, &grant);
            } else if self.m.policy.share {
                let card = self.m.reserve(&request, &reserved);
                reserved.extend(card);
                self.m.queue.iter_mut().find(|r| r.id == request.id).unwrap().reserved = card;
            }
        }
        while let Some(Action::Grant(grant)) = actions.peek().cloned() {
            actions.next();
            let request = self.m.queue.iter().find(|r| r.id == grant.request).unwrap().clone();
            assert!(!self.m.aged(&request, now), "an aged request among the others");
            let cost = self.m.cost(&request, now);
            for other in self.m.queue.iter().filter(|r| !self.m.aged(r, now) && r.id != request.id) {
                let better = self.m.cost(other, now);
                let first =
                    better + NEAR < cost || (better == cost && other.id < request.id && other.tenant == request.tenant);
                assert!(!first || self.m.best(other, &reserved).is_none(), "{other:?} before {request:?}");
            }
            let card = self.m.best(&request, &reserved).expect("a card for it");
            self.granted(&request, card, &grant);
        }
        for request in &self.m.queue {
            assert_eq!(self.m.best(request, &reserved), None, "{request:?} could compute now");
        }
    }

    fn granted(&mut self, request: &Request, card: usize, grant: &Grant) {
        let now = self.now;
        let context = self.m.policy.context_bytes;
        assert!(self.m.policy.share || self.m.count(card) == 0, "two exclusive leases");
        assert_eq!((grant.space, grant.card), (request.space, CardId(card as u32)));
        assert_eq!(grant.waited, now - request.since);
        self.check_wait(request);
        // Its own warm bytes are used, or leave the other card.
        let (own, room): (Vec<Evict>, Vec<Evict>) = grant.evict.iter().partition(|e| e.space == request.space);
        let elsewhere: Vec<(usize, u64)> = self
            .m
            .warm
            .iter()
            .filter(|w| w.space == request.space && w.card != card)
            .map(|w| (w.card, w.bytes))
            .collect();
        assert_eq!(own.iter().map(|e| (e.card.0 as usize, e.bytes)).collect::<Vec<_>>(), elsewhere);
        self.m.warm.retain(|w| w.space != request.space);
        self.m.check_room(card, request.bytes + context, &room);
        self.m.drop_evicted(&room);
        let deadline = now + Duration::from_secs_f64(request.seconds);
        assert_eq!(grant.deadline, deadline);
        self.m.queue.retain(|r| r.id != request.id);
        for other in &mut self.m.queue {
            other.reserved = other.reserved.filter(|kept| *kept != card);
        }
        let (id, space, tenant, bytes) = (grant.lease, request.space, request.tenant.clone(), request.bytes);
        self.m.leases.push(Lease {
            id,
            space,
            tenant,
            card,
            bytes,
            context,
            since: now,
            deadline,
            told: None,
            gone: None,
        });
        self.space(space).keeps_word = true;
    }

    /// The bound that the crate's documentation states.
    fn check_wait(&mut self, request: &Request) {
        let longest = Duration::from_secs_f64(self.m.policy.max_seconds) + self.m.policy.grace;
        let bound = self.held + self.m.policy.aging * 2 + longest * (request.ahead + 1);
        let waited = self.now - request.since;
        assert!(waited <= bound, "{request:?} has waited {waited:?}, more than {bound:?}");
        self.m.longest = self.m.longest.max(waited);
    }

    /// What must hold at any time, and that the report says what the model knows.
    fn look(&mut self) {
        let report = self.s.report(self.now);
        for (n, card) in report.cards.iter().enumerate() {
            assert_eq!((card.leased, card.warm), (self.m.leased(n), self.m.warm_on(n)));
            assert_eq!(card.leased + card.warm + card.free, card.bytes, "more than the card has");
            assert_eq!(card.bytes, self.m.cards[n].bytes);
            assert_eq!(card.holders.len(), self.m.count(n));
        }
        let waiting: Vec<RequestId> = report.queue.iter().map(|w| w.request).collect();
        assert_eq!(waiting.len(), self.m.queue.len());
        for kind in KINDS {
            let of = self.m.queue.iter().filter(|r| r.kind == kind).count() as u32;
            let positions: Vec<Position> = waiting
                .iter()
                .filter(|id| self.m.queue.iter().any(|r| r.id == **id && r.kind == kind))
                .map(|id| self.s.position(self.now, *id).unwrap())
                .collect();
            assert!(positions.iter().all(|p| p.of == of && p.estimate.is_some_and(|e| e >= 0.0)), "{positions:?}");
            assert_eq!(positions.iter().map(|p| p.place).collect::<Vec<_>>(), (1..=of).collect::<Vec<_>>());
        }
        assert_eq!(report.spaces.len(), self.m.spaces.len());
        for tenant in &report.tenants {
            let (used, lately) = (self.m.today(&tenant.tenant, self.now), self.m.lately(&tenant.tenant, self.now));
            assert!((tenant.used - used).abs() < NEAR, "{} is not {used}", tenant.used);
            // an account may be forgotten as soon as it has nothing that counts
            assert!((tenant.lately - lately).abs() < NEAR, "{} is not {lately}", tenant.lately);
        }
        for request in self.m.queue.clone() {
            self.check_wait(&request);
        }
    }

    /// All go: nothing may be left of them.
    pub fn end(&mut self) {
        for space in self.m.spaces.clone() {
            self.detach(space.id);
        }
        self.now += Duration::from_secs(100_000);
        assert_eq!(self.s.poll(self.now), []);
        assert_eq!(self.s.next_wake(self.now), None);
        // whoever comes next finds the books of the others closed
        let kind = self.m.cards[0].kind;
        let last = self.s.attach(self.now, "last", SpaceSpec { kind, vram: 1 }).unwrap();
        let report = self.s.report(self.now);
        assert_eq!((report.spaces.len(), report.tenants.len(), report.queue.len()), (1, 1, 0));
        for card in report.cards {
            assert_eq!((card.leased, card.warm, card.leaving, card.free), (0, 0, 0, card.bytes));
            assert_eq!((card.holders, card.residents), (vec![], vec![]));
        }
        self.s.detach(self.now, last);
    }
}

//! The model: lists of plain facts, and the rules of the crate's documentation, each done the slow and obvious way.

use std::time::Duration;
use zerogpu_lease::*;

#[derive(Debug, Clone)]
pub struct Request {
    pub id: RequestId,
    pub space: SpaceId,
    pub tenant: String,
    pub kind: Kind,
    pub seconds: f64,
    pub bytes: u64,
    pub since: Duration,
    pub expires: Duration,
    pub reserved: Option<usize>,
    /// Requests for this kind of card that were there before.
    pub ahead: u32,
}

#[derive(Debug, Clone)]
pub struct Lease {
    pub id: LeaseId,
    pub space: SpaceId,
    pub tenant: String,
    pub card: usize,
    pub bytes: u64,
    pub context: u64,
    pub since: Duration,
    pub deadline: Duration,
    pub told: Option<Duration>,
    /// Its process is being ended, and is gone then.
    pub gone: Option<Duration>,
}

#[derive(Debug, Clone)]
pub struct Warm {
    pub space: SpaceId,
    pub card: usize,
    pub bytes: u64,
    pub since: Duration,
    /// Brought ahead of a claim that is expected until then.
    pub awaited: Option<Duration>,
}

#[derive(Debug, Clone)]
pub struct Space {
    pub id: SpaceId,
    pub tenant: String,
    pub kind: Kind,
    pub keeps_word: bool,
}

/// Time on a card that has ended.
#[derive(Debug, Clone)]
pub struct Use {
    pub tenant: String,
    pub from: Duration,
    pub to: Duration,
}

#[derive(Debug)]
pub struct Model {
    pub policy: Policy,
    pub cards: Vec<CardSpec>,
    pub spaces: Vec<Space>,
    /// In the order of arrival.
    pub queue: Vec<Request>,
    pub leases: Vec<Lease>,
    /// The least recently used first.
    pub warm: Vec<Warm>,
    pub history: Vec<Use>,
    pub longest: Duration,
}

impl Model {
    pub fn uses(&self, tenant: &str, now: Duration) -> Vec<(f64, f64)> {
        let ended = self.history.iter().filter(|u| u.tenant == tenant).map(|u| (u.from, u.to));
        let running = self.leases.iter().filter(|l| l.tenant == tenant).map(|l| (l.since, now));
        ended.chain(running).map(|(from, to)| (from.as_secs_f64(), to.as_secs_f64())).collect()
    }

    /// Used seconds, each halved for every half-life of its age.
    pub fn lately(&self, tenant: &str, now: Duration) -> f64 {
        let (half, now_s) = (self.policy.half_life.as_secs_f64(), now.as_secs_f64());
        let weight = |at: f64| 0.5f64.powf((now_s - at) / half);
        let uses = self.uses(tenant, now);
        uses.iter().map(|(from, to)| half / std::f64::consts::LN_2 * (weight(*to) - weight(*from))).sum()
    }

    pub fn today(&self, tenant: &str, now: Duration) -> f64 {
        // the tests last for less than a day
        self.uses(tenant, now).iter().map(|(from, to)| to - from).sum()
    }

    pub fn promised(&self, tenant: &str, now: Duration) -> f64 {
        let running = self.leases.iter().filter(|l| l.tenant == tenant);
        let running: f64 = running.map(|l| l.deadline.saturating_sub(now).as_secs_f64()).sum();
        let waiting: f64 = self.queue.iter().filter(|r| r.tenant == tenant).map(|r| r.seconds).sum();
        running + waiting
    }

    pub fn cost(&self, request: &Request, now: Duration) -> f64 {
        let weight = self.policy.tenant(&request.tenant).weight;
        (request.seconds.ceil() + self.lately(&request.tenant, now).floor()) / weight
    }

    pub fn aged(&self, request: &Request, now: Duration) -> bool {
        now - request.since >= self.policy.aging
    }

    /// Whether only the time counts any more.
    fn old(&self, request: &Request, now: Duration) -> bool {
        now - request.since >= self.policy.aging * 2
    }

    /// The aged requests, as they go.
    pub fn aged_in_order(&self, now: Duration) -> Vec<Request> {
        let used = |r: &Request| match self.old(r, now) {
            true => -1.0,
            // the sum of nothing is -0.0
            false => (self.lately(&r.tenant, now) / self.policy.tenant(&r.tenant).weight).floor() + 0.0,
        };
        let mut aged: Vec<Request> = self.queue.iter().filter(|r| self.aged(r, now)).cloned().collect();
        // stable: of equals the older
        aged.sort_by(|a, b| used(a).total_cmp(&used(b)));
        aged
    }

    pub fn leased(&self, card: usize) -> u64 {
        self.leases.iter().filter(|l| l.card == card).map(|l| l.bytes + l.context).sum()
    }

    pub fn warm_on(&self, card: usize) -> u64 {
        self.warm.iter().filter(|w| w.card == card).map(|w| w.bytes).sum()
    }

    pub fn count(&self, card: usize) -> usize {
        self.leases.iter().filter(|l| l.card == card).count()
    }

    pub fn fits(&self, request: &Request, card: usize) -> bool {
        let spec = self.cards[card];
        let alone = self.policy.share || self.count(card) == 0;
        let need = request.bytes + self.policy.context_bytes;
        spec.kind == request.kind && alone && self.leased(card) + need <= spec.bytes
    }

    /// The card for a request, of those that are not reserved for others.
    pub fn best(&self, request: &Request, reserved: &[usize]) -> Option<usize> {
        let home = self.warm.iter().find(|w| w.space == request.space).map(|w| w.card);
        let mut cards: Vec<usize> = (0..self.cards.len()).filter(|c| !reserved.contains(c)).collect();
        cards.retain(|card| self.fits(request, *card));
        if home.is_some_and(|home| cards.contains(&home)) {
            return home;
        }
        let free = |card: usize| self.cards[card].bytes - self.leased(card) - self.warm_on(card);
        // stable sorts, the weakest wish first
        cards.sort_by_key(|card| std::cmp::Reverse(free(*card)));
        cards.sort_by_key(|card| self.count(*card));
        cards.first().copied()
    }

    /// The card to which a Space's bytes may be brought ahead of its claim.
    pub fn ahead(&self, space: &Space, bytes: u64, now: Duration) -> Option<usize> {
        let off = !self.policy.prefetch || self.policy.warm_for == Some(Duration::ZERO) || bytes == 0;
        if off || self.queue.iter().any(|r| r.kind == space.kind) {
            return None;
        }
        let need = bytes + self.policy.context_bytes;
        let home = self.warm.iter().find(|w| w.space == space.id).map(|w| w.card);
        let mut cards: Vec<usize> = (0..self.cards.len()).collect();
        cards.retain(|card| self.cards[*card].kind == space.kind && self.count(*card) == 0);
        cards.retain(|card| home.is_none_or(|home| home == *card));
        cards.retain(|card| {
            let on = self.warm.iter().filter(|w| w.card == *card && w.space != space.id);
            let stay = on.filter(|w| !space.keeps_word || w.awaited.is_some_and(|until| until > now));
            need + stay.map(|w| w.bytes).sum::<u64>() <= self.cards[*card].bytes
        });
        cards.sort_by_key(|card| std::cmp::Reverse(self.cards[*card].bytes - self.warm_on(*card)));
        cards.first().copied()
    }

    /// When a card has room for `need` more if all its leases last until their deadlines.
    fn opens(&self, card: usize, need: u64) -> Duration {
        let mut on: Vec<&Lease> = self.leases.iter().filter(|l| l.card == card).collect();
        on.sort_by_key(|l| l.deadline);
        let mut left = self.leased(card);
        let mut at = Duration::ZERO;
        for lease in on {
            if left + need <= self.cards[card].bytes {
                break;
            }
            left -= lease.bytes + lease.context;
            at = lease.deadline;
        }
        at
    }

    /// The card that an aged request which does not fit keeps for itself.
    pub fn reserve(&self, request: &Request, reserved: &[usize]) -> Option<usize> {
        let need = request.bytes + self.policy.context_bytes;
        let could = |card: &usize| {
            let spec = self.cards[*card];
            spec.kind == request.kind && need <= spec.bytes && !reserved.contains(card)
        };
        if let Some(kept) = request.reserved.filter(could) {
            return Some(kept);
        }
        (0..self.cards.len()).filter(could).min_by_key(|card| (self.opens(*card, need), *card))
    }

    /// Whether `evict` is what must leave a card so that `need` more bytes fit: of the shortest list of least recently
    /// used that makes the room, all but those that could have stayed.
    pub fn check_room(&self, card: usize, need: u64, evict: &[Evict]) {
        self.check_room_of(card, need, evict, |_| true);
    }

    /// The same, of the warm bytes that may go.
    pub fn check_room_of(&self, card: usize, need: u64, evict: &[Evict], may_go: impl Fn(&Warm) -> bool) {
        let free = self.cards[card].bytes - self.leased(card) - self.warm_on(card);
        let freed: u64 = evict.iter().map(|e| e.bytes).sum();
        assert!(free + freed >= need, "{need} do not fit");
        for one in evict {
            assert!(free + freed - one.bytes < need, "{one:?} could have stayed");
        }
        let mut shortest = Vec::new();
        let mut room = free;
        for warm in self.warm.iter().filter(|w| w.card == card && may_go(w)) {
            if room < need {
                room += warm.bytes;
                shortest.push(warm.space);
            }
        }
        assert!(evict.iter().all(|e| shortest.contains(&e.space)), "{evict:?} are not the oldest, {shortest:?}");
    }

    pub fn drop_evicted(&mut self, evict: &[Evict]) {
        for one in evict {
            let before = self.warm.len();
            self.warm.retain(|w| !(w.space == one.space && w.card == one.card.0 as usize && w.bytes == one.bytes));
            assert_eq!(self.warm.len() + 1, before, "{one:?} was not warm");
        }
    }

    pub fn end(&mut self, lease: LeaseId, now: Duration) -> Option<Lease> {
        let at = self.leases.iter().position(|l| l.id == lease)?;
        let over = self.leases.remove(at);
        self.history.push(Use { tenant: over.tenant.clone(), from: over.since, to: now });
        Some(over)
    }
}

//! The state, and what Spaces ask of it before they hold a card.

use crate::bound::Bound;
use crate::card::Card;
use crate::denial::{bytes, number, time};
use crate::policy::{CardSpec, Kind, Policy};
use crate::poll::Action;
use crate::queue::{Rank, Request};
use crate::table::Table;
use crate::tenant::{Account, TenantId, DAY, QUARTER};
use crate::{CardId, Denial, LeaseId, Reason, RequestId, SpaceId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The state machine: see the crate's documentation.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) policy: Policy,
    pub(crate) cards: Vec<Card>,
    pub(crate) spaces: Table<SpaceId, Space>,
    pub(crate) queue: Table<RequestId, Request>,
    pub(crate) leases: Table<LeaseId, Lease>,
    pub(crate) accounts: Table<TenantId, Account>,
    names: BTreeMap<String, TenantId>,
    /// Nothing is granted before.
    pub(crate) held: Duration,
    /// Evictions that a method without a list of its own has caused.
    pub(crate) pending: Vec<Action>,
    /// Which part of the time asked for leases really last, on average.
    pub(crate) pace: f64,
    last_id: u64,
}

/// What a Space is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceSpec {
    /// The kind of card that its program was shown.
    pub kind: Kind,
    /// Its quota in bytes.
    pub vram: u64,
}

/// A wish for a card.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Claim {
    /// The lease lasts this long at most.
    pub seconds: f64,
    /// Bytes of all its slabs. That they are within the Space's quota is the daemon's to check.
    pub bytes: u64,
    /// How long it waits at most; `None`: [`Policy::queue_timeout`]. Zero: now or not at all.
    pub wait: Option<Duration>,
    /// For work outside every region. Only reported.
    pub borrowed: bool,
}

/// What a tenant has used of the cards within a day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Use {
    /// Its name.
    pub tenant: String,
    /// Seconds, each with the time for which it still counts.
    pub seconds: Vec<(Duration, f64)>,
}

/// A lease that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Whose it was.
    pub space: SpaceId,
    /// Where.
    pub card: CardId,
    /// From grant to release: what the tenant is charged.
    pub lasted: Duration,
}

#[derive(Debug)]
pub(crate) struct Space {
    pub tenant: TenantId,
    pub spec: SpaceSpec,
    pub doing: Doing,
    /// The card with its warm bytes.
    pub home: Option<CardId>,
    /// Whether it has claimed since others' bytes last left for what it might claim.
    pub keeps_word: bool,
    /// What binds it to a card.
    pub bound: Option<Bound>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    Nothing,
    Waiting(RequestId),
    Leasing(LeaseId),
}

#[derive(Debug)]
pub(crate) struct Lease {
    pub space: SpaceId,
    pub tenant: TenantId,
    pub card: CardId,
    pub bytes: u64,
    pub context: u64,
    pub borrowed: bool,
    pub since: Duration,
    pub deadline: Duration,
    /// When the daemon was told that the deadline has passed.
    pub overdue: Option<Duration>,
    /// Whether the daemon was told that the grace time is over, or needs not be told.
    pub killed: bool,
    /// Whether its holder is being ended.
    pub condemned: bool,
}

impl Scheduler {
    /// A scheduler of `cards`, which are then called `CardId(0)`, `CardId(1)`, ...
    #[must_use]
    pub fn new(policy: Policy, cards: &[CardSpec]) -> Scheduler {
        Scheduler {
            policy,
            cards: (0..).zip(cards).map(|(id, spec)| Card::new(CardId(id), *spec)).collect(),
            spaces: Table::default(),
            queue: Table::default(),
            leases: Table::default(),
            accounts: Table::default(),
            names: BTreeMap::new(),
            held: Duration::ZERO,
            pending: Vec::new(),
            pace: 1.0,
            last_id: 0,
        }
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Another policy. What is granted or attached stays so, even if the new limits would refuse it.
    pub fn set_policy(&mut self, now: Duration, policy: Policy) {
        for account in self.accounts.values_mut() {
            account.settle(now, self.policy.half_life);
            account.policy = policy.tenant(&account.name).clone();
        }
        self.policy = policy;
    }

    /// Nothing is granted before `until`, so that Spaces that held a card when an earlier broker died can say so.
    pub fn hold(&mut self, until: Duration) {
        self.held = self.held.max(until);
    }

    /// Whether they can still say so in time.
    #[must_use]
    pub fn is_held(&self, now: Duration) -> bool {
        now < self.held
    }

    /// A Space of `tenant` arrives.
    ///
    /// # Errors
    /// [`Reason::Spaces`], [`Reason::Vram`] or [`Reason::NoCard`].
    pub fn attach(&mut self, now: Duration, tenant: &str, spec: SpaceSpec) -> Result<SpaceId, Denial> {
        let limits = self.policy.tenant(tenant);
        let attached = self.names.get(tenant).and_then(|id| self.accounts.get(id)).map_or(0, |account| account.spaces);
        if attached >= limits.spaces {
            return Err(Denial::new(
                Reason::Spaces,
                format!(
                    "tenant '{tenant}' has {attached} of its {} Spaces: end one of them and try again",
                    limits.spaces
                ),
            ));
        }
        if spec.vram > limits.vram {
            let (asked, limit) = (bytes(spec.vram), bytes(limits.vram));
            return Err(Denial::new(
                Reason::Vram,
                format!("a Space of tenant '{tenant}' may have {limit} of GPU memory, and this one wants {asked}: start it with {limit} or less"),
            ));
        }
        self.attach_holder(now, tenant, spec)
    }

    /// The same, for one that holds a card since before: that is a fact, whatever the limits are now.
    ///
    /// # Errors
    /// [`Reason::NoCard`].
    pub fn attach_holder(&mut self, now: Duration, tenant: &str, spec: SpaceSpec) -> Result<SpaceId, Denial> {
        if !self.cards.iter().any(|card| card.spec.kind == spec.kind) {
            return Err(Denial::no_card(spec.kind, &self.kinds()));
        }
        self.forget_idle(now);
        let tenant = self.account(now, tenant);
        if let Some(account) = self.accounts.get_mut(&tenant) {
            account.spaces += 1;
        }
        let id = SpaceId(self.new_id());
        self.spaces
            .insert(id, Space { tenant, spec, doing: Doing::Nothing, home: None, keeps_word: false, bound: None });
        Ok(id)
    }

    /// What an attached Space is.
    #[must_use]
    pub fn spec(&self, space: SpaceId) -> Option<SpaceSpec> {
        self.spaces.get(&space).map(|space| space.spec)
    }

    /// A Space is gone, with all it waited for, held and had on a card.
    pub fn detach(&mut self, now: Duration, space: SpaceId) -> Option<Ended> {
        let ended = match self.spaces.get(&space)?.doing {
            Doing::Nothing => None,
            Doing::Waiting(request) => {
                self.cancel(request);
                None
            }
            Doing::Leasing(lease) => self.release(now, lease, 0),
        };
        self.unbind(space);
        for card in &mut self.cards {
            card.warm.retain(|warm| warm.space != space);
            card.leaving.retain(|evict| evict.space != space);
        }
        self.pending.retain(|action| !matches!(action, Action::Evict(evict) if evict.space == space));
        if let Some(gone) = self.spaces.remove(&space) {
            if let Some(account) = self.accounts.get_mut(&gone.tenant) {
                account.spaces = account.spaces.saturating_sub(1);
            }
        }
        ended
    }

    /// A Space asks for a card. Then call [`poll`](Scheduler::poll): the grant may come at once.
    ///
    /// # Errors
    /// [`Reason::Busy`], [`Reason::Invalid`], [`Reason::TooLong`], [`Reason::TooLarge`], [`Reason::Seconds`] or
    /// [`Reason::Unknown`].
    pub fn claim(&mut self, now: Duration, space: SpaceId, claim: Claim) -> Result<RequestId, Denial> {
        let asking = self.idle_space(space)?;
        let (tenant, kind) = (asking.tenant, asking.spec.kind);
        let length = self.length(claim.seconds)?;
        let context = self.policy.context_bytes;
        let largest = self.cards.iter().filter(|card| card.spec.kind == kind).map(|card| card.spec.bytes).max();
        if claim.bytes.checked_add(context).is_none_or(|need| need > largest.unwrap_or(0)) {
            return Err(Denial::too_large(claim.bytes, context, largest.unwrap_or(0)));
        }
        self.check_day(now, tenant, length)?;
        let id = RequestId(self.new_id());
        let expires = now.saturating_add(claim.wait.unwrap_or(self.policy.queue_timeout));
        let (bytes, borrowed) = (claim.bytes, claim.borrowed);
        let request = Request { space, tenant, kind, length, bytes, borrowed, since: now, expires, reserved: None };
        self.queue.insert(id, request);
        self.set_doing(space, Doing::Waiting(id));
        Ok(id)
    }

    /// A Space waits no longer. False if the request was not waiting: granted, timed out or gone.
    pub fn cancel(&mut self, request: RequestId) -> bool {
        let Some(gone) = self.queue.remove(&request) else { return false };
        self.set_doing(gone.space, Doing::Nothing);
        true
    }

    pub(crate) fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(crate) fn set_doing(&mut self, space: SpaceId, doing: Doing) {
        if let Some(space) = self.spaces.get_mut(&space) {
            space.doing = doing;
        }
    }

    pub(crate) fn card_mut(&mut self, card: CardId) -> Option<&mut Card> {
        self.cards.get_mut(card.0 as usize)
    }

    pub(crate) fn idle_space(&self, space: SpaceId) -> Result<&Space, Denial> {
        let found = self.spaces.get(&space).ok_or_else(|| Denial::unknown(space))?;
        let busy = match found.doing {
            Doing::Nothing => return Ok(found),
            Doing::Waiting(_) => "waits for a card already: cancel that request first",
            Doing::Leasing(_) => "holds a card already: release it first",
        };
        Err(Denial::new(Reason::Busy, format!("{space} {busy}")))
    }

    /// A number of seconds as the length of a lease.
    pub(crate) fn length(&self, seconds: f64) -> Result<Duration, Denial> {
        let limit = self.policy.max_seconds;
        if seconds > limit {
            return Err(Denial::too_long(seconds, limit));
        }
        let length = Duration::try_from_secs_f64(seconds).ok().filter(|length| !length.is_zero());
        length.ok_or_else(|| Denial::invalid(seconds))
    }

    /// Seconds that the tenant's other calls may still use.
    fn promised(&self, now: Duration, tenant: TenantId) -> f64 {
        let waiting = self.queue.values().filter(|r| r.tenant == tenant).map(|r| r.length);
        let running = self.leases.values().filter(|l| l.tenant == tenant).map(|l| l.deadline.saturating_sub(now));
        waiting.chain(running).map(|d| d.as_secs_f64()).sum()
    }

    /// GPU time that is left to the tenant within its day; `None`: it has no limit.
    pub(crate) fn left_of_day(&self, now: Duration, tenant: TenantId) -> Option<Duration> {
        let account = self.accounts.get(&tenant)?;
        let left = account.policy.gpu_seconds_per_day? - account.today(now) - self.promised(now, tenant);
        Some(Duration::try_from_secs_f64(left).unwrap_or(Duration::ZERO))
    }

    /// Whether `more` GPU time is left to the tenant within its day.
    pub(crate) fn check_day(&self, now: Duration, tenant: TenantId, more: Duration) -> Result<(), Denial> {
        let Some(account) = self.accounts.get(&tenant) else { return Ok(()) };
        let Some(limit) = account.policy.gpu_seconds_per_day else { return Ok(()) };
        let promised = self.promised(now, tenant);
        let (used, more, tenant) = (account.today(now), more.as_secs_f64(), &account.name);
        let over = used + promised + more - limit;
        // less than a microsecond is the rounding of sums
        if over <= 1e-6 {
            return Ok(());
        }
        let over_by_use = used + more - limit;
        let (u, p, m, l) = (number(used), number(promised), number(more), number(limit));
        let (again, text) = if more > limit {
            (
                None,
                format!(
                    "tenant '{tenant}' has {l} GPU seconds within 24 hours, and this call asks for {m}: ask for less"
                ),
            )
        } else if over_by_use <= 1e-6 {
            (None, format!("tenant '{tenant}' has used {u} of its {l} GPU seconds within 24 hours and its other calls may use {p} more, so the {m} that this call asks for are not left: try again when one of them has ended, or ask for less"))
        } else {
            let again = account.frees(over_by_use).map(|at| at.saturating_sub(now));
            let free = again.map_or("when its running call has ended".into(), |again| format!("in {}", time(again)));
            (again, format!("tenant '{tenant}' has used {u} of its {l} GPU seconds within 24 hours, and this call asks for {m}; enough are free {free}"))
        };
        Err(Denial::new(Reason::Seconds { again }, text))
    }

    /// The ranks of the waiting requests that matter, in no order.
    pub(crate) fn ranks<'a>(
        &'a self,
        now: Duration,
        matters: impl Fn(&Request) -> bool + 'a,
    ) -> impl Iterator<Item = Rank> + 'a {
        let (aging, half_life) = (self.policy.aging, self.policy.half_life);
        self.queue.iter().filter(move |(_, request)| matters(request)).map(move |(id, request)| {
            let account = self.accounts.get(&request.tenant);
            let (lately, weight) = account.map_or((0.0, 1.0), |a| (a.lately(now, half_life), a.policy.divisor()));
            request.rank(*id, now, aging, lately, weight)
        })
    }

    /// The GPU seconds of each tenant that count in its day, for a broker that comes after this one.
    #[must_use]
    pub fn book(&mut self, now: Duration) -> Vec<Use> {
        let half_life = self.policy.half_life;
        self.accounts.values_mut().for_each(|account| account.settle(now, half_life));
        let all =
            self.accounts.values().map(|account| Use { tenant: account.name.clone(), seconds: account.book(now) });
        all.filter(|used| !used.seconds.is_empty()).collect()
    }

    /// Takes over what an earlier broker's [`book`](Scheduler::book) said. Seconds that have left the day, or are no numbers,
    /// are not taken.
    pub fn restore(&mut self, now: Duration, book: &[Use]) {
        for used in book {
            let mut seconds = used.seconds.clone();
            seconds.retain(|(left, used)| !left.is_zero() && *left <= DAY + QUARTER && used.is_finite() && *used > 0.0);
            if seconds.is_empty() {
                continue;
            }
            let tenant = self.account(now, &used.tenant);
            if let Some(account) = self.accounts.get_mut(&tenant) {
                account.add(now, &seconds);
            }
        }
    }

    fn kinds(&self) -> Vec<Kind> {
        self.cards.iter().map(|card| card.spec.kind).collect()
    }

    fn account(&mut self, now: Duration, tenant: &str) -> TenantId {
        if let Some(id) = self.names.get(tenant) {
            return *id;
        }
        let id = TenantId(self.new_id());
        self.names.insert(tenant.into(), id);
        self.accounts.insert(id, Account::new(tenant, self.policy.tenant(tenant).clone(), now));
        id
    }

    fn forget_idle(&mut self, now: Duration) {
        let half_life = self.policy.half_life;
        self.accounts.retain(|account| !account.idle(now, half_life));
        self.names.retain(|_, id| self.accounts.contains_key(id));
    }
}

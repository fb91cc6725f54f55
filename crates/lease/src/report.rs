//! The whole state, to look at: `zerogpu status` shows it.

use crate::scheduler::Doing;
use crate::{CardId, LeaseId, RequestId, Scheduler, SpaceId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The scheduler at one instant. All times are seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Since the broker's start.
    pub at: f64,
    /// Seconds until the first grant, while grants are held back after a broker's unclean end.
    pub held: f64,
    /// The cards, in their order.
    pub cards: Vec<CardReport>,
    /// Who waits, the next first.
    pub queue: Vec<Waiting>,
    /// The attached Spaces.
    pub spaces: Vec<SpaceReport>,
    /// Tenants with Spaces, or with use that still counts.
    pub tenants: Vec<TenantReport>,
}

/// A card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CardReport {
    /// Which.
    pub card: CardId,
    /// Compute capability.
    pub kind: (u32, u32),
    /// Bytes that Spaces may use: the sum of the next three.
    pub bytes: u64,
    /// Leased, contexts included.
    pub leased: u64,
    /// Warm.
    pub warm: u64,
    /// Neither.
    pub free: u64,
    /// Bytes whose eviction is not confirmed; counted above as what they make room for.
    pub leaving: u64,
    /// Who computes there.
    pub holders: Vec<Holder>,
    /// Whose bytes are warm there, the least recently used first.
    pub residents: Vec<Resident>,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    /// Which.
    pub lease: LeaseId,
    /// Whose.
    pub space: SpaceId,
    /// Bytes of its slabs.
    pub bytes: u64,
    /// Since its grant.
    pub seconds: f64,
    /// Until its deadline.
    pub left: f64,
    /// Whether the deadline has passed.
    pub overdue: bool,
    /// Whether its process is being ended.
    pub ending: bool,
    /// Whether it is for work outside every region.
    pub borrowed: bool,
}

/// Warm bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resident {
    /// Whose.
    pub space: SpaceId,
    /// How many.
    pub bytes: u64,
    /// For how long.
    pub seconds: f64,
    /// Whether they were brought ahead of a claim that may come.
    pub ahead: bool,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// Which.
    pub request: RequestId,
    /// Whose.
    pub space: SpaceId,
    /// Place among those that wait for this kind of card; 1: next.
    pub place: u32,
    /// What it asks for.
    pub seconds: f64,
    /// Bytes of its slabs.
    pub bytes: u64,
    /// How long it has waited.
    pub waited: f64,
    /// Whether it has waited so long that it goes first.
    pub aged: bool,
    /// What the order goes by, if it is not aged.
    pub cost: f64,
    /// The card that is kept free for it.
    pub reserved: Option<CardId>,
    /// About how long it will wait still.
    pub estimate: Option<f64>,
    /// Whether it is for work outside every region.
    pub borrowed: bool,
}

/// A Space.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpaceReport {
    /// Which.
    pub space: SpaceId,
    /// Its tenant.
    pub tenant: String,
    /// Its kind of card.
    pub kind: (u32, u32),
    /// Its quota.
    pub vram: u64,
    /// What it does.
    pub state: State,
    /// The card with its bytes, leased or warm.
    pub card: Option<CardId>,
}

/// What a Space does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It holds a card.
    Claimed,
    /// It waits for a card.
    Waiting,
    /// It does nothing, and its bytes are on a card.
    Warm,
    /// It does nothing, and has nothing on a card.
    Parked,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantReport {
    /// Its name.
    pub tenant: String,
    /// Its weight in the order.
    pub weight: f64,
    /// Spaces attached.
    pub spaces: u32,
    /// How many it may attach.
    pub spaces_limit: u32,
    /// GPU seconds that count in the order.
    pub lately: f64,
    /// GPU seconds used within 24 hours.
    pub used: f64,
    /// How many it may use.
    pub used_limit: Option<f64>,
}

impl Scheduler {
    /// The whole state.
    #[must_use]
    pub fn report(&self, now: Duration) -> Report {
        let half_life = self.policy.half_life;
        Report {
            at: now.as_secs_f64(),
            held: self.held.saturating_sub(now).as_secs_f64(),
            cards: self.cards.iter().map(|card| self.card_report(now, card)).collect(),
            queue: self.queue_report(now),
            spaces: self.spaces.iter().map(|(id, space)| self.space_report(*id, space)).collect(),
            tenants: self
                .accounts
                .values()
                .map(|account| TenantReport {
                    tenant: account.name.clone(),
                    weight: account.policy.divisor(),
                    spaces: account.spaces,
                    spaces_limit: account.policy.spaces,
                    lately: account.lately(now, half_life),
                    used: account.today(now),
                    used_limit: account.policy.gpu_seconds_per_day,
                })
                .collect(),
        }
    }

    fn card_report(&self, now: Duration, card: &crate::card::Card) -> CardReport {
        let holders = self.leases.iter().filter(|(_, lease)| lease.card == card.id).map(|(id, lease)| Holder {
            lease: *id,
            space: lease.space,
            bytes: lease.bytes,
            seconds: now.saturating_sub(lease.since).as_secs_f64(),
            left: lease.deadline.saturating_sub(now).as_secs_f64(),
            overdue: lease.deadline <= now,
            ending: lease.killed,
            borrowed: lease.borrowed,
        });
        let residents = card.warm.iter().map(|warm| Resident {
            space: warm.space,
            bytes: warm.bytes,
            seconds: now.saturating_sub(warm.since).as_secs_f64(),
            ahead: warm.awaited.is_some(),
        });
        CardReport {
            card: card.id,
            kind: card.spec.kind,
            bytes: card.spec.bytes,
            leased: card.leased,
            warm: card.warm_bytes(),
            free: card.free(),
            leaving: card.leaving.iter().map(|evict| evict.bytes).sum(),
            holders: holders.collect(),
            residents: residents.collect(),
        }
    }

    fn queue_report(&self, now: Duration) -> Vec<Waiting> {
        let ranks: std::collections::BTreeMap<_, _> = self.ranks(now, |_| true).map(|rank| (rank.id, rank)).collect();
        let waiting = self.positions(now).into_iter().filter_map(|(id, position)| {
            let (request, rank) = (self.queue.get(&id)?, ranks.get(&id)?);
            Some(Waiting {
                request: id,
                space: request.space,
                place: position.place,
                seconds: request.length.as_secs_f64(),
                bytes: request.bytes,
                waited: now.saturating_sub(request.since).as_secs_f64(),
                aged: rank.is_aged(),
                cost: rank.cost,
                reserved: request.reserved,
                estimate: position.estimate,
                borrowed: request.borrowed,
            })
        });
        waiting.collect()
    }

    fn space_report(&self, id: SpaceId, space: &crate::scheduler::Space) -> SpaceReport {
        let (state, card) = match space.doing {
            Doing::Leasing(lease) => (State::Claimed, self.leases.get(&lease).map(|lease| lease.card)),
            Doing::Waiting(_) => (State::Waiting, space.home),
            Doing::Nothing if space.home.is_some() => (State::Warm, space.home),
            Doing::Nothing => (State::Parked, None),
        };
        let tenant = self.accounts.get(&space.tenant).map(|account| account.name.clone()).unwrap_or_default();
        SpaceReport { space: id, tenant, kind: space.spec.kind, vram: space.spec.vram, state, card }
    }
}

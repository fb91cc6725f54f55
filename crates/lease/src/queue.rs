//! A waiting request, and its rank in the order.

use crate::policy::Kind;
use crate::tenant::TenantId;
use crate::{CardId, RequestId, SpaceId};
use std::cmp::Ordering;
use std::time::Duration;

/// Work outside marked calls asks for some seconds, and goes on for as long as it likes: it stands in the order as a call
/// that does not say how long it lasts.
const UNMARKED: f64 = 60.0;

#[derive(Debug)]
pub(crate) struct Request {
    pub space: SpaceId,
    pub tenant: TenantId,
    pub kind: Kind,
    /// The lease that it asks for.
    pub length: Duration,
    pub bytes: u64,
    pub borrowed: bool,
    pub since: Duration,
    pub expires: Duration,
    /// The card kept free for it, once it is aged and does not fit.
    pub reserved: Option<CardId>,
}

/// How long a request has waited. The last goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Age {
    Young,
    Aged,
    /// So long that nothing counts any more but the time.
    Old,
}

impl Age {
    pub fn of(waited: Duration, aging: Duration) -> Age {
        match waited {
            waited if waited < aging => Age::Young,
            waited if waited < aging.saturating_mul(2) => Age::Aged,
            _ => Age::Old,
        }
    }
}

/// Where a request stands. The least goes first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rank {
    pub age: Age,
    pub cost: f64,
    /// Whole seconds that its tenant used lately, by its weight.
    pub used: f64,
    pub id: RequestId,
}

impl Rank {
    pub fn is_aged(&self) -> bool {
        self.age > Age::Young
    }
}

impl Request {
    /// The ordering function, as the crate's documentation states it.
    pub fn rank(&self, id: RequestId, now: Duration, aging: Duration, lately: f64, weight: f64) -> Rank {
        let age = Age::of(now.saturating_sub(self.since), aging);
        // between calls of the same duration no fraction of a second may decide, nor what is left of a use long ago
        let asked = self.length.as_secs_f64().ceil();
        let asked = if self.borrowed { asked.max(UNMARKED) } else { asked };
        let cost = (asked + lately.floor()) / weight;
        Rank { age, cost, used: (lately / weight).floor(), id }
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Rank) -> Ordering {
        let within = match self.age {
            Age::Young => self.cost.total_cmp(&other.cost),
            Age::Aged => self.used.total_cmp(&other.used),
            Age::Old => Ordering::Equal,
        };
        // ids grow with time: of two requests the lower is the older
        other.age.cmp(&self.age).then(within).then(self.id.cmp(&other.id))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Rank) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Rank) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Rank {}

//! A waiting request, and its rank in the order.

use crate::policy::Kind;
use crate::tenant::TenantId;
use crate::{CardId, RequestId, SpaceId};
use std::cmp::Ordering;
use std::time::Duration;

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

/// Where a request stands. The least goes first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rank {
    pub aged: bool,
    pub cost: f64,
    pub id: RequestId,
}

impl Request {
    /// The ordering function, as the crate's documentation states it.
    pub fn rank(&self, id: RequestId, now: Duration, aging: Duration, lately: f64, weight: f64) -> Rank {
        Rank { aged: now.saturating_sub(self.since) >= aging, cost: (self.length.as_secs_f64() + lately) / weight, id }
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Rank) -> Ordering {
        // ids grow with time: of two aged requests the lower is the older
        let cost = if self.aged { Ordering::Equal } else { self.cost.total_cmp(&other.cost) };
        other.aged.cmp(&self.aged).then(cost).then(self.id.cmp(&other.id))
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

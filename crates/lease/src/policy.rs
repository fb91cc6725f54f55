//! What an administrator sets: limits and knobs, for all and for each tenant.

use std::collections::BTreeMap;
use std::time::Duration;

/// A card's kind: its compute capability. A Space runs on cards of its own kind only.
pub type Kind = (u32, u32);

/// A card that the broker owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CardSpec {
    /// Compute capability.
    pub kind: Kind,
    /// Bytes that Spaces may use: the card's, less the broker's own context.
    pub bytes: u64,
}

/// The knobs. [`Scheduler::set_policy`](crate::Scheduler::set_policy) changes them while running.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// A request that has waited this long goes before all that have not, whatever its length; after twice this time before all
    /// but older ones. Twice of it is to be below the time for which programs wait.
    pub aging: Duration,
    /// The longest lease, in seconds, that can be asked for.
    pub max_seconds: f64,
    /// Time between [`Action::Overdue`](crate::Action::Overdue) and [`Action::Kill`](crate::Action::Kill).
    pub grace: Duration,
    /// How long a request waits that does not say.
    pub queue_timeout: Duration,
    /// Whether Spaces that fit together compute on one card at the same time.
    pub share: bool,
    /// How long bytes stay warm: `None`, until the room is needed; zero, not at all.
    pub warm_for: Option<Duration>,
    /// Whether bytes are brought to an idle card before their Space claims it.
    pub prefetch: bool,
    /// Room kept for the CUDA context of each leased Space.
    pub context_bytes: u64,
    /// After this time a used second counts half in the order.
    pub half_life: Duration,
    /// Tenants with limits of their own.
    pub tenants: BTreeMap<String, TenantPolicy>,
    /// The limits of the others.
    pub default_tenant: TenantPolicy,
}

/// The limits of one tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantPolicy {
    /// Its share of the cards when tenants compete. Taken as at least 0.001 and at most 1000; 1 if not a number.
    pub weight: f64,
    /// Spaces attached at once.
    pub spaces: u32,
    /// The largest quota of one Space, in bytes.
    pub vram: u64,
    /// GPU seconds within 24 hours; `None`: no limit.
    pub gpu_seconds_per_day: Option<f64>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            aging: Duration::from_secs(20),
            max_seconds: 120.0,
            grace: Duration::from_secs(10),
            queue_timeout: Duration::from_secs(600),
            share: false,
            warm_for: None,
            prefetch: true,
            context_bytes: 600 << 20,
            half_life: Duration::from_secs(300),
            tenants: BTreeMap::new(),
            default_tenant: TenantPolicy::default(),
        }
    }
}

impl Default for TenantPolicy {
    fn default() -> TenantPolicy {
        TenantPolicy { weight: 1.0, spaces: 50, vram: u64::MAX, gpu_seconds_per_day: None }
    }
}

impl Policy {
    /// The limits of `tenant`.
    #[must_use]
    pub fn tenant(&self, tenant: &str) -> &TenantPolicy {
        self.tenants.get(tenant).unwrap_or(&self.default_tenant)
    }
}

impl TenantPolicy {
    /// The weight that the order divides by.
    pub(crate) fn divisor(&self) -> f64 {
        if self.weight.is_nan() {
            1.0
        } else {
            self.weight.clamp(0.001, 1000.0)
        }
    }
}

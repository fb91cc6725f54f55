//! Who computes on which card, and what stays warm: the broker's decisions as a state machine.
//!
//! Nothing here reads a clock, starts a thread or touches a card. What depends on time takes `now`, the time since the
//! broker's start; the same calls give the same answers. The daemon tells what happened ([`Scheduler::claim`],
//! [`Scheduler::release`], ...), calls [`Scheduler::poll`] after each change and at [`Scheduler::next_wake`], and carries
//! out the [`Action`]s in the order given.
//!
//! # The order
//!
//! A request's **cost** is `(seconds asked + seconds its tenant used lately) / weight of its tenant`; the lowest goes
//! first, the older of two equals. The seconds asked are rounded up to whole
//! ones, those used down; a borrowed claim counts as one of 60 at least. "Used lately" counts the seconds between grant and release of the tenant's leases,
//! those running included, each second halved every [`Policy::half_life`]. Waiting costs nothing. So a short call goes
//! before a long one, a tenant that just used a card for a minute goes as if it asked for a minute more, and a tenant of
//! weight 2 may use twice as much.
//!
//! A request that has waited for [`Policy::aging`] is **aged**: it goes before all that are not. Of those, the one whose tenant
//! used the fewest seconds lately, divided by its weight, goes first (whole seconds count); of two equals the older. So tenants
//! share by weight also where everybody waits for long. After twice that time it is **old**, and nothing else counts any more: the old
//! go first, the oldest before the others.
//!
//! The order is walked from its head; each request that fits a card now is granted. One that does not fit is passed by,
//! unless it is aged: then it reserves the card that has room for it soonest, and nothing is granted there until it goes.
//!
//! # The longest wait
//!
//! A lease ends at most `L` = [`Policy::max_seconds`] + [`Policy::grace`] after anyone began to wait for its card:
//! deadlines are at most `max_seconds` away, and while someone waits a lease is extended only up to `max_seconds` after
//! its grant. Once a request is old only older ones go before it, say `k`, each of another Space. The first of them that
//! has no card holds a reservation, whose card is empty after `L` at the latest. So a request waits at most `2 * aging + (k
//! + 1) * L`, whatever arrives after it, if the daemon ends the Spaces that [`Action::Kill`] names, and but for what it adds to their grace by
//! [`Scheduler::respite`]. Where
//! each of `n` cards would do for all of them, one lease at a time, `k / n` (rounded down) stands for `k`.
//!
//! # Which card
//!
//! A card fits if its kind is the Space's and the bytes with a context fit beside what is leased there; without
//! [`Policy::share`], if nothing is leased there. Of those: the card with the Space's warm bytes, then the one with the
//! fewest leases, then the one with the most free bytes, then the first. Warm bytes of others leave as far as needed, the
//! least recently used first; what is leased never leaves. A Space is warm on one card at most. One that is bound to its context
//! ([`Scheduler::bind`]) computes on one card only.
//!
//! # Ahead of a claim
//!
//! When a region of a Space begins, its bytes may be brought to a card where nobody computes, if nobody waits for a card of
//! that kind: to its home if it has one, else to the card with the most free bytes. From then on they are warm bytes like others: any claim
//! evicts them if it needs the room, they cool, and they are neither a lease nor GPU seconds. Others' warm bytes leave for
//! them, the least recently used first, but not those that were themselves brought ahead of a claim for as long as that
//! region may last; and a Space for which some have left has to claim once before more do.
//!
//! # The day
//!
//! [`TenantPolicy::gpu_seconds_per_day`] bounds the use of the last 24 hours, counted by quarters of an hour: a second
//! used is free again 24 hours after the end of its quarter, also over a restart ([`Scheduler::book`]). A claim needs its seconds to be left beside what the
//! tenant's other calls, waiting or running, may still use.
#![warn(clippy::missing_errors_doc)]

mod ahead;
mod bound;
mod card;
mod denial;
mod leases;
mod outlook;
mod policy;
mod poll;
mod queue;
mod report;
mod scheduler;
mod table;
mod tenant;

pub use ahead::Prefetch;
pub use bound::Kept;
pub use denial::{Denial, Reason};
pub use outlook::Position;
pub use policy::{CardSpec, Kind, Policy, TenantPolicy};
pub use poll::{Action, Evict, Grant};
pub use report::{CardReport, Holder, Report, Resident, SpaceReport, State, TenantReport, Waiting};
pub use scheduler::{Claim, Ended, Scheduler, SpaceSpec, Use};

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($inner:ty), $word:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " {}"), self.0)
            }
        }
    )*};
}

ids! {
    /// An attached Space. Never used twice.
    SpaceId(u64), "Space";
    /// A claim that waits, or waited. Grows with time. Never used twice.
    RequestId(u64), "request";
    /// A lease. Never used twice.
    LeaseId(u64), "lease";
    /// A card: its place in the list given to [`Scheduler::new`].
    CardId(u32), "card";
}

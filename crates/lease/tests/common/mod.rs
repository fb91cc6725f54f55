//! What the tests share: short ways to say things.
#![allow(dead_code)]

use std::time::Duration;
use zerogpu_lease::*;

pub const GIB: u64 = 1 << 30;
pub const KIND: Kind = (9, 0);

/// A time, in seconds since the start.
pub fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// No context, short times, one tenant `alice` of weight 2.
pub fn policy() -> Policy {
    let mut policy = Policy {
        aging: at(100.0),
        max_seconds: 60.0,
        grace: at(5.0),
        context_bytes: 0,
        half_life: at(60.0),
        ..Policy::default()
    };
    policy.tenants.insert("alice".into(), TenantPolicy { weight: 2.0, ..TenantPolicy::default() });
    policy
}

/// `count` cards of 10 GiB.
pub fn cards(count: usize) -> Vec<CardSpec> {
    vec![CardSpec { kind: KIND, bytes: 10 * GIB }; count]
}

pub fn attach(s: &mut Scheduler, tenant: &str) -> SpaceId {
    s.attach(at(0.0), tenant, SpaceSpec { kind: KIND, vram: GIB }).unwrap()
}

pub fn claim(s: &mut Scheduler, now: f64, space: SpaceId, seconds: f64, gib: u64) -> RequestId {
    s.claim(at(now), space, wish(seconds, gib)).unwrap()
}

pub fn wish(seconds: f64, gib: u64) -> Claim {
    Claim { seconds, bytes: gib * GIB, wait: None, borrowed: false }
}

/// The grants of a poll; the other actions must be none.
pub fn grants(s: &mut Scheduler, now: f64) -> Vec<Grant> {
    let only = |action| match action {
        Action::Grant(grant) => grant,
        other => panic!("unexpected {other:?}"),
    };
    s.poll(at(now)).into_iter().map(only).collect()
}

/// The Spaces granted by a poll.
pub fn granted(s: &mut Scheduler, now: f64) -> Vec<SpaceId> {
    grants(s, now).iter().map(|grant| grant.space).collect()
}

/// Claims and gets the lease at once.
pub fn lease(s: &mut Scheduler, now: f64, space: SpaceId, seconds: f64, gib: u64) -> Grant {
    claim(s, now, space, seconds, gib);
    let grants = grants(s, now);
    assert_eq!(grants.len(), 1, "one grant at once");
    grants.into_iter().next().unwrap()
}

/// A lease that ends at once and leaves its bytes warm.
pub fn warm(s: &mut Scheduler, now: f64, space: SpaceId, gib: u64) -> CardId {
    let grant = lease(s, now, space, 1.0, gib);
    s.release(at(now), grant.lease, gib * GIB).unwrap();
    grant.card
}

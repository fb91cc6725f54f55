//! Random work against a model: see `state.rs` for the model, `check.rs` for what is compared.

mod check;
mod state;

use check::World;
use proptest::prelude::*;
use std::time::Duration;
use zerogpu_lease::*;

/// What may happen. Numbers choose among what there is.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Attach {
        tenant: usize,
        kind: usize,
    },
    Detach(usize),
    Claim {
        space: usize,
        seconds: u32,
        units: u64,
        wait: Option<u64>,
    },
    Cancel(usize),
    Release {
        lease: usize,
        warm: u64,
    },
    Extend {
        lease: usize,
        seconds: u32,
    },
    Grow {
        lease: usize,
        units: u64,
    },
    Shrink {
        lease: usize,
        units: u64,
    },
    Revoke(usize),
    Adopt {
        space: usize,
        card: usize,
        seconds: u32,
        units: u64,
    },
    ShrinkWarm {
        warm: usize,
        units: u64,
    },
    DropWarm(usize),
    Condemn(usize),
    /// `part` of its bytes get there.
    Prefetch {
        space: usize,
        seconds: u32,
        units: u64,
        part: u64,
    },
    Pass(u64),
}

const ANY: std::ops::Range<usize> = 0..1000;

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (0..3usize, 0..3usize).prop_map(|(tenant, kind)| Op::Attach { tenant, kind }),
        1 => ANY.prop_map(Op::Detach),
        8 => (ANY, 0..13u32, 0..12u64, prop::option::weighted(0.2, 0..40_000u64))
            .prop_map(|(space, seconds, units, wait)| Op::Claim { space, seconds, units, wait }),
        1 => ANY.prop_map(Op::Cancel),
        4 => (ANY, 0..12u64).prop_map(|(lease, warm)| Op::Release { lease, warm }),
        2 => (ANY, 0..12u32).prop_map(|(lease, seconds)| Op::Extend { lease, seconds }),
        2 => (ANY, 0..5u64).prop_map(|(lease, units)| Op::Grow { lease, units }),
        1 => (ANY, 0..5u64).prop_map(|(lease, units)| Op::Shrink { lease, units }),
        1 => ANY.prop_map(Op::Revoke),
        1 => (ANY, ANY, 0..20u32, 0..8u64)
            .prop_map(|(space, card, seconds, units)| Op::Adopt { space, card, seconds, units }),
        1 => (ANY, 0..6u64).prop_map(|(warm, units)| Op::ShrinkWarm { warm, units }),
        1 => ANY.prop_map(Op::DropWarm),
        1 => ANY.prop_map(Op::Condemn),
        4 => ahead(),
        8 => prop_oneof![Just(0u64), 1..3000u64, 3000..20_000u64].prop_map(Op::Pass),
    ]
}

fn ahead() -> impl Strategy<Value = Op> {
    (ANY, 0..12u32, 0..8u64, prop_oneof![Just(100u64), 0..8u64])
        .prop_map(|(space, seconds, units, part)| Op::Prefetch { space, seconds, units, part })
}

fn crowd() -> impl Strategy<Value = Op> {
    let sizes = prop_oneof![1..4u64, 6..9u64];
    prop_oneof![
        8 => (ANY, 3..11u32, sizes).prop_map(|(space, seconds, units)| Op::Claim { space, seconds, units, wait: None }),
        3 => (ANY, 0..9u64).prop_map(|(lease, warm)| Op::Release { lease, warm }),
        2 => (ANY, 1..11u32).prop_map(|(lease, seconds)| Op::Extend { lease, seconds }),
        1 => ANY.prop_map(Op::Cancel),
        1 => ANY.prop_map(Op::Condemn),
        3 => ahead(),
        4 => (1..2000u64).prop_map(Op::Pass),
    ]
}

fn policies() -> impl Strategy<Value = Policy> {
    let warm_for = prop::option::of((0..20u64).prop_map(Duration::from_secs));
    let day = prop::option::of(15.0..200.0f64);
    (any::<bool>(), warm_for, day, 0..40u64, 0..2u64).prop_map(|(share, warm_for, day, aging, context)| {
        let tenant = |weight| TenantPolicy { weight, spaces: 6, vram: 100, gpu_seconds_per_day: day };
        Policy {
            aging: Duration::from_secs(aging),
            max_seconds: 10.0,
            grace: Duration::from_secs(2),
            queue_timeout: Duration::from_secs(100_000),
            share,
            warm_for,
            prefetch: true,
            context_bytes: context,
            half_life: Duration::from_secs(20),
            tenants: [("t1".into(), tenant(2.0)), ("t2".into(), tenant(0.5))].into(),
            default_tenant: tenant(1.0),
        }
    })
}

fn kinds() -> impl Strategy<Value = Vec<CardSpec>> {
    let card = (0..4usize, 4..11u64).prop_map(|(kind, bytes)| CardSpec { kind: check::KINDS[kind / 3], bytes });
    prop::collection::vec(card, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_the_model_says(
        policy in policies(),
        cards in kinds(),
        hold in prop_oneof![Just(0u64), 0..20u64],
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut world = World::new(policy, cards, Duration::from_secs(hold));
        for op in ops {
            world.apply(op);
        }
        world.end();
    }

    /// Many Spaces, large and small, on shared cards: here requests age, and reserve cards.
    #[test]
    fn a_crowd_on_shared_cards(
        aging in 0..15u64,
        cards in prop::collection::vec((8..11u64).prop_map(|bytes| CardSpec { kind: check::KINDS[0], bytes }), 1..4),
        ops in prop::collection::vec(crowd(), 50..200),
    ) {
        let limits = TenantPolicy { weight: 1.0, spaces: 6, vram: 100, gpu_seconds_per_day: None };
        let policy = Policy {
            aging: Duration::from_secs(aging),
            max_seconds: 10.0,
            grace: Duration::from_secs(2),
            queue_timeout: Duration::from_secs(100_000),
            share: true,
            context_bytes: 0,
            half_life: Duration::from_secs(20),
            default_tenant: limits,
            ..Policy::default()
        };
        let mut world = World::new(policy, cards, Duration::ZERO);
        for n in 0..18 {
            world.apply(Op::Attach { tenant: n % 3, kind: 0 });
        }
        for op in ops {
            world.apply(op);
        }
        world.end();
    }
}

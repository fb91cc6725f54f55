//! What a decision costs: `cargo run --release -p zerogpu-lease --example timing`.
//!
//! 200 Spaces of 50 tenants on 4 cards, all of which always want a card: each step is a release, a claim by the same
//! Space, a poll (which walks a queue of 196) and the next wake-up. Counted is time on the processor, so that a busy
//! machine does not show.

use std::time::Duration;
use zerogpu_lease::{Action, CardSpec, Claim, LeaseId, Policy, Scheduler, SpaceId, SpaceSpec};

const STEPS: u32 = 20_000;

fn main() {
    for (share, name) in [(false, "exclusive"), (true, "shared   ")] {
        println!("{name}  {:.2} us for release, claim, poll, next_wake", busy(share).as_secs_f64() * 1e6);
    }
    println!("uncontended {:.2} us for claim, poll, release", idle().as_secs_f64() * 1e6);
}

fn scheduler(share: bool) -> (Scheduler, Vec<SpaceId>) {
    let card = CardSpec { kind: (9, 0), bytes: 80 << 30 };
    let policy = Policy { share, aging: Duration::from_secs(1000), ..Policy::default() };
    let mut s = Scheduler::new(policy, &[card; 4]);
    let spec = SpaceSpec { kind: (9, 0), vram: 40 << 30 };
    let spaces = (0..200).filter_map(|n| s.attach(Duration::ZERO, &format!("tenant-{}", n % 50), spec).ok()).collect();
    (s, spaces)
}

fn wish(n: u64) -> Claim {
    let length = 5.0 + (n * 7 % 50) as f64;
    Claim { seconds: length, bytes: (20 + n * 3 % 20) << 30, wait: Some(Duration::MAX), borrowed: false }
}

/// Time per step with all Spaces wanting a card.
fn busy(share: bool) -> Duration {
    let (mut s, spaces) = scheduler(share);
    let mut now = Duration::ZERO;
    for space in &spaces {
        let _ = s.claim(now, *space, wish(space.0));
    }
    let mut leases: std::collections::VecDeque<(LeaseId, SpaceId)> = granted(s.poll(now)).collect();
    let start = on_processor();
    for _ in 0..STEPS {
        now += Duration::from_millis(100);
        let Some((lease, space)) = leases.pop_front() else { continue };
        s.release(now, lease, 20 << 30);
        let _ = s.claim(now, space, wish(space.0));
        leases.extend(granted(s.poll(now)));
        std::hint::black_box(s.next_wake(now));
    }
    (on_processor() - start) / STEPS
}

/// Time per lease with one Space wanting a card.
fn idle() -> Duration {
    let (mut s, spaces) = scheduler(false);
    let mut now = Duration::ZERO;
    let start = on_processor();
    for _ in 0..STEPS {
        now += Duration::from_millis(100);
        let _ = s.claim(now, spaces[0], wish(1));
        for (lease, _) in granted(s.poll(now)).collect::<Vec<_>>() {
            s.release(now, lease, 20 << 30);
        }
    }
    (on_processor() - start) / STEPS
}

/// Time that this process has computed.
fn on_processor() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

fn granted(actions: Vec<Action>) -> impl Iterator<Item = (LeaseId, SpaceId)> {
    actions.into_iter().filter_map(|action| match action {
        Action::Grant(grant) => Some((grant.lease, grant.space)),
        _ => None,
    })
}

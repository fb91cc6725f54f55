//! 200 Spaces that always want one of four cards, for three hours: nobody waits longer than the bound says.

mod common;
use common::*;
use std::collections::BTreeMap;
use std::time::Duration;
use zerogpu_lease::*;

/// xorshift: the same numbers in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Each Space claims again at once. One tenant's calls are long and large, so that all others are preferred.
/// Gives the longest wait.
fn run(share: bool) -> Duration {
    let mut dice = Dice(7);
    let mut s = Scheduler::new(Policy { share, queue_timeout: Duration::MAX, ..policy() }, &cards(4));
    let spec = SpaceSpec { kind: KIND, vram: 10 * GIB };
    let tenants: Vec<String> = (0..20).map(|n| format!("t{n}")).collect();
    let mut p = s.policy().clone();
    p.default_tenant.weight = 100.0;
    p.tenants.insert("t0".into(), TenantPolicy { weight: 0.01, ..TenantPolicy::default() });
    s.set_policy(at(0.0), p);
    let spaces: Vec<SpaceId> =
        (0..200).map(|n| s.attach(at(0.0), &tenants[usize::from(n % 50 > 0) * (n % 20)], spec).unwrap()).collect();
    let large = |space: SpaceId| spaces[0] == space || spaces[50] == space;
    let mut wish_of = |space: SpaceId| match large(space) {
        true => wish(60.0, 9),
        false => wish(1.0 + dice.below(20) as f64, 1 + dice.below(3)),
    };
    for space in &spaces {
        let wish = wish_of(*space);
        s.claim(at(0.0), *space, wish).unwrap();
    }
    let (mut now, mut longest) = (Duration::ZERO, Duration::ZERO);
    let mut ends: BTreeMap<(Duration, LeaseId), SpaceId> = BTreeMap::new();
    while now < at(10_800.0) {
        for action in s.poll(now) {
            let Action::Grant(grant) = action else { panic!("{action:?}") };
            longest = longest.max(grant.waited);
            // each ends a moment before its deadline
            ends.insert((grant.deadline - Duration::from_millis(1), grant.lease), grant.space);
        }
        let ((end, lease), space) = ends.pop_first().unwrap();
        now = end;
        s.release(now, lease, GIB).unwrap();
        let wish = wish_of(space);
        s.claim(now, space, wish).unwrap();
    }
    // whoever waits still has waited as well
    let report = s.report(now);
    report.queue.iter().map(|waiting| at(waiting.waited)).fold(longest, Duration::max)
}

#[test]
fn nobody_starves() {
    for share in [false, true] {
        let longest = run(share);
        let p = policy();
        let each = at(p.max_seconds) + p.grace;
        let bound = p.aging * 2 + each * (if share { 199 + 1 } else { 199 / 4 + 1 });
        println!("share {share}: longest wait {longest:?}, bound {bound:?}");
        assert!(longest <= bound, "{longest:?} is more than {bound:?}");
        assert!(longest > p.aging, "nobody was ever aged: the test tests nothing");
    }
}

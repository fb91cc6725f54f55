//! The order and its fairness, by example.

mod common;
use common::*;
use std::time::Duration;
use zerogpu_lease::*;

/// One card, held by a Space of its own tenant until released.
fn busy() -> (Scheduler, Grant) {
    let mut s = Scheduler::new(policy(), &cards(1));
    let holder = attach(&mut s, "holder");
    let grant = lease(&mut s, 0.0, holder, 60.0, 1);
    (s, grant)
}

#[test]
fn the_shorter_goes_first_and_the_older_of_equals() {
    let (mut s, held) = busy();
    let spaces: Vec<_> = (0..3).map(|n| attach(&mut s, &format!("t{n}"))).collect();
    for (space, seconds) in spaces.iter().zip([20.0, 10.0, 10.0]) {
        claim(&mut s, 1.0, *space, seconds, 1);
    }
    assert!(granted(&mut s, 1.0).is_empty(), "the card is taken");
    s.release(at(2.0), held.lease, 0);
    let mut order = Vec::new();
    for now in [2.0, 2.5, 3.0] {
        let grant = grants(&mut s, now).remove(0);
        order.push(grant.space);
        s.release(at(now), grant.lease, 0);
    }
    assert_eq!(order, [spaces[1], spaces[2], spaces[0]]);
}

/// Calls of one duration ask for what each has left of it, which differs by what the program did first.
#[test]
fn fractions_of_a_second_make_no_call_shorter() {
    let (mut s, held) = busy();
    let spaces: Vec<_> = (0..4).map(|n| attach(&mut s, &format!("t{n}"))).collect();
    for (space, seconds) in spaces.iter().zip([60.0, 59.9992, 59.9991, 58.9]) {
        claim(&mut s, 1.0, *space, seconds, 1);
    }
    s.release(at(2.0), held.lease, 0);
    let mut order = Vec::new();
    for _ in 0..4 {
        let grant = grants(&mut s, 2.0).remove(0);
        order.push(grant.space);
        s.release(at(2.0), grant.lease, 0);
    }
    assert_eq!(order, [spaces[3], spaces[0], spaces[1], spaces[2]]);
}

#[test]
fn seconds_used_lately_count_as_if_asked_for() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let (bob, carol) = (attach(&mut s, "bob"), attach(&mut s, "carol"));
    let used = lease(&mut s, 0.0, bob, 60.0, 1);
    s.release(at(30.0), used.lease, 0);
    // 30 seconds have gone since, so bob's 30 count as about 25 x 0.7
    let third = attach(&mut s, "third");
    let held = lease(&mut s, 60.0, third, 10.0, 1);
    claim(&mut s, 60.0, bob, 5.0, 1);
    claim(&mut s, 60.0, carol, 20.0, 1);
    s.release(at(60.5), held.lease, 0);
    assert_eq!(granted(&mut s, 60.5), [carol]);
    let report = s.report(at(60.5));
    let bob_used = report.tenants.iter().find(|t| t.tenant == "bob").unwrap();
    assert!((bob_used.used - 30.0).abs() < 1e-6);
    let integral = 60.0 / std::f64::consts::LN_2 * (0.5f64.powf(30.5 / 60.0) - 0.5f64.powf(60.5 / 60.0));
    assert!((bob_used.lately - integral).abs() < 1e-6, "{} is not {integral}", bob_used.lately);
}

#[test]
fn what_is_used_long_ago_is_forgiven() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let (bob, carol) = (attach(&mut s, "bob"), attach(&mut s, "carol"));
    let used = lease(&mut s, 0.0, bob, 60.0, 1);
    s.release(at(60.0), used.lease, 0);
    let third = attach(&mut s, "third");
    let held = lease(&mut s, 900.0, third, 10.0, 1);
    claim(&mut s, 900.0, bob, 5.0, 1);
    claim(&mut s, 900.0, carol, 6.0, 1);
    s.release(at(900.5), held.lease, 0);
    assert_eq!(granted(&mut s, 900.5), [bob]);
}

#[test]
fn waiting_is_never_charged() {
    let (mut s, held) = busy();
    let bob = attach(&mut s, "bob");
    claim(&mut s, 0.0, bob, 10.0, 1);
    s.release(at(50.0), held.lease, 0);
    let grant = grants(&mut s, 50.0).remove(0);
    assert_eq!(grant.waited, at(50.0));
    assert_eq!(s.release(at(53.0), grant.lease, 0).unwrap().lasted, at(3.0));
    let used = s.report(at(53.0)).tenants.iter().find(|t| t.tenant == "bob").unwrap().used;
    assert!((used - 3.0).abs() < 1e-9, "{used}");
}

#[test]
fn weight_divides_the_cost() {
    let (mut s, held) = busy();
    let (alice, bob) = (attach(&mut s, "alice"), attach(&mut s, "bob"));
    claim(&mut s, 1.0, bob, 6.0, 1);
    claim(&mut s, 1.0, alice, 10.0, 1);
    s.release(at(2.0), held.lease, 0);
    assert_eq!(granted(&mut s, 2.0), [alice], "10 / 2 is less than 6");
}

#[test]
fn an_aged_request_goes_before_shorter_ones() {
    let (mut s, held) = busy();
    let (old, young) = (attach(&mut s, "old"), attach(&mut s, "young"));
    claim(&mut s, 1.0, old, 60.0, 1);
    claim(&mut s, 100.0, young, 1.0, 1);
    let report = s.report(at(100.9));
    assert_eq!(report.queue[0].space, young);
    s.release(at(101.0), held.lease, 0);
    let actions = s.poll(at(101.0));
    assert!(matches!(&actions[..], [Action::Grant(grant)] if grant.space == old), "{actions:?}");
}

#[test]
fn a_large_aged_request_is_not_overtaken_for_ever() {
    let mut s = Scheduler::new(Policy { share: true, ..policy() }, &cards(1));
    let (large, a, b) = (attach(&mut s, "large"), attach(&mut s, "a"), attach(&mut s, "b"));
    let first = lease(&mut s, 0.0, a, 60.0, 4);
    claim(&mut s, 0.0, large, 60.0, 8);
    // passed by, while it is young
    let second = lease(&mut s, 50.0, b, 60.0, 4);
    s.release(at(60.0), first.lease, 0);
    claim(&mut s, 100.0, a, 1.0, 4);
    assert!(granted(&mut s, 100.0).is_empty(), "the card is reserved");
    assert_eq!(s.report(at(100.0)).queue[0].reserved, Some(CardId(0)));
    s.release(at(105.0), second.lease, 0);
    assert_eq!(granted(&mut s, 105.0), [large]);
}

#[test]
fn a_reservation_ends_with_its_request() {
    let mut s = Scheduler::new(Policy { share: true, ..policy() }, &cards(1));
    let (large, a, b) = (attach(&mut s, "large"), attach(&mut s, "a"), attach(&mut s, "b"));
    lease(&mut s, 90.0, a, 60.0, 4);
    let wait = Some(at(110.0));
    let request = s.claim(at(90.0), large, Claim { wait, ..wish(60.0, 8) }).unwrap();
    assert!(granted(&mut s, 195.0 - 100.0).is_empty());
    // the first lease was extended so that it is still there
    s.extend(at(149.0), LeaseId(request.0 - 1), 1.0).unwrap();
    claim(&mut s, 149.0, b, 1.0, 4);
    assert_eq!(granted(&mut s, 149.0), [b]);
    let b_lease = s.report(at(149.0)).cards[0].holders.iter().find(|h| h.space == b).unwrap().lease;
    s.release(at(149.5), b_lease, 0);
    claim(&mut s, 192.0, b, 1.0, 4);
    let told: Vec<_> = s.poll(at(192.0));
    assert!(matches!(told[..], [Action::Overdue { .. }]), "reserved for the large one: {told:?}");
    let end = s.poll(at(200.0));
    assert!(end.contains(&Action::TimedOut { request, space: large }), "{end:?}");
    assert!(end.iter().any(|action| matches!(action, Action::Grant(grant) if grant.space == b)), "{end:?}");
}

/// Spaces of alice and bob, so many of each, take one card in turns of 5 s without end: how often alice has as much as bob, and
/// the longest wait.
fn hungry(policy: Policy, each: usize) -> (f64, Duration) {
    let mut s = Scheduler::new(policy, &cards(1));
    let spaces: Vec<_> = (0..2 * each).map(|n| attach(&mut s, if n < each { "alice" } else { "bob" })).collect();
    let (mut now, mut longest) = (0.0, at(0.0));
    for space in spaces {
        claim(&mut s, now, space, 5.0, 1);
    }
    while now < 20_000.0 {
        let grant = grants(&mut s, now).remove(0);
        longest = longest.max(grant.waited);
        now += 5.0;
        s.release(at(now), grant.lease, 0);
        claim(&mut s, now, grant.space, 5.0, 1);
    }
    let report = s.report(at(now));
    let used = |name| report.tenants.iter().find(|t| t.tenant == name).unwrap().used;
    (used("alice") / used("bob"), longest)
}

#[test]
fn two_tenants_always_hungry_share_by_weight() {
    let (ratio, _) = hungry(Policy { aging: at(1e9), ..policy() }, 2);
    assert!((1.9..2.1).contains(&ratio), "weight 2 to 1 gave {ratio}");
}

/// So they do where all wait for longer than the aging.
#[test]
fn tenants_share_by_weight_also_when_all_have_aged() {
    // 8 Spaces and calls of 5 s: each waits for 35 to 40 s
    let (ratio, longest) = hungry(Policy { aging: at(30.0), ..policy() }, 4);
    // by the time alone it would be 1; the old among bob's keep it from 2
    assert!((1.25..2.1).contains(&ratio), "weight 2 to 1 gave {ratio}");
    assert!(longest < at(60.0 + 40.0), "{longest:?}");
}

/// With what is set where nobody sets anything: a long call gets its card before its program gives up.
#[test]
fn a_long_call_among_short_ones_is_served_in_time() {
    let patience = zerogpu_settings::Settings::default().wait;
    let defaults = Policy { context_bytes: 0, ..Policy::default() };
    let longest = defaults.max_seconds;
    let mut s = Scheduler::new(defaults, &cards(1));
    // short calls of others, one after the other, two of which always wait
    let short: Vec<_> = (0..3).map(|n| attach(&mut s, &format!("t{n}"))).collect();
    let wait = Some(patience);
    for space in &short {
        s.claim(at(0.0), *space, Claim { wait, ..wish(5.0, 1) }).unwrap();
    }
    let long = attach(&mut s, "long");
    let mut now = 0.0;
    let mut running = grants(&mut s, now).remove(0);
    s.claim(at(1.0), long, Claim { wait, ..wish(longest, 1) }).unwrap();
    while running.space != long {
        now += 5.0;
        s.release(at(now), running.lease, 0);
        s.claim(at(now), running.space, Claim { wait, ..wish(5.0, 1) }).unwrap();
        running = grants(&mut s, now).remove(0);
    }
    assert!(running.waited < patience, "{:?} of {patience:?}", running.waited);
}

#[test]
fn positions_and_estimates() {
    let (mut s, _) = busy();
    let (a, b) = (attach(&mut s, "a"), attach(&mut s, "b"));
    let long = claim(&mut s, 10.0, a, 30.0, 1);
    let short = claim(&mut s, 10.0, b, 20.0, 1);
    let of = 2;
    assert_eq!(s.position(at(10.0), short), Some(Position { place: 1, of, estimate: Some(50.0) }));
    assert_eq!(s.position(at(10.0), long), Some(Position { place: 2, of, estimate: Some(70.0) }));
    assert_eq!(s.position(at(10.0), RequestId(9999)), None);
    assert!(s.cancel(short));
    assert!(!s.cancel(short), "cancelled already");
    assert_eq!(s.position(at(10.0), long), Some(Position { place: 1, of: 1, estimate: Some(50.0) }));
}

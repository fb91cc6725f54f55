//! What is refused, and with which words.

mod common;
use common::*;
use zerogpu_lease::*;

fn refused<T: std::fmt::Debug>(s: &mut Scheduler, ask: impl FnOnce(&mut Scheduler) -> Result<T, Denial>) -> Denial {
    let before = format!("{s:?}");
    let denial = ask(s).unwrap_err();
    assert_eq!(format!("{s:?}"), before, "a refusal changes nothing");
    denial
}

#[test]
fn spaces_of_a_tenant() {
    let mut p = policy();
    p.default_tenant.spaces = 2;
    let mut s = Scheduler::new(p, &cards(1));
    let first = attach(&mut s, "bob");
    attach(&mut s, "bob");
    let spec = SpaceSpec { kind: KIND, vram: GIB };
    let denial = refused(&mut s, |s| s.attach(at(0.0), "bob", spec));
    assert_eq!(denial.reason, Reason::Spaces);
    assert_eq!(denial.text, "tenant 'bob' has 2 of its 2 Spaces: end one of them and try again");
    attach(&mut s, "carol");
    s.detach(at(0.0), first);
    attach(&mut s, "bob");
}

#[test]
fn quota_and_kind() {
    let mut p = policy();
    p.default_tenant.vram = 4 * GIB;
    let mut s = Scheduler::new(p, &cards(1));
    let denial = refused(&mut s, |s| s.attach(at(0.0), "bob", SpaceSpec { kind: KIND, vram: 5 * GIB }));
    assert_eq!(denial.reason, Reason::Vram);
    assert_eq!(
        denial.text,
        "a Space of tenant 'bob' may have 4.0 GiB of GPU memory, and this one wants 5.0 GiB: start it with 4.0 GiB or less"
    );
    let denial = refused(&mut s, |s| s.attach(at(0.0), "bob", SpaceSpec { kind: (8, 0), vram: GIB }));
    assert_eq!(denial.reason, Reason::NoCard);
    assert!(denial.text.contains("8.0") && denial.text.contains("9.0"), "{denial}");
}

#[test]
fn claims_that_cannot_be() {
    let mut s = Scheduler::new(Policy { context_bytes: 600 << 20, ..policy() }, &cards(1));
    let bob = attach(&mut s, "bob");
    for (seconds, reason) in [
        (f64::NAN, Reason::Invalid),
        (0.0, Reason::Invalid),
        (-1.0, Reason::Invalid),
        (1e-12, Reason::Invalid),
        (f64::INFINITY, Reason::TooLong),
        (60.5, Reason::TooLong),
    ] {
        assert_eq!(refused(&mut s, |s| s.claim(at(0.0), bob, wish(seconds, 1))).reason, reason, "{seconds}");
    }
    let denial = refused(&mut s, |s| s.claim(at(0.0), bob, wish(60.5, 1)));
    assert_eq!(denial.text, "The requested GPU duration (60.5s) is larger than the maximum allowed (60s)");
    let denial = refused(&mut s, |s| s.claim(at(0.0), bob, wish(1.0, 10)));
    assert_eq!(denial.reason, Reason::TooLarge);
    assert!(denial.text.contains("10.0 GiB") && denial.text.contains("600 MiB"), "{denial}");
    let huge = Claim { bytes: u64::MAX, ..wish(1.0, 0) };
    assert_eq!(refused(&mut s, |s| s.claim(at(0.0), bob, huge)).reason, Reason::TooLarge);
    assert_eq!(refused(&mut s, |s| s.claim(at(0.0), SpaceId(77), wish(1.0, 1))).reason, Reason::Unknown);
}

#[test]
fn one_request_or_lease_at_a_time() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let bob = attach(&mut s, "bob");
    claim(&mut s, 0.0, bob, 1.0, 1);
    assert_eq!(refused(&mut s, |s| s.claim(at(0.0), bob, wish(1.0, 1))).reason, Reason::Busy);
    let grant = grants(&mut s, 0.0).remove(0);
    assert_eq!(refused(&mut s, |s| s.claim(at(0.0), bob, wish(1.0, 1))).reason, Reason::Busy);
    assert_eq!(refused(&mut s, |s| s.adopt(at(0.0), bob, CardId(0), 1.0, 1)).reason, Reason::Busy);
    s.release(at(0.5), grant.lease, 0);
    claim(&mut s, 0.5, bob, 1.0, 1);
}

fn daily(limit: f64) -> Scheduler {
    let mut p = policy();
    p.default_tenant.gpu_seconds_per_day = Some(limit);
    Scheduler::new(p, &cards(4))
}

#[test]
fn seconds_of_a_day_come_back() {
    let mut s = daily(60.0);
    let bob = attach(&mut s, "bob");
    let grant = lease(&mut s, 900.0, bob, 60.0, 1);
    s.release(at(960.0), grant.lease, 0);
    // the Space goes and another comes: the account stays
    s.detach(at(1000.0), bob);
    let bob = attach(&mut s, "bob");
    let denial = refused(&mut s, |s| s.claim(at(7080.0), bob, wish(30.0, 1)));
    // used in the quarter from 15 to 30 minutes: free at 24 h 30 min, which is 1 h 58 min less away
    let again = at(86400.0 + 1800.0 - 7080.0);
    assert_eq!(denial.reason, Reason::Seconds { again: Some(again) });
    assert_eq!(
        denial.text,
        "tenant 'bob' has used 60 of its 60 GPU seconds within 24 hours, and this call asks for 30; enough are free in 22 h 32 min"
    );
    let back = 7080.0 + again.as_secs_f64();
    assert!(s.claim(at(back - 0.1), bob, wish(30.0, 1)).is_err());
    claim(&mut s, back, bob, 30.0, 1);
}

#[test]
fn seconds_promised_to_open_calls_are_not_promised_twice() {
    let mut s = daily(60.0);
    let spaces: Vec<_> = (0..3).map(|_| attach(&mut s, "bob")).collect();
    let first = lease(&mut s, 0.0, spaces[0], 30.0, 1);
    claim(&mut s, 10.0, spaces[1], 20.0, 1);
    let denial = refused(&mut s, |s| s.claim(at(10.0), spaces[2], wish(20.0, 1)));
    assert_eq!(denial.reason, Reason::Seconds { again: None });
    assert!(denial.text.contains("has used 10 of its 60") && denial.text.contains("use 40 more"), "{denial}");
    s.release(at(10.0), first.lease, 0);
    claim(&mut s, 10.0, spaces[2], 20.0, 1);
    let denial = refused(&mut s, |s| s.claim(at(10.0), spaces[0], wish(60.0, 1)));
    assert!(matches!(denial.reason, Reason::Seconds { .. }));
}

#[test]
fn a_call_longer_than_the_day() {
    let mut s = daily(50.0);
    let bob = attach(&mut s, "bob");
    let denial = refused(&mut s, |s| s.claim(at(0.0), bob, wish(55.0, 1)));
    assert_eq!(denial.reason, Reason::Seconds { again: None });
    assert_eq!(denial.text, "tenant 'bob' has 50 GPU seconds within 24 hours, and this call asks for 55: ask for less");
}

#[test]
fn another_policy_counts_at_once_for_what_is_new() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let (a, b) = (attach(&mut s, "bob"), attach(&mut s, "bob"));
    let grant = lease(&mut s, 0.0, a, 60.0, 1);
    let mut p = policy();
    p.default_tenant.spaces = 1;
    p.default_tenant.gpu_seconds_per_day = Some(10.0);
    p.max_seconds = 20.0;
    s.set_policy(at(5.0), p);
    assert_eq!(refused(&mut s, |s| s.claim(at(5.0), b, wish(30.0, 1))).reason, Reason::TooLong);
    assert!(matches!(refused(&mut s, |s| s.claim(at(5.0), b, wish(6.0, 1))).reason, Reason::Seconds { .. }));
    let spec = SpaceSpec { kind: KIND, vram: 0 };
    assert_eq!(refused(&mut s, |s| s.attach(at(5.0), "bob", spec)).reason, Reason::Spaces);
    assert_eq!(grant.deadline, at(60.0));
    assert_eq!(s.report(at(5.0)).cards[0].holders[0].left, 55.0, "what is granted stays");
}

#[test]
fn idle_tenants_are_forgotten_when_nothing_of_them_counts() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let bob = attach(&mut s, "bob");
    let grant = lease(&mut s, 0.0, bob, 60.0, 1);
    s.release(at(60.0), grant.lease, 0);
    s.detach(at(60.0), bob);
    let spec = SpaceSpec { kind: KIND, vram: 0 };
    s.attach(at(80_000.0), "carol", spec).unwrap();
    assert_eq!(s.report(at(80_000.0)).tenants.len(), 2, "bob's day is not over");
    s.attach(at(90_000.0), "carol", spec).unwrap();
    assert_eq!(s.report(at(90_000.0)).tenants.len(), 1);
}

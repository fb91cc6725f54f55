//! Leases, cards and warm bytes, by example.

mod common;
use common::*;
use zerogpu_lease::*;

#[test]
fn one_lease_a_card_unless_shared() {
    let mut s = Scheduler::new(policy(), &cards(2));
    let spaces: Vec<_> = (0..3).map(|_| attach(&mut s, "bob")).collect();
    for space in &spaces {
        claim(&mut s, 0.0, *space, 10.0, 1);
    }
    let got = grants(&mut s, 0.0);
    assert_eq!(got.iter().map(|g| g.card).collect::<Vec<_>>(), [CardId(0), CardId(1)]);
    s.set_policy(at(1.0), Policy { share: true, ..policy() });
    assert_eq!(granted(&mut s, 1.0), [spaces[2]]);
}

#[test]
fn grace_begins_anew_for_whoever_could_not_let_go() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let space = attach(&mut s, "t");
    let grant = lease(&mut s, 0.0, space, 10.0, 1);
    let lease = grant.lease;
    s.respite(at(9.0), lease);
    assert_eq!(s.poll(at(10.0)), [Action::Overdue { lease, space }], "it has had its time all the same");
    assert_eq!(s.poll(at(15.0)), [Action::Kill { lease, space }]);
    s.respite(at(17.0), lease);
    assert_eq!((s.overdue_since(lease), s.next_wake(at(17.0))), (Some(at(17.0)), Some(at(22.0))));
    assert_eq!(s.poll(at(22.0)), [Action::Kill { lease, space }]);
    // whoever is being ended is not given more
    assert!(s.condemn(at(23.0), lease));
    s.respite(at(24.0), lease);
    assert_eq!((s.poll(at(40.0)), s.next_wake(at(40.0))), (vec![], None));
}

#[test]
fn contexts_take_room() {
    let mut s = Scheduler::new(Policy { share: true, context_bytes: GIB, ..policy() }, &cards(1));
    let spaces: Vec<_> = (0..2).map(|_| attach(&mut s, "bob")).collect();
    claim(&mut s, 0.0, spaces[0], 10.0, 4);
    claim(&mut s, 0.0, spaces[1], 10.0, 5);
    assert_eq!(granted(&mut s, 0.0), [spaces[0]], "4 + 1 + 5 + 1 is more than 10");
    assert_eq!(s.report(at(0.0)).cards[0].leased, 5 * GIB);
}

#[test]
fn warm_bytes_draw_their_space_and_the_freest_card_the_others() {
    let mut s = Scheduler::new(policy(), &cards(3));
    let (a, b, c) = (attach(&mut s, "t"), attach(&mut s, "t"), attach(&mut s, "t"));
    assert_eq!(warm(&mut s, 0.0, a, 4), CardId(0));
    assert_eq!(warm(&mut s, 1.0, b, 2), CardId(1), "card 0 has less that is free");
    assert_eq!(warm(&mut s, 2.0, c, 1), CardId(2));
    assert_eq!(warm(&mut s, 3.0, a, 4), CardId(0), "its own bytes are there");
    s.drop_warm(a);
    let d = attach(&mut s, "t");
    assert_eq!(warm(&mut s, 4.0, d, 1), CardId(0), "the freest now");
}

#[test]
fn bytes_on_another_card_are_old_after_a_grant() {
    let mut s = Scheduler::new(policy(), &cards(2));
    let (a, b) = (attach(&mut s, "t"), attach(&mut s, "t"));
    warm(&mut s, 0.0, a, 4);
    // b takes card 1, then card 0 is taken by a large request
    warm(&mut s, 0.0, b, 8);
    let c = attach(&mut s, "t");
    assert_eq!(lease(&mut s, 1.0, c, 10.0, 6).card, CardId(0));
    let grant = lease(&mut s, 1.0, a, 10.0, 2);
    assert_eq!(grant.card, CardId(1));
    assert_eq!(grant.evict, [Evict { space: a, card: CardId(0), bytes: 4 * GIB }]);
    assert_eq!(s.report(at(1.0)).cards[0].warm, 0);
    assert_eq!(s.report(at(1.0)).cards[1].warm, 8 * GIB, "b's stay: they fit");
}

#[test]
fn the_least_recently_used_leave_and_only_as_far_as_needed() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let spaces: Vec<_> = (0..4).map(|_| attach(&mut s, "t")).collect();
    for (now, space, gib) in [(0.0, 0, 1), (1.0, 1, 3), (2.0, 2, 2), (3.0, 3, 3)] {
        warm(&mut s, now, spaces[space], gib);
    }
    // 1 is free, 3 are needed: the oldest has 1, the next 3, which alone are enough
    let d = attach(&mut s, "t");
    let grant = lease(&mut s, 4.0, d, 1.0, 4);
    assert_eq!(grant.evict, [Evict { space: spaces[1], card: CardId(0), bytes: 3 * GIB }]);
    assert_eq!(s.report(at(4.0)).cards[0].leaving, 3 * GIB);
    s.evicted(spaces[1], CardId(0));
    assert_eq!(s.report(at(4.0)).cards[0].leaving, 0);
    assert_eq!(s.report(at(4.0)).cards[0].warm, 6 * GIB);
}

#[test]
fn warm_bytes_that_go_by_themselves() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let a = attach(&mut s, "t");
    warm(&mut s, 0.0, a, 4);
    s.shrink_warm(a, GIB);
    assert_eq!(s.report(at(0.0)).cards[0].warm, 3 * GIB);
    s.shrink_warm(a, 9 * GIB);
    assert_eq!(s.report(at(0.0)).cards[0].residents, []);
    assert_eq!(s.report(at(0.0)).spaces[0].state, State::Parked);
}

#[test]
fn warm_bytes_last_as_long_as_the_policy_says() {
    let mut s = Scheduler::new(Policy { warm_for: Some(at(30.0)), ..policy() }, &cards(1));
    let a = attach(&mut s, "t");
    warm(&mut s, 1.0, a, 4);
    assert_eq!(s.next_wake(at(2.0)), Some(at(31.0)));
    assert_eq!(s.poll(at(30.9)), []);
    assert_eq!(s.poll(at(31.0)), [Action::Evict(Evict { space: a, card: CardId(0), bytes: 4 * GIB })]);
    assert_eq!(s.next_wake(at(31.0)), None);
    s.set_policy(at(32.0), Policy { warm_for: Some(at(0.0)), ..policy() });
    warm(&mut s, 33.0, a, 1);
    assert_eq!(s.next_wake(at(33.0)), Some(at(33.0)), "zero: not at all");
    assert_eq!(s.poll(at(33.0)).len(), 1);
}

#[test]
fn deadline_grace_end() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let (a, b) = (attach(&mut s, "t"), attach(&mut s, "t"));
    let held = lease(&mut s, 0.0, a, 10.0, 1).lease;
    claim(&mut s, 0.0, b, 10.0, 1);
    assert_eq!(s.next_wake(at(0.0)), Some(at(10.0)));
    assert_eq!(s.poll(at(9.9)), []);
    assert_eq!(s.poll(at(11.0)), [Action::Overdue { lease: held, space: a }]);
    assert_eq!(s.next_wake(at(11.0)), Some(at(16.0)), "grace counts from the word");
    assert_eq!(s.extend(at(11.0), held, 5.0).unwrap_err().reason, Reason::Overdue);
    assert_eq!(s.poll(at(15.0)), []);
    assert_eq!(s.poll(at(16.0)), [Action::Kill { lease: held, space: a }]);
    assert_eq!(s.poll(at(17.0)), [], "said once");
    assert_eq!(s.detach(at(17.0), a).unwrap().lasted, at(17.0));
    assert_eq!(granted(&mut s, 17.0), [b]);
}

#[test]
fn revoked() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let a = attach(&mut s, "t");
    let held = lease(&mut s, 0.0, a, 10.0, 1).lease;
    assert!(s.revoke(at(2.0), held));
    assert_eq!(s.next_wake(at(2.0)), Some(at(2.0)));
    assert_eq!(s.poll(at(2.0)), [Action::Overdue { lease: held, space: a }]);
    s.release(at(3.0), held, 0);
    assert!(!s.revoke(at(3.0), held));
}

#[test]
fn a_time_out_and_a_claim_that_does_not_wait() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let (a, b) = (attach(&mut s, "t"), attach(&mut s, "t"));
    let now_or_never = Claim { wait: Some(at(0.0)), ..wish(10.0, 1) };
    s.claim(at(0.0), a, now_or_never).unwrap();
    assert_eq!(granted(&mut s, 0.0), [a]);
    let request = s.claim(at(1.0), b, now_or_never).unwrap();
    assert_eq!(s.poll(at(1.0)), [Action::TimedOut { request, space: b }]);
    claim(&mut s, 2.0, b, 10.0, 1);
    assert_eq!(s.report(at(2.0)).queue.len(), 1, "it may claim again");
}

#[test]
fn extended_freely_while_nobody_waits() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let (a, b) = (attach(&mut s, "t"), attach(&mut s, "t"));
    let held = lease(&mut s, 0.0, a, 10.0, 1).lease;
    assert_eq!(s.extend(at(5.0), held, 1.0), Ok(at(10.0)), "never shorter");
    assert_eq!(s.extend(at(5.0), held, 60.0), Ok(at(65.0)), "beyond 60 s after the grant");
    assert_eq!(s.extend(at(6.0), held, 1e9), Ok(at(66.0)), "as long as a lease may be");
    claim(&mut s, 10.0, b, 10.0, 1);
    let denial = s.extend(at(10.0), held, 60.0).unwrap_err();
    assert_eq!(denial.reason, Reason::OthersWait);
    assert!(denial.text.contains("would last 70 s of at most 60 s"), "{denial}");
    assert_eq!(s.extend(at(10.0), held, 30.0), Ok(at(66.0)), "what was promised stays");
}

#[test]
fn extended_as_far_as_may_be_while_others_wait() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let (a, b) = (attach(&mut s, "t"), attach(&mut s, "t"));
    let held = lease(&mut s, 0.0, a, 10.0, 1).lease;
    claim(&mut s, 1.0, b, 10.0, 1);
    assert_eq!(s.extend(at(5.0), held, 60.0), Ok(at(60.0)), "60 s after the grant, and not 65");
    assert_eq!(s.extend(at(6.0), held, 60.0).unwrap_err().reason, Reason::OthersWait);
    // what the day leaves
    let day = TenantPolicy { gpu_seconds_per_day: Some(30.0), ..TenantPolicy::default() };
    let mut s = Scheduler::new(Policy { default_tenant: day, ..policy() }, &cards(1));
    let a = attach(&mut s, "t");
    let held = lease(&mut s, 0.0, a, 10.0, 1).lease;
    assert_eq!(s.extend(at(5.0), held, 60.0), Ok(at(30.0)));
    assert!(matches!(s.extend(at(6.0), held, 60.0).unwrap_err().reason, Reason::Seconds { .. }));
}

#[test]
fn borrowed_leases_last_no_longer_while_others_wait() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let (a, b) = (attach(&mut s, "t"), attach(&mut s, "t"));
    let borrow = Claim { seconds: 10.0, bytes: GIB, wait: None, borrowed: true };
    s.claim(at(0.0), a, borrow).unwrap();
    let held = grants(&mut s, 0.0).remove(0).lease;
    assert_eq!(s.extend(at(5.0), held, 10.0), Ok(at(15.0)), "nobody waits");
    claim(&mut s, 6.0, b, 60.0, 1);
    assert_eq!(s.extend(at(7.0), held, 10.0).unwrap_err().reason, Reason::OthersWait);
    // and what it asks for then stands behind a call that was there
    s.release(at(15.0), held, 0);
    s.claim(at(15.0), a, borrow).unwrap();
    assert_eq!(granted(&mut s, 15.0), [b]);
}

#[test]
fn growing_and_shrinking() {
    let mut s = Scheduler::new(Policy { share: true, ..policy() }, &cards(1));
    let (a, b, c) = (attach(&mut s, "t"), attach(&mut s, "t"), attach(&mut s, "t"));
    warm(&mut s, 0.0, c, 4);
    let held = lease(&mut s, 0.0, a, 10.0, 2).lease;
    lease(&mut s, 0.0, b, 10.0, 3);
    assert_eq!(s.grow(held, GIB), Ok(vec![]), "1 is free");
    assert_eq!(s.grow(held, GIB), Ok(vec![Evict { space: c, card: CardId(0), bytes: 4 * GIB }]));
    let denial = s.grow(held, 4 * GIB).unwrap_err();
    assert_eq!(denial.reason, Reason::Room);
    assert!(denial.text.contains("3.0 GiB left") && denial.text.contains("4.0 GiB more"), "{denial}");
    s.shrink(held, GIB);
    s.grow(held, 4 * GIB).unwrap();
    assert_eq!(s.report(at(0.0)).cards[0].free, 0);
}

#[test]
fn leases_of_an_earlier_broker() {
    let mut s = Scheduler::new(policy(), &cards(2));
    s.hold(at(10.0));
    let (a, b, c, d) = (attach(&mut s, "t"), attach(&mut s, "t"), attach(&mut s, "t"), attach(&mut s, "t"));
    claim(&mut s, 0.0, c, 1.0, 1);
    assert!(granted(&mut s, 0.0).is_empty());
    assert_eq!(s.next_wake(at(0.0)), Some(at(10.0)));
    let held = s.adopt(at(1.0), a, CardId(0), 20.0, 4 * GIB).unwrap();
    s.adopt(at(1.0), b, CardId(0), 500.0, 4 * GIB).expect("a fact, although exclusive now");
    assert_eq!(granted(&mut s, 10.0), [c]);
    let report = s.report(at(10.0));
    assert_eq!(report.cards[0].holders.len(), 2);
    assert_eq!(report.cards[0].holders[1].left, 51.0, "at most the longest lease");
    let late = s.adopt(at(11.0), d, CardId(1), 5.0, GIB).unwrap_err();
    assert_eq!(late.reason, Reason::Room);
    assert_eq!(s.adopt(at(11.0), d, CardId(7), 5.0, GIB).unwrap_err().reason, Reason::Unknown);
    assert_eq!(s.release(at(12.0), held, GIB).unwrap().lasted, at(11.0));
    assert_eq!(s.report(at(12.0)).cards[0].warm, GIB);
}

#[test]
fn who_comes_late_with_a_lease_goes_before_nobody() {
    let mut p = policy();
    p.default_tenant.gpu_seconds_per_day = Some(30.0);
    let mut s = Scheduler::new(p, &cards(1));
    s.hold(at(10.0));
    let (a, b) = (attach(&mut s, "t"), attach(&mut s, "t"));
    claim(&mut s, 11.0, a, 5.0, 1);
    assert_eq!(s.adopt(at(11.0), b, CardId(0), 5.0, GIB).unwrap_err().reason, Reason::OthersWait);
    assert_eq!(granted(&mut s, 11.0), [a]);
    let ended = s.detach(at(12.0), a).unwrap();
    assert_eq!(ended.lasted, at(1.0));
    assert!(matches!(s.adopt(at(12.0), b, CardId(0), 29.5, GIB).unwrap_err().reason, Reason::Seconds { .. }));
    s.adopt(at(12.0), b, CardId(0), 29.0, GIB).expect("nobody waits, and the day has room");
}

#[test]
fn a_renewed_lease_is_the_same_under_another_number() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let (a, b) = (attach(&mut s, "t"), attach(&mut s, "t"));
    let old = lease(&mut s, 0.0, a, 10.0, 1).lease;
    claim(&mut s, 1.0, b, 5.0, 1);
    let new = s.renew(old).unwrap();
    assert!(new != old && s.renew(old).is_none());
    assert_eq!((s.deadline(new), s.deadline(old)), (Some(at(10.0)), None));
    assert!(granted(&mut s, 2.0).is_empty());
    assert!(s.release(at(3.0), old, 0).is_none());
    assert_eq!(s.release(at(3.0), new, 0).unwrap().lasted, at(3.0));
    assert_eq!(granted(&mut s, 3.0), [b]);
}

#[test]
fn kinds_do_not_mix() {
    let old = CardSpec { kind: (8, 0), bytes: 10 * GIB };
    let mut s = Scheduler::new(policy(), &[old, cards(1)[0]]);
    let a = attach(&mut s, "t");
    assert_eq!(lease(&mut s, 0.0, a, 10.0, 1).card, CardId(1));
    let b = s.attach(at(0.0), "t", SpaceSpec { kind: (8, 0), vram: 0 }).unwrap();
    assert_eq!(lease(&mut s, 0.0, b, 10.0, 1).card, CardId(0));
    let c = s.attach(at(0.0), "t", SpaceSpec { kind: (8, 0), vram: 0 }).unwrap();
    assert_eq!(s.adopt(at(0.0), c, CardId(1), 5.0, GIB).unwrap_err().reason, Reason::NoCard);
}

#[test]
fn a_report_survives_json() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let (a, b, c) = (attach(&mut s, "t"), attach(&mut s, "t"), attach(&mut s, "alice"));
    warm(&mut s, 0.0, c, 1);
    lease(&mut s, 0.0, a, 10.0, 1);
    claim(&mut s, 0.5, b, 10.0, 1);
    let report = s.report(at(1.5));
    let json = serde_json::to_string(&report).unwrap();
    let back: Report = serde_json::from_str(&json).unwrap();
    assert_eq!((back.cards, back.spaces), (report.cards, report.spaces));
    assert!(json.contains(r#""state":"waiting""#) && json.contains(r#""card":0"#), "{json}");
}

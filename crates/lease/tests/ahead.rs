//! Bytes ahead of a claim, holders that are being ended, and what outlives a broker.

mod common;
use common::*;
use zerogpu_lease::*;

fn warm_on(s: &Scheduler, card: usize) -> Vec<(SpaceId, u64)> {
    s.report(at(0.0)).cards[card].residents.iter().map(|warm| (warm.space, warm.bytes / GIB)).collect()
}

#[test]
fn bytes_come_to_an_idle_card_and_the_claim_finds_them() {
    let mut s = Scheduler::new(policy(), &cards(2));
    let (a, b) = (attach(&mut s, "t"), attach(&mut s, "t"));
    lease(&mut s, 0.0, b, 10.0, 1);
    let found = s.prefetch(at(1.0), a, 30.0, 4 * GIB).unwrap();
    assert_eq!((found.card, found.evict), (CardId(1), vec![]), "somebody computes on the first");
    let report = s.report(at(1.0));
    assert_eq!((report.cards[1].warm, report.cards[1].leased), (4 * GIB, 0));
    assert!(report.cards[1].residents[0].ahead);
    assert_eq!(report.tenants[0].used, 1.0, "no GPU seconds of it");
    assert_eq!(lease(&mut s, 2.0, a, 10.0, 4).card, CardId(1));
    assert_eq!(s.report(at(2.0)).cards[1].warm, 0);
}

#[test]
fn nothing_comes_where_it_would_be_in_the_way() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let (a, b, c) = (attach(&mut s, "t"), attach(&mut s, "t"), attach(&mut s, "t"));
    let held = lease(&mut s, 0.0, a, 10.0, 1).lease;
    assert_eq!(s.prefetch(at(0.0), b, 30.0, GIB), None, "the card is leased");
    assert_eq!(s.prefetch(at(0.0), a, 30.0, GIB), None, "it computes");
    let waiting = claim(&mut s, 0.0, b, 10.0, 9);
    s.release(at(1.0), held, GIB);
    assert_eq!(s.prefetch(at(1.0), c, 30.0, GIB), None, "somebody waits");
    s.cancel(waiting);
    assert_eq!(s.prefetch(at(1.0), c, 30.0, 11 * GIB), None, "it fits on no card");
    assert!(s.prefetch(at(1.0), c, 30.0, GIB).is_some());
    for off in [Policy { prefetch: false, ..policy() }, Policy { warm_for: Some(at(0.0)), ..policy() }] {
        s.set_policy(at(1.0), off);
        assert_eq!(s.prefetch(at(1.0), b, 30.0, GIB), None);
    }
}

#[test]
fn a_claim_takes_the_room_at_once() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let (a, b) = (attach(&mut s, "t"), attach(&mut s, "t"));
    s.prefetch(at(0.0), a, 30.0, 8 * GIB).unwrap();
    let grant = lease(&mut s, 0.0, b, 10.0, 8);
    assert_eq!(grant.evict, [Evict { space: a, card: CardId(0), bytes: 8 * GIB }]);
    s.settle_warm(a, CardId(0), 2 * GIB);
    assert_eq!(s.report(at(0.0)).cards[0].warm, 0, "what is told late changes nothing");
}

#[test]
fn others_bytes_leave_once_for_each_claim() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let (a, b) = (attach(&mut s, "t"), attach(&mut s, "t"));
    warm(&mut s, 0.0, b, 8);
    assert_eq!(s.prefetch(at(1.0), a, 30.0, 8 * GIB), None, "it has never claimed");
    warm(&mut s, 2.0, a, 8);
    warm(&mut s, 3.0, b, 8);
    let found = s.prefetch(at(4.0), a, 30.0, 8 * GIB).unwrap();
    assert_eq!(found.evict.len(), 1);
    assert_eq!(s.prefetch(at(5.0), b, 30.0, 8 * GIB), None, "a's claim is expected");
    assert!(s.prefetch(at(35.0), b, 30.0, 8 * GIB).is_some(), "it did not come");
    assert_eq!(s.prefetch(at(70.0), a, 30.0, 8 * GIB), None, "a has not kept its word");
    assert_eq!(warm_on(&s, 0), [(b, 8)]);
}

#[test]
fn what_did_not_get_there_is_free_again() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let a = attach(&mut s, "t");
    s.prefetch(at(0.0), a, 30.0, 8 * GIB).unwrap();
    s.settle_warm(a, CardId(0), 3 * GIB);
    assert_eq!(warm_on(&s, 0), [(a, 3)]);
    s.settle_warm(a, CardId(0), 9 * GIB);
    assert_eq!(warm_on(&s, 0), [(a, 3)], "never more");
    s.settle_warm(a, CardId(0), 0);
    assert_eq!((warm_on(&s, 0), s.report(at(0.0)).spaces[0].state), (vec![], State::Parked));
}

#[test]
fn a_holder_that_is_being_ended_keeps_its_card_until_it_has_ended() {
    let mut s = Scheduler::new(policy(), &cards(1));
    let (a, b) = (attach(&mut s, "t"), attach(&mut s, "t"));
    let held = lease(&mut s, 0.0, a, 10.0, 1).lease;
    claim(&mut s, 1.0, b, 10.0, 1);
    assert!(s.condemn(at(1.0), held));
    assert!(s.report(at(1.0)).cards[0].holders[0].ending);
    // neither told nor ended again, and nobody else has the card
    assert_eq!(s.poll(at(100.0)), []);
    s.detach(at(101.0), a);
    assert_eq!(granted(&mut s, 101.0), [b]);
    assert!(!s.condemn(at(101.0), held));
}

#[test]
fn a_late_holder_keeps_a_card_that_is_free() {
    let mut s = Scheduler::new(policy(), &cards(2));
    let (a, b) = (attach(&mut s, "t"), attach(&mut s, "t"));
    lease(&mut s, 0.0, a, 10.0, 1);
    assert_eq!(s.adopt(at(9.0), b, CardId(0), 5.0, GIB).unwrap_err().reason, Reason::Room);
    s.adopt(at(9.0), b, CardId(1), 5.0, 1 << 60).expect("it can't have more than there is");
    assert_eq!(s.report(at(9.0)).cards[1].free, 0);
}

#[test]
fn a_tenants_day_goes_on_with_another_broker() {
    let mut p = policy();
    p.default_tenant.gpu_seconds_per_day = Some(100.0);
    let mut first = Scheduler::new(p.clone(), &cards(1));
    let a = attach(&mut first, "bob");
    let held = lease(&mut first, 1000.0, a, 60.0, 1).lease;
    first.release(at(1050.0), held, 0);
    lease(&mut first, 80_000.0, a, 50.0, 1);
    let book = first.book(at(80_010.0));
    let json = serde_json::to_string(&book).unwrap();

    let mut second = Scheduler::new(p, &cards(1));
    let nonsense = [(at(0.0), 9.0), (at(1e9), 9.0), (at(60.0), f64::NAN), (at(60.0), -3.0)];
    second.restore(at(0.0), &[Use { tenant: "bob".into(), seconds: nonsense.into() }]);
    second.restore(at(0.0), &serde_json::from_str::<Vec<Use>>(&json).unwrap());
    assert_eq!(second.report(at(0.0)).tenants[0].used, 60.0, "also of the lease that runs");
    let b = attach(&mut second, "bob");
    let denial = second.claim(at(0.0), b, wish(41.0, 1)).unwrap_err();
    assert!(matches!(denial.reason, Reason::Seconds { again: Some(_) }), "{denial:?}");
    lease(&mut second, 0.0, b, 40.0, 1);
    // 24 h after the quarter in which they were used: 1800 - 80010 + 86400
    assert_eq!(second.report(at(8191.0)).tenants[0].used - 8191.0, 10.0);
}

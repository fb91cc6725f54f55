//! Spaces that are bound to their context on a card.

mod common;
use common::*;
use zerogpu_lease::*;

/// Two cards of 10 GiB, contexts of 1 GiB, and a Space whose lease on card 0 has just ended.
fn scene() -> (Scheduler, SpaceId) {
    let mut s = Scheduler::new(Policy { context_bytes: GIB, ..policy() }, &cards(2));
    let space = attach(&mut s, "bob");
    let grant = lease(&mut s, 0.0, space, 10.0, 1);
    assert_eq!(grant.card, CardId(0));
    s.bind(space, CardId(0), Kept::Stays);
    assert_eq!(s.report(at(0.0)).cards[0].leased, 2 * GIB, "while it has a lease, that counts its context");
    s.release(at(1.0), grant.lease, 0).unwrap();
    (s, space)
}

#[test]
fn it_computes_on_its_card_only() {
    let (mut s, space) = scene();
    s.bind(space, CardId(0), Kept::Aside);
    let other = attach(&mut s, "carol");
    assert_eq!(lease(&mut s, 2.0, other, 10.0, 1).card, CardId(0), "aside it is in nobody's way");
    claim(&mut s, 3.0, space, 10.0, 1);
    assert!(grants(&mut s, 3.0).is_empty(), "card 1 is free, and no use to it");
    let third = attach(&mut s, "carol");
    assert_eq!(lease(&mut s, 4.0, third, 10.0, 1).card, CardId(1));
    s.detach(at(5.0), other);
    assert_eq!(granted(&mut s, 5.0), [space]);
}

#[test]
fn nobody_gets_a_card_that_a_context_leaves() {
    let (mut s, space) = scene();
    s.bind(space, CardId(0), Kept::Leaving);
    let other = attach(&mut s, "carol");
    assert_eq!(lease(&mut s, 2.0, other, 10.0, 1).card, CardId(1));
    claim(&mut s, 2.0, space, 10.0, 1);
    let third = attach(&mut s, "carol");
    claim(&mut s, 2.0, third, 20.0, 1);
    assert!(grants(&mut s, 3.0).is_empty());
    assert_eq!(s.report(at(3.0)).cards[0].leased, GIB);
    s.bind(space, CardId(0), Kept::Aside);
    assert_eq!(granted(&mut s, 4.0), [space], "the shorter one");
    s.detach(at(5.0), space);
    assert_eq!(granted(&mut s, 5.0), [third]);
    assert_eq!(s.report(at(5.0)).cards[0].leased, 2 * GIB, "its own lease and no other's context");
}

#[test]
fn a_context_that_stays_takes_room_of_others_and_not_of_its_own() {
    let (mut s, space) = scene();
    s.bind(space, CardId(0), Kept::Stays);
    assert_eq!(s.report(at(2.0)).cards[0].leased, GIB);
    let other = attach(&mut s, "carol");
    let all = lease(&mut s, 2.0, other, 10.0, 9);
    assert_eq!(all.card, CardId(1), "there is no room on card 0");
    let grant = lease(&mut s, 2.0, space, 10.0, 9);
    assert_eq!(grant.card, CardId(0));
    assert_eq!(s.report(at(2.0)).cards[0].leased, 10 * GIB);
    s.release(at(3.0), grant.lease, 0);
    s.bind(space, CardId(0), Kept::Stays);
    s.detach(at(4.0), space);
    assert_eq!(s.report(at(4.0)).cards[0].leased, 0);
}

#[test]
fn warm_bytes_leave_for_a_context_that_stays() {
    let (mut s, space) = scene();
    s.bind(space, CardId(0), Kept::Aside);
    let other = attach(&mut s, "carol");
    assert_eq!(warm(&mut s, 2.0, other, 9), CardId(0));
    let third = attach(&mut s, "carol");
    assert_eq!(lease(&mut s, 2.0, third, 10.0, 9).card, CardId(1));
    s.bind(space, CardId(0), Kept::Stays);
    assert!(s.poll(at(3.0)).is_empty(), "9 warm and one context have room");
    let fourth = attach(&mut s, "carol");
    let grant = lease(&mut s, 3.0, fourth, 1.0, 1);
    assert_eq!(grant.evict, [Evict { space: other, card: CardId(0), bytes: 9 * GIB }]);
}

#[test]
fn a_lease_can_begin_later_than_its_grant() {
    let (mut s, space) = scene();
    let grant = lease(&mut s, 2.0, space, 10.0, 1);
    assert_eq!(grant.deadline, at(12.0));
    assert_eq!(s.restart(at(5.0), grant.lease), Some(at(15.0)));
    assert!(s.poll(at(14.0)).is_empty());
    assert_eq!(s.poll(at(15.0)), [Action::Overdue { lease: grant.lease, space }]);
    s.release(at(16.0), grant.lease, 0);
    assert_eq!(s.restart(at(17.0), grant.lease), None);
}

#[test]
fn who_fits_only_without_a_context_that_stays_keeps_no_card_free() {
    let mut s = Scheduler::new(Policy { context_bytes: GIB, share: true, ..policy() }, &cards(1));
    let space = attach(&mut s, "bob");
    let grant = lease(&mut s, 0.0, space, 10.0, 1);
    s.bind(space, CardId(0), Kept::Stays);
    s.release(at(1.0), grant.lease, 0).unwrap();
    s.bind(space, CardId(0), Kept::Stays);
    let (large, small) = (attach(&mut s, "carol"), attach(&mut s, "dave"));
    claim(&mut s, 2.0, large, 10.0, 9);
    assert!(grants(&mut s, 2.0).is_empty());
    // long after it has aged, others are served
    claim(&mut s, 500.0, small, 10.0, 1);
    assert_eq!(granted(&mut s, 500.0), [small]);
    // its own context is no hindrance to the bound one
    claim(&mut s, 501.0, space, 10.0, 6);
    assert_eq!(granted(&mut s, 501.0), [space]);
}

//! Copies, pins, physical memory and hashes against softcuda: cargo build --workspace && cargo test -p zerogpu-below
mod lab;

use lab::{seen, Host, Lab, MIB};
use std::collections::BTreeMap;
use zerogpu_abi::CUresult;
use zerogpu_below::{copy, physical, Copied, Hasher, Leaked, Pinning, Pins, Trip, Way, PIECE};
use zerogpu_hash::{hash_chunks, write_bytes, CHUNK};

/// A backing in which a piece ends after its first mebibyte.
fn backing(len: u64) -> (Host, Pins) {
    let mut host = Host::new(len);
    write_bytes(host.bytes(), 1);
    let pins = Pins::new(host.at + MIB - PIECE);
    (host, pins)
}

fn all(bytes: u64) -> Copied {
    Copied { bytes, pageable: 0, refused: None }
}

#[test]
fn kept_pins_are_made_once_and_never_crossed() {
    let lab = Lab::new();
    let (mut host, mut pins) = backing(4 * MIB);
    let card = lab.on_card(4 * MIB);
    let trips = [
        Trip { device: card.va, host: host.at, len: MIB / 2 },
        Trip { device: card.va + MIB / 2, host: host.at + MIB / 2, len: 0 },
        Trip { device: card.va + MIB / 2, host: host.at + MIB / 2, len: 7 * MIB / 2 },
    ];
    assert_eq!(copy(&lab.d, Way::In, &trips, Pinning::Kept(&mut pins)), Ok(all(4 * MIB)));
    assert_eq!(card.bytes(), host.bytes());
    let expected = [(0, MIB / 2), (MIB / 2, MIB), (MIB, 4 * MIB)].map(|(a, b)| (host.at + a, host.at + b));
    seen(|s| assert_eq!(s.registered, BTreeMap::from(expected)));
    assert_eq!(pins.bytes(), 4 * MIB);
    assert!(pins.covers(host.at, 4 * MIB) && !pins.covers(host.at, 4 * MIB + 1));

    // one trip over all of them
    let mut data = vec![0; 4 * MIB as usize];
    write_bytes(&mut data, 2);
    card.fill(&data);
    let trip = Trip { device: card.va, host: host.at, len: 4 * MIB };
    assert_eq!(copy(&lab.d, Way::Out, &[trip], Pinning::Kept(&mut pins)), Ok(all(4 * MIB)));
    assert_eq!(host.bytes(), data);
    seen(|s| assert_eq!((s.registrations, s.objects, s.copies.len()), (3, 0, 6)));
    pins.clear(&lab.d).unwrap();
    seen(|s| assert_eq!(s.registered, BTreeMap::new()));
    assert_eq!(pins.bytes(), 0);
}

#[test]
fn what_is_refused_goes_pageable_and_is_told() {
    let lab = Lab::new();
    let (mut host, mut pins) = backing(4 * MIB);
    let card = lab.on_card(4 * MIB);
    pins.ensure(&lab.d, host.at + 2 * MIB, MIB).unwrap();
    seen(|s| s.refuse = Some(host.at + 3 * MIB / 2));
    let trip = Trip { device: card.va, host: host.at, len: 4 * MIB };
    let expected = Copied { bytes: 4 * MIB, pageable: MIB, refused: Some(CUresult::OUT_OF_MEMORY) };
    assert_eq!(copy(&lab.d, Way::In, &[trip], Pinning::Kept(&mut pins)), Ok(expected));
    assert_eq!(card.bytes(), host.bytes());
    assert_eq!(pins.bytes(), 3 * MIB);
    assert_eq!(pins.ensure(&lab.d, host.at, 4 * MIB), Err(CUresult::OUT_OF_MEMORY));
    seen(|s| s.refuse = None);
    assert_eq!(pins.ensure(&lab.d, host.at, 4 * MIB), Ok(()));
    pins.clear(&lab.d).unwrap();
}

#[test]
fn forgetting_ends_what_overlaps() {
    let lab = Lab::new();
    let (host, mut pins) = backing(4 * MIB);
    for i in 0..4 {
        pins.ensure(&lab.d, host.at + i * MIB, MIB).unwrap();
    }
    // a byte of the second, the third, a byte of the fourth
    pins.forget(&lab.d, host.at + 2 * MIB - 1, MIB + 2).unwrap();
    seen(|s| assert_eq!(s.registered, BTreeMap::from([(host.at, host.at + MIB)])));
    // nothing of the first, which ends where the range begins
    pins.forget(&lab.d, host.at + MIB, MIB).unwrap();
    assert_eq!(pins.bytes(), MIB);
    // whole pages, whatever was asked for; the neighbour fits beside them
    pins.ensure(&lab.d, host.at + MIB + 100, 10).unwrap();
    pins.ensure(&lab.d, host.at + MIB, 8192).unwrap();
    assert_eq!(pins.bytes(), MIB + 8192);
    // one that the driver keeps stays in the table
    seen(|s| s.stuck = 2);
    assert_eq!(pins.clear(&lab.d), Err(CUresult::INVALID_VALUE));
    assert_eq!(pins.bytes(), MIB);
    assert_eq!(pins.clear(&lab.d), Ok(()));
    seen(|s| assert_eq!(s.registered, BTreeMap::new()));
}

#[test]
fn a_failed_copy_leaves_what_the_table_says() {
    let lab = Lab::new();
    let (host, mut pins) = backing(4 * MIB);
    let card = lab.on_card(4 * MIB);
    let trip = Trip { device: card.va, host: host.at, len: 4 * MIB };
    seen(|s| s.failing_copy = Some(1));
    assert_eq!(copy(&lab.d, Way::In, &[trip], Pinning::Kept(&mut pins)), Err(CUresult::INVALID_VALUE));
    seen(|s| {
        assert_eq!(s.registered.iter().map(|(a, b)| b - a).sum::<u64>(), pins.bytes());
        assert_eq!(s.objects, 0);
    });
    assert_eq!(copy(&lab.d, Way::In, &[trip], Pinning::Kept(&mut pins)), Ok(all(4 * MIB)));
    pins.clear(&lab.d).unwrap();
}

#[test]
fn transient_pins_end_with_the_copy() {
    let lab = Lab::new();
    let len = 4 * PIECE + 6 * MIB;
    let mut host = Host::new(len);
    write_bytes(host.bytes(), 3);
    let card = lab.on_card(len);
    let trip = Trip { device: card.va, host: host.at, len };
    let mut leaked = Leaked::default();
    assert_eq!(copy(&lab.d, Way::In, &[trip], Pinning::Transient(&mut leaked)), Ok(all(len)));
    assert!(card.bytes() == host.bytes());
    seen(|s| {
        assert_eq!((s.registered.len(), s.registrations, s.most, s.objects), (0, 5, 3, 0));
        s.failing_copy = Some(s.copies.len() + 4);
    });
    assert_eq!(copy(&lab.d, Way::Out, &[trip], Pinning::Transient(&mut leaked)), Err(CUresult::INVALID_VALUE));
    seen(|s| {
        assert_eq!((s.registered.len(), s.objects), (0, 0));
        (s.failing_copy, s.refuse) = (None, Some(host.at + PIECE));
    });
    let expected = Copied { bytes: len, pageable: PIECE, refused: Some(CUresult::OUT_OF_MEMORY) };
    assert_eq!(copy(&lab.d, Way::Out, &[trip], Pinning::Transient(&mut leaked)), Ok(expected));
    // the second try of giving back is enough
    seen(|s| (s.refuse, s.stuck) = (None, 1));
    assert_eq!(copy(&lab.d, Way::Out, &[trip], Pinning::Transient(&mut leaked)), Ok(all(len)));
    seen(|s| assert_eq!((s.registered.len(), s.objects), (0, 0)));
}

#[test]
fn transient_pins_that_the_driver_keeps_end_before_the_next_copy() {
    let lab = Lab::new();
    let len = 2 * MIB;
    let mut host = Host::new(len);
    write_bytes(host.bytes(), 4);
    let card = lab.on_card(len);
    let trip = Trip { device: card.va, host: host.at, len };
    let mut leaked = Leaked::default();
    // each time that it is given back it is tried twice, and both while pieces go and when all have gone
    seen(|s| s.stuck = 4);
    assert_eq!(copy(&lab.d, Way::In, &[trip], Pinning::Transient(&mut leaked)), Err(CUresult::INVALID_VALUE));
    seen(|s| assert_eq!((s.registered.len(), s.objects), (1, 0)));
    assert_eq!(leaked.count(), 1);
    // nothing is copied over it
    let copies = seen(|s| {
        s.stuck = 2;
        s.copies.len()
    });
    assert_eq!(copy(&lab.d, Way::Out, &[trip], Pinning::Transient(&mut leaked)), Err(CUresult::INVALID_VALUE));
    seen(|s| assert_eq!((s.registered.len(), s.copies.len()), (1, copies)));
    assert_eq!(copy(&lab.d, Way::Out, &[trip], Pinning::Transient(&mut leaked)), Ok(all(len)));
    assert_eq!(leaked.count(), 0);
    seen(|s| assert_eq!((s.registered.len(), s.objects), (0, 0)));
}

#[test]
fn a_window_that_fails_leaves_nothing() {
    let lab = Lab::new();
    let free = lab.free();
    let granularity = physical::granularity(&lab.d, 0).unwrap();
    assert_eq!(granularity, 2 * MIB);
    let handle = physical::create(&lab.d, 0, 4 * granularity).unwrap();
    seen(|s| s.no_access = true);
    let failed = |mapped| Err(physical::Unopened { code: CUresult::NOT_SUPPORTED, mapped });
    assert_eq!(physical::open_window(&lab.d, 0, handle, 4 * granularity), failed(None));
    // were it still mapped, the memory would outlive its handle
    physical::release(&lab.d, handle).unwrap();
    assert_eq!(lab.free(), free);
}

#[test]
fn a_window_that_fails_and_stays_mapped_is_told() {
    let lab = Lab::new();
    let (free, len) = (lab.free(), 8 * MIB);
    let handle = physical::create(&lab.d, 0, len).unwrap();
    // the driver is asked twice for what gives something back
    seen(|s| (s.no_access, s.mapped) = (true, 2));
    let failed = physical::open_window(&lab.d, 0, handle, len).unwrap_err();
    let va = failed.mapped.expect("it is mapped");
    assert_eq!(failed.code, CUresult::NOT_SUPPORTED);
    // nobody gets its addresses
    assert_ne!(physical::reserve(&lab.d, len), Ok(va));
    physical::release(&lab.d, handle).unwrap();
    assert_eq!(lab.free() as u64, free as u64 - len);
    physical::close_window(&lab.d, va, len).unwrap();
    assert_eq!(lab.free(), free);
}

#[test]
fn a_window_is_closed_though_its_addresses_stay() {
    let lab = Lab::new();
    let (free, len) = (lab.free(), 8 * MIB);
    let handle = physical::create(&lab.d, 0, len).unwrap();
    let va = physical::open_window(&lab.d, 0, handle, len).unwrap();
    seen(|s| s.reserved = 2);
    // a second call would find nothing to unmap
    assert_eq!(physical::close_window(&lab.d, va, len), Ok(()));
    physical::release(&lab.d, handle).unwrap();
    assert_eq!(lab.free(), free);
}

#[test]
fn hashes_come_in_the_order_of_the_ranges() {
    let lab = Lab::new();
    let free = lab.free();
    let card = lab.on_card(6 * MIB);
    let mut data = vec![0; 6 * MIB as usize];
    write_bytes(&mut data, 4);
    card.fill(&data);
    let mut hasher = Hasher::new(&lab.d, 0).unwrap();
    let ranges = [(card.va + 2 * MIB, 4 * MIB), (card.va, 0), (card.va, MIB + 16)];
    let mut expected = vec![[0; 2]; 3];
    hash_chunks(&data[CHUNK..], &mut expected);
    hash_chunks(&data[..(MIB + 16) as usize], &mut expected[2..]);
    assert_eq!(hasher.hash(&lab.d, &ranges), Ok(expected));
    seen(|s| assert_eq!(s.launches, [2, 1]));
    assert_eq!(hasher.hash(&lab.d, &[(card.va + 8, 16)]), Err(CUresult::INVALID_VALUE));
    assert_eq!(hasher.hash(&lab.d, &[]), Ok(vec![]));
    hasher.end(&lab.d).unwrap();
    drop(card);
    assert_eq!(lab.free(), free);
    seen(|s| assert_eq!(s.objects, 0));
}

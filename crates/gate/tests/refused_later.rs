//! A process that is forbidden `membarrier` while the gate is open. One test: the filter is the whole process's.
#![allow(unexpected_cfgs)] // `loom`
#![cfg(not(loom))]

mod support;

use zerogpu_gate::{CloseError, Gate};

static GATE: Gate = Gate::new();

#[test]
fn a_gate_that_can_not_tell_who_is_inside_stays_open() {
    GATE.open();
    assert_eq!(GATE.close(), Ok(()), "membarrier works so far, else this test shows nothing");
    GATE.open();
    support::forbid_membarrier();
    assert_eq!(GATE.close(), Err(CloseError::Barrier(libc::EPERM)));
    assert!(GATE.enter().is_some());
    assert_eq!(GATE.close(), Err(CloseError::Barrier(libc::EPERM)));
}

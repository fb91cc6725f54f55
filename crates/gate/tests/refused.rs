//! A process to which the kernel refuses `membarrier` from the start. One test: the filter is the whole process's.
#![allow(unexpected_cfgs)] // `loom`
#![cfg(not(loom))]

mod support;

use zerogpu_gate::Gate;

static GATE: Gate = Gate::new();

#[test]
fn passing_fences_where_membarrier_is_refused() {
    support::forbid_membarrier();
    support::stress(&GATE, 3_000);
}

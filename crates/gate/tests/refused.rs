//! A process to which the kernel refuses `membarrier` from the start. One test: the filter is the whole process's.
#![cfg(not(loom))]
#![allow(unexpected_cfgs)]

mod support;

use zerogpu_gate::Gate;

static GATE: Gate = Gate::new();

#[test]
fn passing_fences_where_membarrier_is_refused() {
    support::forbid_membarrier();
    support::stress(&GATE, 10_000);
}

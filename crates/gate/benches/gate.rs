//! What passing costs. The aim: 3 ns for entering and leaving an open gate.
#![allow(unexpected_cfgs)]

#[cfg(not(loom))]
use criterion::{criterion_group, criterion_main, Criterion};
#[cfg(not(loom))]
use std::hint::black_box;
#[cfg(not(loom))]
use zerogpu_gate::Gate;

#[cfg(not(loom))]
fn gate(criterion: &mut Criterion) {
    static GATE: Gate = Gate::new();
    criterion.bench_function("closed: refused", |bencher| bencher.iter(|| GATE.enter().is_some()));
    GATE.open();
    criterion.bench_function("open: enter and leave", |bencher| bencher.iter(|| black_box(GATE.enter()).is_some()));
    let pass = GATE.enter();
    criterion.bench_function("inside: enter and leave", |bencher| bencher.iter(|| black_box(GATE.enter()).is_some()));
    drop(pass);
    criterion.bench_function("passes of one thread", |bencher| bencher.iter(|| GATE.passes()));
    criterion.bench_function("close and open, nobody inside", |bencher| {
        bencher.iter(|| {
            let closed = GATE.close();
            GATE.open();
            closed
        });
    });
}

#[cfg(not(loom))]
criterion_group!(benches, gate);
#[cfg(not(loom))]
criterion_main!(benches);

#[cfg(loom)]
fn main() {}

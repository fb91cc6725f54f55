//! What passing costs. The aim: 3 ns for entering and leaving an open gate.

use criterion::Criterion;
use std::hint::black_box;
use zerogpu_gate::Gate;

static GATE: Gate = Gate::new();

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
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
    criterion.final_summary();
}

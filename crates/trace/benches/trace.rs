//! What a traced driver call costs: tracing off, filtered out, and on. `cargo bench -p zerogpu-trace --bench trace`
//!
//! One process has one trace, so the order of the groups matters: off is measured before it is started.
#![allow(missing_docs)] // made by criterion_group!
use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use std::hint::black_box;
use zerogpu_trace as trace;

/// Functions to record and to leave out; numbers are constants in the shim too.
const COPY: u32 = 0;
const FILTERED: u32 = 1;

/// A driver call as the shim wraps it; the function itself does nothing.
#[inline(never)]
fn wrapped<const ID: u32>(a: u64, b: u64, c: u64) -> u32 {
    if trace::records(ID) {
        // SAFETY: integers have no padding.
        let args = unsafe { [trace::raw(a), trace::raw(b), trace::raw(c)] };
        return trace::traced(ID, args, move || implementation(a, b, c), |_, _, _| 0);
    }
    implementation(a, b, c)
}

#[inline(never)]
fn bare(a: u64, b: u64, c: u64) -> u32 {
    implementation(a, b, c)
}

#[inline(always)]
fn implementation(a: u64, b: u64, c: u64) -> u32 {
    black_box(a ^ b ^ c) as u32
}

fn costs(c: &mut Criterion) {
    let numbers = ["cuArray3DCreate", "cuArray3DCreate_v2"].map(trace::id);
    assert_eq!(numbers, [Some(COPY), Some(FILTERED)]);
    let mut group = c.benchmark_group("trace");
    group.throughput(Throughput::Elements(1));
    group.bench_function("call without tracing code", |b| {
        b.iter(|| bare(black_box(1), black_box(2), black_box(3)));
    });
    group.bench_function("call, tracing off", |b| {
        b.iter(|| wrapped::<COPY>(black_box(1), black_box(2), black_box(3)));
    });

    let folder = tempfile::tempdir().expect("a temporary folder");
    // the output is thrown away, so that the disk is not measured; the ring is real
    let settings = format!("json,file=/dev/null,ring={},not=cuArray3DCreate_v2", folder.path().display());
    assert!(trace::start(&settings).expect("a trace"));
    group.bench_function("call, filtered out", |b| {
        b.iter(|| wrapped::<FILTERED>(black_box(1), black_box(2), black_box(3)));
    });
    group.bench_function("reading the clock twice", |b| {
        b.iter(|| (trace::now(), trace::now()));
    });
    // bursts that fit the ring, with a pause for the writer: what a program feels
    group.bench_function("call, recorded, the writer keeping up", |b| {
        b.iter_custom(|iterations| {
            const BURST: u64 = 10_000;
            let mut spent = std::time::Duration::ZERO;
            let mut left = iterations;
            while left > 0 {
                let burst = left.min(BURST);
                let start = std::time::Instant::now();
                for _ in 0..burst {
                    wrapped::<COPY>(black_box(1), black_box(2), black_box(3));
                }
                spent += start.elapsed();
                left -= burst;
                std::thread::sleep(std::time::Duration::from_millis(30));
            }
            spent
        });
    });
    // without end: the speed of the writer
    group.bench_function("call, recorded, waiting for the writer", |b| {
        b.iter(|| wrapped::<COPY>(black_box(1), black_box(2), black_box(3)));
    });
    group.finish();
    assert!(trace::finish());
}

criterion_group!(benches, costs);
criterion_main!(benches);

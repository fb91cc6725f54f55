//! Events: flags, times, order across streams and contexts.
use crate::check::Check;
use crate::driver::{must, Driver};
use std::time::{Duration, Instant};
use zerogpu_abi::*;

const BLOCKING_SYNC: u32 = 1;
const DISABLE_TIMING: u32 = 2;
const INTERPROCESS: u32 = 4;

/// Keeps this thread busy for a time that the host's clock says.
fn spend(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

fn record(d: &Driver, event: CUevent, stream: CUstream) {
    must("cuEventRecord", d.cuEventRecord(event, stream));
}

/// Creation, recording, queries and elapsed times.
pub fn events(d: &Driver, t: &mut Check) {
    d.start();
    let mut event = CUevent::NULL;
    for flags in [0, BLOCKING_SYNC, DISABLE_TIMING, BLOCKING_SYNC | DISABLE_TIMING, DISABLE_TIMING | INTERPROCESS] {
        t.code(format_args!("flags {flags}"), d.cuEventCreate(&mut event, flags), 0);
        t.code("destroy", d.cuEventDestroy_v2(event), 0);
    }
    t.code("flags 0x100", d.cuEventCreate(&mut event, 0x100), 1);
    // cuda.h: an interprocess event must not have timing
    t.code("interprocess with timing", d.cuEventCreate(&mut event, INTERPROCESS), 1);
    t.code("NULL out", d.cuEventCreate(std::ptr::null_mut(), 0), 1);
    times(d, t);
    waits(d, t);
    contexts(d, t);
    interprocess(d, t);
}

fn times(d: &Driver, t: &mut Check) {
    let stream = d.stream(1);
    let (start, end) = (d.event(0), d.event(0));
    let before = Instant::now();
    record(d, start, stream);
    must("cuEventSynchronize", d.cuEventSynchronize(start));
    let pause = Duration::from_millis(20);
    spend(pause);
    record(d, end, stream);
    t.code("cuEventSynchronize", d.cuEventSynchronize(end), 0);
    let around = before.elapsed().as_secs_f32() * 1e3;
    t.code("cuEventQuery of a recorded event", d.cuEventQuery(end), 0);
    let (mut forth, mut back, mut v2) = (0.0, 0.0, 0.0);
    t.code("elapsed", d.cuEventElapsedTime(&mut forth, start, end), 0);
    t.code("elapsed backwards", d.cuEventElapsedTime(&mut back, end, start), 0);
    t.code("cuEventElapsedTime_v2", d.cuEventElapsedTime_v2(&mut v2, start, end), 0);
    // the card's clock and ours differ a little
    let least = 0.9 * pause.as_millis() as f32;
    t.that(format_args!("{forth} ms for 20 ms, {around} ms around them"), (least..1.1 * around).contains(&forth));
    t.that(format_args!("{back} ms backwards"), back < 0.0 && (back + forth).abs() < 0.01);
    t.that("both versions agree", (v2 - forth).abs() < 0.01);
    let mut same = 9.0;
    must("cuEventElapsedTime", d.cuEventElapsedTime(&mut same, end, end));
    t.same("an event from itself", same, 0.0);
    // driver 580: 400 (recorded)
    let into_null = d.cuEventElapsedTime(std::ptr::null_mut(), start, end);
    t.one_of("elapsed into NULL", into_null, &[1, 400]);
    // recorded again, an event means the later point
    spend(pause);
    record(d, end, stream);
    d.wait(stream);
    let mut later = 0.0;
    must("cuEventElapsedTime", d.cuEventElapsedTime(&mut later, start, end));
    t.that("recorded again it is later", later > forth);
    record(d, d.event(0), CUstream::NULL);
    t.code("flags of a record", d.cuEventRecordWithFlags(end, stream, 0), 0);
    t.code("bad flags of a record", d.cuEventRecordWithFlags(end, stream, 99), 1);
    t.code("destroy once recorded", d.cuEventDestroy_v2(start), 0);
    must("cuStreamDestroy", d.cuStreamDestroy_v2(stream));
    t.code("an event outlives its stream", d.cuEventQuery(end), 0);
}

fn waits(d: &Driver, t: &mut Check) {
    let (a, b) = (d.stream(1), d.stream(1));
    let event = d.event(DISABLE_TIMING);
    let memory = d.alloc(1 << 20);
    // each round must see the bytes of the other stream's last copy
    for round in 0..50u8 {
        must("cuMemsetD8Async", d.cuMemsetD8Async(memory, round, 1 << 19, a));
        record(d, event, a);
        t.code("wait across streams", d.cuStreamWaitEvent(b, event, 0), 0);
        must("cuMemcpyDtoDAsync", d.cuMemcpyDtoDAsync_v2(memory + (1 << 19), memory, 1 << 19, b));
        record(d, event, b);
        must("cuStreamWaitEvent", d.cuStreamWaitEvent(a, event, 0));
        d.wait(b);
        t.that("bytes behind the event", d.read(memory + (1 << 19), 1 << 19).iter().all(|byte| *byte == round));
    }
    t.code("bad flags of a wait", d.cuStreamWaitEvent(b, event, 99), 1);
    t.code("wait in its own stream", d.cuStreamWaitEvent(a, event, 0), 0);
    d.free(memory);
}

/// cuda.h: an event is recorded in a stream of its own context; waiting has no such bound.
fn contexts(d: &Driver, t: &mut Check) {
    let (stream, event) = (d.stream(1), d.event(0));
    record(d, event, stream);
    let mut other = CUcontext::NULL;
    must("cuCtxCreate", d.cuCtxCreate_v2(&mut other, 0, 0));
    let foreign_stream = d.stream(1);
    t.code("record in a stream of another context", d.cuEventRecord(event, foreign_stream), 400);
    t.code("wait for an event of another context", d.cuStreamWaitEvent(foreign_stream, event, 0), 0);
    t.code("query an event of another context", d.cuEventQuery(event), 0);
    must("cuCtxDestroy", d.cuCtxDestroy_v2(other));
    t.code("the other context's go on", d.cuEventQuery(event), 0);
    d.wait(stream);
}

fn interprocess(d: &Driver, t: &mut Check) {
    let mut handle = CUipcEventHandle { reserved: [0; 64] };
    let shared = d.event(DISABLE_TIMING | INTERPROCESS);
    t.code("cuIpcGetEventHandle", d.cuIpcGetEventHandle(&mut handle, shared), 0);
    t.that("a handle", handle.reserved != [0; 64]);
    let private = d.event(DISABLE_TIMING);
    t.one_of("cuIpcGetEventHandle of a private event", d.cuIpcGetEventHandle(&mut handle, private), &[1, 400]);
}

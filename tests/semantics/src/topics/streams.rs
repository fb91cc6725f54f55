//! Streams: flags, priorities, ids, order, host functions.
use super::{in_thread, Gate, Note};
use crate::check::Check;
use crate::driver::{must, Driver};
use std::collections::HashSet;
use std::ffi::c_void;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use zerogpu_abi::*;

const NON_BLOCKING: u32 = 1;

fn id(d: &Driver, stream: CUstream) -> u64 {
    let mut id = 0;
    must("cuStreamGetId", d.cuStreamGetId(stream, &mut id));
    id
}

/// Flags, priorities, contexts and ids.
pub fn properties(d: &'static Driver, t: &mut Check) {
    let context = d.start();
    // driver 580: the legacy stream is 7, the first thread's own is 13 or 14, as objects were made before (recorded)
    t.same("id of the legacy stream", (id(d, CUstream::NULL), id(d, CU_STREAM_LEGACY)), (7, 7));
    let own = id(d, CU_STREAM_PER_THREAD);
    t.that(format_args!("id of this thread's stream: {own}"), [13, 14].contains(&own));
    let mut per_thread = 0;
    t.code("cuStreamGetId_ptsz(0)", d.cuStreamGetId_ptsz(CUstream::NULL, &mut per_thread), 0);
    t.same("is this thread's stream", per_thread, own);
    let other = in_thread(move || {
        must("cuCtxSetCurrent", d.cuCtxSetCurrent(context));
        (id(d, CU_STREAM_PER_THREAD), id(d, CUstream::NULL))
    });
    t.that("another thread's own stream is another", other.0 != own && other.0 != 7);
    t.same("the legacy stream is the context's", other.1, 7);

    for flags in [0, NON_BLOCKING] {
        let stream = d.stream(flags);
        let (mut got, mut of, mut device) = (99, CUcontext::NULL, 99);
        t.code("cuStreamGetFlags", d.cuStreamGetFlags(stream, &mut got), 0);
        t.same("flags", got, flags);
        t.code("cuStreamGetCtx", d.cuStreamGetCtx(stream, &mut of), 0);
        t.same("its context", of, context);
        t.code("cuStreamGetDevice", d.cuStreamGetDevice(stream, &mut device), 0);
        t.same("its device", device, 0);
        t.code("query", d.cuStreamQuery(stream), 0);
        t.code("destroy", d.cuStreamDestroy_v2(stream), 0);
    }
    for special in [CUstream::NULL, CU_STREAM_LEGACY, CU_STREAM_PER_THREAD] {
        let mut of = CUcontext::NULL;
        t.code("cuStreamGetCtx of a default stream", d.cuStreamGetCtx(special, &mut of), 0);
        t.same("is the current context", of, context);
        t.code("query of a default stream", d.cuStreamQuery(special), 0);
        t.code("wait for a default stream", d.cuStreamSynchronize(special), 0);
    }
    t.code("NULL out", d.cuStreamCreate(std::ptr::null_mut(), 0), 1);
    attributes(d, t);
    priorities(d, t);
    ids(d, t);
}

/// Attributes: those of cuda.h are kept, others refused.
fn attributes(d: &Driver, t: &mut Check) {
    const SYNCHRONIZATION_POLICY: u32 = 3;
    let (a, b) = (d.stream(NON_BLOCKING), d.stream(NON_BLOCKING));
    let (block, nonsense) = (CUlaunchAttributeValue { words: [4, 0, 0, 0, 0, 0, 0, 0] }, 999);
    t.code("an attribute", d.cuStreamSetAttribute(a, SYNCHRONIZATION_POLICY, &block), 0);
    t.code("copy attributes", d.cuStreamCopyAttributes(b, a), 0);
    let mut got = CUlaunchAttributeValue { words: [0; 8] };
    t.code("ask for it", d.cuStreamGetAttribute(b, SYNCHRONIZATION_POLICY, &mut got), 0);
    t.same("its value", got.words[0] as u32, 4);
    t.code("an attribute that is none", d.cuStreamSetAttribute(a, nonsense, &block), 1);
    t.code("ask for one that is none", d.cuStreamGetAttribute(a, nonsense, &mut got), 1);
    let bad = CUlaunchAttributeValue { words: [77, 0, 0, 0, 0, 0, 0, 0] };
    t.code("a value that is none", d.cuStreamSetAttribute(a, SYNCHRONIZATION_POLICY, &bad), 1);
    t.code("the streams are whole", d.cuStreamSynchronize(a), 0);
    must("cuStreamDestroy", d.cuStreamDestroy_v2(a));
    must("cuStreamDestroy", d.cuStreamDestroy_v2(b));
}

fn priorities(d: &Driver, t: &mut Check) {
    let (mut least, mut greatest) = (99, 99);
    must("cuCtxGetStreamPriorityRange", d.cuCtxGetStreamPriorityRange(&mut least, &mut greatest));
    t.code("a range into NULL", d.cuCtxGetStreamPriorityRange(std::ptr::null_mut(), std::ptr::null_mut()), 0);
    let cases = [(0, 0), (-1, -1), (greatest, greatest), (greatest - 100, greatest), (least + 100, least)];
    for (asked, want) in cases {
        let (mut stream, mut got) = (CUstream::NULL, 99);
        t.code("create with a priority", d.cuStreamCreateWithPriority(&mut stream, NON_BLOCKING, asked), 0);
        t.code("cuStreamGetPriority", d.cuStreamGetPriority(stream, &mut got), 0);
        // cuda.h: numbers beyond the range are clamped
        t.same(format_args!("priority {asked}"), got, want);
        must("cuStreamDestroy", d.cuStreamDestroy_v2(stream));
    }
    let mut stream = CUstream::NULL;
    t.code("bad flags", d.cuStreamCreateWithPriority(&mut stream, 99, 0), 1);
    let stream = d.stream(0);
    let mut got = 99;
    must("cuStreamGetPriority", d.cuStreamGetPriority(stream, &mut got));
    t.same("the default priority", got, 0);
    must("cuStreamDestroy", d.cuStreamDestroy_v2(stream));
}

/// cuBLAS keeps workspaces by stream id, so an id is never used again.
fn ids(d: &Driver, t: &mut Check) {
    let mut seen = HashSet::from([7, 14]);
    for round in 0..300 {
        let stream = d.stream(NON_BLOCKING);
        let new = seen.insert(id(d, stream));
        if !new {
            t.that(format_args!("a new id for stream {round}"), new);
            return;
        }
        must("cuStreamDestroy", d.cuStreamDestroy_v2(stream));
    }
    t.same("ids of 300 streams made one after the other", seen.len(), 302);
}

unsafe extern "C" fn push(data: *mut c_void) {
    // SAFETY: `data` is a Note that the test leaked.
    let note = unsafe { &*data.cast::<Note>() };
    note.list.lock().expect("not poisoned").push(note.number);
}

unsafe extern "C" fn pass(data: *mut c_void) {
    // SAFETY: `data` is a Gate that the test leaked.
    unsafe { &*data.cast::<Gate>() }.pass();
}

unsafe extern "C" fn called(stream: CUstream, result: CUresult, data: *mut c_void) {
    // SAFETY: `data` is a list that the test leaked.
    let list = unsafe { &*data.cast::<Mutex<Vec<(CUstream, u32)>>>() };
    list.lock().expect("not poisoned").push((stream, result.0));
}

/// Work runs in its stream's order.
pub fn order(d: &'static Driver, t: &mut Check) {
    d.start();
    let stream = d.stream(NON_BLOCKING);
    let list: &'static Mutex<Vec<u32>> = Box::leak(Box::default());
    for number in 0..20 {
        let note: &'static Note = Box::leak(Box::new(Note { list, number }));
        t.code("cuLaunchHostFunc", d.cuLaunchHostFunc(stream, Some(push), std::ptr::from_ref(note) as *mut c_void), 0);
    }
    d.wait(stream);
    t.same("host functions in order", list.lock().expect("not poisoned").clone(), (0..20).collect());
    t.code("no host function", d.cuLaunchHostFunc(stream, None, std::ptr::null_mut()), 1);

    let calls: &'static Mutex<Vec<(CUstream, u32)>> = Box::leak(Box::default());
    let data = std::ptr::from_ref(calls) as *mut c_void;
    t.code("cuStreamAddCallback", d.cuStreamAddCallback(stream, Some(called), data, 0), 0);
    t.code("flags of a callback must be 0", d.cuStreamAddCallback(stream, Some(called), data, 1), 1);
    d.wait(stream);
    t.same("stream and result given to a callback", calls.lock().expect("not poisoned").clone(), vec![(stream, 0)]);
}

/// A host function that waits for the thread that launched it: streams run beside their callers.
pub fn blocked(d: &'static Driver, t: &mut Check) {
    d.start();
    let stream = d.stream(NON_BLOCKING);
    let gate = Gate::leaked();
    let (memory, pinned) = (d.alloc(64), d.alloc(64));
    d.write(memory, &[1; 64]);
    must("cuLaunchHostFunc", d.cuLaunchHostFunc(stream, Some(pass), gate.data()));
    must("cuMemsetD8Async", d.cuMemsetD8Async(memory, 2, 64, stream));
    t.code("a copy of no bytes from nowhere", d.cuMemcpyHtoDAsync_v2(memory, std::ptr::null(), 0, stream), 0);
    let event = d.event(0);
    must("cuEventRecord", d.cuEventRecord(event, stream));
    t.code("a stream with work to do", d.cuStreamQuery(stream), 600);
    t.code("an event behind that work", d.cuEventQuery(event), 600);
    t.code("time to an event that is not there yet", d.cuEventElapsedTime(&mut 0.0, event, event), 600);
    let other = d.stream(NON_BLOCKING);
    t.code("another stream is idle", d.cuStreamQuery(other), 0);
    must("cuMemcpyDtoDAsync", d.cuMemcpyDtoDAsync_v2(pinned, memory, 64, other));
    d.wait(other);
    must("cuStreamWaitEvent", d.cuStreamWaitEvent(other, event, 0));
    must("cuMemsetD8Async", d.cuMemsetD8Async(pinned, 3, 64, other));
    t.code("and waits once told to", d.cuStreamQuery(other), 600);
    gate.open();
    d.wait(other);
    t.code("all is done in the first", d.cuStreamQuery(stream), 0);
    t.code("the event too", d.cuEventQuery(event), 0);
    t.that("the host function waited for us", gate.passed());
    t.that("work behind it was done", d.read(memory, 64) == [2; 64]);
    t.that("work behind the event was done", d.read(pinned, 64) == [3; 64]);
    // a stream may be destroyed with work in it, which is still done
    let again = Gate::leaked();
    must("cuLaunchHostFunc", d.cuLaunchHostFunc(other, Some(pass), again.data()));
    must("cuMemsetD8Async", d.cuMemsetD8Async(pinned, 4, 64, other));
    t.code("destroy a stream with work in it", d.cuStreamDestroy_v2(other), 0);
    again.open();
    t.code("cuCtxSynchronize waits for it", d.cuCtxSynchronize(), 0);
    t.that("it is done", d.read(pinned, 64) == [4; 64]);
    across(d, t);
}

/// A stream that waits for a value holds up no other: what the others do may lead to the value.
pub fn awaited(d: &'static Driver, t: &mut Check) {
    /// cuda.h: CU_STREAM_WAIT_VALUE_EQ.
    const EQUAL: u32 = 1;
    d.start();
    let (waits, runs) = (d.stream(NON_BLOCKING), d.stream(NON_BLOCKING));
    let (value, memory) = (d.alloc(64), d.alloc(64));
    must("cuMemsetD8", d.cuMemsetD8_v2(value, 0, 64));
    must("cuMemsetD8", d.cuMemsetD8_v2(memory, 0, 64));
    t.code("cuStreamWaitValue32", d.cuStreamWaitValue32_v2(waits, value, 1, EQUAL), 0);
    must("cuMemsetD8Async", d.cuMemsetD8Async(memory, 1, 64, waits));
    let list: &'static Mutex<Vec<u32>> = Box::leak(Box::default());
    for number in 0..3 {
        let note: &'static Note = Box::leak(Box::new(Note { list, number }));
        must("cuLaunchHostFunc", d.cuLaunchHostFunc(runs, Some(push), std::ptr::from_ref(note) as *mut c_void));
    }
    let since = Instant::now();
    while d.cuStreamQuery(runs).0 == 600 && since.elapsed() < Duration::from_secs(20) {
        std::thread::yield_now();
    }
    t.same("host functions of another stream run", list.lock().expect("not poisoned").clone(), vec![0, 1, 2]);
    t.code("that stream is done", d.cuStreamQuery(runs), 0);
    t.code("the one that waits is not", d.cuStreamQuery(waits), 600);
    let event = d.event(0);
    must("cuEventRecord", d.cuEventRecord(event, waits));
    let both = d.stream(NON_BLOCKING);
    let note: &'static Note = Box::leak(Box::new(Note { list, number: 9 }));
    must("cuLaunchHostFunc", d.cuLaunchHostFunc(both, Some(push), std::ptr::from_ref(note) as *mut c_void));
    must("cuStreamWaitEvent", d.cuStreamWaitEvent(both, event, 0));
    must("cuMemcpyDtoDAsync", d.cuMemcpyDtoDAsync_v2(value + 32, memory, 4, both));
    t.code("nor is who waits for it", d.cuStreamQuery(both), 600);
    t.code("cuStreamWriteValue32", d.cuStreamWriteValue32_v2(runs, value, 1, 0), 0);
    d.wait(both);
    t.code("now it is done", d.cuStreamQuery(waits), 0);
    t.that("what was behind the value came after it", d.read(memory, 64) == [1; 64]);
    t.that("and what was behind that", d.read(value + 32, 4) == [1; 4]);
}

/// The legacy stream waits for blocking streams, and they for it.
fn across(d: &'static Driver, t: &mut Check) {
    let (blocking, free) = (d.stream(0), d.stream(NON_BLOCKING));
    let gate = Gate::leaked();
    must("cuLaunchHostFunc", d.cuLaunchHostFunc(blocking, Some(pass), gate.data()));
    let memory = d.alloc(64);
    must("cuMemsetD8Async", d.cuMemsetD8Async(memory, 1, 64, CUstream::NULL));
    t.code("the legacy stream waits for a blocking one", d.cuStreamQuery(CUstream::NULL), 600);
    must("cuMemsetD8Async", d.cuMemsetD8Async(memory, 2, 64, free));
    d.wait(free);
    t.code("a non-blocking one does not", d.cuStreamQuery(free), 0);
    gate.open();
    d.wait(CUstream::NULL);
    t.that("in the legacy stream's turn", d.read(memory, 64) == [1; 64]);
    must("cuStreamDestroy", d.cuStreamDestroy_v2(blocking));
    must("cuStreamDestroy", d.cuStreamDestroy_v2(free));
}

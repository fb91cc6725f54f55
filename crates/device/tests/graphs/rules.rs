//! What captures forbid, to whom, and which captures it costs.
use crate::*;
use std::sync::atomic::Ordering;
use zerogpu_device::objects::CAPTURES;

/// What becomes of a capture in each mode when `call` runs on this thread or another: (code, capture's end).
fn outcome(t: &Session, mode: u32, there: bool, flags: u32, call: impl Fn() -> CUresult + Sync) -> (u32, bool) {
    let s = stream(flags);
    begin(s, mode);
    let r = if there { elsewhere(t.ctx, &call) } else { call() };
    let mut g = CUgraph::NULL;
    let ended = unsafe { cuStreamEndCapture(s, &mut g) };
    assert_eq!(ended.ok(), g != CUgraph::NULL);
    assert!(ended.ok() || ended == CUresult::STREAM_CAPTURE_INVALIDATED);
    (r.0, ended.ok())
}

const FINE: (u32, bool) = (0, true);
const UNSUPPORTED: (u32, bool) = (900, false);
const IMPLICIT: (u32, bool) = (906, false);

#[test]
fn unsafe_calls_are_refused_as_the_modes_say() {
    let t = session();
    let alloc = || unsafe { cuMemAlloc_v2(&mut 0, 64) };
    for (mode, here, there) in
        [(GLOBAL, UNSUPPORTED, UNSUPPORTED), (THREAD_LOCAL, UNSUPPORTED, FINE), (RELAXED, FINE, FINE)]
    {
        assert_eq!(outcome(&t, mode, false, NON_BLOCKING, alloc), here, "mode {mode}, the capturing thread");
        assert_eq!(outcome(&t, mode, true, NON_BLOCKING, alloc), there, "mode {mode}, another thread");
    }
    let in_mode = |thread_mode: u32| {
        move || {
            let mut mode = thread_mode;
            ok!(cuThreadExchangeStreamCaptureMode(&mut mode));
            let r = alloc();
            ok!(cuThreadExchangeStreamCaptureMode(&mut mode));
            r
        }
    };
    assert_eq!(outcome(&t, GLOBAL, false, NON_BLOCKING, in_mode(RELAXED)), FINE);
    assert_eq!(outcome(&t, GLOBAL, true, NON_BLOCKING, in_mode(RELAXED)), FINE);
    assert_eq!(outcome(&t, GLOBAL, true, NON_BLOCKING, in_mode(THREAD_LOCAL)), FINE);
    assert_eq!(outcome(&t, GLOBAL, false, NON_BLOCKING, in_mode(THREAD_LOCAL)), UNSUPPORTED);
    let mut mode = 3;
    fails!(INVALID_VALUE, cuThreadExchangeStreamCaptureMode(&mut mode));
    fails!(INVALID_VALUE, cuThreadExchangeStreamCaptureMode(std::ptr::null_mut()));
}

#[test]
fn a_context_with_a_capturing_stream_can_not_be_waited_for_in_any_mode() {
    let t = session();
    let sync = || unsafe { cuCtxSynchronize() };
    for mode in [GLOBAL, THREAD_LOCAL, RELAXED] {
        assert_eq!(outcome(&t, mode, false, NON_BLOCKING, sync), UNSUPPORTED);
        assert_eq!(outcome(&t, mode, true, NON_BLOCKING, sync), UNSUPPORTED);
    }
    ok!(cuCtxSynchronize());
}

#[test]
fn other_streams_may_be_waited_for_unless_the_mode_forbids() {
    let t = session();
    let other = stream(NON_BLOCKING);
    for call in [cuStreamSynchronize as unsafe fn(CUstream) -> CUresult, cuStreamQuery] {
        let call = move || unsafe { call(other) };
        assert_eq!(outcome(&t, GLOBAL, true, NON_BLOCKING, call), UNSUPPORTED);
        assert_eq!(outcome(&t, THREAD_LOCAL, true, NON_BLOCKING, call), FINE);
        assert_eq!(outcome(&t, THREAD_LOCAL, false, NON_BLOCKING, call), UNSUPPORTED);
        assert_eq!(outcome(&t, RELAXED, false, NON_BLOCKING, call), FINE);
    }
}

#[test]
fn the_legacy_stream_is_unusable_while_a_blocking_stream_captures() {
    let t = session();
    let d = memory(64);
    let fill = move || unsafe { cuMemsetD8Async(d, 0, 64, CUstream::NULL) };
    let wait = || unsafe { cuStreamSynchronize(CUstream::NULL) };
    for mode in [GLOBAL, THREAD_LOCAL, RELAXED] {
        for there in [false, true] {
            assert_eq!(outcome(&t, mode, there, 0, fill), IMPLICIT);
            assert_eq!(outcome(&t, mode, there, 0, wait), IMPLICIT);
            assert_eq!(outcome(&t, mode, there, NON_BLOCKING, fill), FINE);
        }
    }
    let s = stream(0);
    begin(s, GLOBAL);
    let mut v = 99;
    fails!(STREAM_CAPTURE_IMPLICIT, cuStreamIsCapturing(CUstream::NULL, &mut v));
    fails!(STREAM_CAPTURE_IMPLICIT, cuStreamGetCaptureInfo(CUstream::NULL, &mut v, &mut 0));
    assert_eq!(v, 99);
    assert_eq!(status(s), 1, "asking does no harm");
    end(s);
}

#[test]
fn a_blocking_stream_that_joins_counts() {
    let _t = session();
    let (a, b, e) = (stream(NON_BLOCKING), stream(0), event());
    let d = memory(64);
    begin(a, GLOBAL);
    ok!(cuMemsetD8Async(d, 0, 64, CUstream::NULL));
    ok!(cuEventRecord(e, a));
    ok!(cuStreamWaitEvent(b, e, 0));
    fails!(STREAM_CAPTURE_IMPLICIT, cuMemsetD8Async(d, 0, 64, CUstream::NULL));
    end_fails(a, CUresult::STREAM_CAPTURE_INVALIDATED);
}

#[test]
fn a_capturing_stream_and_its_events_can_not_be_waited_for() {
    let t = session();
    let s = stream(NON_BLOCKING);
    for mode in [GLOBAL, THREAD_LOCAL, RELAXED] {
        for (code, call) in [(900, cuStreamSynchronize as unsafe fn(CUstream) -> CUresult), (900, cuStreamQuery)] {
            begin(s, mode);
            assert_eq!(unsafe { call(s) }.0, code);
            assert_eq!(status(s), 2);
            assert_eq!(unsafe { call(s) }, CUresult::STREAM_CAPTURE_INVALIDATED);
            end_fails(s, CUresult::STREAM_CAPTURE_INVALIDATED);
        }
        let e = event();
        for call in [cuEventSynchronize as unsafe fn(CUevent) -> CUresult, cuEventQuery] {
            begin(s, mode);
            ok!(cuEventRecord(e, s));
            assert_eq!(unsafe { call(e) }, CUresult::CAPTURED_EVENT);
            end_fails(s, CUresult::STREAM_CAPTURE_INVALIDATED);
            assert_eq!(unsafe { call(e) }, CUresult::CAPTURED_EVENT, "it was last recorded in a capture, ended or not");
        }
        let (mut ms, other) = (0.0, event());
        ok!(cuEventRecord(other, s));
        fails!(CAPTURED_EVENT, cuEventElapsedTime(&mut ms, e, other));
    }
    t.launch(s, 1);
}

#[test]
fn callbacks_and_blocking_copies_have_no_node() {
    let _t = session();
    let s = stream(NON_BLOCKING);
    unsafe extern "C" fn callback(_: CUstream, _: CUresult, _: *mut c_void) {}
    begin(s, GLOBAL);
    fails!(STREAM_CAPTURE_UNSUPPORTED, cuStreamAddCallback(s, Some(callback), std::ptr::null_mut(), 0));
    end_fails(s, CUresult::STREAM_CAPTURE_INVALIDATED);
    // a command that a driver refuses at once does not count
    begin(s, GLOBAL);
    fails!(INVALID_VALUE, cuMemsetD8Async(0x10, 0, 64, s));
    assert_eq!(status(s), 1);
    end(s);
}

#[test]
fn who_asks_without_a_context_or_for_a_foreign_handle_is_told() {
    let t = session();
    let captures = || CAPTURES.load(Ordering::Acquire);
    let before = captures();
    let mut v = 99;
    fails!(INVALID_VALUE, cuStreamIsCapturing(CUstream::NULL, std::ptr::null_mut()));
    fails!(INVALID_HANDLE, cuStreamIsCapturing(CUstream(4096), &mut v));
    ok!(cuStreamIsCapturing(CUstream::NULL, &mut v));
    ok!(cuStreamIsCapturing(CU_STREAM_PER_THREAD, &mut v));
    assert_eq!(v, 0);
    let bare = std::thread::spawn(|| unsafe { cuStreamIsCapturing(CUstream::NULL, &mut 0) }).join().unwrap();
    assert_eq!(bare, CUresult::INVALID_CONTEXT);
    assert_eq!(captures(), before);
    let s = stream(NON_BLOCKING);
    begin(s, RELAXED);
    assert_eq!(captures(), before + 1);
    end(s);
    t.launch(s, 1);
}

//! Streams and the threads behind them.
use super::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
fn a_thread_s_own_stream_ends_with_the_thread() {
    let s = session();
    let streams = || runtime::lock().unwrap().streams.len();
    let before = streams();
    for _ in 0..10 {
        elsewhere(s.ctx, || ok!(cuStreamSynchronize(CU_STREAM_PER_THREAD)));
    }
    // a thread is joined before its last destructors have run
    let since = Instant::now();
    while streams() > before {
        assert!(since.elapsed() < Duration::from_secs(20), "streams of threads that have ended stay");
        std::thread::yield_now();
    }
}

static OPEN: AtomicBool = AtomicBool::new(false);

unsafe extern "C" fn pass(_: *mut c_void) {
    while !OPEN.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
}

#[test]
fn a_fault_in_work_behind_a_host_function_stops_nobody_else() {
    let s = session();
    let stream = stream(NON_BLOCKING);
    ok!(cuLaunchHostFunc(stream, Some(pass), std::ptr::null_mut()));
    s.launch(stream, FAULT);
    s.launch(stream, 1);
    OPEN.store(true, Ordering::Release);
    let since = Instant::now();
    while unsafe { cuStreamQuery(stream) } == CUresult::NOT_READY {
        assert!(since.elapsed() < Duration::from_secs(20), "the work behind it never ends");
        std::thread::yield_now();
    }
    assert_eq!(s.launches(), [1]);
    ok!(cuStreamDestroy_v2(stream));
}

//! A driver and its process: children, and calls after the end.
use super::wait_for;
use crate::check::Check;
use crate::driver::{must, Driver};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, OnceLock};
use zerogpu_abi::*;

const NOT_INITIALIZED: u32 = 3;

/// A child of fork has no driver; its parent has it still.
pub fn fork(d: &Driver, t: &mut Check) {
    d.start();
    let p = d.alloc(4096);
    d.write(p, &[4; 4096]);
    // SAFETY: the child makes a few calls and leaves by _exit; no other thread of ours holds a lock.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let answers = [
            d.cuInit(0),
            d.cuCtxGetCurrent(&mut CUcontext(0)),
            d.cuMemAlloc_v2(&mut 0, 4096),
            d.cuMemFree_v2(p),
            d.cuCtxSynchronize(),
            d.cuDeviceGetCount(&mut 0),
        ];
        let wrong = answers.iter().position(|answer| answer.0 != NOT_INITIALIZED);
        // SAFETY: ends the child without running the parent's handlers.
        unsafe { libc::_exit(wrong.map_or(0, |at| 1 + at as i32)) };
    }
    t.same("the first call in a child that does not answer 3", wait_for(child), Some(0));
    t.that("the parent's memory", d.read(p, 4096) == [4; 4096]);
    t.code("the parent goes on", d.cuCtxSynchronize(), 0);
    d.free(p);
}

static LATE: OnceLock<&'static Driver> = OnceLock::new();
static ARMED: AtomicBool = AtomicBool::new(false);

/// Registered before the driver was loaded, so this runs after the driver's own handlers, as a runtime's do.
extern "C" fn late() {
    let (Some(d), true) = (LATE.get(), ARMED.load(Ordering::SeqCst)) else { return };
    let answers = [
        d.cuDevicePrimaryCtxRelease_v2(0),
        d.cuCtxGetCurrent(&mut CUcontext(0)),
        d.cuLibraryUnload(CUlibrary(0x1000)),
        d.cuModuleUnload(CUmodule(0x1000)),
        d.cuEventDestroy_v2(CUevent(0x1000)),
        d.cuMemFree_v2(0x1000),
    ];
    if answers.iter().any(|answer| describe(*answer).is_none()) {
        // SAFETY: ends the process at once: its exit code is the result.
        unsafe { libc::_exit(17) };
    }
}

/// Registers the handler; called before a driver is loaded.
pub fn register_late_calls() {
    // SAFETY: the handler is a function of this program.
    let registered = unsafe { libc::atexit(late) };
    assert_eq!(registered, 0, "atexit");
}

/// Starts a thread that still calls while the process ends, and waits for its first call.
fn keep_busy(d: &'static Driver, context: CUcontext, p: CUdeviceptr) {
    let (started, first) = mpsc::channel();
    std::thread::spawn(move || {
        must("cuCtxSetCurrent", d.cuCtxSetCurrent(context));
        must("cuMemsetD8", d.cuMemsetD8_v2(p, 1, 4096));
        started.send(()).expect("the other thread waits");
        while d.cuMemsetD8_v2(p, 1, 4096).ok() {}
    });
    first.recv().expect("the thread made its first call");
}

/// Calls after the driver's own exit handlers: a child makes them and must end well.
pub fn exit(d: &'static Driver, t: &mut Check) {
    // SAFETY: the child goes on in this one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        LATE.get_or_init(|| d);
        ARMED.store(true, Ordering::SeqCst);
        let context = d.start();
        let p = d.alloc(4096);
        d.write(p, &[1; 4096]);
        if !t.driver.real {
            keep_busy(d, context, p);
        }
        std::process::exit(0);
    }
    t.same("a process that ends with the driver in use", wait_for(child), Some(0));
}

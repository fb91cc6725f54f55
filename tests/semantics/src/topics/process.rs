//! A driver and its process: children, and calls after the end.
use super::faults::{again, part};
use super::regions::{Kernel, Regions};
use super::wait_for;
use crate::check::Check;
use crate::driver::{must, Driver};
use std::ffi::CString;
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, OnceLock};
use zerogpu_abi::*;

const OUT_OF_MEMORY: u32 = 2;
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

/// A child forked while another thread makes the process's first call does not wait for that thread.
pub fn fork_while_starting(d: &'static Driver, t: &mut Check) {
    let below = std::env::var_os("ZEROGPU_DRIVER").expect("the harness names the driver below");
    // the driver below is held up by its log: a pipe that nobody reads yet
    let pipe = std::env::temp_dir().join(format!("zerogpu-semantics-{}", std::process::id()));
    let path = CString::new(pipe.as_os_str().as_bytes()).expect("a path");
    // SAFETY: plain call with a C string.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0, "mkfifo");
    std::env::set_var("SOFTCUDA_LAUNCH_LOG", &pipe);
    let first = std::thread::spawn(move || d.cuInit(0));
    let opened =
        || std::fs::read_to_string("/proc/self/maps").is_ok_and(|maps| maps.contains(&*below.to_string_lossy()));
    while !opened() {
        std::thread::yield_now();
    }
    // SAFETY: the child makes two calls and leaves by _exit, or is killed if they hang.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: plain calls.
        unsafe {
            libc::alarm(20);
            let refused = d.cuInit(0).0 == NOT_INITIALIZED && d.cuMemAlloc_v2(&mut 0, 64).0 == NOT_INITIALIZED;
            libc::_exit(i32::from(!refused));
        }
    }
    t.same("a child forked meanwhile is refused", wait_for(child), Some(0));
    let _reader = std::fs::File::open(&pipe).expect("the pipe opens");
    t.code("the first call goes on", first.join().expect("no panic"), 0);
    std::fs::remove_file(&pipe).expect("the pipe is ours");
}

/// A driver below may fork in the calls of a claim, to run a program of its own.
pub fn fork_in_a_claim(d: &'static Driver, t: &mut Check) {
    let Some(function) = part() else {
        for function in ["cuInit", "cuDevicePrimaryCtxRetain", "cuInit,cuDevicePrimaryCtxRetain,cuMemCreate"] {
            again(t, "process_fork_in_a_claim", function, &[("SOFTCUDA_FORK", function)]);
        }
        return;
    };
    d.start();
    let (r, kernel) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d));
    // outside any region the driver is asked whether there is a card
    t.code(format_args!("a launch outside, {function}"), kernel.launch(d, CUstream::NULL), 0);
    let region = r.begin();
    t.code(format_args!("a launch in a region, {function}"), kernel.launch(d, CUstream::NULL), 0);
    t.same("the device", r.level().as_deref(), Some("claimed"));
    t.that("the region ends", r.end(region));
    t.same("parked", r.level().as_deref(), Some("parked"));
}

/// Under limits that leave no room for the device an allocation fails, and standard error says why.
pub fn limits(d: &'static Driver, t: &mut Check) {
    for (name, limit, most) in [("ulimit -v", libc::RLIMIT_AS, 8 << 30), ("ulimit -f", libc::RLIMIT_FSIZE, 1 << 20)] {
        let mut ends = [0; 2];
        // SAFETY: two descriptors, ours.
        assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0, "pipe2");
        // SAFETY: the child makes a few calls and leaves by _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let limits = libc::rlimit { rlim_cur: most, rlim_max: most };
            // SAFETY: plain calls.
            unsafe {
                libc::dup2(ends[1], libc::STDERR_FILENO);
                libc::setrlimit(limit, &limits);
                d.start();
                let refused = [(); 2].map(|()| d.cuMemAlloc_v2(&mut 0, 1 << 20).0 == OUT_OF_MEMORY);
                libc::_exit(i32::from(refused != [true; 2]));
            }
        }
        // SAFETY: the writer's end, and the reader's, each given away once.
        let reader = unsafe {
            libc::close(ends[1]);
            std::fs::File::from_raw_fd(ends[0])
        };
        t.same(format_args!("allocations under {name} answer 2"), wait_for(child), Some(0));
        let text = std::io::read_to_string(reader).expect("text");
        t.that(format_args!("{name}: says what to do: {text:?}"), text.contains("zerogpu doctor"));
    }
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

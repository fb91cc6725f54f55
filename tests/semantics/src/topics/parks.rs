//! Parks at awkward moments. Where the card has to behave in a certain way, the topic runs itself again with settings for it.
use super::faults::{again, part, seen_by_others};
use super::regions::{Kernel, Regions};
use super::{vmm, Gate};
use crate::check::Check;
use crate::driver::{must, Driver};
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::time::{Duration, Instant};
use zerogpu_abi::*;

const OUT_OF_MEMORY: u32 = 2;
const NOT_READY: u32 = 600;
/// What is answered when the time of the open regions is over.
const OVER: u32 = 702;

/// An error after which CUDA answers nothing else ends the device for the process, and the card is left.
pub fn lost(d: &'static Driver, t: &mut Check) {
    let Some(code) = part() else {
        // as cuda.h 13.0 says: "the process must be terminated and relaunched", "the context cannot be used anymore"
        for code in ["226", "700", "702", "710", "714", "715", "716", "717", "718", "719", "721", "810", "911"] {
            again(t, "park_lost", code, &[("SOFTCUDA_FAULT", &format!("cuCtxSynchronize={code}"))]);
        }
        return;
    };
    d.start();
    let (r, kernel) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d));
    let region = r.begin();
    t.code("a launch", kernel.launch(d, CUstream::NULL), 0);
    t.that("the region ends", r.end(region));
    t.same("the device", r.level().as_deref(), Some("lost"));
    t.that("which is said", r.state().contains("the GPU failed"));
    t.same("every later launch", kernel.launch(d, CUstream::NULL).0.to_string(), code);
    t.same("on the card: bytes and contexts", seen_by_others(), Some((0, 0)));
}

/// For how long a thread goes on making calls while another one's park waits.
const MEANWHILE: Duration = Duration::from_millis(300);

unsafe extern "C" fn pass(data: *mut c_void) {
    // SAFETY: `data` is a Gate that the test leaked.
    unsafe { &*data.cast::<Gate>() }.pass();
}

/// A call's work ends with a host function that waits for another thread, and that thread makes driver calls first: by
/// itself CUDA answers them, so a park must not hold them up.
pub fn beside_a_host_function(d: &'static Driver, t: &mut Check) {
    d.start();
    let (r, kernel) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d));
    let (stream, other, memory) = (d.stream(1), d.stream(1), d.alloc(4096));
    for calls in [false, true] {
        let region = r.begin();
        t.code("a launch", kernel.launch(d, stream), 0);
        t.same("a GPU is claimed", r.level().as_deref(), Some("claimed"));
        let gate = Gate::leaked();
        must("cuLaunchHostFunc", d.cuLaunchHostFunc(stream, Some(pass), gate.data()));
        let ends = std::thread::spawn(move || r.end(region));
        let start = Instant::now();
        let mut answers = BTreeSet::new();
        loop {
            answers.insert(d.cuStreamQuery(stream).0);
            if calls {
                answers.insert(kernel.launch(d, other).0);
                answers.insert(d.cuMemsetD8Async(memory, 7, 4096, other).0);
            }
            if start.elapsed() >= MEANWHILE {
                break;
            }
        }
        gate.open();
        t.that("the region ends", ends.join().is_ok_and(|ended| ended));
        t.that("the other thread came to open the gate", gate.passed());
        t.same("what it was answered", answers, if calls { [0, NOT_READY].into() } else { [NOT_READY].into() });
        t.same("and parks", r.level().as_deref(), Some("parked"));
        t.that("bytes are whole", !calls || d.read(memory, 4096) == [7; 4096]);
    }
}

/// When the time of a call is over, other threads are told so at once, though its kernel still runs.
pub fn beside_a_long_kernel(d: &'static Driver, t: &mut Check) {
    if part().is_none() {
        return again(t, "park_beside_a_long_kernel", "ten seconds", &[("SOFTCUDA_LAUNCH_US", "10000000")]);
    }
    d.start();
    let (r, kernel) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d));
    let (stream, other, event, memory) = (d.stream(1), d.stream(1), d.event(0), d.alloc(4096));
    let claims = r.begin();
    t.code("a launch", kernel.launch(d, stream), 0);
    must("cuEventRecord", d.cuEventRecord(event, stream));
    // the time runs from here: that of the region that ends last
    let region = r.begin_for(0.5);
    t.that("the claiming region ends", r.end(claims));
    let fill = || d.cuMemsetD8Async(memory, 7, 4096, other);
    while fill().ok() {}
    t.code("when its time is over", fill(), OVER);
    t.code("the kernel still runs", d.cuEventQuery(event), NOT_READY);
    let start = Instant::now();
    let mut answers = BTreeSet::new();
    loop {
        answers.extend([fill().0, kernel.launch(d, other).0, d.cuStreamSynchronize(stream).0]);
        if start.elapsed() >= MEANWHILE {
            break;
        }
    }
    t.same("every call is told", answers, [OVER].into());
    t.code("and the kernel still runs", d.cuEventQuery(event), NOT_READY);
    t.that("the region ends", r.end(region));
    t.same("and parks", r.level().as_deref(), Some("parked"));
    t.code("when the kernel has ended", d.cuEventQuery(event), 0);
}

/// A child of a process that opened a region before cuInit has a watcher of its own.
pub fn watched_child(d: &'static Driver, t: &mut Check) {
    if part().is_none() {
        // with a broker's socket, there or not, the watcher begins with the first region
        return again(t, "park_watched_child", "no broker", &[("ZEROGPU_SOCKET", "/nowhere/broker.sock")]);
    }
    let r = Regions::find(d).expect("the shim has regions");
    let region = r.begin();
    t.that("the parent's watcher", watched());
    for _ in 0..50 {
        // while the watcher looks, or sleeps
        let more = r.begin();
        // SAFETY: the child makes a few calls and leaves by _exit, or is killed if they hang.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: plain calls.
            unsafe {
                libc::alarm(120);
                let before = has_watcher();
                let region = r.begin();
                libc::_exit(i32::from(before || region == 0 || !watched() || !r.end(region)));
            }
        }
        t.same("a child", super::wait_for(child), Some(0));
        t.that("the region ends", r.end(more));
    }
    t.that("the first region ends", r.end(region));
}

/// Something else is mapped where the arena goes, just when the driver is asked for the addresses: it gives others, which are no
/// use. Tried again, it works; if not, the claim fails, and nothing of it is left.
pub fn addresses(d: &'static Driver, t: &mut Check) {
    const ARENA: &str = "0x700000000000";
    const TURNS: usize = 3;
    let Some(calls) = part() else {
        let log = format!("{}-calls", std::env::var("SOFTCUDA_CARDS").expect("the harness names the cards"));
        for calls in ["1", "3", "all"] {
            let log = format!("{log}-{calls}");
            let obstacle = if calls == "all" { ARENA.into() } else { format!("{ARENA}:{calls}") };
            again(t, "park_addresses", calls, &[("SOFTCUDA_OBSTACLE", &obstacle), ("SOFTCUDA_CALL_LOG", &log)]);
        }
        return;
    };
    d.start();
    let (r, kernel, memory) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d), d.alloc(4096));
    d.write(memory, &[5; 4096]);
    let claim = |t: &mut Check, what: &str, want: u32| {
        let region = r.begin();
        t.code(format_args!("a launch, {what}"), kernel.launch(d, CUstream::NULL), want);
        t.that(format_args!("the region ends, {what}"), r.end(region));
        t.same(format_args!("parked, {what}"), r.level().as_deref(), Some("parked"));
        t.that(format_args!("bytes, {what}"), d.read(memory, 4096) == [5; 4096]);
        t.same(format_args!("on the card, {what}"), seen_by_others(), Some((0, 0)));
        let calls = super::faults::read("SOFTCUDA_CALL_LOG");
        let count = |name| calls.lines().filter(|line| *line == name).count();
        (r.state(), count("cuMemAddressReserve"), count("cuMemAddressFree"))
    };
    match calls.as_str() {
        "1" => {
            let (_, reserved, freed) = claim(t, "in the way once", 0);
            t.same("ranges that were reserved and freed", (reserved, freed), (2, 1));
        }
        "3" => {
            let (said, reserved, freed) = claim(t, "in the way each time", OUT_OF_MEMORY);
            t.that(format_args!("it is said: {said}"), said.contains("other addresses than the app's pointers"));
            t.same("ranges that were reserved and freed", (reserved, freed), (TURNS, TURNS));
            let (_, reserved, freed) = claim(t, "when it is gone", 0);
            t.same("ranges that were reserved and freed", (reserved, freed), (TURNS + 1, TURNS));
        }
        _ => {
            for what in ["in the way for good", "once more"] {
                let (said, reserved, freed) = claim(t, what, OUT_OF_MEMORY);
                let way_out = "the addresses were taken by another mapping of the process: start it again";
                t.that(format_args!("it is said: {said}"), said.contains(way_out));
                t.same("ranges that were reserved and freed", (reserved, freed), (1, 1));
            }
        }
    }
}

/// For how long something is waited for that the watcher tries every half second.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for something; whether it came.
pub(super) fn until(mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// What can't be unmapped, twice or more often, is told and tried again until it is gone; the next claim works.
pub fn left(d: &'static Driver, t: &mut Check) {
    let Some(part) = part() else {
        // calls of cuMemUnmap: the window of a claim is closed by the first, or by the second, its second try
        let window = |calls: std::ops::RangeInclusive<u32>| {
            calls.map(|nth| format!("cuMemUnmap:{nth}=999")).collect::<Vec<_>>().join(",")
        };
        for calls in [1..=2, 2..=3, 2..=5, 1..=12] {
            let what = format!("a window, {calls:?}");
            again(t, "park_left", &what, &[("SOFTCUDA_FAULT", &window(calls))]);
        }
        for calls in [1..=2, 1..=8] {
            let fault = format!("cuMemSetAccess:1=999,{}", window(calls.clone()));
            again(t, "park_left", &format!("a place, {calls:?}"), &[("SOFTCUDA_FAULT", &fault)]);
        }
        // a window whose access is refused
        let fault = format!("cuMemSetAccess:2=999,{}", window(1..=4));
        again(t, "park_left", "a place, of a window", &[("SOFTCUDA_FAULT", &fault)]);
        return;
    };
    d.start();
    let (r, kernel) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d));
    // mapped nowhere, so that its bytes travel through a window
    let (place, handle) = (vmm::reserve(d, vmm::PAGE), vmm::create(d, vmm::PAGE));
    vmm::map(d, place, vmm::PAGE, handle);
    d.write(place, &[5; vmm::PAGE]);
    must("cuMemUnmap", d.cuMemUnmap(place, vmm::PAGE));
    for (call, what) in ["the first call", "the next call"].into_iter().enumerate() {
        let region = r.begin();
        let launched = kernel.launch(d, CUstream::NULL);
        let want = if call == 0 && part.starts_with("a place") { 999 } else { 0 };
        t.code(format_args!("a launch, {what}"), launched, want);
        t.that(format_args!("the region ends, {what}"), r.end(region));
        t.that(format_args!("parked, {what}"), until(|| r.level().as_deref() == Some("parked")));
        let nothing = || r.state().contains("\"left\": []");
        t.that(format_args!("nothing is left, {what}: {}", r.state()), until(nothing));
        t.same(format_args!("on the card, {what}"), seen_by_others(), Some((0, 0)));
    }
    vmm::map(d, place, vmm::PAGE, handle);
    t.that("bytes are whole", d.read(place, vmm::PAGE) == [5; vmm::PAGE]);
}

/// A borrowed GPU that somebody only asks about is idle.
pub fn polled(d: &'static Driver, t: &mut Check) {
    if part().is_none() {
        let settings = [("ZEROGPU_OUTSIDE", "borrow"), ("ZEROGPU_IDLE", "200ms")];
        return again(t, "park_polled", "200 ms", &settings);
    }
    d.start();
    let (r, kernel) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d));
    let (stream, events) = (d.stream(1), [d.event(0), d.event(0)]);
    must("cuEventRecord", d.cuEventRecord(events[0], stream));
    t.code("a launch", kernel.launch(d, stream), 0);
    must("cuEventRecord", d.cuEventRecord(events[1], stream));
    // it may have been given back already, and borrowed again, where this thread had to wait for a processor
    t.that("borrowed", !r.state().contains("\"borrows\": 0"));
    let start = Instant::now();
    let mut answers = BTreeSet::new();
    loop {
        answers.extend([d.cuEventQuery(events[1]).0, d.cuStreamQuery(stream).0, d.cuEventSynchronize(events[1]).0]);
        answers.insert(d.cuEventElapsedTime(&mut 0.0, events[0], events[1]).0);
        if r.level().as_deref() != Some("claimed") || start.elapsed() >= PATIENCE {
            break;
        }
    }
    t.same("it is given back", r.level().as_deref(), Some("parked"));
    t.that("questions are answered", answers.contains(&0));
    let others: Vec<u32> = answers.into_iter().filter(|code| ![0, NOT_READY].contains(code)).collect();
    t.same("and nothing fails", others, vec![]);
}

/// Whether this process has the thread that parks.
fn has_watcher() -> bool {
    let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
    let mut threads = std::fs::read_dir("/proc/self/task").expect("proc is there").flatten();
    threads.any(|thread| name(thread).trim() == "zerogpu-watch")
}

/// The same of a process that has just made it: a thread names itself.
fn watched() -> bool {
    let start = Instant::now();
    while !has_watcher() && start.elapsed() < Duration::from_secs(60) {
        std::thread::yield_now();
    }
    has_watcher()
}

//! A context that something binds the process to: it stays on the card at a park, and the next claim goes on with it.
use super::faults::{again, part, read, seen_by_others};
use super::parks::until;
use super::regions::{Kernel, Regions};
use crate::check::Check;
use crate::driver::{must, Driver};
use crate::tables::{ask, BLAS};
use zerogpu_abi::*;

/// Starts the device, and binds the process to the context of its first claim, which ends.
fn bound(d: &'static Driver, t: &mut Check) -> (Regions, Kernel) {
    d.start();
    let (r, kernel) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d));
    call(d, t, r, &kernel, "binds", || {
        let (code, table) = ask(d, BLAS);
        must("cuGetExportTable", code);
        // SAFETY: a word of the table is a function, and this one is only forwarded: softcuda has none.
        let answer = unsafe {
            let slot =
                std::mem::transmute::<usize, extern "C" fn(usize, usize, usize, usize) -> CUresult>(*table.add(5));
            slot(0, 0, 0, 16)
        };
        assert_eq!(answer.0, 801, "a slot that nobody knows");
    });
    t.that("it is bound", !r.state().contains("\"bound_by\": []"));
    (r, kernel)
}

/// A marked call with a launch in it.
fn call(d: &'static Driver, t: &mut Check, r: Regions, kernel: &Kernel, what: &str, inside: impl FnOnce()) {
    let region = r.begin();
    t.code(format_args!("a launch, {what}"), kernel.launch(d, CUstream::NULL), 0);
    inside();
    t.that(format_args!("the region ends, {what}"), r.end(region));
    // a park that failed is tried again
    t.that(format_args!("parked, {what}"), until(|| r.level().as_deref() == Some("parked")));
}

/// What the app sets while parked is so in the context that stayed, also what it sets back.
pub fn settings(d: &'static Driver, t: &mut Check) {
    if part().is_none() {
        let log = format!("{}-calls", std::env::var("SOFTCUDA_CARDS").expect("the harness names the cards"));
        return again(t, "kept_settings", "logged", &[("SOFTCUDA_CALL_LOG", &log)]);
    }
    const STACK: u32 = 0;
    let (r, kernel) = bound(d, t);
    let count = |name: &str| read("SOFTCUDA_CALL_LOG").lines().filter(|line| *line == name).count();
    let all = || ["cuCtxSetLimit", "cuCtxSetCacheConfig", "cuStreamSetAttribute"].map(count);
    let mut usual = 0;
    must("cuCtxGetLimit", d.cuCtxGetLimit(&mut usual, STACK));
    let stream = d.stream(1);
    call(d, t, r, &kernel, "which makes the stream's twin and sets others", || {
        must("cuCtxSetLimit", d.cuCtxSetLimit(STACK, 4096));
        must("cuCtxSetCacheConfig", d.cuCtxSetCacheConfig(2));
        must("cuLaunchKernel", kernel.launch(d, stream));
    });
    let before = all();
    must("cuCtxSetLimit", d.cuCtxSetLimit(STACK, usual));
    must("cuCtxSetCacheConfig", d.cuCtxSetCacheConfig(0));
    // CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY: spin, then yield
    for policy in [1, 2] {
        let policy = CUlaunchAttributeValue { words: [policy, 0, 0, 0, 0, 0, 0, 0] };
        must("cuStreamSetAttribute", d.cuStreamSetAttribute(stream, 3, &policy));
    }
    t.same("the driver hears nothing while parked", all(), before);
    call(d, t, r, &kernel, "after they were set back", || {});
    t.same("what was set", all(), before.map(|calls| calls + 1));
    call(d, t, r, &kernel, "after nothing was set", || {});
    t.same("is set once", all(), before.map(|calls| calls + 1));
}

/// Host memory that could not be unregistered stays so in the context: it is told, tried again, and no next claim fails.
pub fn pins(d: &'static Driver, t: &mut Check) {
    if part().is_none() {
        // both tries: of what the parks' copies lock for themselves, and of the program's own. Those of a claim's fail it
        for nth in [1, 3, 4, 6, 7] {
            let fault = format!("cuMemHostUnregister:{nth}=999,cuMemHostUnregister:{}=999", nth + 1);
            again(t, "kept_pins", &format!("calls {nth} and the next"), &[("SOFTCUDA_FAULT", &fault)]);
        }
        return;
    }
    let (r, kernel) = bound(d, t);
    let mut memory = std::ptr::null_mut();
    must("cuMemHostAlloc", d.cuMemHostAlloc(&mut memory, 1 << 20, 0));
    for what in ["with page-locked memory", "the next", "the last"] {
        call(d, t, r, &kernel, what, || {});
    }
    let nothing = || r.state().contains("\"left\": []");
    t.that(format_args!("nothing is left: {}", r.state()), until(nothing));
    t.same("on the card: bytes and contexts", seen_by_others(), Some((0, 1)));
}

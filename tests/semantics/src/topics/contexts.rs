//! Contexts: the primary one's counts, the stack of each thread, and contexts that a program makes.
use super::{in_thread, Late};
use crate::check::Check;
use crate::driver::{must, Driver};
use zerogpu_abi::*;

/// Flag of a context whose waits block (cuda.h: CU_CTX_SCHED_BLOCKING_SYNC).
const BLOCKING_SYNC: u32 = 4;
/// A stream's attribute (cuda.h: CU_STREAM_ATTRIBUTE_SYNCHRONIZATION_POLICY).
const SYNCHRONIZATION_POLICY: u32 = 3;
/// The flags of `cuCtxCreate` that choose how waits are done.
const SCHED_MASK: u32 = 7;

fn state(d: &Driver) -> (u32, i32) {
    let (mut flags, mut active) = (99, 99);
    must("cuDevicePrimaryCtxGetState", d.cuDevicePrimaryCtxGetState(0, &mut flags, &mut active));
    (flags, active)
}

fn retain(d: &Driver) -> CUcontext {
    let mut context = CUcontext::NULL;
    must("cuDevicePrimaryCtxRetain", d.cuDevicePrimaryCtxRetain(&mut context, 0));
    context
}

fn create(d: &Driver, flags: u32) -> CUcontext {
    let mut context = CUcontext::NULL;
    must("cuCtxCreate", d.cuCtxCreate_v2(&mut context, flags, 0));
    context
}

fn id(d: &Driver, context: CUcontext) -> u64 {
    let mut id = 0;
    must("cuCtxGetId", d.cuCtxGetId(context, &mut id));
    id
}

/// Retain, release, reset, flags.
pub fn primary(d: &Driver, t: &mut Check) {
    must("cuInit", d.cuInit(0));
    t.same("inactive at first", state(d).1, 0);
    t.code("retain of a bad device", d.cuDevicePrimaryCtxRetain(&mut CUcontext(0), 99), 101);
    t.code("retain into NULL", d.cuDevicePrimaryCtxRetain(std::ptr::null_mut(), 0), 1);
    t.code("release of a context never retained", d.cuDevicePrimaryCtxRelease_v2(0), 201);
    t.code("flags while inactive", d.cuDevicePrimaryCtxSetFlags_v2(0, BLOCKING_SYNC), 0);
    t.same("the flags are kept", state(d).0 & SCHED_MASK, BLOCKING_SYNC);
    t.code("bad flags", d.cuDevicePrimaryCtxSetFlags_v2(0, 0xffff_0000), 1);
    t.code("no way to wait", d.cuDevicePrimaryCtxSetFlags_v2(0, 3), 1);
    t.code("flags back", d.cuDevicePrimaryCtxSetFlags_v2(0, 0), 0);

    // a real card may have what is asked for here
    if !t.driver.real {
        let mut context = CUcontext::NULL;
        let (mut affinity, none) = (CUexecAffinityParam { kind: 0, smCount: 8 }, std::ptr::null_mut());
        let mut params =
            CUctxCreateParams { execAffinityParams: &raw mut affinity, numExecAffinityParams: 1, cigParams: none };
        t.code("a context on a part of the card", d.cuCtxCreate_v4(&mut context, &mut params, 0, 0), 224);
        params.numExecAffinityParams = 0;
        params.cigParams = (&raw mut affinity).cast();
        t.code("a context for graphics", d.cuCtxCreate_v4(&mut context, &mut params, 0, 0), 801);
        t.same("makes none", context, CUcontext::NULL);
    }

    let first = retain(d);
    t.same("active once retained", state(d).1, 1);
    t.same("retain makes nothing current", d.current(), CUcontext::NULL);
    t.same("each retain gives the same context", retain(d), first);
    t.same("its id", id(d, first), 1);
    t.code("one release of two", d.cuDevicePrimaryCtxRelease_v2(0), 0);
    t.same("active until the last release", state(d).1, 1);

    must("cuCtxSetCurrent", d.cuCtxSetCurrent(first));
    let mut device = 9;
    t.code("cuCtxGetDevice", d.cuCtxGetDevice(&mut device), 0);
    t.same("its device", device, 0);
    // cuda.h: the primary context is destroyed by releasing it only
    t.one_of("cuCtxDestroy of the primary context", d.cuCtxDestroy_v2(first), &[1, 201]);
    t.same("which stays active", state(d).1, 1);
    torn_down(d, t, first);
    reset(d, t, first);
}

/// What is left after the last release: a current context that is gone.
fn torn_down(d: &Driver, t: &mut Check, first: CUcontext) {
    let address = d.alloc(4096);
    t.code("the last release", d.cuDevicePrimaryCtxRelease_v2(0), 0);
    t.same("inactive after it", state(d).1, 0);
    t.code("one release too many", d.cuDevicePrimaryCtxRelease_v2(0), 201);
    t.same("the thread's current context stays", d.current(), first);
    // cuda.h gives 709 for a primary context that is not initialised
    t.one_of("an allocation in it", d.cuMemAlloc_v2(&mut 0, 4096), &[201, 709]);
    t.one_of("waiting for it", d.cuCtxSynchronize(), &[201, 709]);
    t.same("retained again it has the same address", retain(d), first);
    t.code("and works", d.cuCtxSynchronize(), 0);
    let mut kind = 0u32;
    let attribute = d.cuPointerGetAttribute((&raw mut kind).cast(), 2, address);
    t.code("memory of the released context is gone", attribute, 1);
    t.code("and can't be freed", d.cuMemFree_v2(address), 1);
}

/// Settings of the current context and its legacy stream: cache and bank preferences, limit of the stack, synchronization policy.
fn settings(d: &Driver) -> (u32, u32, usize, u64) {
    let (mut cache, mut banks, mut size, mut policy) = (9, 9, 9, CUlaunchAttributeValue { words: [9; 8] });
    must("cuCtxGetCacheConfig", d.cuCtxGetCacheConfig(&mut cache));
    must("cuCtxGetSharedMemConfig", d.cuCtxGetSharedMemConfig(&mut banks));
    must("cuCtxGetLimit", d.cuCtxGetLimit(&mut size, 0));
    must("cuStreamGetAttribute", d.cuStreamGetAttribute(CUstream::NULL, SYNCHRONIZATION_POLICY, &mut policy));
    (cache, banks, size, policy.words[0])
}

fn reset(d: &Driver, t: &mut Check, first: CUcontext) {
    let fresh = settings(d);
    must("cuCtxSetCacheConfig", d.cuCtxSetCacheConfig(2));
    must("cuCtxSetSharedMemConfig", d.cuCtxSetSharedMemConfig(2));
    must("cuCtxSetLimit", d.cuCtxSetLimit(0, 4096));
    let block = CUlaunchAttributeValue { words: [4, 0, 0, 0, 0, 0, 0, 0] };
    let code = d.cuStreamSetAttribute(CUstream::NULL, SYNCHRONIZATION_POLICY, &block);
    must("cuStreamSetAttribute", code);
    let address = d.alloc(4096);
    t.code("reset", d.cuDevicePrimaryCtxReset_v2(0), 0);
    t.same("inactive after a reset", state(d).1, 0);
    t.code("reset of a bad device", d.cuDevicePrimaryCtxReset_v2(99), 101);
    t.same("retained after a reset it has the same address", retain(d), first);
    must("cuCtxSetCurrent", d.cuCtxSetCurrent(first));
    t.same("its settings are those of a new context", settings(d), fresh);
    t.code("memory from before the reset is gone", d.cuMemFree_v2(address), 1);
    let address = d.alloc(4096);
    d.write(address, &[5; 4096]);
    t.that("memory after it works", d.read(address, 4096) == [5; 4096]);
    d.free(address);
}

/// Push, pop and set in one thread, and that threads do not see each other's.
pub fn stack(d: &'static Driver, t: &mut Check) {
    must("cuInit", d.cuInit(0));
    let primary = retain(d);
    t.code("pop of an empty stack", d.cuCtxPopCurrent_v2(&mut CUcontext(0)), 201);
    let (a, b) = (create(d, 0), create(d, 0));
    t.same("cuCtxCreate pushes", d.current(), b);
    let mut popped = CUcontext::NULL;
    t.code("pop", d.cuCtxPopCurrent_v2(&mut popped), 0);
    t.same("the last one pushed", popped, b);
    t.same("the one below", d.current(), a);
    t.code("push", d.cuCtxPushCurrent_v2(primary), 0);
    t.code("push again", d.cuCtxPushCurrent_v2(primary), 0);
    t.same("current", d.current(), primary);
    t.code("set replaces the top", d.cuCtxSetCurrent(b), 0);
    let order: Vec<CUcontext> = (0..3)
        .map(|_| {
            let mut popped = CUcontext::NULL;
            must("cuCtxPopCurrent", d.cuCtxPopCurrent_v2(&mut popped));
            popped
        })
        .collect();
    t.same("and only it", order, vec![b, primary, a]);
    t.code("then the stack is empty", d.cuCtxPopCurrent_v2(&mut popped), 201);
    t.code("set on an empty stack", d.cuCtxSetCurrent(a), 0);
    t.code("set NULL pops", d.cuCtxSetCurrent(CUcontext::NULL), 0);
    t.same("nothing current", d.current(), CUcontext::NULL);
    t.code("which leaves an empty stack", d.cuCtxPopCurrent_v2(&mut popped), 201);
    must("cuCtxPushCurrent", d.cuCtxPushCurrent_v2(a));
    t.code("pop into NULL", d.cuCtxPopCurrent_v2(std::ptr::null_mut()), 0);
    t.same("popped all the same", d.current(), CUcontext::NULL);

    must("cuCtxSetCurrent", d.cuCtxSetCurrent(a));
    let (before, after) = in_thread(move || {
        let before = d.current();
        must("cuCtxSetCurrent", d.cuCtxSetCurrent(b));
        (before, d.current())
    });
    t.same("a new thread has none", before, CUcontext::NULL);
    t.same("a thread has its own", (after, d.current()), (b, a));
    let same = in_thread(move || d.cuCtxPushCurrent_v2(a));
    t.code("one context in two threads", same, 0);
    must("cuCtxPushCurrent", d.cuCtxPushCurrent_v2(b));
    t.code("destroy of NULL", d.cuCtxDestroy_v2(CUcontext::NULL), 1);
    t.same("which leaves the top", d.current(), b);
    must("cuCtxPopCurrent", d.cuCtxPopCurrent_v2(&mut CUcontext(0)));
    t.same("and the one below", d.current(), a);
    deep(d, t, a);
}

/// A stack is deeper than libraries that call each other.
fn deep(d: &Driver, t: &mut Check, context: CUcontext) {
    let pushed = (0..50).filter(|_| d.cuCtxPushCurrent_v2(context).ok()).count();
    let popped = (0..50).filter(|_| d.cuCtxPopCurrent_v2(&mut CUcontext(0)).ok()).count();
    t.same("fifty pushes and pops", (pushed, popped), (50, 50));
    t.same("back where it was", d.current(), context);
}

/// Contexts made by `cuCtxCreate`.
pub fn created(d: &'static Driver, t: &mut Check) {
    must("cuInit", d.cuInit(0));
    t.code("bad device", d.cuCtxCreate_v2(&mut CUcontext(0), 0, 99), 101);
    t.code("bad flags", d.cuCtxCreate_v2(&mut CUcontext(0), 0xffff_0000, 0), 1);
    t.code("NULL out", d.cuCtxCreate_v2(std::ptr::null_mut(), 0, 0), 1);
    let primary = retain(d);
    let (a, b) = (create(d, BLOCKING_SYNC), create(d, 0));
    t.that("three contexts", a != b && a != primary && b != primary);
    let ids = [id(d, primary), id(d, a), id(d, b)];
    t.that("three ids", ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
    t.same("the id of the current context by NULL", id(d, CUcontext::NULL), ids[2]);
    let mut version = 0;
    t.code("cuCtxGetApiVersion", d.cuCtxGetApiVersion(a, &mut version), 0);
    t.same("version", version, 3020);
    let (mut flags, mut device) = (0, 9);
    must("cuCtxPopCurrent", d.cuCtxPopCurrent_v2(&mut CUcontext(0)));
    t.code("cuCtxGetFlags", d.cuCtxGetFlags(&mut flags), 0);
    t.same("the flags given", flags & SCHED_MASK, BLOCKING_SYNC);
    t.code("cuCtxGetDevice_v2 of a context that is not current", d.cuCtxGetDevice_v2(&mut device, b), 0);
    t.same("its device", device, 0);
    ownership(d, t, a, b);

    must("cuCtxPushCurrent", d.cuCtxPushCurrent_v2(b));
    t.code("destroy the current one", d.cuCtxDestroy_v2(b), 0);
    t.same("it is popped", d.current(), a);
    let c = create(d, 0);
    t.that("an id is not used again", !ids.contains(&id(d, c)));
    destroyed_elsewhere(d, t, c);
    destroyed_with_work(d, t);
    limits(d, t);
}

/// Memory and streams belong to the context that was current.
fn ownership(d: &Driver, t: &mut Check, a: CUcontext, b: CUcontext) {
    must("cuCtxSetCurrent", d.cuCtxSetCurrent(a));
    let free = d.memory_info().0;
    must("cuCtxPushCurrent", d.cuCtxPushCurrent_v2(b));
    let (memory, stream) = (d.alloc(8 << 20), d.stream(0));
    must("cuCtxPopCurrent", d.cuCtxPopCurrent_v2(&mut CUcontext(0)));
    let (mut owner, mut of) = (CUcontext::NULL, CUcontext::NULL);
    t.code("CONTEXT attribute", d.cuPointerGetAttribute((&raw mut owner).cast(), 1, memory), 0);
    t.same("the context that allocated", owner, b);
    t.code("cuStreamGetCtx", d.cuStreamGetCtx(stream, &mut of), 0);
    t.same("the context that made the stream", of, b);
    // one address space: memory of b is reached from a
    d.write(memory, &[1; 64]);
    t.that("memory of another context is reached", d.read(memory, 64) == [1; 64]);
    d.free(memory);
    t.same("and freed", d.memory_info().0, free);

    let c = create(d, 0);
    let before = d.memory_info().0;
    let kept = d.alloc(8 << 20);
    t.that("memory is used", before - d.memory_info().0 >= 8 << 20);
    t.code("destroy with memory in it", d.cuCtxDestroy_v2(c), 0);
    t.that("memory goes with its context", d.memory_info().0 >= before);
    t.code("its address is unknown", d.cuMemFree_v2(kept), 1);
}

/// Destroyed by a thread that has no context, a context still ends after its work.
fn destroyed_with_work(d: &'static Driver, t: &mut Check) {
    let context = create(d, 0);
    let (stream, done) = (d.stream(1), Late::leaked());
    must("cuLaunchHostFunc", d.cuLaunchHostFunc(stream, Some(Late::come), done.data()));
    let destroyed = in_thread(move || (d.cuCtxDestroy_v2(context), done.is_there()));
    t.code("destroy with a host function in it", destroyed.0, 0);
    t.that("which was waited for", destroyed.1);
    must("cuCtxPopCurrent", d.cuCtxPopCurrent_v2(&mut CUcontext(0)));
}

/// A context that another thread destroys while it is current here.
fn destroyed_elsewhere(d: &'static Driver, t: &mut Check, context: CUcontext) {
    let destroyed = in_thread(move || d.cuCtxDestroy_v2(context));
    t.code("destroy from a thread in which it is not current", destroyed, 0);
    // cuda.h: 709 when a thread uses a context that another thread destroyed
    t.one_of("use of the destroyed context", d.cuMemAlloc_v2(&mut 0, 4096), &[201, 709]);
    t.one_of("wait for the destroyed context", d.cuCtxSynchronize(), &[201, 709]);
    t.code("it can be replaced", d.cuCtxSetCurrent(CUcontext::NULL), 0);
}

fn limits(d: &Driver, t: &mut Check) {
    let context = create(d, 0);
    let mut size = 0;
    let fixed = |limit| {
        let mut value = 77;
        let code = d.cuCtxGetLimit(&mut value, limit);
        (code.0, if code.ok() { value } else { 0 })
    };
    let told = [7, 8, 9, 10].map(fixed);
    t.same("limits that nobody sets", &told[1..], &[(0, 0), (215, 0), (1, 0)]);
    t.that(format_args!("shared memory of a block: {}", told[0].1), told[0].0 == 0 && told[0].1 > 48 << 10);
    t.code("set the stack size", d.cuCtxSetLimit(0, 4096), 0);
    t.code("get it", d.cuCtxGetLimit(&mut size, 0), 0);
    t.that("at least what was asked", size >= 4096);
    let huge = |limit| d.cuCtxSetLimit(limit, 1 << 60);
    t.one_of("a stack larger than any card", huge(0), &[1, 2]);
    // driver 580 takes it (recorded), and can't make it when a kernel needs it
    let real: &[u32] = if t.driver.real { &[0] } else { &[1, 2] };
    t.one_of("a heap larger than any card", huge(2), real);
    t.code("the stack size is what it was", d.cuCtxGetLimit(&mut size, 0), 0);
    t.that("still", (4096..1 << 20).contains(&size));
    t.one_of("an unknown limit", d.cuCtxSetLimit(99, 1), &[1, 215]);
    t.one_of("an unknown limit's value", d.cuCtxGetLimit(&mut size, 99), &[1, 215]);
    t.code("limit into NULL", d.cuCtxGetLimit(std::ptr::null_mut(), 0), 1);
    t.code("set the cache preference", d.cuCtxSetCacheConfig(2), 0);
    t.code("get the cache preference", d.cuCtxGetCacheConfig(&mut 0), 0);
    t.code("set the bank size", d.cuCtxSetSharedMemConfig(0), 0);
    t.code("get the bank size", d.cuCtxGetSharedMemConfig(&mut 0), 0);
    t.code("reset the persisting L2 lines", d.cuCtxResetPersistingL2Cache(), 0);
    must("cuCtxDestroy", d.cuCtxDestroy_v2(context));
    while d.cuCtxPopCurrent_v2(&mut CUcontext(0)).ok() {}
    t.code("limit with no context", d.cuCtxGetLimit(&mut size, 0), 201);
}

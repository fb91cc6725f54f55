//! The export tables: sizes, the slots that runtimes call, the integrity check.
use super::in_thread;
use crate::check::Check;
use crate::driver::{must, Driver};
use crate::image::PTX;
use crate::tables::{
    ask, mark, Table, ABSENT, AT_LEAST, BLAS, CLS, CONTEXT_CHECKS, CUDART, FUNCTIONS, HOOKS, INTEGRITY, INTERNALS,
    RECORDED, REMARKS, TOOLS_TLS,
};
use hmac::{Mac, SimpleHmac};
use md2::Md2;
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use zerogpu_abi::*;

/// Sizes and addresses, also before `cuInit`.
pub fn sizes(d: &Driver, t: &mut Check) {
    for recorded in RECORDED {
        let (code, table) = ask(d, recorded.uuid);
        if !recorded.mandatory && !code.ok() {
            t.code(format_args!("{}: not there", recorded.name), code, 1);
            t.that(format_args!("{}: then NULL", recorded.name), table.is_null());
            continue;
        }
        t.code(recorded.name, code, 0);
        if table.is_null() {
            continue;
        }
        let table = Table::of(d, recorded.uuid);
        t.same(format_args!("{}: bytes", recorded.name), table.word(0), 8 * recorded.words);
        if !t.driver.real && table.word(0) == 8 * recorded.words {
            let empty: Vec<usize> = (1..recorded.words).filter(|slot| table.word(*slot) == 0).collect();
            t.same(format_args!("{}: slots without a function", recorded.name), empty, vec![]);
        }
    }
    for recorded in AT_LEAST {
        let (code, table) = ask(d, recorded.uuid);
        t.code(recorded.name, code, 0);
        if table.is_null() {
            continue;
        }
        let table = Table::of(d, recorded.uuid);
        let words = table.word(0) / 8;
        t.that(format_args!("{}: {words} words", recorded.name), (recorded.words..1000).contains(&words));
        if !t.driver.real && words < 1000 {
            let empty: Vec<usize> = (1..words).filter(|slot| table.word(*slot) == 0).collect();
            t.same(format_args!("{}: slots without a function", recorded.name), empty, vec![]);
        }
    }
    let storage = Table::of(d, CLS);
    t.that("CLS has three functions", (0..3).all(|slot| storage.word(slot) > 4096));
    t.same("CLS ends with NULL", storage.word(3), 0);
    for unknown in [ABSENT, 0, u128::MAX] {
        let (code, table) = ask(d, unknown);
        t.code(format_args!("unknown UUID {unknown:032X}"), code, 1);
        t.that("no table", table.is_null());
    }
    let before: Vec<*const usize> = RECORDED.iter().map(|recorded| ask(d, recorded.uuid).1).collect();
    must("cuInit", d.cuInit(0));
    let after: Vec<*const usize> = RECORDED.iter().map(|recorded| ask(d, recorded.uuid).1).collect();
    // the integrity check hashes them
    t.same("addresses are for life", after, before);
}

/// Slots that answer at any time.
pub fn slots(d: &'static Driver, t: &mut Check) {
    must("cuInit", d.cuInit(0));
    let (cudart, hooks, tls) = (Table::of(d, CUDART), Table::of(d, HOOKS), Table::of(d, TOOLS_TLS));
    let (mut named, mut active) = (CUcontext::NULL, 9);
    t.code("CUDART[2]", cudart.primary(&mut named, 0), 0);
    must("cuDevicePrimaryCtxGetState", d.cuDevicePrimaryCtxGetState(0, &mut 0, &mut active));
    t.same("activates nothing", active, 0);
    let mut current = CUcontext(5);
    t.code("TOOLS_TLS[2] with no context", tls.thread_context(&mut current), 0);
    t.same("is NULL", current, CUcontext::NULL);
    for (name, size, slot) in
        [("HOOKS[2]", 1024, Table::hooks_buffer as fn(Table, _, _)), ("HOOKS[6]", 14, Table::hooks_flags)]
    {
        let (mut buffer, mut bytes) = (null_mut(), 0);
        slot(hooks, &mut buffer, &mut bytes);
        t.same(format_args!("{name}: size"), bytes, size);
        t.that(format_args!("{name}: a buffer"), !buffer.is_null());
        if buffer.is_null() || bytes != size {
            continue;
        }
        // SAFETY: the driver gives a buffer of that size to read and write.
        let memory = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), bytes) };
        t.that(format_args!("{name}: zeroed"), memory.iter().all(|byte| *byte == 0));
        memory.fill(1);
        let mut again = null_mut();
        slot(hooks, &mut again, &mut bytes);
        t.same(format_args!("{name}: the same buffer"), again, buffer);
    }
    let primary = d.start();
    t.same("the primary context is the one that CUDART[2] named", primary, named);
    t.code("TOOLS_TLS[2]", tls.thread_context(&mut current), 0);
    t.same("the current context", current, primary);
    let elsewhere = in_thread(move || {
        let mut current = CUcontext(5);
        (tls.thread_context(&mut current).0, current)
    });
    t.same("each thread has its own", elsewhere, (0, CUcontext::NULL));

    let checks = Table::of(d, CONTEXT_CHECKS);
    let (mut word, mut more) = (9, null());
    t.code("CONTEXT_CHECKS[2]", checks.check_context(primary, &mut word, &mut more), 0);
    t.same("its word", word, 0);
    t.same("CONTEXT_CHECKS[3]", checks.check_flags(), 0);
    ids(d, t, primary);
    functions(d, t, primary);
}

/// What cuFFT 12 asks for, in place of functions by their names.
fn functions(d: &Driver, t: &mut Check, primary: CUcontext) {
    unsafe extern "C" fn note(list: *mut c_void, function: CUfunction) {
        // SAFETY: the list that was passed with this function.
        unsafe { (*list.cast::<Vec<CUfunction>>()).push(function) };
    }
    let table = Table::of(d, FUNCTIONS);
    let mut module = CUmodule::NULL;
    must("cuModuleLoadData", d.cuModuleLoadData(&mut module, PTX.as_ptr().cast()));
    let mut seen: Vec<CUfunction> = Vec::new();
    let count = table.functions(primary, module, Some(note), (&raw mut seen).cast());
    t.same("FUNCTIONS[7]: their number", count, 2);
    let mut named = [CUfunction::NULL; 2];
    for (function, name) in named.iter_mut().zip([c"probe", c"heavy"]) {
        must("cuModuleGetFunction", d.cuModuleGetFunction(function, module, name.as_ptr()));
    }
    seen.sort_unstable_by_key(|function| function.0);
    named.sort_unstable_by_key(|function| function.0);
    t.same("FUNCTIONS[7]: those that their names give", seen, named.to_vec());
    must("cuModuleUnload", d.cuModuleUnload(module));
    if !t.driver.real {
        t.same("FUNCTIONS[7] of no module", table.functions(primary, module, Some(note), null_mut()), 0);
    }
}

/// What cuBLAS asks of the internals table.
fn ids(d: &Driver, t: &mut Check, primary: CUcontext) {
    let internals = Table::of(d, INTERNALS);
    let (mut id, mut named) = (0, 0);
    t.code("INTERNALS[4]", internals.context_id(primary, &mut id), 0);
    must("cuCtxGetId", d.cuCtxGetId(primary, &mut named));
    t.same("is cuCtxGetId", (id, named), (1, 1));
    let stream = d.stream(1);
    let mut of_stream = 0;
    must("cuStreamGetId", d.cuStreamGetId(stream, &mut of_stream));
    let cases = [
        ("NULL", CUstream::NULL, 0, 7),
        ("legacy", CU_STREAM_LEGACY, 0, 7),
        ("NULL, per thread", CUstream::NULL, 1, 14),
        ("per thread", CU_STREAM_PER_THREAD, 0, 14),
        ("a stream", stream, 0, of_stream),
        ("a stream, per thread", stream, 1, of_stream),
    ];
    for (name, stream, per_thread, want) in cases {
        let (mut object, mut id) = (null(), 0);
        let code = internals.stream_object(primary, stream, &mut object, per_thread);
        t.code(format_args!("INTERNALS[51] {name}"), code, 0);
        t.that(format_args!("INTERNALS[51] {name}: an object"), !object.is_null());
        t.code(format_args!("INTERNALS[39] {name}"), internals.stream_object_id(primary, object, &mut id), 0);
        t.same(format_args!("INTERNALS[39] {name}: id"), id, want);
    }
    if !t.driver.real {
        // driver 580 crashes (recorded)
        let wild = internals.stream_object(primary, CUstream(0xdead_0000), &mut null(), 0);
        t.that("INTERNALS[51] of no stream", !wild.ok());
    }
}

/// A slot that nobody here knows is answered by a driver, and a GPU claimed for that: cuBLASLt 13 calls its own before the
/// first kernel.
pub fn unknown_slot(d: &'static Driver, t: &mut Check) {
    // one that is given back before it was used is claimed again
    std::env::set_var("ZEROGPU_IDLE", "60s");
    let table = Table::of(d, BLAS);
    let (mut a, mut b, c) = (7, 7, 0u64);
    let call = |a: &mut u64, b: &mut u64| table.blas(a, b, (&raw const c).cast(), 16);
    t.code("before cuInit", call(&mut a, &mut b), 3);
    let claims = |d: &Driver| state(d, "claims");
    t.that("claims nothing", claims(d).is_none_or(|n| n == 0));
    d.start();
    // softcuda has no such function either
    t.code("answered", call(&mut a, &mut b), 801);
    t.same("untouched", (a, b), (7, 7));
    // cudart's remarks are known: they claim nothing more
    Table::of(d, REMARKS).remark(c"CUDA".as_ptr(), 0, c"Nothing is wrong.".as_ptr(), null());
    Table::of(d, REMARKS).remarks_taken(0);
    Table::of(d, REMARKS).remarks_taken(1);
    if let Some(claims) = claims(d) {
        t.same("a GPU was claimed for it, if there is one", claims, u64::from(!t.driver.no_kernels));
    }
}

/// A number of the shim's state; None: this is no shim.
fn state(d: &Driver, key: &str) -> Option<u64> {
    let address = d.address(c"zerogpu_state");
    if address == 0 {
        return None;
    }
    // SAFETY: a function of this type, as zerogpu.h declares it.
    let state = unsafe {
        std::mem::transmute::<usize, unsafe extern "C" fn(*mut std::ffi::c_char, usize) -> std::ffi::c_int>(address)
    };
    let mut text = [0u8; 1024];
    // SAFETY: writes at most so many bytes, and a NUL.
    unsafe { state(text.as_mut_ptr().cast(), text.len()) };
    let text = String::from_utf8_lossy(&text);
    let (_, rest) = text.split_once(&format!("\"{key}\": "))?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The integrity check against our own computation of it.
pub fn integrity(d: &'static Driver, t: &mut Check) {
    const CONSTANTS: [[u64; 2]; 2] =
        [[0x3341_181C_03CB_675C, 0x8ED3_83AA_1F4C_D1E8], [0x1841_181C_03CB_675C, 0x8ED3_83AA_1F4C_D1E8]];
    must("cuInit", d.cuInit(0));
    let table = Table::of(d, INTEGRITY);
    let ask = move |version: u32, seconds: u64| {
        let mut out = [0; 2];
        (table.check(version, seconds, &mut out).0, out)
    };
    for base in [11_070, 12_010, 12_040, 13_000] {
        for (digit, constant) in [0, 1].into_iter().zip(CONSTANTS) {
            t.same(format_args!("version {}", base + digit), ask(base + digit, 1_700_000_000), (0, constant));
        }
        for digit in [2, 7] {
            let (version, seconds) = (base + digit, 1_700_000_000 + u64::from(base));
            t.same(format_args!("version {version}"), ask(version, seconds), (0, mac(d, table, version, seconds)));
        }
    }
    let (here, there) = (ask(12_012, 5), in_thread(move || (ask(12_012, 5), mac(d, table, 12_012, 5))));
    t.same("in another thread", there.0, (0, there.1));
    t.that("each thread's is another", here != there.0);
    t.that("each second's is another", here != ask(12_012, 6));
    let primary = d.start();
    t.same("with a context", ask(12_012, 5), (0, mac(d, table, 12_012, 5)));
    t.that("a context changes nothing", primary != CUcontext::NULL && ask(12_012, 5) == here);
}

/// HMAC-MD2 over version, process, thread, tables, time and devices.
fn mac(d: &Driver, table: Table, version: u32, seconds: u64) -> [u64; 2] {
    const KEY: [u8; 16] = 0x146A_DDAE_53A9_A752_AA08_4136_0BF5_5A9F_u128.to_be_bytes();
    let (mut driver, mut devices) = (0, 0);
    must("cuDriverGetVersion", d.cuDriverGetVersion(&mut driver));
    must("cuDeviceGetCount", d.cuDeviceGetCount(&mut devices));
    // SAFETY: has no preconditions.
    let thread = unsafe { libc::pthread_self() } as u32;
    let mut hash = SimpleHmac::<Md2>::new_from_slice(&KEY).expect("any length of key");
    [driver as u32, version, std::process::id(), thread].iter().for_each(|word| hash.update(&word.to_le_bytes()));
    let addresses = [Table::of(d, CUDART).address(), table.address(), table.word(1) as u64, seconds];
    addresses.iter().for_each(|word| hash.update(&word.to_le_bytes()));
    for device in 0..devices {
        let mut uuid = CUuuid { bytes: [0; 16] };
        must("cuDeviceGetUuid_v2", d.cuDeviceGetUuid_v2(&mut uuid, device));
        hash.update(&uuid.bytes);
        for attribute in [50, 33, 34] {
            let mut value = 0;
            must("cuDeviceGetAttribute", d.cuDeviceGetAttribute(&mut value, attribute, device));
            hash.update(&value.to_le_bytes());
        }
    }
    let bytes = hash.finalize().into_bytes();
    let half = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    [half(0), half(8)]
}

/// What a destructor saw: context, key, value, and what the driver answered to it.
type Seen = (usize, usize, usize, u32);
static SEEN: std::sync::Mutex<Vec<Seen>> = std::sync::Mutex::new(Vec::new());
static CALLED: std::sync::OnceLock<&'static Driver> = std::sync::OnceLock::new();

unsafe extern "C" fn destructor(context: CUcontext, key: *mut c_void, value: *mut c_void) {
    // a runtime's destructor calls the driver: no lock of the driver's may be held
    let answer = CALLED.get().map_or(99, |d| d.cuCtxGetCurrent(&mut CUcontext(0)).0);
    SEEN.lock().expect("not poisoned").push((context.0, key as usize, value as usize, answer));
}

fn seen() -> Vec<Seen> {
    std::mem::take(&mut *SEEN.lock().expect("not poisoned"))
}

/// Context local storage.
pub fn local_storage(d: &'static Driver, t: &mut Check) {
    must("cuInit", d.cuInit(0));
    CALLED.get_or_init(|| d);
    let storage = Table::of(d, CLS);
    let mut value = mark(7);
    t.code("get with no context", storage.get(&mut value, CUcontext::NULL, mark(100)), 201);
    t.code("put with no context", storage.put(CUcontext::NULL, mark(100), mark(1), None), 201);
    t.code("delete with no context", storage.delete(CUcontext::NULL, mark(100)), 201);
    t.same("value of a failed get", value, mark(7));
    let primary = d.start();
    t.code("get of a missing key", storage.get(&mut value, primary, mark(100)), 400);
    t.code("put", storage.put(primary, mark(100), mark(1), Some(destructor)), 0);
    t.code("put again", storage.put(primary, mark(100), mark(2), Some(destructor)), 400);
    t.code("get", storage.get(&mut value, CUcontext::NULL, mark(100)), 0);
    t.same("the first value", value, mark(1));
    t.code("put in the current context", storage.put(CUcontext::NULL, mark(200), mark(3), Some(destructor)), 0);
    t.code("get by its name", storage.get(&mut value, primary, mark(200)), 0);
    t.same("its value", value, mark(3));
    t.code("put without a destructor", storage.put(primary, mark(300), mark(4), None), 0);
    t.code("delete", storage.delete(primary, mark(200)), 0);
    t.same("delete calls no destructor", seen(), vec![]);
    t.code("delete of a missing key", storage.delete(primary, mark(200)), 400);
    t.code("get of a deleted key", storage.get(&mut value, primary, mark(200)), 400);
    t.code("put of a deleted key", storage.put(primary, mark(200), mark(5), Some(destructor)), 0);

    let mut other = CUcontext::NULL;
    must("cuCtxCreate", d.cuCtxCreate_v2(&mut other, 0, 0));
    t.code("another context has its own", storage.get(&mut value, other, mark(100)), 400);
    must("cuCtxDestroy", d.cuCtxDestroy_v2(other));

    must("cuDevicePrimaryCtxRetain", d.cuDevicePrimaryCtxRetain(&mut CUcontext(0), 0));
    must("cuDevicePrimaryCtxRelease", d.cuDevicePrimaryCtxRelease_v2(0));
    t.same("a release that is not the last", seen(), vec![]);
    must("cuDevicePrimaryCtxRelease", d.cuDevicePrimaryCtxRelease_v2(0));
    let mut calls = seen();
    calls.sort_unstable();
    let answers: Vec<u32> = calls.iter().map(|call| call.3).collect();
    let calls: Vec<(usize, usize, usize)> = calls.into_iter().map(|(c, k, v, _)| (c, k, v)).collect();
    t.same("the last one calls each destructor", calls, vec![(primary.0, 100, 1), (primary.0, 200, 5)]);
    t.same("which may call the driver", answers, vec![0, 0]);
    d.start();
    t.code("a new context starts empty", storage.get(&mut value, primary, mark(100)), 400);
    t.code("put before a reset", storage.put(primary, mark(100), mark(6), Some(destructor)), 0);
    must("cuDevicePrimaryCtxReset", d.cuDevicePrimaryCtxReset_v2(0));
    t.same("a reset calls destructors", seen().len(), 1);
}

//! What the known slots do, and the stub of the unknown ones.
use super::Word;
use crate::runtime::{backend, lock};
use crate::thread;
use std::ffi::c_void;
use zerogpu_abi::*;

/// A slot that we do not know: the backend's.
unsafe extern "C" fn unknown<const TABLE: usize, const SLOT: usize>(
    a: u64,
    b: u64,
    c: u64,
    d: u64,
    e: u64,
    f: u64,
    g: u64,
    h: u64,
) -> u64 {
    let call = || match (backend(), crate::runtime::ready()) {
        (Ok(backend), Ok(())) => backend.unknown_slot(TABLE, SLOT, &[a, b, c, d, e, f, g, h]),
        (Ok(backend), Err(e)) => {
            backend.slot_refused(TABLE, SLOT);
            e.0 as u64
        }
        (Err(e), _) => e.0 as u64,
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).unwrap_or(CUresult::UNKNOWN.0 as u64)
}

/// Fills slots one by one, as a const function can.
macro_rules! fill {
    ($words:ident, $table:ident, $n:ident; $($slot:literal)*) => {
        $(if $slot < $n { $words[$slot] = Word(unknown::<$table, $slot> as *const ()); })*
    };
}

/// Stubs for all slots of a table.
pub(super) const fn stubs<const TABLE: usize, const N: usize>() -> [Word; N] {
    let mut words = [const { Word(std::ptr::null()) }; N];
    fill!(words, TABLE, N;
        1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40
        41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77
        78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95);
    words
}

/// Runs a slot's body; a panic is an error code.
pub(super) fn guarded(body: impl FnOnce() -> Res) -> CUresult {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(r) => code(r),
        Err(_) => CUresult::UNKNOWN,
    }
}

/// Writes through a library's pointer.
///
/// # Safety
/// `to` is NULL or valid for a `T`.
pub(super) unsafe fn out<T>(to: *mut T, value: T) -> Res {
    if to.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: checked, and the caller's promise.
    unsafe { to.write(value) };
    Ok(())
}

/// CUDART\[2\]: the primary context's handle, neither retained nor activated.
pub(super) unsafe extern "C" fn cudart_primary(to: *mut CUcontext, device: CUdevice) -> CUresult {
    guarded(|| {
        let primary = lock()?.primary(device)?;
        // SAFETY: cudart passes a valid pointer.
        unsafe { out(to, primary) }
    })
}

/// CUDART\[1\], \[6\] (fat binary wrapper) and \[8\] (the header in it): loads a fat binary.
pub(super) unsafe extern "C" fn cudart_load(to: *mut CUmodule, image: *const c_void) -> CUresult {
    guarded(|| {
        if image.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: cudart passes static memory that holds a whole fat binary.
        let source = unsafe { zerogpu_image::open(image.cast()) }.map_err(|e| e.code())?;
        let module = lock()?.load_module(source, Vec::new())?;
        // SAFETY: cudart passes a valid pointer.
        unsafe { out(to, module) }
    })
}

/// CUDART\[7\]: told after a module was unloaded.
pub(super) extern "C" fn cudart_unloaded(_: usize) {}

/// CUDART\[12\]: `load_compilers`, from cudart 13.1 on.
pub(super) extern "C" fn cudart_compilers() -> CUresult {
    CUresult::SUCCESS
}

/// Zeroed memory that the driver owns and hands to tools' runtime hooks.
/// There is more of it than the size that is told: cudart looks up runtime functions in it that its driver is older than,
/// and calls a hook where it finds anything but zeros.
#[repr(align(64))]
struct HookMemory(std::cell::UnsafeCell<[u8; 16384]>);

// SAFETY: we never touch the bytes; the libraries that do share them by design.
unsafe impl Sync for HookMemory {}

static LARGE: HookMemory = HookMemory(std::cell::UnsafeCell::new([0; 16384]));
static SMALL: HookMemory = HookMemory(std::cell::UnsafeCell::new([0; 16384]));

/// HOOKS\[2\].
pub(super) unsafe extern "C" fn hooks_large(buffer: *mut *mut c_void, size: *mut usize) {
    // SAFETY: cudart passes valid pointers; NULL is left alone.
    let _ = unsafe { out(buffer, LARGE.0.get().cast()).and(out(size, 1024)) };
}

/// HOOKS\[6\].
pub(super) unsafe extern "C" fn hooks_small(buffer: *mut *mut c_void, size: *mut usize) {
    // SAFETY: cudart passes valid pointers; NULL is left alone.
    let _ = unsafe { out(buffer, SMALL.0.get().cast()).and(out(size, 14)) };
}

/// TOOLS_TLS\[2\]: the thread's current context; none is NULL and success.
pub(super) unsafe extern "C" fn tls_current(to: *mut CUcontext) -> CUresult {
    // SAFETY: cuBLAS passes a valid pointer.
    guarded(|| unsafe { out(to, thread::current()) })
}

/// CONTEXT_CHECKS\[2\].
pub(super) unsafe extern "C" fn checks_two(_ctx: CUcontext, r: *mut u32, _: *mut *mut c_void) -> CUresult {
    // SAFETY: cudart passes a valid pointer.
    guarded(|| unsafe { out(r, 0) })
}

/// CONTEXT_CHECKS\[3\].
pub(super) extern "C" fn checks_three() -> u32 {
    0
}

/// 21318C60\[4\]: `cuCtxGetId`.
pub(super) unsafe extern "C" fn internals_context_id(ctx: CUcontext, id: *mut u64) -> CUresult {
    guarded(|| {
        let mut st = lock()?;
        let ctx = st.context_or_current(ctx)?;
        let n = st.context(ctx)?.id;
        // SAFETY: cuBLASLt passes a valid pointer.
        unsafe { out(id, n) }
    })
}

/// 21318C60\[51\]: the stream object behind a stream's name.
pub(super) unsafe extern "C" fn internals_stream(
    ctx: CUcontext,
    stream: CUstream,
    to: *mut usize,
    per_thread: i32,
) -> CUresult {
    guarded(|| {
        let mut st = lock()?;
        let ctx = st.context_or_current(ctx)?;
        let s = match (stream.0, per_thread != 0) {
            (2, _) | (0, true) => st.per_thread_stream(ctx)?,
            (0 | 1, _) => st.context(ctx)?.legacy,
            _ => st.stream(stream)?,
        };
        // SAFETY: the caller passes a valid pointer.
        unsafe { out(to, s) }
    })
}

/// 21318C60\[39\]: `cuStreamGetId` of a stream object.
pub(super) unsafe extern "C" fn internals_stream_id(_ctx: CUcontext, stream: usize, id: *mut u64) -> CUresult {
    guarded(|| {
        let n = lock()?.streams.get(&stream).ok_or(CUresult::INVALID_HANDLE)?.id;
        // SAFETY: the caller passes a valid pointer.
        unsafe { out(id, n) }
    })
}

/// F8CFF951\[1\]: a remark for the driver's log, as part, level, format and `va_list`: cudart 13 tells that two kernels have
/// one name. Ours has no such log (`cuLogs*`).
pub(super) extern "C" fn remark(_part: *const c_void, _level: u32, _format: *const c_void, _values: *const c_void) {}

/// F8CFF951\[2\]: whether errors are worth a remark: cudart 13.2 and newer say 0 before they ask for a kernel's attribute that
/// driver 580 does not know, and 1 after it (read in the code of NCCL 2.30).
pub(super) extern "C" fn remarks_taken(_on: u32) {}

/// Callback of [`functions_of_module`].
type OnFunction = Option<unsafe extern "C" fn(*mut c_void, CUfunction)>;

/// 6E163FBE\[7\]: calls back with each function of a module (cuFFT 12 and CUPTI). Gives how many there were, 0 on any
/// error: cuFFT takes anything but 1 for its modules of one kernel as a failure (read in its code).
pub(super) unsafe extern "C" fn functions_of_module(
    _ctx: CUcontext,
    module: CUmodule,
    callback: OnFunction,
    data: *mut c_void,
) -> u64 {
    let mut count = 0;
    let each = || {
        let functions = {
            let mut st = lock()?;
            let image = st.module_image(module)?;
            image.kernels().iter().map(|k| st.function(module, &k.name)).collect::<Res<Vec<_>>>()?
        };
        let callback = callback.ok_or(CUresult::INVALID_VALUE)?;
        for f in functions {
            // SAFETY: the library's own callback with its own data; no lock is held.
            unsafe { callback(data, f) };
            count += 1;
        }
        Ok(())
    };
    match guarded(each) {
        CUresult::SUCCESS => count,
        _ => 0,
    }
}

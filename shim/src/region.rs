//! Marked calls: the C interface of the Python hook (documented in include/zerogpu.h).
//!
//! A region belongs to the process: while one is open, every thread's work is inside. Regions nest and overlap and may be
//! ended by any thread; the last one out parks. Entering costs nothing: the claim happens when work needs the device.
use crate::fault::contained;
use crate::{engine, report, start};
use std::ffi::{c_char, c_int};
use zerogpu_device::runtime;

/// The engine, unless this process is a forked child: the locks that it would take may be held for ever.
fn own_engine() -> Option<&'static engine::Engine> {
    engine::engine().filter(|_| !runtime::forked())
}

/// Opens a region that may last `seconds`; 0: refused, see `zerogpu_reason`.
#[no_mangle]
pub extern "C" fn zerogpu_region_begin(seconds: f64) -> u64 {
    contained(|| {
        start::once();
        report::set_reason("");
        match engine::engine().map(|e| e.begin_region(seconds)) {
            Some(Ok(id)) => id,
            Some(Err(reason)) => {
                report::set_reason(&reason);
                0
            }
            None => {
                report::set_reason("the shim did not start in this process; see its lines on standard error");
                0
            }
        }
    })
    .unwrap_or(0)
}

/// Ends a region; the last one out parks. 0: done; 1: there is no such region.
#[no_mangle]
pub extern "C" fn zerogpu_region_end(id: u64) -> c_int {
    contained(|| {
        report::set_reason("");
        if let Some(engine) = own_engine() {
            let refusal = engine.regions.refusal();
            if engine.end_region(id) {
                report::set_reason(refusal.as_deref().unwrap_or_default());
                return 0;
            }
        }
        report::set_reason("there is no such region: it has ended, or was never begun");
        1
    })
    .unwrap_or(1)
}

/// Claims a GPU for a region now, and waits for it. 0: done, or there is nothing to claim for; 1: see `zerogpu_reason`.
#[no_mangle]
pub extern "C" fn zerogpu_region_claim(id: u64) -> c_int {
    contained(|| {
        let claimed = match own_engine() {
            Some(engine) => engine.claim_region(id),
            None => Err("there is no such region: this is a child of the process that began it".into()),
        };
        report::set_reason(claimed.as_ref().err().map_or("", String::as_str));
        claimed.is_err() as c_int
    })
    .unwrap_or(1)
}

/// Lets a region outlive the thread that began it. 0: done; 1: there is no such region.
#[no_mangle]
pub extern "C" fn zerogpu_region_movable(id: u64) -> c_int {
    contained(|| own_engine().map_or(1, |e| !e.regions.set_movable(id) as c_int)).unwrap_or(1)
}

/// Says whether nothing runs in a region for now. 0: done; 1: there is no such region.
#[no_mangle]
pub extern "C" fn zerogpu_region_rests(id: u64, rests: c_int) -> c_int {
    contained(|| own_engine().map_or(1, |e| !e.regions.set_resting(id, rests != 0) as c_int)).unwrap_or(1)
}

/// Whether a region's time is over: 1 yes, 0 no (or no such region).
#[no_mangle]
pub extern "C" fn zerogpu_region_expired(id: u64) -> c_int {
    contained(|| own_engine().map_or(0, |e| e.regions.expired(id) as c_int)).unwrap_or(0)
}

/// Has the process's main thread wait no longer in a broker's queue. 0: done; 1: it does not wait there.
#[no_mangle]
pub extern "C" fn zerogpu_stop_waiting() -> c_int {
    contained(|| own_engine().map_or(1, |e| !e.stop_waiting() as c_int)).unwrap_or(1)
}

/// Writes the process's state as JSON, cut to `size` bytes with its NUL; returns the whole length without the NUL.
///
/// # Safety
/// `text` is NULL or valid for `size` bytes.
#[no_mangle]
pub unsafe extern "C" fn zerogpu_state(text: *mut c_char, size: usize) -> c_int {
    let json = contained(|| own_engine().map_or_else(|| "{}".to_string(), |e| e.state_json())).unwrap_or_default();
    if !text.is_null() && size > 0 {
        let n = json.len().min(size - 1);
        // SAFETY: the caller's promise; `n` bytes and a NUL fit.
        unsafe {
            std::ptr::copy_nonoverlapping(json.as_ptr(), text.cast(), n);
            *text.add(n) = 0;
        }
    }
    json.len() as c_int
}

/// Why the calling thread's last region call failed; "" if it did not.
#[no_mangle]
pub extern "C" fn zerogpu_reason() -> *const c_char {
    report::reason()
}

/// Bytes of the virtual card in use, as `cuMemGetInfo` counts them, for the NVML companion; starts nothing.
#[no_mangle]
pub extern "C" fn zerogpu_memory_used() -> u64 {
    let used = || -> zerogpu_abi::Res<u64> {
        let mut st = zerogpu_device::runtime::lock()?;
        let active = st.contexts.values().any(|c| c.active);
        let (free, total) = st.memory_info(0)?;
        Ok(if active { total - free } else { 0 })
    };
    contained(|| used().unwrap_or(0)).unwrap_or(0)
}

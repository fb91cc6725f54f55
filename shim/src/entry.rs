//! The exports: every declared symbol, traced if asked, never letting a panic out.
#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments, unsafe_op_in_unsafe_fn, missing_docs)]
use crate::{detail, report, start};
use std::ffi::{c_char, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};
use zerogpu_abi::*;
use zerogpu_trace::{raw, records, traced};

/// Address of an export.
#[repr(transparent)]
pub struct FnPtr(pub *const ());

// SAFETY: addresses of functions, never written.
unsafe impl Sync for FnPtr {}

macro_rules! call {
    ($id:literal, $name:ident, [$(($arg:ident, $ty:ty)),*], $imp:path) => {{
        start::once();
        if records($id) {
            let args = [$(raw($arg)),*];
            return CUresult(traced($id, args, || guarded(|| $imp($($arg),*)).0, detail::of));
        }
        guarded(|| $imp($($arg),*))
    }};
}

macro_rules! missing {
    ($id:literal, $name:ident, [$(($arg:ident, $ty:ty)),*]) => {{
        start::once();
        let body = || {
            report::unsupported($id, stringify!($name));
            CUresult::NOT_SUPPORTED
        };
        if records($id) {
            return CUresult(traced($id, [$(raw($arg)),*], || guarded(body).0, detail::of));
        }
        let _ = ($($arg,)*);
        guarded(body)
    }};
}

/// Runs a call; a panic is an error code, and a sentence for the human.
#[inline(always)]
fn guarded(body: impl FnOnce() -> CUresult) -> CUresult {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result,
        Err(_) => panicked(),
    }
}

#[cold]
fn panicked() -> CUresult {
    report::error(
        "a fault inside zerogpu was contained (CUDA error 999); please report it with a trace (ZEROGPU_TRACE=text)",
    );
    CUresult::UNKNOWN
}

include!(concat!(env!("OUT_DIR"), "/exports.rs"));

/// Addresses of the exports, as `cuGetProcAddress` hands them out.
pub fn addresses() -> &'static [usize] {
    // SAFETY: FnPtr is a transparent pointer, as wide as usize, in an array that lives for ever.
    unsafe { std::slice::from_raw_parts(EXPORTS.as_ptr().cast(), EXPORTS.len()) }
}

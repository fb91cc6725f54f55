//! The exports: every declared symbol, traced if asked, never letting a panic out.
#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments, unsafe_op_in_unsafe_fn, missing_docs)]
use crate::{detail, fault, report, start};
use std::ffi::{c_char, c_void};
use zerogpu_abi::*;
use zerogpu_trace::{raw, records, traced};

/// Address of an export.
#[repr(transparent)]
pub struct FnPtr(pub *const ());

// SAFETY: addresses of functions, never written.
unsafe impl Sync for FnPtr {}

macro_rules! call {
    ($id:literal, $name:ident, [$(($arg:ident, $ty:ty)),*], $imp:path) => {
        guarded(|| {
            start::once();
            if records($id) {
                // guarded inside too: a call that fails has an end in the trace; by value, since what is lent is on the stack
                let args = [$(raw($arg)),*];
                return CUresult(traced($id, args, move || guarded(move || $imp($($arg),*)).0, detail::of));
            }
            $imp($($arg),*)
        })
    };
}

macro_rules! missing {
    ($id:literal, $name:ident, [$(($arg:ident, $ty:ty)),*]) => {
        guarded(|| {
            start::once();
            let body = || {
                report::unsupported($id, stringify!($name));
                CUresult::NOT_SUPPORTED
            };
            if records($id) {
                return CUresult(traced($id, [$(raw($arg)),*], || guarded(body).0, detail::of));
            }
            let _ = ($($arg,)*);
            body()
        })
    };
}

/// Runs a call; a panic is CUDA error 999.
#[inline(always)]
fn guarded(body: impl FnOnce() -> CUresult) -> CUresult {
    fault::contained(body).unwrap_or(CUresult::UNKNOWN)
}

include!(concat!(env!("OUT_DIR"), "/exports.rs"));

/// Addresses of the exports, as `cuGetProcAddress` hands them out.
pub fn addresses() -> &'static [usize] {
    // SAFETY: FnPtr is a transparent pointer, as wide as usize, in an array that lives for ever.
    unsafe { std::slice::from_raw_parts(EXPORTS.as_ptr().cast(), EXPORTS.len()) }
}

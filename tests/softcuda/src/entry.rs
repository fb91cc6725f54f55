//! The exports: every declared symbol, with fault injection in front and a record of violations behind.
#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments, unsafe_op_in_unsafe_fn, missing_docs)]
use crate::card;
use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};
use zerogpu_abi::*;

/// Address of an export.
#[repr(transparent)]
pub struct FnPtr(pub *const ());

// SAFETY: addresses of functions, never written.
unsafe impl Sync for FnPtr {}

macro_rules! call {
    ($id:literal, $name:ident, [$(($arg:ident, $ty:ty)),*], $imp:path) => {
        guarded(stringify!($name), || $imp($($arg),*))
    };
}

macro_rules! missing {
    ($id:literal, $name:ident, [$(($arg:ident, $ty:ty)),*]) => {{
        let _ = ($($arg,)*);
        guarded(stringify!($name), || CUresult::NOT_SUPPORTED)
    }};
}

thread_local! {
    /// Calls of this thread that have not returned. Those in a callback are let through: the one around them is inside.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Runs a call: starts the driver if need be, waits while the process is locked for a checkpoint, fails on purpose if told
/// to, notes what a program must not do.
fn guarded(name: &'static str, body: impl FnOnce() -> CUresult) -> CUresult {
    let run = AssertUnwindSafe(|| {
        let card = card::start();
        let _inside = if DEPTH.get() == 0 { card.enter() } else { None };
        DEPTH.set(DEPTH.get() + 1);
        let _left = Left;
        let injected = card.fault(name);
        let _in_the_way = card.obstacle(name);
        card.fork(name);
        let result = if injected.ok() { body() } else { injected };
        if name == "cuInit" && result.ok() {
            attend();
        }
        card.judge(name, result);
        result
    });
    catch_unwind(run).unwrap_or(CUresult::UNKNOWN)
}

/// Starts a thread that lives as long as the process and takes its signals, as NVIDIA's driver does in cuInit (580, recorded): who
/// wants a signal for another thread must have blocked it before.
fn attend() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let attendant = || loop {
            std::thread::park();
        };
        std::thread::Builder::new().name("softcuda".into()).spawn(attendant).expect("a thread can be made");
    });
}

/// A call has returned, in whatever way.
struct Left;

impl Drop for Left {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

include!(concat!(env!("OUT_DIR"), "/exports.rs"));

/// Addresses of the exports, as `cuGetProcAddress` hands them out.
pub fn addresses() -> &'static [usize] {
    // SAFETY: FnPtr is a transparent pointer, as wide as usize, in an array that lives for ever.
    unsafe { std::slice::from_raw_parts(EXPORTS.as_ptr().cast(), EXPORTS.len()) }
}

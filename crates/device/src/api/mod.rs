//! One function per driver symbol: converts arguments, asks the objects, writes outputs on success only.
//!
//! Every function here is the C function of the same name behind the exports of a driver library. What cuda.h asks of
//! the caller (pointers are NULL or valid for what is read or written through them) is each one's safety contract; a
//! NULL output is INVALID_VALUE, and no handle or device address is ever dereferenced.
#![allow(unsafe_op_in_unsafe_fn, clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks, missing_docs)]

mod array;
mod capture;
mod context;
mod copy;
mod device;
mod entry_point;
mod event;
mod graph;
mod host;
mod launch;
mod link;
mod log;
mod memory;
mod memset;
mod misc;
mod module;
mod node;
mod occupancy;
mod pointer;
mod pool;
mod stream;
mod submit;
mod tensor_map;
mod vmm;

pub use array::*;
pub use capture::*;
pub use context::*;
pub use copy::*;
pub use device::*;
pub use entry_point::*;
pub use event::*;
pub use graph::*;
pub use host::*;
pub use launch::*;
pub use link::*;
pub use log::*;
pub use memory::*;
pub use memset::*;
pub use misc::*;
pub use module::*;
pub use node::*;
pub use occupancy::*;
pub use pointer::*;
pub use pool::*;
pub use stream::*;
pub use submit::submit;
pub use tensor_map::*;
pub use vmm::*;

use crate::runtime;
use zerogpu_abi::{code, CUresult, Res};

/// Answers a call that needs `cuInit`.
#[inline]
fn answer(body: impl FnOnce() -> Res) -> CUresult {
    code(runtime::ready().and_then(|()| body()))
}

/// Writes an output.
unsafe fn out<T>(to: *mut T, value: T) -> Res {
    if to.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    to.write_unaligned(value);
    Ok(())
}

/// Writes an output that the caller may leave out.
unsafe fn out_opt<T>(to: *mut T, value: T) {
    if !to.is_null() {
        to.write_unaligned(value);
    }
}

/// Reads an input struct.
unsafe fn input<T: Copy>(from: *const T) -> Res<T> {
    if from.is_null() {
        Err(CUresult::INVALID_VALUE)
    } else {
        Ok(from.read_unaligned())
    }
}

/// An input array; NULL is allowed for length 0.
unsafe fn array<'a, T>(from: *const T, len: usize) -> Res<&'a [T]> {
    match (from.is_null(), len) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(CUresult::INVALID_VALUE),
        // no array of C's can be like that
        _ if !from.is_aligned() || len > isize::MAX as usize / size_of::<T>().max(1) => Err(CUresult::INVALID_VALUE),
        _ => Ok(std::slice::from_raw_parts(from, len)),
    }
}

/// Fails unless an output pointer is there, before anything is made.
fn wanted<T>(to: *mut T) -> Res {
    if to.is_null() {
        Err(CUresult::INVALID_VALUE)
    } else {
        Ok(())
    }
}

/// The NUL-terminated text of a caller.
unsafe fn text<'a>(s: *const std::ffi::c_char) -> Res<&'a str> {
    if s.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    std::ffi::CStr::from_ptr(s).to_str().map_err(|_| CUresult::INVALID_VALUE)
}

/// Work ends before what it uses does; in a thread without a context, what waits behind host functions. Not to be called
/// with the state's lock: host functions may want it.
fn end_work() -> Res {
    match runtime::backend()?.drain(runtime::Scope::Context) {
        Err(CUresult::INVALID_CONTEXT | CUresult::CONTEXT_IS_DESTROYED) => {
            crate::host::drain();
            Ok(())
        }
        other => other,
    }
}

/// Fails unless there is a device of this ordinal.
fn the_device(dev: zerogpu_abi::CUdevice) -> Res {
    if u32::try_from(dev).is_ok_and(|dev| runtime::config().is_ok_and(|c| dev < c.devices)) {
        Ok(())
    } else {
        Err(CUresult::INVALID_DEVICE)
    }
}

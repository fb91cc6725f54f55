//! What a pointer is: each attribute, one by one and many at once.
use crate::check::Check;
use crate::driver::{must, Driver};
use std::ffi::c_void;
use std::ptr::null_mut;
use zerogpu_abi::*;

// cuda.h's CUpointer_attribute.
const CONTEXT: u32 = 1;
const MEMORY_TYPE: u32 = 2;
const DEVICE_POINTER: u32 = 3;
const HOST_POINTER: u32 = 4;
const SYNC_MEMOPS: u32 = 6;
const BUFFER_ID: u32 = 7;
const IS_MANAGED: u32 = 8;
const DEVICE_ORDINAL: u32 = 9;
const IPC_CAPABLE: u32 = 10;
const RANGE_START: u32 = 11;
const RANGE_SIZE: u32 = 12;
const MAPPED: u32 = 13;

/// One attribute, with the result's bytes as a number.
fn one(d: &Driver, attribute: u32, address: CUdeviceptr) -> (u32, u64) {
    let mut value = 0u64;
    let code = d.cuPointerGetAttribute((&raw mut value).cast(), attribute, address);
    (code.0, value)
}

/// Device memory.
pub fn device(d: &Driver, t: &mut Check) {
    let context = d.start();
    let p = d.alloc(1000);
    for at in [0, 1, 500, 999] {
        let address = p + at;
        t.same("CONTEXT", one(d, CONTEXT, address), (0, context.0 as u64));
        t.same("MEMORY_TYPE", one(d, MEMORY_TYPE, address), (0, 2));
        // Triton asks for this of each argument
        t.same("DEVICE_POINTER", one(d, DEVICE_POINTER, address), (0, address));
        t.same("HOST_POINTER", one(d, HOST_POINTER, address).0, 1);
        t.same("IS_MANAGED", one(d, IS_MANAGED, address), (0, 0));
        t.same("DEVICE_ORDINAL", one(d, DEVICE_ORDINAL, address), (0, 0));
        t.same("IPC_CAPABLE", one(d, IPC_CAPABLE, address), (0, 1));
        t.same("RANGE_START", one(d, RANGE_START, address), (0, p));
        t.same("RANGE_SIZE", one(d, RANGE_SIZE, address), (0, 1000));
        t.same("MAPPED", one(d, MAPPED, address), (0, 1));
    }
    t.same("an unknown attribute", one(d, 9999, p).0, 1);
    t.code("into NULL", d.cuPointerGetAttribute(null_mut(), MEMORY_TYPE, p), 1);
    for nothing in [0, 8, 1 << 45, u64::MAX - 7] {
        t.same("an address of nothing", one(d, MEMORY_TYPE, nothing).0, 1);
    }
    buffers(d, t, p);
    t.same("SYNC_MEMOPS", one(d, SYNC_MEMOPS, p), (0, 0));
    for on in [1u32, 0] {
        t.code("set it", d.cuPointerSetAttribute((&raw const on).cast(), SYNC_MEMOPS, p + 9), 0);
        t.same("it is set", one(d, SYNC_MEMOPS, p), (0, u64::from(on)));
    }
    many(d, t, context, p);
    d.free(p);
    t.same("freed memory", one(d, MEMORY_TYPE, p).0, 1);
}

/// cuFFT keeps things by buffer id.
fn buffers(d: &Driver, t: &mut Check, p: CUdeviceptr) {
    let id = |address| one(d, BUFFER_ID, address);
    let first = id(p);
    t.same("BUFFER_ID", first.0, 0);
    t.same("one id a buffer", id(p + 999), first);
    let q = d.alloc(1000);
    let second = id(q);
    t.that("another buffer, another id", second.0 == 0 && second != first);
    d.free(q);
    let again = d.alloc(1000);
    t.that("an id is not used again", id(again) != second && id(again) != first);
    d.free(again);
}

/// Many attributes at once, in any order, also of addresses that are nothing.
fn many(d: &Driver, t: &mut Check, context: CUcontext, p: CUdeviceptr) {
    let ask = |names: &[u32], address| {
        let mut names = names.to_vec();
        let mut values = vec![0x5555_5555_5555_5555u64; names.len()];
        let mut data: Vec<*mut c_void> = values.iter_mut().map(|v| std::ptr::from_mut(v).cast()).collect();
        let count = names.len() as u32;
        let code = d.cuPointerGetAttributes(count, names.as_mut_ptr(), data.as_mut_ptr(), address);
        (code.0, values)
    };
    // what is less than 8 bytes wide leaves the rest of its place alone
    let low = |value: u64, bytes: u32| value & (u64::MAX >> (64 - 8 * bytes));
    let names = [DEVICE_ORDINAL, CONTEXT, RANGE_SIZE, MEMORY_TYPE, RANGE_START, DEVICE_POINTER, HOST_POINTER];
    let (code, values) = ask(&names, p + 7);
    t.same("seven attributes", code, 0);
    let got = [low(values[0], 4), values[1], values[2], low(values[3], 4), values[4], values[5], values[6]];
    t.same("their values", got, [0, context.0 as u64, 1000, 2, p, p + 7, 0]);
    t.same("a number of 4 bytes is written as 4", values[0] >> 32, 0x5555_5555);
    let (code, values) = ask(&names, 8);
    t.same("seven attributes of nothing", code, 0);
    t.same("the ordinal of nothing", low(values[0], 4) as u32 as i32, -2);
    t.same("context, type and device pointer of nothing", (values[1], low(values[3], 4), values[5]), (0, 0, 0));
    t.same("an unknown attribute among others", ask(&[MEMORY_TYPE, 9999], p).0, 1);
}

/// Host memory and mapped memory, through the same questions.
pub fn others(d: &Driver, t: &mut Check) {
    let context = d.start();
    let (mut host, mut managed) = (null_mut(), 0);
    must("cuMemHostAlloc", d.cuMemHostAlloc(&mut host, 5000, 0));
    let address = host as CUdeviceptr;
    t.same("pinned: MEMORY_TYPE", one(d, MEMORY_TYPE, address + 10), (0, 1));
    t.same("pinned: CONTEXT", one(d, CONTEXT, address + 10), (0, context.0 as u64));
    t.same("pinned: HOST_POINTER", one(d, HOST_POINTER, address + 10), (0, address + 10));
    t.same("pinned: DEVICE_POINTER", one(d, DEVICE_POINTER, address + 10), (0, address + 10));
    t.same("pinned: RANGE_START", one(d, RANGE_START, address + 10), (0, address));
    t.same("pinned: IS_MANAGED", one(d, IS_MANAGED, address + 10), (0, 0));
    must("cuMemFreeHost", d.cuMemFreeHost(host));
    t.same("pinned and freed", one(d, MEMORY_TYPE, address).0, 1);
    must("cuMemAllocManaged", d.cuMemAllocManaged(&mut managed, 4096, 1));
    t.same("managed: IS_MANAGED", one(d, IS_MANAGED, managed), (0, 1));
    t.same("managed: HOST_POINTER", one(d, HOST_POINTER, managed), (0, managed));
    t.same("managed: DEVICE_POINTER", one(d, DEVICE_POINTER, managed), (0, managed));
    d.free(managed);
}

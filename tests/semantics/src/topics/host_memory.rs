//! Host memory: pinned, registered and managed.
use super::in_thread;
use crate::check::Check;
use crate::driver::{must, Driver};
use std::ffi::c_void;
use std::ptr::null_mut;
use zerogpu_abi::*;

const PORTABLE: u32 = 1;
const DEVICE_MAP: u32 = 2;
const WRITE_COMBINED: u32 = 4;
const MIB: usize = 1 << 20;

fn pinned(d: &Driver, bytes: usize, flags: u32) -> *mut c_void {
    let mut memory = null_mut();
    must("cuMemHostAlloc", d.cuMemHostAlloc(&mut memory, bytes, flags));
    memory
}

/// The bytes of a block that the driver gave.
fn bytes<'a>(memory: *mut c_void, length: usize) -> &'a mut [u8] {
    // SAFETY: the driver gave `length` readable and writable bytes, which the test alone uses until it frees them.
    unsafe { std::slice::from_raw_parts_mut(memory.cast(), length) }
}

/// `cuMemAllocHost` and `cuMemHostAlloc`.
pub fn allocated(d: &'static Driver, t: &mut Check) {
    let context = d.start();
    let mut memory = null_mut();
    // driver 580: 0 (recorded)
    t.one_of("no bytes", d.cuMemHostAlloc(&mut memory, 0, 0), &[0, 1]);
    t.code("bad flags", d.cuMemHostAlloc(&mut memory, 64, 0x100), 1);
    t.code("into NULL", d.cuMemHostAlloc(null_mut(), 64, 0), 1);
    t.code("cuMemAllocHost into NULL", d.cuMemAllocHost_v2(null_mut(), 64), 1);
    for flags in [0, PORTABLE, DEVICE_MAP, WRITE_COMBINED, PORTABLE | DEVICE_MAP | WRITE_COMBINED] {
        let (memory, mut got, mut device) = (pinned(d, 10_000, flags), 0, 0);
        t.code("cuMemHostGetFlags", d.cuMemHostGetFlags(&mut got, memory), 0);
        t.same(format_args!("flags {flags}"), got & flags, flags);
        t.same("mapped in any case", got & DEVICE_MAP, DEVICE_MAP);
        t.code("cuMemHostGetDevicePointer", d.cuMemHostGetDevicePointer_v2(&mut device, memory, 0), 0);
        t.same("one address space", device, memory as CUdeviceptr);
        must("cuMemFreeHost", d.cuMemFreeHost(memory));
    }
    let memory = pinned(d, MIB, 0);
    let (mut device, inside) = (0, memory.wrapping_byte_add(100));
    t.code("device pointer of the inside", d.cuMemHostGetDevicePointer_v2(&mut device, inside, 0), 0);
    t.same("it", device, inside as CUdeviceptr);
    t.code("flags must be 0", d.cuMemHostGetDevicePointer_v2(&mut device, memory, 1), 1);
    t.code("free the inside", d.cuMemFreeHost(inside), 1);
    let mut pageable = [0u8; 64];
    let unknown = pageable.as_mut_ptr().cast();
    t.code("device pointer of pageable memory", d.cuMemHostGetDevicePointer_v2(&mut device, unknown, 0), 1);
    t.code("flags of pageable memory", d.cuMemHostGetFlags(&mut 0, unknown), 1);
    copies(d, t, memory);
    let freed = in_thread({
        let address = memory as usize;
        move || {
            must("cuCtxSetCurrent", d.cuCtxSetCurrent(context));
            d.cuMemFreeHost(address as *mut c_void)
        }
    });
    t.code("free from another thread", freed, 0);
    many(d, t);
}

/// Pinned memory as host memory and by its device address.
fn copies(d: &Driver, t: &mut Check, memory: *mut c_void) {
    let stream = d.stream(1);
    let (p, host) = (d.alloc(MIB), bytes(memory, MIB));
    host.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i % 253) as u8);
    let want = host.to_vec();
    t.code("from pinned", d.cuMemcpyHtoDAsync_v2(p, memory, MIB, stream), 0);
    d.wait(stream);
    host.fill(0);
    t.code("back to pinned", d.cuMemcpyDtoHAsync_v2(memory, p, MIB, stream), 0);
    d.wait(stream);
    t.that("the bytes", host == want);
    must("cuMemsetD8", d.cuMemsetD8_v2(p, 0, MIB));
    t.code("device copy from pinned", d.cuMemcpyDtoD_v2(p, memory as CUdeviceptr, MIB), 0);
    t.that("its bytes", d.read(p, MIB) == want);
    t.code("memset of pinned", d.cuMemsetD8_v2(memory as CUdeviceptr, 0x77, MIB), 0);
    must("cuCtxSynchronize", d.cuCtxSynchronize());
    t.that("its bytes", host.iter().all(|byte| *byte == 0x77));
    t.code("a copy beyond pinned memory", d.cuMemcpyDtoD_v2(p, memory as CUdeviceptr + 512, MIB), 1);
    d.free(p);
}

/// Blocks apart from each other, freed in another order.
fn many(d: &Driver, t: &mut Check) {
    let mut blocks: Vec<(usize, usize)> =
        (0..200).map(|i| 1 + i * 997 % 20_000).map(|size| (pinned(d, size, 0) as usize, size)).collect();
    for (i, (memory, size)) in blocks.iter().enumerate() {
        bytes(*memory as *mut c_void, *size).fill(i as u8);
    }
    let whole = |(i, (memory, size)): (usize, &(usize, usize))| {
        bytes(*memory as *mut c_void, *size).iter().all(|byte| *byte == i as u8)
    };
    t.that("each keeps its bytes", blocks.iter().enumerate().all(whole));
    blocks.reverse();
    t.that("all are freed", blocks.iter().all(|(memory, _)| d.cuMemFreeHost(*memory as *mut c_void).ok()));
}

/// `cuMemHostRegister`.
pub fn registered(d: &Driver, t: &mut Check) {
    d.start();
    let mut memory = vec![3u8; MIB];
    let base: *mut c_void = memory.as_mut_ptr().cast();
    t.code("no bytes", d.cuMemHostRegister_v2(base, 0, 0), 1);
    t.code("NULL", d.cuMemHostRegister_v2(null_mut(), 64, 0), 1);
    t.code("bad flags", d.cuMemHostRegister_v2(base, MIB, 0x1000), 1);
    for flags in [0, PORTABLE, DEVICE_MAP, PORTABLE | DEVICE_MAP] {
        t.code(format_args!("flags {flags}"), d.cuMemHostRegister_v2(base, MIB, flags), 0);
        t.code("unregister", d.cuMemHostUnregister(base), 0);
    }
    must("cuMemHostRegister", d.cuMemHostRegister_v2(base, MIB / 2, 0));
    t.code("overlapping", d.cuMemHostRegister_v2(base.wrapping_byte_add(MIB / 4), MIB / 2, 0), 712);
    t.one_of("unregister the inside", d.cuMemHostUnregister(base.wrapping_byte_add(4096)), &[1, 713]);
    t.code("free registered memory", d.cuMemFreeHost(base), 1);
    let mut device = 0;
    t.code("its device pointer", d.cuMemHostGetDevicePointer_v2(&mut device, base.wrapping_byte_add(5), 0), 0);
    t.same("the same address", device, base as CUdeviceptr + 5);
    let p = d.alloc(MIB / 2);
    t.code("a copy from it", d.cuMemcpyHtoDAsync_v2(p, base, MIB / 2, CUstream::NULL), 0);
    t.that("the bytes", d.read(p, MIB / 2) == memory[..MIB / 2]);
    must("cuMemsetD8", d.cuMemsetD8_v2(device, 4, 10));
    must("cuCtxSynchronize", d.cuCtxSynchronize());
    t.that("the device writes to it", memory[5..15] == [4; 10] && memory[4] == 3 && memory[15] == 3);
    t.code("unregister", d.cuMemHostUnregister(base), 0);
    t.code("a device pointer of it", d.cuMemHostGetDevicePointer_v2(&mut device, base, 0), 1);
    t.that("the memory stays the program's", memory[MIB - 1] == 3);
    let own = pinned(d, 4096, 0);
    t.one_of("unregister what the driver allocated", d.cuMemHostUnregister(own), &[1, 713]);
    t.one_of("register what the driver allocated", d.cuMemHostRegister_v2(own, 4096, 0), &[1, 712]);
    must("cuMemFreeHost", d.cuMemFreeHost(own));
    registered_nowhere(d, t);
}

/// What is not the program's memory: never mapped, mapped in part, or the device's.
fn registered_nowhere(d: &Driver, t: &mut Check) {
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: fresh memory of this test's own, of which the middle is given back.
    let base = unsafe {
        let base = libc::mmap(null_mut(), 3 * 4096, libc::PROT_READ | libc::PROT_WRITE, kind, -1, 0);
        libc::munmap(base.wrapping_byte_add(4096), 4096);
        base
    };
    t.code("memory with a hole", d.cuMemHostRegister_v2(base, 3 * 4096, 0), 1);
    t.code("a hole", d.cuMemHostRegister_v2(base.wrapping_byte_add(4096 + 5), 64, 0), 1);
    t.code("a page", d.cuMemHostRegister_v2(base.wrapping_byte_add(100), 64, 0), 0);
    t.code("unregister it", d.cuMemHostUnregister(base.wrapping_byte_add(100)), 0);
    // a real driver may register what it maps for itself
    if t.driver.real {
        return;
    }
    let p = d.alloc(4 * MIB);
    d.free(p);
    t.code("freed device memory", d.cuMemHostRegister_v2(p as *mut c_void, 4 * MIB, 0), 1);
    let again = d.alloc(4 * MIB);
    d.write(again, &[1; 64]);
    t.that("which is the device's", d.read(again, 64) == [1; 64]);
    d.free(again);
    let mut reserved = 0;
    must("cuMemAddressReserve", d.cuMemAddressReserve(&mut reserved, 2 * MIB, 0, 0, 0));
    t.code("reserved addresses", d.cuMemHostRegister_v2(reserved as *mut c_void, 4096, 0), 1);
    must("cuMemAddressFree", d.cuMemAddressFree(reserved, 2 * MIB));
}

/// `cuMemAllocManaged`: one address for both sides.
pub fn managed(d: &Driver, t: &mut Check) {
    const GLOBAL: u32 = 1;
    d.start();
    let mut p = 0;
    t.code("no bytes", d.cuMemAllocManaged(&mut p, 0, GLOBAL), 1);
    t.code("bad flags", d.cuMemAllocManaged(&mut p, 64, 99), 1);
    t.code("cuMemAllocManaged", d.cuMemAllocManaged(&mut p, MIB, GLOBAL), 0);
    let host = bytes(p as *mut c_void, MIB);
    host.fill(5);
    let q = d.alloc(MIB);
    must("cuMemcpyDtoD", d.cuMemcpyDtoD_v2(q, p, MIB));
    t.that("the device sees the host's bytes", d.read(q, MIB).iter().all(|byte| *byte == 5));
    must("cuMemsetD8", d.cuMemsetD8_v2(p, 6, MIB));
    must("cuCtxSynchronize", d.cuCtxSynchronize());
    t.that("the host sees the device's", host.iter().all(|byte| *byte == 6));
    let mut managed = 0u32;
    t.code("IS_MANAGED", d.cuPointerGetAttribute((&raw mut managed).cast(), 8, p + 9), 0);
    t.same("it is", managed, 1);
    t.code("cuMemPrefetchAsync", d.cuMemPrefetchAsync(p, MIB, 0, CUstream::NULL), 0);
    let (HOST, NOWHERE, PREFERRED) = (-1, 99, 3);
    t.code("prefetch to the host", d.cuMemPrefetchAsync(p, MIB, HOST, CUstream::NULL), 0);
    t.code("prefetch to no device", d.cuMemPrefetchAsync(p, MIB, NOWHERE, CUstream::NULL), 101);
    t.code("prefer the host", d.cuMemAdvise(p, MIB, PREFERRED, HOST), 0);
    t.code("prefer no device", d.cuMemAdvise(p, MIB, PREFERRED, NOWHERE), 101);
    t.code("cuMemFree", d.cuMemFree_v2(p), 0);
    t.code("freed twice", d.cuMemFree_v2(p), 1);
    d.free(q);
}

/// A copy stays inside one registration, or outside of all (recorded on an H100: across two adjacent ones, or from one
/// into memory that is not registered, it returns 1).
pub fn registered_in_part(d: &'static Driver, t: &mut Check) {
    d.start();
    const PAGE: usize = 4096;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: fresh memory of this test's own.
    let base = unsafe { libc::mmap(null_mut(), 4 * PAGE, libc::PROT_READ | libc::PROT_WRITE, kind, -1, 0) };
    let at = |page: usize| base.wrapping_byte_add(page * PAGE);
    let p = d.alloc(4 * PAGE);
    must("cuMemHostRegister", d.cuMemHostRegister_v2(at(1), PAGE, 0));
    must("cuMemHostRegister", d.cuMemHostRegister_v2(at(2), PAGE, 0));
    t.code("inside of one", d.cuMemcpyHtoD_v2(p, at(1), PAGE), 0);
    t.code("outside of both", d.cuMemcpyHtoD_v2(p, at(0), PAGE), 0);
    t.code("over two", d.cuMemcpyHtoD_v2(p, at(1), 2 * PAGE), 1);
    t.code("from one to ordinary memory", d.cuMemcpyHtoD_v2(p, at(2), 2 * PAGE), 1);
    t.code("the same in the other direction", d.cuMemcpyDtoHAsync_v2(at(2), p, 2 * PAGE, CUstream::NULL), 1);
    if !t.driver.real {
        // not recorded: softcuda is strict here
        t.code("from ordinary memory into one", d.cuMemcpyHtoD_v2(p, at(0), 2 * PAGE), 1);
    }
    must("cuMemHostUnregister", d.cuMemHostUnregister(at(1)));
    must("cuMemHostUnregister", d.cuMemHostUnregister(at(2)));
    t.code("all of it when none is registered", d.cuMemcpyHtoD_v2(p, at(0), 4 * PAGE), 0);
    d.free(p);
}

/// A page that is punched out of its file while it is registered: a card goes on using the old one, softcuda says so.
pub fn punched(d: &'static Driver, t: &mut Check) {
    const PAGE: usize = 4096;
    // SAFETY: new files of this test's own, and a mapping of one of them.
    let (log, file, base) = unsafe {
        let log = libc::memfd_create(c"log".as_ptr(), libc::MFD_CLOEXEC);
        let file = libc::memfd_create(c"bytes".as_ptr(), libc::MFD_CLOEXEC);
        assert!(log >= 0 && file >= 0 && libc::ftruncate(file, 64 * PAGE as i64) == 0);
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        (log, file, libc::mmap(null_mut(), 64 * PAGE, access, shared, file, 0))
    };
    let log = format!("/proc/self/fd/{log}");
    // read at the first call, which is still to come
    std::env::set_var("SOFTCUDA_STRICT_PINS", "1");
    std::env::set_var("SOFTCUDA_STRICT_LOG", &log);
    d.start();
    let noted = || std::fs::read_to_string(&log).expect("it is a file").lines().count();
    let (at, p) = (|page: usize| base.wrapping_byte_add(page * PAGE), d.alloc(64 * PAGE));
    bytes(base, 64 * PAGE).fill(3);
    must("cuMemHostRegister", d.cuMemHostRegister_v2(at(8), 32 * PAGE, 0));
    let punch = |page: usize| {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: a page of the file above, whose bytes nobody needs.
        assert_eq!(unsafe { libc::fallocate(file, mode, (page * PAGE) as i64, PAGE as i64) }, 0);
        bytes(at(page), PAGE).fill(9);
    };
    punch(2);
    t.code("a copy", d.cuMemcpyHtoD_v2(p, at(8), 32 * PAGE), 0);
    t.same("a page beside the registration is nobody's business", noted(), 0);
    punch(20);
    t.code("a copy of other pages", d.cuMemcpyHtoD_v2(p, at(8), 12 * PAGE), 0);
    t.same("finds nothing wrong", noted(), 0);
    if t.driver.real {
        // one that is long enough for the copy engine: a short one is the processor's, which sees the new page
        t.code("a copy of the page", d.cuMemcpyHtoD_v2(p, at(8), 32 * PAGE), 0);
        t.that("a card uses the page that it pinned", d.read(p + 12 * PAGE as u64, PAGE) == [3; PAGE]);
        return;
    }
    t.code("a copy of the page", d.cuMemcpyHtoD_v2(p, at(19), 3 * PAGE), 0);
    t.same("finds it gone, although another is there", noted(), 1);
    t.code("unregister", d.cuMemHostUnregister(at(8)), 0);
    t.same("which notes it too", noted(), 2);
    must("cuMemHostRegister", d.cuMemHostRegister_v2(at(8), 32 * PAGE, 0));
    t.code("a copy of the new page", d.cuMemcpyHtoD_v2(p, at(19), 3 * PAGE), 0);
    must("cuMemHostUnregister", d.cuMemHostUnregister(at(8)));
    t.same("it is registered now", noted(), 2);
    let mut own = vec![0u8; 4 * PAGE];
    must("cuMemHostRegister", d.cuMemHostRegister_v2(own.as_mut_ptr().cast(), 4 * PAGE, 0));
    t.code("a copy of private memory", d.cuMemcpyHtoD_v2(p, own.as_ptr().cast(), 4 * PAGE), 0);
    must("cuMemHostUnregister", d.cuMemHostUnregister(own.as_mut_ptr().cast()));
    t.same("which has no file", noted(), 2);
}

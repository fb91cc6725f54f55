//! Stream-ordered allocation and memory pools, as PyTorch's cudaMallocAsync backend uses them.
use crate::check::Check;
use crate::driver::{must, Driver};
use std::ffi::c_void;
use std::ptr::null_mut;
use zerogpu_abi::*;

// cuda.h's CUmemPool_attribute.
const REUSE: [u32; 3] = [1, 2, 3];
const RELEASE_THRESHOLD: u32 = 4;
const RESERVED_CURRENT: u32 = 5;
const RESERVED_HIGH: u32 = 6;
const USED_CURRENT: u32 = 7;
const USED_HIGH: u32 = 8;
const MIB: usize = 1 << 20;

fn default_pool(d: &Driver) -> CUmemoryPool {
    let mut pool = CUmemoryPool::NULL;
    must("cuDeviceGetDefaultMemPool", d.cuDeviceGetDefaultMemPool(&mut pool, 0));
    pool
}

fn get(d: &Driver, pool: CUmemoryPool, attribute: u32) -> u64 {
    let mut value = 0u64;
    must("cuMemPoolGetAttribute", d.cuMemPoolGetAttribute(pool, attribute, (&raw mut value).cast()));
    value
}

fn set(d: &Driver, pool: CUmemoryPool, attribute: u32, mut value: u64) -> CUresult {
    d.cuMemPoolSetAttribute(pool, attribute, (&raw mut value).cast())
}

fn alloc(d: &Driver, bytes: usize, stream: CUstream) -> CUdeviceptr {
    let mut address = 0;
    must("cuMemAllocAsync", d.cuMemAllocAsync(&mut address, bytes, stream));
    address
}

fn free(d: &Driver, address: CUdeviceptr, stream: CUstream) {
    must("cuMemFreeAsync", d.cuMemFreeAsync(address, stream));
}

/// Attributes, counters and trimming of the default pool.
pub fn default(d: &Driver, t: &mut Check) {
    d.start();
    let pool = default_pool(d);
    let mut current = CUmemoryPool::NULL;
    t.that("a default pool", pool != CUmemoryPool::NULL);
    t.same("always the same", default_pool(d), pool);
    t.code("cuDeviceGetMemPool", d.cuDeviceGetMemPool(&mut current, 0), 0);
    t.same("the device allocates from it", current, pool);
    t.code("pool of a bad device", d.cuDeviceGetDefaultMemPool(&mut current, 99), 101);
    for attribute in REUSE {
        let mut value = 9i32;
        let data = (&raw mut value).cast();
        t.code(format_args!("attribute {attribute}"), d.cuMemPoolGetAttribute(pool, attribute, data), 0);
        t.same("reuse is on by default", value, 1);
        value = 0;
        t.code("turn it off", d.cuMemPoolSetAttribute(pool, attribute, (&raw mut value).cast::<c_void>()), 0);
        value = 9;
        must("cuMemPoolGetAttribute", d.cuMemPoolGetAttribute(pool, attribute, (&raw mut value).cast()));
        t.same("it is off", value, 0);
        value = 1;
        t.code("turn it on", d.cuMemPoolSetAttribute(pool, attribute, (&raw mut value).cast()), 0);
    }
    t.same("nothing is kept by default", get(d, pool, RELEASE_THRESHOLD), 0);
    t.code("keep all", set(d, pool, RELEASE_THRESHOLD, u64::MAX), 0);
    t.same("the threshold", get(d, pool, RELEASE_THRESHOLD), u64::MAX);
    t.code("an unknown attribute", set(d, pool, 99, 0), 1);
    t.code("an unknown attribute's value", d.cuMemPoolGetAttribute(pool, 99, (&raw mut current).cast()), 1);
    for counter in [RESERVED_CURRENT, USED_CURRENT] {
        t.code("a current counter can't be set", set(d, pool, counter, 0), 1);
    }
    for counter in [RESERVED_HIGH, USED_HIGH] {
        t.code("a high mark can be set to 0 only", set(d, pool, counter, 5), 1);
    }
    counters(d, t, pool);
}

fn counters(d: &Driver, t: &mut Check, pool: CUmemoryPool) {
    let stream = d.stream(1);
    let before = d.memory_info().0;
    t.same("nothing used", (get(d, pool, USED_CURRENT), get(d, pool, RESERVED_CURRENT)), (0, 0));
    let (p, q) = (alloc(d, 40 * MIB, stream), alloc(d, 10 * MIB, stream));
    d.wait(stream);
    let (used, reserved) = (get(d, pool, USED_CURRENT), get(d, pool, RESERVED_CURRENT));
    t.that("used", used >= 50 * MIB as u64 && used < 60 * MIB as u64);
    t.that("reserved is at least used", reserved >= used);
    t.that("reserved memory is not free", before - d.memory_info().0 >= used as usize);
    free(d, p, stream);
    d.wait(stream);
    let after = get(d, pool, USED_CURRENT);
    t.that("used falls", after >= 10 * MIB as u64 && after <= used - 40 * MIB as u64);
    t.same("reserved stays, below the threshold", get(d, pool, RESERVED_CURRENT), reserved);
    t.same("the high mark stays", get(d, pool, USED_HIGH), used);
    t.code("reset the high mark", set(d, pool, USED_HIGH, 0), 0);
    t.same("to what is used now", get(d, pool, USED_HIGH), after);
    t.code("reset the other high mark", set(d, pool, RESERVED_HIGH, 0), 0);
    t.same("to what is reserved now", get(d, pool, RESERVED_HIGH), reserved);
    let again = alloc(d, 40 * MIB, stream);
    d.wait(stream);
    t.same("freed memory is used again", get(d, pool, RESERVED_CURRENT), reserved);
    free(d, again, stream);
    d.wait(stream);
    t.code("trim", d.cuMemPoolTrimTo(pool, 0), 0);
    let left = get(d, pool, RESERVED_CURRENT);
    t.that("trim keeps what is used", left >= 10 * MIB as u64 && left < reserved);
    free(d, q, stream);
    d.wait(stream);
    t.code("trim all", d.cuMemPoolTrimTo(pool, 0), 0);
    t.same("nothing is left", (get(d, pool, USED_CURRENT), get(d, pool, RESERVED_CURRENT)), (0, 0));
    t.same("the card's memory is free", d.memory_info().0, before);
    must("cuMemPoolSetAttribute", set(d, pool, RELEASE_THRESHOLD, 0));
    let p = alloc(d, 40 * MIB, stream);
    free(d, p, stream);
    d.wait(stream);
    t.same("with threshold 0 a wait gives memory back", get(d, pool, RESERVED_CURRENT), 0);
}

/// What a stream allocated is the device's, not the context's: it outlives that (driver 580, recorded).
pub fn reset(d: &Driver, t: &mut Check) {
    d.start();
    let memory = alloc(d, 40 * MIB, CUstream::NULL);
    d.write(memory, &[7; 64]);
    t.that("used", get(d, default_pool(d), USED_CURRENT) >= 40 * MIB as u64);
    must("cuDevicePrimaryCtxReset", d.cuDevicePrimaryCtxReset_v2(0));
    d.start();
    let pool = default_pool(d);
    t.that("still used after a reset", get(d, pool, USED_CURRENT) >= 40 * MIB as u64);
    if t.driver.real {
        // the rest is not recorded
        return;
    }
    t.that("with its bytes", d.read(memory, 64) == [7; 64]);
    free(d, memory, CUstream::NULL);
    d.wait(CUstream::NULL);
    t.same("until it is freed", get(d, pool, USED_CURRENT), 0);
}

/// What pool memory is, and which calls take it.
pub fn allocation(d: &Driver, t: &mut Check) {
    d.start();
    let (pool, stream) = (default_pool(d), d.stream(1));
    let mut address = 77;
    // driver 580: 0, and no address (recorded)
    t.one_of("0 bytes", d.cuMemAllocAsync(&mut address, 0, stream), &[0, 1]);
    t.code("into NULL", d.cuMemAllocAsync(null_mut(), 64, stream), 1);
    t.code("more than there is", d.cuMemAllocAsync(&mut address, 1 << 50, stream), 2);
    t.that("no address comes of it", [0, 77].contains(&address));
    let p = alloc(d, 1000, stream);
    must("cuMemsetD8Async", d.cuMemsetD8Async(p, 9, 1000, stream));
    let mut bytes = vec![0u8; 1000];
    must("cuMemcpyDtoHAsync", d.cuMemcpyDtoHAsync_v2(bytes.as_mut_ptr().cast(), p, 1000, stream));
    d.wait(stream);
    t.that("its bytes", bytes == [9; 1000]);
    let (mut kind, mut owner, mut base) = (0u32, CUmemoryPool::NULL, 0);
    t.code("MEMORY_TYPE", d.cuPointerGetAttribute((&raw mut kind).cast(), 2, p + 3), 0);
    t.same("device memory", kind, 2);
    t.code("MEMPOOL_HANDLE", d.cuPointerGetAttribute((&raw mut owner).cast(), 17, p), 0);
    t.same("of the default pool", owner, pool);
    t.code("cuMemGetAddressRange", d.cuMemGetAddressRange_v2(&mut base, null_mut(), p + 3), 0);
    t.same("its base", base, p);
    free(d, p, stream);
    d.wait(stream);
    t.one_of("freed twice", d.cuMemFreeAsync(p, stream), &[1, 400]);
    t.code("copy from freed", d.cuMemcpyDtoH_v2(bytes.as_mut_ptr().cast(), p, 8), 1);
    let q = alloc(d, 1000, CUstream::NULL);
    t.code("cuMemFree of pool memory", d.cuMemFree_v2(q), 0);
    order(d, t);
    made(d, t, pool);
}

/// Memory freed in one stream and allocated again in the same one may be the same memory; bytes follow the order.
fn order(d: &Driver, t: &mut Check) {
    let stream = d.stream(1);
    let kept = alloc(d, 4096, stream);
    for round in 0..100u8 {
        let p = alloc(d, 1 << 16, stream);
        must("cuMemsetD8Async", d.cuMemsetD8Async(p, round, 1 << 16, stream));
        must("cuMemcpyDtoDAsync", d.cuMemcpyDtoDAsync_v2(kept + u64::from(round), p + 5, 1, stream));
        free(d, p, stream);
    }
    d.wait(stream);
    t.that("bytes of a hundred short lives", d.read(kept, 100) == (0..100).collect::<Vec<u8>>());
    free(d, kept, stream);
    d.wait(stream);
}

/// A pool that the program makes.
fn made(d: &Driver, t: &mut Check, default: CUmemoryPool) {
    let location = CUmemLocation::device(0);
    let properties = CUmemPoolProps {
        allocType: 1,
        handleTypes: 0,
        location,
        win32SecurityAttributes: null_mut(),
        maxSize: 0,
        usage: 0,
        reserved: [0; 54],
    };
    let (mut pool, mut current, mut access, mut address) = (CUmemoryPool::NULL, CUmemoryPool::NULL, 0, 0);
    t.code("cuMemPoolCreate", d.cuMemPoolCreate(&mut pool, &properties), 0);
    t.that("another pool", pool != default && pool != CUmemoryPool::NULL);
    let mut at = location;
    t.code("cuMemPoolGetAccess", d.cuMemPoolGetAccess(&mut access, pool, &mut at), 0);
    t.same("its device reads and writes", access, 3);
    t.code("cuMemAllocFromPoolAsync", d.cuMemAllocFromPoolAsync(&mut address, 4096, pool, CUstream::NULL), 0);
    must("cuMemsetD8", d.cuMemsetD8_v2(address, 3, 4096));
    t.that("its bytes", d.read(address, 4096) == [3; 4096]);
    t.that("its counters", get(d, pool, USED_CURRENT) >= 4096);
    free(d, address, CUstream::NULL);
    d.wait(CUstream::NULL);
    t.code("cuDeviceSetMemPool", d.cuDeviceSetMemPool(0, pool), 0);
    must("cuDeviceGetMemPool", d.cuDeviceGetMemPool(&mut current, 0));
    t.same("the device's pool", current, pool);
    let p = alloc(d, 4096, CUstream::NULL);
    let mut owner = CUmemoryPool::NULL;
    must("MEMPOOL_HANDLE", d.cuPointerGetAttribute((&raw mut owner).cast(), 17, p));
    t.same("allocates from it", owner, pool);
    free(d, p, CUstream::NULL);
    d.wait(CUstream::NULL);
    t.code("cuMemPoolDestroy", d.cuMemPoolDestroy(pool), 0);
    must("cuDeviceGetMemPool", d.cuDeviceGetMemPool(&mut current, 0));
    // cuda.h: destroying the device's pool makes the default one its pool
    t.same("the default pool is back", current, default);
    t.that("the default pool can't be destroyed", !d.cuMemPoolDestroy(default).ok());
}

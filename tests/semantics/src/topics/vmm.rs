//! The program's own virtual memory, as PyTorch's expandable segments use it.
use crate::check::Check;
use crate::driver::{must, Driver};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use zerogpu_abi::*;

const MIB: usize = 1 << 20;
pub(super) const PAGE: usize = 2 * MIB;
const READ_ONLY: u32 = 1;
const READ_WRITE: u32 = 3;
/// cuda.h's CUmemLocationType.
pub(super) const ON_DEVICE: u32 = 1;
const ON_NUMA_NODE: u32 = 3;

pub(super) fn property(kind: u32) -> CUmemAllocationProp {
    CUmemAllocationProp {
        kind: 1,
        requestedHandleTypes: 0,
        location: CUmemLocation { kind, id: 0 },
        win32HandleMetaData: null_mut(),
        compressionType: 0,
        gpuDirectRDMACapable: 0,
        usage: 0,
        reserved: [0; 4],
    }
}

pub(super) fn create(d: &Driver, size: usize) -> CUmemGenericAllocationHandle {
    let mut handle = 0;
    must("cuMemCreate", d.cuMemCreate(&mut handle, size, &property(ON_DEVICE), 0));
    handle
}

pub(super) fn reserve(d: &Driver, size: usize) -> CUdeviceptr {
    let mut address = 0;
    must("cuMemAddressReserve", d.cuMemAddressReserve(&mut address, size, 0, 0, 0));
    address
}

pub(super) fn allow(d: &Driver, address: CUdeviceptr, size: usize) -> CUresult {
    let access = CUmemAccessDesc { location: CUmemLocation { kind: ON_DEVICE, id: 0 }, flags: READ_WRITE };
    d.cuMemSetAccess(address, size, &access, 1)
}

pub(super) fn map(d: &Driver, address: CUdeviceptr, size: usize, handle: CUmemGenericAllocationHandle) {
    must("cuMemMap", d.cuMemMap(address, size, 0, handle, 0));
    must("cuMemSetAccess", allow(d, address, size));
}

/// What the process has mapped at its cuInit, a reservation never gets, although it is free later (driver 580, recorded). What is
/// mapped afterwards stands in the way for as long as it is there.
pub fn hints(d: &Driver, t: &mut Check) {
    const BEFORE: u64 = 0x5000_0000_0000;
    const AFTER: u64 = 0x5100_0000_0000;
    const SIZE: usize = 64 * MIB;
    let reserved = |hint| {
        let mut address = 0;
        must("cuMemAddressReserve", d.cuMemAddressReserve(&mut address, SIZE, 0, hint, 0));
        address
    };
    occupy(BEFORE, SIZE);
    d.start();
    let in_the_way = reserved(BEFORE);
    t.that("not where something is", in_the_way != BEFORE);
    leave(BEFORE, SIZE);
    t.that("nor where something was at cuInit", reserved(BEFORE) != BEFORE);
    occupy(AFTER, SIZE);
    t.that("nor where something is that came later", reserved(AFTER) != AFTER);
    leave(AFTER, SIZE);
    // the shim gives addresses of its window only
    if std::env::var_os("ZEROGPU_DRIVER").is_none() {
        t.same("but when that is gone", reserved(AFTER), AFTER);
    }
}

/// Maps addresses that nobody has.
fn occupy(at: u64, size: usize) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: a new mapping, which replaces none.
    let got = unsafe { libc::mmap(at as *mut libc::c_void, size, libc::PROT_NONE, flags, -1, 0) };
    assert_eq!(got as u64, at);
}

fn leave(at: u64, size: usize) {
    // SAFETY: the range that `occupy` mapped.
    unsafe { libc::munmap(at as *mut libc::c_void, size) };
}

/// A segment that grows, shrinks and grows again, one handle a page.
pub fn expandable_segment(d: &Driver, t: &mut Check) {
    d.start();
    let (free, total) = d.memory_info();
    let mut granularity = 0;
    for option in [0, 1] {
        let code = d.cuMemGetAllocationGranularity(&mut granularity, &property(ON_DEVICE), option);
        t.code("cuMemGetAllocationGranularity", code, 0);
        t.same("granularity", granularity, PAGE);
    }
    // one reservation of 1.125 times the card a stream and pool
    let size = (total + total / 8).next_multiple_of(20 * MIB);
    let mut segments: Vec<CUdeviceptr> = (0..8).map(|_| reserve(d, size)).collect();
    segments.sort();
    t.that("eight segments apart", segments.windows(2).all(|w| w[0] + size as u64 <= w[1]));
    t.that("each aligned to a page", segments.iter().all(|at| at % PAGE as u64 == 0));
    t.same("addresses cost no memory", d.memory_info().0, free);

    let base = segments[3];
    let at = |page: usize| base + (page * PAGE) as u64;
    let handles: Vec<_> = (0..16).map(|_| create(d, PAGE)).collect();
    t.same("created memory is used", free - d.memory_info().0, 16 * PAGE);
    for (page, handle) in handles.iter().enumerate() {
        must("cuMemMap", d.cuMemMap(at(page), PAGE, 0, *handle, 0));
    }
    t.code("access to many mappings at once", allow(d, base, 16 * PAGE), 0);
    let bytes: Vec<u8> = (0..16 * PAGE).map(|i| (i / 4096 + i % 251) as u8).collect();
    d.write(base, &bytes);
    t.that("one copy over sixteen mappings", d.read(base, 16 * PAGE) == bytes);
    for handle in &handles {
        t.code("release while mapped", d.cuMemRelease(*handle), 0);
    }
    t.that("mapped memory lives on", d.read(base, 16 * PAGE) == bytes);
    t.same("and is used", free - d.memory_info().0, 16 * PAGE);

    t.code("unmap two in the middle", d.cuMemUnmap(at(4), 2 * PAGE), 0);
    t.same("their memory is free", free - d.memory_info().0, 14 * PAGE);
    t.code("write to the hole", d.cuMemsetD8_v2(at(4), 1, 64), 1);
    t.code("write over the hole", d.cuMemsetD8_v2(at(3), 1, 4 * PAGE), 1);
    t.that("its neighbours are whole", d.read(at(6), 10 * PAGE) == bytes[6 * PAGE..]);
    let new = create(d, 2 * PAGE);
    map(d, at(4), 2 * PAGE, new);
    must("cuMemRelease", d.cuMemRelease(new));
    must("cuMemsetD8", d.cuMemsetD8_v2(at(4), 0xcc, 2 * PAGE));
    let mut want = bytes;
    want[4 * PAGE..6 * PAGE].fill(0xcc);
    t.that("the hole is filled", d.read(base, 16 * PAGE) == want);
    t.code("unmap all", d.cuMemUnmap(base, 16 * PAGE), 0);
    t.same("all memory is free", d.memory_info().0, free);
    for segment in segments {
        t.code("free the addresses", d.cuMemAddressFree(segment, size), 0);
    }
}

/// One handle at two addresses.
pub fn aliases(d: &Driver, t: &mut Check) {
    d.start();
    let free = d.memory_info().0;
    let (a, b) = (reserve(d, 2 * PAGE), reserve(d, PAGE));
    let handle = create(d, PAGE);
    map(d, a, PAGE, handle);
    map(d, b, PAGE, handle);
    t.same("memory counts once", free - d.memory_info().0, PAGE);
    d.write(a + 100, &[1; 64]);
    t.that("written here, read there", d.read(b + 100, 64) == [1; 64]);
    must("cuMemsetD8", d.cuMemsetD8_v2(b, 2, PAGE));
    t.that("and back", d.read(a, PAGE).iter().all(|byte| *byte == 2));
    t.code("unmap one", d.cuMemUnmap(a, PAGE), 0);
    t.that("the other stays", d.read(b, PAGE).iter().all(|byte| *byte == 2));
    // the same memory at a new place, as after a park
    map(d, a + PAGE as u64, PAGE, handle);
    t.that("bytes go with the handle", d.read(a + PAGE as u64, PAGE).iter().all(|byte| *byte == 2));
    let mut found = 0;
    t.code("cuMemRetainAllocationHandle", d.cuMemRetainAllocationHandle(&mut found, (b + 5) as *mut _), 0);
    t.that("a handle", found != 0);
    t.code("release what was retained", d.cuMemRelease(found), 0);
    let mut properties = property(9);
    t.code(
        "cuMemGetAllocationPropertiesFromHandle",
        d.cuMemGetAllocationPropertiesFromHandle(&mut properties, handle),
        0,
    );
    t.same("its place", (properties.kind, properties.location.kind, properties.location.id), (1, ON_DEVICE, 0));
    t.code("unmap the first place", d.cuMemUnmap(a + PAGE as u64, PAGE), 0);
    t.code("unmap the second", d.cuMemUnmap(b, PAGE), 0);
    t.same("a handle keeps its memory", free - d.memory_info().0, PAGE);
    t.code("release", d.cuMemRelease(handle), 0);
    t.same("which is free then", d.memory_info().0, free);
    t.code("release twice", d.cuMemRelease(handle), 1);
    t.code("free addresses", d.cuMemAddressFree(a, 2 * PAGE), 0);
    t.code("free the others", d.cuMemAddressFree(b, PAGE), 0);
    t.code("free them twice", d.cuMemAddressFree(b, PAGE), 1);
}

/// What must be refused.
pub fn refusals(d: &Driver, t: &mut Check) {
    d.start();
    let base = reserve(d, 8 * PAGE);
    let handle = create(d, 2 * PAGE);
    let mut out = 55;
    t.code("reserve nothing", d.cuMemAddressReserve(&mut out, 0, 0, 0, 0), 1);
    t.code("reserve a part of a page", d.cuMemAddressReserve(&mut out, PAGE + 4096, 0, 0, 0), 1);
    t.code("reserve into NULL", d.cuMemAddressReserve(null_mut(), PAGE, 0, 0, 0), 1);
    t.code("create nothing", d.cuMemCreate(&mut out, 0, &property(ON_DEVICE), 0), 1);
    t.code("create more than there is", d.cuMemCreate(&mut out, 1 << 50, &property(ON_DEVICE), 0), 2);
    let mut elsewhere = property(ON_DEVICE);
    elsewhere.location.id = 99;
    t.one_of("create on a bad device", d.cuMemCreate(&mut out, PAGE, &elsewhere, 0), &[1, 101]);
    t.same("outputs of failed calls", out, 55);
    t.code("map to no reservation", d.cuMemMap(1 << 44, 2 * PAGE, 0, handle, 0), 1);
    // cuda.h: the offset must be 0 for now
    t.one_of("map with an offset", d.cuMemMap(base + 6 * PAGE as u64, PAGE, PAGE, handle, 0), &[1, 801]);
    // driver 580: 801 (recorded)
    t.one_of("map a part of a page", d.cuMemMap(base, PAGE + 4096, 0, handle, 0), &[1, 801]);
    t.one_of("map more than the handle has", d.cuMemMap(base, 4 * PAGE, 0, handle, 0), &[1, 801]);
    if !t.driver.real {
        // driver 580 maps it (recorded)
        t.code("map beyond the reservation", d.cuMemMap(base + 7 * PAGE as u64, 2 * PAGE, 0, handle, 0), 1);
    }
    t.code("map off a page", d.cuMemMap(base + 4096, 2 * PAGE, 0, handle, 0), 1);
    t.code("access to what is not mapped", allow(d, base, 2 * PAGE), 1);
    must("cuMemMap", d.cuMemMap(base, 2 * PAGE, 0, handle, 0));
    t.code("map over a mapping", d.cuMemMap(base + PAGE as u64, 2 * PAGE, 0, handle, 0), 1);
    t.code("access beyond the mapping", allow(d, base, 4 * PAGE), 1);
    let (mut access, location) = (9, CUmemLocation { kind: ON_DEVICE, id: 0 });
    t.code("cuMemGetAccess", d.cuMemGetAccess(&mut access, &location, base), 0);
    t.same("none at first", access, 0);
    must("cuMemSetAccess", allow(d, base, 2 * PAGE));
    t.code("cuMemGetAccess again", d.cuMemGetAccess(&mut access, &location, base), 0);
    t.same("read and write", access, u64::from(READ_WRITE));
    // driver 580: 0 (recorded)
    t.one_of("unmap what is not mapped", d.cuMemUnmap(base + 4 * PAGE as u64, PAGE), &[0, 1]);
    t.that("addresses in use can't be freed", !d.cuMemAddressFree(base, 8 * PAGE).ok());
    d.write(base, &[1; 64]);
    t.that("which changes nothing", d.read(base, 64) == [1; 64]);
    read_only(d, t, base);
    must("cuMemUnmap", d.cuMemUnmap(base, 2 * PAGE));
    must("cuMemRelease", d.cuMemRelease(handle));
    must("cuMemAddressFree", d.cuMemAddressFree(base, 8 * PAGE));
    t.code("map to freed addresses", d.cuMemMap(base, 2 * PAGE, 0, handle, 0), 1);
    on_host(d, t);
}

/// A mapping that the device may only read; and a list of accesses of which one is refused.
fn read_only(d: &Driver, t: &mut Check, base: CUdeviceptr) {
    let on = |kind, flags| CUmemAccessDesc { location: CUmemLocation { kind, id: 0 }, flags };
    let (mut access, location) = (9, CUmemLocation { kind: ON_DEVICE, id: 0 });
    let list = [on(ON_DEVICE, READ_ONLY), on(99, READ_WRITE)];
    t.code("access from nowhere", d.cuMemSetAccess(base, 2 * PAGE, list.as_ptr(), 2), 1);
    must("cuMemGetAccess", d.cuMemGetAccess(&mut access, &location, base));
    t.same("what came before it in the list does not count", access, u64::from(READ_WRITE));
    must("cuMemSetAccess", d.cuMemSetAccess(base, 2 * PAGE, list.as_ptr(), 1));
    t.that("read-only memory is read", d.read(base, 64) == [1; 64]);
    // what a real driver's copy engines do with it has not been recorded
    if !t.driver.real {
        t.code("a copy into it", d.cuMemcpyHtoD_v2(base, [2u8; 64].as_ptr().cast(), 64), 1);
        t.code("a copy inside it", d.cuMemcpyDtoD_v2(base + 64, base, 64), 1);
        t.code("a memset of it", d.cuMemsetD8_v2(base, 2, 64), 1);
        t.code("a value written to it", d.cuStreamWriteValue32_v2(CUstream::NULL, base, 2, 0), 1);
        t.code("a value awaited in it", d.cuStreamWaitValue32_v2(CUstream::NULL, base, 0x0101_0101, 1), 0);
        t.that("its bytes stay", d.read(base, 64) == [1; 64]);
    }
    must("cuMemSetAccess", allow(d, base, 2 * PAGE));
    d.write(base, &[3; 64]);
    t.that("write access again", d.read(base, 64) == [3; 64]);
}

/// NCCL makes memory on a NUMA node of the host; where the device says that it can (attribute 141), it must.
fn on_host(d: &Driver, t: &mut Check) {
    let mut handle = 0;
    let result = d.cuMemCreate(&mut handle, PAGE, &property(ON_NUMA_NODE), 0);
    if d.device_attribute(141) == 0 {
        t.that("memory on a NUMA node is refused", !result.ok());
        return;
    }
    let free = d.memory_info().0;
    t.code("memory on a NUMA node", result, 0);
    let base = reserve(d, PAGE);
    must("cuMemMap", d.cuMemMap(base, PAGE, 0, handle, 0));
    must("cuMemSetAccess", allow(d, base, PAGE));
    d.write(base, &[8; 4096]);
    t.that("its bytes", d.read(base, 4096) == [8; 4096]);
    t.same("it is not the card's", d.memory_info().0, free);
    must("cuMemUnmap", d.cuMemUnmap(base, PAGE));
    must("cuMemRelease", d.cuMemRelease(handle));
    must("cuMemAddressFree", d.cuMemAddressFree(base, PAGE));
}

/// NVIDIA's driver does not wait for work where memory is unmapped (580, recorded: a copy that runs faults); softcuda does, and says so.
pub fn under_work(d: &'static Driver, t: &mut Check) {
    if t.driver.real {
        // a fault would end the process's use of the card
        return;
    }
    static GATE: AtomicBool = AtomicBool::new(false);
    unsafe extern "C" fn wait(_: *mut c_void) {
        while !GATE.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
    }
    // SAFETY: a new file of this test's own.
    let log = unsafe { libc::memfd_create(c"log".as_ptr(), libc::MFD_CLOEXEC) };
    let log = format!("/proc/self/fd/{log}");
    // read at the first call, which is still to come
    std::env::set_var("SOFTCUDA_STRICT_LOG", &log);
    d.start();
    let noted = || std::fs::read_to_string(&log).expect("it is a file").lines().count();
    let (at, other, stream) = (reserve(d, PAGE), d.alloc(PAGE), d.stream(1));
    let handle = create(d, PAGE);
    let late = |to| {
        GATE.store(false, Ordering::Release);
        must("cuLaunchHostFunc", d.cuLaunchHostFunc(stream, Some(wait), null_mut()));
        must("cuMemsetD8Async", d.cuMemsetD8Async(to, 7, 64, stream));
    };
    // opens the gate once something is noted, or is not for long
    let opens = |notes| {
        let log = log.clone();
        std::thread::spawn(move || {
            let begun = std::time::Instant::now();
            let lines = || std::fs::read_to_string(&log).map_or(0, |all| all.lines().count());
            while lines() < notes && begun.elapsed().as_secs() < 60 {
                std::thread::yield_now();
            }
            GATE.store(true, Ordering::Release);
        })
    };
    map(d, at, PAGE, handle);
    late(at);
    let opened = opens(1);
    t.code("unmap", d.cuMemUnmap(at, PAGE), 0);
    opened.join().expect("no panic");
    t.same("it is noted", noted(), 1);

    map(d, at, PAGE, handle);
    t.same("and waited for", d.read(at, 64), vec![7; 64]);
    late(at);
    let opened = opens(2);
    let none = CUmemAccessDesc { location: CUmemLocation { kind: ON_DEVICE, id: 0 }, flags: 0 };
    t.code("taking access", d.cuMemSetAccess(at, PAGE, &none, 1), 0);
    opened.join().expect("no panic");
    t.same("is noted too", noted(), 2);

    late(other);
    let opened = opens(0);
    t.code("unmap beside work", d.cuMemUnmap(at, PAGE), 0);
    opened.join().expect("no panic");
    d.wait(stream);
    map(d, at, PAGE, handle);
    must("cuMemsetD8Async", d.cuMemsetD8Async(at, 7, 64, stream));
    d.wait(stream);
    t.code("unmap after it", d.cuMemUnmap(at, PAGE), 0);
    t.same("is nothing to note", noted(), 2);
    must("cuMemRelease", d.cuMemRelease(handle));
    d.free(other);
}

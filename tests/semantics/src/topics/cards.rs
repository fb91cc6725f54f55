//! What belongs to a card: the devices of a driver beside each other, and physical memory shared between processes.
use super::vmm::{allow, create, map, property, reserve, ON_DEVICE, PAGE};
use crate::check::Check;
use crate::driver::{must, Driver};
use std::ffi::c_void;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::ptr::null_mut;
use zerogpu_abi::*;

/// CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR.
const POSIX_FD: u32 = 1;

fn count(d: &Driver) -> i32 {
    let mut count = 0;
    must("cuInit", d.cuInit(0));
    must("cuDeviceGetCount", d.cuDeviceGetCount(&mut count));
    count
}

fn free_bytes(d: &Driver, context: CUcontext) -> usize {
    must("cuCtxPushCurrent", d.cuCtxPushCurrent_v2(context));
    let (free, _) = d.memory_info();
    must("cuCtxPopCurrent", d.cuCtxPopCurrent_v2(null_mut()));
    free
}

/// Each device has an identity, a primary context and memory of its own.
pub fn several(d: &'static Driver, t: &mut Check) {
    let devices = count(d);
    t.that("there is a device", devices > 0);
    let mut device = 77;
    t.code("a device beyond the last", d.cuDeviceGet(&mut device, devices), 101);
    t.same("whose output is left alone", device, 77);
    let (mut uuids, mut places, mut contexts) = (vec![], vec![], vec![]);
    for ordinal in 0..devices {
        must("cuDeviceGet", d.cuDeviceGet(&mut device, ordinal));
        t.same("its ordinal", device, ordinal);
        let (mut uuid, mut place, mut found) = (CUuuid { bytes: [0; 16] }, [0i8; 32], -1);
        must("cuDeviceGetUuid", d.cuDeviceGetUuid_v2(&mut uuid, device));
        must("cuDeviceGetPCIBusId", d.cuDeviceGetPCIBusId(place.as_mut_ptr(), 32, device));
        t.code("cuDeviceGetByPCIBusId", d.cuDeviceGetByPCIBusId(&mut found, place.as_ptr()), 0);
        t.same("finds it again", found, device);
        let (mut flags, mut active, mut context) = (0, 9, CUcontext::NULL);
        must("cuDevicePrimaryCtxGetState", d.cuDevicePrimaryCtxGetState(device, &mut flags, &mut active));
        t.same("no context yet", active, 0);
        must("cuDevicePrimaryCtxRetain", d.cuDevicePrimaryCtxRetain(&mut context, device));
        must("cuCtxSetCurrent", d.cuCtxSetCurrent(context));
        t.code("cuCtxGetDevice", d.cuCtxGetDevice(&mut found), 0);
        t.same("the context's device", found, device);
        let stream = d.stream(1);
        for stream in [stream, CUstream::NULL] {
            found = -1;
            t.code("cuStreamGetDevice", d.cuStreamGetDevice(stream, &mut found), 0);
            t.same("its context's", found, device);
        }
        must("cuStreamDestroy", d.cuStreamDestroy_v2(stream));
        uuids.push(uuid.bytes);
        places.push(place);
        contexts.push(context);
    }
    uuids.dedup();
    places.dedup();
    t.same("identities differ", (uuids.len(), places.len()), (contexts.len(), contexts.len()));

    for (device, &context) in contexts.iter().enumerate() {
        let before: Vec<usize> = contexts.iter().map(|&c| free_bytes(d, c)).collect();
        must("cuCtxSetCurrent", d.cuCtxSetCurrent(context));
        let (at, mut ordinal) = (d.alloc(16 << 20), -1i32);
        let code = d.cuPointerGetAttribute((&raw mut ordinal).cast(), 9, at);
        t.code("whose memory it is", code, 0);
        t.same("the current context's device's", ordinal, device as i32);
        let mut prop = property(ON_DEVICE);
        prop.location.id = device as i32;
        let mut handle = 0;
        must("cuMemCreate", d.cuMemCreate(&mut handle, 8 * PAGE, &prop, 0));
        for (other, &c) in contexts.iter().enumerate() {
            let used = before[other] - free_bytes(d, c);
            if other == device {
                t.that("it counts on its card", used >= 32 << 20);
            } else {
                t.same("and on no other", used, 0);
            }
        }
        let address = reserve(d, 8 * PAGE);
        must("cuMemMap", d.cuMemMap(address, 8 * PAGE, 0, handle, 0));
        let mut access =
            CUmemAccessDesc { location: CUmemLocation { kind: ON_DEVICE, id: contexts.len() as i32 }, flags: 3 };
        t.one_of("access of no device", d.cuMemSetAccess(address, 8 * PAGE, &access, 1), &[1, 101]);
        access.location.id = device as i32;
        t.code("access of its device", d.cuMemSetAccess(address, 8 * PAGE, &access, 1), 0);
        d.write(address, &[5; 100]);
        must("cuMemcpyDtoD", d.cuMemcpyDtoD_v2(at, address, 100));
        t.that("its bytes", d.read(at, 100) == [5; 100]);
        must("cuMemUnmap", d.cuMemUnmap(address, 8 * PAGE));
        must("cuMemRelease", d.cuMemRelease(handle));
        must("cuMemAddressFree", d.cuMemAddressFree(address, 8 * PAGE));
        d.free(at);
        let after: Vec<usize> = contexts.iter().map(|&c| free_bytes(d, c)).collect();
        t.same("all is free again", after, before);
    }
    across(d, t, devices);
    if devices > 1 {
        for attribute in 1..=4 {
            t.code("P2P attribute", d.cuDeviceGetP2PAttribute(&mut 0, attribute, 0, 1), 0);
        }
        for attribute in [0, 99] {
            t.code("no P2P attribute", d.cuDeviceGetP2PAttribute(&mut 0, attribute, 0, 1), 1);
        }
    }
    must("cuCtxSetCurrent", d.cuCtxSetCurrent(CUcontext::NULL));
    for (device, &context) in contexts.iter().enumerate() {
        t.code("cuDevicePrimaryCtxRelease", d.cuDevicePrimaryCtxRelease_v2(device as i32), 0);
        let (mut flags, mut active, mut again) = (0, 9, CUcontext::NULL);
        must("cuDevicePrimaryCtxGetState", d.cuDevicePrimaryCtxGetState(device as i32, &mut flags, &mut active));
        t.same("its context is gone", active, 0);
        must("cuDevicePrimaryCtxRetain", d.cuDevicePrimaryCtxRetain(&mut again, device as i32));
        t.that("and comes back as it was", again == context);
        t.code("cuDevicePrimaryCtxReset", d.cuDevicePrimaryCtxReset_v2(device as i32), 0);
    }
}

/// Two devices' memory side by side: what one can't reach, it gets no access to by naming both.
fn across(d: &Driver, t: &mut Check, devices: i32) {
    // real cards may reach each other
    if devices < 2 || t.driver.real {
        return;
    }
    let page = PAGE as u64;
    let base = reserve(d, 2 * PAGE);
    for device in [0, 1] {
        let (mut handle, mut prop) = (0, property(ON_DEVICE));
        prop.location.id = device;
        must("cuMemCreate", d.cuMemCreate(&mut handle, PAGE, &prop, 0));
        must("cuMemMap", d.cuMemMap(base + device as u64 * page, PAGE, 0, handle, 0));
        must("cuMemRelease", d.cuMemRelease(handle));
    }
    t.one_of("access of one device to both", allow(d, base, 2 * PAGE), &[1, 101]);
    let mut access = 9;
    let second = CUmemLocation { kind: ON_DEVICE, id: 1 };
    for (at, location) in [(base, CUmemLocation { kind: ON_DEVICE, id: 0 }), (base + page, second)] {
        must("cuMemGetAccess", d.cuMemGetAccess(&mut access, &location, at));
        t.same("which gives nobody access", access, 0);
    }
    must("cuMemUnmap", d.cuMemUnmap(base, 2 * PAGE));
    must("cuMemAddressFree", d.cuMemAddressFree(base, 2 * PAGE));
}

/// The descriptor that the other process of [`shared`] imports.
const PEER: &str = "ZEROGPU_TEST_PEER";

fn shareable(d: &Driver, size: usize) -> CUmemGenericAllocationHandle {
    let (mut handle, mut prop) = (0, property(ON_DEVICE));
    prop.requestedHandleTypes = POSIX_FD;
    must("cuMemCreate", d.cuMemCreate(&mut handle, size, &prop, 0));
    handle
}

fn export(d: &Driver, handle: CUmemGenericAllocationHandle) -> i32 {
    let mut fd = -1i32;
    must("cuMemExportToShareableHandle", d.cuMemExportToShareableHandle((&raw mut fd).cast(), handle, POSIX_FD, 0));
    fd
}

fn import(d: &Driver, fd: i32) -> (CUresult, CUmemGenericAllocationHandle) {
    let mut handle = 55;
    (d.cuMemImportFromShareableHandle(&mut handle, fd as isize as *mut c_void, POSIX_FD), handle)
}

fn close(fd: i32) {
    // SAFETY: a descriptor of this test's own.
    unsafe { libc::close(fd) };
}

/// The same program as this one, on the same topic, with the descriptor.
fn peer(fd: i32) -> Child {
    // SAFETY: fcntl(2) on a descriptor of this test's own.
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }, 0);
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args(std::env::args_os().skip(1)).env(PEER, fd.to_string());
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the peer starts");
    // SAFETY: as above.
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }, 0);
    child
}

/// Waits until the peer has imported, mapped and looked.
fn ready(child: &mut Child) {
    let out = BufReader::new(child.stdout.as_mut().expect("it is piped"));
    for line in out.lines().map_while(Result::ok) {
        println!("peer: {line}");
        if line == "ready" {
            return;
        }
    }
}

/// Lets the peer go on, and waits for its end.
fn finished(mut child: Child) -> bool {
    drop(child.stdin.take());
    let mut rest = String::new();
    let _ = child.stdout.take().expect("it is piped").read_to_string(&mut rest);
    rest.lines().for_each(|line| println!("peer: {line}"));
    child.wait().expect("the peer ends").success()
}

/// The other process: finds what was written, writes in turn, and keeps the memory until its input ends.
fn importer(d: &Driver, t: &mut Check, fd: i32) {
    d.start();
    let (code, handle) = import(d, fd);
    t.code("cuMemImportFromShareableHandle", code, 0);
    close(fd);
    let at = reserve(d, 2 * PAGE);
    map(d, at, 2 * PAGE, handle);
    must("cuMemRelease", d.cuMemRelease(handle));
    t.that("the other's bytes", d.read(at, 2 * PAGE).iter().all(|&b| b == 7));
    must("cuMemsetD8", d.cuMemsetD8_v2(at + PAGE as u64, 9, PAGE));
    must("cuCtxSynchronize", d.cuCtxSynchronize());
    println!("ready");
    std::io::stdout().flush().expect("the parent reads");
    let _ = std::io::stdin().read(&mut [0]);
    t.that("its own stay", d.read(at + PAGE as u64, PAGE).iter().all(|&b| b == 9));
    must("cuMemUnmap", d.cuMemUnmap(at, 2 * PAGE));
}

/// One handle in two processes, and twice in one: the bytes are the same, count once, and live until the last is gone.
pub fn shared(d: &'static Driver, t: &mut Check) {
    if let Some(fd) = std::env::var(PEER).ok().and_then(|fd| fd.parse().ok()) {
        return importer(d, t, fd);
    }
    d.start();
    let free = d.memory_info().0;
    let handle = shareable(d, 2 * PAGE);
    t.same("it is used", free - d.memory_info().0, 2 * PAGE);
    let at = reserve(d, 4 * PAGE);
    map(d, at, 2 * PAGE, handle);
    if !t.driver.real && std::env::var_os("SOFTCUDA_POISON").is_some() {
        t.that("fresh memory is not zero", d.read(at, 2 * PAGE).iter().all(|&b| b == 0xA5));
    }
    must("cuMemsetD8", d.cuMemsetD8_v2(at, 7, 2 * PAGE));
    let fd = export(d, handle);
    let (code, again) = import(d, fd);
    t.code("import in the same process", code, 0);
    // driver 580 takes 2 MiB for the import itself (recorded)
    let own = if t.driver.real { 2 * PAGE } else { 0 };
    let used = |d: &Driver| free - d.memory_info().0;
    t.that("counts once", (2 * PAGE..=2 * PAGE + own).contains(&used(d)));
    map(d, at + 2 * PAGE as u64, 2 * PAGE, again);
    d.write(at + 100, &[8; 50]);
    t.that("written here, read there", d.read(at + 2 * PAGE as u64 + 100, 50) == [8; 50]);
    must("cuMemsetD8", d.cuMemsetD8_v2(at + 2 * PAGE as u64, 7, 2 * PAGE));
    let mut prop = property(9);
    let code = d.cuMemGetAllocationPropertiesFromHandle(&mut prop, again);
    t.code("cuMemGetAllocationPropertiesFromHandle", code, 0);
    t.same("the import's place", (prop.location.kind, prop.location.id), (ON_DEVICE, 0));
    // a memset is not waited for, nor does unmapping wait for it: it would meet no memory any more
    must("cuCtxSynchronize", d.cuCtxSynchronize());
    must("cuMemUnmap", d.cuMemUnmap(at + 2 * PAGE as u64, 2 * PAGE));
    must("cuMemRelease", d.cuMemRelease(again));
    t.that("still once", (2 * PAGE..=2 * PAGE + 2 * own).contains(&used(d)));

    let mut child = peer(fd);
    ready(&mut child);
    t.that("the other's bytes are here", d.read(at + PAGE as u64, PAGE).iter().all(|&b| b == 9));
    t.that("the first are as they were", d.read(at, PAGE).iter().all(|&b| b == 7));
    must("cuMemUnmap", d.cuMemUnmap(at, 2 * PAGE));
    must("cuMemRelease", d.cuMemRelease(handle));
    t.that("the other still uses it", free - d.memory_info().0 >= 2 * PAGE);
    t.that("the other found what it should", finished(child));

    // the descriptor alone keeps the bytes
    let (code, last) = import(d, fd);
    t.code("import when no handle is left", code, 0);
    map(d, at, 2 * PAGE, last);
    t.that("its bytes", d.read(at + PAGE as u64, PAGE).iter().all(|&b| b == 9));
    let second = export(d, last);
    close(fd);
    t.that("an import can be exported", second >= 0);
    close(second);
    must("cuMemUnmap", d.cuMemUnmap(at, 2 * PAGE));
    must("cuMemRelease", d.cuMemRelease(last));
    t.that("all is free again", used(d) <= 2 * own);

    // a peer that is killed gives its part back
    let handle = shareable(d, 2 * PAGE);
    map(d, at, 2 * PAGE, handle);
    must("cuMemsetD8", d.cuMemsetD8_v2(at, 7, 2 * PAGE));
    must("cuCtxSynchronize", d.cuCtxSynchronize());
    let fd = export(d, handle);
    let mut child = peer(fd);
    ready(&mut child);
    close(fd);
    must("cuMemUnmap", d.cuMemUnmap(at, 2 * PAGE));
    must("cuMemRelease", d.cuMemRelease(handle));
    child.kill().expect("it is a child");
    child.wait().expect("it ends");
    t.that("a killed process holds nothing", used(d) <= 2 * own);
    must("cuMemAddressFree", d.cuMemAddressFree(at, 4 * PAGE));
}

/// What can't be exported or imported.
pub fn shared_refusals(d: &'static Driver, t: &mut Check) {
    d.start();
    let free = d.memory_info().0;
    let (plain, handle) = (create(d, PAGE), shareable(d, PAGE));
    let mut fd = 55i32;
    let out: *mut c_void = (&raw mut fd).cast();
    t.code("export of what was not made for it", d.cuMemExportToShareableHandle(out, plain, POSIX_FD, 0), 1);
    t.code("export with flags", d.cuMemExportToShareableHandle(out, handle, POSIX_FD, 1), 1);
    t.code("export into NULL", d.cuMemExportToShareableHandle(null_mut(), handle, POSIX_FD, 0), 1);
    t.same("outputs of failed calls", fd, 55);
    let file = std::fs::File::open("/dev/null").expect("it is there");
    let mut pipe = [0i32; 2];
    // SAFETY: pipe(2) writes two descriptors.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    // SAFETY: plain numbers and a C string.
    let (sealed, other) = unsafe {
        let sealed = libc::memfd_create(c"backing".as_ptr(), libc::MFD_ALLOW_SEALING);
        libc::ftruncate(sealed, PAGE as i64);
        libc::fcntl(sealed, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL);
        (sealed, libc::memfd_create(c"zerogpu-physical-0".as_ptr(), libc::MFD_ALLOW_SEALING))
    };
    let file = std::os::fd::AsRawFd::as_raw_fd(&file);
    for bad in [-1, i32::MIN, 1 << 20, file, pipe[0], sealed, other] {
        let (code, given) = import(d, bad);
        t.one_of(format!("import of {bad}, which is no memory"), code, &[1, 999]);
        t.same("its output", given, 55);
    }
    t.same("nothing was taken", free - d.memory_info().0, 2 * PAGE);
    pipe.into_iter().chain([sealed, other]).for_each(close);
    must("cuMemRelease", d.cuMemRelease(plain));
    must("cuMemRelease", d.cuMemRelease(handle));
    if !t.driver.real {
        // driver 580 crashes (recorded)
        t.code("export of what is gone", d.cuMemExportToShareableHandle(out, handle, POSIX_FD, 0), 1);
    }
    t.same("all is free again", d.memory_info().0, free);
    let at = reserve(d, PAGE);
    t.code("access to what is not mapped", allow(d, at, PAGE), 1);
    must("cuMemAddressFree", d.cuMemAddressFree(at, PAGE));
}

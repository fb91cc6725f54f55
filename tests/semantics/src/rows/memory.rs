//! Device memory, host memory, pointer attributes and mapped memory.
use super::{step, Got, Program, Step, MIB};
use std::ffi::c_void;
use std::ptr::null_mut;
use zerogpu_abi::*;

const MAPPED: usize = 4 * MIB;
const READ_WRITE: u32 = 3;

/// Physical memory of device 0.
fn on_device() -> CUmemAllocationProp {
    CUmemAllocationProp {
        kind: 1,
        requestedHandleTypes: 0,
        location: CUmemLocation::device(0),
        win32HandleMetaData: null_mut(),
        compressionType: 0,
        gpuDirectRDMACapable: 0,
        usage: 0,
        reserved: [0; 4],
    }
}

/// The six attributes that cudaPointerGetAttributes asks for.
fn pointer_attributes(s: &mut Program, address: CUdeviceptr) -> Got {
    let (mut context, mut kind, mut device, mut host, mut managed, mut ordinal) =
        (1usize, 9u32, 1u64, 1u64, 9u32, 9i32);
    let mut names = [1u32, 2, 3, 4, 8, 9];
    let mut data: [*mut c_void; 6] = [
        (&raw mut context).cast(),
        (&raw mut kind).cast(),
        (&raw mut device).cast(),
        (&raw mut host).cast(),
        (&raw mut managed).cast(),
        (&raw mut ordinal).cast(),
    ];
    let code = s.d.cuPointerGetAttributes(6, names.as_mut_ptr(), data.as_mut_ptr(), address);
    let is = |holds: bool| u8::from(holds);
    let text = format!(
        "ctx={} memtype={kind} devptr={} hostptr={} managed={managed} ordinal={ordinal}",
        is(context != 0 && context == s.primary.0),
        is(device == address),
        is(host == address)
    );
    Got::value(code, text)
}

fn memory_type(s: &Program, address: CUdeviceptr) -> (CUresult, u32) {
    let mut kind = 0u32;
    let code = s.d.cuPointerGetAttribute((&raw mut kind).cast(), 2, address);
    (code, kind)
}

pub(super) const STEPS: &[Step] = &[
    step("cuMemAlloc 0 bytes", |s| s.d.cuMemAlloc_v2(&mut s.p, 0).into()),
    step("cuMemAlloc NULL out", |s| s.d.cuMemAlloc_v2(null_mut(), 1024).into()),
    step("cuMemAlloc 1<<50 bytes", |s| s.d.cuMemAlloc_v2(&mut s.p, 1 << 50).into()),
    step("cuMemFree(0)", |s| s.d.cuMemFree_v2(0).into()),
    step("cuMemAlloc 100", |s| {
        let code = s.d.cuMemAlloc_v2(&mut s.p, 100);
        let address = if s.p == 0 { "0" } else { "@" };
        Got::value(code, format!("addr alignment mod 512\t{}\t{address}", s.p % 512))
    }),
    step("cuMemFree p+1", |s| s.d.cuMemFree_v2(s.p + 1).into()),
    step("cuMemGetAddressRange(p+50)", |s| {
        let (mut base, mut size) = (0, 0);
        let code = s.d.cuMemGetAddressRange_v2(&mut base, &mut size, s.p + 50);
        Got::value(code, format!("base==p size\t{}\t{size}", u8::from(base == s.p)))
    }),
    step("cuMemGetAddressRange host ptr", |s| {
        let host = s.host_address();
        s.d.cuMemGetAddressRange_v2(&mut 0, &mut 0, host).into()
    }),
    step("cuMemFree p", |s| s.d.cuMemFree_v2(s.p).into()),
    step("cuMemFree p twice", |s| s.d.cuMemFree_v2(s.p).into()),
    step("cuMemcpyDtoH from freed", |s| s.d.cuMemcpyDtoH_v2(s.host(), s.p, 100).into()),
    step("cuMemFree garbage", |s| s.d.cuMemFree_v2(0x1234).into()),
    step("cuMemcpyHtoD beyond allocation", |s| {
        let (p, q) = (s.d.cuMemAlloc_v2(&mut s.p, MIB), s.d.cuMemAlloc_v2(&mut s.q, MIB));
        s.set_up("cuMemAlloc p", p);
        s.set_up("cuMemAlloc q", q);
        s.d.cuMemcpyHtoD_v2(s.p, s.host(), 3 * MIB).into()
    }),
    step("cuMemcpyHtoD 0 bytes", |s| s.d.cuMemcpyHtoD_v2(s.p, s.host(), 0).into()),
    step("cuMemcpyHtoD NULL src", |s| s.d.cuMemcpyHtoD_v2(s.p, null_mut(), 16).into()),
    step("cuMemcpyHtoD dst host pointer", |s| {
        let host = s.host_address();
        s.d.cuMemcpyHtoD_v2(host, s.host(), 16).into()
    }),
    step("cuMemcpyDtoD src host pageable", |s| {
        let host = s.host_address();
        s.d.cuMemcpyDtoD_v2(s.p, host, 16).into()
    }),
    step("cuMemcpy (unified) host->dev", |s| {
        let host = s.host_address();
        s.d.cuMemcpy(s.p, host, 16).into()
    }),
    step("cuMemcpy host->host", |s| {
        let source = [1u8; 16];
        let host = s.host_address();
        s.d.cuMemcpy(host, source.as_ptr() as CUdeviceptr, 16).into()
    }),
    step("cuMemsetD8 beyond", |s| s.d.cuMemsetD8_v2(s.p, 1, 3 * MIB).into()),
    step("cuMemsetD32 unaligned", |s| s.d.cuMemsetD32_v2(s.p + 1, 1, 4).into()),
    step("cuMemsetD32 n=0", |s| s.d.cuMemsetD32_v2(s.p, 1, 0).into()),
    step("cuMemsetD8 on host ptr", |s| {
        let host = s.host_address();
        s.d.cuMemsetD8_v2(host, 1, 16).into()
    }),
    step("cuPointerGetAttribute MEMORY_TYPE device", |s| {
        let (code, kind) = memory_type(s, s.p);
        Got::value(code, format!("value\t{kind}"))
    }),
    step("cuPointerGetAttribute MEMORY_TYPE host pageable", |s| {
        let host = s.host_address();
        memory_type(s, host).0.into()
    }),
    step("cuPointerGetAttribute CONTEXT device", |s| {
        let mut context = CUcontext::NULL;
        let code = s.d.cuPointerGetAttribute((&raw mut context).cast(), 1, s.p);
        Got::value(code, format!("ctx==primary\t{}", u8::from(context == s.primary)))
    }),
    step("cuPointerGetAttributes device", |s| pointer_attributes(s, s.p)),
    step("cuPointerGetAttributes pageable host", |s| {
        let host = s.host_address();
        pointer_attributes(s, host)
    }),
    step("cuPointerGetAttributes cuMemAllocHost", |s| {
        let allocated = s.d.cuMemAllocHost_v2(&mut s.pinned, MIB);
        s.set_up("cuMemAllocHost", allocated);
        pointer_attributes(s, s.pinned as CUdeviceptr)
    }),
    step("cuMemHostGetDevicePointer", |s| {
        let mut device = 0;
        let code = s.d.cuMemHostGetDevicePointer_v2(&mut device, s.pinned, 0);
        Got::value(code, format!("same\t{}", u8::from(device == s.pinned as CUdeviceptr)))
    }),
    step("cuMemHostGetFlags", |s| {
        let mut flags = 99;
        let code = s.d.cuMemHostGetFlags(&mut flags, s.pinned);
        Got::value(code, format!("flags\t{flags}"))
    }),
    step("cuMemFree of host pinned", |s| s.d.cuMemFree_v2(s.pinned as CUdeviceptr).into()),
    step("cuMemFreeHost", |s| s.d.cuMemFreeHost(s.pinned).into()),
    step("cuMemFreeHost twice", |s| s.d.cuMemFreeHost(s.pinned).into()),
    step("cuMemFreeHost pageable", |s| s.d.cuMemFreeHost(s.host()).into()),
    step("cuMemHostRegister", |s| s.d.cuMemHostRegister_v2(s.host(), MIB, 0).into()),
    step("cuMemHostRegister twice", |s| s.d.cuMemHostRegister_v2(s.host(), MIB, 0).into()),
    step("cuPointerGetAttributes registered", |s| {
        let host = s.host_address();
        pointer_attributes(s, host)
    }),
    step("cuMemHostUnregister", |s| s.d.cuMemHostUnregister(s.host()).into()),
    step("cuMemHostUnregister twice", |s| s.d.cuMemHostUnregister(s.host()).into()),
    step("cuPointerGetAttributes VMM reserved unmapped", |s| {
        let reserved = s.d.cuMemAddressReserve(&mut s.va, MAPPED, 0, 0, 0);
        s.set_up("cuMemAddressReserve", reserved);
        pointer_attributes(s, s.va)
    }),
    step("cuMemcpyHtoD VMM reserved unmapped", |s| s.d.cuMemcpyHtoD_v2(s.va, s.host(), 16).into()),
    step("cuMemCreate size not multiple of granularity", |s| {
        s.d.cuMemCreate(&mut s.physical, MAPPED + 1, &on_device(), 0).into()
    }),
    step("cuMemcpyHtoD VMM mapped no access", |s| {
        let created = s.d.cuMemCreate(&mut s.physical, MAPPED, &on_device(), 0);
        s.set_up("cuMemCreate", created);
        let mapped = s.d.cuMemMap(s.va, MAPPED, 0, s.physical, 0);
        s.set_up("cuMemMap", mapped);
        s.d.cuMemcpyHtoD_v2(s.va, s.host(), 16).into()
    }),
    step("cuPointerGetAttributes VMM mapped", |s| {
        let access = CUmemAccessDesc { location: CUmemLocation::device(0), flags: READ_WRITE };
        let set = s.d.cuMemSetAccess(s.va, MAPPED, &access, 1);
        s.set_up("cuMemSetAccess", set);
        pointer_attributes(s, s.va)
    }),
    step("cuMemGetAddressRange VMM mapped", |s| {
        let (mut base, mut size) = (0, 0);
        let code = s.d.cuMemGetAddressRange_v2(&mut base, &mut size, s.va + 50);
        Got::value(code, format!("base==va size\t{}\t{size}", u8::from(base == s.va)))
    }),
    step("cuMemFree on VMM", |s| s.d.cuMemFree_v2(s.va).into()),
    step("cuIpcGetMemHandle on VMM", |s| s.d.cuIpcGetMemHandle(&mut CUipcMemHandle { reserved: [0; 64] }, s.va).into()),
    step("cuIpcGetMemHandle on cuMemAlloc", |s| {
        s.d.cuIpcGetMemHandle(&mut CUipcMemHandle { reserved: [0; 64] }, s.p).into()
    }),
    step("cuMemRelease while mapped", |s| s.d.cuMemRelease(s.physical).into()),
    step("cuMemUnmap part", |s| s.d.cuMemUnmap(s.va, MAPPED / 2).into()),
    step("cuMemUnmap", |s| s.d.cuMemUnmap(s.va, MAPPED).into()),
    step("cuMemAddressFree part", |s| s.d.cuMemAddressFree(s.va, MAPPED / 2).into()),
    step("cuMemAddressFree", |s| s.d.cuMemAddressFree(s.va, MAPPED).into()),
];

//! Before any context, and the context's own state.
use super::{step, Got, Program, Step};
use zerogpu_abi::*;

fn get_limit(s: &mut Program, limit: u32) -> Got {
    let code = s.d.cuCtxGetLimit(&mut s.limit, limit);
    Got::value(code, format!("value\t{}", s.limit))
}

pub(super) const STEPS: &[Step] = &[
    step("cuDeviceGetCount before cuInit", |s| s.d.cuDeviceGetCount(&mut 0).into()),
    step("cuCtxGetCurrent before cuInit", |s| s.d.cuCtxGetCurrent(&mut CUcontext(0)).into()),
    step("cuMemAlloc before cuInit", |s| s.d.cuMemAlloc_v2(&mut s.p, 1024).into()),
    step("cuDriverGetVersion before cuInit", |s| s.d.cuDriverGetVersion(&mut 0).into()),
    step("cuInit(1) bad flags", |s| s.d.cuInit(1).into()),
    step("cuInit(0) twice", |s| {
        let first = s.d.cuInit(0);
        s.set_up("cuInit", first);
        s.d.cuInit(0).into()
    }),
    step("cuDeviceGet ordinal 1 of 1", |s| {
        let (mut count, mut device) = (0, 0);
        let counted = s.d.cuDeviceGetCount(&mut count);
        s.set_up("cuDeviceGetCount", counted);
        s.d.cuDeviceGet(&mut device, count).into()
    }),
    step("cuDeviceGet ordinal -1", |s| s.d.cuDeviceGet(&mut 0, -1).into()),
    step("cuCtxGetCurrent no context", |s| {
        let mut context = CUcontext(1);
        let code = s.d.cuCtxGetCurrent(&mut context);
        Got::value(code, format!("value\t{}", if context == CUcontext::NULL { "(nil)" } else { "@" }))
    }),
    step("cuMemAlloc no context", |s| s.d.cuMemAlloc_v2(&mut s.p, 1024).into()),
    step("cuCtxGetDevice no context", |s| s.d.cuCtxGetDevice(&mut 0).into()),
    step("cuCtxSynchronize no context", |s| s.d.cuCtxSynchronize().into()),
    step("cuStreamQuery(0) no context", |s| s.d.cuStreamQuery(CUstream::NULL).into()),
    step("cuDevicePrimaryCtxGetState inactive", |s| {
        let (mut flags, mut active) = (99, 99);
        let code = s.d.cuDevicePrimaryCtxGetState(0, &mut flags, &mut active);
        Got::value(code, format!("flags active\t{flags}\t{active}"))
    }),
    step("cuCtxPopCurrent empty stack", |s| s.d.cuCtxPopCurrent_v2(&mut CUcontext(0)).into()),
    step("cuMemGetInfo no context", |s| s.d.cuMemGetInfo_v2(&mut 0, &mut 0).into()),
    step("cuCtxGetApiVersion", |s| {
        let retained = s.d.cuDevicePrimaryCtxRetain(&mut s.primary, 0);
        s.set_up("cuDevicePrimaryCtxRetain", retained);
        let set = s.d.cuCtxSetCurrent(s.primary);
        s.set_up("cuCtxSetCurrent", set);
        let mut version = 0;
        let code = s.d.cuCtxGetApiVersion(s.primary, &mut version);
        Got::value(code, format!("api version\t{version}"))
    }),
    step("cuCtxGetFlags", |s| {
        let mut flags = 99;
        let code = s.d.cuCtxGetFlags(&mut flags);
        Got::value(code, format!("flags\t{flags}"))
    }),
    step("cuCtxGetLimit 0", |s| get_limit(s, 0)),
    step("cuCtxGetLimit 1", |s| get_limit(s, 1)),
    step("cuCtxGetLimit 2", |s| get_limit(s, 2)),
    // the recorded value is the one before: a failing call leaves its output alone
    step("cuCtxGetLimit 3", |s| get_limit(s, 3)),
    step("cuCtxGetLimit 4", |s| get_limit(s, 4)),
    step("cuCtxGetLimit 5", |s| get_limit(s, 5)),
    step("cuCtxGetLimit 6", |s| get_limit(s, 6)),
    step("cuCtxGetStreamPriorityRange", |s| {
        let (mut least, mut greatest) = (99, 99);
        let code = s.d.cuCtxGetStreamPriorityRange(&mut least, &mut greatest);
        Got::value(code, format!("least greatest\t{least}\t{greatest}"))
    }),
];

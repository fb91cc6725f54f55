//! Streams and events.
use super::{step, Got, Program, Step};
use zerogpu_abi::*;

const DISABLE_TIMING: u32 = 2;

fn elapsed(s: &mut Program, start: CUevent, end: CUevent) -> Got {
    s.d.cuEventElapsedTime(&mut 0.0, start, end).into()
}

pub(super) const STEPS: &[Step] = &[
    step("cuStreamCreate flags 99", |s| s.d.cuStreamCreate(&mut s.stream, 99).into()),
    step("cuStreamQuery idle", |s| {
        let created = s.d.cuStreamCreate(&mut s.stream, 0);
        s.set_up("cuStreamCreate", created);
        s.d.cuStreamQuery(s.stream).into()
    }),
    step("cuStreamDestroy", |s| s.d.cuStreamDestroy_v2(s.stream).into()),
    step("cuStreamDestroy NULL", |s| s.d.cuStreamDestroy_v2(CUstream::NULL).into()),
    step("cuEventQuery never recorded", |s| {
        for (at, flags) in [0, 0, DISABLE_TIMING].into_iter().enumerate() {
            let created = s.d.cuEventCreate(&mut s.events[at], flags);
            s.set_up("cuEventCreate", created);
        }
        s.d.cuEventQuery(s.events[0]).into()
    }),
    step("cuEventSynchronize never recorded", |s| s.d.cuEventSynchronize(s.events[0]).into()),
    step("cuEventElapsedTime unrecorded", |s| elapsed(s, s.events[0], s.events[1])),
    step("cuEventElapsedTime with DISABLE_TIMING", |s| {
        for event in [s.events[0], s.events[2]] {
            let recorded = s.d.cuEventRecord(event, CUstream::NULL);
            s.set_up("cuEventRecord", recorded);
        }
        let waited = s.d.cuCtxSynchronize();
        s.set_up("cuCtxSynchronize", waited);
        elapsed(s, s.events[0], s.events[2])
    }),
    step("cuEventElapsedTime same", |s| elapsed(s, s.events[0], s.events[0])),
    step("cuStreamWaitEvent unrecorded", |s| s.d.cuStreamWaitEvent(CUstream::NULL, s.events[1], 0).into()),
    step("cuStreamGetId(0)", |s| {
        let mut id = 0;
        let code = s.d.cuStreamGetId(CUstream::NULL, &mut id);
        Got::value(code, format!("id\t{id}"))
    }),
    step("cuStreamGetId(1 legacy)", |s| s.d.cuStreamGetId(CU_STREAM_LEGACY, &mut 0).into()),
    step("cuStreamGetId(2 ptds)", |s| s.d.cuStreamGetId(CU_STREAM_PER_THREAD, &mut 0).into()),
    step("cuStreamIsCapturing(0)", |s| s.d.cuStreamIsCapturing(CUstream::NULL, &mut 0).into()),
    step("cuStreamBeginCapture(0)", |s| s.d.cuStreamBeginCapture_v2(CUstream::NULL, 0).into()),
];

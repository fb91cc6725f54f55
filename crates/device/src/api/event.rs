//! Events.
use super::*;
use crate::objects::{is_plain, CAPTURES};
use crate::op::Op;
use crate::runtime::{backend, lock, Scope};
use std::sync::atomic::Ordering;
use zerogpu_abi::*;

pub unsafe fn cuEventCreate(phEvent: *mut CUevent, Flags: u32) -> CUresult {
    answer(|| {
        wanted(phEvent)?;
        out(phEvent, lock()?.create_event(Flags)?)
    })
}

pub unsafe fn cuEventDestroy_v2(hEvent: CUevent) -> CUresult {
    answer(|| lock()?.destroy_event(hEvent))
}

pub unsafe fn cuEventDestroy(hEvent: CUevent) -> CUresult {
    cuEventDestroy_v2(hEvent)
}

pub unsafe fn cuEventRecord(hEvent: CUevent, hStream: CUstream) -> CUresult {
    code(submit(hStream, &Op::Record(hEvent)))
}

pub unsafe fn cuEventRecordWithFlags(hEvent: CUevent, hStream: CUstream, flags: u32) -> CUresult {
    if flags > 1 {
        return answer(|| Err(CUresult::INVALID_VALUE));
    }
    if flags == EXTERNAL && captured(hStream) {
        return external(hStream, Op::Record(hEvent));
    }
    code(submit(hStream, &Op::Record(hEvent)))
}

/// CU_EVENT_RECORD_EXTERNAL, CU_EVENT_WAIT_EXTERNAL: in a capture, a node of its own.
pub(super) const EXTERNAL: u32 = 1;

/// Whether a stream captures.
pub(super) fn captured(stream: CUstream) -> bool {
    if CAPTURES.load(Ordering::Relaxed) == 0 {
        return false;
    }
    let capturing = || {
        let mut st = lock()?;
        let s = st.stream(stream)?;
        Ok::<_, CUresult>(st.streams.get(&s).is_some_and(|s| s.capture.is_some()))
    };
    capturing().unwrap_or(false)
}

/// Captures an event command as a node of its own.
pub(super) fn external(stream: CUstream, op: Op) -> CUresult {
    answer(|| {
        let mut st = lock()?;
        let s = st.stream(stream)?;
        st.capture_external(s, &op)
    })
}

unsafe fn wait(event: CUevent, wait: bool) -> CUresult {
    answer(|| {
        if !is_plain(event)? || CAPTURES.load(Ordering::Acquire) != 0 {
            let mut st = lock()?;
            st.event_in_capture(event)?;
            st.forbid_unsafe()?;
        }
        backend()?.wait(Scope::Event(event.0), wait)
    })
}

pub unsafe fn cuEventQuery(hEvent: CUevent) -> CUresult {
    wait(hEvent, false)
}

pub unsafe fn cuEventSynchronize(hEvent: CUevent) -> CUresult {
    wait(hEvent, true)
}

pub unsafe fn cuEventElapsedTime(pMilliseconds: *mut f32, hStart: CUevent, hEnd: CUevent) -> CUresult {
    answer(|| {
        wanted(pMilliseconds)?;
        if !is_plain(hStart)? || !is_plain(hEnd)? {
            let mut st = lock()?;
            st.event_in_capture(hStart)?;
            st.event_in_capture(hEnd)?;
        }
        let ms = match backend()?.elapsed(hStart.0, hEnd.0) {
            Some(answer) => answer?,
            None => lock()?.elapsed(hStart, hEnd, crate::exec::now())?,
        };
        out(pMilliseconds, ms)
    })
}

pub unsafe fn cuEventElapsedTime_v2(pMilliseconds: *mut f32, hStart: CUevent, hEnd: CUevent) -> CUresult {
    cuEventElapsedTime(pMilliseconds, hStart, hEnd)
}

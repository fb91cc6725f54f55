//! Streams.
use super::*;
use crate::op::{Op, Value};
use crate::runtime::{backend, lock, Scope};
use zerogpu_abi::*;

pub unsafe fn cuStreamCreate(phStream: *mut CUstream, Flags: u32) -> CUresult {
    cuStreamCreateWithPriority(phStream, Flags, 0)
}

pub unsafe fn cuStreamCreateWithPriority(phStream: *mut CUstream, flags: u32, priority: i32) -> CUresult {
    answer(|| {
        wanted(phStream)?;
        out(phStream, lock()?.create_stream(flags, priority)?)
    })
}

pub unsafe fn cuStreamDestroy_v2(hStream: CUstream) -> CUresult {
    answer(|| lock()?.destroy_stream(hStream))
}

pub unsafe fn cuStreamDestroy(hStream: CUstream) -> CUresult {
    cuStreamDestroy_v2(hStream)
}

unsafe fn wait(stream: CUstream, wait: bool) -> CUresult {
    answer(|| {
        if !super::capture::is_known_and_none_captures(stream)? {
            let mut st = lock()?;
            let s = st.stream(stream)?;
            st.sync_in_capture(s)?;
        }
        backend()?.wait(Scope::Stream(stream), wait)
    })
}

pub unsafe fn cuStreamQuery(hStream: CUstream) -> CUresult {
    wait(hStream, false)
}

pub unsafe fn cuStreamSynchronize(hStream: CUstream) -> CUresult {
    wait(hStream, true)
}

pub unsafe fn cuStreamWaitEvent(hStream: CUstream, hEvent: CUevent, Flags: u32) -> CUresult {
    if Flags > 1 {
        return answer(|| Err(CUresult::INVALID_VALUE));
    }
    if Flags == super::event::EXTERNAL && super::event::captured(hStream) {
        return super::event::external(hStream, Op::Wait(hEvent));
    }
    code(submit(hStream, &Op::Wait(hEvent)))
}

unsafe fn ask<T>(stream: CUstream, to: *mut T, what: fn(&crate::objects::Stream) -> T) -> CUresult {
    answer(|| {
        wanted(to)?;
        let mut st = lock()?;
        let s = st.stream(stream)?;
        out(to, what(st.streams.get(&s).ok_or(CUresult::INVALID_HANDLE)?))
    })
}

pub unsafe fn cuStreamGetPriority(hStream: CUstream, priority: *mut i32) -> CUresult {
    ask(hStream, priority, |s| s.priority)
}

pub unsafe fn cuStreamGetFlags(hStream: CUstream, flags: *mut u32) -> CUresult {
    ask(hStream, flags, |s| s.flags)
}

pub unsafe fn cuStreamGetId(hStream: CUstream, streamId: *mut u64) -> CUresult {
    ask(hStream, streamId, |s| s.id)
}

pub unsafe fn cuStreamGetCtx(hStream: CUstream, pctx: *mut CUcontext) -> CUresult {
    ask(hStream, pctx, |s| s.ctx)
}

pub unsafe fn cuStreamGetCtx_v2(hStream: CUstream, pCtx: *mut CUcontext, pGreenCtx: *mut CUgreenCtx) -> CUresult {
    let r = ask(hStream, pCtx, |s| s.ctx);
    if r.ok() {
        out_opt(pGreenCtx, CUgreenCtx::NULL);
    }
    r
}

pub unsafe fn cuStreamGetGreenCtx(hStream: CUstream, phCtx: *mut CUgreenCtx) -> CUresult {
    ask(hStream, phCtx, |_| CUgreenCtx::NULL)
}

pub unsafe fn cuStreamGetDevice(hStream: CUstream, device: *mut CUdevice) -> CUresult {
    answer(|| {
        wanted(device)?;
        let mut st = lock()?;
        let s = st.stream(hStream)?;
        let ctx = st.streams.get(&s).ok_or(CUresult::INVALID_HANDLE)?.ctx;
        out(device, st.device_of(ctx)?)
    })
}

pub unsafe fn cuStreamGetAttribute(hStream: CUstream, attr: u32, value_out: *mut CUlaunchAttributeValue) -> CUresult {
    answer(|| {
        wanted(value_out)?;
        if !ATTRIBUTES.contains(&attr) {
            return Err(CUresult::INVALID_VALUE);
        }
        let mut st = lock()?;
        let s = st.stream(hStream)?;
        let known = st.streams.get(&s).ok_or(CUresult::INVALID_HANDLE)?;
        let value = known.attributes.iter().find(|a| a.0 == attr).map(|a| a.1);
        out(value_out, value.unwrap_or(CUlaunchAttributeValue { words: [0; 8] }))
    })
}

/// CU_STREAM_ATTRIBUTE_*: access policy window, synchronization policy, priority, memory domain map, memory domain.
const ATTRIBUTES: [u32; 5] = [1, SYNCHRONIZATION_POLICY, 8, 9, 10];
const SYNCHRONIZATION_POLICY: u32 = 3;

fn check_attribute(attr: u32, value: &CUlaunchAttributeValue) -> Res {
    let known = ATTRIBUTES.contains(&attr);
    // auto, spin, yield, block
    let good = attr != SYNCHRONIZATION_POLICY || matches!(value.words[0] as u32, 1..=4);
    if known && good {
        Ok(())
    } else {
        Err(CUresult::INVALID_VALUE)
    }
}

/// Attributes are hints (access policy, synchronization policy, priority, memory domains): kept, and given to a claimed
/// GPU's stream, at once or when it is made.
pub unsafe fn cuStreamSetAttribute(hStream: CUstream, attr: u32, value: *const CUlaunchAttributeValue) -> CUresult {
    answer(|| {
        let value = input(value)?;
        check_attribute(attr, &value)?;
        let mut st = lock()?;
        let s = st.stream(hStream)?;
        backend()?.stream_attribute(s, attr, &value)?;
        let known = st.streams.get_mut(&s).ok_or(CUresult::INVALID_HANDLE)?;
        known.attributes.retain(|a| a.0 != attr);
        known.attributes.push((attr, value));
        Ok(())
    })
}

pub unsafe fn cuStreamCopyAttributes(dst: CUstream, src: CUstream) -> CUresult {
    answer(|| {
        let mut st = lock()?;
        let (to, from) = (st.stream(dst)?, st.stream(src)?);
        let copied = st.streams.get(&from).ok_or(CUresult::INVALID_HANDLE)?.attributes.clone();
        let backend = backend()?;
        copied.iter().try_for_each(|(attr, value)| backend.stream_attribute(to, *attr, value))?;
        st.streams.get_mut(&to).ok_or(CUresult::INVALID_HANDLE)?.attributes = copied;
        Ok(())
    })
}

/// Managed memory is host memory here, visible to every stream.
pub unsafe fn cuStreamAttachMemAsync(hStream: CUstream, dptr: CUdeviceptr, _length: usize, flags: u32) -> CUresult {
    answer(|| {
        let mut st = lock()?;
        st.stream(hStream)?;
        let managed = st.memory.find(dptr).is_some_and(|r| r.kind == crate::memory::RegionKind::Managed);
        if managed && matches!(flags, 1 | 2 | 4) {
            Ok(())
        } else {
            Err(CUresult::INVALID_VALUE)
        }
    })
}

fn value(stream: CUstream, at: u64, value: u64, wide: bool, flags: u32, write: bool) -> CUresult {
    let v = Value { at, value, wide, flags };
    code(submit(stream, &if write { Op::Write(v) } else { Op::Await(v) }))
}

pub unsafe fn cuStreamWaitValue32(stream: CUstream, addr: CUdeviceptr, v: u32, flags: u32) -> CUresult {
    value(stream, addr, v as u64, false, flags, false)
}

pub unsafe fn cuStreamWaitValue32_v2(stream: CUstream, addr: CUdeviceptr, v: u32, flags: u32) -> CUresult {
    value(stream, addr, v as u64, false, flags, false)
}

pub unsafe fn cuStreamWaitValue64(stream: CUstream, addr: CUdeviceptr, v: u64, flags: u32) -> CUresult {
    value(stream, addr, v, true, flags, false)
}

pub unsafe fn cuStreamWaitValue64_v2(stream: CUstream, addr: CUdeviceptr, v: u64, flags: u32) -> CUresult {
    value(stream, addr, v, true, flags, false)
}

pub unsafe fn cuStreamWriteValue32(stream: CUstream, addr: CUdeviceptr, v: u32, flags: u32) -> CUresult {
    value(stream, addr, v as u64, false, flags, true)
}

pub unsafe fn cuStreamWriteValue32_v2(stream: CUstream, addr: CUdeviceptr, v: u32, flags: u32) -> CUresult {
    value(stream, addr, v as u64, false, flags, true)
}

pub unsafe fn cuStreamWriteValue64(stream: CUstream, addr: CUdeviceptr, v: u64, flags: u32) -> CUresult {
    value(stream, addr, v, true, flags, true)
}

pub unsafe fn cuStreamWriteValue64_v2(stream: CUstream, addr: CUdeviceptr, v: u64, flags: u32) -> CUresult {
    value(stream, addr, v, true, flags, true)
}

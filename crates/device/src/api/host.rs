//! Page-locked host memory, host functions in streams.
use super::*;
use crate::memory::{Change, RegionKind};
use crate::op::{HostCall, Op};
use crate::runtime::{backend, lock};
use std::ffi::c_void;
use zerogpu_abi::*;

/// CU_MEMHOSTALLOC_DEVICEMAP, which unified addressing always implies (driver 580, recorded: flags 2).
const DEVICE_MAP: u32 = 2;

/// Tells the backend of changes, but for the end of a page-lock that it has refused.
pub(super) fn but_for_pins(change: Change) -> Res {
    match change {
        Change::Unpin { .. } => Ok(()),
        change => backend()?.change(change),
    }
}

fn allocate(bytes: usize, flags: u32) -> Res<u64> {
    if bytes == 0 || flags > 7 {
        return Err(CUresult::INVALID_VALUE);
    }
    let mut st = lock()?;
    let ctx = st.current()?;
    st.forbid_unsafe()?;
    let (flags, device) = (flags | DEVICE_MAP, st.device_of(ctx)?);
    let at = st.memory.host_alloc(bytes as u64, flags, device, ctx)?;
    if let Err(e) = backend()?.change(Change::Pin { at, len: bytes as u64, flags: 0 }) {
        st.memory.host_free(at, &mut but_for_pins)?;
        return Err(e);
    }
    Ok(at)
}

pub unsafe fn cuMemHostAlloc(pp: *mut *mut c_void, bytes: usize, flags: u32) -> CUresult {
    answer(|| {
        wanted(pp)?;
        out(pp, allocate(bytes, flags)? as *mut c_void)
    })
}

pub unsafe fn cuMemAllocHost_v2(pp: *mut *mut c_void, bytes: usize) -> CUresult {
    cuMemHostAlloc(pp, bytes, 0)
}

pub unsafe fn cuMemAllocHost(pp: *mut *mut c_void, bytes: u32) -> CUresult {
    cuMemHostAlloc(pp, bytes as usize, 0)
}

pub unsafe fn cuMemFreeHost(p: *mut c_void) -> CUresult {
    answer(|| {
        {
            let mut st = lock()?;
            st.current()?;
            st.forbid_unsafe()?;
            let ours = st
                .memory
                .find(p as u64)
                .is_some_and(|r| r.base == p as u64 && matches!(r.kind, RegionKind::Host { registered: false, .. }));
            if !ours {
                return Err(CUresult::INVALID_VALUE);
            }
        }
        // work that still uses the memory ends first
        let backend = backend()?;
        backend.drain(runtime::Scope::Context)?;
        let mut answer = Ok(());
        lock()?.memory.host_free(p as u64, &mut |c| backend.tell_change(c, &mut answer))?;
        answer
    })
}

pub unsafe fn cuMemHostGetDevicePointer_v2(pdptr: *mut CUdeviceptr, p: *mut c_void, flags: u32) -> CUresult {
    answer(|| {
        wanted(pdptr)?;
        let mut st = lock()?;
        st.current()?;
        let host = st.memory.find(p as u64).is_some_and(|r| matches!(r.kind, RegionKind::Host { .. }));
        if flags != 0 || !host {
            return Err(CUresult::INVALID_VALUE);
        }
        out(pdptr, p as u64)
    })
}

pub unsafe fn cuMemHostGetFlags(flags: *mut u32, p: *mut c_void) -> CUresult {
    answer(|| {
        wanted(flags)?;
        let mut st = lock()?;
        st.current()?;
        match st.memory.find(p as u64).map(|r| r.kind) {
            Some(RegionKind::Host { flags: f, .. }) => out(flags, f),
            _ => Err(CUresult::INVALID_VALUE),
        }
    })
}

pub unsafe fn cuMemHostRegister_v2(p: *mut c_void, bytes: usize, flags: u32) -> CUresult {
    answer(|| {
        let mut st = lock()?;
        let ctx = st.current()?;
        st.forbid_unsafe()?;
        if flags > 15 {
            return Err(CUresult::INVALID_VALUE);
        }
        let (flags, device) = (flags | DEVICE_MAP, st.device_of(ctx)?);
        st.memory.host_register(p as u64, bytes as u64, flags, device, ctx)?;
        if let Err(e) = backend()?.change(Change::Pin { at: p as u64, len: bytes as u64, flags }) {
            st.memory.host_unregister(p as u64, &mut but_for_pins)?;
            return Err(e);
        }
        Ok(())
    })
}

pub unsafe fn cuMemHostRegister(p: *mut c_void, bytes: usize, flags: u32) -> CUresult {
    cuMemHostRegister_v2(p, bytes, flags)
}

pub unsafe fn cuMemHostUnregister(p: *mut c_void) -> CUresult {
    answer(|| {
        let backend = backend()?;
        {
            let mut st = lock()?;
            st.current()?;
            st.forbid_unsafe()?;
        }
        backend.drain(runtime::Scope::Context)?;
        let mut answer = Ok(());
        lock()?.memory.host_unregister(p as u64, &mut |c| backend.tell_change(c, &mut answer))?;
        answer
    })
}

pub unsafe fn cuLaunchHostFunc(stream: CUstream, func: CUhostFn, data: *mut c_void) -> CUresult {
    answer(|| {
        if func.is_none() {
            return Err(CUresult::INVALID_VALUE);
        }
        submit(stream, &Op::Host(HostCall::Func { func, data }))
    })
}

pub unsafe fn cuStreamAddCallback(stream: CUstream, func: CUstreamCallback, data: *mut c_void, flags: u32) -> CUresult {
    answer(|| {
        if func.is_none() || flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        submit(stream, &Op::Host(HostCall::Callback { func, data, stream }))
    })
}

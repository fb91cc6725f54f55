//! Inter-process handles, profiler control, and calls whose whole answer is a constant.
use super::*;
use crate::memory::RegionKind;
use crate::runtime::{backend, lock};
use std::ffi::{c_char, c_void};
use zerogpu_abi::*;

/// Marks our inter-process handles: memory stays in the process it was made in.
const IPC_MARK: u64 = 0x7a65_726f_6770_7500;

fn ipc_bytes(what: u64, id: u64) -> [u8; 64] {
    let mut bytes = [0u8; 64];
    for (i, v) in [IPC_MARK, std::process::id() as u64, what, id].into_iter().enumerate() {
        bytes[i * 8..][..8].copy_from_slice(&v.to_le_bytes());
    }
    bytes
}

/// A virtual handle: its bytes can be passed around, opening it elsewhere is not supported.
pub unsafe fn cuIpcGetMemHandle(pHandle: *mut CUipcMemHandle, dptr: CUdeviceptr) -> CUresult {
    answer(|| {
        wanted(pHandle)?;
        let mut st = lock()?;
        st.current()?;
        match st.memory.find(dptr) {
            Some(r) if r.kind == RegionKind::Device => {
                out(pHandle, CUipcMemHandle { reserved: ipc_bytes(r.base, r.id) })
            }
            _ => Err(CUresult::INVALID_VALUE),
        }
    })
}

/// The event's flags must ask for it, as with a driver; the handle is virtual like that of memory.
pub unsafe fn cuIpcGetEventHandle(pHandle: *mut CUipcEventHandle, event: CUevent) -> CUresult {
    answer(|| {
        wanted(pHandle)?;
        let mut st = lock()?;
        if st.event(event)?.flags & 4 == 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        out(pHandle, CUipcEventHandle { reserved: ipc_bytes(event.0 as u64, 0) })
    })
}

pub unsafe fn cuIpcOpenEventHandle(_phEvent: *mut CUevent, _handle: CUipcEventHandle) -> CUresult {
    answer(|| Err(CUresult::NOT_SUPPORTED))
}

pub unsafe fn cuIpcOpenMemHandle_v2(_pdptr: *mut CUdeviceptr, _handle: CUipcMemHandle, _flags: u32) -> CUresult {
    answer(|| Err(CUresult::NOT_SUPPORTED))
}

pub unsafe fn cuIpcOpenMemHandle(_pdptr: *mut CUdeviceptr, _handle: CUipcMemHandle, _flags: u32) -> CUresult {
    answer(|| Err(CUresult::NOT_SUPPORTED))
}

/// Nothing can have been opened.
pub unsafe fn cuIpcCloseMemHandle(_dptr: CUdeviceptr) -> CUresult {
    answer(|| Err(CUresult::INVALID_VALUE))
}

pub unsafe fn cuProfilerInitialize(_config: *const c_char, _output: *const c_char, _mode: u32) -> CUresult {
    answer(|| Err(CUresult::PROFILER_DISABLED))
}

pub unsafe fn cuProfilerStart() -> CUresult {
    answer(|| lock()?.current().map(|_| ()))
}

pub unsafe fn cuProfilerStop() -> CUresult {
    answer(|| lock()?.current().map(|_| ()))
}

pub unsafe fn cuFlushGPUDirectRDMAWrites(_target: u32, _scope: u32) -> CUresult {
    answer(|| lock()?.current().map(|_| ()))
}

/// The undocumented export tables.
pub unsafe fn cuGetExportTable(ppExportTable: *mut *const c_void, pExportTableId: *const CUuuid) -> CUresult {
    code((|| {
        wanted(ppExportTable)?;
        let id = input(pExportTableId)?;
        match crate::dark::table(&id.bytes) {
            Some(t) => out(ppExportTable, t),
            None => {
                backend()?.table_refused(&id);
                // driver 580, recorded: an unknown table is NULL and INVALID_VALUE
                out(ppExportTable, std::ptr::null())?;
                Err(CUresult::INVALID_VALUE)
            }
        }
    })())
}

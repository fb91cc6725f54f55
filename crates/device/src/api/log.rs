//! The driver's log of errors. Ours tells people on standard error and in the trace, and writes no such log: who listens hears
//! nothing.
use super::*;
use crate::handle::Kind;
use crate::runtime::lock_unready;
use std::ffi::{c_char, c_void};
use zerogpu_abi::*;

/// PyTorch 2.14 listens, to show what the driver says with its errors, and begins before `cuInit`.
pub unsafe fn cuLogsRegisterCallback(
    callbackFunc: *const c_void,
    _userData: *mut c_void,
    callback_out: *mut CUlogsCallbackHandle,
) -> CUresult {
    code((|| {
        wanted(callbackFunc.cast_mut())?;
        if !callback_out.is_null() {
            callback_out.write_unaligned(CUlogsCallbackHandle(lock_unready()?.handle(Kind::LogListener)?));
        }
        Ok(())
    })())
}

pub unsafe fn cuLogsUnregisterCallback(callback: CUlogsCallbackHandle) -> CUresult {
    code((|| {
        let mut st = lock_unready()?;
        if !crate::handle::is(callback.0, Kind::LogListener) {
            return Err(CUresult::INVALID_VALUE);
        }
        st.end(Kind::LogListener, callback.0);
        Ok(())
    })())
}

/// Where the next message will be: the first.
pub unsafe fn cuLogsCurrent(iterator_out: *mut u32, flags: u32) -> CUresult {
    code(none(flags).and_then(|()| out(iterator_out, 0)))
}

pub unsafe fn cuLogsDumpToFile(_iterator: *mut u32, pathToFile: *const c_char, flags: u32) -> CUresult {
    code(none(flags).and_then(|()| wanted(pathToFile.cast_mut())))
}

/// No message, with its end.
pub unsafe fn cuLogsDumpToMemory(_iterator: *mut u32, buffer: *mut c_char, size: *mut usize, flags: u32) -> CUresult {
    code((|| {
        none(flags)?;
        wanted(buffer)?;
        wanted(size)?;
        if size.read_unaligned() > 0 {
            buffer.write(0);
        }
        out(size, 0)
    })())
}

/// Flags of which there are none yet.
fn none(flags: u32) -> Res {
    if flags == 0 {
        Ok(())
    } else {
        Err(CUresult::INVALID_VALUE)
    }
}

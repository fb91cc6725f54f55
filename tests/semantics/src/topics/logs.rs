//! The driver's log of errors: who wants may listen, and need not read.
use crate::check::Check;
use crate::driver::Driver;
use std::ffi::{c_char, c_void};
use std::ptr::{null, null_mut};
use zerogpu_abi::*;

extern "C" fn hear(_data: *mut c_void, _level: u32, _message: *mut c_char, _length: usize) {}

/// A listener registers, before cuInit as well, and is forgotten once; the log can be read at any time.
pub fn logs(d: &'static Driver, t: &mut Check) {
    let listen = |out: *mut CUlogsCallbackHandle| d.cuLogsRegisterCallback(hear as *const c_void, null_mut(), out);
    let (mut early, mut late) = (CUlogsCallbackHandle::NULL, CUlogsCallbackHandle::NULL);
    t.code("before cuInit", listen(&mut early), 0);
    d.start();
    t.code("after it", listen(&mut late), 0);
    t.code("with no place for its handle", listen(null_mut()), 0);
    t.code("nobody", d.cuLogsRegisterCallback(null(), null_mut(), &mut late), 1);
    t.that("each has a handle", early != late && early != CUlogsCallbackHandle::NULL);
    for handle in [early, late] {
        t.code("it is forgotten", d.cuLogsUnregisterCallback(handle), 0);
        t.code("once", d.cuLogsUnregisterCallback(handle), 1);
    }
    t.code("no listener", d.cuLogsUnregisterCallback(CUlogsCallbackHandle::NULL), 1);
    let mut at = 7;
    t.code("the end of the log", d.cuLogsCurrent(&mut at, 0), 0);
    let (mut text, mut size) = ([b'x' as c_char; 64], 64);
    t.code("from there on", d.cuLogsDumpToMemory(&mut at, text.as_mut_ptr(), &mut size, 0), 0);
    t.same("there is nothing", (size, text[0]), (0, 0));
    t.code("to no buffer", d.cuLogsDumpToMemory(&mut at, null_mut(), &mut size, 0), 1);
    t.code("with flags", d.cuLogsCurrent(&mut at, 1), 1);
    t.code("to no file", d.cuLogsDumpToFile(&mut at, null(), 0), 1);
}

//! Context-local storage: values that libraries keep by context and key, with destructors that run when it ends.
use super::slots::{guarded, out};
use crate::runtime::{lock, State};
use crate::thread;
use std::ffi::c_void;
use zerogpu_abi::*;

type Destructor = Option<unsafe extern "C" fn(CUcontext, *mut c_void, *mut c_void)>;

/// The context that a call is about: any living one, active or not; NULL: the current one.
fn context(st: &mut State, ctx: CUcontext) -> Res<&mut crate::objects::Context> {
    let ctx = if ctx.0 == 0 { thread::current() } else { ctx };
    st.contexts.get_mut(&ctx.0).ok_or(CUresult::INVALID_CONTEXT)
}

/// CLS\[0\]: keeps a value; an existing key keeps its old one (400).
pub(super) unsafe extern "C" fn put(ctx: CUcontext, key: usize, value: usize, dtor: Destructor) -> CUresult {
    guarded(|| {
        let mut st = lock()?;
        let c = context(&mut st, ctx)?;
        if c.storage.contains_key(&key) {
            return Err(CUresult::INVALID_HANDLE);
        }
        c.storage.insert(key, (value, dtor));
        Ok(())
    })
}

/// CLS\[1\]: forgets a value without running its destructor.
pub(super) unsafe extern "C" fn delete(ctx: CUcontext, key: usize) -> CUresult {
    guarded(|| {
        let mut st = lock()?;
        context(&mut st, ctx)?.storage.remove(&key).map(|_| ()).ok_or(CUresult::INVALID_HANDLE)
    })
}

/// CLS\[2\]: the value of a key.
pub(super) unsafe extern "C" fn get(value: *mut usize, ctx: CUcontext, key: usize) -> CUresult {
    guarded(|| {
        let mut st = lock()?;
        let v = context(&mut st, ctx)?.storage.get(&key).map(|v| v.0).ok_or(CUresult::INVALID_HANDLE)?;
        // SAFETY: the library passes a valid pointer.
        unsafe { out(value, v) }
    })
}

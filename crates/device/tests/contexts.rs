//! What the backend is told of contexts: as many end as were made.
#![allow(clippy::undocumented_unsafe_blocks, missing_docs)]
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use zerogpu_abi::*;
use zerogpu_device::api::*;
use zerogpu_device::memory::Layout;
use zerogpu_device::op::Op;
use zerogpu_device::runtime::{self, Guard, Scope};
use zerogpu_device::{Backend, Config, Run};
use zerogpu_profile::Profile;

/// Counts contexts.
struct Card;

static CONTEXTS: AtomicI32 = AtomicI32::new(0);
/// Whether a context's end gets an error.
static REFUSES: AtomicBool = AtomicBool::new(false);
/// Destructors of context-local values that have run.
static DESTROYED: AtomicI32 = AtomicI32::new(0);

unsafe extern "C" fn destroyed(_: CUcontext, _: *mut c_void, _: *mut c_void) {
    DESTROYED.fetch_add(1, Ordering::Relaxed);
}

/// Ends a context that has a local value, while the backend refuses.
fn end_refused() {
    let mut context = CUcontext::NULL;
    assert_eq!(unsafe { cuCtxCreate_v2(&mut context, 0, 0) }, CUresult::SUCCESS);
    {
        let mut state = runtime::lock().unwrap();
        state.contexts.get_mut(&context.0).unwrap().storage.insert(1, (2, Some(destroyed)));
    }
    REFUSES.store(true, Ordering::Relaxed);
    assert_eq!(unsafe { cuCtxDestroy_v2(context) }, CUresult::UNKNOWN);
    REFUSES.store(false, Ordering::Relaxed);
    assert_eq!(DESTROYED.load(Ordering::Relaxed), 1, "its values end with it");
    assert_eq!(unsafe { cuCtxDestroy_v2(context) }, CUresult::INVALID_CONTEXT);
}

impl Backend for Card {
    fn run(&self, _: Guard, _: usize, _: &Op) -> Run {
        Run::Done(Err(CUresult::NOT_SUPPORTED))
    }
    fn wait(&self, _: Scope, _: bool) -> Res {
        Ok(())
    }
    fn context(&self, _: CUdevice, made: bool) -> Res {
        CONTEXTS.fetch_add(if made { 1 } else { -1 }, Ordering::Relaxed);
        if !made && REFUSES.load(Ordering::Relaxed) {
            return Err(CUresult::UNKNOWN);
        }
        Ok(())
    }
}

#[test]
fn a_full_stack_takes_no_new_context() {
    runtime::install_with(|| {
        let profile = *Profile::by_name("h100-80gb").unwrap();
        let (vram, layout) = (profile.total_bytes, Layout::default());
        (Config { profile, vram, driver_version: 13000, devices: 1, shareable: false, layout }, &Card)
    });
    unsafe {
        assert_eq!(cuInit(0), CUresult::SUCCESS);
        let mut first = CUcontext::NULL;
        assert_eq!(cuCtxCreate_v2(&mut first, 0, 0), CUresult::SUCCESS);
        while cuCtxPushCurrent_v2(first).ok() {}
        let mut more = CUcontext::NULL;
        assert_eq!(cuCtxCreate_v2(&mut more, 0, 0), CUresult::OUT_OF_MEMORY);
        assert_eq!((more, CONTEXTS.load(Ordering::Relaxed)), (CUcontext::NULL, 1));
        assert_eq!(runtime::lock().unwrap().contexts.len(), 2, "the primary one, and the first");
        assert_eq!(cuCtxPopCurrent_v2(std::ptr::null_mut()), CUresult::SUCCESS);
        assert_eq!(cuCtxCreate_v2(&mut more, 0, 0), CUresult::SUCCESS);
        for context in [more, first] {
            assert_eq!(cuCtxDestroy_v2(context), CUresult::SUCCESS);
        }
        end_refused();
    }
    assert_eq!(CONTEXTS.load(Ordering::Relaxed), 0);
}

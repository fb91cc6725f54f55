//! Contexts: primary and created, the thread's stack, limits and settings.
use super::*;
use crate::objects::{is_active, CAPTURES};
use crate::runtime::{lock, Scope};
use crate::thread;
use std::sync::atomic::Ordering;
use zerogpu_abi::*;

/// CU_CTX_MAP_HOST, which every context reports (driver 580, recorded).
const MAP_HOST: u32 = 8;
/// All CU_CTX_* flags of CUDA 13.0.
const ALL_FLAGS: u32 = 0xFF;

/// CU_CTX_SCHED_MASK, in which only these are ways to wait: automatic, spinning, yielding, blocking.
const SCHED_MASK: u32 = 7;
const SCHEDULES: [u32; 4] = [0, 1, 2, 4];

fn check_flags(flags: u32) -> Res {
    if flags & !ALL_FLAGS == 0 && SCHEDULES.contains(&(flags & SCHED_MASK)) {
        Ok(())
    } else {
        Err(CUresult::INVALID_VALUE)
    }
}

pub unsafe fn cuDevicePrimaryCtxRetain(pctx: *mut CUcontext, dev: CUdevice) -> CUresult {
    answer(|| {
        wanted(pctx)?;
        the_device(dev)?;
        out(pctx, lock()?.retain_primary(dev)?)
    })
}

pub unsafe fn cuDevicePrimaryCtxRelease_v2(dev: CUdevice) -> CUresult {
    answer(|| {
        the_device(dev)?;
        let (primary, last) = {
            let st = lock()?;
            let primary = st.primary(dev)?;
            (primary, st.contexts.get(&primary.0).is_some_and(|c| c.retained == 1))
        };
        end_work_of(primary)?;
        if last {
            runtime::backend()?.before_context_ends(primary)?;
        }
        let farewells = lock()?.release_primary(dev)?;
        farewells.run()
    })
}

pub unsafe fn cuDevicePrimaryCtxRelease(dev: CUdevice) -> CUresult {
    cuDevicePrimaryCtxRelease_v2(dev)
}

pub unsafe fn cuDevicePrimaryCtxReset_v2(dev: CUdevice) -> CUresult {
    answer(|| {
        the_device(dev)?;
        let primary = lock()?.primary(dev)?;
        end_work_of(primary)?;
        runtime::backend()?.before_context_ends(primary)?;
        let farewells = lock()?.reset_primary(dev)?;
        farewells.run()
    })
}

pub unsafe fn cuDevicePrimaryCtxReset(dev: CUdevice) -> CUresult {
    cuDevicePrimaryCtxReset_v2(dev)
}

pub unsafe fn cuDevicePrimaryCtxSetFlags_v2(dev: CUdevice, flags: u32) -> CUresult {
    answer(|| {
        the_device(dev)?;
        check_flags(flags)?;
        let mut st = lock()?;
        let primary = st.primary(dev)?;
        st.contexts.get_mut(&primary.0).ok_or(CUresult::NOT_INITIALIZED)?.flags = flags;
        Ok(())
    })
}

pub unsafe fn cuDevicePrimaryCtxSetFlags(dev: CUdevice, flags: u32) -> CUresult {
    cuDevicePrimaryCtxSetFlags_v2(dev, flags)
}

pub unsafe fn cuDevicePrimaryCtxGetState(dev: CUdevice, flags: *mut u32, active: *mut i32) -> CUresult {
    answer(|| {
        the_device(dev)?;
        wanted(flags)?;
        wanted(active)?;
        let st = lock()?;
        let c = st.contexts.get(&st.primary(dev)?.0).ok_or(CUresult::NOT_INITIALIZED)?;
        out(flags, c.flags)?;
        out(active, c.active as i32)
    })
}

/// Work ends before what it uses does; where there is no such context, there is none to wait for.
fn end_work_of(ctx: CUcontext) -> Res {
    let backend = runtime::backend()?;
    match thread::within(ctx, || backend.drain(Scope::Context)) {
        Err(CUresult::INVALID_CONTEXT | CUresult::CONTEXT_IS_DESTROYED) => Ok(()),
        other => other,
    }
}

unsafe fn create(pctx: *mut CUcontext, flags: u32, dev: CUdevice) -> CUresult {
    answer(|| {
        wanted(pctx)?;
        the_device(dev)?;
        check_flags(flags)?;
        // first: what can't be pushed, nobody would destroy
        if !thread::has_room() {
            return Err(CUresult::OUT_OF_MEMORY);
        }
        let ctx = lock()?.create_context(dev, flags)?;
        thread::push(ctx)?;
        out(pctx, ctx)
    })
}

pub unsafe fn cuCtxCreate(pctx: *mut CUcontext, flags: u32, dev: CUdevice) -> CUresult {
    create(pctx, flags, dev)
}

pub unsafe fn cuCtxCreate_v2(pctx: *mut CUcontext, flags: u32, dev: CUdevice) -> CUresult {
    create(pctx, flags, dev)
}

pub unsafe fn cuCtxCreate_v3(
    pctx: *mut CUcontext,
    _params: *mut CUexecAffinityParam,
    n: i32,
    flags: u32,
    dev: CUdevice,
) -> CUresult {
    if n != 0 {
        return answer(|| Err(CUresult::UNSUPPORTED_EXEC_AFFINITY));
    }
    create(pctx, flags, dev)
}

pub unsafe fn cuCtxCreate_v4(
    pctx: *mut CUcontext,
    params: *mut CUctxCreateParams,
    flags: u32,
    dev: CUdevice,
) -> CUresult {
    // neither a part of the card nor sharing it with a graphics API is to be had
    let plain = || match (!params.is_null()).then(|| input(params)).transpose()? {
        Some(p) if p.numExecAffinityParams != 0 => Err(CUresult::UNSUPPORTED_EXEC_AFFINITY),
        Some(p) if !p.cigParams.is_null() => Err(CUresult::NOT_SUPPORTED),
        _ => Ok(()),
    };
    match answer(plain) {
        CUresult::SUCCESS => create(pctx, flags, dev),
        refused => refused,
    }
}

pub unsafe fn cuCtxDestroy_v2(ctx: CUcontext) -> CUresult {
    answer(|| {
        // driver 580, recorded
        if ctx.0 == 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        end_work_of(ctx)?;
        runtime::backend()?.before_context_ends(ctx)?;
        let farewells = lock()?.destroy_context(ctx)?;
        if thread::current() == ctx {
            thread::pop()?;
        }
        farewells.run()
    })
}

pub unsafe fn cuCtxDestroy(ctx: CUcontext) -> CUresult {
    cuCtxDestroy_v2(ctx)
}

/// The old way of counting a context's users: the caller's reference is the current context itself.
pub unsafe fn cuCtxAttach(pctx: *mut CUcontext, flags: u32) -> CUresult {
    answer(|| {
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let ctx = lock()?.current()?;
        out(pctx, ctx)
    })
}

pub unsafe fn cuCtxDetach(ctx: CUcontext) -> CUresult {
    answer(|| lock()?.context(ctx).map(|_| ()))
}

pub unsafe fn cuCtxGetCurrent(pctx: *mut CUcontext) -> CUresult {
    answer(|| out(pctx, thread::current()))
}

pub unsafe fn cuCtxSetCurrent(ctx: CUcontext) -> CUresult {
    answer(|| {
        if ctx.0 != 0 && ctx != thread::current() {
            usable(ctx)?;
        }
        thread::set(ctx)
    })
}

pub unsafe fn cuCtxPushCurrent_v2(ctx: CUcontext) -> CUresult {
    answer(|| {
        usable(ctx)?;
        thread::push(ctx)
    })
}

pub unsafe fn cuCtxPushCurrent(ctx: CUcontext) -> CUresult {
    cuCtxPushCurrent_v2(ctx)
}

/// A context that may become current: any living one, also an inactive primary context.
fn usable(ctx: CUcontext) -> Res {
    let known = crate::handle::is(ctx.0, crate::handle::Kind::Context);
    if known {
        Ok(())
    } else {
        Err(CUresult::INVALID_CONTEXT)
    }
}

pub unsafe fn cuCtxPopCurrent_v2(pctx: *mut CUcontext) -> CUresult {
    answer(|| {
        let ctx = thread::pop()?;
        out_opt(pctx, ctx);
        Ok(())
    })
}

pub unsafe fn cuCtxPopCurrent(pctx: *mut CUcontext) -> CUresult {
    cuCtxPopCurrent_v2(pctx)
}

pub unsafe fn cuCtxGetDevice(device: *mut CUdevice) -> CUresult {
    answer(|| {
        wanted(device)?;
        let ctx = thread::current();
        if ctx.0 == 0 {
            return Err(CUresult::INVALID_CONTEXT);
        }
        out(device, device_of(ctx)?)
    })
}

pub unsafe fn cuCtxGetDevice_v2(device: *mut CUdevice, ctx: CUcontext) -> CUresult {
    if ctx.0 == 0 {
        return cuCtxGetDevice(device);
    }
    answer(|| {
        usable(ctx)?;
        out(device, device_of(ctx)?)
    })
}

/// The device of a context; no lock where there is only one.
fn device_of(ctx: CUcontext) -> Res<CUdevice> {
    if runtime::config()?.devices == 1 {
        Ok(0)
    } else {
        lock()?.device_of(ctx)
    }
}

pub unsafe fn cuCtxGetFlags(flags: *mut u32) -> CUresult {
    answer(|| {
        let mut st = lock()?;
        let ctx = st.current()?;
        out(flags, st.context(ctx)?.flags | MAP_HOST)
    })
}

pub unsafe fn cuCtxSetFlags(flags: u32) -> CUresult {
    answer(|| {
        let mut st = lock()?;
        let ctx = st.current()?;
        check_flags(flags)?;
        st.context(ctx)?.flags = flags & !MAP_HOST;
        Ok(())
    })
}

pub unsafe fn cuCtxGetId(ctx: CUcontext, id: *mut u64) -> CUresult {
    answer(|| {
        let mut st = lock()?;
        let ctx = st.context_or_current(ctx)?;
        out(id, st.context(ctx)?.id)
    })
}

pub unsafe fn cuCtxGetApiVersion(ctx: CUcontext, version: *mut u32) -> CUresult {
    answer(|| {
        lock()?.context_or_current(ctx)?;
        // driver 580, recorded
        out(version, 3020)
    })
}

pub unsafe fn cuCtxGetExecAffinity(_affinity: *mut CUexecAffinityParam, _kind: u32) -> CUresult {
    answer(|| {
        lock()?.current()?;
        Err(CUresult::UNSUPPORTED_EXEC_AFFINITY)
    })
}

/// Index of a limit that has a value.
fn limit_index(limit: u32) -> Res<usize> {
    match limit {
        0..=2 | 4..=6 => Ok(limit as usize),
        3 => Err(CUresult::UNSUPPORTED_LIMIT),
        _ => Err(CUresult::INVALID_VALUE),
    }
}

/// Shared memory that a block can have.
const SHMEM_SIZE: u32 = 7;
/// Whether the context shares the card with graphics ("CUDA in graphics").
const CIG_ENABLED: u32 = 8;
/// Whether kernels have a way out if their shared memory is taken by that.
const CIG_FALLBACK: u32 = 9;
/// The first CUDA that has these three: `cuda.h` of 12.4 has none.
const SINCE: i32 = 12050;

/// A limit that nobody can set (driver 580 on an H200, recorded): cuBLAS 13 chooses its kernels by these.
fn fixed_limit(limit: u32) -> Res<Option<usize>> {
    let c = runtime::config()?;
    match limit {
        SHMEM_SIZE | CIG_ENABLED | CIG_FALLBACK if c.driver_version < SINCE => Err(CUresult::INVALID_VALUE),
        SHMEM_SIZE => Ok(Some(c.profile.limits().shared_per_block_optin as usize)),
        CIG_ENABLED => Ok(Some(0)),
        CIG_FALLBACK => Err(CUresult::UNSUPPORTED_LIMIT),
        _ => Ok(None),
    }
}

pub unsafe fn cuCtxGetLimit(value: *mut usize, limit: u32) -> CUresult {
    answer(|| {
        wanted(value)?;
        let mut st = lock()?;
        let ctx = st.current()?;
        let told = match fixed_limit(limit)? {
            Some(fixed) => fixed,
            None => st.context(ctx)?.limits[limit_index(limit)?],
        };
        out(value, told)
    })
}

/// Local memory that a thread can have, and so its stack: 512 KiB (CUDA programming guide, technical specifications).
const MOST_STACK: usize = 512 << 10;

/// A limit that the card could not keep would fail each later claim.
fn check_limit(limit: usize, value: usize) -> Res {
    match limit {
        0 if value > MOST_STACK => Err(CUresult::INVALID_VALUE),
        // buffers of printf and malloc
        1 | 2 if value as u64 > runtime::config()?.vram => Err(CUresult::OUT_OF_MEMORY),
        _ => Ok(()),
    }
}

pub unsafe fn cuCtxSetLimit(limit: u32, value: usize) -> CUresult {
    answer(|| {
        let mut st = lock()?;
        let ctx = st.current()?;
        let index = limit_index(limit)?;
        check_limit(index, value)?;
        st.context(ctx)?;
        runtime::backend()?.limit(limit, value)?;
        st.context(ctx)?.limits[index] = value;
        Ok(())
    })
}

pub unsafe fn cuCtxGetCacheConfig(config: *mut u32) -> CUresult {
    answer(|| {
        let mut st = lock()?;
        let ctx = st.current()?;
        out(config, st.context(ctx)?.cache)
    })
}

pub unsafe fn cuCtxSetCacheConfig(config: u32) -> CUresult {
    answer(|| {
        let mut st = lock()?;
        let ctx = st.current()?;
        if config > 3 {
            return Err(CUresult::INVALID_VALUE);
        }
        runtime::backend()?.cache(config)?;
        st.context(ctx)?.cache = config;
        Ok(())
    })
}

pub unsafe fn cuCtxGetSharedMemConfig(config: *mut u32) -> CUresult {
    answer(|| {
        let mut st = lock()?;
        let ctx = st.current()?;
        // four-byte banks, the only kind of these cards
        let banks = st.context(ctx)?.banks;
        out(config, if banks == 0 { 1 } else { banks })
    })
}

pub unsafe fn cuCtxSetSharedMemConfig(config: u32) -> CUresult {
    answer(|| {
        let mut st = lock()?;
        let ctx = st.current()?;
        if config > 2 {
            return Err(CUresult::INVALID_VALUE);
        }
        st.context(ctx)?.banks = config;
        Ok(())
    })
}

pub unsafe fn cuCtxGetStreamPriorityRange(least: *mut i32, greatest: *mut i32) -> CUresult {
    answer(|| {
        lock()?.current()?;
        // driver 580, recorded
        out_opt(least, 0);
        out_opt(greatest, -5);
        Ok(())
    })
}

pub unsafe fn cuCtxResetPersistingL2Cache() -> CUresult {
    answer(|| lock()?.current().map(|_| ()))
}

pub unsafe fn cuCtxSynchronize() -> CUresult {
    answer(|| {
        if !is_active(thread::current()) || CAPTURES.load(Ordering::Acquire) != 0 {
            let mut st = lock()?;
            let ctx = st.current()?;
            st.forbid_in_capture(ctx)?;
        }
        runtime::backend()?.wait(Scope::Context, true)
    })
}

pub unsafe fn cuCtxSynchronize_v2(ctx: CUcontext) -> CUresult {
    if ctx.0 == 0 || ctx == thread::current() {
        return cuCtxSynchronize();
    }
    answer(|| {
        let mut st = lock()?;
        st.context(ctx)?;
        st.forbid_in_capture(ctx)?;
        drop(st);
        let backend = runtime::backend()?;
        thread::within(ctx, || backend.wait(Scope::Context, true))
    })
}

pub unsafe fn cuCtxEnablePeerAccess(peer: CUcontext, _flags: u32) -> CUresult {
    answer(|| {
        lock()?.context(peer)?;
        Err(CUresult::PEER_ACCESS_UNSUPPORTED)
    })
}

pub unsafe fn cuCtxDisablePeerAccess(peer: CUcontext) -> CUresult {
    answer(|| {
        lock()?.context(peer)?;
        Err(CUresult::PEER_ACCESS_NOT_ENABLED)
    })
}

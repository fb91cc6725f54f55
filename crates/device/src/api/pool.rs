//! Stream-ordered allocation and memory pools.
use super::*;
use crate::memory::RegionKind;
use crate::runtime::{backend, lock, Scope, State};
use std::ffi::c_void;
use zerogpu_abi::*;

fn allocate(pool: Option<CUmemoryPool>, size: usize, stream: CUstream) -> Res<u64> {
    State::take_memory(size as u64, || allocate_now(pool, size, stream))
}

fn allocate_now(pool: Option<CUmemoryPool>, size: usize, stream: CUstream) -> Res<u64> {
    let mut st = lock()?;
    let s = st.stream(stream)?;
    st.refuse_in_capture(s)?;
    if size == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let pool = match pool {
        Some(p) => p,
        None => {
            let ctx = st.current()?;
            let device = st.device_of(ctx)?;
            st.current_pool(device)?
        }
    };
    st.pool_alloc(pool, size as u64)
}

pub unsafe fn cuMemAllocAsync(dptr: *mut CUdeviceptr, bytesize: usize, hStream: CUstream) -> CUresult {
    answer(|| {
        wanted(dptr)?;
        out(dptr, allocate(None, bytesize, hStream)?)
    })
}

pub unsafe fn cuMemAllocFromPoolAsync(
    dptr: *mut CUdeviceptr,
    bytesize: usize,
    pool: CUmemoryPool,
    hStream: CUstream,
) -> CUresult {
    answer(|| {
        wanted(dptr)?;
        out(dptr, allocate(Some(pool), bytesize, hStream)?)
    })
}

pub unsafe fn cuMemFreeAsync(dptr: CUdeviceptr, hStream: CUstream) -> CUresult {
    answer(|| {
        if dptr == 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        {
            let mut st = lock()?;
            let s = st.stream(hStream)?;
            st.refuse_in_capture(s)?;
            let ours = st
                .memory
                .find(dptr)
                .is_some_and(|r| r.base == dptr && matches!(r.kind, RegionKind::Pool(_) | RegionKind::Device));
            if !ours {
                return Err(CUresult::INVALID_VALUE);
            }
        }
        // the address may be handed to any stream next, so the work of this one ends first
        backend()?.drain(Scope::Stream(hStream))?;
        lock()?.free(dptr)
    })
}

pub unsafe fn cuDeviceGetDefaultMemPool(pool_out: *mut CUmemoryPool, dev: CUdevice) -> CUresult {
    answer(|| {
        wanted(pool_out)?;
        the_device(dev)?;
        out(pool_out, lock()?.default_pool(dev)?)
    })
}

pub unsafe fn cuDeviceGetMemPool(pool: *mut CUmemoryPool, dev: CUdevice) -> CUresult {
    answer(|| {
        wanted(pool)?;
        the_device(dev)?;
        out(pool, lock()?.current_pool(dev)?)
    })
}

pub unsafe fn cuDeviceSetMemPool(dev: CUdevice, pool: CUmemoryPool) -> CUresult {
    answer(|| {
        the_device(dev)?;
        lock()?.set_current_pool(dev, pool)
    })
}

/// The device of a location.
unsafe fn of_location(location: *const CUmemLocation) -> Res<CUdevice> {
    let l = input(location)?;
    match l.kind {
        CUmemLocation::DEVICE => the_device(l.id).map(|()| l.id),
        // CU_MEM_LOCATION_TYPE_INVALID
        0 => Err(CUresult::INVALID_VALUE),
        _ => Err(CUresult::NOT_SUPPORTED),
    }
}

pub unsafe fn cuMemGetDefaultMemPool(pool_out: *mut CUmemoryPool, location: *mut CUmemLocation, kind: u32) -> CUresult {
    answer(|| {
        wanted(pool_out)?;
        let device = of_location(location)?;
        if kind != 1 {
            return Err(CUresult::NOT_SUPPORTED);
        }
        out(pool_out, lock()?.default_pool(device)?)
    })
}

pub unsafe fn cuMemGetMemPool(pool: *mut CUmemoryPool, location: *mut CUmemLocation, kind: u32) -> CUresult {
    answer(|| {
        wanted(pool)?;
        let device = of_location(location)?;
        if kind != 1 {
            return Err(CUresult::NOT_SUPPORTED);
        }
        out(pool, lock()?.current_pool(device)?)
    })
}

pub unsafe fn cuMemSetMemPool(location: *mut CUmemLocation, kind: u32, pool: CUmemoryPool) -> CUresult {
    answer(|| {
        let device = of_location(location)?;
        match kind {
            1 => lock()?.set_current_pool(device, pool),
            // CU_MEM_ALLOCATION_TYPE_INVALID
            0 => Err(CUresult::INVALID_VALUE),
            _ => Err(CUresult::NOT_SUPPORTED),
        }
    })
}

pub unsafe fn cuMemPoolCreate(pool: *mut CUmemoryPool, poolProps: *const CUmemPoolProps) -> CUresult {
    answer(|| {
        wanted(pool)?;
        let p = input(poolProps)?;
        if p.allocType != 1 {
            return Err(CUresult::INVALID_VALUE);
        }
        if p.location.kind != CUmemLocation::DEVICE {
            return Err(CUresult::NOT_SUPPORTED);
        }
        the_device(p.location.id)?;
        out(pool, lock()?.create_pool(p.location.id)?)
    })
}

pub unsafe fn cuMemPoolDestroy(pool: CUmemoryPool) -> CUresult {
    answer(|| lock()?.destroy_pool(pool))
}

pub unsafe fn cuMemPoolGetAttribute(pool: CUmemoryPool, attr: u32, value: *mut c_void) -> CUresult {
    answer(|| {
        wanted(value)?;
        let v = lock()?.pool_attribute(pool, attr)?;
        if is_narrow(attr) {
            out(value.cast(), v as i32)
        } else {
            out(value.cast(), v)
        }
    })
}

pub unsafe fn cuMemPoolSetAttribute(pool: CUmemoryPool, attr: u32, value: *mut c_void) -> CUresult {
    answer(|| {
        let v = if is_narrow(attr) { input(value.cast::<i32>())? as u64 } else { input(value.cast::<u64>())? };
        lock()?.set_pool_attribute(pool, attr, v)
    })
}

/// Reuse flags are 32 bits wide, the rest 64 (cuda.h).
fn is_narrow(attr: u32) -> bool {
    (1..=3).contains(&attr)
}

pub unsafe fn cuMemPoolTrimTo(pool: CUmemoryPool, minBytesToKeep: usize) -> CUresult {
    answer(|| lock()?.trim_pool(pool, minBytesToKeep as u64))
}

pub unsafe fn cuMemPoolGetAccess(flags: *mut u32, memPool: CUmemoryPool, location: *mut CUmemLocation) -> CUresult {
    answer(|| {
        wanted(flags)?;
        let owner = lock()?.pool(memPool)?.device();
        let device = of_location(location)?;
        out(flags, if device == owner { 3 } else { 0 })
    })
}

pub unsafe fn cuMemPoolSetAccess(pool: CUmemoryPool, map: *const CUmemAccessDesc, count: usize) -> CUresult {
    answer(|| {
        let owner = lock()?.pool(pool)?.device();
        for d in array(map, count)? {
            // the owner's access can't be taken away, and the others have none
            if d.location.kind != CUmemLocation::DEVICE || d.location.id != owner || d.flags != 3 {
                return Err(CUresult::INVALID_DEVICE);
            }
        }
        Ok(())
    })
}

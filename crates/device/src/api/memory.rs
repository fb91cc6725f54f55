//! Device and managed memory.
use super::host::but_for_pins;
use super::*;
use crate::memory::{Change, RegionKind};
use crate::runtime::{lock, State};
use std::ffi::c_void;
use zerogpu_abi::*;

fn allocate(size: u64) -> Res<u64> {
    if size == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    State::take_memory(size, || {
        let mut st = lock()?;
        let ctx = st.current()?;
        st.forbid_unsafe()?;
        let device = st.device_of(ctx)?;
        st.alloc(device, size, RegionKind::Device, ctx)
    })
}

/// Allocates into an app's variable. Where there is no memory it has 0 then (driver 580, recorded), else it is left alone.
unsafe fn allocate_for(dptr: *mut CUdeviceptr, size: u64) -> Res {
    match allocate(size) {
        Err(CUresult::OUT_OF_MEMORY) => out(dptr, 0).and(Err(CUresult::OUT_OF_MEMORY)),
        allocated => out(dptr, allocated?),
    }
}

pub unsafe fn cuMemAlloc_v2(dptr: *mut CUdeviceptr, bytesize: usize) -> CUresult {
    answer(|| {
        wanted(dptr)?;
        allocate_for(dptr, bytesize as u64)
    })
}

/// Rows are padded to 512 bytes, as a driver does.
pub unsafe fn cuMemAllocPitch_v2(
    dptr: *mut CUdeviceptr,
    pitch: *mut usize,
    width: usize,
    height: usize,
    element: u32,
) -> CUresult {
    answer(|| {
        wanted(dptr)?;
        wanted(pitch)?;
        if !matches!(element, 4 | 8 | 16) || width == 0 || height == 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let row = width.checked_next_multiple_of(512).ok_or(CUresult::OUT_OF_MEMORY)?;
        let all = row.checked_mul(height).ok_or(CUresult::OUT_OF_MEMORY)?;
        allocate_for(dptr, all as u64)?;
        out(pitch, row)
    })
}

pub unsafe fn cuMemFree_v2(dptr: CUdeviceptr) -> CUresult {
    answer(|| {
        if dptr == 0 {
            return Ok(());
        }
        let region = {
            let mut st = lock()?;
            st.current()?;
            st.forbid_unsafe()?;
            st.memory.find(dptr).copied().filter(|r| r.base == dptr)
        };
        match region.ok_or(CUresult::INVALID_VALUE)?.kind {
            RegionKind::Device | RegionKind::Pool(_) => {
                // a driver waits for the work that may use the memory
                runtime::backend()?.drain(runtime::Scope::Context)?;
                lock()?.free(dptr)
            }
            RegionKind::Managed => {
                let backend = runtime::backend()?;
                backend.drain(runtime::Scope::Context)?;
                let mut answer = Ok(());
                lock()?.memory.managed_free(dptr, &mut |c| backend.tell_change(c, &mut answer))?;
                answer
            }
            _ => Err(CUresult::INVALID_VALUE),
        }
    })
}

pub unsafe fn cuMemAllocManaged(dptr: *mut CUdeviceptr, bytesize: usize, flags: u32) -> CUresult {
    answer(|| {
        wanted(dptr)?;
        if bytesize == 0 || !(flags == 1 || flags == 2) {
            return Err(CUresult::INVALID_VALUE);
        }
        let mut st = lock()?;
        let ctx = st.current()?;
        st.forbid_unsafe()?;
        let device = st.device_of(ctx)?;
        let at = st.memory.managed_alloc(bytesize as u64, device, ctx)?;
        // a claimed GPU reaches it where it is, as page-locked memory
        if let Err(e) = runtime::backend()?.change(Change::Pin { at, len: bytesize as u64, flags: 0 }) {
            st.memory.managed_free(at, &mut but_for_pins)?;
            return Err(e);
        }
        out(dptr, at)
    })
}

pub unsafe fn cuMemGetAddressRange_v2(pbase: *mut CUdeviceptr, psize: *mut usize, dptr: CUdeviceptr) -> CUresult {
    answer(|| {
        let mut st = lock()?;
        st.current()?;
        let r = *st.memory.find(dptr).ok_or(CUresult::NOT_FOUND)?;
        out_opt(pbase, r.base);
        out_opt(psize, r.size as usize);
        Ok(())
    })
}

/// CU_DEVICE_CPU.
const HOST: CUdevice = -1;

/// The location that the older functions name by a device.
fn location(device: CUdevice) -> CUmemLocation {
    match device {
        HOST => CUmemLocation { kind: CUmemLocation::HOST, id: 0 },
        id => CUmemLocation::device(id),
    }
}

/// Whether there is such a place: a device, the host, or a NUMA node of it.
fn check_location(l: CUmemLocation) -> Res {
    match l.kind {
        CUmemLocation::DEVICE => the_device(l.id),
        CUmemLocation::HOST..=4 => Ok(()),
        _ => Err(CUresult::INVALID_VALUE),
    }
}

/// CU_MEM_ADVISE_SET_PREFERRED_LOCATION, _SET_ACCESSED_BY, _UNSET_ACCESSED_BY: for the others no location counts.
const WITH_LOCATION: [u32; 3] = [3, 5, 6];

/// Where managed memory should live: it lives in host memory, so advice is checked and taken as given.
pub unsafe fn cuMemAdvise(ptr: CUdeviceptr, count: usize, advice: u32, device: CUdevice) -> CUresult {
    cuMemAdvise_v2(ptr, count, advice, location(device))
}

pub unsafe fn cuMemAdvise_v2(ptr: CUdeviceptr, count: usize, advice: u32, location: CUmemLocation) -> CUresult {
    answer(|| {
        managed(ptr, count, (1..=8).contains(&advice))?;
        if WITH_LOCATION.contains(&advice) {
            check_location(location)?;
        }
        Ok(())
    })
}

pub unsafe fn cuMemPrefetchAsync(ptr: CUdeviceptr, count: usize, dst: CUdevice, stream: CUstream) -> CUresult {
    cuMemPrefetchAsync_v2(ptr, count, location(dst), 0, stream)
}

pub unsafe fn cuMemPrefetchAsync_v2(
    ptr: CUdeviceptr,
    count: usize,
    location: CUmemLocation,
    flags: u32,
    stream: CUstream,
) -> CUresult {
    answer(|| {
        lock()?.stream(stream)?;
        managed(ptr, count, flags == 0)?;
        check_location(location)
    })
}

fn managed(ptr: u64, count: usize, known: bool) -> Res {
    let st = lock()?;
    let inside = st.memory.find(ptr).is_some_and(|r| {
        r.kind == RegionKind::Managed && ptr.checked_add(count as u64).is_some_and(|end| end <= r.base + r.size)
    });
    if known && count > 0 && inside {
        Ok(())
    } else {
        Err(CUresult::INVALID_VALUE)
    }
}

pub unsafe fn cuMemRangeGetAttribute(
    data: *mut c_void,
    size: usize,
    attribute: u32,
    ptr: CUdeviceptr,
    count: usize,
) -> CUresult {
    answer(|| {
        wanted(data)?;
        managed(ptr, count, matches!(attribute, 1..=8) && size >= 4 && size % 4 == 0)?;
        // never told otherwise: not read-mostly; no preferred location (-2), no accessor (-2), no prefetch (-2)
        let value: i32 = if attribute == 1 { 0 } else { -2 };
        for i in 0..size / 4 {
            out(data.cast::<i32>().add(i), value)?;
        }
        Ok(())
    })
}

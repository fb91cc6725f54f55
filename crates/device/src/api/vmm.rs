//! Virtual memory management: reservations, physical handles, mappings.
use super::*;
use crate::handle::Kind;
use crate::memory::{RegionKind, SharedFile, GRANULE};
use crate::runtime::{backend, config, lock, State};
use std::ffi::c_void;
use zerogpu_abi::*;

const PINNED: u32 = 1;
/// CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR.
const POSIX_FD: u32 = 1;

pub unsafe fn cuMemGetAllocationGranularity(
    granularity: *mut usize,
    prop: *const CUmemAllocationProp,
    option: u32,
) -> CUresult {
    answer(|| {
        wanted(granularity)?;
        check_prop(&input(prop)?)?;
        if option > 1 {
            return Err(CUresult::INVALID_VALUE);
        }
        out(granularity, GRANULE as usize)
    })
}

/// Device memory, or host memory of a NUMA node (NCCL makes that).
fn check_prop(p: &CUmemAllocationProp) -> Res {
    if p.kind != PINNED {
        return Err(CUresult::INVALID_VALUE);
    }
    match p.location.kind {
        CUmemLocation::DEVICE => the_device(p.location.id),
        2..=4 => Ok(()),
        _ => Err(CUresult::INVALID_VALUE),
    }
}

pub unsafe fn cuMemAddressReserve(
    ptr: *mut CUdeviceptr,
    size: usize,
    alignment: usize,
    addr: CUdeviceptr,
    flags: u64,
) -> CUresult {
    answer(|| {
        wanted(ptr)?;
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        out(ptr, lock()?.memory.reserve(size as u64, alignment as u64, addr)?)
    })
}

pub unsafe fn cuMemAddressFree(ptr: CUdeviceptr, size: usize) -> CUresult {
    answer(|| lock()?.memory.unreserve(ptr, size as u64))
}

pub unsafe fn cuMemCreate(
    handle: *mut CUmemGenericAllocationHandle,
    size: usize,
    prop: *const CUmemAllocationProp,
    flags: u64,
) -> CUresult {
    answer(|| {
        wanted(handle)?;
        let prop = input(prop)?;
        check_prop(&prop)?;
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        out(handle, State::take_memory(size as u64, || create(size as u64, prop))?)
    })
}

fn create(size: u64, prop: CUmemAllocationProp) -> Res<u64> {
    let (backend, config) = (backend()?, config()?);
    let mut st = lock()?;
    let (on_device, device) = (prop.location.kind == CUmemLocation::DEVICE, prop.location.id);
    let used = st.memory.used(device) + config.profile.idle_overhead();
    if on_device && size > config.vram.saturating_sub(used) {
        return Err(if size % GRANULE == 0 { CUresult::OUT_OF_MEMORY } else { CUresult::INVALID_VALUE });
    }
    let h = st.handle(Kind::Physical)? as u64;
    let told = &mut |c| backend.change(c);
    let shared = config.shareable && on_device && prop.requestedHandleTypes & POSIX_FD != 0;
    let made = if shared {
        shared_file(size, device).and_then(|file| st.memory.create_shared(h, file, prop, false, told))
    } else {
        st.memory.create(h, size, prop, told)
    };
    if let Err(e) = made {
        st.handles.drop(h as usize);
        return Err(e);
    }
    Ok(h)
}

/// A file for a shareable handle.
fn shared_file(size: u64, device: CUdevice) -> Res<SharedFile> {
    if size == 0 || size % GRANULE != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    SharedFile::new(size, device as u32).map_err(|_| CUresult::OUT_OF_MEMORY)
}

pub unsafe fn cuMemRelease(handle: CUmemGenericAllocationHandle) -> CUresult {
    answer(|| {
        let backend = backend()?;
        let mut st = lock()?;
        if st.memory.release(handle, &mut |c| backend.change(c))? {
            st.end(Kind::Physical, handle as usize);
        }
        Ok(())
    })
}

pub unsafe fn cuMemRetainAllocationHandle(handle: *mut CUmemGenericAllocationHandle, addr: *mut c_void) -> CUresult {
    answer(|| {
        wanted(handle)?;
        let mut st = lock()?;
        let physical = match st.memory.find(addr as u64).map(|r| r.kind) {
            Some(RegionKind::Mapped { physical, .. }) => physical,
            _ => return Err(CUresult::INVALID_VALUE),
        };
        st.memory.retain(physical)?;
        out(handle, physical)
    })
}

pub unsafe fn cuMemGetAllocationPropertiesFromHandle(
    prop: *mut CUmemAllocationProp,
    handle: CUmemGenericAllocationHandle,
) -> CUresult {
    answer(|| {
        let st = lock()?;
        out(prop, st.memory.vmm().physical(handle).ok_or(CUresult::INVALID_VALUE)?.prop)
    })
}

pub unsafe fn cuMemMap(
    ptr: CUdeviceptr,
    size: usize,
    offset: usize,
    handle: CUmemGenericAllocationHandle,
    flags: u64,
) -> CUresult {
    answer(|| {
        // cuda.h: the offset has to be 0 for now
        if flags != 0 || offset != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let backend = backend()?;
        lock()?.memory.map(ptr, size as u64, offset as u64, handle, &mut |c| backend.change(c))
    })
}

/// Work that may use what is about to be taken away ends first. NVIDIA's driver waits for nothing (580, recorded), and such work faults:
/// whoever counts on that wait loses bytes there.
fn end_work_with(what: &str, call: &str, at: u64, len: u64) -> Res {
    let backend = backend()?;
    backend.takes(call, at, len);
    if crate::thread::current().0 != 0 {
        backend.drain(runtime::Scope::Context)?;
    }
    backend.before_end(what)
}

pub unsafe fn cuMemUnmap(ptr: CUdeviceptr, size: usize) -> CUresult {
    answer(|| {
        let backend = backend()?;
        end_work_with("a mapping", "cuMemUnmap", ptr, size as u64)?;
        let mut st = lock()?;
        for h in st.memory.unmap(ptr, size as u64, &mut |c| backend.change(c))? {
            st.end(Kind::Physical, h as usize);
        }
        Ok(())
    })
}

pub unsafe fn cuMemSetAccess(ptr: CUdeviceptr, size: usize, desc: *const CUmemAccessDesc, count: usize) -> CUresult {
    answer(|| {
        let descs = array(desc, count)?;
        if descs.is_empty() || descs.iter().any(|d| !matches!(d.flags, 0 | 1 | 3)) {
            return Err(CUresult::INVALID_VALUE);
        }
        let (backend, size) = (backend()?, size as u64);
        // only where access is taken away: programs that grow their memory set it all the time
        let of_device = |d: &&CUmemAccessDesc| d.location.kind == CUmemLocation::DEVICE;
        let takes = {
            let st = lock()?;
            descs.iter().filter(of_device).any(|d| st.memory.takes_access(ptr, size, d.flags))
        };
        if takes {
            end_work_with("access", "cuMemSetAccess", ptr, size)?;
        }
        let mut st = lock()?;
        // all are looked at before the first one counts
        for d in descs {
            match d.location.kind {
                CUmemLocation::DEVICE => {
                    the_device(d.location.id)?;
                    st.memory.check_access(ptr, size, d.location.id)?;
                }
                // access from the host concerns host memory only
                2..=4 => {}
                _ => return Err(CUresult::INVALID_VALUE),
            }
        }
        for d in descs.iter().filter(of_device) {
            st.memory.set_access(ptr, size, d.location.id, d.flags, &mut |c| backend.change(c))?;
        }
        Ok(())
    })
}

pub unsafe fn cuMemGetAccess(flags: *mut u64, location: *const CUmemLocation, ptr: CUdeviceptr) -> CUresult {
    answer(|| {
        wanted(flags)?;
        let l = input(location)?;
        if l.kind != CUmemLocation::DEVICE {
            return Err(CUresult::INVALID_VALUE);
        }
        the_device(l.id)?;
        let st = lock()?;
        let allowed = st.memory.accessible(ptr, l.id).is_ok();
        match st.memory.find(ptr).map(|r| r.kind) {
            Some(RegionKind::Mapped { access, .. }) => out(flags, if allowed { access as u64 } else { 0 }),
            _ => Err(CUresult::INVALID_VALUE),
        }
    })
}

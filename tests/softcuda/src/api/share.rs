//! Physical memory that other processes import, as POSIX file descriptors.
use std::ffi::c_void;
use zerogpu_abi::*;
use zerogpu_device::handle::Kind;
use zerogpu_device::memory::SharedFile;
use zerogpu_device::runtime::{backend, config, lock, ready};

/// CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR.
const POSIX_FD: u32 = 1;
/// CU_MEM_HANDLE_TYPE_FABRIC, which these cards lack.
const FABRIC: u32 = 8;
/// CU_MEM_ALLOCATION_TYPE_PINNED.
const PINNED: u32 = 1;

fn answer(body: impl FnOnce() -> Res) -> CUresult {
    code(ready().and_then(|()| body()))
}

fn known(kind: u32) -> Res {
    match kind {
        POSIX_FD => Ok(()),
        FABRIC => Err(CUresult::NOT_SUPPORTED),
        _ => Err(CUresult::INVALID_VALUE),
    }
}

/// The descriptor is the caller's to close; it keeps the memory alive.
pub unsafe fn cuMemExportToShareableHandle(
    shareableHandle: *mut c_void,
    handle: CUmemGenericAllocationHandle,
    handleType: u32,
    flags: u64,
) -> CUresult {
    answer(|| {
        known(handleType)?;
        if shareableHandle.is_null() || flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let st = lock()?;
        let file = st.memory.vmm().shared_file(handle).ok_or(CUresult::INVALID_VALUE)?;
        let fd = file.export().map_err(|_| CUresult::OPERATING_SYSTEM)?;
        shareableHandle.cast::<i32>().write_unaligned(fd);
        Ok(())
    })
}

/// Whatever the descriptor is: nothing of it is believed but what the system says of it.
pub unsafe fn cuMemImportFromShareableHandle(
    handle: *mut CUmemGenericAllocationHandle,
    osHandle: *mut c_void,
    shHandleType: u32,
) -> CUresult {
    answer(|| {
        known(shHandleType)?;
        let fd = i32::try_from(osHandle as isize).ok().filter(|&fd| fd >= 0);
        let (false, Some(fd)) = (handle.is_null(), fd) else { return Err(CUresult::INVALID_VALUE) };
        let (file, device) = SharedFile::adopt(fd).ok_or(CUresult::INVALID_VALUE)?;
        if device >= config()?.devices {
            return Err(CUresult::INVALID_VALUE);
        }
        let location = CUmemLocation::device(device as CUdevice);
        let prop = CUmemAllocationProp {
            kind: PINNED,
            requestedHandleTypes: POSIX_FD,
            location,
            win32HandleMetaData: std::ptr::null_mut(),
            compressionType: 0,
            gpuDirectRDMACapable: 0,
            usage: 0,
            reserved: [0; 4],
        };
        let backend = backend()?;
        let mut st = lock()?;
        let h = st.handle(Kind::Physical)?;
        if let Err(e) = st.memory.create_shared(h as u64, file, prop, true, &mut |c| backend.change(c)) {
            st.handles.drop(h);
            return Err(e);
        }
        handle.write_unaligned(h as u64);
        Ok(())
    })
}

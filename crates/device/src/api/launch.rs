//! Launches.
use super::*;
use crate::op::{Launch, Op, Params};
use std::ffi::c_void;
use zerogpu_abi::*;
use zerogpu_image::Kernel;

const PARAM_END: usize = 0;
const PARAM_BUFFER: usize = 1;
const PARAM_SIZE: usize = 2;

/// Packs the parameters of a launch as the kernel lays them out. Reads through the caller's pointers, which the driver
/// API asks to be valid for each parameter's size.
///
/// # Errors
/// As for [`pack_into`].
pub fn pack(kernel: &Kernel, params: &Params) -> Res<Vec<u8>> {
    let mut bytes = vec![0u8; kernel.param_bytes as usize];
    pack_into(kernel, params, &mut bytes)?;
    Ok(bytes)
}

/// The same, into zeroed bytes of the caller's, as many as the kernel has.
///
/// # Errors
/// INVALID_VALUE: a pointer is NULL, or as for [`extra_buffer`]; INVALID_IMAGE: a parameter lies outside of the bytes.
pub fn pack_into(kernel: &Kernel, params: &Params, bytes: &mut [u8]) -> Res {
    match *params {
        Params::Packed(given) => {
            let n = given.len().min(bytes.len());
            bytes[..n].copy_from_slice(&given[..n]);
        }
        Params::Pointers(pointers) => {
            for p in kernel.params.iter() {
                if pointers.is_null() {
                    return Err(CUresult::INVALID_VALUE);
                }
                let to = bytes.get_mut(p.offset as usize..).and_then(|b| b.get_mut(..p.size as usize));
                let to = to.ok_or(CUresult::INVALID_IMAGE)?;
                // SAFETY: cuLaunchKernel asks for one valid pointer a parameter, in order.
                unsafe {
                    let from = *pointers.add(p.ordinal as usize) as *const u8;
                    if from.is_null() {
                        return Err(CUresult::INVALID_VALUE);
                    }
                    std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len());
                }
            }
        }
        Params::Extra(extra) => {
            // SAFETY: `extra` is a list of pairs that ends with CU_LAUNCH_PARAM_END, as cuda.h asks.
            let given = unsafe { extra_buffer(extra)? };
            let n = given.len().min(bytes.len());
            bytes[..n].copy_from_slice(&given[..n]);
        }
    }
    Ok(())
}

/// The bytes that an `extra` list of cuLaunchKernel gives.
///
/// # Errors
/// INVALID_VALUE: an unknown key, or bytes that are at NULL.
pub unsafe fn extra_buffer<'a>(extra: *mut *mut c_void) -> Res<&'a [u8]> {
    let (mut buffer, mut size) = (std::ptr::null(), 0usize);
    // each of the two keys can stand once
    for i in 0..3 {
        match *extra.add(2 * i) as usize {
            PARAM_END => break,
            PARAM_BUFFER => buffer = *extra.add(2 * i + 1) as *const u8,
            PARAM_SIZE => size = *(*extra.add(2 * i + 1) as *const usize),
            _ => return Err(CUresult::INVALID_VALUE),
        }
    }
    array(buffer, size)
}

fn params<'a>(pointers: *mut *mut c_void, extra: *mut *mut c_void) -> Params<'a> {
    if pointers.is_null() && !extra.is_null() {
        Params::Extra(extra)
    } else {
        Params::Pointers(pointers)
    }
}

#[allow(clippy::too_many_arguments)]
#[inline]
pub unsafe fn cuLaunchKernel(
    f: CUfunction,
    gridDimX: u32,
    gridDimY: u32,
    gridDimZ: u32,
    blockDimX: u32,
    blockDimY: u32,
    blockDimZ: u32,
    sharedMemBytes: u32,
    hStream: CUstream,
    kernelParams: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    if !kernelParams.is_null() && !extra.is_null() {
        return answer(|| Err(CUresult::INVALID_VALUE));
    }
    let launch = Launch {
        func: f.0,
        grid: [gridDimX, gridDimY, gridDimZ],
        block: [blockDimX, blockDimY, blockDimZ],
        shared: sharedMemBytes,
        params: params(kernelParams, extra),
        attrs: &[],
        cooperative: false,
    };
    code(submit(hStream, &Op::Launch(launch)))
}

#[allow(clippy::too_many_arguments)]
pub unsafe fn cuLaunchCooperativeKernel(
    f: CUfunction,
    gridDimX: u32,
    gridDimY: u32,
    gridDimZ: u32,
    blockDimX: u32,
    blockDimY: u32,
    blockDimZ: u32,
    sharedMemBytes: u32,
    hStream: CUstream,
    kernelParams: *mut *mut c_void,
) -> CUresult {
    let launch = Launch {
        func: f.0,
        grid: [gridDimX, gridDimY, gridDimZ],
        block: [blockDimX, blockDimY, blockDimZ],
        shared: sharedMemBytes,
        params: Params::Pointers(kernelParams),
        attrs: &[],
        cooperative: true,
    };
    code(submit(hStream, &Op::Launch(launch)))
}

pub unsafe fn cuLaunchKernelEx(
    config: *const CUlaunchConfig,
    f: CUfunction,
    kernelParams: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    launch_ex(config, f, kernelParams, extra, CUstream::NULL)
}

pub unsafe fn cuLaunchKernelEx_ptsz(
    config: *const CUlaunchConfig,
    f: CUfunction,
    kernelParams: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    launch_ex(config, f, kernelParams, extra, CU_STREAM_PER_THREAD)
}

unsafe fn launch_ex(
    config: *const CUlaunchConfig,
    f: CUfunction,
    pointers: *mut *mut c_void,
    extra: *mut *mut c_void,
    default: CUstream,
) -> CUresult {
    answer(|| {
        let c = input(config)?;
        if !pointers.is_null() && !extra.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        let launch = Launch {
            func: f.0,
            grid: [c.gridDimX, c.gridDimY, c.gridDimZ],
            block: [c.blockDimX, c.blockDimY, c.blockDimZ],
            shared: c.sharedMemBytes,
            params: params(pointers, extra),
            attrs: array(c.attrs, c.numAttrs as usize)?,
            cooperative: false,
        };
        let stream = if c.hStream.0 == 0 { default } else { c.hStream };
        submit(stream, &Op::Launch(launch))
    })
}

//! Copies, 1-D to 3-D.
use super::*;
use crate::op::{Copy, Direction, Op, Plane};
use crate::runtime::lock;
use std::ffi::c_void;
use zerogpu_abi::*;
use Direction::*;

fn linear(dst: u64, src: u64, n: usize, direction: Direction, stream: Option<CUstream>) -> CUresult {
    let copy = Copy::linear(dst, src, n as u64, direction, stream.is_none());
    code(submit(stream.unwrap_or_default(), &Op::Copy(copy)))
}

pub unsafe fn cuMemcpy(dst: CUdeviceptr, src: CUdeviceptr, n: usize) -> CUresult {
    linear(dst, src, n, Unified, None)
}

pub unsafe fn cuMemcpyAsync(dst: CUdeviceptr, src: CUdeviceptr, n: usize, stream: CUstream) -> CUresult {
    linear(dst, src, n, Unified, Some(stream))
}

pub unsafe fn cuMemcpyHtoD_v2(dst: CUdeviceptr, src: *const c_void, n: usize) -> CUresult {
    linear(dst, src as u64, n, HostToDevice, None)
}

pub unsafe fn cuMemcpyHtoDAsync_v2(dst: CUdeviceptr, src: *const c_void, n: usize, stream: CUstream) -> CUresult {
    linear(dst, src as u64, n, HostToDevice, Some(stream))
}

pub unsafe fn cuMemcpyDtoH_v2(dst: *mut c_void, src: CUdeviceptr, n: usize) -> CUresult {
    linear(dst as u64, src, n, DeviceToHost, None)
}

pub unsafe fn cuMemcpyDtoHAsync_v2(dst: *mut c_void, src: CUdeviceptr, n: usize, stream: CUstream) -> CUresult {
    linear(dst as u64, src, n, DeviceToHost, Some(stream))
}

pub unsafe fn cuMemcpyDtoD_v2(dst: CUdeviceptr, src: CUdeviceptr, n: usize) -> CUresult {
    linear(dst, src, n, DeviceToDevice, None)
}

pub unsafe fn cuMemcpyDtoDAsync_v2(dst: CUdeviceptr, src: CUdeviceptr, n: usize, stream: CUstream) -> CUresult {
    linear(dst, src, n, DeviceToDevice, Some(stream))
}

/// Between contexts of the one card this is a plain copy.
pub unsafe fn cuMemcpyPeer(dst: CUdeviceptr, dctx: CUcontext, src: CUdeviceptr, sctx: CUcontext, n: usize) -> CUresult {
    peers(dctx, sctx, || linear(dst, src, n, DeviceToDevice, None))
}

pub unsafe fn cuMemcpyPeerAsync(
    dst: CUdeviceptr,
    dctx: CUcontext,
    src: CUdeviceptr,
    sctx: CUcontext,
    n: usize,
    stream: CUstream,
) -> CUresult {
    peers(dctx, sctx, || linear(dst, src, n, DeviceToDevice, Some(stream)))
}

fn peers(a: CUcontext, b: CUcontext, copy: impl FnOnce() -> CUresult) -> CUresult {
    let known = (|| {
        let mut st = lock()?;
        st.context(a)?;
        st.context(b).map(|_| ())
    })();
    match known {
        Ok(()) => copy(),
        Err(e) => e,
    }
}

/// One side of a struct copy: (memory type, host, device, array, x in bytes, y, z, pitch, height).
struct Side {
    kind: u32,
    host: u64,
    device: u64,
    array: CUarray,
    x: usize,
    y: usize,
    z: usize,
    pitch: usize,
    height: usize,
}

const HOST: u32 = 1;
const DEVICE: u32 = 2;
const ARRAY: u32 = 3;
const UNIFIED: u32 = 4;

impl Side {
    /// The plane, and whether it is device memory (None: told by the address).
    fn plane(&self, width: u64, rows: u64, slices: u64) -> Res<(Plane, Option<bool>)> {
        let (base, pitch, height, device) = match self.kind {
            HOST => (self.host, self.pitch as u64, self.height as u64, Some(false)),
            DEVICE => (self.device, self.pitch as u64, self.height as u64, Some(true)),
            UNIFIED => (self.device, self.pitch as u64, self.height as u64, None),
            ARRAY => {
                let from = [self.x, self.y, self.z].map(|n| n as u64);
                let a = lock()?.array_plane(self.array, from, [width, rows, slices])?;
                (a.at, a.pitch, a.slice / a.pitch.max(1), Some(true))
            }
            _ => return Err(CUresult::INVALID_VALUE),
        };
        let within = |skipped: usize, n: u64| (skipped as u64).checked_add(n).ok_or(CUresult::INVALID_VALUE);
        let (row, column) = (within(self.x, width)?, within(self.y, rows)?);
        // cuda.h: a pitch or height of 0 is as tight as the copy allows
        let pitch = if pitch == 0 { row } else { pitch };
        let height = if height == 0 { column } else { height };
        if (pitch < row && (rows > 1 || slices > 1)) || (height < column && slices > 1) {
            return Err(CUresult::INVALID_VALUE);
        }
        let slice = pitch.checked_mul(height).ok_or(CUresult::INVALID_VALUE)?;
        let skip = || -> Option<u64> {
            let z = slice.checked_mul(self.z as u64)?;
            let y = pitch.checked_mul(self.y as u64)?;
            base.checked_add(z)?.checked_add(y)?.checked_add(self.x as u64)
        };
        if base == 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        Ok((Plane { at: skip().ok_or(CUresult::INVALID_VALUE)?, pitch, slice }, device))
    }
}

fn shaped(dst: Side, src: Side, shape: [usize; 3], blocking: bool) -> Res<Copy> {
    let [width, height, depth] = shape.map(|n| n as u64);
    if width == 0 || height == 0 || depth == 0 {
        return Ok(Copy::linear(0, 0, 0, Unified, blocking));
    }
    let ((dst, to_device), (src, from_device)) = (dst.plane(width, height, depth)?, src.plane(width, height, depth)?);
    let direction = match (to_device, from_device) {
        (Some(true), Some(true)) => DeviceToDevice,
        (Some(true), Some(false)) => HostToDevice,
        (Some(false), Some(true)) => DeviceToHost,
        (Some(false), Some(false)) => HostToHost,
        _ => Unified,
    };
    Ok(Copy { dst, src, width, height, depth, direction, blocking })
}

macro_rules! side {
    ($c:ident, $kind:ident $host:ident $device:ident $array:ident $x:ident $y:ident $pitch:ident) => {
        side!($c, $kind $host $device $array $x $y $pitch, 0, 0)
    };
    ($c:ident, $kind:ident $host:ident $device:ident $array:ident $x:ident $y:ident $pitch:ident, $z:expr, $h:expr) => {
        Side {
            kind: $c.$kind,
            host: $c.$host as u64,
            device: $c.$device,
            array: $c.$array,
            x: $c.$x,
            y: $c.$y,
            z: $z,
            pitch: $c.$pitch,
            height: $h,
        }
    };
}

fn copy_2d(c: &CUDA_MEMCPY2D, blocking: bool) -> Res<Copy> {
    let dst = side!(c, dstMemoryType dstHost dstDevice dstArray dstXInBytes dstY dstPitch);
    let src = side!(c, srcMemoryType srcHost srcDevice srcArray srcXInBytes srcY srcPitch);
    shaped(dst, src, [c.WidthInBytes, c.Height, 1], blocking)
}

/// The copy that a 3-D struct describes (also a graph's copy node).
pub(crate) fn copy_3d(c: &CUDA_MEMCPY3D, blocking: bool) -> Res<Copy> {
    let dst = side!(c, dstMemoryType dstHost dstDevice dstArray dstXInBytes dstY dstPitch, c.dstZ, c.dstHeight);
    let src = side!(c, srcMemoryType srcHost srcDevice srcArray srcXInBytes srcY srcPitch, c.srcZ, c.srcHeight);
    shaped(dst, src, [c.WidthInBytes, c.Height, c.Depth], blocking)
}

fn copy_peer(c: &CUDA_MEMCPY3D_PEER, blocking: bool) -> Res<Copy> {
    for (kind, context) in [(c.dstMemoryType, c.dstContext), (c.srcMemoryType, c.srcContext)] {
        if kind == DEVICE {
            lock()?.context(context)?;
        }
    }
    let dst = side!(c, dstMemoryType dstHost dstDevice dstArray dstXInBytes dstY dstPitch, c.dstZ, c.dstHeight);
    let src = side!(c, srcMemoryType srcHost srcDevice srcArray srcXInBytes srcY srcPitch, c.srcZ, c.srcHeight);
    shaped(dst, src, [c.WidthInBytes, c.Height, c.Depth], blocking)
}

unsafe fn submit_shaped<T: std::marker::Copy>(
    c: *const T,
    stream: Option<CUstream>,
    shape: fn(&T, bool) -> Res<Copy>,
) -> CUresult {
    answer(|| {
        let copy = shape(&input(c)?, stream.is_none())?;
        submit(stream.unwrap_or_default(), &Op::Copy(copy))
    })
}

pub unsafe fn cuMemcpy2D_v2(c: *const CUDA_MEMCPY2D) -> CUresult {
    submit_shaped(c, None, copy_2d)
}

pub unsafe fn cuMemcpy2DUnaligned_v2(c: *const CUDA_MEMCPY2D) -> CUresult {
    submit_shaped(c, None, copy_2d)
}

pub unsafe fn cuMemcpy2DAsync_v2(c: *const CUDA_MEMCPY2D, stream: CUstream) -> CUresult {
    submit_shaped(c, Some(stream), copy_2d)
}

pub unsafe fn cuMemcpy3D_v2(c: *const CUDA_MEMCPY3D) -> CUresult {
    submit_shaped(c, None, copy_3d)
}

pub unsafe fn cuMemcpy3DAsync_v2(c: *const CUDA_MEMCPY3D, stream: CUstream) -> CUresult {
    submit_shaped(c, Some(stream), copy_3d)
}

pub unsafe fn cuMemcpy3DPeer(c: *const CUDA_MEMCPY3D_PEER) -> CUresult {
    submit_shaped(c, None, copy_peer)
}

pub unsafe fn cuMemcpy3DPeerAsync(c: *const CUDA_MEMCPY3D_PEER, stream: CUstream) -> CUresult {
    submit_shaped(c, Some(stream), copy_peer)
}

/// Copies `n` bytes of an array, from its byte `off` on.
fn with_array(array: CUarray, off: usize, n: usize, copy: impl FnOnce(u64) -> CUresult) -> CUresult {
    match lock().and_then(|st| st.array_line(array, off as u64, n as u64)) {
        Ok(at) => copy(at),
        Err(e) => e,
    }
}

pub unsafe fn cuMemcpyHtoA_v2(dst: CUarray, off: usize, src: *const c_void, n: usize) -> CUresult {
    with_array(dst, off, n, |at| linear(at, src as u64, n, HostToDevice, None))
}

pub unsafe fn cuMemcpyHtoAAsync_v2(
    dst: CUarray,
    off: usize,
    src: *const c_void,
    n: usize,
    stream: CUstream,
) -> CUresult {
    with_array(dst, off, n, |at| linear(at, src as u64, n, HostToDevice, Some(stream)))
}

pub unsafe fn cuMemcpyAtoH_v2(dst: *mut c_void, src: CUarray, off: usize, n: usize) -> CUresult {
    with_array(src, off, n, |at| linear(dst as u64, at, n, DeviceToHost, None))
}

pub unsafe fn cuMemcpyAtoHAsync_v2(dst: *mut c_void, src: CUarray, off: usize, n: usize, stream: CUstream) -> CUresult {
    with_array(src, off, n, |at| linear(dst as u64, at, n, DeviceToHost, Some(stream)))
}

pub unsafe fn cuMemcpyDtoA_v2(dst: CUarray, off: usize, src: CUdeviceptr, n: usize) -> CUresult {
    with_array(dst, off, n, |at| linear(at, src, n, DeviceToDevice, None))
}

pub unsafe fn cuMemcpyAtoD_v2(dst: CUdeviceptr, src: CUarray, off: usize, n: usize) -> CUresult {
    with_array(src, off, n, |at| linear(dst, at, n, DeviceToDevice, None))
}

pub unsafe fn cuMemcpyAtoA_v2(dst: CUarray, doff: usize, src: CUarray, soff: usize, n: usize) -> CUresult {
    with_array(dst, doff, n, |to| with_array(src, soff, n, |from| linear(to, from, n, DeviceToDevice, None)))
}

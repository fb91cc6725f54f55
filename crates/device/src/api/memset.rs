//! Memsets.
use super::*;
use crate::op::{Fill, Op};
use zerogpu_abi::*;

fn fill(
    dst: u64,
    pitch: Option<usize>,
    value: u32,
    element: u32,
    shape: [usize; 2],
    stream: Option<CUstream>,
) -> CUresult {
    let [width, height] = shape.map(|n| n as u64);
    let pitch = pitch.map_or(width.wrapping_mul(element as u64), |p| p as u64);
    let fill = Fill { dst, pitch, value, element, width, height, blocking: stream.is_none() };
    code(submit(stream.unwrap_or_default(), &Op::Fill(fill)))
}

pub unsafe fn cuMemsetD8_v2(dst: CUdeviceptr, v: u8, n: usize) -> CUresult {
    fill(dst, None, v as u32, 1, [n, 1], None)
}

pub unsafe fn cuMemsetD16_v2(dst: CUdeviceptr, v: u16, n: usize) -> CUresult {
    fill(dst, None, v as u32, 2, [n, 1], None)
}

pub unsafe fn cuMemsetD32_v2(dst: CUdeviceptr, v: u32, n: usize) -> CUresult {
    fill(dst, None, v, 4, [n, 1], None)
}

pub unsafe fn cuMemsetD8Async(dst: CUdeviceptr, v: u8, n: usize, stream: CUstream) -> CUresult {
    fill(dst, None, v as u32, 1, [n, 1], Some(stream))
}

pub unsafe fn cuMemsetD16Async(dst: CUdeviceptr, v: u16, n: usize, stream: CUstream) -> CUresult {
    fill(dst, None, v as u32, 2, [n, 1], Some(stream))
}

pub unsafe fn cuMemsetD32Async(dst: CUdeviceptr, v: u32, n: usize, stream: CUstream) -> CUresult {
    fill(dst, None, v, 4, [n, 1], Some(stream))
}

pub unsafe fn cuMemsetD2D8_v2(dst: CUdeviceptr, pitch: usize, v: u8, w: usize, h: usize) -> CUresult {
    fill(dst, Some(pitch), v as u32, 1, [w, h], None)
}

pub unsafe fn cuMemsetD2D16_v2(dst: CUdeviceptr, pitch: usize, v: u16, w: usize, h: usize) -> CUresult {
    fill(dst, Some(pitch), v as u32, 2, [w, h], None)
}

pub unsafe fn cuMemsetD2D32_v2(dst: CUdeviceptr, pitch: usize, v: u32, w: usize, h: usize) -> CUresult {
    fill(dst, Some(pitch), v, 4, [w, h], None)
}

pub unsafe fn cuMemsetD2D8Async(
    dst: CUdeviceptr,
    pitch: usize,
    v: u8,
    w: usize,
    h: usize,
    stream: CUstream,
) -> CUresult {
    fill(dst, Some(pitch), v as u32, 1, [w, h], Some(stream))
}

pub unsafe fn cuMemsetD2D16Async(
    dst: CUdeviceptr,
    pitch: usize,
    v: u16,
    w: usize,
    h: usize,
    stream: CUstream,
) -> CUresult {
    fill(dst, Some(pitch), v as u32, 2, [w, h], Some(stream))
}

pub unsafe fn cuMemsetD2D32Async(
    dst: CUdeviceptr,
    pitch: usize,
    v: u32,
    w: usize,
    h: usize,
    stream: CUstream,
) -> CUresult {
    fill(dst, Some(pitch), v, 4, [w, h], Some(stream))
}

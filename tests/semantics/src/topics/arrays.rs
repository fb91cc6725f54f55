//! Arrays: what they hold, and how they end.
use super::Late;
use crate::check::Check;
use crate::driver::{must, Driver};
use std::ffi::c_void;
use zerogpu_abi::*;

const BYTES: usize = 4 << 20;
/// CU_AD_FORMAT_UNSIGNED_INT8.
const BYTE: u32 = 1;

fn create(d: &Driver) -> CUarray {
    let (mut array, width) = (CUarray::NULL, BYTES / 64);
    let desc = CUDA_ARRAY3D_DESCRIPTOR { Width: width, Height: 64, Depth: 0, Format: BYTE, NumChannels: 1, Flags: 0 };
    must("cuArray3DCreate", d.cuArray3DCreate_v2(&mut array, &desc));
    array
}

/// Bytes go in and come out; an array ends with `cuArrayDestroy`, or with its context.
pub fn lifetime(d: &Driver, t: &mut Check) {
    let primary = d.start();
    let array = create(d);
    let mut desc = CUDA_ARRAY3D_DESCRIPTOR { Width: 0, Height: 0, Depth: 0, Format: 0, NumChannels: 0, Flags: 0 };
    t.code("cuArray3DGetDescriptor", d.cuArray3DGetDescriptor_v2(&mut desc, array), 0);
    t.same("its descriptor", (desc.Width, desc.Height, desc.Format, desc.NumChannels), (BYTES / 64, 64, BYTE, 1));
    let mut back = [0u8; 64];
    t.code("copy in", d.cuMemcpyHtoA_v2(array, 100, [7u8; 64].as_ptr().cast(), 64), 0);
    t.code("copy out", d.cuMemcpyAtoH_v2(back.as_mut_ptr().cast(), array, 100, 64), 0);
    t.same("its bytes", back, [7; 64]);
    destroyed_with_work(d, t, array);
    edges(d, t);

    let free = d.memory_info().0;
    let mut context = CUcontext::NULL;
    must("cuCtxCreate", d.cuCtxCreate_v2(&mut context, 0, 0));
    let array = create(d);
    must("cuCtxDestroy", d.cuCtxDestroy_v2(context));
    must("cuCtxSetCurrent", d.cuCtxSetCurrent(primary));
    t.that("its memory goes with its context", d.memory_info().0 >= free);
    // a real driver may dereference the handle
    if !t.driver.real {
        let next = d.alloc(BYTES);
        must("cuMemsetD8", d.cuMemsetD8_v2(next, 0, BYTES));
        t.code("an array of an ended context", d.cuMemcpyHtoA_v2(array, 0, [7u8; 64].as_ptr().cast(), 64), 400);
        t.that("memory made since is whole", d.read(next, BYTES).iter().all(|&byte| byte == 0));
        t.code("is destroyed already", d.cuArrayDestroy(array), 400);
    }
}

/// A copy stays inside an array, whose rows are shorter than the memory that they lie in.
fn edges(d: &Driver, t: &mut Check) {
    let make = |width, height, depth| {
        let mut array = CUarray::NULL;
        let (Width, Height, Depth, Format) = (width, height, depth, BYTE);
        let desc = CUDA_ARRAY3D_DESCRIPTOR { Width, Height, Depth, Format, NumChannels: 1, Flags: 0 };
        must("cuArray3DCreate", d.cuArray3DCreate_v2(&mut array, &desc));
        array
    };
    let mut bytes = vec![5u8; 1 << 12];
    let host = bytes.as_mut_ptr().cast::<c_void>();
    let line = make(100, 0, 0);
    t.code("the whole line", d.cuMemcpyHtoA_v2(line, 0, host, 100), 0);
    t.code("to its last byte", d.cuMemcpyAtoH_v2(host, line, 60, 40), 0);
    for (off, n) in [(0, 101), (0, 300), (60, 41), (101, 1), (usize::MAX, 2), (usize::MAX - 1, 1)] {
        t.code(format_args!("{n} bytes to byte {off}"), d.cuMemcpyHtoA_v2(line, off, host, n), 1);
        t.code(format_args!("{n} bytes from byte {off}"), d.cuMemcpyAtoH_v2(host, line, off, n), 1);
    }
    let block = make(100, 4, 2);
    let copy = |at: [usize; 3], shape: [usize; 3]| {
        // SAFETY: numbers and addresses, for which zeros are a value.
        let mut c: CUDA_MEMCPY3D = unsafe { std::mem::zeroed() };
        (c.srcMemoryType, c.srcHost) = (1, host);
        (c.dstMemoryType, c.dstArray) = (3, block);
        (c.dstXInBytes, c.dstY, c.dstZ) = (at[0], at[1], at[2]);
        (c.WidthInBytes, c.Height, c.Depth) = (shape[0], shape[1], shape[2]);
        d.cuMemcpy3D_v2(&c)
    };
    t.code("the whole block", copy([0; 3], [100, 4, 2]), 0);
    t.code("its last byte", copy([99, 3, 1], [1; 3]), 0);
    for (at, shape) in [
        ([0, 0, 0], [101, 1, 1]),
        ([1, 0, 0], [100, 1, 1]),
        ([0, 2, 0], [100, 3, 1]),
        ([0, 0, 1], [100, 4, 2]),
        ([usize::MAX, 0, 0], [2, 1, 1]),
    ] {
        t.code(format_args!("{shape:?} at {at:?}"), copy(at, shape), 1);
    }
    // cuda.h: a side's height covers the rows skipped and copied
    let p = d.alloc(1 << 12);
    let tall = |height, y| {
        // SAFETY: as above.
        let mut c: CUDA_MEMCPY3D = unsafe { std::mem::zeroed() };
        (c.srcMemoryType, c.srcHost) = (1, host);
        (c.dstMemoryType, c.dstDevice, c.dstPitch, c.dstHeight, c.dstY) = (2, p, 16, height, y);
        (c.WidthInBytes, c.Height, c.Depth) = (16, 4, 2);
        d.cuMemcpy3D_v2(&c)
    };
    t.code("slices as high as the copy", tall(5, 1), 0);
    t.code("slices too low", tall(3, 0), 1);
    t.code("slices too low for what is skipped", tall(4, 1), 1);
    d.free(p);
    for array in [line, block] {
        must("cuArrayDestroy", d.cuArrayDestroy(array));
    }
}

/// Memory is not another's while work may still use it.
fn destroyed_with_work(d: &Driver, t: &mut Check, array: CUarray) {
    let (stream, done, bytes) = (d.stream(1), Late::leaked(), [9u8; 64]);
    must("cuLaunchHostFunc", d.cuLaunchHostFunc(stream, Some(Late::come), done.data()));
    must("cuMemcpyHtoAAsync", d.cuMemcpyHtoAAsync_v2(array, 0, bytes.as_ptr().cast(), 64, stream));
    t.code("cuArrayDestroy", d.cuArrayDestroy(array), 0);
    t.that("it waits for the array's work", done.is_there());
    must("cuStreamDestroy", d.cuStreamDestroy_v2(stream));
}

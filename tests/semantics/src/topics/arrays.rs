//! Arrays: what they hold, and how they end.
use super::Late;
use crate::check::Check;
use crate::driver::{must, Driver};
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

/// Memory is not another's while work may still use it.
fn destroyed_with_work(d: &Driver, t: &mut Check, array: CUarray) {
    let (stream, done, bytes) = (d.stream(1), Late::leaked(), [9u8; 64]);
    must("cuLaunchHostFunc", d.cuLaunchHostFunc(stream, Some(Late::come), done.data()));
    must("cuMemcpyHtoAAsync", d.cuMemcpyHtoAAsync_v2(array, 0, bytes.as_ptr().cast(), 64, stream));
    t.code("cuArrayDestroy", d.cuArrayDestroy(array), 0);
    t.that("it waits for the array's work", done.is_there());
    must("cuStreamDestroy", d.cuStreamDestroy_v2(stream));
}

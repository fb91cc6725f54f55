//! Out of memory: what it answers, and that a program goes on.
use crate::check::Check;
use crate::driver::{must, Driver};
use std::ptr::null_mut;
use zerogpu_abi::*;

const GIB: usize = 1 << 30;
const OUT_OF_MEMORY: u32 = 2;

/// Fills the card, hits its end by each way of allocating, and goes on.
pub fn recovery(d: &Driver, t: &mut Check) {
    d.start();
    let (free, total) = d.memory_info();
    let marked = d.alloc(4096);
    d.write(marked, &[7; 4096]);
    let mut blocks = Vec::new();
    let mut next = 55;
    let last = loop {
        let result = d.cuMemAlloc_v2(&mut next, GIB);
        if !result.ok() || blocks.len() > total / GIB {
            break result;
        }
        blocks.push(std::mem::replace(&mut next, 55));
    };
    t.code("an allocation too many", last, OUT_OF_MEMORY);
    t.same("its output is left alone", next, 55);
    let expected = free / GIB;
    t.that(format_args!("{} of {expected} GiB", blocks.len()), expected.abs_diff(blocks.len()) <= 1);
    t.that("less than 1 GiB is left", d.memory_info().0 < GIB);
    let (mut handle, mut pitch, mut memory) = (55, 0, 55);
    t.code("cuMemCreate", d.cuMemCreate(&mut handle, GIB, &on_device(), 0), OUT_OF_MEMORY);
    t.code("cuMemAllocPitch", d.cuMemAllocPitch_v2(&mut memory, &mut pitch, GIB, 2, 4), OUT_OF_MEMORY);
    t.code("cuMemAllocAsync", d.cuMemAllocAsync(&mut memory, GIB, CUstream::NULL), OUT_OF_MEMORY);
    t.same("their outputs", (handle, memory), (55, 55));
    t.code("no error sticks", d.cuCtxSynchronize(), 0);
    t.that("bytes are whole", d.read(marked, 4096) == [7; 4096]);

    let freed = blocks.pop().expect("some were allocated");
    d.free(freed);
    let mut again = 0;
    t.code("what was freed can be allocated", d.cuMemAlloc_v2(&mut again, GIB), 0);
    must("cuMemsetD8", d.cuMemsetD8_v2(again, 9, 1 << 20));
    t.that("and used", d.read(again, 1 << 20).iter().all(|byte| *byte == 9));
    blocks.push(again);
    blocks.into_iter().for_each(|block| d.free(block));
    d.free(marked);
    t.same("all is free again", d.memory_info().0, free);
    // in one piece: freed neighbours are one block again
    let most = free - free / 8;
    let mut whole = 0;
    t.code("one block of most of it", d.cuMemAlloc_v2(&mut whole, most), 0);
    d.free(whole);
}

fn on_device() -> CUmemAllocationProp {
    CUmemAllocationProp {
        kind: 1,
        requestedHandleTypes: 0,
        location: CUmemLocation { kind: 1, id: 0 },
        win32HandleMetaData: null_mut(),
        compressionType: 0,
        gpuDirectRDMACapable: 0,
        usage: 0,
        reserved: [0; 4],
    }
}

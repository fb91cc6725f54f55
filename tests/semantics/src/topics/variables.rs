//! Module variables on a claimed GPU, where their addresses differ.
use super::regions::{Kernel, Regions};
use crate::check::Check;
use crate::driver::{must, Driver};
use std::ffi::{c_void, CStr};
use zerogpu_abi::*;

const VARIABLES: &CStr = c".version 8.0
.target sm_80
.address_size 64

.visible .global .align 4 .u32 word = 5;
.visible .global .align 8 .u64 wide = 6;
.visible .global .align 8 .u64 link = generic(wide);
";

/// The variables: address and bytes.
fn variable(d: &Driver, module: CUmodule, name: &CStr) -> (CUdeviceptr, usize) {
    let (mut at, mut size) = (0, 0);
    must("cuModuleGetGlobal", d.cuModuleGetGlobal_v2(&mut at, &mut size, module, name.as_ptr()));
    (at, size)
}

/// A region in which a GPU is claimed, where there are regions.
fn claimed(d: &Driver, t: &mut Check, kernel: &Kernel) -> Option<(Regions, u64)> {
    let region = Regions::find(d).map(|r| (r, r.begin()));
    if !t.driver.no_kernels {
        must("cuLaunchKernel", kernel.launch(d, CUstream::NULL));
    }
    region
}

fn ended(t: &mut Check, region: Option<(Regions, u64)>) {
    if let Some((r, region)) = region {
        t.that("the region ends", r.end(region));
    }
}

/// Values that a stream writes and waits for, in a variable of just their size.
pub fn stream_values(d: &'static Driver, t: &mut Check) {
    d.start();
    let (mut module, kernel, stream) = (CUmodule::NULL, Kernel::load(d), d.stream(1));
    must("cuModuleLoadData", d.cuModuleLoadData(&mut module, VARIABLES.as_ptr().cast()));
    let ((word, size), (wide, wide_size)) = (variable(d, module, c"word"), variable(d, module, c"wide"));
    t.same("their sizes", (size, wide_size), (4, 8));
    let values = |t: &mut Check, what: &str, value: u32| {
        t.code(format_args!("write 32 bits, {what}"), d.cuStreamWriteValue32_v2(stream, word, value, 0), 0);
        t.code(format_args!("wait for them, {what}"), d.cuStreamWaitValue32_v2(stream, word, value, 0), 0);
        t.code(format_args!("write 64 bits, {what}"), d.cuStreamWriteValue64_v2(stream, wide, value.into(), 0), 0);
        t.code(format_args!("wait for them, {what}"), d.cuStreamWaitValue64_v2(stream, wide, value.into(), 0), 0);
        d.wait(stream);
        let read = (d.read(word, 4), d.read(wide, 8));
        t.same(what, read, (value.to_le_bytes().to_vec(), u64::from(value).to_le_bytes().to_vec()));
    };
    values(t, "at first", 77);
    let region = claimed(d, t, &kernel);
    values(t, "in a region", 78);
    ended(t, region);
    values(t, "after it", 79);
}

/// A variable into which the loader writes an address still has ours at home, whatever was refused meanwhile.
pub fn linked(d: &'static Driver, t: &mut Check) {
    d.start();
    let (mut module, kernel) = (CUmodule::NULL, Kernel::load(d));
    must("cuModuleLoadData", d.cuModuleLoadData(&mut module, VARIABLES.as_ptr().cast()));
    let ((link, _), (wide, _)) = (variable(d, module, c"link"), variable(d, module, c"wide"));
    // softcuda's loader does not link: the program does it
    d.write(link, &wide.to_le_bytes());
    let mut bytes = [0u8; 16];
    for round in 0..2 {
        let region = claimed(d, t, &kernel);
        // with its module: a write that is as long as the variable
        must("cuMemsetD8", d.cuMemsetD8_v2(wide, 7, 8));
        let beyond = d.cuMemcpyDtoH_v2(bytes.as_mut_ptr().cast::<c_void>(), link, bytes.len());
        t.code(format_args!("a read beyond its end, {round}"), beyond, 1);
        ended(t, region);
        t.same(format_args!("the address in it, {round}"), d.read(link, 8), wide.to_le_bytes().to_vec());
    }
}

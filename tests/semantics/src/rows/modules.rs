//! Modules, kernels, errors and symbols by name.
use super::{step, Got, Program, Step};
use std::ffi::c_void;
use std::ptr::null_mut;
use zerogpu_abi::*;

fn parameter(s: &mut Program, index: usize) -> (CUresult, String) {
    let (mut offset, mut size) = (99, 99);
    let code = s.d.cuFuncGetParamInfo(s.function, index, &mut offset, &mut size);
    (code, format!("off size\t{offset}\t{size}"))
}

fn launch(s: &mut Program, function: CUfunction, grid: u32, block: u32, shared: u32) -> Got {
    let (mut pointer, mut number) = (s.p, 1i32);
    let mut values: [*mut c_void; 2] = [(&raw mut pointer).cast(), (&raw mut number).cast()];
    s.d.cuLaunchKernel(function, grid, 1, 1, block, 1, 1, shared, CUstream::NULL, values.as_mut_ptr(), null_mut())
        .into()
}

fn attribute(s: &mut Program, attribute: u32) -> Got {
    let mut value = 99;
    let code = s.d.cuFuncGetAttribute(&mut value, attribute, s.function);
    Got::value(code, format!("value\t{value}"))
}

fn address_of(s: &mut Program, name: &std::ffi::CStr, version: i32) -> Got {
    let (mut address, mut status) = (std::ptr::dangling_mut::<c_void>(), 99);
    let code = s.d.cuGetProcAddress_v2(name.as_ptr(), &mut address, version, 0, &mut status);
    Got::value(code, format!("fp={} status={status}", if address.is_null() { "(nil)" } else { "@" }))
}

pub(super) const STEPS: &[Step] = &[
    step("cuModuleLoadData garbage", |s| {
        s.d.cuModuleLoadData(&mut s.module, c"this is no image of any kind".as_ptr().cast()).into()
    }),
    step("cuModuleLoad missing file", |s| s.d.cuModuleLoad(&mut s.module, c"/nonexistent/image.cubin".as_ptr()).into()),
    step("cuModuleLoadData ptx", |s| s.d.cuModuleLoadData(&mut s.module, s.image.as_ptr().cast()).into()),
    step("cuModuleGetFunction missing", |s| {
        s.d.cuModuleGetFunction(&mut s.function, s.module, c"missing".as_ptr()).into()
    }),
    step("cuModuleGetFunction", |s| s.d.cuModuleGetFunction(&mut s.function, s.module, c"probe".as_ptr()).into()),
    step("cuModuleGetGlobal", |s| {
        let mut size = 0;
        let code = s.d.cuModuleGetGlobal_v2(&mut 0, &mut size, s.module, c"table".as_ptr());
        Got::value(code, format!("size\t{size}"))
    }),
    step("cuModuleGetGlobal missing", |s| {
        s.d.cuModuleGetGlobal_v2(&mut 0, &mut 0, s.module, c"missing".as_ptr()).into()
    }),
    step("cuFuncGetParamInfo 0", |s| {
        let (code, text) = parameter(s, 0);
        Got::value(code, text)
    }),
    step("cuFuncGetParamInfo 1", |s| {
        let (code, text) = parameter(s, 1);
        Got::value(code, text)
    }),
    step("cuFuncGetParamInfo 2 (past end)", |s| parameter(s, 2).0.into()),
    step("cuLaunchKernel", |s| launch(s, s.function, 1, 32, 0)),
    step("cuLaunchKernel block 2048", |s| launch(s, s.function, 1, 2048, 0)),
    step("cuLaunchKernel grid 0", |s| launch(s, s.function, 0, 32, 0)),
    step("cuLaunchKernel smem 300000", |s| launch(s, s.function, 1, 32, 300_000)),
    step("cuLaunchKernel NULL function", |s| launch(s, CUfunction::NULL, 1, 32, 0)),
    step("cuFuncGetAttribute 0", |s| attribute(s, 0)),
    step("cuFuncGetAttribute 1", |s| attribute(s, 1)),
    step("cuFuncGetAttribute 2", |s| attribute(s, 2)),
    step("cuFuncGetAttribute 3", |s| attribute(s, 3)),
    step("cuFuncGetAttribute 4", |s| attribute(s, 4)),
    step("cuFuncGetAttribute 5", |s| attribute(s, 5)),
    step("cuFuncGetAttribute 6", |s| attribute(s, 6)),
    step("cuFuncGetAttribute 7", |s| attribute(s, 7)),
    step("cuFuncGetAttribute 8", |s| attribute(s, 8)),
    step("cuFuncGetAttribute 9", |s| attribute(s, 9)),
    step("cuFuncGetAttribute 10", |s| attribute(s, 10)),
    step("cuFuncGetAttribute 11", |s| attribute(s, 11)),
    step("cuFuncGetAttribute 12", |s| attribute(s, 12)),
    step("cuFuncGetAttribute 13", |s| attribute(s, 13)),
    step("cuFuncGetAttribute 14", |s| attribute(s, 14)),
    step("cuFuncGetAttribute 15", |s| attribute(s, 15)),
    step("cuModuleUnload", |s| s.d.cuModuleUnload(s.module).into()),
    step("cuModuleUnload twice", |s| s.d.cuModuleUnload(s.module).into()),
    step("cuGetErrorString 999999", |s| {
        let mut text = std::ptr::null();
        s.d.cuGetErrorString(CUresult(999_999), &mut text).into()
    }),
    step("cuGetProcAddress missing", |s| address_of(s, c"cuNoSuchFunction", 13000)),
    step("cuGetProcAddress version too low", |s| address_of(s, c"cuMemAllocAsync", 2000)),
];

//! Options of the JIT compiler: what a driver is told of them when a module is made again for a claim.
use super::modules::launch;
use super::regions::Regions;
use crate::check::Check;
use crate::driver::{must, Driver};
use crate::image::PTX;
use std::ffi::c_void;
use std::ptr::null_mut;
use zerogpu_abi::*;

// cuda.h's CUjit_option.
const MAX_REGISTERS: u32 = 0;
const WALL_TIME: u32 = 2;
const INFO_LOG: u32 = 3;
const INFO_LOG_BYTES: u32 = 4;
const OPTIMIZATION_LEVEL: u32 = 7;
const LINE_INFO: u32 = 13;

const OPTIONS: [u32; 6] = [MAX_REGISTERS, WALL_TIME, INFO_LOG, INFO_LOG_BYTES, OPTIMIZATION_LEVEL, LINE_INFO];

/// Their values; `log` has room for them.
fn values(log: &mut [u8]) -> [*mut c_void; 6] {
    let number = |n: usize| n as *mut c_void;
    [number(32), number(1), log.as_mut_ptr().cast(), number(log.len()), number(2), number(1)]
}

/// A module and a library of PTX, in two claims: at each the driver below is told what has a meaning there.
pub fn options(d: &'static Driver, t: &mut Check) {
    d.start();
    let r = Regions::find(d).expect("the shim has regions");
    let (mut options, mut log, image) = (OPTIONS, [b'x'; 64], PTX.as_ptr().cast::<c_void>());
    let (mut module, mut library, mut kernel) = (CUmodule::NULL, CUlibrary::NULL, CUkernel::NULL);
    let (mut function, mut plain) = (CUfunction::NULL, CUmodule::NULL);
    let names = options.as_mut_ptr();

    let mut given = values(&mut log);
    let code = d.cuModuleLoadDataEx(&mut module, image, OPTIONS.len() as u32, names, given.as_mut_ptr());
    t.code("cuModuleLoadDataEx", code, 0);
    t.same("time and log", (given[1] as usize, given[3] as usize, log[0]), (0, 0, 0));
    must("cuModuleGetFunction", d.cuModuleGetFunction(&mut function, module, c"probe".as_ptr()));

    let mut given = values(&mut log);
    let (given, count) = (given.as_mut_ptr(), OPTIONS.len() as u32);
    let code = d.cuLibraryLoadData(&mut library, image, names, given, count, null_mut(), null_mut(), 0);
    t.code("cuLibraryLoadData", code, 0);
    must("cuLibraryGetKernel", d.cuLibraryGetKernel(&mut kernel, library, c"probe".as_ptr()));

    must("cuModuleLoadData", d.cuModuleLoadData(&mut plain, image));
    let mut without = CUfunction::NULL;
    must("cuModuleGetFunction", d.cuModuleGetFunction(&mut without, plain, c"probe".as_ptr()));

    for _ in 0..2 {
        let region = r.begin();
        for function in [function, CUfunction(kernel.0), without] {
            t.code("a launch", launch(d, function), 0);
        }
        t.that("the region ends", r.end(region));
    }
    let told =
        |line: &str| line.split_once("\"jit\":").map(|(_, rest)| rest.split("]]").next().unwrap_or("").to_string());
    let log = super::faults::read("SOFTCUDA_LAUNCH_LOG");
    let told: Vec<Option<String>> = log.lines().map(told).collect();
    let want = Some("[[0,32],[7,2],[13,1".to_string());
    let claim = [want.clone(), want, None];
    t.same("what the compiler was told", told, [claim.clone(), claim].concat());
}

//! Modules, libraries, kernels: each form of image, attributes, globals, occupancy, launches.
use super::faults::{again, part, read};
use super::regions::Regions;
use crate::check::Check;
use crate::driver::{must, Driver};
use crate::image::{fat_binary, Wrapper, CUBIN, PTX, TABLE};
use crate::tables::{Table, CUDART};
use std::ffi::{c_void, CStr};
use std::ptr::{null, null_mut};
use zerogpu_abi::*;

const NO_IMAGE: u32 = 209;
// cuda.h's CUfunction_attribute.
const MAX_THREADS: u32 = 0;
const SHARED_BYTES: u32 = 1;
const REGISTERS: u32 = 4;
const PTX_VERSION: u32 = 5;
const BINARY_VERSION: u32 = 6;
const MAX_DYNAMIC_SHARED: u32 = 8;
const CARVEOUT: u32 = 9;

fn load(d: &Driver, image: *const c_void) -> CUmodule {
    let mut module = CUmodule::NULL;
    must("cuModuleLoadData", d.cuModuleLoadData(&mut module, image));
    module
}

fn function(d: &Driver, module: CUmodule, name: &CStr) -> CUfunction {
    let mut function = CUfunction::NULL;
    must("cuModuleGetFunction", d.cuModuleGetFunction(&mut function, module, name.as_ptr()));
    function
}

fn attribute(d: &Driver, function: CUfunction, attribute: u32) -> i32 {
    let mut value = -77;
    must("cuFuncGetAttribute", d.cuFuncGetAttribute(&mut value, attribute, function));
    value
}

/// Each way to load the image, and what is in it.
pub fn loading(d: &Driver, t: &mut Check) {
    d.start();
    let fat = fat_binary(90);
    let wrapper: &'static Wrapper = Box::leak(Box::new(Wrapper::new(fat)));
    let wrapped = std::ptr::from_ref(wrapper).cast::<c_void>();
    let file = std::env::temp_dir().join(format!("zerogpu-semantics-{}.cubin", std::process::id()));
    std::fs::write(&file, CUBIN).expect("the folder for temporary files is writable");
    let path = std::ffi::CString::new(file.as_os_str().as_encoded_bytes()).expect("no NUL in a path");
    let cudart = Table::of(d, CUDART);
    type Load<'a> = (&'static str, &'a dyn Fn(&mut CUmodule) -> CUresult);
    let loads: [Load; 8] = [
        ("cuModuleLoadData of a cubin", &|m| d.cuModuleLoadData(m, CUBIN.as_ptr().cast())),
        ("cuModuleLoadData of a fat binary", &|m| d.cuModuleLoadData(m, fat.as_ptr().cast())),
        ("cuModuleLoadDataEx", &|m| d.cuModuleLoadDataEx(m, CUBIN.as_ptr().cast(), 0, null_mut(), null_mut())),
        ("cuModuleLoadFatBinary", &|m| d.cuModuleLoadFatBinary(m, fat.as_ptr().cast())),
        ("cuModuleLoad", &|m| d.cuModuleLoad(m, path.as_ptr())),
        ("cuModuleLoadData of PTX", &|m| d.cuModuleLoadData(m, PTX.as_ptr().cast())),
        ("CUDART[6]", &|m| cudart.load(m, wrapped, null(), null(), 0)),
        ("CUDART[8]", &|m| cudart.load_inner(m, fat.as_ptr().cast(), null(), null(), 0)),
    ];
    for (name, run) in loads {
        let mut module = CUmodule::NULL;
        if t.driver.real && name == "CUDART[8]" {
            // not of this fat binary (200, recorded); cudart of no PyTorch calls it
            continue;
        }
        t.code(name, run(&mut module), 0);
        if module == CUmodule::NULL {
            continue;
        }
        contents(d, t, name, module);
        t.code(format_args!("{name}: unload"), d.cuModuleUnload(module), 0);
        if name.starts_with("CUDART") {
            cudart.unloaded(0);
        }
    }
    std::fs::remove_file(&file).expect("our own file");
    unfit(d, t);
    jit_logs(d, t);
}

/// Options of the JIT compiler: its logs are empty, and say so.
fn jit_logs(d: &Driver, t: &mut Check) {
    let (mut module, mut log) = (CUmodule::NULL, [b'x'; 64]);
    // cuda.h: CU_JIT_WALL_TIME, _INFO_LOG_BUFFER, _INFO_LOG_BUFFER_SIZE_BYTES
    let mut options = [2u32, 3, 4];
    let mut values = [null_mut(), log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
    let code = d.cuModuleLoadDataEx(&mut module, CUBIN.as_ptr().cast(), 3, options.as_mut_ptr(), values.as_mut_ptr());
    t.code("cuModuleLoadDataEx with a log", code, 0);
    t.that("the log is a text", log.contains(&0));
    t.that("and not longer than its buffer", values[2] as usize <= log.len());
    if !t.driver.real {
        t.same("an empty one", (log[0], values[2] as usize), (0, 0));
    }
    must("cuModuleUnload", d.cuModuleUnload(module));
}

fn contents(d: &Driver, t: &mut Check, name: &str, module: CUmodule) {
    let mut count = 0;
    t.code(format_args!("{name}: cuModuleGetFunctionCount"), d.cuModuleGetFunctionCount(&mut count, module), 0);
    t.same(format_args!("{name}: two kernels"), count, 2);
    let mut both = [CUfunction::NULL; 2];
    t.code(
        format_args!("{name}: cuModuleEnumerateFunctions"),
        d.cuModuleEnumerateFunctions(both.as_mut_ptr(), 2, module),
        0,
    );
    let mut names: Vec<String> = both.iter().map(|f| function_name(d, *f)).collect();
    names.sort();
    t.same(format_args!("{name}: their names"), names, vec!["heavy".to_string(), "probe".to_string()]);
    let (mut address, mut size, mut of) = (0, 0, CUmodule::NULL);
    let code = d.cuModuleGetGlobal_v2(&mut address, &mut size, module, c"table".as_ptr());
    t.same(format_args!("{name}: its global"), (code.0, size), (0, 64));
    let mut want = [0; 64];
    want[..8].copy_from_slice(&TABLE);
    t.that(format_args!("{name}: the image's bytes in it"), code.ok() && d.read(address, 64) == want);
    t.code(format_args!("{name}: cuFuncGetModule"), d.cuFuncGetModule(&mut of, function(d, module, c"probe")), 0);
    t.same(format_args!("{name}: the function's module"), of, module);
}

fn function_name(d: &Driver, function: CUfunction) -> String {
    let mut name = null();
    must("cuFuncGetName", d.cuFuncGetName(&mut name, function));
    // SAFETY: the driver's answer is a string that lives as long as the function.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

/// An image for another card: a module fails at once, a library when its module is asked for.
fn unfit(d: &Driver, t: &mut Check) {
    let fat = fat_binary(35);
    let wrapper: &'static Wrapper = Box::leak(Box::new(Wrapper::new(fat)));
    let wrapped = std::ptr::from_ref(wrapper).cast::<c_void>();
    let mut module = CUmodule(55);
    t.code("code for another card", d.cuModuleLoadData(&mut module, fat.as_ptr().cast()), NO_IMAGE);
    let code = Table::of(d, CUDART).load(&mut module, wrapped, null(), null(), 0);
    t.code("CUDART[6] with code for another card", code, NO_IMAGE);
    t.same("the output of a failed load", module, CUmodule(55));
    let mut library = CUlibrary::NULL;
    t.code("a library of it", open_library(d, &mut library, wrapped), 0);
    t.code("and its module", d.cuLibraryGetModule(&mut module, library), NO_IMAGE);
    t.code("unload", d.cuLibraryUnload(library), 0);
    t.code("NULL image", d.cuModuleLoadData(&mut module, null()), 1);
    let broken: &'static mut [u8] = CUBIN.to_vec().leak();
    broken[16..200].fill(0xff);
    t.that("a broken ELF file", !d.cuModuleLoadData(&mut module, broken.as_ptr().cast()).ok());
}

fn open_library(d: &Driver, library: &mut CUlibrary, image: *const c_void) -> CUresult {
    d.cuLibraryLoadData(library, image, null_mut(), null_mut(), 0, null_mut(), null_mut(), 0)
}

/// Globals: address, bytes, and that they go with the module.
pub fn globals(d: &Driver, t: &mut Check) {
    d.start();
    let (a, b) = (load(d, CUBIN.as_ptr().cast()), load(d, CUBIN.as_ptr().cast()));
    let global = |module| {
        let mut address = 0;
        // a runtime asks without the size
        let code = d.cuModuleGetGlobal_v2(&mut address, null_mut(), module, c"table".as_ptr());
        (code.0, address)
    };
    let ((code, at), other) = (global(a), global(b));
    t.same("a global without its size", code, 0);
    let mut size = 0;
    t.code("a size without its global", d.cuModuleGetGlobal_v2(null_mut(), &mut size, a, c"table".as_ptr()), 0);
    t.same("size", size, 64);
    t.same("asked again, the same address", global(a), (0, at));
    t.that("another module has its own", other.0 == 0 && other.1 != at);
    d.write(at, &[9; 64]);
    t.that("it is memory", d.read(at, 64) == [9; 64]);
    t.that("the other's is not touched", d.read(other.1, 8) == TABLE);
    t.code("write beyond it", d.cuMemsetD8_v2(at, 1, 1 << 30), 1);
    must("cuModuleUnload", d.cuModuleUnload(a));
    t.that("the other stays", d.read(other.1, 8) == TABLE);
    must("cuModuleUnload", d.cuModuleUnload(b));
}

/// Libraries and kernels, as a CUDA 12 runtime uses them.
pub fn libraries(d: &Driver, t: &mut Check) {
    let mut library = CUlibrary::NULL;
    must("cuInit", d.cuInit(0));
    let wrapper: &'static Wrapper = Box::leak(Box::new(Wrapper::new(fat_binary(90))));
    let code = open_library(d, &mut library, std::ptr::from_ref(wrapper).cast());
    t.code("cuLibraryLoadData with no context", code, 0);
    let (mut kernel, mut missing, mut count) = (CUkernel::NULL, CUkernel::NULL, 0);
    t.code("cuLibraryGetKernel with no context", d.cuLibraryGetKernel(&mut kernel, library, c"probe".as_ptr()), 0);
    t.code("a kernel that is not there", d.cuLibraryGetKernel(&mut missing, library, c"missing".as_ptr()), 500);
    t.code("cuLibraryGetKernelCount", d.cuLibraryGetKernelCount(&mut count, library), 0);
    t.same("two kernels", count, 2);
    d.start();
    let (mut module, mut again, mut f) = (CUmodule::NULL, CUmodule::NULL, CUfunction::NULL);
    t.code("cuLibraryGetModule", d.cuLibraryGetModule(&mut module, library), 0);
    must("cuLibraryGetModule", d.cuLibraryGetModule(&mut again, library));
    t.same("the same module each time", again, module);
    t.code("cuKernelGetFunction", d.cuKernelGetFunction(&mut f, kernel), 0);
    let from_module = function(d, module, c"probe");
    for number in 0..10 {
        let mut of_kernel = -77;
        t.code("cuKernelGetAttribute", d.cuKernelGetAttribute(&mut of_kernel, number, kernel, 0), 0);
        let both = (attribute(d, f, number), attribute(d, from_module, number));
        t.same(format_args!("attribute {number}: kernel and functions"), both, (of_kernel, of_kernel));
    }
    let (mut offset, mut size) = (9, 9);
    t.code("cuKernelGetParamInfo", d.cuKernelGetParamInfo(kernel, 1, &mut offset, &mut size), 0);
    t.same("its second parameter", (offset, size), (8, 4));
    let (mut address, mut bytes) = (0, 0);
    t.code("cuLibraryGetGlobal", d.cuLibraryGetGlobal(&mut address, &mut bytes, library, c"table".as_ptr()), 0);
    t.that("its bytes", bytes == 64 && d.read(address, 8) == TABLE);
    t.code("cuKernelSetAttribute", d.cuKernelSetAttribute(MAX_DYNAMIC_SHARED, 65_536, kernel, 0), 0);
    let mut value = 0;
    must("cuKernelGetAttribute", d.cuKernelGetAttribute(&mut value, MAX_DYNAMIC_SHARED, kernel, 0));
    t.same("the attribute set", value, 65_536);
    t.code("cuLibraryUnload", d.cuLibraryUnload(library), 0);
}

/// Attributes of both kernels, and which can be set.
pub fn attributes(d: &Driver, t: &mut Check) {
    d.start();
    let module = load(d, CUBIN.as_ptr().cast());
    let (probe, heavy) = (function(d, module, c"probe"), function(d, module, c"heavy"));
    let of = |f, names: [u32; 5]| names.map(|name| attribute(d, f, name));
    let names = [MAX_THREADS, SHARED_BYTES, REGISTERS, PTX_VERSION, BINARY_VERSION];
    t.same("probe", of(probe, names), [1024, 0, 4, 80, 90]);
    // ptxas -v: 10 registers, 40960 bytes of shared memory
    t.same("heavy", of(heavy, names), [256, 40_960, 10, 80, 90]);
    t.same("what is left of 48 KiB", attribute(d, heavy, MAX_DYNAMIC_SHARED), 49_152 - 40_960);
    let limit = d.device_attribute(97);
    t.code("dynamic shared memory up to the card's", d.cuFuncSetAttribute(probe, MAX_DYNAMIC_SHARED, limit), 0);
    t.same("is kept", attribute(d, probe, MAX_DYNAMIC_SHARED), limit);
    t.code("and no more", d.cuFuncSetAttribute(probe, MAX_DYNAMIC_SHARED, limit + 1), 1);
    t.code("a carve-out", d.cuFuncSetAttribute(probe, CARVEOUT, 50), 0);
    t.same("is kept", attribute(d, probe, CARVEOUT), 50);
    t.code("a carve-out of 101 %", d.cuFuncSetAttribute(probe, CARVEOUT, 101), 1);
    t.code("registers can't be set", d.cuFuncSetAttribute(probe, REGISTERS, 8), 1);
    t.code("an unknown attribute", d.cuFuncGetAttribute(&mut 0, 999, probe), 1);
    t.code("into NULL", d.cuFuncGetAttribute(null_mut(), 0, probe), 1);
    t.code("the default carve-out", d.cuFuncSetAttribute(probe, CARVEOUT, -1), 0);
    t.code("cuFuncSetCacheConfig", d.cuFuncSetCacheConfig(probe, 1), 0);
    t.code("cuFuncSetSharedMemConfig", d.cuFuncSetSharedMemConfig(probe, 0), 0);
    occupancy(d, t, probe, heavy);
    launches(d, t, probe, heavy);
}

/// Blocks a multiprocessor, by threads, by shared memory and by their number.
fn occupancy(d: &Driver, t: &mut Check, probe: CUfunction, heavy: CUfunction) {
    let mut blocks = 0;
    let mut most = |f, threads, shared| {
        let code = d.cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, f, threads, shared);
        (code.0, blocks)
    };
    if d.device_attribute(75) == 9 {
        // 2048 threads, 32 blocks, 233472 bytes of shared memory, 1024 of them a block's overhead
        for (f, threads, shared, want) in
            [(probe, 1024, 0, 2), (probe, 256, 0, 8), (probe, 32, 0, 32), (probe, 32, 100_000, 2), (heavy, 256, 0, 5)]
        {
            t.same(format_args!("blocks of {threads} threads, {shared} bytes"), most(f, threads, shared), (0, want));
        }
    }
    t.same("more threads than a block has", most(probe, 2048, 0), (0, 0));
    t.same("no threads", most(probe, 0, 0).0, 1);
    let (mut grid, mut block, mut free) = (0, 0, 0);
    let code = d.cuOccupancyMaxPotentialBlockSize(&mut grid, &mut block, heavy, None, 0, 0);
    t.code("cuOccupancyMaxPotentialBlockSize", code, 0);
    t.same("the block that fills the card", block, 256);
    t.that("a grid for all multiprocessors", grid >= d.device_attribute(16));
    t.code(
        "cuOccupancyAvailableDynamicSMemPerBlock",
        d.cuOccupancyAvailableDynamicSMemPerBlock(&mut free, probe, 1, 256),
        0,
    );
    t.that("what one block may have", free >= 49_152 && free <= d.device_attribute(81) as usize);
}

/// Code that was unloaded with a launch of it still to come is gone for the app, and the launch comes.
pub fn unloading(d: &Driver, t: &mut Check) {
    d.start();
    let module = load(d, CUBIN.as_ptr().cast());
    let probe = function(d, module, c"probe");
    let mut library = CUlibrary::NULL;
    must("cuLibraryLoadData", open_library(d, &mut library, CUBIN.as_ptr().cast()));
    let (mut kernel, mut other) = (CUkernel::NULL, CUfunction::NULL);
    must("cuLibraryGetKernel", d.cuLibraryGetKernel(&mut kernel, library, c"probe".as_ptr()));
    let (mut pointer, mut number) = (d.alloc(1 << 16), 3i32);
    let mut values: [*mut c_void; 2] = [(&raw mut pointer).cast(), (&raw mut number).cast()];
    let mut launch = |f| d.cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, CUstream::NULL, values.as_mut_ptr(), null_mut());
    let want = if t.driver.no_kernels { 100 } else { 0 };
    t.code("launch", launch(probe), want);
    t.code("launch a kernel of a library", launch(CUfunction(kernel.0)), want);
    t.code("unload the module", d.cuModuleUnload(module), 0);
    t.code("unload the library", d.cuLibraryUnload(library), 0);
    // a real driver may dereference what is gone
    if !t.driver.real {
        t.code("a function of it", d.cuModuleGetFunction(&mut other, module, c"heavy".as_ptr()), 400);
        t.code("an attribute of its function", d.cuFuncGetAttribute(&mut 0, 0, probe), 400);
        t.code("a launch", launch(probe), 400);
        t.code("a kernel of the library", d.cuLibraryGetKernel(&mut kernel, library, c"heavy".as_ptr()), 400);
        t.code("a launch of its kernel", launch(CUfunction(kernel.0)), 400);
        t.code("unload the library again", d.cuLibraryUnload(library), 400);
    }
    t.code("what was launched has run", d.cuCtxSynchronize(), 0);
    t.same("and is no error", d.read(pointer, 64).len(), 64);
}

/// What a launch checks before it runs anything.
fn launches(d: &Driver, t: &mut Check, probe: CUfunction, heavy: CUfunction) {
    let stream = d.stream(1);
    let (mut pointer, mut number) = (d.alloc(1 << 16), 3i32);
    let mut values: [*mut c_void; 2] = [(&raw mut pointer).cast(), (&raw mut number).cast()];
    let values = values.as_mut_ptr();
    let launch = |f, grid: [u32; 3], block: [u32; 3], shared| {
        let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
        d.cuLaunchKernel(f, gx, gy, gz, bx, by, bz, shared, stream, values, null_mut())
    };
    let runs = |t: &mut Check, what: &str, code: CUresult| {
        if t.driver.no_kernels {
            t.that(format_args!("{what}: fails where nothing can run it"), !code.ok());
        } else {
            t.code(what, code, 0);
        }
    };
    runs(t, "a launch", launch(probe, [2, 2, 2], [8, 8, 8], 0));
    runs(t, "all the shared memory that was set", launch(probe, [1, 1, 1], [32, 1, 1], 100_000));
    runs(t, "the bound of the kernel", launch(heavy, [1, 1, 1], [256, 1, 1], 0));
    t.one_of("more threads than the kernel's bound", launch(heavy, [1, 1, 1], [512, 1, 1], 0), &[1, 701]);
    t.code("more shared memory than was set", launch(heavy, [1, 1, 1], [32, 1, 1], 20_000), 1);
    t.code("1025 threads", launch(probe, [1, 1, 1], [1025, 1, 1], 0), 1);
    t.code("a block 65 deep", launch(probe, [1, 1, 1], [1, 1, 65], 0), 1);
    t.code("a grid 65536 high", launch(probe, [1, 65_536, 1], [1, 1, 1], 0), 1);
    t.code("a block without depth", launch(probe, [1, 1, 1], [1, 1, 0], 0), 1);
    let mut buffer = [0u8; 12];
    let mut size = buffer.len();
    // cuda.h: CU_LAUNCH_PARAM_BUFFER_POINTER, _BUFFER_SIZE, _END
    let mut extra: [*mut c_void; 5] = [
        std::ptr::without_provenance_mut::<c_void>(1),
        buffer.as_mut_ptr().cast(),
        2 as *mut c_void,
        (&raw mut size).cast(),
        null_mut(),
    ];
    let packed = d.cuLaunchKernel(probe, 1, 1, 1, 32, 1, 1, 0, stream, null_mut(), extra.as_mut_ptr());
    runs(t, "packed parameters", packed);
    let both = d.cuLaunchKernel(probe, 1, 1, 1, 32, 1, 1, 0, stream, values, extra.as_mut_ptr());
    t.code("both forms of parameters", both, 1);
    let config = CUlaunchConfig {
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 32,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: stream,
        attrs: null_mut(),
        numAttrs: 0,
    };
    runs(t, "cuLaunchKernelEx", d.cuLaunchKernelEx(&config, probe, values, null_mut()));
    t.code("cuLaunchKernelEx into NULL", d.cuLaunchKernelEx(null(), probe, values, null_mut()), 1);
    runs(t, "cuLaunchCooperativeKernel", d.cuLaunchCooperativeKernel(probe, 1, 1, 1, 32, 1, 1, 0, stream, values));
    let whole = d.cuLaunchCooperativeKernel(probe, 65_535, 1, 1, 1024, 1, 1, 0, stream, values);
    t.code("a cooperative grid larger than the card", whole, 720);
    let mut value = CUlaunchAttributeValue { words: [0; 8] };
    value.words[0] = 1;
    // cuda.h: CU_LAUNCH_ATTRIBUTE_COOPERATIVE
    let mut cooperative = [CUlaunchAttribute { id: 2, pad: [0; 4], value }];
    let config = CUlaunchConfig { gridDimX: 65_535, attrs: cooperative.as_mut_ptr(), numAttrs: 1, ..config };
    t.code("by attribute", d.cuLaunchKernelEx(&config, probe, values, null_mut()), 720);
    t.code("the stream afterwards", d.cuStreamSynchronize(stream), 0);
}

/// Launches the probe.
pub(super) fn launch(d: &Driver, function: CUfunction) -> CUresult {
    launch_with(d, function, 0)
}

/// The same, with so many bytes of dynamic shared memory.
fn launch_with(d: &Driver, function: CUfunction, shared: i32) -> CUresult {
    let (mut pointer, mut number) = (0u64, 1i32);
    let mut values: [*mut c_void; 2] = [(&raw mut pointer).cast(), (&raw mut number).cast()];
    d.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, shared as u32, CUstream::NULL, values.as_mut_ptr(), null_mut())
}

/// Programs set the same attribute before each launch: the driver below hears of it once.
pub fn attributes_set_again(d: &'static Driver, t: &mut Check) {
    const ROUNDS: i32 = 50;
    if part().is_none() {
        let log = format!("{}-calls", std::env::var("SOFTCUDA_CARDS").expect("the harness names the cards"));
        return again(t, "module_attributes_set_again", "calls", &[("SOFTCUDA_CALL_LOG", &log)]);
    }
    d.start();
    let r = Regions::find(d).expect("the shim has regions");
    let region = r.begin();
    let probe = function(d, load(d, CUBIN.as_ptr().cast()), c"probe");
    let mut set = |value| {
        t.code("cuFuncSetAttribute", d.cuFuncSetAttribute(probe, CARVEOUT, value), 0);
        t.code("cuFuncSetCacheConfig", d.cuFuncSetCacheConfig(probe, 2), 0);
        t.code("a launch", launch(d, probe), 0);
    };
    (0..ROUNDS).for_each(|_| set(50));
    // another value counts
    set(51);
    let calls = read("SOFTCUDA_CALL_LOG");
    let count = |name| calls.lines().filter(|line| *line == name).count();
    let names = ["cuLaunchKernel", "cuModuleGetFunction", "cuFuncSetAttribute", "cuFuncSetCacheConfig"];
    t.same("calls of the driver below", names.map(count), [ROUNDS as usize + 1, 2, 2, 2]);
    t.that("the region ends", r.end(region));
}

/// A kernel and its function are one on the card: whichever was set last, the next launch of either has it.
pub fn attributes_of_kernels(d: &'static Driver, t: &mut Check) {
    const SOME: i32 = 32 << 10;
    const MUCH: i32 = 64 << 10;
    d.start();
    let r = Regions::find(d).expect("the shim has regions");
    let region = r.begin();
    let (mut library, mut kernel) = (CUlibrary::NULL, CUkernel::NULL);
    must("cuLibraryLoadData", open_library(d, &mut library, CUBIN.as_ptr().cast()));
    must("cuLibraryGetKernel", d.cuLibraryGetKernel(&mut kernel, library, c"probe".as_ptr()));
    let mut module = CUmodule::NULL;
    must("cuLibraryGetModule", d.cuLibraryGetModule(&mut module, library));
    // not asked of the kernel, which knows it all the same
    let f = function(d, module, c"probe");
    let k = CUfunction(kernel.0);
    let set_kernel = |bytes| must("cuKernelSetAttribute", d.cuKernelSetAttribute(MAX_DYNAMIC_SHARED, bytes, kernel, 0));
    let set_function = |bytes| must("cuFuncSetAttribute", d.cuFuncSetAttribute(f, MAX_DYNAMIC_SHARED, bytes));
    set_kernel(MUCH);
    t.code("the kernel, set", launch_with(d, k, MUCH), 0);
    t.code("its function then", launch_with(d, f, MUCH), 0);
    set_function(SOME);
    t.code("the function, set", launch_with(d, f, SOME), 0);
    set_kernel(MUCH);
    t.code("the kernel, set to what it had", launch_with(d, k, MUCH), 0);
    set_kernel(SOME);
    t.code("the kernel, set to less", launch_with(d, k, SOME), 0);
    set_function(MUCH);
    t.code("the kernel, whose function was set", launch_with(d, k, MUCH), 0);
    t.that("the region ends", r.end(region));
}

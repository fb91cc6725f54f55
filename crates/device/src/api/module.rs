//! Modules, libraries, kernels and functions.
use super::*;
use crate::link::{is_kept, Setting};
use crate::runtime::{backend, lock};
use std::ffi::{c_char, c_void};
use zerogpu_abi::*;
use zerogpu_image::Source;

unsafe fn source(image: *const c_void) -> Res<Source> {
    if image.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    zerogpu_image::open(image.cast()).map_err(|e| e.code())
}

fn file(name: &str) -> Res<Source> {
    let bytes = std::fs::read(name).map_err(|_| CUresult::FILE_NOT_FOUND)?;
    Source::from_bytes(bytes).map_err(|e| e.code())
}

unsafe fn load(module: *mut CUmodule, image: *const c_void, settings: Vec<Setting>) -> Res {
    wanted(module)?;
    // without a context nothing is read
    lock()?.current()?;
    let source = source(image)?;
    let mut st = lock()?;
    st.forbid_unsafe()?;
    out(module, st.load_module(source, settings)?)
}

pub unsafe fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void) -> CUresult {
    answer(|| load(module, image, Vec::new()))
}

/// Options of the JIT compiler concern PTX on a real driver: those that it will be told. It has nothing to say here: empty
/// logs, no time.
unsafe fn jit_settings(n: u32, options: *const u32, values: *mut *mut c_void) -> Res<Vec<Setting>> {
    use crate::link::option::{ERROR_LOG, ERROR_LOG_BYTES, INFO_LOG, INFO_LOG_BYTES, WALL_TIME};
    const LOGS: [u32; 2] = [INFO_LOG, ERROR_LOG];
    const LOG_BYTES: [u32; 2] = [INFO_LOG_BYTES, ERROR_LOG_BYTES];
    let options = array(options, n as usize)?;
    if n > 0 && values.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let value = |option: u32| options.iter().position(|&o| o == option).map(|i| values.add(i));
    let kept = options.iter().enumerate().filter(|(_, option)| is_kept(**option));
    let kept = kept.map(|(i, &option)| (option, values.add(i).read_unaligned() as usize)).collect();
    for (log, bytes) in LOGS.into_iter().zip(LOG_BYTES) {
        let room = value(bytes).map_or(0, |v| v.read_unaligned() as usize as u32);
        let buffer = value(log).map_or(std::ptr::null_mut(), |v| v.read_unaligned());
        if room > 0 {
            out_opt(buffer.cast::<c_char>(), 0);
        }
    }
    for option in [WALL_TIME].into_iter().chain(LOG_BYTES) {
        if let Some(v) = value(option) {
            v.write_unaligned(std::ptr::null_mut());
        }
    }
    Ok(kept)
}

pub unsafe fn cuModuleLoadDataEx(
    module: *mut CUmodule,
    image: *const c_void,
    numOptions: u32,
    options: *mut u32,
    optionValues: *mut *mut c_void,
) -> CUresult {
    answer(|| {
        wanted(module)?;
        let settings = jit_settings(numOptions, options, optionValues)?;
        load(module, image, settings)
    })
}

pub unsafe fn cuModuleLoadFatBinary(module: *mut CUmodule, fatCubin: *const c_void) -> CUresult {
    answer(|| load(module, fatCubin, Vec::new()))
}

pub unsafe fn cuModuleLoad(module: *mut CUmodule, fname: *const c_char) -> CUresult {
    answer(|| {
        wanted(module)?;
        lock()?.current()?;
        let source = file(text(fname)?)?;
        let mut st = lock()?;
        st.forbid_unsafe()?;
        out(module, st.load_module(source, Vec::new())?)
    })
}

/// A launch that was accepted runs, also one that waits behind a host function, so the code stays until it has. As in
/// `cuMemFree` the caller waits; that NVIDIA's driver waits here too is assumed, not recorded.
pub unsafe fn cuModuleUnload(module: CUmodule) -> CUresult {
    answer(|| {
        {
            let mut st = lock()?;
            st.current()?;
            st.forbid_unsafe()?;
        }
        end_work()?;
        let ended = lock()?.unload_module(module);
        backend()?.ended();
        ended
    })
}

pub unsafe fn cuModuleGetLoadingMode(mode: *mut u32) -> CUresult {
    answer(|| {
        // 1 eager, 2 lazy; the app chooses as with a driver
        let eager = std::env::var_os("CUDA_MODULE_LOADING").is_some_and(|v| v == "EAGER");
        out(mode, if eager { 1 } else { 2 })
    })
}

pub unsafe fn cuModuleGetFunction(func: *mut CUfunction, module: CUmodule, name: *const c_char) -> CUresult {
    answer(|| {
        wanted(func)?;
        out(func, lock()?.function(module, text(name)?)?)
    })
}

pub unsafe fn cuModuleGetFunctionCount(count: *mut u32, module: CUmodule) -> CUresult {
    answer(|| {
        wanted(count)?;
        let mut st = lock()?;
        st.module(module)?;
        out(count, st.module_image(module)?.kernels().len() as u32)
    })
}

pub unsafe fn cuModuleEnumerateFunctions(functions: *mut CUfunction, n: u32, module: CUmodule) -> CUresult {
    answer(|| {
        wanted(functions)?;
        let mut st = lock()?;
        st.module(module)?;
        let image = st.module_image(module)?;
        for (i, k) in image.kernels().iter().take(n as usize).enumerate() {
            out(functions.add(i), st.function(module, &k.name)?)?;
        }
        Ok(())
    })
}

unsafe fn global(
    st: &mut crate::runtime::State,
    module: CUmodule,
    name: *const c_char,
    dptr: *mut CUdeviceptr,
    bytes: *mut usize,
) -> Res {
    let name = text(name)?;
    if dptr.is_null() && bytes.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    st.module(module)?;
    let (at, size) = st.global(module, name)?;
    crate::objects::ADDRESSES_TOLD.store(true, std::sync::atomic::Ordering::Release);
    out_opt(dptr, at);
    out_opt(bytes, size as usize);
    Ok(())
}

pub unsafe fn cuModuleGetGlobal_v2(
    dptr: *mut CUdeviceptr,
    bytes: *mut usize,
    module: CUmodule,
    name: *const c_char,
) -> CUresult {
    answer(|| global(&mut *lock()?, module, name, dptr, bytes))
}

pub unsafe fn cuLibraryLoadData(
    library: *mut CUlibrary,
    code: *const c_void,
    jitOptions: *mut u32,
    jitOptionsValues: *mut *mut c_void,
    numJitOptions: u32,
    _libraryOptions: *mut u32,
    _libraryOptionValues: *mut *mut c_void,
    _numLibraryOptions: u32,
) -> CUresult {
    answer(|| {
        wanted(library)?;
        let settings = jit_settings(numJitOptions, jitOptions, jitOptionsValues)?;
        let source = source(code)?;
        out(library, lock()?.load_library(source, settings)?)
    })
}

pub unsafe fn cuLibraryLoadFromFile(
    library: *mut CUlibrary,
    fileName: *const c_char,
    jitOptions: *mut u32,
    jitOptionsValues: *mut *mut c_void,
    numJitOptions: u32,
    _libraryOptions: *mut u32,
    _libraryOptionValues: *mut *mut c_void,
    _numLibraryOptions: u32,
) -> CUresult {
    answer(|| {
        wanted(library)?;
        let settings = jit_settings(numJitOptions, jitOptions, jitOptionsValues)?;
        let source = file(text(fileName)?)?;
        out(library, lock()?.load_library(source, settings)?)
    })
}

pub unsafe fn cuLibraryUnload(library: CUlibrary) -> CUresult {
    answer(|| {
        lock()?.library(library)?;
        end_work()?;
        let ended = lock()?.unload_library(library);
        backend()?.ended();
        ended
    })
}

pub unsafe fn cuLibraryGetModule(module: *mut CUmodule, library: CUlibrary) -> CUresult {
    answer(|| {
        wanted(module)?;
        out(module, lock()?.library_module(library)?)
    })
}

pub unsafe fn cuLibraryGetKernel(kernel: *mut CUkernel, library: CUlibrary, name: *const c_char) -> CUresult {
    answer(|| {
        wanted(kernel)?;
        out(kernel, lock()?.library_kernel(library, text(name)?)?)
    })
}

pub unsafe fn cuLibraryGetKernelCount(count: *mut u32, lib: CUlibrary) -> CUresult {
    answer(|| {
        wanted(count)?;
        let mut st = lock()?;
        st.library(lib)?;
        out(count, st.library_image(lib)?.kernels().len() as u32)
    })
}

pub unsafe fn cuLibraryEnumerateKernels(kernels: *mut CUkernel, n: u32, lib: CUlibrary) -> CUresult {
    answer(|| {
        wanted(kernels)?;
        let mut st = lock()?;
        st.library(lib)?;
        let image = st.library_image(lib)?;
        for (i, k) in image.kernels().iter().take(n as usize).enumerate() {
            out(kernels.add(i), st.library_kernel(lib, &k.name)?)?;
        }
        Ok(())
    })
}

pub unsafe fn cuLibraryGetGlobal(
    dptr: *mut CUdeviceptr,
    bytes: *mut usize,
    library: CUlibrary,
    name: *const c_char,
) -> CUresult {
    answer(|| {
        let mut st = lock()?;
        let module = st.library_module(library)?;
        global(&mut st, module, name, dptr, bytes)
    })
}

pub unsafe fn cuLibraryGetManaged(
    _dptr: *mut CUdeviceptr,
    _bytes: *mut usize,
    library: CUlibrary,
    _name: *const c_char,
) -> CUresult {
    answer(|| {
        lock()?.library(library)?;
        Err(CUresult::NOT_FOUND)
    })
}

pub unsafe fn cuKernelGetFunction(pFunc: *mut CUfunction, kernel: CUkernel) -> CUresult {
    answer(|| {
        wanted(pFunc)?;
        out(pFunc, lock()?.kernel_function(kernel)?)
    })
}

pub unsafe fn cuKernelGetLibrary(pLib: *mut CUlibrary, kernel: CUkernel) -> CUresult {
    answer(|| {
        wanted(pLib)?;
        out(pLib, lock()?.kernel(kernel)?.library)
    })
}

pub unsafe fn cuKernelGetAttribute(pi: *mut i32, attrib: u32, kernel: CUkernel, dev: CUdevice) -> CUresult {
    answer(|| {
        wanted(pi)?;
        the_device(dev)?;
        out(pi, attribute(kernel.0, attrib)?)
    })
}

pub unsafe fn cuKernelSetAttribute(attrib: u32, val: i32, kernel: CUkernel, dev: CUdevice) -> CUresult {
    answer(|| {
        the_device(dev)?;
        let mut st = lock()?;
        st.kernel(kernel)?;
        st.set_function_attribute(kernel.0, attrib, val)
    })
}

pub unsafe fn cuKernelSetCacheConfig(kernel: CUkernel, config: u32, dev: CUdevice) -> CUresult {
    answer(|| {
        the_device(dev)?;
        let mut st = lock()?;
        st.kernel(kernel)?;
        st.set_function_cache(kernel.0, config)
    })
}

pub unsafe fn cuKernelGetName(name: *mut *const c_char, kernel: CUkernel) -> CUresult {
    answer(|| {
        wanted(name)?;
        out(name, lock()?.any_function(kernel.0)?.name.as_ptr())
    })
}

pub unsafe fn cuKernelGetParamInfo(
    kernel: CUkernel,
    paramIndex: usize,
    paramOffset: *mut usize,
    paramSize: *mut usize,
) -> CUresult {
    param_info(kernel.0, paramIndex, paramOffset, paramSize)
}

unsafe fn param_info(f: usize, index: usize, offset: *mut usize, size: *mut usize) -> CUresult {
    answer(|| {
        wanted(offset)?;
        let kernel = lock()?.any_function(f)?.kernel.clone();
        let p = kernel.params.get(index).ok_or(CUresult::INVALID_VALUE)?;
        out(offset, p.offset as usize)?;
        out_opt(size, p.size as usize);
        Ok(())
    })
}

fn attribute(f: usize, attrib: u32) -> Res<i32> {
    let mut st = lock()?;
    let function = st.any_function(f)?.clone();
    st.note_estimates(&function);
    function.attribute(attrib)
}

pub unsafe fn cuFuncGetAttribute(pi: *mut i32, attrib: u32, hfunc: CUfunction) -> CUresult {
    answer(|| {
        wanted(pi)?;
        out(pi, attribute(hfunc.0, attrib)?)
    })
}

pub unsafe fn cuFuncSetAttribute(hfunc: CUfunction, attrib: u32, value: i32) -> CUresult {
    answer(|| lock()?.set_function_attribute(hfunc.0, attrib, value))
}

pub unsafe fn cuFuncSetCacheConfig(hfunc: CUfunction, config: u32) -> CUresult {
    answer(|| lock()?.set_function_cache(hfunc.0, config))
}

pub unsafe fn cuFuncSetSharedMemConfig(hfunc: CUfunction, config: u32) -> CUresult {
    answer(|| {
        lock()?.any_function(hfunc.0)?;
        if config > 2 {
            Err(CUresult::INVALID_VALUE)
        } else {
            Ok(())
        }
    })
}

pub unsafe fn cuFuncGetModule(hmod: *mut CUmodule, hfunc: CUfunction) -> CUresult {
    answer(|| {
        wanted(hmod)?;
        out(hmod, lock()?.any_function(hfunc.0)?.module)
    })
}

pub unsafe fn cuFuncGetName(name: *mut *const c_char, hfunc: CUfunction) -> CUresult {
    answer(|| {
        wanted(name)?;
        out(name, lock()?.any_function(hfunc.0)?.name.as_ptr())
    })
}

pub unsafe fn cuFuncGetParamInfo(
    func: CUfunction,
    paramIndex: usize,
    paramOffset: *mut usize,
    paramSize: *mut usize,
) -> CUresult {
    param_info(func.0, paramIndex, paramOffset, paramSize)
}

/// Everything is loaded, as far as the app can tell.
pub unsafe fn cuFuncIsLoaded(state: *mut u32, function: CUfunction) -> CUresult {
    answer(|| {
        wanted(state)?;
        lock()?.any_function(function.0)?;
        out(state, 1)
    })
}

pub unsafe fn cuFuncLoad(function: CUfunction) -> CUresult {
    answer(|| lock()?.any_function(function.0).map(|_| ()))
}

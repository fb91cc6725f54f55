//! The driver library below us: NVIDIA's, or softcuda, opened by its absolute path into a handle of its own.
//!
//! Only its version is asked at start; `cuInit` comes with the first claim. Functions are looked up in that handle, so
//! what we export under the same names is never called by mistake.
use crate::checkpoint::Calls;
use crate::ok;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use zerogpu_abi::*;
use zerogpu_settings::{driver_path, Settings};

/// What is below: a library, or the reason why there is none.
pub struct Below {
    path: Result<PathBuf, String>,
    driver: OnceLock<Result<Driver, String>>,
}

/// What a launch that can't run tells the human to do.
const REMEDY: &str =
    "run this where an NVIDIA driver is installed, or use the software driver (zerogpu run --driver soft), \
    which records launches without running them";

/// Finds the driver below, without opening it.
pub fn locate(settings: &Settings, own: Option<&Path>) -> Below {
    let found = driver_path::find(&settings.driver, settings.lib.as_deref(), own);
    let path = match found {
        Ok(Some(path)) => Ok(path),
        Ok(None) => Err(format!("there is no CUDA driver on this machine; {REMEDY}")),
        Err(e) => Err(e),
    };
    Below { path, driver: OnceLock::new() }
}

impl Below {
    /// The library, opened at the first call.
    ///
    /// # Errors
    /// A sentence with a remedy: there is none to use, it can't be loaded, or it lacks what drivers from 535 on have.
    pub fn driver(&self) -> Result<&Driver, &str> {
        let open = || {
            let path = self.path.clone()?;
            Driver::open(&path)
        };
        self.driver.get_or_init(open).as_ref().map_err(String::as_str)
    }

    /// The version of the driver; None: there is no driver.
    ///
    /// # Errors
    /// Why the one that was found can't be used, as for [`Below::driver`].
    pub fn version(&self) -> Result<Option<i32>, &str> {
        if self.path.is_err() {
            return Ok(None);
        }
        let driver = self.driver()?;
        let mut version = 0;
        // SAFETY: writes one integer.
        let asked = ok(unsafe { (driver.cuDriverGetVersion)(&mut version) });
        Ok(asked.ok().map(|()| version))
    }
}

macro_rules! functions {
    ($($name:ident ( $($arg:ident : $ty:ty),* );)* $(? $later:ident ( $($larg:ident : $lty:ty),* );)*) => {
        /// Functions of the driver below, each as cuda.h declares the symbol of that name. All are in each driver from
        /// CUDA 12.2 on, so that one without some of them is refused as a whole; those that came later may be missing.
        #[allow(non_snake_case)]
        pub struct Driver {
            $(#[allow(missing_docs)] pub $name: unsafe extern "C" fn($($arg: $ty),*) -> CUresult,)*
            $(#[allow(missing_docs)] pub $later: Option<unsafe extern "C" fn($($larg: $lty),*) -> CUresult>,)*
            /// What only drivers from 570 on have.
            pub(crate) checkpoint: Option<Calls>,
        }

        impl Driver {
            /// Their names.
            pub const NAMES: &[&str] = &[$(stringify!($name),)* $(stringify!($later)),*];

            fn load(library: &Library, path: &Path) -> Result<Self, String> {
                Ok(Driver {
                    $($name: {
                        // SAFETY: the declaration below is cuda.h's of the symbol of that name.
                        let found = unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) };
                        *found.map_err(|e| format!("the CUDA driver {} is too old for zerogpu: {e}; install driver 535 or newer", path.display()))?
                    },)*
                    $($later: {
                        // SAFETY: as above.
                        let found = unsafe { library.get(concat!(stringify!($later), "\0").as_bytes()) };
                        found.ok().map(|found| *found)
                    },)*
                    checkpoint: Calls::load(library),
                })
            }
        }
    };
}

functions! {
    cuInit(flags: u32);
    cuDriverGetVersion(version: *mut i32);
    cuDeviceGetCount(count: *mut i32);
    cuDeviceGet(device: *mut CUdevice, ordinal: i32);
    cuDeviceGetName(name: *mut c_char, len: i32, device: CUdevice);
    cuDeviceGetUuid_v2(uuid: *mut CUuuid, device: CUdevice);
    cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice);
    cuDeviceGetAttribute(value: *mut i32, attribute: u32, device: CUdevice);
    cuDevicePrimaryCtxSetFlags_v2(device: CUdevice, flags: u32);
    cuDevicePrimaryCtxRetain(ctx: *mut CUcontext, device: CUdevice);
    cuDevicePrimaryCtxRelease_v2(device: CUdevice);
    cuDevicePrimaryCtxGetState(device: CUdevice, flags: *mut u32, active: *mut i32);
    cuGetExportTable(table: *mut *const c_void, id: *const CUuuid);
    cuCtxGetCurrent(ctx: *mut CUcontext);
    cuCtxSetCurrent(ctx: CUcontext);
    cuCtxSynchronize();
    cuCtxSetCacheConfig(config: u32);
    cuCtxSetLimit(limit: u32, value: usize);
    cuStreamCreateWithPriority(stream: *mut CUstream, flags: u32, priority: i32);
    cuStreamDestroy_v2(stream: CUstream);
    cuStreamSynchronize(stream: CUstream);
    cuStreamQuery(stream: CUstream);
    cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: u32);
    cuStreamSetAttribute(stream: CUstream, attribute: u32, value: *const CUlaunchAttributeValue);
    cuStreamWaitValue32_v2(stream: CUstream, addr: CUdeviceptr, value: u32, flags: u32);
    cuStreamWaitValue64_v2(stream: CUstream, addr: CUdeviceptr, value: u64, flags: u32);
    cuStreamWriteValue32_v2(stream: CUstream, addr: CUdeviceptr, value: u32, flags: u32);
    cuStreamWriteValue64_v2(stream: CUstream, addr: CUdeviceptr, value: u64, flags: u32);
    cuEventCreate(event: *mut CUevent, flags: u32);
    cuEventDestroy_v2(event: CUevent);
    cuEventRecord(event: CUevent, stream: CUstream);
    cuEventQuery(event: CUevent);
    cuEventSynchronize(event: CUevent);
    cuEventElapsedTime(ms: *mut f32, start: CUevent, end: CUevent);
    cuLinkCreate_v2(count: u32, options: *mut u32, values: *mut *mut c_void, state: *mut CUlinkState);
    cuLinkAddData_v2(
        state: CUlinkState, kind: u32, data: *mut c_void, size: usize, name: *const c_char, count: u32, options: *mut u32,
        values: *mut *mut c_void
    );
    cuLinkComplete(state: CUlinkState, image: *mut *mut c_void, bytes: *mut usize);
    cuLinkDestroy(state: CUlinkState);
    cuModuleLoadData(module: *mut CUmodule, image: *const c_void);
    cuModuleLoadDataEx(
        module: *mut CUmodule, image: *const c_void, count: u32, options: *mut u32, values: *mut *mut c_void
    );
    cuModuleUnload(module: CUmodule);
    cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    cuModuleGetGlobal_v2(address: *mut CUdeviceptr, bytes: *mut usize, module: CUmodule, name: *const c_char);
    cuFuncSetCacheConfig(function: CUfunction, config: u32);
    cuFuncSetAttribute(function: CUfunction, attribute: u32, value: i32);
    cuLaunchKernel(
        function: CUfunction, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: CUstream,
        params: *mut *mut c_void, extra: *mut *mut c_void
    );
    cuLaunchCooperativeKernel(
        function: CUfunction, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: CUstream,
        params: *mut *mut c_void
    );
    cuLaunchKernelEx(
        config: *const CUlaunchConfig, function: CUfunction, params: *mut *mut c_void, extra: *mut *mut c_void
    );
    cuLaunchHostFunc(stream: CUstream, func: CUhostFn, data: *mut c_void);
    cuMemcpyAsync(dst: CUdeviceptr, src: CUdeviceptr, bytes: usize, stream: CUstream);
    cuMemcpyHtoD_v2(dst: CUdeviceptr, src: *const c_void, bytes: usize);
    cuMemcpyHtoDAsync_v2(dst: CUdeviceptr, src: *const c_void, bytes: usize, stream: CUstream);
    cuMemcpyDtoH_v2(dst: *mut c_void, src: CUdeviceptr, bytes: usize);
    cuMemcpyDtoHAsync_v2(dst: *mut c_void, src: CUdeviceptr, bytes: usize, stream: CUstream);
    cuMemcpyDtoDAsync_v2(dst: CUdeviceptr, src: CUdeviceptr, bytes: usize, stream: CUstream);
    cuMemcpy3DAsync_v2(copy: *const CUDA_MEMCPY3D, stream: CUstream);
    cuMemsetD2D8Async(dst: CUdeviceptr, pitch: usize, value: u8, width: usize, height: usize, stream: CUstream);
    cuMemsetD2D16Async(dst: CUdeviceptr, pitch: usize, value: u16, width: usize, height: usize, stream: CUstream);
    cuMemsetD2D32Async(dst: CUdeviceptr, pitch: usize, value: u32, width: usize, height: usize, stream: CUstream);
    cuMemsetD8Async(dst: CUdeviceptr, value: u8, count: usize, stream: CUstream);
    cuMemsetD16Async(dst: CUdeviceptr, value: u16, count: usize, stream: CUstream);
    cuMemsetD32Async(dst: CUdeviceptr, value: u32, count: usize, stream: CUstream);
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    cuMemGetAllocationGranularity(bytes: *mut usize, prop: *const CUmemAllocationProp, option: u32);
    cuMemAddressReserve(address: *mut CUdeviceptr, size: usize, align: usize, hint: CUdeviceptr, flags: u64);
    cuMemAddressFree(address: CUdeviceptr, size: usize);
    cuMemCreate(
        handle: *mut CUmemGenericAllocationHandle, size: usize, prop: *const CUmemAllocationProp, flags: u64
    );
    cuMemRelease(handle: CUmemGenericAllocationHandle);
    cuMemMap(address: CUdeviceptr, size: usize, offset: usize, handle: CUmemGenericAllocationHandle, flags: u64);
    cuMemUnmap(address: CUdeviceptr, size: usize);
    cuMemSetAccess(address: CUdeviceptr, size: usize, desc: *const CUmemAccessDesc, count: usize);
    cuMemExportToShareableHandle(
        shared: *mut c_void, handle: CUmemGenericAllocationHandle, kind: u32, flags: u64
    );
    cuMemImportFromShareableHandle(handle: *mut CUmemGenericAllocationHandle, shared: *mut c_void, kind: u32);
    cuMemHostRegister_v2(address: *mut c_void, bytes: usize, flags: u32);
    cuMemHostUnregister(address: *mut c_void);
    cuTensorMapEncodeTiled(
        map: *mut Opaque, data_type: u32, rank: u32, address: *mut c_void, dims: *const u64, strides: *const u64,
        size: *const u32, element_strides: *const u32, interleave: u32, swizzle: u32, l2_promotion: u32, oob_fill: u32
    );
    cuTensorMapEncodeIm2col(
        map: *mut Opaque, data_type: u32, rank: u32, address: *mut c_void, dims: *const u64, strides: *const u64,
        lower: *const i32, upper: *const i32, channels: u32, pixels: u32, element_strides: *const u32, interleave: u32,
        swizzle: u32, l2_promotion: u32, oob_fill: u32
    );
    cuTensorMapReplaceAddress(map: *mut Opaque, address: *mut c_void);
    ? cuTensorMapEncodeIm2colWide(
        map: *mut Opaque, data_type: u32, rank: u32, address: *mut c_void, dims: *const u64, strides: *const u64,
        lower: i32, upper: i32, channels: u32, pixels: u32, element_strides: *const u32, interleave: u32, mode: u32,
        swizzle: u32, l2_promotion: u32, oob_fill: u32
    );
}

impl Driver {
    /// Opens the library at a path.
    ///
    /// # Errors
    /// A sentence with a remedy: the library can't be loaded, or lacks what drivers from 535 on have.
    pub fn open(path: &Path) -> Result<Self, String> {
        // SAFETY: a CUDA driver library: its constructors are made to run in any process.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|e| {
            format!(
                "the CUDA driver {} can't be loaded: {e}; set ZEROGPU_DRIVER to another, or to none",
                path.display()
            )
        })?;
        let driver = Driver::load(&library, path);
        // never unloaded: threads may be inside
        std::mem::forget(library);
        driver
    }
}

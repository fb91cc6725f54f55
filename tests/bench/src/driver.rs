//! A driver library, with the functions that are measured as plain pointers.
use anyhow::{ensure, Context, Result};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{c_char, c_int, c_void, CStr};
use std::path::Path;
use zerogpu_abi::*;

/// Machine code for sm_90 with a kernel called `probe`, the one that the semantics tests use.
const CUBIN: &[u8] = include_bytes!("../../semantics/data/probe.sm_90.cubin");

macro_rules! functions {
    ($($name:ident ( $($ty:ty),* );)*) => {
        /// The functions of a driver library.
        #[allow(non_snake_case)]
        pub struct Driver {
            $(
                #[doc = concat!("`", stringify!($name), "`")]
                pub $name: unsafe extern "C" fn($($ty),*) -> CUresult,
            )*
            /// The shim's region calls; None: it is another driver.
            pub regions: Option<Regions>,
        }

        impl Driver {
            fn load(library: &Library) -> Result<Self> {
                Ok(Driver {
                    $($name: {
                        // SAFETY: the declaration below is cuda.h's of the symbol of that name.
                        *unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) }.context(stringify!($name))?
                    },)*
                    regions: Regions::load(library),
                })
            }
        }
    };
}

functions! {
    cuInit(u32);
    cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice);
    cuCtxSetCurrent(CUcontext);
    cuCtxGetCurrent(*mut CUcontext);
    cuStreamCreate(*mut CUstream, u32);
    cuStreamIsCapturing(CUstream, *mut u32);
    cuStreamQuery(CUstream);
    cuModuleLoadData(*mut CUmodule, *const c_void);
    cuModuleGetFunction(*mut CUfunction, CUmodule, *const c_char);
    cuLaunchKernel(
        CUfunction, u32, u32, u32, u32, u32, u32, u32, CUstream, *mut *mut c_void, *mut *mut c_void
    );
    cuDeviceGetName(*mut std::ffi::c_char, i32, CUdevice);
    cuDeviceGetPCIBusId(*mut std::ffi::c_char, i32, CUdevice);
    cuDeviceGetUuid_v2(*mut CUuuid, CUdevice);
    cuMemAlloc_v2(*mut CUdeviceptr, usize);
    cuMemFree_v2(CUdeviceptr);
    cuMemCreate(*mut CUmemGenericAllocationHandle, usize, *const CUmemAllocationProp, u64);
    cuMemRelease(CUmemGenericAllocationHandle);
    cuMemImportFromShareableHandle(*mut CUmemGenericAllocationHandle, *mut c_void, u32);
    cuMemAddressReserve(*mut CUdeviceptr, usize, usize, CUdeviceptr, u64);
    cuMemAddressFree(CUdeviceptr, usize);
    cuMemMap(CUdeviceptr, usize, usize, CUmemGenericAllocationHandle, u64);
    cuMemUnmap(CUdeviceptr, usize);
    cuMemSetAccess(CUdeviceptr, usize, *const CUmemAccessDesc, usize);
    cuMemsetD8_v2(CUdeviceptr, u8, usize);
    cuMemcpyDtoD_v2(CUdeviceptr, CUdeviceptr, usize);
    cuMemsetD8Async(CUdeviceptr, u8, usize, CUstream);
    cuMemcpyHtoD_v2(CUdeviceptr, *const c_void, usize);
    cuMemcpyDtoH_v2(*mut c_void, CUdeviceptr, usize);
    cuGetExportTable(*mut *const c_void, *const CUuuid);
}

/// `zerogpu_region_begin` and its companions (include/zerogpu.h).
pub struct Regions {
    begin: unsafe extern "C" fn(f64) -> u64,
    end: unsafe extern "C" fn(u64) -> c_int,
    state: unsafe extern "C" fn(*mut c_char, usize) -> c_int,
}

impl Regions {
    fn load(library: &Library) -> Option<Self> {
        // SAFETY: the signatures are zerogpu.h's.
        unsafe {
            Some(Regions {
                begin: *library.get(b"zerogpu_region_begin\0").ok()?,
                end: *library.get(b"zerogpu_region_end\0").ok()?,
                state: *library.get(b"zerogpu_state\0").ok()?,
            })
        }
    }

    /// Those of a library that has not started: before cuInit.
    ///
    /// # Errors
    /// If it is not the shim.
    pub fn open(path: &Path) -> Result<Self> {
        // SAFETY: a driver library's constructors may run in any process.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        let library = library.with_context(|| format!("opening {}", path.display()))?;
        let regions = Regions::load(&library).context("this driver has no regions: it is not the shim");
        // a driver stays for the life of its process
        std::mem::forget(library);
        regions
    }

    /// Opens a region that may last `seconds`.
    ///
    /// # Errors
    /// If the shim refuses.
    pub fn begin(&self, seconds: f64) -> Result<u64> {
        // SAFETY: takes a number.
        let id = unsafe { (self.begin)(seconds) };
        ensure!(id != 0, "zerogpu_region_begin failed");
        Ok(id)
    }

    /// Ends it.
    pub fn end(&self, id: u64) -> Result<()> {
        // SAFETY: takes a number.
        ensure!(unsafe { (self.end)(id) } == 0, "zerogpu_region_end failed");
        Ok(())
    }

    /// What the shim says about itself.
    pub fn state(&self) -> Result<serde_json::Value> {
        let mut text: [c_char; 4096] = [0; 4096];
        // SAFETY: the text is as long as is said, and ends with a NUL afterwards.
        let json = unsafe {
            (self.state)(text.as_mut_ptr(), text.len());
            CStr::from_ptr(text.as_ptr())
        };
        Ok(serde_json::from_slice(json.to_bytes())?)
    }
}

impl Driver {
    /// Opens the library, starts the driver and makes the primary context current.
    pub fn start(path: &Path) -> Result<Self> {
        // SAFETY: a driver library's constructors may run in any process.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        let library = library.with_context(|| format!("opening {}", path.display()))?;
        let driver = Driver::load(&library)?;
        // a driver stays for the life of its process
        std::mem::forget(library);
        let mut context = CUcontext::NULL;
        // SAFETY: the arguments are what cuda.h asks for.
        unsafe {
            must("cuInit", (driver.cuInit)(0))?;
            must("cuDevicePrimaryCtxRetain", (driver.cuDevicePrimaryCtxRetain)(&mut context, 0))?;
            must("cuCtxSetCurrent", (driver.cuCtxSetCurrent)(context))?;
        }
        Ok(driver)
    }

    /// A kernel that takes an address and a number.
    pub fn kernel(&self) -> Result<CUfunction> {
        self.kernel_of(CUBIN, c"probe")
    }

    /// A kernel of a module: machine code, or PTX with its NUL.
    pub fn kernel_of(&self, image: &[u8], name: &CStr) -> Result<CUfunction> {
        let (mut module, mut function) = (CUmodule::NULL, CUfunction::NULL);
        // SAFETY: an image that says where it ends, and a NUL-terminated name.
        unsafe {
            must("cuModuleLoadData", (self.cuModuleLoadData)(&mut module, image.as_ptr().cast()))?;
            must("cuModuleGetFunction", (self.cuModuleGetFunction)(&mut function, module, name.as_ptr()))?;
        }
        Ok(function)
    }

    /// Launches it once with one thread.
    #[inline]
    pub fn launch(&self, kernel: CUfunction, stream: CUstream, address: CUdeviceptr) -> CUresult {
        let (mut address, mut number) = (address, 1u32);
        let mut params = [(&raw mut address).cast::<c_void>(), (&raw mut number).cast()];
        let none = std::ptr::null_mut();
        // SAFETY: one pointer for each parameter of the kernel.
        unsafe { (self.cuLaunchKernel)(kernel, 1, 1, 1, 1, 1, 1, 0, stream, params.as_mut_ptr(), none) }
    }

    /// Device memory.
    pub fn alloc(&self, bytes: usize) -> Result<CUdeviceptr> {
        let mut address = 0;
        // SAFETY: writes the address.
        must("cuMemAlloc", unsafe { (self.cuMemAlloc_v2)(&mut address, bytes) })?;
        Ok(address)
    }

    /// Device memory as the shim has it below: a physical handle of `bytes` (whole pages of 2 MiB), mapped.
    pub fn mapped(&self, bytes: usize) -> Result<CUdeviceptr> {
        let location = CUmemLocation { kind: 1, id: 0 };
        let prop = CUmemAllocationProp {
            kind: 1,
            requestedHandleTypes: 0,
            location,
            win32HandleMetaData: std::ptr::null_mut(),
            compressionType: 0,
            gpuDirectRDMACapable: 0,
            usage: 0,
            reserved: [0; 4],
        };
        let access = CUmemAccessDesc { location, flags: 3 };
        let (mut address, mut handle) = (0, 0);
        // SAFETY: writes the handle and the address, reads the structures; the range is the one just reserved.
        unsafe {
            must("cuMemCreate", (self.cuMemCreate)(&mut handle, bytes, &prop, 0))?;
            must("cuMemAddressReserve", (self.cuMemAddressReserve)(&mut address, bytes, 0, 0, 0))?;
            must("cuMemMap", (self.cuMemMap)(address, bytes, 0, handle, 0))?;
            must("cuMemSetAccess", (self.cuMemSetAccess)(address, bytes, &access, 1))?;
        }
        Ok(address)
    }
}

/// Fails with the name of a call that did not succeed.
pub fn must(call: &str, result: CUresult) -> Result<()> {
    ensure!(result.ok(), "{call} answered {}", result.0);
    Ok(())
}

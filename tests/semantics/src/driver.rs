//! A driver library under test, opened by its path, and a method for each symbol of the list.
//!
//! The methods take C's arguments and can be called from safe code. That is on purpose: handing a driver arguments that no
//! type would let through is this crate's business, and each topic runs in a process of its own that is thrown away.
//! What a test passes is either valid for as long as the driver may look at it, or deliberately bad where
//! the driver must not look.
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{c_char, c_void, CStr};
use std::path::{Path, PathBuf};
use zerogpu_abi::*;

include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// A loaded driver library.
pub struct Driver {
    library: Library,
    path: PathBuf,
}

impl Driver {
    /// Opens the library at `path`, none of its symbols visible to others.
    ///
    /// # Panics
    /// If it can't be loaded.
    pub fn open(path: &Path) -> Self {
        // SAFETY: a driver library's constructors may run in any process.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        Self { library: library.unwrap_or_else(|e| panic!("{}: {e}", path.display())), path: path.into() }
    }

    /// The address that `dlsym` gives for `name`, 0 if there is none.
    pub fn address(&self, name: &CStr) -> usize {
        // SAFETY: only the address is looked at.
        let found = unsafe { self.library.get::<*const c_void>(name.to_bytes_with_nul()) };
        found.map_or(0, |symbol| symbol.into_raw() as usize)
    }

    /// # Panics
    /// If the library does not export `name`.
    fn symbol<T: Copy>(&self, name: &CStr) -> T {
        // SAFETY: the generated methods ask with the type that the list declares for the name.
        let found = unsafe { self.library.get::<T>(name.to_bytes_with_nul()) };
        *found.unwrap_or_else(|e| panic!("{}: {e}", self.path.display()))
    }
}

/// What most tests do, without the ceremony: each of these panics where the driver refuses.
impl Driver {
    /// Initialises the driver and makes device 0's primary context current in this thread.
    pub fn start(&self) -> CUcontext {
        let mut context = CUcontext::NULL;
        must("cuInit", self.cuInit(0));
        must("cuDevicePrimaryCtxRetain", self.cuDevicePrimaryCtxRetain(&mut context, 0));
        must("cuCtxSetCurrent", self.cuCtxSetCurrent(context));
        context
    }

    /// The context that is current in this thread.
    pub fn current(&self) -> CUcontext {
        let mut context = CUcontext(usize::MAX);
        must("cuCtxGetCurrent", self.cuCtxGetCurrent(&mut context));
        context
    }

    /// `bytes` of device memory.
    pub fn alloc(&self, bytes: usize) -> CUdeviceptr {
        let mut address = 0;
        must("cuMemAlloc", self.cuMemAlloc_v2(&mut address, bytes));
        address
    }

    /// Frees what [`Self::alloc`] gave.
    pub fn free(&self, address: CUdeviceptr) {
        must("cuMemFree", self.cuMemFree_v2(address));
    }

    /// Copies bytes to the device and waits for them.
    pub fn write(&self, to: CUdeviceptr, bytes: &[u8]) {
        must("cuMemcpyHtoD", self.cuMemcpyHtoD_v2(to, bytes.as_ptr().cast(), bytes.len()));
    }

    /// Copies bytes back from the device.
    pub fn read(&self, from: CUdeviceptr, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        must("cuMemcpyDtoH", self.cuMemcpyDtoH_v2(bytes.as_mut_ptr().cast(), from, length));
        bytes
    }

    /// A stream; `flags` 0 or 1 (does not wait for the legacy stream).
    pub fn stream(&self, flags: u32) -> CUstream {
        let mut stream = CUstream::NULL;
        must("cuStreamCreate", self.cuStreamCreate(&mut stream, flags));
        stream
    }

    /// Waits for a stream.
    pub fn wait(&self, stream: CUstream) {
        must("cuStreamSynchronize", self.cuStreamSynchronize(stream));
    }

    /// An event; `flags` 0, or 2 without timing.
    pub fn event(&self, flags: u32) -> CUevent {
        let mut event = CUevent::NULL;
        must("cuEventCreate", self.cuEventCreate(&mut event, flags));
        event
    }

    /// Free and total device memory in bytes.
    pub fn memory_info(&self) -> (usize, usize) {
        let (mut free, mut total) = (0, 0);
        must("cuMemGetInfo", self.cuMemGetInfo_v2(&mut free, &mut total));
        (free, total)
    }

    /// An attribute of device 0.
    pub fn device_attribute(&self, attribute: u32) -> i32 {
        let mut value = 0;
        must("cuDeviceGetAttribute", self.cuDeviceGetAttribute(&mut value, attribute, 0));
        value
    }
}

/// Ends the topic unless the call succeeded.
///
/// # Panics
/// If it did not.
#[track_caller]
pub fn must(call: &str, result: CUresult) {
    assert_eq!(result, CUresult(0), "{call}");
}

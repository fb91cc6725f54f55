//! What only the shim knows, if it is in the process.
//!
//! Two questions that it answers without initialising CUDA. The look-up is made at each call: the shim may be loaded
//! after us.

use std::ffi::{c_int, c_void, CStr};

fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a look-up by a name that ends with 0, in the libraries that are loaded for all.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

/// Bytes of the virtual device's memory that this process has taken; 0 without the shim.
pub fn memory_used() -> u64 {
    let Some(address) = symbol(c"zerogpu_memory_used") else { return 0 };
    // SAFETY: only the shim exports this name, with this signature.
    let function = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn() -> u64>(address) };
    function()
}

/// The virtual driver's CUDA version, as 1000 * major + 10 * minor; the newest that we know without the shim.
pub fn cuda_version() -> c_int {
    const NEWEST: c_int = 13000;
    if symbol(c"zerogpu_memory_used").is_none() {
        return NEWEST; // who else exports cuDriverGetVersion is not our driver
    }
    let Some(address) = symbol(c"cuDriverGetVersion") else { return NEWEST };
    // SAFETY: cuda.h gives it this signature; it may be called before cuInit.
    let function = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_int) -> c_int>(address) };
    let mut version = 0;
    if function(&mut version) == 0 {
        version
    } else {
        NEWEST
    }
}

//! Names and texts of result codes.
use crate::check::Check;
use crate::driver::Driver;
use std::ffi::{c_char, CStr};
use zerogpu_abi::*;

/// Codes as cuda.h has them, with the texts of driver 535.309.01.
#[rustfmt::skip]
const KNOWN: &[(u32, &str, &str)] = &[
    (0, "CUDA_SUCCESS", "no error"),
    (1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"),
    (2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
    (3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"),
    (4, "CUDA_ERROR_DEINITIALIZED", "driver shutting down"),
    (34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"),
    (100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"),
    (101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"),
    (200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"),
    (201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"),
    (209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"),
    (218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"),
    (301, "CUDA_ERROR_FILE_NOT_FOUND", "file not found"),
    (400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"),
    (401, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"),
    (500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"),
    (600, "CUDA_ERROR_NOT_READY", "device not ready"),
    (700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
    (702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"),
    (709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"),
    (719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"),
    (801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"),
    (900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"),
    (999, "CUDA_ERROR_UNKNOWN", "unknown error"),
];

type Ask = fn(&Driver, CUresult, *mut *const c_char) -> CUresult;

fn text(d: &Driver, ask: Ask, code: u32) -> (u32, Option<String>) {
    let mut text = c"untouched".as_ptr();
    let result = ask(d, CUresult(code), &mut text);
    // SAFETY: NULL, or a string that lives as long as the driver.
    let text = (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned());
    (result.0, text)
}

/// Known codes, unknown ones, and that each known code has both a name and a text. Needs no device.
pub fn texts(d: &Driver, t: &mut Check) {
    let (name, string): (Ask, Ask) = (|d, c, p| d.cuGetErrorName(c, p), |d, c, p| d.cuGetErrorString(c, p));
    for (code, want, text_of_it) in KNOWN {
        t.same(format_args!("name of {code}"), text(d, name, *code), (0, Some(want.to_string())));
        t.same(format_args!("text of {code}"), text(d, string, *code), (0, Some(text_of_it.to_string())));
    }
    for unknown in [9, 99, 1000, 999_999, u32::MAX] {
        t.same(format_args!("name of {unknown}"), text(d, name, unknown), (1, None));
        t.same(format_args!("text of {unknown}"), text(d, string, unknown), (1, None));
    }
    let differ = (0..1100).find(|code| text(d, name, *code).0 != text(d, string, *code).0);
    t.same("a code with a name and no text, or the reverse", differ, None);
    let known = (0..1100).filter(|code| text(d, name, *code).0 == 0).count();
    t.that(format_args!("{known} codes"), known >= 90);
    if t.driver.real {
        // driver 580 crashes (recorded)
        return;
    }
    t.code("name into NULL", d.cuGetErrorName(CUresult(1), std::ptr::null_mut()), 1);
    t.code("text into NULL", d.cuGetErrorString(CUresult(1), std::ptr::null_mut()), 1);
}

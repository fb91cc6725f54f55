//! NVML's result codes.

use std::ffi::CStr;

/// Why a function could not answer. The number is NVML's `nvmlReturn_t`; success is 0 and never made from this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Uninitialized = 1,
    InvalidArgument = 2,
    NotSupported = 3,
    NotFound = 6,
    InsufficientSize = 7,
    ArgumentVersionMismatch = 25,
    Unknown = 999,
}

/// What an answer is: its values are written through pointers.
pub type Answer = Result<(), Status>;

/// The text of a result code, as driver 535 has it; a code that it does not know is an "Unknown Error".
pub fn text(code: i32) -> &'static CStr {
    const TEXTS: [&CStr; 28] = [
        c"Success",
        c"Uninitialized",
        c"Invalid Argument",
        c"Not Supported",
        c"Insufficient Permissions",
        c"Already Initialized",
        c"Not Found",
        c"Insufficient Size",
        c"Insufficient External Power",
        c"Driver Not Loaded",
        c"Timeout",
        c"Interrupt Request Issue",
        c"NVML Shared Library Not Found",
        c"Function Not Found",
        c"Corrupted infoROM",
        c"GPU is lost",
        c"GPU requires reset",
        c"GPU access blocked by the operating system",
        c"Driver/library version mismatch",
        c"In use by another client",
        c"Insufficient Memory",
        c"No data",
        c"vGPU ECC not supported",
        c"Insufficient Resources",
        c"Invalid Frequency",
        c"Argument version mismatch",
        c"Requested functionality has been deprecated",
        c"System is not in ready state",
    ];
    usize::try_from(code).ok().and_then(|code| TEXTS.get(code).copied()).unwrap_or(c"Unknown Error")
}

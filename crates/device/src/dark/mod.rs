//! The undocumented export tables that NVIDIA's libraries ask of `cuGetExportTable`.
//!
//! A table is an array of 8-byte words: its size in bytes, then C functions (context-local storage alone has no size and
//! ends with NULL). What libraries call is answered here, GPU or not; every other slot names itself and is the backend's.
//! Facts: driver 580.159.04, recorded, and public projects.
mod integrity;
mod md2;
mod slots;
mod storage;

use slots::*;
use std::ffi::c_void;

/// A word of a table.
#[repr(transparent)]
pub struct Word(*const ());

// SAFETY: words are sizes and addresses of functions, never written.
unsafe impl Sync for Word {}

/// Names of the tables, as the backend hears them.
pub const NAMES: [&str; 13] = [
    "CUDART_INTERFACE",
    "TOOLS_RUNTIME_CALLBACK_HOOKS",
    "TOOLS_TLS",
    "CONTEXT_LOCAL_STORAGE",
    "INTEGRITY_CHECK",
    "CONTEXT_CHECKS",
    "21318C60",
    "F8CFF951",
    "1734DC26",
    "6E163FBE",
    "69A28E9F",
    "CTX_CREATE_BYPASS",
    "DEVICE_EXTENDED_RT",
];

/// Identifiers, in the order of [`NAMES`]: the UUID's bytes.
pub const IDS: [[u8; 16]; 13] = [
    *b"\x6B\xD5\xFB\x6C\x5B\xF4\xE7\x4A\x89\x87\xD9\x39\x12\xFD\x9D\xF9",
    *b"\xA0\x94\x79\x8C\x2E\x74\x2E\x74\x93\xF2\x08\x00\x20\x0C\x0A\x66",
    *b"\x42\xD8\x5A\x81\x23\xF6\xCB\x47\x82\x98\xF6\xE7\x8A\x3A\xEC\xDC",
    *b"\xC6\x93\x33\x6E\x11\x21\xDF\x11\xA8\xC3\x68\xF3\x55\xD8\x95\x93",
    *b"\xD4\x08\x20\x55\xBD\xE6\x70\x4B\x8D\x34\xBA\x12\x3C\x66\xE1\xF2",
    *b"\x26\x3E\x88\x60\x7C\xD2\x61\x43\x92\xF6\xBB\xD5\x00\x6D\xFA\x7E",
    *b"\x21\x31\x8C\x60\x97\x14\x32\x48\x8C\xA6\x41\xFF\x73\x24\xC8\xF2",
    *b"\xF8\xCF\xF9\x51\x21\x46\x8B\x4E\xB9\xE2\xFB\x46\x9E\x7C\x0D\xD9",
    *b"\x17\x34\xDC\x26\x80\x0D\x47\x45\x87\x26\xC0\xF1\xE7\xDD\x8B\xCA",
    *b"\x6E\x16\x3F\xBE\xB9\x58\x44\x4D\x83\x5C\xE1\x82\xAF\xF1\x99\x1E",
    *b"\x69\xA2\x8E\x9F\x24\x49\x8B\x47\xB0\x30\xC5\xDA\x33\x0E\xA4\xE9",
    *b"\x0C\xA5\x0B\x8C\x10\x04\x92\x9A\x89\xA7\xD0\xDF\x10\xE7\x72\x86",
    *b"\xB1\x05\x41\xE1\xF7\xC7\xC7\x4A\x9F\x64\xF2\x23\xBE\x99\xF1\xE2",
];

/// A table of `$n` words whose slots from 1 on are stubs, but for the given functions.
macro_rules! table {
    ($static:ident, $id:expr, $n:expr $(, $slot:literal => $f:path)*) => {
        static $static: [Word; $n] = {
            let mut words = stubs::<{ $id }, { $n }>();
            words[0] = Word(($n * 8usize) as *const ());
            $(words[$slot] = Word($f as *const ());)*
            words
        };
    };
}

table!(CUDART, 0, 13, 1 => cudart_load, 2 => cudart_primary, 6 => cudart_load, 7 => cudart_unloaded, 8 => cudart_load, 12 => cudart_compilers);
table!(HOOKS, 1, 7, 2 => hooks_large, 6 => hooks_small);
table!(TLS, 2, 3, 2 => tls_current);
static STORAGE: [Word; 4] = [
    Word(storage::put as *const ()),
    Word(storage::delete as *const ()),
    Word(storage::get as *const ()),
    Word(std::ptr::null()),
];
table!(INTEGRITY, 4, 3, 1 => integrity::check);
table!(CHECKS, 5, 15, 2 => checks_two, 3 => checks_three);
table!(INTERNALS, 6, 93, 4 => internals_context_id, 39 => internals_stream_id, 51 => internals_stream);
table!(RUNTIME_13, 7, 3);
table!(BLAS_13, 8, 17);
table!(FUNCTIONS, 9, 33, 7 => functions_of_module);
table!(MANAGEMENT, 10, 34);
table!(BYPASS, 11, 2);
table!(EXTENDED, 12, 31);

/// The table of an identifier.
pub fn table(id: &[u8; 16]) -> Option<*const c_void> {
    let at = IDS.iter().position(|known| known == id)?;
    let words: &[Word] = match at {
        0 => &CUDART,
        1 => &HOOKS,
        2 => &TLS,
        3 => &STORAGE,
        4 => &INTEGRITY,
        5 => &CHECKS,
        6 => &INTERNALS,
        7 => &RUNTIME_13,
        8 => &BLAS_13,
        9 => &FUNCTIONS,
        10 => &MANAGEMENT,
        11 => &BYPASS,
        _ => &EXTENDED,
    };
    Some(words.as_ptr().cast())
}

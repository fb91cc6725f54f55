//! The undocumented export tables that NVIDIA's libraries ask of `cuGetExportTable`.
//!
//! A table is an array of 8-byte words: its size in bytes, then C functions (context-local storage alone has no size and
//! ends with NULL). What libraries call is answered here, GPU or not; every other slot names itself and is the backend's.
//! Facts: driver 580.159.04, recorded; sizes of driver 535.309.01, by scripts/check-genuine; public projects.
mod integrity;
mod md2;
mod slots;
mod storage;

use crate::runtime::config;
use slots::*;
use std::ffi::c_void;

/// A word of a table.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Word(*const ());

// SAFETY: words are sizes and addresses of functions, never written.
unsafe impl Sync for Word {}

/// A table.
pub struct Table {
    /// Its name, as the backend hears it.
    pub name: &'static str,
    /// The UUID's bytes.
    pub id: [u8; 16],
    /// What a driver of CUDA 13.0 hands out.
    words: &'static [Word],
    /// What one of [`SMALLER`] does; None: nothing.
    smaller: Option<&'static [Word]>,
}

/// The newest version whose tables are the smaller ones. Recorded are 12.2 and 13.0 only: what lies between is answered as
/// 13.0, whose tables are longer and whose last slots say NOT_SUPPORTED.
const SMALLER: i32 = 12020;

/// A table in memory: its size in words, and words, whose slots from 1 on are stubs but for the given functions. There
/// may be more words than the size tells of: stubs where a library calls what no driver that we know of has.
macro_rules! words {
    ($at:expr, $size:literal of $n:literal $(, $slot:literal => $f:path)*) => {{
        static WORDS: [Word; $n] = {
            let mut words = stubs::<{ $at }, { $n }>();
            words[0] = Word(($size * 8usize) as *const ());
            $(words[$slot] = Word($f as *const ());)*
            words
        };
        &WORDS
    }};
}

/// A table of one size, or of two (the smaller first, or "-" where older drivers have none).
macro_rules! table {
    ($at:expr, $name:literal, $id:literal, - $n:literal $($rest:tt)*) => {
        Table { name: $name, id: *$id, words: words!($at, $n of $n $($rest)*), smaller: None }
    };
    ($at:expr, $name:literal, $id:literal, $old:literal, $size:literal of $n:literal $($rest:tt)*) => {
        Table {
            name: $name,
            id: *$id,
            words: words!($at, $size of $n $($rest)*),
            smaller: Some(words!($at, $old of $n $($rest)*)),
        }
    };
}

static STORAGE: [Word; 4] = [
    Word(storage::put as *const ()),
    Word(storage::delete as *const ()),
    Word(storage::get as *const ()),
    Word(std::ptr::null()),
];

/// Places in [`TABLES`].
const CUDART: usize = 0;
const INTEGRITY: usize = 4;
/// The compiler service of nvrtc: it needs no device.
pub const COMPILER: usize = 13;

/// All tables; a stub knows its own by the place here.
#[rustfmt::skip]
pub static TABLES: [Table; 14] = [
    table!(0, "CUDART_INTERFACE", b"\x6B\xD5\xFB\x6C\x5B\xF4\xE7\x4A\x89\x87\xD9\x39\x12\xFD\x9D\xF9", 11, 13 of 13,
        1 => cudart_load, 2 => cudart_primary, 6 => cudart_load, 7 => cudart_unloaded, 8 => cudart_load,
        12 => cudart_compilers),
    table!(1, "TOOLS_RUNTIME_CALLBACK_HOOKS", b"\xA0\x94\x79\x8C\x2E\x74\x2E\x74\x93\xF2\x08\x00\x20\x0C\x0A\x66", 7, 7 of 7,
        2 => hooks_large, 6 => hooks_small),
    table!(2, "TOOLS_TLS", b"\x42\xD8\x5A\x81\x23\xF6\xCB\x47\x82\x98\xF6\xE7\x8A\x3A\xEC\xDC", 3, 3 of 3, 2 => tls_current),
    Table {
        name: "CONTEXT_LOCAL_STORAGE",
        id: *b"\xC6\x93\x33\x6E\x11\x21\xDF\x11\xA8\xC3\x68\xF3\x55\xD8\x95\x93",
        words: &STORAGE,
        smaller: Some(&STORAGE),
    },
    table!(4, "INTEGRITY_CHECK", b"\xD4\x08\x20\x55\xBD\xE6\x70\x4B\x8D\x34\xBA\x12\x3C\x66\xE1\xF2", 3, 3 of 3,
        1 => integrity::check),
    table!(5, "CONTEXT_CHECKS", b"\x26\x3E\x88\x60\x7C\xD2\x61\x43\x92\xF6\xBB\xD5\x00\x6D\xFA\x7E", - 15,
        2 => checks_two, 3 => checks_three),
    table!(6, "21318C60", b"\x21\x31\x8C\x60\x97\x14\x32\x48\x8C\xA6\x41\xFF\x73\x24\xC8\xF2", 77, 93 of 93,
        4 => internals_context_id, 39 => internals_stream_id, 51 => internals_stream),
    table!(7, "F8CFF951", b"\xF8\xCF\xF9\x51\x21\x46\x8B\x4E\xB9\xE2\xFB\x46\x9E\x7C\x0D\xD9", - 3,
        1 => remark, 2 => remarks_taken),
    table!(8, "1734DC26", b"\x17\x34\xDC\x26\x80\x0D\x47\x45\x87\x26\xC0\xF1\xE7\xDD\x8B\xCA", 16, 17 of 17),
    // of this one and the last, driver 535's size is known alone
    table!(9, "6E163FBE", b"\x6E\x16\x3F\xBE\xB9\x58\x44\x4D\x83\x5C\xE1\x82\xAF\xF1\x99\x1E", 88, 88 of 96,
        7 => functions_of_module),
    table!(10, "69A28E9F", b"\x69\xA2\x8E\x9F\x24\x49\x8B\x47\xB0\x30\xC5\xDA\x33\x0E\xA4\xE9", - 34),
    table!(11, "CTX_CREATE_BYPASS", b"\x0C\xA5\x0B\x8C\x10\x04\x92\x9A\x89\xA7\xD0\xDF\x10\xE7\x72\x86", 2, 2 of 2),
    table!(12, "DEVICE_EXTENDED_RT", b"\xB1\x05\x41\xE1\xF7\xC7\xC7\x4A\x9F\x64\xF2\x23\xBE\x99\xF1\xE2", 27, 31 of 31),
    table!(13, "DA9151D3", b"\xDA\x91\x51\xD3\x3A\xE6\xCC\x41\xA5\xC0\x4F\x26\xD5\x33\xE3\x28", 6, 6 of 96),
];

impl Table {
    /// What a driver of our version hands out.
    fn of_version(&self) -> Option<&'static [Word]> {
        match config() {
            Ok(c) if c.driver_version <= SMALLER => self.smaller,
            _ => Some(self.words),
        }
    }
}

/// The table of an identifier.
pub fn table(id: &[u8; 16]) -> Option<*const c_void> {
    let table = TABLES.iter().find(|t| t.id == *id)?;
    Some(table.of_version()?.as_ptr().cast())
}

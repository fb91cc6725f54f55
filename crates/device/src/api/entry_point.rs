//! `cuGetProcAddress`: which symbol a name stands for at a version.
use super::*;
use crate::runtime::config;
use std::ffi::{c_char, c_void};
use std::sync::OnceLock;
use zerogpu_abi::list::{answers, symbols};
use zerogpu_abi::*;

static EXPORTS: OnceLock<&'static [usize]> = OnceLock::new();

/// Tells where the driver library's exports are: their addresses in the order of the list, each twin behind its symbol.
pub fn set_exports(addresses: &'static [usize]) {
    EXPORTS.get_or_init(|| addresses);
}

/// Index among the exports of each symbol.
fn first_export() -> &'static [usize] {
    static FIRST: OnceLock<Vec<usize>> = OnceLock::new();
    FIRST.get_or_init(|| {
        let mut at = 0;
        let next = |s: &list::Symbol| {
            let here = at;
            at += 1 + s.twin.is_some() as usize;
            here
        };
        symbols().iter().map(next).collect()
    })
}

/// What a look-up found.
enum Found {
    Function(usize),
    Unknown,
    TooOld,
}

/// CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM.
const PER_THREAD: u64 = 2;

fn find(name: &str, version: i32, flags: u64) -> Found {
    let Some(exports) = EXPORTS.get() else { return Found::Unknown };
    let per_thread = flags & PER_THREAD != 0;
    // answers are sorted by name, flag, version
    let start = answers().partition_point(|a| (a.base, a.per_thread) < (name, per_thread));
    let rows = answers()[start..].iter().take_while(|a| a.base == name && a.per_thread == per_thread);
    let mut known = false;
    let mut best = None;
    for a in rows {
        known = true;
        if version >= 0 && a.since <= version as u32 {
            best = Some(first_export()[a.index] + a.twin as usize);
        }
    }
    match best {
        Some(i) => exports.get(i).map_or(Found::Unknown, |&f| Found::Function(f)),
        None if known => Found::TooOld,
        None => Found::Unknown,
    }
}

unsafe fn arguments<'a>(symbol: *const c_char, pfn: *mut *mut c_void, version: i32, flags: u64) -> Res<&'a str> {
    wanted(pfn)?;
    let name = text(symbol)?;
    // driver 580, recorded: flags are 0 to 3, a version above the driver's own is refused
    if flags > 3 || version > config()?.driver_version {
        return Err(CUresult::INVALID_VALUE);
    }
    Ok(name)
}

pub unsafe fn cuGetProcAddress_v2(
    symbol: *const c_char,
    pfn: *mut *mut c_void,
    cudaVersion: i32,
    flags: u64,
    symbolStatus: *mut u32,
) -> CUresult {
    code((|| {
        let name = arguments(symbol, pfn, cudaVersion, flags)?;
        let (to, status) = match find(name, cudaVersion, flags) {
            Found::Function(f) => (f as *mut c_void, 0),
            Found::Unknown => (std::ptr::null_mut(), 1),
            Found::TooOld => (std::ptr::null_mut(), 2),
        };
        out(pfn, to)?;
        out_opt(symbolStatus, status);
        Ok(())
    })())
}

pub unsafe fn cuGetProcAddress(symbol: *const c_char, pfn: *mut *mut c_void, cudaVersion: i32, flags: u64) -> CUresult {
    code((|| {
        let name = arguments(symbol, pfn, cudaVersion, flags)?;
        match find(name, cudaVersion, flags) {
            Found::Function(f) => out(pfn, f as *mut c_void),
            _ => Err(CUresult::NOT_FOUND),
        }
    })())
}

//! Questions about addresses.
use super::*;
use crate::memory::{Region, RegionKind};
use crate::runtime::{lock, State};
use std::ffi::c_void;
use zerogpu_abi::*;

/// What an attribute is, written to the caller in its own width.
enum Answer {
    Word(u64),
    Int(u32),
    Flag(bool),
}

impl Answer {
    unsafe fn write(&self, to: *mut c_void) -> Res {
        match *self {
            Answer::Word(v) => out(to.cast(), v),
            Answer::Int(v) => out(to.cast(), v),
            Answer::Flag(v) => out(to.cast(), v),
        }
    }
}

const HOST: u32 = 1;
const DEVICE: u32 = 2;

/// The answer for a known address. None: this region has no such attribute.
fn known(r: Region, attr: u32, ptr: u64) -> Res<Option<Answer>> {
    let device = r.is_device();
    let managed = r.kind == RegionKind::Managed;
    let mapped = matches!(r.kind, RegionKind::Mapped { .. });
    use Answer::*;
    Ok(Some(match attr {
        1 => Word(r.ctx.0 as u64),
        2 => Int(if device || managed { DEVICE } else { HOST }),
        3 => Word(ptr),
        4 if device => return Ok(None),
        4 => Word(ptr),
        // cudart reads these two as 32 bits
        6 => Int(r.sync_memops as u32),
        7 => Word(r.id),
        8 => Int(managed as u32),
        9 => Int(r.device as u32),
        10 => Flag(matches!(r.kind, RegionKind::Device)),
        11 => Word(r.base),
        12 => Word(r.size),
        13 => Flag(true),
        14 => Word(if mapped { 1 } else { 0 }),
        15 => Flag(device),
        16 => Int(match r.kind {
            RegionKind::Mapped { access, .. } => access,
            _ => 3,
        }),
        17 => match r.kind {
            RegionKind::Pool(p) => Word(p.0 as u64),
            _ => Word(0),
        },
        18 => Word(r.size),
        19 => Word(r.base),
        20 => Word(r.id),
        _ => return Err(CUresult::INVALID_VALUE),
    }))
}

/// What the plural query says of an address or attribute it does not know (driver 580, recorded): zeros, the address
/// itself as host pointer, ordinal -2.
fn unknown(attr: u32, ptr: u64, seen: bool) -> Option<Answer> {
    use Answer::*;
    Some(match attr {
        4 if !seen => Word(ptr),
        1 | 3 | 4 | 7 | 11 | 12 | 14 | 17..=20 => Word(0),
        2 | 6 | 8 | 16 => Int(0),
        9 => Int(-2i32 as u32),
        10 | 13 | 15 => Flag(false),
        _ => return None,
    })
}

fn region(st: &State, ptr: u64) -> Option<Region> {
    st.memory.find(ptr).copied()
}

pub unsafe fn cuPointerGetAttribute(data: *mut c_void, attribute: u32, ptr: CUdeviceptr) -> CUresult {
    answer(|| {
        wanted(data)?;
        let st = lock()?;
        let r = region(&st, ptr).ok_or(CUresult::INVALID_VALUE)?;
        known(r, attribute, ptr)?.ok_or(CUresult::INVALID_VALUE)?.write(data)
    })
}

pub unsafe fn cuPointerGetAttributes(
    numAttributes: u32,
    attributes: *mut u32,
    data: *mut *mut c_void,
    ptr: CUdeviceptr,
) -> CUresult {
    answer(|| {
        let (attrs, outs) = (array(attributes, numAttributes as usize)?, array(data, numAttributes as usize)?);
        if attrs.is_empty() || outs.iter().any(|p| p.is_null()) {
            return Err(CUresult::INVALID_VALUE);
        }
        let st = lock()?;
        let r = region(&st, ptr);
        let mut answers = Vec::with_capacity(attrs.len());
        for &a in attrs {
            let told = match r {
                Some(r) => known(r, a, ptr)?,
                None => None,
            };
            answers.push(told.or_else(|| unknown(a, ptr, r.is_some())).ok_or(CUresult::INVALID_VALUE)?);
        }
        answers.iter().zip(outs).try_for_each(|(a, &to)| a.write(to))
    })
}

/// SYNC_MEMOPS is the one attribute that can be set; all copies here are synchronous towards the device's memory, so it is
/// only kept.
pub unsafe fn cuPointerSetAttribute(value: *const c_void, attribute: u32, ptr: CUdeviceptr) -> CUresult {
    answer(|| {
        let on: u32 = input(value.cast())?;
        if attribute != 6 {
            return Err(CUresult::INVALID_VALUE);
        }
        lock()?.memory.set_sync_memops(ptr, on != 0)
    })
}

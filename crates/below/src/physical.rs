//! Physical memory of a card: made, mapped, shared as a file descriptor, let go.
//!
//! Free functions over a driver; the caller keeps the table of what it holds. A function that fails leaves nothing of what
//! it made, and what gives something back tries twice. No context is needed.
use crate::{ok, twice, Driver};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use zerogpu_abi::*;

/// CU_MEM_ACCESS_FLAGS_PROT_READWRITE.
pub const READ_WRITE: u32 = 3;
/// CU_MEM_ALLOCATION_TYPE_PINNED.
const PINNED: u32 = 1;
/// CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR.
const AS_FD: u32 = 1;

fn prop(device: CUdevice, handle_types: u32) -> CUmemAllocationProp {
    prop_at(CUmemLocation::device(device), handle_types)
}

fn prop_at(location: CUmemLocation, handle_types: u32) -> CUmemAllocationProp {
    CUmemAllocationProp {
        kind: PINNED,
        requestedHandleTypes: handle_types,
        location,
        win32HandleMetaData: std::ptr::null_mut(),
        compressionType: 0,
        gpuDirectRDMACapable: 0,
        usage: 0,
        reserved: [0; 4],
    }
}

/// What lengths, addresses and offsets are multiples of on a card.
///
/// # Errors
/// The driver's answer.
pub fn granularity(d: &Driver, device: CUdevice) -> Res<u64> {
    let mut bytes = 0;
    // SAFETY: writes one number; 0 asks for the least granularity.
    ok(unsafe { (d.cuMemGetAllocationGranularity)(&mut bytes, &prop(device, AS_FD), 0) })?;
    Ok(bytes as u64)
}

/// Makes memory on a card, for this process alone.
///
/// # Errors
/// The driver's answer: [`CUresult::OUT_OF_MEMORY`] if the card has no `len` bytes left.
pub fn create(d: &Driver, device: CUdevice, len: u64) -> Res<u64> {
    make(d, len, &prop(device, 0))
}

/// Makes memory where a location says, which may be in the host: for this process alone.
///
/// # Errors
/// The driver's answer: [`CUresult::OUT_OF_MEMORY`] if there are no `len` bytes left.
pub fn create_at(d: &Driver, location: CUmemLocation, len: u64) -> Res<u64> {
    make(d, len, &prop_at(location, 0))
}

/// Makes memory on a card that [`export`] can share.
///
/// # Errors
/// As for [`create`].
pub fn create_exportable(d: &Driver, device: CUdevice, len: u64) -> Res<u64> {
    make(d, len, &prop(device, AS_FD))
}

fn make(d: &Driver, len: u64, prop: &CUmemAllocationProp) -> Res<u64> {
    let mut handle = 0;
    // SAFETY: writes the new handle.
    ok(unsafe { (d.cuMemCreate)(&mut handle, len as usize, prop, 0) })?;
    Ok(handle)
}

/// Gives a handle back. The memory lives on while something maps or imports it, or has its descriptor.
///
/// # Errors
/// The driver's answer to the second try.
pub fn release(d: &Driver, handle: u64) -> Res {
    // SAFETY: a number that the driver looks up; the caller has it from this module and uses it no more.
    unsafe { twice(|| (d.cuMemRelease)(handle)) }
}

/// A descriptor for memory that [`create_exportable`] made.
///
/// # Errors
/// [`CUresult::INVALID_HANDLE`] if the driver gives no descriptor, its answer otherwise.
pub fn export(d: &Driver, handle: u64) -> Res<OwnedFd> {
    let mut fd: i32 = -1;
    // SAFETY: for this kind of handle the driver writes one descriptor.
    ok(unsafe { (d.cuMemExportToShareableHandle)((&mut fd as *mut i32).cast(), handle, AS_FD, 0) })?;
    if fd < 0 {
        return Err(CUresult::INVALID_HANDLE);
    }
    // SAFETY: a descriptor that the driver has just opened for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A handle of this process for memory that another exported. The descriptor may be closed afterwards.
///
/// # Errors
/// The driver's answer.
pub fn import(d: &Driver, fd: BorrowedFd) -> Res<u64> {
    let mut handle = 0;
    // SAFETY: for this kind of handle the pointer is the descriptor's number; writes the new handle.
    ok(unsafe { (d.cuMemImportFromShareableHandle)(&mut handle, fd.as_raw_fd() as usize as *mut _, AS_FD) })?;
    Ok(handle)
}

/// Maps `len` bytes of a handle from `offset` on at a reserved address. Nobody may use them before [`set_access`].
///
/// # Errors
/// The driver's answer.
pub fn map(d: &Driver, va: u64, len: u64, handle: u64, offset: u64) -> Res {
    // SAFETY: the driver refuses addresses that are not reserved or are mapped already.
    ok(unsafe { (d.cuMemMap)(va, len as usize, offset as usize, handle, 0) })
}

/// Lets a card use whole mappings: 3 is reading and writing, 1 reading, 0 neither.
///
/// # Errors
/// The driver's answer.
pub fn set_access(d: &Driver, device: CUdevice, va: u64, len: u64, flags: u32) -> Res {
    let desc = CUmemAccessDesc { location: CUmemLocation::device(device), flags };
    // SAFETY: reads one description.
    ok(unsafe { (d.cuMemSetAccess)(va, len as usize, &desc, 1) })
}

/// Why a window could not be opened, and what is left of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unopened {
    /// The driver's first refusal.
    pub code: CUresult,
    /// Where the handle is mapped still, since the driver refused to end that, too: its memory stays on the card, whoever releases
    /// it, until [`close_window`] succeeds there.
    pub mapped: Option<u64>,
}

/// Ends a mapping that nothing uses any more.
///
/// # Errors
/// The driver's answer to the second try.
pub fn unmap(d: &Driver, va: u64, len: u64) -> Res {
    // SAFETY: a mapping of the caller's, which has stopped using it.
    unsafe { twice(|| (d.cuMemUnmap)(va, len as usize)) }
}

/// Addresses of the driver's choice, in which nothing is mapped.
///
/// # Errors
/// The driver's answer.
pub fn reserve(d: &Driver, len: u64) -> Res<u64> {
    let mut va = 0;
    // SAFETY: a fresh range of the driver's choice.
    ok(unsafe { (d.cuMemAddressReserve)(&mut va, len as usize, 0, 0, 0) })?;
    Ok(va)
}

/// Maps a whole handle where the driver likes, for reading and writing; returns the address.
///
/// # Errors
/// The driver's answer to the first call that failed, and where it left a mapping.
pub fn open_window(d: &Driver, device: CUdevice, handle: u64, len: u64) -> Result<u64, Unopened> {
    let va = reserve(d, len).map_err(|code| Unopened { code, mapped: None })?;
    if let Err(code) = map(d, va, len, handle, 0) {
        let _first_error_counts = free_addresses(d, va, len);
        return Err(Unopened { code, mapped: None });
    }
    set_access(d, device, va, len, READ_WRITE).map_err(|code| {
        let mapped = close_window(d, va, len).is_err().then_some(va);
        Unopened { code, mapped }
    })?;
    Ok(va)
}

/// Ends a window that nothing uses any more. Its addresses stay reserved where the driver does not take them back: they are nothing of
/// the card's, and there are enough.
///
/// # Errors
/// The driver's answer to the second try: the window is mapped as before.
pub fn close_window(d: &Driver, va: u64, len: u64) -> Res {
    unmap(d, va, len)?;
    let _stay_reserved = free_addresses(d, va, len);
    Ok(())
}

/// Gives addresses back.
///
/// # Errors
/// The driver's answer to the second try.
pub fn free_addresses(d: &Driver, va: u64, len: u64) -> Res {
    // SAFETY: a range that `reserve` gave and that nothing is mapped in.
    unsafe { twice(|| (d.cuMemAddressFree)(va, len as usize)) }
}

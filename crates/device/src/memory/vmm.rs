//! The app's own virtual memory management: reservations, physical handles, mappings, access.
//!
//! A handle may be mapped several times and lives until it is released and its last mapping is gone, as on a driver.
use super::{backing, Change, Kept, Memory, Owner, Ranges, Region, RegionKind, SharedFile, GRANULE};
use crate::exec;
use crate::runtime::lacking;
use std::collections::{BTreeMap, HashMap};
use zerogpu_abi::{CUcontext, CUdevice, CUmemAllocationProp, CUmemLocation, CUresult, Res};

/// Reservations and physical handles.
pub struct Vmm {
    /// Address space that reservations come from; None: each is a mapping of its own.
    window: Option<(u64, u64)>,
    free: Option<Ranges>,
    /// What the process had mapped at cuInit: without a window a reservation gets none of it, as on a driver (580, recorded).
    shunned: Vec<(u64, u64)>,
    reservations: BTreeMap<u64, u64>,
    physical: HashMap<u64, Physical>,
    /// Free ranges of the backing behind the arena.
    space: Ranges,
    /// Handles whose files lie over their ranges of the backing.
    overlays: usize,
    /// Bytes of the handles made here, by device.
    used: Vec<u64>,
}

/// Physical memory that the app made or imported.
#[allow(missing_docs)]
pub struct Physical {
    /// Offset in the backing.
    pub off: u64,
    pub len: u64,
    pub prop: CUmemAllocationProp,
    /// References by `cuMemCreate` and `cuMemRetainAllocationHandle`.
    refs: u32,
    mappings: u32,
    /// The file of its own that holds the bytes and can be handed to another process.
    shared: Option<Shared>,
}

/// What makes a physical handle shareable.
struct Shared {
    file: SharedFile,
    /// Whether it was made elsewhere, or here by another handle: its bytes are counted there.
    imported: bool,
}

// SAFETY: `prop` holds a pointer that is only ever handed back as a value.
unsafe impl Send for Physical {}

impl Vmm {
    pub(super) fn new(window: Option<(u64, u64)>, arena_bytes: u64) -> Self {
        let space = Ranges::new(arena_bytes, arena_bytes);
        let (reservations, physical) = (BTreeMap::new(), HashMap::new());
        let (free, shunned, used) = (None, Vec::new(), Vec::new());
        Self { window, free, shunned, reservations, physical, space, overlays: 0, used }
    }

    /// Bytes of physical handles made here on a device.
    pub fn used(&self, device: CUdevice) -> u64 {
        self.used.get(device as usize).copied().unwrap_or(0)
    }

    /// A range of the backing behind the arena is anyone's again.
    pub(super) fn give_space(&mut self, off: u64, len: u64) {
        self.space.give(off, len);
    }

    fn count(&mut self, device: CUdevice, change: impl Fn(u64) -> u64) {
        let at = device as usize;
        if at >= self.used.len() {
            self.used.resize(at + 1, 0);
        }
        self.used[at] = change(self.used[at]);
    }

    /// The window, if it is reserved: (address, bytes).
    pub fn window(&self) -> Option<(u64, u64)> {
        self.window.filter(|_| self.free.is_some())
    }

    /// The device is about to be there: what is mapped now, no reservation gets later.
    pub(crate) fn shun_mapped(&mut self) {
        if self.window.is_none() {
            self.shunned = backing::mappings().iter().map(|m| (m.start, m.end)).collect();
        }
    }

    /// Whether the app has reserved addresses.
    pub fn has_reservations(&self) -> bool {
        !self.reservations.is_empty()
    }

    /// Whether an address lies in a reservation.
    pub fn is_reserved(&self, addr: u64) -> bool {
        self.reservations.range(..=addr).next_back().is_some_and(|(start, size)| addr - start < *size)
    }

    /// Whether a reservation has addresses in `[at, end)`.
    pub(super) fn touches(&self, at: u64, end: u64) -> bool {
        self.reservations.range(..end).next_back().is_some_and(|(start, size)| at < start + size)
    }

    /// A physical handle's memory.
    pub fn physical(&self, handle: u64) -> Option<&Physical> {
        self.physical.get(&handle)
    }

    /// Whether any handle's bytes lie elsewhere than in the backing.
    pub(super) fn has_overlays(&self) -> bool {
        self.overlays > 0
    }

    /// The file of a shareable handle that is alive.
    pub fn shared_file(&self, handle: u64) -> Option<&SharedFile> {
        let p = self.physical.get(&handle).filter(|p| p.refs > 0)?;
        p.shared.as_ref().map(|s| &s.file)
    }

    /// All physical handles.
    pub fn handles(&self) -> impl Iterator<Item = (u64, &Physical)> {
        self.physical.iter().map(|(&h, p)| (h, p))
    }
}

impl Memory {
    /// Reserves `size` bytes of addresses, at `hint` if that can be had.
    ///
    /// # Errors
    /// INVALID_VALUE: a size of 0 or not of whole granules, or an alignment that is neither 0 nor a power of two;
    /// OUT_OF_MEMORY: there is no such range of addresses left.
    pub fn reserve(&mut self, size: u64, align: u64, hint: u64) -> Res<u64> {
        if size == 0 || size % GRANULE != 0 || (align != 0 && !align.is_power_of_two()) {
            return Err(CUresult::INVALID_VALUE);
        }
        let align = align.max(GRANULE);
        let at = match self.vmm.window {
            Some((start, len)) => {
                if self.vmm.free.is_none() {
                    backing::reserve(Some(start), len).map_err(lacking("4 TiB of addresses"))?;
                    self.vmm.free = Some(Ranges::new(start, len));
                }
                let free = self.vmm.free.as_mut().ok_or(CUresult::OUT_OF_MEMORY)?;
                let hinted = hint != 0 && hint % align == 0 && free.take_at(hint, size);
                if hinted {
                    hint
                } else {
                    free.take(size, align).ok_or(CUresult::OUT_OF_MEMORY)?
                }
            }
            None => {
                let end = hint.saturating_add(size);
                let shunned = self.vmm.shunned.iter().any(|&(a, b)| a < end && hint < b);
                reserve_mapping(size, align, if shunned { 0 } else { hint })?
            }
        };
        self.vmm.reservations.insert(at, size);
        Ok(at)
    }

    /// Ends a whole reservation, in which nothing may be mapped.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such reservation, or something is mapped in it.
    pub fn unreserve(&mut self, at: u64, size: u64) -> Res {
        if self.vmm.reservations.get(&at) != Some(&size) || self.overlaps(at, size) {
            return Err(CUresult::INVALID_VALUE);
        }
        self.vmm.reservations.remove(&at);
        match &mut self.vmm.free {
            Some(free) => free.give(at, size),
            None => backing::unreserve(at, size),
        }
        Ok(())
    }

    /// The reservation that holds all of a range.
    fn reserved(&self, at: u64, len: u64) -> bool {
        let Some(end) = at.checked_add(len) else { return false };
        self.vmm.reservations.range(..=at).next_back().is_some_and(|(start, size)| end <= start + size)
    }

    /// Makes physical memory under the handle `handle`.
    ///
    /// # Errors
    /// INVALID_VALUE: a length of 0 or not of whole granules; those of [`Memory::backing`]; OUT_OF_MEMORY: the backing
    /// is full; what `told` refuses it with.
    pub fn create(
        &mut self,
        handle: u64,
        len: u64,
        prop: CUmemAllocationProp,
        told: &mut dyn FnMut(Change) -> Res,
    ) -> Res {
        if len == 0 || len % GRANULE != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        self.backing()?;
        self.lose_kept(told);
        let host = prop.location.kind != CUmemLocation::DEVICE;
        let (device, location) = (prop.location.id, prop.location);
        let off = self.vmm.space.take(len, GRANULE).ok_or(CUresult::OUT_OF_MEMORY)?;
        if let Err(e) = told(Change::Create { physical: handle, off, len, host, location, device }) {
            self.vmm.space.give(off, len);
            return Err(e);
        }
        if !host {
            self.vmm.count(device, |used| used + len);
        }
        self.vmm.physical.insert(handle, Physical { off, len, prop, refs: 1, mappings: 0, shared: None });
        Ok(())
    }

    /// Makes a physical handle of a device whose bytes lie in `file`: new memory, or an import of what is there already.
    ///
    /// # Errors
    /// Those of [`Memory::backing`]; OUT_OF_MEMORY: the backing is full, or the file can't be laid over it; what `told`
    /// refuses it with.
    pub fn create_shared(
        &mut self,
        handle: u64,
        file: SharedFile,
        prop: CUmemAllocationProp,
        imported: bool,
        told: &mut dyn FnMut(Change) -> Res,
    ) -> Res {
        let (len, device) = (file.len(), prop.location.id);
        self.backing()?;
        let off = self.vmm.space.take(len, GRANULE).ok_or(CUresult::OUT_OF_MEMORY)?;
        if let Err(e) = told(Change::Share { file: file.fd(), len, device, imported }) {
            self.vmm.space.give(off, len);
            return Err(e);
        }
        if self.backing()?.overlay(off, len, file.fd()).is_err() {
            self.vmm.space.give(off, len);
            told(Change::Unshare { file: file.fd(), device })?;
            return Err(CUresult::OUT_OF_MEMORY);
        }
        self.vmm.overlays += 1;
        if !imported {
            self.vmm.count(device, |used| used + len);
        }
        let shared = Some(Shared { file, imported });
        self.vmm.physical.insert(handle, Physical { off, len, prop, refs: 1, mappings: 0, shared });
        Ok(())
    }

    /// Takes one more reference.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such handle.
    pub fn retain(&mut self, handle: u64) -> Res {
        self.vmm.physical.get_mut(&handle).ok_or(CUresult::INVALID_VALUE)?.refs += 1;
        Ok(())
    }

    /// Drops a reference; true when the handle is gone (no references, no mappings).
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such handle, or it has no reference left.
    pub fn release(&mut self, handle: u64, told: &mut dyn FnMut(Change) -> Res) -> Res<bool> {
        let p = self.vmm.physical.get_mut(&handle).filter(|p| p.refs > 0).ok_or(CUresult::INVALID_VALUE)?;
        p.refs -= 1;
        Ok(self.collect(handle, told))
    }

    /// Ends a handle that nothing holds any more; whether it has ended. A backend that can't give its memory back yet keeps
    /// that to itself: the app has nothing left to try again with.
    fn collect(&mut self, handle: u64, told: &mut dyn FnMut(Change) -> Res) -> bool {
        if !self.vmm.physical.get(&handle).is_some_and(|p| p.refs == 0 && p.mappings == 0) {
            return false;
        }
        let Some(Physical { off, len, prop, shared, .. }) = self.vmm.physical.remove(&handle) else { return false };
        let (device, host) = (prop.location.id, prop.location.kind != CUmemLocation::DEVICE);
        let _kept_below = match &shared {
            None => told(Change::Destroy { physical: handle, off, len, host, device }),
            Some(s) => told(Change::Unshare { file: s.file.fd(), device }),
        };
        if !host && !shared.as_ref().is_some_and(|s| s.imported) {
            self.vmm.count(device, |used| used - len);
        }
        if shared.is_none() {
            self.lose(Kept { owner: Owner::Space, off, len }, told);
            return true;
        }
        let Some(backing) = &self.backing else { return true };
        // no copy of another thread may go on into what is there next
        exec::settle();
        // else the range stays with the file that lies there: it must not be given to anyone else
        if backing.restore(off, len).is_ok() {
            self.vmm.overlays -= 1;
            self.vmm.space.give(off, len);
        }
        true
    }

    /// Maps a whole handle at `at`, inside a reservation, where nothing is mapped yet.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such handle, or it is released; the range is empty, not of whole granules, beyond
    /// the end of the handle, not in one reservation, or something is mapped in it; what `told` refuses it with.
    pub fn map(&mut self, at: u64, len: u64, offset: u64, handle: u64, told: &mut dyn FnMut(Change) -> Res) -> Res {
        let p = self.vmm.physical.get(&handle).filter(|p| p.refs > 0).ok_or(CUresult::INVALID_VALUE)?;
        let (start, device) =
            (p.off, if p.prop.location.kind == CUmemLocation::DEVICE { p.prop.location.id } else { 0 });
        let fits = offset.checked_add(len).is_some_and(|end| end <= p.len);
        if len == 0 || (at | len | offset) % GRANULE != 0 || !fits || !self.reserved(at, len) || self.overlaps(at, len)
        {
            return Err(CUresult::INVALID_VALUE);
        }
        told(Change::Map { va: at, len, physical: handle, offset })?;
        let id = self.new_id();
        let kind = RegionKind::Mapped { physical: handle, off: start + offset, access: 0 };
        self.regions
            .insert(at, Region { base: at, size: len, kind, device, ctx: CUcontext::NULL, id, sync_memops: false });
        if let Some(p) = self.vmm.physical.get_mut(&handle) {
            p.mappings += 1;
        }
        Ok(())
    }

    /// Unmaps a range that covers whole mappings; gives back the handles that ended with it.
    ///
    /// # Errors
    /// INVALID_VALUE: the range is not filled by whole mappings; what `told` refuses it with.
    pub fn unmap(&mut self, at: u64, len: u64, told: &mut dyn FnMut(Change) -> Res) -> Res<Vec<u64>> {
        let maps = self.whole_mappings(at, len)?;
        told(Change::Unmap { va: at, len })?;
        let mut ended = Vec::new();
        for (base, handle) in maps {
            self.regions.remove(&base);
            if let Some(p) = self.vmm.physical.get_mut(&handle) {
                p.mappings -= 1;
            }
            if self.collect(handle, told) {
                ended.push(handle);
            }
        }
        Ok(ended)
    }

    /// Fails if a device can't have access to the mapping that holds an address: these cards do not reach each other.
    ///
    /// # Errors
    /// INVALID_DEVICE: it is another device's memory.
    pub fn accessible(&self, at: u64, device: CUdevice) -> Res {
        let Some(Region { kind: RegionKind::Mapped { physical, .. }, .. }) = self.find(at) else { return Ok(()) };
        match self.vmm.physical.get(physical).map(|p| &p.prop.location) {
            Some(l) if l.kind == CUmemLocation::DEVICE && l.id != device => Err(CUresult::INVALID_DEVICE),
            _ => Ok(()),
        }
    }

    /// The mappings that fill a range exactly, if a device can have access to them.
    fn accessible_mappings(&self, at: u64, len: u64, device: CUdevice) -> Res<Vec<(u64, u64)>> {
        let maps = self.whole_mappings(at, len)?;
        maps.iter().try_for_each(|&(base, _)| self.accessible(base, device))?;
        Ok(maps)
    }

    /// Fails if [`Memory::set_access`] would refuse that of itself.
    ///
    /// # Errors
    /// As for [`Memory::set_access`], but for what the backend says.
    pub fn check_access(&self, at: u64, len: u64, device: CUdevice) -> Res {
        self.accessible_mappings(at, len, device).map(|_| ())
    }

    /// Whether setting access would take some away from a mapping in a range.
    pub fn takes_access(&self, at: u64, len: u64, flags: u32) -> bool {
        let mut inside = self.regions.range(at..at.saturating_add(len));
        // the flags are bits: read, write
        inside.any(|(_, r)| matches!(r.kind, RegionKind::Mapped { access, .. } if access & !flags != 0))
    }

    /// Sets a device's access to whole mappings.
    ///
    /// # Errors
    /// INVALID_VALUE: the range is not filled by whole mappings; those of [`Memory::accessible`] for any of them; what
    /// `told` refuses it with.
    pub fn set_access(
        &mut self,
        at: u64,
        len: u64,
        device: CUdevice,
        flags: u32,
        told: &mut dyn FnMut(Change) -> Res,
    ) -> Res {
        let maps = self.accessible_mappings(at, len, device)?;
        told(Change::Access { va: at, len, flags })?;
        for (base, _) in maps {
            if let Some(Region { kind: RegionKind::Mapped { access, .. }, .. }) = self.regions.get_mut(&base) {
                *access = flags;
            }
        }
        Ok(())
    }

    /// The mappings that fill `[at, at + len)` exactly: their bases and handles.
    fn whole_mappings(&self, at: u64, len: u64) -> Res<Vec<(u64, u64)>> {
        let end = at.checked_add(len).ok_or(CUresult::INVALID_VALUE)?;
        let mut next = at;
        let mut maps = Vec::new();
        for (&base, r) in self.regions.range(at..end) {
            let RegionKind::Mapped { physical, .. } = r.kind else { return Err(CUresult::INVALID_VALUE) };
            if base != next {
                return Err(CUresult::INVALID_VALUE);
            }
            next = base + r.size;
            maps.push((base, physical));
        }
        if next != end || maps.is_empty() {
            Err(CUresult::INVALID_VALUE)
        } else {
            Ok(maps)
        }
    }
}

/// A reservation that is a mapping of its own: at the hint, else anywhere, aligned.
fn reserve_mapping(size: u64, align: u64, hint: u64) -> Res<u64> {
    if hint != 0 && hint % align == 0 {
        if let Ok(at) = backing::reserve(Some(hint), size) {
            return Ok(at);
        }
    }
    let padded = size.checked_add(align).ok_or(CUresult::OUT_OF_MEMORY)?;
    let raw = backing::reserve(None, padded).map_err(|_| CUresult::OUT_OF_MEMORY)?;
    let at = raw.next_multiple_of(align);
    if at > raw {
        backing::unreserve(raw, at - raw);
    }
    backing::unreserve(at + size, raw + padded - (at + size));
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Layout;

    #[test]
    fn a_backend_that_keeps_memory_changes_nothing_for_the_app() {
        let mut m = Memory::new(Layout::default(), 1);
        let prop = CUmemAllocationProp {
            kind: 1,
            requestedHandleTypes: 0,
            location: zerogpu_abi::CUmemLocation::device(0),
            win32HandleMetaData: std::ptr::null_mut(),
            compressionType: 0,
            gpuDirectRDMACapable: 0,
            usage: 0,
            reserved: [0; 4],
        };
        let at = m.reserve(2 * GRANULE, 0, 0).unwrap();
        let mut keeps = |c| match c {
            Change::Destroy { .. } => Err(CUresult::UNKNOWN),
            _ => Ok(()),
        };
        for handle in [1, 2, 3] {
            m.create(handle, GRANULE, prop, &mut keeps).unwrap();
        }
        m.map(at, GRANULE, 0, 1, &mut keeps).unwrap();
        m.map(at + GRANULE, GRANULE, 0, 2, &mut keeps).unwrap();
        for handle in [1, 2] {
            assert_eq!(m.release(handle, &mut keeps), Ok(false), "it is mapped");
        }
        assert_eq!(m.release(3, &mut keeps), Ok(true));
        assert_eq!(m.unmap(at, 2 * GRANULE, &mut keeps), Ok(vec![1, 2]));
        assert_eq!((m.used(0), m.regions().count()), (0, 0));
        assert_eq!(m.unreserve(at, 2 * GRANULE), Ok(()));
    }
}

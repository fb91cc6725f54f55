//! The app's own virtual memory management: reservations, physical handles, mappings, access.
//!
//! A handle may be mapped several times and lives until it is released and its last mapping is gone, as on a driver.
use super::{backing, Change, Memory, Ranges, Region, RegionKind, ARENA_BYTES, GRANULE};
use std::collections::{BTreeMap, HashMap};
use zerogpu_abi::{CUcontext, CUmemAllocationProp, CUresult, Res};

/// Reservations and physical handles.
pub struct Vmm {
    /// Address space that reservations come from; None: each is a mapping of its own.
    window: Option<(u64, u64)>,
    free: Option<Ranges>,
    reservations: BTreeMap<u64, u64>,
    physical: HashMap<u64, Physical>,
    /// Free ranges of the backing behind the arena.
    space: Ranges,
    used: u64,
}

/// Physical memory that the app made.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Physical {
    /// Offset in the backing.
    pub off: u64,
    pub len: u64,
    pub prop: CUmemAllocationProp,
    /// References by `cuMemCreate` and `cuMemRetainAllocationHandle`.
    refs: u32,
    mappings: u32,
}

// SAFETY: `prop` holds a pointer that is only ever handed back as a value.
unsafe impl Send for Physical {}

/// CU_MEM_LOCATION_TYPE_DEVICE; everything else lives in host memory.
const LOCATION_DEVICE: u32 = 1;

impl Vmm {
    pub(super) fn new(window: Option<(u64, u64)>) -> Self {
        let space = Ranges::new(ARENA_BYTES, ARENA_BYTES);
        let (reservations, physical) = (BTreeMap::new(), HashMap::new());
        Self { window, free: None, reservations, physical, space, used: 0 }
    }

    /// Bytes of physical handles on the device.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Whether the app has reserved addresses.
    pub fn has_reservations(&self) -> bool {
        !self.reservations.is_empty()
    }

    /// Whether an address lies in a reservation.
    pub fn is_reserved(&self, addr: u64) -> bool {
        self.reservations.range(..=addr).next_back().is_some_and(|(start, size)| addr - start < *size)
    }

    /// A physical handle's memory.
    pub fn physical(&self, handle: u64) -> Option<&Physical> {
        self.physical.get(&handle)
    }

    /// All physical handles.
    pub fn handles(&self) -> impl Iterator<Item = (u64, &Physical)> {
        self.physical.iter().map(|(&h, p)| (h, p))
    }
}

impl Memory {
    /// Reserves `size` bytes of addresses, at `hint` if that can be had.
    pub fn reserve(&mut self, size: u64, align: u64, hint: u64) -> Res<u64> {
        if size == 0 || size % GRANULE != 0 || (align != 0 && !align.is_power_of_two()) {
            return Err(CUresult::INVALID_VALUE);
        }
        let align = align.max(GRANULE);
        let at = match self.vmm.window {
            Some((start, len)) => {
                if self.vmm.free.is_none() {
                    backing::reserve(Some(start), len).map_err(|_| CUresult::OUT_OF_MEMORY)?;
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
            None => reserve_mapping(size, align, hint)?,
        };
        self.vmm.reservations.insert(at, size);
        Ok(at)
    }

    /// Ends a whole reservation, in which nothing may be mapped.
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
        let off = self.vmm.space.take(len, GRANULE).ok_or(CUresult::OUT_OF_MEMORY)?;
        let host = prop.location.kind != LOCATION_DEVICE;
        let location = prop.location;
        if let Err(e) = told(Change::Create { physical: handle, off, len, host, location }) {
            self.vmm.space.give(off, len);
            return Err(e);
        }
        self.vmm.used += if host { 0 } else { len };
        self.vmm.physical.insert(handle, Physical { off, len, prop, refs: 1, mappings: 0 });
        Ok(())
    }

    /// Takes one more reference.
    pub fn retain(&mut self, handle: u64) -> Res {
        self.vmm.physical.get_mut(&handle).ok_or(CUresult::INVALID_VALUE)?.refs += 1;
        Ok(())
    }

    /// Drops a reference; true when the handle is gone (no references, no mappings).
    pub fn release(&mut self, handle: u64, told: &mut dyn FnMut(Change) -> Res) -> Res<bool> {
        let p = self.vmm.physical.get_mut(&handle).filter(|p| p.refs > 0).ok_or(CUresult::INVALID_VALUE)?;
        p.refs -= 1;
        self.collect(handle, told)
    }

    fn collect(&mut self, handle: u64, told: &mut dyn FnMut(Change) -> Res) -> Res<bool> {
        match self.vmm.physical.get(&handle) {
            Some(&Physical { refs: 0, mappings: 0, off, len, prop }) => {
                self.vmm.physical.remove(&handle);
                let host = prop.location.kind != LOCATION_DEVICE;
                told(Change::Destroy { physical: handle, len, host })?;
                self.vmm.used -= if host { 0 } else { len };
                self.vmm.space.give(off, len);
                self.backing()?.punch(off, len);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Maps a whole handle at `at`, inside a reservation, where nothing is mapped yet.
    pub fn map(&mut self, at: u64, len: u64, offset: u64, handle: u64, told: &mut dyn FnMut(Change) -> Res) -> Res {
        let p = *self.vmm.physical.get(&handle).filter(|p| p.refs > 0).ok_or(CUresult::INVALID_VALUE)?;
        let fits = offset.checked_add(len).is_some_and(|end| end <= p.len);
        if len == 0 || (at | len | offset) % GRANULE != 0 || !fits || !self.reserved(at, len) || self.overlaps(at, len)
        {
            return Err(CUresult::INVALID_VALUE);
        }
        told(Change::Map { va: at, len, physical: handle, offset })?;
        let id = self.new_id();
        let kind = RegionKind::Mapped { physical: handle, off: p.off + offset, access: 0 };
        self.regions.insert(at, Region { base: at, size: len, kind, ctx: CUcontext::NULL, id });
        if let Some(p) = self.vmm.physical.get_mut(&handle) {
            p.mappings += 1;
        }
        Ok(())
    }

    /// Unmaps a range that covers whole mappings; gives back the handles that ended with it.
    pub fn unmap(&mut self, at: u64, len: u64, told: &mut dyn FnMut(Change) -> Res) -> Res<Vec<u64>> {
        let maps = self.whole_mappings(at, len)?;
        told(Change::Unmap { va: at, len })?;
        let mut ended = Vec::new();
        for (base, handle) in maps {
            self.regions.remove(&base);
            if let Some(p) = self.vmm.physical.get_mut(&handle) {
                p.mappings -= 1;
            }
            if self.collect(handle, told)? {
                ended.push(handle);
            }
        }
        Ok(ended)
    }

    /// Sets the access of whole mappings.
    pub fn set_access(&mut self, at: u64, len: u64, flags: u32, told: &mut dyn FnMut(Change) -> Res) -> Res {
        let maps = self.whole_mappings(at, len)?;
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

//! Where bytes are: one table of regions by address, over the heap of the arena, the app's own mappings and host memory.
//!
//! Every device byte has a place in the host [`Backing`]. The arena's bytes lie there linearly (address minus arena base);
//! the physical handles of the app's own VMM calls have ranges behind it, and may be mapped at several addresses.
pub mod backing;
mod heap;
pub mod host;
mod ranges;
mod shared;
pub mod vmm;
mod written;

pub use backing::Backing;
pub use heap::{Heap, GRANULE};
pub use ranges::Ranges;
pub use shared::SharedFile;
pub use written::Written;

use crate::exec;
use crate::runtime::lacking;
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use zerogpu_abi::{CUcontext, CUdevice, CUmemLocation, CUmemoryPool, CUresult, Res};

/// Bytes of device address space that a device has in the arena: 128 GiB.
pub const ARENA_BYTES: u64 = 128 << 30;

/// The last part of a device's arena, in which (of the first) variables of modules have their addresses: 1 GiB.
pub const GLOBAL_BYTES: u64 = 1 << 30;
// no card is larger than what can be allocated
const _: () = assert!(ARENA_BYTES - GLOBAL_BYTES == zerogpu_profile::MOST_BYTES);

/// CU_MEM_ACCESS_FLAGS_PROT_READ.
const READ_ONLY: u32 = 1;

/// A range of addresses that some call made known.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Region {
    pub base: u64,
    /// Bytes, as asked for.
    pub size: u64,
    pub kind: RegionKind,
    /// The device whose memory it is, or whose context made it known.
    pub device: CUdevice,
    /// The context it belongs to; NULL: none (VMM mappings).
    pub ctx: CUcontext,
    /// CU_POINTER_ATTRIBUTE_BUFFER_ID: unique, never used again.
    pub id: u64,
    /// CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, as the app set it.
    pub sync_memops: bool,
}

/// What a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionKind {
    /// From `cuMemAlloc` and its kin.
    Device,
    /// From a memory pool.
    Pool(CUmemoryPool),
    /// A module's global variable; not the app's to free.
    Global,
    /// A physical handle mapped by the app: its backing offset, and whether access was set.
    Mapped {
        /// The physical handle.
        physical: u64,
        /// Offset of the first byte in the backing.
        off: u64,
        /// 0 none, 1 read, 3 read and write.
        access: u32,
    },
    /// Page-locked host memory, allocated by us (`cuMemHostAlloc`) or the app's own (`cuMemHostRegister`).
    Host {
        /// CU_MEMHOSTALLOC_* or CU_MEMHOSTREGISTER_* flags.
        flags: u32,
        /// Whether the memory is the app's own.
        registered: bool,
    },
    /// Managed memory: host memory at the same address.
    Managed,
}

impl Region {
    /// Whether the device reaches it as its own memory.
    pub fn is_device(&self) -> bool {
        !matches!(self.kind, RegionKind::Host { .. } | RegionKind::Managed)
    }

    fn end(&self) -> u64 {
        self.base + self.size
    }
}

/// A piece of device memory on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Host address.
    pub host: usize,
    /// Bytes.
    pub len: u64,
}

/// How the address space is laid out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    /// Where the arena lies; None: anywhere.
    pub arena: Option<u64>,
    /// Where the app's own address reservations come from: start and bytes; None: anywhere, one by one.
    pub window: Option<(u64, u64)>,
}

/// A change of physical memory, told to the backend with the state's lock held.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub enum Change {
    /// The heap took a range of the arena (whole granules). Refusing it makes the allocation fail.
    Take { va: u64, len: u64, device: CUdevice },
    /// The heap gave a range back.
    Give { va: u64, len: u64, device: CUdevice },
    /// The app made a physical handle (`host`: in host memory, which costs the card nothing).
    Create { physical: u64, off: u64, len: u64, host: bool, location: CUmemLocation, device: CUdevice },
    /// A physical handle's last use ended.
    Destroy { physical: u64, off: u64, len: u64, host: bool, device: CUdevice },
    /// A shareable physical handle was made over a file, new or `imported`. Only where the app may share.
    Share { file: RawFd, len: u64, device: CUdevice, imported: bool },
    /// Its last use here ended.
    Unshare { file: RawFd, device: CUdevice },
    /// The app mapped a handle.
    Map { va: u64, len: u64, physical: u64, offset: u64 },
    /// The app unmapped a range.
    Unmap { va: u64, len: u64 },
    /// The app set the access of a mapped range.
    Access { va: u64, len: u64, flags: u32 },
    /// Host memory was page-locked; `flags` of its registration (CU_MEMHOSTREGISTER_*), 0 if it was allocated.
    Pin { at: u64, len: u64, flags: u32 },
    /// Host memory is ordinary again.
    Unpin { at: u64, len: u64 },
    /// Host memory is about to lose its bytes, of the backing (`off`: where in it) or what was allocated page-locked. Refusing
    /// it keeps them: nobody gets that memory, and it is asked again later.
    Lose { at: u64, len: u64, off: Option<u64> },
}

/// Whose a range was that has kept its bytes.
#[derive(Clone, Copy, Debug)]
enum Owner {
    /// A device's heap.
    Heap(CUdevice),
    /// The heap of variables.
    Globals,
    /// Physical handles.
    Space,
    /// The system.
    System,
}

/// A range that the app has given back and that nobody may have yet, since the backend keeps it.
#[derive(Clone, Copy, Debug)]
struct Kept {
    owner: Owner,
    /// In the backing; of the system's, the address.
    off: u64,
    len: u64,
}

/// All memory of the device.
pub struct Memory {
    /// Made at the first allocation.
    backing: Option<Backing>,
    layout: Layout,
    /// Bytes of the arena, and of the backing behind it for physical handles.
    arena_bytes: u64,
    /// A heap for each device, side by side in the arena.
    heaps: Vec<Heap>,
    /// Variables of modules: apart from the rest, since on a card they have addresses of their own.
    globals: Option<Heap>,
    pub(crate) regions: BTreeMap<u64, Region>,
    pub(crate) vmm: vmm::Vmm,
    /// Bytes of hidden allocations, as far as they have granules of their own.
    hidden: u64,
    kept: Vec<Kept>,
    next_id: u64,
}

impl Memory {
    /// Empty memory; costs nothing until the first allocation.
    pub fn new(layout: Layout, devices: u32) -> Self {
        let arena_bytes = ARENA_BYTES * u64::from(devices.max(1));
        let vmm = vmm::Vmm::new(layout.window, arena_bytes);
        let (heaps, regions) = (Vec::new(), BTreeMap::new());
        Self {
            backing: None,
            layout,
            arena_bytes,
            heaps,
            globals: None,
            regions,
            vmm,
            hidden: 0,
            kept: Vec::new(),
            next_id: 1,
        }
    }

    /// Reserves the arena's addresses (once); its base.
    ///
    /// # Errors
    /// OUT_OF_MEMORY: they can't be had, which the human is told.
    pub fn arena(&mut self) -> Res<u64> {
        if self.heaps.is_empty() {
            let lacks = lacking("128 GiB of addresses for each card");
            let base = backing::reserve(self.layout.arena, self.arena_bytes).map_err(lacks)?;
            let split = ARENA_BYTES - GLOBAL_BYTES;
            self.heaps =
                (0..self.arena_bytes).step_by(ARENA_BYTES as usize).map(|at| Heap::new(base + at, split)).collect();
            self.globals = Some(Heap::new(base + split, GLOBAL_BYTES));
        }
        self.arena_base().ok_or(CUresult::OUT_OF_MEMORY)
    }

    /// The heap of a device.
    fn heap(&mut self, device: CUdevice) -> Res<&mut Heap> {
        self.arena()?;
        self.heaps.get_mut(device as usize).ok_or(CUresult::INVALID_DEVICE)
    }

    /// The device whose part of the arena holds an address.
    fn device_at(&self, at: u64) -> CUdevice {
        self.arena_base().map_or(0, |base| at.wrapping_sub(base) / ARENA_BYTES) as CUdevice
    }

    /// The arena's base, once it is reserved.
    pub fn arena_base(&self) -> Option<u64> {
        self.heaps.first().map(Heap::base)
    }

    /// The ranges of the arena that hold bytes: (address, bytes), whole granules, as they were taken.
    pub fn in_use(&self) -> Vec<(u64, u64)> {
        self.heaps.iter().flat_map(Heap::in_use).collect()
    }

    /// Physical bytes in use on a device.
    pub fn used(&self, device: CUdevice) -> u64 {
        self.heaps.get(device as usize).map_or(0, Heap::used) + self.vmm.used(device)
    }

    /// The backing.
    ///
    /// # Errors
    /// OUT_OF_MEMORY: it can't be had, which the human is told.
    pub fn backing(&mut self) -> Res<&Backing> {
        if self.backing.is_none() {
            let lacks = lacking("a sparse file of 256 GiB in memory for each card");
            self.backing = Some(Backing::new(2 * self.arena_bytes as usize).map_err(lacks)?);
        }
        self.backing.as_ref().ok_or(CUresult::OUT_OF_MEMORY)
    }

    /// Notes that the host is about to write there, if it is device memory. Before the bytes move, with the state locked.
    pub fn mark(&self, host: usize, len: u64) {
        if let Some(backing) = &self.backing {
            backing.mark(host, len);
        }
    }

    /// What fills device memory that has never been written, once there is a backing.
    pub fn filler(&self) -> Option<backing::Filler> {
        // a file that lies over a range behind the arena is not the one that is filled
        let len = if self.vmm.has_overlays() { self.arena_bytes } else { 2 * self.arena_bytes };
        self.backing.as_ref().map(|b| b.filler(len as usize))
    }

    /// Host address of a byte of the arena.
    ///
    /// # Errors
    /// Those of [`Memory::arena`] and [`Memory::backing`].
    pub fn arena_host(&mut self, va: u64) -> Res<usize> {
        let off = va - self.arena()?;
        Ok(self.backing()?.at(off))
    }

    /// Allocates `size` bytes of a device's memory. `grow` is asked before the heap takes more of the card.
    ///
    /// # Errors
    /// Those of [`Memory::backing`] and [`Memory::arena`]; INVALID_DEVICE: there is no such device; OUT_OF_MEMORY: the
    /// device's heap is full; what `grow` refuses it with.
    pub fn alloc(
        &mut self,
        device: CUdevice,
        size: u64,
        kind: RegionKind,
        ctx: CUcontext,
        grow: &mut dyn FnMut(Change) -> Res,
    ) -> Res<u64> {
        self.backing()?;
        self.lose_kept(grow);
        let taken = self.heap(device)?.alloc(size)?;
        if let Some((va, len)) = taken.grown {
            if let Err(e) = grow(Change::Take { va, len, device }) {
                let heap = self.heap(device)?;
                if let Some((at, n)) = heap.free(taken.at, size) {
                    heap.give(at, n);
                }
                return Err(e);
            }
        }
        let id = self.new_id();
        self.regions.insert(taken.at, Region { base: taken.at, size, kind, device, ctx, id, sync_memops: false });
        Ok(taken.at)
    }

    /// Allocates a module's variable, zeroed.
    ///
    /// # Errors
    /// Those of [`Memory::backing`] and [`Memory::arena`]; OUT_OF_MEMORY: the heap of variables is full.
    pub fn alloc_global(&mut self, device: CUdevice, size: u64, ctx: CUcontext) -> Res<u64> {
        self.backing()?;
        self.arena()?;
        let at = self.globals.as_mut().ok_or(CUresult::OUT_OF_MEMORY)?.alloc(size)?.at;
        let host = self.arena_host(at)?;
        // SAFETY: the backing of the range just taken; small variables share granules that others have used.
        unsafe { std::ptr::write_bytes(host as *mut u8, 0, size as usize) };
        let id = self.new_id();
        self.regions
            .insert(at, Region { base: at, size, kind: RegionKind::Global, device, ctx, id, sync_memops: false });
        Ok(at)
    }

    /// Whether an address lies where variables of modules have theirs.
    pub fn is_global(&self, addr: u64) -> bool {
        self.globals.as_ref().is_some_and(|g| addr.wrapping_sub(g.base()) < GLOBAL_BYTES)
    }

    /// Frees what [`Memory::alloc`] gave; the bytes go back to the system, as soon as `told` lets them.
    ///
    /// # Errors
    /// INVALID_VALUE: no allocation begins there.
    pub fn free(&mut self, at: u64, told: &mut dyn FnMut(Change) -> Res) -> Res {
        let region = *self.regions.get(&at).ok_or(CUresult::INVALID_VALUE)?;
        if !matches!(region.kind, RegionKind::Device | RegionKind::Pool(_) | RegionKind::Global) {
            return Err(CUresult::INVALID_VALUE);
        }
        self.regions.remove(&at);
        let base = self.arena()?;
        if region.kind == RegionKind::Global {
            let gone = self.globals.as_mut().and_then(|g| g.free(at, region.size));
            if let Some((va, len)) = gone {
                self.lose(Kept { owner: Owner::Globals, off: va - base, len }, told);
            }
            return Ok(());
        }
        let device = self.device_at(at);
        if let Some((va, len)) = self.heap(device)?.free(at, region.size) {
            // it is freed whatever the backend answers, which is for the caller to tell
            let _told_already = told(Change::Give { va, len, device });
            self.lose(Kept { owner: Owner::Heap(device), off: va - base, len }, told);
        }
        Ok(())
    }

    /// The bytes of a range that was given back go to the system, and the range to whoever asks for one next: or else it is kept.
    fn lose(&mut self, range: Kept, told: &mut dyn FnMut(Change) -> Res) {
        self.kept.push(range);
        self.lose_kept(told);
    }

    /// The same for all that was kept. Nothing may be under way in memory that is punched or mapped anew: a copy of another thread
    /// would write into the next one's bytes.
    pub fn lose_kept(&mut self, told: &mut dyn FnMut(Change) -> Res) {
        if self.kept.is_empty() {
            return;
        }
        exec::settle();
        for range in std::mem::take(&mut self.kept) {
            let Kept { owner, off, len } = range;
            let (at, off_there) = match (&self.backing, owner) {
                (_, Owner::System) | (None, _) => (off, None),
                (Some(backing), _) => (backing.at(off) as u64, Some(off)),
            };
            if told(Change::Lose { at, len, off: off_there }).is_err() {
                self.kept.push(range);
                continue;
            }
            match (&self.backing, owner) {
                (_, Owner::System) => backing::unreserve(at, len),
                (Some(backing), _) => backing.punch(off, len),
                (None, _) => {}
            }
            let base = self.arena_base().unwrap_or_default();
            match owner {
                Owner::Heap(device) => {
                    if let Some(heap) = self.heaps.get_mut(device as usize) {
                        heap.give(base + off, len);
                    }
                }
                Owner::Globals => {
                    if let Some(globals) = &mut self.globals {
                        globals.give(base + off, len);
                    }
                }
                Owner::Space => self.vmm.give_space(off, len),
                Owner::System => {}
            }
        }
    }

    /// Whether the host memory at an address was freed and is kept, so that nothing else is there.
    pub fn keeps(&self, at: u64) -> bool {
        self.kept.iter().any(|kept| matches!(kept.owner, Owner::System) && kept.off == at)
    }

    /// Makes an allocation unknown without freeing its memory; [`Memory::reclaim`] does that later.
    ///
    /// # Errors
    /// INVALID_VALUE: none begins there.
    pub fn hide(&mut self, at: u64) -> Res {
        let region = self.regions.remove(&at).ok_or(CUresult::INVALID_VALUE)?;
        if region.kind != RegionKind::Global {
            self.hidden += heap::own_granules(region.size);
        }
        Ok(())
    }

    /// Bytes that the app has freed and that are still in use until [`Memory::reclaim`].
    pub fn hidden(&self) -> u64 {
        self.hidden
    }

    /// Frees the memory of a hidden allocation.
    ///
    /// # Errors
    /// None for what was hidden. INVALID_DEVICE: the address is outside of the arena.
    pub fn reclaim(&mut self, at: u64, size: u64, told: &mut dyn FnMut(Change) -> Res) -> Res {
        let kind = if self.is_global(at) { RegionKind::Global } else { RegionKind::Device };
        let region = Region { base: at, size, kind, device: 0, ctx: CUcontext::NULL, id: 0, sync_memops: false };
        if kind != RegionKind::Global {
            self.hidden = self.hidden.saturating_sub(heap::own_granules(size));
        }
        self.regions.insert(at, region);
        self.free(at, told)
    }

    /// The id of the newest region.
    pub fn newest_id(&self) -> u64 {
        self.next_id
    }

    pub(crate) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The region that holds `addr`.
    pub fn find(&self, addr: u64) -> Option<&Region> {
        self.regions.range(..=addr).next_back().map(|(_, r)| r).filter(|r| addr < r.end())
    }

    /// Notes CU_POINTER_ATTRIBUTE_SYNC_MEMOPS of the region that holds `addr`.
    ///
    /// # Errors
    /// INVALID_VALUE: none does.
    pub fn set_sync_memops(&mut self, addr: u64, on: bool) -> Res {
        let base = self.find(addr).ok_or(CUresult::INVALID_VALUE)?.base;
        if let Some(r) = self.regions.get_mut(&base) {
            r.sync_memops = on;
        }
        Ok(())
    }

    /// Whether an address belongs to the device, mapped or not: the arena, or a reservation of the app.
    pub fn is_device_space(&self, addr: u64) -> bool {
        self.arena_base().is_some_and(|b| addr.wrapping_sub(b) < self.arena_bytes) || self.vmm.is_reserved(addr)
    }

    /// Whether any address of a range belongs to the device.
    fn touches_device_space(&self, at: u64, len: u64) -> bool {
        let end = at.saturating_add(len);
        self.arena_base().is_some_and(|base| base < end && at < base + self.arena_bytes) || self.vmm.touches(at, end)
    }

    /// Reservations and physical handles.
    pub fn vmm(&self) -> &vmm::Vmm {
        &self.vmm
    }

    /// All regions, by address.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        self.regions.values()
    }

    /// Whether the device may read (`write`: and write) all of `[addr, addr + len)`; adjoining mappings of the app count as
    /// one.
    pub fn reaches(&self, addr: u64, len: u64, write: bool) -> bool {
        let Some(end) = addr.checked_add(len) else { return false };
        let lacks = |access: u32| access == 0 || (write && access == READ_ONLY);
        let mut at = addr;
        loop {
            match self.find(at) {
                Some(Region { kind: RegionKind::Mapped { access, .. }, .. }) if lacks(*access) => return false,
                None => return false,
                Some(r) if r.end() >= end => return true,
                Some(r) if matches!(r.kind, RegionKind::Mapped { .. }) => at = r.end(),
                Some(_) => return false,
            }
        }
    }

    /// Where the bytes of `[addr, addr + len)` are on the host. Addresses that no region holds are the app's own memory.
    ///
    /// # Errors
    /// INVALID_VALUE: the range goes beyond the last address.
    pub fn segments(&self, addr: u64, len: u64) -> Res<Vec<Segment>> {
        let mut out = Vec::with_capacity(1);
        let (mut at, end) = (addr, addr.checked_add(len).ok_or(CUresult::INVALID_VALUE)?);
        while at < end {
            let Some(r) = self.find(at) else {
                out.push(Segment { host: at as usize, len: end - at });
                break;
            };
            let n = r.end().min(end) - at;
            out.push(Segment { host: self.host_of(r, at)?, len: n });
            at += n;
        }
        Ok(out)
    }

    fn host_of(&self, r: &Region, at: u64) -> Res<usize> {
        let backing = || self.backing.as_ref().ok_or(CUresult::INVALID_VALUE);
        Ok(match r.kind {
            RegionKind::Host { .. } | RegionKind::Managed => at as usize,
            RegionKind::Mapped { off, .. } => backing()?.at(off + (at - r.base)),
            RegionKind::Device | RegionKind::Pool(_) | RegionKind::Global => {
                backing()?.at(at - self.arena_base().ok_or(CUresult::INVALID_VALUE)?)
            }
        })
    }

    /// Whether a range touches any region.
    pub fn overlaps(&self, at: u64, len: u64) -> bool {
        self.regions.range(..at.saturating_add(len)).next_back().is_some_and(|(_, r)| r.end() > at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_backend_keeps_is_nobodys_until_it_lets_go() {
        let mut m = Memory::new(Layout::default(), 1);
        let byte = |m: &mut Memory, at: u64| m.arena_host(at).unwrap() as *mut u8;
        let old = m.alloc(0, GRANULE, RegionKind::Device, CUcontext::NULL, &mut |_| Ok(())).unwrap();
        // SAFETY: the allocation's own byte, in the backing.
        unsafe { byte(&mut m, old).write(7) };
        let mut keeps = |c| match c {
            Change::Lose { .. } => Err(CUresult::UNKNOWN),
            _ => Ok(()),
        };
        assert_eq!(m.free(old, &mut keeps), Ok(()));
        assert!(m.find(old).is_none() && m.in_use().is_empty() && m.used(0) == 0);
        let other = m.alloc(0, GRANULE, RegionKind::Device, CUcontext::NULL, &mut keeps).unwrap();
        // SAFETY: still the backing's, and nobody's.
        assert_eq!((other == old, unsafe { byte(&mut m, old).read() }), (false, 7));
        let new = m.alloc(0, GRANULE, RegionKind::Device, CUcontext::NULL, &mut |_| Ok(())).unwrap();
        // SAFETY: the new allocation's first byte.
        assert_eq!((new == old, unsafe { byte(&mut m, new).read() }), (true, 0));
    }

    #[test]
    fn a_hidden_variable_is_nobody_elses_until_it_is_reclaimed() {
        let mut m = Memory::new(Layout::default(), 1);
        let old = m.alloc_global(0, 64, CUcontext::NULL).unwrap();
        m.hide(old).unwrap();
        assert!(m.is_global(old) && m.find(old).is_none());
        // it takes nothing of the card that a free would give back
        assert_eq!(m.hidden(), 0);
        let new = m.alloc_global(0, 64, CUcontext::NULL).unwrap();
        assert_ne!(old, new);
        m.reclaim(old, 64, &mut |c| match c {
            Change::Lose { .. } => Ok(()),
            _ => panic!("it is on no card"),
        })
        .unwrap();
        assert_eq!(m.alloc_global(0, 64, CUcontext::NULL), Ok(old));
    }
}

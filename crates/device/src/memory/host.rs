//! Page-locked and managed host memory: ordinary memory of the process that the device is told about.
use super::{backing, Change, Kept, Memory, Owner, Region, RegionKind};
use zerogpu_abi::{CUcontext, CUdevice, CUresult, Res};

const PAGE: u64 = 4096;

impl Memory {
    /// Allocates zeroed page-locked memory.
    ///
    /// # Errors
    /// OUT_OF_MEMORY: the system gives none; it never gives 0 bytes.
    pub fn host_alloc(&mut self, size: u64, flags: u32, device: CUdevice, ctx: CUcontext) -> Res<u64> {
        self.host_region(size, RegionKind::Host { flags, registered: false }, device, ctx)
    }

    /// Allocates managed memory.
    ///
    /// # Errors
    /// As for [`Memory::host_alloc`].
    pub fn managed_alloc(&mut self, size: u64, device: CUdevice, ctx: CUcontext) -> Res<u64> {
        self.host_region(size, RegionKind::Managed, device, ctx)
    }

    fn host_region(&mut self, size: u64, kind: RegionKind, device: CUdevice, ctx: CUcontext) -> Res<u64> {
        let len = size.checked_next_multiple_of(PAGE).ok_or(CUresult::OUT_OF_MEMORY)?;
        let base = backing::anonymous(len).map_err(|_| CUresult::OUT_OF_MEMORY)?;
        let id = self.new_id();
        self.regions.insert(base, Region { base, size, kind, device, ctx, id, sync_memops: false });
        Ok(base)
    }

    /// Frees page-locked memory that we allocated.
    ///
    /// # Errors
    /// INVALID_VALUE: none of it begins there.
    pub fn host_free(&mut self, at: u64, told: &mut dyn FnMut(Change) -> Res) -> Res {
        match self.regions.get(&at) {
            Some(&Region { size, kind: RegionKind::Host { registered: false, .. }, .. }) => {
                self.regions.remove(&at);
                let _told_already = told(Change::Unpin { at, len: size });
                self.lose(Kept { owner: Owner::System, off: at, len: size.next_multiple_of(PAGE) }, told);
                Ok(())
            }
            _ => Err(CUresult::INVALID_VALUE),
        }
    }

    /// Frees managed memory.
    ///
    /// # Errors
    /// INVALID_VALUE: none begins there.
    pub fn managed_free(&mut self, at: u64, told: &mut dyn FnMut(Change) -> Res) -> Res {
        match self.regions.get(&at) {
            Some(&Region { size, kind: RegionKind::Managed, .. }) => {
                self.regions.remove(&at);
                let _told_already = told(Change::Unpin { at, len: size });
                self.lose(Kept { owner: Owner::System, off: at, len: size.next_multiple_of(PAGE) }, told);
                Ok(())
            }
            _ => Err(CUresult::INVALID_VALUE),
        }
    }

    /// Page-locks the app's own memory.
    ///
    /// # Errors
    /// INVALID_VALUE: NULL, 0 bytes, or memory that is not there or not the host's; HOST_MEMORY_ALREADY_REGISTERED: it
    /// touches memory that the device was told about.
    pub fn host_register(&mut self, at: u64, size: u64, flags: u32, device: CUdevice, ctx: CUcontext) -> Res {
        if at == 0 || size == 0 || at.checked_add(size).is_none() {
            return Err(CUresult::INVALID_VALUE);
        }
        if self.overlaps(at, size) {
            return Err(CUresult::HOST_MEMORY_ALREADY_REGISTERED);
        }
        // the device's addresses are ours to give, and what is not there can't be page-locked at a claim
        if self.touches_device_space(at, size) || !backing::is_there(at, size) {
            return Err(CUresult::INVALID_VALUE);
        }
        let id = self.new_id();
        let kind = RegionKind::Host { flags, registered: true };
        self.regions.insert(at, Region { base: at, size, kind, device, ctx, id, sync_memops: false });
        Ok(())
    }

    /// Ends a registration.
    ///
    /// # Errors
    /// INVALID_VALUE: NULL; HOST_MEMORY_NOT_REGISTERED: none begins there.
    pub fn host_unregister(&mut self, at: u64, told: &mut dyn FnMut(Change) -> Res) -> Res {
        match self.regions.get(&at) {
            Some(&Region { size, kind: RegionKind::Host { registered: true, .. }, .. }) => {
                self.regions.remove(&at);
                // it is the app's own, whatever the answer, which is for the caller to tell
                let _told_already = told(Change::Unpin { at, len: size });
                Ok(())
            }
            _ if at == 0 => Err(CUresult::INVALID_VALUE),
            _ => Err(CUresult::HOST_MEMORY_NOT_REGISTERED),
        }
    }
}

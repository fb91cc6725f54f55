//! Memory pools of stream-ordered allocation. Allocation and free take effect at the call: every stream order allows it,
//! since the bytes of an allocation that is still in use by earlier work stay with it until that work is done.
use crate::handle::Kind;
use crate::memory::{Change, Region, RegionKind};
use crate::runtime::Map;
use crate::runtime::{backend, lock, State};
use zerogpu_abi::{CUcontext, CUdevice, CUmemoryPool, CUresult, Res};

/// Attributes 1 to 8: three reuse flags, release threshold, reserved and used bytes with their high marks.
#[derive(Clone)]
pub struct Pool {
    /// The device whose memory it gives.
    device: CUdevice,
    attrs: [u64; 9],
}

/// All pools.
#[derive(Default)]
pub struct Pools {
    all: Map<Pool>,
    /// Each device's own pool, made at its first use.
    default: Map<usize>,
    /// The pool that `cuMemAllocAsync` uses on a device, when it is not the default one.
    current: Map<usize>,
}

const RELEASE_THRESHOLD: usize = 4;
const RESERVED: usize = 5;
const RESERVED_HIGH: usize = 6;
const USED: usize = 7;
const USED_HIGH: usize = 8;

impl Pool {
    fn new(device: CUdevice) -> Self {
        // the three reuse flags are on by default (cuda.h)
        Self { device, attrs: [0, 1, 1, 1, 0, 0, 0, 0, 0] }
    }

    /// The device whose memory it gives.
    pub fn device(&self) -> CUdevice {
        self.device
    }

    fn add(&mut self, bytes: u64) {
        self.attrs[USED] += bytes;
        self.attrs[RESERVED] = self.attrs[RESERVED].max(self.attrs[USED]);
        for (now, high) in [(RESERVED, RESERVED_HIGH), (USED, USED_HIGH)] {
            self.attrs[high] = self.attrs[high].max(self.attrs[now]);
        }
    }

    fn sub(&mut self, bytes: u64) {
        self.attrs[USED] = self.attrs[USED].saturating_sub(bytes);
        self.trim(self.attrs[RELEASE_THRESHOLD]);
    }

    /// What is reserved and not used falls to `keep` bytes. Only the number is kept: the bytes themselves go back to the
    /// card at once, and are taken again when they are needed.
    fn trim(&mut self, keep: u64) {
        self.attrs[RESERVED] = self.attrs[USED].max(self.attrs[RESERVED].min(keep));
    }
}

impl State {
    fn new_pool(&mut self, device: CUdevice) -> Res<usize> {
        let h = self.handle(Kind::Pool)?;
        self.pools.all.insert(h, Pool::new(device));
        Ok(h)
    }

    /// A device's default pool.
    ///
    /// # Errors
    /// OUT_OF_MEMORY: no handle can be had.
    pub fn default_pool(&mut self, device: CUdevice) -> Res<CUmemoryPool> {
        if let Some(&p) = self.pools.default.get(&(device as usize)) {
            return Ok(CUmemoryPool(p));
        }
        let p = self.new_pool(device)?;
        self.pools.default.insert(device as usize, p);
        Ok(CUmemoryPool(p))
    }

    /// The pool that `cuMemAllocAsync` uses on a device.
    ///
    /// # Errors
    /// As for [`State::default_pool`].
    pub fn current_pool(&mut self, device: CUdevice) -> Res<CUmemoryPool> {
        match self.pools.current.get(&(device as usize)) {
            Some(&p) => Ok(CUmemoryPool(p)),
            None => self.default_pool(device),
        }
    }

    /// Chooses the pool that `cuMemAllocAsync` uses on a device.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such pool, or it is another device's.
    pub fn set_current_pool(&mut self, device: CUdevice, pool: CUmemoryPool) -> Res {
        if self.pool(pool)?.device != device {
            return Err(CUresult::INVALID_VALUE);
        }
        self.pools.current.insert(device as usize, pool.0);
        Ok(())
    }

    /// Makes a pool of a device's memory.
    ///
    /// # Errors
    /// OUT_OF_MEMORY: no handle can be had.
    pub fn create_pool(&mut self, device: CUdevice) -> Res<CUmemoryPool> {
        self.new_pool(device).map(CUmemoryPool)
    }

    /// Ends a pool that the app made; its allocations live on.
    ///
    /// # Errors
    /// INVALID_VALUE: there is none, or it is a device's default pool.
    pub fn destroy_pool(&mut self, pool: CUmemoryPool) -> Res {
        if self.pools.default.values().any(|&p| p == pool.0) {
            return Err(CUresult::INVALID_VALUE);
        }
        self.pools.all.remove(&pool.0).ok_or(CUresult::INVALID_VALUE)?;
        self.pools.current.retain(|_, p| *p != pool.0);
        self.end(Kind::Pool, pool.0);
        Ok(())
    }

    /// The pool of a handle.
    ///
    /// # Errors
    /// INVALID_VALUE: there is none.
    pub fn pool(&mut self, pool: CUmemoryPool) -> Res<&mut Pool> {
        self.pools.all.get_mut(&pool.0).ok_or(CUresult::INVALID_VALUE)
    }

    /// Counts an allocation from a pool, or its end.
    pub fn count_pool(&mut self, pool: CUmemoryPool, bytes: u64, taken: bool) {
        // a pool that has ended keeps no counts
        if let Some(p) = self.pools.all.get_mut(&pool.0) {
            if taken {
                p.add(bytes)
            } else {
                p.sub(bytes)
            }
        }
    }

    /// An attribute's value.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such pool or attribute.
    pub fn pool_attribute(&mut self, pool: CUmemoryPool, attr: u32) -> Res<u64> {
        let p = self.pool(pool)?;
        p.attrs.get(attr as usize).copied().filter(|_| attr != 0).ok_or(CUresult::INVALID_VALUE)
    }

    /// Sets an attribute: a reuse flag, the threshold, or a high mark (which can only be reset to 0).
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such pool, or the attribute is none of these, or a high mark is to be other than 0.
    pub fn set_pool_attribute(&mut self, pool: CUmemoryPool, attr: u32, value: u64) -> Res {
        let p = self.pool(pool)?;
        match attr as usize {
            1..=RELEASE_THRESHOLD => p.attrs[attr as usize] = value,
            high @ (RESERVED_HIGH | USED_HIGH) if value == 0 => p.attrs[high] = p.attrs[high - 1],
            _ => return Err(CUresult::INVALID_VALUE),
        }
        Ok(())
    }

    /// Gives back what a pool has reserved beyond `keep` bytes.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such pool.
    pub fn trim_pool(&mut self, pool: CUmemoryPool, keep: u64) -> Res {
        self.pool(pool)?.trim(keep);
        Ok(())
    }

    /// Allocates from a pool.
    ///
    /// # Errors
    /// Those of [`State::current`]; INVALID_VALUE: there is no such pool; those of [`State::alloc`].
    pub fn pool_alloc(&mut self, pool: CUmemoryPool, size: u64) -> Res<u64> {
        let ctx = self.current()?;
        let device = self.pool(pool)?.device;
        let at = self.alloc(device, size, RegionKind::Pool(pool), ctx)?;
        self.count_pool(pool, size, true);
        Ok(at)
    }

    /// Takes `size` bytes by `take`, which locks the state for it. Where there is no room but for memory that the app has freed
    /// and recorded work may name, that work runs first, and it is tried once more.
    ///
    /// # Errors
    /// What `take` answers.
    pub(crate) fn take_memory<T>(size: u64, mut take: impl FnMut() -> Res<T>) -> Res<T> {
        match take() {
            Err(CUresult::OUT_OF_MEMORY) if Self::fits_once_reclaimed(size)? && backend()?.reclaims()? => take(),
            answer => answer,
        }
    }

    /// Memory is hidden on the first device alone: a backend that records has no other.
    fn fits_once_reclaimed(size: u64) -> Res<bool> {
        let mut st = lock()?;
        Ok(st.memory.hidden() > 0 && size <= st.memory_info(0)?.0)
    }

    /// Allocates a device's memory within the quota.
    ///
    /// # Errors
    /// OUT_OF_MEMORY: it is beyond the quota; those of [`Memory::alloc`](crate::memory::Memory::alloc); what the
    /// backend refuses it with.
    pub fn alloc(&mut self, device: CUdevice, size: u64, kind: RegionKind, ctx: CUcontext) -> Res<u64> {
        let config = crate::runtime::config()?;
        let room = config.vram.saturating_sub(self.memory.used(device) + config.profile.idle_overhead());
        let backend = backend()?;
        let mut grow = |change| match change {
            Change::Take { len, .. } if len > room => Err(CUresult::OUT_OF_MEMORY),
            c => backend.change(c),
        };
        if size > config.vram {
            return Err(CUresult::OUT_OF_MEMORY);
        }
        self.memory.alloc(device, size, kind, ctx, &mut grow)
    }

    /// Frees device memory.
    ///
    /// # Errors
    /// INVALID_VALUE: no allocation begins there; else what the backend answers: it is freed then all the same.
    pub fn free(&mut self, at: u64) -> Res {
        let backend = backend()?;
        let region = self.memory.find(at).copied();
        let mut answer = Ok(());
        match region {
            // recorded work may still write there: nobody else may get it before
            Some(r) if r.base == at && backend.keeps(&r) => self.memory.hide(at)?,
            _ => self.memory.free(at, &mut |c| backend.tell_change(c, &mut answer))?,
        }
        if let Some(Region { kind: RegionKind::Pool(p), size, .. }) = region {
            self.count_pool(p, size, false);
        }
        answer
    }
}

//! Contexts: the primary one, whose handle exists from `cuInit` on, and created ones.
use crate::handle::{self, Kind};
use crate::objects::{Stream, StreamKind};
use crate::runtime::{backend, config, State};
use crate::thread;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::Ordering;
use zerogpu_abi::{CUcontext, CUdevice, CUresult, Res};
use zerogpu_profile::Profile;

/// A context.
pub struct Context {
    /// The device it is on.
    pub device: CUdevice,
    /// CU_CTX_* scheduling flags.
    pub flags: u32,
    /// Whether it may be current: a created one always, the primary one while it is retained.
    pub active: bool,
    /// How often the primary context is retained.
    pub retained: u32,
    /// `cuCtxGetId`.
    pub id: u64,
    /// Values of `CUlimit` 0, 1, 2, 4, 5, 6.
    pub limits: [usize; 7],
    /// CUfunc_cache.
    pub cache: u32,
    /// CUsharedconfig.
    pub banks: u32,
    /// The legacy default stream's own handle.
    pub legacy: usize,
    /// Default streams of threads.
    pub per_thread: HashMap<u64, usize>,
    /// Context local storage (see `dark`): value and destructor by key.
    pub storage: HashMap<usize, (usize, Destructor)>,
}

/// Destructor of a context-local value: (context, key, value).
pub type Destructor = Option<unsafe extern "C" fn(CUcontext, *mut c_void, *mut c_void)>;

/// CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE.
const L2: i32 = 38;

/// Limits of a fresh context on a card (driver 580 on an H100 and an H200, recorded); limit 3 is not supported. What may
/// persist in the L2 cache, limit 6, is 3/16 of it.
pub fn usual_limits(card: &Profile) -> [usize; 7] {
    let cache = card.attribute(L2).and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
    [1024, 8650752, 8388608, 0, 2048, 64, cache / 16 * 3]
}

/// What is left to do for a context that has ended, once the lock is free.
#[must_use]
pub struct Farewells {
    /// Values with destructors.
    storage: Vec<(CUcontext, usize, usize, Destructor)>,
    /// What the backend answered.
    answer: Res,
}

impl Farewells {
    /// Nothing to do.
    fn none() -> Self {
        Farewells { storage: Vec::new(), answer: Ok(()) }
    }

    /// Calls the destructors, and lets the backend end what it has left to end. No lock may be held.
    ///
    /// # Errors
    /// What the backend answered to the context's end: all has ended all the same.
    pub fn run(self) -> Res {
        if let Ok(b) = backend() {
            b.ended();
        }
        for (ctx, key, value, dtor) in self.storage {
            if let Some(dtor) = dtor {
                // SAFETY: the app registered this function for this value; the context it belonged to has ended.
                unsafe { dtor(ctx, key as *mut c_void, value as *mut c_void) };
            }
        }
        self.answer
    }
}

/// Whether a context may be used, without a lock.
pub fn is_active(ctx: CUcontext) -> bool {
    handle::is(ctx.0, Kind::Context) && handle::slot(ctx.0).is_some_and(|s| s.aux.load(Ordering::Acquire) != 0)
}

impl State {
    /// The primary contexts, of which device 0's has the ids that a driver gives.
    pub(crate) fn make_primaries(&mut self, devices: u32) -> Res {
        for device in self.primaries.len() as CUdevice..devices as CUdevice {
            let (id, legacy_id) = if device == 0 { (1, 7) } else { (self.new_id(), self.new_id()) };
            let ctx = self.new_context(device, id, legacy_id)?;
            self.primaries.push(ctx);
        }
        Ok(())
    }

    /// The primary context of a device.
    ///
    /// # Errors
    /// INVALID_DEVICE: there is no such device.
    pub fn primary(&self, device: CUdevice) -> Res<CUcontext> {
        let at = usize::try_from(device).map_err(|_| CUresult::INVALID_DEVICE)?;
        self.primaries.get(at).copied().ok_or(CUresult::INVALID_DEVICE)
    }

    /// The device of a context.
    ///
    /// # Errors
    /// CONTEXT_IS_DESTROYED: there is no such context.
    pub fn device_of(&self, ctx: CUcontext) -> Res<CUdevice> {
        self.contexts.get(&ctx.0).map(|c| c.device).ok_or(CUresult::CONTEXT_IS_DESTROYED)
    }

    fn new_context(&mut self, device: CUdevice, id: u64, legacy_id: u64) -> Res<CUcontext> {
        let h = self.handle(Kind::Context)?;
        let ctx = CUcontext(h);
        let legacy = self.handle(Kind::Stream).inspect_err(|_| self.handles.drop(h))?;
        self.streams.insert(legacy, Stream::new(ctx, StreamKind::Legacy, 0, 0, legacy_id));
        let (per_thread, storage) = (HashMap::new(), HashMap::new());
        let (limits, cache, banks) = (usual_limits(&config()?.profile), 0, 0);
        let (flags, active, retained) = (0, false, 0);
        let c = Context { device, flags, active, retained, id, limits, cache, banks, legacy, per_thread, storage };
        self.contexts.insert(h, c);
        Ok(ctx)
    }

    /// Marks whether a context may be used, where lock-free readers see it too.
    fn set_active(&mut self, ctx: CUcontext, active: bool) {
        if let (Some(c), Some(slot)) = (self.contexts.get_mut(&ctx.0), handle::slot(ctx.0)) {
            c.active = active;
            slot.aux.store(active as u64, Ordering::Release);
        }
    }

    /// The context of this handle, if it may be used.
    ///
    /// # Errors
    /// INVALID_CONTEXT: there is none; CONTEXT_IS_DESTROYED: it is a primary one that nobody retains.
    pub fn context(&mut self, ctx: CUcontext) -> Res<&mut Context> {
        match self.contexts.get_mut(&ctx.0) {
            Some(c) if c.active => Ok(c),
            Some(_) => Err(CUresult::CONTEXT_IS_DESTROYED),
            None => Err(CUresult::INVALID_CONTEXT),
        }
    }

    /// The calling thread's context.
    ///
    /// # Errors
    /// INVALID_CONTEXT: it has none; CONTEXT_IS_DESTROYED: that has ended, or is a primary one that nobody retains.
    pub fn current(&mut self) -> Res<CUcontext> {
        let ctx = thread::current();
        if ctx.0 == 0 {
            return Err(CUresult::INVALID_CONTEXT);
        }
        match self.contexts.get(&ctx.0) {
            Some(c) if c.active => Ok(ctx),
            _ => Err(CUresult::CONTEXT_IS_DESTROYED),
        }
    }

    /// `ctx`, or the current context if it is NULL.
    ///
    /// # Errors
    /// As for [`State::current`] if it is NULL, else as for [`State::context`].
    pub fn context_or_current(&mut self, ctx: CUcontext) -> Res<CUcontext> {
        if ctx.0 == 0 {
            self.current()
        } else {
            self.context(ctx).map(|_| ctx)
        }
    }

    /// Makes a context (inactive contexts of softcuda cost nothing; an active one is on the card).
    ///
    /// # Errors
    /// What the backend refuses it with; OUT_OF_MEMORY: no handle can be had.
    pub fn create_context(&mut self, device: CUdevice, flags: u32) -> Res<CUcontext> {
        let backend = backend()?;
        backend.context(device, true)?;
        let (id, legacy) = (self.new_id(), self.new_id());
        let ctx = self.new_context(device, id, legacy).inspect_err(|_| {
            // the backend has made its own already; it can't refuse the end
            let _ended = backend.context(device, false);
        })?;
        if let Some(c) = self.contexts.get_mut(&ctx.0) {
            c.flags = flags;
        }
        self.set_active(ctx, true);
        Ok(ctx)
    }

    /// Retains the primary context of a device.
    ///
    /// # Errors
    /// INVALID_DEVICE: there is no such device; else what the backend refuses the context with.
    pub fn retain_primary(&mut self, device: CUdevice) -> Res<CUcontext> {
        let ctx = self.primary(device)?;
        let c = self.contexts.get_mut(&ctx.0).ok_or(CUresult::NOT_INITIALIZED)?;
        if !c.active {
            backend()?.context(device, true)?;
            self.set_active(ctx, true);
        }
        self.context(ctx)?.retained += 1;
        Ok(ctx)
    }

    /// Releases the primary context; the last release ends everything in it.
    ///
    /// # Errors
    /// INVALID_DEVICE: there is no such device; INVALID_CONTEXT: it is not retained; for the last release as for
    /// [`State::reset_primary`].
    pub fn release_primary(&mut self, device: CUdevice) -> Res<Farewells> {
        let ctx = self.primary(device)?;
        let c = self.contexts.get_mut(&ctx.0).ok_or(CUresult::NOT_INITIALIZED)?;
        if c.retained == 0 {
            return Err(CUresult::INVALID_CONTEXT);
        }
        c.retained -= 1;
        if c.retained == 0 {
            self.reset_primary(device)
        } else {
            Ok(Farewells::none())
        }
    }

    /// Ends everything in the primary context; its handle stays.
    ///
    /// # Errors
    /// INVALID_DEVICE: there is no such device.
    pub fn reset_primary(&mut self, device: CUdevice) -> Res<Farewells> {
        let (ctx, limits) = (self.primary(device)?, usual_limits(&config()?.profile));
        let c = self.contexts.get_mut(&ctx.0).ok_or(CUresult::NOT_INITIALIZED)?;
        if !c.active {
            return Ok(Farewells::none());
        }
        let mut farewells = self.empty_context(ctx);
        if let Some(c) = self.contexts.get_mut(&ctx.0) {
            (c.retained, c.limits, c.cache, c.banks) = (0, limits, 0, 0);
            // the legacy stream keeps its handle, as the context does
            if let Some(s) = self.streams.get_mut(&c.legacy) {
                s.attributes.clear();
            }
        }
        self.set_active(ctx, false);
        farewells.answer = backend().and_then(|b| b.context(device, false));
        Ok(farewells)
    }

    /// Ends a created context.
    ///
    /// # Errors
    /// INVALID_CONTEXT: there is none, or it is a primary one.
    pub fn destroy_context(&mut self, ctx: CUcontext) -> Res<Farewells> {
        if self.primaries.contains(&ctx) || ctx.0 == 0 {
            return Err(CUresult::INVALID_CONTEXT);
        }
        let device = self.context(ctx)?.device;
        let mut farewells = self.empty_context(ctx);
        if let Some(c) = self.contexts.remove(&ctx.0) {
            self.streams.remove(&c.legacy);
            self.end(Kind::Stream, c.legacy);
        }
        self.end(Kind::Context, ctx.0);
        farewells.answer = backend().and_then(|b| b.context(device, false));
        Ok(farewells)
    }

    /// Drops what lives in a context: streams, events, modules, arrays, memory, local storage.
    fn empty_context(&mut self, ctx: CUcontext) -> Farewells {
        let Some(c) = self.contexts.get_mut(&ctx.0) else { return Farewells::none() };
        let legacy = c.legacy;
        c.per_thread.clear();
        let storage = std::mem::take(&mut c.storage);
        let streams: Vec<usize> =
            self.streams.iter().filter(|(&h, s)| s.ctx == ctx && h != legacy).map(|(&h, _)| h).collect();
        for h in streams {
            self.end_stream(h);
        }
        let events: Vec<usize> = self.events.iter().filter(|(_, e)| e.ctx == ctx).map(|(&h, _)| h).collect();
        for h in events {
            self.events.remove(&h);
            self.end(Kind::Event, h);
        }
        self.end_modules_of(ctx);
        self.end_arrays_of(ctx);
        self.free_memory_of(ctx);
        let storage = storage.into_iter().map(|(key, (value, dtor))| (ctx, key, value, dtor)).collect();
        Farewells { storage, answer: Ok(()) }
    }

    fn free_memory_of(&mut self, ctx: CUcontext) {
        let all: Vec<_> = self.memory.regions().filter(|r| r.ctx == ctx).copied().collect();
        for r in all {
            let (base, kind) = (r.base, r.kind);
            // the context is going: a backend that can't give memory back has nobody left to tell
            let mut told = |c| backend()?.change(c);
            use crate::memory::RegionKind::*;
            let _ended = match kind {
                Host { registered: true, .. } => self.memory.host_unregister(base, &mut told),
                Host { .. } => self.memory.host_free(base, &mut told),
                Managed => self.memory.managed_free(base, &mut told),
                Device | Global => self.free(base),
                // what a stream allocated is the device's, not the context's (driver 580, recorded)
                Pool(_) | Mapped { .. } => Ok(()),
            };
        }
    }

    /// Bytes of a device free and in all, as `cuMemGetInfo` says: also free is what only recorded work keeps.
    ///
    /// # Errors
    /// As for [`config`] and [`backend`].
    pub fn memory_info(&mut self, device: CUdevice) -> Res<(u64, u64)> {
        let config = config()?;
        let left = config.vram.saturating_sub(self.memory.used(device).saturating_sub(self.memory.hidden()));
        let free = backend()?.free_bytes(device).map_or(left, |card| card.min(left));
        let idle = config.profile.idle_overhead().min(free);
        Ok((free - idle, config.vram))
    }
}

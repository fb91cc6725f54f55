//! Live twins: the real objects behind our handles, made at their first use in a claim and gone with it.
use super::clock::Clock;
use super::lender::Lender;
use super::physical::Mapping;
use super::unchanged::Unchanged;
use super::{locked, Engine};
use crate::fault::contained;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use zerogpu_abi::*;
use zerogpu_below::{ok, twice, Driver, Leaked};
use zerogpu_device::handle::{self, Kind};
use zerogpu_device::host;
use zerogpu_device::memory::Change;
use zerogpu_device::objects::StreamKind;
use zerogpu_device::runtime::{lock, State};
use zerogpu_image::Kernel;
use zerogpu_protocol::{Range, Uuid};

/// What exists in the driver below for the current claim.
#[derive(Default)]
pub struct Live {
    /// Whether the driver's cuInit was called and the addresses are reserved.
    pub ready: bool,
    /// Addresses reserved in the driver for the app's own reservations.
    pub window: bool,
    /// Ranges of addresses that another mapping of the process took before the driver had them.
    pub taken: Vec<u64>,
    /// The card of the claim: its ordinal in the driver.
    pub device: CUdevice,
    /// The same card, as the broker calls it.
    pub card: Option<Uuid>,
    /// The primary context.
    pub ctx: CUcontext,
    /// Whether a park left it there, with all twins, since something binds the process to it.
    pub kept: bool,
    /// Twins in it whose objects the app has ended while parked, when no call may reach the driver.
    pub(super) late: Vec<(Kind, u64)>,
    /// Limits that it was given, by number, and the cache that it prefers.
    pub(super) limits: HashMap<u32, usize>,
    pub(super) cache: u32,
    /// Attributes that streams in it were given while parked: the stream, the number, and the value.
    pub(super) late_attributes: Vec<(usize, u32, CUlaunchAttributeValue)>,
    /// How often it was retained and not released yet.
    pub retained: u32,
    /// Who lends physical memory, while claimed with a lease.
    pub(super) lender: Option<&'static Lender>,
    /// Physical handles that are lent, and the slab behind each.
    pub(super) lent: HashMap<u64, Range>,
    /// Slabs that were let go while claimed, to be told.
    pub(super) returned: Vec<Range>,
    /// Physical memory mapped in the arena: address to (bytes, handle).
    pub extents: BTreeMap<u64, (u64, u64)>,
    /// Physical memory that is mapped nowhere and could not be released yet.
    pub(super) unmapped: Vec<u64>,
    /// Physical memory that no claim may use, since its access was refused, and that could not be unmapped yet: as `extents`.
    pub(super) stuck: BTreeMap<u64, (u64, u64)>,
    /// Mappings of our own through which the app's handles are looked at: address to bytes.
    pub(super) windows: BTreeMap<u64, u64>,
    /// Real handles of the app's physical handles, and their bytes.
    pub physical: HashMap<u64, (u64, u64)>,
    /// The app's mappings that exist for real, by address.
    pub(super) mappings: BTreeMap<u64, Mapping>,
    /// Page-locked host memory: address to bytes.
    pub pins: BTreeMap<u64, u64>,
    /// Those of them whose memory the app has given back: whatever is there next has other pages than the card knows.
    pub(super) stale_pins: BTreeSet<u64>,
    /// Registrations of the backing for copies that the driver did not end.
    pub(super) leaked: Leaked,
    /// Real modules by ours, in the order in which they were loaded.
    pub modules: Vec<(CUmodule, CUmodule)>,
    /// Real modules whose own the app has ended, to be unloaded without a lock.
    pub(super) ended_modules: Vec<CUmodule>,
    /// Module variables by our address.
    pub globals: BTreeMap<u64, LiveGlobal>,
    /// Functions by our handle, kept over claims: hot paths hold pointers to them while the gate is open to them.
    functions: HashMap<usize, &'static LiveFunction>,
    /// Functions that the app has ended; freed while nobody can be inside the gate.
    ended: Vec<&'static LiveFunction>,
    /// What tells when the events of this claim happened.
    pub(super) clock: Option<Clock>,
    /// What came to the card, to know it again; None: a park brings home everything.
    pub(super) unchanged: Option<Unchanged>,
    /// Bytes from which on a claim takes note of what comes; None: never.
    pub(super) watched_from: Option<u64>,
}

/// A variable of a live module.
pub struct LiveGlobal {
    pub(super) size: u64,
    pub(super) real: u64,
    /// Our module: with it the addresses end, ours for the next variable and the real one.
    pub(super) module: CUmodule,
    /// What was in it once the module was loaded, if the loader writes addresses into it.
    pub(super) loaded: Vec<u64>,
}

impl Live {
    /// The real address of `len` bytes of a module variable.
    pub(super) fn real_of(&self, at: u64, len: u64) -> Option<u64> {
        let (&base, &LiveGlobal { size, real, .. }) = self.globals.range(..=at).next_back()?;
        (at - base < size && len <= size - (at - base)).then_some(real + (at - base))
    }
}

/// A real function, with what a launch of it needs to know.
pub struct LiveFunction {
    /// The driver's function in the current claim.
    real: AtomicUsize,
    /// Its parameters, for addresses of module variables in them.
    pub kernel: Arc<Kernel>,
}

impl LiveFunction {
    /// The driver's function.
    #[inline]
    pub fn real(&self) -> CUfunction {
        CUfunction(self.real.load(Ordering::Relaxed))
    }
}

thread_local! {
    /// The claim in which this thread made the real context current.
    static BOUND: Cell<u32> = const { Cell::new(0) };
}

/// The real stream of a stream that has one in this claim; None also while anything is late, which may have to go first.
#[inline(always)]
pub(super) fn known_stream(stream: CUstream, epoch: u32) -> Option<CUstream> {
    if host::pending() {
        return None;
    }
    twin_of_stream(stream, epoch)
}

#[inline(always)]
fn twin_of_stream(stream: CUstream, epoch: u32) -> Option<CUstream> {
    match stream.0 {
        // the names of the default streams are the same there
        0..=2 => Some(stream),
        h => handle::twin(h, Kind::Stream, epoch).map(|twin| CUstream(twin as usize)),
    }
}

/// The real function of a function or a kernel that has one in this claim.
#[inline(always)]
pub(super) fn known_function(func: usize, epoch: u32) -> Option<&'static LiveFunction> {
    let twin = handle::twin(func, Kind::Function, epoch).or_else(|| handle::twin(func, Kind::Kernel, epoch))?;
    // SAFETY: twins of functions are addresses of leaked LiveFunctions, see make_function.
    Some(unsafe { &*(twin as *const LiveFunction) })
}

impl Engine {
    /// The driver below. Only asked for while it is known to be there.
    pub(super) fn driver(&self) -> Res<&Driver> {
        self.below.driver().map_err(|_| CUresult::NO_DEVICE)
    }

    /// Makes the real context current in this thread, once a claim.
    #[inline(always)]
    pub(super) fn bind(&self) -> Res<u32> {
        let epoch = self.epoch.load(Ordering::Acquire);
        if BOUND.get() == epoch {
            return Ok(epoch);
        }
        self.bind_now(epoch)
    }

    #[cold]
    #[inline(never)]
    fn bind_now(&self, epoch: u32) -> Res<u32> {
        let ctx = locked(&self.live).ctx;
        // SAFETY: the primary context, retained for as long as the claim.
        ok(unsafe { (self.driver()?.cuCtxSetCurrent)(ctx) })?;
        BOUND.set(epoch);
        Ok(epoch)
    }

    /// The real stream of a stream as the app names it.
    #[inline]
    pub(super) fn live_stream(&self, stream: CUstream, epoch: u32) -> Res<CUstream> {
        match known_stream(stream, epoch) {
            Some(real) => Ok(real),
            None => self.find_stream(stream, epoch),
        }
    }

    #[cold]
    #[inline(never)]
    fn find_stream(&self, stream: CUstream, epoch: u32) -> Res<CUstream> {
        if host::pending() {
            self.behind_late_work(stream, epoch)?;
        }
        match twin_of_stream(stream, epoch) {
            Some(real) => Ok(real),
            None => self.make_stream(stream, epoch),
        }
    }

    #[cold]
    fn make_stream(&self, stream: CUstream, epoch: u32) -> Res<CUstream> {
        let st = lock()?;
        let s = st.streams.get(&stream.0).ok_or(CUresult::INVALID_HANDLE)?;
        // a default stream's own handle stands for its name
        let real = match s.kind {
            StreamKind::Legacy => CU_STREAM_LEGACY,
            StreamKind::PerThread => CU_STREAM_PER_THREAD,
            StreamKind::Created => {
                if let Some(twin) = handle::twin(stream.0, Kind::Stream, epoch) {
                    return Ok(CUstream(twin as usize));
                }
                let d = self.driver()?;
                let mut real = CUstream::NULL;
                // SAFETY: writes the new stream.
                ok(unsafe { (d.cuStreamCreateWithPriority)(&mut real, s.flags, s.priority) })?;
                for (id, value) in &s.attributes {
                    // SAFETY: the new stream, and a value that the app gave for this very call.
                    if let Err(e) = ok(unsafe { (d.cuStreamSetAttribute)(real, *id, value) }) {
                        without_attribute(*id, e);
                    }
                }
                if let Err(e) = self.hold_back(real, s.host_ticket) {
                    // SAFETY: the stream just made, which nobody knows.
                    let _first_error_counts = unsafe { (d.cuStreamDestroy_v2)(real) };
                    return Err(e);
                }
                handle::set_twin(stream.0, epoch, real.0 as u64);
                real
            }
        };
        Ok(real)
    }

    /// Before a stream is used while something is late: nothing runs until the streams are held back that the claim could
    /// not hold back. And what is late on any blocking stream goes before what comes on the legacy stream: at its use and
    /// not at the claim, since the blocking streams wait for the legacy one in turn, and have no need to before.
    fn behind_late_work(&self, stream: CUstream, epoch: u32) -> Res {
        if host::is_inside() {
            return Ok(());
        }
        if self.unheld.load(Ordering::Acquire) {
            self.hold_back_streams()?;
        }
        if stream == CU_STREAM_PER_THREAD || handle::twin(stream.0, Kind::Stream, epoch).is_some() {
            return Ok(());
        }
        let ticket = {
            let mut st = lock()?;
            let h = st.stream(stream)?;
            let s = st.streams.get(&h).ok_or(CUresult::INVALID_HANDLE)?;
            if s.kind != StreamKind::Legacy {
                return Ok(());
            }
            st.ticket_of_blocking_streams(s.ctx)
        };
        self.hold_back(CU_STREAM_LEGACY, ticket)
    }

    /// Lets a real stream wait for host functions that were queued while parked, and for the commands behind them.
    pub(super) fn hold_back(&self, real: CUstream, ticket: u64) -> Res {
        unsafe extern "C" fn pass(ticket: *mut c_void) {
            contained(|| host::pass(ticket as u64));
        }
        if host::passed(ticket) {
            return Ok(());
        }
        let d = self.driver()?;
        // SAFETY: a function of ours whose argument is a number.
        twice(|| unsafe { (d.cuLaunchHostFunc)(real, Some(pass), ticket as *mut c_void) })
    }

    /// The real event of an event.
    pub(super) fn live_event(&self, event: CUevent, epoch: u32) -> Res<CUevent> {
        if let Some(twin) = handle::twin(event.0, Kind::Event, epoch) {
            return Ok(CUevent(twin as usize));
        }
        let mut st = lock()?;
        if let Some(twin) = handle::twin(event.0, Kind::Event, epoch) {
            return Ok(CUevent(twin as usize));
        }
        // no inter-process flag: handles of ours go nowhere
        let flags = st.event(event)?.flags & !4;
        let mut real = CUevent::NULL;
        // SAFETY: writes the new event.
        ok(unsafe { (self.driver()?.cuEventCreate)(&mut real, flags) })?;
        handle::set_twin(event.0, epoch, real.0 as u64);
        Ok(real)
    }

    /// The real function of a function or a kernel.
    pub(super) fn live_function(&self, func: usize, epoch: u32) -> Res<&'static LiveFunction> {
        match known_function(func, epoch) {
            Some(f) => Ok(f),
            None => self.make_function(func, epoch),
        }
    }

    #[cold]
    fn make_function(&self, func: usize, epoch: u32) -> Res<&'static LiveFunction> {
        let mut st = lock()?;
        // a kernel of a library is launched as its function in the current context
        let asked = func;
        let func = match handle::is(func, Kind::Kernel) {
            true => st.kernel_function(CUkernel(func))?.0,
            false => func,
        };
        let f = st.modules.recorded(func).ok_or(CUresult::INVALID_HANDLE)?.clone();
        let module = self.live_module(&mut st, f.module, epoch)?;
        let d = self.driver()?;
        let mut real = CUfunction::NULL;
        // SAFETY: a live module and a NUL-terminated name; attributes were checked when the app set them.
        unsafe {
            ok((d.cuModuleGetFunction)(&mut real, module, f.name.as_ptr()))?;
            for &(attribute, value) in &f.set {
                ok((d.cuFuncSetAttribute)(real, attribute, value))?;
            }
            if f.cache != 0 {
                ok((d.cuFuncSetCacheConfig)(real, f.cache))?;
            }
        }
        let mut live = locked(&self.live);
        let kept: &'static LiveFunction = live
            .functions
            .entry(func)
            .or_insert_with(|| Box::leak(Box::new(LiveFunction { real: AtomicUsize::new(0), kernel: f.kernel })));
        // the same again where only the twin was voided; else nobody reads it before this claim's twin is set
        kept.real.store(real.0, Ordering::Relaxed);
        for h in [func, asked] {
            handle::set_twin(h, epoch, kept as *const LiveFunction as u64);
        }
        Ok(kept)
    }

    /// The real module of a module: loaded from its recipe, its variables with the contents they had.
    pub(super) fn live_module(&self, st: &mut State, module: CUmodule, epoch: u32) -> Res<CUmodule> {
        if let Some(twin) = handle::twin(module.0, Kind::Module, epoch) {
            return Ok(CUmodule(twin as usize));
        }
        let m = st.modules.modules.get(&module.0).ok_or(CUresult::INVALID_HANDLE)?;
        let (source, mut options): (_, Vec<u32>) = (m.source.clone(), m.settings.iter().map(|s| s.0).collect());
        // some options also answer in their values: these are ours
        let mut values: Vec<*mut c_void> = m.settings.iter().map(|s| s.1 as *mut c_void).collect();
        let d = self.driver()?;
        let mut real = CUmodule::NULL;
        // SAFETY: the image that the app gave, or a copy, valid as long as the source; as many options as values, none of
        // which is an address.
        ok(unsafe {
            let (options, values, count) = (options.as_mut_ptr(), values.as_mut_ptr(), options.len() as u32);
            (d.cuModuleLoadDataEx)(&mut real, source.as_ptr().cast(), count, options, values)
        })?;
        if let Err(e) = self.restore_variables(d, st, module, real) {
            // SAFETY: the module just loaded, which nobody knows.
            let _first_error_counts = unsafe { (d.cuModuleUnload)(real) };
            return Err(e);
        }
        locked(&self.live).modules.push((module, real));
        handle::set_twin(module.0, epoch, real.0 as u64);
        Ok(real)
    }

    /// Makes a module's twin because its variable was asked for by address while claimed.
    pub(super) fn live_global(&self, at: u64, len: u64) -> Res<Option<u64>> {
        if let Some(real) = locked(&self.live).real_of(at, len) {
            return Ok(Some(real));
        }
        let epoch = self.epoch.load(Ordering::Acquire);
        let mut st = lock()?;
        let owner = st.modules.modules.iter().find_map(|(&h, m)| {
            let known = m.globals.iter().find(|(_, &(base, size))| at.wrapping_sub(base) < size);
            known.map(|(name, &(base, size))| (CUmodule(h), name.clone(), base, size))
        });
        let Some((module, name, base, size)) = owner else { return Ok(None) };
        let real = self.live_module(&mut st, module, epoch)?;
        // one that is known, and shorter than what is asked for, keeps what the loader wrote into it
        if !locked(&self.live).globals.contains_key(&base) {
            // the variable was first asked for after its module was loaded
            let name = std::ffi::CString::new(name.as_bytes()).map_err(|_| CUresult::INVALID_VALUE)?;
            let (mut address, mut bytes) = (0, 0);
            // SAFETY: a live module and a NUL-terminated name.
            ok(unsafe { (self.driver()?.cuModuleGetGlobal_v2)(&mut address, &mut bytes, real, name.as_ptr()) })?;
            let global = LiveGlobal { size, real: address, module, loaded: Vec::new() };
            locked(&self.live).globals.insert(base, global);
        }
        Ok(locked(&self.live).real_of(at, len))
    }

    /// Frees the functions that have ended. The gate must be closed, so that nobody holds one.
    pub(super) fn free_ended_functions(&self) {
        for f in std::mem::take(&mut locked(&self.live).ended) {
            // SAFETY: leaked by make_function, reachable from no table any more, and nobody is inside the gate.
            drop(unsafe { Box::from_raw(f as *const LiveFunction as *mut LiveFunction) });
        }
    }

    /// A function of ours ends.
    pub(super) fn end_function(&self, h: usize) {
        let mut live = locked(&self.live);
        if let Some(f) = live.functions.remove(&h) {
            live.ended.push(f);
        }
    }

    /// An object of ours ends: so does its twin.
    pub(super) fn end_live(&self, kind: Kind, h: usize) {
        let epoch = self.epoch.load(Ordering::Acquire);
        self.end_variables(kind, h);
        let Some(twin) = handle::twin(h, kind, epoch) else { return };
        // a module is unloaded in the current context
        let (Ok(d), Ok(_)) = (self.driver(), self.bind()) else { return };
        match kind {
            // unloaded without a lock
            Kind::Module => locked(&self.live).forget(h, twin),
            _ => end_twin(d, kind, twin),
        }
    }

    /// A module's variables end with it, whether it has a twin or not: others get their addresses.
    fn end_variables(&self, kind: Kind, h: usize) {
        if kind == Kind::Module {
            locked(&self.live).forget_variables(CUmodule(h));
        }
    }

    /// The same while parked with a context that stayed: the driver hears of it at the next claim.
    pub(super) fn end_later(&self, kind: Kind, h: usize) {
        self.end_variables(kind, h);
        let Some(twin) = handle::twin(h, kind, self.epoch.load(Ordering::Acquire)) else { return };
        let mut live = locked(&self.live);
        match kind {
            Kind::Module => live.forget(h, twin),
            _ => live.late.push((kind, twin)),
        }
    }

    /// Unloads modules that have ended. A driver may wait for work meanwhile, and so for host functions of the app, which
    /// may want any lock: none is held. Parked, they went with the context, or wait for the next claim in it.
    pub(super) fn unload_ended(&self) {
        let Some(_pass) = self.gate.enter() else { return };
        let ended = std::mem::take(&mut locked(&self.live).ended_modules);
        if ended.is_empty() {
            return;
        }
        let (Ok(d), Ok(_)) = (self.driver(), self.bind()) else { return };
        for module in ended {
            // SAFETY: a module of this claim's context that no handle stands for any more.
            if let Err(e) = ok(unsafe { (d.cuModuleUnload)(module) }) {
                crate::report::explain(&format!("the driver kept a module that the app ended (CUDA error {})", e.0));
            }
        }
    }

    /// A limit of the context, set while claimed.
    pub(super) fn limit_live(&self, limit: u32, value: usize) -> Res {
        self.bind()?;
        locked(&self.live).set_limit(self.driver()?, limit, value)
    }

    /// An attribute of a stream, set while claimed. One that has no twin yet gets it with its twin.
    pub(super) fn attribute_live(&self, stream: usize, attr: u32, value: &CUlaunchAttributeValue) -> Res {
        let epoch = self.bind()?;
        let Some(twin) = handle::twin(stream, Kind::Stream, epoch) else { return Ok(()) };
        // SAFETY: a twin of this claim, and the app's value.
        ok(unsafe { (self.driver()?.cuStreamSetAttribute)(CUstream(twin as usize), attr, value) })
    }

    /// The same while parked with a context that stayed: a twin in it gets it at the next claim.
    pub(super) fn attribute_later(&self, stream: usize, attr: u32, value: &CUlaunchAttributeValue) {
        let mut live = locked(&self.live);
        if live.kept {
            live.late_attributes.retain(|&(of, id, _)| (of, id) != (stream, attr));
            live.late_attributes.push((stream, attr, *value));
        }
    }

    /// The cache that the context prefers, set while claimed.
    pub(super) fn cache_live(&self, config: u32) -> Res {
        self.bind()?;
        locked(&self.live).set_cache(self.driver()?, config)
    }

    /// A change of memory while claimed, with the state's lock held.
    pub(super) fn change_live(&self, change: Change) -> Res {
        self.bind()?;
        let d = self.driver()?;
        let mut live = locked(&self.live);
        let before = zerogpu_trace::on().then(|| live.bytes());
        let done = match change {
            Change::Take { va, len, .. } => live.grow(d, va, len),
            Change::Give { va, len, .. } => live.shrink(d, va, len),
            Change::Create { physical, off, len, location, .. } => {
                live.create(d, physical, Range::new(off, len), location)
            }
            Change::Destroy { physical, .. } => live.destroy(d, physical),
            Change::Map { va, len, physical, offset } => {
                live.want_window(d)?;
                live.map(d, va, len, physical, offset)
            }
            Change::Unmap { va, len } => live.unmap(d, va, len),
            Change::Access { va, len, flags } => live.access(d, va, len, flags),
            Change::Pin { at, len, flags } => live.pin(d, at, len, flags),
            Change::Unpin { at, .. } => live.end_pin(d, at),
            // the virtual device shares nothing, and what loses its bytes is the host's
            Change::Share { .. } | Change::Unshare { .. } | Change::Lose { .. } => Err(CUresult::NOT_SUPPORTED),
        };
        live.give_back();
        if before.is_some_and(|before| before != live.bytes()) {
            live.note_bytes();
        }
        done
    }
}

impl Live {
    /// A module has ended: nothing of it is restored at a claim any more, and its twin is unloaded when that can be.
    fn forget(&mut self, h: usize, twin: u64) {
        self.modules.retain(|m| m.0 .0 != h);
        self.ended_modules.push(CUmodule(twin as usize));
    }

    /// Sets a limit of the context, which is current.
    pub(super) fn set_limit(&mut self, d: &Driver, limit: u32, value: usize) -> Res {
        // SAFETY: plain numbers.
        ok(unsafe { (d.cuCtxSetLimit)(limit, value) })?;
        self.limits.insert(limit, value);
        Ok(())
    }

    /// Sets the cache that the context prefers, which is current.
    pub(super) fn set_cache(&mut self, d: &Driver, config: u32) -> Res {
        // SAFETY: a plain number.
        ok(unsafe { (d.cuCtxSetCacheConfig)(config) })?;
        self.cache = config;
        Ok(())
    }

    /// Gives streams the attributes that were set while parked. The context is current.
    pub(super) fn set_late_attributes(&mut self, d: &Driver, epoch: u32) {
        for (stream, attr, value) in self.late_attributes.drain(..) {
            let Some(twin) = handle::twin(stream, Kind::Stream, epoch) else { continue };
            // SAFETY: a twin of this claim, and the app's value.
            if let Err(e) = ok(unsafe { (d.cuStreamSetAttribute)(CUstream(twin as usize), attr, &value) }) {
                without_attribute(attr, e);
            }
        }
    }

    /// The driver's addresses of a module's variables are no longer those.
    pub(super) fn forget_variables(&mut self, module: CUmodule) {
        self.globals.retain(|_, g| g.module != module);
    }

    /// Ends the twins of what has ended while parked. The context is current.
    pub(super) fn end_late(&mut self, d: &Driver) {
        self.late.drain(..).for_each(|(kind, twin)| end_twin(d, kind, twin));
    }
}

fn without_attribute(id: u32, e: CUresult) {
    crate::report::explain(&format!("a stream goes without its attribute {id} (CUDA error {})", e.0));
}

/// Ends a twin whose object the app has ended.
fn end_twin(d: &Driver, kind: Kind, twin: u64) {
    // SAFETY: a twin in the current context, that nobody uses any more; a refusal leaves it to the context's end.
    let ended = unsafe {
        match kind {
            Kind::Stream => (d.cuStreamDestroy_v2)(CUstream(twin as usize)),
            Kind::Event => (d.cuEventDestroy_v2)(CUevent(twin as usize)),
            _ => CUresult::SUCCESS,
        }
    };
    if !ended.ok() {
        crate::report::explain(&format!("the driver kept a {kind:?} that the app ended (CUDA error {})", ended.0));
    }
}

/// Runs work on a stream of its own, which waits for no other, to its end.
pub(super) fn aside<T>(d: &Driver, work: impl FnOnce(CUstream) -> Res<T>) -> Res<T> {
    let mut own = CUstream::NULL;
    // SAFETY: writes the new stream.
    ok(unsafe { (d.cuStreamCreateWithPriority)(&mut own, 1, 0) })?;
    let done = work(own);
    // SAFETY: the stream just made.
    let ended = unsafe { ok((d.cuStreamSynchronize)(own)).and(twice(|| (d.cuStreamDestroy_v2)(own))) };
    done.and_then(|done| ended.map(|()| done))
}

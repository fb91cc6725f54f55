//! The process-wide state: phases of its life, its one lock, and the backend that executes.
//!
//! One lock guards everything virtual; it is never held while a callback of the app runs or while bulk bytes move. A child of
//! fork finds it free, or is refused before it would take it. Copies translate their addresses under it and move the bytes outside.
use crate::fork::Held;
use crate::handle;
use crate::link::{Link, Recipe};
use crate::memory::{Change, Layout, Memory, Region};
use crate::objects::{Context, Event, Graphs, Modules, Pools, Stream};
use crate::op::Op;
use crate::tensor::{Tensor, TensorMap};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use zerogpu_abi::{CUcontext, CUdevice, CUlaunchAttributeValue, CUresult, CUstream, Res};
use zerogpu_profile::Profile;

/// What the device looks like, fixed for the life of the process.
pub struct Config {
    /// Name, attributes, identity.
    pub profile: Profile,
    /// Bytes of device memory that the process may use.
    pub vram: u64,
    /// What `cuDriverGetVersion` says.
    pub driver_version: i32,
    /// How many devices the app sees, all alike; 0: `cuInit` finds none.
    pub devices: u32,
    /// Whether the app may share physical memory with other processes; if not, handles are made as if it had not asked.
    pub shareable: bool,
    /// Where addresses come from.
    pub layout: Layout,
}

/// What became of a command given to [`Backend::run`].
pub enum Run {
    /// It was executed, captured or recorded, or it failed.
    Done(Res),
    /// The device's state changed (a GPU was claimed): submit it again.
    Again,
}

/// What a wait or a query is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Everything of the current context.
    Context,
    /// A stream, as the app named it.
    Stream(CUstream),
    /// An event.
    Event(usize),
}

/// Who executes commands and accounts for memory.
pub trait Backend: Sync {
    /// Hands a command to a claimed GPU at once, without the state's lock; None: take the way over [`Backend::run`].
    fn forward(&self, _stream: CUstream, _op: &Op) -> Option<Res> {
        None
    }
    /// Executes a validated command; `stream` is the stream's own handle.
    fn run(&self, state: Guard, stream: usize, op: &Op) -> Run;
    /// Waits (or asks, if `wait` is false) for work to finish.
    ///
    /// # Errors
    /// NOT_READY: it asks, and there is work left; those of [`host::wait`](crate::host::wait); what the work failed
    /// with, or why the backend takes no more.
    fn wait(&self, scope: Scope, wait: bool) -> Res;
    /// Waits for work before what it may use is given back: as [`Backend::wait`], but nothing that concerns only new work
    /// (a deadline, an error that is owed) refuses it.
    ///
    /// # Errors
    /// As for [`Backend::wait`], but no NOT_READY and nothing that concerns only new work.
    fn drain(&self, scope: Scope) -> Res {
        self.wait(scope, true)
    }
    /// Something that recorded work may use is about to end: `what` names that. Called without the state's lock.
    ///
    /// # Errors
    /// Why work that may use it could not be run: nothing ends then.
    fn before_end(&self, _what: &str) -> Res {
        Ok(())
    }
    /// Device memory is about to be unmapped, or its access taken (`what` says so). NVIDIA's driver does not wait for work that uses it;
    /// this one does, after this call. Called without the state's lock.
    fn takes(&self, _what: &str, _at: u64, _len: u64) {}
    /// A context is about to end, and all code in it. Called without the state's lock.
    ///
    /// # Errors
    /// Why recorded work whose effect outlives the context could not be run: nothing ends then.
    fn before_context_ends(&self, _ctx: CUcontext) -> Res {
        Ok(())
    }
    /// A limit of the primary context was set; called with the state's lock held.
    ///
    /// # Errors
    /// What the backend refuses the value with: the limit stays as it was.
    fn limit(&self, _limit: u32, _value: usize) -> Res {
        Ok(())
    }
    /// An attribute of a stream (its own handle) was set; called with the state's lock held.
    ///
    /// # Errors
    /// What the backend refuses the value with: it is not kept then.
    fn stream_attribute(&self, _stream: usize, _attr: u32, _value: &CUlaunchAttributeValue) -> Res {
        Ok(())
    }
    /// The cache that a context prefers was set; called with the state's lock held.
    ///
    /// # Errors
    /// What the backend refuses it with: the context keeps what it preferred.
    fn cache(&self, _config: u32) -> Res {
        Ok(())
    }
    /// This process is a fresh child of fork. May only touch atomics.
    fn forked(&self) {}
    /// Milliseconds between two events; None: answer from the recorded times.
    fn elapsed(&self, _start: usize, _end: usize) -> Option<Res<f32>> {
        None
    }
    /// Physical memory changes; called with the state's lock held.
    ///
    /// # Errors
    /// What the change is refused with. Give, Destroy, Unshare and Unpin take place all the same; after Lose the memory is kept.
    fn change(&self, _change: Change) -> Res {
        Ok(())
    }
    /// The same; what is refused becomes the `answer` to the app, but for Lose, which is nothing of the app's.
    ///
    /// # Errors
    /// As for [`Backend::change`].
    fn tell_change(&self, change: Change, answer: &mut Res) -> Res {
        let done = self.change(change);
        if !matches!(change, Change::Lose { .. }) {
            *answer = answer.and(done);
        }
        done
    }
    /// A context of a device was made (true) or ended (false); called with the state's lock held.
    ///
    /// # Errors
    /// What a new context is refused with. One that ends has ended all the same.
    fn context(&self, _device: CUdevice, _made: bool) -> Res {
        Ok(())
    }
    /// An object is about to end; called with the state's lock held, the handle still alive.
    fn ends(&self, _kind: handle::Kind, _handle: usize) {}
    /// Objects of code have ended; called without the state's lock: what ends with them may wait for host functions.
    fn ended(&self) {}
    /// Whether memory that the app frees must not be handed out again yet; the backend then reclaims it later.
    fn keeps(&self, _region: &Region) -> bool {
        false
    }
    /// Runs the recorded work for which freed memory is kept, which frees it; false: there is none, or it can't run. Called
    /// without the state's lock.
    ///
    /// # Errors
    /// What the recorded work failed with.
    fn reclaims(&self) -> Res<bool> {
        Ok(false)
    }
    /// Whether recorded work may still name modules that the app unloads; they end later then.
    fn defers(&self) -> bool {
        false
    }
    /// Bytes that a device's card has left for everybody; None: only the quota counts.
    fn free_bytes(&self, _device: CUdevice) -> Option<u64> {
        None
    }
    /// Links code; called without the state's lock.
    ///
    /// # Errors
    /// As for [`Recipe::link_alone`]; where there is a linker, what it refuses the code with.
    fn link(&self, recipe: &Recipe) -> Res<Vec<u8>> {
        recipe.link_alone("only NVIDIA's driver can")
    }
    /// Encodes a tensor map; called without the state's lock.
    ///
    /// # Errors
    /// NOT_SUPPORTED from a backend that can't; else what is wrong with the tensor.
    fn encode_tensor(&self, _tensor: &Tensor) -> Res<TensorMap> {
        Err(CUresult::NOT_SUPPORTED)
    }
    /// Gives a tensor map another address; called without the state's lock.
    ///
    /// # Errors
    /// NOT_SUPPORTED from a backend that can't; else what is wrong with the map or the address.
    fn readdress_tensor(&self, _map: &mut TensorMap, _address: u64) -> Res {
        Err(CUresult::NOT_SUPPORTED)
    }
    /// A command failed whose turn came after its call had returned: the app is to hear of it. Called without the state's
    /// lock.
    fn failed_late(&self, code: CUresult) {
        self.tell(&format!("a command behind a host function failed with CUDA error {}", code.0));
    }
    /// Tells the human something once.
    fn tell(&self, _message: &str) {}
    /// Tells the human, where they see it, about something that they can mend. May be called with the state's lock held.
    fn complain(&self, message: &str) {
        self.tell(message);
    }
    /// A slot of an undocumented export table that we do not know was called, with the first of its arguments. Most return
    /// a CUresult, some an address.
    fn unknown_slot(&self, _table: usize, _slot: usize, _args: &[u64; 8]) -> u64 {
        CUresult::NOT_SUPPORTED.0 as u64
    }
    /// Such a slot was called before `cuInit`, or in a forked child: NOT_INITIALIZED.
    fn slot_refused(&self, _table: usize, _slot: usize) {}
    /// An export table that is not among ours was asked for: the driver has none.
    fn table_refused(&self, _id: &zerogpu_abi::CUuuid) {}
}

/// Map from handles.
pub type Map<T> = HashMap<usize, T, BuildHasherDefault<HandleHasher>>;

/// Spreads handles (multiples of 64) over buckets.
#[derive(Default)]
pub struct HandleHasher(u64);

impl Hasher for HandleHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(b as u64);
        }
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}

/// Everything virtual.
pub struct State {
    /// Hands out handles.
    pub handles: handle::Allocator,
    /// Where bytes are.
    pub memory: Memory,
    /// Contexts, the primary one included.
    pub contexts: Map<Context>,
    /// Streams, the default ones included.
    pub streams: Map<Stream>,
    /// Events.
    pub events: Map<Event>,
    /// Modules, libraries, kernels and functions.
    pub modules: Modules,
    /// Memory pools.
    pub pools: Pools,
    /// Graphs and captures.
    pub graphs: Graphs,
    /// Arrays.
    pub arrays: Map<crate::api::Array>,
    /// Links that are being put together.
    pub links: Map<Link>,
    /// The primary contexts' handles by device, from `cuInit` on.
    pub(crate) primaries: Vec<CUcontext>,
    next_id: u64,
}

/// The state, locked.
pub type Guard = MutexGuard<'static, State>;

struct Runtime {
    config: Config,
    backend: &'static dyn Backend,
    state: Mutex<State>,
}

static RUNTIME: OnceLock<Runtime> = OnceLock::new();
static PHASE: AtomicU8 = AtomicU8::new(NEW);
const NEW: u8 = 0;
const READY: u8 = 1;
const FORKED: u8 = 2;

/// Ids that driver 580 gives (recorded): the first context 1, its legacy stream 7, the first per-thread stream 14.
const FIRST_FREE_ID: u64 = 15;

/// Sets who executes; the first call decides.
pub fn install_with(make: impl FnOnce() -> (Config, &'static dyn Backend)) {
    RUNTIME.get_or_init(|| {
        let (config, backend) = make();
        let memory = Memory::new(config.layout, config.devices);
        let state = State {
            handles: handle::Allocator::default(),
            memory,
            contexts: Map::default(),
            streams: Map::default(),
            events: Map::default(),
            modules: Modules::default(),
            pools: Pools::default(),
            graphs: Graphs::default(),
            arrays: Map::default(),
            links: Map::default(),
            primaries: Vec::new(),
            next_id: FIRST_FREE_ID,
        };
        Runtime { config, backend, state: Mutex::new(state) }
    });
}

fn runtime() -> Option<&'static Runtime> {
    RUNTIME.get()
}

/// What the device looks like.
///
/// # Errors
/// NOT_INITIALIZED before [`install_with`].
pub fn config() -> Res<&'static Config> {
    runtime().map(|r| &r.config).ok_or(CUresult::NOT_INITIALIZED)
}

/// Who executes.
///
/// # Errors
/// NOT_INITIALIZED before [`install_with`].
#[inline]
pub fn backend() -> Res<&'static dyn Backend> {
    runtime().map(|r| r.backend).ok_or(CUresult::NOT_INITIALIZED)
}

/// Tells the human that the process could not get what the device is made of; the app learns that there is no memory.
pub(crate) fn lacking(what: &str) -> impl FnOnce(std::io::Error) -> CUresult + '_ {
    move |error| {
        if let Ok(b) = backend() {
            b.complain(&format!(
                "{what} could not be had ({error}): raise the limits of the process (ulimit -v, ulimit -f, ulimit -n) or run \
                 zerogpu doctor"
            ));
        }
        CUresult::OUT_OF_MEMORY
    }
}

/// Whether calls are answered.
///
/// # Errors
/// NOT_INITIALIZED before `cuInit`, in a forked child of a process that used the device, and after [`refuse`].
#[inline]
pub fn ready() -> Res {
    if PHASE.load(Ordering::Acquire) == READY {
        Ok(())
    } else {
        Err(CUresult::NOT_INITIALIZED)
    }
}

/// Whether this process is a forked child of one that used the device.
pub fn forked() -> bool {
    PHASE.load(Ordering::Acquire) == FORKED
}

/// Locks the state. Not to be called with an app's callback running below.
///
/// # Errors
/// As for [`ready`].
pub fn lock() -> Res<Guard> {
    ready()?;
    lock_unready()
}

/// As [`lock`], also before `cuInit`.
///
/// # Errors
/// NOT_INITIALIZED before [`install_with`].
pub fn lock_unready() -> Res<Guard> {
    let r = runtime().ok_or(CUresult::NOT_INITIALIZED)?;
    // a panic under the lock was answered with an error code; the state is as the failed call left it
    Ok(r.state.lock().unwrap_or_else(PoisonError::into_inner))
}

/// `cuInit`: makes the primary contexts' handles, watches forks.
///
/// # Errors
/// NOT_INITIALIZED before [`install_with`], in such a child as [`ready`] tells of, and after [`refuse`]; NO_DEVICE: the
/// app sees none; OUT_OF_MEMORY: no handle can be had.
pub fn init() -> Res {
    if PHASE.load(Ordering::Acquire) == FORKED {
        return Err(CUresult::NOT_INITIALIZED);
    }
    let devices = config()?.devices;
    if devices == 0 {
        return Err(CUresult::NO_DEVICE);
    }
    if PHASE.load(Ordering::Acquire) == NEW {
        // before the lock: a child of a fork in the middle of this finds it free
        watch_forks();
    }
    let mut st = lock_unready()?;
    if PHASE.load(Ordering::Acquire) == READY {
        return Ok(());
    }
    st.make_primaries(devices)?;
    st.memory.vmm.shun_mapped();
    PHASE.store(READY, Ordering::Release);
    Ok(())
}

impl State {
    /// A number never used before: for ids of contexts, streams and the like.
    pub fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// A new handle.
    ///
    /// # Errors
    /// OUT_OF_MEMORY: all are in use, or the addresses for them could not be reserved.
    pub fn handle(&mut self, kind: handle::Kind) -> Res<usize> {
        self.handles.make(kind).ok_or(CUresult::OUT_OF_MEMORY)
    }

    /// Ends a handle: tells the backend, then forgets it.
    pub fn end(&mut self, kind: handle::Kind, h: usize) {
        if let Ok(b) = backend() {
            b.ends(kind, h);
        }
        self.handles.drop(h);
    }
}

/// The lock, across a fork.
// SAFETY: every guard is of the state's lock.
static FORK_GUARD: Held<Guard> = unsafe { Held::new() };

/// What C calls: a panic ends here, whatever it leaves undone.
pub(crate) fn contained(body: impl FnOnce()) {
    let _ended = catch_unwind(AssertUnwindSafe(body));
}

/// The lock for a fork whose child may use the device: of a process that has said cuInit it may not, and needs no lock. To wait
/// for it would then be for ever where a driver below forks in a call that is made with the lock held (NVIDIA's runs
/// nvidia-modprobe in cuInit), or where glibc, before 2.36, lets no second thread fork meanwhile.
fn lock_for_fork() -> Option<Guard> {
    while PHASE.load(Ordering::Acquire) == NEW {
        match runtime()?.state.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(guard)) => return Some(guard.into_inner()),
            // another thread's cuInit, which is short
            Err(TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
    None
}

extern "C" fn before_fork() {
    contained(|| FORK_GUARD.hold(lock_for_fork));
}

extern "C" fn after_fork_in_parent() {
    contained(|| drop(FORK_GUARD.take()));
}

extern "C" fn after_fork_in_child() {
    contained(|| {
        let guard = FORK_GUARD.take();
        if PHASE.load(Ordering::Acquire) == NEW {
            // the parent never said cuInit: the child may
            return drop(guard);
        }
        // the lock stays locked for ever, if it was: every call answers NOT_INITIALIZED before it would take it
        std::mem::forget(guard);
        if PHASE.swap(FORKED, Ordering::AcqRel) == READY {
            if let Ok(b) = backend() {
                b.forked();
            }
        }
    });
}

/// Has every later call of this process refused, as in a child of a process that used the device.
pub fn refuse() {
    PHASE.store(FORKED, Ordering::Release);
}

fn watch_forks() {
    // SAFETY: the three handlers are plain functions that live as long as the library, which is never unloaded.
    unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork_in_parent), Some(after_fork_in_child)) };
}

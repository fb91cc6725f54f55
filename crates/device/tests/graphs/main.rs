//! Stream capture and graphs through the driver API, over a card that runs copies and notes launches.
#![allow(clippy::undocumented_unsafe_blocks, missing_docs)]
mod capture;
mod exec;
mod graph;
mod rules;
mod threads;

use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use zerogpu_abi::*;
use zerogpu_device::api::*;
use zerogpu_device::memory::Layout;
use zerogpu_device::objects::graph::CAPTURES;
use zerogpu_device::op::{Launch, Op};
use zerogpu_device::runtime::{self, Guard, Scope, State};
use zerogpu_device::{host, Backend, Config, Run};
use zerogpu_profile::Profile;

/// Calls a driver function that must succeed.
macro_rules! ok {
    ($call:expr) => {
        assert_eq!(unsafe { $call }, CUresult::SUCCESS, "{}", stringify!($call))
    };
}
/// Calls a driver function that must fail with this code.
macro_rules! fails {
    ($code:ident, $call:expr) => {
        assert_eq!(unsafe { $call }, CUresult::$code, "{}", stringify!($call))
    };
}
/// Calls a driver function with an output as its first argument, and gives the output.
macro_rules! made {
    ($f:ident($ty:expr $(, $arg:expr)*)) => {{
        let mut to = $ty;
        ok!($f(&mut to $(, $arg)*));
        to
    }};
}
pub(crate) use {fails, made, ok};

/// Runs copies and memsets at once and notes launches.
struct Card;

/// First parameter of a launch that panics.
pub const FAULT: u64 = u64::MAX;

static LAUNCHES: Mutex<Vec<(usize, Vec<u8>)>> = Mutex::new(Vec::new());

impl host::Card for Card {
    fn launch(&self, st: &mut State, _: usize, l: &Launch) -> Res<Option<host::Work>> {
        let bytes = st.pack_params(l.func, &l.params)?;
        assert!(!bytes.starts_with(&FAULT.to_le_bytes()), "a fault on purpose");
        LAUNCHES.lock().unwrap().push((l.func, bytes));
        Ok(None)
    }
}

impl Backend for Card {
    fn run(&self, state: Guard, stream: usize, op: &Op) -> Run {
        Run::Done(host::run(state, stream, op, &Card))
    }
    fn wait(&self, scope: Scope, wait: bool) -> Res {
        host::wait(scope, wait)
    }
}

/// A context that is current, a kernel (8 and 4 bytes of parameters), and nobody else at work.
pub struct Session {
    pub ctx: CUcontext,
    pub kernel: CUfunction,
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

pub fn session() -> Session {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    runtime::install_with(|| {
        let profile = *Profile::by_name("h100-80gb").unwrap();
        let config = Config {
            vram: profile.total_bytes,
            profile,
            driver_version: 13000,
            devices: 1,
            shareable: false,
            layout: Layout::default(),
        };
        (config, &Card)
    });
    ok!(cuInit(0));
    let ctx = made!(cuDevicePrimaryCtxRetain(CUcontext::NULL, 0));
    ok!(cuCtxSetCurrent(ctx));
    static KERNEL: OnceLock<usize> = OnceLock::new();
    let kernel = *KERNEL.get_or_init(|| {
        let image = include_bytes!("../../../../tests/semantics/data/probe.sm_90.cubin").as_ptr();
        let module = made!(cuModuleLoadData(CUmodule::NULL, image.cast()));
        made!(cuModuleGetFunction(CUfunction::NULL, module, c"probe".as_ptr())).0
    });
    assert_eq!(CAPTURES.load(std::sync::atomic::Ordering::Acquire), 0, "a test left a capture behind");
    LAUNCHES.lock().unwrap().clear();
    Session { ctx, kernel: CUfunction(kernel), _alone: alone }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let left = CAPTURES.load(std::sync::atomic::Ordering::Acquire);
            assert_eq!(left, 0, "a capture is left behind");
        }
    }
}

impl Session {
    /// Launches of the kernel so far: each one's first parameter.
    pub fn launches(&self) -> Vec<u64> {
        let all = LAUNCHES.lock().unwrap();
        all.iter()
            .map(|(f, p)| (assert_eq!(*f, self.kernel.0), u64::from_le_bytes(p[..8].try_into().unwrap())).1)
            .collect()
    }

    pub fn launch(&self, stream: CUstream, first: u64) {
        let (mut a, mut b) = (first, 7u32);
        let mut params = [(&raw mut a).cast::<c_void>(), (&raw mut b).cast()];
        let none = std::ptr::null_mut();
        ok!(cuLaunchKernel(self.kernel, 1, 1, 1, 32, 1, 1, 0, stream, params.as_mut_ptr(), none));
    }
}

pub const NON_BLOCKING: u32 = 1;
pub const GLOBAL: u32 = 0;
pub const THREAD_LOCAL: u32 = 1;
pub const RELAXED: u32 = 2;

pub fn stream(flags: u32) -> CUstream {
    made!(cuStreamCreate(CUstream::NULL, flags))
}

pub fn event() -> CUevent {
    made!(cuEventCreate(CUevent::NULL, 0))
}

pub fn graph() -> CUgraph {
    made!(cuGraphCreate(CUgraph::NULL, 0))
}

/// Allocates device memory.
pub fn memory(bytes: usize) -> CUdeviceptr {
    made!(cuMemAlloc_v2(0, bytes))
}

pub fn status(s: CUstream) -> u32 {
    let mut v = 99;
    ok!(cuStreamIsCapturing(s, &mut v));
    v
}

pub fn begin(s: CUstream, mode: u32) {
    ok!(cuStreamBeginCapture_v2(s, mode));
}

pub fn end(s: CUstream) -> CUgraph {
    let mut g = CUgraph(1);
    ok!(cuStreamEndCapture(s, &mut g));
    g
}

/// Ends a capture that has failed: an error, a NULL graph, and the stream is free again.
pub fn end_fails(s: CUstream, code: CUresult) {
    let mut g = CUgraph(1);
    assert_eq!(unsafe { cuStreamEndCapture(s, &mut g) }, code);
    assert_eq!(g, CUgraph::NULL);
    assert_eq!(status(s), 0);
}

pub fn nodes(g: CUgraph) -> Vec<CUgraphNode> {
    let mut n = 0;
    ok!(cuGraphGetNodes(g, std::ptr::null_mut(), &mut n));
    let mut v = vec![CUgraphNode::NULL; n];
    ok!(cuGraphGetNodes(g, v.as_mut_ptr(), &mut n));
    v
}

pub fn deps(node: CUgraphNode) -> Vec<CUgraphNode> {
    let mut n = 0;
    ok!(cuGraphNodeGetDependencies(node, std::ptr::null_mut(), &mut n));
    let mut v = vec![CUgraphNode::NULL; n];
    ok!(cuGraphNodeGetDependencies(node, v.as_mut_ptr(), &mut n));
    v
}

pub fn kind(node: CUgraphNode) -> u32 {
    let mut v = 99;
    ok!(cuGraphNodeGetType(node, &mut v));
    v
}

pub fn instantiate(g: CUgraph) -> CUgraphExec {
    made!(cuGraphInstantiateWithFlags(CUgraphExec::NULL, g, 0))
}

/// Runs on another thread, which has the context current.
pub fn elsewhere<T: Send>(ctx: CUcontext, body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|s| {
        s.spawn(|| {
            ok!(cuCtxSetCurrent(ctx));
            body()
        })
        .join()
        .unwrap()
    })
}

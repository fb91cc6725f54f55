//! What a program ends while commands that name it wait behind a host function: a driver has accepted them, so they run.
use super::regions::{Kernel, Regions};
use super::Gate;
use crate::check::Check;
use crate::driver::{must, Driver};
use crate::image::{fat_binary, Wrapper, CUBIN};
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use zerogpu_abi::*;

const NON_BLOCKING: u32 = 1;
const SIZE: usize = 4096;

unsafe extern "C" fn pass(data: *mut c_void) {
    // SAFETY: `data` is a Gate that the test leaked.
    unsafe { &*data.cast::<Gate>() }.pass();
}

/// A stream whose work waits for the gate.
fn held(d: &Driver, gate: &'static Gate) -> CUstream {
    let stream = d.stream(NON_BLOCKING);
    must("cuLaunchHostFunc", d.cuLaunchHostFunc(stream, Some(pass), gate.data()));
    stream
}

/// Ends something in another thread, then opens the gate: a driver may wait for the work that is held, or may not.
fn end_before<T: Send + 'static>(
    gate: &Gate,
    context: CUcontext,
    d: &'static Driver,
    end: impl FnOnce() -> T + Send + 'static,
) -> T {
    let thread = std::thread::spawn(move || {
        must("cuCtxSetCurrent", d.cuCtxSetCurrent(context));
        end()
    });
    let start = Instant::now();
    while !thread.is_finished() && start.elapsed() < Duration::from_millis(200) {
        std::thread::sleep(Duration::from_millis(1));
    }
    gate.open();
    thread.join().expect("a thread of the topic panicked")
}

/// A file that softcuda writes, where it is the driver or below it.
fn log(variable: &str) -> Option<String> {
    std::env::var_os(variable).map(|path| std::fs::read_to_string(path).unwrap_or_default())
}

/// Everything has run, without a complaint.
fn finished(d: &Driver, t: &mut Check, gate: &Gate) {
    t.code("cuCtxSynchronize", d.cuCtxSynchronize(), 0);
    // driver 580 loads a kernel at its first launch, and waits for what runs meanwhile: until the gate opens by itself (recorded)
    t.that("the host function was there first", gate.passed() || t.driver.real);
    let complaints = log("SOFTCUDA_STRICT_LOG").unwrap_or_default();
    t.same("what softcuda complains of", complaints.as_str(), "");
}

/// Kernels of a module and of a library.
pub fn modules(d: &'static Driver, t: &mut Check) {
    let context = d.start();
    let scratch = d.alloc(SIZE);
    let launch = |d: &Driver, function, stream| {
        let (mut pointer, mut number) = (scratch, 1i32);
        let mut values: [*mut c_void; 2] = [(&raw mut pointer).cast(), (&raw mut number).cast()];
        d.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, values.as_mut_ptr(), null_mut())
    };
    let launched = |t: &mut Check, code: CUresult, what: &str| match t.driver.no_kernels {
        true => t.that(format_args!("{what} fails where nothing can run it"), !code.ok()),
        false => t.code(what, code, 0),
    };

    let (mut module, mut function) = (CUmodule::NULL, CUfunction::NULL);
    must("cuModuleLoadData", d.cuModuleLoadData(&mut module, CUBIN.as_ptr().cast()));
    must("cuModuleGetFunction", d.cuModuleGetFunction(&mut function, module, c"probe".as_ptr()));
    let gate = Gate::leaked();
    let stream = held(d, gate);
    launched(t, launch(d, function, stream), "a launch of a module's");
    t.code("cuModuleUnload", end_before(gate, context, d, move || d.cuModuleUnload(module)), 0);
    finished(d, t, gate);

    let wrapper: &'static Wrapper = Box::leak(Box::new(Wrapper::new(fat_binary(90))));
    let (mut library, mut kernel) = (CUlibrary::NULL, CUkernel::NULL);
    let image = std::ptr::from_ref(wrapper).cast();
    must(
        "cuLibraryLoadData",
        d.cuLibraryLoadData(&mut library, image, null_mut(), null_mut(), 0, null_mut(), null_mut(), 0),
    );
    must("cuLibraryGetKernel", d.cuLibraryGetKernel(&mut kernel, library, c"probe".as_ptr()));
    let gate = Gate::leaked();
    let stream = held(d, gate);
    launched(t, launch(d, CUfunction(kernel.0), stream), "a launch of a library's");
    t.code("cuLibraryUnload", end_before(gate, context, d, move || d.cuLibraryUnload(library)), 0);
    finished(d, t, gate);

    if let Some(launches) = log("SOFTCUDA_LAUNCH_LOG").filter(|_| !t.driver.no_kernels && !t.driver.real) {
        t.same("launches that ran", launches.matches("\"probe\"").count(), 2);
    }
}

static DESTROYED: AtomicBool = AtomicBool::new(false);

unsafe extern "C" fn destroyed(_: *mut c_void) {
    DESTROYED.store(true, Ordering::Release);
}

/// A graph that is changed and destroyed after its launch, and so are its stream, its event and what it holds.
pub fn graphs(d: &'static Driver, t: &mut Check) {
    let context = d.start();
    let (memory, event) = (d.alloc(SIZE), d.event(2));
    let fill = |value| CUDA_MEMSET_NODE_PARAMS { dst: memory, pitch: 0, value, elementSize: 1, width: SIZE, height: 1 };
    let (mut graph, mut node, mut record) = (CUgraph::NULL, CUgraphNode::NULL, CUgraphNode::NULL);
    must("cuGraphCreate", d.cuGraphCreate(&mut graph, 0));
    must("cuGraphAddMemsetNode", d.cuGraphAddMemsetNode(&mut node, graph, null(), 0, &fill(5), context));
    must("cuGraphAddEventRecordNode", d.cuGraphAddEventRecordNode(&mut record, graph, &node, 1, event));
    let mut object = CUuserObject::NULL;
    // cuda.h: CU_USER_OBJECT_NO_DESTRUCTOR_SYNC, CU_GRAPH_USER_OBJECT_MOVE
    must("cuUserObjectCreate", d.cuUserObjectCreate(&mut object, null_mut(), Some(destroyed), 1, 1));
    must("cuGraphRetainUserObject", d.cuGraphRetainUserObject(graph, object, 1, 1));
    let mut exec = CUgraphExec::NULL;
    must("cuGraphInstantiateWithFlags", d.cuGraphInstantiateWithFlags(&mut exec, graph, 0));

    let gate = Gate::leaked();
    let stream = held(d, gate);
    t.code("cuGraphLaunch", d.cuGraphLaunch(exec, stream), 0);
    // CUDA's documentation: launches that are enqueued already are not affected
    let changed = d.cuGraphExecMemsetNodeSetParams(exec, node, &fill(6), context);
    t.code("new parameters for later launches", changed, 0);
    t.code("cuGraphExecDestroy", d.cuGraphExecDestroy(exec), 0);
    t.code("cuGraphDestroy", d.cuGraphDestroy(graph), 0);
    t.code("cuEventDestroy", d.cuEventDestroy_v2(event), 0);
    t.code("cuStreamDestroy", d.cuStreamDestroy_v2(stream), 0);
    t.that("what the graph holds lives until it has run", !DESTROYED.load(Ordering::Acquire));
    gate.open();
    finished(d, t, gate);
    t.that("the graph ran as it was launched", d.read(memory, SIZE) == [5; SIZE]);
    let start = Instant::now();
    while !DESTROYED.load(Ordering::Acquire) && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(1));
    }
    t.that("and then it was let go", DESTROYED.load(Ordering::Acquire));
}

/// An array that is destroyed before bytes have come to it.
pub fn arrays(d: &'static Driver, t: &mut Check) {
    let context = d.start();
    let source = d.alloc(SIZE);
    d.write(source, &[1; SIZE]);
    let mut array = CUarray::NULL;
    // CU_AD_FORMAT_UNSIGNED_INT8
    let shape = CUDA_ARRAY_DESCRIPTOR { Width: 64, Height: 64, Format: 1, NumChannels: 1 };
    must("cuArrayCreate", d.cuArrayCreate_v2(&mut array, &shape));
    let copy = CUDA_MEMCPY2D {
        srcXInBytes: 0,
        srcY: 0,
        srcMemoryType: 2,
        srcHost: null(),
        srcDevice: source,
        srcArray: CUarray::NULL,
        srcPitch: 64,
        dstXInBytes: 0,
        dstY: 0,
        dstMemoryType: 3,
        dstHost: null_mut(),
        dstDevice: 0,
        dstArray: array,
        dstPitch: 0,
        WidthInBytes: 64,
        Height: 64,
    };
    let gate = Gate::leaked();
    let stream = held(d, gate);
    t.code("a copy to an array", d.cuMemcpy2DAsync_v2(&copy, stream), 0);
    let (code, fresh) = end_before(gate, context, d, move || {
        let code = d.cuArrayDestroy(array);
        let fresh = d.alloc(SIZE);
        d.write(fresh, &[9; SIZE]);
        (code, fresh)
    });
    t.code("cuArrayDestroy", code, 0);
    finished(d, t, gate);
    t.that("memory that was made afterwards is not written to", d.read(fresh, SIZE) == [9; SIZE]);
}

/// What a host function finds that waits for its own stream.
struct Own {
    driver: &'static Driver,
    stream: CUstream,
    found: Mutex<Option<CUresult>>,
}

unsafe extern "C" fn wait_for_itself(data: *mut c_void) {
    // SAFETY: `data` is an Own that the test leaked.
    let own = unsafe { &*data.cast::<Own>() };
    let found = own.driver.cuStreamSynchronize(own.stream);
    *own.found.lock().expect("not poisoned") = Some(found);
}

/// cuda.h forbids it, and lets a driver say so; ours does not hang.
pub fn itself(d: &'static Driver, t: &mut Check) {
    d.start();
    let own: &'static Own =
        Box::leak(Box::new(Own { driver: d, stream: d.stream(NON_BLOCKING), found: Mutex::new(None) }));
    must(
        "cuLaunchHostFunc",
        d.cuLaunchHostFunc(own.stream, Some(wait_for_itself), std::ptr::from_ref(own) as *mut c_void),
    );
    d.wait(own.stream);
    let found = own.found.lock().expect("not poisoned").map(|code| code.0);
    t.same("a host function that waits for itself", found, Some(CUresult::NOT_PERMITTED.0));
}

unsafe extern "C" fn let_go(data: *mut c_void) {
    // SAFETY: `data` is an AtomicBool that the test leaked.
    unsafe { &*data.cast::<AtomicBool>() }.store(true, Ordering::Release);
}

/// A graph with a host function, launched when nothing waits, and destroyed at once: parked, and on a claimed GPU.
pub fn host_nodes(d: &'static Driver, t: &mut Check) {
    let context = d.start();
    host_node(d, t, context, "nothing before it");
    let regions = Regions::find(d);
    if let Some(r) = regions.filter(|_| !t.driver.no_kernels) {
        let region = r.begin();
        let state = Kernel::load(d);
        must("cuLaunchKernel", state.launch(d, CUstream::NULL));
        t.same("a GPU is claimed", r.level().as_deref(), Some("claimed"));
        host_node(d, t, context, "claimed");
        t.that("the region ends", r.end(region));
    }
}

fn host_node(d: &'static Driver, t: &mut Check, context: CUcontext, what: &str) {
    let memory = d.alloc(SIZE);
    let fill = CUDA_MEMSET_NODE_PARAMS { dst: memory, pitch: 0, value: 5, elementSize: 1, width: SIZE, height: 1 };
    let (gate, gone): (_, &'static AtomicBool) = (Gate::leaked(), Box::leak(Box::default()));
    let call = CUDA_HOST_NODE_PARAMS { func: Some(pass), userData: gate.data() };
    let (mut graph, mut host, mut node) = (CUgraph::NULL, CUgraphNode::NULL, CUgraphNode::NULL);
    must("cuGraphCreate", d.cuGraphCreate(&mut graph, 0));
    must("cuGraphAddHostNode", d.cuGraphAddHostNode(&mut host, graph, null(), 0, &call));
    must("cuGraphAddMemsetNode", d.cuGraphAddMemsetNode(&mut node, graph, &host, 1, &fill, context));
    let mut object = CUuserObject::NULL;
    let data = std::ptr::from_ref(gone).cast_mut().cast();
    must("cuUserObjectCreate", d.cuUserObjectCreate(&mut object, data, Some(let_go), 1, 1));
    must("cuGraphRetainUserObject", d.cuGraphRetainUserObject(graph, object, 1, 1));
    let mut exec = CUgraphExec::NULL;
    must("cuGraphInstantiateWithFlags", d.cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    t.code(format_args!("cuGraphLaunch, {what}"), d.cuGraphLaunch(exec, d.stream(NON_BLOCKING)), 0);
    t.code("cuGraphExecDestroy", d.cuGraphExecDestroy(exec), 0);
    t.code("cuGraphDestroy", d.cuGraphDestroy(graph), 0);
    t.that(format_args!("what it holds lives until it has run, {what}"), !gone.load(Ordering::Acquire));
    gate.open();
    finished(d, t, gate);
    t.that("it has run", d.read(memory, SIZE) == [5; SIZE]);
    let start = Instant::now();
    while !gone.load(Ordering::Acquire) && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(1));
    }
    t.that(format_args!("and what it held was let go, {what}"), gone.load(Ordering::Acquire));
}

/// What another stream does once a graph has recorded an event, where the graph itself has to wait: parked, and with a GPU
/// claimed meanwhile.
pub fn graph_events(d: &'static Driver, t: &mut Check) {
    let context = d.start();
    let regions = Regions::find(d).filter(|_| !t.driver.no_kernels);
    for (what, regions) in [("parked", None), ("claimed meanwhile", regions)] {
        let (made, copied, event) = (d.alloc(SIZE), d.alloc(SIZE), d.event(2));
        let fill = CUDA_MEMSET_NODE_PARAMS { dst: made, pitch: 0, value: 5, elementSize: 1, width: SIZE, height: 1 };
        let (mut graph, mut node, mut record) = (CUgraph::NULL, CUgraphNode::NULL, CUgraphNode::NULL);
        must("cuGraphCreate", d.cuGraphCreate(&mut graph, 0));
        must("cuGraphAddMemsetNode", d.cuGraphAddMemsetNode(&mut node, graph, null(), 0, &fill, context));
        must("cuGraphAddEventRecordNode", d.cuGraphAddEventRecordNode(&mut record, graph, &node, 1, event));
        let mut exec = CUgraphExec::NULL;
        must("cuGraphInstantiateWithFlags", d.cuGraphInstantiateWithFlags(&mut exec, graph, 0));
        d.write(copied, &[1; SIZE]);

        let gate = Gate::leaked();
        let stream = held(d, gate);
        t.code(format_args!("cuGraphLaunch, {what}"), d.cuGraphLaunch(exec, stream), 0);
        let region = regions.map(|r| (r, r.begin()));
        if region.is_some() {
            must("cuLaunchKernel", Kernel::load(d).launch(d, d.stream(NON_BLOCKING)));
        }
        let other = d.stream(NON_BLOCKING);
        t.code(format_args!("cuStreamWaitEvent, {what}"), d.cuStreamWaitEvent(other, event, 0), 0);
        t.code(format_args!("cuMemcpyDtoDAsync, {what}"), d.cuMemcpyDtoDAsync_v2(copied, made, SIZE, other), 0);
        gate.open();
        finished(d, t, gate);
        t.that(format_args!("it saw what the graph had made, {what}"), d.read(copied, SIZE) == [5; SIZE]);
        if let Some((r, region)) = region {
            t.that("the region ends", r.end(region));
        }
    }
}

/// A stream waits for a value that another writes behind a host function: parked, and with a GPU claimed before it is written.
pub fn values(d: &'static Driver, t: &mut Check) {
    const EQUAL: u32 = 1;
    d.start();
    let regions = Regions::find(d).filter(|_| !t.driver.no_kernels);
    for (what, regions) in [("parked", None), ("claimed meanwhile", regions)] {
        let (value, memory) = (d.alloc(SIZE), d.alloc(SIZE));
        d.write(value, &[0; SIZE]);
        d.write(memory, &[1; SIZE]);
        let gate = Gate::leaked();
        let (waits, writes) = (d.stream(NON_BLOCKING), held(d, gate));
        t.code(format_args!("cuStreamWaitValue32, {what}"), d.cuStreamWaitValue32_v2(waits, value, 1, EQUAL), 0);
        t.code(format_args!("cuMemsetD8Async, {what}"), d.cuMemsetD8Async(memory, 7, SIZE, waits), 0);
        t.code(format_args!("cuStreamWriteValue32, {what}"), d.cuStreamWriteValue32_v2(writes, value, 1, 0), 0);
        let region = regions.map(|r| (r, r.begin()));
        if region.is_some() {
            must("cuLaunchKernel", Kernel::load(d).launch(d, d.stream(NON_BLOCKING)));
        }
        t.code(format_args!("it waits, {what}"), d.cuStreamQuery(waits), CUresult::NOT_READY.0);
        gate.open();
        finished(d, t, gate);
        t.that(format_args!("what waited has run, {what}"), d.read(memory, SIZE) == [7; SIZE]);
        if let Some((r, region)) = region {
            t.that("the region ends", r.end(region));
        }
    }
}

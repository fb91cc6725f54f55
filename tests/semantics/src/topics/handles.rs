//! Bad handles of each kind: an error code, never a crash. Only for our drivers: a real one may dereference them.
use crate::check::Check;
use crate::driver::{must, Driver};
use crate::image;
use std::ffi::c_void;
use std::ptr::null_mut;
use zerogpu_abi::*;

include!(concat!(env!("OUT_DIR"), "/handle_calls.rs"));

/// A function that takes a handle, called with one bad value in the place of each handle and device address.
pub struct HandleCall {
    name: &'static str,
    kinds: &'static [&'static str],
    call: fn(&Driver, usize, *mut c_void) -> CUresult,
}

/// Calls with a wild handle may end in these: bad value, not initialised, no such device, bad context, not found,
/// bad handle, illegal state, destroyed context, not registered, not supported.
const REFUSALS: &[u32] = &[1, 101, 201, 400, 401, 500, 709, 713, 801];

/// Each function of the list with each wild value.
pub fn wild(d: &'static Driver, t: &mut Check) {
    d.start();
    let scratch: &'static mut [u64] = vec![0u64; 1 << 13].leak();
    let scratch = scratch.as_mut_ptr().cast::<c_void>();
    let (stream, event) = (d.stream(1), d.event(0));
    let values = [
        ("a small number", 8),
        ("a page that is not there", 0x1000),
        ("an address of nothing", 0xdead_beef_0000),
        ("a misaligned address", 0x7000_0000_0001),
        ("the end of memory", usize::MAX - 7),
        ("memory that is no object", scratch as usize),
        ("a handle and a byte", stream.0 + 1),
    ];
    for (what, value) in values {
        for call in HANDLE_CALLS {
            // the last line before a crash names the call
            println!("ok calling {} with {what}", call.name);
            let got = (call.call)(d, value, scratch);
            t.one_of(format_args!("{} with {what}", call.name), got, REFUSALS);
        }
    }
    for call in HANDLE_CALLS.iter().filter(|call| !call.kinds.contains(&"CUevent")) {
        println!("ok calling {} with an event", call.name);
        t.one_of(format_args!("{} with an event", call.name), (call.call)(d, event.0, scratch), REFUSALS);
    }
    t.code("the event is whole", d.cuEventQuery(event), 0);
    t.code("the stream is whole", d.cuStreamQuery(stream), 0);
    let p = d.alloc(4096);
    d.write(p, &[1; 4096]);
    t.that("memory works", d.read(p, 4096) == [1; 4096]);
}

/// NULL in the place of each handle. It names the default stream and the current context, and nothing else.
pub fn null(d: &'static Driver, t: &mut Check) {
    d.start();
    let scratch: &'static mut [u64] = vec![0u64; 1 << 13].leak();
    let scratch = scratch.as_mut_ptr().cast::<c_void>();
    for call in HANDLE_CALLS {
        println!("ok calling {} with NULL", call.name);
        let got = (call.call)(d, 0, scratch);
        if call.kinds.iter().all(|kind| ["CUstream", "CUcontext"].contains(kind)) {
            t.that(format_args!("{} with NULL: a known code, got {}", call.name, got.0), describe(got).is_some());
        } else {
            t.one_of(format_args!("{} with NULL", call.name), got, REFUSALS);
        }
        // some of these end a capture or change the current context
        d.start();
    }
}

type Use = fn(&Driver, &Objects) -> CUresult;

/// One object of each kind.
#[derive(Clone, Copy)]
pub(super) struct Objects {
    pub stream: CUstream,
    pub event: CUevent,
    pub context: CUcontext,
    pub module: CUmodule,
    pub function: CUfunction,
    pub library: CUlibrary,
    pub kernel: CUkernel,
    pub graph: CUgraph,
    pub node: CUgraphNode,
    pub exec: CUgraphExec,
    pub pool: CUmemoryPool,
    pub physical: CUmemGenericAllocationHandle,
    pub memory: CUdeviceptr,
}

/// A use of an object that is gone, and the codes that it may answer.
#[rustfmt::skip]
const STALE: &[(&str, &[u32], Use)] = &[
    ("cuStreamQuery", &[400], |d, o| d.cuStreamQuery(o.stream)),
    ("cuStreamSynchronize", &[400], |d, o| d.cuStreamSynchronize(o.stream)),
    ("cuStreamDestroy", &[400], |d, o| d.cuStreamDestroy_v2(o.stream)),
    ("cuStreamGetId", &[400], |d, o| d.cuStreamGetId(o.stream, &mut 0)),
    ("cuStreamGetPriority", &[400], |d, o| d.cuStreamGetPriority(o.stream, &mut 0)),
    ("cuStreamIsCapturing", &[400], |d, o| d.cuStreamIsCapturing(o.stream, &mut 0)),
    ("cuStreamBeginCapture", &[400], |d, o| d.cuStreamBeginCapture_v2(o.stream, 0)),
    ("cuMemsetD8Async", &[400], |d, o| d.cuMemsetD8Async(o.memory, 1, 4, o.stream)),
    ("cuMemcpyDtoDAsync", &[400], |d, o| d.cuMemcpyDtoDAsync_v2(o.memory, o.memory + 64, 4, o.stream)),
    ("cuMemAllocAsync", &[400], |d, o| d.cuMemAllocAsync(&mut 0, 64, o.stream)),
    ("cuEventQuery", &[400], |d, o| d.cuEventQuery(o.event)),
    ("cuEventSynchronize", &[400], |d, o| d.cuEventSynchronize(o.event)),
    ("cuEventRecord", &[400], |d, o| d.cuEventRecord(o.event, CUstream::NULL)),
    ("cuEventDestroy", &[400], |d, o| d.cuEventDestroy_v2(o.event)),
    ("cuEventElapsedTime", &[400], |d, o| d.cuEventElapsedTime(&mut 0.0, o.event, o.event)),
    ("cuStreamWaitEvent", &[400], |d, o| d.cuStreamWaitEvent(CUstream::NULL, o.event, 0)),
    ("cuCtxSetCurrent", &[201, 400, 709], |d, o| d.cuCtxSetCurrent(o.context)),
    ("cuCtxPushCurrent", &[201, 400, 709], |d, o| d.cuCtxPushCurrent_v2(o.context)),
    ("cuCtxDestroy", &[1, 201, 400, 709], |d, o| d.cuCtxDestroy_v2(o.context)),
    ("cuCtxGetId", &[1, 201, 400, 709], |d, o| d.cuCtxGetId(o.context, &mut 0)),
    ("cuModuleGetFunction", &[1, 400, 500], |d, o| d.cuModuleGetFunction(&mut CUfunction(0), o.module, c"probe".as_ptr())),
    ("cuModuleGetGlobal", &[1, 400, 500], |d, o| d.cuModuleGetGlobal_v2(&mut 0, &mut 0, o.module, c"table".as_ptr())),
    // recorded: a second unload succeeds
    ("cuModuleUnload", &[0], |d, o| d.cuModuleUnload(o.module)),
    ("cuFuncGetAttribute", &[1, 400], |d, o| d.cuFuncGetAttribute(&mut 0, 0, o.function)),
    ("cuLaunchKernel", &[1, 400], |d, o| {
        let mut values = [(&raw const o.memory).cast_mut().cast(), (&raw const o.memory).cast_mut().cast()];
        d.cuLaunchKernel(o.function, 1, 1, 1, 1, 1, 1, 0, CUstream::NULL, values.as_mut_ptr(), null_mut())
    }),
    ("cuLibraryGetModule", &[1, 400], |d, o| d.cuLibraryGetModule(&mut CUmodule(0), o.library)),
    ("cuLibraryUnload", &[1, 400], |d, o| d.cuLibraryUnload(o.library)),
    ("cuKernelGetFunction", &[1, 400], |d, o| d.cuKernelGetFunction(&mut CUfunction(0), o.kernel)),
    ("cuGraphGetNodes", &[1, 400], |d, o| d.cuGraphGetNodes(o.graph, null_mut(), &mut 0)),
    ("cuGraphDestroy", &[1, 400], |d, o| d.cuGraphDestroy(o.graph)),
    ("cuGraphInstantiate", &[1, 400], |d, o| d.cuGraphInstantiateWithFlags(&mut CUgraphExec(0), o.graph, 0)),
    ("cuGraphNodeGetType", &[1, 400], |d, o| d.cuGraphNodeGetType(o.node, &mut 0)),
    ("cuGraphLaunch", &[1, 400], |d, o| d.cuGraphLaunch(o.exec, CUstream::NULL)),
    ("cuGraphExecDestroy", &[1, 400], |d, o| d.cuGraphExecDestroy(o.exec)),
    ("cuMemPoolTrimTo", &[1, 400], |d, o| d.cuMemPoolTrimTo(o.pool, 0)),
    ("cuMemPoolDestroy", &[1, 400], |d, o| d.cuMemPoolDestroy(o.pool)),
    ("cuMemRelease", &[1, 400], |d, o| d.cuMemRelease(o.physical)),
];

pub(super) fn make(d: &Driver) -> Objects {
    let mut o = Objects {
        stream: d.stream(1),
        event: d.event(0),
        context: CUcontext::NULL,
        module: CUmodule::NULL,
        function: CUfunction::NULL,
        library: CUlibrary::NULL,
        kernel: CUkernel::NULL,
        graph: CUgraph::NULL,
        node: CUgraphNode::NULL,
        exec: CUgraphExec::NULL,
        pool: CUmemoryPool::NULL,
        physical: 0,
        memory: d.alloc(4096),
    };
    let code = image::CUBIN.as_ptr().cast();
    let location = CUmemLocation::device(0);
    must("cuCtxCreate", d.cuCtxCreate_v2(&mut o.context, 0, 0));
    must("cuCtxPopCurrent", d.cuCtxPopCurrent_v2(&mut CUcontext(0)));
    must("cuModuleLoadData", d.cuModuleLoadData(&mut o.module, code));
    must("cuModuleGetFunction", d.cuModuleGetFunction(&mut o.function, o.module, c"probe".as_ptr()));
    let library = d.cuLibraryLoadData(&mut o.library, code, null_mut(), null_mut(), 0, null_mut(), null_mut(), 0);
    must("cuLibraryLoadData", library);
    must("cuLibraryGetKernel", d.cuLibraryGetKernel(&mut o.kernel, o.library, c"probe".as_ptr()));
    must("cuGraphCreate", d.cuGraphCreate(&mut o.graph, 0));
    must("cuGraphAddEmptyNode", d.cuGraphAddEmptyNode(&mut o.node, o.graph, null_mut(), 0));
    must("cuGraphInstantiate", d.cuGraphInstantiateWithFlags(&mut o.exec, o.graph, 0));
    let pool = CUmemPoolProps {
        allocType: 1,
        handleTypes: 0,
        location,
        win32SecurityAttributes: null_mut(),
        maxSize: 0,
        usage: 0,
        reserved: [0; 54],
    };
    must("cuMemPoolCreate", d.cuMemPoolCreate(&mut o.pool, &pool));
    let physical = CUmemAllocationProp {
        kind: 1,
        requestedHandleTypes: 0,
        location,
        win32HandleMetaData: null_mut(),
        compressionType: 0,
        gpuDirectRDMACapable: 0,
        usage: 0,
        reserved: [0; 4],
    };
    must("cuMemCreate", d.cuMemCreate(&mut o.physical, 2 << 20, &physical, 0));
    o
}

pub(super) fn destroy(d: &Driver, o: &Objects) {
    must("cuGraphExecDestroy", d.cuGraphExecDestroy(o.exec));
    must("cuGraphDestroy", d.cuGraphDestroy(o.graph));
    must("cuLibraryUnload", d.cuLibraryUnload(o.library));
    must("cuModuleUnload", d.cuModuleUnload(o.module));
    must("cuCtxDestroy", d.cuCtxDestroy_v2(o.context));
    must("cuMemPoolDestroy", d.cuMemPoolDestroy(o.pool));
    must("cuMemRelease", d.cuMemRelease(o.physical));
    must("cuStreamDestroy", d.cuStreamDestroy_v2(o.stream));
    must("cuEventDestroy", d.cuEventDestroy_v2(o.event));
    must("cuMemFree", d.cuMemFree_v2(o.memory));
}

/// Objects that are gone, at once and after others took their places.
pub fn stale(d: &Driver, t: &mut Check) {
    let primary = d.start();
    let (gone, memory) = (make(d), d.alloc(4096));
    destroy(d, &gone);
    for again in [false, true] {
        for (name, codes, call) in STALE {
            println!("ok calling {name} on an object that is gone");
            // the object is the only bad argument
            let bad = Objects { memory, ..gone };
            t.one_of(format_args!("{name} of what is gone, others made since: {again}"), call(d, &bad), codes);
        }
        t.same("the current context", d.current(), primary);
        if !again {
            // handles are not the old ones in new hands
            let new = make(d);
            t.that("no handle is given twice in a row", new.stream != gone.stream && new.event != gone.event);
        }
    }
    objects_of_a_context(d, t, primary);
}

/// Streams, events and modules go with their context.
fn objects_of_a_context(d: &Driver, t: &mut Check, primary: CUcontext) {
    let mut context = CUcontext::NULL;
    must("cuCtxCreate", d.cuCtxCreate_v2(&mut context, 0, 0));
    let (stream, event, mut module) = (d.stream(1), d.event(0), CUmodule::NULL);
    must("cuModuleLoadData", d.cuModuleLoadData(&mut module, image::CUBIN.as_ptr().cast()));
    must("cuCtxDestroy", d.cuCtxDestroy_v2(context));
    must("cuCtxSetCurrent", d.cuCtxSetCurrent(primary));
    let gone = &[1, 201, 400, 709];
    t.one_of("stream of a destroyed context", d.cuStreamQuery(stream), gone);
    t.one_of("event of a destroyed context", d.cuEventQuery(event), gone);
    let mut function = CUfunction::NULL;
    let found = d.cuModuleGetFunction(&mut function, module, c"probe".as_ptr());
    t.one_of("module of a destroyed context", found, gone);
}

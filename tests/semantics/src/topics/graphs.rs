//! Graphs of copies and memsets: replayed, changed, built by hand.
use super::Note;
use crate::check::Check;
use crate::driver::{must, Driver};
use crate::image;
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::Mutex;
use zerogpu_abi::*;

const SIZE: usize = 4096;
// cuda.h's CUgraphNodeType.
const KERNEL: u32 = 0;
const MEMCPY: u32 = 1;
const MEMSET: u32 = 2;
const HOST: u32 = 3;
const EMPTY: u32 = 5;

fn captured(d: &Driver, stream: CUstream, work: impl FnOnce()) -> CUgraph {
    let mut graph = CUgraph::NULL;
    must("cuStreamBeginCapture", d.cuStreamBeginCapture_v2(stream, 0));
    work();
    must("cuStreamEndCapture", d.cuStreamEndCapture(stream, &mut graph));
    graph
}

fn instantiate(d: &Driver, graph: CUgraph) -> CUgraphExec {
    let mut exec = CUgraphExec::NULL;
    must("cuGraphInstantiateWithFlags", d.cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    exec
}

fn launch(d: &Driver, exec: CUgraphExec, stream: CUstream) {
    must("cuGraphLaunch", d.cuGraphLaunch(exec, stream));
    d.wait(stream);
}

fn nodes(d: &Driver, graph: CUgraph) -> Vec<CUgraphNode> {
    let mut count = 0;
    must("cuGraphGetNodes", d.cuGraphGetNodes(graph, null_mut(), &mut count));
    let mut nodes = vec![CUgraphNode::NULL; count];
    must("cuGraphGetNodes", d.cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count));
    nodes
}

fn kind(d: &Driver, node: CUgraphNode) -> u32 {
    let mut kind = 99;
    must("cuGraphNodeGetType", d.cuGraphNodeGetType(node, &mut kind));
    kind
}

fn kinds(d: &Driver, graph: CUgraph) -> Vec<u32> {
    let mut kinds: Vec<u32> = nodes(d, graph).into_iter().map(|node| kind(d, node)).collect();
    kinds.sort_unstable();
    kinds
}

unsafe extern "C" fn push(data: *mut c_void) {
    // SAFETY: `data` is a Note that the test leaked.
    let note = unsafe { &*data.cast::<Note>() };
    note.list.lock().expect("not poisoned").push(note.number);
}

/// A captured graph of copies, memsets and a host function, replayed.
pub fn replay(d: &'static Driver, t: &mut Check) {
    d.start();
    let stream = d.stream(1);
    let mut pinned = null_mut();
    must("cuMemHostAlloc", d.cuMemHostAlloc(&mut pinned, 2 * SIZE, 0));
    // SAFETY: the driver gave these bytes; they are looked at only while no graph runs.
    let host = unsafe { std::slice::from_raw_parts_mut(pinned.cast::<u8>(), 2 * SIZE) };
    let (p, q) = (d.alloc(SIZE), d.alloc(SIZE));
    let list: &'static Mutex<Vec<u32>> = Box::leak(Box::default());
    let note: &'static Note = Box::leak(Box::new(Note { list, number: 1 }));
    let graph = captured(d, stream, || {
        must("in", d.cuMemcpyHtoDAsync_v2(p, pinned, SIZE, stream));
        must("memset", d.cuMemsetD32Async(p + 64, 0x0102_0304, 16, stream));
        must("across", d.cuMemcpyDtoDAsync_v2(q, p, SIZE, stream));
        must("host", d.cuLaunchHostFunc(stream, Some(push), std::ptr::from_ref(note) as *mut c_void));
        must("out", d.cuMemcpyDtoHAsync_v2(pinned.wrapping_byte_add(SIZE), q, SIZE, stream));
    });
    t.same("its nodes", kinds(d, graph), vec![MEMCPY, MEMCPY, MEMCPY, MEMSET, HOST]);
    let exec = instantiate(d, graph);
    t.code("cuGraphUpload", d.cuGraphUpload(exec, stream), 0);
    t.code("the graph may go", d.cuGraphDestroy(graph), 0);
    for round in 1..=5u8 {
        // the bytes of the time of the launch
        host[..SIZE].fill(round);
        host[SIZE..].fill(0);
        launch(d, exec, stream);
        let mut want = vec![round; SIZE];
        want[64..128].copy_from_slice(&0x0102_0304u32.to_le_bytes().repeat(16));
        t.that(format_args!("bytes of launch {round}"), host[SIZE..] == want);
    }
    t.same("host functions run at each launch", list.lock().expect("not poisoned").len(), 5);
    for _ in 0..10 {
        must("cuGraphLaunch", d.cuGraphLaunch(exec, stream));
    }
    d.wait(stream);
    t.same("ten launches in a row", list.lock().expect("not poisoned").len(), 15);
    let (other, event) = (d.stream(1), d.event(0));
    must("cuEventRecord", d.cuEventRecord(event, stream));
    must("cuStreamWaitEvent", d.cuStreamWaitEvent(other, event, 0));
    t.code("a launch in another stream", d.cuGraphLaunch(exec, other), 0);
    d.wait(other);
    t.code("cuGraphExecDestroy", d.cuGraphExecDestroy(exec), 0);
    must("cuMemFreeHost", d.cuMemFreeHost(pinned));
    instantiations(d, t, stream, p);
}

/// Each way to instantiate.
fn instantiations(d: &Driver, t: &mut Check, stream: CUstream, p: CUdeviceptr) {
    let graph = captured(d, stream, || must("memset", d.cuMemsetD8Async(p, 0x41, SIZE, stream)));
    let (mut v1, mut v2, mut with) = (CUgraphExec::NULL, CUgraphExec::NULL, CUgraphExec::NULL);
    let (mut error, mut log) = (CUgraphNode::NULL, [0; 64]);
    t.code("cuGraphInstantiate", d.cuGraphInstantiate(&mut v1, graph, &mut error, log.as_mut_ptr(), 64), 0);
    t.code("cuGraphInstantiate_v2", d.cuGraphInstantiate_v2(&mut v2, graph, null_mut(), null_mut(), 0), 0);
    let mut parameters = CUDA_GRAPH_INSTANTIATE_PARAMS {
        flags: 0,
        hUploadStream: CUstream::NULL,
        hErrNode_out: CUgraphNode(9),
        result_out: 9,
    };
    t.code("cuGraphInstantiateWithParams", d.cuGraphInstantiateWithParams(&mut with, graph, &mut parameters), 0);
    t.same("its result", parameters.result_out, 0);
    let mut flags = 9;
    t.code("cuGraphExecGetFlags", d.cuGraphExecGetFlags(with, &mut flags), 0);
    t.same("flags", flags, 0);
    for exec in [v1, v2, with] {
        must("cuMemsetD8", d.cuMemsetD8_v2(p, 0, SIZE));
        launch(d, exec, stream);
        t.that("each runs", d.read(p, SIZE) == [0x41; SIZE]);
        t.code("and is destroyed", d.cuGraphExecDestroy(exec), 0);
    }
    let empty = captured(d, stream, || ());
    let exec = instantiate(d, empty);
    launch(d, exec, stream);
    t.code("an empty graph runs", d.cuGraphExecDestroy(exec), 0);
    for graph in [graph, empty] {
        must("cuGraphDestroy", d.cuGraphDestroy(graph));
    }
}

fn memset_parameters(dst: CUdeviceptr, value: u32) -> CUDA_MEMSET_NODE_PARAMS {
    CUDA_MEMSET_NODE_PARAMS { dst, pitch: 0, value, elementSize: 1, width: SIZE, height: 1 }
}

/// A copy of `SIZE` bytes between two device addresses, as a node describes it.
fn copy_parameters(from: CUdeviceptr, to: CUdeviceptr) -> CUDA_MEMCPY3D {
    CUDA_MEMCPY3D {
        srcXInBytes: 0,
        srcY: 0,
        srcZ: 0,
        srcLOD: 0,
        srcMemoryType: 2,
        srcHost: null(),
        srcDevice: from,
        srcArray: CUarray::NULL,
        reserved0: null_mut(),
        srcPitch: SIZE,
        srcHeight: 1,
        dstXInBytes: 0,
        dstY: 0,
        dstZ: 0,
        dstLOD: 0,
        dstMemoryType: 2,
        dstHost: null_mut(),
        dstDevice: to,
        dstArray: CUarray::NULL,
        reserved1: null_mut(),
        dstPitch: SIZE,
        dstHeight: 1,
        WidthInBytes: SIZE,
        Height: 1,
        Depth: 1,
    }
}

/// A graph built node by node: order by edges, not by creation.
pub fn built(d: &Driver, t: &mut Check) {
    let context = d.start();
    let stream = d.stream(1);
    let (p, q) = (d.alloc(SIZE), d.alloc(SIZE));
    let mut graph = CUgraph::NULL;
    t.code("cuGraphCreate", d.cuGraphCreate(&mut graph, 0), 0);
    t.code("flags must be 0", d.cuGraphCreate(&mut CUgraph(0), 1), 1);
    let (mut copy, mut fill, mut start) = (CUgraphNode::NULL, CUgraphNode::NULL, CUgraphNode::NULL);
    let code = d.cuGraphAddMemcpyNode(&mut copy, graph, null(), 0, &copy_parameters(p, q), context);
    t.code("cuGraphAddMemcpyNode", code, 0);
    let code = d.cuGraphAddMemsetNode(&mut fill, graph, null(), 0, &memset_parameters(p, 0x21), context);
    t.code("cuGraphAddMemsetNode", code, 0);
    t.code("cuGraphAddEmptyNode", d.cuGraphAddEmptyNode(&mut start, graph, null(), 0), 0);
    t.same("its nodes", kinds(d, graph), vec![MEMCPY, MEMSET, EMPTY]);
    let (from, to) = ([start, fill], [fill, copy]);
    t.code("cuGraphAddDependencies", d.cuGraphAddDependencies(graph, from.as_ptr(), to.as_ptr(), 2), 0);
    let (mut count, mut roots) = (9, [CUgraphNode::NULL; 3]);
    t.code("cuGraphGetEdges", d.cuGraphGetEdges(graph, null_mut(), null_mut(), &mut count), 0);
    t.same("two edges", count, 2);
    count = 3;
    t.code("cuGraphGetRootNodes", d.cuGraphGetRootNodes(graph, roots.as_mut_ptr(), &mut count), 0);
    t.same("one root", (count, roots[0]), (1, start));
    let mut dependency = [CUgraphNode::NULL];
    count = 1;
    let code = d.cuGraphNodeGetDependencies(copy, dependency.as_mut_ptr(), &mut count);
    t.code("cuGraphNodeGetDependencies", code, 0);
    t.same("the memset comes before the copy", dependency, [fill]);
    count = 1;
    let code = d.cuGraphNodeGetDependentNodes(start, dependency.as_mut_ptr(), &mut count);
    t.code("cuGraphNodeGetDependentNodes", code, 0);
    t.same("the memset comes after the start", dependency, [fill]);

    let exec = instantiate(d, graph);
    launch(d, exec, stream);
    t.that("the memset ran before the copy", d.read(q, SIZE) == [0x21; SIZE]);
    updates(d, t, context, &Built { exec, graph, fill, copy, p, q, stream });
    cycle(d, t, graph, fill, copy);
    let mut clone = CUgraph::NULL;
    t.code("cuGraphClone", d.cuGraphClone(&mut clone, graph), 0);
    t.code("cuGraphDestroyNode", d.cuGraphDestroyNode(copy), 0);
    t.same("one less", kinds(d, graph), vec![MEMSET, EMPTY]);
    t.same("the clone keeps all", kinds(d, clone), vec![MEMCPY, MEMSET, EMPTY]);
    for graph in [graph, clone] {
        t.code("cuGraphDestroy", d.cuGraphDestroy(graph), 0);
    }
    must("cuGraphExecDestroy", d.cuGraphExecDestroy(exec));
}

struct Built {
    exec: CUgraphExec,
    graph: CUgraph,
    fill: CUgraphNode,
    copy: CUgraphNode,
    p: CUdeviceptr,
    q: CUdeviceptr,
    stream: CUstream,
}

/// Parameters of an instantiated graph, by node and by a whole new graph.
fn updates(d: &Driver, t: &mut Check, context: CUcontext, b: &Built) {
    let new = memset_parameters(b.p, 0x22);
    t.code("memset of the exec", d.cuGraphExecMemsetNodeSetParams(b.exec, b.fill, &new, context), 0);
    launch(d, b.exec, b.stream);
    t.that("the new value", d.read(b.q, SIZE) == [0x22; SIZE]);
    let mut own = memset_parameters(0, 0);
    t.code("cuGraphMemsetNodeGetParams", d.cuGraphMemsetNodeGetParams(b.fill, &mut own), 0);
    t.same("the graph's node keeps its own", (own.dst, own.value), (b.p, 0x21));
    let r = d.alloc(SIZE);
    let code = d.cuGraphExecMemcpyNodeSetParams(b.exec, b.copy, &copy_parameters(b.p, r), context);
    t.code("copy of the exec", code, 0);
    launch(d, b.exec, b.stream);
    t.that("the new target", d.read(r, SIZE) == [0x22; SIZE]);

    t.code("memset of the graph", d.cuGraphMemsetNodeSetParams(b.fill, &memset_parameters(b.p, 0x23)), 0);
    let mut info = CUgraphExecUpdateResultInfo { result: 9, errorNode: CUgraphNode(9), errorFromNode: CUgraphNode(9) };
    t.code("cuGraphExecUpdate", d.cuGraphExecUpdate_v2(b.exec, b.graph, &mut info), 0);
    t.same("its result", info.result, 0);
    launch(d, b.exec, b.stream);
    t.that("value and target of the graph", d.read(b.q, SIZE) == [0x23; SIZE]);

    let other = captured(d, b.stream, || must("memset", d.cuMemsetD8Async(b.p, 1, SIZE, b.stream)));
    t.code("update by another topology", d.cuGraphExecUpdate_v2(b.exec, other, &mut info), 910);
    t.that("its result says so", info.result != 0);
    launch(d, b.exec, b.stream);
    t.that("the exec stays as it was", d.read(b.q, SIZE) == [0x23; SIZE]);
    must("cuGraphDestroy", d.cuGraphDestroy(other));
    d.free(r);
}

fn cycle(d: &Driver, t: &mut Check, graph: CUgraph, fill: CUgraphNode, copy: CUgraphNode) {
    t.code("an edge twice", d.cuGraphAddDependencies(graph, &fill, &copy, 1), 1);
    let result = d.cuGraphAddDependencies(graph, &copy, &fill, 1);
    let mut exec = CUgraphExec::NULL;
    // cuda.h does not say which of the two calls finds a cycle
    t.that("a cycle is found", !result.ok() || !d.cuGraphInstantiateWithFlags(&mut exec, graph, 0).ok());
    if result.ok() {
        t.code("cuGraphRemoveDependencies", d.cuGraphRemoveDependencies(graph, &copy, &fill, 1), 0);
    }
}

/// A captured launch: a kernel node with the parameters of its time.
pub fn kernel_node(d: &Driver, t: &mut Check) {
    d.start();
    let (stream, p) = (d.stream(1), d.alloc(SIZE));
    let (mut module, mut function) = (CUmodule::NULL, CUfunction::NULL);
    must("cuModuleLoadData", d.cuModuleLoadData(&mut module, image::CUBIN.as_ptr().cast()));
    must("cuModuleGetFunction", d.cuModuleGetFunction(&mut function, module, c"probe".as_ptr()));
    let (mut pointer, mut number) = (p, 41i32);
    let mut values: [*mut c_void; 2] = [(&raw mut pointer).cast(), (&raw mut number).cast()];
    let graph = captured(d, stream, || {
        let code = d.cuLaunchKernel(function, 3, 2, 1, 32, 4, 1, 128, stream, values.as_mut_ptr(), null_mut());
        t.code("a captured launch", code, 0);
    });
    let all = nodes(d, graph);
    t.same("one node", all.len(), 1);
    let Some(node) = all.first() else { return };
    t.same("a kernel", kind(d, *node), KERNEL);
    // the launch took copies
    (pointer, number) = (0, 0);
    let mut got = CUDA_KERNEL_NODE_PARAMS {
        func: CUfunction::NULL,
        gridDimX: 0,
        gridDimY: 0,
        gridDimZ: 0,
        blockDimX: 0,
        blockDimY: 0,
        blockDimZ: 0,
        sharedMemBytes: 0,
        kernelParams: null_mut(),
        extra: null_mut(),
        kern: CUkernel::NULL,
        ctx: CUcontext::NULL,
    };
    t.code("cuGraphKernelNodeGetParams", d.cuGraphKernelNodeGetParams_v2(*node, &mut got), 0);
    t.same("grid", (got.gridDimX, got.gridDimY, got.gridDimZ), (3, 2, 1));
    t.same(
        "block and shared memory",
        (got.blockDimX, got.blockDimY, got.blockDimZ, got.sharedMemBytes),
        (32, 4, 1, 128),
    );
    if got.kernelParams.is_null() {
        t.that("parameters", false);
        return;
    }
    // SAFETY: the driver gives an array of pointers to the node's two parameters.
    let kept = unsafe { (**got.kernelParams.cast::<*const u64>(), **got.kernelParams.add(1).cast::<*const i32>()) };
    t.same("parameters of the time of the launch", kept, (p, 41));
    t.same("the program's own are not touched", (pointer, number), (0, 0));
    must("cuGraphDestroy", d.cuGraphDestroy(graph));
    must("cuModuleUnload", d.cuModuleUnload(module));
}

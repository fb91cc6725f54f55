//! Graphs made by hand: nodes, edges, parameters, clones, user objects.
use crate::*;

fn empty(g: CUgraph, deps: &[CUgraphNode]) -> CUgraphNode {
    made!(cuGraphAddEmptyNode(CUgraphNode::NULL, g, deps.as_ptr(), deps.len()))
}

fn kernel_params(t: &Session, params: &mut [*mut c_void; 2]) -> CUDA_KERNEL_NODE_PARAMS {
    CUDA_KERNEL_NODE_PARAMS {
        func: t.kernel,
        gridDimX: 2,
        gridDimY: 3,
        gridDimZ: 4,
        blockDimX: 32,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 128,
        kernelParams: params.as_mut_ptr(),
        extra: std::ptr::null_mut(),
        kern: CUkernel::NULL,
        ctx: CUcontext::NULL,
    }
}

#[test]
fn edges_are_added_and_removed_all_or_none() {
    let _t = session();
    let g = graph();
    let n: Vec<_> = (0..3).map(|_| empty(g, &[])).collect();
    let alien = empty(graph(), &[]);
    let add = |from: &[CUgraphNode], to: &[CUgraphNode]| unsafe {
        cuGraphAddDependencies(g, from.as_ptr(), to.as_ptr(), from.len())
    };
    assert_eq!(add(&[n[0], n[1]], &[n[1], n[2]]), CUresult::SUCCESS);
    assert_eq!(add(&[n[0], n[0]], &[n[2], n[1]]), CUresult::INVALID_VALUE, "the second exists");
    assert_eq!(add(&[n[0], n[0]], &[n[2], n[2]]), CUresult::INVALID_VALUE, "twice the same");
    assert_eq!(add(&[n[0]], &[n[0]]), CUresult::INVALID_VALUE);
    assert_eq!(add(&[alien], &[n[0]]), CUresult::INVALID_VALUE);
    assert_eq!(add(&[n[0]], &[alien]), CUresult::INVALID_VALUE);
    ok!(cuGraphAddDependencies(g, std::ptr::null(), std::ptr::null(), 0));
    assert_eq!(deps(n[2]), [n[1]], "nothing of the failed calls was done");
    let mut count = 0;
    ok!(cuGraphGetEdges(g, std::ptr::null_mut(), std::ptr::null_mut(), &mut count));
    assert_eq!(count, 2);
    let (mut from, mut to) = ([CUgraphNode(1); 3], [CUgraphNode(1); 3]);
    count = 3;
    ok!(cuGraphGetEdges(g, from.as_mut_ptr(), to.as_mut_ptr(), &mut count));
    assert_eq!((count, from, to), (2, [n[0], n[1], CUgraphNode::NULL], [n[1], n[2], CUgraphNode::NULL]));
    count = 1;
    ok!(cuGraphGetRootNodes(g, from.as_mut_ptr(), &mut count));
    assert_eq!((count, from[0]), (1, n[0]));
    ok!(cuGraphNodeGetDependentNodes(n[0], from.as_mut_ptr(), &mut count));
    assert_eq!((count, from[0]), (1, n[1]));
    fails!(INVALID_VALUE, cuGraphRemoveDependencies(g, [n[0], n[0]].as_ptr(), [n[1], n[2]].as_ptr(), 2));
    assert_eq!(deps(n[1]), [n[0]]);
    ok!(cuGraphRemoveDependencies(g, &n[0], &n[1], 1));
    assert_eq!(deps(n[1]), []);
    ok!(cuGraphDestroyNode(n[1]));
    assert_eq!((deps(n[2]), nodes(g)), (vec![], vec![n[0], n[2]]));
    fails!(INVALID_VALUE, cuGraphDestroyNode(n[1]));
}

#[test]
fn ports_belong_to_kernels() {
    let t = session();
    let g = graph();
    let (mut a, mut b) = (1u64, 2u32);
    let mut p = [(&raw mut a).cast(), (&raw mut b).cast()];
    let k = made!(cuGraphAddKernelNode_v2(CUgraphNode::NULL, g, std::ptr::null(), 0, &kernel_params(&t, &mut p)));
    let (e, f) = (empty(g, &[]), empty(g, &[]));
    let port = CUgraphEdgeData { from_port: 1, to_port: 0, kind: 1, reserved: [0; 5] };
    let plain = CUgraphEdgeData { from_port: 0, to_port: 0, kind: 0, reserved: [0; 5] };
    fails!(INVALID_VALUE, cuGraphAddDependencies_v2(g, &e, &f, &port, 1));
    ok!(cuGraphAddDependencies_v2(g, &k, &f, &port, 1));
    fails!(INVALID_VALUE, cuGraphRemoveDependencies_v2(g, &k, &f, &plain, 1));
    let (mut from, mut to, mut n) = ([CUgraphNode::NULL; 1], [CUgraphNode::NULL; 1], 1);
    fails!(LOSSY_QUERY, cuGraphGetEdges(g, from.as_mut_ptr(), to.as_mut_ptr(), &mut n));
    ok!(cuGraphRemoveDependencies_v2(g, &k, &f, &port, 1));
    ok!(cuGraphGetEdges(g, from.as_mut_ptr(), to.as_mut_ptr(), &mut n));
    assert_eq!(n, 0);
}

#[test]
fn kernel_parameters_are_owned_copies_that_can_be_read_back() {
    let t = session();
    let g = graph();
    let (mut a, mut b) = (0x1122334455667788u64, 0x99AABBCCu32);
    let mut p = [(&raw mut a).cast(), (&raw mut b).cast()];
    let given = kernel_params(&t, &mut p);
    let node = made!(cuGraphAddKernelNode_v2(CUgraphNode::NULL, g, std::ptr::null(), 0, &given));
    (a, b) = (0, 0);
    let mut got = given;
    ok!(cuGraphKernelNodeGetParams_v2(node, &mut got));
    let read = |p: *mut *mut c_void| unsafe { (*(*p).cast::<u64>(), *(*p.add(1)).cast::<u32>()) };
    assert_eq!(read(got.kernelParams), (0x1122334455667788, 0x99AABBCC));
    assert_eq!((got.func, got.gridDimZ, got.blockDimX, got.sharedMemBytes), (t.kernel, 4, 32, 128));
    // as apps do: read, change one thing, and set with the pointers just read
    got.gridDimX = 9;
    ok!(cuGraphKernelNodeSetParams_v2(node, &got));
    let mut old = CUDA_KERNEL_NODE_PARAMS_v1 {
        func: CUfunction::NULL,
        gridDimX: 0,
        gridDimY: 0,
        gridDimZ: 0,
        blockDimX: 0,
        blockDimY: 0,
        blockDimZ: 0,
        sharedMemBytes: 0,
        kernelParams: std::ptr::null_mut(),
        extra: std::ptr::null_mut(),
    };
    ok!(cuGraphKernelNodeGetParams(node, &mut old));
    assert_eq!((old.func, old.gridDimX, read(old.kernelParams)), (t.kernel, 9, (0x1122334455667788, 0x99AABBCC)));
    let mut again = old;
    ok!(cuGraphKernelNodeGetParams(node, &mut again));
    assert_eq!(again.kernelParams, old.kernelParams, "who has asked before has them still");
    // pointers stay good while other nodes come and go
    for _ in 0..100 {
        empty(g, &[node]);
    }
    assert_eq!(read(old.kernelParams), (0x1122334455667788, 0x99AABBCC));
    // the packed form
    let packed = [7u8; 12];
    let mut size = packed.len();
    let mut extra = [
        std::ptr::without_provenance_mut::<c_void>(1),
        packed.as_ptr() as *mut _,
        2 as *mut _,
        (&raw mut size).cast(),
        std::ptr::null_mut(),
    ];
    (old.kernelParams, old.extra) = (std::ptr::null_mut(), extra.as_mut_ptr());
    ok!(cuGraphKernelNodeSetParams(node, &old));
    ok!(cuGraphKernelNodeGetParams(node, &mut old));
    assert_eq!(read(old.kernelParams), (0x0707070707070707, 0x07070707));
    assert_eq!((a, b), (0, 0));
    // what a driver refuses
    fails!(INVALID_VALUE, cuGraphKernelNodeSetParams_v2(node, &CUDA_KERNEL_NODE_PARAMS { blockDimX: 2048, ..given }));
    fails!(
        INVALID_HANDLE,
        cuGraphKernelNodeSetParams_v2(node, &CUDA_KERNEL_NODE_PARAMS { func: CUfunction::NULL, ..given })
    );
    fails!(INVALID_VALUE, cuGraphKernelNodeGetParams(empty(g, &[]), &mut old));
    fails!(INVALID_VALUE, cuGraphHostNodeGetParams(node, std::ptr::null_mut()));
}

#[test]
fn copy_and_memset_nodes_keep_what_they_were_given() {
    let t = session();
    let g = graph();
    let d = memory(4096);
    let host = [5u8; 64];
    let mut c: CUDA_MEMCPY3D = unsafe { std::mem::zeroed() };
    (c.srcMemoryType, c.srcHost, c.srcPitch) = (1, host.as_ptr().cast(), 16);
    (c.dstMemoryType, c.dstDevice, c.dstPitch, c.dstXInBytes) = (2, d, 64, 4);
    (c.WidthInBytes, c.Height, c.Depth) = (8, 4, 1);
    let copy = made!(cuGraphAddMemcpyNode(CUgraphNode::NULL, g, std::ptr::null(), 0, &c, t.ctx));
    let mut got: CUDA_MEMCPY3D = unsafe { std::mem::zeroed() };
    ok!(cuGraphMemcpyNodeGetParams(copy, &mut got));
    assert_eq!((got.srcHost, got.dstXInBytes, got.dstPitch, got.Height), (c.srcHost, 4, 64, 4));
    let m = CUDA_MEMSET_NODE_PARAMS { dst: d, pitch: 0, value: 0x01020304, elementSize: 4, width: 64, height: 1 };
    let set = made!(cuGraphAddMemsetNode(CUgraphNode::NULL, g, std::ptr::null(), 0, &m, t.ctx));
    ok!(cuGraphAddDependencies(g, &set, &copy, 1));
    let e = instantiate(g);
    ok!(cuGraphLaunch(e, CUstream::NULL));
    let mut back = [0u8; 256];
    ok!(cuMemcpyDtoH_v2(back.as_mut_ptr().cast(), d, 256));
    assert_eq!(back[..16], [4, 3, 2, 1, 5, 5, 5, 5, 5, 5, 5, 5, 4, 3, 2, 1]);
    assert_eq!(back[64 + 4..64 + 12], [5; 8]);
    let mut mgot = m;
    ok!(cuGraphMemsetNodeGetParams(set, &mut mgot));
    assert_eq!((mgot.dst, mgot.value, mgot.elementSize, mgot.width, mgot.height), (d, 0x01020304, 4, 64, 1));
    let bad = CUDA_MEMSET_NODE_PARAMS { elementSize: 3, ..m };
    fails!(INVALID_VALUE, cuGraphMemsetNodeSetParams(set, &bad));
    let mut to = CUgraphNode(7);
    fails!(INVALID_VALUE, cuGraphAddMemsetNode(&mut to, g, std::ptr::null(), 0, &bad, t.ctx));
    fails!(INVALID_CONTEXT, cuGraphAddMemsetNode(&mut to, g, std::ptr::null(), 0, &m, CUcontext::NULL));
    fails!(INVALID_VALUE, cuGraphAddMemsetNode(&mut to, CUgraph(1), std::ptr::null(), 0, &m, t.ctx));
    assert_eq!((to, nodes(g).len()), (CUgraphNode(7), 2), "nothing is made, nothing written");
    fails!(INVALID_VALUE, cuGraphMemsetNodeSetParams(copy, &m));
    // a captured copy is described as it was called
    let s = stream(NON_BLOCKING);
    begin(s, GLOBAL);
    ok!(cuMemcpyHtoDAsync_v2(d, host.as_ptr().cast(), 64, s));
    let captured = nodes(end(s))[0];
    ok!(cuGraphMemcpyNodeGetParams(captured, &mut got));
    assert_eq!((got.srcMemoryType, got.srcHost, got.dstMemoryType, got.dstDevice), (1, c.srcHost, 2, d));
    assert_eq!((got.WidthInBytes, got.Height, got.Depth), (64, 1, 1));
    ok!(cuGraphMemcpyNodeSetParams(captured, &got));
}

#[test]
fn host_and_event_nodes_give_their_parameters_back_and_run() {
    let t = session();
    let g = graph();
    static CALLS: Mutex<Vec<usize>> = Mutex::new(Vec::new());
    unsafe extern "C" fn call(data: *mut c_void) {
        CALLS.lock().unwrap().push(data as usize);
    }
    let p = CUDA_HOST_NODE_PARAMS { func: Some(call), userData: 3 as *mut _ };
    let h = made!(cuGraphAddHostNode(CUgraphNode::NULL, g, std::ptr::null(), 0, &p));
    let none = CUDA_HOST_NODE_PARAMS { func: None, ..p };
    fails!(INVALID_VALUE, cuGraphHostNodeSetParams(h, &none));
    let mut got = none;
    ok!(cuGraphHostNodeGetParams(h, &mut got));
    assert!(got.func.is_some() && got.userData as usize == 3);
    let (e1, e2) = (event(), event());
    let r = made!(cuGraphAddEventRecordNode(CUgraphNode::NULL, g, &h, 1, e1));
    let w = made!(cuGraphAddEventWaitNode(CUgraphNode::NULL, g, &r, 1, e1));
    assert_eq!((kind(h), kind(r), kind(w)), (3, 7, 6));
    fails!(INVALID_HANDLE, cuGraphEventRecordNodeSetEvent(r, CUevent(1)));
    fails!(INVALID_VALUE, cuGraphEventRecordNodeSetEvent(w, e2));
    ok!(cuGraphEventRecordNodeSetEvent(r, e2));
    ok!(cuGraphEventWaitNodeSetEvent(w, e2));
    let mut got = CUevent::NULL;
    ok!(cuGraphEventRecordNodeGetEvent(r, &mut got));
    assert_eq!(got, e2);
    ok!(cuGraphEventWaitNodeGetEvent(w, &mut got));
    assert_eq!(got, e2);
    let s = stream(NON_BLOCKING);
    ok!(cuGraphLaunch(instantiate(g), s));
    ok!(cuStreamSynchronize(s));
    assert_eq!(*CALLS.lock().unwrap(), [3]);
    ok!(cuEventQuery(e2));
    t.launch(s, 1);
}

#[test]
fn any_node_can_be_described_by_the_general_struct() {
    let t = session();
    let g = graph();
    let d = memory(64);
    let mut p: CUgraphNodeParams = unsafe { std::mem::zeroed() };
    let add = |p: &mut CUgraphNodeParams| {
        let mut n = CUgraphNode::NULL;
        (unsafe { cuGraphAddNode(&mut n, g, std::ptr::null(), 0, p) }, n)
    };
    let (mut a, mut b) = (21u64, 2u32);
    let mut params = [(&raw mut a).cast(), (&raw mut b).cast()];
    unsafe { p.words.as_mut_ptr().cast::<CUDA_KERNEL_NODE_PARAMS>().write(kernel_params(&t, &mut params)) };
    let (r, k) = add(&mut p);
    assert_eq!((r, kind(k)), (CUresult::SUCCESS, 0));
    p.reserved2 = 1;
    assert_eq!(add(&mut p).0, CUresult::INVALID_VALUE);
    p = unsafe { std::mem::zeroed() };
    p.kind = 2;
    let m = CUDA_MEMSET_NODE_PARAMS { dst: d, pitch: 0, value: 1, elementSize: 1, width: 64, height: 1 };
    unsafe { p.words.as_mut_ptr().cast::<CUDA_MEMSET_NODE_PARAMS>().write(m) };
    assert_eq!(add(&mut p).0, CUresult::INVALID_CONTEXT, "it names its context");
    p.words[5] = t.ctx.0 as u64;
    let (r, set) = add(&mut p);
    assert_eq!((r, kind(set)), (CUresult::SUCCESS, 2));
    let e = instantiate(g);
    p.words[2] = 9 | 1 << 32;
    ok!(cuGraphNodeSetParams(set, &mut p));
    let mut got = m;
    ok!(cuGraphMemsetNodeGetParams(set, &mut got));
    assert_eq!(got.value, 9);
    fails!(INVALID_VALUE, cuGraphNodeSetParams(k, &mut p));
    p.words[2] = 8 | 1 << 32;
    ok!(cuGraphExecNodeSetParams(e, set, &mut p));
    ok!(cuGraphLaunch(e, CUstream::NULL));
    let mut byte = 0u8;
    ok!(cuMemcpyDtoH_v2((&raw mut byte).cast(), d, 1));
    assert_eq!(byte, 8);
    p.kind = 10;
    assert_eq!(add(&mut p).0, CUresult::NOT_SUPPORTED);
    p.kind = 99;
    assert_eq!(add(&mut p).0, CUresult::INVALID_VALUE);
}

#[test]
fn clones_are_independent_and_know_their_origin() {
    let t = session();
    let g = graph();
    let s = stream(NON_BLOCKING);
    begin(s, GLOBAL);
    t.launch(s, 1);
    let inner = end(s);
    let a = empty(g, &[]);
    let child = made!(cuGraphAddChildGraphNode(CUgraphNode::NULL, g, &a, 1, inner));
    let own = made_graph(child);
    assert_ne!(own, inner, "the node has a copy");
    ok!(cuGraphDestroy(inner));
    fails!(INVALID_VALUE, cuGraphDestroy(own));
    fails!(INVALID_VALUE, cuGraphAddChildGraphNode(&mut CUgraphNode(0), g, std::ptr::null(), 0, g));
    let c = made!(cuGraphClone(CUgraph::NULL, g));
    let (a2, child2) = (
        made!(cuGraphNodeFindInClone(CUgraphNode::NULL, a, c)),
        made!(cuGraphNodeFindInClone(CUgraphNode::NULL, child, c)),
    );
    assert_eq!((nodes(c), deps(child2)), (vec![a2, child2], vec![a2]));
    assert_ne!(made_graph(child2), own);
    let later = empty(g, &[]);
    fails!(INVALID_VALUE, cuGraphNodeFindInClone(&mut CUgraphNode(0), later, c));
    ok!(cuGraphDestroy(g));
    fails!(INVALID_VALUE, cuGraphGetNodes(own, std::ptr::null_mut(), &mut 0));
    ok!(cuGraphLaunch(instantiate(c), s));
    assert_eq!(t.launches(), [1]);
    fails!(INVALID_VALUE, cuGraphDestroy(CUgraph::NULL));
    fails!(INVALID_VALUE, cuGraphCreate(&mut CUgraph(0), 1));
}

fn made_graph(child: CUgraphNode) -> CUgraph {
    let mut g = CUgraph::NULL;
    ok!(cuGraphChildGraphNodeGetGraph(child, &mut g));
    g
}

#[test]
fn user_objects_live_as_long_as_anybody_holds_them() {
    let _t = session();
    static GONE: Mutex<Vec<usize>> = Mutex::new(Vec::new());
    unsafe extern "C" fn destroy(data: *mut c_void) {
        // the driver may be called from here: no lock is held
        ok!(cuGraphDestroy(graph()));
        GONE.lock().unwrap().push(data as usize);
    }
    let gone = || std::mem::take(&mut *GONE.lock().unwrap());
    let object = |n, count| made!(cuUserObjectCreate(CUuserObject::NULL, n as *mut c_void, Some(destroy), count, 1));
    let mut to = CUuserObject(5);
    fails!(INVALID_VALUE, cuUserObjectCreate(&mut to, std::ptr::null_mut(), None, 1, 1));
    fails!(INVALID_VALUE, cuUserObjectCreate(&mut to, std::ptr::null_mut(), Some(destroy), 0, 1));
    fails!(INVALID_VALUE, cuUserObjectCreate(&mut to, std::ptr::null_mut(), Some(destroy), 1, 0));
    let a = object(1, 2);
    ok!(cuUserObjectRetain(a, 1));
    ok!(cuUserObjectRelease(a, 2));
    fails!(INVALID_VALUE, cuUserObjectRelease(a, 2));
    assert_eq!(gone(), []);
    ok!(cuUserObjectRelease(a, 1));
    assert_eq!(gone(), [1]);
    fails!(INVALID_VALUE, cuUserObjectRetain(a, 1));

    let (g, b) = (graph(), object(2, 1));
    ok!(cuGraphRetainUserObject(g, b, 1, 1));
    fails!(INVALID_VALUE, cuUserObjectRelease(b, 1));
    let clone = made!(cuGraphClone(CUgraph::NULL, g));
    let e = instantiate(clone);
    let outer = graph();
    ok!(cuGraphAddChildGraphNode(&mut CUgraphNode(0), outer, std::ptr::null(), 0, g));
    let of_outer = instantiate(outer);
    ok!(cuGraphReleaseUserObject(g, b, 1));
    fails!(INVALID_VALUE, cuGraphReleaseUserObject(g, b, 1));
    ok!(cuGraphDestroy(g));
    ok!(cuGraphDestroy(clone));
    ok!(cuGraphDestroy(outer));
    ok!(cuGraphExecDestroy(e));
    assert_eq!(gone(), [], "the outer executable graph needs it");
    ok!(cuGraphExecDestroy(of_outer));
    assert_eq!(gone(), [2]);

    // a capture that fails gives back what its graph held
    let (s, c) = (stream(NON_BLOCKING), object(3, 1));
    begin(s, GLOBAL);
    let (mut v, mut id, mut into, mut at, mut n) = (0, 0, CUgraph::NULL, std::ptr::null(), 0);
    ok!(cuStreamGetCaptureInfo_v2(s, &mut v, &mut id, &mut into, &mut at, &mut n));
    ok!(cuGraphRetainUserObject(into, c, 1, 1));
    fails!(STREAM_CAPTURE_UNSUPPORTED, cuStreamQuery(s));
    end_fails(s, CUresult::STREAM_CAPTURE_INVALIDATED);
    assert_eq!(gone(), [3]);
}

#[test]
fn a_graph_can_be_written_as_dot() {
    let t = session();
    let s = stream(NON_BLOCKING);
    begin(s, GLOBAL);
    t.launch(s, 1);
    t.launch(s, 2);
    let inner = end(s);
    let g = graph();
    let first = empty(g, &[]);
    made!(cuGraphAddChildGraphNode(CUgraphNode::NULL, g, &first, 1, inner));
    let path = std::env::temp_dir().join(format!("graph-{}.dot", std::process::id()));
    let c = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    ok!(cuGraphDebugDotPrint(g, c.as_ptr(), 1));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    for part in [
        "digraph",
        "EMPTY",
        "CHILD_GRAPH",
        "KERNEL\\nprobe",
        "\"graph_0_node_0\" -> \"graph_0_node_1\"",
        "\"graph_1_node_0\" -> \"graph_1_node_1\"",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    fails!(OPERATING_SYSTEM, cuGraphDebugDotPrint(g, c"/nowhere/at/all.dot".as_ptr(), 0));
    fails!(INVALID_VALUE, cuGraphDebugDotPrint(g, std::ptr::null(), 0));
}

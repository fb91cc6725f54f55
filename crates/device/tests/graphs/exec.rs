//! Executable graphs: order, changes of parameters, updates.
use crate::*;
use std::sync::Arc;
use zerogpu_device::op::Owned;
use zerogpu_device::runtime::lock;

fn memset(g: CUgraph, deps: &[CUgraphNode], ctx: CUcontext, dst: u64, value: u32) -> CUgraphNode {
    let p = CUDA_MEMSET_NODE_PARAMS { dst, pitch: 0, value, elementSize: 1, width: 4, height: 1 };
    made!(cuGraphAddMemsetNode(CUgraphNode::NULL, g, deps.as_ptr(), deps.len(), &p, ctx))
}

fn empty(g: CUgraph, deps: &[CUgraphNode]) -> CUgraphNode {
    made!(cuGraphAddEmptyNode(CUgraphNode::NULL, g, deps.as_ptr(), deps.len()))
}

/// Value and dependencies of each command; all are memsets.
fn shape(e: CUgraphExec) -> Vec<(u32, Vec<usize>)> {
    let list = lock().unwrap().exec_nodes(e).unwrap();
    let value = |o: &Owned| match o.as_op() {
        Op::Fill(f) => f.value,
        _ => panic!("not a memset"),
    };
    list.iter().map(|n| (value(&n.op), n.deps.clone())).collect()
}

#[test]
fn order_respects_dependencies_whatever_the_order_of_adding() {
    let t = session();
    let (g, d) = (graph(), memory(64));
    let last = memset(g, &[], t.ctx, d, 3);
    let middle = memset(g, &[], t.ctx, d, 2);
    let first = memset(g, &[], t.ctx, d, 1);
    ok!(cuGraphAddDependencies(g, [first, middle].as_ptr(), [middle, last].as_ptr(), 2));
    let e = instantiate(g);
    assert_eq!(shape(e), [(1, vec![]), (2, vec![0]), (3, vec![1])]);
    ok!(cuGraphLaunch(e, CUstream::NULL));
    let mut byte = 0u8;
    ok!(cuMemcpyDtoH_v2((&raw mut byte).cast(), d, 1));
    assert_eq!(byte, 3);
}

#[test]
fn empty_nodes_and_child_graphs_dissolve_into_dependencies() {
    let t = session();
    let d = memory(64);
    let inner = graph();
    let (i1, i2) = (memset(inner, &[], t.ctx, d, 10), memset(inner, &[], t.ctx, d, 11));
    memset(inner, &[i1], t.ctx, d, 12);
    assert_ne!(i1, i2);
    let g = graph();
    let (a, b) = (memset(g, &[], t.ctx, d, 1), memset(g, &[], t.ctx, d, 2));
    let barrier = empty(g, &[a, b]);
    let child = made!(cuGraphAddChildGraphNode(CUgraphNode::NULL, g, &barrier, 1, inner));
    let nothing = made!(cuGraphAddChildGraphNode(CUgraphNode::NULL, g, &child, 1, graph()));
    memset(g, &[nothing], t.ctx, d, 3);
    let e = instantiate(g);
    let want = [(1, vec![]), (2, vec![]), (10, vec![0, 1]), (11, vec![0, 1]), (12, vec![2]), (3, vec![3, 4])];
    assert_eq!(shape(e), want);
    // a disabled node passes its dependencies on
    let mut own = CUgraph::NULL;
    ok!(cuGraphChildGraphNodeGetGraph(child, &mut own));
    ok!(cuGraphNodeSetEnabled(e, nodes(own)[0], 0));
    assert_eq!(shape(e)[2..], [(11, vec![0, 1]), (12, vec![0, 1]), (3, vec![2, 3])]);
    let mut enabled = 9;
    ok!(cuGraphNodeGetEnabled(e, nodes(own)[0], &mut enabled));
    assert_eq!(enabled, 0);
    ok!(cuGraphNodeSetEnabled(e, nodes(own)[0], 1));
    assert_eq!(shape(e), want);
    fails!(INVALID_VALUE, cuGraphNodeSetEnabled(e, barrier, 0));
    fails!(INVALID_VALUE, cuGraphNodeGetEnabled(e, i1, &mut enabled));
}

#[test]
fn a_cycle_is_found_at_instantiation_and_named() {
    let _t = session();
    let g = graph();
    let (a, b, c) = (empty(g, &[]), empty(g, &[]), empty(g, &[]));
    ok!(cuGraphAddDependencies(g, [a, b, c].as_ptr(), [b, c, b].as_ptr(), 3));
    let (mut e, mut node, mut log) = (CUgraphExec(7), CUgraphNode::NULL, [b'?' as std::ffi::c_char; 8]);
    fails!(INVALID_VALUE, cuGraphInstantiate_v2(&mut e, g, &mut node, log.as_mut_ptr(), 8));
    assert!(e == CUgraphExec(7) && (node == b || node == c) && log[0] != b'?' as _ && log[7] == 0);
    let mut p =
        CUDA_GRAPH_INSTANTIATE_PARAMS { flags: 0, hUploadStream: CUstream::NULL, hErrNode_out: a, result_out: 9 };
    fails!(INVALID_VALUE, cuGraphInstantiateWithParams(&mut e, g, &mut p));
    assert!(p.result_out == 2 && (p.hErrNode_out == b || p.hErrNode_out == c));
    ok!(cuGraphRemoveDependencies(g, &c, &b, 1));
    p.flags = 1 | 2 | 8;
    ok!(cuGraphInstantiateWithParams(&mut e, g, &mut p));
    assert_eq!((p.result_out, p.hErrNode_out), (0, CUgraphNode::NULL));
    let mut flags = 0;
    ok!(cuGraphExecGetFlags(e, &mut flags));
    assert_eq!(flags, 1 | 8, "cuda.h: the upload flag is not told");
    fails!(INVALID_VALUE, cuGraphInstantiateWithFlags(&mut e, g, 16));
    fails!(INVALID_VALUE, cuGraphInstantiateWithFlags(&mut e, g, 2));
    fails!(NOT_SUPPORTED, cuGraphInstantiateWithFlags(&mut e, g, 4));
    ok!(cuGraphInstantiate(&mut e, g, &mut node, log.as_mut_ptr(), 8));
    assert!(node == CUgraphNode::NULL && log[0] == 0);
    ok!(cuGraphUpload(e, CUstream::NULL));
    fails!(INVALID_VALUE, cuGraphUpload(CUgraphExec::NULL, CUstream::NULL));
}

#[test]
fn changed_parameters_give_a_new_list_and_touch_nothing_else() {
    let t = session();
    let (g, d) = (graph(), memory(64));
    let a = memset(g, &[], t.ctx, d, 1);
    let e = instantiate(g);
    let before = lock().unwrap().exec_nodes(e).unwrap();
    assert!(Arc::ptr_eq(&before, &lock().unwrap().exec_nodes(e).unwrap()));
    let ops = lock().unwrap().exec_ops(e).unwrap();
    assert!(ops.len() == 1 && Arc::ptr_eq(&ops, &lock().unwrap().exec_ops(e).unwrap()));
    let p = CUDA_MEMSET_NODE_PARAMS { dst: d, pitch: 0, value: 5, elementSize: 1, width: 4, height: 1 };
    ok!(cuGraphExecMemsetNodeSetParams(e, a, &p, t.ctx));
    assert_eq!(shape(e), [(5, vec![])]);
    assert!(
        !Arc::ptr_eq(&before, &lock().unwrap().exec_nodes(e).unwrap()),
        "a twin made of the old list is told apart"
    );
    let mut got = p;
    ok!(cuGraphMemsetNodeGetParams(a, &mut got));
    assert_eq!(got.value, 1, "the graph's own node is as it was");
    ok!(cuGraphMemsetNodeSetParams(a, &CUDA_MEMSET_NODE_PARAMS { value: 6, ..p }));
    assert_eq!(shape(e), [(5, vec![])], "and the executable graph does not follow it");
    let alien = memset(graph(), &[], t.ctx, d, 1);
    fails!(INVALID_VALUE, cuGraphExecMemsetNodeSetParams(e, alien, &p, t.ctx));
    let host = CUDA_HOST_NODE_PARAMS { func: Some(noop), userData: std::ptr::null_mut() };
    fails!(INVALID_VALUE, cuGraphExecHostNodeSetParams(e, a, &host));
    ok!(cuGraphDestroyNode(a));
    fails!(INVALID_VALUE, cuGraphExecMemsetNodeSetParams(e, a, &p, t.ctx));
    assert_eq!(shape(e).len(), 1, "it runs on without its graph");
}

unsafe extern "C" fn noop(_: *mut c_void) {}

#[test]
fn an_update_takes_all_parameters_or_says_what_differs() {
    let t = session();
    let d = memory(64);
    let build = |values: [u32; 2], chained: bool| {
        let g = graph();
        let a = memset(g, &[], t.ctx, d, values[0]);
        memset(g, &[a][..chained as usize], t.ctx, d, values[1]);
        g
    };
    let g = build([1, 2], true);
    let e = instantiate(g);
    ok!(cuGraphNodeSetEnabled(e, nodes(g)[0], 0));
    let info = || CUgraphExecUpdateResultInfo { result: 99, errorNode: CUgraphNode(9), errorFromNode: CUgraphNode(9) };
    let update = |other: CUgraph| {
        let mut i = info();
        let r = unsafe { cuGraphExecUpdate_v2(e, other, &mut i) };
        (r.0, i.result, i.errorNode, i.errorFromNode)
    };
    let none = CUgraphNode::NULL;
    assert_eq!(update(build([3, 4], true)), (0, 0, none, none));
    assert_eq!(shape(e), [(4, vec![])], "the first is still disabled");
    ok!(cuGraphNodeSetEnabled(e, nodes(g)[0], 1));
    assert_eq!(shape(e), [(3, vec![]), (4, vec![0])], "nodes are still named by the first graph");
    let loose = build([5, 6], false);
    assert_eq!(update(loose), (910, 2, nodes(loose)[1], none));
    let larger = build([5, 6], true);
    memset(larger, &[], t.ctx, d, 7);
    assert_eq!(update(larger), (910, 2, none, none));
    let other_kind = graph();
    let a = memset(other_kind, &[], t.ctx, d, 8);
    let b = empty(other_kind, &[a]);
    assert_eq!(update(other_kind), (910, 3, b, none));
    assert_eq!(update(CUgraph::NULL), (1, 1, none, none));
    assert_eq!(shape(e), [(3, vec![]), (4, vec![0])], "a failed update changes nothing");
    let (mut node, mut result) = (CUgraphNode(9), 99);
    fails!(GRAPH_EXEC_UPDATE_FAILURE, cuGraphExecUpdate(e, loose, &mut node, &mut result));
    assert_eq!((node, result), (nodes(loose)[1], 2));
    fails!(INVALID_VALUE, cuGraphExecUpdate(e, loose, std::ptr::null_mut(), &mut result));
}

#[test]
fn an_update_keeps_a_copy_s_direction_and_a_kernel_s_cooperation() {
    let t = session();
    let (d, mut host) = (memory(64), [0u8; 64]);
    let h = host.as_mut_ptr();
    let s = stream(NON_BLOCKING);
    let captured = |work: &dyn Fn()| {
        begin(s, GLOBAL);
        work();
        end(s)
    };
    let up = captured(&|| ok!(cuMemcpyHtoDAsync_v2(d, h.cast(), 64, s)));
    let down = captured(&|| ok!(cuMemcpyDtoHAsync_v2(h.cast(), d, 64, s)));
    let mut info = CUgraphExecUpdateResultInfo { result: 99, errorNode: CUgraphNode(9), errorFromNode: CUgraphNode(9) };
    fails!(GRAPH_EXEC_UPDATE_FAILURE, cuGraphExecUpdate_v2(instantiate(up), down, &mut info));
    assert_eq!((info.result, info.errorNode), (5, nodes(down)[0]));
    let (one, two) = (captured(&|| t.launch(s, 1)), captured(&|| t.launch(s, 2)));
    let e = instantiate(one);
    ok!(cuGraphExecUpdate_v2(e, two, &mut info));
    ok!(cuGraphLaunch(e, s));
    assert_eq!(t.launches(), [2]);
    let yes = CUlaunchAttributeValue { words: [1, 0, 0, 0, 0, 0, 0, 0] };
    ok!(cuGraphKernelNodeSetAttribute(nodes(two)[0], 2, &yes));
    fails!(GRAPH_EXEC_UPDATE_FAILURE, cuGraphExecUpdate_v2(e, two, &mut info));
    assert_eq!(info.result, 8);
    let mut got = CUlaunchAttributeValue { words: [9; 8] };
    ok!(cuGraphKernelNodeCopyAttributes(nodes(one)[0], nodes(two)[0]));
    ok!(cuGraphKernelNodeGetAttribute(nodes(one)[0], 2, &mut got));
    assert_eq!(got.words[0], 1);
    fails!(NOT_SUPPORTED, cuGraphKernelNodeSetAttribute(nodes(two)[0], 13, &yes));
    fails!(INVALID_VALUE, cuGraphKernelNodeSetAttribute(nodes(two)[0], 3, &yes));
    fails!(INVALID_VALUE, cuGraphKernelNodeGetAttribute(nodes(up)[0], 2, &mut got));
}

#[test]
fn a_child_graph_s_parameters_change_as_a_whole_or_by_its_nodes() {
    let t = session();
    let d = memory(64);
    let inner = |value| {
        let g = graph();
        memset(g, &[], t.ctx, d, value);
        g
    };
    let g = graph();
    let child = made!(cuGraphAddChildGraphNode(CUgraphNode::NULL, g, std::ptr::null(), 0, inner(1)));
    let e = instantiate(g);
    ok!(cuGraphExecChildGraphNodeSetParams(e, child, inner(2)));
    assert_eq!(shape(e), [(2, vec![])]);
    let mut own = CUgraph::NULL;
    ok!(cuGraphChildGraphNodeGetGraph(child, &mut own));
    let p = CUDA_MEMSET_NODE_PARAMS { dst: d, pitch: 0, value: 3, elementSize: 1, width: 4, height: 1 };
    ok!(cuGraphExecMemsetNodeSetParams(e, nodes(own)[0], &p, t.ctx));
    assert_eq!(shape(e), [(3, vec![])]);
    let other = inner(4);
    memset(other, &[], t.ctx, d, 5);
    fails!(INVALID_VALUE, cuGraphExecChildGraphNodeSetParams(e, child, other));
    fails!(INVALID_VALUE, cuGraphExecChildGraphNodeSetParams(e, nodes(own)[0], other));
    assert_eq!(shape(e), [(3, vec![])]);
}

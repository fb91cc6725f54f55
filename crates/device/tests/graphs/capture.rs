//! What a capture makes of commands, and how it begins, joins, ends.
use crate::*;
use zerogpu_device::runtime::lock;

#[test]
fn commands_become_nodes_in_stream_order_and_run_at_each_launch() {
    let t = session();
    let s = stream(NON_BLOCKING);
    let (d, mut host) = (memory(16), [1u8; 16]);
    let mut back = [0u8; 16];
    begin(s, GLOBAL);
    assert_eq!(status(s), 1);
    ok!(cuMemcpyHtoDAsync_v2(d, host.as_ptr().cast(), 16, s));
    ok!(cuMemsetD8Async(d, 9, 4, s));
    t.launch(s, 0xABCD);
    ok!(cuMemcpyDtoHAsync_v2(back.as_mut_ptr().cast(), d, 16, s));
    assert!(t.launches().is_empty() && back == [0; 16], "nothing runs while it is captured");
    let g = end(s);
    assert_eq!(status(s), 0);
    let all = nodes(g);
    assert_eq!(all.iter().map(|&n| kind(n)).collect::<Vec<_>>(), [1, 2, 0, 1]);
    assert_eq!(deps(all[0]), []);
    for i in 1..4 {
        assert_eq!(deps(all[i]), [all[i - 1]]);
    }
    let e = instantiate(g);
    ok!(cuGraphDestroy(g));
    for value in [3u8, 5] {
        host = [value; 16];
        ok!(cuGraphLaunch(e, s));
        ok!(cuStreamSynchronize(s));
        assert_eq!((back[0], back[3], back[4], back[15]), (9, 9, value, value), "host memory is read at the launch");
    }
    assert_eq!(t.launches(), [0xABCD, 0xABCD], "parameters were taken at the capture");
    ok!(cuGraphExecDestroy(e));
    fails!(INVALID_VALUE, cuGraphLaunch(e, s));
    assert_eq!(host[0], 5);
}

#[test]
fn a_fork_joins_by_events_and_makes_a_diamond() {
    let t = session();
    let (a, b) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
    let (fork, join) = (event(), event());
    begin(a, GLOBAL);
    t.launch(a, 1);
    ok!(cuEventRecord(fork, a));
    ok!(cuStreamWaitEvent(b, fork, 0));
    assert_eq!(status(b), 1, "the waiting stream joins");
    t.launch(b, 2);
    t.launch(a, 3);
    ok!(cuEventRecord(join, b));
    ok!(cuStreamWaitEvent(a, join, 0));
    t.launch(a, 4);
    let g = end(a);
    assert_eq!((status(a), status(b)), (0, 0), "all streams leave with the origin");
    let n = nodes(g);
    assert_eq!((deps(n[1]), deps(n[2]), deps(n[3])), (vec![n[0]], vec![n[0]], vec![n[2], n[1]]));
    let e = instantiate(g);
    let list = lock().unwrap().exec_nodes(e).unwrap();
    assert_eq!(list.iter().map(|n| n.deps.clone()).collect::<Vec<_>>(), [vec![], vec![0], vec![0], vec![1, 2]]);
}

#[test]
fn a_fork_that_does_not_join_fails_and_frees_its_streams() {
    let t = session();
    let (a, b, e) = (stream(NON_BLOCKING), stream(NON_BLOCKING), event());
    begin(a, GLOBAL);
    ok!(cuEventRecord(e, a));
    ok!(cuStreamWaitEvent(b, e, 0));
    t.launch(b, 1);
    end_fails(a, CUresult::STREAM_CAPTURE_UNJOINED);
    assert_eq!(status(b), 0);
    // a stream that joined and did nothing has nothing to be joined
    begin(a, GLOBAL);
    ok!(cuEventRecord(e, a));
    ok!(cuStreamWaitEvent(b, e, 0));
    fails!(ILLEGAL_STATE, cuStreamBeginCapture_v2(b, GLOBAL));
    t.launch(a, 2);
    assert_eq!(nodes(end(a)).len(), 1);
}

#[test]
fn begin_and_end_check_their_stream() {
    let t = session();
    let s = stream(NON_BLOCKING);
    let mut g = CUgraph(1);
    fails!(STREAM_CAPTURE_UNSUPPORTED, cuStreamBeginCapture(CUstream::NULL));
    fails!(STREAM_CAPTURE_UNSUPPORTED, cuStreamBeginCapture_v2(CU_STREAM_LEGACY, GLOBAL));
    fails!(INVALID_VALUE, cuStreamBeginCapture_v2(s, 3));
    fails!(INVALID_HANDLE, cuStreamBeginCapture_v2(CUstream(12345), GLOBAL));
    fails!(ILLEGAL_STATE, cuStreamEndCapture(s, &mut g));
    fails!(ILLEGAL_STATE, cuStreamEndCapture(CUstream::NULL, &mut g));
    fails!(ILLEGAL_STATE, cuStreamEndCapture(s, std::ptr::null_mut()));
    assert_eq!(g, CUgraph(1), "outputs are left alone");
    begin(CU_STREAM_PER_THREAD, GLOBAL);
    end(CU_STREAM_PER_THREAD);
    begin(s, GLOBAL);
    fails!(ILLEGAL_STATE, cuStreamBeginCapture_v2(s, GLOBAL));
    fails!(INVALID_VALUE, cuStreamEndCapture(s, std::ptr::null_mut()));
    let wrong = elsewhere(t.ctx, move || unsafe { cuStreamEndCapture(s, &mut CUgraph(0)) });
    assert_eq!(wrong, CUresult::STREAM_CAPTURE_WRONG_THREAD);
    assert_eq!(nodes(end(s)), []);
    begin(s, RELAXED);
    let there = elsewhere(t.ctx, move || {
        let mut g = CUgraph::NULL;
        (unsafe { cuStreamEndCapture(s, &mut g) }, g)
    });
    assert!(there.0.ok() && there.1 != CUgraph::NULL, "a relaxed capture ends on any thread");
}

#[test]
fn only_the_origin_ends_a_capture() {
    let _t = session();
    let (a, b, e, d) = (stream(NON_BLOCKING), stream(NON_BLOCKING), event(), memory(64));
    begin(a, GLOBAL);
    ok!(cuEventRecord(e, a));
    ok!(cuStreamWaitEvent(b, e, 0));
    fails!(STREAM_CAPTURE_UNMATCHED, cuStreamEndCapture(b, &mut CUgraph(0)));
    assert_eq!((status(a), status(b)), (2, 2));
    fails!(STREAM_CAPTURE_INVALIDATED, cuMemsetD8Async(d, 0, 1, a));
    end_fails(a, CUresult::STREAM_CAPTURE_INVALIDATED);
    assert_eq!(status(b), 0);
}

#[test]
fn events_from_outside_or_of_another_capture_are_refused() {
    let t = session();
    let (a, b, c) = (stream(NON_BLOCKING), stream(NON_BLOCKING), stream(NON_BLOCKING));
    let (of_a, plain, never) = (event(), event(), event());
    ok!(cuEventRecord(plain, c));
    begin(a, GLOBAL);
    ok!(cuStreamWaitEvent(a, never, 0));
    assert_eq!(status(a), 1, "an event that was never recorded is no dependency");
    fails!(STREAM_CAPTURE_ISOLATION, cuStreamWaitEvent(a, plain, 0));
    end_fails(a, CUresult::STREAM_CAPTURE_INVALIDATED);
    begin(a, GLOBAL);
    begin(b, GLOBAL);
    ok!(cuEventRecord(of_a, a));
    fails!(STREAM_CAPTURE_MERGE, cuStreamWaitEvent(b, of_a, 0));
    assert_eq!((status(a), status(b)), (2, 2), "both are lost");
    fails!(INVALID_VALUE, cuStreamWaitEvent(c, of_a, 0));
    assert_eq!(status(c), 0);
    end_fails(a, CUresult::STREAM_CAPTURE_INVALIDATED);
    end_fails(b, CUresult::STREAM_CAPTURE_INVALIDATED);
    fails!(INVALID_VALUE, cuStreamWaitEvent(c, of_a, 0));
    // recorded again outside, it is an ordinary event
    ok!(cuEventRecord(of_a, c));
    ok!(cuEventQuery(of_a));
    ok!(cuStreamWaitEvent(b, of_a, 0));
    t.launch(b, 1);
    assert_eq!(t.launches(), [1]);
}

#[test]
fn the_legacy_stream_can_not_join() {
    let _t = session();
    let (a, e) = (stream(NON_BLOCKING), event());
    begin(a, GLOBAL);
    ok!(cuEventRecord(e, a));
    fails!(STREAM_CAPTURE_IMPLICIT, cuStreamWaitEvent(CUstream::NULL, e, 0));
    end_fails(a, CUresult::STREAM_CAPTURE_INVALIDATED);
}

#[test]
fn info_tells_the_graph_and_what_comes_next_waits_for() {
    let t = session();
    let s = stream(NON_BLOCKING);
    let (mut v, mut id) = (99, 77);
    ok!(cuStreamGetCaptureInfo(s, &mut v, &mut id));
    assert_eq!((v, id), (0, 77), "without a capture only the status is written");
    begin(s, GLOBAL);
    t.launch(s, 1);
    let (mut g, mut at, mut n) = (CUgraph::NULL, std::ptr::null(), 0);
    ok!(cuStreamGetCaptureInfo_v2(s, &mut v, &mut id, &mut g, &mut at, &mut n));
    let first = unsafe { *at };
    assert_eq!((v, n, nodes(g)), (1, 1, vec![first]));
    let mut same = 0;
    ok!(cuStreamGetCaptureInfo(s, &mut v, &mut same));
    assert_eq!(same, id);
    // the app may add to the graph, and say what the stream waits for
    let own = made!(cuGraphAddEmptyNode(CUgraphNode::NULL, g, std::ptr::null(), 0));
    let mut list = [own];
    ok!(cuStreamUpdateCaptureDependencies(s, list.as_mut_ptr(), 1, 0));
    t.launch(s, 2);
    ok!(cuStreamUpdateCaptureDependencies(s, list.as_mut_ptr(), 1, 1));
    t.launch(s, 3);
    fails!(INVALID_VALUE, cuStreamUpdateCaptureDependencies(s, list.as_mut_ptr(), 1, 2));
    fails!(INVALID_VALUE, cuStreamUpdateCaptureDependencies(s, std::ptr::null_mut(), 1, 0));
    fails!(INVALID_VALUE, cuGraphDestroyNode(own));
    fails!(INVALID_VALUE, cuGraphDestroy(g));
    fails!(INVALID_VALUE, cuGraphInstantiateWithFlags(&mut CUgraphExec(0), g, 0));
    assert_eq!(end(s), g);
    fails!(ILLEGAL_STATE, cuStreamUpdateCaptureDependencies(s, list.as_mut_ptr(), 1, 0));
    let all = nodes(g);
    assert_eq!((deps(all[2]), deps(all[3])), (vec![first, own], vec![own]));
    begin(s, GLOBAL);
    ok!(cuStreamGetCaptureInfo(s, &mut v, &mut same));
    assert_ne!(same, id, "ids are never used twice");
    end(s);
}

#[test]
fn ports_of_edges_are_kept_and_never_lost_silently() {
    let t = session();
    let s = stream(NON_BLOCKING);
    let g = graph();
    begin(s, GLOBAL);
    t.launch(s, 1);
    let (mut v, mut id, mut into, mut at, mut n) = (0, 0, CUgraph::NULL, std::ptr::null(), 0);
    ok!(cuStreamGetCaptureInfo_v2(s, &mut v, &mut id, &mut into, &mut at, &mut n));
    let mut node = unsafe { *at };
    let port = CUgraphEdgeData { from_port: 1, to_port: 0, kind: 1, reserved: [0; 5] };
    let bad = CUgraphEdgeData { to_port: 1, ..port };
    fails!(INVALID_VALUE, cuStreamUpdateCaptureDependencies_v2(s, &mut node, &bad, 1, 1));
    ok!(cuStreamUpdateCaptureDependencies_v2(s, &mut node, &port, 1, 1));
    fails!(LOSSY_QUERY, cuStreamGetCaptureInfo_v2(s, &mut v, &mut id, &mut into, &mut at, &mut n));
    let mut data = std::ptr::null();
    ok!(cuStreamGetCaptureInfo_v3(s, &mut v, &mut id, &mut into, &mut at, &mut data, &mut n));
    assert_eq!(unsafe { ((*data).from_port, (*data).kind, *at) }, (1, 1, node));
    t.launch(s, 2);
    let made = end(s);
    let last = nodes(made)[1];
    let (mut from, mut d, mut n) = ([CUgraphNode::NULL; 1], [bad; 1], 1);
    fails!(LOSSY_QUERY, cuGraphNodeGetDependencies(last, from.as_mut_ptr(), &mut n));
    ok!(cuGraphNodeGetDependencies_v2(last, from.as_mut_ptr(), d.as_mut_ptr(), &mut n));
    assert_eq!((from[0], d[0].from_port, d[0].to_port, d[0].kind), (node, 1, 0, 1));
    ok!(cuGraphDestroy(g));
}

#[test]
fn a_capture_into_a_given_graph_adds_to_it_and_leaves_it_alive() {
    let t = session();
    let s = stream(NON_BLOCKING);
    let g = graph();
    let root = made!(cuGraphAddEmptyNode(CUgraphNode::NULL, g, std::ptr::null(), 0));
    let alien = made!(cuGraphAddEmptyNode(CUgraphNode::NULL, graph(), std::ptr::null(), 0));
    fails!(INVALID_VALUE, cuStreamBeginCaptureToGraph(s, g, &alien, std::ptr::null(), 1, GLOBAL));
    ok!(cuStreamBeginCaptureToGraph(s, g, &root, std::ptr::null(), 1, GLOBAL));
    t.launch(s, 1);
    assert_eq!(end(s), g);
    assert_eq!(deps(nodes(g)[1]), [root]);
    ok!(cuStreamBeginCaptureToGraph(s, g, std::ptr::null(), std::ptr::null(), 0, GLOBAL));
    fails!(STREAM_CAPTURE_UNSUPPORTED, cuStreamQuery(s));
    end_fails(s, CUresult::STREAM_CAPTURE_INVALIDATED);
    assert_eq!(nodes(g).len(), 2, "the app's graph outlives a failed capture");
}

#[test]
fn a_launched_graph_is_captured_as_a_child_with_its_parameters_of_then() {
    let t = session();
    let s = stream(NON_BLOCKING);
    begin(s, GLOBAL);
    t.launch(s, 1);
    t.launch(s, 2);
    let inner = end(s);
    let e = instantiate(inner);
    ok!(cuGraphNodeSetEnabled(e, nodes(inner)[0], 0));
    begin(s, GLOBAL);
    t.launch(s, 10);
    ok!(cuGraphLaunch(e, s));
    t.launch(s, 11);
    let outer = end(s);
    ok!(cuGraphExecDestroy(e));
    assert_eq!(nodes(outer).iter().map(|&n| kind(n)).collect::<Vec<_>>(), [0, 4, 0]);
    ok!(cuGraphLaunch(instantiate(outer), s));
    assert_eq!(t.launches(), [10, 2, 11]);
}

#[test]
fn a_stream_that_ends_takes_its_capture_along() {
    let t = session();
    let (a, b, e) = (stream(NON_BLOCKING), stream(NON_BLOCKING), event());
    begin(a, GLOBAL);
    ok!(cuEventRecord(e, a));
    ok!(cuStreamWaitEvent(b, e, 0));
    ok!(cuStreamDestroy_v2(a));
    assert_eq!(status(b), 0, "nobody could end it");
    t.launch(b, 1);
    assert_eq!(t.launches(), [1]);
    // a joined stream that ends spoils the capture, which its origin still has to end
    let (a, b) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
    begin(a, GLOBAL);
    ok!(cuEventRecord(e, a));
    ok!(cuStreamWaitEvent(b, e, 0));
    ok!(cuStreamDestroy_v2(b));
    assert_eq!(status(a), 2);
    end_fails(a, CUresult::STREAM_CAPTURE_INVALIDATED);
}

#[test]
fn the_stream_s_priority_and_a_launch_s_attributes_go_to_the_node() {
    let t = session();
    let s = made!(cuStreamCreateWithPriority(CUstream::NULL, NON_BLOCKING, -3));
    let e = event();
    let mut words = [0u64; 8];
    words[0] = e.0 as u64;
    let attr = |id, words| CUlaunchAttribute { id, pad: [0; 4], value: CUlaunchAttributeValue { words } };
    let mut attrs = [attr(6, [1; 8]), attr(7, words), attr(4, [3; 8])];
    let config = CUlaunchConfig {
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 1,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: s,
        attrs: attrs.as_mut_ptr(),
        numAttrs: 3,
    };
    let (mut a, mut b) = (1u64, 2u32);
    let mut params = [(&raw mut a).cast::<c_void>(), (&raw mut b).cast()];
    begin(s, GLOBAL);
    ok!(cuLaunchKernelEx(&config, t.kernel, params.as_mut_ptr(), std::ptr::null_mut()));
    fails!(CAPTURED_EVENT, cuEventQuery(e));
    end_fails(s, CUresult::STREAM_CAPTURE_INVALIDATED);
    begin(s, GLOBAL);
    ok!(cuLaunchKernelEx(&config, t.kernel, params.as_mut_ptr(), std::ptr::null_mut()));
    let g = end(s);
    let node = nodes(g)[0];
    let read = |id| {
        let mut v = CUlaunchAttributeValue { words: [99; 8] };
        ok!(cuGraphKernelNodeGetAttribute(node, id, &mut v));
        v.words[0]
    };
    assert_eq!((read(8) as u32 as i32, read(4)), (-3, 3));
    let mut v = CUlaunchAttributeValue { words: [99; 8] };
    fails!(INVALID_VALUE, cuGraphKernelNodeGetAttribute(node, 7, &mut v));
    let mut updatable = [attr(13, [1; 8])];
    let config = CUlaunchConfig { attrs: updatable.as_mut_ptr(), numAttrs: 1, ..config };
    begin(s, GLOBAL);
    fails!(NOT_SUPPORTED, cuLaunchKernelEx(&config, t.kernel, params.as_mut_ptr(), std::ptr::null_mut()));
    end(s);
}

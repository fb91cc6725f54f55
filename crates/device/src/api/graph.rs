//! Graphs as wholes: made, looked at, instantiated, launched; user objects.
use super::*;
use crate::objects::graph::{Edge, GraphLaunch, Mismatch, Port};
use crate::op::Op;
use crate::runtime::{lock, State};
use std::ffi::{c_char, c_void};
use zerogpu_abi::*;

/// Changes graphs under the lock, then, without it, runs the destructors of user objects that nothing holds any more.
pub(crate) fn change<T>(body: impl FnOnce(&mut State) -> Res<T>) -> Res<T> {
    let (r, released) = {
        let mut st = lock()?;
        let r = body(&mut st);
        (r, st.graphs.take_released())
    };
    released.run();
    r
}

/// Ends a launch of a graph whose work is done. No lock may be held: destructors may be due.
///
/// # Errors
/// As for [`lock`].
pub fn end_launch(launch: &GraphLaunch) -> Res {
    change(|st| {
        st.release_launch(launch);
        Ok(())
    })
}

/// Dependencies as the caller lists them; without data they wait for whole nodes.
pub(super) unsafe fn edges(nodes: *const CUgraphNode, data: *const CUgraphEdgeData, n: usize) -> Res<Vec<Edge>> {
    let nodes = array(nodes, n)?;
    if data.is_null() {
        return Ok(nodes.iter().map(|n| Edge::on(n.0)).collect());
    }
    let ports = array(data, n)?;
    nodes.iter().zip(ports).map(|(n, d)| Ok(Edge { from: n.0, port: Port::new(d)? })).collect()
}

/// Answers a question for a list, whose parts `write` writes by index (also beyond its end): without `arrays` its
/// length, else as much as there is room for, and how much of it was there.
unsafe fn list(n: *mut usize, len: usize, arrays: bool, mut write: impl FnMut(usize)) -> Res {
    let room = input(n)?;
    if !arrays {
        return out(n, len);
    }
    (0..room).for_each(&mut write);
    out(n, len.min(room))
}

pub(super) unsafe fn list_nodes(nodes: &[usize], to: *mut CUgraphNode, n: *mut usize) -> Res {
    list(n, nodes.len(), !to.is_null(), |i| to.add(i).write(CUgraphNode(nodes.get(i).copied().unwrap_or(0))))
}

/// Lists edges by their ends. Data that the caller does not ask for, and that is not the default: LOSSY_QUERY.
unsafe fn list_edges(
    edges: &[(Edge, usize)],
    from: *mut CUgraphNode,
    to: *mut CUgraphNode,
    data: *mut CUgraphEdgeData,
    n: *mut usize,
) -> Res {
    let arrays = !from.is_null() || !to.is_null();
    if !data.is_null() && !arrays {
        return Err(CUresult::INVALID_VALUE);
    }
    if arrays && data.is_null() && edges.iter().any(|(e, _)| !e.port.is_default()) {
        return Err(CUresult::LOSSY_QUERY);
    }
    list(n, edges.len(), arrays, |i| {
        let edge = edges.get(i);
        let at = |array: *mut CUgraphNode| if array.is_null() { array } else { array.add(i) };
        out_opt(at(from), CUgraphNode(edge.map_or(0, |(e, _)| e.from)));
        out_opt(at(to), CUgraphNode(edge.map_or(0, |(_, to)| *to)));
        if !data.is_null() {
            data.add(i).write(edge.map_or(Port::default(), |(e, _)| e.port).data());
        }
    })
}

/// Lists the other ends of a node's edges.
pub(super) unsafe fn list_ends(ends: &[Edge], to: *mut CUgraphNode, data: *mut CUgraphEdgeData, n: *mut usize) -> Res {
    let edges: Vec<(Edge, usize)> = ends.iter().map(|&e| (e, 0)).collect();
    list_edges(&edges, to, std::ptr::null_mut(), data, n)
}

pub unsafe fn cuGraphCreate(phGraph: *mut CUgraph, flags: u32) -> CUresult {
    answer(|| {
        wanted(phGraph)?;
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        out(phGraph, change(State::create_graph)?)
    })
}

pub unsafe fn cuGraphDestroy(hGraph: CUgraph) -> CUresult {
    answer(|| change(|st| st.destroy_graph(hGraph)))
}

pub unsafe fn cuGraphClone(phGraphClone: *mut CUgraph, originalGraph: CUgraph) -> CUresult {
    answer(|| {
        wanted(phGraphClone)?;
        out(phGraphClone, change(|st| st.clone_graph(originalGraph))?)
    })
}

pub unsafe fn cuGraphGetNodes(hGraph: CUgraph, nodes: *mut CUgraphNode, numNodes: *mut usize) -> CUresult {
    answer(|| list_nodes(&lock()?.graphs.graph(hGraph)?.nodes, nodes, numNodes))
}

pub unsafe fn cuGraphGetRootNodes(hGraph: CUgraph, rootNodes: *mut CUgraphNode, numRootNodes: *mut usize) -> CUresult {
    answer(|| list_nodes(&lock()?.graphs.roots(hGraph)?, rootNodes, numRootNodes))
}

pub unsafe fn cuGraphGetEdges(
    hGraph: CUgraph,
    from: *mut CUgraphNode,
    to: *mut CUgraphNode,
    numEdges: *mut usize,
) -> CUresult {
    cuGraphGetEdges_v2(hGraph, from, to, std::ptr::null_mut(), numEdges)
}

pub unsafe fn cuGraphGetEdges_v2(
    hGraph: CUgraph,
    from: *mut CUgraphNode,
    to: *mut CUgraphNode,
    edgeData: *mut CUgraphEdgeData,
    numEdges: *mut usize,
) -> CUresult {
    answer(|| list_edges(&lock()?.graphs.edges(hGraph)?, from, to, edgeData, numEdges))
}

unsafe fn pairs(
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    data: *const CUgraphEdgeData,
    n: usize,
) -> Res<Vec<(Edge, usize)>> {
    Ok(edges(from, data, n)?.into_iter().zip(array(to, n)?.iter().map(|to| to.0)).collect())
}

pub unsafe fn cuGraphAddDependencies(
    hGraph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    numDependencies: usize,
) -> CUresult {
    cuGraphAddDependencies_v2(hGraph, from, to, std::ptr::null(), numDependencies)
}

pub unsafe fn cuGraphAddDependencies_v2(
    hGraph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    edgeData: *const CUgraphEdgeData,
    numDependencies: usize,
) -> CUresult {
    answer(|| {
        let pairs = pairs(from, to, edgeData, numDependencies)?;
        change(|st| st.graphs.add_edges(hGraph, &pairs))
    })
}

pub unsafe fn cuGraphRemoveDependencies(
    hGraph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    numDependencies: usize,
) -> CUresult {
    cuGraphRemoveDependencies_v2(hGraph, from, to, std::ptr::null(), numDependencies)
}

pub unsafe fn cuGraphRemoveDependencies_v2(
    hGraph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    edgeData: *const CUgraphEdgeData,
    numDependencies: usize,
) -> CUresult {
    answer(|| {
        let pairs = pairs(from, to, edgeData, numDependencies)?;
        change(|st| st.graphs.remove_edges(hGraph, &pairs))
    })
}

pub unsafe fn cuGraphDebugDotPrint(hGraph: CUgraph, path: *const c_char, flags: u32) -> CUresult {
    answer(|| {
        let path = text(path)?;
        let dot = lock()?.dot(hGraph, flags)?;
        std::fs::write(path, dot).map_err(|_| CUresult::OPERATING_SYSTEM)
    })
}

/// CUDA_GRAPH_INSTANTIATE_FLAG_*.
const UPLOAD: u64 = 2;
const DEVICE_LAUNCH: u64 = 4;
const ALL_FLAGS: u64 = 15;

/// Instantiates; the error names the node at fault, if one is.
fn instantiate(graph: CUgraph, flags: u64) -> Result<CUgraphExec, (CUresult, CUgraphNode)> {
    let refused = |e| (e, CUgraphNode::NULL);
    if flags & !ALL_FLAGS != 0 {
        return Err(refused(CUresult::INVALID_VALUE));
    }
    // a kernel that launches the graph would do so behind our back
    if flags & DEVICE_LAUNCH != 0 {
        return Err(refused(CUresult::NOT_SUPPORTED));
    }
    change(|st| Ok(st.instantiate(graph, flags & !UPLOAD))).map_err(refused)?
}

unsafe fn instantiate_logged(
    exec: *mut CUgraphExec,
    graph: CUgraph,
    error_node: *mut CUgraphNode,
    log: *mut c_char,
    room: usize,
) -> CUresult {
    answer(|| {
        wanted(exec)?;
        let (made, node) = match instantiate(graph, 0) {
            Ok(e) => (out(exec, e), CUgraphNode::NULL),
            Err((e, node)) => (Err(e), node),
        };
        out_opt(error_node, node);
        if !log.is_null() && room > 0 {
            let message: &[u8] = if node.0 == 0 { b"\0" } else { b"the graph has a cycle\0" };
            let n = message.len().min(room);
            std::ptr::copy_nonoverlapping(message.as_ptr(), log.cast(), n);
            log.add(n - 1).write(0);
        }
        made
    })
}

pub unsafe fn cuGraphInstantiate(
    phGraphExec: *mut CUgraphExec,
    hGraph: CUgraph,
    phErrorNode: *mut CUgraphNode,
    logBuffer: *mut c_char,
    bufferSize: usize,
) -> CUresult {
    instantiate_logged(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize)
}

pub unsafe fn cuGraphInstantiate_v2(
    phGraphExec: *mut CUgraphExec,
    hGraph: CUgraph,
    phErrorNode: *mut CUgraphNode,
    logBuffer: *mut c_char,
    bufferSize: usize,
) -> CUresult {
    instantiate_logged(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize)
}

pub unsafe fn cuGraphInstantiateWithFlags(phGraphExec: *mut CUgraphExec, hGraph: CUgraph, flags: u64) -> CUresult {
    answer(|| {
        wanted(phGraphExec)?;
        // cuda.h: only the call with parameters, which names a stream, can upload
        if flags & UPLOAD != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        out(phGraphExec, instantiate(hGraph, flags).map_err(|(e, _)| e)?)
    })
}

/// Fails unless the stream of an upload can take it. The upload itself waits, as [`cuGraphUpload`]'s.
fn upload_stream(p: &CUDA_GRAPH_INSTANTIATE_PARAMS) -> Res {
    if p.flags & UPLOAD == 0 {
        return Ok(());
    }
    let mut st = lock()?;
    let s = st.stream(p.hUploadStream)?;
    st.refuse_in_capture(s)
}

pub unsafe fn cuGraphInstantiateWithParams(
    phGraphExec: *mut CUgraphExec,
    hGraph: CUgraph,
    instantiateParams: *mut CUDA_GRAPH_INSTANTIATE_PARAMS,
) -> CUresult {
    answer(|| {
        wanted(phGraphExec)?;
        let mut p = input(instantiateParams)?;
        // CUgraphInstantiateResult: 0 success, 1 error, 2 invalid structure
        let refused = |e| (e, CUgraphNode::NULL);
        let r = match upload_stream(&p).map_err(refused).and_then(|()| instantiate(hGraph, p.flags)) {
            Ok(e) => {
                (p.hErrNode_out, p.result_out) = (CUgraphNode::NULL, 0);
                out(phGraphExec, e)
            }
            Err((e, node)) => {
                (p.hErrNode_out, p.result_out) = (node, if node.0 == 0 { 1 } else { 2 });
                Err(e)
            }
        };
        out(instantiateParams, p)?;
        r
    })
}

#[inline]
pub unsafe fn cuGraphLaunch(hGraphExec: CUgraphExec, hStream: CUstream) -> CUresult {
    code(submit(hStream, &Op::Graph(hGraphExec)))
}

/// An executable graph is built on a claimed GPU when it is launched there, so this only checks its arguments.
pub unsafe fn cuGraphUpload(hGraphExec: CUgraphExec, hStream: CUstream) -> CUresult {
    answer(|| {
        let mut st = lock()?;
        st.graphs.exec(hGraphExec)?;
        let s = st.stream(hStream)?;
        st.refuse_in_capture(s)
    })
}

pub unsafe fn cuGraphExecDestroy(hGraphExec: CUgraphExec) -> CUresult {
    answer(|| change(|st| st.destroy_exec(hGraphExec)))
}

pub unsafe fn cuGraphExecGetFlags(hGraphExec: CUgraphExec, flags: *mut u64) -> CUresult {
    answer(|| {
        wanted(flags)?;
        out(flags, lock()?.graphs.exec(hGraphExec)?.flags)
    })
}

/// CUgraphExecUpdateResult: 0 success, 1 an error that the result of the call describes.
fn update(exec: CUgraphExec, graph: CUgraph) -> (Res, Mismatch) {
    let because = |result| Mismatch { result, node: CUgraphNode::NULL, from: CUgraphNode::NULL };
    match change(|st| st.update_exec(exec, graph)) {
        Ok(Ok(())) => (Ok(()), because(0)),
        Ok(Err(mismatch)) => (Err(CUresult::GRAPH_EXEC_UPDATE_FAILURE), mismatch),
        Err(e) => (Err(e), because(1)),
    }
}

pub unsafe fn cuGraphExecUpdate(
    hGraphExec: CUgraphExec,
    hGraph: CUgraph,
    hErrorNode_out: *mut CUgraphNode,
    updateResult_out: *mut u32,
) -> CUresult {
    answer(|| {
        wanted(hErrorNode_out)?;
        wanted(updateResult_out)?;
        let (r, why) = update(hGraphExec, hGraph);
        out(hErrorNode_out, why.node)?;
        out(updateResult_out, why.result)?;
        r
    })
}

pub unsafe fn cuGraphExecUpdate_v2(
    hGraphExec: CUgraphExec,
    hGraph: CUgraph,
    resultInfo: *mut CUgraphExecUpdateResultInfo,
) -> CUresult {
    answer(|| {
        wanted(resultInfo)?;
        let (r, why) = update(hGraphExec, hGraph);
        let (result, errorNode, errorFromNode) = (why.result, why.node, why.from);
        out(resultInfo, CUgraphExecUpdateResultInfo { result, errorNode, errorFromNode })?;
        r
    })
}

pub unsafe fn cuUserObjectCreate(
    object_out: *mut CUuserObject,
    ptr: *mut c_void,
    destroy: CUhostFn,
    initialRefcount: u32,
    flags: u32,
) -> CUresult {
    answer(|| {
        wanted(object_out)?;
        out(object_out, change(|st| st.create_user_object(ptr, destroy, initialRefcount, flags))?)
    })
}

pub unsafe fn cuUserObjectRetain(object: CUuserObject, count: u32) -> CUresult {
    answer(|| change(|st| st.retain_user_object(object, count)))
}

pub unsafe fn cuUserObjectRelease(object: CUuserObject, count: u32) -> CUresult {
    answer(|| change(|st| st.release_user_object(object, count)))
}

pub unsafe fn cuGraphRetainUserObject(graph: CUgraph, object: CUuserObject, count: u32, flags: u32) -> CUresult {
    answer(|| {
        // CU_GRAPH_USER_OBJECT_MOVE: 1
        if flags > 1 {
            return Err(CUresult::INVALID_VALUE);
        }
        change(|st| st.graph_retain(graph, object, count, flags == 1))
    })
}

pub unsafe fn cuGraphReleaseUserObject(graph: CUgraph, object: CUuserObject, count: u32) -> CUresult {
    answer(|| change(|st| st.graph_release(graph, object, count)))
}

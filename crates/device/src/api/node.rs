//! Nodes of graphs: added, looked at, changed, in graphs and in executable ones.
use super::graph::{change, edges, list_ends};
use super::*;
use crate::objects::graph::Work;
use crate::runtime::{lock, State};
use zerogpu_abi::*;

mod params;
use params::{any, usable, Params, Record, Wait};

/// What a driver checks of a node's command.
fn check(st: &mut State, work: &Work) -> Res {
    work.op().map_or(Ok(()), |op| st.validate(&op))
}

unsafe fn add(
    to: *mut CUgraphNode,
    graph: CUgraph,
    deps: *const CUgraphNode,
    ports: *const CUgraphEdgeData,
    n: usize,
    work: impl FnOnce() -> Res<Work>,
) -> CUresult {
    answer(|| {
        wanted(to)?;
        let (deps, work) = (edges(deps, ports, n)?, work()?);
        let node = change(|st| {
            check(st, &work)?;
            st.add_node(graph, &deps, work)
        })?;
        out(to, node)
    })
}

unsafe fn add_params<P: Params>(
    to: *mut CUgraphNode,
    graph: CUgraph,
    deps: *const CUgraphNode,
    n: usize,
    params: *const P,
) -> CUresult {
    add(to, graph, deps, std::ptr::null(), n, || input(params)?.work())
}

unsafe fn get<P: Params>(node: CUgraphNode, to: *mut P) -> CUresult {
    answer(|| {
        wanted(to)?;
        out(to, P::of(&mut *lock()?, node)?)
    })
}

unsafe fn set(node: CUgraphNode, work: impl FnOnce() -> Res<Work>) -> CUresult {
    answer(|| {
        let work = work()?;
        change(|st| {
            check(st, &work)?;
            st.graphs.set_node(node, work)
        })
    })
}

unsafe fn set_exec(exec: CUgraphExec, node: CUgraphNode, work: impl FnOnce() -> Res<Work>) -> CUresult {
    answer(|| {
        let work = work()?;
        change(|st| {
            check(st, &work)?;
            match work {
                Work::Child(graph) => st.graphs.set_exec_child(exec, node, CUgraph(graph)),
                work => st.graphs.set_exec_node(exec, node, work),
            }
        })
    })
}

pub unsafe fn cuGraphAddKernelNode(
    phGraphNode: *mut CUgraphNode,
    hGraph: CUgraph,
    dependencies: *const CUgraphNode,
    numDependencies: usize,
    nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v1,
) -> CUresult {
    add_params(phGraphNode, hGraph, dependencies, numDependencies, nodeParams)
}

pub unsafe fn cuGraphAddKernelNode_v2(
    phGraphNode: *mut CUgraphNode,
    hGraph: CUgraph,
    dependencies: *const CUgraphNode,
    numDependencies: usize,
    nodeParams: *const CUDA_KERNEL_NODE_PARAMS,
) -> CUresult {
    add_params(phGraphNode, hGraph, dependencies, numDependencies, nodeParams)
}

pub unsafe fn cuGraphAddMemcpyNode(
    phGraphNode: *mut CUgraphNode,
    hGraph: CUgraph,
    dependencies: *const CUgraphNode,
    numDependencies: usize,
    copyParams: *const CUDA_MEMCPY3D,
    ctx: CUcontext,
) -> CUresult {
    add(phGraphNode, hGraph, dependencies, std::ptr::null(), numDependencies, || {
        usable(ctx)?;
        input(copyParams)?.work()
    })
}

pub unsafe fn cuGraphAddMemsetNode(
    phGraphNode: *mut CUgraphNode,
    hGraph: CUgraph,
    dependencies: *const CUgraphNode,
    numDependencies: usize,
    memsetParams: *const CUDA_MEMSET_NODE_PARAMS,
    ctx: CUcontext,
) -> CUresult {
    add(phGraphNode, hGraph, dependencies, std::ptr::null(), numDependencies, || {
        usable(ctx)?;
        input(memsetParams)?.work()
    })
}

pub unsafe fn cuGraphAddHostNode(
    phGraphNode: *mut CUgraphNode,
    hGraph: CUgraph,
    dependencies: *const CUgraphNode,
    numDependencies: usize,
    nodeParams: *const CUDA_HOST_NODE_PARAMS,
) -> CUresult {
    add_params(phGraphNode, hGraph, dependencies, numDependencies, nodeParams)
}

pub unsafe fn cuGraphAddEmptyNode(
    phGraphNode: *mut CUgraphNode,
    hGraph: CUgraph,
    dependencies: *const CUgraphNode,
    numDependencies: usize,
) -> CUresult {
    add(phGraphNode, hGraph, dependencies, std::ptr::null(), numDependencies, || Ok(Work::Empty))
}

pub unsafe fn cuGraphAddChildGraphNode(
    phGraphNode: *mut CUgraphNode,
    hGraph: CUgraph,
    dependencies: *const CUgraphNode,
    numDependencies: usize,
    childGraph: CUgraph,
) -> CUresult {
    add(phGraphNode, hGraph, dependencies, std::ptr::null(), numDependencies, || Ok(Work::Child(childGraph.0)))
}

pub unsafe fn cuGraphAddEventRecordNode(
    phGraphNode: *mut CUgraphNode,
    hGraph: CUgraph,
    dependencies: *const CUgraphNode,
    numDependencies: usize,
    event: CUevent,
) -> CUresult {
    add_params(phGraphNode, hGraph, dependencies, numDependencies, &Record(event))
}

pub unsafe fn cuGraphAddEventWaitNode(
    phGraphNode: *mut CUgraphNode,
    hGraph: CUgraph,
    dependencies: *const CUgraphNode,
    numDependencies: usize,
    event: CUevent,
) -> CUresult {
    add_params(phGraphNode, hGraph, dependencies, numDependencies, &Wait(event))
}

pub unsafe fn cuGraphAddNode(
    phGraphNode: *mut CUgraphNode,
    hGraph: CUgraph,
    dependencies: *const CUgraphNode,
    numDependencies: usize,
    nodeParams: *mut CUgraphNodeParams,
) -> CUresult {
    cuGraphAddNode_v2(phGraphNode, hGraph, dependencies, std::ptr::null(), numDependencies, nodeParams)
}

pub unsafe fn cuGraphAddNode_v2(
    phGraphNode: *mut CUgraphNode,
    hGraph: CUgraph,
    dependencies: *const CUgraphNode,
    dependencyData: *const CUgraphEdgeData,
    numDependencies: usize,
    nodeParams: *mut CUgraphNodeParams,
) -> CUresult {
    add(phGraphNode, hGraph, dependencies, dependencyData, numDependencies, || any(&input(nodeParams)?))
}

pub unsafe fn cuGraphDestroyNode(hNode: CUgraphNode) -> CUresult {
    answer(|| change(|st| st.destroy_node(hNode)))
}

pub unsafe fn cuGraphNodeSetParams(hNode: CUgraphNode, nodeParams: *mut CUgraphNodeParams) -> CUresult {
    set(hNode, || any(&input(nodeParams)?))
}

pub unsafe fn cuGraphKernelNodeGetParams(hNode: CUgraphNode, nodeParams: *mut CUDA_KERNEL_NODE_PARAMS_v1) -> CUresult {
    get(hNode, nodeParams)
}

pub unsafe fn cuGraphKernelNodeGetParams_v2(hNode: CUgraphNode, nodeParams: *mut CUDA_KERNEL_NODE_PARAMS) -> CUresult {
    get(hNode, nodeParams)
}

pub unsafe fn cuGraphKernelNodeSetParams(
    hNode: CUgraphNode,
    nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v1,
) -> CUresult {
    set(hNode, || input(nodeParams)?.work())
}

pub unsafe fn cuGraphKernelNodeSetParams_v2(
    hNode: CUgraphNode,
    nodeParams: *const CUDA_KERNEL_NODE_PARAMS,
) -> CUresult {
    set(hNode, || input(nodeParams)?.work())
}

pub unsafe fn cuGraphMemcpyNodeGetParams(hNode: CUgraphNode, nodeParams: *mut CUDA_MEMCPY3D) -> CUresult {
    get(hNode, nodeParams)
}

pub unsafe fn cuGraphMemcpyNodeSetParams(hNode: CUgraphNode, nodeParams: *const CUDA_MEMCPY3D) -> CUresult {
    set(hNode, || input(nodeParams)?.work())
}

pub unsafe fn cuGraphMemsetNodeGetParams(hNode: CUgraphNode, nodeParams: *mut CUDA_MEMSET_NODE_PARAMS) -> CUresult {
    get(hNode, nodeParams)
}

pub unsafe fn cuGraphMemsetNodeSetParams(hNode: CUgraphNode, nodeParams: *const CUDA_MEMSET_NODE_PARAMS) -> CUresult {
    set(hNode, || input(nodeParams)?.work())
}

pub unsafe fn cuGraphHostNodeGetParams(hNode: CUgraphNode, nodeParams: *mut CUDA_HOST_NODE_PARAMS) -> CUresult {
    get(hNode, nodeParams)
}

pub unsafe fn cuGraphHostNodeSetParams(hNode: CUgraphNode, nodeParams: *const CUDA_HOST_NODE_PARAMS) -> CUresult {
    set(hNode, || input(nodeParams)?.work())
}

pub unsafe fn cuGraphEventRecordNodeGetEvent(hNode: CUgraphNode, event_out: *mut CUevent) -> CUresult {
    get::<Record>(hNode, event_out.cast())
}

pub unsafe fn cuGraphEventRecordNodeSetEvent(hNode: CUgraphNode, event: CUevent) -> CUresult {
    set(hNode, || Record(event).work())
}

pub unsafe fn cuGraphEventWaitNodeGetEvent(hNode: CUgraphNode, event_out: *mut CUevent) -> CUresult {
    get::<Wait>(hNode, event_out.cast())
}

pub unsafe fn cuGraphEventWaitNodeSetEvent(hNode: CUgraphNode, event: CUevent) -> CUresult {
    set(hNode, || Wait(event).work())
}

pub unsafe fn cuGraphChildGraphNodeGetGraph(hNode: CUgraphNode, phGraph: *mut CUgraph) -> CUresult {
    answer(|| {
        wanted(phGraph)?;
        match lock()?.graphs.node(hNode)?.work {
            Work::Child(graph) => out(phGraph, CUgraph(graph)),
            _ => Err(CUresult::INVALID_VALUE),
        }
    })
}

pub unsafe fn cuGraphKernelNodeGetAttribute(
    hNode: CUgraphNode,
    attr: u32,
    value_out: *mut CUlaunchAttributeValue,
) -> CUresult {
    answer(|| {
        wanted(value_out)?;
        out(value_out, lock()?.graphs.attribute(hNode, attr)?)
    })
}

pub unsafe fn cuGraphKernelNodeSetAttribute(
    hNode: CUgraphNode,
    attr: u32,
    value: *const CUlaunchAttributeValue,
) -> CUresult {
    answer(|| {
        let value = input(value)?;
        lock()?.graphs.set_attribute(hNode, attr, value)
    })
}

pub unsafe fn cuGraphKernelNodeCopyAttributes(dst: CUgraphNode, src: CUgraphNode) -> CUresult {
    answer(|| lock()?.graphs.copy_attributes(dst, src))
}

pub unsafe fn cuGraphNodeGetType(hNode: CUgraphNode, kind: *mut u32) -> CUresult {
    answer(|| {
        wanted(kind)?;
        out(kind, lock()?.graphs.node(hNode)?.work.kind())
    })
}

pub unsafe fn cuGraphNodeGetDependencies(
    hNode: CUgraphNode,
    dependencies: *mut CUgraphNode,
    numDependencies: *mut usize,
) -> CUresult {
    cuGraphNodeGetDependencies_v2(hNode, dependencies, std::ptr::null_mut(), numDependencies)
}

pub unsafe fn cuGraphNodeGetDependencies_v2(
    hNode: CUgraphNode,
    dependencies: *mut CUgraphNode,
    edgeData: *mut CUgraphEdgeData,
    numDependencies: *mut usize,
) -> CUresult {
    answer(|| list_ends(&lock()?.graphs.node(hNode)?.deps, dependencies, edgeData, numDependencies))
}

pub unsafe fn cuGraphNodeGetDependentNodes(
    hNode: CUgraphNode,
    dependentNodes: *mut CUgraphNode,
    numDependentNodes: *mut usize,
) -> CUresult {
    cuGraphNodeGetDependentNodes_v2(hNode, dependentNodes, std::ptr::null_mut(), numDependentNodes)
}

pub unsafe fn cuGraphNodeGetDependentNodes_v2(
    hNode: CUgraphNode,
    dependentNodes: *mut CUgraphNode,
    edgeData: *mut CUgraphEdgeData,
    numDependentNodes: *mut usize,
) -> CUresult {
    answer(|| list_ends(&lock()?.graphs.dependents(hNode)?, dependentNodes, edgeData, numDependentNodes))
}

pub unsafe fn cuGraphNodeFindInClone(
    phNode: *mut CUgraphNode,
    hOriginalNode: CUgraphNode,
    hClonedGraph: CUgraph,
) -> CUresult {
    answer(|| {
        wanted(phNode)?;
        out(phNode, lock()?.graphs.find_in_clone(hOriginalNode, hClonedGraph)?)
    })
}

pub unsafe fn cuGraphNodeSetEnabled(hGraphExec: CUgraphExec, hNode: CUgraphNode, isEnabled: u32) -> CUresult {
    answer(|| lock()?.graphs.set_enabled(hGraphExec, hNode, isEnabled != 0))
}

pub unsafe fn cuGraphNodeGetEnabled(hGraphExec: CUgraphExec, hNode: CUgraphNode, isEnabled: *mut u32) -> CUresult {
    answer(|| {
        wanted(isEnabled)?;
        out(isEnabled, lock()?.graphs.is_enabled(hGraphExec, hNode)? as u32)
    })
}

pub unsafe fn cuGraphExecNodeSetParams(
    hGraphExec: CUgraphExec,
    hNode: CUgraphNode,
    nodeParams: *mut CUgraphNodeParams,
) -> CUresult {
    set_exec(hGraphExec, hNode, || any(&input(nodeParams)?))
}

pub unsafe fn cuGraphExecKernelNodeSetParams(
    hGraphExec: CUgraphExec,
    hNode: CUgraphNode,
    nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v1,
) -> CUresult {
    set_exec(hGraphExec, hNode, || input(nodeParams)?.work())
}

pub unsafe fn cuGraphExecKernelNodeSetParams_v2(
    hGraphExec: CUgraphExec,
    hNode: CUgraphNode,
    nodeParams: *const CUDA_KERNEL_NODE_PARAMS,
) -> CUresult {
    set_exec(hGraphExec, hNode, || input(nodeParams)?.work())
}

pub unsafe fn cuGraphExecMemcpyNodeSetParams(
    hGraphExec: CUgraphExec,
    hNode: CUgraphNode,
    copyParams: *const CUDA_MEMCPY3D,
    ctx: CUcontext,
) -> CUresult {
    set_exec(hGraphExec, hNode, || {
        usable(ctx)?;
        input(copyParams)?.work()
    })
}

pub unsafe fn cuGraphExecMemsetNodeSetParams(
    hGraphExec: CUgraphExec,
    hNode: CUgraphNode,
    memsetParams: *const CUDA_MEMSET_NODE_PARAMS,
    ctx: CUcontext,
) -> CUresult {
    set_exec(hGraphExec, hNode, || {
        usable(ctx)?;
        input(memsetParams)?.work()
    })
}

pub unsafe fn cuGraphExecHostNodeSetParams(
    hGraphExec: CUgraphExec,
    hNode: CUgraphNode,
    nodeParams: *const CUDA_HOST_NODE_PARAMS,
) -> CUresult {
    set_exec(hGraphExec, hNode, || input(nodeParams)?.work())
}

pub unsafe fn cuGraphExecEventRecordNodeSetEvent(
    hGraphExec: CUgraphExec,
    hNode: CUgraphNode,
    event: CUevent,
) -> CUresult {
    set_exec(hGraphExec, hNode, || Record(event).work())
}

pub unsafe fn cuGraphExecEventWaitNodeSetEvent(
    hGraphExec: CUgraphExec,
    hNode: CUgraphNode,
    event: CUevent,
) -> CUresult {
    set_exec(hGraphExec, hNode, || Wait(event).work())
}

pub unsafe fn cuGraphExecChildGraphNodeSetParams(
    hGraphExec: CUgraphExec,
    hNode: CUgraphNode,
    childGraph: CUgraph,
) -> CUresult {
    set_exec(hGraphExec, hNode, || Ok(Work::Child(childGraph.0)))
}

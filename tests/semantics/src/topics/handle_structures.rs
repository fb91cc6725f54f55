//! Bad handles where a function does not take them itself: in structures and arrays that its arguments point to.
use super::handle_places::{copy_parameters, kernel_parameters, memset_parameters, wild, Good};
use crate::check::Check;
use crate::driver::{must, Driver};
use std::ptr::{null, null_mut};
use zerogpu_abi::*;

/// Bad value, bad context, bad handle, destroyed context.
const REFUSALS: &[u32] = &[1, 201, 400, 709];
/// CU_LAUNCH_ATTRIBUTE_*: events that a launch records.
const PROGRAMMATIC_EVENT: u32 = 7;
const COMPLETION_EVENT: u32 = 12;
// CU_GRAPH_NODE_TYPE_*
const KERNEL: u32 = 0;
const MEMCPY: u32 = 1;
const MEMSET: u32 = 2;
const GRAPH: u32 = 4;
const WAIT: u32 = 6;
const RECORD: u32 = 7;
/// CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD
const UPLOAD: u64 = 2;

type Call<'a> = &'a dyn Fn(usize) -> CUresult;

/// Each structure, each field; then once more behind a launch, which claims a GPU.
pub fn all(d: &'static Driver, t: &mut Check) {
    let context = d.start();
    let good = Good::make(d, context);
    each(d, t, &good);
    if !t.driver.no_kernels {
        let o = &good.objects;
        let launch = d.cuLaunchKernel(o.function, 1, 1, 1, 1, 1, 1, 0, o.stream, good.pointers(), null_mut());
        t.code("a launch", launch, 0);
        each(d, t, &good);
        d.wait(o.stream);
    }
    good.end(d, t);
}

fn each(d: &Driver, t: &mut Check, good: &Good) {
    for (what, bad) in wild().into_iter().chain([("a handle of another kind", good.array.0)]) {
        let mut refused = |name: &str, call: Call| {
            println!("ok calling {name} with {what}");
            t.one_of(format_args!("{name}: {what}"), call(bad), REFUSALS);
        };
        launches(d, good, &mut refused);
        nodes(d, good, &mut refused);
        changes(d, good, &mut refused);
        edges(d, good, &mut refused);
        copies(d, good, &mut refused);
    }
}

fn launches(d: &Driver, g: &Good, refused: &mut dyn FnMut(&str, Call)) {
    let o = &g.objects;
    let config = |stream: usize, attrs: *mut CUlaunchAttribute| CUlaunchConfig {
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 1,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: CUstream(stream),
        attrs,
        numAttrs: u32::from(!attrs.is_null()),
    };
    let launch = |config: CUlaunchConfig| d.cuLaunchKernelEx(&config, o.function, g.pointers(), null_mut());
    refused("cuLaunchKernelEx's hStream", &|bad| launch(config(bad, null_mut())));
    refused("cuLaunchKernelEx_ptsz's hStream", &|bad| {
        d.cuLaunchKernelEx_ptsz(&config(bad, null_mut()), o.function, g.pointers(), null_mut())
    });
    for id in [PROGRAMMATIC_EVENT, COMPLETION_EVENT] {
        refused(&format!("the event of launch attribute {id}"), &|bad| {
            let value = CUlaunchAttributeValue { words: [bad as u64, 0, 0, 0, 0, 0, 0, 0] };
            let mut attribute = CUlaunchAttribute { id, pad: [0; 4], value };
            launch(config(o.stream.0, &mut attribute))
        });
    }
}

/// The words of a node's union, from its structure.
fn any_node<T: Copy>(kind: u32, from: &T) -> CUgraphNodeParams {
    let mut params = CUgraphNodeParams { kind, reserved0: [0; 3], words: [0; 29], reserved2: 0 };
    assert!(size_of::<T>() <= size_of_val(&params.words));
    // SAFETY: checked to fit; both are plain bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(
            std::ptr::from_ref(from).cast::<u8>(),
            params.words.as_mut_ptr().cast(),
            size_of::<T>(),
        );
    }
    params
}

fn nodes(d: &Driver, g: &Good, refused: &mut dyn FnMut(&str, Call)) {
    let (o, graph) = (&g.objects, g.graph);
    let kernel = || kernel_parameters(o, g.pointers());
    let copy = || copy_parameters(o.memory, o.memory + 64);
    let fill = || memset_parameters(o.memory);
    let mut made = CUgraphNode::NULL;
    let made = &raw mut made;
    refused("cuGraphAddKernelNode's func", &|bad| {
        let params = CUDA_KERNEL_NODE_PARAMS { func: CUfunction(bad), ..kernel() };
        d.cuGraphAddKernelNode_v2(made, graph, null(), 0, &params)
    });
    refused("cuGraphAddKernelNode's kern", &|bad| {
        let params = CUDA_KERNEL_NODE_PARAMS { func: CUfunction::NULL, kern: CUkernel(bad), ..kernel() };
        d.cuGraphAddKernelNode_v2(made, graph, null(), 0, &params)
    });
    refused("cuGraphAddKernelNode's ctx", &|bad| {
        // cuda.h: ignored if func is set
        let params =
            CUDA_KERNEL_NODE_PARAMS { func: CUfunction::NULL, kern: o.kernel, ctx: CUcontext(bad), ..kernel() };
        d.cuGraphAddKernelNode_v2(made, graph, null(), 0, &params)
    });
    refused("cuGraphAddMemcpyNode's srcDevice", &|bad| {
        let params = CUDA_MEMCPY3D { srcDevice: bad as u64, ..copy() };
        d.cuGraphAddMemcpyNode(made, graph, null(), 0, &params, g.context)
    });
    refused("cuGraphAddMemcpyNode's dstDevice", &|bad| {
        let params = CUDA_MEMCPY3D { dstDevice: bad as u64, ..copy() };
        d.cuGraphAddMemcpyNode(made, graph, null(), 0, &params, g.context)
    });
    refused("cuGraphAddMemcpyNode's dstArray", &|bad| {
        let params = CUDA_MEMCPY3D { dstMemoryType: 3, dstArray: CUarray(not_array(g, bad)), ..copy() };
        d.cuGraphAddMemcpyNode(made, graph, null(), 0, &params, g.context)
    });
    refused("cuGraphAddMemsetNode's dst", &|bad| {
        d.cuGraphAddMemsetNode(made, graph, null(), 0, &memset_parameters(bad as u64), g.context)
    });
    refused("cuGraphAddNode's kernel", &|bad| {
        let params = CUDA_KERNEL_NODE_PARAMS { func: CUfunction(bad), ..kernel() };
        d.cuGraphAddNode(made, graph, null(), 0, &mut any_node(KERNEL, &params))
    });
    refused("cuGraphAddNode's copy", &|bad| {
        let params = Copy3D(0, g.context, CUDA_MEMCPY3D { srcDevice: bad as u64, ..copy() });
        d.cuGraphAddNode(made, graph, null(), 0, &mut any_node(MEMCPY, &params))
    });
    refused("cuGraphAddNode's copy context", &|bad| {
        let params = Copy3D(0, CUcontext(bad), copy());
        d.cuGraphAddNode(made, graph, null(), 0, &mut any_node(MEMCPY, &params))
    });
    refused("cuGraphAddNode's memset", &|bad| {
        let params = Fill(memset_parameters(bad as u64), g.context);
        d.cuGraphAddNode(made, graph, null(), 0, &mut any_node(MEMSET, &params))
    });
    refused("cuGraphAddNode's memset context", &|bad| {
        d.cuGraphAddNode(made, graph, null(), 0, &mut any_node(MEMSET, &Fill(fill(), CUcontext(bad))))
    });
    for (name, kind) in [("graph", GRAPH), ("event to wait for", WAIT), ("event to record", RECORD)] {
        refused(&format!("cuGraphAddNode's {name}"), &|bad| {
            d.cuGraphAddNode(made, graph, null(), 0, &mut any_node(kind, &(bad as u64)))
        });
    }
}

/// What a node of `cuGraphAddNode` has for a copy: flags and a reserved word, the context, the copy.
#[derive(Clone, Copy)]
#[repr(C)]
struct Copy3D(u64, CUcontext, CUDA_MEMCPY3D);

/// And for a memset.
#[derive(Clone, Copy)]
#[repr(C)]
struct Fill(CUDA_MEMSET_NODE_PARAMS, CUcontext);

/// Where an array is asked for, the good array is not bad.
fn not_array(g: &Good, bad: usize) -> usize {
    if bad == g.array.0 {
        g.objects.event.0
    } else {
        bad
    }
}

/// Nodes that are there, and nodes of a graph that runs, get new parameters.
fn changes(d: &Driver, g: &Good, refused: &mut dyn FnMut(&str, Call)) {
    let (o, exec) = (&g.objects, g.exec);
    let function = |bad: usize| CUDA_KERNEL_NODE_PARAMS { func: CUfunction(bad), ..kernel_parameters(o, g.pointers()) };
    let source = |bad: usize| copy_parameters(bad as u64, o.memory);
    refused("cuGraphKernelNodeSetParams' func", &|bad| d.cuGraphKernelNodeSetParams_v2(g.kernel, &function(bad)));
    refused("cuGraphMemcpyNodeSetParams' srcDevice", &|bad| d.cuGraphMemcpyNodeSetParams(g.copy, &source(bad)));
    refused("cuGraphMemsetNodeSetParams' dst", &|bad| {
        d.cuGraphMemsetNodeSetParams(g.fill, &memset_parameters(bad as u64))
    });
    refused("cuGraphExecKernelNodeSetParams' func", &|bad| {
        d.cuGraphExecKernelNodeSetParams_v2(exec, g.kernel, &function(bad))
    });
    refused("cuGraphExecMemcpyNodeSetParams' srcDevice", &|bad| {
        d.cuGraphExecMemcpyNodeSetParams(exec, g.copy, &source(bad), g.context)
    });
    refused("cuGraphExecMemsetNodeSetParams' dst", &|bad| {
        d.cuGraphExecMemsetNodeSetParams(exec, g.fill, &memset_parameters(bad as u64), g.context)
    });
    refused("cuGraphNodeSetParams' kernel", &|bad| {
        d.cuGraphNodeSetParams(g.kernel, &mut any_node(KERNEL, &function(bad)))
    });
    refused("cuGraphNodeSetParams' event", &|bad| {
        d.cuGraphNodeSetParams(g.record, &mut any_node(RECORD, &(bad as u64)))
    });
    refused("cuGraphExecNodeSetParams' kernel", &|bad| {
        d.cuGraphExecNodeSetParams(exec, g.kernel, &mut any_node(KERNEL, &function(bad)))
    });
    refused("cuGraphExecNodeSetParams' event", &|bad| {
        d.cuGraphExecNodeSetParams(exec, g.wait, &mut any_node(WAIT, &(bad as u64)))
    });
    refused("cuGraphExecNodeSetParams' graph", &|bad| {
        d.cuGraphExecNodeSetParams(exec, g.child, &mut any_node(GRAPH, &(bad as u64)))
    });
}

/// Arrays of nodes.
fn edges(d: &Driver, g: &Good, refused: &mut dyn FnMut(&str, Call)) {
    let (o, graph, empty) = (&g.objects, g.graph, g.empty);
    let mut made = CUgraphNode::NULL;
    let made = &raw mut made;
    let mixed = |bad: usize| [empty, CUgraphNode(bad)];
    refused("cuGraphAddEmptyNode's dependencies", &|bad| d.cuGraphAddEmptyNode(made, graph, mixed(bad).as_ptr(), 2));
    refused("cuGraphAddKernelNode's dependencies", &|bad| {
        d.cuGraphAddKernelNode_v2(made, graph, mixed(bad).as_ptr(), 2, &kernel_parameters(o, g.pointers()))
    });
    refused("cuGraphAddChildGraphNode's dependencies", &|bad| {
        d.cuGraphAddChildGraphNode(made, graph, mixed(bad).as_ptr(), 2, o.graph)
    });
    refused("cuGraphAddEventRecordNode's dependencies", &|bad| {
        d.cuGraphAddEventRecordNode(made, graph, mixed(bad).as_ptr(), 2, o.event)
    });
    refused("cuGraphAddNode's dependencies", &|bad| {
        d.cuGraphAddNode(made, graph, mixed(bad).as_ptr(), 2, &mut any_node(RECORD, &(o.event.0 as u64)))
    });
    let ends = [g.copy, g.fill];
    refused("cuGraphAddDependencies' from", &|bad| {
        d.cuGraphAddDependencies(graph, mixed(bad).as_ptr(), ends.as_ptr(), 2)
    });
    refused("cuGraphAddDependencies' to", &|bad| {
        d.cuGraphAddDependencies(graph, ends.as_ptr(), mixed(bad).as_ptr(), 2)
    });
    refused("cuGraphRemoveDependencies' from", &|bad| {
        d.cuGraphRemoveDependencies(graph, [CUgraphNode(bad)].as_ptr(), ends.as_ptr(), 1)
    });
    refused("cuGraphInstantiateWithParams' hUploadStream", &|bad| {
        let mut params = CUDA_GRAPH_INSTANTIATE_PARAMS {
            flags: UPLOAD,
            hUploadStream: CUstream(bad),
            hErrNode_out: CUgraphNode::NULL,
            result_out: 0,
        };
        d.cuGraphInstantiateWithParams(&mut CUgraphExec(0), o.graph, &mut params)
    });
    refused("cuStreamUpdateCaptureDependencies' nodes", &|bad| {
        let mut graph = CUgraph::NULL;
        must("cuStreamBeginCapture", d.cuStreamBeginCapture_v2(o.stream, 0));
        let got = d.cuStreamUpdateCaptureDependencies(o.stream, [CUgraphNode(bad)].as_mut_ptr(), 1, 0);
        must("cuStreamEndCapture", d.cuStreamEndCapture(o.stream, &mut graph));
        must("cuGraphDestroy", d.cuGraphDestroy(graph));
        got
    });
}

/// Copies that a structure describes.
fn copies(d: &Driver, g: &Good, refused: &mut dyn FnMut(&str, Call)) {
    let (o, memory) = (&g.objects, g.objects.memory);
    // SAFETY: numbers and pointers, which may be zero.
    let mut flat: CUDA_MEMCPY2D = unsafe { std::mem::zeroed() };
    (flat.srcMemoryType, flat.srcDevice, flat.srcPitch) = (2, memory, 64);
    (flat.dstMemoryType, flat.dstDevice, flat.dstPitch) = (2, memory + 1024, 64);
    (flat.WidthInBytes, flat.Height) = (64, 2);
    let flats = |bad: usize| {
        let array = CUarray(not_array(g, bad));
        [
            CUDA_MEMCPY2D { srcDevice: bad as u64, ..flat },
            CUDA_MEMCPY2D { dstDevice: bad as u64, ..flat },
            CUDA_MEMCPY2D { srcMemoryType: 3, srcArray: array, ..flat },
            CUDA_MEMCPY2D { dstMemoryType: 3, dstArray: array, ..flat },
        ]
    };
    let solid = copy_parameters(memory, memory + 1024);
    let solids = |bad: usize| {
        let array = CUarray(not_array(g, bad));
        [
            CUDA_MEMCPY3D { srcDevice: bad as u64, ..solid },
            CUDA_MEMCPY3D { dstDevice: bad as u64, ..solid },
            CUDA_MEMCPY3D { srcMemoryType: 3, srcArray: array, ..solid },
            CUDA_MEMCPY3D { dstMemoryType: 3, dstArray: array, ..solid },
        ]
    };
    for (at, place) in ["srcDevice", "dstDevice", "srcArray", "dstArray"].into_iter().enumerate() {
        refused(&format!("cuMemcpy2D's {place}"), &|bad| d.cuMemcpy2D_v2(&flats(bad)[at]));
        refused(&format!("cuMemcpy2DUnaligned's {place}"), &|bad| d.cuMemcpy2DUnaligned_v2(&flats(bad)[at]));
        refused(&format!("cuMemcpy2DAsync's {place}"), &|bad| d.cuMemcpy2DAsync_v2(&flats(bad)[at], o.stream));
        refused(&format!("cuMemcpy3D's {place}"), &|bad| d.cuMemcpy3D_v2(&solids(bad)[at]));
        refused(&format!("cuMemcpy3DAsync's {place}"), &|bad| d.cuMemcpy3DAsync_v2(&solids(bad)[at], o.stream));
    }
    // SAFETY: numbers and pointers, which may be zero.
    let mut peer: CUDA_MEMCPY3D_PEER = unsafe { std::mem::zeroed() };
    (peer.srcMemoryType, peer.srcDevice, peer.srcContext, peer.srcPitch) = (2, memory, g.context, 64);
    (peer.dstMemoryType, peer.dstDevice, peer.dstContext, peer.dstPitch) = (2, memory + 1024, g.context, 64);
    (peer.srcHeight, peer.dstHeight, peer.WidthInBytes, peer.Height, peer.Depth) = (1, 1, 64, 1, 1);
    refused("cuMemcpy3DPeer's srcDevice", &|bad| {
        d.cuMemcpy3DPeer(&CUDA_MEMCPY3D_PEER { srcDevice: bad as u64, ..peer })
    });
    refused("cuMemcpy3DPeer's srcContext", &|bad| {
        d.cuMemcpy3DPeer(&CUDA_MEMCPY3D_PEER { srcContext: CUcontext(bad), ..peer })
    });
    refused("cuMemcpy3DPeerAsync's dstContext", &|bad| {
        d.cuMemcpy3DPeerAsync(&CUDA_MEMCPY3D_PEER { dstContext: CUcontext(bad), ..peer }, o.stream)
    });
}

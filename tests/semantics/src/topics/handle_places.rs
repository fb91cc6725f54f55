//! One bad handle among good ones, in each place of each function: it is found there, whatever stands beside it, and the
//! good ones stay whole. Only for our drivers: a real one may dereference what is bad.
use super::handles::{destroy, make, Objects};
use crate::check::Check;
use crate::driver::{must, Driver};
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use zerogpu_abi::*;

include!(concat!(env!("OUT_DIR"), "/positions.rs"));

/// A parameter of a function that is a handle or a device address.
pub struct Position {
    name: &'static str,
    parameter: &'static str,
    kind: &'static str,
    /// Whether our drivers have the function.
    known: bool,
    /// Calls it with the bad value there; each number that it takes is the last argument.
    call: fn(&Driver, &Good, usize, u8) -> CUresult,
}

/// Bad value, bad context, bad handle, destroyed context.
const REFUSALS: &[u32] = &[1, 201, 400, 709];
const NOT_SUPPORTED: u32 = 801;

unsafe extern "C" fn no_function(_: *mut c_void) {}
unsafe extern "C" fn no_callback(_: CUstream, _: CUresult, _: *mut c_void) {}

const WORDS: usize = 1 << 13;
const BYTES: usize = 4096;
const PATTERN: u8 = 0x5A;

/// A good handle of each kind that our drivers have, and memory for all else.
pub(super) struct Good {
    pub objects: Objects,
    pub context: CUcontext,
    pub array: CUarray,
    link: CUlinkState,
    user: CUuserObject,
    /// A node of each kind, in one graph; and that instantiated.
    pub graph: CUgraph,
    pub exec: CUgraphExec,
    pub empty: CUgraphNode,
    pub kernel: CUgraphNode,
    pub copy: CUgraphNode,
    pub fill: CUgraphNode,
    host: CUgraphNode,
    pub record: CUgraphNode,
    pub wait: CUgraphNode,
    pub child: CUgraphNode,
    list: &'static [CUgraphNode],
    scratch: *mut u64,
    pointers: *mut *mut c_void,
}

impl Good {
    pub(super) fn make(d: &Driver, context: CUcontext) -> Self {
        let objects = make(d);
        let (mut array, mut link, mut user) = (CUarray::NULL, CUlinkState::NULL, CUuserObject::NULL);
        let desc = CUDA_ARRAY3D_DESCRIPTOR { Width: 64, Height: 8, Depth: 0, Format: 1, NumChannels: 1, Flags: 0 };
        must("cuArray3DCreate", d.cuArray3DCreate_v2(&mut array, &desc));
        must("cuLinkCreate", d.cuLinkCreate_v2(0, null_mut(), null_mut(), &mut link));
        must("cuUserObjectCreate", d.cuUserObjectCreate(&mut user, null_mut(), Some(no_function), 1, 1));
        let scratch: &'static mut [u64] = vec![0; WORDS].leak();
        let pointers: &'static mut [*mut c_void] = vec![null_mut(); 64].leak();
        let mut good = Self {
            objects,
            context,
            array,
            link,
            user,
            graph: CUgraph::NULL,
            exec: CUgraphExec::NULL,
            empty: CUgraphNode::NULL,
            kernel: CUgraphNode::NULL,
            copy: CUgraphNode::NULL,
            fill: CUgraphNode::NULL,
            host: CUgraphNode::NULL,
            record: CUgraphNode::NULL,
            wait: CUgraphNode::NULL,
            child: CUgraphNode::NULL,
            list: &[],
            scratch: scratch.as_mut_ptr(),
            pointers: pointers.as_mut_ptr(),
        };
        good.build(d);
        d.write(objects.memory, &[PATTERN; BYTES]);
        good
    }

    fn build(&mut self, d: &Driver) {
        let (o, graph) = (self.objects, &mut self.graph);
        must("cuGraphCreate", d.cuGraphCreate(graph, 0));
        let graph = *graph;
        let fill = memset_parameters(o.memory);
        let copy = copy_parameters(o.memory, o.memory + 2048);
        let kernel = kernel_parameters(&o, self.pointers());
        let host = CUDA_HOST_NODE_PARAMS { func: Some(no_function), userData: null_mut() };
        must("empty", d.cuGraphAddEmptyNode(&mut self.empty, graph, null(), 0));
        must("kernel", d.cuGraphAddKernelNode_v2(&mut self.kernel, graph, null(), 0, &kernel));
        must("memcpy", d.cuGraphAddMemcpyNode(&mut self.copy, graph, null(), 0, &copy, self.context));
        must("memset", d.cuGraphAddMemsetNode(&mut self.fill, graph, null(), 0, &fill, self.context));
        must("host", d.cuGraphAddHostNode(&mut self.host, graph, null(), 0, &host));
        must("record", d.cuGraphAddEventRecordNode(&mut self.record, graph, null(), 0, o.event));
        must("wait", d.cuGraphAddEventWaitNode(&mut self.wait, graph, null(), 0, o.event));
        must("child", d.cuGraphAddChildGraphNode(&mut self.child, graph, null(), 0, o.graph));
        must("cuGraphInstantiate", d.cuGraphInstantiateWithFlags(&mut self.exec, graph, 0));
        self.list = vec![self.empty].leak();
    }

    /// The handle of a kind; of nodes the one that the function is about. 0: there is none.
    fn get(&self, kind: &str, function: &str) -> usize {
        let o = &self.objects;
        match kind {
            "CUstream" => o.stream.0,
            "CUevent" => o.event.0,
            "CUcontext" => self.context.0,
            "CUmodule" => o.module.0,
            "CUfunction" => o.function.0,
            "CUlibrary" => o.library.0,
            "CUkernel" => o.kernel.0,
            "CUgraph" => self.graph.0,
            "CUgraphExec" => self.exec.0,
            "CUgraphNode" => self.node(function).0,
            "CUmemoryPool" => o.pool.0,
            "CUmemGenericAllocationHandle" => o.physical as usize,
            "CUdeviceptr" => o.memory as usize,
            "CUarray" => self.array.0,
            "CUlinkState" => self.link.0,
            "CUuserObject" => self.user.0,
            _ => 0,
        }
    }

    fn node(&self, function: &str) -> CUgraphNode {
        let kinds = [
            ("KernelNode", self.kernel),
            ("MemcpyNode", self.copy),
            ("MemsetNode", self.fill),
            ("HostNode", self.host),
            ("EventRecordNode", self.record),
            ("EventWaitNode", self.wait),
            ("ChildGraphNode", self.child),
        ];
        kinds.iter().find(|(kind, _)| function.contains(kind)).map_or(self.empty, |(_, node)| *node)
    }

    fn nodes(&self) -> *const CUgraphNode {
        self.list.as_ptr()
    }

    /// Zeros.
    fn scratch<T>(&self) -> *mut T {
        // SAFETY: of that size, and nobody looks at it meanwhile.
        unsafe { self.scratch.write_bytes(0, WORDS) };
        self.scratch.cast()
    }

    /// The device.
    fn location(&self) -> *mut CUmemLocation {
        let location: *mut CUmemLocation = self.scratch();
        // SAFETY: memory of ours, large enough and aligned.
        unsafe { location.write(CUmemLocation::device(0)) };
        location
    }

    /// Pointers to zeros: parameters of a kernel.
    pub(super) fn pointers(&self) -> *mut *mut c_void {
        // SAFETY: of that size, and nobody looks at it meanwhile.
        (0..64).for_each(|i| unsafe { self.pointers.add(i).write(self.scratch.cast()) });
        self.pointers
    }

    /// Everything is as it was made, and can be taken away.
    pub(super) fn end(self, d: &Driver, t: &mut Check) {
        let o = &self.objects;
        t.same("the current context", d.current(), self.context);
        t.code("the stream", d.cuStreamQuery(o.stream), 0);
        let mut capturing = 9;
        t.code("is it capturing", d.cuStreamIsCapturing(o.stream, &mut capturing), 0);
        t.same("no", capturing, 0);
        t.code("the event", d.cuEventQuery(o.event), 0);
        t.that("the memory", d.read(o.memory, BYTES) == [PATTERN; BYTES]);
        let (mut nodes, mut edges) = (0, 0);
        t.code("the graph", d.cuGraphGetNodes(self.graph, null_mut(), &mut nodes), 0);
        t.code("its edges", d.cuGraphGetEdges(self.graph, null_mut(), null_mut(), &mut edges), 0);
        t.same("its nodes and edges", (nodes, edges), (8, 0));
        take_away(d, t, &self);
    }
}

pub(super) fn memset_parameters(dst: CUdeviceptr) -> CUDA_MEMSET_NODE_PARAMS {
    CUDA_MEMSET_NODE_PARAMS { dst, pitch: 0, value: 7, elementSize: 1, width: 64, height: 1 }
}

/// A copy of 64 bytes between device addresses.
pub(super) fn copy_parameters(from: CUdeviceptr, to: CUdeviceptr) -> CUDA_MEMCPY3D {
    // SAFETY: numbers and pointers, which may be zero.
    let mut copy: CUDA_MEMCPY3D = unsafe { std::mem::zeroed() };
    (copy.srcMemoryType, copy.srcDevice, copy.srcPitch, copy.srcHeight) = (2, from, 64, 1);
    (copy.dstMemoryType, copy.dstDevice, copy.dstPitch, copy.dstHeight) = (2, to, 64, 1);
    (copy.WidthInBytes, copy.Height, copy.Depth) = (64, 1, 1);
    copy
}

pub(super) fn kernel_parameters(o: &Objects, values: *mut *mut c_void) -> CUDA_KERNEL_NODE_PARAMS {
    CUDA_KERNEL_NODE_PARAMS {
        func: o.function,
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 1,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        kernelParams: values,
        extra: null_mut(),
        kern: CUkernel::NULL,
        ctx: CUcontext::NULL,
    }
}

/// Values that are no handle and no device address.
pub(super) fn wild() -> [(&'static str, usize); 4] {
    [
        ("a small number", 8),
        ("a page that is not there", 0x1000),
        ("an address of nothing", 0xdead_beef_0000),
        ("the end of memory", usize::MAX - 7),
    ]
}

/// Functions that tell host memory from the device's by the address: what is not of the device is read as the host's.
const UNIFIED: [&str; 4] = ["cuMemcpy", "cuMemcpy_ptds", "cuMemcpyAsync", "cuMemcpyAsync_ptsz"];
const GONE: &str = "what is gone";
/// So far behind an allocation of the test's lies none.
const FAR: usize = 64 << 30;

/// What is bad in a place of this kind: what is nothing, what is of another kind, what is gone, and NULL where it names
/// nothing.
fn bad(good: &Good, gone: &Good, position: &Position) -> Vec<(&'static str, usize)> {
    let (kind, name) = (position.kind, position.name);
    let mut values = if kind == "CUdeviceptr" && UNIFIED.contains(&name) { vec![] } else { wild().to_vec() };
    if kind == "CUdeviceptr" {
        values.push(("a device address of nothing", good.objects.memory as usize + FAR));
    } else {
        values.push(("a misaligned address", 0x7000_0000_0001));
        let other = if kind == "CUevent" { good.objects.stream.0 } else { good.objects.event.0 };
        values.push(("a handle of another kind", other));
    }
    if gone.get(kind, name) != 0 && kind != "CUcontext" && kind != "CUdeviceptr" {
        values.push((GONE, gone.get(kind, name)));
    }
    if !["CUstream", "CUcontext", "CUdeviceptr"].contains(&kind) {
        values.push(("NULL", 0));
    }
    values
}

/// Each place of each function with each bad value.
pub fn each(d: &'static Driver, t: &mut Check) {
    let context = d.start();
    let (good, gone) = (Good::make(d, context), Good::make(d, context));
    take_away(d, t, &gone);
    for position in POSITIONS {
        for (what, value) in bad(&good, &gone, position) {
            // with zeros a function may refuse before it comes to the handle, with ones too
            for number in [0, 1] {
                let Position { name, parameter, known, .. } = position;
                println!("ok calling {name} with {what} as {parameter}");
                let got = (position.call)(d, &good, value, number);
                let text = format_args!("{name}: {what} as {parameter}, numbers {number}");
                if *known {
                    t.one_of(text, got, allowed(position, what));
                } else {
                    // softcuda has some that the shim has not
                    t.that(text, got.0 == NOT_SUPPORTED || REFUSALS.contains(&got.0));
                }
            }
        }
    }
    good.end(d, t);
}

fn take_away(d: &Driver, t: &mut Check, good: &Good) {
    t.code("cuLinkDestroy", d.cuLinkDestroy(good.link), 0);
    t.code("cuUserObjectRelease", d.cuUserObjectRelease(good.user, 1), 0);
    t.code("cuArrayDestroy", d.cuArrayDestroy(good.array), 0);
    t.code("cuGraphExecDestroy", d.cuGraphExecDestroy(good.exec), 0);
    t.code("cuGraphDestroy", d.cuGraphDestroy(good.graph), 0);
    destroy(d, &good.objects);
}

/// The codes that a bad value may get in a place.
fn allowed(position: &Position, what: &str) -> &'static [u32] {
    match position.name {
        // recorded: unloading what is no module any more succeeds
        "cuModuleUnload" if what == GONE => &[0],
        // cuda.h: not found
        "cuMemGetAddressRange_v2" => &[500],
        _ => REFUSALS,
    }
}

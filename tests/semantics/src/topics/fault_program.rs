//! A program whose driver below may refuse any call: it uses something of everything that a claim, a forwarded call and a
//! park do, and knows each byte that it may read.
use super::vmm;
use crate::driver::{must, Driver};
use crate::image;
use std::ffi::{c_void, CString};
use std::ptr::{null, null_mut};
use zerogpu_abi::*;
use zerogpu_hash::{write_bytes, PTX, THREADS, WRITE_BYTES};

const KIB: usize = 1 << 10;
const PAGE: usize = vmm::PAGE;
const TWIN: usize = 256 * KIB;

/// Goes on only where the driver did.
fn done(code: CUresult) -> Result<(), CUresult> {
    if code.ok() {
        Ok(())
    } else {
        Err(code)
    }
}

/// Memory of the device with what is in it, as far as that is known.
pub struct Shadow {
    name: &'static str,
    at: CUdeviceptr,
    bytes: Vec<u8>,
    known: Vec<bool>,
}

impl Shadow {
    /// Memory of zeros.
    fn new(name: &'static str, at: CUdeviceptr, size: usize) -> Self {
        Self { name, at, bytes: vec![0; size], known: vec![false; size] }
    }

    /// New memory, of which the first `known` bytes are written.
    pub fn filled(d: &Driver, name: &'static str, size: usize, known: usize, seed: u64) -> Self {
        let (mut shadow, bytes) = (Self::new(name, d.alloc(size), known), pattern(known, seed));
        d.write(shadow.at, &bytes);
        shadow.write(0, &bytes, CUresult::SUCCESS).expect("it was written");
        shadow
    }

    /// What a command that writes `bytes` has done: all of it, or, refused, anything.
    fn write(&mut self, offset: usize, bytes: &[u8], code: CUresult) -> Result<(), CUresult> {
        let range = offset..offset + bytes.len();
        self.bytes[range.clone()].copy_from_slice(bytes);
        self.known[range].fill(code.ok());
        done(code)
    }

    /// Whether memory has the bytes that are known; the error is why it can't be read.
    pub fn holds(&self, d: &Driver) -> Result<bool, CUresult> {
        let mut found = vec![0; self.bytes.len()];
        done(d.cuMemcpyDtoH_v2(found.as_mut_ptr().cast(), self.at, found.len()))?;
        let mut all = found.iter().zip(&self.bytes).zip(&self.known);
        Ok(all.all(|((found, want), known)| !known || found == want))
    }

    /// Its name, for messages.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// Some bytes that depend on a number.
fn pattern(size: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; size];
    write_bytes(&mut bytes, seed);
    bytes
}

/// What the program made before it ever claimed.
pub struct Program {
    d: &'static Driver,
    /// Never written again.
    data: Shadow,
    mapped: Shadow,
    /// A page that is written while it is mapped, and mapped nowhere in between.
    handle: CUmemGenericAllocationHandle,
    place: CUdeviceptr,
    aside: Shadow,
    pooled: Shadow,
    variable: Shadow,
    /// What a kernel outside of any region writes.
    late: Shadow,
    /// Written by all kinds of commands.
    twin: Shadow,
    pool: CUmemoryPool,
    pinned: *mut c_void,
    registered: Vec<u8>,
    empty: CUfunction,
    write: CUfunction,
    stream: CUstream,
    events: [CUevent; 2],
    graph: CUgraphExec,
}

unsafe extern "C" fn nothing(_: *mut c_void) {}

fn function(d: &Driver, image: *const c_void, name: &str) -> CUfunction {
    let (mut module, mut function) = (CUmodule::NULL, CUfunction::NULL);
    must("cuModuleLoadData", d.cuModuleLoadData(&mut module, image));
    let name = CString::new(name).expect("a name has no NUL");
    must("cuModuleGetFunction", d.cuModuleGetFunction(&mut function, module, name.as_ptr()));
    function
}

impl Program {
    /// Makes everything; nothing is claimed for it.
    pub fn new(d: &'static Driver) -> Self {
        let context = d.start();
        let fresh = |name, at, size, seed| {
            let mut shadow = Shadow::new(name, at, size);
            let bytes = pattern(size, seed);
            d.write(at, &bytes);
            shadow.write(0, &bytes, CUresult::SUCCESS).expect("it was written");
            shadow
        };
        let data = fresh("memory", d.alloc(3 * PAGE / 2), 3 * PAGE / 2, 1);
        let twin = fresh("a copy", d.alloc(TWIN + 4 * KIB), TWIN, 2);
        let late = fresh("what is written outside", d.alloc(64 * KIB), 64 * KIB, 3);
        let reserved = vmm::reserve(d, 4 * PAGE);
        vmm::map(d, reserved, PAGE, vmm::create(d, PAGE));
        let mapped = fresh("mapped memory", reserved, PAGE, 4);
        let (place, handle) = (reserved + 2 * PAGE as u64, vmm::create(d, PAGE));
        vmm::map(d, place, PAGE, handle);
        let aside = fresh("a handle that is mapped at times", place, PAGE, 5);
        must("cuMemUnmap", d.cuMemUnmap(place, PAGE));

        let (mut pool, mut at) = (CUmemoryPool::NULL, 0);
        must("cuMemPoolCreate", d.cuMemPoolCreate(&mut pool, &pool_on_device()));
        must("cuMemAllocFromPoolAsync", d.cuMemAllocFromPoolAsync(&mut at, 64 * KIB, pool, CUstream::NULL));
        let pooled = fresh("memory of a pool", at, 64 * KIB, 6);

        let mut pinned = null_mut();
        must("cuMemHostAlloc", d.cuMemHostAlloc(&mut pinned, 64 * KIB, 0));
        // SAFETY: 64 KiB that the driver gave.
        unsafe { std::slice::from_raw_parts_mut(pinned.cast::<u8>(), 64 * KIB) }.copy_from_slice(&pattern(64 * KIB, 7));
        let registered = vec![0; 2 * PAGE];

        let (mut module, mut empty) = (CUmodule::NULL, CUfunction::NULL);
        must("cuModuleLoadData", d.cuModuleLoadData(&mut module, image::CUBIN.as_ptr().cast()));
        must("cuModuleGetFunction", d.cuModuleGetFunction(&mut empty, module, c"probe".as_ptr()));
        must("cuFuncSetAttribute", d.cuFuncSetAttribute(empty, 9, 50));
        must("cuFuncSetCacheConfig", d.cuFuncSetCacheConfig(empty, 2));
        let (mut at, mut size) = (0, 0);
        must("cuModuleGetGlobal", d.cuModuleGetGlobal_v2(&mut at, &mut size, module, c"table".as_ptr()));
        let variable = fresh("a variable", at, size, 8);
        let write = function(d, PTX.as_ptr().cast(), WRITE_BYTES);

        // how threads wait, which cache is preferred, how deep stacks are: what a context is given at each claim
        must("cuDevicePrimaryCtxSetFlags", d.cuDevicePrimaryCtxSetFlags_v2(0, 4));
        must("cuCtxSetCacheConfig", d.cuCtxSetCacheConfig(2));
        must("cuCtxSetLimit", d.cuCtxSetLimit(0, 4096));
        let mut stream = CUstream::NULL;
        must("cuStreamCreateWithPriority", d.cuStreamCreateWithPriority(&mut stream, 1, -1));
        // CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY: yield
        let policy = CUlaunchAttributeValue { words: [2, 0, 0, 0, 0, 0, 0, 0] };
        must("cuStreamSetAttribute", d.cuStreamSetAttribute(stream, 3, &policy));
        let graph = graph(d, context, twin.at + 200 * KIB as u64);
        let events = [d.event(0), d.event(0)];
        Self {
            d,
            data,
            mapped,
            handle,
            place,
            aside,
            pooled,
            variable,
            late,
            twin,
            pool,
            pinned,
            registered,
            empty,
            write,
            stream,
            events,
            graph,
        }
    }

    /// All memory that can be read.
    pub fn shadows(&self) -> [&Shadow; 6] {
        [&self.data, &self.mapped, &self.pooled, &self.variable, &self.late, &self.twin]
    }

    fn launch_write(&self, at: CUdeviceptr, size: usize, seed: u64, stream: CUstream) -> CUresult {
        let mut words = [at, size as u64, seed];
        let mut params = words.each_mut().map(|word| std::ptr::from_mut(word).cast::<c_void>());
        let threads = THREADS as u32;
        self.d.cuLaunchKernel(self.write, 8, 1, 1, threads, 1, 1, 0, stream, params.as_mut_ptr(), null_mut())
    }

    /// A kernel that runs at the next claim; its error, if it has one, is somebody else's.
    pub fn outside(&mut self, round: u64) -> CUresult {
        let size = self.late.bytes.len();
        let code = self.launch_write(self.late.at, size, round, CUstream::NULL);
        let _told = self.late.write(0, &pattern(size, round), code);
        code
    }

    /// Whatever was recorded may have been refused: one of its errors was told.
    pub fn doubt_outside(&mut self) {
        self.late.known.fill(false);
    }

    /// The round's work up to the first refusal; memory that it took for the round is given back.
    pub fn work(&mut self, round: u64) -> Result<(), CUresult> {
        self.kernels(round)?;
        self.commands(round)?;
        self.waits()?;
        self.objects(round)?;
        self.memory(round)?;
        done(self.d.cuCtxSynchronize())?;
        done(self.d.cuStreamQuery(self.stream))
    }

    fn kernels(&mut self, round: u64) -> Result<(), CUresult> {
        let (d, s) = (self.d, self.stream);
        let seed = 100 + round;
        let code = self.launch_write(self.twin.at, 64 * KIB, seed, s);
        self.twin.write(0, &pattern(64 * KIB, seed), code)?;
        let (mut pointer, mut number) = (self.twin.at, 1i32);
        let mut values: [*mut c_void; 2] = [(&raw mut pointer).cast(), (&raw mut number).cast()];
        let params = values.as_mut_ptr();
        done(d.cuLaunchKernel(self.empty, 1, 1, 1, 32, 1, 1, 0, CUstream::NULL, params, null_mut()))?;
        // with the address of a variable, which differs on the card
        let mut variable = self.variable.at;
        let mut values: [*mut c_void; 2] = [(&raw mut variable).cast(), (&raw mut number).cast()];
        done(d.cuLaunchKernel(self.empty, 1, 1, 1, 32, 1, 1, 0, s, values.as_mut_ptr(), null_mut()))?;
        done(d.cuLaunchCooperativeKernel(self.empty, 1, 1, 1, 32, 1, 1, 0, s, params))?;
        // CU_LAUNCH_ATTRIBUTE_PRIORITY
        let value = CUlaunchAttributeValue { words: [u32::MAX as u64, 0, 0, 0, 0, 0, 0, 0] };
        let mut priority = CUlaunchAttribute { id: 8, pad: [0; 4], value };
        let config = CUlaunchConfig {
            gridDimX: 1,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: s,
            attrs: &mut priority,
            numAttrs: 1,
        };
        done(d.cuLaunchKernelEx(&config, self.empty, params, null_mut()))
    }

    /// Copies and memsets of each kind.
    fn commands(&mut self, round: u64) -> Result<(), CUresult> {
        let (d, s, twin, data) = (self.d, self.stream, &mut self.twin, &self.data);
        let at = |offset: usize| (offset, twin.at + offset as u64);
        let (a, b, c) = (at(64 * KIB), at(80 * KIB), at(96 * KIB));
        let (e, f, g, h) = (at(112 * KIB), at(113 * KIB), at(114 * KIB), at(115 * KIB));
        let (i, j, k, l) = (at(116 * KIB), at(120 * KIB), at(124 * KIB), at(128 * KIB));
        let fresh = pattern(16 * KIB, round);
        // SAFETY: page-locked memory of the program that nobody writes.
        let pinned = unsafe { std::slice::from_raw_parts(self.pinned.cast::<u8>(), 64 * KIB) };
        twin.write(a.0, &data.bytes[..16 * KIB], d.cuMemcpyDtoDAsync_v2(a.1, data.at, 16 * KIB, s))?;
        twin.write(b.0, &fresh, d.cuMemcpyHtoD_v2(b.1, fresh.as_ptr().cast(), fresh.len()))?;
        twin.write(c.0, &pinned[..1000], d.cuMemcpyHtoDAsync_v2(c.1, self.pinned, 1000, s))?;
        twin.write(c.0 + 1000, &pinned[..1000], d.cuMemcpyAsync(c.1 + 1000, self.pinned as u64, 1000, s))?;
        let x = round as u8 | 1;
        twin.write(e.0, &[x; 100], d.cuMemsetD8Async(e.1, x, 100, s))?;
        twin.write(f.0, &[x; 200], d.cuMemsetD16Async(f.1, u16::from_ne_bytes([x; 2]), 100, s))?;
        twin.write(g.0, &[x; 400], d.cuMemsetD32Async(g.1, u32::from_ne_bytes([x; 4]), 100, s))?;
        let rows = |bytes: usize, before: &[u8]| {
            let mut rows = before.to_vec();
            rows.chunks_mut(64).for_each(|row| row[..bytes].fill(x));
            rows
        };
        let before = |twin: &Shadow, offset: usize| twin.bytes[offset..offset + 640].to_vec();
        let want = rows(10, &before(twin, h.0));
        twin.write(h.0, &want, d.cuMemsetD2D8Async(h.1, 64, x, 10, 10, s))?;
        let want = rows(20, &before(twin, i.0));
        twin.write(i.0, &want, d.cuMemsetD2D16Async(i.1, 64, u16::from_ne_bytes([x; 2]), 10, 10, s))?;
        let want = rows(40, &before(twin, j.0));
        twin.write(j.0, &want, d.cuMemsetD2D32Async(j.1, 64, u32::from_ne_bytes([x; 4]), 10, 10, s))?;
        let mut want = before(twin, k.0);
        want.chunks_mut(64).zip(data.bytes.chunks(100)).for_each(|(row, from)| row[..50].copy_from_slice(&from[..50]));
        twin.write(k.0, &want, d.cuMemcpy2DAsync_v2(&plane(data.at, k.1), s))?;
        let words = [round as u32 + 5, 0, round as u32 + 6, 0].map(u32::to_le_bytes).concat();
        twin.write(l.0, &words[..4], d.cuStreamWriteValue32_v2(s, l.1, round as u32 + 5, 0))?;
        done(d.cuStreamWaitValue32_v2(s, l.1, round as u32 + 5, 0))?;
        twin.write(l.0 + 8, &words[8..], d.cuStreamWriteValue64_v2(s, l.1 + 8, round + 6, 0))?;
        done(d.cuStreamWaitValue64_v2(s, l.1 + 8, round + 6, 0))?;
        twin.write(200 * KIB, &[9; 1000], d.cuGraphLaunch(self.graph, s))?;
        done(self.touch_variable(500 + round))
    }

    /// Writes a module's variable, whose module is loaded for that if it is not.
    pub fn touch_variable(&mut self, seed: u64) -> CUresult {
        let variable = pattern(self.variable.bytes.len(), seed);
        let written = self.d.cuMemcpyHtoD_v2(self.variable.at, variable.as_ptr().cast(), variable.len());
        let _code = self.variable.write(0, &variable, written);
        written
    }

    /// Events, host functions, and all ways to wait.
    fn waits(&self) -> Result<(), CUresult> {
        let (d, s, [start, end]) = (self.d, self.stream, self.events);
        done(d.cuEventRecord(start, s))?;
        done(d.cuLaunchHostFunc(s, Some(nothing), null_mut()))?;
        done(d.cuEventRecord(end, s))?;
        done(d.cuStreamWaitEvent(CUstream::NULL, end, 0))?;
        let mut back = [0u8; 1000];
        done(d.cuMemcpyDtoHAsync_v2(back.as_mut_ptr().cast(), self.data.at, back.len(), s))?;
        done(d.cuStreamSynchronize(s))?;
        assert!(back[..] == self.data.bytes[..1000], "bytes that came back");
        done(d.cuEventQuery(end))?;
        done(d.cuEventSynchronize(end))?;
        done(d.cuEventElapsedTime(&mut 0.0, start, end))
    }

    /// Modules, links, tensor maps, streams and events that come and go while claimed.
    fn objects(&self, round: u64) -> Result<(), CUresult> {
        let d = self.d;
        let (mut module, mut function) = (CUmodule::NULL, CUfunction::NULL);
        must("cuModuleLoadData", d.cuModuleLoadData(&mut module, image::CUBIN.as_ptr().cast()));
        must("cuModuleGetFunction", d.cuModuleGetFunction(&mut function, module, c"probe".as_ptr()));
        let (mut pointer, mut number) = (self.data.at, 1i32);
        let mut values: [*mut c_void; 2] = [(&raw mut pointer).cast(), (&raw mut number).cast()];
        let launched =
            d.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, CUstream::NULL, values.as_mut_ptr(), null_mut());
        done(launched).and(done(d.cuModuleUnload(module)))?;
        self.link()?;
        self.tensor_maps()?;
        let (stream, event) = (d.stream(1), d.event(2));
        let used =
            done(d.cuMemsetD8Async(self.place_in_twin(), 7, 8, stream)).and(done(d.cuEventRecord(event, stream)));
        done(d.cuEventDestroy_v2(event)).and(done(d.cuStreamDestroy_v2(stream))).and(used)?;
        done(d.cuCtxSetLimit(0, 4096 + 1024 * (round as usize % 2)))?;
        done(d.cuCtxSetCacheConfig(1 + round as u32 % 2))
    }

    /// Bytes behind those that are looked at.
    fn place_in_twin(&self) -> CUdeviceptr {
        self.twin.at + TWIN as u64
    }

    fn link(&self) -> Result<(), CUresult> {
        let d = self.d;
        let (mut state, mut image, mut size) = (CUlinkState::NULL, null_mut(), 0);
        must("cuLinkCreate", d.cuLinkCreate_v2(0, null_mut(), null_mut(), &mut state));
        let code = image::fat_binary(90);
        let data = code.as_ptr().cast_mut().cast();
        must("cuLinkAddData", d.cuLinkAddData_v2(state, 2, data, code.len(), null(), 0, null_mut(), null_mut()));
        let linked = done(d.cuLinkComplete(state, &mut image, &mut size));
        must("cuLinkDestroy", d.cuLinkDestroy(state));
        linked
    }

    fn tensor_maps(&self) -> Result<(), CUresult> {
        let d = self.d;
        let mut map = super::tensor_maps::Place::default();
        done(super::tensor_maps::tiled(d, &mut map, self.data.at))?;
        done(d.cuTensorMapReplaceAddress(map.ptr(), self.twin.at as *mut c_void))?;
        done(super::tensor_maps::im2col(d, &mut map, self.data.at))
    }

    /// Memory that comes and goes while claimed.
    fn memory(&mut self, round: u64) -> Result<(), CUresult> {
        let d = self.d;
        let mut fresh = 0;
        done(d.cuMemAlloc_v2(&mut fresh, 3 * PAGE))?;
        let bytes = pattern(KIB, round);
        let mut back = vec![0; KIB];
        let used = done(d.cuMemcpyHtoD_v2(fresh, bytes.as_ptr().cast(), KIB))
            .and_then(|()| done(d.cuMemcpyDtoH_v2(back.as_mut_ptr().cast(), fresh, KIB)));
        done(d.cuMemFree_v2(fresh)).and(used)?;
        assert!(back == bytes, "bytes of memory made while claimed");

        done(d.cuMemMap(self.place, PAGE, 0, self.handle, 0))?;
        let used = self.use_mapped(round);
        // what is mapped has to go, or the next round can't map it: a refusal is tried again
        done(d.cuMemUnmap(self.place, PAGE)).or_else(|_| done(d.cuMemUnmap(self.place, PAGE))).and(used)?;

        let mut at = 0;
        done(d.cuMemAllocFromPoolAsync(&mut at, PAGE, self.pool, self.stream))?;
        done(d.cuMemFreeAsync(at, self.stream))?;
        let memory = self.registered.as_mut_ptr().cast::<c_void>();
        done(d.cuMemHostRegister_v2(memory, self.registered.len(), 0))?;
        done(d.cuMemHostUnregister(memory)).or_else(|_| done(d.cuMemHostUnregister(memory)))
    }

    fn use_mapped(&mut self, round: u64) -> Result<(), CUresult> {
        let d = self.d;
        done(vmm::allow(d, self.place, PAGE))?;
        let held = self.aside.holds(d)?;
        assert!(held, "bytes of a handle that was mapped nowhere");
        let bytes = pattern(KIB, 300 + round);
        let written = d.cuMemcpyHtoD_v2(self.place, bytes.as_ptr().cast(), KIB);
        self.aside.write(0, &bytes, written)
    }
}

/// A graph of a memset, a host function and an event.
fn graph(d: &Driver, context: CUcontext, at: CUdeviceptr) -> CUgraphExec {
    let (mut graph, mut node, mut exec) = (CUgraph::NULL, CUgraphNode::NULL, CUgraphExec::NULL);
    let fill = CUDA_MEMSET_NODE_PARAMS { dst: at, pitch: 0, value: 9, elementSize: 1, width: 1000, height: 1 };
    must("cuGraphCreate", d.cuGraphCreate(&mut graph, 0));
    must("cuGraphAddMemsetNode", d.cuGraphAddMemsetNode(&mut node, graph, null(), 0, &fill, context));
    let mut object = CUuserObject::NULL;
    must("cuUserObjectCreate", d.cuUserObjectCreate(&mut object, null_mut(), Some(nothing), 1, 1));
    must("cuGraphRetainUserObject", d.cuGraphRetainUserObject(graph, object, 1, 1));
    must("cuGraphInstantiateWithFlags", d.cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    exec
}

fn pool_on_device() -> CUmemPoolProps {
    CUmemPoolProps {
        allocType: 1,
        handleTypes: 0,
        location: CUmemLocation { kind: vmm::ON_DEVICE, id: 0 },
        win32SecurityAttributes: null_mut(),
        maxSize: 0,
        usage: 0,
        reserved: [0; 54],
    }
}

/// Ten rows of 50 bytes, from rows of 100 to rows of 64.
fn plane(from: CUdeviceptr, to: CUdeviceptr) -> CUDA_MEMCPY2D {
    const DEVICE: u32 = 2;
    CUDA_MEMCPY2D {
        srcXInBytes: 0,
        srcY: 0,
        srcMemoryType: DEVICE,
        srcHost: null(),
        srcDevice: from,
        srcArray: CUarray::NULL,
        srcPitch: 100,
        dstXInBytes: 0,
        dstY: 0,
        dstMemoryType: DEVICE,
        dstHost: null_mut(),
        dstDevice: to,
        dstArray: CUarray::NULL,
        dstPitch: 64,
        WidthInBytes: 50,
        Height: 10,
    }
}

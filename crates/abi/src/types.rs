//! The values and structs that cross the C boundary, as cuda.h lays them out (checked against cudarc's bindings in
//! tests/layout.rs). Field names are cuda.h's.
use std::ffi::c_void;

/// A driver's answer: 0 or an error code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(transparent)]
#[must_use]
pub struct CUresult(pub u32);

impl CUresult {
    /// Whether the call succeeded.
    pub fn ok(self) -> bool {
        self.0 == 0
    }
}

/// A result with the error code as its error; what implementations return inside, see [`code`].
pub type Res<T = ()> = Result<T, CUresult>;

/// Flattens a [`Res`] into what the C caller gets.
pub fn code(r: Res) -> CUresult {
    match r {
        Ok(()) => CUresult::SUCCESS,
        Err(e) => e,
    }
}

/// Device ordinal (an index, not a handle).
pub type CUdevice = i32;
/// Address in device memory (or in the unified address space).
pub type CUdeviceptr = u64;
/// Handle of physical memory (`cuMemCreate`).
pub type CUmemGenericAllocationHandle = u64;
/// A struct that nothing here looks into.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Opaque(u8);

macro_rules! handles {
    ($($name:ident)*) => {$(
        #[doc = concat!("An opaque `", stringify!($name), "`; never dereferenced.")]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
        #[repr(transparent)]
        pub struct $name(pub usize);
        impl $name {
            /// The handle 0.
            pub const NULL: Self = Self(0);
        }
    )*};
}
handles! {
    CUarray CUasyncCallbackHandle CUcontext CUdevResourceDesc CUevent CUexternalMemory CUexternalSemaphore CUfunction
    CUgraph CUgraphExec CUgraphNode CUgraphicsResource CUgreenCtx CUkernel CUlibrary CUlinkState CUlogsCallbackHandle
    CUmemoryPool CUmipmappedArray CUmodule CUstream CUsurfref CUtexref CUuserObject
}

/// The legacy default stream's two spellings are 0 and this.
pub const CU_STREAM_LEGACY: CUstream = CUstream(1);
/// The calling thread's default stream.
pub const CU_STREAM_PER_THREAD: CUstream = CUstream(2);

/// Host function of `cuLaunchHostFunc`.
pub type CUhostFn = Option<unsafe extern "C" fn(*mut c_void)>;
/// Callback of `cuStreamAddCallback`.
pub type CUstreamCallback = Option<unsafe extern "C" fn(CUstream, CUresult, *mut c_void)>;
/// Block size to dynamic shared memory size, for `cuOccupancyMaxPotentialBlockSize`.
pub type CUoccupancyB2DSize = Option<unsafe extern "C" fn(i32) -> usize>;

macro_rules! structs {
    ($($(#[$doc:meta])* $name:ident { $($field:ident : $ty:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy)]
        #[repr(C)]
        #[allow(missing_docs)]
        pub struct $name { $(pub $field: $ty),* }
    )*};
}
structs! {
    /// 16 bytes that name a device.
    CUuuid { bytes: [u8; 16] }
    /// Export of device memory to another process.
    CUipcMemHandle { reserved: [u8; 64] }
    /// Export of an event to another process.
    CUipcEventHandle { reserved: [u8; 64] }
    /// Export of one pool allocation.
    CUmemPoolPtrExportData { reserved: [u8; 64] }
    /// Where memory lives: `kind` is a CUmemLocationType, `id` a device or a NUMA node.
    CUmemLocation { kind: u32, id: i32 }
    /// What `cuMemCreate` is to make.
    CUmemAllocationProp {
        kind: u32, requestedHandleTypes: u32, location: CUmemLocation, win32HandleMetaData: *mut c_void,
        compressionType: u8, gpuDirectRDMACapable: u8, usage: u16, reserved: [u8; 4],
    }
    /// Access to a mapped range: `flags` 0 none, 1 read, 3 read and write.
    CUmemAccessDesc { location: CUmemLocation, flags: u32 }
    /// A pool to make.
    CUmemPoolProps {
        allocType: u32, handleTypes: u32, location: CUmemLocation, win32SecurityAttributes: *mut c_void,
        maxSize: usize, usage: u16, reserved: [u8; 54],
    }
    /// A 1-D or 2-D array.
    CUDA_ARRAY_DESCRIPTOR { Width: usize, Height: usize, Format: u32, NumChannels: u32 }
    /// A 3-D array.
    CUDA_ARRAY3D_DESCRIPTOR { Width: usize, Height: usize, Depth: usize, Format: u32, NumChannels: u32, Flags: u32 }
    /// A 2-D copy; memory types 1 host, 2 device, 3 array, 4 unified.
    CUDA_MEMCPY2D {
        srcXInBytes: usize, srcY: usize, srcMemoryType: u32, srcHost: *const c_void, srcDevice: CUdeviceptr,
        srcArray: CUarray, srcPitch: usize,
        dstXInBytes: usize, dstY: usize, dstMemoryType: u32, dstHost: *mut c_void, dstDevice: CUdeviceptr,
        dstArray: CUarray, dstPitch: usize, WidthInBytes: usize, Height: usize,
    }
    /// A 3-D copy.
    CUDA_MEMCPY3D {
        srcXInBytes: usize, srcY: usize, srcZ: usize, srcLOD: usize, srcMemoryType: u32, srcHost: *const c_void,
        srcDevice: CUdeviceptr, srcArray: CUarray, reserved0: *mut c_void, srcPitch: usize, srcHeight: usize,
        dstXInBytes: usize, dstY: usize, dstZ: usize, dstLOD: usize, dstMemoryType: u32, dstHost: *mut c_void,
        dstDevice: CUdeviceptr, dstArray: CUarray, reserved1: *mut c_void, dstPitch: usize, dstHeight: usize,
        WidthInBytes: usize, Height: usize, Depth: usize,
    }
    /// A 3-D copy between contexts.
    CUDA_MEMCPY3D_PEER {
        srcXInBytes: usize, srcY: usize, srcZ: usize, srcLOD: usize, srcMemoryType: u32, srcHost: *const c_void,
        srcDevice: CUdeviceptr, srcArray: CUarray, srcContext: CUcontext, srcPitch: usize, srcHeight: usize,
        dstXInBytes: usize, dstY: usize, dstZ: usize, dstLOD: usize, dstMemoryType: u32, dstHost: *mut c_void,
        dstDevice: CUdeviceptr, dstArray: CUarray, dstContext: CUcontext, dstPitch: usize, dstHeight: usize,
        WidthInBytes: usize, Height: usize, Depth: usize,
    }
    /// A launch with attributes.
    CUlaunchConfig {
        gridDimX: u32, gridDimY: u32, gridDimZ: u32, blockDimX: u32, blockDimY: u32, blockDimZ: u32,
        sharedMemBytes: u32, hStream: CUstream, attrs: *mut CUlaunchAttribute, numAttrs: u32,
    }
    /// One attribute of a launch.
    CUlaunchAttribute { id: u32, pad: [u8; 4], value: CUlaunchAttributeValue }
    /// The value of a launch, kernel node or stream attribute: a union of 64 bytes.
    CUlaunchAttributeValue { words: [u64; 8] }
    /// One launch of `cuLaunchCooperativeKernelMultiDevice`.
    CUDA_LAUNCH_PARAMS {
        function: CUfunction, gridDimX: u32, gridDimY: u32, gridDimZ: u32, blockDimX: u32, blockDimY: u32,
        blockDimZ: u32, sharedMemBytes: u32, hStream: CUstream, kernelParams: *mut *mut c_void,
    }
    /// A kernel node of CUDA 11.
    CUDA_KERNEL_NODE_PARAMS_v1 {
        func: CUfunction, gridDimX: u32, gridDimY: u32, gridDimZ: u32, blockDimX: u32, blockDimY: u32,
        blockDimZ: u32, sharedMemBytes: u32, kernelParams: *mut *mut c_void, extra: *mut *mut c_void,
    }
    /// A kernel node of CUDA 12 and newer.
    CUDA_KERNEL_NODE_PARAMS {
        func: CUfunction, gridDimX: u32, gridDimY: u32, gridDimZ: u32, blockDimX: u32, blockDimY: u32,
        blockDimZ: u32, sharedMemBytes: u32, kernelParams: *mut *mut c_void, extra: *mut *mut c_void,
        kern: CUkernel, ctx: CUcontext,
    }
    /// A memset node.
    CUDA_MEMSET_NODE_PARAMS { dst: CUdeviceptr, pitch: usize, value: u32, elementSize: u32, width: usize, height: usize }
    /// A host function node.
    CUDA_HOST_NODE_PARAMS { func: CUhostFn, userData: *mut c_void }
    /// A memory allocation node.
    CUDA_MEM_ALLOC_NODE_PARAMS {
        poolProps: CUmemPoolProps, accessDescs: *const CUmemAccessDesc, accessDescCount: usize, bytesize: usize,
        dptr: CUdeviceptr,
    }
    /// Any node; `words` is the union that `kind` selects.
    CUgraphNodeParams { kind: u32, reserved0: [i32; 3], words: [u64; 29], reserved2: i64 }
    /// How a graph is instantiated.
    CUDA_GRAPH_INSTANTIATE_PARAMS { flags: u64, hUploadStream: CUstream, hErrNode_out: CUgraphNode, result_out: u32 }
    /// Ports of an edge.
    CUgraphEdgeData { from_port: u8, to_port: u8, kind: u8, reserved: [u8; 5] }
    /// How an update of an executable graph went.
    CUgraphExecUpdateResultInfo { result: u32, errorNode: CUgraphNode, errorFromNode: CUgraphNode }
    /// A batched memory operation: a union of 48 bytes.
    CUstreamBatchMemOpParams { words: [u64; 6] }
    /// Affinity of a context.
    CUexecAffinityParam { kind: u32, smCount: u32 }
    /// A context to make.
    CUctxCreateParams { execAffinityParams: *mut CUexecAffinityParam, numExecAffinityParams: i32, cigParams: *mut c_void }
    /// Hints of a batched copy.
    CUmemcpyAttributes { srcAccessOrder: u32, srcLocHint: CUmemLocation, dstLocHint: CUmemLocation, flags: u32 }
    /// How long a process may take to be locked for its checkpoint.
    CUcheckpointLockArgs { timeoutMs: u32, reserved0: u32, reserved1: [u64; 7] }
    /// How a process is checkpointed.
    CUcheckpointCheckpointArgs { reserved: [u64; 8] }
    /// A card of a checkpoint, and the one that takes its place.
    CUcheckpointGpuPair { oldUuid: CUuuid, newUuid: CUuuid }
    /// Where a process is restored.
    CUcheckpointRestoreArgs {
        gpuPairs: *mut CUcheckpointGpuPair, gpuPairsCount: u32, reserved: [u8; 44], reserved1: u64,
    }
    /// How a process is unlocked.
    CUcheckpointUnlockArgs { reserved: [u64; 8] }
    /// The properties of `cuDeviceGetProperties`.
    CUdevprop {
        maxThreadsPerBlock: i32, maxThreadsDim: [i32; 3], maxGridSize: [i32; 3], sharedMemPerBlock: i32,
        totalConstantMemory: i32, SIMDWidth: i32, memPitch: i32, regsPerBlock: i32, clockRate: i32, textureAlign: i32,
    }
}

impl CUmemLocation {
    /// CU_MEM_LOCATION_TYPE_DEVICE.
    pub const DEVICE: u32 = 1;
    /// CU_MEM_LOCATION_TYPE_HOST; above it are the kinds of NUMA nodes: one by its number, and the thread's own.
    pub const HOST: u32 = 2;

    /// The memory of a device.
    pub const fn device(id: i32) -> CUmemLocation {
        CUmemLocation { kind: CUmemLocation::DEVICE, id }
    }
}

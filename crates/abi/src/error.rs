//! Result codes of the driver, their names and descriptions (cuda.h 13.0; texts as driver 535.309.01 gives them).
use crate::CUresult;
use std::ffi::CStr;

/// Looks up the name and the description of a result code; None for a number the driver does not know.
pub fn describe(code: CUresult) -> Option<(&'static CStr, &'static CStr)> {
    let at = TABLE.binary_search_by_key(&code.0, |row| row.0).ok()?;
    Some((TABLE[at].1, TABLE[at].2))
}

#[rustfmt::skip]
static TABLE: &[(u32, &CStr, &CStr)] = &[
    (0, c"CUDA_SUCCESS", c"no error"),
    (1, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
    (2, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
    (3, c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
    (4, c"CUDA_ERROR_DEINITIALIZED", c"driver shutting down"),
    (5, c"CUDA_ERROR_PROFILER_DISABLED", c"profiler disabled while using external profiling tool"),
    (6, c"CUDA_ERROR_PROFILER_NOT_INITIALIZED", c"profiler not initialized: call cudaProfilerInitialize()"),
    (7, c"CUDA_ERROR_PROFILER_ALREADY_STARTED", c"profiler already started"),
    (8, c"CUDA_ERROR_PROFILER_ALREADY_STOPPED", c"profiler already stopped"),
    (34, c"CUDA_ERROR_STUB_LIBRARY", c"CUDA driver is a stub library"),
    (36, c"CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER", c"API call is not supported in the installed CUDA driver"),
    (46, c"CUDA_ERROR_DEVICE_UNAVAILABLE", c"CUDA-capable device(s) is/are busy or unavailable"),
    (100, c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected"),
    (101, c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
    (102, c"CUDA_ERROR_DEVICE_NOT_LICENSED", c"device doesn't have valid Grid license"),
    (200, c"CUDA_ERROR_INVALID_IMAGE", c"device kernel image is invalid"),
    (201, c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
    (202, c"CUDA_ERROR_CONTEXT_ALREADY_CURRENT", c"context already current"),
    (205, c"CUDA_ERROR_MAP_FAILED", c"mapping of buffer object failed"),
    (206, c"CUDA_ERROR_UNMAP_FAILED", c"unmapping of buffer object failed"),
    (207, c"CUDA_ERROR_ARRAY_IS_MAPPED", c"array is mapped"),
    (208, c"CUDA_ERROR_ALREADY_MAPPED", c"resource already mapped"),
    (209, c"CUDA_ERROR_NO_BINARY_FOR_GPU", c"no kernel image is available for execution on the device"),
    (210, c"CUDA_ERROR_ALREADY_ACQUIRED", c"resource already acquired"),
    (211, c"CUDA_ERROR_NOT_MAPPED", c"resource not mapped"),
    (212, c"CUDA_ERROR_NOT_MAPPED_AS_ARRAY", c"resource not mapped as array"),
    (213, c"CUDA_ERROR_NOT_MAPPED_AS_POINTER", c"resource not mapped as pointer"),
    (214, c"CUDA_ERROR_ECC_UNCORRECTABLE", c"uncorrectable ECC error encountered"),
    (215, c"CUDA_ERROR_UNSUPPORTED_LIMIT", c"limit is not supported on this architecture"),
    (216, c"CUDA_ERROR_CONTEXT_ALREADY_IN_USE", c"exclusive-thread device already in use by a different thread"),
    (217, c"CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", c"peer access is not supported between these two devices"),
    (218, c"CUDA_ERROR_INVALID_PTX", c"a PTX JIT compilation failed"),
    (219, c"CUDA_ERROR_INVALID_GRAPHICS_CONTEXT", c"invalid OpenGL or DirectX context"),
    (220, c"CUDA_ERROR_NVLINK_UNCORRECTABLE", c"uncorrectable NVLink error detected during the execution"),
    (221, c"CUDA_ERROR_JIT_COMPILER_NOT_FOUND", c"PTX JIT compiler library not found"),
    (222, c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", c"the provided PTX was compiled with an unsupported toolchain."),
    (223, c"CUDA_ERROR_JIT_COMPILATION_DISABLED", c"PTX JIT compilation was disabled"),
    (224, c"CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY", c"the provided execution affinity is not supported"),
    (225, c"CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC", c"the provided PTX contains unsupported call to cudaDeviceSynchronize"),
    (226, c"CUDA_ERROR_CONTAINED", c"contained error encountered"),
    (300, c"CUDA_ERROR_INVALID_SOURCE", c"device kernel image is invalid"),
    (301, c"CUDA_ERROR_FILE_NOT_FOUND", c"file not found"),
    (302, c"CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND", c"shared object symbol not found"),
    (303, c"CUDA_ERROR_SHARED_OBJECT_INIT_FAILED", c"shared object initialization failed"),
    (304, c"CUDA_ERROR_OPERATING_SYSTEM", c"OS call failed or operation not supported on this OS"),
    (400, c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle"),
    (401, c"CUDA_ERROR_ILLEGAL_STATE", c"the operation cannot be performed in the present state"),
    (402, c"CUDA_ERROR_LOSSY_QUERY", c"attempted introspection would be semantically lossy"),
    (500, c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
    (600, c"CUDA_ERROR_NOT_READY", c"device not ready"),
    (700, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered"),
    (701, c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", c"too many resources requested for launch"),
    (702, c"CUDA_ERROR_LAUNCH_TIMEOUT", c"the launch timed out and was terminated"),
    (703, c"CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING", c"launch uses incompatible texturing mode"),
    (704, c"CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", c"peer access is already enabled"),
    (705, c"CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", c"peer access has not been enabled"),
    (708, c"CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE", c"cannot set while device is active in this process"),
    (709, c"CUDA_ERROR_CONTEXT_IS_DESTROYED", c"context is destroyed"),
    (710, c"CUDA_ERROR_ASSERT", c"device-side assert triggered"),
    (711, c"CUDA_ERROR_TOO_MANY_PEERS", c"peer mapping resources exhausted"),
    (712, c"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", c"part or all of the requested memory range is already mapped"),
    (713, c"CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", c"pointer does not correspond to a registered memory region"),
    (714, c"CUDA_ERROR_HARDWARE_STACK_ERROR", c"hardware stack error"),
    (715, c"CUDA_ERROR_ILLEGAL_INSTRUCTION", c"an illegal instruction was encountered"),
    (716, c"CUDA_ERROR_MISALIGNED_ADDRESS", c"misaligned address"),
    (717, c"CUDA_ERROR_INVALID_ADDRESS_SPACE", c"operation not supported on global/shared address space"),
    (718, c"CUDA_ERROR_INVALID_PC", c"invalid program counter"),
    (719, c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure"),
    (720, c"CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", c"too many blocks in cooperative launch"),
    (721, c"CUDA_ERROR_TENSOR_MEMORY_LEAK", c"tensor memory leaked"),
    (800, c"CUDA_ERROR_NOT_PERMITTED", c"operation not permitted"),
    (801, c"CUDA_ERROR_NOT_SUPPORTED", c"operation not supported"),
    (802, c"CUDA_ERROR_SYSTEM_NOT_READY", c"system not yet initialized"),
    (803, c"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", c"system has unsupported display driver / cuda driver combination"),
    (804, c"CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", c"forward compatibility was attempted on non supported HW"),
    (805, c"CUDA_ERROR_MPS_CONNECTION_FAILED", c"MPS client failed to connect to the MPS control daemon or the MPS server"),
    (806, c"CUDA_ERROR_MPS_RPC_FAILURE", c"the remote procedural call between the MPS server and the MPS client failed"),
    (807, c"CUDA_ERROR_MPS_SERVER_NOT_READY", c"MPS server is not ready to accept new MPS client requests"),
    (808, c"CUDA_ERROR_MPS_MAX_CLIENTS_REACHED", c"the hardware resources required to create MPS client have been exhausted"),
    (809, c"CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED", c"the hardware resources required to support device connections have been exhausted"),
    (810, c"CUDA_ERROR_MPS_CLIENT_TERMINATED", c"the MPS client has been terminated by the server"),
    (811, c"CUDA_ERROR_CDP_NOT_SUPPORTED", c"is using CUDA Dynamic Parallelism, but the current configuration, like MPS, does not support it"),
    (812, c"CUDA_ERROR_CDP_VERSION_MISMATCH", c"unsupported interaction between different versions of CUDA Dynamic Parallelism"),
    (900, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"operation not permitted when stream is capturing"),
    (901, c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", c"operation failed due to a previous error during capture"),
    (902, c"CUDA_ERROR_STREAM_CAPTURE_MERGE", c"operation would result in a merge of separate capture sequences"),
    (903, c"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", c"capture was not ended in the same stream as it began"),
    (904, c"CUDA_ERROR_STREAM_CAPTURE_UNJOINED", c"capturing stream has unjoined work"),
    (905, c"CUDA_ERROR_STREAM_CAPTURE_ISOLATION", c"dependency created on uncaptured work in another stream"),
    (906, c"CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", c"operation would make the legacy stream depend on a capturing blocking stream"),
    (907, c"CUDA_ERROR_CAPTURED_EVENT", c"operation not permitted on an event last recorded in a capturing stream"),
    (908, c"CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", c"attempt to terminate a thread-local capture sequence from another thread"),
    (909, c"CUDA_ERROR_TIMEOUT", c"wait operation timed out"),
    (910, c"CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", c"the graph update was not performed because it included changes which violated constraints specific to instantiated graph update"),
    (911, c"CUDA_ERROR_EXTERNAL_DEVICE", c"an async error has occured in external entity outside of CUDA"),
    (912, c"CUDA_ERROR_INVALID_CLUSTER_SIZE", c"a kernel launch error has occurred due to cluster misconfiguration"),
    (913, c"CUDA_ERROR_FUNCTION_NOT_LOADED", c"requested function is not loaded"),
    (914, c"CUDA_ERROR_INVALID_RESOURCE_TYPE", c"invalid resource type"),
    (915, c"CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION", c"invalid resource configuration"),
    (916, c"CUDA_ERROR_KEY_ROTATION", c"key rotation in progress"),
    (999, c"CUDA_ERROR_UNKNOWN", c"unknown error"),];

impl CUresult {
    /// no error
    pub const SUCCESS: CUresult = CUresult(0);
    /// invalid argument
    pub const INVALID_VALUE: CUresult = CUresult(1);
    /// out of memory
    pub const OUT_OF_MEMORY: CUresult = CUresult(2);
    /// initialization error
    pub const NOT_INITIALIZED: CUresult = CUresult(3);
    /// driver shutting down
    pub const DEINITIALIZED: CUresult = CUresult(4);
    /// profiler disabled while using external profiling tool
    pub const PROFILER_DISABLED: CUresult = CUresult(5);
    /// profiler not initialized: call cudaProfilerInitialize()
    pub const PROFILER_NOT_INITIALIZED: CUresult = CUresult(6);
    /// profiler already started
    pub const PROFILER_ALREADY_STARTED: CUresult = CUresult(7);
    /// profiler already stopped
    pub const PROFILER_ALREADY_STOPPED: CUresult = CUresult(8);
    /// CUDA driver is a stub library
    pub const STUB_LIBRARY: CUresult = CUresult(34);
    /// API call is not supported in the installed CUDA driver
    pub const CALL_REQUIRES_NEWER_DRIVER: CUresult = CUresult(36);
    /// CUDA-capable device(s) is/are busy or unavailable
    pub const DEVICE_UNAVAILABLE: CUresult = CUresult(46);
    /// no CUDA-capable device is detected
    pub const NO_DEVICE: CUresult = CUresult(100);
    /// invalid device ordinal
    pub const INVALID_DEVICE: CUresult = CUresult(101);
    /// device doesn't have valid Grid license
    pub const DEVICE_NOT_LICENSED: CUresult = CUresult(102);
    /// device kernel image is invalid
    pub const INVALID_IMAGE: CUresult = CUresult(200);
    /// invalid device context
    pub const INVALID_CONTEXT: CUresult = CUresult(201);
    /// context already current
    pub const CONTEXT_ALREADY_CURRENT: CUresult = CUresult(202);
    /// mapping of buffer object failed
    pub const MAP_FAILED: CUresult = CUresult(205);
    /// unmapping of buffer object failed
    pub const UNMAP_FAILED: CUresult = CUresult(206);
    /// array is mapped
    pub const ARRAY_IS_MAPPED: CUresult = CUresult(207);
    /// resource already mapped
    pub const ALREADY_MAPPED: CUresult = CUresult(208);
    /// no kernel image is available for execution on the device
    pub const NO_BINARY_FOR_GPU: CUresult = CUresult(209);
    /// resource already acquired
    pub const ALREADY_ACQUIRED: CUresult = CUresult(210);
    /// resource not mapped
    pub const NOT_MAPPED: CUresult = CUresult(211);
    /// resource not mapped as array
    pub const NOT_MAPPED_AS_ARRAY: CUresult = CUresult(212);
    /// resource not mapped as pointer
    pub const NOT_MAPPED_AS_POINTER: CUresult = CUresult(213);
    /// uncorrectable ECC error encountered
    pub const ECC_UNCORRECTABLE: CUresult = CUresult(214);
    /// limit is not supported on this architecture
    pub const UNSUPPORTED_LIMIT: CUresult = CUresult(215);
    /// exclusive-thread device already in use by a different thread
    pub const CONTEXT_ALREADY_IN_USE: CUresult = CUresult(216);
    /// peer access is not supported between these two devices
    pub const PEER_ACCESS_UNSUPPORTED: CUresult = CUresult(217);
    /// a PTX JIT compilation failed
    pub const INVALID_PTX: CUresult = CUresult(218);
    /// invalid OpenGL or DirectX context
    pub const INVALID_GRAPHICS_CONTEXT: CUresult = CUresult(219);
    /// uncorrectable NVLink error detected during the execution
    pub const NVLINK_UNCORRECTABLE: CUresult = CUresult(220);
    /// PTX JIT compiler library not found
    pub const JIT_COMPILER_NOT_FOUND: CUresult = CUresult(221);
    /// the provided PTX was compiled with an unsupported toolchain.
    pub const UNSUPPORTED_PTX_VERSION: CUresult = CUresult(222);
    /// PTX JIT compilation was disabled
    pub const JIT_COMPILATION_DISABLED: CUresult = CUresult(223);
    /// the provided execution affinity is not supported
    pub const UNSUPPORTED_EXEC_AFFINITY: CUresult = CUresult(224);
    /// the provided PTX contains unsupported call to cudaDeviceSynchronize
    pub const UNSUPPORTED_DEVSIDE_SYNC: CUresult = CUresult(225);
    /// contained error encountered
    pub const CONTAINED: CUresult = CUresult(226);
    /// device kernel image is invalid
    pub const INVALID_SOURCE: CUresult = CUresult(300);
    /// file not found
    pub const FILE_NOT_FOUND: CUresult = CUresult(301);
    /// shared object symbol not found
    pub const SHARED_OBJECT_SYMBOL_NOT_FOUND: CUresult = CUresult(302);
    /// shared object initialization failed
    pub const SHARED_OBJECT_INIT_FAILED: CUresult = CUresult(303);
    /// OS call failed or operation not supported on this OS
    pub const OPERATING_SYSTEM: CUresult = CUresult(304);
    /// invalid resource handle
    pub const INVALID_HANDLE: CUresult = CUresult(400);
    /// the operation cannot be performed in the present state
    pub const ILLEGAL_STATE: CUresult = CUresult(401);
    /// attempted introspection would be semantically lossy
    pub const LOSSY_QUERY: CUresult = CUresult(402);
    /// named symbol not found
    pub const NOT_FOUND: CUresult = CUresult(500);
    /// device not ready
    pub const NOT_READY: CUresult = CUresult(600);
    /// an illegal memory access was encountered
    pub const ILLEGAL_ADDRESS: CUresult = CUresult(700);
    /// too many resources requested for launch
    pub const LAUNCH_OUT_OF_RESOURCES: CUresult = CUresult(701);
    /// the launch timed out and was terminated
    pub const LAUNCH_TIMEOUT: CUresult = CUresult(702);
    /// launch uses incompatible texturing mode
    pub const LAUNCH_INCOMPATIBLE_TEXTURING: CUresult = CUresult(703);
    /// peer access is already enabled
    pub const PEER_ACCESS_ALREADY_ENABLED: CUresult = CUresult(704);
    /// peer access has not been enabled
    pub const PEER_ACCESS_NOT_ENABLED: CUresult = CUresult(705);
    /// cannot set while device is active in this process
    pub const PRIMARY_CONTEXT_ACTIVE: CUresult = CUresult(708);
    /// context is destroyed
    pub const CONTEXT_IS_DESTROYED: CUresult = CUresult(709);
    /// device-side assert triggered
    pub const ASSERT: CUresult = CUresult(710);
    /// peer mapping resources exhausted
    pub const TOO_MANY_PEERS: CUresult = CUresult(711);
    /// part or all of the requested memory range is already mapped
    pub const HOST_MEMORY_ALREADY_REGISTERED: CUresult = CUresult(712);
    /// pointer does not correspond to a registered memory region
    pub const HOST_MEMORY_NOT_REGISTERED: CUresult = CUresult(713);
    /// hardware stack error
    pub const HARDWARE_STACK_ERROR: CUresult = CUresult(714);
    /// an illegal instruction was encountered
    pub const ILLEGAL_INSTRUCTION: CUresult = CUresult(715);
    /// misaligned address
    pub const MISALIGNED_ADDRESS: CUresult = CUresult(716);
    /// operation not supported on global/shared address space
    pub const INVALID_ADDRESS_SPACE: CUresult = CUresult(717);
    /// invalid program counter
    pub const INVALID_PC: CUresult = CUresult(718);
    /// unspecified launch failure
    pub const LAUNCH_FAILED: CUresult = CUresult(719);
    /// too many blocks in cooperative launch
    pub const COOPERATIVE_LAUNCH_TOO_LARGE: CUresult = CUresult(720);
    /// tensor memory leaked
    pub const TENSOR_MEMORY_LEAK: CUresult = CUresult(721);
    /// operation not permitted
    pub const NOT_PERMITTED: CUresult = CUresult(800);
    /// operation not supported
    pub const NOT_SUPPORTED: CUresult = CUresult(801);
    /// system not yet initialized
    pub const SYSTEM_NOT_READY: CUresult = CUresult(802);
    /// system has unsupported display driver / cuda driver combination
    pub const SYSTEM_DRIVER_MISMATCH: CUresult = CUresult(803);
    /// forward compatibility was attempted on non supported HW
    pub const COMPAT_NOT_SUPPORTED_ON_DEVICE: CUresult = CUresult(804);
    /// MPS client failed to connect to the MPS control daemon or the MPS server
    pub const MPS_CONNECTION_FAILED: CUresult = CUresult(805);
    /// the remote procedural call between the MPS server and the MPS client failed
    pub const MPS_RPC_FAILURE: CUresult = CUresult(806);
    /// MPS server is not ready to accept new MPS client requests
    pub const MPS_SERVER_NOT_READY: CUresult = CUresult(807);
    /// the hardware resources required to create MPS client have been exhausted
    pub const MPS_MAX_CLIENTS_REACHED: CUresult = CUresult(808);
    /// the hardware resources required to support device connections have been exhausted
    pub const MPS_MAX_CONNECTIONS_REACHED: CUresult = CUresult(809);
    /// the MPS client has been terminated by the server
    pub const MPS_CLIENT_TERMINATED: CUresult = CUresult(810);
    /// is using CUDA Dynamic Parallelism, but the current configuration, like MPS, does not support it
    pub const CDP_NOT_SUPPORTED: CUresult = CUresult(811);
    /// unsupported interaction between different versions of CUDA Dynamic Parallelism
    pub const CDP_VERSION_MISMATCH: CUresult = CUresult(812);
    /// operation not permitted when stream is capturing
    pub const STREAM_CAPTURE_UNSUPPORTED: CUresult = CUresult(900);
    /// operation failed due to a previous error during capture
    pub const STREAM_CAPTURE_INVALIDATED: CUresult = CUresult(901);
    /// operation would result in a merge of separate capture sequences
    pub const STREAM_CAPTURE_MERGE: CUresult = CUresult(902);
    /// capture was not ended in the same stream as it began
    pub const STREAM_CAPTURE_UNMATCHED: CUresult = CUresult(903);
    /// capturing stream has unjoined work
    pub const STREAM_CAPTURE_UNJOINED: CUresult = CUresult(904);
    /// dependency created on uncaptured work in another stream
    pub const STREAM_CAPTURE_ISOLATION: CUresult = CUresult(905);
    /// operation would make the legacy stream depend on a capturing blocking stream
    pub const STREAM_CAPTURE_IMPLICIT: CUresult = CUresult(906);
    /// operation not permitted on an event last recorded in a capturing stream
    pub const CAPTURED_EVENT: CUresult = CUresult(907);
    /// attempt to terminate a thread-local capture sequence from another thread
    pub const STREAM_CAPTURE_WRONG_THREAD: CUresult = CUresult(908);
    /// wait operation timed out
    pub const TIMEOUT: CUresult = CUresult(909);
    /// the graph update was not performed because it included changes which violated constraints specific to instantiated graph update
    pub const GRAPH_EXEC_UPDATE_FAILURE: CUresult = CUresult(910);
    /// an async error has occured in external entity outside of CUDA
    pub const EXTERNAL_DEVICE: CUresult = CUresult(911);
    /// a kernel launch error has occurred due to cluster misconfiguration
    pub const INVALID_CLUSTER_SIZE: CUresult = CUresult(912);
    /// requested function is not loaded
    pub const FUNCTION_NOT_LOADED: CUresult = CUresult(913);
    /// invalid resource type
    pub const INVALID_RESOURCE_TYPE: CUresult = CUresult(914);
    /// invalid resource configuration
    pub const INVALID_RESOURCE_CONFIGURATION: CUresult = CUresult(915);
    /// key rotation in progress
    pub const KEY_ROTATION: CUresult = CUresult(916);
    /// unknown error
    pub const UNKNOWN: CUresult = CUresult(999);
}

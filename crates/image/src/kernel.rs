//! What an image says of its kernels and variables, in the driver's terms.
use crate::occupancy::Device;
use std::ops::Range;
use std::sync::Arc;

/// One parameter of a kernel, as `cuFuncGetParamInfo` gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Param {
    /// Place among the parameters, from 0.
    pub ordinal: u32,
    /// Offset in the parameter buffer, in bytes.
    pub offset: u32,
    /// Size in bytes; 0 for a texture or surface reference, which takes no part of the buffer.
    pub size: u32,
}

/// What a kernel asks of its launch with regard to clusters (compute capability 9.0 and later).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cluster {
    /// The launch needs a cluster size (`.explicitcluster`).
    pub must_be_set: bool,
    /// Blocks of a cluster in x, y and z as compiled in (`.reqnctapercluster`); zeros: free.
    pub required: [u32; 3],
}

/// Threads of a block that a kernel without launch bounds may have, on every architecture so far.
const MAX_THREADS: u32 = 1024;
/// Shared memory a block may have unless the app opts in to more, on every architecture so far.
const SHARED_WITHOUT_OPT_IN: u32 = 48 << 10;

/// A kernel of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// Symbol name (mangled, in C++).
    pub name: Arc<str>,
    /// 32-bit registers of a thread.
    pub registers: u32,
    /// Most threads of a block by the kernel's launch bounds; 1024 without any. See [`Kernel::attribute`] for the
    /// device's word on it.
    pub max_threads: u32,
    /// Static shared memory of a block in bytes, without what the system reserves.
    pub shared_static: u32,
    /// Local memory (stack frame) of a thread in bytes, callees included unless they recurse.
    pub local: u32,
    /// The module's `__constant__` variables in bytes.
    pub const_size: u32,
    /// Virtual architecture compiled for (`compute_80`: 80).
    pub ptx_version: u32,
    /// Architecture of the machine code (`sm_80`: 80); for PTX, that of the device.
    pub binary_version: u32,
    /// Parameters by ordinal.
    pub params: Box<[Param]>,
    /// Size of the parameter buffer.
    pub param_bytes: u32,
    /// Barriers of a block (limits occupancy from compute capability 9.0).
    pub barriers: u32,
    /// Compiled with `-dlcm=ca`.
    pub cache_all: bool,
    /// Cluster requirements.
    pub cluster: Cluster,
    /// From PTX: registers, local memory and barriers are guesses until a driver has compiled it.
    pub estimated: bool,
}

impl Kernel {
    /// A kernel that needs nothing, of that name.
    pub(crate) fn new(name: Arc<str>) -> Kernel {
        Kernel {
            name,
            registers: 0,
            max_threads: MAX_THREADS,
            shared_static: 0,
            local: 0,
            const_size: 0,
            ptx_version: 0,
            binary_version: 0,
            params: Box::default(),
            param_bytes: 0,
            barriers: 0,
            cache_all: false,
            cluster: Cluster::default(),
            estimated: false,
        }
    }

    /// Bytes of dynamic shared memory a launch may ask for unless the app sets another limit.
    pub fn max_dynamic_shared(&self) -> u32 {
        SHARED_WITHOUT_OPT_IN.saturating_sub(self.shared_static)
    }

    /// What a driver answers on `device` for the `CUfunction_attribute` of that number, before the app has set any;
    /// None for a number that no driver up to CUDA 13.0 knows.
    pub fn attribute(&self, number: u32, device: &Device) -> Option<i32> {
        let value = match number {
            0 => device.max_threads(self),
            1 => self.shared_static,
            2 => self.const_size,
            3 => self.local,
            4 => self.registers,
            5 => self.ptx_version,
            6 => self.binary_version,
            7 => self.cache_all.into(),
            8 => self.max_dynamic_shared(),
            // The shared memory carveout: no preference.
            9 => return Some(-1),
            10 => self.cluster.must_be_set.into(),
            11..=13 => self.cluster.required[number as usize - 11],
            // Non-portable cluster sizes and the cluster scheduling policy are the app's to set.
            14 | 15 => 0,
            _ => return None,
        };
        Some(i32::try_from(value).unwrap_or(i32::MAX))
    }
}

/// A module variable (`__device__`, `__constant__`, `__managed__`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Global {
    /// Symbol name.
    pub name: Arc<str>,
    /// Size in bytes.
    pub size: u64,
    /// In constant memory.
    pub constant: bool,
    /// In managed memory.
    pub managed: bool,
    /// The loader writes addresses into its first contents (as in `__device__ int *p = &x`), so they are known only
    /// once a driver has loaded the module.
    pub relocated: bool,
    /// Where [`crate::Image::initial`] finds the first contents; None: zeros.
    pub(crate) initial: Option<Range<usize>>,
}

//! What bounds how many blocks of a kernel fit on a multiprocessor.

use crate::Profile;

/// Limits of a multiprocessor, as an occupancy calculation wants them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Threads of a warp.
    pub warp_size: u32,
    /// Threads of a block at most.
    pub threads_per_block: u32,
    /// Warps of a multiprocessor.
    pub warps: u32,
    /// Blocks of a multiprocessor.
    pub blocks: u32,
    /// 32-bit registers of a multiprocessor.
    pub registers: u32,
    /// 32-bit registers of a block at most.
    pub registers_per_block: u32,
    /// Registers of a thread at most.
    pub registers_per_thread: u32,
    /// A warp's registers are rounded up to a multiple of this.
    pub register_unit: u32,
    /// A block's warps are rounded up to a multiple of this when registers are counted: one share per scheduler.
    pub warp_unit: u32,
    /// Bytes of shared memory of a multiprocessor.
    pub shared: u32,
    /// Bytes of shared memory of a block, unless the kernel opted in to more.
    pub shared_per_block: u32,
    /// Bytes of shared memory of a block that opted in.
    pub shared_per_block_optin: u32,
    /// Bytes of shared memory that the system takes from each block.
    pub shared_reserved: u32,
    /// A block's shared memory is rounded up to a multiple of this many bytes.
    pub shared_unit: u32,
}

impl Profile {
    /// The limits that follow from the attributes; the allocation units are those that NVIDIA's occupancy calculator
    /// has for 8.0 and 9.0.
    pub fn limits(&self) -> Limits {
        let value = |number| self.attribute(number).and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
        let warp_size = value(10);
        Limits {
            warp_size,
            threads_per_block: value(1),
            warps: value(39) / warp_size,
            blocks: value(106),
            registers: value(82),
            registers_per_block: value(12),
            registers_per_thread: 255,
            register_unit: 256,
            warp_unit: 4,
            shared: value(81),
            shared_per_block: value(8),
            shared_per_block_optin: value(97),
            shared_reserved: value(111),
            shared_unit: 128,
        }
    }
}

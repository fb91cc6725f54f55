//! How many blocks of a kernel run at once on a multiprocessor: the rules that NVIDIA publishes with the toolkit
//! (`cuda_occupancy.h`), for compute capability 7.0 and later.
use crate::Kernel;

/// Threads of a warp.
const WARP: u32 = 32;
/// Parts of a multiprocessor that each have a share of its registers and warps.
const SUB_PARTITIONS: u32 = 4;
/// Registers are given to a warp in multiples of this.
const REGISTER_UNIT: u32 = 256;
/// Registers a thread may have.
const MAX_REGISTERS: u32 = 256;

/// What limits the blocks of a kernel on a device. All but `cc` are device attributes (`CU_DEVICE_ATTRIBUTE_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Device {
    /// Compute capability.
    pub cc: (u32, u32),
    /// Number of multiprocessors.
    pub multiprocessors: u32,
    /// `MAX_THREADS_PER_BLOCK`.
    pub threads_per_block: u32,
    /// `MAX_THREADS_PER_MULTIPROCESSOR`.
    pub threads_per_multiprocessor: u32,
    /// `MAX_BLOCKS_PER_MULTIPROCESSOR`.
    pub blocks_per_multiprocessor: u32,
    /// `MAX_REGISTERS_PER_BLOCK`.
    pub registers_per_block: u32,
    /// `MAX_REGISTERS_PER_MULTIPROCESSOR`.
    pub registers_per_multiprocessor: u32,
    /// `MAX_SHARED_MEMORY_PER_BLOCK`, in bytes.
    pub shared_per_block: u32,
    /// `MAX_SHARED_MEMORY_PER_BLOCK_OPTIN`, in bytes.
    pub shared_per_block_optin: u32,
    /// `MAX_SHARED_MEMORY_PER_MULTIPROCESSOR`, in bytes.
    pub shared_per_multiprocessor: u32,
    /// `RESERVED_SHARED_MEMORY_PER_BLOCK`, in bytes.
    pub shared_reserved_per_block: u32,
}

/// What the app has set on a function and what counts for its occupancy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Most dynamic shared memory of a launch in bytes (function attribute 8).
    pub max_dynamic_shared: u32,
    /// Preferred share of shared memory in percent, or -1 (function attribute 9).
    pub carveout: i32,
}

impl Config {
    /// What holds for a kernel as long as the app has set nothing.
    pub fn of(kernel: &Kernel) -> Config {
        Config { max_dynamic_shared: kernel.max_dynamic_shared(), carveout: -1 }
    }
}

impl Device {
    /// Most threads a block of the kernel may have: its launch bounds, and what its registers allow.
    pub fn max_threads(&self, kernel: &Kernel) -> u32 {
        let bound = kernel.max_threads.min(self.threads_per_block);
        match self.registers_per_warp(kernel) {
            0 => bound,
            each => {
                let warps = self.registers_per_block / each / SUB_PARTITIONS * SUB_PARTITIONS;
                bound.min(warps.saturating_mul(WARP))
            }
        }
    }

    /// Blocks of `block_size` threads with `dynamic` bytes of dynamic shared memory that run at once on one
    /// multiprocessor (`cuOccupancyMaxActiveBlocksPerMultiprocessor`); 0: such a launch fails.
    pub fn active_blocks(&self, kernel: &Kernel, config: Config, block_size: u32, dynamic: u64) -> u32 {
        if block_size == 0 {
            return 0;
        }
        let warps = block_size.div_ceil(WARP);
        [
            self.blocks_per_multiprocessor,
            self.by_threads(block_size, warps),
            self.by_registers(kernel, warps),
            self.by_shared(kernel, config, dynamic),
            self.by_barriers(kernel),
        ]
        .into_iter()
        .min()
        .unwrap_or(0)
    }

    /// The smallest grid and the block size that keep the device busiest (`cuOccupancyMaxPotentialBlockSize`), in that
    /// order. `dynamic` gives the dynamic shared memory for a block size; `limit` caps the block size (0: no cap).
    pub fn potential_block_size(
        &self,
        kernel: &Kernel,
        config: Config,
        limit: u32,
        mut dynamic: impl FnMut(u32) -> u64,
    ) -> (u32, u32) {
        let limit = if limit == 0 { u32::MAX } else { limit };
        let limit = limit.min(self.max_threads(kernel));
        let (mut best, mut grid, mut size) = (0, 0, 0);
        for aligned in (1..=limit.div_ceil(WARP)).rev().map(|warps| warps * WARP) {
            let block_size = aligned.min(limit);
            let blocks = self.active_blocks(kernel, config, block_size, dynamic(block_size));
            if blocks * block_size > best {
                (best, grid, size) = (blocks * block_size, blocks * self.multiprocessors, block_size);
            }
            if best == self.threads_per_multiprocessor {
                break;
            }
        }
        (grid, size)
    }

    /// Most dynamic shared memory in bytes with which `blocks` blocks of `block_size` threads still run at once on one
    /// multiprocessor (`cuOccupancyAvailableDynamicSMemPerBlock`); None: not even with none, or no blocks asked for.
    pub fn available_dynamic_shared(
        &self,
        kernel: &Kernel,
        config: Config,
        blocks: u32,
        block_size: u32,
    ) -> Option<u64> {
        if blocks == 0 || self.active_blocks(kernel, config, block_size, 0) < blocks {
            return None;
        }
        let per_block = self.shared_per_block_optin + self.shared_reserved_per_block;
        let total = match blocks {
            1 => per_block,
            _ => self.preferred_shared(config).max(self.smallest_carveout()),
        };
        let unit = self.shared_unit();
        let each = (total / blocks / unit * unit).min(per_block);
        let each = each.saturating_sub(kernel.shared_static + self.shared_reserved_per_block);
        Some(each.min(config.max_dynamic_shared).into())
    }

    fn registers_per_warp(&self, kernel: &Kernel) -> u32 {
        kernel.registers.saturating_mul(WARP).checked_next_multiple_of(REGISTER_UNIT).unwrap_or(u32::MAX)
    }

    fn by_threads(&self, block_size: u32, warps: u32) -> u32 {
        match block_size > self.threads_per_block {
            true => 0,
            false => self.threads_per_multiprocessor / WARP / warps,
        }
    }

    fn by_registers(&self, kernel: &Kernel, warps: u32) -> u32 {
        let each = self.registers_per_warp(kernel);
        if each == 0 {
            return u32::MAX;
        }
        // The hardware checks a launch as if each sub-partition got the same number of warps.
        let checked = u64::from(each) * u64::from(warps.next_multiple_of(SUB_PARTITIONS));
        if checked > self.registers_per_block.into() || kernel.registers > MAX_REGISTERS {
            return 0;
        }
        self.registers_per_multiprocessor / SUB_PARTITIONS / each * SUB_PARTITIONS / warps
    }

    fn by_shared(&self, kernel: &Kernel, config: Config, dynamic: u64) -> u32 {
        let fixed = u64::from(kernel.shared_static) + u64::from(self.shared_reserved_per_block);
        let used = (fixed + dynamic.min(u32::MAX.into())).next_multiple_of(self.shared_unit().into());
        let opted_in = fixed + u64::from(config.max_dynamic_shared) > self.shared_per_block.into();
        let limit = if opted_in { self.shared_per_block_optin } else { self.shared_per_block };
        if dynamic > config.max_dynamic_shared.into() || used > u64::from(limit + self.shared_reserved_per_block) {
            return 0;
        }
        // A preference below what one block needs is ignored.
        let total = match u64::from(self.preferred_shared(config)) {
            preferred if preferred >= used => preferred,
            _ => self.carveout_for(used).into(),
        };
        total.checked_div(used).map_or(u32::MAX, |blocks| u32::try_from(blocks).unwrap_or(u32::MAX))
    }

    fn by_barriers(&self, kernel: &Kernel) -> u32 {
        let available = match self.cc {
            (..=8, _) => return u32::MAX,
            (10, 1) | (11, 0) | (12.., _) => self.blocks_per_multiprocessor,
            _ => self.blocks_per_multiprocessor * 2,
        };
        available.checked_div(kernel.barriers).unwrap_or(u32::MAX)
    }

    /// Shared memory is given to a block in multiples of this.
    fn shared_unit(&self) -> u32 {
        if self.cc.0 >= 8 {
            128
        } else {
            256
        }
    }

    /// Shared memory of a multiprocessor under the function's carveout, in bytes.
    fn preferred_shared(&self, config: Config) -> u32 {
        let wanted = match config.carveout {
            0..=100 => u64::from(self.shared_per_multiprocessor) * config.carveout.unsigned_abs() as u64 / 100,
            _ => self.shared_per_multiprocessor.into(),
        };
        self.carveout_for(wanted)
    }

    fn smallest_carveout(&self) -> u32 {
        self.carveout_for(1)
    }

    /// The smallest division of the multiprocessor's memory that gives `bytes` of shared memory.
    fn carveout_for(&self, bytes: u64) -> u32 {
        let sizes: &[u32] = match self.cc {
            (7, 5) => &[32, 64],
            (7, _) => &[0, 8, 16, 32, 64, 96],
            (8, 0 | 7) => &[0, 8, 16, 32, 64, 100, 132, 164],
            (8, _) | (12, _) => &[0, 8, 16, 32, 64, 100],
            _ => &[0, 8, 16, 32, 64, 100, 132, 164, 196, 228],
        };
        let largest = self.shared_per_multiprocessor;
        sizes.iter().map(|kib| kib << 10).find(|&size| u64::from(size) >= bytes).unwrap_or(largest).min(largest)
    }
}

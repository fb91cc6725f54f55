//! Occupancy: from the kernel's image and the card's limits.
use super::*;
use crate::objects::{device, Function};
use crate::runtime::lock;
use zerogpu_abi::*;
use zerogpu_image::occupancy::Device;

fn with<T>(f: usize, ask: impl FnOnce(&Function, &Device) -> T) -> Res<T> {
    let function = lock()?.any_function(f)?.clone();
    Ok(ask(&function, &device()?))
}

pub unsafe fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    numBlocks: *mut i32,
    func: CUfunction,
    blockSize: i32,
    dynamicSMemSize: usize,
) -> CUresult {
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(numBlocks, func, blockSize, dynamicSMemSize, 0)
}

pub unsafe fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    numBlocks: *mut i32,
    func: CUfunction,
    blockSize: i32,
    dynamicSMemSize: usize,
    flags: u32,
) -> CUresult {
    answer(|| {
        wanted(numBlocks)?;
        if blockSize <= 0 || flags > 1 {
            return Err(CUresult::INVALID_VALUE);
        }
        let blocks =
            with(func.0, |f, d| d.active_blocks(&f.kernel, f.occupancy(), blockSize as u32, dynamicSMemSize as u64))?;
        out(numBlocks, blocks as i32)
    })
}

pub unsafe fn cuOccupancyMaxPotentialBlockSize(
    minGridSize: *mut i32,
    blockSize: *mut i32,
    func: CUfunction,
    toSize: CUoccupancyB2DSize,
    dynamicSMemSize: usize,
    blockSizeLimit: i32,
) -> CUresult {
    cuOccupancyMaxPotentialBlockSizeWithFlags(minGridSize, blockSize, func, toSize, dynamicSMemSize, blockSizeLimit, 0)
}

pub unsafe fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    minGridSize: *mut i32,
    blockSize: *mut i32,
    func: CUfunction,
    toSize: CUoccupancyB2DSize,
    dynamicSMemSize: usize,
    blockSizeLimit: i32,
    flags: u32,
) -> CUresult {
    answer(|| {
        wanted(minGridSize)?;
        wanted(blockSize)?;
        if blockSizeLimit < 0 || flags > 1 {
            return Err(CUresult::INVALID_VALUE);
        }
        let dynamic = |block: u32| match toSize {
            Some(of) => of(block as i32) as u64,
            None => dynamicSMemSize as u64,
        };
        let (grid, block) =
            with(func.0, |f, d| d.potential_block_size(&f.kernel, f.occupancy(), blockSizeLimit as u32, dynamic))?;
        out(minGridSize, grid as i32)?;
        out(blockSize, block as i32)
    })
}

pub unsafe fn cuOccupancyAvailableDynamicSMemPerBlock(
    dynamicSmemSize: *mut usize,
    func: CUfunction,
    numBlocks: i32,
    blockSize: i32,
) -> CUresult {
    answer(|| {
        wanted(dynamicSmemSize)?;
        if numBlocks <= 0 || blockSize <= 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let bytes = with(func.0, |f, d| {
            d.available_dynamic_shared(&f.kernel, f.occupancy(), numBlocks as u32, blockSize as u32)
        })?;
        out(dynamicSmemSize, bytes.ok_or(CUresult::INVALID_VALUE)? as usize)
    })
}

/// Blocks of a cluster: attribute 4 of a launch.
const CLUSTER_DIMENSION: u32 = 4;
/// Blocks that a cluster may have on every card with clusters (CUDA programming guide).
const PORTABLE_CLUSTER: u32 = 8;

/// GPCs of a card with clusters, which lie in one each: 8, of multiprocessors in pairs (NVIDIA's H100 white paper).
const GPCS: u32 = 8;

/// Multiprocessors of each GPC. Which pairs of a chip are off differs; here they are shared as evenly as can be: 132 are
/// 18, 18 and six times 16. cuBLAS 12.1 asks for many sizes of clusters, and refuses answers that no layout gives.
fn gpcs(multiprocessors: u32) -> impl Iterator<Item = u32> {
    let pairs = multiprocessors / 2;
    (0..GPCS).map(move |gpc| 2 * (pairs / GPCS + u32::from(gpc < pairs % GPCS)))
}

unsafe fn cluster_size(config: &CUlaunchConfig) -> Res<u32> {
    let attrs = array(config.attrs, config.numAttrs as usize)?;
    let dims = attrs.iter().find(|a| a.id == CLUSTER_DIMENSION).map(|a| a.value.words);
    Ok(dims.map_or(1, |w| {
        let (x, y, z) = (w[0] as u32, (w[0] >> 32) as u32, w[1] as u32);
        x.max(1).saturating_mul(y.max(1)).saturating_mul(z.max(1))
    }))
}

pub unsafe fn cuOccupancyMaxActiveClusters(
    numClusters: *mut i32,
    func: CUfunction,
    config: *const CUlaunchConfig,
) -> CUresult {
    answer(|| {
        wanted(numClusters)?;
        let c = input(config)?;
        let size = cluster_size(&c)?;
        let threads = c.blockDimX.saturating_mul(c.blockDimY).saturating_mul(c.blockDimZ);
        let clusters = with(func.0, |f, d| {
            let blocks = d.active_blocks(&f.kernel, f.occupancy(), threads, c.sharedMemBytes as u64);
            gpcs(d.multiprocessors).map(|of_gpc| of_gpc * blocks / size.max(1)).sum::<u32>()
        })?;
        out(numClusters, clusters as i32)
    })
}

pub unsafe fn cuOccupancyMaxPotentialClusterSize(
    clusterSize: *mut i32,
    func: CUfunction,
    config: *const CUlaunchConfig,
) -> CUresult {
    answer(|| {
        wanted(clusterSize)?;
        input(config)?;
        let has_clusters = with(func.0, |_, d| d.cc.0 >= 9)?;
        out(clusterSize, if has_clusters { PORTABLE_CLUSTER as i32 } else { 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_lie_in_one_gpc_each() {
        let clusters = |size: u32| gpcs(132).map(|of_gpc| of_gpc / size).sum::<u32>();
        assert_eq!(gpcs(132).collect::<Vec<_>>(), [18, 18, 16, 16, 16, 16, 16, 16]);
        assert_eq!([18, 16, 10, 8, 4, 2, 1].map(clusters), [2, 8, 8, 16, 32, 66, 132]);
    }
}

//! Occupancy against the results of NVIDIA's own header (data/occupancy.cpp tells how they were made).
use proptest::prelude::*;
use zerogpu_image::occupancy::{Config, Device};
use zerogpu_image::{Cluster, Kernel};

fn device(cc: (u32, u32)) -> Device {
    let (multiprocessors, threads, blocks, shared, optin, reserved) = match cc {
        (7, 5) => (40, 1024, 16, 65536, 65536, 0),
        (8, 0) => (108, 2048, 32, 167936, 166912, 1024),
        (8, 6) => (84, 1536, 16, 102400, 101376, 1024),
        (9, 0) => (132, 2048, 32, 233472, 232448, 1024),
        (10, 0) => (148, 2048, 32, 233472, 232448, 1024),
        (12, 0) => (170, 1536, 24, 102400, 101376, 1024),
        _ => panic!("no such device here"),
    };
    Device {
        cc,
        multiprocessors,
        threads_per_block: 1024,
        threads_per_multiprocessor: threads,
        blocks_per_multiprocessor: blocks,
        registers_per_block: 65536,
        registers_per_multiprocessor: 65536,
        shared_per_block: 49152,
        shared_per_block_optin: optin,
        shared_per_multiprocessor: shared,
        shared_reserved_per_block: reserved,
    }
}

fn kernel(registers: u32, max_threads: u32, shared_static: u32, barriers: u32) -> Kernel {
    Kernel {
        name: "k".into(),
        registers,
        max_threads,
        shared_static,
        local: 0,
        const_size: 0,
        ptx_version: 80,
        binary_version: 80,
        params: Box::default(),
        param_bytes: 0,
        barriers,
        cache_all: false,
        cluster: Cluster::default(),
        estimated: false,
    }
}

#[test]
fn active_blocks_and_best_block_size_are_those_of_nvidias_header() {
    let mut rows = 0;
    for line in include_str!("data/occupancy.tsv").lines().filter(|line| !line.starts_with('#')) {
        let row: Vec<i64> = line.split('\t').map(|field| field.parse().unwrap()).collect();
        let n = |i: usize| u32::try_from(row[i]).unwrap();
        let (device, kernel) = (device((n(0), n(1))), kernel(n(2), n(3), n(4), n(5)));
        let config = Config { max_dynamic_shared: n(6), carveout: row[7] as i32 };
        let dynamic = u64::from(n(9));
        assert_eq!(device.active_blocks(&kernel, config, n(8), dynamic), n(10), "active blocks of {line}");
        let (grid, block) = device.potential_block_size(&kernel, config, 0, |_| dynamic);
        assert_eq!((grid, block), (n(11), n(12)), "best grid and block of {line}");
        rows += 1;
    }
    assert_eq!(rows, 600);
}

#[test]
fn registers_bound_the_threads_of_a_block() {
    // 72 registers: 2304 a warp, 28 warps in 65,536; 90: 3072 a warp, 21 fit, in fours 20.
    let threads = |registers| device((8, 0)).max_threads(&kernel(registers, 1024, 0, 0));
    assert_eq!([0, 32, 64, 65, 72, 90, 128, 168, 255].map(threads), [1024, 1024, 1024, 896, 896, 640, 512, 384, 256]);
    assert_eq!(device((8, 0)).max_threads(&kernel(90, 100, 0, 0)), 100);
}

#[test]
fn a_limit_caps_the_block_size() {
    let (device, kernel) = (device((9, 0)), kernel(16, 1024, 0, 1));
    let best = |limit| device.potential_block_size(&kernel, Config::of(&kernel), limit, |_| 0);
    assert_eq!(best(0), (264, 1024));
    assert_eq!(best(200), (2112, 128));
}

#[test]
fn a_launch_that_can_not_be_has_no_blocks() {
    let (device, kernel) = (device((8, 0)), kernel(32, 1024, 1024, 1));
    let blocks = |block, dynamic| device.active_blocks(&kernel, Config::of(&kernel), block, dynamic);
    assert_eq!(blocks(128, 0), 16);
    assert_eq!([blocks(0, 0), blocks(1025, 0), blocks(128, 48 << 10), blocks(128, u64::MAX)], [0; 4]);
}

proptest! {
    #[test]
    fn what_is_said_to_be_available_is_and_no_more(
        cc in prop::sample::select(vec![(7, 5), (8, 0), (8, 6), (9, 0), (12, 0)]),
        registers in 1_u32..64,
        fixed in 0_u32..20_000,
        opted_in in 0_u32..227_000,
        blocks in 0_u32..20,
        block_size in 1_u32..1025,
    ) {
        let (device, kernel) = (device(cc), kernel(registers, 1024, fixed, 1));
        let most = device.shared_per_block_optin - fixed;
        let config = Config { max_dynamic_shared: opted_in.min(most), carveout: -1 };
        match device.available_dynamic_shared(&kernel, config, blocks, block_size) {
            None => prop_assert!(blocks == 0 || device.active_blocks(&kernel, config, block_size, 0) < blocks),
            Some(bytes) => {
                prop_assert!(device.active_blocks(&kernel, config, block_size, bytes) >= blocks);
                let more = bytes + 128 + 256;
                prop_assert!(device.active_blocks(&kernel, config, block_size, more) < blocks, "{} bytes fit", more);
            }
        }
    }

    #[test]
    fn no_kernel_or_launch_overflows(
        registers: u32, threads: u32, fixed: u32, barriers: u32, dynamic: u64, block: u32, max: u32, carveout: i32, blocks: u32,
    ) {
        let (device, kernel) = (device((9, 0)), kernel(registers, threads, fixed, barriers));
        let config = Config { max_dynamic_shared: max, carveout };
        device.active_blocks(&kernel, config, block, dynamic);
        device.potential_block_size(&kernel, config, block, |_| dynamic);
        device.available_dynamic_shared(&kernel, config, blocks, block);
        device.max_threads(&kernel);
    }
}

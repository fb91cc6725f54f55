//! Kernels and variables of real cubins against what cuobjdump says of them.
mod common;
use common::*;
use zerogpu_image::occupancy::Device;
use zerogpu_image::{Cluster, Error, Source};

/// Name, registers, static shared, local, most threads, bytes of parameters.
type Row = (&'static str, u32, u32, u32, u32, u32);

const ON_SM80: [Row; 12] = [
    ("_Z4fillIdEvPT_S0_", 8, 0, 0, 1024, 16),
    ("globals", 19, 0, 0, 1024, 8),
    ("recursive", 24, 0, 0, 1024, 8),
    ("calls", 27, 0, 208, 1024, 12),
    ("local_array", 26, 0, 400, 1024, 12),
    ("both_shared", 13, 400, 0, 1024, 8),
    ("static_shared", 9, 2048, 0, 1024, 8),
    ("bounded", 8, 0, 0, 128, 8),
    ("tail", 8, 0, 0, 1024, 9),
    ("by_value", 8, 0, 0, 1024, 4008),
    ("many", 10, 0, 0, 1024, 56),
    ("empty", 4, 0, 0, 1024, 0),
];

const ON_SM90: [Row; 12] = [
    ("_Z4fillIdEvPT_S0_", 10, 0, 0, 1024, 16),
    ("globals", 21, 0, 0, 1024, 8),
    ("recursive", 24, 0, 0, 1024, 8),
    ("calls", 32, 0, 208, 1024, 12),
    ("local_array", 32, 0, 400, 1024, 12),
    ("both_shared", 12, 400, 0, 1024, 8),
    ("static_shared", 10, 2048, 0, 1024, 8),
    ("bounded", 10, 0, 0, 128, 8),
    ("tail", 10, 0, 0, 1024, 9),
    ("by_value", 8, 0, 0, 1024, 4008),
    ("many", 12, 0, 0, 1024, 56),
    ("empty", 4, 0, 0, 1024, 0),
];

fn check(bytes: &[u8], cc: (u32, u32), rows: &[Row], ptx_version: u32, binary_version: u32) {
    let image = image(bytes, cc);
    assert!(!image.is_ptx());
    for &(name, registers, shared, local, threads, param_bytes) in rows {
        let kernel = image.kernel(name).unwrap_or_else(|| panic!("no kernel {name}"));
        let read = (kernel.registers, kernel.shared_static, kernel.local, kernel.max_threads, kernel.param_bytes);
        assert_eq!(read, (registers, shared, local, threads, param_bytes), "{name}");
        assert_eq!((kernel.ptx_version, kernel.binary_version), (ptx_version, binary_version), "{name}");
        assert_eq!(kernel.const_size, 68, "{name}");
        assert!(!kernel.estimated && !kernel.cache_all, "{name}");
    }
}

#[test]
fn kernels_of_an_sm80_cubin() {
    check(SM80, (8, 0), &ON_SM80, 80, 80);
    assert_eq!(image(SM80, (8, 0)).kernels().len(), 12);
}

#[test]
fn kernels_of_an_sm90_cubin_without_the_shared_memory_that_the_system_keeps() {
    check(SM90, (9, 0), &ON_SM90, 90, 90);
    assert_eq!(image(SM90, (9, 0)).kernels().len(), 13);
}

#[test]
fn kernels_of_a_cubin_in_the_format_of_cuda_13_that_was_compiled_for_an_older_virtual_architecture() {
    check(SM90A_ABI8, (9, 0), &ON_SM90, 80, 90);
}

#[test]
fn parameters_are_laid_out_as_in_c() {
    for image in [image(SM80, (8, 0)), image(SM90A_ABI8, (9, 0))] {
        let of = |name| layout(image.kernel(name).unwrap());
        assert_eq!(of("empty"), []);
        assert_eq!(of("many"), [(0, 1), (2, 2), (4, 4), (8, 8), (16, 8), (24, 8), (32, 1), (40, 16)]);
        assert_eq!(of("by_value"), [(0, 4000), (4000, 8)]);
        assert_eq!(of("tail"), [(0, 8), (8, 1)]);
        let ordinals = image.kernel("many").unwrap().params.iter().map(|param| param.ordinal);
        assert!(ordinals.eq(0..8));
    }
}

#[test]
fn parameters_beyond_16_kib() {
    let image = image(LARGE, (10, 0));
    let kernel = image.kernel("large").unwrap();
    assert_eq!(layout(kernel), [(0, 20000), (20000, 8)]);
    assert_eq!((kernel.param_bytes, kernel.registers, kernel.ptx_version, kernel.binary_version), (20008, 8, 80, 100));
}

#[test]
fn barriers_clusters_and_caching() {
    let (sm80, sm90, abi8) = (image(SM80, (8, 0)), image(SM90, (9, 0)), image(SM90A_ABI8, (9, 0)));
    for image in [&sm80, &sm90, &abi8] {
        assert_eq!(image.kernel("both_shared").unwrap().barriers, 1);
        assert_eq!(image.kernel("empty").unwrap().barriers, 0);
        assert_eq!(image.kernel("empty").unwrap().cluster, Cluster::default());
    }
    let clustered = sm90.kernel("clustered").unwrap();
    assert_eq!(clustered.cluster, Cluster { must_be_set: true, required: [2, 1, 1] });
    assert!(image(CACHED, (6, 0)).kernel("cached").unwrap().cache_all);
}

#[test]
fn variables_have_their_sizes_places_and_first_contents() {
    for image in [image(SM80, (8, 0)), image(SM90, (9, 0)), image(SM90A_ABI8, (9, 0))] {
        assert_eq!(image.globals().len(), 8);
        let of = |name| image.global(name).unwrap_or_else(|| panic!("no variable {name}"));
        let bytes = |name| contents(&image, of(name));
        assert_eq!(bytes("counter"), 7_i32.to_le_bytes());
        assert_eq!(bytes("odd"), [1, 2, 3]);
        assert_eq!(bytes("hidden"), (-2_i64).to_le_bytes());
        assert_eq!(bytes("table"), [0; 256]);
        assert_eq!(image.initial(of("table")), []);
        assert_eq!(bytes("shared_with_host"), 5_i32.to_le_bytes());
        assert_eq!(bytes("coef")[..12], [1.0_f32, 2.0, 3.0].map(f32::to_le_bytes).concat());
        assert_eq!(bytes("coef")[12..], [0; 52]);
        assert_eq!(bytes("flag"), [0; 4]);
        for global in image.globals() {
            assert_eq!(global.constant, ["coef", "flag"].contains(&&*global.name), "{}", global.name);
            assert_eq!(global.managed, &*global.name == "shared_with_host", "{}", global.name);
            assert_eq!(global.relocated, &*global.name == "pointer_to_counter", "{}", global.name);
        }
    }
}

#[test]
fn what_the_image_lacks_is_not_found() {
    let image = image(SM80, (8, 0));
    assert!(image.kernel("clustered").is_none() && image.kernel("").is_none() && image.kernel("counter").is_none());
    assert!(image.global("many").is_none() && image.global("elsewhere").is_none());
    // A function that is no kernel.
    assert!(image.kernel("$calls$_Z6helperPii").is_none());
}

#[test]
fn attributes_are_the_drivers() {
    // The answers of a driver on an H100 for a kernel of 4 registers compiled for sm_80 without bounds or constants.
    const RECORDED: [i32; 16] = [1024, 0, 0, 0, 4, 80, 90, 0, 49152, -1, 0, 0, 0, 0, 0, 0];
    let h100 = Device {
        cc: (9, 0),
        multiprocessors: 132,
        threads_per_block: 1024,
        threads_per_multiprocessor: 2048,
        blocks_per_multiprocessor: 32,
        registers_per_block: 65536,
        registers_per_multiprocessor: 65536,
        shared_per_block: 49152,
        shared_per_block_optin: 232448,
        shared_per_multiprocessor: 233472,
        shared_reserved_per_block: 1024,
    };
    let attributes =
        |kernel: &zerogpu_image::Kernel| (0..16).map(|n| kernel.attribute(n, &h100).unwrap()).collect::<Vec<_>>();
    let mut expected = RECORDED;
    expected[2] = 68;
    assert_eq!(attributes(image(SM90A_ABI8, (9, 0)).kernel("empty").unwrap()), expected);
    let sm90 = image(SM90, (9, 0));
    let both_shared = attributes(sm90.kernel("both_shared").unwrap());
    assert_eq!((both_shared[1], both_shared[8]), (400, 49152 - 400));
    assert_eq!(attributes(sm90.kernel("bounded").unwrap())[0], 128);
    assert_eq!(attributes(sm90.kernel("clustered").unwrap())[10..14], [1, 2, 1, 1]);
    assert_eq!(sm90.kernel("empty").unwrap().attribute(16, &h100), None);
}

#[test]
fn a_cubin_runs_on_later_minors_of_its_major_only() {
    let fits = |bytes, cc| {
        let source = Source::from_bytes(bytes).unwrap();
        let found = source.image_for(cc);
        assert_eq!(source.fits(cc), found.is_ok());
        assert_eq!(source.check(cc).err(), found.as_ref().map(|_| ()).err().copied());
        assert!(found.is_ok() || found.is_err_and(|e| e == Error::NoFit));
        source.fits(cc)
    };
    assert!(fits(SM80, (8, 0)) && fits(SM80, (8, 9)) && !fits(SM80, (9, 0)) && !fits(SM80, (7, 5)));
    assert!(fits(SM90A_ABI8, (9, 0)) && !fits(SM90A_ABI8, (9, 1)), "sm_90a is for 9.0 only");
    assert!(fits(LARGE, (10, 3)) && !fits(LARGE, (12, 0)));
    assert_eq!(Error::NoFit.code().0, 209);
}

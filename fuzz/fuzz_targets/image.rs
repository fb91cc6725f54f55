//! Whatever the bytes are, reading them as a kernel image ends with an answer or an error.
#![no_main]
use libfuzzer_sys::fuzz_target;
use zerogpu_image::occupancy::{Config, Device};
use zerogpu_image::{Image, Source};

const H100: Device = Device {
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

fn ask(image: &Image) {
    for kernel in image.kernels() {
        assert_eq!(image.kernel(&kernel.name), Some(kernel));
        assert!(kernel.params.iter().all(|param| param.offset + param.size <= kernel.param_bytes));
        H100.active_blocks(kernel, Config::of(kernel), 128, 0);
        H100.potential_block_size(kernel, Config::of(kernel), 0, |_| 0);
        for number in 0..16 {
            assert!(kernel.attribute(number, &H100).is_some());
        }
    }
    for global in image.globals() {
        assert!(image.initial(global).len() as u64 <= global.size);
    }
    assert!(image.bytes().is_ok());
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut source) = Source::from_bytes(bytes) else { return };
    for cc in [(7, 5), (8, 0), (8, 6), (9, 0), (10, 0)] {
        let fits = source.fits(cc);
        if let Ok(image) = source.image_for(cc) {
            assert!(fits);
            ask(&image);
        }
    }
    if source.keep_only((8, 0)).is_ok() && source.fits((8, 0)) {
        source.image_for((8, 0)).map(|image| ask(&image)).ok();
    }
});

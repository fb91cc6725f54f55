//! The test images.
#![allow(dead_code)]
use zerogpu_image::{Global, Image, Kernel, Source};

pub const SM80: &[u8] = include_bytes!("../data/sm80.cubin");
pub const SM90: &[u8] = include_bytes!("../data/sm90.cubin");
pub const SM90A_ABI8: &[u8] = include_bytes!("../data/sm90a-abi8.cubin");
pub const CACHED: &[u8] = include_bytes!("../data/sm60-cached.cubin");
pub const LARGE: &[u8] = include_bytes!("../data/sm100-large.cubin");
pub const PTX80: &[u8] = include_bytes!("../data/kernels-sm80.ptx");
pub const PTX90: &[u8] = include_bytes!("../data/kernels-sm90.ptx");
pub const DIRECTIVES: &[u8] = include_bytes!("../data/directives.ptx");
pub const DIRECTIVES_SM90: &[u8] = include_bytes!("../data/directives-sm90.cubin");
pub const PLAIN: &[u8] = include_bytes!("../data/plain.fatbin");
pub const LZ4: &[u8] = include_bytes!("../data/lz4.fatbin");
pub const ZSTD: &[u8] = include_bytes!("../data/zstd.fatbin");
pub const GROUP: &[u8] = include_bytes!("../data/group.fatbin");

/// All of them, each with a compute capability that it has an image for.
pub const ALL: [(&[u8], (u32, u32)); 13] = [
    (SM80, (8, 0)),
    (SM90, (9, 0)),
    (SM90A_ABI8, (9, 0)),
    (CACHED, (6, 1)),
    (LARGE, (10, 0)),
    (PTX80, (8, 0)),
    (PTX90, (9, 0)),
    (DIRECTIVES, (9, 0)),
    (DIRECTIVES_SM90, (9, 0)),
    (PLAIN, (8, 6)),
    (LZ4, (8, 6)),
    (ZSTD, (8, 6)),
    (GROUP, (8, 6)),
];

pub fn image(bytes: &[u8], cc: (u32, u32)) -> Image {
    Source::from_bytes(bytes).unwrap().image_for(cc).unwrap()
}

/// Offset and size of each parameter.
pub fn layout(kernel: &Kernel) -> Vec<(u32, u32)> {
    kernel.params.iter().map(|param| (param.offset, param.size)).collect()
}

/// A variable's first contents in full.
pub fn contents(image: &Image, global: &Global) -> Vec<u8> {
    let mut bytes = image.initial(global).to_vec();
    bytes.resize(global.size as usize, 0);
    bytes
}

//! The module image of the tests (see data/probe.ptx) in the forms in which a driver meets it.

/// Machine code for sm_90: an ELF file.
pub const CUBIN: &[u8] = include_bytes!("../data/probe.sm_90.cubin");

/// PTX text with its NUL.
pub const PTX: &[u8] = concat!(include_str!("../data/probe.ptx"), "\0").as_bytes();

/// PTX text of a kernel whose parameter is a tensor map, with its NUL.
pub const TENSOR_PTX: &[u8] = concat!(include_str!("../data/tensor.ptx"), "\0").as_bytes();

/// First bytes of the global `table`; the other 56 are zero.
pub const TABLE: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

/// The wrapper that compilers put around a fat binary.
#[repr(C)]
pub struct Wrapper {
    magic: u32,
    version: u32,
    data: *const u8,
    parts: *const u8,
}

impl Wrapper {
    /// Wraps a fat binary, which must outlive the driver's use of it.
    pub fn new(binary: &'static [u8]) -> Self {
        Self { magic: 0x4662_43b1, version: 1, data: binary.as_ptr(), parts: std::ptr::null() }
    }
}

/// A fat binary that holds the cubin, uncompressed, as code for `sm` (90: what it is; others do not fit the card).
pub fn fat_binary(sm: u32) -> &'static [u8] {
    const ENTRY: usize = 64;
    let padded = CUBIN.len().next_multiple_of(8);
    let mut bytes = Vec::with_capacity(16 + ENTRY + padded);
    let mut put = |words: &[u32]| words.iter().for_each(|w| bytes.extend_from_slice(&w.to_le_bytes()));
    put(&[0xBA55_ED50, 16 << 16 | 1, (ENTRY + padded) as u32, 0]);
    // kind ELF, header size, payload, not compressed, ELF version, sm, flags: as in cuBLASLt
    put(&[0x0101_0002, ENTRY as u32, padded as u32, 0, 0, 0, 0x0001_0007, sm, 0, 0, 0x11, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(CUBIN);
    bytes.resize(16 + ENTRY + padded, 0);
    bytes.leak()
}

//! Placeholder: names and signatures only. The hash itself, and kernels that compute it, come with the crate of this name.

/// Two kernels as PTX text, with the NUL that `cuModuleLoadData` wants. These do nothing.
pub const PTX: &str = "\
.version 7.0
.target sm_80
.address_size 64
.visible .entry zerogpu_hash_chunks(.param .u64 src, .param .u64 bytes, .param .u64 out)
{
    ret;
}
.visible .entry zerogpu_write_bytes(.param .u64 dst, .param .u64 bytes, .param .u64 seed)
{
    ret;
}
\0";
/// Name of the kernel that hashes.
pub const HASH_CHUNKS: &str = "zerogpu_hash_chunks";
/// Name of the kernel that writes.
pub const WRITE_BYTES: &str = "zerogpu_write_bytes";
/// Bytes of a chunk.
pub const CHUNK: usize = 2 << 20;
/// Threads of a block of the hash kernel.
pub const THREADS: usize = 512;

const A: u64 = 0x9E37_79B9_7F4A_7C15;

/// The hash of one chunk.
pub fn hash_chunk(chunk: &[u8]) -> [u64; 2] {
    chunk.iter().fold([A, chunk.len() as u64], |[a, b], &byte| {
        let a = (a ^ u64::from(byte)).wrapping_mul(A).rotate_left(29);
        [a, b.wrapping_add(a)]
    })
}

/// Fills whole words of `dst` with numbers that depend on `seed`.
pub fn write_bytes(dst: &mut [u8], seed: u64) {
    for (word, n) in dst.chunks_exact_mut(8).zip(1u64..) {
        word.copy_from_slice(&(seed ^ n.wrapping_mul(A)).to_le_bytes());
    }
}

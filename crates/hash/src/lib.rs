//! The 128-bit hash of 2 MiB chunks by which a park skips what did not change: [`PTX`] for the card, [`hash_chunk`] here.
//!
//! Both are written from this description, and give the same bits. All words are 64 bits, little-endian in memory; sums and
//! products are modulo 2^64.
//!
//! - *absorb(s, w, K)* takes a word `w` into a word `s`: `t = s ^ w`; the upper half of `t` is xored into its lower half; `t`
//!   is multiplied by the odd number `K`; its halves change places. For a fixed `w` each `s` gives another result, and the
//!   other way round: alone, no change of a word is lost.
//! - A *state* is two lanes `(a, b)`. *step((a, b), (x, y))* absorbs `x`, then `y` into `a` with `K` = [`A`], and `y`, then `x`
//!   into `b` with `K` = [`B`]. So each lane sees all words, in another order and by another number.
//! - The chunk is cut into vectors of two words, and these into rows of [`THREADS`] vectors. State `t` of [`THREADS`] begins
//!   as `((t + 1) * A, (t + 1) * B)` and is stepped with vector `t` of each row, in order, as long as there is one.
//! - For `half` = 256, 128, ... 1: each state `t < half` is stepped with state `t + half` in place of a vector.
//! - State 0 is stepped with `(length in bytes, LAST)`, and then mixed as MurmurHash3 ends: `a += b`,
//!   `b += a`, each lane through its `fmix64`, `a += b`, `b += a`. The hash is `[a, b]`.
//!
//! A chunk whose length is no multiple of 16 is hashed as if zeros followed it, with its own length; the kernel is not made
//! for such. The hash is not made against an adversary: whoever made two chunks of one hash would lose a change of his own.
#![warn(clippy::missing_errors_doc)]

/// The two kernels, as PTX text for compute capability 8.0 and newer, with the NUL that `cuModuleLoadData` wants.
///
/// - `zerogpu_hash_chunks(src: u64, bytes: u64, out: u64)`: [`hash_chunks`]. The grid is one block for each chunk, the block
///   [`THREADS`] threads. `src` is 16-byte aligned, `bytes` a multiple of 16; the hash of chunk `i` goes to `out + 16 * i`.
/// - `zerogpu_write_bytes(dst: u64, bytes: u64, seed: u64)`: [`write_bytes`], in any grid and block of one dimension. `dst` is
///   8-byte aligned, `bytes` a multiple of 8.
pub const PTX: &str = concat!(include_str!("kernels.ptx"), "\0");
/// Name of the kernel that hashes.
pub const HASH_CHUNKS: &str = "zerogpu_hash_chunks";
/// Name of the kernel that writes.
pub const WRITE_BYTES: &str = "zerogpu_write_bytes";

/// Bytes of a chunk.
pub const CHUNK: usize = 2 << 20;
/// Threads of a block of the hash kernel, and states of a chunk.
pub const THREADS: usize = 512;

/// The multiplier of the first lane.
pub const A: u64 = 0x9E37_79B9_7F4A_7C15;
/// The multiplier of the second lane.
pub const B: u64 = 0xC2B2_AE3D_27D4_EB4F;
/// Stands beside the length.
pub const LAST: u64 = u64::from_be_bytes(*b"zerogpu1");

/// Bytes of a vector.
const VECTOR: usize = 16;

type State = [u64; 2];

#[inline(always)]
fn absorb(s: u64, w: u64, k: u64) -> u64 {
    let t = s ^ w;
    (t ^ (t >> 32)).wrapping_mul(k).rotate_left(32)
}

#[inline(always)]
fn step(s: &mut State, [x, y]: [u64; 2]) {
    s[0] = absorb(absorb(s[0], x, A), y, A);
    s[1] = absorb(absorb(s[1], y, B), x, B);
}

/// MurmurHash3's.
fn fmix64(mut k: u64) -> u64 {
    for m in [0xFF51_AFD7_ED55_8CCD, 0xC4CE_B9FE_1A85_EC53] {
        k = (k ^ (k >> 33)).wrapping_mul(m);
    }
    k ^ (k >> 33)
}

#[inline(always)]
fn vector(bytes: &[u8]) -> [u64; 2] {
    let both = u128::from_le_bytes(bytes.first_chunk().copied().unwrap_or_else(|| {
        let mut padded = [0; VECTOR];
        padded[..bytes.len()].copy_from_slice(bytes);
        padded
    }));
    [both as u64, (both >> 64) as u64]
}

/// The hash of one chunk, of any length; on a card a chunk has at most [`CHUNK`] bytes.
pub fn hash_chunk(chunk: &[u8]) -> [u64; 2] {
    let mut states: [State; THREADS] = std::array::from_fn(|t| {
        let n = t as u64 + 1;
        [n.wrapping_mul(A), n.wrapping_mul(B)]
    });
    for row in chunk.chunks(THREADS * VECTOR) {
        let vectors = row.chunks_exact(VECTOR);
        // there is one in the last row at most
        let rest = Some(vectors.remainder()).filter(|rest| !rest.is_empty());
        for (s, v) in states.iter_mut().zip(vectors.chain(rest)) {
            step(s, vector(v));
        }
    }
    let mut half = THREADS / 2;
    while half > 0 {
        let (lower, upper) = states.split_at_mut(half);
        for (s, &v) in lower.iter_mut().zip(upper.iter()) {
            step(s, v);
        }
        half /= 2;
    }
    let [mut s, ..] = states;
    step(&mut s, [chunk.len() as u64, LAST]);
    let [mut a, mut b] = s;
    a = a.wrapping_add(b);
    b = b.wrapping_add(a);
    (a, b) = (fmix64(a), fmix64(b));
    a = a.wrapping_add(b);
    [a, b.wrapping_add(a)]
}

/// The hashes of the chunks of `data`, of which the last may be shorter, as far as `out` has room.
pub fn hash_chunks(data: &[u8], out: &mut [[u64; 2]]) {
    for (chunk, hash) in data.chunks(CHUNK).zip(out) {
        *hash = hash_chunk(chunk);
    }
}

/// Fills `dst` as the kernel does: word `i` is the `i`-th number of SplitMix64 from `seed`. What is left behind the last
/// whole word stays as it is.
pub fn write_bytes(dst: &mut [u8], seed: u64) {
    let mut z = seed;
    for word in dst.chunks_exact_mut(8) {
        z = z.wrapping_add(A);
        word.copy_from_slice(&split_mix(z).to_le_bytes());
    }
}

fn split_mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

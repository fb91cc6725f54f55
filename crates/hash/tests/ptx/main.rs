//! The PTX and its Rust twin give the same bits: the text is run by a machine of the tests' own, thread by thread.
mod machine;

use machine::{Kernel, Memory};
use zerogpu_hash::*;

const SRC: u64 = 0x10_0000_0000;
const OUT: u64 = 0x20_0000_0000;

/// What the kernel says, with guard bytes behind its output.
fn hashed_by_ptx(data: &[u8], blocks: u32) -> Vec<[u64; 2]> {
    let chunks = data.len().div_ceil(CHUNK);
    let mut memory = Memory(vec![(SRC, data.to_vec()), (OUT, vec![0xAB; 16 * (chunks + 1)])]);
    let kernel = Kernel::parse(PTX, HASH_CHUNKS);
    kernel.run(&mut memory, blocks, THREADS as u32, &[SRC, data.len() as u64, OUT]);
    assert_eq!(memory.0[0].1, data);
    let (out, guard) = memory.0[1].1.split_at(16 * chunks);
    assert_eq!(guard, [0xAB; 16]);
    out.chunks(16).map(|h| [0, 8].map(|at| u64::from_le_bytes(h[at..at + 8].try_into().unwrap()))).collect()
}

fn hashed_by_twin(data: &[u8]) -> Vec<[u64; 2]> {
    let mut out = vec![[0; 2]; data.len().div_ceil(CHUNK)];
    hash_chunks(data, &mut out);
    out
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; len];
    write_bytes(&mut data, seed);
    data
}

#[test]
fn hashes_of_short_chunks_agree() {
    let row = 16 * THREADS;
    let lengths =
        [16, 32, 16 * 511, row, row + 16, 3 * row - 16, 3 * row, 4 * row - 16, 4 * row, 4 * row + 16, 9 * row + 4096];
    for (seed, len) in lengths.into_iter().enumerate() {
        let data = noise(len, seed as u64);
        assert_eq!(hashed_by_ptx(&data, 1), hashed_by_twin(&data), "{len} bytes");
    }
}

#[test]
fn hashes_of_whole_chunks_agree() {
    let data = noise(2 * CHUNK + 16 * THREADS + 48, 7);
    // one block too many: it writes nothing
    assert_eq!(hashed_by_ptx(&data, 4), hashed_by_twin(&data));
    let zeros = vec![0; CHUNK];
    assert_eq!(hashed_by_ptx(&zeros, 1), hashed_by_twin(&zeros));
}

#[test]
fn written_bytes_agree() {
    let kernel = Kernel::parse(PTX, WRITE_BYTES);
    for (len, blocks, threads) in [(8, 1, 1), (4096, 1, 32), (4096 + 8, 3, 64), (65536, 200, 512)] {
        let mut memory = Memory(vec![(OUT, vec![0xAB; len + 8])]);
        kernel.run(&mut memory, blocks, threads, &[OUT, len as u64, 0xFEED_F00D_1234_5678]);
        let mut expected = vec![0xAB; len + 8];
        write_bytes(&mut expected[..len], 0xFEED_F00D_1234_5678);
        assert_eq!(memory.0[0].1, expected, "{len} bytes by {blocks} blocks of {threads}");
    }
}

/// The text ends with the one NUL that the driver looks for.
#[test]
fn the_text_ends_with_a_nul() {
    assert_eq!(PTX.find('\0'), Some(PTX.len() - 1));
    assert!(PTX.is_ascii());
}

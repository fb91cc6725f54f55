//! What the hash must tell apart.
use std::collections::HashSet;
use zerogpu_hash::*;

const ROW: usize = 16 * THREADS;

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; len];
    write_bytes(&mut data, seed);
    data
}

/// Computed by a program in another language, written from the description only.
#[test]
fn known_hashes() {
    assert_eq!(hash_chunk(&[]), KNOWN[0]);
    assert_eq!(hash_chunk(&[0; CHUNK]), KNOWN[1]);
    assert_eq!(hash_chunk(&noise(CHUNK, 1)), KNOWN[2]);
    assert_eq!(hash_chunk(&noise(3 * ROW + 40, 2)), KNOWN[3]);
}

const KNOWN: [[u64; 2]; 4] = [
    [0xCBB2_32D6_7D43_4B1E, 0xFACF_7E50_420D_CF49],
    [0xEEB9_2DD5_17D4_A01C, 0x407E_9124_FFC4_DD23],
    [0x8CB3_133C_3946_8D9E, 0x3671_B077_CE24_9721],
    [0xCF9E_397B_6F46_8BE2, 0x2B80_DC60_4655_7344],
];

/// Every single bit of a few vectors, and of one in each part of the chunk: another hash each, half of its bits changed.
#[test]
fn single_bits() {
    for zeros in [true, false] {
        let mut data = if zeros { vec![0; CHUNK] } else { noise(CHUNK, 3) };
        let first = hash_chunk(&data);
        let mut seen = HashSet::from([first]);
        let places = [0, 16, 16 * 511, ROW, CHUNK / 2 + 16 * 77, CHUNK - ROW, CHUNK - 16];
        let bits: Vec<usize> = places.iter().flat_map(|&at| (0..128).step_by(7).map(move |bit| 8 * at + bit)).collect();
        let mut changed = [0u32; 128];
        for &bit in &bits {
            data[bit / 8] ^= 1 << (bit % 8);
            let h = hash_chunk(&data);
            data[bit / 8] ^= 1 << (bit % 8);
            assert!(seen.insert(h), "bit {bit}");
            let differ =
                (0..128).filter(|&i| (h[i / 64] ^ first[i / 64]) >> (i % 64) & 1 == 1).inspect(|&i| changed[i] += 1);
            let differ = differ.count();
            assert!((32..=96).contains(&differ), "bit {bit} changes {differ} bits of the hash");
        }
        for (i, &n) in changed.iter().enumerate() {
            let share = n as f64 / bits.len() as f64;
            assert!((0.3..0.7).contains(&share), "bit {i} of the hash changes in {share} of all cases");
        }
    }
}

/// Two bits, with each pair of places at which one state takes a word right after the other: the second must not undo the
/// first.
#[test]
fn pairs_of_bits() {
    let mut data = noise(4 * ROW, 4);
    let mut seen = HashSet::from([hash_chunk(&data)]);
    for first in (0..64).map(|bit| 8 * ROW + bit) {
        for second in [8 * ROW + 64, 8 * 2 * ROW].into_iter().flat_map(|at| (0..64).map(move |bit| at + bit)) {
            for bit in [first, second] {
                data[bit / 8] ^= 1 << (bit % 8);
            }
            assert!(seen.insert(hash_chunk(&data)), "bits {first} and {second}");
            for bit in [first, second] {
                data[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}

#[test]
fn swaps() {
    let data = noise(CHUNK, 5);
    let mut seen = HashSet::from([hash_chunk(&data)]);
    let swaps = [
        (0, 8, 8),
        (0, 16, 16),
        (16, 32, 16),
        (0, 16 * 256, 16),
        (0, ROW, ROW),
        (16, 16 + ROW, 16),
        (0, CHUNK / 2, CHUNK / 2),
    ];
    for (a, b, len) in swaps {
        let mut swapped = data.clone();
        let (left, right) = swapped.split_at_mut(b);
        left[a..a + len].swap_with_slice(&mut right[..len]);
        assert!(seen.insert(hash_chunk(&swapped)), "{len} bytes at {a} and {b}");
    }
    for by in [4, 8, 16, ROW] {
        let mut turned = data.clone();
        turned.rotate_left(by);
        assert!(seen.insert(hash_chunk(&turned)), "rotated by {by}");
    }
}

#[test]
fn zeros_of_each_length() {
    let zeros = vec![0; CHUNK];
    let lengths = (0..100).map(|n| 16 * n).chain((1..256).map(|n| n * ROW)).chain([1, 7, 15, 17]).chain([CHUNK]);
    let mut seen = HashSet::new();
    for len in lengths {
        assert!(seen.insert(hash_chunk(&zeros[..len])), "{len} zeros");
    }
}

#[test]
fn chunks_are_hashed_one_by_one() {
    let data = noise(2 * CHUNK + 100, 6);
    let mut out = [[0; 2]; 4];
    hash_chunks(&data, &mut out);
    let expected = [&data[..CHUNK], &data[CHUNK..2 * CHUNK], &data[2 * CHUNK..]].map(hash_chunk);
    assert_eq!(out[..3], expected);
    assert_eq!(out[3], [0; 2]);
}

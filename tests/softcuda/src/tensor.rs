//! Tensor maps of a software card. NVIDIA documents what may be encoded (cuda.h of CUDA 13.0), but not how, and no kernel
//! runs here: the encoding is our own, and says so in its first word.
use zerogpu_abi::*;
use zerogpu_device::tensor::{Tensor, TensorMap, View};

/// The first word of each of our maps, in bytes "softTMAP".
const MARK: u64 = u64::from_le_bytes(*b"softTMAP");

/// CUtensorMapDataType: bits of an element, by number.
const BITS: [u64; 16] = [8, 16, 32, 32, 64, 64, 16, 32, 64, 16, 32, 32, 32, 4, 4, 6];
const FLOATS: std::ops::RangeInclusive<u32> = 6..=12;
const U4_ALIGN8: u32 = 13;
const U4_ALIGN16: u32 = 14;
const U6_ALIGN16: u32 = 15;

/// CUtensorMapInterleave.
const PLAIN: u32 = 0;
const INTERLEAVE_32: u32 = 2;

/// CUtensorMapSwizzle: bytes that the inner dimension may have, by number; the first is none.
const SPAN: [u64; 7] = [u64::MAX, 32, 64, 128, 128, 128, 128];

fn need(holds: bool) -> Res {
    if holds {
        Ok(())
    } else {
        Err(CUresult::INVALID_VALUE)
    }
}

/// Bytes that an address and the strides are multiples of: those of the address.
fn alignment(data_type: u32, interleave: u32) -> u64 {
    if interleave == INTERLEAVE_32 || [U4_ALIGN16, U6_ALIGN16].contains(&data_type) {
        32
    } else {
        16
    }
}

/// What cuda.h asks of a tensor, whatever view of it is taken.
fn check(t: &Tensor) -> Res {
    let rank = t.rank as usize;
    need(t.data_type < BITS.len() as u32 && t.interleave <= INTERLEAVE_32 && t.swizzle < SPAN.len() as u32)?;
    need(t.l2_promotion <= 3 && t.oob_fill <= 1)?;
    need(t.oob_fill == 0 || FLOATS.contains(&t.data_type))?;
    need(t.interleave == PLAIN || rank >= 3)?;
    let align = alignment(t.data_type, t.interleave);
    need(t.address % align == 0)?;
    need(t.dims[..rank].iter().all(|&n| (1..=1 << 32).contains(&n)))?;
    need(t.strides[..rank - 1].iter().all(|&n| n % align == 0 && n < 1 << 40))?;
    // without interleaving the first one is not looked at
    let first = (t.interleave == PLAIN) as usize;
    need(t.element_strides[first..rank].iter().all(|n| (1..=8).contains(n)))?;
    need(match t.data_type {
        U4_ALIGN8 => t.dims[0] % 2 == 0,
        U4_ALIGN16 => t.dims[0] % 128 == 0 && [0, 3, 4].contains(&t.swizzle),
        U6_ALIGN16 => t.dims[0] % 128 == 0 && t.interleave == PLAIN && [0, 3, 4, 6].contains(&t.swizzle),
        _ => true,
    })?;
    check_view(t)
}

fn check_view(t: &Tensor) -> Res {
    let rank = t.rank as usize;
    let inner = |elements: u32| elements as u64 * BITS[t.data_type as usize] / 8;
    let packed = [U4_ALIGN16, U6_ALIGN16].contains(&t.data_type);
    let fits_swizzle = |elements| t.interleave != PLAIN || inner(elements) <= SPAN[t.swizzle as usize];
    match t.view {
        View::Tiled { size } => {
            need(size[..rank].iter().all(|n| (1..=256).contains(n)))?;
            need(t.interleave != PLAIN || inner(size[0]) % 16 == 0)?;
            need(!packed || size[0] == 128)?;
            need(fits_swizzle(size[0]))
        }
        View::Im2col { lower, upper, channels, pixels } => {
            let reach = [0x8000, 0x80, 0x10][rank - 3];
            need(lower.iter().chain(&upper).all(|n| (-reach..reach).contains(n)))?;
            // the order of several offsets is told in two ways; of one it is plain
            need(rank > 3 || has_area(t.dims[1], lower[0], upper[0]))?;
            check_columns(channels, packed)?;
            need(pixels <= 1024 && fits_swizzle(channels))
        }
        View::Im2colWide { lower, upper, channels, pixels, mode } => {
            let reach = 0x8000;
            need([lower, upper].iter().all(|n| (-reach..reach).contains(n)) && has_area(t.dims[1], lower, upper))?;
            check_columns(channels, packed)?;
            // W, where the number of pixels counts, and W128, where it is ignored
            need(mode == 1 || mode == 0 && pixels <= 1024)?;
            need([2, 3, 4].contains(&t.swizzle) && fits_swizzle(channels))
        }
    }
}

fn check_columns(channels: u32, packed: bool) -> Res {
    need(channels <= 256 && (!packed || channels == 128))
}

fn has_area(size: u64, lower: i32, upper: i32) -> bool {
    size as i64 + upper as i64 > lower as i64
}

/// Numbers of `bits` each, side by side.
fn row<const N: usize>(numbers: [u64; N], bits: u32) -> u64 {
    numbers.iter().rev().fold(0, |word, &n| word << bits | n & ((1u64 << bits) - 1))
}

/// Encodes a map for a card of compute capability `cc`.
pub fn encode(t: &Tensor, cc: (i32, i32)) -> Res<TensorMap> {
    // cuda.h asks for 10.0 for Im2colWide, and for a swizzle that goes with interleaving by 32: driver 580 encodes both for an
    // H200 (recorded). With which error an older card refuses is not recorded
    if cc < (9, 0) {
        return Err(CUresult::NOT_SUPPORTED);
    }
    check(t)?;
    let (kind, a, b, c) = match t.view {
        View::Tiled { size } => (0u32, row(size.map(u64::from), 12), 0, 0),
        View::Im2col { lower, upper, channels, pixels } => {
            let corner = |n: [i32; 3]| row(n.map(|n| n as u64), 16);
            (1, row([channels.into(), pixels.into()], 16), corner(lower), corner(upper))
        }
        View::Im2colWide { lower, upper, channels, pixels, mode } => {
            (2, row([channels.into(), pixels.into(), mode.into()], 16), lower as u64, upper as u64)
        }
    };
    let shape = row([kind, t.data_type, t.rank, t.interleave, t.swizzle, t.l2_promotion, t.oob_fill].map(u64::from), 8);
    let mut words = [0; 16];
    words[..3].copy_from_slice(&[MARK, t.address, shape]);
    words[3..8].copy_from_slice(&t.dims);
    words[8..12].copy_from_slice(&t.strides);
    words[12..].copy_from_slice(&[a, b, c, row(t.element_strides.map(u64::from), 4)]);
    Ok(TensorMap(words))
}

/// Gives a map of ours another address.
pub fn readdress(map: &mut TensorMap, address: u64) -> Res {
    let byte = |n: u32| (map.0[2] >> (8 * n)) as u32 & 0xff;
    need(map.0[0] == MARK && address % alignment(byte(1), byte(3)) == 0)?;
    map.0[1] = address;
    Ok(())
}

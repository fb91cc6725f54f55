//! Random sequences of allocations, copies and memsets against a model: each byte of each block is compared at the end.
use crate::check::Check;
use crate::driver::{must, Driver};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use std::ptr::{null, null_mut};
use zerogpu_abi::*;

const LARGEST: usize = 96 << 10;
const CASES: u32 = 64;
/// cuda.h's CUmemorytype.
const HOST: u32 = 1;
const DEVICE: u32 = 2;
const UNIFIED: u32 = 4;

/// One step. A block is chosen by a number modulo how many there are; a [`Part`] is cut to what fits.
#[derive(Clone, Debug)]
enum Op {
    Alloc { size: usize, value: u8 },
    Free { block: usize },
    Write { part: Part, seed: u8, asynchronous: bool },
    Read { part: Part, asynchronous: bool },
    Copy { from: Part, to: Part, asynchronous: bool },
    Fill { part: Part, width: usize, value: u32, asynchronous: bool },
    Box { from: Side, to: Side, extent: [usize; 3], flat: bool, asynchronous: bool },
}

/// A piece of a block, as fractions of its size in 1/65536.
#[derive(Clone, Copy, Debug)]
struct Part {
    block: usize,
    at: usize,
    length: usize,
}

/// One side of a 2-D or 3-D copy: a block, or host memory, and how rows and slices lie in it.
#[derive(Clone, Copy, Debug)]
struct Side {
    kind: u32,
    block: usize,
    /// First byte, row and slice.
    origin: [usize; 3],
    /// What a row has beyond the bytes copied, and a slice beyond the rows.
    slack: [usize; 2],
}

fn part() -> impl Strategy<Value = Part> {
    (0..1000usize, 0..65_536usize, 0..65_536usize).prop_map(|(block, at, length)| Part { block, at, length })
}

fn side() -> impl Strategy<Value = Side> {
    let kind = prop_oneof![Just(HOST), Just(DEVICE), Just(UNIFIED)];
    (kind, 0..1000usize, [0..40usize, 0..4usize, 0..3usize], [0..64usize, 0..4usize])
        .prop_map(|(kind, block, origin, slack)| Side { kind, block, origin, slack })
}

#[rustfmt::skip]
fn op() -> impl Strategy<Value = Op> {
    let flag = any::<bool>;
    prop_oneof![
        3 => (1..LARGEST, any::<u8>()).prop_map(|(size, value)| Op::Alloc { size, value }),
        1 => (0..1000usize).prop_map(|block| Op::Free { block }),
        3 => (part(), any::<u8>(), flag()).prop_map(|(part, seed, asynchronous)| Op::Write { part, seed, asynchronous }),
        2 => (part(), flag()).prop_map(|(part, asynchronous)| Op::Read { part, asynchronous }),
        3 => (part(), part(), flag()).prop_map(|(from, to, asynchronous)| Op::Copy { from, to, asynchronous }),
        3 => (part(), prop_oneof![Just(1usize), Just(2), Just(4)], any::<u32>(), flag())
            .prop_map(|(part, width, value, asynchronous)| Op::Fill { part, width, value, asynchronous }),
        5 => (side(), side(), [1..200usize, 1..12usize, 1..4usize], flag(), flag())
            .prop_map(|(from, to, extent, flat, asynchronous)| Op::Box { from, to, extent, flat, asynchronous }),
    ]
}

/// An allocation and the bytes that it must hold.
struct Block {
    address: CUdeviceptr,
    bytes: Vec<u8>,
}

struct Model<'a> {
    d: &'a Driver,
    /// Ordered with the legacy stream, on which the synchronous calls run.
    stream: CUstream,
    blocks: Vec<Block>,
}

fn require(call: &str, result: CUresult) -> Result<(), TestCaseError> {
    prop_assert!(result.0 == 0, "{call} answered {}", result.0);
    Ok(())
}

/// Bytes that differ from place to place.
fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|i| (i as u8).wrapping_mul(13).wrapping_add(seed) ^ (i >> 8) as u8).collect()
}

impl Model<'_> {
    /// The block and the range in bytes that a part means; None while there is no block.
    fn resolve(&self, part: Part) -> Option<(usize, usize, usize)> {
        let block = self.index(part.block)?;
        let size = self.blocks[block].bytes.len();
        let at = part.at * size / 65_536;
        Some((block, at, part.length * (size - at) / 65_535))
    }

    fn index(&self, block: usize) -> Option<usize> {
        block.checked_rem(self.blocks.len())
    }

    fn run(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Alloc { size, value } => {
                let mut address = 0;
                require("cuMemAlloc", self.d.cuMemAlloc_v2(&mut address, size))?;
                require("cuMemsetD8", self.d.cuMemsetD8_v2(address, value, size))?;
                self.blocks.push(Block { address, bytes: vec![value; size] });
                Ok(())
            }
            Op::Free { block } => match self.index(block) {
                Some(at) => require("cuMemFree", self.d.cuMemFree_v2(self.blocks.swap_remove(at).address)),
                None => Ok(()),
            },
            Op::Write { part, seed, asynchronous } => self.write(part, seed, asynchronous),
            Op::Read { part, asynchronous } => self.read(part, asynchronous),
            Op::Copy { from, to, asynchronous } => self.copy(from, to, asynchronous),
            Op::Fill { part, width, value, asynchronous } => self.fill(part, width, value, asynchronous),
            Op::Box { from, to, extent, flat, asynchronous } => self.copy_box(from, to, extent, flat, asynchronous),
        }
    }

    fn wait(&self) -> Result<(), TestCaseError> {
        require("cuStreamSynchronize", self.d.cuStreamSynchronize(self.stream))
    }

    fn write(&mut self, part: Part, seed: u8, asynchronous: bool) -> Result<(), TestCaseError> {
        let Some((block, at, length)) = self.resolve(part) else { return Ok(()) };
        let bytes = pattern(seed, length);
        let (to, from) = (self.blocks[block].address + at as u64, bytes.as_ptr().cast());
        if asynchronous {
            require("cuMemcpyHtoDAsync", self.d.cuMemcpyHtoDAsync_v2(to, from, length, self.stream))?;
            self.wait()?;
        } else {
            require("cuMemcpyHtoD", self.d.cuMemcpyHtoD_v2(to, from, length))?;
        }
        self.blocks[block].bytes[at..at + length].copy_from_slice(&bytes);
        Ok(())
    }

    fn read(&mut self, part: Part, asynchronous: bool) -> Result<(), TestCaseError> {
        let Some((block, at, length)) = self.resolve(part) else { return Ok(()) };
        let mut bytes = vec![0x5a; length];
        let (to, from) = (bytes.as_mut_ptr().cast(), self.blocks[block].address + at as u64);
        if asynchronous {
            require("cuMemcpyDtoHAsync", self.d.cuMemcpyDtoHAsync_v2(to, from, length, self.stream))?;
            self.wait()?;
        } else {
            require("cuMemcpyDtoH", self.d.cuMemcpyDtoH_v2(to, from, length))?;
        }
        prop_assert!(bytes == self.blocks[block].bytes[at..at + length], "bytes of {part:?}");
        Ok(())
    }

    /// A copy between two blocks, or within one if its pieces don't overlap (what overlap gives is undefined).
    fn copy(&mut self, from: Part, to: Part, asynchronous: bool) -> Result<(), TestCaseError> {
        let (Some((a, from, n)), Some((b, to, m))) = (self.resolve(from), self.resolve(to)) else { return Ok(()) };
        let length = n.min(m);
        if a == b && from.abs_diff(to) < length {
            return Ok(());
        }
        let (source, target) = (self.blocks[a].address + from as u64, self.blocks[b].address + to as u64);
        if asynchronous {
            require("cuMemcpyDtoDAsync", self.d.cuMemcpyDtoDAsync_v2(target, source, length, self.stream))?;
        } else {
            require("cuMemcpyDtoD", self.d.cuMemcpyDtoD_v2(target, source, length))?;
        }
        let bytes = self.blocks[a].bytes[from..from + length].to_vec();
        self.blocks[b].bytes[to..to + length].copy_from_slice(&bytes);
        Ok(())
    }

    fn fill(&mut self, part: Part, width: usize, value: u32, asynchronous: bool) -> Result<(), TestCaseError> {
        let Some((block, at, length)) = self.resolve(part) else { return Ok(()) };
        // blocks are aligned to 512 bytes
        let (at, n) = (at / width * width, length / width);
        let (d, to, stream) = (self.d, self.blocks[block].address + at as u64, self.stream);
        let result = match (width, asynchronous) {
            (1, false) => d.cuMemsetD8_v2(to, value as u8, n),
            (1, true) => d.cuMemsetD8Async(to, value as u8, n, stream),
            (2, false) => d.cuMemsetD16_v2(to, value as u16, n),
            (2, true) => d.cuMemsetD16Async(to, value as u16, n, stream),
            (_, false) => d.cuMemsetD32_v2(to, value, n),
            (_, true) => d.cuMemsetD32Async(to, value, n, stream),
        };
        require("a memset", result)?;
        let bytes = value.to_le_bytes()[..width].repeat(n);
        self.blocks[block].bytes[at..at + bytes.len()].copy_from_slice(&bytes);
        Ok(())
    }
}

/// How rows and slices lie in memory: bytes from row to row and rows from slice to slice.
struct Layout {
    origin: [usize; 3],
    pitch: usize,
    rows: usize,
}

impl Layout {
    fn new(side: Side, [width, height, _]: [usize; 3]) -> Self {
        let [x, y, _] = side.origin;
        Layout { origin: side.origin, pitch: x + width + side.slack[0], rows: y + height + side.slack[1] }
    }

    /// Offset of a row of the box.
    fn offset(&self, row: usize, slice: usize) -> usize {
        let [x, y, z] = self.origin;
        ((z + slice) * self.rows + y + row) * self.pitch + x
    }

    /// Bytes up to the last one copied.
    fn size(&self, [width, height, depth]: [usize; 3]) -> usize {
        self.offset(height - 1, depth - 1) + width
    }
}

impl Model<'_> {
    /// A 2-D copy where `flat`, else a 3-D one.
    fn copy_box(
        &mut self,
        mut from: Side,
        mut to: Side,
        mut extent: [usize; 3],
        flat: bool,
        asynchronous: bool,
    ) -> Result<(), TestCaseError> {
        if flat {
            (extent[2], from.origin[2], to.origin[2]) = (1, 0, 0);
        }
        let (source, target) = (Layout::new(from, extent), Layout::new(to, extent));
        let (a, b) = (self.index(from.block), self.index(to.block));
        let fits = |model: &Self, side: Side, block: Option<usize>, size| {
            side.kind == HOST || block.is_some_and(|at| model.blocks[at].bytes.len() >= size)
        };
        let (from_size, to_size) = (source.size(extent), target.size(extent));
        let same_block = from.kind != HOST && to.kind != HOST && a == b;
        if same_block || !fits(self, from, a, from_size) || !fits(self, to, b, to_size) {
            return Ok(());
        }
        let host_source = pattern(extent[0] as u8, from_size);
        let mut host_target = vec![0x5a; to_size];
        let bytes = match (from.kind, a) {
            (HOST, _) | (_, None) => host_source.clone(),
            (_, Some(at)) => self.blocks[at].bytes.clone(),
        };
        let address = |model: &Self, block: Option<usize>| block.map_or(0, |at| model.blocks[at].address);
        let copy = CUDA_MEMCPY3D {
            srcXInBytes: source.origin[0],
            srcY: source.origin[1],
            srcZ: source.origin[2],
            srcLOD: 0,
            srcMemoryType: from.kind,
            srcHost: if from.kind == HOST { host_source.as_ptr().cast() } else { null() },
            srcDevice: if from.kind == HOST { 0 } else { address(self, a) },
            srcArray: CUarray::NULL,
            reserved0: null_mut(),
            srcPitch: source.pitch,
            srcHeight: source.rows,
            dstXInBytes: target.origin[0],
            dstY: target.origin[1],
            dstZ: target.origin[2],
            dstLOD: 0,
            dstMemoryType: to.kind,
            dstHost: if to.kind == HOST { host_target.as_mut_ptr().cast() } else { null_mut() },
            dstDevice: if to.kind == HOST { 0 } else { address(self, b) },
            dstArray: CUarray::NULL,
            reserved1: null_mut(),
            dstPitch: target.pitch,
            dstHeight: target.rows,
            WidthInBytes: extent[0],
            Height: extent[1],
            Depth: extent[2],
        };
        let result = match (flat, asynchronous) {
            (true, false) => self.d.cuMemcpy2DUnaligned_v2(&flattened(&copy)),
            (true, true) => self.d.cuMemcpy2DAsync_v2(&flattened(&copy), self.stream),
            (false, false) => self.d.cuMemcpy3D_v2(&copy),
            (false, true) => self.d.cuMemcpy3DAsync_v2(&copy, self.stream),
        };
        require("a 2-D or 3-D copy", result)?;
        self.wait()?;
        let mut expected = vec![0x5a; to_size];
        let written: &mut [u8] = match (to.kind, b) {
            (HOST, _) | (_, None) => &mut expected,
            (_, Some(at)) => &mut self.blocks[at].bytes,
        };
        for slice in 0..extent[2] {
            for row in 0..extent[1] {
                let (f, t) = (source.offset(row, slice), target.offset(row, slice));
                written[t..t + extent[0]].copy_from_slice(&bytes[f..f + extent[0]]);
            }
        }
        prop_assert!(to.kind != HOST || host_target == expected, "host bytes of a 2-D or 3-D copy");
        Ok(())
    }
}

fn flattened(copy: &CUDA_MEMCPY3D) -> CUDA_MEMCPY2D {
    CUDA_MEMCPY2D {
        srcXInBytes: copy.srcXInBytes,
        srcY: copy.srcY,
        srcMemoryType: copy.srcMemoryType,
        srcHost: copy.srcHost,
        srcDevice: copy.srcDevice,
        srcArray: copy.srcArray,
        srcPitch: copy.srcPitch,
        dstXInBytes: copy.dstXInBytes,
        dstY: copy.dstY,
        dstMemoryType: copy.dstMemoryType,
        dstHost: copy.dstHost,
        dstDevice: copy.dstDevice,
        dstArray: copy.dstArray,
        dstPitch: copy.dstPitch,
        WidthInBytes: copy.WidthInBytes,
        Height: copy.Height,
    }
}

/// Runs the sequences; the same ones each time.
pub fn random(d: &Driver, t: &mut Check) {
    d.start();
    let free = d.memory_info().0;
    let stream = d.stream(0);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let result = runner.run(&proptest::collection::vec(op(), 1..80), |ops| {
        let mut model = Model { d, stream, blocks: Vec::new() };
        ops.iter().try_for_each(|op| model.run(op))?;
        for block in &model.blocks {
            prop_assert!(d.read(block.address, block.bytes.len()) == block.bytes, "bytes of a block at the end");
            require("cuMemFree", d.cuMemFree_v2(block.address))?;
        }
        Ok(())
    });
    let report = || match &result {
        Err(TestError::Fail(reason, ops)) => {
            ops.iter().fold(reason.to_string(), |text, op| format!("{text}\n  {op:?}"))
        }
        other => format!("{other:?}"),
    };
    t.note("the bytes are the model's", result.is_ok(), report);
    t.same("all memory is free again", d.memory_info().0, free);
    must("cuStreamDestroy", d.cuStreamDestroy_v2(stream));
}

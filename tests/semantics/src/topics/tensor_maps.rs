//! Tensor maps, as Triton and CUTLASS encode them for Hopper's copies. The 128 bytes are the driver's secret; softcuda's own
//! say what they are.
use super::regions::Regions;
use crate::check::Check;
use crate::driver::{must, Driver};
use crate::image;
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use zerogpu_abi::*;

const KIB: usize = 1 << 10;

/// Room for a map.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
#[repr(align(128))]
pub(super) struct Place([u64; 16]);

impl Place {
    pub(super) fn ptr(&mut self) -> *mut Opaque {
        std::ptr::from_mut(self).cast()
    }

    /// Softcuda's encoding: the address that the map is for.
    fn address(&self) -> Option<u64> {
        (self.0[0] == u64::from_le_bytes(*b"softTMAP")).then_some(self.0[1])
    }
}

/// What is asked for, good as it stands; tests change one thing of it.
#[derive(Clone)]
struct Tiled {
    kind: u32,
    rank: u32,
    address: u64,
    dims: Vec<u64>,
    strides: Vec<u64>,
    size: Vec<u32>,
    steps: Vec<u32>,
    interleave: u32,
    swizzle: u32,
    l2: u32,
    oob: u32,
}

impl Tiled {
    /// Tiles of 64 by 64 half precision numbers, in spans of 128 bytes.
    fn good(address: u64) -> Self {
        Self {
            kind: 6,
            rank: 2,
            address,
            dims: vec![256, 64],
            strides: vec![512],
            size: vec![64, 64],
            steps: vec![1, 1],
            interleave: 0,
            swizzle: 3,
            l2: 2,
            oob: 0,
        }
    }

    fn encode(&self, d: &Driver, to: *mut Opaque) -> CUresult {
        d.cuTensorMapEncodeTiled(
            to,
            self.kind,
            self.rank,
            self.address as *mut c_void,
            self.dims.as_ptr(),
            self.strides.as_ptr(),
            self.size.as_ptr(),
            self.steps.as_ptr(),
            self.interleave,
            self.swizzle,
            self.l2,
            self.oob,
        )
    }
}

/// A map of memory in tiles.
pub(super) fn tiled(d: &Driver, to: &mut Place, address: u64) -> CUresult {
    Tiled::good(address).encode(d, to.ptr())
}

/// A map of the columns of an image.
pub(super) fn im2col(d: &Driver, to: &mut Place, address: u64) -> CUresult {
    im2col_of(d, to, address, 4, [-1, -1], [1, 1], 64)
}

fn im2col_of(
    d: &Driver,
    to: &mut Place,
    address: u64,
    rank: u32,
    lower: [i32; 2],
    upper: [i32; 2],
    channels: u32,
) -> CUresult {
    let (dims, strides, steps) = ([64u64, 16, 16, 2, 1], [128u64, 2048, 32768, 65536], [1u32; 5]);
    d.cuTensorMapEncodeIm2col(
        to.ptr(),
        6,
        rank,
        address as *mut c_void,
        dims.as_ptr(),
        strides.as_ptr(),
        lower.as_ptr(),
        upper.as_ptr(),
        channels,
        64,
        steps.as_ptr(),
        0,
        3,
        0,
        0,
    )
}

/// What cuda.h allows and what it forbids.
pub fn tiles(d: &Driver, t: &mut Check) {
    d.start();
    let (memory, mut map) = (d.alloc(256 * KIB), Place([7; 16]));
    let good = Tiled::good(memory);
    if t.driver.no_kernels {
        t.code("where there is no driver", good.encode(d, map.ptr()), 100);
        t.same("the map is left alone", map, Place([7; 16]));
        return;
    }
    t.code("half precision tiles", good.encode(d, map.ptr()), 0);
    let mut again = Place::default();
    t.code("the same again", good.encode(d, again.ptr()), 0);
    t.same("gives the same map", map, again);
    t.code("another address", d.cuTensorMapReplaceAddress(again.ptr(), (memory + 4096) as *mut c_void), 0);
    t.that("gives another map", map != again);
    t.code("and the first address again", d.cuTensorMapReplaceAddress(again.ptr(), memory as *mut c_void), 0);
    t.same("the first map", map, again);
    t.code("an odd address", d.cuTensorMapReplaceAddress(again.ptr(), (memory + 8) as *mut c_void), 1);
    t.same("leaves the map alone", map, again);

    let five = Tiled {
        rank: 5,
        dims: vec![64, 4, 4, 2, 2],
        strides: vec![128, 512, 2048, 4096],
        size: vec![64, 4, 1, 1, 1],
        steps: vec![8, 1, 1, 2, 8],
        ..good.clone()
    };
    let one = Tiled { rank: 1, dims: vec![1 << 32], strides: vec![], size: vec![64], steps: vec![1], ..good.clone() };
    let interleaved = Tiled { interleave: 2, swizzle: 1, ..five.clone() };
    for (what, tensor) in [("five dimensions", &five), ("one dimension", &one), ("interleaved by 32", &interleaved)] {
        t.code(what, tensor.encode(d, again.ptr()), 0);
    }
    let nan = Tiled { oob: 1, ..good.clone() };
    t.code("NaN for what is outside", nan.encode(d, again.ptr()), 0);

    let bad = |change: &dyn Fn(&mut Tiled)| {
        let mut tensor = good.clone();
        change(&mut tensor);
        tensor
    };
    let refused: &[(&str, Tiled)] = &[
        ("no such type", bad(&|x| x.kind = 16)),
        ("rank 0", bad(&|x| x.rank = 0)),
        ("rank 6", bad(&|x| x.rank = 6)),
        ("an address that is no multiple of 16", bad(&|x| x.address += 8)),
        ("an empty tensor", bad(&|x| x.dims[1] = 0)),
        ("more than 2^32 elements", bad(&|x| x.dims[1] = (1 << 32) + 1)),
        ("a stride that is no multiple of 16", bad(&|x| x.strides[0] = 520)),
        ("a stride of 2^40", bad(&|x| x.strides[0] = 1 << 40)),
        ("an empty box", bad(&|x| x.size[1] = 0)),
        ("a box of more than 256", bad(&|x| x.size[1] = 257)),
        ("a row of the box that is no multiple of 16 bytes", bad(&|x| x.size[0] = 4)),
        ("a row of the box longer than the swizzle's span", bad(&|x| x.size[0] = 128)),
        ("a step of 0", bad(&|x| x.steps[1] = 0)),
        ("a step of 9", bad(&|x| x.steps[1] = 9)),
        ("no such interleave", bad(&|x| x.interleave = 3)),
        ("interleave of two dimensions", bad(&|x| x.interleave = 1)),
        ("no such swizzle", bad(&|x| x.swizzle = 7)),
        ("no such promotion", bad(&|x| x.l2 = 4)),
        ("no such fill", bad(&|x| x.oob = 2)),
        ("NaN among integers", bad(&|x| (x.kind, x.oob) = (0, 1))),
        ("interleave by 32 at a multiple of 16", Tiled { address: memory + 16, ..interleaved }),
    ];
    let before = again;
    for (what, tensor) in refused {
        t.code(what, tensor.encode(d, again.ptr()), 1);
    }
    t.code("no map", good.encode(d, null_mut()), 1);
    if !t.driver.real {
        // driver 580 writes it all the same (recorded)
        t.code("a map in between", good.encode(d, again.ptr().wrapping_byte_add(16)), 1);
    }
    let nothing = d.cuTensorMapEncodeTiled(
        again.ptr(),
        6,
        2,
        memory as *mut c_void,
        null(),
        good.strides.as_ptr(),
        good.size.as_ptr(),
        good.steps.as_ptr(),
        0,
        3,
        0,
        0,
    );
    t.code("no dimensions", nothing, 1);
    t.same("refusals leave the map alone", before, again);
}

/// Columns of images.
pub fn columns(d: &Driver, t: &mut Check) {
    d.start();
    if t.driver.no_kernels {
        let mut map = Place::default();
        t.code("where there is no driver", im2col(d, &mut map, 0x1000), 100);
        return;
    }
    let (memory, mut map) = (d.alloc(256 * KIB), Place::default());
    t.code("four dimensions", im2col(d, &mut map, memory), 0);
    t.code("three", im2col_of(d, &mut map, memory, 3, [-32768, 0], [32767, 0], 64), 0);
    t.code("two", im2col_of(d, &mut map, memory, 2, [0, 0], [0, 0], 64), 1);
    t.code("a corner that is too far away", im2col_of(d, &mut map, memory, 4, [-129, 0], [0, 0], 64), 1);
    t.code("the other one", im2col_of(d, &mut map, memory, 4, [0, 0], [0, 128], 64), 1);
    t.code("a box without an area", im2col_of(d, &mut map, memory, 3, [16, 0], [0, 0], 64), 1);
    t.code("too many channels", im2col_of(d, &mut map, memory, 4, [0, 0], [0, 0], 257), 1);
    let wide = |map: &mut Place| {
        let (dims, strides, steps) = ([64u64, 16, 16, 2], [128u64, 2048, 32768], [1u32; 4]);
        d.cuTensorMapEncodeIm2colWide(
            map.ptr(),
            6,
            4,
            memory as *mut c_void,
            dims.as_ptr(),
            strides.as_ptr(),
            0,
            0,
            64,
            64,
            steps.as_ptr(),
            0,
            0,
            3,
            0,
            0,
        )
    };
    // cuda.h: from compute capability 10.0 on; driver 580 encodes it for an H200 (recorded)
    t.code("along the width, on Hopper", wide(&mut map), 0);
}

/// The recorded parameters of the launches of a kernel, where softcuda is below.
fn parameters(kernel: &str) -> Option<Vec<String>> {
    let path = std::env::var_os("SOFTCUDA_LAUNCH_LOG")?;
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let name = format!("\"kernel\":\"{kernel}\"");
    let field = |line: &str| Some(line.split("\"params\":\"").nth(1)?.split('"').next()?.to_string());
    Some(text.lines().filter(|line| line.contains(&name)).filter_map(field).collect())
}

/// A map that was encoded once is good in every later claim; it reaches kernels byte by byte; and one of a module's variable
/// has the address that the card knows.
pub fn parks(d: &Driver, t: &mut Check) {
    d.start();
    if t.driver.no_kernels {
        t.code("where there is no driver", tiled(d, &mut Place::default(), 0x1000), 100);
        return;
    }
    let (memory, regions) = (d.alloc(256 * KIB), Regions::find(d));
    let mut maps = Vec::new();
    for round in 0..3 {
        let region = regions.map(|r| r.begin());
        let mut map = Place::default();
        t.code(format_args!("claim {round}"), tiled(d, &mut map, memory), 0);
        maps.push(map);
        if let (Some(r), Some(region)) = (regions, region) {
            t.that("the region ends", r.end(region));
        }
    }
    t.that("each is the same", maps.iter().all(|map| *map == maps[0]));
    let mut outside = Place::default();
    t.code("outside of any region", tiled(d, &mut outside, memory), 0);
    t.same("is the same too", outside, maps[0]);

    // what is borrowed may be given back between a launch and its wait
    let region = regions.map(|r| r.begin());
    let (mut module, mut function) = (CUmodule::NULL, CUfunction::NULL);
    must("cuModuleLoadData", d.cuModuleLoadData(&mut module, image::TENSOR_PTX.as_ptr().cast()));
    must("cuModuleGetFunction", d.cuModuleGetFunction(&mut function, module, c"tensor".as_ptr()));
    let mut values: [*mut c_void; 1] = [maps[0].ptr().cast()];
    let launched = d.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, CUstream::NULL, values.as_mut_ptr(), null_mut());
    t.code("a launch with a map", launched, 0);
    t.code("and its end", d.cuCtxSynchronize(), 0);
    if let Some(seen) = parameters("tensor").filter(|_| !t.driver.real) {
        let hex: String = maps[0].0.iter().flat_map(|w| w.to_le_bytes()).map(|b| format!("{b:02x}")).collect();
        t.same("reaches the kernel as it is", seen, vec![hex]);
    }
    if let (Some(r), Some(region)) = (regions, region) {
        t.that("the region ends", r.end(region));
    }

    let (mut at, mut bytes, mut map) = (0, 0, Place::default());
    must("cuModuleLoadData", d.cuModuleLoadData(&mut module, image::CUBIN.as_ptr().cast()));
    must("cuModuleGetGlobal", d.cuModuleGetGlobal_v2(&mut at, &mut bytes, module, c"table".as_ptr()));
    t.code("a map of a variable", tiled(d, &mut map, at), 0);
    if let Some(address) = map.address() {
        t.same("has another address where the card is another", address != at, regions.is_some());
    }
    t.code("a map that gets a variable's address", d.cuTensorMapReplaceAddress(outside.ptr(), at as *mut c_void), 0);
    t.same("is the same", outside, map);
}

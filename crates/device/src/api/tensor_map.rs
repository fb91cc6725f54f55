//! Tensor maps (see `crate::tensor`): arguments are read here, and encoded by whoever has a card.
use super::*;
use crate::runtime::{backend, lock};
use crate::tensor::{padded, Tensor, TensorMap, View};
use std::ffi::c_void;
use zerogpu_abi::*;

/// cuda.h: "tensorMap address must be aligned to 64 bytes".
const ALIGNMENT: usize = 64;

fn place(map: *mut Opaque) -> Res<*mut [u64; 16]> {
    if map.is_null() || map.addr() % ALIGNMENT != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    Ok(map.cast())
}

/// Both kinds of im2col have dimensions of their own for channels and batches.
fn at_least(rank: u32, least: u32) -> Res<usize> {
    if (least..=crate::tensor::MAX_RANK as u32).contains(&rank) {
        Ok(rank as usize)
    } else {
        Err(CUresult::INVALID_VALUE)
    }
}

unsafe fn encode(map: *mut Opaque, tensor: impl FnOnce() -> Res<Tensor>) -> CUresult {
    answer(|| {
        let to = place(map)?;
        let tensor = tensor()?;
        lock()?.current()?;
        let TensorMap(words) = backend()?.encode_tensor(&tensor)?;
        to.write(words);
        Ok(())
    })
}

#[allow(clippy::too_many_arguments)]
pub unsafe fn cuTensorMapEncodeTiled(
    tensorMap: *mut Opaque,
    tensorDataType: u32,
    tensorRank: u32,
    globalAddress: *mut c_void,
    globalDim: *const u64,
    globalStrides: *const u64,
    boxDim: *const u32,
    elementStrides: *const u32,
    interleave: u32,
    swizzle: u32,
    l2Promotion: u32,
    oobFill: u32,
) -> CUresult {
    encode(tensorMap, || {
        let rank = at_least(tensorRank, 1)?;
        Ok(Tensor {
            data_type: tensorDataType,
            rank: tensorRank,
            address: globalAddress as u64,
            dims: padded(globalDim, rank)?,
            strides: padded(globalStrides, rank - 1)?,
            element_strides: padded(elementStrides, rank)?,
            interleave,
            swizzle,
            l2_promotion: l2Promotion,
            oob_fill: oobFill,
            view: View::Tiled { size: padded(boxDim, rank)? },
        })
    })
}

#[allow(clippy::too_many_arguments)]
pub unsafe fn cuTensorMapEncodeIm2col(
    tensorMap: *mut Opaque,
    tensorDataType: u32,
    tensorRank: u32,
    globalAddress: *mut c_void,
    globalDim: *const u64,
    globalStrides: *const u64,
    pixelBoxLowerCorner: *const i32,
    pixelBoxUpperCorner: *const i32,
    channelsPerPixel: u32,
    pixelsPerColumn: u32,
    elementStrides: *const u32,
    interleave: u32,
    swizzle: u32,
    l2Promotion: u32,
    oobFill: u32,
) -> CUresult {
    encode(tensorMap, || {
        let rank = at_least(tensorRank, 3)?;
        Ok(Tensor {
            data_type: tensorDataType,
            rank: tensorRank,
            address: globalAddress as u64,
            dims: padded(globalDim, rank)?,
            strides: padded(globalStrides, rank - 1)?,
            element_strides: padded(elementStrides, rank)?,
            interleave,
            swizzle,
            l2_promotion: l2Promotion,
            oob_fill: oobFill,
            view: View::Im2col {
                lower: padded(pixelBoxLowerCorner, rank - 2)?,
                upper: padded(pixelBoxUpperCorner, rank - 2)?,
                channels: channelsPerPixel,
                pixels: pixelsPerColumn,
            },
        })
    })
}

#[allow(clippy::too_many_arguments)]
pub unsafe fn cuTensorMapEncodeIm2colWide(
    tensorMap: *mut Opaque,
    tensorDataType: u32,
    tensorRank: u32,
    globalAddress: *mut c_void,
    globalDim: *const u64,
    globalStrides: *const u64,
    pixelBoxLowerCornerWidth: i32,
    pixelBoxUpperCornerWidth: i32,
    channelsPerPixel: u32,
    pixelsPerColumn: u32,
    elementStrides: *const u32,
    interleave: u32,
    mode: u32,
    swizzle: u32,
    l2Promotion: u32,
    oobFill: u32,
) -> CUresult {
    encode(tensorMap, || {
        let rank = at_least(tensorRank, 3)?;
        Ok(Tensor {
            data_type: tensorDataType,
            rank: tensorRank,
            address: globalAddress as u64,
            dims: padded(globalDim, rank)?,
            strides: padded(globalStrides, rank - 1)?,
            element_strides: padded(elementStrides, rank)?,
            interleave,
            swizzle,
            l2_promotion: l2Promotion,
            oob_fill: oobFill,
            view: View::Im2colWide {
                lower: pixelBoxLowerCornerWidth,
                upper: pixelBoxUpperCornerWidth,
                channels: channelsPerPixel,
                pixels: pixelsPerColumn,
                mode,
            },
        })
    })
}

pub unsafe fn cuTensorMapReplaceAddress(tensorMap: *mut Opaque, globalAddress: *mut c_void) -> CUresult {
    answer(|| {
        let at = place(tensorMap)?;
        lock()?.current()?;
        let mut map = TensorMap(at.read());
        backend()?.readdress_tensor(&mut map, globalAddress as u64)?;
        at.write(map.0);
        Ok(())
    })
}

//! Tensor maps: how the tensor memory accelerator of a card finds the parts of a tensor. Their layout is each driver's own
//! secret; what a map says is an address, which never changes here, and shapes. So a map outlives any number of parks.
use zerogpu_abi::{CUresult, Res};

/// Dimensions of a tensor at most.
pub const MAX_RANK: usize = 5;

/// A map as a driver encodes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(128))]
pub struct TensorMap(pub [u64; 16]);

/// What a map is to say, as cuda.h names it. Arrays are padded with zeros to [`MAX_RANK`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Tensor {
    pub data_type: u32,
    /// 1 to [`MAX_RANK`].
    pub rank: u32,
    pub address: u64,
    /// Elements.
    pub dims: [u64; MAX_RANK],
    /// Bytes from one to the next along each dimension but the first.
    pub strides: [u64; MAX_RANK - 1],
    pub element_strides: [u32; MAX_RANK],
    pub interleave: u32,
    pub swizzle: u32,
    pub l2_promotion: u32,
    pub oob_fill: u32,
    pub view: View,
}

/// Which elements a load takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum View {
    /// A box.
    Tiled { size: [u32; MAX_RANK] },
    /// Columns of an image, as a convolution wants them.
    Im2col { lower: [i32; 3], upper: [i32; 3], channels: u32, pixels: u32 },
    /// The same along the width alone.
    Im2colWide { lower: i32, upper: i32, channels: u32, pixels: u32, mode: u32 },
}

/// Reads `len` elements of an app's array, padded with zeros.
///
/// # Errors
/// INVALID_VALUE for a NULL that should have elements, or for more than there is room for.
///
/// # Safety
/// `from` is NULL or valid for `len` elements.
pub(crate) unsafe fn padded<T: Copy + Default, const N: usize>(from: *const T, len: usize) -> Res<[T; N]> {
    let mut all = [T::default(); N];
    let part = all.get_mut(..len).ok_or(CUresult::INVALID_VALUE)?;
    if from.is_null() && len > 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    for (i, to) in part.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *to = unsafe { from.add(i).read_unaligned() };
    }
    Ok(all)
}

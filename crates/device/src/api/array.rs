//! Arrays: kept as pitched device memory. Textures and surfaces over them need a GPU's own layout and are not supported.
use super::*;
use crate::handle::Kind;
use crate::memory::RegionKind;
use crate::op::Plane;
use crate::runtime::{lock, State};
use zerogpu_abi::*;

/// Bytes of a channel by CUarray_format; None: a format that only textures know.
fn channel_bytes(format: u32) -> Option<u64> {
    Some(match format {
        0x01 | 0x08 => 1,
        0x02 | 0x09 | 0x10 => 2,
        0x03 | 0x0a | 0x20 => 4,
        _ => return None,
    })
}

/// An array.
#[derive(Clone, Copy)]
pub struct Array {
    ctx: CUcontext,
    desc: CUDA_ARRAY3D_DESCRIPTOR,
    plane: Plane,
    /// Bytes of a row (the pitch is longer), rows of a slice, slices.
    extent: [u64; 3],
}

impl Array {
    /// Whether `n` bytes, rows and slices from `at` on are all in it.
    fn holds(&self, at: [u64; 3], n: [u64; 3]) -> bool {
        (0..3).all(|i| at[i].checked_add(n[i]).is_some_and(|end| end <= self.extent[i]))
    }
}

impl State {
    fn create_array(&mut self, desc: CUDA_ARRAY3D_DESCRIPTOR) -> Res<CUarray> {
        let ctx = self.current()?;
        let channel = channel_bytes(desc.Format).ok_or(CUresult::INVALID_VALUE)?;
        if desc.Width == 0 || !matches!(desc.NumChannels, 1 | 2 | 4) {
            return Err(CUresult::INVALID_VALUE);
        }
        let row = channel * desc.NumChannels as u64;
        let width = (desc.Width as u64).checked_mul(row).ok_or(CUresult::OUT_OF_MEMORY)?;
        let pitch = width.checked_next_multiple_of(512).ok_or(CUresult::OUT_OF_MEMORY)?;
        let extent = [width, desc.Height.max(1) as u64, desc.Depth.max(1) as u64];
        let slice = pitch.checked_mul(desc.Height.max(1) as u64).ok_or(CUresult::OUT_OF_MEMORY)?;
        let all = slice.checked_mul(desc.Depth.max(1) as u64).ok_or(CUresult::OUT_OF_MEMORY)?;
        let device = self.device_of(ctx)?;
        let h = self.handle(Kind::Array)?;
        let at = match self.alloc(device, all, RegionKind::Device, ctx) {
            Ok(at) => at,
            Err(e) => {
                self.handles.drop(h);
                return Err(e);
            }
        };
        self.arrays.insert(h, Array { ctx, desc, plane: Plane { at, pitch, slice }, extent });
        Ok(CUarray(h))
    }

    fn array(&self, array: CUarray) -> Res<Array> {
        self.arrays.get(&array.0).copied().ok_or(CUresult::INVALID_HANDLE)
    }

    /// Ends the arrays of a context; their memory goes with the rest of it.
    pub(crate) fn end_arrays_of(&mut self, ctx: CUcontext) {
        let of: Vec<usize> = self.arrays.iter().filter(|(_, a)| a.ctx == ctx).map(|(&h, _)| h).collect();
        for h in of {
            self.arrays.remove(&h);
            self.end(Kind::Array, h);
        }
    }

    /// Where an array's bytes lie, if it holds `n` bytes, rows and slices from `at` on.
    pub(crate) fn array_plane(&self, array: CUarray, at: [u64; 3], n: [u64; 3]) -> Res<Plane> {
        let a = self.array(array)?;
        if a.holds(at, n) {
            Ok(a.plane)
        } else {
            Err(CUresult::INVALID_VALUE)
        }
    }

    /// The address of a byte of an array from which `n` can be copied as a line: those of a row, or, of more rows, what
    /// lies between them too.
    pub(crate) fn array_line(&self, array: CUarray, off: u64, n: u64) -> Res<u64> {
        let a = self.array(array)?;
        let [width, rows, slices] = a.extent;
        let most = if rows == 1 && slices == 1 { width } else { a.plane.slice * slices };
        if off.checked_add(n).is_some_and(|end| end <= most) {
            Ok(a.plane.at + off)
        } else {
            Err(CUresult::INVALID_VALUE)
        }
    }
}

pub unsafe fn cuArrayCreate_v2(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY_DESCRIPTOR) -> CUresult {
    answer(|| {
        wanted(pHandle)?;
        let d = input(pAllocateArray)?;
        let (Width, Height, Format, NumChannels) = (d.Width, d.Height, d.Format, d.NumChannels);
        let desc = CUDA_ARRAY3D_DESCRIPTOR { Width, Height, Depth: 0, Format, NumChannels, Flags: 0 };
        out(pHandle, State::take_memory(0, || lock()?.create_array(desc))?)
    })
}

pub unsafe fn cuArray3DCreate_v2(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY3D_DESCRIPTOR) -> CUresult {
    answer(|| {
        wanted(pHandle)?;
        let desc = input(pAllocateArray)?;
        out(pHandle, State::take_memory(0, || lock()?.create_array(desc))?)
    })
}

pub unsafe fn cuArrayGetDescriptor_v2(pArrayDescriptor: *mut CUDA_ARRAY_DESCRIPTOR, hArray: CUarray) -> CUresult {
    answer(|| {
        wanted(pArrayDescriptor)?;
        let d = lock()?.array(hArray)?.desc;
        let (Width, Height, Format, NumChannels) = (d.Width, d.Height, d.Format, d.NumChannels);
        out(pArrayDescriptor, CUDA_ARRAY_DESCRIPTOR { Width, Height, Format, NumChannels })
    })
}

pub unsafe fn cuArray3DGetDescriptor_v2(pArrayDescriptor: *mut CUDA_ARRAY3D_DESCRIPTOR, hArray: CUarray) -> CUresult {
    answer(|| {
        wanted(pArrayDescriptor)?;
        out(pArrayDescriptor, lock()?.array(hArray)?.desc)
    })
}

pub unsafe fn cuArrayDestroy(hArray: CUarray) -> CUresult {
    answer(|| {
        {
            let mut st = lock()?;
            st.current()?;
            st.array(hArray)?;
        }
        // as for any memory: copies that wait for their turn may name it
        end_work()?;
        let mut st = lock()?;
        let a = st.arrays.remove(&hArray.0).ok_or(CUresult::INVALID_HANDLE)?;
        st.end(Kind::Array, hArray.0);
        st.free(a.plane.at)
    })
}

//! What the arguments of a traced call point to: names that were asked for, and the bytes that a struct tells of.
use std::collections::HashMap;
use std::ffi::{c_char, CStr};
use std::sync::OnceLock;
use zerogpu_abi::*;
use zerogpu_trace::{message, Message};

/// What is told of a function beside its arguments.
#[derive(Clone, Copy)]
enum More {
    /// The name that this argument points to.
    Name(usize),
    /// The bytes of a copy that the first argument describes.
    Copy2d,
    Copy3d,
    CopyPeer,
    /// Rows of the pitch that the second argument points to.
    Pitch,
}

const TOLD: [(&str, More); 13] = [
    ("cuGetProcAddress", More::Name(0)),
    ("cuGetProcAddress_v2", More::Name(0)),
    ("cuModuleGetFunction", More::Name(2)),
    ("cuModuleGetGlobal_v2", More::Name(3)),
    ("cuLibraryGetKernel", More::Name(2)),
    ("cuLibraryGetGlobal", More::Name(3)),
    ("cuMemcpy2D_v2", More::Copy2d),
    ("cuMemcpy2DUnaligned_v2", More::Copy2d),
    ("cuMemcpy2DAsync_v2", More::Copy2d),
    ("cuMemcpy3D_v2", More::Copy3d),
    ("cuMemcpy3DAsync_v2", More::Copy3d),
    ("cuMemcpy3DPeer", More::CopyPeer),
    ("cuMemcpy3DPeerAsync", More::CopyPeer),
];

fn told() -> &'static HashMap<u32, More> {
    static ALL: OnceLock<HashMap<u32, More>> = OnceLock::new();
    ALL.get_or_init(|| {
        let twins = |name: &str| ["", "_ptds", "_ptsz"].map(|suffix| format!("{name}{suffix}"));
        let mut all: HashMap<u32, More> = TOLD
            .iter()
            .flat_map(|(name, more)| twins(name).map(|n| (zerogpu_trace::id(&n), *more)))
            .filter_map(|(id, more)| Some((id?, more)))
            .collect();
        all.extend(zerogpu_trace::id("cuMemAllocPitch_v2").map(|id| (id, More::Pitch)));
        all
    })
}

/// Records the names in a call that has ended; gives its bytes, 0 where the arguments say so themselves.
pub fn of(id: u32, args: &[u64], result: u32) -> u64 {
    let (Some(more), result) = (told().get(&id), CUresult(result)) else { return 0 };
    match *more {
        // only what these answers prove to be read may be read again
        More::Name(at) if result.ok() || result == CUresult::NOT_FOUND => {
            if let Some(&name) = args.get(at).filter(|&&a| a != 0) {
                // SAFETY: the function has just read this string.
                let name = unsafe { CStr::from_ptr(name as *const c_char) };
                message(Message::Detail, &name.to_string_lossy());
            }
            0
        }
        _ if !result.ok() => 0,
        // SAFETY: the function has just read the struct, or written the pitch, that its argument points to.
        _ => unsafe { bytes(*more, args) }.unwrap_or(0),
    }
}

/// # Safety
/// The arguments are those of a call that succeeded.
unsafe fn bytes(more: More, args: &[u64]) -> Option<u64> {
    let first = *args.first()? as usize;
    let [width, height, depth] = match more {
        More::Name(_) => return None,
        More::Copy2d => {
            // SAFETY: the caller's promise.
            let c = unsafe { (first as *const CUDA_MEMCPY2D).read_unaligned() };
            [c.WidthInBytes, c.Height, 1]
        }
        More::Copy3d => {
            // SAFETY: as above.
            let c = unsafe { (first as *const CUDA_MEMCPY3D).read_unaligned() };
            [c.WidthInBytes, c.Height, c.Depth]
        }
        More::CopyPeer => {
            // SAFETY: as above.
            let c = unsafe { (first as *const CUDA_MEMCPY3D_PEER).read_unaligned() };
            [c.WidthInBytes, c.Height, c.Depth]
        }
        // SAFETY: as above.
        More::Pitch => [unsafe { (*args.get(1)? as *const usize).read_unaligned() }, *args.get(3)? as usize, 1],
    };
    Some([height, depth].iter().fold(width as u64, |n, &m| n.saturating_mul(m as u64)))
}

//! Launches on a claimed GPU: what the app gave goes to the driver as it is, but for module variables, whose addresses
//! differ there, and for events in attributes.
use super::forward::{is_global, recorded};
use super::live::{known_function, LiveFunction};
use super::Engine;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::Ordering;
use std::sync::OnceLock;
use zerogpu_abi::*;
use zerogpu_below::ok;
use zerogpu_device::api::{extra_buffer, pack_into};
use zerogpu_device::objects::ADDRESSES_TOLD;
use zerogpu_device::op::{Launch, Params};
use zerogpu_image::Kernel;

/// Bytes of parameters, and attributes, that are copied on the stack: what kernels could have until CUDA 12.1, and more
/// attributes than there are kinds.
const FEW_BYTES: usize = 4096;
const FEW_ATTRIBUTES: usize = 24;

/// CU_LAUNCH_ATTRIBUTE_COOPERATIVE, _PROGRAMMATIC_EVENT, _LAUNCH_COMPLETION_EVENT.
const COOPERATIVE: u32 = 2;
const WITH_EVENT: [u32; 2] = [7, 12];

impl Engine {
    #[inline]
    pub(super) fn launch(&self, l: &Launch, s: CUstream, epoch: u32) -> Res {
        match known_function(l.func, epoch) {
            Some(f) => self.launch_function(l, f, s, epoch),
            None => self.launch_first(l, s, epoch),
        }
    }

    /// The first launch of a function in a claim.
    #[cold]
    #[inline(never)]
    fn launch_first(&self, l: &Launch, s: CUstream, epoch: u32) -> Res {
        self.launch_function(l, self.live_function(l.func, epoch)?, s, epoch)
    }

    #[inline(always)]
    fn launch_function(&self, l: &Launch, f: &LiveFunction, s: CUstream, epoch: u32) -> Res {
        if zerogpu_trace::on() {
            trace_launch(l, f, s);
        }
        if names_global(&f.kernel, &l.params)? {
            return self.launch_translated(l, f, s, epoch);
        }
        match l.params {
            Params::Pointers(p) => self.launch_real(l, f, s, epoch, (p, null_mut())),
            Params::Extra(e) => self.launch_real(l, f, s, epoch, (null_mut(), e)),
            Params::Packed(bytes) => self.launch_packed(l, f, s, epoch, bytes),
        }
    }

    /// A launch with an address of a module variable among its parameters.
    #[cold]
    fn launch_translated(&self, l: &Launch, f: &LiveFunction, s: CUstream, epoch: u32) -> Res {
        let (mut few, mut many) = ([0; FEW_BYTES], Vec::new());
        let size = f.kernel.param_bytes as usize;
        let bytes = match few.get_mut(..size) {
            Some(bytes) => bytes,
            None => {
                many.resize(size, 0);
                &mut many[..]
            }
        };
        pack_into(&f.kernel, &l.params, bytes)?;
        for at in words(&f.kernel) {
            let Some(word) = bytes.get_mut(at..at + 8) else { continue };
            let value = u64::from_le_bytes(word.try_into().unwrap_or([0; 8]));
            if is_global(value) {
                if let Some(real) = self.live_global(value, 1)? {
                    word.copy_from_slice(&real.to_le_bytes());
                }
            }
        }
        self.launch_packed(l, f, s, epoch, bytes)
    }

    fn launch_packed(&self, l: &Launch, f: &LiveFunction, s: CUstream, epoch: u32, bytes: &[u8]) -> Res {
        let mut size = bytes.len();
        // CU_LAUNCH_PARAM_BUFFER_POINTER, _BUFFER_SIZE, _END; the driver only reads the buffer
        let mut list = [
            std::ptr::without_provenance_mut(1),
            bytes.as_ptr().cast_mut().cast(),
            std::ptr::without_provenance_mut(2),
            (&mut size as *mut usize).cast(),
            null_mut(),
        ];
        self.launch_real(l, f, s, epoch, (null_mut(), list.as_mut_ptr()))
    }

    /// The driver's launch, with parameters as pointers or in its `extra` form.
    #[inline]
    fn launch_real(&self, l: &Launch, f: &LiveFunction, s: CUstream, epoch: u32, (pointers, extra): Parameters) -> Res {
        // the call for cooperative launches takes pointers only
        if !l.attrs.is_empty() || (l.cooperative && !extra.is_null()) {
            return self.launch_ex(l, f, s, epoch, (pointers, extra));
        }
        let d = self.driver()?;
        let ([gx, gy, gz], [bx, by, bz]) = (l.grid, l.block);
        // SAFETY: live twins of this claim, and the parameters that the app gave or our copy of them.
        ok(unsafe {
            if l.cooperative {
                (d.cuLaunchCooperativeKernel)(f.real(), gx, gy, gz, bx, by, bz, l.shared, s, pointers)
            } else {
                (d.cuLaunchKernel)(f.real(), gx, gy, gz, bx, by, bz, l.shared, s, pointers, extra)
            }
        })
    }

    fn launch_ex(&self, l: &Launch, f: &LiveFunction, s: CUstream, epoch: u32, (pointers, extra): Parameters) -> Res {
        let value = CUlaunchAttributeValue { words: [1, 0, 0, 0, 0, 0, 0, 0] };
        let cooperative = CUlaunchAttribute { id: COOPERATIVE, pad: [0; 4], value };
        let count = l.attrs.len() + l.cooperative as usize;
        let (mut few, mut many) = ([cooperative; FEW_ATTRIBUTES], Vec::new());
        let attrs = match few.get_mut(..count) {
            Some(attrs) => attrs,
            None => {
                many.resize(count, cooperative);
                &mut many[..]
            }
        };
        // behind the app's own stands the cooperative one, if there is one more
        attrs[..l.attrs.len()].copy_from_slice(l.attrs);
        for a in attrs.iter_mut() {
            if let Some(event) = event_of(a) {
                a.value.words[0] = self.live_event(event, epoch)?.0 as u64;
            }
        }
        let ([gx, gy, gz], [bx, by, bz]) = (l.grid, l.block);
        let config = CUlaunchConfig {
            gridDimX: gx,
            gridDimY: gy,
            gridDimZ: gz,
            blockDimX: bx,
            blockDimY: by,
            blockDimZ: bz,
            sharedMemBytes: l.shared,
            hStream: s,
            attrs: attrs.as_mut_ptr(),
            numAttrs: count as u32,
        };
        // SAFETY: live twins of this claim, the parameters, and the attributes above.
        ok(unsafe { (self.driver()?.cuLaunchKernelEx)(&config, f.real(), pointers, extra) })?;
        l.attrs.iter().filter_map(event_of).try_for_each(|e| recorded(e, epoch))
    }
}

/// The event that a launch with this attribute records.
fn event_of(a: &CUlaunchAttribute) -> Option<CUevent> {
    WITH_EVENT.contains(&a.id).then_some(CUevent(a.value.words[0] as usize))
}

/// Pointers to the parameters and the `extra` list: one of them, or none.
type Parameters = (*mut *mut c_void, *mut *mut c_void);

/// Offsets of the 8-byte words of a kernel's parameters, any of which may be an address.
fn words(kernel: &Kernel) -> impl Iterator<Item = usize> + '_ {
    kernel.params.iter().flat_map(|q| (0..q.size as usize / 8).map(|i| q.offset as usize + i * 8))
}

/// Whether an address of a module variable is among the parameters.
#[inline]
fn names_global(kernel: &Kernel, params: &Params) -> Res<bool> {
    if !ADDRESSES_TOLD.load(Ordering::Acquire) {
        return Ok(false);
    }
    let bytes = match *params {
        Params::Pointers(p) => {
            return Ok(!p.is_null()
                && kernel.params.iter().any(|q| {
                    // SAFETY: cuLaunchKernel asks for one valid pointer a parameter, in order.
                    let at = unsafe { *p.add(q.ordinal as usize) } as *const u64;
                    // SAFETY: the parameter is `size` bytes long.
                    (0..q.size as usize / 8).any(|i| is_global(unsafe { at.add(i).read_unaligned() }))
                }));
        }
        // SAFETY: `extra` is a list of pairs that ends with CU_LAUNCH_PARAM_END, as cuda.h asks.
        Params::Extra(extra) => unsafe { extra_buffer(extra)? },
        Params::Packed(bytes) => bytes,
    };
    let word = |at: usize| bytes.get(at..at + 8).and_then(|w| w.try_into().ok()).map_or(0, u64::from_le_bytes);
    Ok(words(kernel).any(|at| is_global(word(at))))
}

#[cold]
fn trace_launch(l: &Launch, f: &LiveFunction, s: CUstream) {
    let launch = zerogpu_trace::Launch {
        kernel: &f.kernel.name,
        grid: l.grid,
        block: l.block,
        shared_bytes: l.shared as u64,
        stream: s.0 as u64,
    };
    static ID: OnceLock<Option<u32>> = OnceLock::new();
    if let Some(id) = *ID.get_or_init(|| zerogpu_trace::id("cuLaunchKernel")) {
        zerogpu_trace::launch(id, &launch);
    }
}

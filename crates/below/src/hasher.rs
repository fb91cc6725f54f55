//! Hashes of what lies on a card, made by the card: by them a park knows what changed.
use crate::{ok, physical, twice, Driver};
use std::ffi::{c_void, CString};
use zerogpu_abi::*;
use zerogpu_hash::{CHUNK, HASH_CHUNKS, PTX, THREADS};

/// A hash.
pub type Hash = [u64; 2];

/// Bytes for the hashes of one batch: of 256 GiB.
const ROOM: u64 = 2 << 20;
const HASH: u64 = size_of::<Hash>() as u64;

/// The hash kernel, loaded in a context, and room for its results on the card. All calls want that context current.
pub struct Hasher {
    module: CUmodule,
    function: CUfunction,
    stream: CUstream,
    handle: u64,
    results: u64,
}

impl Hasher {
    /// Loads the kernel in the current context, which is of the card `device`.
    ///
    /// # Errors
    /// The driver's answer to the first call that failed.
    pub fn new(d: &Driver, device: CUdevice) -> Res<Self> {
        let mut h = Hasher {
            module: CUmodule::NULL,
            function: CUfunction::NULL,
            stream: CUstream::NULL,
            handle: 0,
            results: 0,
        };
        match h.load(d, device) {
            Ok(()) => Ok(h),
            Err(e) => {
                let _first_error_counts = h.end(d);
                Err(e)
            }
        }
    }

    fn load(&mut self, d: &Driver, device: CUdevice) -> Res {
        let name = CString::new(HASH_CHUNKS).map_err(|_| CUresult::INVALID_VALUE)?;
        // SAFETY: a NUL-terminated image and name; each call writes one new object; 1 is CU_STREAM_NON_BLOCKING.
        unsafe {
            ok((d.cuModuleLoadData)(&mut self.module, PTX.as_ptr().cast()))?;
            ok((d.cuModuleGetFunction)(&mut self.function, self.module, name.as_ptr()))?;
            ok((d.cuStreamCreateWithPriority)(&mut self.stream, 1, 0))?;
        }
        self.handle = physical::create(d, device, ROOM)?;
        match physical::open_window(d, device, self.handle, ROOM) {
            Ok(va) => self.results = va,
            Err(left) => {
                // what is mapped all the same is ended with the rest, or told with it
                self.results = left.mapped.unwrap_or(0);
                return Err(left.code);
            }
        }
        Ok(())
    }

    /// The hashes of the chunks of ranges (address on the card, bytes), in order. An address is 16-byte aligned, a length a
    /// multiple of 16; nothing may be writing there. Each range begins a chunk of its own.
    ///
    /// # Errors
    /// [`CUresult::INVALID_VALUE`] if an address or length is no multiple of 16 bytes, the driver's answer otherwise.
    pub fn hash(&self, d: &Driver, ranges: &[(u64, u64)]) -> Res<Vec<Hash>> {
        let mut hashes = Vec::new();
        let mut queued = 0;
        for &(mut at, mut len) in ranges {
            if at % 16 != 0 || len % 16 != 0 {
                return self.fetch(d, queued, &mut hashes).and(Err(CUresult::INVALID_VALUE));
            }
            while len > 0 {
                if queued == ROOM / HASH {
                    self.fetch(d, queued, &mut hashes)?;
                    queued = 0;
                }
                let chunks = len.div_ceil(CHUNK as u64).min(ROOM / HASH - queued);
                let bytes = len.min(chunks * CHUNK as u64);
                if let Err(e) = self.launch(d, at, bytes, queued, chunks) {
                    return self.fetch(d, queued, &mut hashes).and(Err(e));
                }
                queued += chunks;
                (at, len) = (at + bytes, len - bytes);
            }
        }
        self.fetch(d, queued, &mut hashes)?;
        Ok(hashes)
    }

    fn launch(&self, d: &Driver, at: u64, bytes: u64, first: u64, chunks: u64) -> Res {
        let (mut src, mut bytes, mut out) = (at, bytes, self.results + first * HASH);
        let mut params: [*mut c_void; 3] = [(&raw mut src).cast(), (&raw mut bytes).cast(), (&raw mut out).cast()];
        let (grid, threads) = (chunks as u32, THREADS as u32);
        // SAFETY: the kernel's three parameters, copied by the call; it reads the range and writes into our room.
        ok(unsafe {
            (d.cuLaunchKernel)(
                self.function,
                grid,
                1,
                1,
                threads,
                1,
                1,
                0,
                self.stream,
                params.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        })
    }

    /// Waits, and reads back what was queued.
    fn fetch(&self, d: &Driver, count: u64, hashes: &mut Vec<Hash>) -> Res {
        let old = hashes.len();
        // SAFETY: our stream.
        ok(unsafe { (d.cuStreamSynchronize)(self.stream) })?;
        hashes.resize(old + count as usize, [0; 2]);
        let new = &mut hashes[old..];
        // SAFETY: the room holds `count` hashes, and so does `new`.
        ok(unsafe { (d.cuMemcpyDtoH_v2)(new.as_mut_ptr().cast(), self.results, size_of_val(new)) })
    }

    /// Gives back what it holds on the card, in whose context it was made.
    ///
    /// # Errors
    /// The driver's answer to the first call that failed twice. What was not given back stays here for another try.
    pub fn end(&mut self, d: &Driver) -> Res {
        let mut result = Ok(());
        // SAFETY: objects of ours that nothing uses any more.
        unsafe {
            if self.stream.0 != 0 {
                let ended = twice(|| (d.cuStreamDestroy_v2)(self.stream));
                self.stream = if ended.is_ok() { CUstream::NULL } else { self.stream };
                result = result.and(ended);
            }
            if self.module.0 != 0 {
                let ended = twice(|| (d.cuModuleUnload)(self.module));
                self.module = if ended.is_ok() { CUmodule::NULL } else { self.module };
                result = result.and(ended);
            }
        }
        if self.results != 0 {
            let ended = physical::close_window(d, self.results, ROOM);
            self.results = if ended.is_ok() { 0 } else { self.results };
            result = result.and(ended);
        }
        if self.handle != 0 && self.results == 0 {
            let ended = physical::release(d, self.handle);
            self.handle = if ended.is_ok() { 0 } else { self.handle };
            result = result.and(ended);
        }
        result
    }

    /// The context has gone, and its objects with it: whether memory is left, for [`Hasher::end`].
    pub fn without_context(&mut self) -> bool {
        (self.stream, self.module) = (CUstream::NULL, CUmodule::NULL);
        self.results != 0 || self.handle != 0
    }
}

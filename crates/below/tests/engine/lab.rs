//! Softcuda with some of its functions wrapped: the wrappers know each registration, refuse a copy across the border of one
//! as a card's driver does, count what is made and given back, and fail where a test wants it.
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use zerogpu_abi::*;
use zerogpu_below::{ok, physical, Driver};

pub const MIB: u64 = 1 << 20;

/// What the wrappers saw, and what they are to do.
#[derive(Default)]
pub struct Seen {
    /// Registrations: address to the address behind.
    pub registered: BTreeMap<u64, u64>,
    /// The most at once.
    pub most: usize,
    /// Calls of cuMemHostRegister that went well.
    pub registrations: usize,
    /// Copies: host address, bytes.
    pub copies: Vec<(u64, u64)>,
    /// Streams and events that exist.
    pub objects: i64,
    /// Launches: blocks.
    pub launches: Vec<u32>,
    /// Registering a range with this address is refused.
    pub refuse: Option<u64>,
    /// How many calls of cuMemHostUnregister fail from now on.
    pub stuck: usize,
    /// The copy with this number fails.
    pub failing_copy: Option<usize>,
    /// Setting access fails.
    pub no_access: bool,
    /// How many calls of cuMemUnmap, and of cuMemAddressFree, fail from now on.
    pub mapped: usize,
    pub reserved: usize,
}

static SEEN: Mutex<Option<Seen>> = Mutex::new(None);
static GENUINE: OnceLock<Driver> = OnceLock::new();

/// What the wrappers saw.
pub fn seen<T>(look: impl FnOnce(&mut Seen) -> T) -> T {
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    look(seen.get_or_insert_default())
}

fn genuine() -> &'static Driver {
    GENUINE.get_or_init(|| Driver::open(&softcuda()).unwrap())
}

fn softcuda() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let library = program.parent().and_then(Path::parent).unwrap().join("libsoftcuda.so");
    assert!(library.exists(), "{} is missing: run `cargo build --workspace` first", library.display());
    library
}

/// A driver with a context, for one test at a time.
pub struct Lab {
    pub d: Driver,
    _alone: MutexGuard<'static, ()>,
}

impl Lab {
    pub fn new() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        static CARDS: OnceLock<tempfile::TempDir> = OnceLock::new();
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let cards = CARDS.get_or_init(|| tempfile::tempdir().unwrap());
        // the tests run one at a time, and nothing else in this process reads the environment
        std::env::set_var("SOFTCUDA_CARDS", cards.path().join("cards"));
        std::env::set_var("SOFTCUDA_PROFILE", "h100-80gb");
        let mut d = Driver::open(&softcuda()).unwrap();
        *SEEN.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut ctx = CUcontext::NULL;
        // SAFETY: as in any program that starts with a driver.
        unsafe {
            ok((genuine().cuInit)(0)).unwrap();
            ok((genuine().cuDevicePrimaryCtxRetain)(&mut ctx, 0)).unwrap();
            ok((genuine().cuCtxSetCurrent)(ctx)).unwrap();
        }
        d.cuMemHostRegister_v2 = register;
        d.cuMemHostUnregister = unregister;
        d.cuMemcpyHtoDAsync_v2 = copy_in;
        d.cuMemcpyDtoHAsync_v2 = copy_out;
        d.cuStreamCreateWithPriority = make_stream;
        d.cuStreamDestroy_v2 = end_stream;
        d.cuEventCreate = make_event;
        d.cuEventDestroy_v2 = end_event;
        d.cuMemSetAccess = set_access;
        d.cuMemUnmap = unmap;
        d.cuMemAddressFree = free_addresses;
        d.cuLaunchKernel = launch;
        Lab { d, _alone: alone }
    }

    /// Memory on the card.
    pub fn on_card(&self, len: u64) -> OnCard<'_> {
        let handle = physical::create(&self.d, 0, len).unwrap();
        let va = physical::open_window(&self.d, 0, handle, len).unwrap();
        OnCard { d: &self.d, va, len, handle }
    }

    /// Bytes that are free on the card.
    pub fn free(&self) -> usize {
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two numbers.
        ok(unsafe { (self.d.cuMemGetInfo_v2)(&mut free, &mut total) }).unwrap();
        free
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // SAFETY: retained by `new`.
        let released = ok(unsafe { (genuine().cuDevicePrimaryCtxRelease_v2)(0) });
        if !std::thread::panicking() {
            released.unwrap();
        }
    }
}

/// Memory on the card, given back at the end.
pub struct OnCard<'a> {
    d: &'a Driver,
    pub va: u64,
    pub len: u64,
    handle: u64,
}

impl OnCard<'_> {
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        // SAFETY: as many bytes as are mapped.
        ok(unsafe { (self.d.cuMemcpyDtoH_v2)(bytes.as_mut_ptr().cast(), self.va, bytes.len()) }).unwrap();
        bytes
    }

    pub fn fill(&self, bytes: &[u8]) {
        // SAFETY: no more bytes than are mapped.
        ok(unsafe { (self.d.cuMemcpyHtoD_v2)(self.va, bytes.as_ptr().cast(), bytes.len()) }).unwrap();
    }
}

impl Drop for OnCard<'_> {
    fn drop(&mut self) {
        let closed = physical::close_window(self.d, self.va, self.len);
        let released = physical::release(self.d, self.handle);
        if !std::thread::panicking() {
            closed.and(released).unwrap();
        }
    }
}

/// A mapping of this process.
pub struct Host {
    pub at: u64,
    pub len: u64,
}

impl Host {
    pub fn new(len: u64) -> Self {
        // SAFETY: a fresh mapping.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED);
        Host { at: at as u64, len }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: our mapping.
        unsafe { std::slice::from_raw_parts_mut(self.at as *mut u8, self.len as usize) }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: our mapping.
        unsafe { libc::munmap(self.at as *mut c_void, self.len as usize) };
    }
}

/// The wrapped function, called with what the wrapper was given.
macro_rules! genuine {
    ($name:ident, $($arg:expr),*) => {
        // SAFETY: what the caller vouched for, or memory of the wrapper's own.
        unsafe { (genuine().$name)($($arg),*) }
    };
}

unsafe extern "C" fn register(at: *mut c_void, len: usize, flags: u32) -> CUresult {
    let (start, end) = (at as u64, at as u64 + len as u64);
    if seen(|s| s.refuse.is_some_and(|bad| (start..end).contains(&bad))) {
        return CUresult::OUT_OF_MEMORY;
    }
    let r = genuine!(cuMemHostRegister_v2, at, len, flags);
    if r.ok() {
        seen(|s| {
            assert!(
                s.registered.range(..end).next_back().is_none_or(|(_, &before)| before <= start),
                "registered twice"
            );
            s.registered.insert(start, end);
            s.registrations += 1;
            s.most = s.most.max(s.registered.len());
        });
    }
    r
}

unsafe extern "C" fn unregister(at: *mut c_void) -> CUresult {
    if fails(|s| &mut s.stuck) {
        return CUresult::INVALID_VALUE;
    }
    let r = genuine!(cuMemHostUnregister, at);
    if r.ok() {
        seen(|s| s.registered.remove(&(at as u64)).expect("a registration"));
    }
    r
}

/// A copy call may not cross the border of a registration.
fn may_copy(host: u64, len: usize) -> bool {
    let end = host + len as u64;
    seen(|s| {
        s.copies.push((host, len as u64));
        let first = s.registered.range(..end).next_back();
        let whole = first.is_none_or(|(&start, &stop)| stop <= host || (start <= host && end <= stop));
        whole && s.failing_copy != Some(s.copies.len() - 1)
    })
}

unsafe extern "C" fn copy_in(dst: CUdeviceptr, src: *const c_void, len: usize, stream: CUstream) -> CUresult {
    match may_copy(src as u64, len) {
        true => genuine!(cuMemcpyHtoDAsync_v2, dst, src, len, stream),
        false => CUresult::INVALID_VALUE,
    }
}

unsafe extern "C" fn copy_out(dst: *mut c_void, src: CUdeviceptr, len: usize, stream: CUstream) -> CUresult {
    match may_copy(dst as u64, len) {
        true => genuine!(cuMemcpyDtoHAsync_v2, dst, src, len, stream),
        false => CUresult::INVALID_VALUE,
    }
}

fn counted(r: CUresult, by: i64) -> CUresult {
    if r.ok() {
        seen(|s| s.objects += by);
    }
    r
}

unsafe extern "C" fn make_stream(stream: *mut CUstream, flags: u32, priority: i32) -> CUresult {
    counted(genuine!(cuStreamCreateWithPriority, stream, flags, priority), 1)
}

unsafe extern "C" fn end_stream(stream: CUstream) -> CUresult {
    counted(genuine!(cuStreamDestroy_v2, stream), -1)
}

unsafe extern "C" fn make_event(event: *mut CUevent, flags: u32) -> CUresult {
    counted(genuine!(cuEventCreate, event, flags), 1)
}

unsafe extern "C" fn end_event(event: CUevent) -> CUresult {
    counted(genuine!(cuEventDestroy_v2, event), -1)
}

unsafe extern "C" fn set_access(at: CUdeviceptr, len: usize, desc: *const CUmemAccessDesc, n: usize) -> CUresult {
    match seen(|s| s.no_access) {
        true => CUresult::NOT_SUPPORTED,
        false => genuine!(cuMemSetAccess, at, len, desc, n),
    }
}

/// Whether one more call is to fail.
fn fails(count: impl FnOnce(&mut Seen) -> &mut usize) -> bool {
    seen(|s| {
        let left = count(s);
        let fails = *left > 0;
        *left = left.saturating_sub(1);
        fails
    })
}

unsafe extern "C" fn unmap(at: CUdeviceptr, len: usize) -> CUresult {
    match fails(|s| &mut s.mapped) {
        true => CUresult::UNKNOWN,
        false => genuine!(cuMemUnmap, at, len),
    }
}

unsafe extern "C" fn free_addresses(at: CUdeviceptr, len: usize) -> CUresult {
    match fails(|s| &mut s.reserved) {
        true => CUresult::UNKNOWN,
        false => genuine!(cuMemAddressFree, at, len),
    }
}

/// Runs the hash kernel's twin in its place.
unsafe extern "C" fn launch(
    _function: CUfunction,
    gx: u32,
    gy: u32,
    gz: u32,
    bx: u32,
    by: u32,
    bz: u32,
    shared: u32,
    _stream: CUstream,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    assert_eq!((gy, gz, bx, by, bz, shared), (1, 1, zerogpu_hash::THREADS as u32, 1, 1, 0));
    assert!(extra.is_null());
    // SAFETY: the kernel has three parameters of 64 bits.
    let [src, bytes, out] = [0, 1, 2].map(|i| unsafe { *(*params.add(i)).cast::<u64>() });
    assert_eq!(u64::from(gx), bytes.div_ceil(zerogpu_hash::CHUNK as u64));
    seen(|s| s.launches.push(gx));
    let mut data = vec![0u8; bytes as usize];
    let mut hashes = vec![[0u64; 2]; gx as usize];
    ok(genuine!(cuMemcpyDtoH_v2, data.as_mut_ptr().cast(), src, data.len())).unwrap();
    zerogpu_hash::hash_chunks(&data, &mut hashes);
    genuine!(cuMemcpyHtoD_v2, out, hashes.as_ptr().cast(), 16 * hashes.len())
}

//! The undocumented tables of functions that `cuGetExportTable` gives, and the slots of them that are known.
use crate::driver::Driver;
use std::ffi::{c_char, c_void};
use zerogpu_abi::*;

/// A table as recorded on driver 580: its name, UUID and number of words.
pub struct Recorded {
    /// What it is called, or what uses it.
    pub name: &'static str,
    /// Its UUID.
    pub uuid: u128,
    /// Its words, the size word included.
    pub words: usize,
    /// Whether each runtime fails without it.
    pub mandatory: bool,
}

const fn table(name: &'static str, uuid: u128, words: usize, mandatory: bool) -> Recorded {
    Recorded { name, uuid, words, mandatory }
}

pub const CUDART: u128 = 0x6BD5FB6C_5BF4_E74A_8987_D93912FD9DF9;
pub const HOOKS: u128 = 0xA094798C_2E74_2E74_93F2_0800200C0A66;
pub const TOOLS_TLS: u128 = 0x42D85A81_23F6_CB47_8298_F6E78A3AECDC;
pub const CLS: u128 = 0xC693336E_1121_DF11_A8C3_68F355D89593;
pub const INTEGRITY: u128 = 0xD4082055_BDE6_704B_8D34_BA123C66E1F2;
pub const CONTEXT_CHECKS: u128 = 0x263E8860_7CD2_6143_92F6_BBD5006DFA7E;
pub const INTERNALS: u128 = 0x21318C60_9714_3248_8CA6_41FF7324C8F2;
pub const BLAS: u128 = 0x1734DC26_800D_4745_8726_C0F1E7DD8BCA;
pub const REMARKS: u128 = 0xF8CFF951_2146_8B4E_B9E2_FB469E7C0DD9;
pub const FUNCTIONS: u128 = 0x6E163FBE_B958_444D_835C_E182AFF1991E;

/// Each table with a size word whose size was recorded.
pub const RECORDED: &[Recorded] = &[
    table("CUDART_INTERFACE", CUDART, 13, true),
    table("TOOLS_RUNTIME_CALLBACK_HOOKS", HOOKS, 7, true),
    table("TOOLS_TLS", TOOLS_TLS, 3, true),
    table("INTEGRITY_CHECK", INTEGRITY, 3, true),
    table("CONTEXT_CHECKS", CONTEXT_CHECKS, 15, true),
    table("context and stream internals", INTERNALS, 93, true),
    table("cudart 13", REMARKS, 3, false),
    table("cuBLASLt 13", BLAS, 17, false),
    table("libnvidia-ml", 0x69A28E9F_2449_8B47_B030_C5DA330EA4E9, 34, false),
    table("CTX_CREATE_BYPASS", 0x0CA50B8C_1004_929A_89A7_D0DF10E77286, 2, false),
    table("DEVICE_EXTENDED_RT", 0xB10541E1_F7C7_C74A_9F64_F223BE99F1E2, 31, false),
];

/// Tables whose size was recorded on driver 535 alone: a newer driver's may be longer.
pub const AT_LEAST: &[Recorded] =
    &[table("cuFFT", FUNCTIONS, 88, false), table("nvrtc 13", 0xDA9151D3_3AE6_CC41_A5C0_4F26D533E328, 6, false)];

/// A driver that a version's runtime does not find: thread-detach callbacks exist on Windows only.
pub const ABSENT: u128 = 0x195BCBF4_D67D_024A_ACC5_1D29CEA631AE;

/// Asks for a table: the code, and where it lies.
pub fn ask(d: &Driver, uuid: u128) -> (CUresult, *const usize) {
    let mut found: *const c_void = std::ptr::dangling::<c_void>();
    let code = d.cuGetExportTable(&mut found, &CUuuid { bytes: uuid.to_be_bytes() });
    (code, found.cast())
}

/// A table that the driver gave.
#[derive(Clone, Copy)]
pub struct Table(*const usize);

// SAFETY: tables are constant and live as long as the driver.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

/// A function that a context's storage calls with (context, key, value) when its context is gone.
pub type Destructor = Option<unsafe extern "C" fn(CUcontext, *mut c_void, *mut c_void)>;

/// A function that is called with (data, function) for each function of a module.
pub type OnFunction = Option<unsafe extern "C" fn(*mut c_void, CUfunction)>;

impl Table {
    /// # Panics
    /// If the driver has no such table.
    pub fn of(d: &Driver, uuid: u128) -> Self {
        let (code, table) = ask(d, uuid);
        assert!(code.ok() && !table.is_null(), "table {uuid:032X}: {code:?}");
        Self(table)
    }

    /// Its address.
    pub fn address(self) -> u64 {
        self.0 as u64
    }

    /// A word of it; the caller knows that the table has it.
    pub fn word(self, slot: usize) -> usize {
        // SAFETY: tables are read within the sizes that they state or that were recorded.
        unsafe { *self.0.add(slot) }
    }
}

/// Declares a slot as a method with the signature of the notes.
macro_rules! slots {
    ($($(#[$doc:meta])* $name:ident = $slot:literal ($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {
        impl Table {
            $($(#[$doc])*
            pub fn $name(self, $($arg: $ty),*) $(-> $ret)? {
                type Slot = unsafe extern "C" fn($($ty),*) $(-> $ret)?;
                // SAFETY: the word holds a function of this signature; its arguments are the test's business.
                unsafe { std::mem::transmute::<usize, Slot>(self.word($slot))($($arg),*) }
            })*
        }
    };
}

slots! {
    /// `CUDART[2]`: the handle of the primary context.
    primary = 2 (out: *mut CUcontext, device: CUdevice) -> CUresult;
    /// `CUDART[6]`: loads a fat binary by its wrapper.
    load = 6 (out: *mut CUmodule, wrapper: *const c_void, a: *const c_void, b: *const c_void, c: u32) -> CUresult;
    /// `CUDART[7]`: called after `cuModuleUnload`.
    unloaded = 7 (size: usize);
    /// `CUDART[8]`: as `[6]`, with the inner header.
    load_inner = 8 (out: *mut CUmodule, header: *const c_void, a: *const c_void, b: *const c_void, c: u32) -> CUresult;
    /// `HOOKS[2]`: 1024 zeroed bytes of the driver's.
    hooks_buffer = 2 (buffer: *mut *mut c_void, size: *mut usize);
    /// `HOOKS[6]`: 14 of them.
    hooks_flags = 6 (buffer: *mut *mut c_void, size: *mut usize);
    /// TOOLS_`TLS[2]`: the thread's context.
    thread_context = 2 (out: *mut CUcontext) -> CUresult;
    /// `CLS[0]`.
    put = 0 (context: CUcontext, key: *const c_void, value: *const c_void, destructor: Destructor) -> CUresult;
    /// `CLS[1]`.
    delete = 1 (context: CUcontext, key: *const c_void) -> CUresult;
    /// `CLS[2]`.
    get = 2 (value: *mut *const c_void, context: CUcontext, key: *const c_void) -> CUresult;
    /// `INTEGRITY[1]`.
    check = 1 (version: u32, seconds: u64, out: *mut [u64; 2]) -> CUresult;
    /// CONTEXT_`CHECKS[2]`.
    check_context = 2 (context: CUcontext, out: *mut u32, more: *mut *const c_void) -> CUresult;
    /// CONTEXT_`CHECKS[3]`.
    check_flags = 3 () -> u32;
    /// `1734DC26[4]`, as cuBLASLt 13 calls it: a slot that zerogpu does not know.
    blas = 4 (a: *mut u64, b: *mut u64, c: *const c_void, size: u64) -> CUresult;
    /// `REMARKS[1]`: a remark for the driver's log: part, level, format, `va_list`.
    remark = 1 (part: *const c_char, level: u32, format: *const c_char, values: *const c_void);
    /// `REMARKS[2]`: whether errors are worth a remark.
    remarks_taken = 2 (on: u32);
    /// `FUNCTIONS[7]`: calls back with each function of a module; gives their number.
    functions = 7 (context: CUcontext, module: CUmodule, each: OnFunction, data: *mut c_void) -> u32;
    /// `INTERNALS[4]`: `cuCtxGetId`.
    context_id = 4 (context: CUcontext, out: *mut u64) -> CUresult;
    /// `INTERNALS[51]`: the object behind a stream.
    stream_object = 51 (context: CUcontext, stream: CUstream, out: *mut *const c_void, per_thread: i32) -> CUresult;
    /// `INTERNALS[39]`: the id of such an object.
    stream_object_id = 39 (context: CUcontext, object: *const c_void, out: *mut u64) -> CUresult;
}

/// A key or value for a context's storage: an address that nothing lies at.
pub fn mark(number: usize) -> *const c_void {
    number as *const c_void
}

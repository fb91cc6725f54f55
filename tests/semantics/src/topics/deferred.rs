//! Work outside any region, with kernels that really read and write: softcuda runs the project's own by their twins.
use super::faults::{again, part};
use super::regions::{Kernel, Regions};
use crate::check::Check;
use crate::driver::{must, Driver};
use crate::image::{fat_binary, Wrapper};
use std::ffi::{c_void, CString};
use std::ptr::null_mut;
use zerogpu_abi::*;
use zerogpu_hash::{hash_chunk, write_bytes, HASH_CHUNKS, PTX, THREADS, WRITE_BYTES};

const SIZE: usize = 1 << 20;
const PART: usize = 256 << 10;
const HASH: usize = 16;

#[derive(Clone, Copy)]
struct Kernels {
    hash: CUfunction,
    write: CUfunction,
}

impl Kernels {
    fn load(d: &Driver) -> Self {
        let mut module = CUmodule::NULL;
        must("cuModuleLoadData", d.cuModuleLoadData(&mut module, PTX.as_ptr().cast()));
        let function = |name: &str| {
            let (mut function, name) = (CUfunction::NULL, CString::new(name).expect("a name has no NUL"));
            must("cuModuleGetFunction", d.cuModuleGetFunction(&mut function, module, name.as_ptr()));
            function
        };
        Self { hash: function(HASH_CHUNKS), write: function(WRITE_BYTES) }
    }
}

/// What the device should hold, command by command, beside the device itself.
struct Model<'a> {
    d: &'static Driver,
    t: &'a mut Check,
    kernels: Kernels,
    stream: CUstream,
    at: CUdeviceptr,
    bytes: Vec<u8>,
    /// Where hashes go, and those that should be there.
    hashes: CUdeviceptr,
    want: Vec<u8>,
}

impl Model<'_> {
    fn launch(&mut self, what: &str, function: CUfunction, mut words: [u64; 3]) {
        let mut params = words.each_mut().map(|word| std::ptr::from_mut(word).cast::<c_void>());
        let (threads, params) = (THREADS as u32, params.as_mut_ptr());
        let code = self.d.cuLaunchKernel(function, 1, 1, 1, threads, 1, 1, 0, self.stream, params, null_mut());
        self.t.code(what, code, 0);
    }

    /// A kernel writes a part.
    fn write(&mut self, offset: usize, len: usize, seed: u64) {
        self.launch("a kernel that writes", self.kernels.write, [self.at + offset as u64, len as u64, seed]);
        write_bytes(&mut self.bytes[offset..offset + len], seed);
    }

    /// A kernel reads all of it, and leaves what it saw.
    fn look(&mut self) {
        let to = self.hashes + self.want.len() as u64;
        self.launch("a kernel that reads", self.kernels.hash, [self.at, SIZE as u64, to]);
        self.want.extend(hash_chunk(&self.bytes).iter().flat_map(|word| word.to_le_bytes()));
    }

    /// Bytes of the host, which has other plans with them once the call has returned.
    fn upload(&mut self, offset: usize, len: usize, byte: u8) {
        let mut from = vec![byte; len];
        let code = self.d.cuMemcpyHtoDAsync_v2(self.at + offset as u64, from.as_ptr().cast(), len, self.stream);
        self.t.code("an upload", code, 0);
        from.fill(0xee);
        self.bytes[offset..offset + len].fill(byte);
    }

    fn fill(&mut self, offset: usize, len: usize, byte: u8) {
        self.t.code("a fill", self.d.cuMemsetD8Async(self.at + offset as u64, byte, len, self.stream), 0);
        self.bytes[offset..offset + len].fill(byte);
    }

    fn copy(&mut self, from: usize, to: usize, len: usize) {
        let (from_at, to_at) = (self.at + from as u64, self.at + to as u64);
        self.t.code("a copy", self.d.cuMemcpyDtoDAsync_v2(to_at, from_at, len, self.stream), 0);
        self.bytes.copy_within(from..from + len, to);
    }
}

/// Each kernel sees the bytes of its time, and what it leaves is what the next command finds, whenever a GPU comes.
pub fn order(d: &'static Driver, t: &mut Check) {
    d.start();
    let (kernels, at, hashes) = (Kernels::load(d), d.alloc(SIZE), d.alloc(64 * HASH));
    let first: Vec<u8> = (0..SIZE).map(|i| (i / 7) as u8).collect();
    d.write(at, &first);
    for (round, stream) in [CUstream::NULL, d.stream(0), d.stream(1)].into_iter().enumerate() {
        let bytes = d.read(at, SIZE);
        let mut m = Model { d, t: &mut *t, kernels, stream, at, bytes, hashes, want: Vec::new() };
        let seed = 10 * round as u64;
        m.look();
        m.write(0, SIZE, seed + 1);
        m.look();
        m.upload(PART, PART, 0x11 + round as u8);
        m.look();
        m.write(PART / 2, PART, seed + 2);
        m.copy(PART, 3 * PART, PART / 2);
        m.look();
        m.fill(PART / 4, 2 * PART, 0x22);
        m.look();
        m.write(2 * PART, PART / 8, seed + 3);
        m.upload(2 * PART, 64, 0x33);
        m.look();
        let (want, bytes) = (m.want, m.bytes);
        d.wait(stream);
        t.that(format_args!("what each kernel saw, round {round}"), d.read(hashes, want.len()) == want);
        t.that(format_args!("what they left, round {round}"), d.read(at, SIZE) == bytes);
    }
}

/// The most bytes that this process has had in memory.
fn most_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is there");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the kernel tells it");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number") << 10
}

/// A copy that is too large for the record is not first copied to find that out. No GPU is to be had, so nobody moves it.
pub fn too_small(d: &'static Driver, t: &mut Check) {
    const LARGE: usize = 512 << 20;
    if part().is_none() {
        let settings = [("ZEROGPU_RECORD", "1MiB"), ("SOFTCUDA_FAULT", "cuDevicePrimaryCtxRetain=2")];
        return again(t, "record_too_small", "1 MiB", &settings);
    }
    d.start();
    let (kernel, old) = (Kernel::load(d), d.alloc(LARGE));
    t.code("a launch outside any region", kernel.launch(d, CUstream::NULL), 0);
    // a byte of it costs memory when somebody writes it
    let from = vec![0u8; LARGE];
    let before = most_bytes();
    t.code("a copy that can't wait", d.cuMemcpyHtoD_v2(old, from.as_ptr().cast(), LARGE), 2);
    let more = most_bytes() - before;
    t.that(format_args!("memory for it: {more} bytes"), more < LARGE / 4);
    t.code("a small one waits", d.cuMemcpyHtoD_v2(old, from.as_ptr().cast(), 4096), 0);
}

/// Pages of a library that is unloaded.
struct Pages(*mut c_void, usize);

impl Pages {
    /// Holds a wrapper and its fat binary, as a program has them.
    fn of_a_program() -> Self {
        let binary = fat_binary(90);
        let (head, size) = (std::mem::size_of::<Wrapper>(), std::mem::size_of::<Wrapper>() + binary.len());
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, filled within its size.
        unsafe {
            let pages = libc::mmap(null_mut(), size, prot, flags, -1, 0);
            assert_ne!(pages, libc::MAP_FAILED);
            let copy = pages.cast::<u8>().add(head);
            copy.copy_from_nonoverlapping(binary.as_ptr(), binary.len());
            pages.cast::<Wrapper>().write(Wrapper::new(std::slice::from_raw_parts(copy, binary.len())));
            Self(pages, size)
        }
    }

    fn unmap(self) {
        // SAFETY: our own mapping, which nobody should know any more.
        assert_eq!(unsafe { libc::munmap(self.0, self.1) }, 0);
    }
}

/// A program's library is closed while kernels of it are recorded: they run all the same, from a copy of their code.
pub fn unmapped_code(d: &'static Driver, t: &mut Check) {
    d.start();
    let (r, kernel) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d));
    let memory = d.alloc(SIZE);
    let launch = |f: usize| {
        let (mut pointer, mut number) = (memory, 1i32);
        let mut values: [*mut c_void; 2] = [(&raw mut pointer).cast(), (&raw mut number).cast()];
        d.cuLaunchKernel(CUfunction(f), 1, 1, 1, 32, 1, 1, 0, CUstream::NULL, values.as_mut_ptr(), null_mut())
    };
    for way in ["a module", "a module with a variable", "a library", "a library's function"] {
        let pages = Pages::of_a_program();
        if way.starts_with("a module") {
            let (mut module, mut function) = (CUmodule::NULL, CUfunction::NULL);
            must("cuModuleLoadData", d.cuModuleLoadData(&mut module, pages.0));
            must("cuModuleGetFunction", d.cuModuleGetFunction(&mut function, module, c"probe".as_ptr()));
            if way.ends_with("variable") {
                let (mut at, mut size) = (0, 0);
                must("cuModuleGetGlobal", d.cuModuleGetGlobal_v2(&mut at, &mut size, module, c"table".as_ptr()));
            }
            t.code(format_args!("a launch outside any region, {way}"), launch(function.0), 0);
            must("cuModuleUnload", d.cuModuleUnload(module));
        } else {
            let (mut library, mut k, mut function) = (CUlibrary::NULL, CUkernel::NULL, CUfunction::NULL);
            let none = null_mut();
            let loaded = d.cuLibraryLoadData(&mut library, pages.0, none, none.cast(), 0, none, none.cast(), 0);
            must("cuLibraryLoadData", loaded);
            must("cuLibraryGetKernel", d.cuLibraryGetKernel(&mut k, library, c"probe".as_ptr()));
            if way.ends_with("function") {
                must("cuKernelGetFunction", d.cuKernelGetFunction(&mut function, k));
            }
            let launched = if function == CUfunction::NULL { k.0 } else { function.0 };
            t.code(format_args!("a launch outside any region, {way}"), launch(launched), 0);
            must("cuLibraryUnload", d.cuLibraryUnload(library));
        }
        pages.unmap();
        let region = r.begin();
        t.code(format_args!("a launch that claims, {way}"), kernel.launch(d, CUstream::NULL), 0);
        t.code(format_args!("everything done, {way}"), d.cuCtxSynchronize(), 0);
        t.that(format_args!("the region ends, {way}"), r.end(region));
        t.that(format_args!("nothing failed, {way}: {}", r.state()), r.state().contains("\"last_error\": null"));
    }
}

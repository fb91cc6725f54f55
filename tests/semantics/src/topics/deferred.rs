//! Work outside any region, with kernels that really read and write: softcuda runs the project's own by their twins.
use crate::check::Check;
use crate::driver::{must, Driver};
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

//! Bytes under claims and parks: threads copy, allocate and free while others open and close regions and launch; and
//! the same, one step at a time, while the driver below refuses calls.
//!
//! A driver without regions runs the same work: it has to hold there too.
use super::vmm;
use crate::check::Check;
use crate::driver::{must, Driver};
use crate::image;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::process::Command;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use zerogpu_abi::*;

const MIB: usize = 1 << 20;
const STRESS: Duration = Duration::from_secs(5);

/// The region interface of the shim (zerogpu.h).
#[derive(Clone, Copy)]
struct Regions {
    begin: extern "C" fn(f64) -> u64,
    end: extern "C" fn(u64) -> c_int,
}

impl Regions {
    fn find(d: &Driver) -> Option<Self> {
        let (begin, end) = (d.address(c"zerogpu_region_begin"), d.address(c"zerogpu_region_end"));
        // SAFETY: functions of these types, as zerogpu.h declares them.
        (begin != 0 && end != 0).then(|| unsafe {
            Self {
                begin: std::mem::transmute::<usize, extern "C" fn(f64) -> u64>(begin),
                end: std::mem::transmute::<usize, extern "C" fn(u64) -> c_int>(end),
            }
        })
    }
}

/// A sequence of numbers that is the same in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let (first, step) = (self.next(256), self.next(255) + 1);
        (0..length).map(|i| (first + i * step + i / 256) as u8).collect()
    }
}

/// The kernel of the tests' image with memory to work on.
#[derive(Clone, Copy)]
struct Kernel {
    function: CUfunction,
    scratch: CUdeviceptr,
}

impl Kernel {
    fn load(d: &Driver) -> Self {
        let (mut module, mut function) = (CUmodule::NULL, CUfunction::NULL);
        must("cuModuleLoadData", d.cuModuleLoadData(&mut module, image::CUBIN.as_ptr().cast()));
        must("cuModuleGetFunction", d.cuModuleGetFunction(&mut function, module, c"probe".as_ptr()));
        Self { function, scratch: d.alloc(MIB) }
    }

    fn launch(&self, d: &Driver, stream: CUstream) -> CUresult {
        let (mut pointer, mut number) = (self.scratch, 1i32);
        let mut values: [*mut c_void; 2] = [(&raw mut pointer).cast(), (&raw mut number).cast()];
        d.cuLaunchKernel(self.function, 1, 1, 1, 32, 1, 1, 0, stream, values.as_mut_ptr(), null_mut())
    }
}

/// What the threads of the stress share.
struct Stress {
    d: &'static Driver,
    context: CUcontext,
    kernel: Kernel,
    regions: Option<Regions>,
    launches: bool,
    over: AtomicBool,
    rounds: AtomicUsize,
    /// The first few wrong reads and refused calls.
    wrong: std::sync::Mutex<Vec<String>>,
}

impl Stress {
    fn each_round(&'static self, seed: u64, mut round: impl FnMut(&mut Numbers)) {
        must("cuCtxSetCurrent", self.d.cuCtxSetCurrent(self.context));
        let mut numbers = Numbers(seed);
        while !self.over.load(Ordering::Relaxed) {
            round(&mut numbers);
            self.rounds.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn hold(&self, what: &str, holds: bool) {
        let mut wrong = self.wrong.lock().expect("not poisoned");
        if !holds && wrong.len() < 20 {
            wrong.push(what.into());
        }
    }

    fn done(&self, what: &str, code: CUresult) {
        self.hold(&format!("{what}: {}", code.0), code.ok());
    }

    /// Memory that comes and goes, and memory that stays.
    fn copies(&'static self, seed: u64) {
        let d = self.d;
        let mut kept: Option<(CUdeviceptr, Vec<u8>)> = None;
        let mut stream = None;
        self.each_round(seed, |n| {
            let stream = *stream.get_or_insert_with(|| d.stream(n.next(2) as u32));
            let bytes = {
                let length = 1 + n.next(3 * MIB);
                n.bytes(length)
            };
            let (a, b) = (d.alloc(bytes.len()), d.alloc(bytes.len()));
            let write = if n.next(2) == 0 {
                d.cuMemcpyHtoD_v2(a, bytes.as_ptr().cast(), bytes.len())
            } else {
                d.cuMemcpyHtoDAsync_v2(a, bytes.as_ptr().cast(), bytes.len(), stream)
            };
            self.done("write", write);
            self.done("copy", d.cuMemcpyDtoDAsync_v2(b, a, bytes.len(), stream));
            self.done("wait", d.cuStreamSynchronize(stream));
            self.hold("the copy reads as it was written", d.read(b, bytes.len()) == bytes);
            self.done("fill", d.cuMemsetD8_v2(a, 0x5a, bytes.len()));
            self.hold("the fill", d.read(a, bytes.len()).iter().all(|byte| *byte == 0x5a));
            d.free(a);
            if let Some((address, bytes)) = kept.take() {
                self.hold("bytes of the round before", d.read(address, bytes.len()) == bytes);
                d.free(address);
            }
            kept = Some((b, bytes));
        });
    }

    /// Regions that open and close, with launches in them, and now and then outside.
    fn claims(&'static self, seed: u64) {
        let d = self.d;
        let stream = CUstream::NULL;
        self.each_round(seed, |n| {
            let region = self.regions.filter(|_| n.next(8) != 0).map(|r| (r.begin)(60.0));
            if self.launches {
                self.done("launch", self.kernel.launch(d, stream));
            }
            if n.next(4) == 0 {
                self.done("synchronize", d.cuCtxSynchronize());
            }
            std::thread::sleep(Duration::from_micros(n.next(3000) as u64));
            if let (Some(r), Some(region)) = (self.regions, region) {
                self.hold("the region was open", region != 0 && (r.end)(region) == 0);
            }
        });
    }

    /// Copies behind host functions that take their time.
    fn host_functions(&'static self, seed: u64) {
        unsafe extern "C" fn slow(_: *mut c_void) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let d = self.d;
        let mut made = None;
        self.each_round(seed, |n| {
            let (stream, a, b) = *made.get_or_insert_with(|| (d.stream(1), d.alloc(MIB), d.alloc(MIB)));
            let (first, second) = (n.bytes(MIB), n.bytes(MIB));
            self.done("write", d.cuMemcpyHtoD_v2(a, first.as_ptr().cast(), MIB));
            self.done("host function", d.cuLaunchHostFunc(stream, Some(slow), null_mut()));
            self.done("behind it", d.cuMemcpyDtoDAsync_v2(b, a, MIB, stream));
            self.done("and after", d.cuMemcpyHtoDAsync_v2(a, second.as_ptr().cast(), MIB, stream));
            self.done("wait", d.cuStreamSynchronize(stream));
            self.hold("the first bytes came first", d.read(b, MIB) == first);
            self.hold("the second bytes last", d.read(a, MIB) == second);
        });
    }

    /// A physical handle whose bytes outlive its mappings.
    fn mappings(&'static self, seed: u64) {
        let d = self.d;
        let mut made = None;
        self.each_round(seed, |n| {
            let (address, handle) = *made.get_or_insert_with(|| (vmm::reserve(d, 4 * MIB), vmm::create(d, 4 * MIB)));
            let bytes = n.bytes(4 * MIB);
            vmm::map(d, address, 4 * MIB, handle);
            self.done("write", d.cuMemcpyHtoD_v2(address, bytes.as_ptr().cast(), bytes.len()));
            self.done("unmap", d.cuMemUnmap(address, 4 * MIB));
            std::thread::sleep(Duration::from_micros(n.next(5000) as u64));
            vmm::map(d, address, 4 * MIB, handle);
            self.hold("bytes of an unmapped handle", d.read(address, bytes.len()) == bytes);
            self.done("unmap", d.cuMemUnmap(address, 4 * MIB));
        });
    }
}

/// All of it at once, for a few seconds.
pub fn stress(d: &'static Driver, t: &mut Check) {
    let context = d.start();
    let stress: &'static Stress = Box::leak(Box::new(Stress {
        d,
        context,
        kernel: Kernel::load(d),
        regions: Regions::find(d),
        launches: !t.driver.no_kernels,
        over: AtomicBool::new(false),
        rounds: AtomicUsize::new(0),
        wrong: std::sync::Mutex::default(),
    }));
    let work: [fn(&'static Stress, u64); 6] =
        [Stress::copies, Stress::copies, Stress::claims, Stress::claims, Stress::host_functions, Stress::mappings];
    let threads: Vec<_> =
        (1..).zip(work).map(|(seed, run)| std::thread::spawn(move || run(stress, seed * 0x9E37_79B9))).collect();
    std::thread::sleep(STRESS);
    stress.over.store(true, Ordering::Relaxed);
    let ended = threads.into_iter().map(|thread| thread.join().is_ok()).filter(|ok| *ok).count();
    t.same("threads that ended well", ended, work.len());
    t.same("nothing went wrong", stress.wrong.lock().expect("not poisoned").join("; "), String::new());
    t.that("every thread had its turn", stress.rounds.load(Ordering::Relaxed) > work.len());
}

/// Copies that a kernel comes before, between memory older and newer than it: order holds, whoever waits for a GPU.
pub fn order(d: &'static Driver, t: &mut Check) {
    d.start();
    let (kernel, mut numbers) = (Kernel::load(d), Numbers(11));
    let (first, second, third) = (numbers.bytes(MIB), numbers.bytes(MIB), numbers.bytes(MIB));
    let old = d.alloc(MIB);
    d.write(old, &first);
    if !t.driver.no_kernels {
        t.code("a launch outside any region", kernel.launch(d, CUstream::NULL), 0);
    }
    let (to, from) = (d.alloc(MIB), d.alloc(MIB));
    t.code("old memory to new", d.cuMemcpyDtoDAsync_v2(to, old, MIB, CUstream::NULL), 0);
    d.write(from, &second);
    t.code("new memory to old", d.cuMemcpyDtoDAsync_v2(old, from, MIB, CUstream::NULL), 0);
    d.write(from, &third);
    t.that("the new memory has the old one's first bytes", d.read(to, MIB) == first);
    t.that("the old memory has what the other held at the copy", d.read(old, MIB) == second);
    t.that("and the other its last bytes", d.read(from, MIB) == third);
    // freed and taken again before anything runs
    if !t.driver.no_kernels {
        t.code("another launch", kernel.launch(d, CUstream::NULL), 0);
    }
    t.code("a fill", d.cuMemsetD8_v2(old, 9, MIB), 0);
    d.free(old);
    let again = d.alloc(MIB);
    d.write(again, &third);
    t.code("everything done", d.cuCtxSynchronize(), 0);
    t.that("memory taken anew is nobody else's", d.read(again, MIB) == third);
}

/// Steps with regions around them, on a driver below that may refuse any call: what can be read is what was written.
pub fn faulted(d: &'static Driver, t: &mut Check) {
    d.start();
    let (regions, kernel, mut numbers) = (Regions::find(d), Kernel::load(d), Numbers(7));
    let mut known: HashMap<CUdeviceptr, Vec<u8>> = HashMap::new();
    for round in 0..6 {
        let region = regions.map(|r| (r.begin)(60.0));
        let mut address = 0;
        let (first, second) = (numbers.bytes(MIB + 5), numbers.bytes(MIB + 5));
        for bytes in [first, second] {
            if address == 0 && !d.cuMemAlloc_v2(&mut address, bytes.len()).ok() {
                break;
            }
            // a write that was refused may have written
            known.remove(&address);
            if d.cuMemcpyHtoD_v2(address, bytes.as_ptr().cast(), bytes.len()).ok() {
                known.insert(address, bytes);
            }
            // refused or not: it must not hang, and no byte may change
            let _launched = kernel.launch(d, CUstream::NULL).ok() && d.cuCtxSynchronize().ok();
        }
        let ended = regions.zip(region).map_or(0, |(r, region)| (r.end)(region));
        t.same(format_args!("region {round} ends"), ended, 0);
        let mut back = vec![0u8; MIB + 5];
        for (address, bytes) in &known {
            if d.cuMemcpyDtoH_v2(back.as_mut_ptr().cast(), *address, back.len()).ok() {
                t.that(format_args!("bytes after region {round}"), back == *bytes);
            }
        }
    }
}

/// What a claim and a park ask of the driver below.
const ASKED: &[&str] = &[
    "cuInit",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxGetState",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuStreamCreateWithPriority",
    "cuStreamSynchronize",
    "cuStreamDestroy_v2",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventDestroy_v2",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuModuleGetGlobal_v2",
    "cuLaunchKernel",
    "cuMemcpyHtoD_v2",
    "cuMemcpyDtoH_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemAddressReserve",
    "cuMemCreate",
    "cuMemRelease",
    "cuMemMap",
    "cuMemUnmap",
    "cuMemSetAccess",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
];

/// Runs [`faulted`] in processes whose driver below refuses one call, or every call, of a function.
pub fn faults(d: &'static Driver, t: &mut Check) {
    let program = std::env::current_exe().expect("this program has a path");
    let cards = std::env::var_os("SOFTCUDA_CARDS").unwrap_or_default();
    let below = Regions::find(d).is_some() && !t.driver.no_kernels;
    // where there is no software driver below, nothing is refused, and once is enough
    let names = if below { ASKED } else { &ASKED[..1] };
    for (i, name) in names.iter().enumerate() {
        for fault in [format!("{name}:1=2"), format!("{name}:3=1"), format!("{name}=700")] {
            let mut folder = cards.clone();
            folder.push(format!("-{i}-{}", fault.len()));
            let mut child = Command::new(&program);
            child.arg("region_faulted").env("SOFTCUDA_CARDS", folder);
            if below {
                child.env("SOFTCUDA_FAULT", &fault);
            }
            if t.driver.no_kernels {
                child.arg("--no-kernels");
            }
            let (status, said) = run(&mut child);
            t.note(&fault, status == Some(0), || format!("{status:?}: {said}"));
            if !below {
                return;
            }
        }
    }
}

/// Runs a child for a minute at most; its exit code (None: killed, or it hung) and what it said of failures.
fn run(child: &mut Command) -> (Option<i32>, String) {
    use std::io::Read;
    use std::process::Stdio;
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a child starts");
    let mut out = child.stdout.take().expect("a pipe");
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).map(|_| text)
    });
    let start = Instant::now();
    let status = loop {
        match child.try_wait().expect("our own child") {
            Some(status) => break status.code(),
            None if start.elapsed() > Duration::from_secs(60) => {
                child.kill().expect("our own child");
                child.wait().expect("our own child");
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let text = reader.join().expect("the reader ends").unwrap_or_default();
    (status, text.lines().filter(|line| !line.starts_with("ok ")).collect::<Vec<_>>().join("; "))
}

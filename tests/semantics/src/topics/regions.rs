//! Bytes under claims and parks: threads copy, allocate and free while others open and close regions and launch.
//!
//! A driver without regions runs the same work: it has to hold there too.
use super::vmm;
use crate::check::Check;
use crate::driver::{must, Driver};
use crate::image;
use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use zerogpu_abi::*;

const MIB: usize = 1 << 20;
const STRESS: Duration = Duration::from_secs(5);

/// The region interface of the shim (zerogpu.h).
#[derive(Clone, Copy)]
pub(super) struct Regions {
    begin: extern "C" fn(f64) -> u64,
    claim: extern "C" fn(u64) -> c_int,
    end: extern "C" fn(u64) -> c_int,
    expired: extern "C" fn(u64) -> c_int,
    state: unsafe extern "C" fn(*mut c_char, usize) -> c_int,
}

impl Regions {
    /// None: the driver has no regions.
    pub(super) fn find(d: &Driver) -> Option<Self> {
        let names = [
            c"zerogpu_region_begin",
            c"zerogpu_region_claim",
            c"zerogpu_region_end",
            c"zerogpu_region_expired",
            c"zerogpu_state",
        ];
        let [begin, claim, end, expired, state] = names.map(|name| d.address(name));
        // SAFETY: functions of these types, as zerogpu.h declares them.
        ([begin, claim, end, expired, state].iter().all(|&at| at != 0)).then(|| unsafe {
            Self {
                claim: std::mem::transmute::<usize, extern "C" fn(u64) -> c_int>(claim),
                begin: std::mem::transmute::<usize, extern "C" fn(f64) -> u64>(begin),
                end: std::mem::transmute::<usize, extern "C" fn(u64) -> c_int>(end),
                expired: std::mem::transmute::<usize, extern "C" fn(u64) -> c_int>(expired),
                state: std::mem::transmute::<usize, unsafe extern "C" fn(*mut c_char, usize) -> c_int>(state),
            }
        })
    }

    /// Opens a region of a minute.
    pub(super) fn begin(&self) -> u64 {
        self.begin_for(60.0)
    }

    /// Opens a region that may last so long.
    pub(super) fn begin_for(&self, seconds: f64) -> u64 {
        (self.begin)(seconds)
    }

    /// Whether there is a GPU for the region, or no use for one yet.
    pub(super) fn claim(&self, region: u64) -> bool {
        (self.claim)(region) == 0
    }

    /// Whether the region was open.
    pub(super) fn end(&self, region: u64) -> bool {
        region != 0 && (self.end)(region) == 0
    }

    /// Whether its time is over.
    pub(super) fn expired(&self, region: u64) -> bool {
        (self.expired)(region) == 1
    }

    /// What the process holds, as JSON.
    pub(super) fn state(&self) -> String {
        let mut text = vec![0u8; 1 << 16];
        // SAFETY: a buffer of that size.
        let length = unsafe { (self.state)(text.as_mut_ptr().cast(), text.len()) } as usize;
        text.truncate(length.min((1 << 16) - 1));
        String::from_utf8_lossy(&text).into_owned()
    }

    /// `parked`, `claimed` or `lost`.
    pub(super) fn level(&self) -> Option<String> {
        Some(self.state().split("\"level\": \"").nth(1)?.split('"').next()?.to_string())
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
pub(super) struct Kernel {
    function: CUfunction,
    scratch: CUdeviceptr,
}

impl Kernel {
    pub(super) fn load(d: &Driver) -> Self {
        let (mut module, mut function) = (CUmodule::NULL, CUfunction::NULL);
        must("cuModuleLoadData", d.cuModuleLoadData(&mut module, image::CUBIN.as_ptr().cast()));
        must("cuModuleGetFunction", d.cuModuleGetFunction(&mut function, module, c"probe".as_ptr()));
        Self { function, scratch: d.alloc(MIB) }
    }

    pub(super) fn launch(&self, d: &Driver, stream: CUstream) -> CUresult {
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
            // of ordinary host memory the last bytes may be on their way yet when the call returns: not before another stream
            self.done("arrive", d.cuStreamSynchronize(CUstream::NULL));
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
            let region = self.regions.filter(|_| n.next(8) != 0).map(|r| r.begin());
            if self.launches {
                self.done("launch", self.kernel.launch(d, stream));
            }
            if n.next(4) == 0 {
                self.done("synchronize", d.cuCtxSynchronize());
            }
            std::thread::sleep(Duration::from_micros(n.next(3000) as u64));
            if let (Some(r), Some(region)) = (self.regions, region) {
                self.hold("the region was open", r.end(region));
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
            self.done("arrive", d.cuStreamSynchronize(CUstream::NULL));
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
            self.done("arrive", d.cuStreamSynchronize(CUstream::NULL));
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

/// A GPU can be claimed for a region before there is work for it. An error of work that was deferred is told later.
pub fn claim(d: &'static Driver, t: &mut Check) {
    let deferred = super::faults::part().is_some();
    if !deferred {
        let settings = [("SOFTCUDA_FAULT", "cuLaunchKernel:1=999")];
        super::faults::again(t, "region_claim", "a deferred launch that is refused", &settings);
    }
    let r = Regions::find(d).expect("the shim has regions");
    let early = r.begin();
    t.that("before cuInit there is nothing to claim for", r.claim(early));
    t.same("and nothing is claimed", r.level().as_deref(), Some("parked"));
    t.that("the region ends", r.end(early));
    d.start();
    let kernel = Kernel::load(d);
    if deferred {
        t.code("a launch outside of any region", kernel.launch(d, CUstream::NULL), 0);
    }
    let region = r.begin();
    t.that("a claim", r.claim(region));
    t.same("claims", r.level().as_deref(), Some("claimed"));
    t.that("another one", r.claim(region));
    t.that("is the same", r.state().contains("\"claims\": 1,"));
    t.code("a launch", kernel.launch(d, CUstream::NULL), 0);
    t.code("and its end", d.cuCtxSynchronize(), if deferred { 999 } else { 0 });
    t.code("the next", d.cuCtxSynchronize(), 0);
    t.that("the region ends", r.end(region));
    t.same("and parks", r.level().as_deref(), Some("parked"));
    t.that("a region that has ended claims nothing", !r.claim(region));
    t.same("so nothing is claimed", r.level().as_deref(), Some("parked"));
}

/// How long modules come and go beside host functions, at least. Threads that wait for each other do so for ever.
const UNLOADING: Duration = Duration::from_secs(2);
const HUNG: Duration = Duration::from_secs(20);

/// A host function that makes a driver call, which cuda.h forbids and programs do; the answer is the driver's business.
unsafe extern "C" fn ask(data: *mut c_void) {
    // SAFETY: `data` is the driver, which lives as long as the process.
    let d = unsafe { &*data.cast::<Driver>() };
    let _whatever = d.cuDevicePrimaryCtxGetState(0, &mut 0, &mut 0);
}

/// Modules are unloaded while host functions of other streams make driver calls: nobody waits for the other.
pub fn unloading(d: &'static Driver, t: &mut Check) {
    let context = d.start();
    let region = Regions::find(d).map(|r| (r, r.begin()));
    let over: &'static AtomicBool = Box::leak(Box::default());
    let rounds: &'static AtomicUsize = Box::leak(Box::default());
    let kernels = !t.driver.no_kernels;
    let loads = std::thread::spawn(move || {
        must("cuCtxSetCurrent", d.cuCtxSetCurrent(context));
        while !over.load(Ordering::Relaxed) {
            let (mut module, mut function) = (CUmodule::NULL, CUfunction::NULL);
            must("cuModuleLoadData", d.cuModuleLoadData(&mut module, image::CUBIN.as_ptr().cast()));
            must("cuModuleGetFunction", d.cuModuleGetFunction(&mut function, module, c"heavy".as_ptr()));
            let (mut pointer, stream) = (0u64, CUstream::NULL);
            let mut values: [*mut c_void; 1] = [(&raw mut pointer).cast()];
            if kernels {
                let launched =
                    d.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, values.as_mut_ptr(), null_mut());
                must("cuLaunchKernel", launched);
            }
            must("cuModuleUnload", d.cuModuleUnload(module));
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    });
    let asks = std::thread::spawn(move || {
        must("cuCtxSetCurrent", d.cuCtxSetCurrent(context));
        let stream = d.stream(1);
        while !over.load(Ordering::Relaxed) {
            for _ in 0..20 {
                let data = std::ptr::from_ref(d).cast_mut().cast();
                must("cuLaunchHostFunc", d.cuLaunchHostFunc(stream, Some(ask), data));
            }
            d.wait(stream);
        }
    });
    let start = std::time::Instant::now();
    let mut last = (0, start);
    while (start.elapsed() < UNLOADING || last.0 <= 10) && last.1.elapsed() < HUNG && !loads.is_finished() {
        std::thread::sleep(Duration::from_millis(5));
        let now = rounds.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, std::time::Instant::now());
        }
    }
    over.store(true, Ordering::Relaxed);
    let start = std::time::Instant::now();
    while !(loads.is_finished() && asks.is_finished()) && start.elapsed() < HUNG {
        std::thread::sleep(Duration::from_millis(5));
    }
    if !(loads.is_finished() && asks.is_finished()) {
        return t.that("an unload and a host function wait for each other", false);
    }
    t.that("modules were unloaded", loads.join().is_ok() && rounds.load(Ordering::Relaxed) > 10);
    t.that("host functions ran", asks.join().is_ok());
    if let Some((r, region)) = region {
        t.that("the region ends", r.end(region));
    }
}

/// A copy on a software card takes its bytes at the rate that is set, as its stream and events tell.
pub fn copy_rate(d: &'static Driver, t: &mut Check) {
    if super::faults::part().is_none() {
        return super::faults::again(t, "copy_rate", "10^8 bytes a second", &[("SOFTCUDA_GBPS", "0.1")]);
    }
    const BYTES: usize = 200_000_000;
    d.start();
    let (r, kernel) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d));
    let (stream, begin, end) = (d.stream(1), d.event(0), d.event(0));
    let (from, to) = (d.alloc(BYTES), d.alloc(BYTES));
    let region = r.begin();
    must("cuLaunchKernel", kernel.launch(d, stream));
    d.wait(stream);
    // a thread that had to wait for a processor may ask when all is over
    for _ in 0..10 {
        must("cuEventRecord", d.cuEventRecord(begin, stream));
        let start = std::time::Instant::now();
        t.code("a copy", d.cuMemcpyDtoDAsync_v2(to, from, BYTES, stream), 0);
        must("cuEventRecord", d.cuEventRecord(end, stream));
        let runs = d.cuStreamQuery(stream);
        let in_time = start.elapsed() < Duration::from_secs(2);
        d.wait(stream);
        if !runs.ok() || in_time {
            t.code("it takes its time", runs, 600);
            break;
        }
    }
    let mut ms = 0f32;
    must("cuEventElapsedTime", d.cuEventElapsedTime_v2(&mut ms, begin, end));
    // how much longer depends on the machine's other work
    t.that(format_args!("{BYTES} bytes at 10^8 a second: {ms} ms"), (1999.0..20000.0).contains(&ms));
    t.that("the region ends", r.end(region));
    d.free(from);
    d.free(to);
}

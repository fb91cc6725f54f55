//! Nanoseconds of a call, in a loop on one core.
use crate::median;
use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};
use zerogpu_abi::{CUcontext, CUresult, CUstream};
use zerogpu_bench::driver::{must, Driver};

/// Calls between two looks at the clock: some 10 to 200 microseconds, so that most batches are not interrupted.
const BATCH: u32 = 1000;
/// The result is the median of so many batches.
const BATCHES: usize = 400;

/// Batches that are apart, each after such a pause: a trace's ring takes a batch, and is written before the next.
const BURSTS: usize = 60;
const PAUSE: Duration = Duration::from_millis(30);

/// Measures the answered and the forwarded calls of a library. The shim is made to claim first.
pub fn measure(library: &Path, bursts: bool) -> Result<Value> {
    pin()?;
    let d = Driver::start(library)?;
    let mut stream = CUstream::NULL;
    // SAFETY: writes the stream; the flag says that it does not wait for the legacy stream.
    must("cuStreamCreate", unsafe { (d.cuStreamCreate)(&mut stream, 1) })?;
    // the same kind of memory below in both: what a memset costs there depends on it
    let memory = if d.regions.is_some() { d.alloc(2 << 20)? } else { d.mapped(2 << 20)? };
    let kernel = d.kernel()?;
    let region = d.regions.as_ref().map(|r| r.begin(600.0)).transpose()?;
    must("cuLaunchKernel", d.launch(kernel, stream, memory))?;

    let mut found = serde_json::Map::new();
    let mut time = |name: &str, call: &mut dyn FnMut() -> CUresult| -> Result<()> {
        found.insert(name.into(), json!(per_call(call, bursts).with_context(|| name.to_string())?));
        Ok(())
    };
    let (mut context, mut status) = (CUcontext::NULL, 0);
    // SAFETY: outputs of ours, handles and memory made above.
    unsafe {
        time("cuCtxGetCurrent", &mut || (d.cuCtxGetCurrent)(&mut context))?;
        time("cuStreamIsCapturing", &mut || (d.cuStreamIsCapturing)(stream, &mut status))?;
        time("cuStreamIsCapturing(0)", &mut || (d.cuStreamIsCapturing)(CUstream::NULL, &mut status))?;
        time("cuStreamQuery", &mut || (d.cuStreamQuery)(stream))?;
        time("cuMemsetD8Async", &mut || (d.cuMemsetD8Async)(memory, 7, 4, stream))?;
        time("cuLaunchKernel", &mut || d.launch(kernel, stream, memory))?;
        time("cuLaunchKernel(0)", &mut || d.launch(kernel, CUstream::NULL, memory))?;
    }
    if let (Some(regions), Some(region)) = (&d.regions, region) {
        let state = regions.state()?;
        ensure!(state["level"] == "claimed" && state["claims"] == 1, "the shim was not claimed throughout: {state}");
        regions.end(region)?;
    }
    Ok(found.into())
}

/// The median of the batches' nanoseconds per call.
fn per_call(call: &mut dyn FnMut() -> CUresult, bursts: bool) -> Result<f64> {
    let count = if bursts { BURSTS } else { BATCHES };
    let mut batches = Vec::with_capacity(count);
    // a tenth more, first, that only warms
    for n in 0..count + count / 10 {
        if bursts {
            std::thread::sleep(PAUSE);
        }
        let start = Instant::now();
        let mut result = 0;
        for _ in 0..BATCH {
            result |= black_box(call()).0;
        }
        let took = start.elapsed();
        ensure!(result == 0, "a call answered {result}");
        if n >= count / 10 {
            batches.push(took.as_nanos() as f64 / f64::from(BATCH));
        }
    }
    Ok(median(batches))
}

/// Keeps the process on the last of the cores that it may use.
fn pin() -> Result<()> {
    // SAFETY: a set is plain bits, and both calls are given its size.
    unsafe {
        let size = size_of::<libc::cpu_set_t>();
        let mut cores: libc::cpu_set_t = std::mem::zeroed();
        ensure!(libc::sched_getaffinity(0, size, &mut cores) == 0, std::io::Error::last_os_error());
        let last = (0..libc::CPU_SETSIZE as usize).rev().find(|&core| libc::CPU_ISSET(core, &cores));
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(last.context("no core may be used")?, &mut one);
        ensure!(libc::sched_setaffinity(0, size, &one) == 0, std::io::Error::last_os_error());
    }
    Ok(())
}

//! Milliseconds of claims and parks.
use crate::median;
use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};
use std::path::Path;
use zerogpu_abi::CUstream;
use zerogpu_bench::driver::{must, Driver};

/// Claims and parks `rounds` times with `bytes` of device memory, all written, and checks that it is kept.
pub fn measure(library: &Path, bytes: usize, rounds: usize) -> Result<Value> {
    let d = Driver::start(library)?;
    let regions = d.regions.as_ref().context("this driver has no regions: it is not the shim")?;
    let memory = d.alloc(bytes)?;
    let kernel = d.kernel()?;
    let given: Vec<u8> = (0..bytes).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
    // SAFETY: `bytes` bytes on both sides.
    must("cuMemcpyHtoD", unsafe { (d.cuMemcpyHtoD_v2)(memory, given.as_ptr().cast(), bytes) })?;
    let (mut claims, mut parks) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let region = regions.begin(600.0)?;
        must("cuLaunchKernel", d.launch(kernel, CUstream::NULL, memory))?;
        let state = regions.state()?;
        ensure!(state["level"] == "claimed", "no claim: {state}");
        regions.end(region)?;
        let state = regions.state()?;
        ensure!(state["level"] == "parked", "no park: {state}");
        // the first round opens the driver and makes the host copy
        if round > 0 {
            claims.push(state["last_claim_ms"].as_f64().context("no last_claim_ms")?);
            parks.push(state["last_park_ms"].as_f64().context("no last_park_ms")?);
        }
    }
    let mut kept = vec![0u8; bytes];
    // SAFETY: `bytes` bytes on both sides.
    must("cuMemcpyDtoH", unsafe { (d.cuMemcpyDtoH_v2)(kept.as_mut_ptr().cast(), memory, bytes) })?;
    ensure!(kept == given, "bytes have changed");
    Ok(json!({ "claim_ms": median(claims), "park_ms": median(parks) }))
}

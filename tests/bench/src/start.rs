//! Microseconds from the start of a program that does nothing to its end.
use crate::median;
use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};
use std::process::Command;
use std::time::Instant;

/// Runs /bin/true `count` times without and `count` times with `LD_PRELOAD` set to `preload`, in turn.
pub fn measure(count: usize, preload: &str) -> Result<Value> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..count {
        without.push(once(None)?);
        with.push(once(Some(preload))?);
    }
    Ok(json!({ "without_us": median(without), "with_us": median(with) }))
}

fn once(preload: Option<&str>) -> Result<f64> {
    let mut command = Command::new("/bin/true");
    command.env_clear();
    if let Some(objects) = preload {
        command.env("LD_PRELOAD", objects);
    }
    let start = Instant::now();
    let ended = command.status().context("/bin/true")?;
    let took = start.elapsed();
    ensure!(ended.success(), "/bin/true ended with {ended}");
    Ok(took.as_nanos() as f64 / 1e3)
}

//! Measures one side of a comparison and prints it as JSON; `scripts/bench` runs both sides in turn.
//!
//!     zerogpu-bench calls LIBRARY            nanoseconds of a call into a driver library, claimed if it is the shim
//!     zerogpu-bench bursts LIBRARY           the same, with a pause after each thousand calls
//!     zerogpu-bench park LIBRARY MIB ROUNDS  milliseconds of claims and parks with so much device memory
//!     zerogpu-bench start COUNT PRELOAD      microseconds of /bin/true, without and with LD_PRELOAD
mod calls;
mod park;
mod start;

use anyhow::{bail, Context, Result};
use std::path::Path;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let found = match words[..] {
        ["calls", library] => calls::measure(Path::new(library), false)?,
        ["bursts", library] => calls::measure(Path::new(library), true)?,
        ["park", library, mib, rounds] => park::measure(Path::new(library), number(mib)? << 20, number(rounds)?)?,
        ["start", count, preload] => start::measure(number(count)?, preload)?,
        _ => {
            bail!("usage: zerogpu-bench calls LIBRARY | bursts LIBRARY | park LIBRARY MIB ROUNDS | start COUNT PRELOAD")
        }
    };
    println!("{found}");
    Ok(())
}

fn number(word: &str) -> Result<usize> {
    word.parse().with_context(|| format!("{word} is no number"))
}

/// The middle value, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

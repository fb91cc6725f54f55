//! The command line of `zerogpu-node-space`: a plan of its own, or commands from standard input.
use crate::hostile;
use crate::program::Program;
use anyhow::{bail, ensure, Context, Result};
use serde_json::{json, Value};
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use zerogpu_bench::driver::Regions;

/// Runs what the arguments say: `plan LIBRARY SEED BYTES CALLS [bound]`, `obey LIBRARY SEED BYTES` (or `forked`, in a child), `deed NAME SOCKET` or `late CARD SOCKET`.
///
/// # Errors
/// What went wrong, a wrong byte above all.
pub fn main(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let open = |library: &str, seed: &str, most: &str| -> Result<Program> {
        Program::open(Path::new(library), seed.parse()?, most.parse()?)
    };
    match words[..] {
        ["plan", library, seed, most, calls] => plan(&mut open(library, seed, most)?, calls.parse()?, false),
        ["plan", library, seed, most, calls, "bound"] => plan(&mut open(library, seed, most)?, calls.parse()?, true),
        ["obey", library, seed, most] => obey(&mut open(library, seed, most)?),
        ["forked", library, seed, most] => {
            forked(Path::new(library), || obey(&mut open(library, seed, most).context("in the child")?))
        }
        ["deed", name, socket] => hostile::commit(name, Path::new(socket)),
        ["late", card, socket] => hostile::lie(card, Path::new(socket)),
        ["keep", bytes, guise, socket, driver] => {
            hostile::keep(bytes.parse()?, guise, Path::new(socket), Path::new(driver))
        }
        _ => bail!("usage: zerogpu-node-space plan LIBRARY SEED BYTES CALLS [bound] | obey LIBRARY SEED BYTES"),
    }
}

fn say(value: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}").and_then(|()| out.flush()).context("nobody listens")
}

/// Calls as the seed has them; a line for each. `bound`: from the first call on its context can't be made anew.
fn plan(program: &mut Program, calls: u64, bound: bool) -> Result<()> {
    for _ in 0..3 {
        program.take()?;
    }
    for call in 0..calls {
        let start = Instant::now();
        // what a program does between its calls: some of it is recorded, and replayed at the claim
        for _ in 0..program.random().below(3) {
            program.step().context("outside a region")?;
        }
        let seconds = [20.0, 30.0, 45.0, 60.0, 90.0][program.random().below(5)];
        program.begin(seconds)?;
        program.launch().context("the launch that claims")?;
        let claimed = start.elapsed();
        if bound && call == 0 {
            program.bind()?;
        }
        for _ in 0..program.random().between(1, 6) {
            program.step().context("inside a region")?;
        }
        std::thread::sleep(Duration::from_micros(program.random().below(8000) as u64));
        program.end()?;
        let bytes = if program.random().once_in(2) { program.check()? } else { 0 };
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        say(&json!({ "call": call, "claim_ms": ms(claimed), "ms": ms(start.elapsed()), "checked": bytes }))?;
        std::thread::sleep(Duration::from_micros(program.random().below(20_000) as u64));
    }
    let checked = program.check()?;
    say(&json!({ "done": calls, "checked": checked }))
}

/// Does it in a child of a process that has opened a region and not said cuInit: such a child may use CUDA.
fn forked(library: &Path, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let regions = Regions::open(library)?;
    let region = regions.begin(60.0)?;
    // SAFETY: the threads of this process are the shim's, which are told of a fork.
    match unsafe { libc::fork() } {
        0 => work(),
        child => {
            let mut status = 0;
            // SAFETY: waits for our own child; the status is ours to write.
            let waited = unsafe { libc::waitpid(child, &mut status, 0) };
            ensure!(waited == child && status == 0, "the child ended with {status}");
            regions.end(region)
        }
    }
}

/// One command a line, answered by a line.
fn obey(program: &mut Program) -> Result<()> {
    say(&json!({ "ready": true }))?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let start = Instant::now();
        let mut checked = 0;
        match words[..] {
            ["take", bytes] => program.take_bytes(bytes.parse()?)?,
            ["begin", seconds] => program.begin(seconds.parse()?)?,
            ["launch"] => program.launch()?,
            ["bind"] => program.bind()?,
            ["steps", count] => (0..count.parse::<u32>()?).try_for_each(|_| program.step())?,
            ["write", count] => (0..count.parse::<u32>()?).try_for_each(|_| program.write())?,
            ["drop"] => program.drop_one()?,
            ["change", percent] => program.change(percent.parse()?)?,
            ["check"] => checked = program.check()?,
            ["end"] => program.end()?,
            ["quit"] => return Ok(()),
            _ => bail!("no such command: {line}"),
        }
        let ms = start.elapsed().as_secs_f64() * 1e3;
        say(&json!({ "did": line, "ms": ms, "checked": checked, "state": program.state()?, "card": program.card()? }))?;
    }
    Ok(())
}

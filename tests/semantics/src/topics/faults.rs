//! Every call that a claim, forwarded work and a park make of the driver below is refused once, one process for each: no byte
//! changes, the error is told once, the next claim works, and nothing is left on the card. The same with the error after
//! which CUDA never recovers.
use super::fault_program::Program;
use super::regions::Regions;
use crate::check::Check;
use crate::driver::Driver;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use zerogpu_below::Driver as Below;

/// Claims in which calls are refused, and one afterwards that has to work. The second claim makes everything anew.
const ROUNDS: u64 = 2;
const ROUNDS_AFTER: u64 = 1;
/// How many rounds a process makes, if it is told.
const ROUNDS_VARIABLE: &str = "FAULT_ROUNDS";
/// A park that failed is tried again every half second.
const PATIENCE: Duration = Duration::from_secs(10);
/// More processes than cores: some of them wait for such a park.
const WORKERS: usize = 6;
const LIMIT: Duration = Duration::from_secs(60);

const OUT_OF_MEMORY: u32 = 2;
const ILLEGAL_ADDRESS: u32 = 700;
const UNKNOWN: u32 = 999;

/// What the program never calls: for leases and brokers, for tables that are forwarded, where memory lacks, and for cards
/// after Hopper.
const UNUSED: [&str; 13] = [
    "cuCtxGetCurrent",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetUuid_v2",
    "cuDeviceTotalMem_v2",
    "cuGetExportTable",
    "cuMemExportToShareableHandle",
    "cuMemGetAllocationGranularity",
    "cuMemGetInfo_v2",
    "cuMemImportFromShareableHandle",
    "cuModuleLoadData",
    "cuTensorMapEncodeIm2colWide",
];

/// Functions of which some calls can fail without anybody's harm: each other refusal has to be told. In this order: waits and
/// whatever lets go are tried a second time; bytes are copied pageable, addresses are asked for again; cuInit is called
/// once more by the claim; the end of a graph's launch is waited for instead; of what stays only the trace hears.
const HARMLESS: [&str; 16] = [
    "cuCtxSynchronize",
    "cuStreamSynchronize",
    "cuDevicePrimaryCtxRelease_v2",
    "cuEventDestroy_v2",
    "cuStreamDestroy_v2",
    "cuMemHostUnregister",
    "cuMemRelease",
    "cuMemUnmap",
    "cuMemHostRegister_v2",
    "cuMemAddressReserve",
    "cuMemAddressFree",
    "cuInit",
    "cuLaunchHostFunc",
    "cuLinkDestroy",
    "cuModuleUnload",
    "cuStreamSetAttribute",
];

/// The program, in a process whose driver below may refuse calls.
pub fn program(d: &'static Driver, t: &mut Check) {
    let rounds = std::env::var(ROUNDS_VARIABLE).ok().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS);
    let r = Regions::find(d).expect("the shim has regions");
    let mut program = Program::new(d);
    let mut codes = Vec::new();
    for round in 0..rounds {
        let recorded = program.outside(round).0;
        let region = r.begin();
        let code = program.work(round).err().map_or(0, |code| code.0);
        if code != 0 {
            program.doubt_outside();
            // in what the refusal has left, before the park
            let touched = program.touch_variable(round);
            t.that(format_args!("a variable after a refusal, {touched:?}"), touched.ok() || lost(r));
        }
        codes.push([recorded, code]);
        t.that(format_args!("region {round} ends"), r.end(region));
        for shadow in program.shadows() {
            // a refusal to read is told, and no wrong byte
            t.that(format_args!("{} after round {round}", shadow.name()), shadow.holds(d) != Ok(false));
        }
    }
    let start = Instant::now();
    while r.level().as_deref() == Some("claimed") && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
    let told: Vec<u32> = codes.iter().flatten().copied().filter(|code| *code != 0).collect();
    if lost(r) {
        t.that(format_args!("a lost device is told: {codes:?}"), r.state().contains("the GPU failed"));
    } else {
        t.same("the process is parked", r.level().as_deref(), Some("parked"));
        t.that(format_args!("a refusal is told once, {codes:?}: {}", r.state()), told.len() == 1 || hidden(r, &told));
        t.that("the next claim works", codes.iter().rev().take(ROUNDS_AFTER as usize).all(|codes| *codes == [0, 0]));
        for shadow in program.shadows() {
            t.same(format_args!("{} at the end", shadow.name()), shadow.holds(d), Ok(true));
        }
        t.same("what softcuda complains of", read("SOFTCUDA_STRICT_LOG").as_str(), "");
    }
    t.same("on the card, as others see it: bytes and contexts", seen_by_others(), Some((0, 0)));
}

/// Whether nobody had to be told with a code: what a park or a claim can do without is said in a sentence, if at all.
fn hidden(r: Regions, told: &[u32]) -> bool {
    let fault = std::env::var("SOFTCUDA_FAULT").unwrap_or_default();
    let function = fault.split([':', '=']).next().unwrap_or_default();
    let said = !r.state().contains("\"last_error\": null");
    told.is_empty() && (fault.is_empty() || said || HARMLESS.contains(&function))
}

/// Whether the device is lost.
fn lost(r: Regions) -> bool {
    r.level().as_deref() == Some("lost")
}

/// A file that softcuda writes, by the variable that names it.
pub(super) fn read(variable: &str) -> String {
    std::env::var_os(variable).map_or_else(String::new, |path| std::fs::read_to_string(path).unwrap_or_default())
}

/// Bytes and contexts on the software cards, seen by another process: locks do not tell a process of its own.
pub(super) fn seen_by_others() -> Option<(u64, u64)> {
    let program = std::env::current_exe().ok()?;
    let said = Command::new(program).arg("--cards").output().ok()?;
    let text = String::from_utf8(said.stdout).ok()?;
    let (bytes, contexts) = text.trim().split_once(' ')?;
    Some((bytes.parse().ok()?, contexts.parse().ok()?))
}

/// Prints what is on the cards that SOFTCUDA_CARDS names.
pub fn print_cards() {
    let path = PathBuf::from(std::env::var_os("SOFTCUDA_CARDS").expect("SOFTCUDA_CARDS names the cards"));
    let cards =
        zerogpu_cards::Cards::look(&path).and_then(|cards| cards.snapshot()).expect("the cards are there").cards;
    let sum = |of: fn(&zerogpu_cards::Card) -> u64| cards.iter().map(of).sum::<u64>();
    println!("{} {}", sum(|card| card.bytes_used), sum(|card| card.contexts));
}

/// A process of the program.
struct Run {
    folder: PathBuf,
}

impl Run {
    fn new(number: usize) -> Self {
        let mut folder = std::env::var_os("SOFTCUDA_CARDS").expect("the harness names the cards");
        folder.push(format!("-{number}"));
        std::fs::create_dir_all(&folder).expect("the test's folder is writable");
        Self { folder: folder.into() }
    }

    /// Runs the process; what it said of failures, None: it did well.
    fn run(&self, command: &mut Command) -> Option<String> {
        let path = self.folder.join("said");
        let said = File::create(&path).expect("the folder is ours");
        let errors = said.try_clone().expect("a descriptor is to be had");
        let mut child = command.stdout(said).stderr(errors).spawn().expect("a child starts");
        let start = Instant::now();
        let status = loop {
            match child.try_wait().expect("our own child") {
                Some(status) if status.success() => return None,
                Some(status) => break status.to_string(),
                None if start.elapsed() > LIMIT => {
                    child.kill().expect("our own child");
                    child.wait().expect("our own child");
                    break "it hung".into();
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("ok ")).collect();
        Some(format!("{status}: {}", lines.join("; ")))
    }

    fn command(&self, rounds: u64) -> Command {
        let mut command = self.topic("fault_program");
        command.env(ROUNDS_VARIABLE, rounds.to_string());
        command
    }

    /// A topic, with cards of its own.
    fn topic(&self, name: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command
            .arg(name)
            .env("SOFTCUDA_CARDS", self.folder.join("cards"))
            .env("SOFTCUDA_STRICT_LOG", self.folder.join("violations"))
            .env_remove("SOFTCUDA_LAUNCH_LOG");
        command
    }
}

/// Tells a topic's process that it is the one with other settings, and what they are about.
const PART: &str = "TOPIC_PART";

/// What the settings of this process are about; None: it is the topic's first.
pub(super) fn part() -> Option<String> {
    std::env::var(PART).ok()
}

/// Runs a topic once more, in a process with cards and settings of its own, where [`part`] is `part`; it has to do well.
pub(super) fn again(t: &mut Check, topic: &str, part: &str, settings: &[(&str, &str)]) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let run = Run::new(NEXT.fetch_add(1, Ordering::Relaxed));
    let outcome = run.run(run.topic(topic).env(PART, part).envs(settings.iter().copied()));
    t.note(format_args!("{topic}, {part}"), outcome.is_none(), || outcome.unwrap_or_default());
}

impl Drop for Run {
    fn drop(&mut self) {
        // what can't be removed goes with the test's folder
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

/// How often each function of the driver below is called.
fn count(path: &Path) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
        *counts.entry(line.to_string()).or_default() += 1;
    }
    counts
}

/// Refuses each call in turn.
pub fn each_call(_: &'static Driver, t: &mut Check) {
    let first = Run::new(0);
    let log = first.folder.join("calls");
    let clean = first.run(first.command(ROUNDS).env("SOFTCUDA_CALL_LOG", &log));
    t.note("without a fault", clean.is_none(), || clean.unwrap_or_default());
    let counts = count(&log);
    let missing: BTreeSet<_> = Below::NAMES.iter().filter(|name| !counts.contains_key(**name)).collect();
    t.same("functions that the program does not reach", missing, UNUSED.iter().collect());
    let mut faults = Vec::new();
    // the version is asked for before anything else, and what it is without an answer is another matter
    for (name, &calls) in counts.iter().filter(|(name, _)| *name != "cuDriverGetVersion") {
        let code = if name.contains("Mem") { OUT_OF_MEMORY } else { UNKNOWN };
        faults.extend((1..=calls).flat_map(|nth| [code, ILLEGAL_ADDRESS].map(|code| format!("{name}:{nth}={code}"))));
    }
    t.that(format_args!("{} faults", faults.len()), faults.len() > 300);
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(fault) = faults.get(number) else { break };
                let outcome = refuse(number + 1, fault);
                found.lock().expect("not poisoned").push((fault, outcome));
            });
        }
    });
    for (fault, outcome) in found.into_inner().expect("not poisoned") {
        t.note(fault, outcome.is_none(), || outcome.unwrap_or_default());
    }
}

/// Runs the program with a fault; what went wrong.
fn refuse(number: usize, fault: &str) -> Option<String> {
    let run = Run::new(number);
    run.run(run.command(ROUNDS + ROUNDS_AFTER).env("SOFTCUDA_FAULT", fault))
}

//! Traces of whole processes, however they end. The processes are `examples/emit.rs`.
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use zerogpu_trace::{recover, recover_folder, Error, Order, Summary};

const THREADS: usize = 4;
const RECORDS: usize = 5_000;

/// The example's program, which cargo builds beside the tests.
fn emit(args: &[&str]) -> Command {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("examples/emit");
    assert!(program.exists(), "{}: build it with `cargo build -p zerogpu-trace --examples`", program.display());
    let mut command = Command::new(program);
    command.args(args);
    command
}

fn run(settings: &str, ending: &str) {
    let status = emit(&[settings, &THREADS.to_string(), &RECORDS.to_string(), ending]).status().unwrap();
    assert!(status.success(), "{status}");
}

fn json_settings(dir: &Path) -> (PathBuf, String) {
    let output = dir.join("t.jsonl");
    let settings = format!("json,file={}", output.display());
    (output, settings)
}

fn ring_of(output: &Path) -> PathBuf {
    PathBuf::from(format!("{}.ring", output.display()))
}

/// Asserts that the calls of each thread are all there, once, in order, and gives their numbers by thread.
fn calls(values: impl Iterator<Item = Value>) -> Vec<usize> {
    let mut next = vec![0; THREADS];
    for call in values {
        let thread = usize::from_str_radix(call["dstDevice"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
        assert_eq!(call["ByteCount"], next[thread], "thread {thread}");
        next[thread] += 1;
    }
    next
}

fn json_calls(output: &Path) -> Vec<usize> {
    let text = std::fs::read_to_string(output).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    calls(lines.filter(|v| v["type"] == "call").map(|mut v| v["args"].take()))
}

fn chrome_calls(output: &Path) -> Vec<usize> {
    let mut v: Value = serde_json::from_slice(&std::fs::read(output).unwrap()).unwrap();
    let Value::Array(events) = v["traceEvents"].take() else { panic!("no events") };
    calls(events.into_iter().filter(|e| e["ph"] == "X").map(|mut e| e["args"]["args"].take()))
}

#[test]
fn a_normal_end_leaves_a_complete_trace() {
    let dir = tempfile::tempdir().unwrap();
    let (output, settings) = json_settings(dir.path());
    run(&settings, "exit");
    assert_eq!(json_calls(&output), [RECORDS; THREADS]);
    assert!(!ring_of(&output).exists());
    assert_eq!(recover(&output).unwrap(), None, "nothing to recover");
    let text = std::fs::read_to_string(&output).unwrap();
    assert_eq!(text.matches("\"type\":\"thread\"").count(), THREADS);
}

#[test]
fn after_os_exit_nothing_is_missing() {
    // where the process had to wait for a processor at its end, the writer may have been done
    let left_some = (0..10).any(|_| {
        let dir = tempfile::tempdir().unwrap();
        let (output, settings) = json_settings(dir.path());
        run(&settings, "_exit");
        let recovered = recover(&output).unwrap().expect("a ring was left");
        assert_eq!((recovered.output.as_deref(), recovered.lost), (Some(output.as_path()), 0));
        assert_eq!(json_calls(&output), [RECORDS; THREADS]);
        assert!(!ring_of(&output).exists());
        let summary = Summary::read(&output, Order::Time).unwrap().to_string();
        assert!(summary.contains(&format!("cuMemcpyHtoD_v2      {}", THREADS * RECORDS)), "{summary}");
        recovered.records > 0
    });
    assert!(left_some, "the writer can't have been done each time");
}

/// `type`, depth and name of each record of `emit SETTINGS nested`.
fn nested(filter: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let (output, settings) = json_settings(dir.path());
    assert!(emit(&[&format!("{settings}{filter}"), "nested"]).status().unwrap().success());
    let text = std::fs::read_to_string(output).unwrap();
    let line = |l| {
        let v: Value = serde_json::from_str(l).unwrap();
        let name = ["name", "kernel", "text"].iter().find_map(|key| v[key].as_str()).unwrap_or_default();
        format!("{} {} {name}", v["type"].as_str().unwrap(), v["depth"])
    };
    text.lines().map(line).collect()
}

#[test]
fn calls_within_calls_are_nested() {
    let expected = [
        "trace null ",
        "thread null emit",
        "message 2 inside",
        "call 1 cuCtxGetCurrent",
        "launch 1 a_kernel",
        "call 0 cuLaunchKernel",
        "call 0 cuCtxGetCurrent",
        "span null a_kernel",
        "counter null bytes on the card",
        "end null ",
    ];
    assert_eq!(nested(""), expected);
}

#[test]
fn a_filtered_function_is_gone_with_its_launches() {
    let left = nested(",not=cuLaunch*");
    assert!(!left.iter().any(|l| l.contains("cuLaunchKernel") || l.contains("launch")), "{left:?}");
    // what is within a call that is not recorded is not nested
    assert_eq!(left.iter().filter(|l| *l == "call 0 cuCtxGetCurrent").count(), 2);
    let left = nested(",only=cuLaunch*");
    assert_eq!(left.iter().filter(|l| l.starts_with("call")).collect::<Vec<_>>(), ["call 0 cuLaunchKernel"]);
}

/// A running `emit forever`, killed when dropped.
struct Forever {
    child: Child,
    progress: PathBuf,
}

impl Forever {
    fn start(settings: &str, dir: &Path) -> Self {
        let progress = dir.join("progress");
        let child = emit(&[settings, &THREADS.to_string(), progress.to_str().unwrap(), "forever"]).spawn().unwrap();
        Forever { child, progress }
    }

    /// How many records each thread had made when it last said so.
    fn progress(&self) -> Vec<usize> {
        let mut bytes = std::fs::read(&self.progress).unwrap_or_default();
        bytes.resize(THREADS * 8, 0);
        bytes.chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap()) as usize).collect()
    }

    fn wait_for(&mut self, records: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.progress().iter().sum::<usize>() < records {
            assert_eq!(self.child.try_wait().unwrap(), None, "it ended by itself");
            assert!(Instant::now() < deadline, "no progress");
            std::thread::yield_now();
        }
    }

    fn kill(mut self) -> Vec<usize> {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(libc::SIGKILL));
        self.progress()
    }
}

impl Drop for Forever {
    fn drop(&mut self) {
        // it may have ended already
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn at_least(seen: Vec<usize>, emitted: Vec<usize>) {
    assert!(seen.iter().zip(&emitted).all(|(s, e)| s >= e), "{seen:?} in the trace, {emitted:?} emitted");
}

#[test]
fn after_a_kill_nothing_that_was_recorded_is_missing() {
    // at different times, and with a ring so small that its producers wait for room most of the time
    for (round, buffer) in ["4MiB", "16KiB", "4MiB", "16KiB", "64KiB", "64KiB"].iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let (output, settings) = json_settings(dir.path());
        let mut process = Forever::start(&format!("{settings},buffer={buffer}"), dir.path());
        process.wait_for(1 + 3_000 * round);
        assert!(matches!(recover(&output), Err(Error::Live { .. })), "the process still writes it");
        let emitted = process.kill();
        let recovered = recover(&output).unwrap().expect("a ring was left");
        // at most the record that each thread was writing
        assert!(recovered.lost <= THREADS as u64, "{recovered:?}");
        at_least(json_calls(&output), emitted);
        assert!(!ring_of(&output).exists());
    }
}

#[test]
fn a_killed_chrome_trace_is_valid_after_recover() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("t.json");
    let mut process = Forever::start(&format!("chrome,file={}", output.display()), dir.path());
    process.wait_for(10_000);
    let emitted = process.kill();
    recover(&output).unwrap().expect("a ring was left");
    at_least(chrome_calls(&output), emitted);
    Summary::read(&output, Order::Count).unwrap();
}

#[test]
fn rings_in_a_folder_are_recovered_but_for_those_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let rings = dir.path().join("rings");
    std::fs::create_dir(&rings).unwrap();
    let settings = |name: &str| format!("json,file={},ring={}", dir.path().join(name).display(), rings.display());
    let mut live = Forever::start(&settings("live.jsonl"), dir.path());
    live.wait_for(1);
    run(&settings("dead.jsonl"), "_exit");
    let done = recover_folder(&rings).unwrap();
    let outputs: Vec<_> = done.into_iter().map(|r| r.unwrap().output.unwrap()).collect();
    assert_eq!(outputs, [dir.path().join("dead.jsonl")]);
    assert_eq!(json_calls(&outputs[0]), [RECORDS; THREADS]);
    let left: Vec<_> = std::fs::read_dir(&rings).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["live.jsonl.ring"]);
}

#[test]
fn a_forked_child_traces_nothing_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (output, settings) = json_settings(dir.path());
    run(&settings, "fork");
    assert_eq!(json_calls(&output), [RECORDS; THREADS]);
    let text = std::fs::read_to_string(&output).unwrap();
    assert!(!text.contains("from the child") && !text.contains("cuInit"));
    assert!(text.ends_with("\"recovered\":false,\"lost\":0}\n"));
    let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(files, ["t.jsonl"]);
}

#[test]
fn a_program_that_replaces_itself_has_two_traces() {
    let dir = tempfile::tempdir().unwrap();
    let (output, settings) = json_settings(dir.path());
    run(&settings, "exec");
    assert_eq!(json_calls(&output), [RECORDS; THREADS], "completed by the second program");
    assert_eq!(json_calls(&dir.path().join("t-2.jsonl")), [RECORDS; THREADS]);
}

/// The text trace of a process that dies comes out whole, in two parts: its own standard error, and that of `recover`.
#[test]
fn a_text_trace_on_standard_error_is_completed_there() {
    let dir = tempfile::tempdir().unwrap();
    let settings = format!("text,ring={}", dir.path().display());
    let child = emit(&[&settings, "1", "20000", "_exit"]).stderr(Stdio::piped()).spawn().unwrap();
    let ring = dir.path().join(format!("zerogpu-{}.trace.ring", child.id()));
    let first = child.wait_with_output().unwrap().stderr;
    let second = emit(&["recover", ring.to_str().unwrap()]).output().unwrap();
    assert!(second.status.success(), "{second:?}");
    let text = String::from_utf8([first, second.stderr].concat()).unwrap();
    let numbers: Vec<usize> =
        text.lines().filter_map(|l| l.split_once("ByteCount=")?.1.split_once(')')?.0.parse().ok()).collect();
    // the batch that was being written may come twice
    let mut once = numbers.clone();
    once.sort_unstable();
    once.dedup();
    assert!(once.into_iter().eq(0..20000));
    assert!(text.lines().last().unwrap().starts_with("# recovered"));
    assert!(text.starts_with("# zerogpu"));
}

#[test]
fn names_and_rings_that_do_not_fit_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let missing = recover(&dir.path().join("none.jsonl")).unwrap_err().to_string();
    assert!(missing.contains("none.jsonl.ring") && missing.contains("No such file"), "{missing}");
    let foreign = dir.path().join("x.ring");
    std::fs::write(&foreign, "not a ring").unwrap();
    let mode = |bits| std::fs::set_permissions(&foreign, std::fs::Permissions::from_mode(bits)).unwrap();
    mode(0o600);
    assert!(matches!(recover(&foreign), Err(Error::Foreign { .. })));
    mode(0o666);
    let error = recover(&foreign).unwrap_err().to_string();
    assert!(error.contains("another user may have written it"), "{error}");
    assert!(recover_folder(dir.path()).unwrap().is_empty(), "silent where nobody named it");
}

//! Runs each topic, in a fresh process, on each driver: `softcuda`, the shim alone, the shim over softcuda, and, where
//! `ZEROGPU_TEST_REAL_DRIVER` names one, a real driver on a real card:
//!
//!     cargo build --workspace && cargo test -p zerogpu-semantics
//!     ZEROGPU_TEST_REAL_DRIVER=/usr/lib/x86_64-linux-gnu/libcuda.so.1 cargo test -p zerogpu-semantics -- real::
use libtest_mimic::{Arguments, Failed, Trial};
use std::io::{Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use wait_timeout::ChildExt;
use zerogpu_semantics::{Scope, Topic, TOPICS};

const PROGRAM: &str = env!("CARGO_BIN_EXE_zerogpu-semantics");
const REAL_DRIVER: &str = "ZEROGPU_TEST_REAL_DRIVER";
/// The recorded rows are an H100's.
const PROFILE: &str = "h100-80gb";
/// Long enough for the slowest topic on two busy cores; a topic that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// A driver library and how to run it.
#[derive(Clone)]
struct Subject {
    name: &'static str,
    library: PathBuf,
    flags: &'static [&'static str],
    environment: Vec<(&'static str, PathBuf)>,
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let real = std::env::var_os(REAL_DRIVER).map(PathBuf::from);
    if real.is_none() {
        println!("real driver: not run: {REAL_DRIVER} names no driver library");
    }
    let trials =
        subjects(real).into_iter().flat_map(|subject| TOPICS.iter().filter_map(move |topic| trial(&subject, topic)));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn subjects(real: Option<PathBuf>) -> Vec<Subject> {
    let (shim, softcuda) = (built("libzerogpu.so"), built("libsoftcuda.so"));
    let mut subjects = vec![
        Subject { name: "softcuda", library: softcuda.clone(), flags: &[], environment: vec![] },
        Subject {
            name: "softcuda_three_cards",
            library: softcuda.clone(),
            flags: &[],
            environment: vec![("SOFTCUDA_COUNT", "3".into()), ("SOFTCUDA_POISON", "1".into())],
        },
        Subject {
            name: "shim_alone",
            library: shim.clone(),
            flags: &["--no-kernels"],
            environment: vec![("ZEROGPU_DRIVER", "none".into())],
        },
        Subject {
            name: "shim_over_softcuda",
            library: shim,
            flags: &[],
            environment: vec![("ZEROGPU_DRIVER", softcuda)],
        },
    ];
    subjects.extend(real.map(|library| Subject { name: "real", library, flags: &["--real"], environment: vec![] }));
    subjects
}

fn trial(subject: &Subject, topic: &'static Topic) -> Option<Trial> {
    let runs = match (subject.name, topic.scope) {
        ("real", Scope::Ours) => false,
        (name, Scope::Claims) => name == "shim_over_softcuda",
        ("shim_alone" | "shim_over_softcuda", Scope::Cards) | ("shim_alone", Scope::Kernels) => false,
        ("softcuda_three_cards", scope) => scope == Scope::Cards,
        _ => true,
    };
    if !runs {
        return None;
    }
    let subject = subject.clone();
    Some(Trial::test(format!("{}::{}", subject.name, topic.name), move || run(&subject, topic)))
}

/// A library of this workspace: cargo puts it beside the folder of this program.
fn built(file: &str) -> PathBuf {
    let program = std::env::current_exe().expect("this program has a path");
    let folder = program.parent().and_then(Path::parent).expect("a test lies in target/PROFILE/deps");
    folder.join(file)
}

/// There is one real card, and topics look at its free memory.
static REAL_CARD: Mutex<()> = Mutex::new(());

fn run(subject: &Subject, topic: &Topic) -> Result<(), Failed> {
    let _alone = subject.flags.contains(&"--real").then(|| REAL_CARD.lock());
    if !subject.library.exists() {
        let missing = format!("{} is missing: run `cargo build --workspace` first", subject.library.display());
        return Err(missing.into());
    }
    let folder = tempfile::tempdir()?;
    let mut log = tempfile::tempfile()?;
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars_os() {
        let ours = name.to_str().is_some_and(|n| ["ZEROGPU_", "SOFTCUDA_", "CUDA_"].iter().any(|p| n.starts_with(p)));
        if ours {
            command.env_remove(name);
        }
    }
    command
        .args(subject.flags)
        .arg(topic.name)
        .env_remove("LD_PRELOAD")
        .env("ZEROGPU_TEST_DRIVER", &subject.library)
        .env("ZEROGPU_PROFILE", PROFILE)
        .env("SOFTCUDA_PROFILE", PROFILE)
        // a card of its own: topics run side by side and look at its free memory
        .env("SOFTCUDA_CARDS", folder.path().join("cards"))
        .env("SOFTCUDA_LAUNCH_LOG", folder.path().join("launches"))
        .env("SOFTCUDA_STRICT_LOG", folder.path().join("violations"))
        .envs(subject.environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?);
    let mut child = command.spawn()?;
    let status = match child.wait_timeout(LIMIT)? {
        Some(status) => status,
        None => {
            child.kill()?;
            child.wait()?
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    log.rewind()?;
    log.read_to_string(&mut text)?;
    Err(report(&text, status).into())
}

/// What to show of a failed topic: the failed checks and everything that is no check; the last line of all after a crash.
fn report(text: &str, status: std::process::ExitStatus) -> String {
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("ok ")).collect();
    if status.signal().is_some() {
        lines.extend(text.lines().last());
    }
    format!("{status}\n{}", lines.join("\n"))
}

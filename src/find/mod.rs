//! Which broker a program gets: one that is there, or one that is started because another program wants the same cards.

pub(crate) mod runs;

pub use runs::{software_cards, Runs, Turn};

use crate::broker::Status;
use crate::cmd::status::{read, Watcher};
use crate::install::Install;
use anyhow::{bail, Context, Result};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use zerogpu_protocol::{default_socket, SYSTEM_SOCKET};

/// How long a broker that was started here lives without programs.
const IDLE: &str = "60s";
/// The longest call that it serves, in seconds: that of the service whose programs these are.
const LONGEST: &str = "2400";
/// How long it may take to start: it makes a context on each card.
const START: Duration = Duration::from_secs(60);
/// What it prints when it serves.
pub const READY: &str = "ready";

/// What a program is started with.
#[derive(Default)]
pub struct Found {
    /// The broker's socket; `None`: the program claims cards by itself.
    pub socket: Option<PathBuf>,
    /// Counts the program among those of its driver for as long as it is open, here or there.
    pub mark: Option<File>,
}

/// Finds a broker for a program on the driver at `path`, and starts one if another program runs there. What goes wrong is
/// said, and no reason not to run the program.
pub fn broker(path: &Path, install: &Install) -> Found {
    find(path, install).unwrap_or_else(|error| {
        eprintln!("zerogpu: no broker shares the GPUs among programs: {error:#}");
        Found::default()
    })
}

fn find(path: &Path, install: &Install) -> Result<Found> {
    // without a folder of its own a program is alone
    let Ok(runs) = Runs::of(path) else { return Ok(Found { socket: existing(path), mark: None }) };
    let turn = runs.turn()?;
    let (mark, others) = runs.join(&turn)?;
    let mark = Some(mark);
    match existing(path) {
        Some(socket) => Ok(Found { socket: Some(socket), mark }),
        None if !others => Ok(Found { socket: None, mark }),
        None => match start(path, install, &runs) {
            Ok(socket) => Ok(Found { socket: Some(socket), mark }),
            Err(error) => {
                eprintln!("zerogpu: no broker shares the GPUs among programs: {error:#}");
                Ok(Found { socket: None, mark })
            }
        },
    }
}

/// A broker at one of the usual places that lends the cards of this driver.
fn existing(path: &Path) -> Option<PathBuf> {
    let places = default_socket().ok().into_iter().chain([PathBuf::from(SYSTEM_SOCKET)]);
    places.filter(|socket| socket.exists()).find(|socket| answers(socket, path))
}

/// Whether a broker answers, and for this driver. One of another version counts: its refusal says more than silence.
fn answers(socket: &Path, path: &Path) -> bool {
    match Watcher::connect(socket) {
        Ok(mut watcher) => watcher.ask().is_ok_and(|json| read(&json).map_or(true, |status| serves(&status, path))),
        Err(error) => matches!(error.downcast_ref(), Some(zerogpu_protocol::Error::Mismatch(..))),
    }
}

/// Whether a broker lends the cards of the driver at `path`.
fn serves(status: &Status, path: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let cards = software_cards(path).map(|cards| cards.display().to_string());
    real(Path::new(&status.driver)) == real(path) && status.software_cards == cards
}

/// Starts a broker that outlives this process and ends by itself.
fn start(path: &Path, install: &Install, runs: &Runs) -> Result<PathBuf> {
    let socket = default_socket()?;
    let log = runs.folder().join("broker.log");
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let errors =
        options.open(&log).with_context(|| format!("{} can't be written; make its folder writable", log.display()))?;
    let driver = if software_cards(path).is_some() { Path::new("soft") } else { path };
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("broker").arg("--socket").arg(&socket).arg("--driver").arg(driver).arg("--lib").arg(&install.lib);
    command.args(["--idle-exit", IDLE, "--max-seconds", LONGEST, "--announce"]);
    command.env_remove("LD_PRELOAD").current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    // SAFETY: between fork and exec the child makes system calls only, which need no memory.
    unsafe {
        command.pre_exec(|| {
            // a terminal's signals are not for it
            libc::setsid();
            keep_nothing();
            Ok(())
        });
    }
    let mut child = command.spawn().context("it can't be started")?;
    let mut output = child.stdout.take().context("it has no output")?;
    let mut word = [0; READY.len()];
    if !readable(&output) {
        bail!("it does not get ready; its log is {}", log.display());
    }
    match output.read_exact(&mut word) {
        Ok(()) => {
            eprintln!(
                "zerogpu: started a broker, since another program uses the same driver; its log is {}",
                log.display()
            );
            Ok(socket)
        }
        Err(_) => {
            // it has closed its output, so it ends now
            let _status = child.wait();
            bail!("it ended at once; its log is {}", log.display())
        }
    }
}

/// The next program of this process has its standard streams, and no other descriptor: locks and pipes of whoever started us are
/// not a daemon's.
fn keep_nothing() {
    // SAFETY: both mark descriptors, whichever are open, as closed by exec.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) == 0 {
            return;
        }
        // a kernel before 5.11
        let most = libc::sysconf(libc::_SC_OPEN_MAX).clamp(0, 1 << 16) as libc::c_int;
        for fd in 3..most {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}

fn readable(output: &impl AsRawFd) -> bool {
    let mut wanted = libc::pollfd { fd: output.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which is ours.
    unsafe { libc::poll(&mut wanted, 1, START.as_millis() as libc::c_int) == 1 }
}

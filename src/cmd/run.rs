//! `zerogpu run`: starts a program that sees the virtual device.

use crate::environment::Choices;
use crate::find::{self, Found};
use crate::traces::Traces;
use anyhow::{Context, Result};
use nix::sys::signal::{kill, SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus};
use zerogpu_settings::{driver_path, Settings};

/// Start a program that sees one CUDA device
///
/// What is set: LD_PRELOAD, LD_LIBRARY_PATH, LIBRARY_PATH and PYTHONPATH, each in front of what it holds, ZEROGPU_LIB, the
/// ZEROGPU_ variables of the options given, and ZEROGPU_SOCKET if a broker was found. Without --socket and ZEROGPU_SOCKET a broker is looked for: at the usual place of this user,
/// then at that of the system. If none lends the cards of the program's driver, and another program started by `zerogpu run`
/// uses that driver, a broker is started; it ends by itself. This process becomes the program. With a trace, the program is a child instead: it gets the signals
/// sent here, and its trace is completed when it has ended, even by a kill.
///
/// The exit status is the program's: 128 + n if it was a child and signal n ended it. 127: it was not found. 126: it can't
/// be run.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    choices: Choices,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Passed on to the program. Those that the terminal sends to the whole foreground group come by themselves.
const FORWARDED: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// Runs the program. Without a trace this process becomes it, and `run` does not return.
pub fn run(args: &Args) -> Result<ExitCode> {
    let install = args.choices.lib.install()?;
    let variables = args.choices.variables(&install, None, &|name| std::env::var_os(name))?;
    let after = |name: &str| match variables.iter().find(|(set, _)| *set == name) {
        Some((_, value)) => Some(value.clone()),
        None => std::env::var_os(name),
    };
    let (settings, complaints) = Settings::from_lookup(&after);
    for complaint in complaints {
        eprintln!("zerogpu: {complaint}");
    }
    if install.hook.is_none() {
        eprintln!("zerogpu: the Python package spaces is not beside the libraries, so @spaces.GPU marks nothing; install it to {}", install.lib.join("python").display());
    }
    let found = match after("ZEROGPU_SOCKET").filter(|value| !value.is_empty()) {
        Some(_) => Found::default(),
        None => {
            let driver = driver_path::find(&settings.driver, Some(&install.lib), Some(&install.objects()[0]));
            // what is wrong with the driver is the shim's to say
            driver.ok().flatten().map(|path| find::broker(&path, &install)).unwrap_or_default()
        }
    };
    if let Some(mark) = &found.mark {
        // SAFETY: takes numbers; the descriptor is ours, and the program is to inherit it.
        unsafe { libc::fcntl(mark.as_raw_fd(), libc::F_SETFD, 0) };
    }
    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]).envs(variables).envs(found.socket.iter().map(|socket| ("ZEROGPU_SOCKET", socket)));
    match settings.trace.as_deref().and_then(Traces::of) {
        None => Ok(not_started(&args.command[0], &command.exec())),
        Some(traces) => {
            command.envs(traces.spec.iter().map(|spec| ("ZEROGPU_TRACE", spec)));
            // Blocked before the program starts, so that none is missed.
            let (signals, before) = Signals::block()?;
            // SAFETY: between fork and exec the child only sets its mask back: one system call, no memory.
            unsafe { command.pre_exec(move || Ok(before.thread_set_mask()?)) };
            let status = match command.spawn() {
                Ok(child) => signals.follow(child)?,
                Err(error) => return Ok(not_started(&args.command[0], &error)),
            };
            traces.complete();
            Ok(exit_code(status))
        }
    }
}

/// 127 and 126 are what shells answer.
fn not_started(program: &OsString, error: &io::Error) -> ExitCode {
    let (code, what) = match error.kind() {
        io::ErrorKind::NotFound => (127, "was not found; check its name and PATH".to_string()),
        io::ErrorKind::PermissionDenied => (126, "is not executable; check its permissions".to_string()),
        _ => (126, format!("can't be run: {error}")),
    };
    eprintln!("zerogpu: {} {what}", program.to_string_lossy());
    ExitCode::from(code)
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// The signals of this process, to be read one by one.
struct Signals(SignalFd);

impl Signals {
    /// Blocks them, and returns the mask as it was before.
    fn block() -> Result<(Signals, SigSet)> {
        let set: SigSet = FORWARDED.into_iter().chain([Signal::SIGCHLD]).collect();
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK).context("signals can't be blocked")?;
        let reader = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC).context("signals can't be read (signalfd)")?;
        Ok((Signals(reader), before))
    }

    /// Passes signals on until the program has ended.
    fn follow(&self, mut child: Child) -> Result<ExitStatus> {
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        loop {
            if let Some(status) = child.try_wait().context("the program can't be waited for")? {
                return Ok(status);
            }
            let Some(signal) = self.0.read_signal().context("signals can't be read (signalfd)")? else { continue };
            // Above 0 the kernel is the sender: a terminal's signal, which the program has got too.
            if signal.ssi_code <= 0 && signal.ssi_signo != Signal::SIGCHLD as u32 {
                let signal = Signal::try_from(i32::try_from(signal.ssi_signo)?)?;
                match kill(pid, signal) {
                    Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                    Err(error) => eprintln!("zerogpu: {signal} can't be passed on: {error}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        let code = |raw: i32| format!("{:?}", exit_code(ExitStatus::from_raw(raw)));
        assert_eq!(code(0), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(code(7 << 8), format!("{:?}", ExitCode::from(7)));
        assert_eq!(code(libc::SIGKILL), format!("{:?}", ExitCode::from(137)));
    }
}

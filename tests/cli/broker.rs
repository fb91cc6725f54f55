//! `zerogpu broker`, and how programs find it. The driver is softcuda, as cargo built it.

use crate::stage::{text, Stage};
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{chown, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use zerogpu_protocol::{Connection, Hello, Listener, Role};

crate::tests![
    a_broker_is_seen_from_all_sides,
    a_socket_of_systemd_is_served,
    a_broker_that_nobody_needs_ends,
    a_second_broker_is_refused,
    a_log_that_nobody_reads_ends_no_broker,
    a_broker_that_never_served_leaves_no_mark,
    a_report_that_can_not_be_written_is_an_error,
    a_signal_ends_top_and_gives_the_terminal_back,
    cards_that_programs_use_stay_as_they_are,
    a_program_finds_the_broker_of_its_driver,
    the_second_program_starts_a_broker,
];

/// A process that is ended with its test.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Held {
    /// Reads one line of its output.
    fn line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line
    }

    fn signal(&self, signal: i32) {
        // SAFETY: takes numbers; the child has not been waited for.
        assert_eq!(unsafe { libc::kill(self.0.id() as i32, signal) }, 0);
    }
}

/// The command with what cargo built, in an environment of its own.
fn zerogpu(stage: &Stage, arguments: &[&str]) -> Command {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_zerogpu"));
    let built = built.parent().unwrap();
    assert!(built.join("libsoftcuda.so").is_file(), "run cargo build --workspace first");
    let mut command = stage.zerogpu(arguments);
    command.env("ZEROGPU_LIB", built);
    command
}

/// A broker of two cards of 1 GiB, which serves already.
fn broker(mut command: Command) -> Held {
    let broker = command.args(["--announce"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut broker = Held(broker.unwrap());
    assert_eq!(broker.line(), "ready\n");
    broker
}

const CARDS: [&str; 7] = ["broker", "--driver", "soft", "--cards", "2", "--vram", "1GiB"];

fn a_broker_is_seen_from_all_sides() {
    let stage = Stage::new();
    let socket = stage.path("broker.sock");
    let socket = socket.to_str().unwrap();
    let nobody = zerogpu(&stage, &["status", "--socket", socket]).output().unwrap();
    let said = text(&nobody.stderr);
    assert!(said.contains("no broker answers on") && said.matches("No such file").count() == 1, "{said}");

    let mut command = zerogpu(&stage, &CARDS);
    command.args(["--socket", socket]);
    let mut broker = broker(command);
    let output = |arguments: &[&str]| {
        let output = zerogpu(&stage, arguments).env("ZEROGPU_SOCKET", socket).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    };
    let status = output(&["status"]);
    assert!(status.contains("card 1: NVIDIA A100-SXM4-40GB") && status.contains("0 Spaces"), "{status}");
    assert!(output(&["top"]).contains("card 1: NVIDIA A100-SXM4-40GB"), "once, where there is no terminal");
    let json: serde_json::Value = serde_json::from_str(&output(&["status", "--json"])).unwrap();
    assert_eq!((&json["pid"], &json["totals"]["leases"]), (&broker.0.id().into(), &0.into()));
    assert_eq!(json["software_cards"], stage.path("cards").to_str().unwrap());
    let doctor = zerogpu(&stage, &["doctor"]).env("ZEROGPU_SOCKET", socket).output().unwrap();
    let doctor = text(&doctor.stdout);
    assert!(doctor.contains(&format!("answers on {socket}, pid {}", broker.0.id())), "{doctor}");
    assert!(doctor.contains("2 cards: NVIDIA A100-SXM4-40GB, NVIDIA A100-SXM4-40GB"), "{doctor}");

    broker.signal(libc::SIGTERM);
    assert!(broker.0.wait().unwrap().success());
    assert!(!stage.path("broker.sock").exists());
    let doctor = zerogpu(&stage, &["doctor"]).env("ZEROGPU_SOCKET", socket).output().unwrap();
    assert!(
        text(&doctor.stdout).contains(&format!("FAIL  {socket}, which ZEROGPU_SOCKET names, is not there")),
        "{doctor:?}"
    );
}

fn a_socket_of_systemd_is_served() {
    let stage = Stage::new();
    let socket = stage.path("passed.sock");
    let passed = Listener::bind(&socket, 0o600).unwrap().into_socket().unwrap();
    // who comes before the broker, and has more patience than zerogpu status
    let connected = std::thread::spawn({
        let socket = socket.clone();
        move || {
            let until = Some(Instant::now() + Duration::from_secs(60));
            let hello = Hello { name: "early".into(), vram: 0, cc: (0, 0), role: Role::Observer, holds: None };
            Connection::connect(&socket, until)?.hello(&hello, None, until)
        }
    });
    // the shell knows its own number, which the broker then has
    let mut command = Command::new("sh");
    let made = zerogpu(&stage, &CARDS);
    command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]).arg(made.get_program()).args(made.get_args());
    for (name, value) in made.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("LISTEN_FDS", "1").args(["--socket", socket.to_str().unwrap()]);
    let fd = passed.as_raw_fd();
    // SAFETY: between fork and exec the child makes one or two system calls, which need no memory.
    unsafe {
        command.pre_exec(move || {
            let placed = if fd == 3 { libc::fcntl(3, libc::F_SETFD, 0) } else { libc::dup2(fd, 3) };
            (placed >= 0).then_some(()).ok_or_else(std::io::Error::last_os_error)
        });
    }
    let mut broker = broker(command);
    assert!(connected.join().unwrap().is_ok(), "who came before the broker was served");
    let status = zerogpu(&stage, &["status", "--socket", socket.to_str().unwrap()]).output().unwrap();
    assert!(text(&status.stdout).contains("card 1"), "{status:?}");
    broker.signal(libc::SIGTERM);
    assert!(broker.0.wait().unwrap().success());
    assert!(socket.exists(), "the socket is systemd's");
}

fn a_broker_that_nobody_needs_ends() {
    let (stage, user) = (Stage::new(), User::new());
    let Some(user) = user else { return };
    let mut command = user.zerogpu(&stage, &CARDS);
    command.args(["--idle-exit", "50ms"]);
    let mut broker = broker(command);
    assert!(broker.0.wait().unwrap().success());
    assert!(!user.socket().exists());
}

fn a_second_broker_is_refused() {
    let stage = Stage::new();
    let mut command = zerogpu(&stage, &CARDS);
    command.args(["--socket", "broker.sock"]);
    let _first = broker(command);
    let second = zerogpu(&stage, &CARDS).args(["--socket", "broker.sock"]).output().unwrap();
    assert!(!second.status.success());
    assert!(text(&second.stderr).contains("a broker listens on broker.sock already"), "{second:?}");
}

fn a_log_that_nobody_reads_ends_no_broker() {
    let stage = Stage::new();
    let mut command = zerogpu(&stage, &CARDS);
    command.args(["--socket", "broker.sock", "--announce"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut broker = Held(command.spawn().unwrap());
    assert_eq!(broker.line(), "ready\n");
    drop(broker.0.stderr.take());
    // each has it say a line
    for _ in 0..3 {
        broker.signal(libc::SIGHUP);
        let status = zerogpu(&stage, &["status", "--socket", "broker.sock"]).output().unwrap();
        assert!(status.status.success(), "{status:?}");
    }
    broker.signal(libc::SIGTERM);
    assert!(broker.0.wait().unwrap().success());
}

fn a_broker_that_never_served_leaves_no_mark() {
    let stage = Stage::new();
    // an address of another machine
    let refused =
        zerogpu(&stage, &CARDS).args(["--socket", "broker.sock", "--metrics", "192.0.2.1:80"]).output().unwrap();
    assert!(!refused.status.success(), "{refused:?}");
    assert!(!stage.path("broker.sock.inuse").exists());
    let mut command = zerogpu(&stage, &CARDS);
    command.args(["--socket", "broker.sock"]);
    let _served = broker(command);
    assert!(stage.path("broker.sock.inuse").exists());
    let nothing = zerogpu(&stage, &["broker", "--driver", "soft", "--vram", "0"]).output().unwrap();
    assert_eq!(nothing.status.code(), Some(2), "{nothing:?}");
}

fn a_report_that_can_not_be_written_is_an_error() {
    let stage = Stage::new();
    let mut command = zerogpu(&stage, &CARDS);
    command.args(["--socket", "broker.sock"]);
    let _broker = broker(command);
    for arguments in [&["status"][..], &["status", "--json"], &["top"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = zerogpu(&stage, arguments);
        let done = command.args(["--socket", "broker.sock"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let said = text(&done.stderr);
        assert_eq!((done.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    }
}

fn a_signal_ends_top_and_gives_the_terminal_back() {
    let stage = Stage::new();
    let mut command = zerogpu(&stage, &CARDS);
    command.args(["--socket", "broker.sock"]);
    let _broker = broker(command);
    for signal in [libc::SIGTERM, libc::SIGHUP] {
        let size = nix::pty::Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let terminal = nix::pty::openpty(&size, None).unwrap();
        let modes = |side: &File| nix::sys::termios::tcgetattr(side).unwrap().local_flags;
        let shown = File::from(terminal.master);
        let before = modes(&shown);
        let side = || Stdio::from(terminal.slave.try_clone().unwrap());
        let mut command = zerogpu(&stage, &["top", "--every", "60min", "--socket", "broker.sock"]);
        let mut top = Held(command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap());
        // once the program has ended too, reading ends
        drop((command, terminal.slave));
        let mut seen = Vec::new();
        let mut wait_for = |what: &str| {
            while !text(&seen).contains(what) {
                let mut more = [0; 4096];
                let count = (&shown).read(&mut more).unwrap_or_else(|e| panic!("{what}: {e}: {}", text(&seen)));
                seen.extend_from_slice(&more[..count]);
            }
        };
        wait_for("\u{1b}[?1049h");
        wait_for("NVIDIA");
        top.signal(signal);
        wait_for("\u{1b}[?1049l");
        assert!(top.0.wait().unwrap().success());
        assert_eq!(modes(&shown), before);
    }
}

fn cards_that_programs_use_stay_as_they_are() {
    let stage = Stage::new();
    let mut command = zerogpu(&stage, &CARDS);
    command.args(["--socket", "one.sock"]);
    let first = broker(command);
    let other = ["broker", "--driver", "soft", "--cards", "3", "--socket", "two.sock"];
    let second = zerogpu(&stage, &other).output().unwrap();
    assert!(text(&second.stderr).contains("holds software cards of other sizes (2 x"), "{second:?}");
    drop(first);
    let _third = broker(zerogpu(&stage, &other));
    assert!(text(&zerogpu(&stage, &["soft-smi"]).output().unwrap().stdout).contains("|   2  NVIDIA A100"));
}

/// An unprivileged user with a runtime folder: root's broker has its place in the system, where a test has no business.
struct User {
    runtime: tempfile::TempDir,
    /// Not who runs the tests, which is root.
    other: Option<u32>,
}

const NOBODY: u32 = 65534;

impl User {
    /// None where the other user can't get at what cargo built.
    fn new() -> Option<User> {
        let runtime = tempfile::tempdir().unwrap();
        // SAFETY: asks for a number.
        let other = (unsafe { libc::geteuid() } == 0).then_some(NOBODY);
        if let Some(uid) = other {
            chown(runtime.path(), Some(uid), Some(uid)).unwrap();
            let tried = Command::new(env!("CARGO_BIN_EXE_zerogpu")).arg("--version").uid(uid).gid(uid).output();
            if !tried.is_ok_and(|output| output.status.success()) {
                eprintln!("skipped: user {uid} can't run {}", env!("CARGO_BIN_EXE_zerogpu"));
                return None;
            }
        }
        Some(User { runtime, other })
    }

    /// A command of this user, with cards of its own, that is told of no broker.
    fn zerogpu(&self, stage: &Stage, arguments: &[&str]) -> Command {
        fs::set_permissions(stage.folder(), Permissions::from_mode(0o755)).unwrap();
        let mut command = zerogpu(stage, arguments);
        command.env_remove("ZEROGPU_SOCKET").env("XDG_RUNTIME_DIR", self.runtime.path()).current_dir("/");
        command.env("SOFTCUDA_CARDS", self.runtime.path().join("cards"));
        if let Some(uid) = self.other {
            command.uid(uid).gid(uid);
        }
        command
    }

    fn socket(&self) -> PathBuf {
        self.runtime.path().join("zerogpu/broker.sock")
    }

    /// What a program is told.
    fn told(&self, stage: &Stage, options: &[&str], cards: &str) -> (String, String) {
        let words = [&["run", "--driver", "soft"], options, &["--", "sh", "-c", "echo \"=$ZEROGPU_SOCKET\""]].concat();
        let mut command = self.zerogpu(stage, &words);
        let output = command.env("SOFTCUDA_CARDS", self.runtime.path().join(cards)).output().unwrap();
        (text(&output.stdout), text(&output.stderr))
    }
}

fn a_program_finds_the_broker_of_its_driver() {
    let (stage, user) = (Stage::new(), User::new());
    let Some(user) = user else { return };
    assert_eq!(user.told(&stage, &[], "cards").0, "=\n", "there is none");
    let _broker = broker(user.zerogpu(&stage, &CARDS));
    let found = format!("={}\n", user.socket().display());
    assert_eq!(user.told(&stage, &[], "cards"), (found, String::new()));
    assert_eq!(user.told(&stage, &["--socket", "none"], "cards").0, "=none\n");
    assert_eq!(user.told(&stage, &["--socket", "/other"], "cards").0, "=/other\n");
    assert_eq!(user.told(&stage, &[], "other-cards"), ("=\n".into(), String::new()), "it lends other cards");
}

fn the_second_program_starts_a_broker() {
    let (stage, user) = (Stage::new(), User::new());
    let Some(user) = user else { return };
    let words = ["run", "--driver", "soft", "--", "sh", "-c", "echo \"=$ZEROGPU_SOCKET\"; read -r line"];
    let mut first = user.zerogpu(&stage, &words);
    let mut first = Held(first.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    assert_eq!(first.line(), "=\n", "the first is alone");

    // as a shell's: open in what it starts
    let lock = fs::File::create(stage.path("lock")).unwrap();
    // SAFETY: takes numbers.
    assert_eq!(unsafe { libc::fcntl(lock.as_raw_fd(), libc::F_SETFD, 0) }, 0);
    let (told, said) = user.told(&stage, &[], "cards");
    let found = format!("={}\n", user.socket().display());
    assert_eq!(told, found);
    assert!(said.contains("started a broker"), "{said}");
    assert_eq!(user.told(&stage, &[], "cards"), (found, String::new()), "the third finds it");

    let status = user.zerogpu(&stage, &["status", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let pid = json["pid"].as_i64().unwrap() as i32;
    let session = |pid: i32| {
        // SAFETY: takes a number.
        unsafe { libc::getsid(pid) }
    };
    assert_eq!(session(pid), pid, "it is in a session of its own");
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let open: Vec<_> = open.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok()).collect();
    assert!(!open.is_empty() && !open.contains(&stage.path("lock")), "it has what is ours: {open:?}");
    // the program still counts
    first.0.stdin.take().unwrap().write_all(b"end\n").unwrap();
    assert!(first.0.wait().unwrap().success());
    // SAFETY: takes numbers.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    let log = user.runtime.path().join("zerogpu/broker.log");
    let mut text = String::new();
    fs::File::open(log).unwrap().read_to_string(&mut text).unwrap();
    assert!(text.contains("ready"), "{text}");
}

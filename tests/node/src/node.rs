//! A broker and its Spaces, in a folder and on cards of their own.
use crate::referee::Referee;
use anyhow::{bail, ensure, Context, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use zerogpu_cards::Snapshot;

/// Soon enough for a test that hangs, late enough for a busy machine.
pub const LONG: Duration = Duration::from_secs(60);
/// What the broker keeps of each card for its own context.
pub const OWN_CONTEXT: u64 = 640 << 20;
/// After this wait a claim goes first.
pub const AGING: Duration = Duration::from_secs(2);

/// What a node is like.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Cards.
    pub cards: u32,
    /// Bytes of each card that Spaces may use.
    pub room: u64,
    /// Bytes that each Space is shown.
    pub vram: u64,
    /// Spaces that a tenant may have.
    pub spaces: u32,
    /// Lines of the broker's configuration, before its tables.
    pub top: String,
    /// The same, under `[queue]`.
    pub queue: String,
    /// The same, under `[memory]` and `[default-tenant]`.
    pub memory: String,
    /// As above.
    pub tenant: String,
    /// Settings of softcuda, for the broker and its Spaces.
    pub soft: Vec<(&'static str, String)>,
    /// Calls of the broker's driver that fail, as `SOFTCUDA_FAULT` has them.
    pub faults: String,
    /// Whether every second Space with a plan is bound to its context.
    pub bound: bool,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            cards: 1,
            room: 32 << 20,
            vram: 24 << 20,
            spaces: 100_000,
            top: String::new(),
            queue: String::new(),
            memory: String::new(),
            tenant: String::new(),
            soft: Vec::new(),
            faults: String::new(),
            bound: false,
        }
    }
}

/// A place where brokers come and go.
pub struct Node {
    folder: TempDir,
    shape: Shape,
    /// Where the libraries and programs are: beside this one.
    built: PathBuf,
    log: Arc<Log>,
    /// Bytes that a broker has of each card for itself.
    own_bytes: AtomicU64,
    /// Whether the brokers' log is the usual one, in which the referee misses the claims.
    quiet: bool,
}

/// The log of all brokers of a node.
pub struct Log {
    referee: Mutex<Referee>,
    news: Condvar,
}

impl Log {
    /// What the log says so far.
    pub fn look(&self) -> MutexGuard<'_, Referee> {
        self.referee.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what broke a promise: what the log tells, and what else was seen.
    pub fn judge(&self, seen: &[String]) -> Result<()> {
        let referee = self.look();
        let faults: Vec<&str> = referee.faults.iter().chain(seen).map(String::as_str).collect();
        ensure!(
            faults.is_empty(),
            "{} faults:\n{}\nthe last lines of the log:\n{}",
            faults.len(),
            faults.join("\n"),
            referee.tail()
        );
        Ok(())
    }

    /// Waits until the log has told something.
    pub fn wait(&self, what: &str, until: impl Fn(&Referee) -> bool) -> Result<()> {
        let end = Instant::now() + LONG;
        let mut referee = self.look();
        while !until(&referee) {
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "{what}: not in {LONG:?}\n{}", referee.tail());
            referee = self.news.wait_timeout(referee, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

/// What a process uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Descriptors.
    pub files: usize,
    /// Files that are mapped. How many mappings there are is the allocator's and the kernel's affair.
    pub mapped: usize,
    /// Resident bytes.
    pub resident: u64,
    /// Threads.
    pub threads: usize,
}

impl Usage {
    /// Of a process that runs.
    pub fn of(pid: u32) -> Result<Usage> {
        let count = |what: &str| -> Result<usize> { Ok(std::fs::read_dir(format!("/proc/{pid}/{what}"))?.count()) };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let file = |line: &str| line.split_whitespace().nth(4).filter(|inode| *inode != "0").map(str::to_owned);
        let mapped: BTreeSet<String> = maps.lines().filter_map(file).collect();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        Ok(Usage {
            files: count("fd")?,
            mapped: mapped.len(),
            resident: resident.context("no VmRSS")?.trim().parse::<u64>()? << 10,
            threads: count("task")?,
        })
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Usage { files, mapped, resident, threads } = self;
        let resident = *resident as f64 / (1 << 20) as f64;
        write!(f, "{resident:.1} MiB, {files} descriptors, {mapped} mapped files, {threads} threads")
    }
}

impl Node {
    /// A node of a shape. Nothing runs yet.
    pub fn new(shape: Shape) -> Result<Node> {
        let program = std::env::current_exe()?;
        let folder = program.parent().context("this program lies nowhere")?;
        let built = if folder.ends_with("deps") { folder.parent().context("deps lies nowhere")? } else { folder };
        let node = Node {
            folder: tempfile::tempdir()?,
            shape,
            built: built.to_owned(),
            log: Arc::new(Log { referee: Mutex::new(Referee::new(AGING)), news: Condvar::new() }),
            own_bytes: AtomicU64::new(u64::MAX),
            quiet: false,
        };
        for file in ["zerogpu", "libzerogpu.so", "libsoftcuda.so", "zerogpu-node-space"] {
            ensure!(node.built.join(file).exists(), "{file} is missing: run cargo build --workspace first");
        }
        // the folder of libraries as they are installed
        let names = [
            ("libcuda.so.1", "libzerogpu.so"),
            ("libcuda.so", "libzerogpu_alias.so"),
            ("libnvidia-ml.so.1", "libzerogpu_nvml.so"),
            ("libsoftcuda.so", "libsoftcuda.so"),
        ];
        std::fs::create_dir(node.path("lib"))?;
        for (name, file) in names {
            std::os::unix::fs::symlink(node.built.join(file), node.path("lib").join(name))?;
        }
        node.configure()?;
        Ok(node)
    }

    /// The brokers that come from here on have other settings.
    pub fn change(&mut self, change: impl FnOnce(&mut Shape)) -> Result<()> {
        change(&mut self.shape);
        self.configure()
    }

    fn configure(&self) -> Result<()> {
        let Shape { top, queue, memory, spaces, tenant, .. } = &self.shape;
        let context = if memory.contains("context =") { "" } else { "context = \"1MiB\"" };
        let aging = AGING.as_millis();
        let config = format!(
            "{top}\n[queue]\naging = \"{aging}ms\"\n{queue}\n[memory]\n{context}\n{memory}\n[default-tenant]\nspaces = {spaces}\n{tenant}\n",
        );
        std::fs::write(self.path("broker.toml"), config).context("no configuration")
    }

    /// A node whose brokers log as usual, to be measured.
    pub fn quiet(shape: Shape) -> Result<Node> {
        Ok(Node { quiet: true, ..Node::new(shape)? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where Spaces connect.
    pub fn socket(&self) -> PathBuf {
        self.path("broker.sock")
    }

    /// The file of cards.
    pub fn cards(&self) -> PathBuf {
        self.path("cards")
    }

    /// A library, where it is installed.
    pub(crate) fn library(&self, name: &str) -> PathBuf {
        self.path("lib").join(name)
    }

    /// What the brokers have said.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// A command that sees this node's cards and none of the caller's settings.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.built.join(program));
        for (name, _) in std::env::vars_os() {
            let ours =
                name.to_str().is_some_and(|n| ["ZEROGPU_", "SOFTCUDA_", "CUDA_"].iter().any(|p| n.starts_with(p)));
            if ours {
                command.env_remove(name);
            }
        }
        command
            .env_remove("LD_PRELOAD")
            .env("SOFTCUDA_CARDS", self.cards())
            .env("SOFTCUDA_COUNT", self.shape.cards.to_string())
            .env("SOFTCUDA_VRAM", (OWN_CONTEXT + self.shape.room).to_string())
            .env("SOFTCUDA_POISON", "1")
            .envs(self.shape.soft.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a broker, and waits until it is ready.
    pub fn broker(&self) -> Result<Broker> {
        self.faulty_broker(&self.shape.faults)
    }

    /// The same, with driver calls that fail (SOFTCUDA_FAULT).
    pub fn faulty_broker(&self, faults: &str) -> Result<Broker> {
        let mut command = self.command("zerogpu");
        command
            .args(["broker", "--driver", "soft", "--socket"])
            .arg(self.socket())
            .arg("--config")
            .arg(self.path("broker.toml"))
            .args(["--cards", &self.shape.cards.to_string(), "--vram", &(OWN_CONTEXT + self.shape.room).to_string()])
            .arg("--lib")
            .arg(self.path("lib"))
            .env("RUST_LOG", if self.quiet { "info" } else { "debug" })
            .env("SOFTCUDA_FAULT", faults)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let ready = self.log.look().brokers;
        self.log.look().new_broker();
        let mut child = command.spawn().context("the broker can't be started")?;
        let lines = BufReader::new(child.stderr.take().context("no pipe")?);
        let log = self.log.clone();
        let reader = std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                log.look().line(&line);
                log.news.notify_all();
            }
        });
        let broker = Broker { child, reader: Some(reader) };
        self.log.wait("the broker is ready", |log| log.brokers > ready)?;
        let cards = crate::witness::snapshot(&self.cards())?.cards;
        let own = cards.iter().flat_map(|card| &card.processes).find(|process| process.pid == broker.pid());
        // a claim that waited may have its slabs there already; every broker has the same for itself
        self.own_bytes.fetch_min(own.context("the broker is on no card")?.bytes_used, Ordering::Relaxed);
        Ok(broker)
    }

    /// Starts a Space. `words` are the command line behind the library's path.
    pub fn space(&self, mode: &str, words: &[String]) -> Result<Space> {
        let mut command = self.space_command(mode, words);
        command.env("ZEROGPU_SOCKET", self.socket());
        Space::start(command)
    }

    /// One that has never heard of a broker, and does what it is told.
    pub fn solo(&self, seed: u64, most: u64) -> Result<Space> {
        let mut space = Space::start(self.space_command("obey", &[seed.to_string(), most.to_string()]))?;
        space.line()?;
        Ok(space)
    }

    fn space_command(&self, mode: &str, words: &[String]) -> Command {
        let mut command = self.command("zerogpu-node-space");
        command
            .arg(mode)
            .arg(self.library("libcuda.so.1"))
            .args(words)
            .env("ZEROGPU_DRIVER", self.library("libsoftcuda.so"))
            .env("ZEROGPU_LIB", self.path("lib"))
            .env("ZEROGPU_VRAM", self.shape.vram.to_string())
            .env("ZEROGPU_WAIT", "600s")
            .env("ZEROGPU_NAME", format!("{mode}-{}", words.first().map_or("", String::as_str)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// A Space that carries out a plan of its own.
    pub fn planned(&self, seed: u64, most: u64, calls: u64) -> Result<Space> {
        let mut words = vec![seed.to_string(), most.to_string(), calls.to_string()];
        if self.shape.bound && seed % 2 == 1 {
            words.push("bound".into());
        }
        self.space("plan", &words)
    }

    /// A Space that does what it is told.
    pub fn obedient(&self, seed: u64, most: u64) -> Result<Space> {
        let mut space = self.space("obey", &[seed.to_string(), most.to_string()])?;
        space.line()?;
        Ok(space)
    }

    /// One that does what it is told in a child of the process that [`Space::pid`] names.
    pub fn forked(&self, seed: u64, most: u64) -> Result<Space> {
        let mut space = self.space("forked", &[seed.to_string(), most.to_string()])?;
        space.line()?;
        Ok(space)
    }

    /// Whether a broker is at rest on the cards, and nobody else is there.
    pub fn is_empty(&self, snapshot: &Snapshot) -> bool {
        let own = self.own_bytes.load(Ordering::Relaxed);
        snapshot.cards.iter().all(|card| card.bytes_used == own && card.processes.len() == 1)
    }

    /// Waits until the cards hold nothing of any Space.
    pub fn wait_for_empty_cards(&self) -> Result<()> {
        let end = Instant::now() + LONG;
        loop {
            let snapshot = crate::witness::snapshot(&self.cards())?;
            if self.is_empty(&snapshot) {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "the cards still hold what they should not: {snapshot:?}\n{}",
                self.log.look().tail()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The end of a test: the cards hold nothing of any Space, the log no fault, and the broker ends when it is asked to.
    pub fn end(&self, broker: Broker) -> Result<()> {
        self.wait_for_empty_cards()?;
        // its log is read to its last line then
        let ended = broker.terminate();
        self.log.judge(&[])?;
        ended
    }
}

/// A broker.
pub struct Broker {
    child: Child,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Broker {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it uses.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.pid())
    }

    /// Bytes of its own memory: neither a Space's nor a card's.
    pub fn own_memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.strip_suffix("kB"));
        Ok(line.context("no RssAnon")?.trim().parse::<u64>()? << 10)
    }

    /// The names of its descriptors and mappings, to be read by a human.
    pub fn belongings(&self) -> Result<String> {
        let of = PathBuf::from(format!("/proc/{}", self.pid()));
        let mut lines = Vec::new();
        for file in std::fs::read_dir(of.join("fd"))? {
            let file = file?;
            // it may have been closed by now
            let Ok(target) = std::fs::read_link(file.path()) else { continue };
            lines.push(format!("descriptor {:?}: {}", file.file_name(), target.display()));
        }
        lines.sort();
        lines.push(std::fs::read_to_string(of.join("maps"))?);
        Ok(lines.join("\n"))
    }

    /// Ends it at once.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.end().map(|_| ())
    }

    /// Has it stand still.
    pub fn pause(&self) -> Result<()> {
        self.signal(libc::SIGSTOP)
    }

    /// After [`Broker::pause`].
    pub fn go_on(&self) -> Result<()> {
        self.signal(libc::SIGCONT)
    }

    fn signal(&self, signal: i32) -> Result<()> {
        // SAFETY: numbers; the process is a child that has not been waited for.
        let sent = unsafe { libc::kill(self.pid() as i32, signal) };
        ensure!(sent == 0, "no signal reaches the broker: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Asks it to end, and waits for that.
    pub fn terminate(mut self) -> Result<()> {
        self.signal(libc::SIGTERM)?;
        let status = self.end()?;
        ensure!(status.success(), "the broker ended with {status}");
        Ok(())
    }

    fn end(&mut self) -> Result<std::process::ExitStatus> {
        let status = self.child.wait()?;
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
        Ok(status)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if self.reader.is_some() {
            self.child.kill().ok();
            self.end().ok();
        }
    }
}

/// A Space's process.
pub struct Space {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Value>,
    /// What it wrote on standard error.
    complaints: Arc<Mutex<String>>,
}

impl Space {
    fn start(mut command: Command) -> Result<Space> {
        let mut child = command.spawn().context("a Space can't be started")?;
        let output = BufReader::new(child.stdout.take().context("no pipe")?);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap_or(Value::String(line))).is_err() {
                    return;
                }
            }
        });
        let errors = BufReader::new(child.stderr.take().context("no pipe")?);
        let complaints = Arc::new(Mutex::new(String::new()));
        let shared = complaints.clone();
        std::thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                let mut text = shared.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&line);
                text.push('\n');
            }
        });
        let input = child.stdin.take();
        Ok(Space { child, input, lines, complaints })
    }

    /// What it wrote on standard error so far.
    pub fn complaints(&self) -> String {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has written this there.
    pub fn complains(&self, text: &str) -> Result<()> {
        let end = Instant::now() + LONG;
        while !self.complaints().contains(text) {
            ensure!(Instant::now() < end, "a Space does not write '{text}':\n{}", self.complaints());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends its connection to the broker, as nobody can from outside: its descriptor is borrowed.
    pub fn cut_off(&self) -> Result<()> {
        let pid = self.pid();
        // SAFETY: numbers; makes a descriptor of ours.
        let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        ensure!(process >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
        // SAFETY: new, and nobody else's.
        let process = unsafe { OwnedFd::from_raw_fd(process as i32) };
        for file in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
            let file = file?;
            if !std::fs::read_link(file.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:")) {
                continue;
            }
            let number: i32 = file.file_name().to_string_lossy().parse()?;
            // SAFETY: numbers; makes a descriptor of ours, by which the connection ends.
            unsafe {
                let socket = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0);
                ensure!(socket >= 0, "pidfd_getfd: {}", std::io::Error::last_os_error());
                let socket = OwnedFd::from_raw_fd(socket as i32);
                libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR);
            }
            return Ok(());
        }
        bail!("it has no socket")
    }

    /// Its next line.
    pub fn line(&mut self) -> Result<Value> {
        let line =
            self.lines.recv_timeout(LONG).with_context(|| format!("a Space says nothing\n{}", self.complaints()))?;
        ensure!(line.get("error").is_none(), "a Space failed: {line}\n{}", self.complaints());
        Ok(line)
    }

    /// Its lines so far.
    pub fn said(&self) -> Vec<Value> {
        self.lines.try_iter().collect()
    }

    /// Tells it something, without waiting for the answer.
    pub fn begin(&mut self, order: &str) -> Result<()> {
        let input = self.input.as_mut().context("its input is closed")?;
        writeln!(input, "{order}").context("a Space does not listen")
    }

    /// Has it do something.
    pub fn tell(&mut self, order: &str) -> Result<Value> {
        self.begin(order)?;
        self.line().with_context(|| format!("told to {order}"))
    }

    /// Ends it at once; when that was.
    pub fn kill(mut self) -> Result<Instant> {
        let at = Instant::now();
        self.child.kill()?;
        self.child.wait()?;
        Ok(at)
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits until it has ended well; its last line.
    pub fn finish(mut self) -> Result<Value> {
        drop(self.input.take());
        let end = Instant::now() + LONG * 5;
        let mut last = Value::Null;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => last = line,
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(_) => bail!("a Space does not end; its last line: {last}\n{}", self.complaints()),
            }
        }
        let status = self.child.wait()?;
        ensure!(status.success(), "a Space ended with {status}: {last}\n{}", self.complaints());
        Ok(last)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

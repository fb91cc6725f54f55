//! The broker's loop: connections, workers, signals and clocks, one event at a time.
//!
//! One thread decides everything; the workers of the cards do what takes time. Nothing here waits: clients that do not
//! read are dropped, and so is whoever breaks the protocol. What a client asks is in `desk`, what the scheduler and the
//! workers answer in `outcome`.
use super::bound::Bound;
use super::card::{Done, Worker};
use super::client::{Client, Role};
use super::closer::Closer;
use super::config::Config;
use super::desk::Fault;
use super::doubt::{Doubt, PutOff};
use super::idle::Idle;
use super::leaving::Departed;
use super::ledger::Ledger;
use super::metrics::{Cause, Metrics};
use super::Node;
use anyhow::{Context, Result};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerogpu_lease::{CardId, Scheduler, SpaceId};
use zerogpu_protocol::{peer, pidfd, Endpoint, Error, Listener, Packet, Reason, ToBroker, ToClient};

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
const SIGNALS: Token = Token(2);
/// Clients have two tokens each: the socket's, which is even, and the process's.
const CLIENTS: usize = 16;

/// How long a connection may take to say hello.
const HELLO: Duration = Duration::from_secs(5);
/// Connections of one user that have said no hello yet, or only look on.
const STRANGERS: usize = 256;
/// How often a user that has so many is told of.
const CROWD: Duration = Duration::from_secs(1);
/// How long after one could not be accepted, for want of descriptors perhaps, that is tried again.
const ACCEPT: Duration = Duration::from_millis(200);
/// Messages of one client, or new connections, that are read before others have their turn.
const TURN: usize = 64;
/// Packets that are kept for a client that does not read: those of the longest list of slabs fit.
const KEPT: usize = 1280;
/// How often places in the queue are told.
const PLACES: Duration = Duration::from_millis(250);
/// How long the end waits for bytes that are on their way home.
const FAREWELL: Duration = Duration::from_secs(30);

/// What other threads send to the loop.
enum Letter {
    /// A worker's result.
    Done(CardId, Done),
    /// A scraper wants the metrics.
    Scrape(Sender<String>),
}

/// How they send it.
#[derive(Clone)]
struct Letters {
    outbox: Sender<Letter>,
    waker: Arc<Waker>,
}

impl Letters {
    fn send(&self, letter: Letter) {
        // no loop any more: the process ends
        if self.outbox.send(letter).is_ok() {
            let _it_wakes_already = self.waker.wake();
        }
    }
}

/// The daemon.
pub struct Daemon {
    pub(super) config: Config,
    file: Option<PathBuf>,
    started: Instant,
    /// Tells brokers apart.
    pub(super) id: u64,
    pub(super) node: Node,
    pub(super) workers: Vec<Worker>,
    inbox: Receiver<Letter>,
    letters: Letters,
    pub(super) poll: Poll,
    listener: Listener,
    signals: SignalFd,
    pub(super) scheduler: Scheduler,
    pub(super) clients: BTreeMap<usize, Client>,
    pub(super) spaces: HashMap<SpaceId, usize>,
    /// Processes of Spaces that have left, by the numbers that their connections had.
    pub(super) departed: BTreeMap<usize, Departed>,
    next: usize,
    /// Clients with messages left to read.
    busy: VecDeque<usize>,
    /// Clients that are not listened to until some of what they want is done.
    deaf_to: BTreeSet<usize>,
    places_told: Instant,
    /// When connections that were not accepted are to be looked at again: nobody tells of them a second time.
    accept_at: Option<Instant>,
    /// When a user with too many connections was told of last.
    crowd_told: Option<Instant>,
    /// Card memory that Spaces seem to keep.
    pub(super) doubts: BTreeMap<SpaceId, Doubt>,
    /// When it is to be looked for again.
    pub(super) look_at: Option<Instant>,
    /// What waits for it.
    pub(super) put_off: Vec<PutOff>,
    /// When a Space that came bound may be put aside.
    pub(super) strangers_from: Instant,
    /// Bytes of host memory for all Spaces.
    pub(super) host_memory: u64,
    pub(super) metrics: Metrics,
    pub(super) closer: Closer,
    pub(super) buffer: Packet,
    leaving: bool,
    idle: Option<Idle>,
    ledger: Ledger,
    /// Whether the cards were used since the ledger was written.
    pub(super) used: bool,
}

/// The signals that the loop reads. To be asked for while this thread is the only one: one that comes later blocks them, too. A
/// thread of the driver that does not, as those of cuInit, would be ended by them, and the process with it.
pub fn signals() -> Result<SignalFd> {
    let mut set = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().for_each(|signal| set.add(signal));
    set.thread_block().context("signals can't be blocked")?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    SignalFd::with_flags(&set, flags).context("signals can't be read")
}

impl Daemon {
    /// Opens everything; from then on clients can connect. `signals`: see [`signals`].
    pub fn open(
        config: Config,
        file: Option<PathBuf>,
        node: Node,
        listener: Listener,
        signals: SignalFd,
        hold: Duration,
        idle: Option<Idle>,
        socket: &Path,
    ) -> Result<Daemon> {
        let poll = Poll::new().context("epoll is not there")?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).context("eventfd is not there")?);
        let registry = poll.registry();
        for (fd, token) in [(listener.as_fd().as_raw_fd(), LISTENER), (signals.as_fd().as_raw_fd(), SIGNALS)] {
            registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
        }
        let (outbox, inbox) = channel();
        let letters = Letters { outbox, waker };
        let start = |card: &super::CardOfNode| {
            let (letters, id) = (letters.clone(), card.id);
            let tell = move |done| letters.send(Letter::Done(id, done));
            Worker::start(node.driver, card.device, tell).map_err(anyhow::Error::msg)
        };
        let workers = node.cards.iter().map(start).collect::<Result<Vec<_>>>()?;
        let mut scheduler = Scheduler::new(config.policy()?, &node.specs());
        scheduler.hold(hold);
        // its thread comes after the signals are blocked, or it would be the one that they end
        let ledger = Ledger::open(config.state(socket))?;
        scheduler.restore(Duration::ZERO, &ledger.read());
        let host_memory = config.host_memory()?;
        let id = random()?;
        Ok(Daemon {
            config,
            file,
            started: Instant::now(),
            id,
            node,
            workers,
            inbox,
            letters,
            poll,
            listener,
            signals,
            scheduler,
            clients: BTreeMap::new(),
            spaces: HashMap::new(),
            departed: BTreeMap::new(),
            next: CLIENTS,
            busy: VecDeque::new(),
            deaf_to: BTreeSet::new(),
            places_told: Instant::now(),
            accept_at: None,
            crowd_told: None,
            doubts: BTreeMap::new(),
            look_at: None,
            put_off: Vec::new(),
            strangers_from: Instant::now(),
            host_memory,
            metrics: Metrics::default(),
            closer: Closer::start().context("no thread for the closing of descriptors")?,
            buffer: Packet::new(),
            leaving: false,
            idle,
            ledger,
            used: false,
        })
    }

    /// Serves Prometheus on an address.
    pub fn serve_metrics(&self, address: std::net::SocketAddr) -> Result<()> {
        let letters = self.letters.clone();
        Metrics::serve(address, move || {
            let (answer, text) = channel();
            letters.send(Letter::Scrape(answer));
            text.recv().ok()
        })
        .map(drop)
    }

    /// Ends the loop's sleep.
    pub(super) fn waker(&self) -> &Arc<Waker> {
        &self.letters.waker
    }

    /// The scheduler's clock.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Serves until a signal ends it. True: no card is held by anyone, so a new broker need not ask around.
    pub fn serve(&mut self) -> Result<bool> {
        let mut events = Events::with_capacity(256);
        while !self.leaving {
            match self.poll.poll(&mut events, self.patience()) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                result => result.context("epoll failed")?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    WAKER => {}
                    SIGNALS => self.signal()?,
                    Token(token) if token % 2 == 1 => self.process_ended(token - 1),
                    Token(token) => {
                        self.flush(token);
                        self.busy.push_back(token);
                    }
                }
            }
            if self.accept_at.is_some_and(|at| at <= Instant::now()) {
                self.accept_at = None;
                self.accept();
            }
            self.read_letters();
            // nobody tells again of what they have said
            let deaf_to = std::mem::take(&mut self.deaf_to);
            self.busy.extend(deaf_to);
            for token in std::mem::take(&mut self.busy) {
                self.read(token);
            }
            self.dismiss_silent();
            self.end_stuck();
            self.receive_stranger();
            self.look_again();
            self.decide();
            self.tell_places();
            self.look_whether_idle();
            if self.used && self.ledger.wake().is_zero() {
                self.write_use();
            }
        }
        Ok(self.farewell())
    }

    /// How long the loop may sleep.
    fn patience(&self) -> Option<Duration> {
        if !self.busy.is_empty() {
            return Some(Duration::ZERO);
        }
        let now = self.now();
        let scheduler = self.scheduler.next_wake(now).map(|at| at.saturating_sub(now));
        let silent = self.clients.values().filter_map(|client| match client.role {
            Role::New(until) => Some(until.saturating_duration_since(Instant::now())),
            _ => None,
        });
        let waiting = self.clients.values().any(|c| matches!(&c.role, Role::Space(space) if space.claim.is_some()));
        let places = waiting.then(|| PLACES.saturating_sub(self.places_told.elapsed()));
        let idle = self.idle.as_ref().and_then(Idle::wake);
        let state = self.used.then(|| self.ledger.wake());
        let stranger = self.stranger_at().map(|at| at.saturating_duration_since(Instant::now()));
        let accept = self.accept_at.map(|at| at.saturating_duration_since(Instant::now()));
        let look = self.look_at.map(|at| at.saturating_duration_since(Instant::now()));
        let stuck = self.stuck_at().map(|at| at.saturating_duration_since(Instant::now()));
        // rounded up, since epoll counts milliseconds and an early wake would spin
        scheduler
            .into_iter()
            .chain(silent.min())
            .chain(places)
            .chain(idle)
            .chain(state)
            .chain(stuck)
            .chain(accept)
            .chain(stranger)
            .chain(look)
            .min()
            .map(|t| t + Duration::from_millis(1))
    }

    fn accept(&mut self) {
        for _ in 0..TURN {
            if self.closer.is_full() {
                self.accept_at = Some(Instant::now() + ACCEPT);
                return;
            }
            let socket = match self.listener.accept() {
                Ok(Some(socket)) => socket,
                Ok(None) => return,
                Err(e) => {
                    tracing::warn!("a connection could not be accepted: {e}; it is tried again");
                    self.accept_at = Some(Instant::now() + ACCEPT);
                    return;
                }
            };
            let Ok(peer) = peer(socket.as_fd()) else { continue };
            let idle = |client: &&Client| client.peer.uid == peer.uid && client.role.space().is_none();
            let departed = self.departed.values().filter(|departed| departed.peer.uid == peer.uid).count();
            if self.clients.values().filter(idle).count() + departed >= STRANGERS {
                if self.crowd_told.is_none_or(|at| at.elapsed() >= CROWD) {
                    self.crowd_told = Some(Instant::now());
                    tracing::warn!(
                        pid = peer.pid,
                        uid = peer.uid,
                        "connections are closed: their user has too many that are no programs"
                    );
                }
                self.closer.close(socket);
                continue;
            }
            let pidfd = pidfd(socket.as_fd(), peer.pid)
                .inspect_err(|e| {
                    tracing::warn!(
                        pid = peer.pid,
                        "a program's process can't be watched ({e}): its end is its connection's"
                    );
                })
                .ok();
            let token = self.next;
            self.next += 2;
            let registry = self.poll.registry();
            let mut watched = registry.register(&mut SourceFd(&socket.as_raw_fd()), Token(token), Interest::READABLE);
            if let Some(process) = &pidfd {
                let end = registry.register(&mut SourceFd(&process.as_raw_fd()), Token(token + 1), Interest::READABLE);
                watched = watched.and(end);
            }
            if let Err(e) = watched {
                tracing::warn!("a connection could not be watched: {e}");
                continue;
            }
            let endpoint = Endpoint::new(socket, KEPT);
            let role = Role::New(Instant::now() + HELLO);
            self.clients
                .insert(token, Client { endpoint, peer, pidfd, blocked: false, unread: false, parting: None, role });
        }
        // whoever connects without end: the others have their turn first
        self.accept_at = Some(Instant::now());
    }

    /// Reads what a client says, up to a turn's worth.
    pub(super) fn read(&mut self, token: usize) {
        for _ in 0..TURN {
            let Some(client) = self.clients.get_mut(&token).filter(|client| client.parting.is_none()) else { return };
            if client.role.space().is_some_and(|space| space.backlog.is_much()) {
                self.deaf_to.insert(token);
                return;
            }
            let mut reported = false;
            let result = match client.role {
                Role::New(_) => match client.endpoint.recv_hello(&mut self.buffer) {
                    Ok(Some((theirs, hello, backing))) => self.hello(token, theirs, hello, backing),
                    Ok(None) => return,
                    Err(e) => Err(e.to_string().into()),
                },
                _ => match client.endpoint.recv(&mut self.buffer) {
                    Ok(Some(message)) => {
                        reported = matches!(message, ToBroker::Status);
                        self.message(token, message)
                    }
                    Ok(None) => return,
                    Err(Error::Closed) => Err(Fault::NotTheirs("it has closed the connection".into())),
                    Err(Error::Io(e)) => Err(Fault::NotTheirs(format!("its connection failed: {e}"))),
                    Err(e) => Err(e.to_string().into()),
                },
            };
            // what came along, and nobody wanted
            self.buffer.fds.drain(..).for_each(|fd| self.closer.close(fd));
            match result {
                // a report takes a while to write: the others first
                Ok(()) if reported => break,
                Ok(()) => {}
                Err(Fault::NotTheirs(why)) => return self.lose(token, &why),
                Err(Fault::Theirs(why)) if self.holds_card(token) => {
                    return self.end_process(token, Cause::Protocol, &format!("it broke the protocol: {why}"));
                }
                Err(Fault::Theirs(why)) => return self.leave(token, &why),
            }
        }
        self.busy.push_back(token);
    }

    fn flush(&mut self, token: usize) {
        let Some(client) = self.clients.get_mut(&token).filter(|client| client.parting.is_none()) else { return };
        let flushed = client.endpoint.flush().map_err(|e| e.to_string());
        if let Err(why) = flushed.and_then(|()| self.watch_room(token)) {
            self.lose(token, &why);
        }
    }

    /// Has epoll tell of room in a client's socket, but only while packets wait for it: it would wake the loop each time a client reads.
    fn watch_room(&mut self, token: usize) -> Result<(), String> {
        let Some(client) = self.clients.get_mut(&token) else { return Ok(()) };
        let blocked = client.endpoint.queued() > 0;
        if std::mem::replace(&mut client.blocked, blocked) == blocked {
            return Ok(());
        }
        let room = if blocked { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let socket = client.endpoint.as_fd().as_raw_fd();
        self.poll.registry().reregister(&mut SourceFd(&socket), Token(token), room).map_err(|e| e.to_string())
    }

    /// Sends a message; a client that can't be told is dropped.
    pub(super) fn send(&mut self, token: usize, message: &ToClient) {
        self.send_with(token, message, &[] as &[std::os::fd::OwnedFd]);
    }

    pub(super) fn send_with(&mut self, token: usize, message: &ToClient, fds: &[impl AsFd]) {
        let Some(client) = self.clients.get_mut(&token).filter(|client| client.parting.is_none()) else { return };
        let sent = client.endpoint.send(message, fds).map_err(|e| e.to_string());
        if let Err(why) = sent.and_then(|()| self.watch_room(token)) {
            self.lose(token, &why);
        }
    }

    /// Takes what other threads have sent.
    fn read_letters(&mut self) {
        while let Ok(letter) = self.inbox.try_recv() {
            self.letter(letter);
        }
    }

    fn letter(&mut self, letter: Letter) {
        match letter {
            Letter::Done(card, done) => self.result(card, done),
            Letter::Scrape(answer) => {
                let text = self.metrics.text(&self.scheduler.report(self.now()));
                if let Ok(text) = text {
                    let _a_scraper_that_left = answer.send(text);
                }
            }
        }
    }

    /// Tells those that wait where they are, now and then.
    fn tell_places(&mut self) {
        if self.places_told.elapsed() < PLACES {
            return;
        }
        self.places_told = Instant::now();
        let places: HashMap<_, _> = self.scheduler.positions(self.now()).into_iter().collect();
        let mut news = Vec::new();
        for (&token, client) in &mut self.clients {
            let Role::Space(space) = &mut client.role else { continue };
            let Some((id, place)) = space.claim.and_then(|(id, request)| Some((id, places.get(&request)?))) else {
                continue;
            };
            if space.told != place.place {
                space.told = place.place;
                let seconds = place.estimate.map(zerogpu_protocol::clamp_seconds);
                news.push((token, ToClient::Queued { id, position: place.place, of: place.of, seconds }));
            }
        }
        news.iter().for_each(|(token, message)| self.send(*token, message));
    }

    /// Keeps what tenants have used for the broker that comes next.
    fn write_use(&mut self) {
        let now = self.now();
        self.ledger.write(&self.scheduler.book(now));
        self.used = self.clients.keys().any(|&token| self.holds_card(token));
    }

    fn look_whether_idle(&mut self) {
        let spaces = !self.spaces.is_empty();
        if self.idle.as_mut().is_some_and(|idle| idle.ends(spaces)) {
            tracing::info!("no program is left: the broker ends");
            self.leaving = true;
        }
    }

    fn signal(&mut self) -> Result<()> {
        while let Some(signal) = self.signals.read_signal().context("signals can't be read")? {
            if signal.ssi_signo == Signal::SIGHUP as u32 {
                self.reload();
            } else {
                tracing::info!("asked to end");
                self.leaving = true;
            }
        }
        Ok(())
    }

    fn reload(&mut self) {
        let Some(file) = &self.file else { return tracing::info!("there is no configuration file to read again") };
        let longest = self.config.longest;
        let read = Config::read(file).and_then(|config| {
            let config = Config { longest, ..config };
            Ok((config.policy()?, config.host_memory()?, config))
        });
        match read {
            Ok((policy, host_memory, config)) => {
                let now = self.now();
                self.scheduler.set_policy(now, policy);
                (self.host_memory, self.config) = (host_memory, config);
                tracing::info!("read {} again; socket, driver and metrics stay as they are", file.display());
            }
            Err(e) => tracing::error!("{e:#}; the settings stay as they are"),
        }
    }

    /// Lets bytes that travel arrive, then closes. Spaces keep computing; they find the next broker by themselves.
    fn farewell(&mut self) -> bool {
        self.put_no_more_off();
        let until = Instant::now() + FAREWELL;
        while self.moving() {
            match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(letter) => self.letter(letter),
                Err(_) => break,
            }
        }
        let held = self.clients.values().any(|c| matches!(&c.role, Role::Space(space) if space.lease.is_some()));
        let text = "the broker goes; the program finds the next one by itself".to_string();
        let message = ToClient::Closing { reason: Reason::Restart, text };
        for client in self.clients.values_mut() {
            if !matches!(client.role, Role::New(_)) {
                let _who_does_not_read_sees_the_end = client.endpoint.send(&message, &[] as &[std::os::fd::OwnedFd]);
            }
        }
        // host memory is unpinned by the workers, which have contexts
        let tokens: Vec<usize> = self.clients.keys().copied().collect();
        tokens.into_iter().for_each(|token| self.leave(token, "the broker ends"));
        self.write_use();
        !held
    }

    fn moving(&self) -> bool {
        use super::client::Stage::{Filling, Homing};
        let moves = |client: &Client| {
            client.role.space().is_some_and(|space| {
                space.lease.as_ref().is_some_and(|lease| matches!(lease.stage, Filling | Homing))
                    || space.bound.as_ref().is_some_and(Bound::is_moving)
            })
        };
        self.clients.values().any(moves)
    }
}

/// A number that no other broker has.
fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    // SAFETY: writes the eight bytes.
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    anyhow::ensure!(n == 8, "the system gives no random numbers: {}", std::io::Error::last_os_error());
    Ok(u64::from_le_bytes(bytes))
}

//! The node broker, as this process knows it: a connection, and the lease that it has.
//!
//! One thread of ours reads what the broker sends; whoever waits for an answer takes it from there. No call here needs a
//! lock of the engine, so answers come whatever locks the caller holds. When the broker is gone nothing is lost: a lease goes on
//! with memory that is mapped already, and the engine brings the bytes home itself.
mod link;

use super::engine;
use crate::report;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{fence, AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use zerogpu_abi::CUresult;
use zerogpu_device::exec::now;
use zerogpu_device::memory::ARENA_BYTES;
use zerogpu_protocol::*;

// what the broker takes is what a Space has: the memory of its one device, and as much for handles of its own
const _: () = assert!(2 * ARENA_BYTES == BACKING_BYTES);

/// How long a broker may take to answer what it can answer at once.
const ANSWER: Duration = Duration::from_secs(20);
/// How long it may take to copy all of a Space's bytes.
const COPY: Duration = Duration::from_secs(300);
/// Between two attempts to connect.
pub(super) const AGAIN: Duration = Duration::from_millis(100);
/// A broker that keeps to the protocol gives no reason to say this.
const CONFUSED: &str = "the broker does not keep to the protocol; install the same version of zerogpu for both";
const ENDED: &str = "the broker has ended; call again";
const INTERRUPTED: &str = "the wait was interrupted: call it again";
/// The protocol's version from which on a broker takes [`ToBroker::Prefetch`].
const PREFETCH: u16 = 2;
/// Host memory is reserved in steps, so that few allocations ask: an eighth of what there is, between these sizes.
const STEPS: (u64, u64) = (4 << 20, 256 << 20);
/// So much of it, and a quarter of it, is given back at once.
const GIVEN_BACK: u64 = 16 << 20;

/// Why the broker did not do what it was asked.
pub enum Trouble {
    /// It said no.
    Denied(CUresult, String),
    /// It said no, for a reason that the program's user is to read as it is: a call too long, a limit, nothing free in time.
    ForUser(String),
    /// Nobody wants the card any more.
    CalledOff,
    /// It is gone, or was never there.
    Gone(String),
}

/// A wish for a card.
pub struct Ask<'a> {
    /// The lease lasts this long at most.
    pub seconds: f64,
    /// Bytes of all slabs.
    pub bytes: u64,
    /// Whether it is for work outside every region.
    pub borrowed: bool,
    /// It waits this long at most.
    pub until: Instant,
    /// Whether it is a wish still. Whoever makes this false calls [`Lender::call_off`] afterwards.
    pub wanted: &'a dyn Fn() -> bool,
}

/// A lease.
#[derive(Clone, Copy)]
pub struct Lease {
    number: u64,
    /// The card.
    pub card: Uuid,
    /// When it ends, in nanoseconds of the monotonic clock.
    pub until: u64,
    /// Whether a new broker took it over: the memory is then this process's own.
    adopted: bool,
    /// The broker that gave it, and bytes of card memory, for a broker that comes after.
    broker: u64,
    bytes: u64,
}

/// What a claim that waits knows of its place in the queue: where a broker has told it, of how many, and about how many
/// seconds more.
#[derive(Clone, Copy, Default)]
pub struct Waiting {
    place: Option<(u32, u32)>,
    seconds: Option<f64>,
}

impl Waiting {
    /// As JSON, for `zerogpu_state`.
    pub fn json(&self) -> String {
        let number = |n: Option<String>| n.unwrap_or_else(|| "null".into());
        let place = number(self.place.map(|(place, _)| place.to_string()));
        let of = number(self.place.map(|(_, of)| of.to_string()));
        let seconds = number(self.seconds.map(|seconds| format!("{seconds:.1}")));
        format!("{{\"place\": {place}, \"of\": {of}, \"seconds\": {seconds}}}")
    }
}

struct Link {
    connection: Arc<Connection>,
    broker: u64,
    /// The protocol's version that both sides speak.
    version: u16,
    /// Answers that nobody has taken yet.
    inbox: Vec<(ToClient, Vec<OwnedFd>)>,
}

#[derive(Default)]
struct State {
    link: Option<Link>,
    lease: Option<Lease>,
    /// The number of the lease that was granted last, from the moment its grant was read until it is released: the only one that
    /// a broker can take back. What it says of another has crossed our release.
    granted: Option<u64>,
    /// Whether the broker has said that it has taken the lease over from an earlier connection.
    taken_over: bool,
    claims: u32,
    /// Whether the last of them has no answer that was read.
    asked: bool,
    /// The claim that waits.
    waiting: Option<Waiting>,
    /// How the backing was cut into slabs at the last claim: offset to bytes.
    shape: BTreeMap<u64, u64>,
    /// While parked: the card with a context that this process is bound to, and what binds it.
    bound: Option<(Uuid, String)>,
    /// A lease that was let go of unheard, its connection being lost: the broker, and its number. That broker keeps the card
    /// for this process until it hears of it.
    owed: Option<(u64, u64)>,
    /// Whether a claim's connection was lost before its answer: a broker may keep a card for this process that it has never heard of,
    /// and end it at the end of that time. Its next hello says that it holds none.
    in_doubt: bool,
}

impl State {
    /// The end of a connection, if it is still the one in use. A lease whose grant was read, and that its claim has not taken
    /// yet, is let go of: who does not claim again would have the card kept for it.
    fn unlink(&mut self, connection: &Connection) -> Option<Link> {
        let link = self.link.take_if(|link| std::ptr::eq(&*link.connection, connection))?;
        self.in_doubt |= std::mem::take(&mut self.asked);
        if self.lease.is_none() {
            self.owed = self.granted.take().map(|lease| (link.broker, lease)).or(self.owed);
        }
        Some(link)
    }
}

/// The broker.
pub struct Lender {
    path: PathBuf,
    /// How long a claim waits.
    patience: Duration,
    /// How often people are told that a broker is slow.
    tells: Duration,
    name: String,
    state: Mutex<State>,
    news: Condvar,
    /// The thread that claims, as the system numbers it, from before its first look at whether it is wanted to its answer; 0: none.
    asks: AtomicI32,
    /// Whether its claim is a wish whatever regions end.
    lasting: AtomicBool,
    /// Whether it is to wait no longer.
    stopped: AtomicBool,
    /// The socket, for a forked child to close; -1: none.
    socket: AtomicI32,
    /// Bytes of device memory that the app has allocated, and how many of them were reserved.
    used: AtomicU64,
    reserved: AtomicU64,
    /// Held while that is told, so that what was known first is said first.
    telling: Mutex<()>,
}

impl Lender {
    /// The broker that listens on `path`; connected to when it is first needed.
    pub fn new(path: PathBuf, patience: Duration, name: Option<&str>) -> Lender {
        let name = clean_name(name.unwrap_or(&own_name()));
        Lender {
            path,
            patience,
            tells: COPY,
            name,
            state: Mutex::default(),
            news: Condvar::new(),
            asks: AtomicI32::new(0),
            lasting: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            socket: AtomicI32::new(-1),
            used: AtomicU64::new(0),
            reserved: AtomicU64::new(0),
            telling: Mutex::default(),
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a broker ought to know what this process has on a card, and there is none: a lease goes on, or ended unheard, or
    /// may have been granted unheard, or a context is bound.
    pub fn is_orphan(&self) -> bool {
        let state = self.locked();
        let tells = state.lease.is_some() || state.bound.is_some() || state.owed.is_some() || state.in_doubt;
        tells && state.link.is_none()
    }

    /// How the backing is cut: what was agreed at the last claim.
    pub fn shape(&self) -> BTreeMap<u64, u64> {
        self.locked().shape.clone()
    }

    /// Until when a claim waits that begins now.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }

    /// Waits in the queue for a card; how long that took.
    pub fn claim(&self, ask: &Ask) -> Result<(Lease, Duration), Trouble> {
        let start = Instant::now();
        self.stopped.store(false, Ordering::Relaxed);
        self.lasting.store(ask.borrowed, Ordering::Relaxed);
        // SAFETY: a plain question.
        self.asks.store(unsafe { libc::gettid() }, Ordering::Relaxed);
        // with that in `call_off`: either this sees that the wish has ended, or that sees that there is a claim
        fence(Ordering::SeqCst);
        let claimed = loop {
            // also each time that one was taken back: somebody else may wish the same
            if self.stopped.load(Ordering::Relaxed) {
                break Err(Trouble::Denied(CUresult::DEVICE_UNAVAILABLE, INTERRUPTED.into()));
            }
            if !(ask.wanted)() {
                break Err(Trouble::CalledOff);
            }
            match self.claim_once(ask) {
                Err(Trouble::CalledOff) => {}
                // another broker may come
                Err(Trouble::Gone(_)) if Instant::now() + AGAIN < ask.until => {
                    self.locked().waiting = Some(Waiting::default());
                    std::thread::sleep(AGAIN);
                }
                claimed => break claimed,
            }
        };
        self.asks.store(0, Ordering::Relaxed);
        self.locked().waiting = None;
        claimed.map(|lease| (lease, start.elapsed()))
    }

    /// Somebody has no use for a card any more: a claim that waits looks whether it is a wish still.
    pub fn call_off(&self) {
        fence(Ordering::SeqCst);
        let asks = self.asks.load(Ordering::Relaxed) != 0;
        // one that is taken back is made anew where it is a wish still, behind all others
        if !asks || (self.lasting.load(Ordering::Relaxed) && !self.stopped.load(Ordering::Relaxed)) {
            return;
        }
        let state = self.locked();
        let Some(link) = &state.link else { return };
        let (connection, id) = (link.connection.clone(), state.claims);
        drop(state);
        // one that is answered already is none
        let _who_waits_meets_the_same = self.send(&connection, &ToBroker::Cancel { id });
    }

    /// The main thread is to wait no longer; false: it makes no claim.
    pub fn stop_waiting(&self) -> bool {
        // SAFETY: a plain question.
        let is_main = self.asks.load(Ordering::Relaxed) == unsafe { libc::getpid() };
        if is_main {
            self.stopped.store(true, Ordering::Relaxed);
            self.call_off();
        }
        is_main
    }

    /// What the claim that waits knows, if one does.
    pub fn waiting(&self) -> Option<Waiting> {
        self.locked().waiting
    }

    fn claim_once(&self, ask: &Ask) -> Result<Lease, Trouble> {
        let connection = self.connect()?;
        // a new broker has to know what this process uses
        self.reserve(0)?;
        let id = {
            let mut state = self.locked();
            if let Some(link) = &mut state.link {
                link.inbox.retain(|(answer, _)| !is_of_a_lease(answer));
            }
            state.claims = state.claims.wrapping_add(1).max(1);
            state.asked = true;
            state.claims
        };
        let wait_seconds = ask.until.saturating_duration_since(Instant::now()).as_secs_f64().max(0.001);
        let (seconds, borrowed, bytes) = (clamp_seconds(ask.seconds), ask.borrowed, ask.bytes);
        self.send(&connection, &ToBroker::Claim { id, seconds, wait_seconds, borrowed, bytes })?;
        // what called it off before this could not name it to the broker
        if self.stopped.load(Ordering::Relaxed) || !(ask.wanted)() {
            self.send(&connection, &ToBroker::Cancel { id })?;
        }
        // the broker keeps the time; beyond it something is wrong there
        let patience = ask.until + ANSWER;
        loop {
            let mine = |m: &ToClient| matches!(m, ToClient::Queued { id: of, .. } | ToClient::Granted { id: of, .. } | ToClient::Denied { id: of, .. } if *of == id);
            match self.receive(&connection, mine, patience)?.0 {
                ToClient::Queued { position, of, seconds, .. } => {
                    self.locked().waiting = Some(Waiting { place: Some((position, of)), seconds });
                    let about = seconds.map_or_else(String::new, |s| format!(", for about {s:.0} s more"));
                    report::explain(&format!("waiting for a GPU: place {position} of {of}{about}"));
                }
                ToClient::Granted { lease, card, seconds, .. } => {
                    let mut state = self.locked();
                    // one that was lost since has let go of it
                    let ours = |link: &&Link| Arc::ptr_eq(&link.connection, &connection);
                    let Some(broker) = state.link.as_ref().filter(ours).map(|link| link.broker) else {
                        return Err(Trouble::Gone(ENDED.into()));
                    };
                    let until = now().saturating_add((seconds * 1e9) as u64);
                    let lease = Lease { number: lease, card, until, adopted: false, broker, bytes: ask.bytes };
                    state.lease = Some(lease);
                    return Ok(lease);
                }
                ToClient::Denied { reason: Reason::Cancelled, .. } => return Err(Trouble::CalledOff),
                ToClient::Denied { reason: Reason::Busy, .. } => {
                    let waited = self.patience.as_secs_f64();
                    return Err(Trouble::ForUser(format!(
                        "No GPU was available after {waited:.0}s: try again later, or allow a longer wait (ZEROGPU_WAIT)"
                    )));
                }
                ToClient::Denied { reason: Reason::TooLong | Reason::Quota, text, .. } => {
                    return Err(Trouble::ForUser(text))
                }
                ToClient::Denied { reason, text, .. } => return Err(Trouble::Denied(code(reason), text)),
                _ => {}
            }
        }
    }

    /// Says which slabs the lease wants, and what the host has written of them.
    pub fn list(&self, slabs: &[Range], dirty: &[Range]) -> Result<(), Trouble> {
        let (connection, lease) = self.leased()?;
        self.locked().shape = slabs.iter().map(|slab| (slab.off, slab.len)).collect();
        request_packets(lease.number, slabs, dirty).try_for_each(|packet| self.send(&connection, &packet))
    }

    /// Says what a claim would want, as a region begins: a broker with an idle card brings it there meanwhile. Not to be
    /// called with a lease or a claim. Whether it was told: then `dirty` need not be named again.
    pub fn foretell(&self, seconds: f64, slabs: &[Range], dirty: &[Range]) -> bool {
        let mut state = self.locked();
        let Some(link) = state.link.as_ref().filter(|link| link.version >= PREFETCH) else { return false };
        let connection = link.connection.clone();
        state.shape = slabs.iter().map(|slab| (slab.off, slab.len)).collect();
        drop(state);
        prefetch_packets(clamp_seconds(seconds), slabs, dirty)
            .try_for_each(|packet| self.send(&connection, &packet))
            .is_ok()
    }

    /// The descriptors of the slabs listed, in their order.
    pub fn descriptors(&self, count: usize) -> Result<Vec<OwnedFd>, Trouble> {
        let (connection, lease) = self.leased()?;
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            let mine = |m: &ToClient| {
                matches!(m, ToClient::SlabFds { lease: of, .. } if *of == lease.number)
                    || matches!(m, ToClient::Denied { .. })
            };
            match self.receive(&connection, mine, Instant::now() + COPY)? {
                (ToClient::SlabFds { first, .. }, fds) if first as usize == all.len() => all.extend(fds),
                (ToClient::Denied { reason, text, .. }, _) => return self.denied(code(reason), text),
                _ => return Err(self.hang_up(&connection, CONFUSED)),
            }
        }
        Ok(all)
    }

    /// Waits until all bytes are on the card; how many were copied, and how many were there.
    pub fn ready(&self) -> Result<(u64, u64), Trouble> {
        let (connection, lease) = self.leased()?;
        let mine = |m: &ToClient| {
            matches!(m, ToClient::Ready { lease: of, .. } if *of == lease.number)
                || matches!(m, ToClient::Denied { .. })
        };
        match self.receive(&connection, mine, Instant::now() + COPY)?.0 {
            ToClient::Ready { bytes, warm, .. } => Ok((bytes, warm)),
            ToClient::Denied { reason, text, .. } => self.denied(code(reason), text),
            _ => Err(self.hang_up(&connection, CONFUSED)),
        }
    }

    fn denied<T>(&self, code: CUresult, text: String) -> Result<T, Trouble> {
        let mut state = self.locked();
        (state.lease, state.granted) = (None, None);
        Err(Trouble::Denied(code, text))
    }

    /// One more slab.
    pub fn grow(&self, slab: Range) -> Result<OwnedFd, Trouble> {
        let (connection, lease) = self.leased()?;
        self.send(&connection, &ToBroker::Grow { lease: lease.number, slab })?;
        let mine = |m: &ToClient| matches!(m, ToClient::Grown { slab: of, .. } | ToClient::NotGrown { slab: of, .. } if *of == slab);
        match self.receive(&connection, mine, Instant::now() + ANSWER)? {
            (ToClient::Grown { .. }, mut fds) => {
                let mut state = self.locked();
                state.shape.insert(slab.off, slab.len);
                if let Some(lease) = &mut state.lease {
                    lease.bytes += slab.len;
                }
                drop(state);
                fds.pop().ok_or_else(|| self.hang_up(&connection, CONFUSED))
            }
            (ToClient::NotGrown { text, .. }, _) => Err(Trouble::Denied(CUresult::OUT_OF_MEMORY, text)),
            _ => Err(self.hang_up(&connection, CONFUSED)),
        }
    }

    /// These slabs are mapped no more, and their bytes are of no use.
    pub fn shrink(&self, slabs: Vec<Range>) -> Result<(), Trouble> {
        let (connection, lease) = self.leased()?;
        let mut state = self.locked();
        for slab in &slabs {
            state.shape.remove(&slab.off);
        }
        drop(state);
        let mut parts = slabs.chunks(PACKET_RANGES);
        parts.try_for_each(|part| {
            self.send(&connection, &ToBroker::Shrink { lease: lease.number, slabs: part.to_vec() })
        })
    }

    /// The streams are idle: has the host copy made complete. How many bytes were copied.
    ///
    /// However slow a broker is, it is not hung up on: it would go on writing the host copy, under one that is newer. Its end
    /// is the end of that.
    pub fn home(&self) -> Result<u64, Trouble> {
        let (connection, lease) = self.leased()?;
        self.send(&connection, &ToBroker::Drained { lease: lease.number })?;
        let mine = |m: &ToClient| matches!(m, ToClient::Home { lease: of, .. } if *of == lease.number);
        loop {
            match self.receive_until(&connection, mine, Instant::now() + self.tells)? {
                Some((ToClient::Home { bytes, .. }, _)) => return Ok(bytes),
                Some(_) => return Err(self.hang_up(&connection, CONFUSED)),
                None => report::error(
                    "the broker has not brought the bytes of a call home yet, which waits for that: see whether it runs (zerogpu \
                     status), and restart it if it does not; the bytes are kept on the card",
                ),
            }
        }
    }

    /// This process brings its bytes home itself, and gets on with it. A broker that took its lease over leaves it the card for
    /// as long as it hears that; one that has no room for it in its socket, or is just being connected to, hears it the next time.
    pub fn gets_on(&self) {
        let Ok(state) = self.state.try_lock() else { return };
        let (Some(link), Some(lease), true) = (&state.link, state.lease, state.taken_over) else { return };
        let connection = link.connection.clone();
        drop(state);
        let _it_may_have_no_room = connection.send(&ToBroker::Drained { lease: lease.number }, Some(Instant::now()));
    }

    /// Nothing of this process is on the card any more, but for a context that it is `bound` to: that card, and what binds
    /// it. From here to the next grant no call reaches the driver, which may be checkpointing this process.
    pub fn released(&self, bound: Option<(Uuid, String)>) {
        if bound.is_some() && self.locked().lease.is_some() {
            // one that has lost this process hears of the context that stays before it gives the card away
            self.reconnect();
        }
        let mut state = self.locked();
        let lease = state.lease.take();
        state.granted = None;
        state.bound = bound.clone();
        // until that is heard
        state.owed = lease.map(|lease| (lease.broker, lease.number)).or(state.owed);
        let connection = state.link.as_ref().map(|link| link.connection.clone());
        drop(state);
        let Some(connection) = connection else {
            // a broker that lives and has lost this process keeps the card for it, until it hears that it has let go: as soon as
            // there is a connection again. Of a card that it has not any more nobody is told
            self.reconnect();
            return engine().into_iter().for_each(|engine| engine.watch.look_again());
        };
        let mut news: Vec<ToBroker> = lease.iter().map(|lease| ToBroker::Released { lease: lease.number }).collect();
        if let Some((card, by)) = bound {
            // first, so that the card is not given away before its context has left
            let with_its_lease = lease.is_none_or(|lease| lease.card == card);
            news.insert(if with_its_lease { 0 } else { news.len() }, ToBroker::Bound { card, by });
        }
        let told = news.iter().try_for_each(|message| self.send(&connection, message));
        if let (Some(lease), Ok(())) = (lease, told) {
            self.settle((lease.broker, lease.number));
        }
    }

    /// A broker has heard that a lease is over.
    fn settle(&self, heard: (u64, u64)) {
        let mut state = self.locked();
        state.owed = state.owed.filter(|owed| *owed != heard);
    }

    /// When the lease ends, if there is one.
    pub fn ends(&self) -> Option<u64> {
        self.locked().lease.map(|lease| lease.until)
    }

    /// Asks that the lease last until a moment; what the broker says comes with the other news.
    pub fn extend(&self, until: u64) {
        let state = self.locked();
        // also one that another broker has taken over
        let (Some(link), Some(lease)) = (&state.link, state.lease) else { return };
        let connection = link.connection.clone();
        drop(state);
        if until > lease.until {
            let seconds = clamp_seconds(until.saturating_sub(now()) as f64 / 1e9);
            let _its_deadline_stays = self.send(&connection, &ToBroker::Extend { lease: lease.number, seconds });
        }
    }

    /// The host is about to punch a range of the backing: returns when nothing is pinned there.
    pub fn forget(&self, range: Range) {
        let Some(connection) = self.locked().link.as_ref().map(|link| link.connection.clone()) else { return };
        let mine = |m: &ToClient| matches!(m, ToClient::Forgotten { range: of } if *of == range);
        // a broker that is gone, or is hung up on since it does not answer, copies no more
        let _forgotten_or_gone = self
            .send(&connection, &ToBroker::Forget { range })
            .and_then(|()| self.receive(&connection, mine, Instant::now() + COPY));
    }

    /// The app takes `more` bytes of device memory. The error: the node has no host memory for them.
    pub fn reserve(&self, more: u64) -> Result<(), Trouble> {
        let used = self.used.fetch_add(more, Ordering::Relaxed) + more;
        let wanted = reservation(used);
        if wanted <= self.reserved.load(Ordering::Relaxed) {
            return Ok(());
        }
        let _others_wait = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        // what others have told meanwhile may do, and what they have taken must not be lost
        let wanted = reservation(self.used.load(Ordering::Relaxed));
        if wanted <= self.reserved.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.connect().and_then(|connection| self.speak_for(&connection, wanted)) {
            Ok(()) => Ok(()),
            // loading a model needs no broker; the claim says so if there is none
            Err(Trouble::Gone(_)) => Ok(()),
            Err(denied) => {
                self.used.fetch_sub(more, Ordering::Relaxed);
                Err(denied)
            }
        }
    }

    /// The app has given bytes of device memory back. Others may have them when they are many.
    pub fn unreserve(&self, less: u64) {
        self.used.fetch_sub(less, Ordering::Relaxed);
        let much = || {
            let (wanted, reserved) =
                (reservation(self.used.load(Ordering::Relaxed)), self.reserved.load(Ordering::Relaxed));
            (reserved.saturating_sub(wanted) >= GIVEN_BACK.max(reserved / 4)).then_some(wanted)
        };
        if much().is_none() {
            return;
        }
        let _others_wait = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(wanted) = much() else { return };
        let Some(connection) = self.locked().link.as_ref().map(|link| link.connection.clone()) else { return };
        let _it_stays_reserved = self.speak_for(&connection, wanted);
    }

    /// Tells the broker how much host memory this process wants, and hears whether it may. One at a time.
    fn speak_for(&self, connection: &Arc<Connection>, bytes: u64) -> Result<(), Trouble> {
        self.send(connection, &ToBroker::Reserve { bytes })?;
        let mine = |m: &ToClient| matches!(m, ToClient::Reserved { bytes: of } | ToClient::NotReserved { bytes: of, .. } if *of == bytes);
        match self.receive(connection, mine, Instant::now() + ANSWER)?.0 {
            ToClient::NotReserved { text, .. } => Err(Trouble::Denied(CUresult::OUT_OF_MEMORY, text)),
            _ => {
                // a broker that came meanwhile knows nothing of it
                let state = self.locked();
                if state.link.as_ref().is_some_and(|link| Arc::ptr_eq(&link.connection, connection)) {
                    self.reserved.store(bytes, Ordering::Relaxed);
                }
                Ok(())
            }
        }
    }

    /// Finds a broker for a lease or a bound context that has lost its own, or for the news of a lease that is over. What comes
    /// back is why the broker that is there will not have this process.
    pub fn reconnect(&self) -> Option<String> {
        match self.is_orphan().then(|| self.connect()) {
            Some(Err(Trouble::Denied(_, why))) => Some(why),
            // tried again later
            _ => None,
        }
    }

    /// In a forked child: the connection is the parent's.
    pub fn forked(&self) {
        let socket = self.socket.swap(-1, Ordering::Relaxed);
        if socket >= 0 {
            // SAFETY: the child's copy of the descriptor; its owner in this process, behind a lock that may be held for
            // ever, is never used again.
            unsafe { libc::close(socket) };
        }
    }

    fn leased(&self) -> Result<(Arc<Connection>, Lease), Trouble> {
        let state = self.locked();
        match (&state.link, state.lease) {
            (Some(link), Some(lease)) if !lease.adopted => Ok((link.connection.clone(), lease)),
            _ => Err(Trouble::Gone("the broker that gave the lease is gone; call again".into())),
        }
    }
}

/// What is reserved for so many bytes: somewhat more, so that few allocations ask.
fn reservation(used: u64) -> u64 {
    used.next_multiple_of((used / 8).next_power_of_two().clamp(STEPS.0, STEPS.1))
}

/// Whether an answer is about a lease, and so of no use after it.
fn is_of_a_lease(answer: &ToClient) -> bool {
    !matches!(answer, ToClient::Forgotten { .. } | ToClient::Reserved { .. } | ToClient::NotReserved { .. })
}

/// The CUDA error that stands for a refusal.
fn code(reason: Reason) -> CUresult {
    match reason {
        Reason::Memory => CUresult::OUT_OF_MEMORY,
        Reason::NoCard => CUresult::NO_DEVICE,
        _ => CUresult::DEVICE_UNAVAILABLE,
    }
}

/// What people call this program: its script, else its executable.
fn own_name() -> String {
    let line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let words: Vec<String> = line.split(|&b| b == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let script = words.iter().skip(1).find(|word| word.ends_with(".py")).or(words.first());
    let file = |word: &String| std::path::Path::new(word).file_name().map(|name| name.to_string_lossy().into_owned());
    script.and_then(file).unwrap_or_else(|| "program".into())
}

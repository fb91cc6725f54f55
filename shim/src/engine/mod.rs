//! Claim, run, park: the device's backend in a process that may hold a GPU.
//!
//! While parked, commands run on the host backing (`zerogpu_device::host`). A command that needs the device claims: the
//! driver below gets a context, physical memory under the arena's addresses, and the bytes. While claimed, commands are
//! forwarded through the gate with live twins in place of our handles, without a lock. A park closes the gate, drains
//! the streams, brings the bytes home and lets everything go.
//!
//! Lock order: `Engine::phase`, then the device's state, then `Engine::live`. The gate is closed holding `phase` only.
mod addresses;
mod ask;
mod backend;
mod cargo;
mod claim;
mod clock;
mod forward;
mod launch;
mod lender;
mod lent;
mod live;
mod park;
mod physical;
mod record;
mod regions;
mod slots;
mod unchanged;
mod variables;
mod watch;

use crate::report;
use lender::Lender;
use live::Live;
use record::Record;
use regions::Regions;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use zerogpu_abi::*;
use zerogpu_below::{Below, Driver};
use zerogpu_device::host;
use zerogpu_device::op::Op;
use zerogpu_device::runtime::{self, Guard, State};
use zerogpu_device::Run;
use zerogpu_gate::Gate;
use zerogpu_settings::{Outside, Settings};

/// Where the process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Parked,
    Claimed {
        /// Claimed for work outside any region: parked again when idle.
        borrowed: bool,
    },
    /// The device failed for good under a claim (a sticky CUDA error): every command answers it, as CUDA does.
    Lost(CUresult),
}

/// Counters and times for `zerogpu_state` and the trace.
#[derive(Default)]
struct Tally {
    claims: AtomicU64,
    parks: AtomicU64,
    borrows: AtomicU64,
    /// Nanoseconds, plus 1; 0: none yet.
    last_claim: AtomicU64,
    last_park: AtomicU64,
    /// When the last claim began.
    claimed_at: AtomicU64,
}

/// The engine of the process.
pub struct Engine {
    settings: Settings,
    below: Below,
    /// The node broker, if there is one to ask for cards; without it the process takes the first (solo).
    lender: Option<Lender>,
    /// Open regions.
    pub regions: Regions,
    gate: &'static Gate,
    phase: Mutex<Phase>,
    /// The number of the current claim, or of the last one.
    epoch: AtomicU32,
    /// Whether a GPU is claimed; changes with `phase` and the state's lock held.
    claimed: AtomicBool,
    /// The error that lost the device, 0 while it is not lost; changes with `phase` and the state's lock held.
    lost: AtomicU32,
    live: Mutex<Live>,
    /// What a park or a failed claim left on the card, in words; the watcher tries to give it back.
    left: Mutex<Vec<String>>,
    /// What binds the process to its context, in words: objects in it that can't be made anew. It stays at a park.
    bound: Mutex<Vec<String>>,
    record: Mutex<Record>,
    /// Error of a command whose call was told that it succeeds (a replayed or a late one), due at the next call that can
    /// answer it; 0: none.
    owed: AtomicU32,
    /// Whether this claim could not hold a stream back for what is late: its commands fail until it can.
    unheld: AtomicBool,
    tally: Tally,
    watch: watch::Watch,
    /// Whether there can be a card, once that was asked.
    cards: OnceLock<Result<(), String>>,
}

static ENGINE: OnceLock<Engine> = OnceLock::new();
static GATE: Gate = Gate::new();

/// Makes the engine.
pub fn start(settings: Settings, below: Below) -> &'static Engine {
    let lender = settings.socket.clone().map(|path| Lender::new(path, settings.wait, settings.name.as_deref()));
    ENGINE.get_or_init(|| Engine {
        settings,
        below,
        lender,
        regions: Regions::default(),
        gate: &GATE,
        phase: Mutex::new(Phase::Parked),
        epoch: AtomicU32::new(0),
        claimed: AtomicBool::new(false),
        lost: AtomicU32::new(0),
        live: Mutex::new(Live::default()),
        left: Mutex::default(),
        bound: Mutex::default(),
        record: Mutex::new(Record::default()),
        owed: AtomicU32::new(0),
        unheld: AtomicBool::new(false),
        tally: Tally::default(),
        watch: watch::Watch::default(),
        cards: OnceLock::new(),
    })
}

/// The engine, once the shim has started.
pub fn engine() -> Option<&'static Engine> {
    ENGINE.get()
}

fn locked<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// CUDA_ERROR_LAUNCH_TIMEOUT: the time of the open regions is over.
const OVER: CUresult = CUresult::LAUNCH_TIMEOUT;

impl Engine {
    /// Opens a region; the number that ends it. A lease that is there lasts as long as the region may.
    pub fn begin_region(&'static self, seconds: f64) -> Result<u64, String> {
        let region = self.regions.begin(seconds)?;
        if self.lender.is_some() {
            if !self.claimed.load(Ordering::Acquire) {
                self.watch.wish();
            }
            self.watch.look_again();
        }
        Ok(region)
    }

    /// Claims a GPU for an open region, before anything needs it; why there is none. Where the process has no context there
    /// is nothing to claim for, and what no claim could mend is told to what needs a GPU.
    pub fn claim_region(&'static self, id: u64) -> Result<(), String> {
        if !self.regions.is_open(id) {
            return Err("there is no such region: it has ended, or was never begun".into());
        }
        let hopeful = runtime::lock()
            .is_ok_and(|mut st| st.contexts.values().any(|c| c.active) && self.refused(true, &mut st).is_none());
        if !hopeful || self.regions.over() {
            return Ok(());
        }
        self.obtain(false, "a marked call").map_err(|code| {
            self.regions.refusal().unwrap_or_else(|| format!("no GPU was claimed ({})", claim::name(code)))
        })
    }

    /// Ends a region; false: there is no such region. The last one out parks.
    pub fn end_region(&self, id: u64) -> bool {
        let Some(last) = self.regions.end(id) else { return false };
        if last {
            self.call_off();
            // what could not be parked stays claimed, is told, and is tried again by the watcher
            if let Err(e) = self.park() {
                report::error(&e);
                self.watch.look_again();
            }
        } else {
            self.earlier_deadline();
        }
        true
    }

    /// The last region has ended, maybe while another thread waits for a GPU in it: nobody waits for that.
    fn call_off(&self) {
        if let Some(lender) = &self.lender {
            lender.call_off();
        }
    }

    /// The main thread waits no longer in the queue; false: it does not wait there.
    pub fn stop_waiting(&self) -> bool {
        self.lender.as_ref().is_some_and(Lender::stop_waiting)
    }

    /// A region ended and others are still open: the watcher may be waiting for a deadline that is gone.
    fn earlier_deadline(&self) {
        if self.claimed.load(Ordering::Acquire) {
            self.watch.look_again();
        }
    }

    /// What the process holds, as JSON (keys: include/zerogpu.h).
    pub fn state_json(&self) -> String {
        let ms = |t: &AtomicU64| match t.load(Ordering::Relaxed) {
            0 => "null".to_string(),
            ns => format!("{:.3}", (ns - 1) as f64 / 1e6),
        };
        let count = |t: &AtomicU64| t.load(Ordering::Relaxed);
        let t = &self.tally;
        let level = match (self.lost.load(Ordering::Acquire), self.claimed.load(Ordering::Acquire)) {
            (0, true) => "claimed",
            (0, false) => "parked",
            _ => "lost",
        };
        let list =
            |texts: &Mutex<Vec<String>>| locked(texts).iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ");
        let waiting = self.lender.as_ref().and_then(Lender::waiting).map_or_else(|| "null".into(), |w| w.json());
        let last_error = report::last_error().map_or_else(|| "null".into(), |text| quoted(&text));
        let (pending, pending_bytes) = locked(&self.record).size();
        format!(
            "{{\"level\": \"{level}\", \"regions\": {}, \"claims\": {}, \"parks\": {}, \"borrows\": {}, \
             \"last_claim_ms\": {}, \"last_park_ms\": {}, \"deferred\": {pending}, \"deferred_bytes\": {pending_bytes}, \
             \"bytes\": {}, \"waiting\": {waiting}, \"bound_by\": [{}], \"left\": [{}], \"last_error\": {last_error}}}",
            self.regions.count(),
            count(&t.claims),
            count(&t.parks),
            count(&t.borrows),
            ms(&t.last_claim),
            ms(&t.last_park),
            crate::region::zerogpu_memory_used(),
            list(&self.bound),
            list(&self.left),
        )
    }

    /// What is to become of a command that only a GPU can run.
    fn needs_device(&'static self, mut st: Guard, op: &Op) -> Run {
        let inside = self.regions.any();
        if let Some(refused) = self.refused(inside, &mut st) {
            let what = what(&mut st, op);
            drop(st);
            return Run::Done(Err(self.tell(refused, &what)));
        }
        // what waits behind a host function comes first, and is in no record
        let defers = !inside && self.settings.outside == Outside::Defer && !host::pending();
        if defers && locked(&self.record).defer(&mut st, op, self.settings.record_limit) {
            if zerogpu_trace::on() {
                let what = what(&mut st, op);
                zerogpu_trace::message(zerogpu_trace::Message::Detail, &format!("{what} is deferred"));
            }
            return Run::Done(Ok(()));
        }
        let why = what(&mut st, op);
        drop(st);
        match self.claim(!inside, &why) {
            Ok(()) => Run::Again,
            Err(e) => Run::Done(Err(e)),
        }
    }

    /// Says in the trace that there is a driver and no card, as soon as that can be known.
    pub fn tell_no_card(&self) {
        let (Ok(d), Ok(mut st)) = (self.below.driver(), runtime::lock_unready()) else { return };
        if let Err(e) = self.cards_there(d, &mut st) {
            report::explain(&e);
        }
    }

    /// Whether the driver can have a card: only where the kernel module is missing is it asked, since its cuInit
    /// takes a while where there is one.
    fn cards_there(&self, d: &Driver, st: &mut State) -> Result<(), String> {
        let ask = || {
            if std::path::Path::new("/proc/driver/nvidia").exists() {
                return Ok(());
            }
            match locked(&self.live).initialize(d, st) {
                Err(f) if f.code == CUresult::NO_DEVICE => Err(claim::NO_CARD.to_string()),
                // a claim asks again, and tells
                _ => Ok(()),
            }
        };
        self.cards.get_or_init(ask).clone()
    }

    /// Whether the time of the open regions is over for a command. Events go on succeeding: PyTorch's deleters record
    /// them, and must not throw.
    #[inline]
    fn refuses(&self, op: &Op) -> bool {
        self.regions.is_over() && !matches!(op, Op::Record(_))
    }

    /// Asks the claimed GPU, inside the gate; None: parked. Waits for a claim or a park in progress. To ask is no use of the
    /// GPU: one that is borrowed goes back however often somebody does.
    fn if_claimed<T>(&self, ask: impl FnOnce() -> T) -> Res<Option<T>> {
        loop {
            if let Some(_pass) = self.gate.enter_to_ask() {
                return Ok(Some(ask()));
            }
            if !self.claimed.load(Ordering::Acquire) {
                return Ok(None);
            }
            self.settle()?;
        }
    }

    /// Binds the process to its context: something in it can't be made anew.
    fn bind_by(&self, what: String) {
        let mut bound = locked(&self.bound);
        if !bound.contains(&what) {
            report::explain(&format!(
                "the context stays on the card from now on, memory does not: it is bound by {what}"
            ));
            bound.push(what);
        }
    }

    /// An error that deferred or late work left behind, told once.
    fn owed(&self) -> Res {
        match self.owed.load(Ordering::Acquire) {
            0 => Ok(()),
            // another thread may have taken it meanwhile
            _ => zerogpu_below::ok(CUresult(self.owed.swap(0, Ordering::AcqRel))),
        }
    }

    /// Leaves an error behind for [`Engine::owed`].
    fn owe(&self, code: CUresult) {
        self.owed.store(code.0, Ordering::Release);
    }
}

/// What is said where `ZEROGPU_OUTSIDE=error` refuses something.
fn outside(what: &str) -> String {
    format!(
        "{what} was called outside any @spaces.GPU function; mark the function that calls it, or set \
         ZEROGPU_OUTSIDE=defer or borrow"
    )
}

/// A text as JSON has it.
fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if (c as u32) < 0x20 => format!("\\u{:04x}", c as u32),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// A command in words, for messages.
fn what(st: &mut State, op: &Op) -> String {
    match op {
        Op::Launch(l) => match st.modules.recorded(l.func) {
            Some(f) => format!("kernel {}", f.kernel.name),
            None => "a kernel".into(),
        },
        Op::Graph(_) => "a CUDA graph".into(),
        Op::Copy(c) => format!("a copy of {} bytes", c.bytes()),
        Op::Fill(_) => "a memset".into(),
        Op::Host(_) => "a host function".into(),
        Op::Record(_) | Op::Wait(_) => "an event".into(),
        Op::Write(_) | Op::Await(_) => "a stream memory operation".into(),
    }
}

//! The watcher: a thread, made at the first claim (with a broker, at the first region), that parks an idle borrowed GPU, ends
//! what is over its deadline, tries a failed park again, and tells the broker what a region may claim.
use super::lender::Lender;
use super::lent::Wanted;
use super::{locked, Engine, Phase};
use crate::fault::contained;
use crate::report;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use zerogpu_device::exec::{is_still, now};
use zerogpu_device::runtime::lock;

/// What whoever has the watcher look shares with it.
#[derive(Default)]
pub struct State {
    /// Whether the thread runs.
    runs: bool,
    /// Whether something changed since it last looked.
    news: bool,
}

/// The watcher's own state.
#[derive(Default)]
pub struct Watch {
    state: Mutex<State>,
    changed: Condvar,
    /// Held while the thread looks, for a fork to wait until it holds no other lock.
    looks: Mutex<()>,
    /// Whether the last region ended where nobody could park. Meant for the claim of that moment: gone with it.
    park: AtomicBool,
    /// Whether the broker has taken the card of the claim back: it is left, whoever has opened a region meanwhile.
    revoked: AtomicBool,
    /// Whether a region began, and the broker does not know yet what it may claim.
    wish: AtomicBool,
}

/// How much longer borrowed work may go on at each look, in nanoseconds.
const BORROWED: u64 = 10_000_000_000;
/// How far a lease's end may be before its regions', or before its own as this process knows it, in nanoseconds: messages take
/// their time where others compute.
const CLOCKS: u64 = 2_000_000_000;
/// How long a lease without a broker waits until it looks for one again: well below the time for which a new broker leases
/// nothing.
const RECONNECT: Duration = Duration::from_millis(100);
/// How long before a lease's end the broker is asked at last to have it last longer.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How long after a look that found bytes moving there is another.
const MOVING: Duration = Duration::from_millis(5);
/// How long after a failed park it is tried again.
const AGAIN: Duration = Duration::from_millis(500);

impl Watch {
    /// Something changed: a claim, a region, a failed park.
    pub fn look_again(&self) {
        let mut s = locked(&self.state);
        s.news = true;
        self.changed.notify_all();
        if !s.runs {
            let watch = || {
                if let Some(e) = super::engine() {
                    e.watch();
                }
            };
            match zerogpu_device::thread::spawn("zerogpu-watch", watch) {
                Ok(()) => s.runs = true,
                Err(e) => report::error(&format!(
                    "no watcher thread could be made ({e}): deadlines are kept only by the hook, and a borrowed GPU stays until \
                     the next region ends; raise the process limit"
                )),
            }
        }
    }

    /// Has the watcher park as soon as it can.
    pub fn park_now(&self) {
        self.park.store(true, Ordering::Release);
        self.look_again();
    }

    /// A claim begins, or has ended: what was wanted of an earlier one is done.
    pub fn begin_claim(&self) {
        self.park.store(false, Ordering::Release);
        self.revoked.store(false, Ordering::Release);
    }

    /// Whether the broker has taken the card of the claim back.
    pub fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// A region began that may claim: the next look tells the broker.
    pub fn wish(&self) {
        self.wish.store(true, Ordering::Release);
    }

    /// Before a fork of a process whose child may use CUDA: waits until the thread is between two looks. What is returned has
    /// to be held across the fork. Before cuInit a look is short: there is nothing to park.
    pub fn hold(&self) -> (MutexGuard<'_, ()>, MutexGuard<'_, State>) {
        // in this order: who looks may want the other
        let looks = locked(&self.looks);
        (looks, locked(&self.state))
    }

    /// In the child of that fork, which has no such thread: its first region or claim makes one.
    pub fn forked(&self, state: &mut State) {
        *state = State::default();
        self.begin_claim();
        self.wish.store(false, Ordering::Release);
    }

    /// Sleeps until something changes, at most `time`.
    fn wait(&self, time: Option<Duration>) {
        let mut s = locked(&self.state);
        if !s.news {
            s = match time {
                Some(t) => self.changed.wait_timeout(s, t).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(s).unwrap_or_else(PoisonError::into_inner),
            };
        }
        s.news = false;
    }
}

/// The claim and the gate's passes that were seen, and since when, in nanoseconds.
type Seen = (u32, u64, u64);

impl Engine {
    fn watch(&'static self) {
        let mut seen = None;
        loop {
            let looks = locked(&self.watch.looks);
            // a fault is no reason to keep a GPU for ever
            let soon = contained(|| self.foretell()).unwrap_or(None);
            let next = contained(|| self.look(&mut seen)).unwrap_or(Some(AGAIN));
            drop(looks);
            self.watch.wait(soon.into_iter().chain(next).min());
        }
    }

    /// Looks once; how long to wait until the next look. `seen`: what was seen last. A claim that is new is not idle, however often something has the watcher look: who made it may not have
    /// come to the gate yet, and would claim again and again.
    fn look(&self, seen: &mut Option<Seen>) -> Option<Duration> {
        let phase = *locked(&self.phase);
        match phase {
            Phase::Claimed { .. } if self.regions.over() || self.watch.is_revoked() => self.leave(seen),
            Phase::Claimed { .. } if self.regions.any() => {
                let deadline = self.regions.latest_deadline();
                let orphan = self.keep_lease(deadline);
                let over = deadline.map(|d| Duration::from_nanos(d.saturating_sub(now()).max(1)));
                over.into_iter().chain(orphan).min()
            }
            Phase::Claimed { .. } if self.watch.park.load(Ordering::Acquire) => self.leave(seen),
            // no region: borrowed, or left over from a park that failed
            Phase::Claimed { .. } => {
                let (epoch, passes, now) = (self.epoch.load(Ordering::Acquire), self.gate.passes(), now());
                let same = seen.filter(|before| (before.0, before.1) == (epoch, passes));
                let since = same.map_or(now, |before| before.2);
                *seen = Some((epoch, passes, since));
                let left = self.settings.idle.saturating_sub(Duration::from_nanos(now - since));
                if same.is_some() && left.is_zero() {
                    self.leave(seen)
                } else {
                    let orphan = self.keep_lease(Some(now + BORROWED));
                    orphan.into_iter().chain([left]).min()
                }
            }
            Phase::Parked | Phase::Lost(_) if self.leave_again() => self.find_broker(),
            Phase::Parked | Phase::Lost(_) => Some(AGAIN),
        }
    }

    /// Tells the broker what the open regions may claim, so that it can bring it to an idle card. How long to wait until it
    /// is tried again.
    fn foretell(&self) -> Option<Duration> {
        let lender = self.lender.as_ref()?;
        if !self.watch.wish.swap(false, Ordering::AcqRel) {
            return None;
        }
        // a claim that is under way says all of it
        let phase = self.phase.try_lock().ok()?;
        if !matches!(*phase, Phase::Parked) || !self.regions.any() || self.regions.over() {
            return None;
        }
        let seconds = match self.regions.latest_deadline() {
            Some(at) => at.saturating_sub(now()) as f64 / 1e9,
            None => f64::INFINITY,
        };
        let mut st = lock().ok()?;
        if !is_still() {
            // what is written now may be copied in part, and would have to be told again
            self.watch.wish.store(true, Ordering::Release);
            return Some(MOVING);
        }
        // under the state's lock to its end: nothing is written, freed or punched between the list and its arrival
        let wanted = Wanted::of(&mut st.memory, &lender.shape()).ok()?;
        if !wanted.slabs.is_empty() && lender.foretell(seconds, &wanted.slabs, &wanted.dirty) {
            wanted.are_told(&mut st.memory).ok()?;
        }
        None
    }

    /// While parked: a context that stays on a card needs a broker, to leave it. How long to wait until the next look.
    fn find_broker(&self) -> Option<Duration> {
        let lender = self.lender.as_ref()?;
        lender.reconnect();
        lender.is_orphan().then_some(AGAIN)
    }

    /// Has the lease last as long as the regions do; a lease that has lost its broker looks for another, again and again.
    /// How long to wait until the next look, at most.
    fn keep_lease(&self, until: Option<u64>) -> Option<Duration> {
        let lender = self.lender.as_ref()?;
        if let Some(why) = lender.reconnect() {
            // it does not know that this process has the card, and gives it to others
            self.revoked(&why);
            return None;
        }
        let until = until.unwrap_or(u64::MAX);
        lender.extend(until);
        if lender.is_orphan() {
            return Some(RECONNECT);
        }
        // it is asked again before it ends: others may not wait any more by then
        let ends = lender.ends().filter(|&ends| ends < until)?;
        Some(Duration::from_nanos(ends.saturating_sub(now()) / 2).max(ASK_AGAIN))
    }

    /// The broker takes the card back.
    pub(super) fn revoked(&self, why: &str) {
        let text = format!("the broker takes the GPU back: {why}");
        // a call whose time is over anyway is nothing to tell of, nor is one that has ended and is parking
        let soon = now().saturating_add(CLOCKS);
        let early = match self.regions.latest_deadline() {
            Some(at) => at > soon,
            None => self.regions.any() || self.lender.as_ref().and_then(Lender::ends).is_some_and(|ends| ends > soon),
        };
        match early {
            true => report::error(&text),
            false => report::explain(&text),
        }
        self.regions.revoke();
        self.watch.revoked.store(true, Ordering::Release);
        self.watch.look_again();
    }

    /// Parks; how long to wait until the next look. `seen`: as in `look`.
    fn leave(&self, seen: &mut Option<Seen>) -> Option<Duration> {
        match self.park() {
            Ok(()) => None,
            Err(e) => {
                // the park's own are no use of the GPU
                if let Some(seen) = seen {
                    seen.1 = self.gate.passes();
                }
                report::error(&e);
                Some(AGAIN)
            }
        }
    }
}

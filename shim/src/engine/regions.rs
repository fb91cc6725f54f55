//! The open regions of the process, and their deadlines.
use crate::fault::contained;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use zerogpu_device::exec::now;
use zerogpu_device::fork::Held;
use zerogpu_device::{runtime, thread};

/// An open region.
struct Region {
    /// Nanoseconds of the monotonic clock; None: no deadline.
    deadline: Option<u64>,
    /// What it was opened with.
    seconds: f64,
    begun: u64,
    thread: u64,
    movable: bool,
    /// Whether nothing runs in it until its hook says so.
    resting: bool,
}

/// The open regions by number, and their clock.
#[derive(Default)]
struct Open {
    regions: HashMap<u64, Region>,
    /// Since when the clock stands still: while the process waits for a card, its calls' time does not run.
    paused: Option<u64>,
    /// Why the last claim for them failed.
    refusal: Option<String>,
    /// Regions that have ended at their deadlines, and whose hooks do not know yet.
    late: HashSet<u64>,
}

impl Open {
    fn clock(&self) -> u64 {
        self.paused.unwrap_or_else(now)
    }

    fn over(&self) -> bool {
        latest(&self.regions).is_some_and(|d| d <= self.clock())
    }

    /// Ends what rests beyond its deadline: whoever left it there may never come back, and others would be refused for it.
    fn end_late(&mut self) {
        let clock = self.clock();
        let is_late = |region: &Region| region.resting && region.deadline.is_some_and(|deadline| deadline <= clock);
        let late: Vec<u64> = self.regions.iter().filter(|(_, region)| is_late(region)).map(|(&id, _)| id).collect();
        for id in late {
            self.regions.remove(&id).iter().for_each(Region::tell);
            self.late.insert(id);
        }
    }
}

impl Region {
    fn tell(&self) {
        zerogpu_trace::span(zerogpu_trace::Span::Region, "region", self.begun, now(), 0);
    }
}

/// All open regions.
#[derive(Default)]
pub struct Regions {
    /// Null until the first; a child of fork begins anew, whoever held the parent's lock.
    open: AtomicPtr<Mutex<Open>>,
    /// How many are open, for readers that take no lock.
    count: AtomicU64,
    /// Whether the latest deadline has passed with regions still open.
    over: AtomicBool,
}

impl Regions {
    fn locked(&self) -> MutexGuard<'_, Open> {
        let (ours, null) = (Ordering::AcqRel, std::ptr::null_mut());
        let mut open = self.open.load(Ordering::Acquire);
        if open.is_null() {
            let new = Box::into_raw(Box::default());
            open = match self.open.compare_exchange(null, new, ours, Ordering::Acquire) {
                Ok(_) => new,
                Err(other) => {
                    // SAFETY: made above and given to nobody.
                    drop(unsafe { Box::from_raw(new) });
                    other
                }
            };
        }
        // SAFETY: made as above, and never freed.
        unsafe { &*open }.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets all regions, in a fresh child of fork: they are the parent's. May only touch atomics.
    fn forget(&self) {
        self.open.store(std::ptr::null_mut(), Ordering::Release);
        self.count.store(0, Ordering::Release);
        self.over.store(false, Ordering::Release);
    }

    /// Opens a region.
    pub fn begin(&self, seconds: f64) -> Result<u64, String> {
        if runtime::forked() {
            return Err("this process was forked from one that uses the GPU; start it with spawn instead".into());
        }
        if seconds.is_nan() || seconds <= 0.0 {
            return Err(format!("the duration of a GPU call must be above 0 seconds, not {seconds}"));
        }
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // an odd multiplier makes the numbers distinct and wide, so that a mixed-up id is seldom another region's
        let id = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        watch_this_thread();
        let mut open = self.locked();
        let deadline = (seconds < 1e9).then(|| open.clock() + (seconds * 1e9) as u64);
        open.regions.insert(
            id,
            Region { deadline, seconds, begun: now(), thread: thread::id(), movable: false, resting: false },
        );
        self.settle(&mut open);
        Ok(id)
    }

    /// What readers see that take no lock.
    fn settle(&self, open: &mut Open) -> bool {
        open.end_late();
        if open.regions.is_empty() {
            open.refusal = None;
        }
        let over = open.over();
        self.count.store(open.regions.len() as u64, Ordering::Release);
        self.over.store(over, Ordering::Release);
        over
    }

    /// Notes how a claim for the open regions ended; the error is why there is no GPU.
    pub fn note_claim(&self, outcome: Result<(), String>) {
        let mut open = self.locked();
        open.refusal = outcome.err().filter(|_| !open.regions.is_empty());
    }

    /// The seconds that the open region was opened with whose time ends last; without a limit where none is open any more.
    pub fn asked(&self) -> f64 {
        let open = self.locked();
        let end = |region: &&Region| region.deadline.unwrap_or(u64::MAX);
        open.regions.values().max_by_key(end).map_or(f64::INFINITY, |region| region.seconds)
    }

    /// Why the open regions have no GPU, if the last claim for them failed.
    pub fn refusal(&self) -> Option<String> {
        self.locked().refusal.clone()
    }

    /// Whether this region is open.
    pub fn is_open(&self, id: u64) -> bool {
        self.locked().regions.contains_key(&id)
    }

    /// Closes a region: Some(whether it was the last), None: there is none of this number.
    pub fn end(&self, id: u64) -> Option<bool> {
        let mut open = self.locked();
        if open.late.remove(&id) {
            return Some(false);
        }
        let ended = open.regions.remove(&id)?;
        // of those that stay, the time may be over already
        self.settle(&mut open);
        let last = open.regions.is_empty();
        drop(open);
        ended.tell();
        Some(last)
    }

    /// Lets the clock of all regions stand still until [`Regions::resume`].
    pub fn pause(&self) {
        let mut open = self.locked();
        open.paused = Some(open.clock());
    }

    /// Lets it run again: no region has lost time.
    pub fn resume(&self) {
        let mut open = self.locked();
        let Some(since) = open.paused.take() else { return };
        let stood = now().saturating_sub(since);
        for deadline in open.regions.values_mut().filter_map(|region| region.deadline.as_mut()) {
            *deadline += stood;
        }
    }

    /// The card was taken back: the time of the regions that are open is over. One that begins later has its own.
    pub fn revoke(&self) {
        let mut open = self.locked();
        let clock = open.clock();
        for region in open.regions.values_mut() {
            region.deadline = Some(region.deadline.map_or(clock, |deadline| deadline.min(clock)));
        }
        self.settle(&mut open);
    }

    /// Closes what a thread left open.
    fn end_of_thread(&self, thread: u64) -> Vec<u64> {
        let open = self.locked();
        open.regions.iter().filter(|(_, r)| r.thread == thread && !r.movable).map(|(&id, _)| id).collect()
    }

    /// Lets a region outlive its thread.
    pub fn set_movable(&self, id: u64) -> bool {
        self.locked().regions.get_mut(&id).map(|r| r.movable = true).is_some()
    }

    /// Says whether a region rests; false: there is none of this number.
    pub fn set_resting(&self, id: u64, resting: bool) -> bool {
        let mut open = self.locked();
        let found = open.regions.get_mut(&id).map(|region| region.resting = resting).is_some();
        if found && resting {
            self.settle(&mut open);
        }
        found || open.late.contains(&id)
    }

    /// Whether a region's own deadline has passed.
    pub fn expired(&self, id: u64) -> bool {
        let open = self.locked();
        if open.late.contains(&id) {
            return true;
        }
        let region = open.regions.get(&id);
        region.is_some_and(|r| r.deadline.is_some_and(|d| d <= open.clock()))
    }

    /// Whether any region is open.
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// How many are open.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// The moment at which the last of the open regions expires; None: none is open, or one has no deadline.
    pub fn latest_deadline(&self) -> Option<u64> {
        latest(&self.locked().regions)
    }

    /// Whether [`Regions::over`] was found before: one load, for the hot path (the watcher looks at the clock).
    #[inline]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Whether the time of all open regions is over: device work is refused until they have ended.
    pub fn over(&self) -> bool {
        if self.over.load(Ordering::Acquire) {
            return true;
        }
        // found and noted under one lock: a region that begins meanwhile has time
        let mut open = self.locked();
        open.over() && self.settle(&mut open)
    }
}

fn latest(open: &HashMap<u64, Region>) -> Option<u64> {
    open.values().map(|r| r.deadline).collect::<Option<Vec<u64>>>()?.into_iter().max()
}

/// The key whose destructor tells that a thread with a region has ended. Made at the first region, which is also when forks
/// begin to be watched: cuInit may come later, or never.
static KEY: OnceLock<Option<libc::pthread_key_t>> = OnceLock::new();

extern "C" fn thread_ended(thread: *mut libc::c_void) {
    // the driver's own records of this thread may be gone already: the watcher parks
    contained(|| {
        let Some(e) = super::engine().filter(|_| !runtime::forked()) else { return };
        for id in e.regions.end_of_thread(thread as u64) {
            match e.regions.end(id) {
                Some(true) => {
                    e.call_off();
                    e.watch.park_now();
                }
                Some(false) => e.earlier_deadline(),
                None => {}
            }
        }
    });
}

type Locks = (MutexGuard<'static, ()>, MutexGuard<'static, super::watch::State>);

/// The watcher's locks, across a fork.
// SAFETY: there is one engine, and so one watcher.
static HELD: Held<Locks> = unsafe { Held::new() };

extern "C" fn before_fork() {
    contained(|| {
        // a child of a process that has said cuInit is refused, and needs no lock
        let needed = |_: &&_| runtime::ready().is_err() && !runtime::forked();
        HELD.hold(|| super::engine().filter(needed).map(|e| e.watch.hold()));
    });
}

extern "C" fn forked_in_parent() {
    contained(|| drop(HELD.take()));
}

extern "C" fn forked() {
    contained(|| {
        let Some(e) = super::engine() else { return };
        e.regions.forget();
        if let Some((_looks, mut state)) = HELD.take() {
            e.watch.forked(&mut state);
        }
    });
}

fn watch_this_thread() {
    let key = KEY.get_or_init(|| {
        // SAFETY: the handlers are plain functions that live as long as the library, which is never unloaded.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(forked_in_parent), Some(forked)) };
        let mut key = 0;
        // SAFETY: writes the key; the destructor is a function of this library, which is never unloaded.
        (unsafe { libc::pthread_key_create(&mut key, Some(thread_ended)) } == 0).then_some(key)
    });
    if let Some(key) = *key {
        // SAFETY: a key that was made; the value is a number, never dereferenced.
        unsafe { libc::pthread_setspecific(key, thread::id() as *const libc::c_void) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_out_is_told() {
        let r = Regions::default();
        let (a, b) = (r.begin(1.0).unwrap(), r.begin(f64::INFINITY).unwrap());
        assert!(a != b && r.any() && r.asked() == f64::INFINITY);
        assert_eq!(r.end(a), Some(false));
        assert_eq!(r.end(a), None);
        assert_eq!(r.end(b), Some(true));
        assert!(!r.any());
    }

    #[test]
    fn time_is_over_when_the_latest_deadline_has_passed() {
        let r = Regions::default();
        let a = r.begin(1e-9).unwrap();
        while !r.over() {}
        assert!(r.expired(a));
        let b = r.begin(60.0).unwrap();
        assert!(!r.over() && r.expired(a) && !r.expired(b));
        r.end(b);
        assert!(r.over());
        r.end(a);
        assert!(!r.over());
    }

    #[test]
    fn a_region_loses_no_time_while_the_process_waits_for_a_card() {
        let r = Regions::default();
        r.pause();
        let a = r.begin(1e-6).unwrap();
        let later = now() + 2_000_000;
        while now() < later {}
        assert!(!r.over() && !r.expired(a));
        let before = now();
        r.resume();
        assert!(r.latest_deadline().unwrap() > before);
        while !r.over() {}
        r.end(a);
    }

    #[test]
    fn a_region_that_rests_beyond_its_deadline_ends_there() {
        let r = Regions::default();
        let a = r.begin(1e-9).unwrap();
        assert!(r.set_resting(a, true) && !r.set_resting(a + 1, true));
        let later = now() + 1_000_000;
        while now() < later {}
        assert!(!r.over() && !r.any(), "nobody else is refused for it");
        assert!(r.expired(a) && r.set_resting(a, false), "its hook hears of it");
        assert_eq!((r.end(a), r.end(a)), (Some(false), None));
        // one that has come back in time goes on, and the last to end takes along what rests
        r.pause();
        let (b, c) = (r.begin(0.01).unwrap(), r.begin(60.0).unwrap());
        assert!(r.set_resting(b, true) && r.set_resting(b, false));
        r.resume();
        while !r.expired(b) {}
        assert!(!r.over() && r.count() == 2, "it runs");
        assert!(r.set_resting(b, true));
        assert_eq!((r.end(c), r.any(), r.expired(b)), (Some(true), false, true));
    }

    #[test]
    fn a_card_that_is_taken_back_ends_the_time_of_those_that_are_open() {
        let r = Regions::default();
        r.revoke();
        assert!(!r.over());
        let (a, b) = (r.begin(60.0).unwrap(), r.begin(f64::INFINITY).unwrap());
        r.revoke();
        assert!(r.over() && r.expired(a) && r.expired(b));
        r.end(a);
        assert!(r.over(), "the other is still open");
        // calls that overlap for ever: those that came later go on
        let c = r.begin(60.0).unwrap();
        assert!(!r.over() && !r.expired(c) && r.expired(b));
        r.end(b);
        assert!(!r.over() && !r.expired(c));
        r.end(c);
    }

    #[test]
    fn a_child_has_no_regions() {
        let r = Regions::default();
        let a = r.begin(60.0).unwrap();
        let held = r.locked();
        r.forget();
        assert!(!r.any() && r.end(a).is_none());
        assert!(r.begin(60.0).is_ok() && r.count() == 1);
        drop(held);
    }

    #[test]
    fn why_there_is_no_gpu_is_known_until_there_is_one_or_nobody_asks_any_more() {
        let r = Regions::default();
        let no = || Err("all are taken".to_string());
        r.note_claim(no());
        assert_eq!(r.refusal(), None, "no region is open");
        let (a, b) = (r.begin(60.0).unwrap(), r.begin(60.0).unwrap());
        r.note_claim(no());
        r.end(a);
        assert_eq!(r.refusal().as_deref(), Some("all are taken"));
        r.note_claim(Ok(()));
        assert_eq!(r.refusal(), None);
        r.note_claim(no());
        r.end(b);
        assert_eq!(r.refusal(), None);
    }

    #[test]
    fn nonsense_is_refused() {
        let r = Regions::default();
        for bad in [0.0, -1.0, f64::NAN] {
            assert!(r.begin(bad).is_err());
        }
    }
}

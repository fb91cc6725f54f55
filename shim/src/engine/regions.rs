//! The open regions of the process, and their deadlines.
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use zerogpu_device::exec::now;
use zerogpu_device::{runtime, thread};

/// An open region.
struct Region {
    /// Nanoseconds of the monotonic clock; None: no deadline.
    deadline: Option<u64>,
    begun: u64,
    thread: u64,
    movable: bool,
}

/// All open regions.
#[derive(Default)]
pub struct Regions {
    open: Mutex<HashMap<u64, Region>>,
    /// How many are open, for readers that take no lock.
    count: AtomicU64,
    /// Whether the latest deadline has passed with regions still open.
    over: AtomicBool,
}

impl Regions {
    fn locked(&self) -> MutexGuard<'_, HashMap<u64, Region>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a region.
    pub fn begin(&self, seconds: f64) -> Result<u64, String> {
        if runtime::forked() {
            return Err("this process was forked from one that uses the GPU; start it with spawn instead".into());
        }
        if seconds.is_nan() || seconds <= 0.0 {
            return Err(format!("a region needs a duration above 0 seconds, not {seconds}"));
        }
        let deadline = (seconds < 1e9).then(|| now() + (seconds * 1e9) as u64);
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // an odd multiplier makes the numbers distinct and wide, so that a mixed-up id is seldom another region's
        let id = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        watch_this_thread();
        let mut open = self.locked();
        open.insert(id, Region { deadline, begun: now(), thread: thread::id(), movable: false });
        self.count.store(open.len() as u64, Ordering::Release);
        self.over.store(false, Ordering::Release);
        Ok(id)
    }

    /// Closes a region: Some(whether it was the last), None: there is none of this number.
    pub fn end(&self, id: u64) -> Option<bool> {
        let mut open = self.locked();
        let ended = open.remove(&id)?;
        self.count.store(open.len() as u64, Ordering::Release);
        // of those that stay, the time may be over already
        let over = latest(&open).is_some_and(|d| d <= now());
        self.over.store(over, Ordering::Release);
        let last = open.is_empty();
        drop(open);
        zerogpu_trace::span(zerogpu_trace::Span::Region, "region", ended.begun, now(), 0);
        Some(last)
    }

    /// Closes what a thread left open.
    fn end_of_thread(&self, thread: u64) -> Vec<u64> {
        let open = self.locked();
        open.iter().filter(|(_, r)| r.thread == thread && !r.movable).map(|(&id, _)| id).collect()
    }

    /// Lets a region outlive its thread.
    pub fn set_movable(&self, id: u64) -> bool {
        self.locked().get_mut(&id).map(|r| r.movable = true).is_some()
    }

    /// Whether a region's own deadline has passed.
    pub fn expired(&self, id: u64) -> bool {
        self.locked().get(&id).is_some_and(|r| r.deadline.is_some_and(|d| d <= now()))
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
        latest(&self.locked())
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
        let open = self.locked();
        let over = latest(&open).is_some_and(|d| d <= now());
        if over {
            self.over.store(true, Ordering::Release);
        }
        over
    }
}

fn latest(open: &HashMap<u64, Region>) -> Option<u64> {
    open.values().map(|r| r.deadline).collect::<Option<Vec<u64>>>()?.into_iter().max()
}

/// The key whose destructor tells that a thread with a region has ended. Made at the first region.
static KEY: OnceLock<Option<libc::pthread_key_t>> = OnceLock::new();

extern "C" fn thread_ended(thread: *mut libc::c_void) {
    // the driver's own records of this thread may be gone already: the watcher parks
    if let Some(e) = super::engine().filter(|_| !runtime::forked()) {
        for id in e.regions.end_of_thread(thread as u64) {
            if e.regions.end(id) == Some(true) {
                e.watch.park_now(e);
            }
        }
    }
}

fn watch_this_thread() {
    let key = KEY.get_or_init(|| {
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
        assert!(a != b && r.any());
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
    fn nonsense_is_refused() {
        let r = Regions::default();
        for bad in [0.0, -1.0, f64::NAN] {
            assert!(r.begin(bad).is_err());
        }
    }
}

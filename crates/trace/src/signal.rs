//! How producers and the writer thread wake each other: three futex words, private to the process.
//!
//! The writer naps between batches and sleeps when there is nothing to do, so that a producer pays for a wake-up at most
//! once per nap. A sleeping writer is never overlooked: it says ASLEEP and then looks at the ring's head; a producer moves
//! the head and then looks for ASLEEP (all four sequentially consistent), so at least one of them sees the other.
use crate::ring::{Ring, Written};
use crate::sys;
use crossbeam_utils::Backoff;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// The writer is at work or naps.
const BUSY: u32 = 0;
/// The writer sleeps until there is a record.
const ASLEEP: u32 = 1;
/// The writer shall look at the ring now.
const PRESSED: u32 = 2;

const RUNNING: u32 = 0;
const FAILED: u32 = 1;
const ENDED: u32 = 2;

/// How long records may lie in the ring before they are written.
const NAP: Duration = Duration::from_millis(2);

/// The words, and what is said with them.
#[derive(Default)]
pub struct Signal {
    wake: AtomicU32,
    /// Counts the times that the writer freed slots.
    room: AtomicU32,
    state: AtomicU32,
}

impl Signal {
    /// A producer has written a record. The writer is woken if it sleeps, or if a quarter of the ring has been filled.
    #[inline]
    pub fn wrote(&self, written: &Written, ring_slots: u64) {
        let quarter = ring_slots / 4;
        let crossed = written.position / quarter != (written.position + written.slots) / quarter;
        if crossed || self.wake.load(SeqCst) == ASLEEP {
            self.press();
        }
    }

    /// Has the writer look at the ring now.
    #[cold]
    pub fn press(&self) {
        if self.wake.swap(PRESSED, SeqCst) != PRESSED {
            sys::wake(&self.wake);
        }
    }

    /// A producer waits until there is room. False: the writer has failed, there will be none.
    #[cold]
    pub fn wait_for_room(&self, has_room: &dyn Fn() -> bool) -> bool {
        let backoff = Backoff::new();
        loop {
            let epoch = self.room.load(SeqCst);
            if has_room() {
                return true;
            }
            if self.state.load(SeqCst) != RUNNING {
                return false;
            }
            self.press();
            if backoff.is_completed() {
                sys::sleep_while(&self.room, epoch, None);
            } else {
                backoff.snooze();
            }
        }
    }

    /// The writer is about to look at the ring.
    pub fn look(&self) {
        self.wake.store(BUSY, SeqCst);
    }

    /// The writer has freed slots.
    pub fn freed(&self) {
        self.room.fetch_add(1, SeqCst);
        sys::wake(&self.room);
    }

    /// The writer waits for more to write at once, unless it was pressed since it looked.
    pub fn nap(&self) {
        sys::sleep_while(&self.wake, BUSY, Some(NAP));
    }

    /// The writer sleeps until someone takes a slot after `tail`, or closes the ring.
    pub fn sleep(&self, ring: &Ring, tail: u64) {
        // a press since the last look stays visible: then there is something to do
        if self.wake.compare_exchange(BUSY, ASLEEP, SeqCst, SeqCst).is_ok() && ring.head() == (tail, false) {
            sys::sleep_while(&self.wake, ASLEEP, None);
        }
    }

    /// The writer is done, or can't go on.
    pub fn end(&self, failed: bool) {
        self.state.store(if failed { FAILED } else { ENDED }, SeqCst);
        self.freed();
        sys::wake(&self.state);
    }

    /// Waits for the writer's end; false if that takes longer than `limit`.
    pub fn wait_for_end(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.state.load(SeqCst) == RUNNING {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) else {
                return false;
            };
            sys::sleep_while(&self.state, RUNNING, Some(left));
        }
        true
    }
}

//! The gate's state, and what entering, leaving, opening and closing do to it.

use crate::record::{Record, Records};
use crate::sys::{self, AtomicU32, Event, Ordering};
use std::fmt;
use std::marker::PhantomData;

/// Nobody is let in, and the close that said so has found all others out.
const CLOSED: u32 = 0;
/// Nobody is let in; somebody waits until all have left.
const CLOSING: u32 = 1;
/// Threads are let in.
const OPEN: u32 = 2;
/// Threads are let in, and fence as they pass: there is no `membarrier`.
const OPEN_FENCED: u32 = 3;
/// The bits of the state that hold one of the above. The others count openings, so that a close which slept through an
/// open and another close knows that what it saw is out of date.
const KIND: u32 = 3;
const OPENING: u32 = KIND + 1;

/// Lets threads pass, or keeps them out; see the [crate].
///
/// [`open`](Gate::open) and [`close`](Gate::close) may be called by any thread at any time; the last one has its way.
#[repr(align(128))] // no neighbour's writes slow the threads that pass
pub struct Gate {
    state: AtomicU32,
    records: Records,
    /// Happens when a close may have to look again.
    changed: Event,
}

/// Leave to be inside; ends when dropped, on the thread that entered:
///
/// ```compile_fail,E0277
/// fn goes_to_another_thread<T: Send>() {}
/// goes_to_another_thread::<zerogpu_gate::Pass>();
/// ```
#[must_use = "the thread leaves as soon as its pass is dropped"]
pub struct Pass {
    record: &'static Record,
    _of_this_thread: PhantomData<*const ()>,
}

/// Why [`Gate::close`] did not close the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseError {
    /// The calling thread is inside: it would wait for itself. Nothing has changed.
    Inside,
    /// Another thread opened the gate before all had left.
    Reopened,
    /// `membarrier` worked when the gate was opened and now fails with this `errno` (a seccomp filter set since). Who is
    /// inside cannot be known, so the gate is open again.
    Barrier(i32),
}

impl Gate {
    /// A closed gate.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Gate { state: AtomicU32::new(CLOSED), records: Records::new(), changed: Event::new() }
    }

    /// A closed gate.
    #[cfg(loom)]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Gate { state: AtomicU32::new(CLOSED), records: Records::new(), changed: Event::new() }
    }

    /// Enters if the gate is open, or if the calling thread is inside already (a driver's callback). Never waits. A
    /// thread's first entry allocates its record.
    #[inline]
    pub fn enter(&'static self) -> Option<Pass> {
        let pass = self.enter_to_ask()?;
        pass.record.count_entry();
        Some(pass)
    }

    /// As [`enter`](Gate::enter), for a look that leaves no work behind: it does not count among the
    /// [`passes`](Gate::passes).
    #[inline]
    pub fn enter_to_ask(&'static self) -> Option<Pass> {
        let record = Record::of_this_thread(self);
        let depth = record.deepen();
        if depth == 0 {
            sys::light_fence();
            if self.state.load(Ordering::Acquire) & KIND != OPEN && !self.admits_fenced(record) {
                return None;
            }
        }
        Some(Pass { record, _of_this_thread: PhantomData })
    }

    /// Enters whatever the gate's state: for a callback on a thread of the driver's own (a host function), which a
    /// thread that has closed the gate may be waiting for. A close waits for those it finds inside; whoever closes must
    /// have drained what calls back before counting on their absence.
    pub fn enter_callback(&'static self) -> Pass {
        let record = Record::of_this_thread(self);
        record.deepen();
        record.count_entry();
        Pass { record, _of_this_thread: PhantomData }
    }

    /// Lets threads in. What the caller did before is visible to those that enter. No effect on an open gate; a close
    /// that still waits gives up with [`CloseError::Reopened`].
    pub fn open(&self) {
        let open = if sys::membarrier_works() { OPEN } else { OPEN_FENCED };
        let opened = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            matches!(state & KIND, CLOSED | CLOSING).then(|| (state & !KIND).wrapping_add(OPENING) | open)
        });
        if opened.is_ok_and(|before| before & KIND == CLOSING) {
            self.changed.signal();
        }
    }

    /// Lets nobody in any more, and sleeps until every thread has left. What they did inside is visible to the caller.
    /// No effect on a closed gate; if another thread is closing it, both wait.
    ///
    /// # Errors
    /// [`CloseError::Inside`], [`CloseError::Reopened`] or [`CloseError::Barrier`].
    pub fn close(&self) -> Result<(), CloseError> {
        if self.is_inside() {
            return Err(CloseError::Inside);
        }
        let closing = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            matches!(state & KIND, OPEN | OPEN_FENCED).then_some((state & !KIND) | CLOSING)
        });
        let mine = match closing {
            Ok(open) => (open & !KIND) | CLOSING,
            Err(state) if state & KIND == CLOSED => return Ok(()),
            Err(state) => state,
        };
        // Also by a thread that joins another's close: the fence must stand between its own look at the state and at the
        // records.
        if let Err(errno) = sys::heavy_fence() {
            self.open();
            return Err(CloseError::Barrier(errno));
        }
        let closed = (mine & !KIND) | CLOSED;
        if self.records.iter().all(|record| self.wait_for(record, mine))
            && self.state.compare_exchange(mine, closed, Ordering::AcqRel, Ordering::Acquire).is_ok()
        {
            // Another close may have seen a thread that was on its way back out, and that wakes nobody once it sees the
            // gate closed.
            self.changed.signal();
            return Ok(());
        }
        // Another close was faster, or the gate has been opened.
        if self.state.load(Ordering::Acquire) == closed {
            return Ok(());
        }
        Err(CloseError::Reopened)
    }

    /// Whether the calling thread is inside.
    pub fn is_inside(&self) -> bool {
        Record::find(self).is_some_and(|record| record.depth() != 0)
    }

    /// Entries so far, of all threads, nested ones included, but not of those that only ask; it never falls. If it stands still,
    /// nobody has entered for work (but somebody may still be inside).
    pub fn passes(&self) -> u64 {
        self.records.iter().map(Record::entries).sum()
    }

    /// To be called in the child of a fork, on its only thread, before anything else is done with the gate: it is closed,
    /// and the parent's other threads are forgotten. If the fork happened inside, the calling thread still is.
    pub fn after_fork_in_child(&self) {
        sys::forget_membarrier();
        let closed = (self.state.load(Ordering::Relaxed) & !KIND).wrapping_add(OPENING) | CLOSED;
        self.state.store(closed, Ordering::Relaxed);
        let mine = Record::find(self);
        for record in self.records.iter() {
            if !mine.is_some_and(|mine| std::ptr::eq(mine, record)) {
                record.hand_back();
            }
        }
    }

    pub(crate) fn records(&self) -> &Records {
        &self.records
    }

    /// To be called by a thread that is no longer inside: a close may be waiting for it.
    #[inline]
    pub(crate) fn left(&self) {
        sys::light_fence();
        if self.state.load(Ordering::Relaxed) & KIND != OPEN {
            self.wake_closers();
        }
    }

    #[cold]
    fn wake_closers(&self) {
        sys::fence_without_membarrier();
        if self.state.load(Ordering::Relaxed) & KIND == CLOSING {
            self.changed.signal();
        }
    }

    /// Looks again, with a fence if it takes one; `false` if the thread is outside again.
    #[cold]
    fn admits_fenced(&self, record: &Record) -> bool {
        sys::fence_without_membarrier();
        let open = matches!(self.state.load(Ordering::Acquire) & KIND, OPEN | OPEN_FENCED);
        if !open {
            record.rise();
            self.left();
        }
        open
    }

    /// Sleeps until the record's thread is outside; `false` if the state is no longer `mine`.
    fn wait_for(&self, record: &Record, mine: u32) -> bool {
        loop {
            let seen = self.changed.seen();
            if record.depth() == 0 {
                return true;
            }
            if self.state.load(Ordering::Acquire) != mine {
                return false;
            }
            self.changed.wait(seen);
        }
    }
}

#[cfg(not(loom))]
impl Default for Gate {
    fn default() -> Self {
        Gate::new()
    }
}

impl Drop for Pass {
    #[inline]
    fn drop(&mut self) {
        if self.record.rise() == 0 {
            self.record.gate().left();
        }
    }
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseError::Inside => f.write_str("the calling thread is inside the gate that it would close"),
            CloseError::Reopened => f.write_str("another thread opened the gate while it was being closed"),
            CloseError::Barrier(errno) => {
                write!(f, "membarrier, which worked before: {}", std::io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

impl std::error::Error for CloseError {}

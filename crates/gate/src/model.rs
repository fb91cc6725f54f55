//! `sys.rs` in the world of loom.

pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use loom::sync::atomic::fence;
use loom::sync::{Condvar, Mutex};
use std::sync::atomic::AtomicBool as PlainBool;

/// Part of the model's set-up, not of the model: a thing of std.
static MEMBARRIER: PlainBool = PlainBool::new(true);

/// Whether the next models have `membarrier`.
pub fn set_membarrier(works: bool) {
    MEMBARRIER.store(works, Ordering::SeqCst);
}

pub(crate) fn membarrier_works() -> bool {
    MEMBARRIER.load(Ordering::SeqCst)
}

pub(crate) fn forget_membarrier() {}

pub(crate) fn light_fence() {
    if membarrier_works() {
        fence(Ordering::SeqCst);
    }
}

pub(crate) fn fence_without_membarrier() {
    if !membarrier_works() {
        fence(Ordering::SeqCst);
    }
}

pub(crate) fn heavy_fence() -> Result<(), i32> {
    fence(Ordering::SeqCst);
    Ok(())
}

/// A futex: the kernel compares the word and falls asleep under a lock that waking takes as well.
pub(crate) struct Event {
    count: AtomicU32,
    kernel: Mutex<()>,
    asleep: Condvar,
}

impl Event {
    pub fn new() -> Self {
        Event { count: AtomicU32::new(0), kernel: Mutex::new(()), asleep: Condvar::new() }
    }

    pub fn seen(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    pub fn signal(&self) {
        self.count.fetch_add(1, Ordering::Release);
        let _kernel = self.kernel.lock().unwrap();
        self.asleep.notify_all();
    }

    pub fn wait(&self, seen: u32) {
        let kernel = self.kernel.lock().unwrap();
        if self.count.load(Ordering::Relaxed) == seen {
            drop(self.asleep.wait(kernel).unwrap());
        }
    }
}

pub(crate) mod slot {
    use crate::record::{thread_ended, Record};
    use std::cell::Cell;

    struct Slot(Cell<Option<&'static Record>>);

    impl Drop for Slot {
        fn drop(&mut self) {
            thread_ended(self.0.take());
        }
    }

    loom::thread_local! {
        static FIRST: Slot = Slot(Cell::new(None));
    }

    pub(crate) fn get() -> Option<&'static Record> {
        FIRST.with(|first| first.0.get())
    }

    pub(crate) fn set(record: &'static Record) {
        FIRST.with(|first| first.0.set(Some(record)));
    }
}

//! Which process this is, in a line of forks.
//!
//! What a process owns must not pass to its forked child. So each piece of such state carries the generation of the
//! process that made it, and a piece of another generation counts as absent. A process id would not do: a child in a new
//! pid namespace may have its parent's.

use crate::sys;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(1);
static WATCHING: AtomicBool = AtomicBool::new(false);

unsafe extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Starts counting forks. Nothing that carries a generation may be made before.
pub(crate) fn watch() -> io::Result<()> {
    // Two threads may both come here; a fork that counts twice is still another generation.
    if !WATCHING.load(Ordering::Acquire) {
        sys::at_fork(in_child)?;
        WATCHING.store(true, Ordering::Release);
    }
    Ok(())
}

/// The generation of this process: never 0, and not its parent's.
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// A number that belongs to one process of the line. In a forked child it reads as empty.
#[derive(Debug, Default)]
pub(crate) struct Owned(AtomicU64);

impl Owned {
    /// The number, if this process put it there.
    pub(crate) fn get(&self) -> Option<u32> {
        let word = self.0.load(Ordering::Acquire);
        (word >> 32 == u64::from(generation())).then_some(word as u32)
    }

    /// Puts a number there if none of this process is there. True on success.
    pub(crate) fn set(&self, value: u32) -> bool {
        let old = self.0.load(Ordering::Acquire);
        let free = old >> 32 != u64::from(generation());
        let new = u64::from(generation()) << 32 | u64::from(value);
        free && self.0.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Takes the number away.
    pub(crate) fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// A lock between the threads of one process. A forked child finds it free, whoever held it in the parent.
#[derive(Debug)]
pub(crate) struct ThreadLock(Owned);

impl ThreadLock {
    /// A free lock.
    pub(crate) const fn new() -> ThreadLock {
        ThreadLock(Owned(AtomicU64::new(0)))
    }

    /// Waits for the lock. It is held for a few system calls.
    pub(crate) fn lock(&self) -> ThreadGuard<'_> {
        while !self.0.set(0) {
            std::thread::yield_now();
        }
        ThreadGuard(self)
    }
}

/// Frees the lock when dropped.
pub(crate) struct ThreadGuard<'a>(&'a ThreadLock);

impl Drop for ThreadGuard<'_> {
    fn drop(&mut self) {
        self.0 .0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_set_once_and_cleared() {
        let owned = Owned::default();
        assert_eq!(owned.get(), None);
        assert!(owned.set(7));
        assert!(!owned.set(8));
        assert_eq!(owned.get(), Some(7));
        owned.clear();
        assert_eq!(owned.get(), None);
    }

    #[test]
    fn the_lock_lets_one_thread_in_at_a_time() {
        let lock = ThreadLock::new();
        let count = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let _guard = lock.lock();
                        // Not one atomic step: without the lock, steps would be lost.
                        let seen = count.load(Ordering::Relaxed);
                        std::hint::spin_loop();
                        count.store(seen + 1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 4000);
    }
}

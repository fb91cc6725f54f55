//! Locks that a thread holds across its own fork, from one handler of `pthread_atfork` to the next.
use crate::thread;
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where they lie meanwhile. Several threads may fork at once, and from glibc 2.36 on no lock of its own keeps their handlers
/// apart (BZ 24595): each takes back what it has put here itself, and leaves alone what is another's.
pub struct Held<T> {
    /// The thread whose they are, by [`thread::id`], which a child has from its parent; 0: there are none.
    owner: AtomicU64,
    locks: UnsafeCell<Option<T>>,
}

// SAFETY: only the thread that `owner` names touches the cell. Each writes its own name there after it has taken the locks and
// before it gives them back, so none reads its own while another has them; see `new` for why only one can have them.
unsafe impl<T> Sync for Held<T> {}

impl<T> Held<T> {
    /// Nothing yet.
    ///
    /// # Safety
    /// Every `T` that [`Held::hold`] is given holds the same mutex.
    pub const unsafe fn new() -> Self {
        Self { owner: AtomicU64::new(0), locks: UnsafeCell::new(None) }
    }

    fn is_ours(&self) -> bool {
        self.owner.load(Ordering::Relaxed) == thread::id()
    }

    /// Before the fork: takes the locks, unless `lock` has none to give. A handler that is registered more than once runs more
    /// than once, and takes them once.
    pub fn hold(&self, lock: impl FnOnce() -> Option<T>) {
        if self.is_ours() {
            return;
        }
        if let Some(locks) = lock() {
            // SAFETY: this thread has the locks, and who had them before has taken its name away.
            unsafe { *self.locks.get() = Some(locks) };
            self.owner.store(thread::id(), Ordering::Relaxed);
        }
    }

    /// After the fork, in the parent and in the child: the locks, if this thread has put them here.
    pub fn take(&self) -> Option<T> {
        if !self.is_ours() {
            return None;
        }
        self.owner.store(0, Ordering::Relaxed);
        // SAFETY: they were this thread's, and are until the caller gives them back.
        unsafe { (*self.locks.get()).take() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, MutexGuard};

    static LOCK: Mutex<u32> = Mutex::new(0);

    fn lock() -> Option<MutexGuard<'static, u32>> {
        LOCK.lock().ok()
    }

    #[test]
    fn another_threads_locks_are_left_alone() {
        // SAFETY: all hold LOCK.
        static HELD: Held<MutexGuard<u32>> = unsafe { Held::new() };
        assert!(HELD.take().is_none());
        HELD.hold(lock);
        HELD.hold(|| unreachable!("a handler that runs twice"));
        let forks = std::thread::spawn(|| {
            assert!(HELD.take().is_none(), "the other thread's");
            // waits until it has forked
            HELD.hold(lock);
            let locks = HELD.take().expect("its own");
            assert_eq!(*locks, 1, "what the other one did");
        });
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(LOCK.try_lock().is_err(), "still locked");
        let mut locks = HELD.take().expect("our own");
        *locks = 1;
        drop(locks);
        forks.join().unwrap();
        assert!(HELD.take().is_none());
    }

    #[test]
    fn where_there_are_none_nothing_is_held() {
        // SAFETY: all hold LOCK.
        static HELD: Held<MutexGuard<u32>> = unsafe { Held::new() };
        HELD.hold(|| None);
        assert!(HELD.take().is_none());
    }

    #[test]
    fn many_threads_fork_at_once() {
        const FORKS: u32 = 1000;
        static SUM: Mutex<u32> = Mutex::new(0);
        // SAFETY: all hold SUM.
        static HELD: Held<MutexGuard<u32>> = unsafe { Held::new() };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..FORKS {
                        HELD.hold(|| SUM.lock().ok());
                        // the fork
                        std::thread::yield_now();
                        *HELD.take().expect("its own") += 1;
                    }
                });
            }
        });
        assert_eq!(*SUM.lock().unwrap(), 4 * FORKS);
    }
}

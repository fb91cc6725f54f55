//! Something that happens, and that threads can wait for: a counter that is a futex.

use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) struct Event(AtomicU32);

impl Event {
    pub const fn new() -> Self {
        Event(AtomicU32::new(0))
    }

    /// How often it has happened. What was done before each time is visible to the caller.
    pub fn seen(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// It happens: all waiting threads go on.
    pub fn signal(&self) {
        self.0.fetch_add(1, Ordering::Release);
        self.futex(libc::FUTEX_WAKE, i32::MAX as u32);
    }

    /// Sleeps if it has not happened again since `seen`. May return early: the caller looks again.
    pub fn wait(&self, seen: u32) {
        self.futex(libc::FUTEX_WAIT, seen);
    }

    /// Of its errors, EAGAIN and EINTR mean "look again", and no other can occur.
    fn futex(&self, operation: libc::c_int, value: u32) {
        let no_timeout = std::ptr::null::<libc::timespec>();
        let operation = operation | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the word is an aligned u32 that outlives the call; waiting and waking use no other pointer.
        unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), operation, value, no_timeout) };
    }
}

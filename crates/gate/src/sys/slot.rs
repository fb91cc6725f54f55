//! Each thread's first record, and the end of threads.

use crate::record::{thread_ended, Record};
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    /// Has no destructor: it can be used as long as the thread runs code, and std does nothing at the thread's end.
    static FIRST: Cell<Option<&'static Record>> = const { Cell::new(None) };
}

/// The pthread key plus 1, or 0 as long as there is none.
static KEY: AtomicU64 = AtomicU64::new(0);

#[inline]
pub(crate) fn get() -> Option<&'static Record> {
    FIRST.get()
}

/// Makes the record the thread's first, and sees to its return at the thread's end.
pub(crate) fn set(record: &'static Record) {
    FIRST.set(Some(record));
    if let Some(key) = key() {
        // SAFETY: the key exists, and is never deleted. Only its being set counts, the value is not used. If there is no
        // memory for it, the record is not returned.
        unsafe { libc::pthread_setspecific(key, std::ptr::from_ref(record).cast()) };
    }
}

/// The key whose destructor is [`at_thread_end`]; `None` if the process has no key left.
fn key() -> Option<libc::pthread_key_t> {
    let known = KEY.load(Ordering::Acquire);
    if known != 0 {
        return Some((known - 1) as libc::pthread_key_t);
    }
    let mut new = 0;
    // SAFETY: `new` is written before a return of 0, and the destructor is a function of the right type.
    if unsafe { libc::pthread_key_create(&mut new, Some(at_thread_end)) } != 0 {
        return None;
    }
    // Not under a lock: a fork would copy it locked.
    match KEY.compare_exchange(0, u64::from(new) + 1, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(new),
        Err(first) => {
            // SAFETY: `new` was made above, and no thread has seen it.
            unsafe { libc::pthread_key_delete(new) };
            Some((first - 1) as libc::pthread_key_t)
        }
    }
}

/// If a destructor that runs later enters again, the thread takes a record anew and glibc runs this once more.
extern "C" fn at_thread_end(_: *mut c_void) {
    thread_ended(FIRST.take());
}

//! A page that is in the way when addresses are reserved (SOFTCUDA_OBSTACLE): in a process with threads, anything may be mapped
//! between a look and a reservation, and a driver then gives other addresses than those that were asked for.
use std::sync::atomic::{AtomicU64, Ordering};

const PAGE: usize = 4096;

/// What is in the way of reservations.
pub struct Obstacle {
    at: u64,
    /// During how many calls; None: from the first on.
    calls: Option<u64>,
    made: AtomicU64,
}

/// Ends with the call.
pub struct Page(u64);

impl Obstacle {
    /// As the setting says.
    pub fn new((at, calls): (u64, Option<u64>)) -> Self {
        Self { at, calls, made: AtomicU64::new(0) }
    }

    /// A call begins. What is returned has to last as long as it does.
    pub fn appear(&self) -> Option<Page> {
        let made = self.made.fetch_add(1, Ordering::Relaxed);
        if made >= self.calls.unwrap_or(1) {
            return None;
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: a new mapping, which replaces none.
        let page = unsafe { libc::mmap(self.at as *mut libc::c_void, PAGE, libc::PROT_NONE, flags, -1, 0) };
        let mapped = page != libc::MAP_FAILED;
        self.calls.filter(|_| mapped).map(|_| Page(page as u64))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the page that `appear` mapped, which nobody else knows.
        unsafe { libc::munmap(self.0 as *mut libc::c_void, PAGE) };
    }
}

//! Faults of ours end here: no panic crosses the C border.
use crate::report;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Runs what C calls. None: it panicked, and the human was told.
#[inline(always)]
pub fn contained<T>(body: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|_| tell()).ok()
}

#[cold]
fn tell() {
    // telling must not be a second fault
    let _told = catch_unwind(|| {
        report::error("a fault inside zerogpu was contained; please report it with a trace (ZEROGPU_TRACE=text)");
    });
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_panic_ends_here() {
        assert_eq!(super::contained(|| 1), Some(1));
        assert_eq!(super::contained(|| -> u32 { panic!("on purpose") }), None);
    }
}

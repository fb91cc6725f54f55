//! Collects what a topic finds, so that one wrong answer does not hide the next.
use std::fmt::{Debug, Display};
use zerogpu_abi::CUresult;

/// Which driver is asked, as far as a right answer depends on it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traits {
    /// A real driver on a real card: it may look at wild handles, and its sizes are its own.
    pub real: bool,
    /// No driver and no card below: a kernel can't be launched.
    pub no_kernels: bool,
}

/// The checks of one topic. Each is printed as it is made, the line that a crash leaves last is where it happened.
pub struct Check {
    /// The driver asked.
    pub driver: Traits,
    made: usize,
    failed: usize,
}

impl Check {
    /// No checks yet.
    pub fn new(driver: Traits) -> Self {
        Self { driver, made: 0, failed: 0 }
    }

    /// Checks made and failed.
    pub fn counts(&self) -> (usize, usize) {
        (self.made, self.failed)
    }

    /// `holds` must.
    #[track_caller]
    pub fn that(&mut self, what: impl Display, holds: bool) {
        self.note(what, holds, || "does not hold".into());
    }

    /// Two values must be equal.
    #[track_caller]
    pub fn same<T: PartialEq + Debug>(&mut self, what: impl Display, got: T, want: T) {
        let equal = got == want;
        self.note(what, equal, || format!("got {got:?}, want {want:?}"));
    }

    /// A call must answer with this code.
    #[track_caller]
    pub fn code(&mut self, what: impl Display, got: CUresult, want: u32) {
        self.same(what, got.0, want);
    }

    /// A call must answer with one of these codes: where the documentation leaves a choice.
    #[track_caller]
    pub fn one_of(&mut self, what: impl Display, got: CUresult, want: &[u32]) {
        self.note(what, want.contains(&got.0), || format!("got {}, want one of {want:?}", got.0));
    }

    /// Adds a check with its result; `detail` says what is wrong.
    #[track_caller]
    pub fn note(&mut self, what: impl Display, holds: bool, detail: impl FnOnce() -> String) {
        self.made += 1;
        if holds {
            println!("ok {what}");
        } else {
            self.failed += 1;
            println!("FAIL {what}: {} ({})", detail(), std::panic::Location::caller());
        }
    }
}

//! The CUDA driver below us, and what shim and broker both do with it: copy in bulk, and make and map physical memory.
//!
//! `driver` finds and opens the library, `copy` moves bytes between host backing and card through memory that `pins`
//! keeps page-locked, `physical` makes, maps and shares the card's memory, `hasher` hashes it there,
//! `checkpoint` takes another process off its card. Nothing here prints: what goes wrong is returned,
//! as the driver's error or as a sentence for a human.
#![warn(clippy::missing_errors_doc)]
mod checkpoint;
mod copy;
mod driver;
mod hasher;
pub mod physical;
mod pins;

pub use checkpoint::{Failure, ProcessState};
pub use copy::{copy, copy_telling, Copied, Leaked, Pinning, Trip, Way};
pub use driver::{locate, Below, Driver};
pub use hasher::{Hash, Hasher};
pub use pins::{Part, Pins, PIECE};

use zerogpu_abi::{CUresult, Res};

/// A driver's answer as a result.
///
/// # Errors
/// The answer, if it is not [`CUresult::SUCCESS`].
pub fn ok(r: CUresult) -> Res {
    if r.ok() {
        Ok(())
    } else {
        Err(r)
    }
}

/// Tries a call that gives something back once more if it fails: what is not given back stays on the card.
///
/// # Errors
/// The driver's answer to the second try.
pub fn twice(call: impl Fn() -> CUresult) -> Res {
    match call() {
        r if r.ok() => Ok(()),
        _ => ok(call()),
    }
}

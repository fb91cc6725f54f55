//! The node broker with real processes on software cards.
//!
//! | module | |
//! |---|---|
//! | [`program`] | what the process `zerogpu-node-space` does: it knows each byte that it should have |
//! | [`node`] | a broker and its Spaces, in a folder and on cards of their own |
//! | `look` | asks the broker of a node for its status |
//! | [`referee`] | reads the broker's log, and finds what breaks its promises |
//! | [`witness`] | looks at the cards from outside: who is on them, what is left behind |
//! | [`client`], [`hostile`] | speak the protocol by hand, well and badly |
//! | [`run`](mod@run) | many Spaces, kills and restarts, for as long as wished |
//! | [`measure`] | what leases cost |
//! | [`kills`] | Spaces killed while they compute |
use std::sync::{Mutex, MutexGuard, PoisonError};

pub mod client;
pub mod hostile;
pub mod kills;
mod look;
pub mod measure;
pub mod node;
pub mod program;
pub mod random;
pub mod referee;
pub mod run;
pub mod space;
pub mod witness;

/// Tests of a program take turns: each has many processes, and some measure.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

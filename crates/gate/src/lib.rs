//! The gate: driver calls pass through it while a GPU is claimed, and a park closes it.
//!
//! Passing costs a thread three stores to a record of its own and two loads of a word that nobody writes meanwhile: no
//! lock, no atomic read-modify-write, no fence. Closing pays instead: it forbids entry, makes every running thread of
//! the process execute a memory barrier (`membarrier(2)`), and then waits for each thread that is inside.
//!
//! ```text
//!   enter                              close
//!   my depth = 1                       state = closing
//!   (compiler fence)                   membarrier: a full fence in every thread
//!   state is open?  in : back out      each depth is 0?  next : sleep until someone leaves
//! ```
//!
//! Of the two threads at least one sees the other's store, so nobody is inside when [`Gate::close`] has returned. The
//! same pairing holds for leaving (`depth = 0`, then look for a closer to wake): no wake-up is lost. Where the kernel
//! refuses the call (a seccomp filter), open gates say so in their state, and passing uses a real fence in its place.
//!
//! Measured on an AMD EPYC, in a shared library: 2.7 ns for entering and leaving together, 7 ns for a refusal. In the
//! bench, where finding the thread's record needs no call: 2.7 ns and 5.6 ns on a busy machine.
//!
//! A thread's record is allocated at its first entry and never freed. A pthread key's destructor hands it to the next
//! thread that needs one; if the process has no key left, records of ended threads stay unused (128 bytes each).
//! The library that holds the gate must not be unloaded, since that destructor lies in it.
//!
//! # Models
//!
//! What the gate needs of the system stands in one module, which loom's models replace. To run them:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p zerogpu-gate --release --test loom
//! ```
//!
//! There `membarrier` and the compiler fences that pair with it are sequentially consistent fences, and the futex is a
//! mutex with a condition variable.
#![warn(clippy::missing_errors_doc)]
#![allow(unexpected_cfgs)] // `loom`: see Models

mod gate;
mod record;

#[cfg(loom)]
#[path = "model.rs"]
mod sys;
#[cfg(not(loom))]
mod sys;

#[cfg(all(test, not(loom)))]
mod tests;

pub use gate::{CloseError, Gate, Pass};
#[cfg(loom)]
pub use sys::set_membarrier;

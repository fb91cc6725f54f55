//! What a CUDA driver answers, as tests that do not know which driver they run on.
//!
//! A topic is one body of checks. The program `zerogpu-semantics` runs a topic on the library that `ZEROGPU_TEST_DRIVER`
//! names; `tests/drivers.rs` runs all of them, each in a fresh process, on softcuda, on the shim without and with a driver
//! below, and on a real driver where one is named. What is checked comes from three sources: answers recorded on a
//! real driver (tests/data), cuda.h's documentation, and the notes on the undocumented tables.
#![allow(non_snake_case)]
mod check;
mod driver;
mod image;
mod rows;
mod tables;
mod topics;

pub use check::{Check, Traits};
pub use driver::Driver;
pub use topics::{hold, print_cards, register_late_calls, Scope, Topic, TOPICS};

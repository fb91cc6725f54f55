//! Settings: each environment variable, once.
//!
//! [`VARIABLES`] is the one table of names, defaults and meanings, from which `docs/environment.md` is made. [`Settings`]
//! is what the shim and the command line read, [`SoftSettings`] what the software driver reads. Reading never fails and
//! never prints: a value that can't be understood is answered with a complaint (one sentence, with the way out) and the
//! default. [`driver_path`] turns the choice of a driver into the file to open.
//!
//! The shim lives in other people's processes, so this crate uses nothing beyond std, and reads only when asked.
#![warn(clippy::missing_errors_doc)]

pub mod driver_path;
mod parse;
mod reader;
mod shim;
mod soft;
mod variables;

pub use parse::{duration, size};
pub use shim::{some_memory, Driver, Outside, Settings};
pub use soft::{Fault, SoftSettings, MAX_CARDS};
pub use variables::{Variable, VARIABLES};

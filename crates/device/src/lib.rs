//! The software device: objects, memory, and what each driver call answers.
//!
//! Both drivers of this project are made of it. `softcuda` is this device behind a strict software card; the shim's
//! virtual device is this device over an arena whose bytes move to a real card while a GPU is claimed. What differs
//! is the [`Backend`]: who executes commands, and who accounts for memory and contexts.
//!
//! - `api`: one function per driver symbol; converts arguments, nothing else
//! - `objects`: what the app holds: contexts, streams, events, modules, graphs
//! - `memory`: where bytes are: address ranges, allocations, the host backing
//! - `op`, `exec` and `host`: the commands of a stream as values, and their execution on the host backing
//! - `link`, `tensor`: linking at run time, and tensor maps
//! - `dark`: the undocumented export tables
//! - `runtime`: the process-wide state, its lock, fork and exit
#![warn(clippy::missing_errors_doc)]
#![allow(non_snake_case)]
pub mod api;
pub mod dark;
pub mod exec;
pub mod fork;
pub mod handle;
pub mod host;
pub mod link;
pub mod memory;
pub mod objects;
pub mod op;
pub mod runtime;
pub mod tensor;
pub mod thread;

pub use runtime::{Backend, Config, Run};

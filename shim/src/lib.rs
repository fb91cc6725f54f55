//! The shim: a virtual CUDA driver, preloaded as `libcuda.so.1`.
//!
//! - `entry`: the exports; nothing is decided there
//! - `start`: what happens at the first driver call of a process
//! - `engine`: claim, run, park; implements the device's backend
//! - `detail`: what the arguments of a traced call point to
//! - `region`: marked calls, the C interface of the Python hook
//! - `fault`: where a panic of ours ends
//! - `report`: what a human is told
//!
//! The objects and the memory that an app sees are the crate `zerogpu-device`, the driver below us and copies in bulk
//! `zerogpu-below`. Nothing runs here before a process makes
//! its first driver call: shells, compilers and the like inherit the preload too.
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::exit)]
mod detail;
mod engine;
mod entry;
mod fault;
mod region;
mod report;
mod start;

//! Reads CUDA kernel images: fat binaries, cubins and PTX.
//!
//! [`open`] takes the pointer an app gives to `cuModuleLoadData` and its relatives, [`Source::from_bytes`] the contents
//! of a file. A [`Source`] knows what images it holds and costs next to nothing; [`Source::image_for`] picks the one a
//! driver would load on a device of a given compute capability, decompresses it and reads what the driver answers from
//! it: kernels with their attributes and parameters, and module variables. [`occupancy`] computes how many blocks of a
//! kernel fit on a multiprocessor.
//!
//! No byte of an image is trusted: a malformed one is an [`Error`], never a panic, and what is allocated is bounded by
//! what the image holds. Only the module `pointer` is unsafe, as its callers pass bare addresses.
#![warn(clippy::missing_errors_doc)]
mod arch;
mod cubin;
mod error;
mod fatbin;
mod image;
mod info;
mod kernel;
pub mod occupancy;
mod pointer;
mod ptx;
mod read;
mod source;

pub use error::Error;
pub use image::Image;
pub use kernel::{Cluster, Global, Kernel, Param};
pub use pointer::{open, open_preserved};
pub use source::{Input, Source};

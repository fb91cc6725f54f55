//! Driver calls that only softcuda has: the virtual device of the shim refuses them.
#![allow(
    non_snake_case,
    unsafe_op_in_unsafe_fn,
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    missing_docs
)]
mod checkpoint;
mod share;

pub use checkpoint::*;
pub use share::*;

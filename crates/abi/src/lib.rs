//! The CUDA driver ABI: types, error codes and the one list of symbols.
//!
//! Nothing here calls anything. `types` are the values that cross the C boundary (integers and newtypes, never Rust
//! enums: a caller may pass any bits), `error` the result codes, `list` reads `driver.abi`, in which each symbol is
//! declared once, and `codegen` turns that list into the exports of a driver library at build time.
#![allow(non_camel_case_types, non_snake_case)]
pub mod codegen;
mod error;
pub mod list;
mod types;

pub use error::describe;
pub use types::*;

//! Generates the exports from the list of symbols and links `libcuda.so.1`.
use std::path::Path;
use zerogpu_abi::codegen::{exports, Source};

fn main() {
    zerogpu_linkage::cdylib("libcuda.so.1");
    let api = Path::new("../crates/device/src/api");
    let code = exports(&[Source { folder: api, path: "zerogpu_device::api" }], "call", "missing");
    let to = Path::new(&std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("exports.rs");
    std::fs::write(&to, code).unwrap_or_else(|e| panic!("{}: {e}", to.display()));
}

//! Generates the exports from the list of symbols and links `libsoftcuda.so`.
use std::path::Path;
use zerogpu_abi::codegen::{exports, Source};

fn main() {
    zerogpu_linkage::cdylib("libsoftcuda.so");
    let device = Source { folder: Path::new("../../crates/device/src/api"), path: "zerogpu_device::api" };
    let own = Source { folder: Path::new("src/api"), path: "crate::api" };
    let code = exports(&[own, device], "call", "missing");
    let to = Path::new(&std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("exports.rs");
    std::fs::write(&to, code).unwrap_or_else(|e| panic!("{}: {e}", to.display()));
}

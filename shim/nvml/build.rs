//! Links `libnvidia-ml.so.1`, and declares the functions that have no answer.

use std::path::Path;
use std::{env, fs};

fn main() {
    zerogpu_linkage::cdylib("libnvidia-ml.so.1");
    println!("cargo:rerun-if-changed=symbols.txt");
    let symbols = fs::read_to_string("symbols.txt").unwrap_or_else(|e| panic!("symbols.txt: {e}"));
    let names = symbols.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" answered"));
    let code = format!("not_supported! {{\n{}\n}}\n", names.collect::<Vec<_>>().join("\n"));
    let path = Path::new(&env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("not_supported.rs");
    fs::write(&path, code).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

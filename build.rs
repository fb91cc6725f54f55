//! Links the command so that it runs where the libraries do.

fn main() {
    zerogpu_linkage::command();
    println!("cargo:rerun-if-changed=build.rs");
}

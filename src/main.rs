//! The command line of zerogpu.
fn main() {}

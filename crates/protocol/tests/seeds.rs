//! The seeds of the fuzz target `protocol` are one packet of each kind.
//!
//!     UPDATE_SEEDS=1 cargo test -p zerogpu-protocol --test seeds      # writes them
mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs};

#[test]
fn the_seeds_are_one_of_each() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/protocol");
    let packets: BTreeMap<String, Vec<u8>> =
        common::packets().into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    if env::var_os("UPDATE_SEEDS").is_some() {
        fs::remove_dir_all(&folder).ok();
        fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in &packets {
            fs::write(folder.join(name), bytes).unwrap();
        }
    }
    let found: BTreeMap<String, Vec<u8>> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    assert!(found == packets, "run UPDATE_SEEDS=1 cargo test -p zerogpu-protocol --test seeds");
}

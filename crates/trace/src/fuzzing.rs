//! For the fuzz target `trace`: rings that hold any bytes.
use crate::map::{Meta, RingFile};
use crate::settings::{ring_of, Format};
use crate::symbols;
use std::path::Path;

/// Leaves beside `output` a ring of a process that has ended, in which everything is `bytes` but what makes it a ring of
/// this version.
///
/// # Panics
/// If it can't be made.
pub fn leave_ring(output: &Path, format: u8, bytes: &[u8]) {
    let meta = Meta {
        version: "1".into(),
        symbols: symbols::digest(),
        pid: 1,
        program: "p".into(),
        settings: "s".into(),
        format: [Format::Text, Format::Json, Format::Chrome][usize::from(format % 3)],
        output: None,
        started_unix_ns: 0,
        started_ns: 0,
    };
    let made = RingFile::create(&ring_of(output), meta, 128).ok().flatten();
    made.expect("a folder of our own").fill(bytes).expect("room on the disk");
}

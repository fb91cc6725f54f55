//! Whatever the bytes are, reading them as a trace, or as the ring of one, ends with an answer or an error.
#![no_main]
use libfuzzer_sys::fuzz_target;
use std::fs::{File, Permissions};
use std::io::{sink, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use zerogpu_trace::{fuzzing, recover, Order, Summary, Timeline};

/// The files of this process; scripts/fuzz removes their folder.
fn file(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("zerogpu-fuzz-trace-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    });
    folder.join(name)
}

fn read(trace: &Path) {
    if let Ok(timeline) = Timeline::read(trace, None) {
        timeline.write(&mut sink()).unwrap();
    }
    if let Ok(summary) = Summary::read(trace, Order::Time) {
        write!(sink(), "{summary}").unwrap();
    }
}

/// A ring is named by its output here: what it says itself of where that is must not be written to.
fn recovered(output: &Path, ring: &Path) {
    if let Ok(Some(done)) = recover(output) {
        assert_eq!(done.output.as_deref(), Some(output));
        assert!(!ring.exists());
        read(output);
    }
    for gone in [output, ring] {
        std::fs::remove_file(gone).ok();
    }
}

fuzz_target!(|bytes: &[u8]| {
    let (output, ring) = (file("t"), file("t.ring"));
    match bytes {
        [b'r', format, rest @ ..] => {
            fuzzing::leave_ring(&output, *format, rest);
            recovered(&output, &ring);
        }
        [b'R', rest @ ..] => {
            File::create(&ring).unwrap().write_all(rest).unwrap();
            std::fs::set_permissions(&ring, Permissions::from_mode(0o600)).unwrap();
            recovered(&output, &ring);
        }
        text => {
            std::fs::write(&output, text).unwrap();
            read(&output);
        }
    }
});

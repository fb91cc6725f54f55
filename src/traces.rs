//! The traces of a program that `zerogpu run` started: completed when it has ended, however it ended.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use zerogpu_trace::{recover, Error};

/// Traces to come in one folder.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    folder: PathBuf,
    /// Rings that lay there before: not of this program.
    before: BTreeSet<PathBuf>,
}

impl Traces {
    /// What a trace specification (docs/trace.md) will leave; `None`: nothing is traced.
    pub fn of(spec: &str) -> Option<Traces> {
        let folder = ring_folder(spec)?;
        let before = rings(&folder);
        Some(Traces { folder, before })
    }

    /// Completes each new trace whose process has ended, and says so where anything was left to do.
    pub fn complete(&self) {
        for ring in rings(&self.folder).difference(&self.before) {
            match recover(ring) {
                Ok(None) | Err(Error::Live { .. }) => {}
                Ok(Some(done)) if done.records == 0 && done.lost == 0 => {}
                Ok(Some(done)) => {
                    let output = done.output.unwrap_or_else(|| "standard error".into());
                    let lost = if done.lost > 0 { format!("; {} more were lost", done.lost) } else { String::new() };
                    eprintln!("zerogpu: trace {} completed with {} records{lost}", output.display(), done.records);
                }
                Err(error) if ring.exists() => {
                    eprintln!("zerogpu: {error}; try zerogpu trace recover {}", ring.display())
                }
                // Completed meanwhile by someone else.
                Err(_) => {}
            }
        }
    }
}

fn rings(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension() == Some(OsStr::new("ring"))).collect()
}

/// Where the processes of a trace keep their rings. A wrong specification is the tracer's to name.
fn ring_folder(spec: &str) -> Option<PathBuf> {
    if matches!(spec.trim(), "" | "0" | "off") {
        return None;
    }
    let value =
        |key: &str| spec.split(',').filter_map(|item| item.trim().split_once('=')).rfind(|(name, _)| *name == key);
    if let Some((_, folder)) = value("ring") {
        return Some(folder.into());
    }
    let to_file = spec.split(',').any(|item| matches!(item.trim(), "json" | "chrome"));
    match value("file") {
        Some((_, "-")) => Some(std::env::temp_dir()),
        Some((_, file)) => Path::new(file).parent().map(|folder| Path::new(".").join(folder)),
        None if to_file => Some(".".into()),
        None => Some(std::env::temp_dir()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_lie_beside_the_output_or_where_one_says() {
        let folder = |spec: &str| ring_folder(spec);
        for off in ["", " ", "0", "off"] {
            assert_eq!(folder(off), None);
        }
        assert_eq!(folder("json"), Some(".".into()));
        assert_eq!(folder("chrome,file=out.json"), Some("./".into()));
        assert_eq!(folder("json, file=/a/b.jsonl"), Some("/a".into()));
        assert_eq!(folder("json,file=a/b.jsonl"), Some("./a".into()));
        assert_eq!(folder("json,file=/a/b.jsonl,ring=/r"), Some("/r".into()));
        for to_stderr in ["text", "1", "json,file=-"] {
            assert_eq!(folder(to_stderr), Some(std::env::temp_dir()));
        }
    }

    #[test]
    fn only_new_rings_are_touched() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("old.ring");
        std::fs::write(&old, "not mine").unwrap();
        let spec = format!("json,file={}", folder.path().join("x").display());
        let traces = Traces::of(&spec).unwrap();
        assert_eq!(traces.before, BTreeSet::from([old.clone()]));
        traces.complete();
        assert!(old.exists());
    }
}

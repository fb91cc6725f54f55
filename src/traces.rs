//! The traces of a program that `zerogpu run` started: completed when it has ended, however it ended.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use zerogpu_trace::{anchored, recover, ring_folder, Error, PID};

/// Traces to come.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    /// Where they will lie; `%p` is the number of a process, which is not known before it runs.
    folder: PathBuf,
    /// Rings that lay there before: not of this program.
    before: BTreeSet<PathBuf>,
    /// The specification, where the program is to get another one than was given.
    pub spec: Option<String>,
}

impl Traces {
    /// What a trace specification (docs/trace.md) will leave; `None`: nothing is traced, or the specification is wrong,
    /// which is the tracer's to name. The program may change its folder before its first driver call, and so may those
    /// that it starts: its paths are made to start at this process's.
    pub fn of(given: &str) -> Option<Traces> {
        let here = std::env::current_dir().ok();
        let spec = here.and_then(|here| anchored(given, &here).ok().flatten());
        let folder = ring_folder(spec.as_deref().unwrap_or(given)).ok().flatten()?;
        let before = rings(&folder);
        Some(Traces { folder, before, spec })
    }

    /// Completes each new trace of this user whose process has ended, and says so where anything was left to do.
    pub fn complete(&self) {
        for ring in rings(&self.folder).difference(&self.before) {
            match recover(ring) {
                Ok(None) | Err(Error::Live { .. } | Error::NotPrivate { .. }) => {}
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
    let paths = folders(folder).into_iter().flat_map(|folder| entries(&folder));
    paths.filter(|path| path.extension() == Some(OsStr::new("ring"))).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The folders that a name with `%p` in it may stand for.
fn folders(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        found = match part {
            Component::Normal(name) if name.to_str().is_some_and(|name| name.contains(PID)) => {
                let all = found.iter().flat_map(|folder| entries(folder));
                all.filter(|path| path.is_dir() && path.file_name().is_some_and(|got| numbered(got, name))).collect()
            }
            part => found.iter().map(|folder| folder.join(part)).collect(),
        };
    }
    found
}

/// Whether `name` is `pattern` with a number for each `%p`.
fn numbered(name: &OsStr, pattern: &OsStr) -> bool {
    let (Some(name), Some(pattern)) = (name.to_str(), pattern.to_str()) else { return false };
    let mut parts = pattern.split(PID);
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    parts.all(|part| {
        let number = rest.bytes().take_while(u8::is_ascii_digit).count();
        // what follows `%p` may begin with a digit
        let after = (1..=number).rev().find_map(|end| rest[end..].strip_prefix(part));
        rest = after.unwrap_or("");
        after.is_some()
    }) && rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_rings_are_touched() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("old.ring");
        std::fs::write(&old, "not mine").unwrap();
        let spec = format!("json,file={}", folder.path().join("x").display());
        let traces = Traces::of(&spec).unwrap();
        assert_eq!(traces.before, BTreeSet::from([old.clone()]));
        assert_eq!(traces.spec, None);
        traces.complete();
        assert!(old.exists());
    }

    #[test]
    fn the_program_gets_paths_that_hold_wherever_it_goes() {
        let here = std::env::current_dir().unwrap();
        let traces = Traces::of("json,file=a/b.jsonl").unwrap();
        assert_eq!(traces.folder, here.join("a"));
        let expected = format!("json,file=a/b.jsonl,file={}", here.join("a/b.jsonl").display());
        assert_eq!(traces.spec, Some(expected));
        assert_eq!(Traces::of("chrome").unwrap().folder, here);
        for to_stderr in ["text", "1", "json,file=-"] {
            assert_eq!(Traces::of(to_stderr).unwrap().folder, std::env::temp_dir());
        }
        for none in ["", " ", "0", "off", "jsno"] {
            assert_eq!(Traces::of(none), None);
        }
    }

    #[test]
    fn a_folder_of_the_process_s_number_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let spec = format!("json,file={}", folder.path().join("a-%p-1/b/t.jsonl").display());
        let traces = Traces::of(&spec).unwrap();
        for name in ["a-77-1/b", "a-771/b", "a-x-1/b", "other/b"] {
            let made = folder.path().join(name);
            std::fs::create_dir_all(&made).unwrap();
            std::fs::write(made.join("t.jsonl.ring"), "a ring").unwrap();
        }
        let found = rings(&traces.folder);
        assert_eq!(found, BTreeSet::from([folder.path().join("a-77-1/b/t.jsonl.ring")]));
    }
}

//! Does a running process use the shim, and if not, why.

use super::elf;
use super::report::Finding;
use crate::install::{Install, OBJECTS};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use zerogpu_settings::driver_path::{DRIVER_FILE, SOFT_FILE};

const TOPIC: &str = "process";

/// A function that only the shim exports.
const MARK: &str = "zerogpu_region_begin";

/// What a process has loaded and was started with.
#[derive(Debug)]
struct Process {
    name: String,
    libraries: Vec<Library>,
    preload: Option<OsString>,
    /// Its root folder, as this process sees it.
    root: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Library {
    /// As the process sees it.
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Shim,
    /// Has this SONAME: one of our objects', or the software driver's.
    Named(&'static str),
    /// Was replaced or removed since it was loaded.
    Deleted,
}

/// Examines process `pid`.
pub fn findings(pid: u32, install: Option<&Install>) -> Vec<Finding> {
    let who = |process: &Process| format!("process {pid} ({})", process.name);
    match read(pid) {
        Ok(process) => judge(&who(&process), &process, install),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            vec![Finding::problem(TOPIC, format!("there is no process {pid}"), "look its id up with ps")]
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let text = format!("process {pid} may not be looked at by this user");
            vec![Finding::problem(TOPIC, text, "run zerogpu doctor as the process's user, or as root")]
        }
        Err(error) => vec![Finding::problem(TOPIC, format!("process {pid} can't be looked at: {error}"), "try again")],
    }
}

fn read(pid: u32) -> io::Result<Process> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let name = fs::read_to_string(proc.join("comm"))?.trim_end().to_string();
    let root = proc.join("root");
    let maps = fs::read(proc.join("maps"))?;
    let environment = fs::read(proc.join("environ"))?;
    let preload = environment.split(|&byte| byte == 0).find_map(|item| item.strip_prefix(b"LD_PRELOAD="));
    let libraries = mapped(&maps).into_iter().filter_map(|path| library(&root, path)).collect();
    Ok(Process { name, libraries, preload: preload.map(|list| OsString::from_vec(list.to_vec())), root })
}

/// The files of a memory map: the sixth column, which may hold spaces.
fn mapped(maps: &[u8]) -> BTreeSet<PathBuf> {
    let lines = maps.split(|&byte| byte == b'\n');
    let paths = lines.filter_map(|line| line.iter().position(|&byte| byte == b'/').map(|start| &line[start..]));
    paths.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect()
}

/// A mapped file, if it is of interest here.
fn library(root: &Path, path: PathBuf) -> Option<Library> {
    let name = path.file_name()?.as_bytes();
    if ![&b"libcuda"[..], b"libzerogpu", b"libnvidia-ml", b"libsoftcuda"].iter().any(|start| name.starts_with(start)) {
        return None;
    }
    let seen = root.join(path.strip_prefix("/").unwrap_or(&path));
    let kind = if elf::exports(&seen, MARK).unwrap_or(false) {
        Kind::Shim
    } else if let Ok(dynamic) = elf::dynamic(&seen) {
        let soname = dynamic.soname?;
        let mut names = OBJECTS.iter().map(|object| object.name).chain([SOFT_FILE]);
        Kind::Named(names.find(|name| *name == soname)?)
    } else {
        Kind::Deleted
    };
    Some(Library { path, kind })
}

fn judge(who: &str, process: &Process, install: Option<&Install>) -> Vec<Finding> {
    let Some(shim) = process.libraries.iter().find(|library| library.kind == Kind::Shim) else {
        return vec![without_shim(who, process, install)];
    };
    let mut findings = vec![Finding::ok(TOPIC, format!("{who} uses the shim {}", shim.path.display()))];
    let named = |name: &'static str| process.libraries.iter().filter(move |library| library.kind == Kind::Named(name));
    // All three come from one folder; an object of the same name from elsewhere is NVIDIA's.
    let is_ours = |library: &&Library| library.path.parent() == shim.path.parent();
    for name in OBJECTS.map(|object| object.name).into_iter().filter(|name| *name != DRIVER_FILE) {
        if named(name).find(is_ours).is_none() {
            let text = format!("{who} lacks our {name}");
            findings.push(Finding::problem(TOPIC, text, "preload all three objects: start it with zerogpu run"));
        }
    }
    findings.push(match named(DRIVER_FILE).chain(named(SOFT_FILE)).next() {
        Some(below) => Finding::ok(TOPIC, format!("the driver below is {}", below.path.display())),
        None => Finding::note(TOPIC, "no driver is open below: none is needed yet, or there is none"),
    });
    findings
}

fn without_shim(who: &str, process: &Process, install: Option<&Install>) -> Finding {
    let restart = "start it again with zerogpu run; a running process can't be changed";
    let asked = preloaded_shim(process, install);
    if let Some(deleted) = process.libraries.iter().find(|library| library.kind == Kind::Deleted) {
        let text = format!("{who} has {} loaded, a file that was replaced or removed since", deleted.path.display());
        return Finding::problem(TOPIC, text, "start it again");
    }
    if let Some(path) = asked {
        if !process.root.join(path.strip_prefix("/").unwrap_or(&path)).exists() {
            let text = format!("{who} was started with {}, which is not there in its container", path.display());
            return Finding::problem(
                TOPIC,
                text,
                "mount the folder of our libraries at that path, or use zerogpu env --at",
            );
        }
        let text = format!("{who} was started with {}, but the loader did not take it", path.display());
        let why = "programs that are static, set-user-id, of another architecture or of another C library (musl) can't be preloaded";
        return Finding::problem(TOPIC, text, why);
    }
    match process.libraries.iter().find(|library| library.kind == Kind::Named(DRIVER_FILE)) {
        Some(driver) => {
            let text = format!("{who} uses {} without the shim: LD_PRELOAD was not set", driver.path.display());
            Finding::problem(TOPIC, text, restart)
        }
        None => Finding::problem(TOPIC, format!("{who} was started without the shim: LD_PRELOAD lacks it"), restart),
    }
}

/// The entry of the process's LD_PRELOAD that is the shim, by its path or its name.
fn preloaded_shim(process: &Process, install: Option<&Install>) -> Option<PathBuf> {
    let list = process.preload.as_ref()?.as_bytes();
    let mut entries = list.split(|byte| b" :".contains(byte)).map(|entry| PathBuf::from(OsStr::from_bytes(entry)));
    let own = install.map(|install| install.objects()[0].clone());
    entries.find(|entry| {
        let name = entry.file_name().unwrap_or_default();
        Some(entry) == own.as_ref() || name == DRIVER_FILE || name == "libzerogpu.so"
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::doctor::report::Level;

    fn process(libraries: &[(&str, Kind)], preload: Option<&str>) -> Process {
        Process {
            name: "python".into(),
            libraries: libraries.iter().map(|(path, kind)| Library { path: path.into(), kind: *kind }).collect(),
            preload: preload.map(OsString::from),
            root: "/".into(),
        }
    }

    const OURS: [(&str, Kind); 3] = [
        ("/zg/libcuda.so.1", Kind::Shim),
        ("/zg/libcuda.so", Kind::Named("libcuda.so")),
        ("/zg/libnvidia-ml.so.1", Kind::Named("libnvidia-ml.so.1")),
    ];

    fn judged(libraries: &[(&str, Kind)], preload: Option<&str>) -> Vec<(Level, String)> {
        let findings = judge("process 7 (python)", &process(libraries, preload), None);
        assert!(findings.iter().all(|finding| finding.level != Level::Problem || finding.remedy.is_some()));
        findings.into_iter().map(|finding| (finding.level, finding.text)).collect()
    }

    #[test]
    fn a_process_that_uses_the_shim() {
        let found = judged(&OURS, None);
        assert_eq!(found[0], (Level::Ok, "process 7 (python) uses the shim /zg/libcuda.so.1".to_string()));
        assert_eq!((found.len(), found[1].0), (2, Level::Note), "{found:?}");
        let with_driver = [&OURS[..], &[("/usr/lib/libcuda.so.550", Kind::Named("libcuda.so.1"))]].concat();
        let found = judged(&with_driver, None);
        assert_eq!(found[1], (Level::Ok, "the driver below is /usr/lib/libcuda.so.550".to_string()));
        let with_softcuda = [&OURS[..], &[("/zg/libsoftcuda.so", Kind::Named("libsoftcuda.so"))]].concat();
        assert!(judged(&with_softcuda, None)[1].1.ends_with("is /zg/libsoftcuda.so"));
        let real_nvml = [OURS[0], OURS[1], ("/usr/lib/libnvidia-ml.so.1", Kind::Named("libnvidia-ml.so.1"))];
        let found = judged(&real_nvml, None);
        assert_eq!(found[1], (Level::Problem, "process 7 (python) lacks our libnvidia-ml.so.1".to_string()));
    }

    #[test]
    fn a_process_that_does_not_and_why() {
        let cases = [
            (None, None, "started without the shim: LD_PRELOAD lacks it"),
            (None, Some("/x/other.so"), "LD_PRELOAD lacks it"),
            (
                Some(("/usr/lib/libcuda.so.550", Kind::Named("libcuda.so.1"))),
                None,
                "without the shim: LD_PRELOAD was not set",
            ),
            (None, Some("/no/such/libcuda.so.1"), "not there in its container"),
            (
                Some(("/zg/libzerogpu.so (deleted)", Kind::Deleted)),
                Some("/zg/libzerogpu.so"),
                "replaced or removed since",
            ),
        ];
        for (library, preload, text) in cases {
            let found = judged(library.as_slice(), preload);
            assert_eq!((found.len(), found[0].0), (1, Level::Problem));
            assert!(found[0].1.contains(text), "{found:?}");
        }
        let file = tempfile::tempdir().unwrap();
        let path = file.path().join("libzerogpu.so");
        fs::write(&path, "").unwrap();
        let found = judged(&[], Some(path.to_str().unwrap()));
        assert!(found[0].1.contains("the loader did not take it"), "{found:?}");
    }

    #[test]
    fn maps_give_paths_with_spaces_once() {
        let maps = b"7f00-7f01 r-xp 0 08:01 5      /a b/libcuda.so.1\n7f01-7f02 r--p 0 08:01 5 /a b/libcuda.so.1\n7f02-7f03 rw-p 0 00:00 0 [heap]\n";
        assert_eq!(mapped(maps), BTreeSet::from([PathBuf::from("/a b/libcuda.so.1")]));
    }

    #[test]
    fn a_process_that_is_not_there() {
        // Above the kernel's highest possible id.
        let found = findings(1 << 23, None);
        assert_eq!((found.len(), found[0].level), (1, Level::Problem));
        assert!(found[0].text.contains("there is no process"));
    }
}

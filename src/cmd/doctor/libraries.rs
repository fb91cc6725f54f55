//! Our own objects: complete, of the right names, loadable, preloaded.

use super::elf;
use super::report::Finding;
use crate::environment::loadable;
use crate::install::{Install, OBJECTS};
use anyhow::Result;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const INSTALLATION: &str = "installation";
const PRELOAD: &str = "preload";

/// Findings about the installation.
pub fn findings(install: &Result<Install>) -> Vec<Finding> {
    let install = match install {
        Ok(install) => install,
        Err(error) => {
            let text = format!("{error:#}");
            let (what, remedy) = text.split_once("; ").unwrap_or((&text, "install zerogpu again"));
            return vec![Finding::problem(INSTALLATION, what, remedy)];
        }
    };
    let mut findings: Vec<Finding> =
        OBJECTS.iter().filter_map(|object| misnamed(&install.lib.join(object.name), object.name)).collect();
    if findings.is_empty() {
        let names = OBJECTS.map(|object| object.name).join(", ");
        findings.push(Finding::ok(INSTALLATION, format!("{}: {names}, each with its SONAME", install.lib.display())));
        findings.extend(loading(install));
    }
    if let Some(error) = install.objects().iter().chain(&install.hook).find_map(|path| loadable(path).err()) {
        let text = error.to_string();
        let (what, remedy) = text.split_once("; ").unwrap_or((&text, "install zerogpu elsewhere"));
        findings.push(Finding::problem(INSTALLATION, what, remedy));
    }
    if let Err(error) = install.software_driver() {
        findings.push(Finding::note(INSTALLATION, format!("{error}")));
    }
    findings.push(match &install.hook {
        Some(hook) => Finding::ok(INSTALLATION, format!("the Python package spaces is in {}", hook.display())),
        None => Finding::note(
            INSTALLATION,
            "the Python package spaces is not beside the libraries: @spaces.GPU marks nothing",
        )
        .fix(format!("install it to {}", install.lib.join("python").display())),
    });
    findings
}

fn misnamed(path: &Path, name: &str) -> Option<Finding> {
    let why = match elf::dynamic(path) {
        Ok(dynamic) if dynamic.soname.as_deref() == Some(name) => return None,
        Ok(dynamic) => format!("has the SONAME {}, not {name}", dynamic.soname.unwrap_or("(none)".into())),
        Err(error) => format!("can't be read: {error:#}"),
    };
    Some(Finding::problem(INSTALLATION, format!("{} {why}", path.display()), "build or install zerogpu again"))
}

/// Preloads the objects into a process that does nothing. The loader names on its standard error what it can't load.
fn loading(install: &Install) -> Option<Finding> {
    let remedy = "build zerogpu on a system like this one, or install a release";
    let list = install.objects().map(PathBuf::into_os_string).join(OsStr::new(":"));
    let program = std::env::current_exe().map(Command::new);
    let output =
        program.and_then(|mut program| program.arg("--version").env("LD_PRELOAD", list).stdin(Stdio::null()).output());
    match output {
        Err(error) => Some(Finding::problem(
            INSTALLATION,
            format!("a process with the objects can't be started: {error}"),
            remedy,
        )),
        Ok(output) if output.status.success() && output.stderr.is_empty() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let text = format!("a process with the objects preloaded says: {} ({})", said.trim(), output.status);
            Some(Finding::problem(INSTALLATION, text, remedy))
        }
    }
}

/// Findings about `LD_PRELOAD`, as it is where the doctor runs.
pub fn preload(install: Option<&Install>, list: Option<&OsStr>) -> Vec<Finding> {
    let entries =
        list.unwrap_or_default().as_bytes().split(|byte| b" :".contains(byte)).filter(|entry| !entry.is_empty());
    let entries: Vec<PathBuf> = entries.map(|entry| PathBuf::from(OsStr::from_bytes(entry))).collect();
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    let ours: Vec<PathBuf> = install.map(|install| install.objects().to_vec()).unwrap_or_default();
    let is_in_list =
        |path: &PathBuf| entries.iter().any(|entry| real(entry).is_some_and(|entry| real(path) == Some(entry)));
    let missing: Vec<String> =
        ours.iter().filter(|path| !is_in_list(path)).map(|path| path.display().to_string()).collect();
    let run = "start programs with zerogpu run, or first eval \"$(zerogpu env)\"";

    let mut findings = Vec::new();
    if ours.is_empty() || missing.len() == ours.len() {
        findings.push(Finding::note(PRELOAD, "nothing of zerogpu is preloaded here").fix(run));
    } else if missing.is_empty() {
        findings.push(Finding::ok(PRELOAD, "all three objects"));
    } else {
        findings.push(Finding::problem(PRELOAD, format!("LD_PRELOAD lacks {}", missing.join(", ")), run));
    }
    for entry in &entries {
        let is_ours = ours.iter().any(|path| real(path).is_some() && real(path) == real(entry));
        let soname = elf::dynamic(entry).ok().and_then(|dynamic| dynamic.soname).filter(|_| !is_ours);
        // A name without a slash is the loader's to search.
        if entry.components().count() > 1 && !entry.exists() {
            let text = format!("LD_PRELOAD names {}, which is not there", entry.display());
            findings.push(Finding::problem(PRELOAD, text, "take it out of LD_PRELOAD"));
        } else if soname.is_some_and(|soname| OBJECTS.iter().any(|object| object.name == soname)) {
            let text = format!("LD_PRELOAD has another stand-in for the driver: {}", entry.display());
            findings.push(Finding::problem(PRELOAD, text, "take one of the two out of LD_PRELOAD"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::doctor::report::Level;

    fn install(folder: &Path) -> Install {
        for object in &OBJECTS {
            std::fs::write(folder.join(object.name), object.name).unwrap();
        }
        Install { lib: folder.to_path_buf(), hook: None }
    }

    fn levels(install: Option<&Install>, list: &[PathBuf]) -> Vec<(Level, String)> {
        let list = list.iter().map(|path| path.as_os_str()).collect::<Vec<_>>().join(OsStr::new(":"));
        preload(install, Some(&list)).into_iter().map(|finding| (finding.level, finding.text)).collect()
    }

    #[test]
    fn a_partial_preload_is_a_problem_and_a_full_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let install = install(folder.path());
        let objects = install.objects();
        assert_eq!(levels(Some(&install), &[])[0].0, Level::Note);
        assert_eq!(levels(None, &[])[0].0, Level::Note);
        assert_eq!(levels(Some(&install), &objects), [(Level::Ok, "all three objects".to_string())]);
        let partial = levels(Some(&install), &objects[..1]);
        assert_eq!(partial[0].0, Level::Problem);
        assert!(partial[0].1.contains("libcuda.so, ") && partial[0].1.contains("libnvidia-ml.so.1"), "{partial:?}");
    }

    #[test]
    fn what_is_not_there_is_named() {
        let gone = levels(None, &["/no/such.so".into(), "libm.so.6".into()]);
        assert_eq!(gone[1..], [(Level::Problem, "LD_PRELOAD names /no/such.so, which is not there".to_string())]);
    }

    #[test]
    fn an_incomplete_installation_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let findings = findings(&Install::find(Some(folder.path())));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].level, Level::Problem);
        assert!(findings[0].remedy.as_ref().unwrap().contains("ZEROGPU_LIB"), "{findings:?}");
    }

    #[test]
    fn an_object_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let findings = findings(&Ok(install(folder.path())));
        let problems: Vec<_> = findings.iter().filter(|finding| finding.level == Level::Problem).collect();
        assert_eq!(problems.len(), 3, "{findings:?}");
        assert!(problems[0].text.contains("can't be read"), "{findings:?}");
    }
}

//! Which driver lies below the virtual device, and what it answers.

use super::probe::Answer;
use super::report::{DriverFacts, Finding};
use crate::install::Install;
use anyhow::{bail, Context, Result};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use zerogpu_settings::driver_path::{find_in, Candidate, Places, Refusal};
use zerogpu_settings::{Driver, Settings};

const TOPIC: &str = "driver";

/// A real cuInit takes 0.2 s on one card and seconds on a node that has just started.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was found.
#[derive(Debug)]
pub struct Below {
    pub chosen: Driver,
    /// The library to use, or why a chosen one can't be.
    pub path: Result<Option<PathBuf>, String>,
    /// Libraries that were left out.
    pub refused: Vec<Candidate>,
    /// What the library answered, or why it did not.
    pub answer: Option<Result<Answer, String>>,
}

/// Searches as the shim does, and asks what is found.
pub fn look(settings: &Settings, install: Option<&Install>) -> Below {
    let library_path = std::env::var_os("LD_LIBRARY_PATH");
    let places = Places::of_machine(library_path.as_deref());
    let lib = install.map(|install| install.lib.as_path());
    let own = install.map(|install| install.objects()[0].clone());
    let path = find_in(&places, &settings.driver, lib, own.as_deref());
    let refused =
        places.candidates(own.as_deref()).into_iter().filter(|candidate| candidate.refusal.is_some()).collect();
    let answer =
        path.as_ref().ok().and_then(Option::as_ref).map(|path| ask(path, lib).map_err(|error| format!("{error:#}")));
    Below { chosen: settings.driver.clone(), path, refused, answer }
}

/// Asks in a child without our preload, so that a driver's crash, hang or chatter stays there.
fn ask(path: &Path, lib: Option<&Path>) -> Result<Answer> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("probe").arg(path).env_remove("LD_PRELOAD").env_remove("CUDA_VISIBLE_DEVICES");
    if let Some(list) = std::env::var_os("LD_LIBRARY_PATH") {
        let others = std::env::split_paths(&list).filter(|folder| lib != Some(folder));
        command.env("LD_LIBRARY_PATH", std::env::join_paths(others)?);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut output = child.stdout.take().context("the child has no output")?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = output.read_to_string(&mut text).map(|_| text);
        // The receiver is gone when it has lost patience.
        let _ = sender.send(read);
    });
    let Ok(text) = receiver.recv_timeout(PATIENCE) else {
        child.kill()?;
        child.wait()?;
        bail!("it did not answer within {} s", PATIENCE.as_secs());
    };
    let status = child.wait()?;
    if let Some(signal) = status.signal() {
        bail!("asking it ended the process with signal {signal}");
    }
    // A library may print as well, before our line or, buffered, behind it.
    let text = text?;
    let answer = text.lines().find_map(|line| serde_json::from_str(line).ok());
    answer.with_context(|| format!("it answered nothing ({status})"))
}

impl Below {
    /// For the report.
    pub fn facts(&self) -> Option<DriverFacts> {
        let path = self.path.as_ref().ok()?.clone()?;
        let answer = self.answer.as_ref().and_then(|answer| answer.as_ref().ok());
        Some(DriverFacts {
            path,
            version: answer.and_then(|answer| answer.version),
            init: answer.and_then(|answer| answer.init),
            cards: answer.map(|answer| answer.names.clone()).unwrap_or_default(),
        })
    }

    /// Which library it is. What its cards are is told with them.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = vec![self.verdict()];
        for Candidate { path, refusal, .. } in &self.refused {
            let why = match refusal {
                Some(Refusal::Stub) => "the toolkit's link stub, which is no driver",
                _ => "our own",
            };
            findings.push(Finding::note(TOPIC, format!("{} is left out: it is {why}", path.display())));
        }
        findings
    }

    fn verdict(&self) -> Finding {
        let path = match (&self.path, &self.chosen) {
            (Err(why), _) => {
                let (what, remedy) = why.split_once("; ").unwrap_or((why, "choose another driver"));
                return Finding::problem(TOPIC, what, remedy);
            }
            (Ok(None), Driver::None) => {
                return Finding::note(TOPIC, "none was chosen: programs load and copy, and their launches fail")
                    .fix("choose another with --driver or ZEROGPU_DRIVER");
            }
            (Ok(None), _) => {
                return Finding::note(
                    TOPIC,
                    "no libcuda.so.1 of NVIDIA's is here: programs load and copy, and their launches fail",
                )
                .fix(
                    "use --driver soft to have launches recorded, or install NVIDIA's driver on a machine with a card",
                );
            }
            (Ok(Some(path)), _) => path.display(),
        };
        match &self.answer {
            Some(Ok(Answer { error: Some(error), .. })) => Finding::problem(
                TOPIC,
                format!("{path} can't be loaded: {error}"),
                "install the driver again, or choose another with ZEROGPU_DRIVER",
            ),
            Some(Ok(Answer { version: Some(version), .. })) => {
                let (major, minor) = (version / 1000, version % 1000 / 10);
                Finding::ok(TOPIC, format!("{path} is a driver of CUDA {major}.{minor}"))
            }
            Some(Ok(_)) => {
                Finding::problem(TOPIC, format!("{path} is no CUDA driver"), "choose another with ZEROGPU_DRIVER")
            }
            Some(Err(why)) => Finding::problem(
                TOPIC,
                format!("{path} can't be asked: {why}"),
                "check it with nvidia-smi, or choose another with ZEROGPU_DRIVER",
            ),
            None => Finding::problem(TOPIC, format!("{path} was not asked"), "report this"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::doctor::report::Level;

    fn below(chosen: Driver, path: Result<Option<&str>, &str>, answer: Option<Result<Answer, String>>) -> Below {
        let path = path.map(|path| path.map(PathBuf::from)).map_err(str::to_string);
        Below { chosen, path, refused: Vec::new(), answer }
    }

    #[test]
    fn each_outcome_has_its_sentence_and_remedy() {
        let of =
            |version, error: Option<&str>| Answer { version, error: error.map(str::to_string), ..Answer::default() };
        let cases = [
            (below(Driver::None, Ok(None), None), Level::Note, "none was chosen"),
            (below(Driver::Auto, Ok(None), None), Level::Note, "no libcuda.so.1"),
            (below(Driver::Auto, Err("it is gone; set X"), None), Level::Problem, "it is gone"),
            (
                below(Driver::Auto, Ok(Some("/d")), Some(Ok(of(Some(12020), None)))),
                Level::Ok,
                "/d is a driver of CUDA 12.2",
            ),
            (
                below(Driver::Auto, Ok(Some("/d")), Some(Ok(of(None, Some("no libz"))))),
                Level::Problem,
                "can't be loaded: no libz",
            ),
            (below(Driver::Auto, Ok(Some("/d")), Some(Ok(of(None, None)))), Level::Problem, "no CUDA driver"),
            (below(Driver::Auto, Ok(Some("/d")), Some(Err("signal 11".into()))), Level::Problem, "signal 11"),
        ];
        for (below, level, text) in cases {
            let finding = below.verdict();
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.text.contains(text), "{finding:?}");
            assert_eq!(finding.remedy.is_some(), level != Level::Ok, "{finding:?}");
        }
    }
}

//! `zerogpu doctor`: what works here, what does not, why, and what to do about it.

mod broker;
mod cards;
mod driver;
mod elf;
mod libraries;
mod probe;
mod process;
mod report;
mod system;

pub use probe::{run as probe, Args as ProbeArgs};

use crate::environment::LibChoice;
use anyhow::Result;
use report::{Finding, Report};
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use zerogpu_profile::Profile;
use zerogpu_settings::{Settings, SoftSettings, VARIABLES};

/// Say what works here, what does not, and what to do about it
///
/// The exit status is 0 if nothing stands in the way, else 1.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Look at a running process instead: does it use the shim, and if not, why
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    #[command(flatten)]
    lib: LibChoice,
}

/// Examines and prints.
pub fn run(args: &Args) -> Result<ExitCode> {
    let install = args.lib.install();
    let mut report = Report::default();
    if let Some(pid) = args.pid {
        report.findings = process::findings(pid, install.as_ref().ok());
    } else {
        let (settings, complaints) = Settings::from_env();
        report.findings.extend(libraries::findings(&install));
        let install = install.as_ref().ok();
        report.findings.extend(libraries::preload(install, std::env::var_os("LD_PRELOAD").as_deref()));
        report.findings.extend(settings_findings(&settings, complaints));
        let below = driver::look(&settings, install);
        report.findings.extend(below.findings());
        report.findings.extend(cards::findings(&below, &cards::Present::on_machine()));
        report.driver = below.facts();
        report.findings.extend(broker::findings(&settings));
        report.findings.extend(system::findings());
    }
    let text = if args.json { report.json()? } else { report.text() };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn settings_findings(settings: &Settings, mut complaints: Vec<String>) -> Vec<Finding> {
    let (soft, soft_complaints) = SoftSettings::from_env();
    complaints.extend(soft_complaints);
    complaints.extend(Profile::chosen(settings.profile.as_deref(), settings.vram).1);
    complaints.extend(Profile::chosen(soft.profile.as_deref(), soft.vram).1);
    let mut findings: Vec<Finding> = complaints
        .into_iter()
        .map(|complaint| Finding::problem("settings", complaint, "correct the variable, see docs/environment.md"))
        .collect();
    for name in unknown(std::env::vars_os().map(|(name, _)| name)) {
        let text = format!("{name} is not a setting of this version");
        findings.push(Finding::note("settings", text).fix("look it up in docs/environment.md, or unset it"));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("settings", "all understood"));
    }
    findings
}

/// Names that look like ours and are not.
fn unknown(names: impl Iterator<Item = OsString>) -> impl Iterator<Item = String> {
    names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with("ZEROGPU_") || name.starts_with("SOFTCUDA_"))
        .filter(|name| VARIABLES.iter().all(|variable| variable.name != name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_noticed() {
        let names = ["ZEROGPU_DRIVER", "ZEROGPU_DIRVER", "SOFTCUDA_CARD", "PATH"].map(OsString::from);
        assert_eq!(unknown(names.into_iter()).collect::<Vec<_>>(), ["ZEROGPU_DIRVER", "SOFTCUDA_CARD"]);
    }
}

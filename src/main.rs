//! The command line of zerogpu.

mod broker;
mod cmd;
mod environment;
mod find;
mod install;
mod traces;

use clap::{Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;

/// Own a GPU only while a marked call runs.
///
/// Programs started by `zerogpu run` see one CUDA device, on a machine that may have none.
///
/// The exit status is 0 after success, 1 after an error, which is one line on standard error, and 2 after wrong use; `run` and
/// `doctor` have more.
#[derive(Parser)]
#[command(name = "zerogpu", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(cmd::run::Args),
    Broker(cmd::broker::Args),
    Status(cmd::status::Args),
    Top(cmd::top::Args),
    Revoke(cmd::revoke::Args),
    Env(cmd::env::Args),
    Doctor(cmd::doctor::Args),
    SoftSmi(cmd::soft_smi::Args),
    Trace(cmd::trace::Args),
    /// Asks a driver library what it is; the doctor does so in a process of its own.
    #[command(hide = true)]
    Probe(cmd::doctor::ProbeArgs),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => cmd::run::run(&args),
        Command::Broker(args) => cmd::broker::run(args).map(|()| ExitCode::SUCCESS),
        Command::Status(args) => cmd::status::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Revoke(args) => cmd::revoke::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Top(args) => cmd::top::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Env(args) => cmd::env::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Doctor(args) => cmd::doctor::run(&args),
        Command::SoftSmi(args) => cmd::soft_smi::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Trace(args) => cmd::trace::run(args).map(|()| ExitCode::SUCCESS),
        Command::Probe(args) => cmd::doctor::probe(&args).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        // who has closed the pipe has seen enough; where nobody reads standard error either, the status is all there is
        if !is_broken_pipe(&error) {
            let _unheard = writeln!(std::io::stderr(), "zerogpu: {error:#}");
        }
        ExitCode::FAILURE
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    error.downcast_ref().is_some_and(broken)
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::{Command, CommandFactory};
    use std::fmt::Write;
    use std::path::Path;

    const HEAD: &str = "# Command line

Made from the definitions in `src/` by `UPDATE_DOCS=1 cargo test -p zerogpu`: change it there.
";

    fn describe(page: &mut String, command: &mut Command, name: &str) {
        let help = command.clone().bin_name(name).term_width(100).render_long_help().to_string();
        write!(page, "\n## `{name}`\n\n```text\n{}\n```\n", help.trim_end()).unwrap();
        for sub in command.get_subcommands_mut().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
            let name = format!("{name} {}", sub.get_name());
            describe(page, sub, &name);
        }
    }

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_page_is_in_step_with_the_definitions() {
        let mut page = HEAD.to_string();
        describe(&mut page, &mut Cli::command(), "zerogpu");
        let page: String = page.lines().flat_map(|line| [line.trim_end(), "\n"]).collect();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == page, "docs/cli.md is out of step; run UPDATE_DOCS=1 cargo test -p zerogpu");
    }
}

//! `zerogpu env`: the variables that `zerogpu run` sets, for a shell or a container.

use crate::environment::Choices;
use anyhow::{bail, Result};
use clap::ValueEnum;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Print the variables that `zerogpu run` sets
///
/// For a shell: eval "$(zerogpu env)". What the variables hold already is kept behind ours. No broker is looked for: name one
/// with --socket.
///
/// For a container: zerogpu env --format docker --at FOLDER > zerogpu.env, then docker run --env-file zerogpu.env with our
/// library folder mounted at FOLDER. What the variables hold outside the container is left out.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    choices: Choices,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Shell)]
    format: Format,
    /// Where the container has our library folder
    #[arg(long, value_name = "FOLDER")]
    at: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// export lines
    Shell,
    /// NAME=VALUE lines, for docker run --env-file
    Docker,
    /// One JSON object
    Json,
}

/// Prints the variables.
pub fn run(args: &Args) -> Result<()> {
    let install = args.choices.lib.install()?;
    let outer = |name: &str| if args.format == Format::Shell { std::env::var_os(name) } else { None };
    if let Some(at) = args.at.as_ref().filter(|at| !at.is_absolute()) {
        bail!("--at {} is not absolute; write the folder as the container sees it", at.display());
    }
    let variables = args.choices.variables(&install, args.at.as_deref(), &outer)?;
    let mut out = std::io::stdout().lock();
    out.write_all(&print(args.format, &variables)?)?;
    Ok(out.flush()?)
}

fn print(format: Format, variables: &[(&str, OsString)]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for (name, value) in variables {
        let value = value.as_bytes();
        match format {
            Format::Shell => writeln(&mut text, &[b"export ", name.as_bytes(), b"=", &quoted(value)]),
            Format::Docker if value.contains(&b'\n') => {
                bail!("{name} has a line break in it, which an env-file can't hold; unset it, or use --format json")
            }
            Format::Docker => writeln(&mut text, &[name.as_bytes(), b"=", value]),
            Format::Json => {}
        }
    }
    if format == Format::Json {
        let object: BTreeMap<&str, std::borrow::Cow<'_, str>> =
            variables.iter().map(|(name, value)| (*name, value.to_string_lossy())).collect();
        serde_json::to_writer_pretty(&mut text, &object)?;
        text.push(b'\n');
    }
    Ok(text)
}

fn writeln(text: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| text.extend_from_slice(part));
    text.push(b'\n');
}

/// In single quotes, as every shell reads them.
fn quoted(value: &[u8]) -> Vec<u8> {
    let mut text = vec![b'\''];
    for &byte in value {
        match byte {
            b'\'' => text.extend_from_slice(b"'\\''"),
            byte => text.push(byte),
        }
    }
    text.push(b'\'');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_written() {
        let value = "it's $HOME `x` \"y\"\n\\ end";
        let script = print(Format::Shell, &[("A", value.into())]).unwrap();
        let script = format!("{}printf %s \"$A\"", String::from_utf8(script).unwrap());
        let _alone = crate::find::runs::NO_CHILDREN.lock();
        let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
    }

    #[test]
    fn docker_and_json() {
        let variables = [("A", "1 2".into()), ("B", "x".into())];
        assert_eq!(print(Format::Docker, &variables).unwrap(), b"A=1 2\nB=x\n");
        let json: serde_json::Value = serde_json::from_slice(&print(Format::Json, &variables).unwrap()).unwrap();
        assert_eq!(json, serde_json::json!({"A": "1 2", "B": "x"}));
        let error = print(Format::Docker, &[("A", "1\n2".into())]).unwrap_err().to_string();
        assert!(error.contains("line break"), "{error}");
    }
}

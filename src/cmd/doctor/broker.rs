//! The node broker: is one there, may this process connect to it, and does it fit.

use super::report::Finding;
use super::system::can_be_used;
use crate::broker::Status;
use crate::cmd::status::{read, Watcher};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zerogpu_protocol::{default_socket, Error, SYSTEM_SOCKET};
use zerogpu_settings::Settings;

const TOPIC: &str = "broker";

/// What the settings and the usual places lead to.
pub fn findings(settings: &Settings) -> Vec<Finding> {
    if std::env::var_os("ZEROGPU_SOCKET").is_some_and(|value| value == "none") {
        return vec![Finding::ok(TOPIC, "programs claim GPUs by themselves (ZEROGPU_SOCKET is none)")];
    }
    if let Some(socket) = &settings.socket {
        return look(socket, true);
    }
    let own = match default_socket() {
        Ok(own) => own,
        Err(error) => {
            return vec![Finding::problem(TOPIC, "the usual place of a broker can't be trusted", error.to_string())]
        }
    };
    let places = [own.clone(), PathBuf::from(SYSTEM_SOCKET)];
    match places.iter().find(|place| place.exists()) {
        Some(socket) => look(socket, false),
        None => vec![match can_be_used(&own) {
            Ok(()) => Finding::ok(TOPIC, format!("none on {}: a program claims GPUs by itself", own.display())),
            Err(error) => Finding::note(
                TOPIC,
                format!("none on {}, and none can be made there ({error}): programs don't share GPUs", own.display()),
            )
            .fix("give this user a folder in XDG_RUNTIME_DIR, or start zerogpu broker as docs/operations.md says"),
        }],
    }
}

/// `named`: somebody wants this broker and no other.
fn look(socket: &Path, named: bool) -> Vec<Finding> {
    let mut watcher = match Watcher::connect(socket) {
        Ok(watcher) => watcher,
        Err(error) => return vec![refusal(socket, named, &error)],
    };
    let peer = watcher.peer();
    match watcher.ask().and_then(|json| read(&json)) {
        Ok(status) => answer(socket, &status, peer),
        Err(error) => vec![Finding::problem(
            TOPIC,
            format!("{} answers what is not understood: {error:#}", socket.display()),
            "install the same version of zerogpu for the broker and here",
        )],
    }
}

fn refusal(socket: &Path, named: bool, error: &anyhow::Error) -> Finding {
    let shown = socket.display();
    match error.downcast_ref::<Error>() {
        Some(Error::Mismatch(_, text)) => {
            Finding::problem(TOPIC, text.clone(), "install the same version of zerogpu for the broker and here")
        }
        Some(Error::Refused(refused)) => {
            Finding::problem(TOPIC, format!("the broker on {shown} refuses this process"), refused.text.clone())
        }
        Some(Error::Io(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let whose = std::fs::metadata(socket).map_or_else(
                |_| String::new(),
                |file| {
                    format!(
                        " (it is of user {} and group {}, {:03o})",
                        file.uid(),
                        file.gid(),
                        file.permissions().mode() & 0o777
                    )
                },
            );
            let text = format!("this user may not connect to the broker on {shown}{whose}");
            let remedy = "have the administrator add the user to the socket's group; see docs/operations.md";
            if named {
                Finding::problem(TOPIC, text, remedy)
            } else {
                Finding::note(TOPIC, text).fix(remedy)
            }
        }
        Some(Error::Io(error)) if named && error.kind() == std::io::ErrorKind::NotFound => Finding::problem(
            TOPIC,
            format!("{shown}, which ZEROGPU_SOCKET names, is not there"),
            "start zerogpu broker, or unset ZEROGPU_SOCKET; in a container, mount the folder of the broker's socket there \
             (docs/containers.md)",
        ),
        _ if named => Finding::problem(
            TOPIC,
            format!("no broker answers on {shown}, which ZEROGPU_SOCKET names"),
            "start zerogpu broker, or unset ZEROGPU_SOCKET",
        ),
        _ => Finding::ok(TOPIC, format!("none answers on {shown}: a program claims GPUs by itself")),
    }
}

fn answer(socket: &Path, status: &Status, peer: Option<i32>) -> Vec<Finding> {
    let names: Vec<&str> = status.cards.iter().map(|card| card.name.as_str()).collect();
    let mut findings = vec![Finding::ok(
        TOPIC,
        format!(
            "zerogpu {} answers on {}, pid {}, driver {}",
            status.version,
            socket.display(),
            status.pid,
            status.driver
        ),
    )];
    findings.push(Finding::ok(TOPIC, format!("{} cards: {}", names.len(), names.join(", "))));
    if status.version != env!("CARGO_PKG_VERSION") {
        let text = format!("the broker is zerogpu {}, this is {}", status.version, env!("CARGO_PKG_VERSION"));
        findings.push(Finding::note(TOPIC, text).fix("install the same version on both sides"));
    }
    // with a socket of systemd the peer is systemd, which is where the broker is
    if peer == Some(0) {
        let text =
            "the broker is outside this container's pid namespace: it calls processes by other numbers than here";
        findings.push(Finding::note(TOPIC, text));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;
    use std::io;

    #[test]
    fn a_socket_without_a_broker_is_a_problem_only_if_it_was_named() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("broker.sock");
        let missing = &look(&socket, true)[0];
        assert_eq!(missing.level, Level::Problem);
        assert!(missing.remedy.as_ref().unwrap().contains("mount the folder"), "{missing:?}");
        std::fs::write(&socket, "").unwrap();
        let silent = &look(&socket, true)[0];
        assert_eq!(silent.level, Level::Problem);
        assert!(silent.text.contains("no broker answers"), "{silent:?}");
        std::fs::remove_file(&socket).unwrap();
        assert_eq!(look(&socket, false)[0].level, Level::Ok);
        let denied = || anyhow::Error::from(Error::Io(io::ErrorKind::PermissionDenied.into())).context("advice");
        assert_eq!(refusal(&socket, true, &denied()).level, Level::Problem);
        assert!(refusal(&socket, false, &denied()).text.contains("may not connect"));
    }
}

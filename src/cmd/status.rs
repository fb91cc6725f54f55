//! `zerogpu status`: what the broker of this node does.

use crate::broker::Status;
use anyhow::{bail, ensure, Context, Result};
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use zerogpu_lease::{Holder, SpaceId, State};
use zerogpu_protocol::{default_socket, Connection, Hello, Packet, Role, ToBroker, ToClient, SYSTEM_SOCKET};
use zerogpu_settings::Settings;

/// Show the cards, who holds them, and who waits
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The broker's socket. Without it: this user's usual place, else the system's. [ZEROGPU_SOCKET]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Prints the status.
pub fn run(args: &Args) -> Result<()> {
    let socket = socket(args.socket.as_deref())?;
    let json = Watcher::connect(&socket)?.ask()?;
    let text = if args.json { json + "\n" } else { text(&read(&json)?) };
    // not print!, which panics where nobody reads it
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// The socket of the option, of the environment, or the usual one.
pub fn socket(option: Option<&Path>) -> Result<PathBuf> {
    match option.map(Path::to_owned).or_else(|| Settings::from_env().0.socket) {
        Some(path) => Ok(path),
        None => {
            let (own, system) = (default_socket()?, PathBuf::from(SYSTEM_SOCKET));
            Ok(if !own.exists() && system.exists() { system } else { own })
        }
    }
}

/// A connection that only looks on.
pub struct Watcher {
    connection: Connection,
    /// The protocol's version that both sides speak.
    version: u16,
}

/// The protocol's version from which on a broker takes [`ToBroker::TakeBack`].
const TAKE_BACK: u16 = 3;

impl Watcher {
    /// Connects to a broker.
    pub fn connect(socket: &Path) -> Result<Watcher> {
        let until = Some(Instant::now() + PATIENCE);
        let hello = Hello { name: "zerogpu status".into(), vram: 0, cc: (0, 0), role: Role::Observer, holds: None };
        let connected = Connection::connect(socket, until).and_then(|c| c.hello(&hello, None, until).map(|w| (c, w)));
        let advice = || {
            format!(
                "no broker answers on {}; start one with zerogpu broker, or name its socket with --socket",
                socket.display()
            )
        };
        let (connection, welcome) = connected.with_context(advice)?;
        Ok(Watcher { connection, version: welcome.version })
    }

    /// The broker's process, as it is called here.
    pub fn peer(&self) -> Option<i32> {
        zerogpu_protocol::peer(self.connection.as_fd()).ok().map(|peer| peer.pid)
    }

    /// Asks for the status, as JSON.
    pub fn ask(&mut self) -> Result<String> {
        let until = Some(Instant::now() + PATIENCE);
        let mut packet = Packet::new();
        self.connection.send(&ToBroker::Status, until)?;
        let mut json = String::new();
        loop {
            match self.connection.recv(&mut packet, until)?.0 {
                ToClient::Report { json: piece, more } => {
                    json.push_str(&piece);
                    if !more {
                        return Ok(json);
                    }
                }
                ToClient::Closing { text, .. } => bail!("{text}"),
                _ => {}
            }
        }
    }

    /// Has the card taken back from a process; whether a lease ends, and the broker's sentence about it.
    pub fn take_back(&mut self, pid: u32) -> Result<(bool, String)> {
        ensure!(
            self.version >= TAKE_BACK,
            "this broker is of an earlier version, which takes no card back; start it again with this one"
        );
        let until = Some(Instant::now() + PATIENCE);
        let mut packet = Packet::new();
        self.connection.send(&ToBroker::TakeBack { pid }, until)?;
        loop {
            match self.connection.recv(&mut packet, until)?.0 {
                ToClient::TakenBack { done, text } => return Ok((done, text)),
                ToClient::Closing { text, .. } => bail!("{text}"),
                _ => {}
            }
        }
    }
}

/// Reads what [`Watcher::ask`] gave.
pub fn read(json: &str) -> Result<Status> {
    serde_json::from_str(json).context("the broker's answer is not understood; install the same version for both")
}

/// The status for people.
pub fn text(status: &Status) -> String {
    let mut out = String::new();
    let name = |space| name_of(status, space);
    let _ = writeln!(
        out,
        "zerogpu {} broker, pid {}, up {}; driver {}",
        status.version,
        status.pid,
        time(status.scheduler.at),
        status.driver
    );
    if status.scheduler.held > 0.0 {
        let _ = writeln!(out, "{}", held_back(status.scheduler.held));
    }
    for card in &status.scheduler.cards {
        let label = status.cards.get(card.card.0 as usize).map_or("", |card| card.name.as_str());
        let _ = writeln!(
            out,
            "\n{}: {label}   {} leased, {} warm, {} free",
            card.card,
            mib(card.leased),
            mib(card.warm),
            mib(card.free)
        );
        for holder in &card.holders {
            let left = standing(status, holder);
            let kind = if holder.borrowed { " (borrowed)" } else { "" };
            let _ = writeln!(
                out,
                "  claimed  {:<32} {:>10}  for {}, {left}{kind}",
                name(holder.space),
                mib(holder.bytes),
                time(holder.seconds)
            );
        }
        for resident in &card.residents {
            let _ = writeln!(
                out,
                "  warm     {:<32} {:>10}  for {}{}",
                name(resident.space),
                mib(resident.bytes),
                time(resident.seconds),
                if resident.ahead { ", ahead of a call" } else { "" }
            );
        }
    }
    if !status.scheduler.queue.is_empty() {
        let _ = writeln!(out, "\nWaiting");
    }
    for waiting in &status.scheduler.queue {
        let estimate = waiting.estimate.map_or_else(String::new, |s| format!(", about {} more", time(s)));
        let _ = writeln!(
            out,
            "  {:>3}. {:<32} {:>10}  asks for {}, has waited {}{estimate}",
            waiting.place,
            name(waiting.space),
            mib(waiting.bytes),
            time(waiting.seconds),
            time(waiting.waited)
        );
    }
    let count = |state| status.scheduler.spaces.iter().filter(|space| space.state == state).count();
    let _ = writeln!(
        out,
        "\n{} Spaces: {} claimed, {} waiting, {} warm, {} parked; host memory {} of {}",
        status.scheduler.spaces.len(),
        count(State::Claimed),
        count(State::Waiting),
        count(State::Warm),
        count(State::Parked),
        mib(status.host_reserved),
        mib(status.host_memory)
    );
    for program in &status.programs {
        let Some(by) = &program.bound_by else { continue };
        let where_ = if program.aside { "off the card" } else { "on the card" };
        let _ = writeln!(out, "  {} (pid {}) is bound to its context, {where_}: by {by}", program.name, program.pid);
    }
    for tenant in &status.scheduler.tenants {
        let limit = tenant.used_limit.map_or_else(String::new, |limit| format!(" of {limit:.0}"));
        let _ = writeln!(
            out,
            "  tenant {:<24} {} Spaces of {}, {:.1}{limit} GPU seconds in 24 h, weight {}",
            tenant.tenant, tenant.spaces, tenant.spaces_limit, tenant.used, tenant.weight
        );
    }
    out
}

/// How long a lease lasts still, or what is amiss with it.
pub fn standing(status: &Status, holder: &Holder) -> String {
    let program = status.programs.iter().find(|program| program.space == holder.space.0);
    match program.and_then(|program| program.parting.as_ref()) {
        Some(why) if holder.ending => format!("its process is being ended: {why}"),
        Some(why) => format!("not connected: {why}"),
        None if holder.overdue => "over its time".into(),
        None => format!("{} left", time(holder.left)),
    }
}

/// What people call a Space.
pub fn name_of(status: &Status, space: SpaceId) -> String {
    let program = status.programs.iter().find(|program| program.space == space.0);
    program.map_or_else(|| space.to_string(), |program| format!("{} (pid {})", program.name, program.pid))
}

/// Bytes, for people.
pub fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// What a broker says that waits for programs of an earlier one.
pub fn held_back(seconds: f64) -> String {
    format!("no card is leased for {} more: programs of an earlier broker may hold some", time(seconds))
}

/// Seconds, for people.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 99.5 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_few_digits() {
        let cases = [(0.04, "0.0 s"), (9.9, "9.9 s"), (42.4, "42 s"), (119.0, "2 min"), (7200.0, "2.0 h")];
        for (seconds, text) in cases {
            assert_eq!(time(seconds), text);
        }
    }
}

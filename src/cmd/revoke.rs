//! `zerogpu revoke`: an administrator takes a card back.

use super::status::{socket, Watcher};
use anyhow::{bail, Result};
use std::path::PathBuf;

/// Take the card back from a program
///
/// Its lease ends as at its deadline: calls that use the GPU fail (702), its bytes go home, and its next call claims anew. A process
/// that keeps the card beyond the broker's grace time is ended. Only root and the broker's own user may. The exit status is 1
/// if the process holds no card.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The program's process, as zerogpu status prints it
    #[arg(value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: u32,
    /// The broker's socket. Without it: this user's usual place, else the system's. [ZEROGPU_SOCKET]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Asks the broker to end the lease of a process.
pub fn run(args: &Args) -> Result<()> {
    match Watcher::connect(&socket(args.socket.as_deref())?)?.take_back(args.pid)? {
        (true, text) => println!("{text}"),
        (false, text) => bail!("{text}"),
    }
    Ok(())
}

//! What a node's broker says of itself, and processes that are bad to it.
use crate::node::Node;
use anyhow::{ensure, Context, Result};
use serde_json::Value;
use std::process::{Child, Stdio};
use zerogpu_protocol::Uuid;

impl Node {
    /// A process that does something of [`crate::hostile`]: `deed` and its name, or `late` and a card.
    pub fn villain(&self, what: &str, which: &str) -> Result<Child> {
        let mut command = self.command("zerogpu-node-space");
        command.args([what, which]).arg(self.socket());
        command.stdin(Stdio::null()).spawn().context("a villain can't be started")
    }

    /// A process that keeps a slab of so many bytes beyond its lease, until it is told a line; it ends with its input. `guise`: one
    /// of [`crate::hostile::GUISES`].
    pub fn hoarder(&self, bytes: u64, guise: &str) -> Result<Child> {
        let mut command = self.command("zerogpu-node-space");
        command.args(["keep", &bytes.to_string(), guise]).arg(self.socket()).arg(self.library("libsoftcuda.so"));
        command.stdin(Stdio::piped()).spawn().context("a villain can't be started")
    }

    /// What the broker says of itself.
    pub fn status(&self) -> Result<Value> {
        let output = self.command("zerogpu").args(["status", "--json", "--socket"]).arg(self.socket()).output()?;
        ensure!(output.status.success(), "no status: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Has the broker take the card back from a process, as an administrator does: what was said of it, or why not.
    pub fn revoke(&self, pid: u32) -> Result<String, String> {
        let mut command = self.command("zerogpu");
        let output = command.args(["revoke", &pid.to_string(), "--socket"]).arg(self.socket()).output();
        let output = output.map_err(|e| e.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
        match output.status.code() {
            Some(0) => Ok(text(&output.stdout)),
            Some(1) => Err(text(&output.stderr)),
            _ => Err(format!("it ended with {}", output.status)),
        }
    }

    /// The node's first card, as the protocol calls it.
    pub fn card(&self) -> Result<Uuid> {
        let status = self.status()?;
        let text = status["cards"][0]["uuid"].as_str().context("a card without a uuid")?;
        let digits: String = text.trim_start_matches("GPU-").chars().filter(|&c| c != '-').collect();
        ensure!(digits.len() == 32, "{text} is no uuid");
        let mut uuid = Uuid::default();
        for (i, byte) in uuid.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16)?;
        }
        Ok(uuid)
    }

    /// What the broker says of itself, for people.
    pub fn status_text(&self) -> Result<String> {
        let output = self.command("zerogpu").args(["status", "--socket"]).arg(self.socket()).output()?;
        ensure!(output.status.success(), "no status: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

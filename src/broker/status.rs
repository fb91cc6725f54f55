//! What the broker tells of itself: JSON for programs, and the same read back for people.
use super::client::Role;
use super::daemon::Daemon;
use super::metrics::Totals;
use serde::{Deserialize, Serialize};
use zerogpu_lease::Report;

/// The answer to `zerogpu status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Version of zerogpu.
    pub version: String,
    /// The broker's identity.
    pub broker: u64,
    /// Its process.
    pub pid: u32,
    /// The driver's file.
    pub driver: String,
    /// The file of the software cards, if that is what the driver has.
    pub software_cards: Option<String>,
    /// Host memory for all Spaces, in bytes, and how much of it is spoken for.
    pub host_memory: u64,
    /// Bytes of it that are spoken for.
    pub host_reserved: u64,
    /// What has happened since the broker's start.
    pub totals: Totals,
    /// Cards, in the scheduler's order.
    pub cards: Vec<CardName>,
    /// Spaces, by their number in the scheduler.
    pub programs: Vec<Program>,
    /// The scheduler.
    pub scheduler: Report,
}

/// A card's identity.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CardName {
    /// Its name.
    pub name: String,
    /// Its uuid, as text.
    pub uuid: String,
    /// Bytes in all.
    pub bytes: u64,
}

/// A Space's identity.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Program {
    /// Its number in the scheduler.
    pub space: u64,
    /// What people call it.
    pub name: String,
    /// Its process, as the broker sees it.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Host memory that it has reserved, in bytes.
    pub host_bytes: u64,
    /// Host memory that is page-locked, in bytes.
    pub pinned: u64,
    /// Why its connection is over, while its process still has a card.
    pub parting: Option<String>,
}

impl Daemon {
    /// The status, as JSON.
    pub(super) fn status(&self) -> String {
        let programs: Vec<Program> = self
            .clients
            .values()
            .filter_map(|client| match &client.role {
                Role::Space(space) => Some(Program {
                    space: space.id.0,
                    name: space.name.clone(),
                    pid: client.peer.pid,
                    uid: client.peer.uid,
                    host_bytes: space.reserved,
                    pinned: space.backing.pinned(),
                    parting: client.parting.clone(),
                }),
                _ => None,
            })
            .collect();
        let name =
            |card: &super::CardOfNode| CardName { name: card.name.clone(), uuid: uuid(&card.uuid), bytes: card.bytes };
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_string(),
            broker: self.id,
            pid: std::process::id(),
            driver: self.node.path.display().to_string(),
            software_cards: crate::find::software_cards(&self.node.path).map(|path| path.display().to_string()),
            host_memory: self.host_memory,
            host_reserved: programs.iter().map(|program| program.host_bytes).sum(),
            totals: self.metrics.totals(),
            cards: self.node.cards.iter().map(name).collect(),
            programs,
            scheduler: self.scheduler.report(self.now()),
        };
        serde_json::to_string(&status).unwrap_or_else(|e| format!("{{\"error\": \"{e}\"}}"))
    }
}

/// A uuid as nvidia-smi writes it.
fn uuid(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_uuid_is_written_as_nvidia_smi_does() {
        let bytes: [u8; 16] = std::array::from_fn(|i| i as u8);
        assert_eq!(super::uuid(&bytes), "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}

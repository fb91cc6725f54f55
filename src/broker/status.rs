//! What the broker tells of itself: JSON for programs, and the same read back for people.
use super::client::Role;
use super::daemon::Daemon;
use super::desk::is_administrator;
use super::metrics::Totals;
use serde::{Deserialize, Serialize};
use zerogpu_lease::Report;

/// What stands for the name of another user's program, and of another tenant.
const ANOTHERS: &str = "(another)";

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
    /// Its process, as the broker sees it; 0 where that is not the viewer's business.
    pub pid: i32,
    /// Its user; the largest number where that is not the viewer's business.
    pub uid: u32,
    /// Host memory that it has reserved, in bytes.
    pub host_bytes: u64,
    /// Host memory that is page-locked, in bytes.
    pub pinned: u64,
    /// Why its connection is over, while its process still has a card.
    pub parting: Option<String>,
    /// What binds it to its context, if something does.
    #[serde(default)]
    pub bound_by: Option<String>,
    /// Whether that context is off the card, by the driver's checkpoint.
    #[serde(default)]
    pub aside: bool,
}

impl Status {
    /// What a user may know who is not the administrator: what waits and what is held, but of other users' programs neither
    /// names nor processes, and of other tenants nothing. `tenant` is the user's own.
    fn only_for(&mut self, uid: u32, tenant: &str) {
        for program in self.programs.iter_mut().filter(|program| program.uid != uid) {
            (program.name, program.pid, program.uid) = (ANOTHERS.into(), 0, u32::MAX);
            (program.parting, program.bound_by) = (None, None);
        }
        for space in self.scheduler.spaces.iter_mut().filter(|space| space.tenant != tenant) {
            space.tenant = ANOTHERS.into();
        }
        self.scheduler.tenants.retain(|of| of.tenant == tenant);
    }
}

impl Daemon {
    /// The status, as JSON, for a user.
    pub(super) fn status(&self, viewer: u32) -> String {
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
                    bound_by: space.bound.as_ref().map(|bound| bound.by.clone()),
                    aside: space.bound.as_ref().is_some_and(|bound| bound.aside),
                }),
                _ => None,
            })
            .collect();
        let name =
            |card: &super::CardOfNode| CardName { name: card.name.clone(), uuid: uuid(&card.uuid), bytes: card.bytes };
        let mut status = Status {
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
        if !is_administrator(viewer) {
            status.only_for(viewer, &self.config.tenant_of(viewer));
        }
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
    use super::*;
    use std::time::Duration;
    use zerogpu_lease::{CardSpec, Policy, Scheduler, SpaceSpec};

    #[test]
    fn a_user_is_told_of_nobody_else() {
        let mut scheduler = Scheduler::new(Policy::default(), &[CardSpec { kind: (8, 0), bytes: 1 << 30 }]);
        let program = |(space, uid): (u64, u32)| Program {
            space,
            name: format!("secret-{uid}"),
            pid: 7,
            uid,
            host_bytes: 5,
            pinned: 0,
            parting: None,
            bound_by: Some("secret".into()),
            aside: false,
        };
        let uids = [1000, 1001];
        let spaces = uids.map(|uid| {
            let spec = SpaceSpec { kind: (8, 0), vram: 0 };
            scheduler.attach(Duration::ZERO, &format!("uid-{uid}"), spec).unwrap().0
        });
        let mut status = Status {
            version: String::new(),
            broker: 1,
            pid: 1,
            driver: String::new(),
            software_cards: None,
            host_memory: 0,
            host_reserved: 10,
            totals: Totals::default(),
            cards: Vec::new(),
            programs: spaces.into_iter().zip(uids).map(program).collect(),
            scheduler: scheduler.report(Duration::ZERO),
        };
        status.only_for(1000, "uid-1000");
        let text = serde_json::to_string(&status).unwrap();
        assert!(text.contains("secret-1000") && !text.contains("1001"), "{text}");
        assert_eq!((status.programs.len(), status.programs[1].pid, &status.programs[1].bound_by), (2, 0, &None));
        assert_eq!((status.scheduler.spaces.len(), status.scheduler.tenants.len()), (2, 1));
    }

    #[test]
    fn a_uuid_is_written_as_nvidia_smi_does() {
        let bytes: [u8; 16] = std::array::from_fn(|i| i as u8);
        assert_eq!(super::uuid(&bytes), "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}

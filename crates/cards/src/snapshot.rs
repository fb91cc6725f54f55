//! What is on the cards, seen from outside.

use crate::file::CardFile;
use crate::layout::{hold, life, Image, SLOTS};
use crate::sys;
use serde::Serialize;
use std::io;

/// How often a reading is tried again because the cards changed meanwhile.
const ATTEMPTS: usize = 16;

/// The cards of a machine at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// The cards, by index.
    pub cards: Vec<Card>,
}

/// One card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Card {
    /// Its number, from 0.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Bytes of memory.
    pub bytes_total: u64,
    /// Bytes that processes hold.
    pub bytes_used: u64,
    /// Contexts that processes have.
    pub contexts: u64,
    /// The processes that hold bytes or have contexts.
    pub processes: Vec<Process>,
}

/// What one process has on a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its id as the reader sees it; the one it has in its own container where the reader can't see it.
    pub pid: u32,
    /// Bytes it holds.
    pub bytes_used: u64,
    /// Contexts it has.
    pub contexts: u64,
}

impl Snapshot {
    /// Cards that nobody uses.
    pub fn idle(count: u32, vram: u64, name: &str) -> Snapshot {
        let card = |index| Card {
            index,
            name: name.to_string(),
            bytes_total: vram,
            bytes_used: 0,
            contexts: 0,
            processes: Vec::new(),
        };
        Snapshot { cards: (0..count).map(card).collect() }
    }
}

pub(crate) fn take(file: &CardFile) -> io::Result<Snapshot> {
    let mut before = file.image()?;
    for _ in 0..ATTEMPTS {
        let (alive, pieces) = (living(file, &before)?, pieces(file, &before)?);
        let after = file.image()?;
        if after.0 == before.0 {
            return Ok(summed(file, &after, &alive, &pieces));
        }
        before = after;
    }
    // Under constant change the last reading has to do. It may count bytes twice that moved while it was read.
    let (alive, pieces) = (living(file, &before)?, pieces(file, &before)?);
    Ok(summed(file, &before, &alive, &pieces))
}

/// The slots whose process lives, with its id.
fn living(file: &CardFile, image: &Image) -> io::Result<Vec<(usize, u32)>> {
    let own = file.own_slot();
    let mut alive = Vec::new();
    for slot in (0..SLOTS).filter(|&slot| image.pid(slot) != 0 && !image.is_aside(slot)) {
        let pid = match sys::locked_by(file.locks(), life(slot))? {
            // The own lock is invisible to its owner.
            None if own == Some(slot) => std::process::id(),
            None => continue,
            Some(0) => image.pid(slot) as u32,
            Some(pid) => pid,
        };
        alive.push((slot, pid));
    }
    Ok(alive)
}

/// A piece of memory that living processes hold together.
struct Piece {
    card: u32,
    bytes: u64,
    /// The slot of the process that it is shown as, if that one lives.
    owner: Option<usize>,
    /// A process that holds it; 0 if it can't be seen from here.
    holder: u32,
}

/// The pieces that somebody holds.
fn pieces(file: &CardFile, image: &Image) -> io::Result<Vec<Piece>> {
    let mut held = Vec::new();
    for (row, card, bytes, owner) in image.pieces() {
        let holder = match sys::locked_by(file.locks(), hold(row))? {
            _ if file.own_piece(row) => std::process::id(),
            Some(pid) => pid,
            None => continue,
        };
        held.push(Piece { card, bytes, owner: usize::try_from(owner).ok().and_then(|n| n.checked_sub(1)), holder });
    }
    Ok(held)
}

fn summed(file: &CardFile, image: &Image, alive: &[(usize, u32)], pieces: &[Piece]) -> Snapshot {
    let mut snapshot = Snapshot::idle(file.header.count, file.header.vram, &file.header.name);
    for (number, card) in snapshot.cards.iter_mut().enumerate() {
        let share = |&(slot, pid): &(usize, u32)| Process {
            pid,
            bytes_used: image.held(number, slot),
            contexts: image.contexts(number, slot),
        };
        card.processes = alive.iter().map(share).collect();
        for piece in pieces.iter().filter(|piece| piece.card as usize == number) {
            let of = |slot: usize| alive.iter().find(|(alive, _)| *alive == slot).map(|&(_, pid)| pid);
            let pid = piece.owner.and_then(of).unwrap_or(piece.holder);
            match card.processes.iter_mut().find(|process| process.pid == pid) {
                Some(process) => process.bytes_used = process.bytes_used.saturating_add(piece.bytes),
                None => card.processes.push(Process { pid, bytes_used: piece.bytes, contexts: 0 }),
            }
        }
        card.processes.retain(|process| process.bytes_used > 0 || process.contexts > 0);
        card.bytes_used = card.processes.iter().map(|process| process.bytes_used).fold(0, u64::saturating_add);
        card.contexts = card.processes.iter().map(|process| process.contexts).fold(0, u64::saturating_add);
    }
    snapshot
}

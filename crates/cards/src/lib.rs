//! Software cards: one file that the processes of a machine share, as they would share real cards.
//!
//! The file's path is a setting, so it can be mounted into containers. It holds a table: for each process a slot, in
//! each slot the process's share of each card. Three rules make it survive a kill at any instant:
//!
//! - A process owns a slot by a POSIX lock on a byte of the file, which the kernel drops when the process ends. Whether a
//!   slot is alive is asked of the lock, never of a process id: ids are reused, and differ between containers.
//! - No count stands twice. What a card has used is the sum of its slots, so there is nothing to repair: a dead
//!   process's slot is cleared by whoever next finds the card full.
//! - A share is first asked for, then held: [`Slot::take`] adds to `asked`, sums the card, and adds to `held` only if the
//!   sum fits. So the bytes held never exceed the card, and no process ever waits for another.
//!
//! Memory that several processes hold together ([`Slot::hold`]) is kept in rows of its own, by the same rules.
//!
//! A process can be put aside by another one ([`Slot::shut`], [`Slot::put_aside`]): its calls wait at its door, and what it has counts on no
//! card until it is brought back. Nothing is moved for that: sums leave out the slots whose door says so.
//!
//! A forked child owns no slot: a POSIX lock is not inherited. Its [`Slot`] refuses, and it may join anew.
//!
//! A POSIX lock has one trap: closing *any* descriptor of the file drops the process's locks on it. Files opened here are
//! therefore kept open until the process ends, and opening one twice gives the same descriptor.
#![warn(clippy::missing_errors_doc)]

mod aside;
mod file;
mod fork;
mod layout;
mod shared;
mod slot;
mod snapshot;
mod sys;

pub use aside::{Cannot, Inside, State};
pub use layout::{MAX_CARDS, NAME_BYTES, PIECES, SLOTS};
pub use slot::{Refused, Slot};
pub use snapshot::{Card, Process, Snapshot};

use file::CardFile;
use layout::{Header, Wanted};
use std::io;
use std::path::Path;

/// What is asked of the cards. What is `None` is as in the file that is there, and without a file as usual.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    /// Number of cards.
    pub count: Option<u32>,
    /// Bytes of memory of each.
    pub vram: Option<u64>,
    /// Name of each.
    pub name: Option<&'a str>,
}

impl Wish<'_> {
    fn or(&self, count: u32, vram: u64, name: &str) -> io::Result<Wanted> {
        let usual = Header::new(count, vram, name)?;
        Ok(Wanted { count: self.count, vram: self.vram, name: self.name.map(str::to_owned), usual })
    }
}

/// The software cards of a machine.
#[derive(Debug, Clone, Copy)]
pub struct Cards {
    file: &'static CardFile,
}

impl Cards {
    /// Opens the cards at `path`, making them if there are none: `count` cards named `name`, with `vram` bytes each.
    /// The first to open decides; the file keeps its sizes until it is removed, or made anew by [`Cards::remake`].
    ///
    /// # Errors
    /// `InvalidInput` for sizes that no file can have; `InvalidData` where the file has other sizes or is no file of
    /// cards; else what the system says. Each names the path and the way out.
    pub fn open(path: &Path, count: u32, vram: u64, name: &str) -> io::Result<Cards> {
        let wanted = Wanted::exactly(Header::new(count, vram, name)?);
        Ok(Cards { file: CardFile::open(path, &wanted, false)? })
    }

    /// Opens the cards at `path` as they are, if they are as wished; without a file makes them as wished, and what is not
    /// wished as the rest of the arguments says.
    ///
    /// # Errors
    /// As for [`Cards::open`].
    pub fn follow(path: &Path, wish: Wish<'_>, count: u32, vram: u64, name: &str) -> io::Result<Cards> {
        Ok(Cards { file: CardFile::open(path, &wish.or(count, vram, name)?, false)? })
    }

    /// The same, and cards that are not as wished are made anew if no process uses them.
    ///
    /// # Errors
    /// As for [`Cards::open`].
    pub fn remake(path: &Path, wish: Wish<'_>, count: u32, vram: u64, name: &str) -> io::Result<Cards> {
        Ok(Cards { file: CardFile::open(path, &wish.or(count, vram, name)?, true)? })
    }

    /// Opens the cards at `path` to look at them: no right to write is needed, and [`Cards::join`] fails.
    ///
    /// # Errors
    /// `NotFound` where there is no file or its maker has not finished it; `InvalidData` where it is no file of cards;
    /// else what the system says.
    pub fn look(path: &Path) -> io::Result<Cards> {
        Ok(Cards { file: CardFile::look(path)? })
    }

    /// Number of cards.
    pub fn count(&self) -> u32 {
        self.file.header.count
    }

    /// Bytes of memory of each card.
    pub fn vram(&self) -> u64 {
        self.file.header.vram
    }

    /// Name of each card.
    pub fn name(&self) -> &str {
        &self.file.header.name
    }

    /// Takes a slot for this process. A process has at most one.
    ///
    /// # Errors
    /// `AlreadyExists` if this process has a slot, `PermissionDenied` if the cards were opened to look only,
    /// `Other` if each slot is taken, `UnexpectedEof` if the file was cut short, else what the system says.
    pub fn join(&self) -> io::Result<Slot> {
        Slot::join(self.file)
    }

    /// What is on the cards now, by living processes. Any content of the file is survived.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file was cut short, else what the system says.
    pub fn snapshot(&self) -> io::Result<Snapshot> {
        snapshot::take(self.file)
    }
}

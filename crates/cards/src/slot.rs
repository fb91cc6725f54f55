//! A process's slot: its share of each card.

use crate::file::CardFile;
use crate::fork;
use crate::layout::{edit, life, shared_of, Column, Shares, Table, ASIDE, OPEN, PIECES, RETURNING, SLOTS};
use crate::sys;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// How often a take that lost to others' takes (not to bytes held) tries again.
const ATTEMPTS: u32 = 1000;

/// Why a slot did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The card has not that many bytes free.
    Full {
        /// Bytes that were free.
        free: u64,
    },
    /// This process was forked from the slot's owner; it may join by itself.
    Forked,
    /// There is no card of this index.
    NoCard,
    /// More was given back than this process has.
    NotHeld,
    /// All rows for memory that processes hold together are in use.
    TooMany,
    /// The file was cut short by someone.
    Cut,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Full { free } => write!(f, "the software card has {free} bytes free"),
            Refused::Forked => write!(f, "the slot on the software cards belongs to the parent process"),
            Refused::NoCard => write!(f, "there is no such software card"),
            Refused::NotHeld => write!(f, "more was given back to the software card than this process has"),
            Refused::TooMany => {
                write!(f, "{PIECES} pieces of memory are shared on the software cards; free one of them")
            }
            Refused::Cut => write!(f, "the file of software cards was cut short; end its users and remove it"),
        }
    }
}

impl std::error::Error for Refused {}

/// The slot of this process on the cards. Dropping it gives everything back; so does the end of the process, in any way.
#[derive(Debug)]
pub struct Slot {
    pub(crate) file: &'static CardFile,
    pub(crate) table: &'static Table,
    pub(crate) index: usize,
    pub(crate) generation: u32,
}

impl Slot {
    pub(crate) fn join(file: &'static CardFile) -> io::Result<Slot> {
        let table = file.table()?;
        file.check_length()?;
        let _threads = file.slots.lock();
        if file.own.get().is_some() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "this process has its slot on the software cards",
            ));
        }
        for index in 0..SLOTS {
            if let Some(slot) = Slot::claim(file, table, index)? {
                return Ok(slot);
            }
        }
        Err(io::Error::other(format!("{SLOTS} processes use the software cards; end one of them")))
    }

    fn claim(file: &'static CardFile, table: &'static Table, index: usize) -> io::Result<Option<Slot>> {
        if !sys::try_lock(file.locks(), edit(index))? {
            return Ok(None);
        }
        let free = sys::try_lock(file.locks(), life(index));
        if let Ok(true) = free {
            clear(table, index);
            table.pids[index].store(u64::from(std::process::id()), SeqCst);
            file.own.set(index as u32);
        }
        sys::unlock(file.locks(), edit(index))?;
        Ok(free?.then(|| Slot { file, table, index, generation: fork::generation() }))
    }

    /// Takes `bytes` of a card. The sum over the living processes never exceeds the card; a dead process's share is
    /// freed when it stands in the way.
    ///
    /// # Errors
    /// [`Refused`]; nothing was taken then.
    pub fn take(&self, card: u32, bytes: u64) -> Result<(), Refused> {
        self.ask(card, bytes)?;
        add(&self.shares(card)?.held[self.index], bytes).ok_or(Refused::NotHeld)?;
        Ok(())
    }

    /// Asks for `bytes` of a card: from here on nobody else gets them.
    pub(crate) fn ask(&self, card: u32, bytes: u64) -> Result<(), Refused> {
        let shares = self.shares(card)?;
        let size = self.file.header.vram;
        let full = |held: u64| Refused::Full { free: size.saturating_sub(held) };
        for attempt in 0..ATTEMPTS {
            add(&shares.asked[self.index], bytes).ok_or_else(|| full(self.held(card)))?;
            if self.asked(card) <= size {
                return Ok(());
            }
            self.unask(card, bytes)?;
            if self.sweep(card, shares) {
                continue;
            }
            let held = self.held(card);
            if held.checked_add(bytes).is_none_or(|sum| sum > size) {
                return Err(full(held));
            }
            // It would fit beside what is held: others were asking at the same instant. Step back, each for another time.
            for _ in 0..(attempt as usize + 1) * (self.index + 1) % 1024 {
                std::hint::spin_loop();
            }
            std::thread::yield_now();
        }
        Err(full(self.held(card)))
    }

    /// Takes back what was asked for and is not held.
    pub(crate) fn unask(&self, card: u32, bytes: u64) -> Result<(), Refused> {
        subtract(&self.shares(card)?.asked[self.index], bytes).map(|_| ()).ok_or(Refused::NotHeld)
    }

    /// Bytes of a card that are held or asked for, by anyone in any way.
    pub(crate) fn asked(&self, card: u32) -> u64 {
        self.sum(&self.table.cards[card as usize].asked, &[ASIDE]).saturating_add(self.pieces(card))
    }

    /// Bytes of a card that are held, by anyone in any way.
    pub(crate) fn held(&self, card: u32) -> u64 {
        self.sum(&self.table.cards[card as usize].held, &[ASIDE, RETURNING]).saturating_add(self.pieces(card))
    }

    /// The sum of a column without the slots whose doors are in one of these states.
    fn sum(&self, column: &Column, without: &[u64]) -> u64 {
        let shares = column.iter().map(|share| share.load(SeqCst)).enumerate().filter(|&(_, share)| share != 0);
        let counted = shares.filter(|&(slot, _)| !without.contains(&self.table.doors[slot].state.load(SeqCst)));
        counted.fold(0, |sum, (_, share)| sum.saturating_add(share))
    }

    /// Bytes of the pieces on a card.
    fn pieces(&self, card: u32) -> u64 {
        let words = self.table.shared.words.iter().map(|word| shared_of(word.load(SeqCst)));
        words.filter(|&(of, _)| of == card).fold(0, |sum, (_, bytes)| sum.saturating_add(bytes))
    }

    /// Gives `bytes` of a card back.
    ///
    /// # Errors
    /// [`Refused`]; nothing was given back then.
    pub fn give(&self, card: u32, bytes: u64) -> Result<(), Refused> {
        let shares = self.shares(card)?;
        // In this order `asked` is never below `held`, whenever the process is killed or another one looks.
        subtract(&shares.held[self.index], bytes).ok_or(Refused::NotHeld)?;
        subtract(&shares.asked[self.index], bytes).ok_or(Refused::NotHeld)?;
        Ok(())
    }

    /// Changes the number of contexts that this process has on a card.
    ///
    /// # Errors
    /// [`Refused`]; nothing was changed then.
    pub fn contexts(&self, card: u32, change: i64) -> Result<(), Refused> {
        let contexts = &self.shares(card)?.contexts[self.index];
        contexts
            .fetch_update(SeqCst, SeqCst, |count| count.checked_add_signed(change))
            .map_err(|_| Refused::NotHeld)?;
        Ok(())
    }

    /// Bytes of a card that no living process holds.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn free(&self, card: u32) -> Result<u64, Refused> {
        let shares = self.shares(card)?;
        self.sweep(card, shares);
        Ok(self.file.header.vram.saturating_sub(self.held(card)))
    }

    /// The columns of a card, if this process may change them.
    pub(crate) fn shares(&self, card: u32) -> Result<&'static Shares, Refused> {
        if fork::generation() != self.generation {
            return Err(Refused::Forked);
        }
        if card >= self.file.header.count {
            return Err(Refused::NoCard);
        }
        self.file.check_length().map_err(|_| Refused::Cut)?;
        Ok(&self.table.cards[card as usize])
    }

    /// Clears what dead processes left on one card. True if there was something.
    pub(crate) fn sweep(&self, card: u32, shares: &Shares) -> bool {
        let columns = [&self.table.pids, &shares.asked, &shares.held, &shares.contexts];
        let used = |index: usize| columns.iter().any(|column| column[index].load(SeqCst) != 0);
        let _threads = self.file.slots.lock();
        let mut freed = false;
        for index in (0..SLOTS).filter(|&index| index != self.index && used(index)) {
            freed |= self.sweep_slot(index);
        }
        freed | self.sweep_pieces(card)
    }

    /// Clears one slot if its process is dead. A lock that can't be had or asked for means: not known to be dead.
    fn sweep_slot(&self, index: usize) -> bool {
        let file = self.file.locks();
        if !matches!(sys::try_lock(file, edit(index)), Ok(true)) {
            return false;
        }
        let dead = matches!(sys::locked_by(file, life(index)), Ok(None));
        if dead {
            clear(self.table, index);
        }
        // If this fails the slot stays out of use for as long as this process lives; nothing else is lost.
        dead & sys::unlock(file, edit(index)).is_ok()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if fork::generation() != self.generation || self.file.check_length().is_err() {
            return;
        }
        let _threads = self.file.slots.lock();
        self.let_all_go();
        clear(self.table, self.index);
        self.file.own.clear();
        // If this fails the slot stays taken, empty, until the process ends.
        let _ = sys::unlock(self.file.locks(), life(self.index));
    }
}

/// Empties a slot. The id goes last: a slot without one is empty.
fn clear(table: &Table, index: usize) {
    for shares in &table.cards {
        for column in [&shares.held, &shares.asked, &shares.contexts] {
            column[index].store(0, SeqCst);
        }
    }
    for owner in &table.shared.owners {
        let _ = owner.compare_exchange(index as u64 + 1, 0, SeqCst, SeqCst);
    }
    let door = &table.doors[index];
    for word in [&door.inside, &door.holds] {
        word.store(0, SeqCst);
    }
    door.state.store(OPEN, SeqCst);
    table.pids[index].store(0, SeqCst);
}

fn add(word: &AtomicU64, bytes: u64) -> Option<u64> {
    word.fetch_update(SeqCst, SeqCst, |old| old.checked_add(bytes)).ok()
}

fn subtract(word: &AtomicU64, bytes: u64) -> Option<u64> {
    word.fetch_update(SeqCst, SeqCst, |old| old.checked_sub(bytes)).ok()
}

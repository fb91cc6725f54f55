//! Memory that several processes hold: it counts on its card once, for as long as any of them lives and holds it.
//!
//! A piece is a row of the file, and holding it is a *read* lock on the row's byte: any number of processes can have one,
//! and each dies with its process. Whoever can take the *write* lock knows that nobody holds the piece; so a row is made
//! and cleared under that lock alone, and a row whose holders are gone is free, whatever stands in it.

use crate::layout::{hold, shared_of, shared_word, PIECES};
use crate::slot::{Refused, Slot};
use crate::sys;
use std::sync::atomic::Ordering::SeqCst;

/// How often a row that is just being made or cleared is looked at again.
const PATIENCE: u32 = 1000;

impl Slot {
    /// Holds the piece of memory called `id` (not 0), `bytes` long on `card`: another hold of the one that living
    /// processes hold, else a new one, which has to fit as in [`Slot::take`]. Ends with [`Slot::let_go`], the slot, or
    /// the process.
    ///
    /// # Errors
    /// [`Refused`]; nothing is held then.
    pub fn hold(&self, card: u32, bytes: u64, id: u64) -> Result<(), Refused> {
        self.shares(card)?;
        let word = shared_word(card, bytes).ok_or(Refused::Full { free: 0 })?;
        if self.join_piece(word, id) {
            return Ok(());
        }
        self.ask(card, bytes)?;
        let made = self.make_piece(word, id);
        // counted in the row from now on, or refused
        self.unask(card, bytes)?;
        if made {
            Ok(())
        } else {
            Err(Refused::TooMany)
        }
    }

    /// Ends one hold of the piece called `id`.
    ///
    /// # Errors
    /// [`Refused::NotHeld`] if this process has none of it, and as for [`Slot::give`].
    pub fn let_go(&self, id: u64) -> Result<(), Refused> {
        self.shares(0)?;
        let _threads = self.file.slots.lock();
        let row = self.own_piece(id).ok_or(Refused::NotHeld)?;
        let holds = self.file.held(row).unwrap_or(1) - 1;
        self.file.set_held(row, holds);
        if holds == 0 {
            self.drop_piece(row);
        }
        Ok(())
    }

    /// One more hold of a piece that somebody holds, or held last.
    fn join_piece(&self, word: u64, id: u64) -> bool {
        let rows = &self.table.shared;
        for _ in 0..PATIENCE {
            {
                let _threads = self.file.slots.lock();
                if let Some(row) = self.own_piece(id).filter(|&row| rows.words[row].load(SeqCst) == word) {
                    self.file.set_held(row, self.file.held(row).unwrap_or(0) + 1);
                    return true;
                }
                let is_it = |row: usize| rows.ids[row].load(SeqCst) == id && rows.words[row].load(SeqCst) == word;
                let Some(row) = (0..PIECES).find(|&row| is_it(row)) else { return false };
                if let Ok(true) = sys::try_lock_shared(self.file.locks(), hold(row)) {
                    // nobody clears it any more
                    if is_it(row) {
                        self.adopt_piece(row);
                        return true;
                    }
                    let _ = sys::unlock(self.file.locks(), hold(row));
                }
            }
            std::thread::yield_now();
        }
        false
    }

    /// Puts a piece into a free row.
    fn make_piece(&self, word: u64, id: u64) -> bool {
        let rows = &self.table.shared;
        let _threads = self.file.slots.lock();
        for row in (0..PIECES).filter(|&row| self.file.held(row).is_none()) {
            if rows.words[row].load(SeqCst) != 0 || !matches!(sys::try_lock(self.file.locks(), hold(row)), Ok(true)) {
                continue;
            }
            if rows.words[row].load(SeqCst) == 0 {
                rows.owners[row].store(0, SeqCst);
                rows.ids[row].store(id, SeqCst);
                rows.words[row].store(word, SeqCst);
                // from the write lock to a read lock in one step: it is never free between
                if let Ok(true) = sys::try_lock_shared(self.file.locks(), hold(row)) {
                    self.adopt_piece(row);
                    return true;
                }
                rows.words[row].store(0, SeqCst);
            }
            let _ = sys::unlock(self.file.locks(), hold(row));
        }
        false
    }

    /// Notes a row whose read lock this process has just got. It is shown as its first holder's.
    fn adopt_piece(&self, row: usize) {
        self.file.set_held(row, 1);
        self.table.doors[self.index].holds.fetch_add(1, SeqCst);
        let _ = self.table.shared.owners[row].compare_exchange(0, self.index as u64 + 1, SeqCst, SeqCst);
    }

    /// The row of a piece that this process holds.
    fn own_piece(&self, id: u64) -> Option<usize> {
        (0..PIECES).find(|&row| self.file.held(row).is_some() && self.table.shared.ids[row].load(SeqCst) == id)
    }

    /// Drops this process's lock on a row, and the piece if that was the last.
    fn drop_piece(&self, row: usize) {
        self.table.doors[self.index].holds.fetch_sub(1, SeqCst);
        let owner = &self.table.shared.owners[row];
        let _ = owner.compare_exchange(self.index as u64 + 1, 0, SeqCst, SeqCst);
        if let Ok(true) = sys::try_lock(self.file.locks(), hold(row)) {
            self.clear_piece(row);
        }
        // If this fails the piece counts for as long as this process lives.
        let _ = sys::unlock(self.file.locks(), hold(row));
    }

    /// Empties a row; its write lock is this process's. The bytes go first: a row without them is free.
    fn clear_piece(&self, row: usize) {
        let rows = &self.table.shared;
        for column in [&rows.words, &rows.ids, &rows.owners] {
            column[row].store(0, SeqCst);
        }
    }

    /// Clears the pieces on a card that nobody holds. True if there was one. Threads of this process are kept out by the
    /// caller.
    pub(crate) fn sweep_pieces(&self, card: u32) -> bool {
        let mut freed = false;
        for row in 0..PIECES {
            let word = self.table.shared.words[row].load(SeqCst);
            if word == 0 || shared_of(word).0 != card || self.file.held(row).is_some() {
                continue;
            }
            if let Ok(true) = sys::try_lock(self.file.locks(), hold(row)) {
                self.clear_piece(row);
                freed |= sys::unlock(self.file.locks(), hold(row)).is_ok();
            }
        }
        freed
    }

    /// Lets go of everything, when the slot ends.
    pub(crate) fn let_all_go(&self) {
        for row in (0..PIECES).filter(|&row| self.file.held(row).is_some()) {
            self.file.set_held(row, 0);
            self.drop_piece(row);
        }
    }
}

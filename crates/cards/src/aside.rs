//! Putting a process aside: its calls wait at its slot's door, and what it has counts on no card until it is brought back.
//!
//! All of it is done by another process, from the state word of the slot's door alone. A call of the slot's own process counts
//! itself in before it looks at that word, and whoever shuts the door looks at the count after it has changed the word: one of
//! the two sees the other.

use crate::fork;
use crate::layout::{life, order, Door, ASIDE, OPEN, RETURNING, SHUT, SLOTS};
use crate::slot::Slot;
use crate::sys;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How often one who waits looks whether the other process still lives.
const LOOK: Duration = Duration::from_millis(10);
/// How often a return that lost to others' takes (not to bytes held) is tried again.
const ATTEMPTS: u32 = 1000;

/// How far a process is put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not at all.
    Running,
    /// Its calls wait.
    Shut,
    /// And what it has counts on no card.
    Aside,
}

impl State {
    fn of(word: u64) -> State {
        match word {
            OPEN => State::Running,
            SHUT => State::Shut,
            _ => State::Aside,
        }
    }
}

/// Why a process could not be put aside or brought back. It is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cannot {
    /// No living process with this id uses the cards.
    Gone,
    /// It is the calling process.
    Itself,
    /// Not from the state in which it is.
    State(State),
    /// A call was still inside when the time was over.
    Busy,
    /// It holds memory together with others.
    Shared,
    /// A card has no room for what it had there.
    Full,
}

/// A call that is inside its process's door.
#[derive(Debug)]
pub struct Inside(&'static Door);

impl Drop for Inside {
    fn drop(&mut self) {
        if self.0.inside.fetch_sub(1, SeqCst) == 1 && self.0.state.load(SeqCst) != OPEN {
            sys::wake(&self.0.inside);
        }
    }
}

impl Slot {
    /// Passes this process's door; waits as long as another process keeps it shut. None: this is a forked child, whose door
    /// it is not.
    pub fn enter(&self) -> Option<Inside> {
        if fork::generation() != self.generation {
            return None;
        }
        let door: &'static Door = &self.table.doors[self.index];
        loop {
            door.inside.fetch_add(1, SeqCst);
            let inside = Inside(door);
            let state = door.state.load(SeqCst);
            if state == OPEN {
                return Some(inside);
            }
            drop(inside);
            sys::sleep_while(&door.state, state, Duration::from_secs(1));
        }
    }

    /// How far the process `pid` is put aside.
    ///
    /// # Errors
    /// [`Cannot::Gone`].
    pub fn state_of(&self, pid: u32) -> Result<State, Cannot> {
        if pid == std::process::id() {
            return Ok(State::Running);
        }
        let slot = self.find(pid)?;
        Ok(State::of(self.table.doors[slot].state.load(SeqCst)))
    }

    /// Has the next calls of a running process wait, and waits for those inside, at most `patience`.
    ///
    /// # Errors
    /// [`Cannot::Gone`], [`Cannot::Itself`], [`Cannot::State`] or [`Cannot::Busy`].
    pub fn shut(&self, pid: u32, patience: Option<Duration>) -> Result<(), Cannot> {
        self.ordered(pid, |slot| {
            let door = &self.table.doors[slot];
            door.state.compare_exchange(OPEN, SHUT, SeqCst, SeqCst).map_err(|word| Cannot::State(State::of(word)))?;
            self.emptied(slot, pid, patience).inspect_err(|_| reopen(door))
        })
    }

    /// Has what a shut process has count on no card.
    ///
    /// # Errors
    /// [`Cannot::Gone`], [`Cannot::Itself`], [`Cannot::State`], [`Cannot::Busy`] or [`Cannot::Shared`].
    pub fn put_aside(&self, pid: u32) -> Result<(), Cannot> {
        self.ordered(pid, |slot| {
            let door = &self.table.doors[slot];
            must_be(door, &[SHUT])?;
            // whoever shut it may have been killed before the last call was out
            self.emptied(slot, pid, Some(LOOK))?;
            match door.holds.load(SeqCst) {
                0 => door.state.store(ASIDE, SeqCst),
                _ => return Err(Cannot::Shared),
            }
            Ok(())
        })
    }

    /// Gives a process back what it had on the cards; its calls still wait.
    ///
    /// # Errors
    /// [`Cannot::Gone`], [`Cannot::Itself`], [`Cannot::State`] or [`Cannot::Full`].
    pub fn bring_back(&self, pid: u32) -> Result<(), Cannot> {
        self.ordered(pid, |slot| {
            let door = &self.table.doors[slot];
            // a return that was killed in the middle begins again
            must_be(door, &[ASIDE, RETURNING])?;
            let size = self.file.header.vram;
            let cards = || 0..self.file.header.count;
            for _ in 0..ATTEMPTS {
                door.state.store(RETURNING, SeqCst);
                if cards().all(|card| self.asked(card) <= size) {
                    door.state.store(SHUT, SeqCst);
                    return Ok(());
                }
                door.state.store(ASIDE, SeqCst);
                let swept = cards().fold(false, |any, card| any | self.sweep(card, &self.table.cards[card as usize]));
                let its = |card: u32| self.table.cards[card as usize].held[slot].load(SeqCst);
                if !swept && cards().any(|card| self.held(card).saturating_add(its(card)) > size) {
                    return Err(Cannot::Full);
                }
                // it would fit beside what is held: others were asking at the same instant
                std::thread::yield_now();
            }
            Err(Cannot::Full)
        })
    }

    /// Lets the calls of a shut process go on.
    ///
    /// # Errors
    /// [`Cannot::Gone`], [`Cannot::Itself`] or [`Cannot::State`].
    pub fn open(&self, pid: u32) -> Result<(), Cannot> {
        self.ordered(pid, |slot| {
            let door = &self.table.doors[slot];
            must_be(door, &[SHUT])?;
            reopen(door);
            Ok(())
        })
    }

    /// Does something with another process's door that no third process does meanwhile.
    fn ordered(&self, pid: u32, act: impl FnOnce(usize) -> Result<(), Cannot>) -> Result<(), Cannot> {
        if pid == std::process::id() {
            return Err(Cannot::Itself);
        }
        let _threads = self.file.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = self.find(pid)?;
        sys::lock(self.file.locks(), order(slot)).map_err(|_| Cannot::Gone)?;
        let lives = self.is_of(slot, pid);
        let done = if lives { act(slot) } else { Err(Cannot::Gone) };
        // If this fails the process stays as it is for as long as this one lives.
        let _ = sys::unlock(self.file.locks(), order(slot));
        done
    }

    /// The slot of a living process.
    fn find(&self, pid: u32) -> Result<usize, Cannot> {
        self.shares(0).map_err(|_| Cannot::Gone)?;
        let used = |slot: &usize| self.table.pids[*slot].load(SeqCst) != 0;
        (0..SLOTS).filter(used).find(|&slot| self.is_of(slot, pid)).ok_or(Cannot::Gone)
    }

    fn is_of(&self, slot: usize, pid: u32) -> bool {
        pid != 0 && matches!(sys::locked_by(self.file.locks(), life(slot)), Ok(Some(owner)) if owner == pid)
    }

    /// Waits until no call of a slot's process is inside.
    fn emptied(&self, slot: usize, pid: u32, patience: Option<Duration>) -> Result<(), Cannot> {
        let inside = &self.table.doors[slot].inside;
        let end = patience.map(|time| Instant::now() + time);
        loop {
            let calls = inside.load(SeqCst);
            if calls == 0 {
                // of this process, and not of one that has got its slot meanwhile
                return if self.is_of(slot, pid) { Ok(()) } else { Err(Cannot::Gone) };
            }
            let left = end.map_or(LOOK, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(Cannot::Busy);
            }
            if !self.is_of(slot, pid) {
                return Err(Cannot::Gone);
            }
            sys::sleep_while(inside, calls, left.min(LOOK));
        }
    }
}

fn must_be(door: &Door, states: &[u64]) -> Result<(), Cannot> {
    match door.state.load(SeqCst) {
        word if states.contains(&word) => Ok(()),
        word => Err(Cannot::State(State::of(word))),
    }
}

fn reopen(door: &Door) {
    door.state.store(OPEN, SeqCst);
    sys::wake(&door.state);
}

//! The end of a broker that nobody needs.

use crate::find::{Runs, Turn};
use anyhow::Result;
use std::path::Path;
use std::time::{Duration, Instant};

/// Ends a broker after some time without programs: without Spaces, and without programs of `zerogpu run` on the same
/// driver, which may need it later.
pub struct Idle {
    after: Duration,
    runs: Runs,
    /// Since when there was no Space.
    since: Option<Instant>,
    /// Keeps others from looking for this broker while it ends.
    turn: Option<Turn>,
}

impl Idle {
    /// For a broker of the driver at `path`.
    pub fn new(after: Duration, path: &Path) -> Result<Idle> {
        Ok(Idle { after, runs: Runs::of(path)?, since: Some(Instant::now()), turn: None })
    }

    /// When to look again.
    pub fn wake(&self) -> Option<Duration> {
        self.since.map(|since| self.after.saturating_sub(since.elapsed()))
    }

    /// Whether it is time to end, given whether there are Spaces. True once: nobody looks for this broker until it has
    /// ended.
    pub fn ends(&mut self, spaces: bool) -> bool {
        if spaces {
            self.since = None;
            return false;
        }
        if self.since.get_or_insert_with(Instant::now).elapsed() < self.after {
            return false;
        }
        // whoever is in the way is asked again later
        self.since = Some(Instant::now());
        self.turn = self.runs.try_turn().ok().flatten();
        match &self.turn {
            Some(turn) if self.runs.are_over(turn).unwrap_or(false) => true,
            _ => {
                self.turn = None;
                false
            }
        }
    }
}

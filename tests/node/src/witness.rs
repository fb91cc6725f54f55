//! Looks at the cards from outside, all the time: who has a context there.
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use zerogpu_cards::{Cards, Snapshot};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// What it has seen.
#[derive(Default)]
struct Seen {
    /// The broker's process, which has a context on each card.
    broker: AtomicU32,
    looks: AtomicU64,
    end: AtomicBool,
    faults: Mutex<Vec<String>>,
}

/// A thread that looks.
pub struct Witness {
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

/// What the cards' file says now.
pub fn snapshot(cards: &Path) -> Result<Snapshot> {
    Cards::look(cards)?.snapshot().with_context(|| format!("{} can't be read", cards.display()))
}

impl Witness {
    /// Starts to look at a file of cards that is there already.
    pub fn start(cards: &Path) -> Result<Witness> {
        let cards = Cards::look(cards)?;
        let seen = Arc::new(Seen::default());
        let shared = seen.clone();
        let thread = std::thread::spawn(move || {
            let mut before = BTreeSet::new();
            while !shared.end.load(Ordering::Relaxed) {
                before = shared.look(&cards, before);
                std::thread::sleep(PAUSE);
            }
        });
        Ok(Witness { seen, thread: Some(thread) })
    }

    /// Which process is the broker from now on.
    pub fn broker_is(&self, pid: u32) {
        self.seen.broker.store(pid, Ordering::Relaxed);
    }

    /// How often it has looked.
    pub fn looks(&self) -> u64 {
        self.seen.looks.load(Ordering::Relaxed)
    }

    /// What it has seen that should not be.
    pub fn faults(&self) -> Vec<String> {
        self.seen.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Seen {
    /// Looks once. Two Spaces on a card count if two looks in a row see the same two: a look is not one instant.
    fn look(&self, cards: &Cards, before: BTreeSet<(u32, Vec<u32>)>) -> BTreeSet<(u32, Vec<u32>)> {
        let Ok(snapshot) = cards.snapshot() else { return before };
        self.looks.fetch_add(1, Ordering::Relaxed);
        let broker = self.broker.load(Ordering::Relaxed);
        let mut together = BTreeSet::new();
        for card in snapshot.cards {
            let computing = card.processes.iter().filter(|process| process.contexts > 0 && process.pid != broker);
            let computing: Vec<u32> = computing.map(|process| process.pid).collect();
            if computing.len() > 1 {
                together.insert((card.index, computing));
            }
        }
        for (card, pids) in together.intersection(&before) {
            let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
            faults.push(format!("card {card} has contexts of the processes {pids:?} at once"));
        }
        together
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.seen.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // a panic there has been printed
            thread.join().ok();
        }
    }
}

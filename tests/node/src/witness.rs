//! Looks at the cards from outside, all the time: who has a context there.
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use zerogpu_cards::{Cards, Snapshot};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// What it has seen.
#[derive(Default)]
struct Seen {
    /// The brokers' processes, which have a context on each card. One that starts is on a card before it is named.
    brokers: Mutex<BTreeSet<u32>>,
    looks: AtomicU64,
    end: AtomicBool,
    /// Who was on a card together.
    together: Mutex<BTreeSet<(u32, Vec<u32>)>>,
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
        locked(&self.seen.brokers).insert(pid);
    }

    /// How often it has looked.
    pub fn looks(&self) -> u64 {
        self.seen.looks.load(Ordering::Relaxed)
    }

    /// What it has seen that should not be. All brokers have to be named by now.
    pub fn faults(&self) -> Vec<String> {
        let brokers = locked(&self.seen.brokers);
        let mut faults = Vec::new();
        for (card, pids) in locked(&self.seen.together).iter() {
            let spaces: Vec<&u32> = pids.iter().filter(|pid| !brokers.contains(pid)).collect();
            if spaces.len() > 1 {
                faults.push(format!("card {card} had contexts of the processes {spaces:?} at once"));
            }
        }
        faults
    }
}

fn locked<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    /// Looks once. Two Spaces on a card count if two looks in a row see the same two: a look is not one instant.
    fn look(&self, cards: &Cards, before: BTreeSet<(u32, Vec<u32>)>) -> BTreeSet<(u32, Vec<u32>)> {
        let Ok(snapshot) = cards.snapshot() else { return before };
        self.looks.fetch_add(1, Ordering::Relaxed);
        let mut together = BTreeSet::new();
        for card in snapshot.cards {
            let computing = card.processes.iter().filter(|process| process.contexts > 0);
            let computing: Vec<u32> = computing.map(|process| process.pid).collect();
            if computing.len() > 1 {
                together.insert((card.index, computing));
            }
        }
        locked(&self.together).extend(together.intersection(&before).cloned());
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

//! Spaces that are killed while they hold a card, over and over.
use crate::node::{Node, Shape, Space, Usage};
use crate::run::{settled, GROWS};
use crate::witness::snapshot;
use anyhow::{ensure, Result};
use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// Bytes that each has on the card.
const BYTES: u64 = 8 << 20;
/// Spaces that get ready while others are killed.
const AHEAD: usize = 3;

/// How long it took until the cards were free.
pub struct Found {
    /// In milliseconds, sorted.
    pub freed_ms: Vec<f64>,
    /// What the broker uses at rest, before and after.
    pub usage: [Usage; 2],
}

impl Found {
    /// The time that a share of the kills stayed below.
    pub fn quantile(&self, share: f64) -> f64 {
        let last = self.freed_ms.len().saturating_sub(1);
        self.freed_ms.get((last as f64 * share) as usize).copied().unwrap_or(f64::NAN)
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, after] = self.usage;
        write!(
            f,
            "{} kills: the card free after {:.1} ms (median), {:.1} ms (99 %), {:.1} ms (longest); the broker before: {before}; after: {after}",
            self.freed_ms.len(),
            self.quantile(0.5),
            self.quantile(0.99),
            self.quantile(1.0)
        )
    }
}

/// Kills so many Spaces, each in the middle of a claimed call, and measures until nothing of it is on the card.
///
/// # Errors
/// What was left behind, or wrong.
pub fn run(count: usize, mut progress: impl FnMut(&str)) -> Result<Found> {
    let node = Node::new(Shape::default())?;
    let broker = node.broker()?;
    let fresh = broker.usage()?;
    for seed in 0..3 {
        claimed(&node, seed)?.kill()?;
        node.wait_for_empty_cards()?;
    }
    let before = settled(&broker, fresh, u64::MAX)?;
    let mut freed_ms = Vec::new();
    // those that come start while others are killed: starting a process is what takes time
    let mut coming: VecDeque<Space> = VecDeque::new();
    for kill in 0..count {
        while coming.len() < AHEAD.min(count - kill) {
            coming.push_back(node.space("obey", &["1".into(), (BYTES * 2).to_string()])?);
        }
        let Some(mut space) = coming.pop_front() else { break };
        space.line()?;
        claim(&mut space)?;
        if kill % 3 == 0 {
            // bytes are on their way home, or just there
            space.begin("end")?;
        }
        let at = space.kill()?;
        freed_ms.push(free_after(&node, at)?);
        node.log().judge(&[])?;
        if (kill + 1) % 1000 == 0 {
            progress(&format!("{} kills; the broker now: {}", kill + 1, broker.usage()?));
        }
    }
    let after = settled(&broker, before, GROWS)?;
    freed_ms.sort_by(f64::total_cmp);
    broker.terminate()?;
    Ok(Found { freed_ms, usage: [before, after] })
}

fn claimed(node: &Node, seed: u64) -> Result<Space> {
    let mut space = node.obedient(seed, BYTES * 2)?;
    claim(&mut space)?;
    Ok(space)
}

/// Has a Space hold a card with its bytes there.
fn claim(space: &mut Space) -> Result<()> {
    space.tell(&format!("take {BYTES}"))?;
    space.tell("begin 60")?;
    let state = &space.tell("launch")?["state"];
    ensure!(state["level"] == "claimed", "it claimed nothing: {state}");
    Ok(())
}

/// Milliseconds from an instant until only the broker is on the card, with none of its bytes lent.
fn free_after(node: &Node, at: Instant) -> Result<f64> {
    loop {
        let snapshot = snapshot(&node.cards())?;
        if node.is_empty(&snapshot) {
            return Ok(at.elapsed().as_secs_f64() * 1e3);
        }
        ensure!(
            at.elapsed() < Duration::from_secs(20),
            "the card is not free: {snapshot:?}\n{}",
            node.log().look().tail()
        );
        std::thread::sleep(Duration::from_micros(200));
    }
}

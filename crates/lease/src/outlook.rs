//! What is to come: when a card has room, who is next, and about when.

use crate::card::Card;
use crate::queue::Rank;
use crate::scheduler::Lease;
use crate::{RequestId, Scheduler};
use std::time::Duration;

/// Where a request stands in the queue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// 1: next.
    pub place: u32,
    /// Requests that wait for cards of this kind.
    pub of: u32,
    /// About how many seconds until its grant, if calls take as much of the time they ask for as calls did of late.
    pub estimate: Option<f64>,
}

/// The leases of a card, as ends (in seconds) and sizes.
#[derive(Debug, Clone)]
pub(crate) struct Outlook {
    bytes: u64,
    runs: Vec<(f64, u64)>,
}

impl Outlook {
    /// When `need` bytes have room: 0 if now.
    pub fn opens(&mut self, need: u64, share: bool) -> Option<f64> {
        if need > self.bytes {
            return None;
        }
        self.runs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut left: u64 = self.runs.iter().map(|run| run.1).sum();
        let mut opens = 0.0;
        for (end, size) in &self.runs {
            if share && left.saturating_add(need) <= self.bytes {
                break;
            }
            left -= size;
            opens = *end;
        }
        Some(opens)
    }

    fn run(&mut self, from: f64, length: f64, need: u64) {
        self.runs.retain(|run| run.0 > from);
        self.runs.push((from + length, need));
    }
}

impl Scheduler {
    /// Where a waiting request stands. For all of them [`positions`](Scheduler::positions) is cheaper.
    #[must_use]
    pub fn position(&self, now: Duration, request: RequestId) -> Option<Position> {
        self.queue.get(&request)?;
        self.positions(now).into_iter().find(|(id, _)| *id == request).map(|(_, position)| position)
    }

    /// Where each waiting request stands, in the order.
    #[must_use]
    pub fn positions(&self, now: Duration) -> Vec<(RequestId, Position)> {
        let mut ranks: Vec<Rank> = self.ranks(now, |_| true).collect();
        ranks.sort_unstable();
        let start = now.max(self.held).as_secs_f64();
        let share = self.policy.share;
        let mut outlooks = self.outlooks(|lease| {
            let asked = lease.deadline.saturating_sub(lease.since).as_secs_f64();
            lease.since.as_secs_f64() + asked * self.pace
        });
        let mut positions = Vec::with_capacity(ranks.len());
        let mut places = std::collections::BTreeMap::new();
        for rank in ranks {
            let Some(request) = self.queue.get(&rank.id) else { continue };
            let need = request.bytes.saturating_add(self.policy.context_bytes);
            let soonest = self
                .cards
                .iter()
                .zip(&mut outlooks)
                .filter(|(card, _)| card.spec.kind == request.kind)
                .filter_map(|(_, outlook)| outlook.opens(need, share).map(|at| (at.max(start), outlook)))
                .min_by(|a, b| a.0.total_cmp(&b.0));
            let estimate = soonest.map(|(at, outlook)| {
                outlook.run(at, request.length.as_secs_f64() * self.pace, need);
                at - now.as_secs_f64()
            });
            let place = places.entry(request.kind).and_modify(|place| *place += 1).or_insert(1);
            positions.push((rank.id, Position { place: *place, of: 0, estimate }));
        }
        for (id, position) in &mut positions {
            let kind = self.queue.get(id).map(|request| request.kind);
            position.of = kind.and_then(|kind| places.get(&kind)).copied().unwrap_or(0);
        }
        positions
    }

    /// The cards' outlooks, if each lease ends when `end` says.
    pub(crate) fn outlooks(&self, end: impl Fn(&Lease) -> f64) -> Vec<Outlook> {
        let room = |card: &Card| card.spec.bytes.saturating_sub(self.kept_on(card.id));
        let mut outlooks: Vec<Outlook> =
            self.cards.iter().map(|card| Outlook { bytes: room(card), runs: Vec::new() }).collect();
        for lease in self.leases.values() {
            if let Some(outlook) = outlooks.get_mut(lease.card.0 as usize) {
                outlook.runs.push((end(lease), lease.bytes.saturating_add(lease.context)));
            }
        }
        outlooks
    }
}

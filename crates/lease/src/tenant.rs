//! A tenant's account: what it has used of the cards, lately and within a day.

use crate::policy::TenantPolicy;
use std::collections::VecDeque;
use std::f64::consts::LN_2;
use std::time::Duration;

/// The step in which the day is counted.
pub(crate) const QUARTER: Duration = Duration::from_secs(15 * 60);
/// The window of the daily limit.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TenantId(pub u64);

/// Use is settled up to `at`; from there on `running` leases use a card each.
#[derive(Debug)]
pub(crate) struct Account {
    pub name: String,
    pub policy: TenantPolicy,
    /// Spaces attached.
    pub spaces: u32,
    running: u32,
    at: Duration,
    /// Seconds used, each halved every half-life.
    lately: f64,
    /// Seconds used in each quarter of an hour, by the time at which they no longer count; the oldest first.
    quarters: VecDeque<(Duration, f64)>,
}

impl Account {
    pub fn new(name: &str, policy: TenantPolicy, now: Duration) -> Account {
        Account { name: name.into(), policy, spaces: 0, running: 0, at: now, lately: 0.0, quarters: VecDeque::new() }
    }

    /// A lease begins at `now`.
    pub fn start(&mut self, now: Duration, half_life: Duration) {
        self.settle(now, half_life);
        self.running += 1;
    }

    /// A lease ends at `now`.
    pub fn stop(&mut self, now: Duration, half_life: Duration) {
        self.settle(now, half_life);
        self.running = self.running.saturating_sub(1);
    }

    /// Seconds used lately, those of running leases included.
    pub fn lately(&self, now: Duration, half_life: Duration) -> f64 {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        if passed == 0.0 || (self.lately == 0.0 && self.running == 0) {
            return self.lately;
        }
        let half_life = half_life.as_secs_f64().max(1e-3);
        let kept = (-passed / half_life).exp2();
        // Each of the seconds just used has decayed for its own age: the integral of the decay.
        let gained = f64::from(self.running) * half_life / LN_2 * (1.0 - kept);
        self.lately * kept + gained
    }

    /// Seconds used within the last day.
    pub fn today(&self, now: Duration) -> f64 {
        let settled: f64 = self.quarters.iter().filter(|(leaves, _)| *leaves > now).map(|(_, s)| s).sum();
        settled + f64::from(self.running) * now.saturating_sub(self.at).as_secs_f64()
    }

    /// When at least `seconds` of today's use will have left the window, if ever.
    pub fn frees(&self, seconds: f64) -> Option<Duration> {
        let mut freed = 0.0;
        self.quarters.iter().find_map(|(leaves, used)| {
            freed += used;
            (freed + 1e-6 >= seconds).then_some(*leaves)
        })
    }

    /// Brings the account up to `now`.
    pub fn settle(&mut self, now: Duration, half_life: Duration) {
        if now <= self.at {
            return;
        }
        self.lately = self.lately(now, half_life);
        if self.running == 0 && self.lately < 1e-9 {
            self.lately = 0.0;
        }
        while self.running > 0 && self.at < now {
            let quarter_ends = end(self.at);
            let (end, leaves) = (quarter_ends.min(now), quarter_ends + DAY);
            let used = f64::from(self.running) * (end - self.at).as_secs_f64();
            let at = self.quarters.partition_point(|(other, _)| *other < leaves);
            match self.quarters.get_mut(at) {
                Some((other, sum)) if *other == leaves => *sum += used,
                _ => self.quarters.insert(at, (leaves, used)),
            }
            self.at = end;
        }
        self.at = now;
        while self.quarters.front().is_some_and(|(leaves, _)| *leaves <= now) {
            self.quarters.pop_front();
        }
    }

    /// The seconds of the last day, each with the time for which it still counts. Settled up to `now`.
    pub fn book(&self, now: Duration) -> Vec<(Duration, f64)> {
        self.quarters.iter().map(|(leaves, used)| (leaves.saturating_sub(now), *used)).collect()
    }

    /// Adds what an earlier broker knew: seconds, with the time for which each still counts.
    pub fn add(&mut self, now: Duration, book: &[(Duration, f64)]) {
        self.quarters.extend(book.iter().map(|(left, used)| (now.saturating_add(*left), *used)));
        self.quarters.make_contiguous().sort_by_key(|(leaves, _)| *leaves);
    }

    /// Whether forgetting this account would change nothing that matters.
    pub fn idle(&self, now: Duration, half_life: Duration) -> bool {
        self.spaces == 0
            && self.running == 0
            && self.lately(now, half_life) < 0.01
            && self.quarters.back().is_none_or(|(leaves, _)| *leaves <= now)
    }
}

/// The end of the quarter of an hour that a time lies in.
fn end(at: Duration) -> Duration {
    Duration::from_secs((at.as_secs() / QUARTER.as_secs() + 1) * QUARTER.as_secs())
}

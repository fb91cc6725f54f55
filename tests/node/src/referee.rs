//! Reads the broker's log line by line, and finds what breaks its promises.
//!
//! It knows the policy from the documentation of `zerogpu-lease`, not from its code: of the claims that wait, the aged ones go first; then
//! the shortest in whole seconds, the older of two equals. All Spaces here are of one tenant, so what the tenant has used counts the same for all, and the
//! oldest of the aged ones goes before the others.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Lines that are kept to show what went before a fault.
const KEPT: usize = 60;
/// Seconds are told in decimals: a claim this close to its aging may be seen on either side.
const BLUR: f64 = 1e-6;

/// A claim that waits.
struct Claim {
    space: u64,
    /// When it came, by the log's time stamps.
    since: f64,
    /// When it came, by the broker's own clock, which decides.
    at: f64,
    seconds: f64,
}

/// What the log has told so far.
pub struct Referee {
    aging: f64,
    waiting: BTreeMap<u64, Claim>,
    /// Card to lease.
    holders: BTreeMap<u64, u64>,
    last: VecDeque<String>,
    /// What broke a promise.
    pub faults: Vec<String>,
    /// Leases granted.
    pub grants: u64,
    /// Leases that ended by release.
    pub released: u64,
    /// Leases that were taken over from an earlier broker.
    pub adopted: u64,
    /// Brokers that have said that they are ready.
    pub brokers: u64,
    /// Clients that were dropped for what they did.
    pub dropped: u64,
    /// Processes that were ended.
    pub ended: u64,
    /// Times that bytes were brought to a card ahead of a claim.
    pub ahead: u64,
    /// How many of them have ended, and bytes copied by then.
    pub brought: (u64, u64),
    /// Claims that were answered at once, since the card lacked nothing.
    pub at_once: u64,
    /// The cards that the Spaces of a name have had.
    pub cards: BTreeMap<String, BTreeSet<u64>>,
    /// The time of the last line, in seconds.
    now: f64,
    /// The longest wait of a claim that was granted, in seconds.
    pub longest_wait: f64,
    /// Bytes that went to the cards, that were there already, that came home, and that had not changed.
    pub bytes: [u64; 4],
}

impl Referee {
    /// Of brokers with this aging.
    pub fn new(aging: Duration) -> Referee {
        Referee {
            aging: aging.as_secs_f64(),
            waiting: BTreeMap::new(),
            holders: BTreeMap::new(),
            last: VecDeque::new(),
            faults: Vec::new(),
            grants: 0,
            released: 0,
            adopted: 0,
            brokers: 0,
            dropped: 0,
            ended: 0,
            ahead: 0,
            brought: (0, 0),
            at_once: 0,
            cards: BTreeMap::new(),
            now: 0.0,
            longest_wait: 0.0,
            bytes: [0; 4],
        }
    }

    /// Claims that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Leases that are held.
    pub fn held(&self) -> usize {
        self.holders.len()
    }

    /// The last lines.
    pub fn tail(&self) -> String {
        self.last.iter().map(|line| format!("{line}\n")).collect()
    }

    /// A new broker starts: it knows of nothing.
    pub fn new_broker(&mut self) {
        self.waiting.clear();
        self.holders.clear();
    }

    /// A line of the log.
    pub fn line(&mut self, line: &str) {
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line.to_string());
        let mut words = line.split_whitespace();
        let (Some(at), Some(level)) = (words.next().and_then(seconds), words.next()) else {
            if line.contains("panicked") {
                self.faults.push(line.to_string());
            }
            return;
        };
        self.now = at;
        if level == "ERROR" {
            self.faults.push(line.to_string());
        }
        let text: Vec<&str> = words.clone().take_while(|word| !word.contains('=')).collect();
        let fields: BTreeMap<&str, &str> = words.filter_map(|word| word.split_once('=')).collect();
        let number = |name: &str| fields.get(name).and_then(|value| value.parse::<f64>().ok()).unwrap_or(f64::NAN);
        let id = |name: &str| number(name) as u64;
        match text.join(" ").as_str() {
            "ready" => self.brokers += 1,
            "claim" => {
                let seconds = match fields.get("borrowed") {
                    // work outside marked calls counts as a call that does not say how long it lasts
                    Some(&"true") => number("seconds").ceil().max(60.0),
                    _ => number("seconds").ceil(),
                };
                let claim = Claim { space: id("space"), since: at, at: number("at_s"), seconds };
                self.waiting.insert(id("request"), claim);
            }
            // all cards are of one kind
            "a region began: bytes are brought ahead" => {
                self.ahead += 1;
                let card = id("card");
                if self.holders.contains_key(&card) || !self.waiting.is_empty() {
                    self.faults.push(format!("bytes come where somebody computes, or while somebody waits: {line}"));
                }
            }
            "brought ahead" => self.brought = (self.brought.0 + 1, self.brought.1 + id("moved")),
            "the card lacks nothing" => self.at_once += 1,
            text if text.starts_with("a process is ended") => self.ended += 1,
            text if text.starts_with("claim ended") => drop(self.waiting.remove(&id("request"))),
            "granted" => {
                self.take_card(id("card"), id("lease"), line);
                self.granted(id("request"), number("waited_s"), line);
            }
            "lease taken over from an earlier broker" => {
                self.adopted += 1;
                self.take_card(id("card"), id("lease"), line);
            }
            text if text.starts_with("Space left") => {
                let space = id("space");
                self.waiting.retain(|_, claim| claim.space != space);
                let usual = ["its process has ended", "it has closed the connection"];
                self.dropped += !usual.iter().any(|why| text.ends_with(why)) as u64;
            }
            text if text.starts_with("lease goes on") => {
                let before = id("before");
                self.holders.retain(|_, held| *held != before);
            }
            text if text.starts_with("lease ended") => {
                self.released += text.ends_with("released") as u64;
                let name = fields.get("name").map_or("", |name| name.trim_matches('"')).to_string();
                self.cards.entry(name).or_default().insert(id("card"));
                for (sum, name) in self.bytes.iter_mut().zip(["bytes_in", "bytes_warm", "bytes_out", "bytes_unchanged"])
                {
                    *sum += id(name);
                }
                let lease = id("lease");
                self.holders.retain(|_, held| *held != lease);
            }
            _ => {}
        }
    }

    /// The longest wait, also of claims that wait still, in seconds.
    pub fn patience(&self) -> f64 {
        let waits = self.waiting.values().map(|claim| self.now - claim.since);
        waits.fold(self.longest_wait, f64::max)
    }

    fn granted(&mut self, request: u64, waited: f64, line: &str) {
        self.grants += 1;
        let Some(chosen) = self.waiting.remove(&request) else {
            return self.faults.push(format!("a grant without a claim: {line}"));
        };
        self.longest_wait = self.longest_wait.max(waited);
        let age = |claim: &Claim| chosen.at + waited - claim.at;
        if age(&chosen).is_nan() {
            return self.faults.push(format!("a grant without its times: {line}"));
        }
        let aged = |claim: &Claim| age(claim) > self.aging + BLUR;
        let young = |claim: &Claim| age(claim) < self.aging - BLUR;
        for (other, claim) in &self.waiting {
            let older = *other < request;
            let passed = (aged(claim) && young(&chosen))
                || (aged(claim) && aged(&chosen) && older)
                || (young(claim)
                    && young(&chosen)
                    && (claim.seconds < chosen.seconds || (claim.seconds == chosen.seconds && older)));
            if passed {
                self.faults.push(format!(
                    "request {other} ({} s, waits for {:.3} s) was passed by request {request} ({} s, waited {:.3} s): {line}",
                    claim.seconds,
                    age(claim),
                    chosen.seconds,
                    age(&chosen),
                ));
            }
        }
    }

    fn take_card(&mut self, card: u64, lease: u64, line: &str) {
        if let Some(other) = self.holders.insert(card, lease) {
            self.faults.push(format!("card {card} was leased while lease {other} held it: {line}"));
        }
    }
}

/// Seconds of the day of a time stamp like `2026-11-26T19:35:53.123456Z`, with the day's number in front.
fn seconds(stamp: &str) -> Option<f64> {
    let (date, time) = stamp.strip_suffix('Z')?.split_once('T')?;
    let day: f64 = date.rsplit('-').next()?.parse().ok()?;
    let parts: Vec<f64> = time.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    match parts[..] {
        [h, m, s] => Some(((day * 24.0 + h) * 60.0 + m) * 60.0 + s),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lines: &[&str]) -> Referee {
        let mut referee = Referee::new(Duration::from_secs(3));
        lines.iter().for_each(|line| referee.line(line));
        referee
    }

    #[test]
    fn the_shortest_goes_first_and_the_aged_before_it() {
        // by the broker's clock; its lines may be late
        let long = "2026-11-26T10:00:00.000000Z DEBUG claim space=1 request=1 seconds=60 at_s=5.0";
        let short = "2026-11-26T10:00:01.000000Z DEBUG claim space=2 request=2 seconds=20 at_s=6.0";
        let granted = |request: u64, at: f64| {
            let waited = at - 4.0 - request as f64;
            format!(
                "2026-11-26T10:00:09.000000Z DEBUG granted space=0 request={request} lease=9 card=0 waited_s={waited}"
            )
        };
        let (soon, late) = (7.0, 8.001);
        assert!(after(&[long, short, &granted(2, soon)]).faults.is_empty());
        assert_eq!(after(&[long, short, &granted(1, soon)]).faults.len(), 1);
        assert!(after(&[long, short, &granted(1, late)]).faults.is_empty());
        assert_eq!(after(&[long, short, &granted(2, late)]).faults.len(), 1);
        assert_eq!(after(&[long, short, &granted(2, f64::NAN)]).faults.len(), 1);
        let lent = "2026-11-26T10:00:01.000000Z DEBUG claim space=2 request=2 seconds=10 borrowed=true at_s=6.0";
        assert!(after(&[long, lent, &granted(1, soon)]).faults.is_empty());
        assert_eq!(after(&[long, lent, &granted(2, soon)]).faults.len(), 1);
    }

    #[test]
    fn two_leases_on_a_card_are_a_fault() {
        let lines = [
            "2026-11-26T10:00:00.0Z DEBUG claim space=1 request=1 seconds=60 at_s=1.0",
            "2026-11-26T10:00:00.0Z DEBUG claim space=2 request=2 seconds=60 at_s=1.0",
            "2026-11-26T10:00:00.1Z DEBUG granted space=1 request=1 lease=3 card=0 waited_s=0.1",
            "2026-11-26T10:00:00.2Z DEBUG granted space=2 request=2 lease=4 card=0 waited_s=0.2",
        ];
        assert_eq!(after(&lines).faults.len(), 1);
        let end = "2026-11-26T10:00:00.15Z  INFO lease ended: released lease=3 space=1 name=a waited_s=0.1";
        assert!(after(&[lines[0], lines[1], lines[2], end, lines[3]]).faults.is_empty());
    }
}

//! When a GPU was held: from the spans of claims, waits and parks.
use super::picture::Claim;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A span as it was recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stretch {
    pub at: u64,
    pub duration: u64,
    /// Positions in `strings`.
    pub kind: u32,
    pub name: u32,
    pub bytes: u64,
    pub thread: u32,
}

impl Stretch {
    pub fn end(&self) -> u64 {
        self.at.saturating_add(self.duration)
    }
}

/// Joins claims with their waits and parks, each list in order of time. A claim without a park lasts until the next claim
/// (which only a lost park allows), or until the `end` of the trace. Where times are rounded, ends may lie behind the begins
/// that follow them: begins decide.
pub fn claims(claims: &[Stretch], waits: &[Stretch], parks: &[Stretch], end: u64) -> Vec<Claim> {
    let mut parks = parks.iter().peekable();
    let mut waits = waits.iter().peekable();
    let mut joined = Vec::with_capacity(claims.len());
    for (i, claim) in claims.iter().enumerate() {
        let limit = claims.get(i + 1).map_or(end, |next| next.at);
        while waits.next_if(|wait| wait.at < claim.at).is_some() {}
        let wait = waits.next_if(|wait| wait.at < claim.end()).map_or(0, |wait| wait.end() - claim.at);
        while parks.next_if(|park| park.at < claim.at).is_some() {}
        let park = parks.next_if(|park| park.at <= limit);
        let over = park.map_or(limit, |park| park.at);
        let took = claim.duration.min(over.saturating_sub(claim.at));
        joined.push(Claim {
            at: claim.at,
            wait: wait.min(took),
            claim: took,
            claimed: over.saturating_sub(claim.at + took),
            park: park.map(|park| park.duration),
            why: claim.name,
            bytes_in: claim.bytes,
            bytes_out: park.map_or(0, |park| park.bytes),
        });
    }
    joined
}

/// Lays stretches, in order of time, into lanes in which none overlaps another.
pub fn lanes(stretches: &[Stretch]) -> Vec<Vec<Stretch>> {
    let mut lanes: Vec<Vec<Stretch>> = vec![];
    // lanes by the end of what is in them last, and those that are free: the first of these is taken
    let (mut busy, mut free) = (BinaryHeap::new(), BinaryHeap::new());
    for stretch in stretches {
        while let Some(&(_, lane)) = busy.peek().filter(|(Reverse(end), _)| *end <= stretch.at) {
            busy.pop();
            free.push(Reverse(lane));
        }
        let lane = free.pop().map_or(lanes.len(), |Reverse(lane)| lane);
        if lane == lanes.len() {
            lanes.push(vec![]);
        }
        lanes[lane].push(*stretch);
        busy.push((Reverse(stretch.end()), lane));
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(at: u64, duration: u64, bytes: u64) -> Stretch {
        Stretch { at, duration, kind: 0, name: 0, bytes, thread: 1 }
    }

    fn joined(c: &[Stretch], w: &[Stretch], p: &[Stretch]) -> Vec<(u64, u64, u64, u64, Option<u64>)> {
        let claims = claims(c, w, p, 1000);
        assert!(claims.iter().all(|c| c.bytes_out == c.park.map_or(0, |_| 7)));
        claims.iter().map(|c| (c.at, c.wait, c.claim, c.claimed, c.park)).collect()
    }

    #[test]
    fn a_claim_lasts_until_its_park() {
        let (claims, parks) = ([stretch(10, 5, 1), stretch(100, 20, 1)], [stretch(40, 3, 7), stretch(120, 2, 7)]);
        // the first waited from 11 to 13; somebody gave up waiting at 60
        let waits = [stretch(11, 2, 0), stretch(50, 10, 0), stretch(100, 15, 0)];
        assert_eq!(joined(&claims, &waits, &parks), [(10, 3, 5, 25, Some(3)), (100, 15, 20, 0, Some(2))]);
    }

    #[test]
    fn a_claim_without_a_park_lasts_until_the_next_one_or_the_end() {
        let claims = [stretch(10, 5, 1), stretch(100, 20, 1)];
        assert_eq!(joined(&claims, &[], &[]), [(10, 0, 5, 85, None), (100, 0, 20, 880, None)]);
        assert_eq!(joined(&claims, &[], &[stretch(5, 1, 7), stretch(130, 1, 7)])[0].4, None);
    }

    #[test]
    fn rounded_times_join_too() {
        // 1.2 s may be 1.16 s
        assert_eq!(
            joined(&[stretch(100, 120, 1)], &[stretch(100, 130, 1)], &[stretch(216, 3, 7)]),
            [(100, 116, 116, 0, Some(3))]
        );
    }

    #[test]
    fn what_overlaps_gets_a_lane_of_its_own() {
        let all = [stretch(0, 10, 0), stretch(5, 10, 0), stretch(10, 1, 0), stretch(12, 1, 0)];
        let at: Vec<Vec<u64>> = lanes(&all).iter().map(|lane| lane.iter().map(|s| s.at).collect()).collect();
        assert_eq!(at, [vec![0, 10, 12], vec![5]]);
    }

    /// A file may hold anything: so many that all overlap take no longer than others.
    #[test]
    fn many_that_overlap_are_laid_at_once() {
        let all: Vec<Stretch> = (0..300_000).map(|at| stretch(at, 1 << 40, 0)).collect();
        assert_eq!(lanes(&all).len(), all.len());
    }
}

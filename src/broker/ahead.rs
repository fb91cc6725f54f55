//! Bytes that are brought to a card before their Space claims it: what a worker does while it has no job.
use super::slabs::{Card, Piece, Slabs};
use super::space::Backing;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerogpu_abi::Res;
use zerogpu_lease::SpaceId;
use zerogpu_protocol::Range;

/// Bytes that are copied between two looks at whether there is a job, at least: 0.3 ms on an H100.
pub const PIECE: u64 = 16 << 20;
/// And at most. To begin and hash a piece takes 0.1 ms, whatever its size: with the least a third of the bus is lost (H200).
const LARGEST: u64 = 256 << 20;
/// A piece that took less is too small.
const SHORT: Duration = Duration::from_millis(2);
/// A piece that took more is too large.
const LONG: Duration = Duration::from_millis(6);

/// Ends what is brought ahead, also in the middle: the daemon holds one end, the worker the other.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on no byte is copied, nor a page pinned, that was not begun before.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether both end the same.
    pub fn is(&self, other: &Stop) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether it was set.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What is brought for one Space.
pub struct Ahead {
    /// Whose it is.
    pub space: SpaceId,
    backing: Arc<Backing>,
    /// Slabs that are not whole yet, by offset.
    lacking: VecDeque<Range>,
    /// Ends it.
    pub stop: Stop,
    /// Bytes copied so far, and the time that took.
    pub moved: u64,
    /// As above.
    pub took: Duration,
    /// Bytes of the next piece.
    piece: u64,
}

impl Ahead {
    /// Nothing is done yet.
    pub fn new(space: SpaceId, backing: Arc<Backing>, slabs: Vec<Range>, stop: Stop) -> Ahead {
        Ahead { space, backing, lacking: slabs.into(), stop, moved: 0, took: Duration::ZERO, piece: PIECE }
    }

    /// Makes a slab, or copies a piece. False: nothing is left to do.
    pub fn step(&mut self, card: &Card, slabs: &mut Slabs) -> Res<bool> {
        let Some(&slab) = self.lacking.front().filter(|_| !self.stop.is_set()) else { return Ok(false) };
        if !slabs.has(slab) {
            return slabs.make(card, slab).map(|()| true);
        }
        let start = Instant::now();
        match slabs.fill_piece(card, &self.backing, slab, self.piece, &self.stop)? {
            Piece::Copied(bytes) => {
                let took = start.elapsed();
                self.moved += bytes;
                self.took += took;
                if bytes == self.piece {
                    self.piece = next_size(self.piece, took);
                }
            }
            Piece::Whole => drop(self.lacking.pop_front()),
            Piece::Stopped => return Ok(false),
        }
        Ok(true)
    }
}

/// The size of the next piece, after one that took so long.
fn next_size(piece: u64, took: Duration) -> u64 {
    match took {
        _ if took < SHORT => (2 * piece).min(LARGEST),
        _ if took > LONG => (piece / 2).max(PIECE),
        _ => piece,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_grow_on_a_fast_bus_and_stay_small_on_a_slow_one() {
        let settle = |bytes_per_second: u64| {
            (0..10).fold(PIECE, |piece, _| {
                next_size(piece, Duration::from_nanos(piece * 1_000_000_000 / bytes_per_second))
            })
        };
        assert_eq!(settle(55_000_000_000), 128 << 20);
        assert_eq!(settle(1 << 60), LARGEST);
        assert_eq!(settle(1_700_000_000), PIECE);
        assert_eq!(next_size(LARGEST, Duration::from_secs(1)), LARGEST / 2);
    }
}

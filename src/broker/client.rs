//! A connection: who is behind it, and what it holds.
use super::ahead::Stop;
use super::bound::Bound;
use super::card::Backlog;
use super::space::Backing;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerogpu_lease::{CardId, LeaseId, RequestId, SpaceId};
use zerogpu_protocol::{Endpoint, Peer, Range, Request};

/// A client of the broker.
pub struct Client {
    /// Its end of the socket.
    pub endpoint: Endpoint,
    /// Who it is, as the kernel says.
    pub peer: Peer,
    /// Readable when its process has ended; None where the kernel can't say.
    pub pidfd: Option<OwnedFd>,
    /// Whether packets wait for room in its socket.
    pub blocked: bool,
    /// Whether some of the last report waited there.
    pub unread: bool,
    /// Why its connection is over although its process still holds a card.
    pub parting: Option<String>,
    /// What it is.
    pub role: Role,
}

/// Ends a process: the one that connected, as the kernel says.
///
/// # Errors
/// It can't be named, or this process may not.
pub fn kill(pidfd: Option<&OwnedFd>) -> std::io::Result<()> {
    let process = pidfd.ok_or(std::io::ErrorKind::NotFound)?;
    // SAFETY: a descriptor of ours, and numbers; no signal information.
    match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGKILL, 0, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).or_else(|e| match e.raw_os_error() {
            // it has ended already
            Some(libc::ESRCH) => Ok(()),
            _ => Err(e),
        }),
    }
}

/// What a client is.
pub enum Role {
    /// It has not said hello yet, and must until then.
    New(Instant),
    /// It looks on.
    Observer,
    /// A program.
    Space(Box<Space>),
}

impl Role {
    /// The program, if it is one.
    pub fn space(&self) -> Option<&Space> {
        match self {
            Role::Space(space) => Some(space),
            _ => None,
        }
    }
}

/// A program that claims cards.
pub struct Space {
    /// Its number in the scheduler.
    pub id: SpaceId,
    /// What people call it.
    pub name: String,
    /// Whose it is.
    pub tenant: String,
    /// Bytes of device memory that it was shown.
    pub vram: u64,
    /// Its host memory, while no worker is to let go of it.
    pub backing: Arc<Backing>,
    /// Host memory that it said it would use.
    pub reserved: u64,
    /// The claim that waits: the client's number, and ours.
    pub claim: Option<(u32, RequestId)>,
    /// The place in the queue that it was told.
    pub told: u32,
    /// The lease that it has.
    pub lease: Option<Lease>,
    /// Whether it was ever given a descriptor of a slab, and so could keep card memory.
    pub lent: bool,
    /// A lease that ended as it said hello, and that it may give back still.
    pub unheard: Option<u64>,
    /// The card with slabs of it, leased or warm.
    pub home: Option<CardId>,
    /// The list of what it may claim soon, as it comes.
    pub wish: Request,
    /// Ends what is brought ahead of its claim.
    pub ahead: Option<Stop>,
    /// Which of those was begun last: what is said of an earlier one is out of date.
    pub ahead_last: Option<Stop>,
    /// What binds it to its context.
    pub bound: Option<Bound>,
    /// What it wants of the cards' workers that is not done.
    pub backlog: Backlog,
}

/// A lease, as its holder sees it.
pub struct Lease {
    /// Its number.
    pub id: LeaseId,
    /// The card.
    pub card: CardId,
    /// The client's number of the claim.
    pub claim: u32,
    /// The number that it had at an earlier broker, which its holder names until it has heard of the new one.
    pub before: Option<u64>,
    /// How far it is.
    pub stage: Stage,
    /// The list of slabs, as it comes.
    pub request: Request,
    /// The slabs on the card, by offset.
    pub slabs: Vec<Range>,
    /// What the log and the metrics tell at its end.
    pub tally: Tally,
}

/// How far a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Granted; the Space is told once the driver has restored its context.
    Returning,
    /// Granted; the list of slabs is awaited.
    Granted,
    /// Bytes are on their way to the card.
    Filling,
    /// The Space computes.
    Ready,
    /// Bytes are on their way home.
    Homing,
    /// The host copy is complete; `resident` bytes are still on the card.
    Home {
        /// Bytes.
        resident: u64,
    },
    /// Given by an earlier broker: the memory is the Space's own.
    Adopted,
}

/// Numbers of one lease.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    /// When it was granted.
    pub granted: Instant,
    /// Seconds in the queue.
    pub waited: f64,
    /// Bytes copied to the card.
    pub brought: u64,
    /// Bytes that were warm.
    pub warm: u64,
    /// Bytes copied home.
    pub taken: u64,
    /// Bytes that had not changed.
    pub unchanged: u64,
    /// Whether it was revoked.
    pub revoked: bool,
    /// Whether an administrator took it back.
    pub taken_back: bool,
    /// Whether all that was warm has left its card, which had less room than it should.
    pub cleared: bool,
    /// Whether it was given more time to let go since its bytes were on their way home.
    pub spared: bool,
    /// Until when it may bring them home itself, on the broker's clock, once it has said after its time that it does.
    pub homeward: Option<Duration>,
    /// Until when its slabs wait for memory that is missed on the card, if they had to.
    pub patience: Option<Instant>,
}

impl Space {
    /// Has nothing more be brought ahead of a claim.
    pub fn stop_ahead(&mut self) {
        if let Some(stop) = self.ahead.take() {
            stop.set();
        }
    }

    /// Its lease, if it has this number.
    pub fn lease_mut(&mut self, number: u64) -> Option<&mut Lease> {
        self.lease.as_mut().filter(|lease| lease.id.0 == number || lease.before == Some(number))
    }
}

impl Lease {
    /// A lease that was granted just now.
    pub fn new(id: LeaseId, card: CardId, claim: u32, stage: Stage, waited: f64) -> Lease {
        let (revoked, taken_back, cleared, spared) = (false, false, false, false);
        let tally = Tally {
            granted: Instant::now(),
            waited,
            brought: 0,
            warm: 0,
            taken: 0,
            unchanged: 0,
            revoked,
            taken_back,
            cleared,
            spared,
            homeward: None,
            patience: None,
        };
        Lease { id, card, claim, before: None, stage, request: Request::default(), slabs: Vec::new(), tally }
    }

    /// Whether its holder has its memory: bytes may have gone home, and it may go on all the same.
    pub fn computes(&self) -> bool {
        matches!(self.stage, Stage::Ready | Stage::Home { .. })
    }

    /// Bytes of its slabs.
    pub fn bytes(&self) -> u64 {
        self.slabs.iter().map(|slab| slab.len).sum()
    }

    /// Adds a slab; false: it overlaps another.
    pub fn add(&mut self, slab: Range) -> bool {
        let at = self.slabs.partition_point(|other| other.off < slab.off);
        let clear = self.slabs[..at].last().is_none_or(|before| before.end() <= slab.off)
            && self.slabs.get(at).is_none_or(|behind| slab.end() <= behind.off);
        if clear {
            self.slabs.insert(at, slab);
        }
        clear
    }

    /// Takes a slab away; false: there is no such slab.
    pub fn remove(&mut self, slab: Range) -> bool {
        match self.slabs.binary_search_by_key(&slab.off, |other| other.off) {
            Ok(at) if self.slabs[at] == slab => {
                self.slabs.remove(at);
                true
            }
            _ => false,
        }
    }
}

/// Whether a list of slabs is in order, without overlap, and inside a backing of `size` bytes.
pub fn in_order(slabs: &[Range], size: u64) -> bool {
    slabs.windows(2).all(|pair| pair[0].end() <= pair[1].off) && slabs.last().is_none_or(|last| last.end() <= size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: u64 = 2 << 20;

    #[test]
    fn slabs_of_a_lease_never_overlap() {
        let mut lease = Lease::new(LeaseId(1), CardId(0), 1, Stage::Ready, 0.0);
        let slab = |at: u64, n: u64| Range::new(at * M, n * M);
        assert!(lease.add(slab(4, 2)) && lease.add(slab(0, 4)) && lease.add(slab(6, 1)));
        assert!(!lease.add(slab(5, 1)) && !lease.add(slab(3, 1)) && !lease.add(slab(0, 1)) && !lease.add(slab(0, 9)));
        assert_eq!(lease.bytes(), 7 * M);
        assert!(in_order(&lease.slabs, 7 * M) && !in_order(&lease.slabs, 7 * M - 1));
        assert!(!lease.remove(slab(4, 1)) && lease.remove(slab(4, 2)) && !lease.remove(slab(4, 2)));
        assert!(lease.add(slab(5, 1)));
        assert!(!in_order(&[slab(1, 1), slab(0, 1)], 9 * M));
    }
}

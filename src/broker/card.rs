//! A card's worker: a thread with the card's context, which makes, fills, brings home and drops slabs, one job at a time.
//!
//! Jobs come in the order in which the daemon decided them, so an eviction that makes room is done before what needs it.
//! The worker decides nothing, and keeps all that is on its card. While it has no job it brings in what may be claimed soon,
//! piece by piece, so that a job waits for one piece at most. A claim that lacks nothing needs no driver, and so no worker: see
//! [`Worker::lend`].
use super::ahead::{Ahead, Stop};
use super::bound;
use super::doubt::Missing;
use super::slabs::{Card, Moved, Slabs};
use super::space::Backing;
use mio::Waker;
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use zerogpu_abi::{CUcontext, CUdevice, CUresult, Res};
use zerogpu_below::{ok, Driver, Hasher};
use zerogpu_lease::{LeaseId, SpaceId};
use zerogpu_protocol::{Range, SPACE_SLABS};

/// Something to do on a card.
pub enum Job {
    /// Make the slabs of a lease, and bring their bytes in.
    Fill { space: SpaceId, backing: Arc<Backing>, lease: LeaseId, slabs: Vec<Range>, dirty: Vec<Range> },
    /// What the host has written: the card's copy of it is old.
    Stale { space: SpaceId, dirty: Vec<Range> },
    /// Bring in what the Space may claim soon, while there is nothing else to do.
    Ahead { space: SpaceId, backing: Arc<Backing>, slabs: Vec<Range>, stop: Stop },
    /// One more slab, zeroed.
    Grow { space: SpaceId, lease: LeaseId, slab: Range },
    /// Slabs that their owner has let go of.
    Shrink { space: SpaceId, slabs: Vec<Range> },
    /// Make the host copy complete.
    Home { space: SpaceId, backing: Arc<Backing>, lease: LeaseId },
    /// Unpin a range, whose host copy is gone after that, and, if asked, drop the slabs that touch it.
    Forget { space: SpaceId, backing: Arc<Backing>, range: Range, drop: bool },
    /// Drop all slabs of a Space. `let_go`: it has said that it uses none of them.
    Evict { space: SpaceId, let_go: bool },
    /// Look what is free on the card, since memory of a Space is missed.
    Look { space: SpaceId },
    /// Have the driver checkpoint a Space's process.
    PutAside { space: SpaceId, backing: Arc<Backing>, pid: i32, patience: Duration },
    /// Have it restored, before its lease begins. `aside`: it is checkpointed for certain.
    BringBack { space: SpaceId, backing: Arc<Backing>, lease: LeaseId, pid: i32, aside: bool },
    /// Drop all slabs of a Space that is gone, and let go of its backing. `let_go`: its process may be there, and uses none of
    /// them.
    Leave { space: SpaceId, backing: Option<Arc<Backing>>, let_go: bool },
}

impl Job {
    /// Whose it is.
    pub fn space(&self) -> SpaceId {
        match self {
            Job::Fill { space, .. }
            | Job::Stale { space, .. }
            | Job::Ahead { space, .. }
            | Job::Grow { space, .. }
            | Job::Shrink { space, .. }
            | Job::Home { space, .. }
            | Job::Forget { space, .. }
            | Job::Evict { space, .. }
            | Job::Look { space }
            | Job::PutAside { space, .. }
            | Job::BringBack { space, .. }
            | Job::Leave { space, .. } => *space,
        }
    }

    /// What it takes of the broker's memory while it waits, in ranges.
    fn weight(&self) -> usize {
        // itself, and its place in the queue
        const ALONE: usize = 16;
        ALONE
            + match self {
                Job::Fill { slabs, dirty, .. } => slabs.len() + dirty.len(),
                Job::Stale { dirty, .. } => dirty.len(),
                Job::Ahead { slabs, .. } | Job::Shrink { slabs, .. } => slabs.len(),
                _ => 0,
            }
    }
}

/// What a Space's jobs that are not done yet take of the broker's memory: who has many of them is not listened to.
#[derive(Debug, Clone)]
pub struct Backlog {
    ranges: Arc<AtomicUsize>,
    waker: Arc<Waker>,
}

impl Backlog {
    /// So many ranges are much: the longest list that a claim may name.
    const MUCH: usize = SPACE_SLABS;

    /// Nothing is undone. `waker`: the daemon's, which is told when it can listen again.
    pub fn new(waker: &Arc<Waker>) -> Backlog {
        Backlog { ranges: Arc::default(), waker: waker.clone() }
    }

    /// Whether nothing more is to be taken on.
    pub fn is_much(&self) -> bool {
        self.ranges.load(Ordering::Acquire) >= Backlog::MUCH
    }

    /// A job is added; it is taken off when what comes back is dropped.
    pub fn add(&self, job: &Job) -> Undone {
        let ranges = job.weight();
        self.ranges.fetch_add(ranges, Ordering::AcqRel);
        Undone { backlog: self.clone(), ranges }
    }
}

/// A job that is part of a [`Backlog`].
pub struct Undone {
    backlog: Backlog,
    ranges: usize,
}

impl Drop for Undone {
    fn drop(&mut self) {
        let before = self.backlog.ranges.fetch_sub(self.ranges, Ordering::AcqRel);
        if before >= Backlog::MUCH && before - self.ranges < Backlog::MUCH {
            let _it_wakes_already = self.backlog.waker.wake();
        }
    }
}

/// What fails where the driver has no memory.
pub const MAKING: &str = "making memory on the card";

/// What became of a job.
pub enum Done {
    /// Descriptors of the slabs of a lease: `fds[i]` is that of slab `i`. Their bytes are coming.
    Slabs { space: SpaceId, lease: LeaseId, fds: Vec<OwnedFd> },
    /// The bytes are there.
    Filled { space: SpaceId, lease: LeaseId, moved: Moved, took: Duration },
    /// Bringing in what may be claimed soon has ended, wherever it got: `bytes` of the Space are on the card, `moved` of them
    /// copied for it.
    Ahead { space: SpaceId, stop: Stop, bytes: u64, moved: u64, took: Duration },
    /// A slab that was asked for; the error is the driver's.
    Grown { space: SpaceId, lease: LeaseId, slab: Range, fd: Res<OwnedFd> },
    /// The host copy is complete; `resident` bytes are on the card.
    Home { space: SpaceId, lease: LeaseId, moved: Moved, resident: u64, took: Duration },
    /// A range may be punched; `dropped` bytes have left the card.
    Forgotten { space: SpaceId, range: Range, dropped: u64 },
    /// The broker holds nothing of the Space on the card any more. Of its `bytes`, `withheld` did not come free: the Space has
    /// kept what it must not, or others have taken memory meanwhile. `level` was free before, or in slabs.
    Evicted { space: SpaceId, bytes: u64, withheld: u64, level: u64 },
    /// The worker has nothing of a Space that is gone any more, and was to see what comes free.
    Left { space: SpaceId },
    /// What is free on the card, or in slabs.
    Looked { space: SpaceId, level: Option<u64> },
    /// The driver is about to checkpoint or restore a Space's process.
    Begun { space: SpaceId },
    /// A Space's process is checkpointed, or the reason why not.
    PutAside { space: SpaceId, result: Result<(), String>, took: Duration },
    /// It is as it was before that, or the reason why not.
    BroughtBack { space: SpaceId, lease: LeaseId, result: Result<(), String>, took: Duration },
    /// The card had no room for all slabs of a lease, though by what this broker knows there is: the job, not done.
    NoRoom { space: SpaceId, lease: LeaseId, fill: Job },
    /// A job failed. Bytes are where they were.
    Failed { space: SpaceId, lease: Option<LeaseId>, what: &'static str, code: CUresult },
}

/// A card that has a worker.
pub struct Worker {
    jobs: Sender<(Job, Option<Undone>)>,
    shared: Arc<Shared>,
}

/// What the daemon may look at while the worker is idle.
#[derive(Default)]
struct Shared {
    /// Jobs given and not done.
    undone: AtomicUsize,
    shelf: Mutex<Shelf>,
}

/// What is on the card, and what is on its way there.
#[derive(Default)]
struct Shelf {
    spaces: HashMap<SpaceId, Slabs>,
    /// What is brought in while there is no job, the first first.
    ahead: VecDeque<Ahead>,
}

impl Worker {
    /// Makes the context, in a thread of its own that then waits for jobs. `tell` is called there for each result.
    pub fn start(
        driver: &'static Driver,
        device: CUdevice,
        tell: impl Fn(Done) + Send + 'static,
    ) -> Result<Worker, String> {
        let (jobs, inbox) = channel();
        let (ready, started) = channel();
        let shared = Arc::<Shared>::default();
        let own = shared.clone();
        let run = move || match retain(driver, device) {
            Ok(()) => {
                let hasher = Hasher::new(driver, device).inspect_err(|e| {
                    tracing::warn!(
                        code = e.0,
                        "the hash kernel can't be loaded on card {device}: each park copies everything"
                    );
                });
                let card = Card { driver, device, hasher: hasher.ok(), left: Default::default() };
                let _daemon_is_there = ready.send(Ok(()));
                serve(&Room { card, tell: Box::new(tell) }, &own, &inbox);
            }
            Err(e) => {
                let _daemon_is_there = ready.send(Err(e));
            }
        };
        std::thread::Builder::new()
            .name(format!("card {device}"))
            .spawn(run)
            .map_err(|e| format!("no thread for card {device}: {e}"))?;
        match started.recv() {
            Ok(Ok(())) => Ok(Worker { jobs, shared }),
            Ok(Err(code)) => {
                Err(format!("no context could be made on card {device} (CUDA error {}); look at nvidia-smi", code.0))
            }
            Err(_) => Err(format!("the thread of card {device} ended")),
        }
    }

    /// Gives the worker a job; false: its thread has ended.
    pub fn give(&self, job: Job, undone: Option<Undone>) -> bool {
        self.shared.undone.fetch_add(1, Ordering::Relaxed);
        self.jobs.send((job, undone)).is_ok()
    }

    /// Descriptors of the slabs of a Space, in order, if they are what the card has of it, whole, and the worker is idle. To be
    /// called by the thread that gives the jobs.
    pub fn lend(&self, space: SpaceId, wanted: &[Range]) -> Option<Vec<OwnedFd>> {
        if self.shared.undone.load(Ordering::Acquire) != 0 {
            return None;
        }
        // held while a piece is brought in ahead: then there is something for the worker to end
        let mut shelf = self.shared.shelf.try_lock().ok()?;
        if !shelf.ahead.is_empty() {
            return None;
        }
        match shelf.spaces.get_mut(&space) {
            Some(slabs) if slabs.is_whole(wanted) => slabs.share_all(wanted).ok(),
            Some(_) => None,
            None => wanted.is_empty().then(Vec::new),
        }
    }
}

fn retain(d: &Driver, device: CUdevice) -> Res {
    let mut ctx = CUcontext::NULL;
    // SAFETY: writes the context, which is then made current in this thread for its whole life.
    unsafe {
        ok((d.cuDevicePrimaryCtxRetain)(&mut ctx, device))?;
        ok((d.cuCtxSetCurrent)(ctx))
    }
}

/// Does job after job, and between them brings in what may be claimed soon.
fn serve(room: &Room, shared: &Shared, inbox: &Receiver<(Job, Option<Undone>)>) {
    let shelf = || shared.shelf.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let (job, undone) = match inbox.try_recv() {
            Ok(job) => job,
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) if !shelf().ahead.is_empty() => {
                room.go_ahead(&mut shelf());
                continue;
            }
            Err(TryRecvError::Empty) => match inbox.recv() {
                Ok(job) => job,
                Err(_) => return,
            },
        };
        room.act(&mut shelf(), job);
        drop(undone);
        shared.undone.fetch_sub(1, Ordering::Release);
    }
}

/// Where the worker works.
struct Room {
    card: Card,
    tell: Box<dyn Fn(Done) + Send>,
}

impl Room {
    /// One piece of what may be claimed soon.
    fn go_ahead(&self, shelf: &mut Shelf) {
        let Some(first) = shelf.ahead.front_mut() else { return };
        let more = first.step(&self.card, shelf.spaces.entry(first.space).or_default());
        if let Err(code) = &more {
            // the claim does all of it, and says what is wrong
            tracing::debug!(space = first.space.0, code = code.0, "bytes were not brought ahead of a claim");
        }
        if !more.unwrap_or(false) {
            let space = first.space;
            self.end_ahead(shelf, |ahead| ahead.space == space);
        }
    }

    /// Brings no more of these ahead.
    fn end_ahead(&self, shelf: &mut Shelf, which: impl Fn(&Ahead) -> bool) {
        let (ended, rest): (VecDeque<Ahead>, _) = std::mem::take(&mut shelf.ahead).into_iter().partition(which);
        shelf.ahead = rest;
        for ahead in ended {
            let bytes = shelf.spaces.get(&ahead.space).map_or(0, Slabs::bytes);
            let Ahead { space, stop, moved, took, .. } = ahead;
            (self.tell)(Done::Ahead { space, stop, bytes, moved, took });
        }
    }

    fn act(&self, shelf: &mut Shelf, job: Job) {
        match job {
            // whoever is gone waits for nothing
            Job::Fill { backing, .. } | Job::Home { backing, .. } if backing.is_gone() => {}
            // whoever computes has the card and its bus for itself
            Job::Fill { space, backing, lease, slabs, dirty } => {
                self.end_ahead(shelf, |_| true);
                self.fill(shelf.spaces.entry(space).or_default(), space, backing, lease, slabs, dirty);
            }
            Job::Stale { space, dirty } => {
                if let Some(of_space) = shelf.spaces.get_mut(&space) {
                    dirty.into_iter().for_each(|range| of_space.make_stale(range));
                }
            }
            Job::Ahead { space, backing, slabs, stop } => {
                self.end_ahead(shelf, |ahead| ahead.space == space);
                match shelf.spaces.entry(space).or_default().keep(&self.card, &slabs) {
                    Ok(()) => shelf.ahead.push_back(Ahead::new(space, backing, slabs, stop)),
                    Err(code) => {
                        (self.tell)(Done::Failed { space, lease: None, what: "giving memory back to the card", code })
                    }
                }
            }
            Job::Grow { space, lease, slab } => {
                self.end_ahead(shelf, |_| true);
                let of_space = shelf.spaces.entry(space).or_default();
                let made = of_space.make(&self.card, slab).and_then(|()| of_space.share(slab.off));
                // it is no slab of the lease then, and its bytes must not go home
                let fd = made.or_else(|e| of_space.drop_range(&self.card, slab).and(Err(e)));
                (self.tell)(Done::Grown { space, lease, slab, fd });
            }
            Job::Shrink { space, slabs } => {
                let Some(of_space) = shelf.spaces.get_mut(&space) else { return };
                let dropped = slabs.iter().try_for_each(|slab| of_space.drop_range(&self.card, *slab).map(|_| ()));
                if let Err(code) = dropped {
                    (self.tell)(Done::Failed { space, lease: None, what: "giving memory back to the card", code });
                }
            }
            Job::Home { space, backing, lease } => {
                let start = Instant::now();
                let of_space = shelf.spaces.entry(space).or_default();
                let done = match of_space.bring_home(&self.card, &backing) {
                    Ok(moved) => Done::Home { space, lease, moved, resident: of_space.bytes(), took: start.elapsed() },
                    Err(code) => Done::Failed { space, lease: Some(lease), what: "copying memory home", code },
                };
                (self.tell)(done);
            }
            Job::Forget { space, backing, range, drop } => {
                self.end_ahead(shelf, |ahead| ahead.space == space);
                let dropped = match shelf.spaces.get_mut(&space) {
                    Some(of_space) if drop => of_space.drop_range(&self.card, range),
                    Some(of_space) => {
                        of_space.lose_home(range);
                        Ok(0)
                    }
                    None => Ok(0),
                };
                let done = match backing.forget(range).and(dropped) {
                    Ok(dropped) => Done::Forgotten { space, range, dropped },
                    Err(code) => Done::Failed { space, lease: None, what: "unpinning host memory", code },
                };
                (self.tell)(done);
            }
            Job::Evict { space, let_go } => self.evict(shelf, space, let_go),
            Job::Look { space } => (self.tell)(Done::Looked { space, level: self.level(shelf) }),
            Job::PutAside { .. } | Job::BringBack { .. } => {
                bound::act(self.card.driver, job, &self.tell);
            }
            Job::Leave { space, backing, let_go } => {
                self.evict(shelf, space, let_go);
                // nobody asks for it a second time
                shelf.spaces.remove(&space).into_iter().for_each(|slabs| slabs.abandon(&self.card));
                drop(backing);
                if let_go {
                    (self.tell)(Done::Left { space });
                }
            }
        }
    }

    /// Makes the slabs of a lease, and brings their bytes.
    fn fill(
        &self,
        of_space: &mut Slabs,
        space: SpaceId,
        backing: Arc<Backing>,
        lease: LeaseId,
        slabs: Vec<Range>,
        dirty: Vec<Range>,
    ) {
        let start = Instant::now();
        let failed = |what, code| Done::Failed { space, lease: Some(lease), what, code };
        match of_space.prepare(&self.card, &slabs) {
            // the Space maps them while their bytes travel
            Ok(fds) => (self.tell)(Done::Slabs { space, lease, fds }),
            Err(CUresult::OUT_OF_MEMORY) => {
                let fill = Job::Fill { space, backing, lease, slabs, dirty };
                return (self.tell)(Done::NoRoom { space, lease, fill });
            }
            Err(code) => return (self.tell)(failed(MAKING, code)),
        }
        let done = match of_space.fill(&self.card, &backing, &dirty) {
            Ok(moved) => Done::Filled { space, lease, moved, took: start.elapsed() },
            Err(code) => failed("copying memory to the card", code),
        };
        (self.tell)(done);
    }

    /// Bytes that are free on the card; None: it does not tell.
    fn free(&self) -> Option<u64> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two numbers; the card's context is current.
        unsafe { (self.card.driver.cuMemGetInfo_v2)(&mut free, &mut total) }.ok().then_some(free as u64)
    }

    /// Bytes that are free there, or in slabs: what all that this worker does leaves as it is.
    fn level(&self, shelf: &Shelf) -> Option<u64> {
        Some(self.free()? + shelf.spaces.values().map(Slabs::bytes).sum::<u64>())
    }

    fn evict(&self, shelf: &mut Shelf, space: SpaceId, let_go: bool) {
        shelf.ahead.retain(|ahead| ahead.space != space);
        // what it never had it can't keep
        let bytes = shelf.spaces.get(&space).filter(|_| let_go).map_or(0, Slabs::lent);
        let level = if bytes > 0 { self.level(shelf) } else { None };
        let mut missing = level.and(self.free()).map(Missing::from);
        let Some(mut slabs) = shelf.spaces.remove(&space) else {
            return (self.tell)(Done::Evicted { space, bytes: 0, withheld: 0, level: 0 });
        };
        let look = |lent| missing.iter_mut().for_each(|missing| missing.gone(lent, self.free()));
        match slabs.clear(&self.card, look) {
            Ok(()) => {
                let withheld = missing.map_or(0, |missing| missing.bytes);
                (self.tell)(Done::Evicted { space, bytes, withheld, level: level.unwrap_or(0) });
            }
            Err(code) => {
                shelf.spaces.insert(space, slabs);
                (self.tell)(Done::Failed { space, lease: None, what: "giving memory back to the card", code });
            }
        }
    }
}

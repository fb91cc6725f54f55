//! The thread that runs host functions, made at the first one.
use super::*;
use std::collections::BTreeSet;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What waits for its turn.
pub enum Job {
    /// A host function, due at a moment.
    Call(HostCall, u64),
    /// A command of a stream behind one, or a value that it waits for.
    Op(usize, Owned, &'static dyn Card),
    /// The end of a graph's launch.
    End(GraphLaunch),
}

struct Queue {
    jobs: Vec<Waiting>,
    running: bool,
    /// Done out of turn: tickets above DONE.
    done: BTreeSet<u64>,
}

struct Waiting {
    ticket: u64,
    /// What has to be done before.
    after: u64,
    job: Job,
}

/// With a ticket: that one and all before it. Without, a ticket is one job's, and done when that is: jobs of streams
/// that have nothing to do with each other overtake one another.
pub const ALL: u64 = 1 << 63;

/// Tickets given out, and up to which all are done: written under the queue's lock, read without it.
static QUEUED: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);
/// How many of them are not done: one load tells who uses a stream of a claimed GPU whether to look further.
static LEFT: AtomicU64 = AtomicU64::new(0);

// SAFETY: the pointers inside are the app's, for its own functions and commands, which run on another thread than
// the caller's with any driver.
unsafe impl Send for Queue {}

static QUEUE: Mutex<Queue> = Mutex::new(Queue { jobs: Vec::new(), running: false, done: BTreeSet::new() });
static CHANGED: Condvar = Condvar::new();

fn locked() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Queues a job behind another; its ticket.
pub fn queue(job: Job, after: u64) -> Res<u64> {
    let mut q = locked();
    if !q.running {
        crate::thread::spawn("zerogpu-host", serve).map_err(|_| CUresult::OUT_OF_MEMORY)?;
        q.running = true;
    }
    LEFT.fetch_add(1, Ordering::AcqRel);
    let ticket = QUEUED.fetch_add(1, Ordering::AcqRel) + 1;
    q.jobs.push(Waiting { ticket, after, job });
    CHANGED.notify_all();
    Ok(ticket)
}

/// What stands for all jobs so far.
pub fn last() -> u64 {
    QUEUED.load(Ordering::Acquire) | ALL
}

/// Whether any job is not done.
#[inline]
pub fn any() -> bool {
    LEFT.load(Ordering::Acquire) != 0
}

/// Whether the job of a ticket is done.
pub fn is_done(ticket: u64) -> bool {
    is_all_done(ticket) || ticket & ALL == 0 && locked().done.contains(&ticket)
}

/// Whether it is, and all before it.
fn is_all_done(ticket: u64) -> bool {
    DONE.load(Ordering::Acquire) >= ticket & !ALL
}

/// Waits until the job of a ticket is done.
pub fn wait(ticket: u64) {
    if is_all_done(ticket) {
        return;
    }
    let mut q = locked();
    while !is_all_done(ticket) && !q.done.contains(&ticket) {
        q = CHANGED.wait(q).unwrap_or_else(PoisonError::into_inner);
    }
}

fn end(ticket: u64) {
    let mut q = locked();
    // first: who has waited for all tickets finds none left
    LEFT.fetch_sub(1, Ordering::AcqRel);
    q.done.insert(ticket);
    while q.done.remove(&(DONE.load(Ordering::Acquire) + 1)) {
        DONE.fetch_add(1, Ordering::AcqRel);
    }
    drop(q);
    CHANGED.notify_all();
}

impl Waiting {
    /// Whether its turn has come. A value is waited for by its stream alone.
    fn is_ready(&self) -> bool {
        is_done(self.after)
            && match &self.job {
                // an error is told in its turn
                Job::Op(_, Owned::Plain(Op::Await(v)), card) => has_come(v, *card).unwrap_or(true),
                _ => true,
            }
    }
}

/// How often a value that is waited for is looked at.
const LOOK: std::time::Duration = std::time::Duration::from_micros(50);

/// The first job whose turn has come; `jobs` are those that were seen and not done.
fn next(jobs: &mut Vec<Waiting>) -> Waiting {
    loop {
        let mut q = locked();
        while q.jobs.is_empty() && jobs.is_empty() {
            q = CHANGED.wait(q).unwrap_or_else(PoisonError::into_inner);
        }
        jobs.append(&mut q.jobs);
        drop(q);
        if let Some(first) = jobs.iter().position(Waiting::is_ready) {
            return jobs.remove(first);
        }
        // all that is left waits for values, which nobody tells us of
        let _any = CHANGED.wait_timeout(locked(), LOOK);
    }
}

thread_local! {
    static HERE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whether the caller is the worker.
pub fn is_this_thread() -> bool {
    HERE.get()
}

/// Calls a host function.
pub fn call_host(call: HostCall) {
    // SAFETY: the app's own function with its own data, as it asked.
    unsafe {
        match call {
            HostCall::Func { func: Some(f), data } => f(data),
            HostCall::Callback { func: Some(f), data, stream } => f(stream, CUresult::SUCCESS, data),
            _ => {}
        }
    }
}

/// Nobody waits for the answer to a command whose turn has come late: the backend has the app hear of an error.
fn tell(done: Res) {
    if let (Err(e), Ok(b)) = (done, crate::runtime::backend()) {
        b.failed_late(e);
    }
}

fn serve() {
    HERE.set(true);
    let mut jobs = Vec::new();
    loop {
        let Waiting { ticket, job, .. } = next(&mut jobs);
        // whatever becomes of a job, those who wait for it go on
        let ran = catch_unwind(AssertUnwindSafe(|| match job {
            Job::Call(call, moment) => {
                sleep_until(moment);
                call_host(call);
            }
            Job::Op(_, Owned::Plain(Op::Await(v)), card) => tell(has_come(&v, card).map(|_| ())),
            Job::Op(stream, owned, card) => {
                tell(lock().and_then(|st| run_now(st, stream, &owned.as_op(), card)));
            }
            Job::End(launch) => {
                if let (Err(e), Ok(b)) = (crate::api::end_launch(&launch), crate::runtime::backend()) {
                    b.tell(&format!("user objects of a graph live on (CUDA error {})", e.0));
                }
            }
        }));
        if let (Err(_), Ok(b)) = (ran, crate::runtime::backend()) {
            b.tell("a fault inside zerogpu was contained: a command behind a host function was not run");
        }
        end(ticket);
    }
}

//! Executes commands on the host backing: what softcuda always does, and the virtual device while no GPU is claimed.
//!
//! Bytes move at the call. What a stream would still be busy with is a moment in time (`busy_until`), so that events and
//! queries answer as a device of the given speed would. Host functions run on a thread of their own, in stream order.
mod worker;

use crate::exec::{self, now};
use crate::objects::graph::GraphLaunch;
use crate::objects::{Stream, StreamKind};
use crate::op::{HostCall, Launch, Op, Owned, OwnedLaunch, Value};
use crate::runtime::{lock, Guard, Scope, State};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use zerogpu_abi::*;

/// What a launch does with bytes that were found under the state's lock.
pub type Work = Box<dyn FnOnce()>;

/// The card that the host stands in for.
pub trait Card: Sync {
    /// Nanoseconds that a command takes on the device.
    fn cost(&self, _op: &Op) -> u64 {
        0
    }
    /// Takes a kernel launch, or says why it can't. What it gives is done at once, without the state's lock.
    ///
    /// # Errors
    /// Why it can't: NOT_SUPPORTED from a card that has no kernels, else what is wrong with the launch.
    fn launch(&self, state: &mut State, stream: usize, launch: &Launch) -> Res<Option<Work>>;
    /// Whether the bytes have left the host for a GPU. Asked with the state's lock held.
    fn elsewhere(&self) -> bool {
        false
    }
    /// Runs a command there, to its end; false: the bytes are back. Called without the lock, by a thread whose command
    /// had to wait (behind a host function, or for a value) while the bytes moved.
    ///
    /// # Errors
    /// What the command, or the way to the GPU, fails with.
    fn run_elsewhere(&self, _op: &Op) -> Res<bool> {
        Ok(false)
    }
    /// What is there where a value is waited for; None: it can't be seen at this moment. Called without the lock.
    ///
    /// # Errors
    /// What the look, or the way to the GPU, fails with.
    fn look_elsewhere(&self, _v: &Value) -> Res<Option<u64>> {
        Ok(None)
    }
}

/// Runs a validated command on a stream. Behind a host function that has not returned, it waits in the worker's queue, so
/// that the caller goes on, as with a device; a blocking one waits here.
///
/// # Errors
/// INVALID_HANDLE: there is no such stream; INVALID_VALUE: a range goes beyond the last address, or there is no such
/// graph; NOT_PERMITTED: a host function submits what it would have to wait for; OUT_OF_MEMORY: there is no thread for
/// what waits; those of [`lock`], [`Card::launch`] and [`Card::run_elsewhere`].
pub fn run(mut st: Guard, stream: usize, op: &Op, card: &'static dyn Card) -> Res {
    st.join_default_streams(stream)?;
    let ticket = find(&mut st, stream)?.host_ticket;
    // a wait for a value that is not there yet blocks the stream, not its caller, who may be the one to write it
    let blocks = matches!(op, Op::Await(v) if !holds_now(&st, v)?);
    if (blocks || !worker::is_done(ticket)) && !takes_its_place(op) && !matches!(op, Op::Graph(_)) {
        if let Some(owned) = own(&mut st, op) {
            find(&mut st, stream)?.host_ticket = worker::queue(worker::Job::Op(stream, owned, card), ticket)?;
            return Ok(());
        }
        if worker::is_this_thread() {
            return Err(FROM_A_HOST_FUNCTION);
        }
        drop(st);
        worker::wait(ticket);
        st = lock()?;
    }
    run_now(st, stream, op, card)
}

/// Whether a command of a stream is never behind another: it only says what comes before what.
fn takes_its_place(op: &Op) -> bool {
    matches!(op, Op::Host(_) | Op::Record(_) | Op::Wait(_))
}

/// The command as one that can wait; None: its caller waits for it.
fn own(st: &mut State, op: &Op) -> Option<Owned> {
    match op {
        Op::Copy(c) if c.blocking => None,
        Op::Fill(f) if f.blocking => None,
        // it reads nothing, so its source may be no memory at all
        Op::Copy(c) if c.bytes() == 0 => Some(Owned::Plain(Op::Copy(*c))),
        Op::Copy(c) => match (st.memory.find(c.dst.at).is_some(), st.memory.find(c.src.at).is_some()) {
            // pageable memory is the caller's again when the call returns
            // SAFETY: the app gave this host memory to be read by the copy.
            (true, false) => unsafe { Owned::upload(c, u64::MAX) },
            (false, _) => None,
            (true, true) => Some(Owned::Plain(Op::Copy(*c))),
        },
        Op::Fill(f) => Some(Owned::Plain(Op::Fill(*f))),
        Op::Write(v) => Some(Owned::Plain(Op::Write(*v))),
        Op::Await(v) => Some(Owned::Plain(Op::Await(*v))),
        Op::Launch(l) => {
            let params = st.pack_params(l.func, &l.params).ok()?;
            let (func, grid, block, shared, cooperative) = (l.func, l.grid, l.block, l.shared, l.cooperative);
            let attrs = l.attrs.to_vec();
            Some(Owned::Launch(OwnedLaunch { func, grid, block, shared, params, attrs, cooperative }))
        }
        Op::Graph(_) | Op::Host(_) | Op::Record(_) | Op::Wait(_) => None,
    }
}

impl State {
    /// What the legacy stream of a context waits for: the last host functions, and commands behind them, of all its
    /// blocking streams.
    pub fn ticket_of_blocking_streams(&self, ctx: CUcontext) -> u64 {
        let blocking = self.streams.values().filter(|s| s.ctx == ctx && s.flags & 1 == 0);
        blocking.map(|s| s.host_ticket).fold(0, both)
    }

    /// The legacy stream waits for the blocking streams of its context, and they for it.
    fn join_default_streams(&mut self, stream: usize) -> Res {
        let s = find(self, stream)?;
        let (ctx, kind, blocking) = (s.ctx, s.kind, s.flags & 1 == 0);
        let (mut until, mut ticket) = (s.busy_until, s.host_ticket);
        if !blocking {
            return Ok(());
        }
        let legacy = StreamKind::Legacy;
        for other in self.streams.values().filter(|o| o.ctx == ctx && o.flags & 1 == 0) {
            if kind == legacy || other.kind == legacy {
                (until, ticket) = (until.max(other.busy_until), both(ticket, other.host_ticket));
            }
        }
        let s = find(self, stream)?;
        (s.busy_until, s.host_ticket) = (until, ticket);
        Ok(())
    }
}

/// Runs a command whose turn has come.
fn run_now(mut st: Guard, stream: usize, op: &Op, card: &'static dyn Card) -> Res {
    // what had to wait may find that a GPU was claimed meanwhile: bytes written here would be lost
    while card.elsewhere() && !takes_its_place(op) && !matches!(op, Op::Graph(_)) {
        drop(st);
        let mut ran = card.run_elsewhere(op);
        // its caller was told that it succeeds, and once more does the same
        if ran.is_err() && matches!(op, Op::Copy(_) | Op::Fill(_) | Op::Write(_)) {
            ran = card.run_elsewhere(op);
        }
        if ran? {
            return Ok(());
        }
        st = lock()?;
    }
    let busy = st.streams.get(&stream).map_or(0, |s| s.busy_until);
    let end = now().max(busy) + card.cost(op);
    match op {
        Op::Copy(_) | Op::Fill(_) => {
            let (plan, blocking) = match op {
                Op::Copy(c) => (exec::plan_copy(&st.memory, c)?, c.blocking),
                Op::Fill(f) => (exec::plan_fill(&st.memory, f)?, f.blocking),
                _ => return Err(CUresult::UNKNOWN),
            };
            set_busy(&mut st, stream, end);
            let moving = exec::Moving::begin();
            drop(st);
            exec::run(&plan);
            drop(moving);
            if blocking {
                sleep_until(end);
            }
        }
        Op::Launch(l) => {
            let work = card.launch(&mut st, stream, l)?;
            set_busy(&mut st, stream, end);
            if let Some(work) = work {
                let moving = exec::Moving::begin();
                drop(st);
                work();
                drop(moving);
            }
        }
        Op::Host(_) | Op::Record(_) | Op::Wait(_) => take_place(&mut st, stream, op, end)?,
        Op::Write(v) => write(&st, v)?,
        // it is there: else the command would wait in the queue
        Op::Await(_) => {}
        Op::Graph(g) => return run_graph(st, stream, *g, card),
    }
    Ok(())
}

/// Host functions, and what events are told and ask, in a stream whose work is done at a moment.
fn take_place(st: &mut State, stream: usize, op: &Op, end: u64) -> Res {
    match op {
        Op::Host(call) => {
            let s = find(st, stream)?;
            s.host_ticket = worker::queue(worker::Job::Call(*call, end), s.host_ticket)?;
        }
        // the stream or the event of a graph that had to wait may have ended meanwhile: then nobody can ask
        Op::Record(event) => {
            let ticket = st.streams.get(&stream).map_or(0, |s| s.host_ticket);
            if let Ok(e) = st.event(*event) {
                (e.done_at, e.ticket, e.captured) = (Some(end), ticket, None);
            }
        }
        Op::Wait(event) => {
            let (until, ticket) = st.event(*event).map_or((0, 0), |e| (e.done_at.unwrap_or(0), e.ticket));
            if let Some(s) = st.streams.get_mut(&stream) {
                s.busy_until = s.busy_until.max(until);
                s.host_ticket = both(s.host_ticket, ticket);
            }
        }
        _ => return Err(CUresult::UNKNOWN),
    }
    Ok(())
}

/// Runs a graph as its commands, as they are now: the app may change or end it at once. One in which anything waits takes
/// its place in the queue as a whole, with the state's lock held: what comes after it, also on a GPU that is claimed
/// meanwhile, comes after all of it.
fn run_graph(mut st: Guard, stream: usize, graph: CUgraphExec, card: &'static dyn Card) -> Res {
    let launch = st.exec_launch(graph)?;
    let ticket = find(&mut st, stream)?.host_ticket;
    st.hold_launch(&launch);
    let waits = |op: &Owned| matches!(op.as_op(), Op::Host(_) | Op::Wait(_) | Op::Await(_));
    let ran = if !worker::is_done(ticket) || launch.ops.iter().any(waits) {
        let queued = launch.ops.iter().try_for_each(|op| queue_behind(&mut st, stream, op, card));
        drop(st);
        queued
    } else {
        drop(st);
        launch.ops.iter().try_for_each(|op| run(lock()?, stream, &op.as_op(), card))
    };
    end_launch_behind(stream, launch)?;
    ran
}

fn queue_behind(st: &mut State, stream: usize, op: &Owned, card: &'static dyn Card) -> Res {
    let command = op.as_op();
    if takes_its_place(&command) {
        let end = now().max(find(st, stream)?.busy_until);
        return take_place(st, stream, &command, end);
    }
    let s = find(st, stream)?;
    s.host_ticket = worker::queue(worker::Job::Op(stream, op.clone(), card), s.host_ticket)?;
    Ok(())
}

/// Ends a launch of a graph when what it has left in the queue is done.
fn end_launch_behind(stream: usize, launch: GraphLaunch) -> Res {
    if launch.holds_nothing() {
        return Ok(());
    }
    // of a stream that was destroyed meanwhile nothing is known: everything that is queued counts
    let ticket = lock()?.streams.get(&stream).map_or_else(worker::last, |s| s.host_ticket);
    if worker::is_done(ticket) {
        return crate::api::end_launch(&launch);
    }
    worker::queue(worker::Job::End(launch.without_commands()), ticket).map(|_| ())
}

/// A stream that was destroyed with work in it keeps no time.
fn set_busy(st: &mut State, stream: usize, until: u64) {
    if let Some(s) = st.streams.get_mut(&stream) {
        s.busy_until = until;
    }
}

/// Whether everything before an event's last record is done, host functions included.
pub fn passed(ticket: u64) -> bool {
    worker::is_done(ticket)
}

/// Waits for what [`passed`] asks about. No lock may be held.
pub fn pass(ticket: u64) {
    worker::wait(ticket);
}

/// What stands for two tickets.
pub fn both(a: u64, b: u64) -> u64 {
    match (worker::is_done(a), worker::is_done(b)) {
        (true, _) => b,
        (_, true) => a,
        _ if a == b => a,
        _ => (a & !worker::ALL).max(b & !worker::ALL) | worker::ALL,
    }
}

/// Whether host functions, or commands behind them, have not ended.
#[inline]
pub fn pending() -> bool {
    worker::any()
}

/// Whether the caller is a host function that was queued here: it waits for nothing that may wait for it.
pub fn is_inside() -> bool {
    worker::is_this_thread()
}

/// Waits until they have; a host function does not wait for itself.
pub fn drain() {
    if !worker::is_this_thread() {
        worker::wait(worker::last());
    }
}

/// A host function that waits for what comes after itself would wait for ever; cuda.h lets a driver refuse any call from
/// one with this error.
const FROM_A_HOST_FUNCTION: CUresult = CUresult::NOT_PERMITTED;

fn find(st: &mut State, stream: usize) -> Res<&mut Stream> {
    st.streams.get_mut(&stream).ok_or(CUresult::INVALID_HANDLE)
}

/// Waits for work to finish, or asks whether it has.
///
/// # Errors
/// Those of [`lock`] and, by scope, of [`State::current`], [`State::stream`] or [`State::event`]; NOT_READY: it asks,
/// and there is work left; NOT_PERMITTED: a host function waits for what comes after it.
pub fn wait(scope: Scope, wait: bool) -> Res {
    let (until, ticket) = {
        let mut st = lock()?;
        match scope {
            Scope::Context => {
                let ctx = st.current()?;
                let of = st.streams.values().filter(|s| s.ctx == ctx);
                // destroyed streams may have work queued, so everything queued counts
                (of.fold(0, |t, s| t.max(s.busy_until)), worker::last())
            }
            Scope::Stream(s) => {
                let s = st.stream(s)?;
                st.join_default_streams(s)?;
                let s = find(&mut st, s)?;
                (s.busy_until, s.host_ticket)
            }
            Scope::Event(e) => {
                let e = st.event(CUevent(e))?;
                (e.done_at.unwrap_or(0), e.ticket)
            }
        }
    };
    if wait {
        if worker::is_this_thread() && !worker::is_done(ticket) {
            return Err(FROM_A_HOST_FUNCTION);
        }
        worker::wait(ticket);
        sleep_until(until);
    } else if now() < until || !worker::is_done(ticket) {
        return Err(CUresult::NOT_READY);
    }
    Ok(())
}

/// Sleeps until a moment of the device's time, as a wait for real work would.
fn sleep_until(moment: u64) {
    loop {
        match moment.checked_sub(now()) {
            None | Some(0) => return,
            Some(left) => std::thread::sleep(std::time::Duration::from_nanos(left)),
        }
    }
}

fn place(st: &State, v: &Value) -> Res<usize> {
    let size = if v.wide { 8 } else { 4 };
    st.memory.segments(v.at, size)?.first().map(|s| s.host).ok_or(CUresult::INVALID_VALUE)
}

fn write(st: &State, v: &Value) -> Res {
    let to = place(st, v)?;
    let bytes = v.value.to_le_bytes();
    let size = if v.wide { 8 } else { 4 };
    st.memory.mark(to, size as u64);
    // SAFETY: the command was validated: `size` bytes of device or page-locked memory are at `to`.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, size) };
    Ok(())
}

/// CU_STREAM_WAIT_VALUE_*: greater or equal (cyclic), equal, and, nor.
fn holds(v: &Value, seen: u64) -> bool {
    let bits = if v.wide { u64::MAX } else { u32::MAX as u64 };
    match v.flags & 3 {
        0 if v.wide => (seen as i64).wrapping_sub(v.value as i64) >= 0,
        0 => (seen as i32).wrapping_sub(v.value as i32) >= 0,
        1 => seen == v.value & bits,
        2 => seen & v.value & bits != 0,
        _ => !(seen | v.value) & bits != 0,
    }
}

fn holds_now(st: &State, v: &Value) -> Res<bool> {
    let at = place(st, v)?;
    // SAFETY: validated like a write, alignment too; another thread or stream changes the value, and what it wrote before is
    // seen after it.
    let seen = unsafe {
        if v.wide {
            AtomicU64::from_ptr(at as *mut u64).load(Ordering::Acquire)
        } else {
            AtomicU32::from_ptr(at as *mut u32).load(Ordering::Acquire).into()
        }
    };
    Ok(holds(v, seen))
}

/// Whether a value that is waited for is there, on the host or on a GPU.
fn has_come(v: &Value, card: &'static dyn Card) -> Res<bool> {
    {
        let st = lock()?;
        // page-locked memory stays where it is
        if !card.elsewhere() || !st.memory.is_device_space(v.at) {
            return holds_now(&st, v);
        }
    }
    Ok(card.look_elsewhere(v)?.is_some_and(|seen| holds(v, seen)))
}

//! Executes commands on the host backing: what softcuda always does, and the virtual device while no GPU is claimed.
//!
//! Bytes move at the call. What a stream would still be busy with is a moment in time (`busy_until`), so that events and
//! queries answer as a device of the given speed would. Host functions run on a thread of their own, in stream order.
use crate::exec::{self, now};
use crate::objects::Stream;
use crate::op::{HostCall, Launch, Op, Value};
use crate::runtime::{lock, Guard, Scope, State};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use zerogpu_abi::*;

/// The card that the host stands in for.
pub trait Card {
    /// Nanoseconds that a command takes on the device.
    fn cost(&self, _op: &Op) -> u64 {
        0
    }
    /// Runs a kernel launch, or says why it can't.
    fn launch(&self, state: &mut State, stream: usize, launch: &Launch) -> Res;
}

/// Runs a validated command on a stream.
pub fn run(mut st: Guard, stream: usize, op: &Op, card: &dyn Card) -> Res {
    let ticket = find(&mut st, stream)?.host_ticket;
    if !worker::is_done(ticket) {
        drop(st);
        worker::wait(ticket);
        st = lock()?;
    }
    let start = now().max(find(&mut st, stream)?.busy_until);
    let end = start + card.cost(op);
    match op {
        Op::Copy(_) | Op::Fill(_) => {
            let (plan, blocking) = match op {
                Op::Copy(c) => (exec::plan_copy(&st.memory, c)?, c.blocking),
                Op::Fill(f) => (exec::plan_fill(&st.memory, f)?, f.blocking),
                _ => return Err(CUresult::UNKNOWN),
            };
            find(&mut st, stream)?.busy_until = end;
            drop(st);
            exec::run(&plan);
            if blocking {
                sleep_until(end);
            }
        }
        Op::Launch(l) => {
            card.launch(&mut st, stream, l)?;
            find(&mut st, stream)?.busy_until = end;
        }
        Op::Host(call) => find(&mut st, stream)?.host_ticket = worker::queue(*call, end)?,
        Op::Record(event) => {
            let ticket = find(&mut st, stream)?.host_ticket;
            let e = st.event(*event)?;
            (e.done_at, e.ticket, e.captured) = (Some(end), ticket, None);
        }
        Op::Wait(event) => {
            let e = st.event(*event)?;
            let (until, ticket) = (e.done_at.unwrap_or(0), e.ticket);
            let s = find(&mut st, stream)?;
            s.busy_until = s.busy_until.max(until);
            s.host_ticket = s.host_ticket.max(ticket);
        }
        Op::Write(v) => write(&st, v)?,
        Op::Await(v) => {
            drop(st);
            await_value(v)?;
        }
        Op::Graph(g) => {
            let ops = st.exec_ops(*g)?;
            drop(st);
            for op in ops.iter() {
                run(lock()?, stream, &op.as_op(), card)?;
            }
        }
    }
    Ok(())
}

fn find(st: &mut State, stream: usize) -> Res<&mut Stream> {
    st.streams.get_mut(&stream).ok_or(CUresult::INVALID_HANDLE)
}

/// Waits for work to finish, or says NOT_READY.
pub fn wait(scope: Scope, wait: bool) -> Res {
    let (until, ticket) = {
        let mut st = lock()?;
        match scope {
            Scope::Context => {
                let ctx = st.current()?;
                let of = st.streams.values().filter(|s| s.ctx == ctx);
                of.fold((0, 0), |(t, k), s| (t.max(s.busy_until), k.max(s.host_ticket)))
            }
            Scope::Stream(s) => {
                let s = st.stream(s)?;
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

fn await_value(v: &Value) -> Res {
    let at = place(&*lock()?, v)?;
    loop {
        // SAFETY: validated like a write; another thread or stream changes the value, hence volatile.
        let seen = unsafe {
            if v.wide { (at as *const u64).read_volatile() } else { (at as *const u32).read_volatile() as u64 }
        };
        if holds(v, seen) {
            return Ok(());
        }
        std::thread::yield_now();
    }
}

/// The thread that runs host functions, made at the first one.
mod worker {
    use super::*;

    struct Queue {
        jobs: VecDeque<(HostCall, u64)>,
        queued: u64,
        done: u64,
        running: bool,
    }

    // SAFETY: the pointers inside are the app's, for the app's own function, which it gave us to call on another thread.
    unsafe impl Send for Queue {}

    static QUEUE: Mutex<Queue> = Mutex::new(Queue { jobs: VecDeque::new(), queued: 0, done: 0, running: false });
    static CHANGED: Condvar = Condvar::new();

    fn locked() -> MutexGuard<'static, Queue> {
        QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a call that is due at `moment`; its ticket.
    pub fn queue(call: HostCall, moment: u64) -> Res<u64> {
        let mut q = locked();
        if !q.running {
            crate::thread::spawn("zerogpu-host", serve).map_err(|_| CUresult::OUT_OF_MEMORY)?;
            q.running = true;
        }
        q.jobs.push_back((call, moment));
        q.queued += 1;
        CHANGED.notify_all();
        Ok(q.queued)
    }

    /// Whether the call of a ticket has returned.
    pub fn is_done(ticket: u64) -> bool {
        ticket == 0 || locked().done >= ticket
    }

    /// Waits until the call of a ticket has returned.
    pub fn wait(ticket: u64) {
        if ticket == 0 {
            return;
        }
        let mut q = locked();
        while q.done < ticket {
            q = CHANGED.wait(q).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn serve() {
        loop {
            let (call, moment) = {
                let mut q = locked();
                loop {
                    match q.jobs.pop_front() {
                        Some(job) => break job,
                        None => q = CHANGED.wait(q).unwrap_or_else(PoisonError::into_inner),
                    }
                }
            };
            sleep_until(moment);
            // SAFETY: the app's own function with its own data, as it asked.
            unsafe {
                match call {
                    HostCall::Func { func: Some(f), data } => f(data),
                    HostCall::Callback { func: Some(f), data, stream } => f(stream, CUresult::SUCCESS, data),
                    _ => {}
                }
            }
            locked().done += 1;
            CHANGED.notify_all();
        }
    }
}

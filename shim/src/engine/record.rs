//! Deferred work: commands outside any region, recorded with their bytes and replayed in order at the next claim.
//!
//! Once a kernel is recorded, what it may touch must wait for it: every command that names memory older than the last
//! recorded kernel is recorded too. Memory made later is unknown to it and is used at once, so a model that is loaded
//! after one early kernel does not end up in the record. What must give a value to the host, or does not fit, borrows.
use super::{locked, Engine};
use crate::report;
use std::collections::HashSet;
use zerogpu_abi::*;
use zerogpu_device::handle::{self, Kind};
use zerogpu_device::memory::{Change, Region, RegionKind};
use zerogpu_device::op::{Copy, Launch, Op, Owned, OwnedLaunch, Plane};
use zerogpu_device::runtime::{lock, State};
use zerogpu_device::Backend;

/// The record of a process.
#[derive(Default)]
pub struct Record {
    ops: Vec<Owned>,
    /// Bytes that the record holds.
    weight: u64,
    /// Id of the newest region at the last recorded kernel.
    newest: u64,
    /// Newer regions that other recorded commands name.
    named: HashSet<u64>,
    /// Whether recorded commands run right now, and may still name what the app ends.
    replaying: bool,
    /// Memory that the app freed while recorded work may name it: address and bytes.
    kept: Vec<(u64, u64)>,
}

impl Record {
    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The first recorded launch, which is what made everything behind it wait.
    pub fn first(&self) -> Option<&Owned> {
        self.ops.iter().find(|op| matches!(op, Owned::Launch(_)))
    }

    /// Commands and bytes.
    pub fn size(&self) -> (usize, u64) {
        (self.ops.len(), self.weight)
    }

    /// Whether no recorded kernel can know what a command touches.
    pub fn is_free_of(&self, st: &State, op: &Op) -> bool {
        match op {
            // deferred work counts as finished: events carry the host time at which they were recorded
            Op::Record(_) | Op::Wait(_) => true,
            Op::Copy(c) => self.is_new(st, &c.dst) && self.is_new(st, &c.src),
            Op::Fill(f) => self.is_new(st, &Plane { at: f.dst, pitch: 0, slice: 0 }),
            Op::Write(v) | Op::Await(v) => self.is_new(st, &Plane { at: v.at, pitch: 0, slice: 0 }),
            Op::Launch(_) | Op::Host(_) | Op::Graph(_) => false,
        }
    }

    /// Whether a side of a copy is memory that no recorded kernel can know: the app's own, or made later.
    fn is_new(&self, st: &State, p: &Plane) -> bool {
        match st.memory.find(p.at) {
            None => true,
            // handles mapped elsewhere before may be known by another address; a variable has its id since it was first
            // asked for, but kernels of its module know it from the start
            Some(Region { kind: RegionKind::Mapped { .. } | RegionKind::Global, .. }) => false,
            Some(r) => !self.knows(r),
        }
    }

    /// Whether recorded work may name a region.
    fn knows(&self, r: &Region) -> bool {
        r.id <= self.newest || self.named.contains(&r.id)
    }

    /// What a recorded command names waits for it from now on, however new it is.
    fn name(&mut self, st: &State, at: u64) {
        if let Some(r) = st.memory.find(at).filter(|r| !self.knows(r)) {
            self.named.insert(r.id);
        }
    }

    /// Records a command; false: it can't wait, or does not fit in `limit` bytes.
    pub fn defer(&mut self, st: &mut State, op: &Op, limit: u64) -> bool {
        let Some(owned) = own(st, op, limit.saturating_sub(self.weight)) else { return false };
        let weight = owned.weight();
        if self.weight + weight > limit {
            return false;
        }
        match op {
            Op::Launch(_) => self.newest = st.memory.newest_id(),
            Op::Copy(c) => [c.dst.at, c.src.at].iter().for_each(|&at| self.name(st, at)),
            Op::Fill(f) => self.name(st, f.dst),
            Op::Write(v) => self.name(st, v.at),
            _ => {}
        }
        self.weight += weight;
        self.ops.push(owned);
        true
    }

    /// Keeps memory that the app frees from being handed out again before the replay; false: no recorded work knows it.
    pub fn keep(&mut self, r: &Region) -> bool {
        let keep = self.holds() && self.knows(r);
        if keep {
            self.kept.push((r.base, r.size));
        }
        keep
    }

    /// Whether memory is kept until the replay.
    pub fn keeps_memory(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Whether recorded commands may still name what the app ends.
    pub fn holds(&self) -> bool {
        self.replaying || !self.is_empty()
    }

    /// Whether something can be seen, after a context has ended, of recorded work that can't run without it: there is memory
    /// that stays, which its kernels may write, and to which its variables may be copied.
    pub fn outlives(&self, st: &State, ctx: CUcontext) -> bool {
        let needs = |op: &Owned| match op.as_op() {
            Op::Launch(l) => {
                let module = st.modules.recorded(l.func).and_then(|f| st.modules.modules.get(&f.module.0));
                module.is_some_and(|m| m.ctx == ctx)
            }
            Op::Copy(c) => st.memory.find(c.src.at).is_some_and(|r| r.kind == RegionKind::Global && r.ctx == ctx),
            _ => false,
        };
        let of_a_pool = |r: &Region| matches!(r.kind, RegionKind::Pool(_));
        let stays = |r: &Region| r.is_device() && r.kind != RegionKind::Global && (r.ctx != ctx || of_a_pool(r));
        (self.replaying || self.ops.iter().any(needs)) && st.memory.regions().any(stays)
    }

    /// Hands out the commands and their weight; what they name is held until [`Record::end`].
    fn begin(&mut self) -> (Vec<Owned>, u64) {
        self.replaying = true;
        (std::mem::take(&mut self.ops), std::mem::take(&mut self.weight))
    }

    /// The commands have run: what was kept for them.
    fn end(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(self).kept
    }
}

/// The command with everything it needs; None: it has to give the host a value, or the host may see its effect, or it has more
/// than `room` bytes, which are not copied to find that out.
fn own(st: &mut State, op: &Op, room: u64) -> Option<Owned> {
    match op {
        Op::Launch(l) => own_launch(st, l).map(Owned::Launch),
        Op::Fill(f) if is_device(st, f.dst) => Some(Owned::Plain(Op::Fill(*f))),
        Op::Write(v) if is_device(st, v.at) => Some(Owned::Plain(Op::Write(*v))),
        Op::Copy(c) => own_copy(st, c, room),
        _ => None,
    }
}

fn own_launch(st: &mut State, l: &Launch) -> Option<OwnedLaunch> {
    let params = st.pack_params(l.func, &l.params).ok()?;
    let kernel = st.any_function(l.func).ok()?.kernel.clone();
    // page-locked memory among the parameters: the host may look at it at any time
    let seen_by_host = kernel.params.iter().any(|p| {
        (0..p.size as usize / 8).any(|i| {
            let at = p.offset as usize + i * 8;
            let word = params.get(at..at + 8).and_then(|w| w.try_into().ok()).map_or(0, u64::from_le_bytes);
            word != 0 && st.memory.find(word).is_some_and(|r| !r.is_device())
        })
    });
    if seen_by_host || !l.attrs.is_empty() {
        return None;
    }
    // a kernel of a library means its function in the context that is current now
    let func = match handle::is(l.func, Kind::Kernel) {
        true => st.kernel_function(CUkernel(l.func)).ok()?.0,
        false => l.func,
    };
    let (grid, block, shared, cooperative) = (l.grid, l.block, l.shared, l.cooperative);
    Some(OwnedLaunch { func, grid, block, shared, params, attrs: Vec::new(), cooperative })
}

/// Whether an address is of memory that the host does not see.
fn is_device(st: &State, at: u64) -> bool {
    st.memory.find(at).is_some_and(|r| r.is_device())
}

fn own_copy(st: &State, c: &Copy, room: u64) -> Option<Owned> {
    match (is_device(st, c.dst.at), is_device(st, c.src.at)) {
        (true, true) => Some(Owned::Plain(Op::Copy(*c))),
        // SAFETY: the app gave this host memory to be read by the copy.
        (true, false) => unsafe { Owned::upload(c, room) },
        _ => None,
    }
}

impl Engine {
    /// Runs what was recorded, in order, before anyone else uses the claimed GPU. Where an earlier replay could not be waited
    /// for, the work of that has ended by now: what was kept for it is given back.
    pub(super) fn replay(&self) {
        if !locked(&self.record).holds() {
            return;
        }
        let (ops, weight) = locked(&self.record).begin();
        let start = zerogpu_device::exec::now();
        // one stream keeps the order of the program, whatever streams it used
        let mut outcome = Ok(());
        for op in ops.iter().map(Owned::as_op) {
            if self.is_gone(&op) {
                report::explain(
                    "a deferred command was dropped: the app has ended the context of its kernel or variable",
                );
                continue;
            }
            if let Err(e) = self.run_recorded(&op) {
                // the app was told that all of it succeeded: one refusal takes nothing else with it
                outcome = outcome.and(Err((e, Some(op))));
                if super::park::is_sticky(e) {
                    break;
                }
            }
        }
        let drained = match self.driver() {
            // SAFETY: the context is current in this thread.
            Ok(d) => zerogpu_below::twice(|| unsafe { (d.cuCtxSynchronize)() }),
            Err(e) => Err(e),
        };
        if let Err((code, op)) = outcome.and(drained.map_err(|e| (e, None))) {
            let which = match (op, lock()) {
                (Some(op), Ok(mut st)) => super::what(&mut st, &op),
                _ => "a kernel".into(),
            };
            report::error(&format!(
                "deferred work failed at {which} ({}); mark the function that runs it with @spaces.GPU, or set \
                 ZEROGPU_OUTSIDE=borrow to see the error where it happens",
                super::claim::name(code)
            ));
            self.owe(code);
        }
        let end = zerogpu_device::exec::now();
        zerogpu_trace::span(
            zerogpu_trace::Span::Replay,
            &format!("{} deferred commands", ops.len()),
            start,
            end,
            weight,
        );
        // what may still run uses what is kept: all of that stays until the next claim. In a lost context nothing runs
        if drained.map_or_else(super::park::is_sticky, |()| true) {
            self.release_kept();
        }
    }

    /// Runs a recorded command. One that only puts bytes somewhere is run again if it is refused: the app was told that
    /// they are there, and twice is as good as once.
    fn run_recorded(&self, op: &Op) -> Res {
        let again = |e: &CUresult| !matches!(op, Op::Launch(_)) && !super::park::is_sticky(*e);
        // not held back for what is late: that came after it, and waits for the end of this claim
        let run = || self.bind().and_then(|epoch| self.forward_real(CU_STREAM_LEGACY, epoch, op));
        match run() {
            Err(e) if again(&e) => run(),
            answer => answer,
        }
    }

    /// Whether a launch's function, or a variable that a command names, ended with its context: nobody can see what it would
    /// have done, see [`Record::outlives`].
    fn is_gone(&self, op: &Op) -> bool {
        let Ok(st) = lock() else { return false };
        let gone = |at| st.memory.is_global(at) && st.memory.find(at).is_none();
        match op {
            Op::Launch(l) => st.modules.recorded(l.func).is_none(),
            Op::Copy(c) => gone(c.dst.at) || gone(c.src.at),
            Op::Fill(f) => gone(f.dst),
            Op::Write(v) => gone(v.at),
            _ => false,
        }
    }

    /// What the app freed while recorded work could name it is free now.
    fn release_kept(&self) {
        let Ok(mut st) = lock() else { return };
        // with the state's lock held: nothing is kept between this and the end of the replay
        for (at, size) in locked(&self.record).end() {
            let mut told = |c| {
                // as any other change: a broker lets go of its pins there, and counts it
                self.change(c).inspect_err(|&e| {
                    if !matches!(c, Change::Lose { .. }) {
                        let why = super::claim::name(e);
                        report::explain(&format!("freed memory stays on the card until the park ({why})"));
                    }
                })
            };
            if let Err(e) = st.memory.reclaim(at, size, &mut told) {
                report::explain(&format!("freed memory could not be given back ({})", super::claim::name(e)));
            }
        }
        st.end_late_modules();
    }
}

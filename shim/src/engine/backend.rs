//! The engine as the device's backend: what becomes of each command, change and wait, parked or claimed.
use super::claim::name;
use super::lender::Trouble;
use super::{engine, locked, what, Engine, OVER};
use crate::report;
use std::sync::atomic::Ordering;
use zerogpu_abi::*;
use zerogpu_device::handle::Kind;
use zerogpu_device::host;
use zerogpu_device::link::Recipe;
use zerogpu_device::memory::{Change, Region};
use zerogpu_device::op::{Launch, Op, Value};
use zerogpu_device::runtime::{lock, Guard, Scope, State};
use zerogpu_device::tensor::{Tensor, TensorMap};
use zerogpu_device::{Backend, Run};

/// The host as a card while parked: it has no kernels, and is never asked for one.
struct NoCard;

impl host::Card for NoCard {
    fn launch(&self, _state: &mut State, _stream: usize, _launch: &Launch) -> Res<Option<host::Work>> {
        Err(CUresult::NOT_SUPPORTED)
    }

    fn elsewhere(&self) -> bool {
        engine().is_some_and(|e| e.claimed.load(Ordering::Acquire))
    }

    fn run_elsewhere(&self, op: &Op) -> Res<bool> {
        match engine() {
            Some(e) => e.run_late(op),
            None => Ok(false),
        }
    }

    fn look_elsewhere(&self, v: &Value) -> Res<Option<u64>> {
        match engine() {
            Some(e) => e.look_late(v),
            None => Ok(None),
        }
    }
}

impl Engine {
    fn run_parked(&'static self, mut st: Guard, stream: usize, op: &Op) -> Run {
        if self.regions.over() {
            return match op {
                // events go on succeeding: PyTorch's deleters must not throw
                Op::Record(_) => Run::Done(host::run(st, stream, op, &NoCard)),
                _ => Run::Done(Err(OVER)),
            };
        }
        if let Err(e) = self.owed() {
            return Run::Done(Err(e));
        }
        let needs_kernels = match op {
            Op::Launch(_) => true,
            Op::Graph(g) => match st.exec_ops(*g) {
                Ok(ops) => ops.iter().any(|op| matches!(op.as_op(), Op::Launch(_))),
                Err(e) => return Run::Done(Err(e)),
            },
            _ => false,
        };
        if needs_kernels {
            return self.needs_device(st, op);
        }
        let mut record = locked(&self.record);
        if !record.is_empty() && !record.is_free_of(&st, op) {
            // what waits behind a host function or for a value may come first, and is in no record
            if !host::pending() && record.defer(&mut st, op, self.settings.record_limit) {
                return Run::Done(Ok(()));
            }
            let first = record.first().map_or_else(|| "deferred work".into(), |first| what(&mut st, &first.as_op()));
            drop(record);
            let why = format!("{first} and {} behind it", what(&mut st, op));
            drop(st);
            return match self.claim(!self.regions.any(), &why) {
                Ok(()) => Run::Again,
                Err(e) => Run::Done(Err(e)),
            };
        }
        drop(record);
        Run::Done(host::run(st, stream, op, &NoCard))
    }
}

/// Memory, as a card and a broker see it. The state's lock is held.
impl Engine {
    fn change_card(&self, change: Change) -> Res {
        match self.lost.load(Ordering::Acquire) {
            0 if self.claimed.load(Ordering::Acquire) => self.change_live(change),
            0 => {
                // a context that stayed may still have it page-locked
                if let Change::Unpin { at, .. } = change {
                    locked(&self.live).outdate_pin(at);
                }
                Ok(())
            }
            // nothing is on the card any more, and nothing comes to it
            code => match change {
                Change::Give { .. } | Change::Destroy { .. } | Change::Unmap { .. } | Change::Unpin { .. } => Ok(()),
                _ => Err(CUresult(code)),
            },
        }
    }

    /// Host memory for what the app takes, where a broker counts it.
    fn reserve(&self, change: &Change) -> Res {
        let (Some(lender), Change::Take { len, .. } | Change::Create { len, host: false, .. }) = (&self.lender, change)
        else {
            return Ok(());
        };
        lender.reserve(*len).map_err(|trouble| match trouble {
            Trouble::Denied(code, text) => {
                report::error(&text);
                code
            }
            _ => CUresult::DEVICE_UNAVAILABLE,
        })
    }

    /// What the app has given back, or did not get, is free for others.
    fn unreserve(&self, change: &Change, done: bool) {
        let Some(lender) = &self.lender else { return };
        match *change {
            Change::Take { len, .. } | Change::Create { len, host: false, .. } if !done => lender.unreserve(len),
            Change::Give { len, .. } | Change::Destroy { len, host: false, .. } => lender.unreserve(len),
            _ => {}
        }
    }
}

impl Backend for Engine {
    #[inline]
    fn forward(&self, stream: CUstream, op: &Op) -> Option<Res> {
        let _pass = self.gate.enter()?;
        self.forward_live(stream, op)
    }

    fn run(&self, state: Guard, stream: usize, op: &Op) -> Run {
        let Some(engine) = engine() else { return Run::Done(Err(CUresult::NOT_INITIALIZED)) };
        if engine.claimed.load(Ordering::Acquire) {
            drop(state);
            if let Some(_pass) = engine.gate.enter() {
                if engine.refuses(op) {
                    return Run::Done(Err(OVER));
                }
                return Run::Done(engine.forward_to(CUstream(stream), op));
            }
            // the gate is closing: the park ends first
            return match engine.settle() {
                Ok(()) => Run::Again,
                Err(e) => Run::Done(Err(e)),
            };
        }
        engine.run_parked(state, stream, op)
    }

    fn wait(&self, scope: Scope, wait: bool) -> Res {
        if let Some(answer) = self.if_claimed(|| self.wait_live(scope, wait))? {
            return answer;
        }
        if wait && self.regions.over() {
            return Err(OVER);
        }
        self.owed()?;
        host::wait(scope, wait)?;
        // of what was waited for
        self.owed()
    }

    fn elapsed(&self, start: usize, end: usize) -> Option<Res<f32>> {
        match self.if_claimed(|| self.elapsed_live(start, end)) {
            Ok(answer) => answer.flatten(),
            Err(e) => Some(Err(e)),
        }
    }

    fn change(&self, change: Change) -> Res {
        if let Change::Lose { at, len, off } = change {
            return self.lose(at, len, off);
        }
        self.reserve(&change)?;
        let done = self.change_card(change);
        self.unreserve(&change, done.is_ok());
        done
    }

    fn ends(&self, kind: Kind, handle: usize) {
        if kind == Kind::Function {
            self.end_function(handle);
        }
        if self.lost.load(Ordering::Acquire) != 0 {
            return;
        }
        if self.claimed.load(Ordering::Acquire) {
            self.end_live(kind, handle);
        } else if locked(&self.live).kept {
            self.end_later(kind, handle);
        }
    }

    fn keeps(&self, region: &Region) -> bool {
        locked(&self.record).keep(region)
    }

    fn reclaims(&self) -> Res<bool> {
        let inside = self.regions.any();
        let wanted = locked(&self.record).keeps_memory() && !self.regions.over() && !self.gate.is_inside();
        let Some(engine) = engine().filter(|_| wanted) else { return Ok(false) };
        if engine.refused(inside, &mut *lock()?).is_some() {
            return Ok(false);
        }
        match engine.claim(!inside, "memory that the program has freed and deferred work may use") {
            // of the recorded work: nobody else is told
            Err(e) if engine.claimed.load(Ordering::Acquire) => Err(e),
            claimed => Ok(claimed.is_ok()),
        }
    }

    fn defers(&self) -> bool {
        locked(&self.record).holds()
    }

    fn drain(&self, scope: Scope) -> Res {
        let live = || {
            self.sync_live(scope, true)?;
            // what is given back is unmapped under the state's lock, for which a driver may wait for all streams: none may
            // be held back then for late work, which wants that lock
            host::drain();
            Ok(())
        };
        match self.if_claimed(live)? {
            Some(answer) => answer,
            None => host::wait(scope, true),
        }
    }

    fn before_end(&self, what: &str) -> Res {
        let Some(engine) = engine().filter(|_| locked(&self.record).holds()) else { return Ok(()) };
        // recorded work may name what ends, also while it is replayed: it runs first
        engine.claim(!self.regions.any(), &format!("the end of {what} that deferred work may use"))
    }

    fn before_context_ends(&self, ctx: CUcontext) -> Res {
        let outlives = {
            let st = lock()?;
            locked(&self.record).outlives(&st, ctx)
        };
        if outlives {
            self.before_end("a context")
        } else {
            Ok(())
        }
    }

    fn limit(&self, limit: u32, value: usize) -> Res {
        let live = self.claimed.load(Ordering::Acquire) && self.lost.load(Ordering::Acquire) == 0;
        if live {
            self.limit_live(limit, value)
        } else {
            Ok(())
        }
    }

    fn stream_attribute(&self, stream: usize, attr: u32, value: &CUlaunchAttributeValue) -> Res {
        let live = self.claimed.load(Ordering::Acquire) && self.lost.load(Ordering::Acquire) == 0;
        if live {
            self.attribute_live(stream, attr, value)
        } else {
            self.attribute_later(stream, attr, value);
            Ok(())
        }
    }

    fn cache(&self, config: u32) -> Res {
        let live = self.claimed.load(Ordering::Acquire) && self.lost.load(Ordering::Acquire) == 0;
        if live {
            self.cache_live(config)
        } else {
            Ok(())
        }
    }

    fn forked(&self) {
        self.gate.after_fork_in_child();
        // the card is the parent's: nothing here may wait for a claim or a park of its threads
        self.claimed.store(false, Ordering::Release);
        if let Some(lender) = &self.lender {
            lender.forked();
        }
    }

    fn ended(&self) {
        self.unload_ended();
    }

    fn link(&self, recipe: &Recipe) -> Res<Vec<u8>> {
        engine().ok_or(CUresult::NOT_INITIALIZED)?.link_live(recipe)
    }

    fn encode_tensor(&self, tensor: &Tensor) -> Res<TensorMap> {
        engine().ok_or(CUresult::NOT_INITIALIZED)?.encode_live(tensor)
    }

    fn readdress_tensor(&self, map: &mut TensorMap, address: u64) -> Res {
        engine().ok_or(CUresult::NOT_INITIALIZED)?.readdress_live(map, address)
    }

    fn unknown_slot(&self, table: usize, slot: usize, args: &[u64; 8]) -> u64 {
        match engine().ok_or(CUresult::NOT_INITIALIZED).and_then(|e| e.call_slot(table, slot, args)) {
            Ok(answer) => answer,
            Err(e) => e.0 as u64,
        }
    }

    fn table_refused(&self, id: &CUuuid) {
        let name: String = id.bytes.iter().map(|byte| format!("{byte:02X}")).collect();
        report::explain_once(&format!("export table {name} is not known to zerogpu: answered INVALID_VALUE"));
    }

    fn slot_refused(&self, table: usize, slot: usize) {
        let name = super::slots::name(table, slot);
        report::explain_once(&format!("{name} was called before cuInit: answered NOT_INITIALIZED"));
    }

    fn failed_late(&self, code: CUresult) {
        report::error(&format!(
            "a command behind a host function failed when its turn came ({}); synchronize before the marked call to see the \
             error where it happens",
            name(code)
        ));
        self.owe(code);
    }

    fn complain(&self, message: &str) {
        report::error(message);
    }

    fn tell(&self, message: &str) {
        report::explain(message);
    }
}

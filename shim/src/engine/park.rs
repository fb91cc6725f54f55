//! Park: every byte home, then nothing of the process on the card.
//!
//! The order makes every failure harmless: bytes are copied out before anything is let go, so that a failed copy leaves
//! the process claimed with its bytes on the card, and a later park tries again.
use super::cargo::{self, Whose};
use super::claim::name;
use super::lender::Lender;
use super::live::Live;
use super::{locked, Engine, Phase};
use crate::report;
use std::sync::atomic::Ordering;
use zerogpu_abi::*;
use zerogpu_below::{ok, twice, Driver, Way};
use zerogpu_device::exec::now;
use zerogpu_device::memory::ARENA_BYTES;
use zerogpu_device::runtime::{lock, State};
use zerogpu_device::{handle, host, Backend};
use zerogpu_protocol::{clean, Range, TEXT_BYTES};

/// How often a park waits with the gate open, at most.
const ROUNDS: u32 = 4;

/// Errors after which CUDA itself answers nothing else in this context. Of most of them cuda.h 13.0 says "the process must be
/// terminated and relaunched", of 710 "the context cannot be used anymore, and must be destroyed"; 214 and 220 are
/// uncorrectable errors of memory and NVLink under a running kernel.
const STICKY: [u32; 15] = [214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911];

/// Whether a context that answered this is lost.
pub(super) fn is_sticky(code: CUresult) -> bool {
    STICKY.contains(&code.0)
}

impl Engine {
    /// Parks, if a GPU is claimed. The error is a sentence for the human; the bytes are safe either way.
    ///
    /// What still runs is waited for with the gate open and without a lock: a host function may want a mutex whose holder
    /// makes a driver call, and after a deadline other threads are to be told so. Then the gate is closed, and what came in
    /// meanwhile is waited for; if somebody was inside, that may be long work again, so the gate opens once more. It stays
    /// closed in the last round, so that a park comes whatever others do. Where the broker has taken the card back, and ends
    /// who keeps it too long, that is the first.
    pub(super) fn park(&self) -> Result<(), String> {
        let start = now();
        let mut round = 1;
        loop {
            if self.gate.is_inside() {
                return Err("a park was asked for inside a driver call; it is tried again".into());
            }
            let (passes, work) = self.finish_work();
            let mut phase = self.phase_without_late_work();
            if !matches!(*phase, Phase::Claimed { .. }) {
                return Ok(());
            }
            if self.regions.any() && !self.regions.over() && !self.watch.is_revoked() {
                // a call began meanwhile: its end parks, or its deadline
                self.watch.look_again();
                return Ok(());
            }
            if let Err(e) = self.gate.close() {
                return Err(format!("driver calls could not be held back for a park ({e}); it is tried again"));
            }
            let rounds = if self.watch.is_revoked() { 1 } else { ROUNDS };
            if round >= rounds || self.gate.passes() == passes || work.is_err() {
                return self.park_closed(&mut phase, work, start);
            }
            self.gate.open();
            round += 1;
        }
    }

    /// Waits, through the gate, for what the claimed GPU has to do: the passes through the gate before that, and whether the
    /// device was lost.
    fn finish_work(&self) -> (u64, Res) {
        let Some(_pass) = self.gate.enter() else { return (0, Ok(())) };
        let passes = self.gate.passes();
        let work = self.driver().and_then(|d| {
            self.bind()?;
            // SAFETY: the context is current.
            ok(unsafe { (d.cuCtxSynchronize)() })
        });
        // any other error is met again behind the gate, or is over
        (passes, work.or_else(|e| if is_sticky(e) { Err(e) } else { Ok(()) }))
    }

    /// The park, behind a closed gate. `work`: whether the device was lost before.
    fn park_closed(&self, phase: &mut Phase, work: Res, start: u64) -> Result<(), String> {
        match work.and_then(|()| self.park_now()) {
            Ok(bytes) => {
                let borrowed = matches!(*phase, Phase::Claimed { borrowed: true });
                *phase = Phase::Parked;
                self.watch.begin_claim();
                let took = now() - start;
                self.tally.parks.fetch_add(1, Ordering::Relaxed);
                self.tally.last_park.store(took + 1, Ordering::Relaxed);
                zerogpu_trace::span(zerogpu_trace::Span::Park, "park", start, start + took, bytes);
                if borrowed {
                    let since = self.tally.claimed_at.load(Ordering::Relaxed);
                    zerogpu_trace::span(zerogpu_trace::Span::Borrow, "outside any region", since, start + took, 0);
                }
                zerogpu_trace::counter("bytes on the card", 0);
                Ok(())
            }
            Err(code) if is_sticky(code) => {
                *phase = Phase::Lost(code);
                self.leave_lost(code);
                Err(format!(
                    "the GPU failed while the app's work ran ({}): as with any CUDA program, what the card held is lost and \
                     the program must be started again",
                    name(code)
                ))
            }
            Err(code) => {
                self.gate.open();
                Err(format!(
                    "the GPU could not be given back ({}); its bytes stay on the card and it is tried again",
                    name(code)
                ))
            }
        }
    }

    /// The phase, locked, at a moment when nothing waits behind a host function of the parked time: such commands still
    /// have to reach the card, through the gate. While claimed none are added.
    fn phase_without_late_work(&self) -> std::sync::MutexGuard<'_, Phase> {
        loop {
            let phase = locked(&self.phase);
            if !matches!(*phase, Phase::Claimed { .. }) || !host::pending() {
                return phase;
            }
            // not under the lock: what runs late may wait for a claim to end
            drop(phase);
            host::drain();
        }
    }

    /// Returns the bytes brought home.
    fn park_now(&self) -> Res<u64> {
        let d = self.driver()?;
        self.bind()?;
        // SAFETY: the context is current.
        unsafe { twice(|| (d.cuCtxSynchronize)()) }?;
        let mut st = lock()?;
        let bytes = self.bring_home(d, &mut st)?;
        // from here on the host copy is the truth, and letting go can only leave something behind, not lose it
        self.claimed.store(false, Ordering::Release);
        self.leave_card(d);
        self.lose_kept(&mut st);
        self.end_lease();
        self.free_ended_functions();
        Ok(bytes)
    }

    /// A context that failed for good keeps nothing worth keeping: the card is given back, and the device stays lost.
    fn leave_lost(&self, code: CUresult) {
        let (Ok(d), Ok(_st)) = (self.driver(), lock()) else { return };
        // under the state's lock: from here on no change of memory and no end of an object reaches the driver
        self.lost.store(code.0, Ordering::Release);
        self.leave_card(d);
        self.end_lease();
    }

    /// Event times, module variables and memory.
    fn bring_home(&self, d: &Driver, st: &mut State) -> Res<u64> {
        let epoch = self.epoch.load(Ordering::Acquire);
        self.note_times(d, st, epoch);
        self.save_variables(d, st)?;
        let lent = self.lender.as_ref().filter(|_| locked(&self.live).lender.is_some());
        let (whose, brought) = match lent.map(|lender| lender.home()) {
            Some(Ok(bytes)) => {
                self.punch_unused(st)?;
                (Whose::Own, bytes)
            }
            // the broker is gone: what it lent is still mapped here. The next one has to know, before it lends the card
            Some(Err(_)) => {
                self.lender.iter().for_each(|lender| drop(lender.reconnect()));
                (Whose::All, 0)
            }
            None => (Whose::All, 0),
        };
        // a broker that took the lease over ends whoever seems to hang
        let mut gets_on = || self.lender.iter().for_each(Lender::gets_on);
        gets_on();
        Ok(brought + cargo::travel(&mut locked(&self.live), d, st, Way::Out, whose, &mut gets_on)?)
    }

    /// The broker brought home whole slabs: what the app has freed in one meanwhile has memory again, and loses it.
    fn punch_unused(&self, st: &mut State) -> Res {
        let base = st.memory.arena()?;
        let in_use: Vec<(u64, u64)> = st.memory.in_use().into_iter().map(|(va, len)| (va - base, len)).collect();
        let slabs: Vec<Range> =
            locked(&self.live).lent.values().filter(|slab| slab.off < ARENA_BYTES).copied().collect();
        for slab in slabs {
            let mut at = slab.off;
            for &(off, len) in in_use.iter().filter(|(off, len)| off + len > slab.off && *off < slab.end()) {
                if off > at {
                    self.punch(st, Range::new(at, off - at))?;
                }
                at = at.max(off + len);
            }
            if at < slab.end() {
                self.punch(st, Range::new(at, slab.end() - at))?;
            }
        }
        Ok(())
    }

    fn punch(&self, st: &mut State, range: Range) -> Res {
        let at = st.memory.backing()?.at(range.off) as u64;
        // what is kept is punched when that may be
        if self.lose(at, range.len, Some(range.off)).is_ok() {
            st.memory.backing()?.punch(range.off, range.len);
        }
        Ok(())
    }

    /// Memory that the app has freed, and that was kept since it was page-locked, is free now if it is not any more.
    fn lose_kept(&self, st: &mut State) {
        st.memory.lose_kept(&mut |change| self.change(change));
    }

    /// Nothing of the process is on the card, but for a context that it is bound to: the next may have it.
    pub(super) fn end_lease(&self) {
        let Some(lender) = &self.lender else { return };
        let card = {
            let live = locked(&self.live);
            // what is left is tried again, which takes driver calls
            live.card.filter(|_| live.kept && locked(&self.left).is_empty())
        };
        let by = || clean(&locked(&self.bound).join(", "), TEXT_BYTES);
        lender.released(card.map(|card| (card, by())));
    }

    /// Keeps the times of the events that this claim recorded.
    fn note_times(&self, d: &Driver, st: &mut State, epoch: u32) {
        let clock = locked(&self.live).clock;
        for (&h, e) in st.events.iter_mut() {
            let now_recorded = handle::slot(h).is_some_and(|s| s.aux.load(Ordering::Acquire) == epoch as u64);
            let Some(twin) = handle::twin(h, handle::Kind::Event, epoch).filter(|_| now_recorded) else { continue };
            let at = match clock {
                Some(clock) if e.timed() => clock.time_of(d, CUevent(twin as usize)),
                _ => Ok(now()),
            };
            e.done_at = Some(at.unwrap_or_else(|code| {
                // bytes matter more than a time: the park goes on
                report::error(&format!("an event's time is unknown ({}); it counts as the park's", name(code)));
                now()
            }));
            // its time is known: the driver need not be asked again, should the context stay
            if let Some(slot) = handle::slot(h) {
                slot.aux.store(0, Ordering::Release);
            }
        }
    }

    /// Gives back all that the process has on the card. What stays is said, shown in the state, and tried again by the
    /// watcher.
    pub(super) fn leave_card(&self, d: &Driver) {
        if !self.give_back(d) {
            self.watch.look_again();
        }
    }

    /// Whether all could be given back.
    pub(super) fn give_back(&self, d: &Driver) -> bool {
        self.let_go(d);
        let bound = !locked(&self.bound).is_empty() && self.lost.load(Ordering::Acquire) == 0;
        locked(&self.live).kept = bound;
        let context = if bound { Ok(()) } else { self.leave_context(d) };
        let left: Vec<String> = locked(&self.live).left().into_iter().chain(context.err()).collect();
        let all = left.is_empty();
        *locked(&self.left) = left;
        all
    }

    /// Tries again to give back what a park or a failed claim left behind; whether there is nothing left.
    pub(super) fn leave_again(&self) -> bool {
        // no claim in between: what it makes must stay
        let phase = locked(&self.phase);
        if locked(&self.left).is_empty() || matches!(*phase, Phase::Claimed { .. }) {
            return true;
        }
        let all = match (self.driver(), lock()) {
            (Ok(d), Ok(mut st)) => {
                if locked(&self.live).kept {
                    // what is page-locked is the context's
                    let _refusals_tell = self.bind();
                }
                let all = self.give_back(d);
                self.lose_kept(&mut st);
                all
            }
            _ => true,
        };
        if all {
            self.end_lease();
        }
        all
    }

    /// Gives back memory, mappings and pins.
    fn let_go(&self, d: &Driver) {
        let mut live = locked(&self.live);
        // at the end of a lease the broker keeps what it lent, or gives it away
        live.lent_by(None);
        let mut left = Vec::new();
        let mut note = |r: Res| left.extend(r.err());
        for at in live.pins.keys().copied().collect::<Vec<_>>() {
            note(live.unpin(d, at));
        }
        note(live.leaked.end(d));
        if let Some(unchanged) = &mut live.unchanged {
            let ended = unchanged.end(d);
            if ended.is_ok() {
                live.unchanged = None;
            }
            note(ended);
        }
        for (at, mapping) in live.mappings.clone() {
            note(live.unmap(d, at, mapping.len));
        }
        note(live.close_windows(d));
        for h in live.physical.keys().copied().collect::<Vec<_>>() {
            note(live.destroy(d, h));
        }
        for at in live.extents.keys().copied().collect::<Vec<_>>() {
            note(live.drop_extent(d, at));
        }
        note(live.unmap_stuck(d));
        live.returned.clear();
        if let Some(code) = left.first() {
            report::error(&format!(
                "{} ranges of memory could not be given back to the card ({}); end the program if they stay",
                left.len(),
                name(*code)
            ));
        }
    }

    /// Releases the context, and looks whether it is gone.
    fn leave_context(&self, d: &Driver) -> Result<(), String> {
        let (mut flags, mut active) = (0, 0);
        let mut live = locked(&self.live);
        let device = live.device;
        live.ctx = CUcontext::NULL;
        live.modules.clear();
        live.ended_modules.clear();
        live.globals.clear();
        live.late.clear();
        live.limits.clear();
        live.cache = 0;
        live.late_attributes.clear();
        live.clock = None;
        // SAFETY: the context was retained by claims; nothing of ours uses it any more.
        let gone = unsafe {
            let mut released = ok((d.cuCtxSetCurrent)(CUcontext::NULL));
            while live.retained > 0 && released.is_ok() {
                released = twice(|| (d.cuDevicePrimaryCtxRelease_v2)(device));
                live.retained -= released.is_ok() as u32;
            }
            released.and_then(|()| ok((d.cuDevicePrimaryCtxGetState)(device, &mut flags, &mut active)))
        };
        match gone {
            Ok(()) if active == 0 => {
                // they went with it
                live.pins.clear();
                live.stale_pins.clear();
                live.leaked.clear();
                if live.unchanged.as_mut().is_some_and(|unchanged| !unchanged.without_context()) {
                    live.unchanged = None;
                }
                Ok(())
            }
            Ok(()) => {
                let left = "the context is still on the card after the park: another library of this process \
                            holds it; end the program if it stays";
                report::error(left);
                Err(left.into())
            }
            Err(e) => {
                report::error(&format!("the context could not be released ({}); end the program if it stays", name(e)));
                Err(format!("the context ({})", name(e)))
            }
        }
    }
}

impl Live {
    /// Ranges of the card's memory that the process has.
    fn ranges(&self) -> usize {
        let mapped = self.extents.len() + self.mappings.len() + self.windows.len() + self.stuck.len();
        mapped + self.physical.len() + self.unmapped.len()
    }

    /// Whether the process has any memory of a card.
    pub(super) fn has_memory(&self) -> bool {
        self.ranges() > 0
    }

    /// What a park could not give back, in words.
    fn left(&self) -> Option<String> {
        // page-locked memory went with its context, unless that stayed
        let ranges = self.ranges() + self.pins.len() + self.leaked.count() + self.unchanged.is_some() as usize;
        (ranges > 0).then(|| format!("{ranges} ranges of memory"))
    }
}

//! Park: every byte home, then nothing of the process on the card.
//!
//! The order makes every failure harmless: bytes are copied out before anything is let go, so that a failed copy leaves
//! the process claimed with its bytes on the card, and a later park tries again.
use super::claim::name;
use super::live::{ok, twice, DEVICE};
use super::staging::Way;
use super::{cargo, locked, Engine, Phase};
use crate::driver::Driver;
use crate::report;
use std::sync::atomic::Ordering;
use zerogpu_abi::*;
use zerogpu_device::exec::now;
use zerogpu_device::runtime::{lock, State};
use zerogpu_device::{handle, host};

/// Errors after which CUDA itself answers nothing else in this context (cuda.h: "the process must be terminated").
const STICKY: [u32; 9] = [214, 220, 700, 702, 714, 715, 716, 717, 719];

impl Engine {
    /// Parks, if a GPU is claimed. The error is a sentence for the human; the bytes are safe either way.
    pub(super) fn park(&self) -> Result<(), String> {
        let mut phase = self.phase_without_late_work();
        if !matches!(*phase, Phase::Claimed { .. }) {
            return Ok(());
        }
        let start = now();
        if self.gate.close().is_err() {
            return Err("a park was asked for inside a driver call; it is tried again".into());
        }
        match self.park_now() {
            Ok(bytes) => {
                let borrowed = matches!(*phase, Phase::Claimed { borrowed: true });
                *phase = Phase::Parked;
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
            Err(code) if STICKY.contains(&code.0) => {
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
        self.let_go(d);
        self.leave_context(d);
        self.free_ended_functions();
        Ok(bytes)
    }

    /// A context that failed for good keeps nothing worth keeping: the card is given back, and the device stays lost.
    fn leave_lost(&self, code: CUresult) {
        let (Ok(d), Ok(_st)) = (self.driver(), lock()) else { return };
        // under the state's lock: from here on no change of memory and no end of an object reaches the driver
        self.lost.store(code.0, Ordering::Release);
        self.let_go(d);
        self.leave_context(d);
    }

    /// Event times, module variables and memory.
    fn bring_home(&self, d: &Driver, st: &mut State) -> Res<u64> {
        let epoch = self.epoch.load(Ordering::Acquire);
        self.note_times(d, st, epoch);
        self.save_globals(d, st)?;
        cargo::travel(&locked(&self.live), d, st, Way::Out)
    }

    /// Keeps the times of the events that this claim recorded, as offsets from its base event.
    fn note_times(&self, d: &Driver, st: &mut State, epoch: u32) {
        let base = locked(&self.live).base;
        for (&h, e) in st.events.iter_mut() {
            let now_recorded = handle::slot(h).is_some_and(|s| s.aux.load(Ordering::Acquire) == epoch as u64);
            let Some(twin) = handle::twin(h, handle::Kind::Event, epoch).filter(|_| now_recorded) else { continue };
            e.done_at = Some(match base {
                Some((base, host)) if e.timed() => {
                    let mut ms = 0f32;
                    // SAFETY: both events are live and, after the synchronize, passed.
                    match ok(unsafe { (d.cuEventElapsedTime)(&mut ms, base, CUevent(twin as usize)) }) {
                        Ok(()) => host + (ms as f64 * 1e6) as u64,
                        Err(e) => {
                            // bytes matter more than a time: the park goes on
                            report::error(&format!(
                                "an event's time is unknown ({}); it counts as the park's",
                                name(e)
                            ));
                            now()
                        }
                    }
                }
                _ => now(),
            });
        }
    }

    /// Brings home the variables of every module that was live, also those that nobody asked for: kernels change them.
    fn save_globals(&self, d: &Driver, st: &mut State) -> Res {
        let modules = locked(&self.live).modules.clone();
        for (ours, real) in modules {
            if !st.modules.modules.contains_key(&ours.0) {
                continue;
            }
            let image = st.module_image(ours)?;
            let names: Vec<_> =
                image.globals().iter().filter(|g| !g.managed && !g.relocated).map(|g| g.name.clone()).collect();
            for global in names {
                let Ok(text) = std::ffi::CString::new(global.as_bytes()) else { continue };
                let (mut address, mut bytes) = (0, 0);
                // SAFETY: a live module and a NUL-terminated name; a variable that was optimised away has no address.
                if !unsafe { (d.cuModuleGetGlobal_v2)(&mut address, &mut bytes, real, text.as_ptr()) }.ok() {
                    continue;
                }
                let (at, size) = st.global(ours, &global)?;
                let host = st.memory.arena_host(at)?;
                let n = size.min(bytes as u64) as usize;
                // SAFETY: the backing holds `size` bytes of the variable.
                ok(unsafe { (d.cuMemcpyDtoH_v2)(host as *mut _, address, n) })?;
            }
        }
        Ok(())
    }

    /// Gives back memory, mappings and pins. What can't be given back is said, and tried again at the next park.
    pub(super) fn let_go(&self, d: &Driver) {
        let mut live = locked(&self.live);
        let mut left = Vec::new();
        let mut note = |r: Res| left.extend(r.err());
        for at in live.pins.keys().copied().collect::<Vec<_>>() {
            note(live.unpin(d, at));
        }
        for (at, len) in live.mappings.clone() {
            note(live.unmap(d, at, len));
        }
        for h in live.physical.keys().copied().collect::<Vec<_>>() {
            note(live.destroy(d, h));
        }
        for at in live.extents.keys().copied().collect::<Vec<_>>() {
            note(live.drop_extent(d, at));
        }
        note(live.release_unmapped(d));
        live.modules.clear();
        live.globals.clear();
        live.base = None;
        if let Some(code) = left.first() {
            report::error(&format!(
                "{} ranges of memory could not be given back to the card ({}); end the program if they stay",
                left.len(),
                name(*code)
            ));
        }
    }

    /// Releases the context, and looks whether it is gone.
    fn leave_context(&self, d: &Driver) {
        let (mut flags, mut active) = (0, 0);
        // SAFETY: the context was retained by the claim; nothing of ours uses it any more.
        let gone = unsafe {
            ok((d.cuCtxSetCurrent)(CUcontext::NULL))
                .and(twice(|| (d.cuDevicePrimaryCtxRelease_v2)(DEVICE)))
                .and_then(|()| ok((d.cuDevicePrimaryCtxGetState)(DEVICE, &mut flags, &mut active)))
        };
        locked(&self.live).ctx = CUcontext::NULL;
        match gone {
            Ok(()) if active == 0 => {}
            Ok(()) => report::error(
                "the context is still on the card after the park: another library of this process holds it",
            ),
            Err(e) => {
                report::error(&format!("the context could not be released ({}); end the program if it stays", name(e)))
            }
        }
    }
}

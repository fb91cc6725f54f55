//! Claim: from parked to a GPU that holds every byte at its address.
use super::cargo::{self, Whose};
use super::clock::Clock;
use super::lender::{Ask, Lender, Trouble, AGAIN};
use super::lent::Wanted;
use super::live::Live;
use super::{locked, Engine, Phase};
use crate::report;
use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::time::Instant;
use zerogpu_abi::*;
use zerogpu_below::{ok, Driver, Way};
use zerogpu_device::exec::now;
use zerogpu_device::handle;
use zerogpu_device::memory::{backing, Region, RegionKind, ARENA_BYTES};
use zerogpu_device::objects::usual_limits;
use zerogpu_device::runtime::{config, lock, State};
use zerogpu_protocol::{Range, Uuid};

/// Seconds that work outside regions asks for; extended while it lasts.
const BORROWED: f64 = 10.0;

/// A step of a claim that failed, for the sentence that the human reads.
pub(super) struct Failed {
    pub(super) step: &'static str,
    pub(super) code: CUresult,
    /// What to do, if something can be done.
    pub(super) remedy: Cow<'static, str>,
    /// What is to become of the claim.
    pub(super) end: End,
}

/// How a claim that failed ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With its error.
    Failed,
    /// The broker went away meanwhile: it is tried again.
    Gone,
    /// With its error; the remedy is all that the program's user reads.
    ForUser,
    /// The regions that it was for have ended while it waited.
    CalledOff,
}

/// What to do where a driver has no card.
pub(super) const NO_CARD: &str =
    "the driver is installed but there is no card: run this on a GPU machine, or with --driver soft";

impl Failed {
    fn at(step: &'static str) -> impl Fn(CUresult) -> Failed {
        move |code| Failed {
            end: End::Failed,
            step,
            code,
            remedy: "call it again; the bytes are kept in host memory".into(),
        }
    }

    /// A broker that said no, or is not there.
    fn by(trouble: Trouble) -> Failed {
        let (step, code) = ("asking the broker for a GPU", CUresult::DEVICE_UNAVAILABLE);
        match trouble {
            Trouble::Denied(code, text) => Failed { end: End::Failed, step, code, remedy: text.into() },
            Trouble::ForUser(text) => Failed { end: End::ForUser, step, code, remedy: text.into() },
            Trouble::CalledOff => Failed { end: End::CalledOff, step, code, remedy: "".into() },
            Trouble::Gone(text) => Failed { end: End::Gone, step, code, remedy: text.into() },
        }
    }
}

impl Engine {
    /// Claims a GPU, if none is claimed. `why` is what needs it.
    pub(super) fn claim(&'static self, borrowed: bool, why: &str) -> Res {
        self.obtain(borrowed, why)?;
        // an error of deferred work is the first call's after it
        self.owed()
    }

    /// The same before anything needs it: an error of deferred work is told to whoever waits for it.
    pub(super) fn obtain(&'static self, borrowed: bool, why: &str) -> Res {
        // before the wait for others that claim: they may have waited for as long in vain
        let until = self.lender.as_ref().map_or_else(Instant::now, Lender::deadline);
        let mut phase = locked(&self.phase);
        match *phase {
            Phase::Claimed { .. } => return Ok(()),
            Phase::Lost(code) => return Err(code),
            Phase::Parked => {}
        }
        self.watch.begin_claim();
        let start = now();
        let claimed = loop {
            match self.claim_now(borrowed, until, why) {
                // the next broker begins anew; nothing of this attempt is left
                Err(f) if f.end == End::Gone && Instant::now() + AGAIN < until => {
                    report::explain("the broker went away during a claim: it is tried again")
                }
                claimed => break claimed,
            }
        };
        match claimed {
            Ok(bytes) => {
                *phase = Phase::Claimed { borrowed };
                self.regions.note_claim(Ok(()));
                let took = now() - start;
                self.tally.claims.fetch_add(1, Ordering::Relaxed);
                self.tally.borrows.fetch_add(borrowed as u64, Ordering::Relaxed);
                self.tally.last_claim.store(took + 1, Ordering::Relaxed);
                self.tally.claimed_at.store(start, Ordering::Relaxed);
                zerogpu_trace::span(zerogpu_trace::Span::Claim, why, start, start + took, bytes);
                locked(&self.live).note_bytes();
                self.replay();
                if let Err(e) = self.hold_back_streams() {
                    report::error(&format!(
                        "work behind a host function can't be put before later work: its stream can't be held back ({}), and \
                         GPU commands fail until it can or that work is done; synchronize before the marked call",
                        name(e)
                    ));
                }
                self.gate.open();
                self.watch.look_again();
                drop(phase);
                self.unload_ended();
                Ok(())
            }
            // whoever ended them knows
            Err(f) if f.end == End::CalledOff => {
                report::explain(&format!("{why} waited for a GPU, and its call has ended: it does not run"));
                Err(f.code)
            }
            Err(f) => {
                let failed = format!("{} failed ({}); {}", f.step, name(f.code), f.remedy);
                report::error(&format!("no GPU could be claimed for {why}: {failed}"));
                let words = match f.end {
                    End::ForUser => f.remedy.into_owned(),
                    _ => format!("No GPU could be claimed: {failed}"),
                };
                self.regions.note_claim(Err(words));
                Err(f.code)
            }
        }
    }

    /// Makes everything live; on failure nothing is left of it. Returns the bytes brought in.
    fn claim_now(&'static self, borrowed: bool, until: Instant, why: &str) -> Result<u64, Failed> {
        let no_driver = |why: &str| {
            let (step, code) = ("opening the driver", CUresult::NO_DEVICE);
            Failed { end: End::Failed, step, code, remedy: why.to_string().into() }
        };
        let d = self.below.driver().map_err(no_driver)?;
        self.make_ready(d)?;
        let card = self.lease(borrowed, until, why)?;
        let claimed = find_card(d, card).and_then(|device| {
            check_card(d, device)?;
            self.settle_on(d, device, card)?;
            self.make_window(d)?;
            self.bring_in(d, device)
        });
        if claimed.is_err() {
            self.end_lease();
        }
        claimed
    }

    /// The card of the claim. A process that something binds to a context on another can't move, nor one that could not give
    /// back what it had there.
    fn settle_on(&self, d: &Driver, device: CUdevice, card: Option<Uuid>) -> Result<(), Failed> {
        let stays = |step: &'static str, why: &'static str| Failed {
            end: End::Failed,
            step,
            code: CUresult::DEVICE_UNAVAILABLE,
            remedy: why.into(),
        };
        let (kept, had) = {
            let live = locked(&self.live);
            (live.kept, live.device)
        };
        if had != device && kept {
            return Err(stays(
                "moving to another card",
                "something binds the program to the card that it had (zerogpu_state names it): call it again",
            ));
        }
        if (had != device || self.lender.is_some()) && !locked(&self.left).is_empty() {
            let _st = lock().map_err(Failed::at("locking"))?;
            // a broker knows nothing of the memory of an earlier lease, and would not bring it home
            if !self.give_back(d) && (had != device || locked(&self.live).has_memory()) {
                return Err(stays(
                    "giving back memory of an earlier call",
                    "what an earlier call left on the card that it had can't be given back yet (zerogpu_state names it): call it \
                     again, and end the program if it stays",
                ));
            }
        }
        let mut live = locked(&self.live);
        (live.device, live.card) = (device, card);
        Ok(())
    }

    /// Waits for a lease, if there is a broker to ask; its card. The time of the app's calls does not run meanwhile.
    fn lease(&'static self, borrowed: bool, until: Instant, why: &str) -> Result<Option<Uuid>, Failed> {
        let Some(lender) = &self.lender else { return Ok(None) };
        let bytes = {
            let mut st = lock().map_err(Failed::at("locking"))?;
            let wanted =
                Wanted::of(&mut st.memory, &lender.shape()).map_err(Failed::at("listing the memory in use"))?;
            wanted.bytes()
        };
        // what the call was marked with: the queue's order is by that, whatever the call did first
        let seconds = if borrowed { BORROWED } else { self.regions.asked() };
        let start = now();
        self.regions.pause();
        let wanted = || borrowed || self.regions.any();
        let leased = lender.claim(&Ask { seconds, bytes, borrowed, until, wanted: &wanted });
        self.regions.resume();
        let (lease, waited) = leased.map_err(Failed::by)?;
        zerogpu_trace::span(zerogpu_trace::Span::Wait, why, start, start + waited.as_nanos() as u64, 0);
        Ok(Some(lease.card))
    }

    /// The driver's cuInit and the addresses, once.
    fn make_ready(&self, d: &Driver) -> Result<(), Failed> {
        let mut st = lock().map_err(Failed::at("locking"))?;
        let mut live = locked(&self.live);
        if !live.ready {
            live.initialize(d, &mut st)?;
            let base = st.memory.arena().map_err(Failed::at("reserving the arena"))?;
            live.hand_over(d, base, ARENA_BYTES)?;
            live.ready = true;
            // so nobody has to ask while parked, when no call may reach the driver
            let _known_already = self.cards.set(Ok(()));
        }
        Ok(())
    }

    /// The addresses of the app's own reservations, once.
    fn make_window(&self, d: &Driver) -> Result<(), Failed> {
        let st = lock().map_err(Failed::at("locking"))?;
        if st.memory.vmm().has_reservations() {
            locked(&self.live).hand_over_window(d)?;
        }
        Ok(())
    }

    /// The context, and everything in it.
    fn bring_in(&'static self, d: &Driver, device: CUdevice) -> Result<u64, Failed> {
        let mut st = lock().map_err(Failed::at("locking"))?;
        // copies of other threads that were planned on the host copy: their bytes have to be in it before it is read
        zerogpu_device::exec::settle();
        let lent = self.list_slabs(&mut st)?;
        set_flags(d, &st, device);
        let mut ctx = CUcontext::NULL;
        // SAFETY: writes the context.
        ok(unsafe { (d.cuDevicePrimaryCtxRetain)(&mut ctx, device) }).map_err(Failed::at("making the context"))?;
        locked(&self.live).retained += 1;
        let claimed = self.populate(d, &mut st, ctx, lent);
        if claimed.is_err() {
            self.leave_card(d);
        }
        claimed
    }

    /// Tells the broker what the lease needs, so that it begins while the context is made; None: there is none to ask.
    fn list_slabs(&self, st: &mut State) -> Result<Option<Wanted>, Failed> {
        let Some(lender) = &self.lender else { return Ok(None) };
        let wanted = Wanted::of(&mut st.memory, &lender.shape()).map_err(Failed::at("listing the memory in use"))?;
        lender.list(&wanted.slabs, &wanted.dirty).map_err(Failed::by)?;
        Ok(Some(wanted))
    }

    /// Physical memory, mappings, bytes, pins.
    fn populate(
        &'static self,
        d: &Driver,
        st: &mut State,
        ctx: CUcontext,
        lent: Option<Wanted>,
    ) -> Result<u64, Failed> {
        // in a context that stayed the twins are still good
        let kept = std::mem::take(&mut locked(&self.live).kept);
        let epoch = self.epoch.load(Ordering::Acquire) + !kept as u32;
        locked(&self.live).ctx = ctx;
        self.epoch.store(epoch, Ordering::Release);
        self.bind().map_err(Failed::at("making the context current"))?;
        let mut live = locked(&self.live);
        set_limits(&mut live, d, st);
        live.end_late(d);
        live.set_late_attributes(d, epoch);
        let needed = needed(st);
        let mapping = |code, had| no_room("mapping the app's own memory", d, needed, had, code);
        let bytes = match (&self.lender, lent) {
            (Some(lender), Some(wanted)) => {
                live.lent_by(Some(lender));
                let fds = lender.descriptors(wanted.slabs.len()).map_err(Failed::by)?;
                let placed = live.place_lent(d, &mut st.memory, &wanted.slabs, &fds);
                placed.map_err(Failed::at("mapping the broker's memory"))?;
                map_all(&mut live, d, st).map_err(|code| mapping(code, live.bytes()))?;
                let (copied, warm) = lender.ready().map_err(Failed::by)?;
                wanted.are_told(&mut st.memory).map_err(Failed::at("reading the arena"))?;
                report::explain(&format!("the broker copied {copied} bytes to the card; {warm} were there"));
                wanted.bytes()
            }
            _ => {
                for (va, len) in st.memory.in_use() {
                    live.grow(d, va, len)
                        .map_err(|code| no_room("making device memory", d, needed, live.bytes(), code))?;
                }
                map_all(&mut live, d, st).map_err(|code| mapping(code, live.bytes()))?;
                live.watched_from = self.settings.hash;
                cargo::travel(&mut live, d, st, Way::In, Whose::All, &mut || {})
                    .map_err(Failed::at("copying memory to the card"))?
            }
        };
        let pinned = pinned(st);
        live.unpin_others(d, &pinned, |at| st.memory.keeps(at))
            .map_err(Failed::at("ending the page-lock of memory that the program has given back"))?;
        for (at, len, flags) in pinned {
            match live.pin(d, at, len, flags) {
                // no copy can use it, and the app may never end its registration
                Err(_) if !backing::is_there(at, len) => report::explain(&format!(
                    "{len} bytes of host memory at {at:#x} are registered, and unmapped by the app: they are not page-locked"
                )),
                pinned => pinned.map_err(Failed::at("page-locking host memory"))?,
            }
        }
        if live.clock.is_none() {
            live.clock = Some(Clock::start(d).map_err(Failed::at("recording the first event"))?);
        }
        let modules = live.modules.clone();
        drop(live);
        for (ours, real) in modules {
            self.restore_variables(d, st, ours, real).map_err(Failed::at("restoring module variables"))?;
        }
        self.claimed.store(true, Ordering::Release);
        Ok(bytes)
    }

    /// Host functions that were queued while parked, and the commands behind them, go before later work of their streams:
    /// each such stream starts its life in this claim with a wait for them (created ones: see `make_stream`). The claim
    /// itself does not wait: its caller may hold a lock that a host function wants. Nor does it fail, since the bytes are on
    /// the card: with an error, commands come here again and fail, see `behind_late_work`.
    pub(super) fn hold_back_streams(&self) -> Res {
        use zerogpu_device::objects::StreamKind::Created;
        let epoch = self.epoch.load(Ordering::Acquire);
        let st = lock()?;
        let tickets = st.streams.values().filter(|s| s.kind != Created).map(|s| s.host_ticket);
        let ticket = tickets.fold(0, zerogpu_device::host::both);
        // in a context that stayed, created ones have their twins already
        let twin = |h| handle::twin(h, handle::Kind::Stream, epoch).map(|twin| CUstream(twin as usize));
        let mut held: Vec<_> = st.streams.iter().filter_map(|(&h, s)| Some((twin(h)?, s.host_ticket))).collect();
        drop(st);
        held.push((CU_STREAM_LEGACY, ticket));
        // one that is refused keeps no other from being held back
        let mut all = Ok(());
        for (stream, ticket) in held {
            let one = self.hold_back(stream, ticket);
            all = all.and(one);
        }
        self.unheld.store(all.is_err(), Ordering::Release);
        all
    }

    /// Waits for a park in progress to end.
    pub(super) fn settle(&self) -> Res {
        match *locked(&self.phase) {
            Phase::Lost(code) => Err(code),
            _ => Ok(()),
        }
    }
}

/// The name of an error, for messages.
pub(super) fn name(code: CUresult) -> String {
    match zerogpu_abi::describe(code) {
        Some((name, _)) => format!("{} {}", code.0, name.to_string_lossy()),
        None => code.0.to_string(),
    }
}

/// Bytes of physical memory that a claim needs.
fn needed(st: &mut State) -> u64 {
    let arena: u64 = st.memory.in_use().iter().map(|(_, len)| len).sum();
    let on_device = st.memory.vmm().handles().filter(|(_, p)| p.prop.location.kind == CUmemLocation::DEVICE);
    arena + on_device.map(|(_, p)| p.len).sum::<u64>()
}

/// A step that takes memory of the card, which others may hold: what is needed and what there is, for the human. `had`: bytes
/// that the process had got already.
fn no_room(step: &'static str, d: &Driver, needed: u64, had: u64, code: CUresult) -> Failed {
    let failed = Failed::at(step)(code);
    let (mut free, mut total) = (0, 0);
    // SAFETY: writes both; the context is current.
    if code != CUresult::OUT_OF_MEMORY || !unsafe { (d.cuMemGetInfo_v2)(&mut free, &mut total) }.ok() {
        return failed;
    }
    let way_out = if needed > total as u64 {
        "it can't fit on this card: free some, or use a larger one"
    } else {
        "other programs hold the rest: call it again when they have let go, or let a broker queue the programs"
    };
    let [needed, free, total] = [needed, free as u64 + had, total as u64].map(|bytes| bytes >> 20);
    let remedy = format!(
        "the program has {needed} MiB, and {free} of the card's {total} MiB are free; {way_out}; the bytes are kept in host \
         memory"
    );
    Failed { remedy: remedy.into(), ..failed }
}

/// The ordinal of the card that a lease is for; without a lease, the driver's first card.
fn find_card(d: &Driver, wanted: Option<Uuid>) -> Result<CUdevice, Failed> {
    let Some(wanted) = wanted else { return Ok(0) };
    let mut count = 0;
    // SAFETY: writes one integer.
    ok(unsafe { (d.cuDeviceGetCount)(&mut count) }).map_err(Failed::at("counting the cards"))?;
    for ordinal in 0..count {
        let (mut device, mut uuid) = (0, CUuuid { bytes: [0; 16] });
        // SAFETY: both write what they are asked for.
        let asked = unsafe {
            ok((d.cuDeviceGet)(&mut device, ordinal)).and_then(|()| ok((d.cuDeviceGetUuid_v2)(&mut uuid, device)))
        };
        asked.map_err(Failed::at("looking at the cards"))?;
        if uuid.bytes == wanted {
            return Ok(device);
        }
    }
    Err(Failed {
        end: End::Failed,
        step: "finding the card of the lease",
        code: CUresult::NO_DEVICE,
        remedy:
            "this process does not see the broker's card: give it the same devices (and, for software cards, the same \
                 SOFTCUDA settings) as the broker"
                .into(),
    })
}

/// A card of another architecture than the one that the app was shown would run other code than it chose.
fn check_card(d: &Driver, device: CUdevice) -> Result<(), Failed> {
    let shown = config().map_err(Failed::at("reading the profile"))?.profile.cc;
    let ask = |n| {
        let mut v = 0;
        // SAFETY: writes one integer.
        ok(unsafe { (d.cuDeviceGetAttribute)(&mut v, n, device) }).map(|()| v)
    };
    let major = ask(75).map_err(Failed::at("asking the card's architecture"))?;
    let minor = ask(76).map_err(Failed::at("asking the card's architecture"))?;
    if (major, minor) == shown {
        return Ok(());
    }
    Err(Failed {
        end: End::Failed,
        step: "matching the card with the profile",
        code: CUresult::NO_DEVICE,
        remedy: "the card is of another architecture than the profile shown to the app: choose a profile of the card's kind \
                 (zerogpu run --profile)".into(),
    })
}

/// How the app wants its threads to wait, which a context knows from its making.
fn set_flags(d: &Driver, st: &State, device: CUdevice) {
    let context = st.primary(0).ok().and_then(|primary| st.contexts.get(&primary.0));
    let Some(flags) = context.map(|c| c.flags).filter(|&f| f != 0) else { return };
    // SAFETY: plain numbers.
    if let Err(e) = ok(unsafe { (d.cuDevicePrimaryCtxSetFlags_v2)(device, flags) }) {
        report::error(&format!(
            "the card refuses the context's flags {flags:#x} ({}): it has its usual ones; set none, or others",
            name(e)
        ));
    }
}

/// Limits that were set while no card could be asked, also what was set back in a context that stayed. One that this card refuses
/// is told, and stops nothing.
fn set_limits(live: &mut Live, d: &Driver, st: &State) {
    let Some(c) = st.primary(0).ok().and_then(|primary| st.contexts.get(&primary.0)) else { return };
    let Ok(usual) = config().map(|c| usual_limits(&c.profile)) else { return };
    if c.cache != live.cache {
        // a preference: what comes of it is the card's to say
        if let Err(e) = live.set_cache(d, c.cache) {
            report::error(&format!(
                "the card refuses to prefer cache configuration {} ({}): it has its usual one; ask for none",
                c.cache,
                name(e)
            ));
        }
    }
    for (i, (&value, &usual)) in c.limits.iter().zip(&usual).enumerate() {
        let has = live.limits.get(&(i as u32)).copied().unwrap_or(usual);
        if value != has {
            if let Err(e) = live.set_limit(d, i as u32, value) {
                report::error(&format!(
                    "the card refuses the limit that cuCtxSetLimit({i}, {value}) set while no GPU was claimed ({}): it has its \
                     usual one; set a smaller limit",
                    name(e)
                ));
            }
        }
    }
}

/// The app's own handles and mappings.
fn map_all(live: &mut Live, d: &Driver, st: &State) -> Res {
    for (h, p) in st.memory.vmm().handles() {
        if !live.physical.contains_key(&h) {
            live.create(d, h, Range::new(p.off, p.len), p.prop.location)?;
        }
    }
    for r in st.memory.regions() {
        let RegionKind::Mapped { physical, off, access } = r.kind else { continue };
        let start = st.memory.vmm().physical(physical).ok_or(CUresult::INVALID_VALUE)?.off;
        live.map(d, r.base, r.size, physical, off - start)?;
        if access != 0 {
            live.access(d, r.base, r.size, access)?;
        }
    }
    Ok(())
}

/// Host memory that the card reaches: address, bytes, flags of the registration. Managed memory is such memory.
fn pinned(st: &State) -> Vec<(u64, u64, u32)> {
    let host = |r: &Region| match r.kind {
        RegionKind::Host { flags, registered: true } => Some((r.base, r.size, flags)),
        RegionKind::Host { .. } | RegionKind::Managed => Some((r.base, r.size, 0)),
        _ => None,
    };
    st.memory.regions().filter_map(host).collect()
}

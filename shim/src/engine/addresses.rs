//! The arena's addresses: from a placeholder of ours to a reservation in the driver, for the life of the process.
use super::claim::{name, End, Failed, NO_CARD};
use super::live::Live;
use crate::report;
use zerogpu_abi::*;
use zerogpu_below::{ok, twice, Driver};
use zerogpu_device::memory::{backing, ARENA_BYTES};
use zerogpu_device::runtime::State;

/// How often a driver is asked for the addresses, and how long it is left to itself in between: what is in the way may be
/// a mapping that another thread is about to end.
const TURNS: u32 = 3;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

const STEP: &str = "reserving the arena's addresses in the driver";

/// Something that is not ours lies where pointers of the app point.
fn taken() -> Failed {
    let remedy = "the addresses were taken by another mapping of the process: start it again";
    Failed { end: End::Failed, step: STEP, code: CUresult::OUT_OF_MEMORY, remedy: remedy.into() }
}

impl Live {
    /// The driver's cuInit, with none of our placeholders mapped: what a process has mapped at its cuInit, that driver gives to no
    /// reservation later, although it is free by then (driver 580, recorded). They are put back; where something else took
    /// their addresses in between, no claim is possible any more.
    pub(super) fn initialize(&mut self, d: &Driver, st: &mut State) -> Result<(), Failed> {
        let arena = st.memory.arena_base().map(|base| (base, ARENA_BYTES));
        let ours = |range: &(u64, u64)| !self.taken.contains(&range.0);
        let placeholders: Vec<_> = arena.into_iter().chain(st.memory.vmm().window()).filter(ours).collect();
        for &(base, len) in &placeholders {
            backing::unreserve(base, len);
        }
        // SAFETY: no preconditions.
        let answer = ok(unsafe { (d.cuInit)(0) });
        let mut back = Ok(());
        for (base, len) in placeholders {
            back = back.and(self.put_back(base, len));
        }
        back?;
        answer.map_err(|code| Failed {
            end: End::Failed,
            step: "cuInit of the driver",
            code,
            remedy: if code == CUresult::NO_DEVICE { NO_CARD } else { "run zerogpu doctor to see why" }.into(),
        })
    }

    /// Maps a placeholder again.
    fn put_back(&mut self, base: u64, len: u64) -> Result<(), Failed> {
        if backing::reserve(Some(base), len).is_ok() {
            return Ok(());
        }
        let way = in_the_way(base, len);
        self.taken.push(base);
        report::error(&format!("the addresses {base:#x}+{len:#x} are gone{way}; start the program again"));
        Err(taken())
    }

    /// Gives a placeholder's addresses to the driver. They stay ours whatever happens, unless another thread's mapping
    /// takes them in between: then no claim is possible any more, since what lies there is not ours to unmap.
    pub(super) fn hand_over(&mut self, d: &Driver, base: u64, len: u64) -> Result<(), Failed> {
        if self.taken.contains(&base) {
            return Err(taken());
        }
        let mut code = CUresult::OUT_OF_MEMORY;
        for turn in 0..TURNS {
            if turn > 0 {
                std::thread::sleep(PAUSE);
            }
            backing::unreserve(base, len);
            match reserve(d, base, len) {
                Ok(()) => return Ok(()),
                Err(e) => code = e,
            }
            let way = in_the_way(base, len);
            report::explain(&format!("the driver did not give the addresses {base:#x}+{len:#x} ({}){way}", name(code)));
            self.put_back(base, len)?;
        }
        let remedy =
            "other addresses than the app's pointers would be no use: call it again, and report it if it stays";
        Err(Failed { end: End::Failed, step: STEP, code, remedy: remedy.into() })
    }

    /// Gives the addresses of the app's own reservations to the driver, once.
    pub(super) fn hand_over_window(&mut self, d: &Driver) -> Result<(), Failed> {
        if !self.window {
            let (base, len) = crate::start::WINDOW;
            self.hand_over(d, base, len)?;
            self.window = true;
        }
        Ok(())
    }

    /// As above, for a first reservation that was made while claimed.
    pub(super) fn want_window(&mut self, d: &Driver) -> Res {
        self.hand_over_window(d).map_err(|f| {
            report::error(&format!("{} failed ({}); {}", f.step, name(f.code), f.remedy));
            f.code
        })
    }
}

/// Reserves exactly these addresses in the driver.
fn reserve(d: &Driver, base: u64, len: u64) -> Res {
    let mut got = 0;
    // SAFETY: a range of addresses that nobody has mapped; the answer is checked.
    ok(unsafe { (d.cuMemAddressReserve)(&mut got, len as usize, 0, base, 0) })?;
    if got == base {
        return Ok(());
    }
    report::explain(&format!("the driver offered the addresses {got:#x} for {base:#x}"));
    // SAFETY: the driver reserved another range than we asked for; it is given back whole.
    if let Err(e) = unsafe { twice(|| (d.cuMemAddressFree)(got, len as usize)) } {
        report::explain(&format!("a range of addresses in the wrong place could not be freed ({})", name(e)));
    }
    Err(CUresult::OUT_OF_MEMORY)
}

/// What the process has mapped in a range, as the end of a sentence.
fn in_the_way(base: u64, len: u64) -> String {
    let mapped = backing::mappings();
    let overlap = mapped.iter().find(|m| m.start < base + len && base < m.end);
    overlap.map_or_else(String::new, |m| format!(": {} is in the way", m.line))
}

//! The arena's addresses: from a placeholder of ours to a reservation in the driver, for the life of the process.
use super::claim::{name, End, Failed};
use super::live::Live;
use crate::report;
use zerogpu_abi::*;
use zerogpu_below::{ok, twice, Driver};
use zerogpu_device::memory::backing;

/// How often a driver is asked for the addresses, and how long it is left to itself in between: what is in the way may be
/// a mapping that another thread is about to end.
const TURNS: u32 = 3;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

impl Live {
    /// Gives a placeholder's addresses to the driver. They stay ours whatever happens, unless another thread's mapping
    /// takes them in between: then no claim is possible any more, since what lies there is not ours to unmap.
    pub(super) fn hand_over(&mut self, d: &Driver, base: u64, len: u64) -> Result<(), Failed> {
        let step = "reserving the arena's addresses in the driver";
        let taken = Failed {
            end: End::Failed,
            step,
            code: CUresult::OUT_OF_MEMORY,
            remedy: "the addresses were taken by another mapping of the process: start it again".into(),
        };
        if self.taken.contains(&base) {
            return Err(taken);
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
            if backing::reserve(Some(base), len).is_err() {
                self.taken.push(base);
                report::error(&format!("the addresses {base:#x}+{len:#x} are gone{way}; start the program again"));
                return Err(taken);
            }
        }
        let remedy =
            "other addresses than the app's pointers would be no use: call it again, and report it if it stays";
        Err(Failed { end: End::Failed, step, code, remedy: remedy.into() })
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
    // SAFETY: the driver reserved another range than we asked for; it is given back whole.
    if let Err(e) = unsafe { twice(|| (d.cuMemAddressFree)(got, len as usize)) } {
        report::explain(&format!("a range of addresses in the wrong place could not be freed ({})", name(e)));
    }
    Err(CUresult::OUT_OF_MEMORY)
}

/// What the process has mapped in a range, as the end of a sentence.
fn in_the_way(base: u64, len: u64) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let overlaps = |line: &&str| {
        let ends = line.split(' ').next().and_then(|range| range.split_once('-'));
        let ends = ends.and_then(|(a, b)| Some((u64::from_str_radix(a, 16).ok()?, u64::from_str_radix(b, 16).ok()?)));
        ends.is_some_and(|(start, end)| start < base + len && base < end)
    };
    maps.lines().find(overlaps).map_or_else(String::new, |line| format!(": {line} is in the way"))
}

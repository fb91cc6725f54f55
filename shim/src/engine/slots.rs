//! Undocumented export-table slots that we do not know: the claimed driver's own answer them.
//!
//! cuFFT and cuBLASLt of CUDA 13 fail or die if their private tables are refused, and cuBLASLt calls its own before its
//! first kernel (recorded): a call claims as a kernel does. An argument that is one of our handles is swapped for its live
//! twin; everything else passes as it is.
use super::Engine;
use crate::report;
use std::ffi::c_void;
use std::sync::atomic::Ordering;
use zerogpu_abi::*;
use zerogpu_device::handle::{self, Kind};
use zerogpu_device::{dark, runtime};

/// A slot, called with as many registers and stack words as the stub was given.
type Slot = unsafe extern "C" fn(u64, u64, u64, u64, u64, u64, u64, u64) -> u64;

/// Slots that were seen to leave nothing behind: programs that call them park bit-exact (recorded on an H100).
const LEAVE_NOTHING: [(&str, &[usize]); 3] = [("1734DC26", &[4, 13]), ("6E163FBE", &[7]), ("DA9151D3", &[1, 2, 3, 4])];

/// A slot's name for the trace.
pub(super) fn name(table: usize, slot: usize) -> String {
    format!("slot {slot} of export table {}", dark::TABLES[table].name)
}

impl Engine {
    /// Has the driver answer a call of a slot, which claims a GPU if none is.
    pub(super) fn call_slot(&'static self, table: usize, slot: usize, args: &[u64; 8]) -> Res<u64> {
        let name = name(table, slot);
        if !self.claimed.load(Ordering::Acquire) {
            let mut st = runtime::lock()?;
            let card = self.below.driver().is_ok_and(|d| self.cards_there(d, &mut st).is_ok());
            drop(st);
            if !card || table == dark::COMPILER {
                report::explain_once(&format!("{name} is not known to zerogpu: answered NOT_SUPPORTED"));
                return Err(CUresult::NOT_SUPPORTED);
            }
        }
        self.with_card(&name, |_| self.forward_slot(&name, table, slot, args))
    }

    /// Calls the claimed driver's own slot. The gate is held.
    fn forward_slot(&self, name: &str, table: usize, slot: usize, args: &[u64; 8]) -> Res<u64> {
        let Some(entry) = self.real_slot(table, slot)? else {
            report::explain_once(&format!("the driver has no {name}: answered NOT_SUPPORTED"));
            return Err(CUresult::NOT_SUPPORTED);
        };
        report::explain_once(&format!("{name} is not known to zerogpu: forwarded to the driver"));
        let of = dark::TABLES[table].name;
        if !LEAVE_NOTHING.iter().any(|(table, slots)| *table == of && slots.contains(&slot)) {
            self.bind_by(format!("what {name} made"));
        }
        let mut a = *args;
        for word in &mut a {
            *word = self.swapped(*word)?;
        }
        let [a, b, c, d, e, f, g, h] = a;
        // SAFETY: the driver's own function, with the arguments that its caller gave it.
        Ok(unsafe { entry(a, b, c, d, e, f, g, h) })
    }

    /// The driver's function behind a slot.
    fn real_slot(&self, table: usize, slot: usize) -> Res<Option<Slot>> {
        let id = CUuuid { bytes: dark::TABLES[table].id };
        let mut words: *const c_void = std::ptr::null();
        // SAFETY: writes the table's address; the id is ours.
        if !unsafe { (self.driver()?.cuGetExportTable)(&mut words, &id) }.ok() || words.is_null() {
            return Ok(None);
        }
        let words: *const usize = words.cast();
        // SAFETY: tables whose slots we stub start with their size in bytes, and live as long as the driver.
        let entry = unsafe {
            if slot * 8 < *words {
                *words.add(slot)
            } else {
                0
            }
        };
        // SAFETY: a nonzero word of a table is a C function.
        Ok((entry != 0).then(|| unsafe { std::mem::transmute::<usize, Slot>(entry) }))
    }

    /// An argument, with the live twin in place of a handle of ours.
    fn swapped(&self, word: u64) -> Res<u64> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let h = word as usize;
        let is = |kind| handle::is(h, kind);
        Ok(match () {
            () if handle::kind_of(h).is_none() => word,
            () if is(Kind::Context) => super::locked(&self.live).ctx.0 as u64,
            () if is(Kind::Stream) => self.live_stream(CUstream(h), epoch)?.0 as u64,
            () if is(Kind::Event) => self.live_event(CUevent(h), epoch)?.0 as u64,
            () if is(Kind::Module) => self.live_module(&mut *runtime::lock()?, CUmodule(h), epoch)?.0 as u64,
            () if is(Kind::Function) || is(Kind::Kernel) => self.live_function(h, epoch)?.real().0 as u64,
            () => word,
        })
    }
}

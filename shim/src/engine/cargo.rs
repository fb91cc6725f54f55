//! What travels between the host backing and a claimed card: the arena, and the app's own physical handles.
//!
//! A handle's bytes are its own, whether it is mapped or not: one that no mapping reaches as a whole is looked at through
//! a window, a mapping of ours that lasts for one trip.
use super::live::{aside, ok, twice, Live};
use super::physical::access_desc;
use super::staging::{self, Way};
use crate::driver::Driver;
use std::collections::HashMap;
use zerogpu_abi::*;
use zerogpu_device::memory::RegionKind;
use zerogpu_device::runtime::State;

const READ_WRITE: u32 = 3;

/// Moves all bytes one way; returns how many. Physical memory and mappings exist, nothing runs on the card.
pub(super) fn travel(live: &Live, d: &Driver, st: &mut State, way: Way) -> Res<u64> {
    let mut ranges = Vec::new();
    for (va, len) in st.memory.in_use() {
        ranges.push((va, st.memory.arena_host(va)? as u64, len));
    }
    let mut windows = Vec::new();
    let moved = own_memory(live, d, st, &mut ranges, &mut windows).and_then(|()| match way {
        Way::In => bring_in(d, st, &ranges),
        Way::Out => staging::copy(d, way, &ranges),
    });
    // each is closed, also behind one that could not be
    let mut closed = Ok(());
    for (va, len) in windows {
        closed = closed.and(close(d, va, len));
    }
    let moved = moved?;
    closed.map(|()| moved)
}

/// Memory that the host never wrote needs no copy, nor memory of the host: the card zeroes its own.
fn bring_in(d: &Driver, st: &mut State, ranges: &[(u64, u64, u64)]) -> Res<u64> {
    let backing = st.memory.backing()?;
    let base = backing.at(0) as u64;
    let (mut full, mut empty) = (Vec::new(), Vec::new());
    for &(va, host, len) in ranges {
        let mut at = host;
        for (off, n) in backing.data(host - base, len) {
            let start = base + off;
            empty.push((va + (at - host), start - at));
            full.push((va + (start - host), start, n));
            at = start + n;
        }
        empty.push((va + (at - host), host + len - at));
    }
    empty.retain(|&(_, n)| n > 0);
    if !empty.is_empty() {
        // SAFETY: ranges that are mapped on the card, and nobody's yet.
        let zero = |s, (va, n): (u64, u64)| ok(unsafe { (d.cuMemsetD8Async)(va, 0, n as usize, s) });
        aside(d, |s| empty.iter().try_for_each(|&part| zero(s, part)))?;
    }
    staging::copy(d, Way::In, &full).map(|moved| moved + empty.iter().map(|(_, n)| n).sum::<u64>())
}

/// The app's physical handles, each once, however often it is mapped.
fn own_memory(
    live: &Live,
    d: &Driver,
    st: &mut State,
    ranges: &mut Vec<(u64, u64, u64)>,
    windows: &mut Vec<(u64, u64)>,
) -> Res {
    let whole: HashMap<(u64, u64), u64> = st
        .memory
        .regions()
        .filter_map(|r| match r.kind {
            RegionKind::Mapped { off, access: READ_WRITE, .. } => Some(((off, r.size), r.base)),
            _ => None,
        })
        .collect();
    let handles: Vec<_> = st.memory.vmm().handles().map(|(h, p)| (h, p.off, p.len)).collect();
    for (h, off, len) in handles {
        let Some(&(real, _)) = live.physical.get(&h) else { continue };
        let va = match whole.get(&(off, len)) {
            Some(&va) => va,
            None => {
                let va = open(d, real, len)?;
                windows.push((va, len));
                va
            }
        };
        ranges.push((va, st.memory.backing()?.at(off) as u64, len));
    }
    Ok(())
}

/// Maps a whole handle where the driver likes.
fn open(d: &Driver, real: u64, len: u64) -> Res<u64> {
    let mut va = 0;
    // SAFETY: a fresh range of the driver's choice; on failure what was made is let go.
    unsafe {
        ok((d.cuMemAddressReserve)(&mut va, len as usize, 0, 0, 0))?;
        let mapped = ok((d.cuMemMap)(va, len as usize, 0, real, 0));
        if mapped.is_err() {
            return twice(|| (d.cuMemAddressFree)(va, len as usize)).and(mapped).map(|()| va);
        }
        if let Err(e) = ok((d.cuMemSetAccess)(va, len as usize, &access_desc(READ_WRITE), 1)) {
            return close(d, va, len).and(Err(e));
        }
    }
    Ok(va)
}

fn close(d: &Driver, va: u64, len: u64) -> Res {
    // SAFETY: a window made by `open`, whose copies are over.
    unsafe {
        twice(|| (d.cuMemUnmap)(va, len as usize))?;
        twice(|| (d.cuMemAddressFree)(va, len as usize))
    }
}

//! What travels between the host backing and a claimed card: the arena, and the app's own physical handles.
//!
//! A handle's bytes are its own, whether it is mapped or not: one that no mapping reaches as a whole is looked at through
//! a window, a mapping of ours that lasts for one trip, or until it can be closed.
use super::live::{aside, Live};
use super::unchanged::Unchanged;
use std::collections::HashMap;
use zerogpu_abi::*;
use zerogpu_below::physical::READ_WRITE;
use zerogpu_below::{copy, copy_telling, ok, Driver, Leaked, Pinning, Trip, Way};
use zerogpu_device::memory::{Region, RegionKind};
use zerogpu_device::runtime::State;

/// Whose bytes travel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// All.
    All,
    /// Those in memory of our own: a broker moves what it has lent.
    Own,
}

/// Moves bytes one way; returns how many. Physical memory and mappings exist, nothing runs on the card. `gets_on` is called
/// now and then on the way home.
pub(super) fn travel(
    live: &mut Live,
    d: &Driver,
    st: &mut State,
    way: Way,
    whose: Whose,
    gets_on: &mut dyn FnMut(),
) -> Res<u64> {
    let mut trips = Vec::new();
    for (va, len) in st.memory.in_use() {
        let host = st.memory.arena_host(va)? as u64;
        let parts = if whose == Whose::All { vec![(va, len)] } else { live.own_parts(va, len) };
        trips.extend(parts.into_iter().map(|(at, len)| Trip { device: at, host: host + (at - va), len }));
    }
    let moved = own_memory(live, d, st, whose, &mut trips).and_then(|()| match way {
        Way::In => {
            bring_in(&mut live.leaked, d, st, &trips).and_then(|bytes| watch(live, d, st, &trips).map(|()| bytes))
        }
        Way::Out => bring_out(live, d, st, trips, gets_on),
    });
    // the bytes have moved all the same
    let _tried_again_at_the_park = live.close_windows(d);
    moved
}

/// Notes what came to the card, where that is much: it need not go back as long as it stays what it is.
fn watch(live: &mut Live, d: &Driver, st: &mut State, trips: &[Trip]) -> Res {
    let bytes: u64 = trips.iter().map(|trip| trip.len).sum();
    // one that was left behind is still to be given back
    if live.unchanged.is_some() || live.watched_from.is_none_or(|least| bytes < least) {
        return Ok(());
    }
    let base = st.memory.backing()?.at(0) as u64;
    match Unchanged::new(d, live.device, base, trips) {
        Ok(unchanged) => live.unchanged = Some(unchanged),
        Err((code, left)) => {
            live.unchanged = left;
            crate::report::explain(&format!(
                "the card can't tell what changes, so the park copies everything (CUDA error {})",
                code.0
            ));
        }
    }
    Ok(())
}

/// Brings home what has changed, or may have.
fn bring_out(live: &mut Live, d: &Driver, st: &mut State, mut trips: Vec<Trip>, gets_on: &mut dyn FnMut()) -> Res<u64> {
    let all: u64 = trips.iter().map(|trip| trip.len).sum();
    if let Some(unchanged) = &mut live.unchanged {
        trips = unchanged.changed(d, st.memory.backing()?.at(0) as u64, trips);
    }
    let bytes = match trips.is_empty() {
        true => 0,
        false => copy_telling(d, Way::Out, &trips, Pinning::Transient(&mut live.leaked), gets_on)?.bytes,
    };
    if live.unchanged.is_some() {
        crate::report::explain(&format!("{bytes} bytes came home; {} had not changed", all - bytes));
    }
    Ok(bytes)
}

/// Memory that the host never wrote needs no copy, nor memory of the host: the card zeroes its own.
fn bring_in(leaked: &mut Leaked, d: &Driver, st: &mut State, trips: &[Trip]) -> Res<u64> {
    let backing = st.memory.backing()?;
    let base = backing.at(0) as u64;
    let (mut full, mut empty) = (Vec::new(), Vec::new());
    for &Trip { device: va, host, len } in trips {
        let mut at = host;
        for (off, n) in backing.data(host - base, len) {
            let start = base + off;
            empty.push((va + (at - host), start - at));
            full.push(Trip { device: va + (start - host), host: start, len: n });
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
    let copied = copy(d, Way::In, &full, Pinning::Transient(leaked))?;
    Ok(copied.bytes + empty.iter().map(|(_, n)| n).sum::<u64>())
}

/// The app's physical handles, each once, however often it is mapped.
fn own_memory(live: &mut Live, d: &Driver, st: &mut State, whose: Whose, trips: &mut Vec<Trip>) -> Res {
    // below us a mapping of the app may be missing, where the driver has unmapped only a part of what it was asked for
    let there = |r: &Region| live.mappings.get(&r.base).is_some_and(|m| (m.len, m.access) == (r.size, READ_WRITE));
    let whole: HashMap<(u64, u64), u64> = st
        .memory
        .regions()
        .filter_map(|r| match r.kind {
            RegionKind::Mapped { off, access: READ_WRITE, .. } if there(r) => Some(((off, r.size), r.base)),
            _ => None,
        })
        .collect();
    let handles: Vec<_> = st.memory.vmm().handles().map(|(h, p)| (h, p.off, p.len)).collect();
    for (h, off, len) in handles {
        let Some(&(real, _)) = live.physical.get(&h) else { continue };
        if whose == Whose::Own && live.lent.contains_key(&real) {
            continue;
        }
        let va = match whole.get(&(off, len)) {
            Some(&va) => va,
            None => live.open_window(d, real, len)?,
        };
        trips.push(Trip { device: va, host: st.memory.backing()?.at(off) as u64, len });
    }
    Ok(())
}

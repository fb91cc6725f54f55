//! What travels between the host backing and a claimed card: the arena, and the app's own physical handles.
//!
//! A handle's bytes are its own, whether it is mapped or not: one that no mapping reaches as a whole is looked at through
//! a window, a mapping of ours that lasts for one trip.
use super::live::Live;
use std::collections::HashMap;
use zerogpu_abi::*;
use zerogpu_below::physical::{close_window, open_window, READ_WRITE};
use zerogpu_below::{copy, Driver, Pinning, Trip, Way};
use zerogpu_device::memory::RegionKind;
use zerogpu_device::runtime::State;

/// Whose bytes travel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// All.
    All,
    /// Those in memory of our own: a broker moves what it has lent.
    Own,
}

/// Moves bytes one way; returns how many. Physical memory and mappings exist, nothing runs on the card.
pub(super) fn travel(live: &Live, d: &Driver, st: &mut State, way: Way, whose: Whose) -> Res<u64> {
    let mut trips = Vec::new();
    for (va, len) in st.memory.in_use() {
        let host = st.memory.arena_host(va)? as u64;
        let parts = if whose == Whose::All { vec![(va, len)] } else { live.own_parts(va, len) };
        trips.extend(parts.into_iter().map(|(at, len)| Trip { device: at, host: host + (at - va), len }));
    }
    let mut windows = Vec::new();
    let moved = own_memory(live, d, st, whose, &mut trips, &mut windows)
        .and_then(|()| copy(d, way, &trips, Pinning::Transient))
        .map(|copied| copied.bytes);
    // each is closed, also behind one that could not be
    let mut closed = Ok(());
    for (va, len) in windows {
        closed = closed.and(close_window(d, va, len));
    }
    let moved = moved?;
    closed.map(|()| moved)
}

/// The app's physical handles, each once, however often it is mapped.
fn own_memory(
    live: &Live,
    d: &Driver,
    st: &mut State,
    whose: Whose,
    trips: &mut Vec<Trip>,
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
        if whose == Whose::Own && live.lent.contains_key(&real) {
            continue;
        }
        let va = match whole.get(&(off, len)) {
            Some(&va) => va,
            None => {
                let va = open_window(d, live.device, real, len)?;
                windows.push((va, len));
                va
            }
        };
        trips.push(Trip { device: va, host: st.memory.backing()?.at(off) as u64, len });
    }
    Ok(())
}

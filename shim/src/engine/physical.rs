//! Physical memory, mappings and pins of a claim: what the driver below holds for the process, and how it is let go.
use super::claim::name;
use super::live::Live;
use super::{locked, Engine};
use crate::report;
use std::sync::atomic::Ordering;
use zerogpu_abi::*;
use zerogpu_below::physical::{self, READ_WRITE};
use zerogpu_below::{ok, twice, Driver};
use zerogpu_protocol::Range;

/// Slabs of the arena have this many bytes at most: 64 of them map 16 GiB in 4 ms (recorded).
pub(super) const LARGEST: u64 = 256 << 20;

/// A mapping of the app that exists for real, with what it takes to make it again.
#[derive(Clone, Copy)]
pub(super) struct Mapping {
    pub(super) len: u64,
    /// The driver's handle, and where in it the mapping begins.
    handle: u64,
    offset: u64,
    /// 0 none, 1 read, 3 read and write.
    pub(super) access: u32,
}

impl Engine {
    /// Host memory is about to be punched (`off`: where in the backing) or unmapped, which must not be under a registration, neither
    /// of this process nor of a broker: the card would go on using the pages that were there. The state's lock is held.
    pub(super) fn lose(&self, at: u64, len: u64, off: Option<u64>) -> Res {
        if locked(&self.live).is_registered(at, len) {
            self.end_registrations(at, len)?;
        }
        let Some(off) = off else { return Ok(()) };
        if let Some(unchanged) = &mut locked(&self.live).unchanged {
            unchanged.forget(off, len);
        }
        if let Some(lender) = &self.lender {
            lender.forget(Range::new(off, len));
        }
        Ok(())
    }

    fn end_registrations(&self, at: u64, len: u64) -> Res {
        if !self.claimed.load(Ordering::Acquire) || self.lost.load(Ordering::Acquire) != 0 {
            // no call may reach the driver; a park has told of what is left
            report::explain(&format!("{len} bytes of freed host memory are kept, since they are still page-locked"));
            return Err(CUresult::NOT_READY);
        }
        self.bind()?;
        let d = self.driver()?;
        let ended = locked(&self.live).end_registrations(d, at, len);
        ended.inspect_err(|&e| {
            report::error(&format!(
                "the driver keeps host memory page-locked that the program has freed ({}): {len} bytes stay in use until it lets \
                 go; end the program if they stay",
                name(e)
            ));
        })
    }
}

impl Live {
    /// Whether a registration that is to end, and has not, has a byte of a range.
    pub(super) fn is_registered(&self, at: u64, len: u64) -> bool {
        self.leaked.touches(at, len) || !self.stale_within(at, len).is_empty()
    }

    fn end_registrations(&mut self, d: &Driver, at: u64, len: u64) -> Res {
        let leaked = self.leaked.end_within(d, at, len);
        let stale = self.stale_within(at, len);
        stale.into_iter().fold(leaked, |ended, pin| ended.and(self.unpin(d, pin)))
    }

    /// Bytes of physical memory that the process holds.
    pub(super) fn bytes(&self) -> u64 {
        let arena: u64 = self.extents.values().chain(self.stuck.values()).map(|(len, _)| len).sum();
        arena + self.physical.values().map(|(_, len)| len).sum::<u64>()
    }

    /// Has the trace show them, from now on.
    pub(super) fn note_bytes(&self) {
        if zerogpu_trace::on() {
            zerogpu_trace::counter("bytes on the card", self.bytes());
        }
    }

    /// Backs a range of the arena with physical memory, where it has none yet: all of it, or none.
    pub(super) fn grow(&mut self, d: &Driver, va: u64, len: u64) -> Res {
        let mut added = Vec::new();
        for (at, n) in self.gaps(va, len) {
            let mut done = 0;
            while done < n {
                let part = (n - done).min(LARGEST);
                if let Err(e) = self.add_extent(d, at + done, part) {
                    // what a program asks for in vain must not be missing to others, or to its next, smaller wish
                    for at in added {
                        let _tried_again_at_the_park = self.drop_extent(d, at);
                    }
                    return Err(e);
                }
                added.push(at + done);
                done += part;
            }
        }
        Ok(())
    }

    fn gaps(&self, va: u64, len: u64) -> Vec<(u64, u64)> {
        let (mut at, end) = (va, va + len);
        let mut gaps = Vec::new();
        let first = self.extents.range(..=va).next_back().map_or(va, |(&s, _)| s);
        for (&start, &(size, _)) in self.extents.range(first..end) {
            if start + size <= at {
                continue;
            }
            if start > at {
                gaps.push((at, start - at));
            }
            at = start + size;
        }
        if at < end {
            gaps.push((at, end - at));
        }
        gaps
    }

    fn add_extent(&mut self, d: &Driver, at: u64, len: u64) -> Res {
        if !self.stuck.is_empty() {
            // a broker lends no memory twice
            let unmapped = self.unmap_stuck(d);
            self.give_back();
            if self.stuck.range(..at + len).next_back().is_some_and(|(&start, (n, _))| start + n > at) {
                return unmapped.and(Err(CUresult::OUT_OF_MEMORY));
            }
        }
        let handle = self.obtain(d, Range::new(at - crate::start::ARENA, len))?;
        if let Err(e) = physical::map(d, at, len, handle, 0) {
            self.end_lent(handle);
            self.unmapped.push(handle);
            let _first_error_counts = self.release_unmapped(d);
            return Err(e);
        }
        if let Err(e) = physical::set_access(d, self.device, at, len, READ_WRITE) {
            self.stuck.insert(at, (len, handle));
            let _first_error_counts = self.unmap_stuck(d);
            return Err(e);
        }
        self.extents.insert(at, (len, handle));
        Ok(())
    }

    /// Unmaps and releases what no claim may use; what is refused is tried again at the next call.
    pub(super) fn unmap_stuck(&mut self, d: &Driver) -> Res {
        let mut result = Ok(());
        for (at, (len, handle)) in self.stuck.clone() {
            let unmapped = physical::unmap(d, at, len);
            if unmapped.is_ok() {
                self.stuck.remove(&at);
                self.end_lent(handle);
                self.unmapped.push(handle);
            }
            result = result.and(unmapped);
        }
        result.and(self.release_unmapped(d))
    }

    /// A window to a whole handle, until all are closed.
    pub(super) fn open_window(&mut self, d: &Driver, handle: u64, len: u64) -> Res<u64> {
        let va = physical::reserve(d, len)?;
        if let Err(e) = physical::map(d, va, len, handle, 0) {
            let _first_error_counts = physical::free_addresses(d, va, len);
            return Err(e);
        }
        self.windows.insert(va, len);
        physical::set_access(d, self.device, va, len, READ_WRITE).map(|()| va)
    }

    /// Closes all windows; what is refused is tried again at the next call. Addresses alone are nothing of the card's.
    pub(super) fn close_windows(&mut self, d: &Driver) -> Res {
        let mut result = Ok(());
        self.windows.retain(|&va, &mut len| {
            let closed = physical::unmap(d, va, len);
            if closed.is_ok() {
                let _stay_reserved = physical::free_addresses(d, va, len);
            }
            result = result.and(closed);
            closed.is_err()
        });
        result
    }

    /// Lets go of the extents that lie wholly in a range; others stay until the park.
    pub(super) fn shrink(&mut self, d: &Driver, va: u64, len: u64) -> Res {
        let inside: Vec<u64> =
            self.extents.range(va..va + len).filter(|(&s, &(n, _))| s + n <= va + len).map(|(&s, _)| s).collect();
        inside.into_iter().try_for_each(|at| self.drop_extent(d, at))
    }

    /// Unmaps and releases an extent; one that could not be let go is kept in the table, to be tried again.
    pub(super) fn drop_extent(&mut self, d: &Driver, at: u64) -> Res {
        let Some(&(len, handle)) = self.extents.get(&at) else { return Ok(()) };
        physical::unmap(d, at, len)?;
        // from here on the addresses are free, whatever becomes of the memory
        self.extents.remove(&at);
        self.end_lent(handle);
        self.unmapped.push(handle);
        self.release_unmapped(d)
    }

    /// Releases memory that nothing maps; what is refused is tried again at the next call.
    pub(super) fn release_unmapped(&mut self, d: &Driver) -> Res {
        let mut result = Ok(());
        self.unmapped.retain(|&handle| {
            let released = physical::release(d, handle);
            result = result.and(released);
            released.is_err()
        });
        result
    }

    /// Memory of the device, or of the host where the app asked for that (NCCL does).
    pub(super) fn create(&mut self, d: &Driver, physical: u64, slab: Range, location: CUmemLocation) -> Res {
        let handle = match location.kind {
            CUmemLocation::DEVICE => self.obtain(d, slab)?,
            _ => physical::create_at(d, location, slab.len)?,
        };
        self.physical.insert(physical, (handle, slab.len));
        Ok(())
    }

    pub(super) fn destroy(&mut self, d: &Driver, physical: u64) -> Res {
        let Some(&(handle, _)) = self.physical.get(&physical) else { return Ok(()) };
        self.physical.remove(&physical);
        self.end_lent(handle);
        self.unmapped.push(handle);
        self.release_unmapped(d)
    }

    pub(super) fn map(&mut self, d: &Driver, va: u64, len: u64, physical: u64, offset: u64) -> Res {
        let &(handle, _) = self.physical.get(&physical).ok_or(CUresult::INVALID_VALUE)?;
        physical::map(d, va, len, handle, offset)?;
        self.mappings.insert(va, Mapping { len, handle, offset, access: 0 });
        Ok(())
    }

    /// Unmaps the app's mappings in a range: all, or as far as the driver lets them be made again none.
    pub(super) fn unmap(&mut self, d: &Driver, va: u64, len: u64) -> Res {
        let inside: Vec<(u64, Mapping)> = self.mappings.range(va..va + len).map(|(&at, &m)| (at, m)).collect();
        for (n, &(at, m)) in inside.iter().enumerate() {
            if let Err(e) = physical::unmap(d, at, m.len) {
                // the app is told that nothing has ended
                inside[..n].iter().for_each(|&(at, m)| self.map_again(d, at, m));
                return Err(e);
            }
            self.mappings.remove(&at);
        }
        Ok(())
    }

    /// Makes a mapping again that has just ended. One that the driver refuses is missing until the next claim; its bytes are
    /// brought home all the same, see `cargo`.
    fn map_again(&mut self, d: &Driver, at: u64, m: Mapping) {
        let access = |&access: &u32| access != 0 && physical::set_access(d, self.device, at, m.len, access).is_ok();
        if physical::map(d, at, m.len, m.handle, m.offset).is_ok() {
            let access = Some(m.access).filter(access).unwrap_or(0);
            self.mappings.insert(at, Mapping { access, ..m });
        }
    }

    /// Sets the access of the mappings that fill a range.
    pub(super) fn access(&mut self, d: &Driver, va: u64, len: u64, flags: u32) -> Res {
        physical::set_access(d, self.device, va, len, flags)?;
        self.mappings.range_mut(va..va + len).for_each(|(_, m)| m.access = flags);
        Ok(())
    }

    /// Ends what an earlier claim could not end of a context that stayed, but for memory that is still page-locked. One that the driver
    /// refuses is in nobody's way where its memory is `kept`; else the card would use pages that may be there no more.
    pub(super) fn unpin_others(&mut self, d: &Driver, wanted: &[(u64, u64, u32)], kept: impl Fn(u64) -> bool) -> Res {
        let stays = |(&at, &len): (&u64, &u64)| {
            !self.stale_pins.contains(&at) && wanted.iter().any(|want| (want.0, want.1) == (at, len))
        };
        let others: Vec<u64> = self.pins.iter().filter(|pin| !stays(*pin)).map(|(&at, _)| at).collect();
        let mut result = Ok(());
        for at in others {
            let ended = self.unpin(d, at);
            result = result.and(if kept(at) { Ok(()) } else { ended });
        }
        result
    }

    /// Page-locks host memory, unless an earlier claim did and could not end that.
    pub(super) fn pin(&mut self, d: &Driver, at: u64, len: u64, flags: u32) -> Res {
        for stale in self.stale_within(at, len) {
            // the card would go on using the pages that were there
            self.unpin(d, stale)?;
        }
        if self.pins.get(&at) == Some(&len) {
            return Ok(());
        }
        // SAFETY: memory of the process that the app allocated or registered for this.
        ok(unsafe { (d.cuMemHostRegister_v2)(at as *mut _, len as usize, flags) })?;
        self.pins.insert(at, len);
        Ok(())
    }

    /// The stale registrations that have a byte of a range.
    fn stale_within(&self, at: u64, len: u64) -> Vec<u64> {
        let end = at.saturating_add(len);
        let reaches = |&&stale: &&u64| self.pins.get(&stale).is_some_and(|n| stale.saturating_add(*n) > at);
        self.stale_pins.range(..end).filter(reaches).copied().collect()
    }

    /// The app gives back memory that is page-locked: if the driver keeps it, it is stale.
    pub(super) fn end_pin(&mut self, d: &Driver, at: u64) -> Res {
        self.outdate_pin(at);
        self.unpin(d, at)
    }

    /// Notes that the app gave back the memory of a registration, which is in place as long as the driver keeps it.
    pub(super) fn outdate_pin(&mut self, at: u64) {
        if self.pins.contains_key(&at) {
            self.stale_pins.insert(at);
        }
    }

    pub(super) fn unpin(&mut self, d: &Driver, at: u64) -> Res {
        if !self.pins.contains_key(&at) {
            return Ok(());
        }
        // SAFETY: registered by `pin`.
        unsafe { twice(|| (d.cuMemHostUnregister)(at as *mut _)) }?;
        self.pins.remove(&at);
        self.stale_pins.remove(&at);
        Ok(())
    }
}

//! Events: when a stream passed a point.
use crate::handle::{self, Kind};
use crate::runtime::State;
use std::sync::atomic::Ordering;
use zerogpu_abi::{CUcontext, CUevent, CUresult, Res};

/// CU_EVENT_DISABLE_TIMING.
const DISABLE_TIMING: u32 = 2;
/// CU_EVENT_INTERPROCESS, which needs DISABLE_TIMING.
const INTERPROCESS: u32 = 4;

/// An event.
pub struct Event {
    /// The context it belongs to.
    pub ctx: CUcontext,
    /// CU_EVENT_* flags.
    pub flags: u32,
    /// When its last record is passed, nanoseconds of [`crate::exec::now`]; None: never recorded.
    pub done_at: Option<u64>,
    /// The last host function before its last record; 0: none.
    pub ticket: u64,
    /// The capture, and the nodes in it, that its last record stands for.
    pub captured: Option<(u64, Vec<usize>)>,
}

/// In an event's slot: its last record may have been in a capture. Else there is the claim's epoch in which it was.
pub const CAPTURED: u64 = 1 << 63;

/// Whether an event certainly stands for no capture, without a lock.
///
/// # Errors
/// INVALID_HANDLE: there is no such event.
pub fn is_plain(event: CUevent) -> Res<bool> {
    let slot = handle::slot(event.0).filter(|_| handle::is(event.0, Kind::Event)).ok_or(CUresult::INVALID_HANDLE)?;
    Ok(slot.aux.load(Ordering::Acquire) & CAPTURED == 0)
}

impl Event {
    /// Whether it keeps times.
    pub fn timed(&self) -> bool {
        self.flags & DISABLE_TIMING == 0
    }
}

impl State {
    /// Makes an event in the current context.
    ///
    /// # Errors
    /// Those of [`State::current`]; INVALID_VALUE: unknown flags, or CU_EVENT_INTERPROCESS without
    /// CU_EVENT_DISABLE_TIMING; OUT_OF_MEMORY: no handle can be had.
    pub fn create_event(&mut self, flags: u32) -> Res<CUevent> {
        let ctx = self.current()?;
        if flags > 7 || flags & (INTERPROCESS | DISABLE_TIMING) == INTERPROCESS {
            return Err(CUresult::INVALID_VALUE);
        }
        let h = self.handle(Kind::Event)?;
        self.events.insert(h, Event { ctx, flags, done_at: None, ticket: 0, captured: None });
        Ok(CUevent(h))
    }

    /// The event of a handle.
    ///
    /// # Errors
    /// INVALID_HANDLE: there is none.
    pub fn event(&mut self, event: CUevent) -> Res<&mut Event> {
        self.events.get_mut(&event.0).ok_or(CUresult::INVALID_HANDLE)
    }

    /// Fails unless an event can be recorded in a stream: both are of one context.
    ///
    /// # Errors
    /// INVALID_HANDLE: they are not, or there is no such event or stream.
    pub fn recordable(&mut self, stream: usize, event: CUevent) -> Res {
        let of_stream = self.streams.get(&stream).map(|s| s.ctx);
        if of_stream == Some(self.event(event)?.ctx) {
            Ok(())
        } else {
            Err(CUresult::INVALID_HANDLE)
        }
    }

    /// Ends an event.
    ///
    /// # Errors
    /// INVALID_HANDLE: there is none.
    pub fn destroy_event(&mut self, event: CUevent) -> Res {
        self.events.remove(&event.0).ok_or(CUresult::INVALID_HANDLE)?;
        self.end(Kind::Event, event.0);
        Ok(())
    }

    /// Milliseconds between two recorded events, from the recorded times.
    ///
    /// # Errors
    /// INVALID_HANDLE: there is no such event, or one keeps no times or was never recorded; NOT_READY: one is not
    /// passed yet.
    pub fn elapsed(&mut self, start: CUevent, end: CUevent, now: u64) -> Res<f32> {
        let (a, b) = (self.event(start)?.time()?, self.event(end)?.time()?);
        let ticket = crate::host::both(self.event(start)?.ticket, self.event(end)?.ticket);
        if !crate::host::passed(ticket) {
            return Err(CUresult::NOT_READY);
        }
        if a > now || b > now {
            return Err(CUresult::NOT_READY);
        }
        Ok((b as f64 - a as f64) as f32 / 1e6)
    }
}

impl Event {
    fn time(&self) -> Res<u64> {
        if self.timed() {
            self.done_at.ok_or(CUresult::INVALID_HANDLE)
        } else {
            Err(CUresult::INVALID_HANDLE)
        }
    }
}

//! What may not be done while streams capture (cuda.h, cuThreadExchangeStreamCaptureMode; CUDA programming guide,
//! "Prohibited and Unhandled Operations"): the call fails and the captures concerned are invalid.
use super::capture::{none, Capture, GLOBAL, RELAXED};
use super::Graphs;
use crate::objects::StreamKind;
use crate::runtime::State;
use crate::thread;
use zerogpu_abi::*;

impl Capture {
    /// Whether the calling thread's potentially unsafe calls could break this capture (cuda.h,
    /// cuThreadExchangeStreamCaptureMode).
    fn is_endangered(&self) -> bool {
        let mine = self.thread == thread::id();
        match thread::capture_mode() {
            RELAXED => false,
            _ if mine => self.mode != RELAXED,
            GLOBAL => self.mode == GLOBAL,
            _ => false,
        }
    }
}

impl Graphs {
    /// Invalidates the active captures that `which` names; any there: fails with `code`.
    fn break_if(&mut self, which: impl Fn(&Capture) -> bool, code: CUresult) -> Res {
        let mut broken = false;
        for c in self.captures.values_mut().filter(|c| c.active && which(c)) {
            c.active = false;
            broken = true;
        }
        if broken {
            Err(code)
        } else {
            Ok(())
        }
    }
}

impl State {
    /// Refuses what waits for a whole context while one of its streams captures: STREAM_CAPTURE_UNSUPPORTED, and those
    /// captures are invalid. Modes don't matter: a capturing stream can't be waited for (programming guide).
    pub fn forbid_in_capture(&mut self, ctx: CUcontext) -> Res {
        if none() {
            return Ok(());
        }
        self.end_orphans();
        let streams = &self.streams;
        self.graphs.break_if(|c| c.has(streams, |s| s.ctx == ctx), CUresult::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Refuses what a capture would not see (allocations, module loads) as far as the modes of the thread and of the
    /// captures ask: STREAM_CAPTURE_UNSUPPORTED, and those captures are invalid.
    pub fn forbid_unsafe(&mut self) -> Res {
        if none() {
            return Ok(());
        }
        self.end_orphans();
        self.graphs.break_if(Capture::is_endangered, CUresult::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Refuses work on the legacy stream of a context while a blocking stream of it captures: STREAM_CAPTURE_IMPLICIT,
    /// and those captures are invalid.
    pub fn legacy_in_capture(&mut self, ctx: CUcontext) -> Res {
        if none() {
            return Ok(());
        }
        self.end_orphans();
        let streams = &self.streams;
        self.graphs.break_if(|c| c.blocks(streams, ctx), CUresult::STREAM_CAPTURE_IMPLICIT)
    }

    /// Refuses what has no node on a capturing stream: STREAM_CAPTURE_UNSUPPORTED, and the capture is invalid.
    pub fn refuse_in_capture(&mut self, stream: usize) -> Res {
        if none() {
            return Ok(());
        }
        self.end_orphans();
        match self.streams.get(&stream).and_then(|s| s.capture) {
            Some(id) => {
                self.graphs.capture(id)?;
                self.graphs.refuse(id, CUresult::STREAM_CAPTURE_UNSUPPORTED)
            }
            None => Ok(()),
        }
    }

    /// Refuses to wait for a stream, or to query it: a capturing one always, the legacy one while it would have to wait
    /// for a capture, others as [`State::forbid_unsafe`] says.
    pub fn sync_in_capture(&mut self, stream: usize) -> Res {
        if none() {
            return Ok(());
        }
        self.refuse_in_capture(stream)?;
        let known = self.streams.get(&stream).ok_or(CUresult::INVALID_HANDLE)?;
        if known.kind == StreamKind::Legacy {
            self.legacy_in_capture(known.ctx)?;
        }
        self.forbid_unsafe()
    }

    /// Refuses to wait for or query an event that was last recorded in a capture: CAPTURED_EVENT, and the capture is
    /// invalid.
    pub fn event_in_capture(&mut self, event: CUevent) -> Res {
        match self.event(event)?.captured {
            Some((id, _)) => self.graphs.refuse(id, CUresult::CAPTURED_EVENT),
            None => Ok(()),
        }
    }
}

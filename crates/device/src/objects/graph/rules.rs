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
    /// Refuses what waits for a whole context while one of its streams captures. Modes don't matter: a capturing stream
    /// can't be waited for (programming guide).
    ///
    /// # Errors
    /// STREAM_CAPTURE_UNSUPPORTED: one does; those captures are invalid now.
    pub fn forbid_in_capture(&mut self, ctx: CUcontext) -> Res {
        if none() {
            return Ok(());
        }
        self.end_orphans();
        let streams = &self.streams;
        self.graphs.break_if(|c| c.has(streams, |s| s.ctx == ctx), CUresult::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Refuses what a capture would not see (allocations, module loads) as far as the modes of the thread and of the
    /// captures ask for it.
    ///
    /// # Errors
    /// STREAM_CAPTURE_UNSUPPORTED: they ask for it; those captures are invalid now.
    pub fn forbid_unsafe(&mut self) -> Res {
        if none() {
            return Ok(());
        }
        self.end_orphans();
        self.graphs.break_if(Capture::is_endangered, CUresult::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Refuses work on the legacy stream of a context while a blocking stream of it captures.
    ///
    /// # Errors
    /// STREAM_CAPTURE_IMPLICIT: one does; those captures are invalid now.
    pub fn legacy_in_capture(&mut self, ctx: CUcontext) -> Res {
        if none() {
            return Ok(());
        }
        self.end_orphans();
        let streams = &self.streams;
        self.graphs.break_if(|c| c.blocks(streams, ctx), CUresult::STREAM_CAPTURE_IMPLICIT)
    }

    /// Refuses what has no node on a capturing stream.
    ///
    /// # Errors
    /// STREAM_CAPTURE_UNSUPPORTED: it captures, and the capture is invalid now; STREAM_CAPTURE_INVALIDATED: it was
    /// before.
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
    ///
    /// # Errors
    /// While anything captures: those of [`State::refuse_in_capture`] and [`State::forbid_unsafe`], for the legacy
    /// stream also of [`State::legacy_in_capture`]; INVALID_HANDLE: there is no such stream.
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

    /// Refuses to wait for or query an event that was last recorded in a capture.
    ///
    /// # Errors
    /// INVALID_HANDLE: there is no such event; CAPTURED_EVENT: it was, and the capture is invalid now.
    pub fn event_in_capture(&mut self, event: CUevent) -> Res {
        match self.event(event)?.captured {
            Some((id, _)) => self.graphs.refuse(id, CUresult::CAPTURED_EVENT),
            None => Ok(()),
        }
    }
}

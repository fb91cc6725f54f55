//! Streams: created ones, and the default ones of a context (legacy, and one a thread).
use crate::handle::{self, Kind};
use crate::runtime::{contained, lock, State};
use crate::thread;
use std::sync::atomic::Ordering;
use std::sync::OnceLock;
use zerogpu_abi::{CUcontext, CUresult, CUstream, Res};

/// Which of the default streams, or a created one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamKind {
    /// The default stream of a context, which orders itself with the others.
    Legacy,
    /// The default stream of one thread.
    PerThread,
    /// Of cuStreamCreate.
    Created,
}

/// A stream.
pub struct Stream {
    /// The context it belongs to.
    pub ctx: CUcontext,
    /// Default or created.
    pub kind: StreamKind,
    /// CU_STREAM_* flags.
    pub flags: u32,
    /// 0 (least) to -5 (greatest), as asked for and clamped.
    pub priority: i32,
    /// `cuStreamGetId`.
    pub id: u64,
    /// The capture it takes part in.
    pub capture: Option<u64>,
    /// When its work so far is done: nanoseconds of [`crate::exec::now`].
    pub busy_until: u64,
    /// Its last host function; 0: none.
    pub host_ticket: u64,
    /// Access policy and other attributes that were set, by id.
    pub attributes: Vec<(u32, zerogpu_abi::CUlaunchAttributeValue)>,
}

/// Priorities (driver 580, recorded): least 0, greatest -5.
pub const PRIORITIES: (i32, i32) = (0, -5);

impl Stream {
    pub(crate) fn new(ctx: CUcontext, kind: StreamKind, flags: u32, priority: i32, id: u64) -> Self {
        Self { ctx, kind, flags, priority, id, capture: None, busy_until: 0, host_ticket: 0, attributes: Vec::new() }
    }
}

impl State {
    /// Makes a stream in the current context.
    ///
    /// # Errors
    /// Those of [`State::current`]; INVALID_VALUE: unknown flags; OUT_OF_MEMORY: no handle can be had.
    pub fn create_stream(&mut self, flags: u32, priority: i32) -> Res<CUstream> {
        let ctx = self.current()?;
        if flags > 1 {
            return Err(CUresult::INVALID_VALUE);
        }
        let (h, id) = (self.handle(Kind::Stream)?, self.new_id());
        let priority = priority.clamp(PRIORITIES.1, PRIORITIES.0);
        self.streams.insert(h, Stream::new(ctx, StreamKind::Created, flags, priority, id));
        Ok(CUstream(h))
    }

    /// Ends a created stream.
    ///
    /// # Errors
    /// INVALID_HANDLE: there is none, or it is a default stream.
    pub fn destroy_stream(&mut self, stream: CUstream) -> Res {
        match self.streams.get(&stream.0) {
            Some(s) if s.kind == StreamKind::Created => {}
            _ => return Err(CUresult::INVALID_HANDLE),
        }
        self.end_stream(stream.0);
        Ok(())
    }

    /// The stream's own handle: NULL and 1 are the context's legacy stream, 2 the thread's.
    ///
    /// # Errors
    /// INVALID_HANDLE: there is none; for a default stream those of [`State::current`], for the thread's also those of
    /// [`State::per_thread_stream`].
    pub fn stream(&mut self, stream: CUstream) -> Res<usize> {
        match stream.0 {
            0 | 1 => {
                let ctx = self.current()?;
                Ok(self.context(ctx)?.legacy)
            }
            2 => {
                let ctx = self.current()?;
                self.per_thread_stream(ctx)
            }
            h if self.streams.contains_key(&h) => Ok(h),
            _ => Err(CUresult::INVALID_HANDLE),
        }
    }

    /// The calling thread's default stream of a context, made at its first use.
    ///
    /// # Errors
    /// Those of [`State::context`]; OUT_OF_MEMORY: no handle can be had.
    pub fn per_thread_stream(&mut self, ctx: CUcontext) -> Res<usize> {
        let me = thread::id();
        let c = self.context(ctx)?;
        if let Some(&h) = c.per_thread.get(&me) {
            return Ok(h);
        }
        // driver 580, recorded: the first one has id 14
        let first = c.per_thread.is_empty() && c.id == 1;
        let id = if first { 14 } else { self.new_id() };
        let h = self.handle(Kind::Stream)?;
        self.streams.insert(h, Stream::new(ctx, StreamKind::PerThread, 0, 0, id));
        self.context(ctx)?.per_thread.insert(me, h);
        watch_this_thread(me);
        Ok(h)
    }

    /// A thread has ended: so do its default streams.
    fn end_thread(&mut self, thread: u64) {
        let of: Vec<usize> = self.contexts.values_mut().filter_map(|c| c.per_thread.remove(&thread)).collect();
        for h in of {
            self.end_stream(h);
        }
    }

    /// Ends a stream, and with it the capture that it takes part in.
    pub(super) fn end_stream(&mut self, h: usize) {
        if let Some(s) = self.streams.remove(&h) {
            if let Some(capture) = s.capture {
                self.graphs.invalidate(capture);
            }
            self.leave_to_legacy(&s);
        }
        self.end(Kind::Stream, h);
    }

    /// The legacy stream waits for the work of a blocking stream that has ended, too.
    fn leave_to_legacy(&mut self, ended: &Stream) {
        let legacy = self.contexts.get(&ended.ctx.0).map(|c| c.legacy).filter(|_| ended.flags & 1 == 0);
        if let Some(legacy) = legacy.and_then(|h| self.streams.get_mut(&h)) {
            legacy.host_ticket = crate::host::both(legacy.host_ticket, ended.host_ticket);
        }
    }

    /// Marks whether a stream captures, where lock-free readers see it.
    pub fn set_capture(&mut self, stream: usize, capture: Option<u64>) {
        if let Some(s) = self.streams.get_mut(&stream) {
            s.capture = capture;
        }
        if let Some(slot) = handle::slot(stream) {
            slot.aux.store(capture.unwrap_or(0), Ordering::Release);
        }
    }
}

/// The key whose destructor tells that a thread with default streams has ended.
static KEY: OnceLock<Option<libc::pthread_key_t>> = OnceLock::new();

extern "C" fn thread_ended(thread: *mut libc::c_void) {
    contained(|| {
        // in a child of fork there is nothing to end
        if let Ok(mut st) = lock() {
            st.end_thread(thread as u64);
        }
    });
}

fn watch_this_thread(id: u64) {
    let key = KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: writes the key; the destructor is a function of this library, which is never unloaded.
        (unsafe { libc::pthread_key_create(&mut key, Some(thread_ended)) } == 0).then_some(key)
    });
    if let Some(key) = *key {
        // SAFETY: a key that was made; the value is a number, never dereferenced.
        unsafe { libc::pthread_setspecific(key, id as *const libc::c_void) };
    }
}

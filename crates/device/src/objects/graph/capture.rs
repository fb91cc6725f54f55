//! Stream capture: commands of streams become nodes of a graph.
//!
//! A capture begins in one stream, its origin; a stream that waits for an event recorded in it joins. What a capture
//! can't express invalidates it: its streams then refuse work until `cuStreamEndCapture` on the origin. Rules are those of
//! cuda.h and the CUDA programming guide.
use super::attr::{self, refuse_updatable};
use super::{Edge, Graphs, Work};
use crate::handle;
use crate::objects::{Stream, StreamKind, CAPTURED};
use crate::op::{HostCall, Launch, Op, Owned, OwnedLaunch};
use crate::runtime::{Map, State};
use crate::thread;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use zerogpu_abi::*;

/// Captures that have begun and not ended, so that the many who ask can be told "none" without a lock.
pub static CAPTURES: AtomicU32 = AtomicU32::new(0);

/// CUstreamCaptureMode, and modes of threads.
pub(super) const GLOBAL: u32 = 0;
pub(super) const RELAXED: u32 = 2;
/// CU_EVENT_RECORD_EXTERNAL.
const RECORD_EXTERNAL: u32 = 1;
/// CU_STREAM_NON_BLOCKING.
const NON_BLOCKING: u32 = 1;

/// A capture.
pub struct Capture {
    graph: usize,
    /// The graph is the app's own (`cuStreamBeginCaptureToGraph`).
    given: bool,
    origin: usize,
    pub(super) mode: u32,
    pub(super) thread: u64,
    /// Not invalidated.
    pub(super) active: bool,
    /// The origin and the streams that joined.
    members: Vec<Member>,
}

/// A stream in a capture.
struct Member {
    stream: usize,
    /// What its next node waits for.
    deps: Vec<Edge>,
    /// `deps` as the app was last given them.
    shown: (Vec<usize>, Vec<CUgraphEdgeData>),
}

impl Member {
    fn new(stream: usize, deps: Vec<Edge>) -> Self {
        Self { stream, deps, shown: Default::default() }
    }

    fn wait_for(&mut self, edges: &[Edge]) {
        for e in edges {
            if !self.deps.iter().any(|d| d.from == e.from) {
                self.deps.push(*e);
            }
        }
    }
}

impl Capture {
    fn member(&mut self, stream: usize) -> Res<&mut Member> {
        self.members.iter_mut().find(|m| m.stream == stream).ok_or(CUresult::STREAM_CAPTURE_INVALIDATED)
    }

    /// Whether one of its streams is such.
    pub(super) fn has(&self, streams: &Map<Stream>, such: impl Fn(&Stream) -> bool) -> bool {
        self.members.iter().any(|m| streams.get(&m.stream).is_some_and(&such))
    }

    /// Whether it has a stream that the legacy stream of a context waits for.
    pub(super) fn blocks(&self, streams: &Map<Stream>, ctx: CUcontext) -> bool {
        self.has(streams, |s| s.ctx == ctx && s.flags & NON_BLOCKING == 0)
    }
}

/// What `cuStreamGetCaptureInfo` tells.
pub struct Info {
    /// The capture's id, unique for the life of the process.
    pub id: u64,
    /// Whether it is not invalidated; only then is the rest of meaning.
    pub active: bool,
    /// The graph that it adds to.
    pub graph: CUgraph,
    /// What the stream's next node waits for: arrays that stay until the next such question on this stream.
    pub nodes: *const CUgraphNode,
    /// Parallel to `nodes`.
    pub ports: *const CUgraphEdgeData,
    /// Length of both.
    pub len: usize,
    /// Whether all edges wait for whole nodes.
    pub plain: bool,
}

impl Graphs {
    /// Invalidates a capture; its origin must end it.
    pub fn invalidate(&mut self, capture: u64) {
        if let Some(c) = self.captures.get_mut(&capture) {
            c.active = false;
        }
    }

    /// Whether a capture adds to this graph.
    pub(super) fn is_captured_to(&self, graph: usize) -> bool {
        self.captures.values().any(|c| c.graph == graph)
    }

    pub(super) fn refuse<T>(&mut self, capture: u64, code: CUresult) -> Res<T> {
        self.invalidate(capture);
        Err(code)
    }

    pub(super) fn capture(&mut self, id: u64) -> Res<&mut Capture> {
        match self.captures.get_mut(&id) {
            Some(c) if c.active => Ok(c),
            _ => Err(CUresult::STREAM_CAPTURE_INVALIDATED),
        }
    }

    /// All nodes that these depend on, themselves included.
    fn ancestors(&self, of: &[Edge]) -> HashSet<usize> {
        let mut seen = HashSet::new();
        let mut todo: Vec<usize> = of.iter().map(|e| e.from).collect();
        while let Some(n) = todo.pop() {
            if seen.insert(n) {
                todo.extend(self.nodes.get(&n).into_iter().flat_map(|n| n.deps.iter().map(|e| e.from)));
            }
        }
        seen
    }
}

/// Whether there is any capture at all, as every check asks first.
#[inline]
pub(super) fn none() -> bool {
    CAPTURES.load(Ordering::Acquire) == 0
}

impl State {
    /// Begins a capture in a stream, into a new graph or (`to`) behind nodes of the app's graph.
    ///
    /// # Errors
    /// Those of [`State::stream`]; STREAM_CAPTURE_UNSUPPORTED: the legacy stream (recorded); ILLEGAL_STATE: it captures
    /// already; INVALID_VALUE: unknown mode, no such graph, or edges from what is no node of it, twice from one, or by a
    /// port that it lacks; OUT_OF_MEMORY: no handle can be had.
    pub fn begin_capture(&mut self, stream: CUstream, mode: u32, to: Option<(CUgraph, Vec<Edge>)>) -> Res {
        self.end_orphans();
        let s = self.stream(stream)?;
        let known = self.streams.get(&s).ok_or(CUresult::INVALID_HANDLE)?;
        if mode > RELAXED {
            return Err(CUresult::INVALID_VALUE);
        }
        if known.kind == StreamKind::Legacy {
            return Err(CUresult::STREAM_CAPTURE_UNSUPPORTED);
        }
        if known.capture.is_some() {
            return Err(CUresult::ILLEGAL_STATE);
        }
        let given = to.is_some();
        let (graph, deps) = match to {
            Some((graph, deps)) => {
                self.graphs.graph(graph)?;
                self.graphs.check_edges(graph.0, &deps)?;
                (graph.0, deps)
            }
            None => (self.create_graph()?.0, Vec::new()),
        };
        self.graphs.last_capture += 1;
        let (id, members) = (self.graphs.last_capture, vec![Member::new(s, deps)]);
        let capture = Capture { graph, given, origin: s, mode, thread: thread::id(), active: true, members };
        self.graphs.captures.insert(id, capture);
        CAPTURES.fetch_add(1, Ordering::AcqRel);
        self.set_capture(s, Some(id));
        Ok(())
    }

    /// Ends the capture that began in a stream. An error outside: refused, the capture goes on. Inside: it has ended
    /// without a graph.
    ///
    /// # Errors
    /// Outside: those of [`State::stream`]; ILLEGAL_STATE: it does not capture; STREAM_CAPTURE_UNMATCHED: it is not the
    /// origin, and the capture is invalid now; STREAM_CAPTURE_WRONG_THREAD: another thread began it, not relaxed.
    /// Inside: STREAM_CAPTURE_INVALIDATED; STREAM_CAPTURE_UNJOINED: the origin does not wait for all of it.
    pub fn end_capture(&mut self, stream: CUstream) -> Res<Res<CUgraph>> {
        self.end_orphans();
        let s = self.stream(stream)?;
        let id = self.streams.get(&s).and_then(|s| s.capture).ok_or(CUresult::ILLEGAL_STATE)?;
        let c = self.graphs.captures.get(&id).ok_or(CUresult::ILLEGAL_STATE)?;
        if c.origin != s {
            return self.graphs.refuse(id, CUresult::STREAM_CAPTURE_UNMATCHED);
        }
        if c.mode != RELAXED && c.thread != thread::id() {
            return Err(CUresult::STREAM_CAPTURE_WRONG_THREAD);
        }
        let joined = c.members.iter().find(|m| m.stream == s).map(|m| self.graphs.ancestors(&m.deps));
        let joined = joined.unwrap_or_default();
        let unjoined = c.members.iter().flat_map(|m| &m.deps).any(|e| !joined.contains(&e.from));
        let error = match (c.active, unjoined) {
            (false, _) => Some(CUresult::STREAM_CAPTURE_INVALIDATED),
            (true, true) => Some(CUresult::STREAM_CAPTURE_UNJOINED),
            (true, false) => None,
        };
        let graph = c.graph;
        self.drop_capture(id, error.is_none());
        Ok(error.map_or(Ok(CUgraph(graph)), Err))
    }

    /// Takes a capture's streams out of it. Its graph ends too, unless it is wanted or the app's own.
    fn drop_capture(&mut self, id: u64, keep: bool) {
        let Some(c) = self.graphs.captures.remove(&id) else { return };
        CAPTURES.fetch_sub(1, Ordering::AcqRel);
        for m in &c.members {
            if self.streams.get(&m.stream).is_some_and(|s| s.capture == Some(id)) {
                self.set_capture(m.stream, None);
            }
        }
        if !keep && !c.given {
            self.drop_graph(c.graph);
        }
    }

    /// Ends captures whose origin has ended, as nobody else can.
    pub(super) fn end_orphans(&mut self) {
        if none() {
            return;
        }
        let streams = &self.streams;
        let alive = |id, c: &Capture| streams.get(&c.origin).is_some_and(|s| s.capture == Some(id));
        let orphans: Vec<u64> =
            self.graphs.captures.iter().filter(|&(&id, c)| !alive(id, c)).map(|(&id, _)| id).collect();
        for id in orphans {
            self.drop_capture(id, false);
        }
    }

    /// The stream's capture, if any.
    ///
    /// # Errors
    /// Those of [`State::stream`]; STREAM_CAPTURE_IMPLICIT: the legacy stream while a blocking stream of its context
    /// captures, without harm to the capture (cuda.h, cuStreamIsCapturing).
    pub fn capture_info(&mut self, stream: CUstream) -> Res<Option<Info>> {
        self.end_orphans();
        let s = self.stream(stream)?;
        let known = self.streams.get(&s).ok_or(CUresult::INVALID_HANDLE)?;
        let (ctx, kind, capture) = (known.ctx, known.kind, known.capture);
        if kind == StreamKind::Legacy && self.graphs.captures.values().any(|c| c.active && c.blocks(&self.streams, ctx))
        {
            return Err(CUresult::STREAM_CAPTURE_IMPLICIT);
        }
        let Some((id, c)) = capture.and_then(|id| Some((id, self.graphs.captures.get_mut(&id)?))) else {
            return Ok(None);
        };
        let (graph, active) = (CUgraph(c.graph), c.active);
        let m = c.member(s)?;
        m.shown = (m.deps.iter().map(|e| e.from).collect(), m.deps.iter().map(|e| e.port.data()).collect());
        let plain = m.deps.iter().all(|e| e.port.is_default());
        let (nodes, ports) = (m.shown.0.as_ptr().cast(), m.shown.1.as_ptr());
        Ok(Some(Info { id, active, graph, nodes, ports, len: m.deps.len(), plain }))
    }

    /// Adds to (or, `replace`, sets) what the next node of a capturing stream waits for.
    ///
    /// # Errors
    /// Those of [`State::stream`]; ILLEGAL_STATE: it does not capture; STREAM_CAPTURE_INVALIDATED: its capture is
    /// invalid; INVALID_VALUE: edges from what is no node of its graph, twice from one, or by a port that it lacks.
    pub fn update_capture_deps(&mut self, stream: CUstream, edges: &[Edge], replace: bool) -> Res {
        self.end_orphans();
        let s = self.stream(stream)?;
        let id = self.streams.get(&s).and_then(|s| s.capture).ok_or(CUresult::ILLEGAL_STATE)?;
        let graph = self.graphs.capture(id)?.graph;
        self.graphs.check_edges(graph, edges)?;
        let m = self.graphs.capture(id)?.member(s)?;
        if replace {
            m.deps.clear();
        }
        m.wait_for(edges);
        Ok(())
    }

    /// Captures a command of a capturing stream as a node. What can't be one invalidates the capture.
    ///
    /// # Errors
    /// STREAM_CAPTURE_INVALIDATED: the stream has no valid capture; STREAM_CAPTURE_UNSUPPORTED: it can't be a node;
    /// STREAM_CAPTURE_MERGE, STREAM_CAPTURE_ISOLATION: it waits for an event of another capture, of none that goes on;
    /// NOT_SUPPORTED: kernels are to update the node; INVALID_HANDLE: there is no such event; INVALID_VALUE: no such
    /// graph; those of [`State::pack_params`]; OUT_OF_MEMORY: no handle can be had.
    pub fn capture_op(&mut self, stream: usize, op: &Op) -> Res {
        self.end_orphans();
        let capture = self.streams.get(&stream).and_then(|s| s.capture);
        let id = capture.ok_or(CUresult::STREAM_CAPTURE_INVALIDATED)?;
        self.graphs.capture(id)?;
        match op {
            Op::Record(event) => self.mark_event(id, stream, *event),
            Op::Wait(event) => self.join(id, stream, *event),
            Op::Launch(l) => self.capture_launch(id, stream, l),
            Op::Graph(exec) => {
                let copy = self.graph_of_exec(*exec)?;
                self.capture_work(id, stream, Work::Child(copy))
            }
            Op::Host(HostCall::Callback { .. }) => self.graphs.refuse(id, CUresult::STREAM_CAPTURE_UNSUPPORTED),
            Op::Copy(c) if c.blocking => self.graphs.refuse(id, CUresult::STREAM_CAPTURE_UNSUPPORTED),
            Op::Fill(f) if f.blocking => self.graphs.refuse(id, CUresult::STREAM_CAPTURE_UNSUPPORTED),
            op => match super::node::static_op(op) {
                Some(op) => self.capture_work(id, stream, Work::plain(op)),
                None => self.graphs.refuse(id, CUresult::STREAM_CAPTURE_UNSUPPORTED),
            },
        }
    }

    /// Captures the record or the wait of an event as a node of its own (CU_EVENT_RECORD_EXTERNAL,
    /// CU_EVENT_WAIT_EXTERNAL): the event is then an ordinary one, recorded or waited for when the graph runs.
    ///
    /// # Errors
    /// INVALID_VALUE: it is neither; INVALID_HANDLE: there is no such event, or one of another context than the stream's
    /// is recorded; STREAM_CAPTURE_INVALIDATED: the stream has no valid capture; OUT_OF_MEMORY: no handle can be had.
    pub fn capture_external(&mut self, stream: usize, op: &Op) -> Res {
        let (Op::Record(event) | Op::Wait(event)) = *op else { return Err(CUresult::INVALID_VALUE) };
        self.end_orphans();
        match op {
            Op::Record(_) => self.recordable(stream, event)?,
            _ => self.event(event).map(|_| ())?,
        }
        let capture = self.streams.get(&stream).and_then(|s| s.capture);
        let id = capture.ok_or(CUresult::STREAM_CAPTURE_INVALIDATED)?;
        let op = super::node::static_op(op).ok_or(CUresult::INVALID_VALUE)?;
        self.capture_work(id, stream, Work::plain(op))
    }

    fn capture_work(&mut self, id: u64, stream: usize, work: Work) -> Res {
        let c = self.graphs.capture(id)?;
        let graph = CUgraph(c.graph);
        let deps = c.member(stream)?.deps.clone();
        let node = self.add_owned(graph, &deps, work)?;
        self.graphs.capture(id)?.member(stream)?.deps = vec![Edge::on(node.0)];
        Ok(())
    }

    fn capture_launch(&mut self, id: u64, stream: usize, l: &Launch) -> Res {
        let params = self.pack_params(l.func, &l.params)?;
        let mut attrs = l.attrs.to_vec();
        attrs.iter().try_for_each(|a| refuse_updatable(a.id, &a.value))?;
        let events: Vec<CUlaunchAttribute> = attrs.iter().filter(|a| is_event(a.id)).copied().collect();
        for a in &events {
            self.event(event_of(a))?;
        }
        // whole nodes are waited for instead, which is stronger
        attrs.retain(|a| a.id != attr::PROGRAMMATIC_SERIALIZATION && !is_event(a.id));
        // cuda.h: capture copies the stream's priority to the node
        let priority = self.streams.get(&stream).map_or(0, |s| s.priority);
        if priority != 0 && !attrs.iter().any(|a| a.id == attr::PRIORITY) {
            let mut words = [0; 8];
            words[0] = priority as u32 as u64;
            attrs.push(CUlaunchAttribute { id: attr::PRIORITY, pad: [0; 4], value: CUlaunchAttributeValue { words } });
        }
        let launch = OwnedLaunch {
            func: l.func,
            grid: l.grid,
            block: l.block,
            shared: l.shared,
            params,
            attrs,
            cooperative: l.cooperative,
        };
        self.capture_work(id, stream, Work::Command(Owned::Launch(launch)))?;
        for a in events {
            // the second word: flags of cuEventRecordWithFlags
            match a.value.words[1] as u32 & RECORD_EXTERNAL {
                0 => self.mark_event(id, stream, event_of(&a))?,
                _ => self.capture_work(id, stream, Work::plain(Op::Record(event_of(&a))))?,
            }
        }
        Ok(())
    }

    /// The event stands for what the stream waits for so far.
    fn mark_event(&mut self, id: u64, stream: usize, event: CUevent) -> Res {
        let nodes = self.graphs.capture(id)?.member(stream)?.deps.iter().map(|e| e.from).collect();
        self.event(event)?.captured = Some((id, nodes));
        if let Some(slot) = handle::slot(event.0) {
            slot.aux.store(CAPTURED, Ordering::Release);
        }
        Ok(())
    }

    /// A capturing stream waits for an event.
    fn join(&mut self, id: u64, stream: usize, event: CUevent) -> Res {
        let e = self.event(event)?;
        let never_recorded = e.done_at.is_none() && e.captured.is_none();
        match e.captured.clone() {
            Some((of, nodes)) if of == id => {
                let edges: Vec<Edge> = nodes.into_iter().map(Edge::on).collect();
                self.graphs.capture(id)?.member(stream)?.wait_for(&edges);
                Ok(())
            }
            Some((of, _)) if self.graphs.captures.contains_key(&of) => {
                self.graphs.invalidate(of);
                self.graphs.refuse(id, CUresult::STREAM_CAPTURE_MERGE)
            }
            None if never_recorded => Ok(()),
            _ => self.graphs.refuse(id, CUresult::STREAM_CAPTURE_ISOLATION),
        }
    }

    /// A stream that does not capture waits for an event: a captured one makes it join that capture (true).
    ///
    /// # Errors
    /// INVALID_HANDLE: there is no such event or stream; INVALID_VALUE: the event's capture is not active;
    /// STREAM_CAPTURE_IMPLICIT: the legacy stream can't join, and the capture is invalid now.
    pub fn capture_wait(&mut self, stream: usize, event: CUevent) -> Res<bool> {
        let Some((id, nodes)) = self.event(event)?.captured.clone() else { return Ok(false) };
        self.end_orphans();
        let known = self.streams.get(&stream).ok_or(CUresult::INVALID_HANDLE)?;
        let c = self.graphs.captures.get_mut(&id).filter(|c| c.active).ok_or(CUresult::INVALID_VALUE)?;
        if known.kind == StreamKind::Legacy {
            return self.graphs.refuse(id, CUresult::STREAM_CAPTURE_IMPLICIT);
        }
        c.members.retain(|m| m.stream != stream);
        c.members.push(Member::new(stream, nodes.into_iter().map(Edge::on).collect()));
        self.set_capture(stream, Some(id));
        Ok(true)
    }
}

/// Whether a living created stream takes part in no capture, without a lock.
#[inline]
pub fn is_idle(stream: CUstream) -> bool {
    handle::slot(stream.0).is_some_and(|s| s.aux.load(Ordering::Acquire) == 0)
}

/// Whether a launch attribute records an event, and which.
fn is_event(id: u32) -> bool {
    matches!(id, attr::PROGRAMMATIC_EVENT | attr::COMPLETION_EVENT)
}

fn event_of(a: &CUlaunchAttribute) -> CUevent {
    CUevent(a.value.words[0] as usize)
}

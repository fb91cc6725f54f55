//! Chrome trace events (JSON object form), which Perfetto and chrome://tracing open.
//!
//! Calls are complete events (`X`) on their thread's track, launches and messages instants (`i`) there. Spans are
//! nestable asynchronous events (`b`, `e`) named after their kind: they get tracks of their own, also where they
//! overlap. Counters are `C`. Times are microseconds since the start of the trace.
use super::{started, CallDetail, LaunchDetail};
use crate::map::Meta;
use crate::record::{Entry, Event};
use crate::symbols;
use serde::Serialize;
use serde_json::json;

/// Closes what [`preamble`] opens.
pub const CLOSE: &[u8] = b"\n]}\n";

#[derive(Serialize)]
struct TraceEvent<'a> {
    ph: char,
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    cat: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    pid: u32,
    tid: u32,
    /// Tells overlapping asynchronous events apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Scope of an instant: its thread.
    #[serde(skip_serializing_if = "str::is_empty")]
    s: &'a str,
    args: Detail<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Detail<'a> {
    Name { name: &'a str },
    Call(CallDetail<'a>),
    Launch(LaunchDetail<'a>),
    Message { text: &'a str },
    Span { name: &'a str, bytes: u64 },
    Counter { value: u64 },
    Nothing {},
}

pub fn preamble(meta: &Meta, out: &mut Vec<u8>) {
    let other = json!({
        "zerogpu": meta.version,
        "pid": meta.pid,
        "program": meta.program,
        "settings": meta.settings,
        "started": started(meta),
        "started_unix_ns": meta.started_unix_ns,
        "started_monotonic_ns": meta.started_ns,
    });
    // the first event stands here, so that each later one can begin with a comma
    let name = json!({"ph": "M", "name": "process_name", "pid": meta.pid, "args": {"name": meta.program}});
    let head = format!("{{\"displayTimeUnit\":\"ns\",\"otherData\":{other},\"traceEvents\":[\n{name}");
    out.extend(head.into_bytes());
}

pub fn entry(meta: &Meta, position: u64, entry: &Entry, out: &mut Vec<u8>) {
    let micros = |ns: u64| Some(ns as f64 / 1e3);
    let ts = |t: u64| micros(t.saturating_sub(meta.started_ns));
    // what most events have
    let on_thread = |ph, name, args| TraceEvent {
        ph,
        name,
        cat: "",
        ts: None,
        dur: None,
        pid: meta.pid,
        tid: entry.thread,
        id: None,
        s: "",
        args,
    };
    let mut push = |event: TraceEvent| {
        out.extend(b",\n");
        // neither the values nor a Vec can fail
        let _ = serde_json::to_writer(&mut *out, &event);
    };
    match entry.event {
        Event::Thread { name } => push(on_thread('M', "thread_name", Detail::Name { name })),
        Event::Call { start, duration, bytes, id, result, args } => {
            let detail = Detail::Call(CallDetail::new(id, args, result, bytes));
            let call = on_thread('X', symbols::name_of(id), detail);
            push(TraceEvent { cat: "call", ts: ts(start), dur: micros(duration), ..call });
        }
        Event::Launch { at, id, ref launch } => {
            let instant = on_thread('i', "launch", Detail::Launch(LaunchDetail::new(id, launch)));
            push(TraceEvent { cat: "launch", ts: ts(at), s: "t", ..instant });
        }
        Event::Message { at, kind, text } => {
            let instant = on_thread('i', kind.name(), Detail::Message { text });
            push(TraceEvent { cat: "message", ts: ts(at), s: "t", ..instant });
        }
        Event::Span { start, duration, bytes, kind, name } => {
            let id = || Some(format!("{position:#x}"));
            let begin = on_thread('b', kind.name(), Detail::Span { name, bytes });
            push(TraceEvent { cat: "span", ts: ts(start), id: id(), ..begin });
            let end = on_thread('e', kind.name(), Detail::Nothing {});
            push(TraceEvent { cat: "span", ts: ts(start.saturating_add(duration)), id: id(), ..end });
        }
        Event::Counter { at, name, value } => {
            push(TraceEvent { ts: ts(at), ..on_thread('C', name, Detail::Counter { value }) });
        }
    }
}

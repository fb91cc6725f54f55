//! JSON lines: one object per record, told apart by `type`. Times are nanoseconds since the start of the trace.
use super::{started, CallDetail, End, LaunchDetail};
use crate::map::Meta;
use crate::record::{Entry, Event};
use crate::symbols;
use serde::Serialize;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Trace {
        zerogpu: &'a str,
        pid: u32,
        program: &'a str,
        settings: &'a str,
        started: String,
        started_unix_ns: u64,
        started_monotonic_ns: u64,
    },
    Thread {
        thread: u32,
        name: &'a str,
    },
    Call {
        thread: u32,
        depth: u8,
        at_ns: u64,
        dur_ns: u64,
        name: &'a str,
        #[serde(flatten)]
        detail: CallDetail<'a>,
    },
    Launch {
        thread: u32,
        depth: u8,
        at_ns: u64,
        #[serde(flatten)]
        detail: LaunchDetail<'a>,
    },
    Message {
        thread: u32,
        depth: u8,
        at_ns: u64,
        kind: &'a str,
        text: &'a str,
    },
    Span {
        thread: u32,
        at_ns: u64,
        dur_ns: u64,
        kind: &'a str,
        name: &'a str,
        bytes: u64,
    },
    Counter {
        at_ns: u64,
        name: &'a str,
        value: u64,
    },
    End(End),
}

fn push(line: &Line, out: &mut Vec<u8>) {
    // neither the values nor a Vec can fail
    let _ = serde_json::to_writer(&mut *out, line);
    out.push(b'\n');
}

pub fn preamble(meta: &Meta, out: &mut Vec<u8>) {
    let line = Line::Trace {
        zerogpu: &meta.version,
        pid: meta.pid,
        program: &meta.program,
        settings: &meta.settings,
        started: started(meta),
        started_unix_ns: meta.started_unix_ns,
        started_monotonic_ns: meta.started_ns,
    };
    push(&line, out);
}

pub fn entry(meta: &Meta, entry: &Entry, out: &mut Vec<u8>) {
    let since = |t: u64| t.saturating_sub(meta.started_ns);
    let (thread, depth) = (entry.thread, entry.depth);
    let line = match entry.event {
        Event::Thread { name } => Line::Thread { thread, name },
        Event::Call { start, duration, bytes, id, result, args } => {
            let detail = CallDetail::new(id, args, result, bytes);
            Line::Call { thread, depth, at_ns: since(start), dur_ns: duration, name: symbols::name_of(id), detail }
        }
        Event::Launch { at, id, ref launch } => {
            Line::Launch { thread, depth, at_ns: since(at), detail: LaunchDetail::new(id, launch) }
        }
        Event::Message { at, kind, text } => Line::Message { thread, depth, at_ns: since(at), kind: kind.name(), text },
        Event::Span { start, duration, bytes, kind, name } => {
            Line::Span { thread, at_ns: since(start), dur_ns: duration, kind: kind.name(), name, bytes }
        }
        Event::Counter { at, name, value } => Line::Counter { at_ns: since(at), name, value },
    };
    push(&line, out);
}

pub fn ending(end: End, out: &mut Vec<u8>) {
    push(&Line::End(end), out);
}

//! For people: seconds since the start, thread, and the record, indented by the thread's nesting.
use super::{duration, size, started, End};
use crate::map::Meta;
use crate::record::{Entry, Event};
use crate::symbols::{self, Args};
use std::fmt::Write;

pub fn preamble(meta: &Meta, out: &mut Vec<u8>) {
    let Meta { version, pid, program, settings, .. } = meta;
    let line = format!(
        "# zerogpu {version}: trace ({settings}) of process {pid}, started {}: {program}\n#   seconds  thread\n",
        started(meta)
    );
    out.extend(line.as_bytes());
}

pub fn entry(meta: &Meta, entry: &Entry, out: &mut Vec<u8>) {
    let mut line = String::with_capacity(160);
    // writing into a String never fails
    let _ = write_entry(meta, entry, &mut line);
    out.extend(line.as_bytes());
}

fn write_entry(meta: &Meta, entry: &Entry, line: &mut String) -> std::fmt::Result {
    let at = match entry.event {
        Event::Call { start, .. } | Event::Span { start, .. } => start,
        Event::Launch { at, .. } | Event::Message { at, .. } | Event::Counter { at, .. } => at,
        // names a thread; each line has its number
        Event::Thread { .. } => return Ok(()),
    };
    let seconds = at.saturating_sub(meta.started_ns) as f64 / 1e9;
    write!(line, "{seconds:>11.6} {:>7} {:indent$}", entry.thread, "", indent = 2 * usize::from(entry.depth))?;
    match &entry.event {
        Event::Thread { .. } => {}
        Event::Call { duration: time, bytes, id, result, args, .. } => {
            let args = Args::new(*id, args);
            write!(line, "{}(", args.function())?;
            for (i, (name, value)) in args.iter().enumerate() {
                write!(line, "{}{name}={value}", if i == 0 { "" } else { ", " })?;
            }
            write!(line, ") = {result} {}  <{}>", symbols::result_name(*result), duration(*time))?;
            let bytes = if *bytes == 0 { args.bytes() } else { *bytes };
            if bytes != 0 {
                write!(line, " {}", size(bytes))?;
            }
        }
        Event::Launch { launch: l, .. } => {
            let ([gx, gy, gz], [bx, by, bz]) = (l.grid, l.block);
            let kernel = one_line(l.kernel);
            write!(line, "launch {kernel} <<<({gx}, {gy}, {gz}), ({bx}, {by}, {bz}), ")?;
            write!(line, "{}, {:#x}>>>", l.shared_bytes, l.stream)?;
        }
        Event::Message { kind, text, .. } => write!(line, "{}: {}", kind.name(), one_line(text))?,
        Event::Span { duration: time, bytes, kind, name, .. } => {
            write!(line, "-- {} {}  <{}>", kind.name(), one_line(name), duration(*time))?;
            if *bytes != 0 {
                write!(line, " {}", size(*bytes))?;
            }
        }
        Event::Counter { name, value, .. } => write!(line, "-- {} = {value}", one_line(name))?,
    }
    line.push('\n');
    Ok(())
}

/// A record is a line, whatever the program called its kernels.
fn one_line(text: &str) -> String {
    text.replace('\n', "\\n")
}

pub fn ending(end: End, out: &mut Vec<u8>) {
    if end.recovered {
        let line = format!("# recovered: the process ended before its trace; records lost: {}\n", end.lost);
        out.extend(line.as_bytes());
    }
}

//! Text. Lines of other programs may stand between those of the trace, where both went to standard error.
use super::fields::{Arguments, Facts};
use super::{lines, Call, Form, Place, Reading, Record};
use crate::record::{Message, Span};
use std::io::{self, BufRead};

pub fn read(file: impl BufRead, take: &mut dyn FnMut(Record)) -> io::Result<Result<Reading, String>> {
    let mut reading = Reading::new(Form::Text);
    reading.complete = true;
    let mut any = false;
    lines(file, |number, line, ended| {
        let line = String::from_utf8_lossy(line);
        any |= line.starts_with("# zerogpu ");
        match record(&line) {
            Some(record) => {
                any = true;
                if let Record::End { lost } = record {
                    reading.lost = lost;
                }
                take(record);
            }
            None if line.is_empty() || line.starts_with("#   seconds") => {}
            // the process was killed while it wrote the last line: there is no end
            None if !ended => reading.complete = false,
            None => reading.leave_out(number, "not a record".into()),
        }
    })?;
    Ok(if any { Ok(reading) } else { Err("no trace of zerogpu: neither text nor JSON lines nor Chrome events".into()) })
}

fn record(line: &str) -> Option<Record<'_>> {
    if let Some(comment) = line.strip_prefix("# ") {
        return head(comment).map(Record::Trace).or_else(|| ending(comment));
    }
    let (seconds, rest) = line.trim_start().split_once(' ')?;
    let (thread, rest) = rest.trim_start().split_once(' ')?;
    let what = rest.trim_start();
    let depth = u8::try_from((rest.len() - what.len()) / 2).ok()?;
    let (at, thread) = ((seconds.parse::<f64>().ok()? * 1e9).round() as u64, thread.parse().ok()?);
    let place = Place { thread, depth: Some(depth), at };
    if let Some(what) = what.strip_prefix("-- ") {
        return span(what, thread, at).or_else(|| counter(what, at));
    }
    launch(what, place).or_else(|| message(what, place)).or_else(|| call(what, place))
}

/// `zerogpu 0.1.0: trace (text) of process 26348, started 2025-06-15T15:06:40Z: python app.py`
fn head(comment: &str) -> Option<Facts> {
    let (zerogpu, rest) = comment.strip_prefix("zerogpu ")?.split_once(": trace (")?;
    let (settings, rest) = rest.split_once(") of process ")?;
    let (pid, rest) = rest.split_once(", started ")?;
    let (started, program) = rest.split_once(": ")?;
    let [zerogpu, settings, started, program] = [zerogpu, settings, started, program].map(String::from);
    Some(Facts { zerogpu, pid: pid.parse().ok()?, program, settings, started })
}

/// `recovered: the process ended before its trace; records lost: 0`
fn ending(comment: &str) -> Option<Record<'_>> {
    let (_, lost) = comment.strip_prefix("recovered: ")?.rsplit_once(": ")?;
    Some(Record::End { lost: lost.parse().ok()? })
}

/// `claim first launch  <312.0 ms> 1.0 GiB`
fn span(what: &str, thread: u32, at: u64) -> Option<Record<'_>> {
    let (what, duration, bytes) = measured(what)?;
    let (kind, name) = what.split_once(' ')?;
    Span::from_name(kind)?;
    Some(Record::Span { thread, at, duration, kind: kind.into(), name: name.into(), bytes })
}

/// `bytes on the card = 301989888`
fn counter(what: &str, at: u64) -> Option<Record<'_>> {
    let (name, value) = what.rsplit_once(" = ")?;
    Some(Record::Counter { at, name: name.into(), value: value.parse().ok()? })
}

/// `launch _Z6kernelPf <<<(1, 2, 3), (128, 1, 1), 48, 0x7e00>>>`. The call is the one that follows.
fn launch(what: &str, place: Place) -> Option<Record<'_>> {
    let (kernel, rest) = what.strip_prefix("launch ")?.rsplit_once(" <<<(")?;
    let (grid, rest) = rest.split_once("), (")?;
    let (block, rest) = rest.split_once("), ")?;
    let (shared, stream) = rest.strip_suffix(">>>")?.split_once(", ")?;
    let three = |list: &str| {
        let numbers: Option<Vec<u32>> = list.split(", ").map(|n| n.parse().ok()).collect();
        <[u32; 3]>::try_from(numbers?).ok()
    };
    let (grid, block, shared_bytes) = (three(grid)?, three(block)?, shared.parse().ok()?);
    Some(Record::Launch {
        place,
        call: "".into(),
        kernel: kernel.into(),
        grid,
        block,
        shared_bytes,
        stream: stream.into(),
    })
}

/// `unsupported: cuGraphicsMapResources`
fn message(what: &str, place: Place) -> Option<Record<'_>> {
    let (kind, text) = what.split_once(": ")?;
    Message::from_name(kind)?;
    Some(Record::Message { place, kind: kind.into(), text: text.into() })
}

/// `cuMemFree_v2(dptr=0x700000000000) = 0 CUDA_SUCCESS  <850 ns>`
fn call(what: &str, place: Place) -> Option<Record<'_>> {
    let (what, duration, bytes) = measured(what)?;
    let (name, rest) = what.split_once('(')?;
    let (given, result) = rest.split_once(") = ")?;
    let (result, status) = result.split_once(' ')?;
    let mut arguments = Arguments::default();
    for argument in given.split(", ").filter(|argument| !argument.is_empty()) {
        let (name, value) = argument.split_once('=')?;
        arguments.push(name, value);
    }
    let (name, status) = (name.into(), status.into());
    Some(Record::Call(Call { place, duration, name, arguments, result: result.parse().ok()?, status, bytes }))
}

/// Cuts `  <12.3 us> 4.0 MiB` off the end: what stands before, nanoseconds, bytes (0: none).
fn measured(what: &str) -> Option<(&str, u64, u64)> {
    let (what, rest) = what.rsplit_once("  <")?;
    let (duration, size) = rest.split_once('>')?;
    let scaled = |text: &str, units: &[(&str, u64)]| {
        let (number, unit) = text.split_once(' ')?;
        let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
        Some((number.parse::<f64>().ok()? * *factor as f64).round() as u64)
    };
    const TIMES: [(&str, u64); 4] = [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];
    const SIZES: [(&str, u64); 7] = [
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("PiB", 1 << 50),
        ("EiB", 1 << 60),
    ];
    let bytes = if size.is_empty() { 0 } else { scaled(size.trim_start(), &SIZES)? };
    Some((what, scaled(duration, &TIMES)?, bytes))
}

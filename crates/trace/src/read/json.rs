//! JSON lines.
use super::fields::{Facts, Fields};
use super::{lines, Form, Place, Reading, Record};
use std::io::{self, BufRead};

pub fn read(file: impl BufRead, take: &mut dyn FnMut(Record)) -> io::Result<Result<Reading, String>> {
    let mut reading = Reading::new(Form::Json);
    lines(file, |number, line, ended| match record(line) {
        Ok(Some(record)) => {
            if let Record::End { lost } = record {
                reading.complete = true;
                reading.lost = lost;
            }
            take(record);
        }
        Ok(None) => {}
        // the process was killed while it wrote the last line: there is no end
        Err(_) if !ended => {}
        Err(e) => reading.leave_out(number, e.to_string()),
    })?;
    Ok(Ok(reading))
}

/// None: of a type that this version does not know.
fn record(line: &[u8]) -> serde_json::Result<Option<Record<'_>>> {
    let mut f: Fields = serde_json::from_slice(line)?;
    let (thread, at, duration) = (f.thread, f.at_ns, f.dur_ns);
    let place = Place { thread, depth: Some(f.depth), at };
    Ok(Some(match &*f.r#type {
        "trace" => Record::Trace(serde_json::from_slice::<Facts>(line)?),
        "thread" => Record::Thread { thread, name: f.name },
        "call" => {
            let name = std::mem::take(&mut f.name);
            f.call(place, duration, name)
        }
        "launch" => f.launch(place),
        "message" => {
            let kind = std::mem::take(&mut f.kind);
            f.message(place, kind)
        }
        "span" => Record::Span { thread, at, duration, kind: f.kind, name: f.name, bytes: f.bytes },
        "counter" => Record::Counter { at, name: f.name, value: f.value },
        "end" => Record::End { lost: f.lost },
        _ => return Ok(None),
    }))
}

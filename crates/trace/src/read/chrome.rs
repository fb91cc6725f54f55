//! Chrome trace events. As zerogpu writes them, each stands on a line of its own, so that a file that was cut or damaged can
//! still be read; any other layout is read as a whole.
use super::fields::{Facts, Fields};
use super::{lines, Form, Place, Reading, Record};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, BufRead};

/// What begins the events at the end of the first line.
const OPEN: &[u8] = b"\"traceEvents\":[";

#[derive(Deserialize)]
struct File<'a> {
    #[serde(rename = "otherData", default)]
    facts: Facts,
    #[serde(borrow, rename = "traceEvents")]
    events: Vec<Event<'a>>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Event<'a> {
    #[serde(borrow)]
    ph: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    cat: Cow<'a, str>,
    /// Tells overlapping spans apart.
    #[serde(borrow)]
    id: Cow<'a, str>,
    ts: f64,
    dur: f64,
    tid: u32,
    args: Fields<'a>,
}

/// The begin of a span: thread, time, name, bytes.
type Begun = (u32, u64, String, u64);

pub fn read(mut file: impl BufRead, take: &mut dyn FnMut(Record)) -> io::Result<Result<Reading, String>> {
    let mut reading = Reading::new(Form::Chrome);
    let mut spans = Spans::default();
    let mut first = Vec::new();
    file.read_until(b'\n', &mut first)?;
    let Some(head) = first.trim_ascii_end().strip_suffix(OPEN) else {
        file.read_to_end(&mut first)?;
        let whole: File = match serde_json::from_slice(&first) {
            Ok(whole) => whole,
            Err(e) => return Ok(Err(format!("no JSON or Chrome trace: {e}"))),
        };
        take(Record::Trace(whole.facts));
        whole.events.into_iter().for_each(|event| spans.record(event, take));
        reading.complete = true;
        return Ok(Ok(reading));
    };
    // the head is an object up to its last member
    let closed = [head.trim_ascii_end().strip_suffix(b",").unwrap_or(head), b"}"].concat();
    #[derive(Deserialize)]
    struct Head {
        #[serde(rename = "otherData", default)]
        facts: Facts,
    }
    match serde_json::from_slice::<Head>(&closed) {
        Ok(head) => take(Record::Trace(head.facts)),
        Err(e) => reading.leave_out(1, e.to_string()),
    }
    lines(file, |number, line, ended| match line.strip_suffix(b",").unwrap_or(line) {
        b"" => {}
        b"]}" => reading.complete = true,
        event => match serde_json::from_slice(event) {
            Ok(event) => spans.record(event, take),
            // the process was killed while it wrote the last line: there is no end
            Err(_) if !ended => {}
            Err(e) => reading.leave_out(number + 1, e.to_string()),
        },
    })?;
    Ok(Ok(reading))
}

/// Spans that have begun, by their id.
#[derive(Default)]
struct Spans(HashMap<String, Begun>);

impl Spans {
    fn record(&mut self, event: Event, take: &mut dyn FnMut(Record)) {
        let Event { ph, name, cat, id, ts, dur, tid: thread, args } = event;
        let ns = |micros: f64| (micros * 1e3).round() as u64;
        let at = ns(ts);
        let place = Place { thread, depth: None, at };
        match (&*ph, &*cat) {
            ("M", _) if name == "thread_name" => take(Record::Thread { thread, name: args.name }),
            ("X", "call") => take(args.call(place, ns(dur), name)),
            ("i", "launch") => take(args.launch(place)),
            ("i", "message") => take(args.message(place, name)),
            ("b", "span") => {
                self.0.insert(id.into_owned(), (thread, at, args.name.into_owned(), args.bytes));
            }
            ("e", "span") => {
                if let Some((thread, begun, title, bytes)) = self.0.remove(&*id) {
                    let duration = at.saturating_sub(begun);
                    take(Record::Span { thread, at: begun, duration, kind: name, name: title.into(), bytes });
                }
            }
            ("C", _) => take(Record::Counter { at, name, value: args.value }),
            _ => {}
        }
    }
}

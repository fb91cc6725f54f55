//! From records to the picture.
use super::claims::{claims, lanes, Stretch};
use super::nest::Nest;
use super::picture::{Calls, Claim, Counter, Function, Kind, Marks, Picture, Row, Spans, Thread};
use crate::read::{Call, Facts, Form, Place, Record};
use std::collections::{BTreeMap, HashMap};

/// The rows of the process: what they are called, and which spans are in them.
const ROWS: [(&str, &[&str]); 5] = [
    ("marked calls", &["region"]),
    ("GPU", &[CLAIM, CLAIMED, PARK]),
    ("broker's queue", &[WAIT]),
    ("deferred work", &["replay"]),
    ("borrowed", &["borrow"]),
];
const CLAIM: &str = "claim";
const CLAIMED: &str = "claimed";
const PARK: &str = "park";
const WAIT: &str = "wait";

/// The driver's "not yet" to a query of a stream or event: an answer, no failure.
const NOT_READY: u32 = 600;

/// Takes the records of a trace in order.
#[derive(Default)]
pub struct Builder {
    facts: Facts,
    strings: Strings,
    functions: Vec<Function>,
    function_numbers: HashMap<String, u32>,
    results: BTreeMap<u32, String>,
    counters: Vec<Counter>,
    counter_numbers: HashMap<String, usize>,
    spans: BTreeMap<u32, Vec<Stretch>>,
    /// In the order of their first records.
    threads: Vec<OnThread>,
    thread_numbers: HashMap<u32, usize>,
    end: u64,
    events: u64,
}

/// A thread's records so far.
#[derive(Default)]
struct OnThread {
    number: u32,
    name: String,
    calls: Vec<OneCall>,
    marks: Vec<Mark>,
    /// Calls and marks in their order, where the trace leaves it to us how they nest: whether it is a call, and which.
    order: Vec<(bool, usize)>,
    nest: Nest,
}

struct OneCall {
    at: u64,
    depth: u8,
    duration: u64,
    function: u32,
    arguments: u32,
    result: u32,
    bytes: u64,
}

struct Mark {
    at: u64,
    depth: u8,
    kind: u32,
    text: u32,
    detail: u32,
}

/// Each text once.
#[derive(Default)]
struct Strings {
    all: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Strings {
    fn number(&mut self, text: &str) -> u32 {
        if let Some(known) = self.numbers.get(text) {
            return *known;
        }
        let number = self.all.len() as u32;
        self.all.push(text.to_string());
        self.numbers.insert(text.to_string(), number);
        number
    }
}

impl Builder {
    pub fn take(&mut self, record: Record) {
        match record {
            Record::Trace(facts) => self.facts = facts,
            Record::Thread { thread, name } => self.thread(thread).name = name.into_owned(),
            Record::End { .. } => {}
            Record::Call(call) => self.call(call),
            Record::Launch { place, kernel, grid: [x, y, z], block: [a, b, c], shared_bytes, stream, .. } => {
                let detail = format!(
                    "grid ({x}, {y}, {z}), block ({a}, {b}, {c}), {shared_bytes} bytes of shared memory, stream {stream}"
                );
                self.mark(place, "launch", &kernel, &detail);
            }
            Record::Message { place, kind, text } => self.mark(place, &kind, &text, ""),
            Record::Span { thread, at, duration, kind, name, bytes } => {
                self.happened(at.saturating_add(duration));
                let (kind, name) = (self.strings.number(&kind), self.strings.number(&name));
                self.spans.entry(kind).or_default().push(Stretch { at, duration, kind, name, bytes, thread });
            }
            Record::Counter { at, name, value } => {
                self.happened(at);
                let number = self.counter_numbers.get(&*name).copied().unwrap_or(self.counters.len());
                if number == self.counters.len() {
                    self.counter_numbers.insert(name.to_string(), number);
                    self.counters.push(Counter { name: name.into_owned(), at: vec![], value: vec![] });
                }
                let counter = &mut self.counters[number];
                // values of several threads may be recorded out of order by a moment
                counter.at.push(counter.at.last().map_or(at, |last| at.max(*last)));
                counter.value.push(value);
            }
        }
    }

    fn happened(&mut self, until: u64) {
        self.end = self.end.max(until);
        self.events += 1;
    }

    fn thread(&mut self, number: u32) -> &mut OnThread {
        let threads = &mut self.threads;
        let at = *self.thread_numbers.entry(number).or_insert_with(|| {
            threads.push(OnThread { number, ..OnThread::default() });
            threads.len() - 1
        });
        &mut threads[at]
    }

    fn call(&mut self, call: Call) {
        let Call { place: Place { thread, depth, at }, duration, name, arguments, result, status, bytes } = call;
        self.happened(at.saturating_add(duration));
        let function = match self.function_numbers.get(&*name) {
            Some(known) => *known,
            None => {
                let number = self.functions.len() as u32;
                let (parameters, kind, name) = (arguments.names, Kind::of(&name), name.into_owned());
                self.function_numbers.insert(name.clone(), number);
                self.functions.push(Function { name, kind, parameters, count: 0, errors: 0, time: 0, bytes: 0 });
                number
            }
        };
        let sums = &mut self.functions[function as usize];
        sums.count += 1;
        sums.errors += u64::from(is_error(result));
        sums.time = sums.time.saturating_add(duration);
        sums.bytes = sums.bytes.saturating_add(bytes);
        if result != 0 {
            self.results.entry(result).or_insert_with(|| status.into_owned());
        }
        let arguments = self.strings.number(&arguments.values);
        let on = self.thread(thread);
        if depth.is_none() {
            on.order.push((true, on.calls.len()));
            on.nest.add(at, true);
        }
        on.calls.push(OneCall { at, depth: depth.unwrap_or(0), duration, function, arguments, result, bytes });
    }

    fn mark(&mut self, place: Place, kind: &str, text: &str, detail: &str) {
        let Place { thread, depth, at } = place;
        self.happened(at);
        let [kind, text, detail] = [kind, text, detail].map(|t| self.strings.number(t));
        let on = self.thread(thread);
        if depth.is_none() {
            on.order.push((false, on.marks.len()));
            on.nest.add(at, false);
        }
        on.marks.push(Mark { at, depth: depth.unwrap_or(0), kind, text, detail });
    }

    pub fn finish(mut self, title: Option<&str>, form: Form, mut notes: Vec<String>) -> Picture {
        if form == Form::Text {
            notes.push("made from a text trace: its times are rounded, and it does not name threads".into());
        }
        let end = self.end;
        let (claims, process) = self.process();
        let main = self.facts.pid;
        let mut threads: Vec<Thread> = self.threads.into_iter().map(OnThread::finish).collect();
        threads.retain(|t| !t.lanes.is_empty());
        threads.sort_by_key(|t| t.number != main);
        let Builder { facts, functions, results, counters, events, strings, .. } = self;
        let title = match title {
            Some(title) => title.to_string(),
            None if facts.program.is_empty() => "Timeline".into(),
            None => facts.program.clone(),
        };
        let strings = strings.all;
        Picture { title, facts, notes, end, events, functions, results, counters, claims, process, threads, strings }
    }

    /// The claims, and the rows of the process.
    fn process(&mut self) -> (Vec<Claim>, Vec<Row>) {
        self.spans.values_mut().for_each(|of_a_kind| of_a_kind.sort_by_key(|s| s.at));
        let [claim, claimed, park, wait] = [CLAIM, CLAIMED, PARK, WAIT].map(|name| self.strings.number(name));
        let of = |kind: u32| self.spans.get(&kind).map_or(&[][..], |s| s);
        let joined = claims(of(claim), of(wait), of(park), self.end);
        let between = joined.iter().map(|c| Stretch {
            at: c.at + c.claim,
            duration: c.claimed,
            kind: claimed,
            name: c.why,
            bytes: c.bytes_in,
            thread: 0,
        });
        let between = between.collect();
        self.spans.insert(claimed, between);
        let mut rows = vec![];
        for (name, kinds) in ROWS {
            let mut stretches: Vec<Stretch> = vec![];
            for kind in kinds {
                stretches.extend(self.spans.remove(&self.strings.number(kind)).unwrap_or_default());
            }
            stretches.sort_by_key(|s| s.at);
            // each is one of the kinds that exclude each other, or may overlap its like
            let lanes = if kinds.len() > 1 { vec![stretches] } else { lanes(&stretches) };
            rows.push(Row { name, lanes: lanes.into_iter().filter(|l| !l.is_empty()).map(spans).collect() });
        }
        // of a newer version
        let other = std::mem::take(&mut self.spans).into_values().flatten().collect::<Vec<_>>();
        rows.push(Row { name: "other", lanes: lanes(&other).into_iter().map(spans).collect() });
        rows.retain(|row| !row.lanes.is_empty());
        (joined, rows)
    }
}

/// Whether a result tells that something went wrong.
fn is_error(result: u32) -> bool {
    result != 0 && result != NOT_READY
}

impl OnThread {
    fn finish(mut self) -> Thread {
        for ((is_call, index), depth) in self.order.iter().zip(self.nest.depths()) {
            match is_call {
                true => self.calls[*index].depth = depth,
                false => self.marks[*index].depth = depth,
            }
        }
        self.calls.sort_by_key(|c| (c.depth, c.at));
        self.marks.sort_by_key(|m| m.at);
        let mut marks = Marks::default();
        for m in &self.marks {
            marks.at.push(m.at);
            marks.depth.push(m.depth);
            marks.kind.push(m.kind);
            marks.text.push(m.text);
            marks.detail.push(m.detail);
        }
        let mut lanes: Vec<Calls> = vec![];
        // marks of a thread without calls need a lane too
        let deepest = self.calls.iter().map(|c| usize::from(c.depth) + 1).max();
        let marked = self.marks.first().map(|_| 1);
        lanes.resize_with(deepest.max(marked).unwrap_or(0), Calls::default);
        for c in &self.calls {
            let lane = &mut lanes[usize::from(c.depth)];
            lane.at.push(c.at);
            lane.duration.push(c.duration);
            lane.function.push(c.function);
            lane.arguments.push(c.arguments);
            lane.result.push(c.result);
            lane.bytes.push(c.bytes);
        }
        lanes.iter_mut().for_each(|lane| follow(&lane.at, &mut lane.duration));
        Thread { number: self.number, name: self.name, lanes, marks }
    }
}

fn spans(stretches: Vec<Stretch>) -> Spans {
    let mut lane = Spans::default();
    for s in &stretches {
        lane.at.push(s.at);
        lane.duration.push(s.duration);
        lane.kind.push(s.kind);
        lane.name.push(s.name);
        lane.bytes.push(s.bytes);
        lane.thread.push(s.thread);
    }
    follow(&lane.at, &mut lane.duration);
    lane
}

/// Lets each end before the next one begins: rounded times (of a text trace) may say otherwise.
fn follow(at: &[u64], duration: &mut [u64]) {
    for (i, pair) in at.windows(2).enumerate() {
        duration[i] = duration[i].min(pair[1] - pair[0]);
    }
}

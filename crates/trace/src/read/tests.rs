use super::*;
use crate::format::tests::rendered;
use crate::record::{Entry, Event, Launch, Message, Span};
use crate::settings::Format;
use crate::symbols::id;
use std::path::PathBuf;

/// A program of 2 ms: a model copied in, then a marked call that waits, claims, launches a kernel whose name is `kernel` (while
/// a call fails within it) and parks. Its times are such that text does not round them.
pub fn program(kernel: &str) -> Vec<Entry<'_>> {
    let start = 1_000_000_000;
    let at = |micros: u64| start + micros * 1000;
    let on = |thread, depth, event| Entry { thread, depth, event };
    let call = |name: &str, from: u64, to: u64, result, args| Event::Call {
        start: at(from),
        duration: (to - from) * 1000,
        bytes: 0,
        id: id(name).unwrap(),
        result,
        args,
    };
    let span = |kind, name, from: u64, to: u64, bytes| {
        on(4242, 0, Event::Span { start: at(from), duration: (to - from) * 1000, bytes, kind, name })
    };
    let card = |micros, value| on(4242, 0, Event::Counter { at: at(micros), name: "bytes on the card", value });
    let launch = Launch { kernel, grid: [1, 2, 3], block: [128, 1, 1], shared_bytes: 48, stream: 0x7e00 };
    let launches = id("cuLaunchKernel").unwrap();
    vec![
        on(4242, 0, Event::Thread { name: "python" }),
        on(4242, 0, call("cuMemAlloc_v2", 2, 3, 0, &[0x7ffc_0000_1000, 4 << 20])),
        on(4242, 0, call("cuMemcpyHtoD_v2", 10, 110, 0, &[0x7000_0000_0000, 0x5555_0000, 4 << 20])),
        span(Span::Wait, "kernel k", 205, 300, 0),
        span(Span::Claim, "kernel k", 201, 500, 4 << 20),
        card(500, 4 << 20),
        on(4242, 1, Event::Launch { at: at(600), id: launches, launch }),
        on(4242, 2, Event::Message { at: at(610), kind: Message::Detail, text: "asked: for what" }),
        on(4242, 1, call("cuMemFree_v2", 605, 620, 1, &[12345])),
        on(4242, 0, call("cuLaunchKernel", 200, 700, 0, &[0x7e10, 1, 2, 3, 128, 1, 1, 48, 0x7e00, 0, 0])),
        on(4243, 0, Event::Thread { name: "pt_autograd_0" }),
        on(4243, 0, call("cuStreamQuery", 650, 651, 600, &[0])),
        on(4243, 0, Event::Message { at: at(660), kind: Message::Warning, text: "mark it" }),
        on(4242, 0, call("cuMemcpyDtoH_v2", 800, 820, 0, &[0x5555_0000, 0x7000_0000_0000, 32 << 10])),
        span(Span::Park, "park", 1000, 1800, 4 << 20),
        card(1800, 0),
        span(Span::Region, "region", 150, 1950, 0),
    ]
}

/// A trace in a file of its own.
pub fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

/// Each record as text, and how whole the trace is.
fn records(text: &str) -> (Vec<String>, Reading) {
    let (_dir, path) = file(text);
    let mut all = vec![];
    let reading = read(&path, &mut |record| all.push(format!("{record:?}"))).unwrap();
    (all, reading)
}

fn notes(text: &str) -> Vec<String> {
    records(text).1.notes(Path::new("/no/such/trace"))
}

#[test]
fn json_and_chrome_give_the_same_records() {
    let (json, reading) = records(&rendered(Format::Json, &program("k")));
    assert_eq!((reading.form, reading.complete, reading.lost, reading.left_out), (Form::Json, true, 1, 0));
    let (chrome, reading) = records(&rendered(Format::Chrome, &program("k")));
    assert_eq!((reading.form, reading.complete, reading.left_out), (Form::Chrome, true, 0));
    // where calls nest is left to their order, and the end is none of the events
    let depths: Vec<String> = (0..3).map(|depth| format!("depth: Some({depth})")).collect();
    let undepth = |record: &String| depths.iter().fold(record.clone(), |r, depth| r.replace(depth, "depth: None"));
    assert_eq!(json[..json.len() - 1].iter().map(undepth).collect::<Vec<_>>(), chrome);
}

#[test]
fn text_gives_them_but_for_names_of_threads() {
    let (json, _) = records(&rendered(Format::Json, &program("k")));
    let (text, reading) = records(&rendered(Format::Text, &program("k")));
    assert_eq!((reading.form, reading.complete, reading.lost, reading.left_out), (Form::Text, true, 1, 0));
    let json: Vec<String> = json.into_iter().filter(|r| !r.starts_with("Thread")).collect();
    let json: Vec<String> = json.iter().map(|r| r.replace("call: \"cuLaunchKernel\"", "call: \"\"")).collect();
    assert_eq!(json, text);
}

#[test]
fn a_chrome_trace_of_any_layout_is_read() {
    let chrome = rendered(Format::Chrome, &program("k"));
    let on_one_line = chrome.replace('\n', "");
    let other_lines = chrome.replacen("[\n", "\n[", 1).replace(",\n", "\n, ");
    for text in [on_one_line, other_lines] {
        let (records, reading) = records(&text);
        assert_eq!(records, self::records(&chrome).0);
        assert!(reading.complete);
    }
}

#[test]
fn what_a_kill_left_is_read() {
    for format in [Format::Json, Format::Chrome, Format::Text] {
        let whole = rendered(format, &program("k"));
        // within the region's record
        let cut = &whole[..whole.rfind("region").unwrap()];
        let (all, reading) = records(cut);
        assert!(!reading.complete && reading.left_out == 0, "{format:?}: {reading:?}");
        assert!(
            all.iter().any(|r| r.contains("kind: \"park\"")) && !all.iter().any(|r| r.contains("region")),
            "{all:?}"
        );
        assert_eq!(notes(cut), ["the trace has no end: records of a killed process may be missing"]);
    }
}

#[test]
fn damaged_lines_are_left_out_and_told() {
    for format in [Format::Json, Format::Chrome, Format::Text] {
        let whole = rendered(format, &program("k"));
        let damaged = whole.replacen("cuMemcpyDtoH_v2", "cuM\n\u{0}emcpyDtoH_v2", 1);
        let (all, reading) = records(&damaged);
        assert_eq!(reading.left_out, 2, "{format:?}");
        assert_eq!(all.len() + 1, records(&whole).0.len(), "{format:?}");
        assert!(notes(&damaged).iter().any(|n| n.contains("left out: 2; the first is line ")), "{:?}", notes(&damaged));
    }
}

#[test]
fn other_output_between_the_lines_of_a_text_trace_is_left_out() {
    let trace = rendered(Format::Text, &program("k"));
    let mixed = trace.replacen("#   seconds", "Loading model: 10 %\n#   seconds", 1);
    assert_eq!(records(&mixed).0, records(&trace).0);
    assert_eq!(notes(&mixed)[1..], ["lines that are no records, left out: 1; the first is line 2: not a record"]);
}

#[test]
fn what_was_lost_is_told() {
    assert_eq!(notes(&rendered(Format::Json, &program("k"))), ["records lost when the process was killed: 1"]);
}

#[test]
fn a_device_is_no_trace() {
    let error = read(Path::new("/dev/zero"), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("a device, not a file"), "{error}");
}

/// Whatever a program wrote between the lines of a trace, no more of it is held than a record can have.
#[test]
fn a_line_of_any_length_is_passed_over() {
    let text = rendered(Format::Json, &program("k"));
    let (first, rest) = text.split_once('\n').unwrap();
    let long = "x".repeat(3 * MAX_LINE as usize);
    let (whole, _) = records(&text);
    let (all, reading) = records(&format!("{first}\n{long}\n{rest}"));
    assert_eq!((all, reading.left_out), (whole, 1));
    assert_eq!(reading.first_left_out.unwrap().0, 2);
    let mut longest = 0;
    lines(format!("{long}\n\n{long}").as_bytes(), |number, line, ended| {
        longest = longest.max(line.len() as u64);
        assert!(number <= 3 && (ended || number == 3), "{number}");
    })
    .unwrap();
    assert_eq!(longest, MAX_LINE);
}

/// What the fuzzer starts from (fuzz/README.md): each form, and a ring.
pub fn seed(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/trace").join(name);
    if std::env::var_os("UPDATE_SEEDS").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    let same = std::fs::read(&path).is_ok_and(|found| found == bytes);
    assert!(same, "{}: UPDATE_SEEDS=1 cargo test -p zerogpu-trace --lib seeds", path.display());
}

#[test]
fn seeds_of_the_forms() {
    for (name, format) in [("text", Format::Text), ("json", Format::Json), ("chrome", Format::Chrome)] {
        seed(name, rendered(format, &program("k")).as_bytes());
    }
}

use super::*;
use crate::record::{Event, Message, Span};
use crate::symbols::id;
use serde_json::{json, Value};

fn meta(format: Format) -> Meta {
    Meta {
        version: "0.1.0".into(),
        symbols: 0,
        pid: 4242,
        program: "python \"app\".py".into(),
        settings: "json".into(),
        format,
        output: None,
        started_unix_ns: 1_750_000_000_000_000_000,
        started_ns: 1_000_000_000,
    }
}

/// One record of each kind, as a program would make them.
fn entries() -> Vec<Entry<'static>> {
    let at = 1_000_000_000;
    let on = |thread, depth, event| Entry { thread, depth, event };
    let call = |name: &str, start, duration, result, args| Event::Call {
        start: at + start,
        duration,
        bytes: 0,
        id: id(name).unwrap(),
        result,
        args,
    };
    let kernel = "_Z6kernelPf";
    let launch = Launch { kernel, grid: [1, 2, 3], block: [128, 1, 1], shared_bytes: 48, stream: 0x7e00 };
    vec![
        on(4242, 0, Event::Thread { name: "python" }),
        on(4242, 1, call("cuMemAlloc_v2", 2_000, 850, 2, &[0x7ffc_0000_1000, 1 << 34])),
        on(4242, 0, call("cuMemcpyHtoDAsync_v2", 5_000_000, 12_345, 0, &[0x7000_0000_0000, 0x5555_0000, 4 << 20, 0])),
        on(4242, 1, Event::Launch { at: at + 6_000_000, id: id("cuLaunchKernel").unwrap(), launch }),
        on(4243, 0, Event::Message { at: at + 7_000_000, kind: Message::Unsupported, text: "cuFoo\n\"x\"" }),
        on(4243, 0, Event::Span { start: at, duration: 3_000_000_000, bytes: 1 << 30, kind: Span::Claim, name: "why" }),
        on(4243, 0, Event::Counter { at: at + 8_000_250, name: "bytes on card", value: u64::MAX }),
    ]
}

pub fn rendered(format: Format, entries: &[Entry]) -> String {
    let render = Render::new(meta(format));
    let mut out = Vec::new();
    render.preamble(&mut out);
    for (position, entry) in entries.iter().enumerate() {
        render.entry(position as u64, entry, &mut out);
    }
    render.ending(End { recovered: true, lost: 1 }, &mut out);
    out.extend(render.close());
    String::from_utf8(out).unwrap()
}

#[test]
fn text() {
    let expected = "\
# zerogpu 0.1.0: trace (json) of process 4242, started 2025-06-15T15:06:40Z: python \"app\".py
#   seconds  thread
   0.000002    4242   cuMemAlloc_v2(dptr=0x7ffc00001000, bytesize=17179869184) = 2 CUDA_ERROR_OUT_OF_MEMORY  <850 ns> 16.0 GiB
   0.005000    4242 cuMemcpyHtoDAsync_v2(dstDevice=0x700000000000, srcHost=0x55550000, ByteCount=4194304, hStream=0x0) = 0 CUDA_SUCCESS  <12.3 us> 4.0 MiB
   0.006000    4242   launch _Z6kernelPf <<<(1, 2, 3), (128, 1, 1), 48, 0x7e00>>>
   0.007000    4243 unsupported: cuFoo\\n\"x\"
   0.000000    4243 -- claim why  <3.0 s> 1.0 GiB
   0.008000    4243 -- bytes on card = 18446744073709551615
# recovered: the process ended before its trace; records lost: 1
";
    assert_eq!(rendered(Format::Text, &entries()), expected);
}

#[test]
fn json_lines() {
    let text = rendered(Format::Json, &entries());
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let expected = [
        json!({"type": "trace", "zerogpu": "0.1.0", "pid": 4242, "program": "python \"app\".py", "settings": "json",
            "started": "2025-06-15T15:06:40Z", "started_unix_ns": 1_750_000_000_000_000_000u64,
            "started_monotonic_ns": 1_000_000_000}),
        json!({"type": "thread", "thread": 4242, "name": "python"}),
        json!({"type": "call", "thread": 4242, "depth": 1, "at_ns": 2000, "dur_ns": 850, "name": "cuMemAlloc_v2",
            "args": {"dptr": "0x7ffc00001000", "bytesize": 1u64 << 34}, "result": 2,
            "status": "CUDA_ERROR_OUT_OF_MEMORY", "bytes": 1u64 << 34}),
        json!({"type": "call", "thread": 4242, "depth": 0, "at_ns": 5_000_000, "dur_ns": 12345,
            "name": "cuMemcpyHtoDAsync_v2", "args": {"dstDevice": "0x700000000000", "srcHost": "0x55550000",
            "ByteCount": 4 << 20, "hStream": "0x0"}, "result": 0, "status": "CUDA_SUCCESS", "bytes": 4 << 20}),
        json!({"type": "launch", "thread": 4242, "depth": 1, "at_ns": 6_000_000, "call": "cuLaunchKernel",
            "kernel": "_Z6kernelPf", "grid": [1, 2, 3], "block": [128, 1, 1], "shared_bytes": 48, "stream": "0x7e00"}),
        json!({"type": "message", "thread": 4243, "depth": 0, "at_ns": 7_000_000, "kind": "unsupported",
            "text": "cuFoo\n\"x\""}),
        json!({"type": "span", "thread": 4243, "at_ns": 0, "dur_ns": 3_000_000_000u64, "kind": "claim", "name": "why",
            "bytes": 1 << 30}),
        json!({"type": "counter", "at_ns": 8_000_250, "name": "bytes on card", "value": u64::MAX}),
        json!({"type": "end", "recovered": true, "lost": 1}),
    ];
    assert_eq!(lines, expected);
    assert!(text.starts_with("{\"type\":\"trace\""), "what the summary tells the format by");
}

#[test]
fn chrome() {
    let text = rendered(Format::Chrome, &entries());
    let mut v: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(v["otherData"]["pid"], 4242);
    assert_eq!(v["otherData"]["started_monotonic_ns"], 1_000_000_000);
    let expected = json!([
        {"ph": "M", "name": "process_name", "pid": 4242, "args": {"name": "python \"app\".py"}},
        {"ph": "M", "name": "thread_name", "pid": 4242, "tid": 4242, "args": {"name": "python"}},
        {"ph": "X", "name": "cuMemAlloc_v2", "cat": "call", "ts": 2.0, "dur": 0.85, "pid": 4242, "tid": 4242,
            "args": {"args": {"dptr": "0x7ffc00001000", "bytesize": 1u64 << 34}, "result": 2,
                "status": "CUDA_ERROR_OUT_OF_MEMORY", "bytes": 1u64 << 34}},
        {"ph": "X", "name": "cuMemcpyHtoDAsync_v2", "cat": "call", "ts": 5000.0, "dur": 12.345, "pid": 4242,
            "tid": 4242, "args": {"args": {"dstDevice": "0x700000000000", "srcHost": "0x55550000",
                "ByteCount": 4 << 20, "hStream": "0x0"}, "result": 0, "status": "CUDA_SUCCESS", "bytes": 4 << 20}},
        {"ph": "i", "name": "launch", "cat": "launch", "ts": 6000.0, "s": "t", "pid": 4242, "tid": 4242,
            "args": {"call": "cuLaunchKernel", "kernel": "_Z6kernelPf", "grid": [1, 2, 3], "block": [128, 1, 1],
                "shared_bytes": 48, "stream": "0x7e00"}},
        {"ph": "i", "name": "unsupported", "cat": "message", "ts": 7000.0, "s": "t", "pid": 4242, "tid": 4243,
            "args": {"text": "cuFoo\n\"x\""}},
        {"ph": "b", "name": "claim", "cat": "span", "ts": 0.0, "id": "0x5", "pid": 4242, "tid": 4243,
            "args": {"name": "why", "bytes": 1 << 30}},
        {"ph": "e", "name": "claim", "cat": "span", "ts": 3_000_000.0, "id": "0x5", "pid": 4242, "tid": 4243,
            "args": {}},
        {"ph": "C", "name": "bytes on card", "ts": 8000.25, "pid": 4242, "tid": 4243, "args": {"value": u64::MAX}},
    ]);
    assert_eq!(v["traceEvents"].take(), expected);
}

#[test]
fn a_chrome_trace_without_records_is_valid() {
    let v: Value = serde_json::from_str(&rendered(Format::Chrome, &[])).unwrap();
    assert_eq!(v["traceEvents"].as_array().unwrap().len(), 1);
}

#[test]
fn bytes_that_the_caller_gives_go_before_those_of_the_arguments() {
    let event =
        Event::Call { start: 0, duration: 0, bytes: 99, id: id("cuMemAlloc_v2").unwrap(), result: 0, args: &[0, 5] };
    let entry = [Entry { thread: 1, depth: 0, event }];
    assert!(rendered(Format::Json, &entry).contains("\"bytes\":99"));
    assert!(rendered(Format::Text, &entry).contains("<0 ns> 99 B\n"));
}

#[test]
fn durations_and_sizes() {
    let times = [0, 999, 1_000, 999_949, 999_950, 4_560_000, 999_949_999, 999_950_000, 61_000_000_000].map(duration);
    assert_eq!(times, ["0 ns", "999 ns", "1.0 us", "999.9 us", "1.0 ms", "4.6 ms", "999.9 ms", "1.0 s", "61.0 s"]);
    let sizes = [0, 1023, 1024, 4 << 20, (1 << 30) - 1, u64::MAX].map(size);
    assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "4.0 MiB", "1.0 GiB", "16.0 EiB"]);
}

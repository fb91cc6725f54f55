//! `zerogpu trace view`.

use crate::stage::Stage;
use std::fs;

crate::tests![
    the_page_lies_beside_the_trace_or_where_one_says,
    the_page_goes_to_standard_output,
    what_is_missing_is_said,
    the_trace_itself_is_kept,
];

const TRACE: &str = r#"{"type":"trace","zerogpu":"0.1.0","pid":7,"program":"python app.py"}
{"type":"call","thread":7,"depth":0,"at_ns":5,"dur_ns":1500,"name":"cuInit","args":{"Flags":0},"result":0,"status":"CUDA_SUCCESS"}
"#;
const END: &str = "{\"type\":\"end\",\"recovered\":false,\"lost\":0}\n";

fn stage(trace: &str) -> Stage {
    let stage = Stage::new();
    fs::write(stage.path("t.jsonl"), trace).unwrap();
    stage
}

fn the_page_lies_beside_the_trace_or_where_one_says() {
    let stage = stage(&[TRACE, END].concat());
    let output = stage.zerogpu(&["trace", "view", "t.jsonl"]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("t.jsonl.html: 1 events, ") && said.ends_with(" KiB\n"), "{said}");
    let page = fs::read_to_string(stage.path("t.jsonl.html")).unwrap();
    assert!(page.contains("<title>Timeline: python app.py</title>"));
    stage.prints(&["trace", "view", "t.jsonl", "-o", "other.html", "--title", "Mine & yours"]);
    let page = fs::read_to_string(stage.path("other.html")).unwrap();
    assert!(page.contains("<h1>Mine &amp; yours</h1>"));
}

fn the_page_goes_to_standard_output() {
    let page = stage(&[TRACE, END].concat()).prints(&["trace", "view", "t.jsonl", "-o", "-"]);
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"), "{page}");
}

fn what_is_missing_is_said() {
    let stage = stage(TRACE);
    let output = stage.zerogpu(&["trace", "view", "t.jsonl"]).output().unwrap();
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "zerogpu: note: the trace has no end: records of a killed process may be missing\n"
    );
    assert!(stage.complains(1, &["trace", "view", "none.jsonl"]).contains("none.jsonl: No such file"));
    assert!(stage.complains(1, &["trace", "view", "t.jsonl", "-o", "no/such/folder"]).contains("can't be written"));
    fs::write(stage.path("t.jsonl.ring"), "").unwrap();
    assert!(stage.complains(1, &["trace", "view", "t.jsonl.ring"]).contains("zerogpu trace recover"));
}

fn the_trace_itself_is_kept() {
    let stage = stage(TRACE);
    assert!(stage.complains(1, &["trace", "view", "t.jsonl", "-o", "./t.jsonl"]).contains("the trace itself"));
    assert_eq!(fs::read_to_string(stage.path("t.jsonl")).unwrap(), TRACE);
}

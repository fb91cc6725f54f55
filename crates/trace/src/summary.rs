//! Sums of a trace: which calls, how often, how long, how many bytes.
use crate::format::{duration, size};
use crate::read::{read, Form, Record};
use crate::Error;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

/// What the rows are sorted by; names where that is equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Total time, longest first.
    Time,
    /// Number of calls, most first.
    Count,
    /// Bytes, most first.
    Bytes,
    /// Failed calls, most first.
    Errors,
    /// Name.
    Name,
}

/// The sums of a trace.
#[derive(Debug, PartialEq)]
pub struct Summary {
    calls: Vec<Row>,
    spans: Vec<Row>,
    notes: Vec<String>,
}

#[derive(Debug, Default, Clone, PartialEq)]
struct Row {
    name: String,
    count: u64,
    errors: u64,
    ns: u64,
    bytes: u64,
}

impl Summary {
    /// Reads a JSON-lines or Chrome trace and sums it up, sorted by `order`. What can't be read is left out, with a note.
    ///
    /// # Errors
    /// The file can't be read or is neither.
    pub fn read(path: &Path, order: Order) -> Result<Self, Error> {
        let (mut calls, mut spans) = (Rows::new(), Rows::new());
        let reading = read(path, &mut |record| match record {
            Record::Call(c) => add(&mut calls, &c.name, c.duration, c.result != 0, c.bytes),
            Record::Span { kind, duration, bytes, .. } => add(&mut spans, &kind, duration, false, bytes),
            _ => {}
        })?;
        if reading.form == Form::Text {
            let why = "a text trace has no sums; make a JSON or Chrome trace (ZEROGPU_TRACE=json or chrome)".into();
            return Err(Error::Unreadable { path: path.to_owned(), why });
        }
        Ok(Summary { calls: sorted(calls, order), spans: sorted(spans, order), notes: reading.notes(path) })
    }
}

type Rows = HashMap<String, Row>;

fn add(rows: &mut Rows, name: &str, ns: u64, error: bool, bytes: u64) {
    let row = match rows.get_mut(name) {
        Some(row) => row,
        None => rows.entry(name.to_string()).or_insert(Row { name: name.to_string(), ..Row::default() }),
    };
    row.count += 1;
    row.errors += u64::from(error);
    row.ns = row.ns.saturating_add(ns);
    row.bytes = row.bytes.saturating_add(bytes);
}

fn sorted(rows: Rows, order: Order) -> Vec<Row> {
    let mut rows: Vec<Row> = rows.into_values().collect();
    rows.sort_by(|a, b| {
        let by = match order {
            Order::Time => b.ns.cmp(&a.ns),
            Order::Count => b.count.cmp(&a.count),
            Order::Bytes => b.bytes.cmp(&a.bytes),
            Order::Errors => b.errors.cmp(&a.errors),
            Order::Name => std::cmp::Ordering::Equal,
        };
        by.then_with(|| a.name.cmp(&b.name))
    });
    rows
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        table(f, "call", &self.calls)?;
        if !self.spans.is_empty() {
            writeln!(f)?;
            table(f, "span", &self.spans)?;
        }
        for note in &self.notes {
            writeln!(f, "\nnote: {note}")?;
        }
        Ok(())
    }
}

/// A table with a head and, if there is more than one row, their sum.
fn table(f: &mut fmt::Formatter, what: &str, rows: &[Row]) -> fmt::Result {
    let total = rows.iter().fold(Row { name: "total".into(), ..Row::default() }, |sum, r| Row {
        count: sum.count + r.count,
        errors: sum.errors + r.errors,
        ns: sum.ns.saturating_add(r.ns),
        bytes: sum.bytes.saturating_add(r.bytes),
        ..sum
    });
    let width = rows.iter().map(|r| r.name.len()).max().unwrap_or(0).max(what.len()).max(5);
    writeln!(f, "{what:width$}  {:>9}  {:>8}  {:>9}  {:>9}  {:>10}", "count", "errors", "time", "mean", "bytes")?;
    for r in rows.iter().chain((rows.len() != 1).then_some(&total)) {
        let mean = duration(r.ns.checked_div(r.count).unwrap_or(0));
        let bytes = if r.bytes == 0 { "-".into() } else { size(r.bytes) };
        let (name, time) = (&r.name, duration(r.ns));
        writeln!(f, "{name:width$}  {:>9}  {:>8}  {time:>9}  {mean:>9}  {bytes:>10}", r.count, r.errors)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const LINES: &str = r#"{"type":"trace","zerogpu":"0.1.0","pid":7}
{"type":"thread","thread":7,"name":"a \"b\""}
{"type":"call","thread":7,"depth":0,"at_ns":5,"dur_ns":1500,"name":"cuMemAlloc_v2","args":{"bytesize":4096},"result":0,"status":"CUDA_SUCCESS","bytes":4096}
{"type":"call","thread":7,"depth":0,"at_ns":9,"dur_ns":500,"name":"cuMemAlloc_v2","args":{},"result":2,"status":"CUDA_ERROR_OUT_OF_MEMORY","bytes":4096}
{"type":"call","thread":8,"depth":0,"at_ns":9,"dur_ns":30,"name":"cuCtxGetCurrent","args":{},"result":0,"status":"CUDA_SUCCESS"}
{"type":"call","thread":8,"depth":0,"at_ns":10,"dur_ns":20,"name":"cuCtxGetCurrent","args":{},"result":0,"status":"CUDA_SUCCESS"}
{"type":"call","thread":8,"depth":0,"at_ns":11,"dur_ns":10,"name":"cuCtxGetCurrent","args":{},"result":0,"status":"CUDA_SUCCESS"}
{"type":"span","thread":7,"at_ns":1,"dur_ns":312000000,"kind":"claim","name":"first launch","bytes":1073741824}
{"type":"end","recovered":false,"lost":0}
"#;

    fn write(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn shown(text: &str, order: Order) -> String {
        let (_dir, path) = write("t", text);
        Summary::read(&path, order).unwrap().to_string()
    }

    #[test]
    fn a_json_trace_by_time() {
        let expected = "\
call                 count    errors       time       mean       bytes
cuMemAlloc_v2            2         1     2.0 us     1.0 us     8.0 KiB
cuCtxGetCurrent          3         0      60 ns      20 ns           -
total                    5         1     2.1 us     412 ns     8.0 KiB

span       count    errors       time       mean       bytes
claim          1         0   312.0 ms   312.0 ms     1.0 GiB
";
        assert_eq!(shown(LINES, Order::Time), expected);
    }

    #[test]
    fn other_orders() {
        let first = |order| shown(LINES, order).lines().nth(1).unwrap().split(' ').next().unwrap().to_string();
        assert_eq!(first(Order::Count), "cuCtxGetCurrent");
        assert_eq!(first(Order::Bytes), "cuMemAlloc_v2");
        assert_eq!(first(Order::Errors), "cuMemAlloc_v2");
        assert_eq!(first(Order::Name), "cuCtxGetCurrent");
    }

    #[test]
    fn a_chrome_trace() {
        let text = r#"{"displayTimeUnit":"ns","traceEvents":[
{"ph":"M","name":"process_name","pid":1,"args":{"name":"python"}},
{"ph":"X","name":"cuMemcpyHtoD_v2","cat":"call","ts":1.5,"dur":2.25,"pid":1,"tid":2,"args":{"args":{"bytes":9},"result":0,"bytes":1024}},
{"ph":"b","name":"park","cat":"span","ts":10.0,"pid":1,"tid":2,"id":"0x1","args":{"name":"a","bytes":7}},
{"ph":"b","name":"park","cat":"span","ts":11.0,"pid":1,"tid":2,"id":"0x2","args":{"name":"b","bytes":1}},
{"ph":"e","name":"park","cat":"span","ts":12.0,"pid":1,"tid":2,"id":"0x1","args":{}},
{"ph":"e","name":"park","cat":"span","ts":14.0,"pid":1,"tid":2,"id":"0x2","args":{}},
{"ph":"C","name":"card","ts":1.0,"pid":1,"tid":2,"args":{"value":5}}
]}
"#;
        let expected = "\
call                 count    errors       time       mean       bytes
cuMemcpyHtoD_v2          1         0     2.2 us     2.2 us     1.0 KiB

span       count    errors       time       mean       bytes
park           2         0     5.0 us     2.5 us         8 B
";
        assert_eq!(shown(text, Order::Time), expected);
    }

    #[test]
    fn an_empty_trace_has_zero_calls() {
        let expected = "\
call       count    errors       time       mean       bytes
total          0         0       0 ns       0 ns           -
";
        assert_eq!(shown("{\"type\":\"trace\"}\n{\"type\":\"end\"}\n", Order::Time), expected);
    }

    #[test]
    fn a_trace_without_its_end_says_so() {
        let cut = &LINES[..LINES.len() - 20];
        let shown = shown(cut, Order::Time);
        assert!(
            shown.contains("cuMemAlloc_v2            2") && shown.contains("note: the trace has no end"),
            "{shown}"
        );
    }

    #[test]
    fn a_trace_with_a_ring_says_so() {
        let (dir, path) = write("t.jsonl", LINES);
        std::fs::write(dir.path().join("t.jsonl.ring"), "").unwrap();
        assert!(Summary::read(&path, Order::Time).unwrap().to_string().contains("zerogpu trace recover"));
    }

    #[test]
    fn what_has_no_sums_is_refused() {
        let refusal = |text: &str| {
            let (_dir, path) = write("t", text);
            Summary::read(&path, Order::Time).unwrap_err().to_string()
        };
        assert!(refusal("# zerogpu 0.1.0: trace").contains("make a JSON or Chrome trace"));
        assert!(refusal("hello").contains("no trace of zerogpu"));
        assert!(refusal("{\"a\":1}").contains("no JSON or Chrome trace"));
        let (_dir, ring) = write("t.ring", "");
        assert!(Summary::read(&ring, Order::Time).unwrap_err().to_string().contains("zerogpu trace recover"));
    }

    #[test]
    fn damaged_lines_are_left_out_and_told() {
        let damaged =
            LINES.replacen("{\"type\":\"thread\"", "{\"type\":\"thr", 1).replacen("\"at_ns\":9", "\"at_ns\":-9", 1);
        let shown = shown(&damaged, Order::Time);
        assert!(shown.contains("cuMemAlloc_v2            1"), "{shown}");
        assert!(shown.contains("note: lines that are no records, left out: 2; the first is line 2: "), "{shown}");
    }
}

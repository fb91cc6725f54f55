use super::*;
use crate::map::Meta;
use crate::record::{kind, pair};
use crate::ring::Tag;
use crate::settings::Format;

/// A ring in `dir` whose process has ended, with `records` calls of `cuInit`, numbered by their argument.
fn left(dir: &Path, records: u64) -> RingFile {
    let output = dir.join("t.jsonl");
    let meta = Meta {
        version: "0.1.0".into(),
        symbols: symbols::digest(),
        pid: 1,
        program: "p".into(),
        settings: "json".into(),
        format: Format::Json,
        output: Some(output.clone()),
        started_unix_ns: 0,
        started_ns: 0,
    };
    let file = RingFile::create(&ring_of(&output), meta, 128).unwrap().unwrap();
    for number in 0..records {
        emit(&file, number);
    }
    file
}

fn emit(file: &RingFile, number: u64) {
    let tag = Tag { kind: kind::CALL, depth: 0, thread: 1 };
    let call = [0, 1, 0, pair(symbols::id("cuInit").unwrap(), 0)];
    file.ring().emit(tag, &call, &[number], &[], |_| false);
}

/// The numbers in the output, and its last line.
fn read(path: &Path) -> (Vec<u64>, String) {
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.iter().filter(|l| l["type"] == "trace").count(), 1);
    let numbers = lines.iter().filter_map(|l| l["args"]["Flags"].as_u64()).collect();
    (numbers, text.lines().last().unwrap().to_string())
}

/// Does what the writer does up to its checkpoint after `count` records, and gives the output.
fn write(file: &RingFile, count: u64) -> Vec<u8> {
    let render = Render::new(file.meta().clone());
    let mut bytes = Vec::new();
    render.preamble(&mut bytes);
    let mut batches = Batches::new(file.ring(), &render, 0);
    for _ in 0..count {
        assert!(batches.next(&mut bytes));
    }
    file.set_checkpoint(batches.tail, bytes.len() as u64);
    file.ring().free(batches.tail);
    bytes
}

#[test]
fn what_was_written_after_the_checkpoint_is_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let file = left(dir.path(), 3);
    let mut bytes = write(&file, 1);
    // the next batch is in the output in part
    bytes.extend(b"{\"type\":\"call\",\"args\":{\"Flags\":1}}\n{\"type\":\"ca");
    std::fs::write(&path, bytes).unwrap();
    drop(file);
    let done = recover(&path).unwrap().unwrap();
    assert_eq!(done, Recovered { output: Some(path.clone()), records: 2, lost: 0 });
    assert_eq!(read(&path), (vec![0, 1, 2], "{\"type\":\"end\",\"recovered\":true,\"lost\":0}".into()));
    assert_eq!(recover(&path).unwrap(), None);
}

#[test]
fn a_record_that_was_not_finished_is_counted_and_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let file = left(dir.path(), 128);
    // the ring is full: position 128 is taken, and not written
    emit(&file, 128);
    std::fs::write(&path, write(&file, 2)).unwrap();
    emit(&file, 129);
    drop(file);
    let done = recover(&path).unwrap().unwrap();
    assert_eq!((done.records, done.lost), (127, 1));
    let (numbers, end) = read(&path);
    assert!(numbers.into_iter().eq((0..128).chain([129])));
    assert!(end.contains("\"lost\":1"));
}

#[test]
fn a_producer_that_waited_for_room_has_lost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = left(dir.path(), 128);
    emit(&file, 128);
    drop(file);
    let done = recover(&dir.path().join("t.jsonl")).unwrap().unwrap();
    assert_eq!((done.records, done.lost), (128, 0));
}

#[test]
fn a_trace_may_be_moved_with_its_ring() {
    let dir = tempfile::tempdir().unwrap();
    drop(left(dir.path(), 2));
    let moved = dir.path().join("moved.jsonl");
    std::fs::rename(dir.path().join("t.jsonl.ring"), ring_of(&moved)).unwrap();
    assert_eq!(recover(&moved).unwrap().unwrap().output, Some(moved.clone()));
    assert_eq!(read(&moved).0, [0, 1]);
}

#[test]
fn an_output_that_lost_its_beginning_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = left(dir.path(), 2);
    file.set_checkpoint(1, 1000);
    drop(file);
    let path = dir.path().join("t.jsonl");
    std::fs::write(&path, "truncated").unwrap();
    let error = recover(&path).unwrap_err().to_string();
    assert!(error.contains("is 9 bytes long, but 1000 had been written"), "{error}");
    assert!(ring_of(&path).exists());
}

#[test]
fn another_version_s_numbers_are_not_guessed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl.ring");
    let meta = left(dir.path(), 0).meta().clone();
    std::fs::remove_file(&path).unwrap();
    let meta = Meta { symbols: meta.symbols ^ 1, version: "9.9".into(), ..meta };
    drop(RingFile::create(&path, meta, 128).unwrap().unwrap());
    assert!(recover(&path).unwrap_err().to_string().contains("zerogpu 9.9"));
}

#[test]
fn seeds_of_rings() {
    let dir = tempfile::tempdir().unwrap();
    drop(left(dir.path(), 3));
    let file = std::fs::read(dir.path().join("t.jsonl.ring")).unwrap();
    // what is behind the magic, the slots and the facts' length; of the slots those that are in use
    let (ends, slots) = (&file[24..384], &file[16384..16384 + 4 * 128]);
    for (name, format) in [("ring-text", 0), ("ring-json", 1), ("ring-chrome", 2)] {
        crate::read::tests::seed(name, &[&[b'r', format][..], ends, slots].concat());
    }
}

use super::*;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::sync::Mutex;
use std::time::Instant;

fn settings(text: &str) -> Settings {
    Settings::parse(text, std::process::id()).unwrap().unwrap()
}

fn start(text: &str) -> Tracer {
    Tracer::start(&settings(text), text, || {}).unwrap()
}

fn who(thread: u32) -> Who {
    Who { thread, depth: 0 }
}

fn call(tracer: &Tracer, thread: u32, i: u64) {
    let id = symbols::id("cuMemcpyHtoD_v2").unwrap();
    tracer.call(who(thread), id, &[thread.into(), i, i], sys::now(), sys::now(), 0, 0);
}

/// For each thread the third argument of its calls, in the order of the output.
fn counted(json_lines: &str) -> HashMap<u64, Vec<u64>> {
    let mut seen: HashMap<u64, Vec<u64>> = HashMap::new();
    for line in json_lines.lines() {
        let v: serde_json::Value = serde_json::from_str(line).unwrap();
        if v["type"] == "call" {
            seen.entry(v["thread"].as_u64().unwrap()).or_default().push(v["args"]["ByteCount"].as_u64().unwrap());
        }
    }
    seen
}

/// Waits for a condition, at most a minute.
fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// An output that takes nothing until it is let, and fails from its `good`th append on.
struct Gate {
    open: Receiver<()>,
    bytes: Arc<Mutex<Vec<u8>>>,
    good: u32,
}

impl Output for Gate {
    fn append(&mut self, bytes: &[u8], _end: &[u8]) -> io::Result<()> {
        // once its other end is gone the gate stays open
        let _ = self.open.recv();
        if self.good == 0 {
            return Err(io::Error::other("the disk is full"));
        }
        self.good -= 1;
        self.bytes.lock().unwrap().extend(bytes);
        Ok(())
    }

    fn finish(&mut self, _end: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn length(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }
}

#[test]
fn many_threads_through_a_small_ring_lose_nothing_and_keep_their_order() {
    const THREADS: u32 = 8;
    const RECORDS: u64 = 5_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let tracer = start(&format!("json,file={},buffer=16KiB", path.display()));
    assert!(settings("json,buffer=16KiB").slots * 8 < RECORDS, "the ring must be used over and over");
    std::thread::scope(|s| {
        for thread in 1..=THREADS {
            let tracer = &tracer;
            s.spawn(move || {
                for i in 0..RECORDS {
                    call(tracer, thread, i);
                    if i % 100 == 0 {
                        tracer.message(who(thread), sys::now(), Message::Explain, &"x".repeat(i as usize));
                    }
                }
            });
        }
    });
    assert!(tracer.finish(Duration::from_secs(60)));
    assert!(!path.with_extension("jsonl.ring").exists(), "a clean end leaves no ring");
    let text = std::fs::read_to_string(&path).unwrap();
    let seen = counted(&text);
    assert_eq!(seen.len(), THREADS as usize);
    for records in seen.values() {
        assert!(records.iter().copied().eq(0..RECORDS));
    }
    assert_eq!(text.matches("\"type\":\"message\"").count() as u64, u64::from(THREADS) * RECORDS / 100);
    assert!(text.ends_with("{\"type\":\"end\",\"recovered\":false,\"lost\":0}\n"));
}

#[test]
fn a_full_ring_holds_the_producer_back_until_the_writer_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("json,file={},buffer=16KiB", dir.path().join("t.jsonl").display());
    let settings = settings(&text);
    let (let_go, open) = channel();
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let gate = Gate { open, bytes: bytes.clone(), good: u32::MAX };
    let file = claim_output(&settings, &text).unwrap();
    let tracer = Tracer::run(&settings, file, Box::new(gate), || {}).unwrap();
    let done = AtomicU64::new(0);
    std::thread::scope(|s| {
        s.spawn(|| {
            for i in 0..1000 {
                call(&tracer, 1, i);
                done.store(i + 1, Ordering::SeqCst);
            }
        });
        let ring = tracer.shared.file.ring();
        // one position beyond the ring is taken: its owner waits
        until("the producer fills the ring", || ring.head().0 == settings.slots + 1);
        assert_eq!(done.load(Ordering::SeqCst), settings.slots);
        assert!(bytes.lock().unwrap().is_empty());
        drop(let_go);
    });
    assert!(tracer.finish(Duration::from_secs(60)));
    let text = String::from_utf8(bytes.lock().unwrap().clone()).unwrap();
    assert!(counted(&text)[&1].iter().copied().eq(0..1000));
}

#[test]
fn an_output_that_fails_ends_the_trace_and_frees_who_waits() {
    static FAILED: AtomicU32 = AtomicU32::new(0);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let text = format!("json,file={},buffer=16KiB", path.display());
    let settings = settings(&text);
    let (let_go, open) = channel();
    let gate = Gate { open, bytes: Arc::default(), good: 0 };
    let file = claim_output(&settings, &text).unwrap();
    let failed = || {
        FAILED.fetch_add(1, Ordering::SeqCst);
    };
    let tracer = Tracer::run(&settings, file, Box::new(gate), failed).unwrap();
    std::thread::scope(|s| {
        s.spawn(|| (0..1000).for_each(|i| call(&tracer, 1, i)));
        until("the producer waits", || tracer.shared.file.ring().head().0 > settings.slots);
        drop(let_go);
    });
    assert!(tracer.finish(Duration::from_secs(60)));
    assert_eq!(FAILED.load(Ordering::SeqCst), 1);
    assert!(settings.ring_path(Some(&path), 0).exists(), "what is left can be recovered");
}

#[test]
fn records_reach_the_output_while_the_process_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let tracer = start(&format!("json,file={}", path.display()));
    for i in 0..20 {
        call(&tracer, 1, i);
        let written = || std::fs::read_to_string(&path).unwrap().contains(&format!("\"ByteCount\":{i}}}"));
        until("a record is written though nothing follows it", written);
    }
    assert!(tracer.finish(Duration::from_secs(60)));
}

#[test]
fn short_and_successful_calls_can_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let tracer = start(&format!("json,file={},min=1us,errors", path.display()));
    for (n, (ns, result)) in [(2000, 0), (999, 2), (1000, 2), (5000, 700)].into_iter().enumerate() {
        tracer.call(who(1), symbols::id("cuMemAlloc_v2").unwrap(), &[0, n as u64], 10, 10 + ns, result, 0);
    }
    assert!(tracer.finish(Duration::from_secs(60)));
    let text = std::fs::read_to_string(&path).unwrap();
    let left: Vec<bool> = (0..4).map(|n| text.contains(&format!("\"bytesize\":{n}}}"))).collect();
    assert_eq!(left, [false, false, true, true]);
}

#[test]
fn an_output_in_use_is_not_touched_and_a_left_one_is_completed_first() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("json,file={}", dir.path().join("t.jsonl").display());
    let named = |name: &str| dir.path().join(name);
    // a ring that no process holds: its output is completed, and not overwritten
    let left = claim_output(&settings(&text), &text).unwrap();
    assert_eq!(left.meta().output, Some(named("t.jsonl")));
    let id = symbols::id("cuInit").unwrap();
    let tag = Tag { kind: kind::CALL, depth: 0, thread: 5 };
    left.ring().emit(tag, &[1, 1, 0, pair(id, 0)], &[0], &[], |_| false).unwrap();
    drop(left);
    let next = start(&text);
    assert_eq!(next.shared.file.meta().output, Some(named("t-2.jsonl")));
    let completed = std::fs::read_to_string(named("t.jsonl")).unwrap();
    assert!(completed.contains("cuInit") && completed.ends_with("\"recovered\":true,\"lost\":0}\n"), "{completed}");
    assert!(next.finish(Duration::from_secs(60)));
    // a file that is no ring is left alone
    std::fs::write(named("t.jsonl.ring"), "mine").unwrap();
    let other = start(&text);
    assert_eq!(other.shared.file.meta().output, Some(named("t-2.jsonl")));
    assert!(other.finish(Duration::from_secs(60)));
    assert_eq!(std::fs::read_to_string(named("t.jsonl.ring")).unwrap(), "mine");
    assert_eq!(std::fs::read_to_string(named("t.jsonl")).unwrap(), completed);
}

#[test]
fn a_trace_that_can_not_start_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    let text = format!("json,file={}", folder.display());
    let Err(error) = Tracer::start(&settings(&text), &text, || {}) else { panic!("a folder is no output") };
    assert!(error.to_string().contains("Is a directory"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn numbers_go_before_the_extension() {
    let shown = |path: &str, n| numbered(Path::new(path), n).to_str().unwrap().to_string();
    assert_eq!(shown("/a/t.trace.json", 1), "/a/t.trace.json");
    assert_eq!(shown("/a/t.trace.json", 2), "/a/t.trace-2.json");
    assert_eq!(shown("t", 3), "t-3");
}

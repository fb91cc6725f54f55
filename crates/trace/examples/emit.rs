//! A program that traces calls it makes up, from several threads, and ends in a way of one's choice: what the tests in
//! tests/processes.rs start, and an example of how to trace.
//!
//! `emit SETTINGS THREADS RECORDS exit|_exit|fork|exec`, `emit SETTINGS THREADS PROGRESS_FILE forever`,
//! `emit SETTINGS nested`, `emit recover FILE`
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use zerogpu_trace as trace;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["recover", file] => println!("{:?}", trace::recover(Path::new(file)).expect("recoverable")),
        [settings, "nested"] => {
            begin(settings);
            nest();
            assert!(trace::finish(), "the writer is done in time");
        }
        [settings, threads, progress, "forever"] => {
            begin(settings);
            let progress = File::create(progress).expect("a file for the progress");
            let publish = |thread: u64, records: u64| {
                progress.write_all_at(&records.to_le_bytes(), thread * 8).expect("progress written");
            };
            emit(number(threads), 0..u64::MAX, publish);
        }
        [settings, threads, records, ending] => {
            begin(settings);
            let (threads, records) = (number(threads), number(records));
            match ending {
                "fork" => emit(threads, 0..records, |thread, i| {
                    if (thread, i) == (0, records / 2) {
                        fork_a_child_that_traces();
                    }
                }),
                _ => emit(threads, 0..records, |_, _| {}),
            }
            match ending {
                // SAFETY: ends the process at once.
                "_exit" => unsafe { libc::_exit(0) },
                "exec" => {
                    let args = [settings, &threads.to_string(), &records.to_string(), "exit"];
                    let this = std::env::current_exe().expect("a path of our own");
                    panic!("{}", std::process::Command::new(this).args(args).exec());
                }
                _ => assert!(trace::finish(), "the writer is done in time"),
            }
        }
        _ => panic!("see the comment at the top"),
    }
}

fn begin(settings: &str) {
    assert!(trace::start(settings).expect("a trace"), "tracing is on");
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

/// Each of `threads` threads records a call for each of `records`, with the thread's number and the record's as arguments.
fn emit(threads: u64, records: std::ops::Range<u64>, recorded: impl Fn(u64, u64) + Sync) {
    let id = trace::id("cuMemcpyHtoD_v2").expect("a driver function");
    std::thread::scope(|s| {
        for thread in 0..threads {
            let (records, recorded) = (records.clone(), &recorded);
            s.spawn(move || {
                for i in records {
                    if trace::records(id) {
                        let start = trace::enter();
                        trace::call(id, &[thread, 0, i], start, trace::now(), 0, 0);
                    }
                    recorded(thread, i + 1);
                }
            });
        }
    });
}

/// A launch whose driver function calls another one, as from a callback, with everything else that can be recorded.
fn nest() {
    let [outer, inner] = ["cuLaunchKernel", "cuCtxGetCurrent"].map(|name| trace::id(name).expect("a driver function"));
    let record = |id, args, body: &dyn Fn()| {
        let run = || {
            body();
            0
        };
        if trace::records(id) {
            trace::traced(id, args, run, |_, _, _| 0)
        } else {
            run()
        }
    };
    let claimed = trace::now();
    record(outer, [7, 1, 2, 3], &|| {
        record(inner, [8, 0, 0, 0], &|| trace::message(trace::Message::Explain, "inside"));
        let (grid, block) = ([1, 2, 3], [32, 1, 1]);
        trace::launch(outer, &trace::Launch { kernel: "a_kernel", grid, block, shared_bytes: 0, stream: 9 });
    });
    record(inner, [10, 0, 0, 0], &|| {});
    trace::span(trace::Span::Claim, "a_kernel", claimed, trace::now(), 1 << 20);
    trace::counter("bytes on the card", 1 << 20);
}

/// The child records nothing, and its end does not end the parent's trace.
fn fork_a_child_that_traces() {
    // SAFETY: the child touches atomics only, and ends itself.
    match unsafe { libc::fork() } {
        0 => {
            let id = trace::id("cuInit").expect("a driver function");
            trace::call(id, &[0], 1, 2, 0, 0);
            trace::message(trace::Message::Warning, "from the child");
            let fine = !trace::on() && !trace::records(id) && trace::finish();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!fine)) }
        }
        child => {
            let mut status = -1;
            // SAFETY: `status` is valid to write to.
            let waited = unsafe { libc::waitpid(child, &mut status, 0) };
            assert_eq!((waited, status), (child, 0), "the child traces nothing");
        }
    }
}

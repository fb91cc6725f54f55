//! One trace of one process: the producers' side, and its beginning and end.
use crate::format::Render;
use crate::map::{Meta, RingFile};
use crate::output::{self, Output};
use crate::record::{kind, pair, Launch, Message, Span};
use crate::ring::Tag;
use crate::settings::Settings;
use crate::signal::Signal;
use crate::{recover, symbols, sys, writer, Error};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Names of outputs tried where others are in use: `trace.jsonl`, `trace-2.jsonl`, ...
const NAMES: u32 = 10_000;

/// Who records: thread and nesting depth.
#[derive(Clone, Copy)]
pub struct Who {
    pub thread: u32,
    pub depth: u8,
}

/// A running trace.
pub struct Tracer {
    shared: Arc<Shared>,
    min_ns: u64,
    errors_only: bool,
}

struct Shared {
    file: RingFile,
    signal: Signal,
}

impl Tracer {
    /// Makes the ring and the output, and starts the writer. `given` is the settings' text. `failed` is called on the
    /// writer's thread when the output can't be written any more.
    pub fn start(settings: &Settings, given: &str, failed: fn()) -> Result<Self, Error> {
        let file = claim_output(settings, given)?;
        match output::create(file.meta().output.as_deref()) {
            Ok(output) => Self::run(settings, file, output, failed),
            Err(e) => {
                file.remove()?;
                Err(e)
            }
        }
    }

    fn run(settings: &Settings, file: RingFile, output: Box<dyn Output>, failed: fn()) -> Result<Self, Error> {
        let shared = Arc::new(Shared { file, signal: Signal::default() });
        let writer = shared.clone();
        let body = move || write_all(&writer, output, failed);
        if let Err(cause) = sys::spawn(Box::new(body)) {
            shared.file.remove()?;
            return Err(Error::Thread { cause });
        }
        let min_ns = u64::try_from(settings.min.as_nanos()).unwrap_or(u64::MAX);
        Ok(Tracer { shared, min_ns, errors_only: settings.errors })
    }

    pub fn thread(&self, who: Who, name: &str) {
        self.emit(kind::THREAD, who, &[], &[], name);
    }

    #[inline]
    #[allow(clippy::too_many_arguments)]
    pub fn call(&self, who: Who, id: u32, args: &[u64], start: u64, end: u64, result: u32, bytes: u64) {
        let duration = end.saturating_sub(start);
        if duration < self.min_ns || (self.errors_only && result == 0) {
            return;
        }
        self.emit(kind::CALL, who, &[start, duration, bytes, pair(id, result)], args, "");
    }

    pub fn launch(&self, who: Who, at: u64, id: u32, launch: &Launch) {
        self.emit(kind::LAUNCH, who, &launch.words(at, id), &[], launch.kernel);
    }

    pub fn message(&self, who: Who, at: u64, kind: Message, text: &str) {
        self.emit(kind::MESSAGE, who, &[at, kind as u64], &[], text);
    }

    pub fn span(&self, who: Who, kind: Span, name: &str, start: u64, end: u64, bytes: u64) {
        self.emit(kind::SPAN, who, &[start, end.saturating_sub(start), bytes, kind as u64], &[], name);
    }

    pub fn counter(&self, who: Who, at: u64, name: &str, value: u64) {
        self.emit(kind::COUNTER, who, &[at, value], &[], name);
    }

    #[inline]
    fn emit(&self, kind: u8, who: Who, fixed: &[u64], more: &[u64], text: &str) {
        let Shared { file, signal } = &*self.shared;
        let ring = file.ring();
        let tag = Tag { kind, depth: who.depth, thread: who.thread };
        let wait = |has_room: &dyn Fn() -> bool| signal.wait_for_room(has_room);
        if let Some(written) = ring.emit(tag, fixed, more, text.as_bytes(), wait) {
            signal.wrote(&written, ring.len());
        }
    }

    /// Lets no further record in and waits until the writer has written the rest; false if that took longer than `limit`
    /// (then the ring stays, for `recover`).
    pub fn finish(&self, limit: Duration) -> bool {
        let Shared { file, signal } = &*self.shared;
        file.ring().close();
        signal.press();
        signal.wait_for_end(limit)
    }
}

/// The writer's thread.
fn write_all(shared: &Shared, mut output: Box<dyn Output>, failed: fn()) {
    let Shared { file, signal } = shared;
    let render = Render::new(file.meta().clone());
    // a panic here would leave producers waiting for ever
    let result = catch_unwind(AssertUnwindSafe(|| writer::run(file, &render, output.as_mut(), signal)));
    let complaint = match result {
        Ok(Ok(())) => return signal.end(false),
        Ok(Err(e)) => e.to_string(),
        Err(_) => "the trace's writer panicked".to_string(),
    };
    failed();
    file.ring().close();
    signal.end(true);
    let line = format!(
        "zerogpu: {complaint}; tracing ends here. `zerogpu trace recover {}` writes what is left once the process has \
         ended.\n",
        file.path().display()
    );
    // there is no one else to tell
    let _ = sys::stderr(line.as_bytes());
}

/// Finds the first name of the output that no ring stands beside, and makes its ring. A ring that its process left behind
/// (killed, or replaced by `exec`) is recovered first.
fn claim_output(settings: &Settings, given: &str) -> Result<RingFile, Error> {
    let pid = std::process::id();
    let absolute = |path: &PathBuf| std::path::absolute(path).map_err(|e| Error::io(path, e));
    let wanted = settings.output.as_ref().map(absolute).transpose()?;
    for number in 1..=NAMES {
        let output = wanted.as_deref().map(|path| numbered(path, number));
        let ring = settings.ring_path(output.as_deref(), pid);
        let ring = if wanted.is_none() { numbered(&ring, number) } else { ring };
        let ring = absolute(&ring)?;
        let meta = Meta {
            version: env!("CARGO_PKG_VERSION").into(),
            symbols: symbols::digest(),
            pid,
            program: program(),
            settings: given.into(),
            format: settings.format,
            output,
            started_unix_ns: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX)),
            started_ns: sys::now(),
        };
        if let Some(file) = RingFile::create(&ring, meta, settings.slots)? {
            return Ok(file);
        }
        // its owner lives, or it is no ring of ours: either way another name is needed
        let _ = recover::recover(&ring);
    }
    Err(Error::Names { path: wanted.unwrap_or_default() })
}

/// `trace.jsonl`, then `trace-2.jsonl`, `trace-3.jsonl`, ...
fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 1 {
        return path.to_owned();
    }
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{number}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// The command line, at most 1000 bytes of it.
fn program() -> String {
    let bytes = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let words: Vec<_> = bytes.split(|b| *b == 0).filter(|w| !w.is_empty()).map(String::from_utf8_lossy).collect();
    let mut line = words.join(" ");
    let end = (0..=line.len().min(1000)).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    line.truncate(end);
    line
}

#[cfg(test)]
mod tests;

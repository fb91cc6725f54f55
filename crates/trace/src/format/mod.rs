//! The three forms of a trace. Each record is rendered by itself, so that a batch can follow any other.
mod chrome;
mod json;
mod text;

use crate::map::Meta;
use crate::record::{Entry, Launch};
use crate::settings::Format;
use crate::symbols::{self, Args};
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// Renders a trace.
pub struct Render {
    meta: Meta,
}

/// How a trace ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    /// Whether the process had ended before its trace, and `recover` wrote the rest.
    pub recovered: bool,
    /// Records that were being written when the process was killed: their calls had ended, but not the recording.
    pub lost: u64,
}

impl Render {
    pub fn new(meta: Meta) -> Self {
        Render { meta }
    }

    /// What stands before the first record.
    pub fn preamble(&self, out: &mut Vec<u8>) {
        match self.meta.format {
            Format::Text => text::preamble(&self.meta, out),
            Format::Json => json::preamble(&self.meta, out),
            Format::Chrome => chrome::preamble(&self.meta, out),
        }
    }

    /// The record at `position`.
    pub fn entry(&self, position: u64, entry: &Entry, out: &mut Vec<u8>) {
        match self.meta.format {
            Format::Text => text::entry(&self.meta, entry, out),
            Format::Json => json::entry(&self.meta, entry, out),
            Format::Chrome => chrome::entry(&self.meta, position, entry, out),
        }
    }

    /// What stands behind the last record.
    pub fn ending(&self, end: End, out: &mut Vec<u8>) {
        match self.meta.format {
            Format::Text => text::ending(end, out),
            Format::Json => json::ending(end, out),
            Format::Chrome => {}
        }
    }

    /// What closes the output.
    pub fn close(&self) -> &'static [u8] {
        match self.meta.format {
            Format::Text | Format::Json => b"",
            Format::Chrome => chrome::CLOSE,
        }
    }
}

/// A call's details, the same in both JSON forms.
#[derive(Serialize)]
struct CallDetail<'a> {
    args: Args<'a>,
    result: u32,
    status: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    bytes: u64,
}

impl<'a> CallDetail<'a> {
    fn new(id: u32, args: &'a [u64], result: u32, bytes: u64) -> Self {
        let args = Args::new(id, args);
        let bytes = if bytes == 0 { args.bytes() } else { bytes };
        CallDetail { args, result, status: symbols::result_name(result), bytes }
    }
}

/// A launch's details, the same in both JSON forms.
#[derive(Serialize)]
struct LaunchDetail<'a> {
    call: &'static str,
    kernel: &'a str,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u64,
    stream: String,
}

impl<'a> LaunchDetail<'a> {
    fn new(id: u32, launch: &Launch<'a>) -> Self {
        let Launch { kernel, grid, block, shared_bytes, stream } = *launch;
        LaunchDetail { call: symbols::name_of(id), kernel, grid, block, shared_bytes, stream: format!("{stream:#x}") }
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// The start of the trace as people write it.
fn started(meta: &Meta) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(meta.started_unix_ns);
    humantime::format_rfc3339_seconds(at).to_string()
}

/// `850 ns`, `12.3 us`, `4.5 ms`, `1.2 s`.
pub fn duration(ns: u64) -> String {
    let scaled = |unit: u64| ns as f64 / unit as f64;
    // thresholds such that rounding never prints 1000.0
    match ns {
        0..=999 => format!("{ns} ns"),
        1_000..=999_949 => format!("{:.1} us", scaled(1_000)),
        999_950..=999_949_999 => format!("{:.1} ms", scaled(1_000_000)),
        _ => format!("{:.1} s", scaled(1_000_000_000)),
    }
}

/// `512 B`, `4.0 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut scaled, mut unit) = (bytes as f64 / 1024.0, 0);
    while scaled >= 1023.95 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

#[cfg(test)]
pub mod tests;

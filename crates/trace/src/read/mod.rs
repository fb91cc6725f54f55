//! Reads traces back: the three forms give the same records, in the order in which they were written (that of their ends).
//! Text tells less: its times are rounded, and threads have no names.
mod chrome;
mod fields;
mod json;
mod text;

use crate::settings::{ring_of, RING};
use crate::Error;
pub use fields::{Arguments, Facts};
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// A record. Times are nanoseconds since the start of the trace.
#[derive(Debug, PartialEq)]
pub enum Record<'a> {
    /// What the trace is of.
    Trace(Facts),
    /// A thread's name, before its first record.
    Thread { thread: u32, name: Cow<'a, str> },
    /// A driver call.
    Call(Call<'a>),
    /// A launch, before the call that made it. `stream` is `""` where the trace does not tell.
    Launch {
        place: Place,
        call: Cow<'a, str>,
        kernel: Cow<'a, str>,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u64,
        stream: Cow<'a, str>,
    },
    /// A message.
    Message { place: Place, kind: Cow<'a, str>, text: Cow<'a, str> },
    /// A stretch of time.
    Span { thread: u32, at: u64, duration: u64, kind: Cow<'a, str>, name: Cow<'a, str>, bytes: u64 },
    /// `name` has `value` from now on.
    Counter { at: u64, name: Cow<'a, str>, value: u64 },
    /// The end of a complete trace.
    End { lost: u64 },
}

/// Where on a thread a call or a mark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub thread: u32,
    /// How many recorded calls it is within; None: the form does not tell, but the order of the records does.
    pub depth: Option<u8>,
    pub at: u64,
}

/// A driver call.
#[derive(Debug, PartialEq)]
pub struct Call<'a> {
    pub place: Place,
    pub duration: u64,
    pub name: Cow<'a, str>,
    pub arguments: Arguments,
    pub result: u32,
    /// The result's name.
    pub status: Cow<'a, str>,
    /// Bytes moved, set or allocated; 0: none.
    pub bytes: u64,
}

/// The forms of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Text,
    Json,
    Chrome,
}

/// How whole a trace is.
#[derive(Debug)]
pub struct Reading {
    pub form: Form,
    /// Whether its end is there. A text trace has none to look for: only a line that is cut tells.
    pub complete: bool,
    /// Lines that are no records, and the first of them: its number, and what is wrong with it.
    pub left_out: u64,
    pub first_left_out: Option<(u64, String)>,
    /// Records that were being written when the process was killed.
    pub lost: u64,
}

impl Reading {
    fn new(form: Form) -> Self {
        Reading { form, complete: false, left_out: 0, first_left_out: None, lost: 0 }
    }

    fn leave_out(&mut self, line: u64, why: String) {
        self.left_out += 1;
        self.first_left_out.get_or_insert((line, why));
    }

    /// What the reader of the trace `path` should know: one sentence each, none if the trace is whole.
    pub fn notes(&self, path: &Path) -> Vec<String> {
        let mut notes = vec![];
        if ring_of(path).exists() {
            notes.push("the process still runs, or its trace waits for `zerogpu trace recover`".into());
        } else if !self.complete {
            notes.push("the trace has no end: records of a killed process may be missing".into());
        }
        if self.lost > 0 {
            notes.push(format!("records lost when the process was killed: {}", self.lost));
        }
        if let Some((line, why)) = &self.first_left_out {
            notes.push(format!(
                "lines that are no records, left out: {}; the first is line {line}: {why}",
                self.left_out
            ));
        }
        notes
    }
}

/// Reads the trace `path`, whichever form it has, and gives each record to `take`. What can't be read is left out and told
/// in the [`Reading`].
///
/// # Errors
/// The file can't be read, or is no trace at all.
pub fn read(path: &Path, take: &mut dyn FnMut(Record)) -> Result<Reading, Error> {
    let io = |e| Error::io(path, e);
    let unreadable = |why: &str| Error::Unreadable { path: path.to_owned(), why: why.into() };
    if path.extension().is_some_and(|e| e == RING) {
        return Err(unreadable("this is the ring of a trace; `zerogpu trace recover` makes the trace from it"));
    }
    let file = File::open(path).map_err(io)?;
    let kind = file.metadata().map_err(io)?.file_type();
    // a device may go on for ever
    if kind.is_char_device() || kind.is_block_device() {
        return Err(unreadable("a device, not a file"));
    }
    let mut file = BufReader::with_capacity(1 << 18, file);
    let start = file.fill_buf().map_err(io)?;
    // other programs put blanks between
    let begins: Vec<u8> = start.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).take(8).collect();
    let reading = if begins == b"{\"type\":" {
        json::read(file, take).map_err(io)?
    } else if begins.starts_with(b"{") {
        chrome::read(file, take).map_err(io)?
    } else {
        text::read(file, take).map_err(io)?
    };
    reading.map_err(|why| unreadable(&why))
}

/// Longer than any record: what a line has more is not looked at.
const MAX_LINE: u64 = 1 << 20;

/// Calls `each` with the number and the text of each line, without its end, and whether that end was there.
fn lines(mut file: impl BufRead, mut each: impl FnMut(u64, &[u8], bool)) -> std::io::Result<()> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if file.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let mut ended = line.last() == Some(&b'\n');
        if !ended && line.len() as u64 == MAX_LINE {
            ended = file.skip_until(b'\n')? > 0;
        }
        each(number, line.trim_ascii_end(), ended);
    }
    Ok(())
}

#[cfg(test)]
pub mod tests;

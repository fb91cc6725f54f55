//! What happened: the trace of driver calls, claims, parks and bytes.
//!
//! Off, tracing costs one relaxed load per driver call ([`on`], [`records`]). On, each record goes into a ring, and a
//! writer thread turns it into text, JSON lines or a Chrome trace. The grammar of the settings, the forms and the costs
//! are described for users in `docs/trace.md`.
//!
//! # For the shim
//! ```no_run
//! # use zerogpu_trace as trace;
//! // at the first driver call
//! if let Err(e) = trace::start(&std::env::var("ZEROGPU_TRACE").unwrap_or_default()) {
//!     eprintln!("zerogpu: {e}");
//! }
//! // around each driver call; 17 stands for the number of the export
//! # fn implementation(_: u64) -> u32 { 0 }
//! # let argument = 5u64;
//! let result = if trace::records(17) {
//!     trace::traced(17, [unsafe { trace::raw(argument) }], move || implementation(argument), |_, _, _| 0)
//! } else {
//!     implementation(argument)
//! };
//! // from atexit
//! trace::finish();
//! ```
//! Producers take no lock, allocate nothing (but at a thread's first record, which names it), and make a system call only
//! to wake a sleeping writer or to wait for room. A full ring makes them wait: nothing is dropped. If the output can't be
//! written, the trace says so on standard error and turns itself off.
//!
//! # The ring
//! One file per process, mapped shared, beside the output (`<output>.ring`) or where the settings say. The kernel keeps
//! it through `os._exit` and `kill -9`; [`recover()`] then completes the output from it. Numbers are little-endian words of
//! 8 bytes; slots have 128 bytes:
//!
//! ```text
//! word 0   position of the slot + 1, stored last: the record is complete        (left alone in continuation slots)
//! word 1   kind u8 | slots of the record u8 | words u8 | depth u8 | thread u32  (left alone in continuation slots)
//! 2 - 15   payload: the record's words, then its text, running on through the payloads of continuation slots
//! ```
//!
//! | kind | words | text |
//! |---|---|---|
//! | 0x81 thread | | name |
//! | 0x02 call | start, duration, bytes, function u32 and result u32, the arguments | |
//! | 0x83 launch | time, function, grid and block (6 x u32), shared bytes, stream | kernel |
//! | 0x84 message | time, kind | message |
//! | 0x85 span | start, duration, bytes, kind | name |
//! | 0x86 counter | time, value | name |
//!
//! Times are nanoseconds of CLOCK_MONOTONIC. A call with up to 10 arguments is one slot. Text is cut at 7 KiB. The writer
//! appends a batch to the output, notes position and length (the checkpoint), and only then frees the slots: whatever
//! kills the process, `recover` cuts the output back to the checkpoint and writes the rest, each record once. Only a
//! stream (standard error, a pipe) can't be cut back: there the last batch may come twice.
//!
//! # Fork
//! In a child made by `fork` the trace is off, and the parent's goes on. A child that makes its first driver call itself
//! (fork before, or `exec`) has a trace of its own.
#![warn(clippy::missing_errors_doc)]
#![allow(unexpected_cfgs)] // `fuzzing`, which scripts/fuzz sets

mod api;
mod error;
mod format;
#[cfg(fuzzing)]
pub mod fuzzing;
mod map;
mod output;
mod read;
mod record;
mod recover;
mod ring;
mod settings;
mod signal;
mod summary;
mod symbols;
mod sys;
mod tracer;
mod view;
mod writer;

pub use api::{call, counter, enter, finish, launch, message, now, on, raw, records, span, start, traced};
pub use error::Error;
pub use record::{Launch, Message, Span};
pub use recover::{recover, recover_folder, Recovered};
pub use settings::{anchored, ring_folder, PID};
pub use summary::{Order, Summary};
pub use symbols::id;
pub use view::Timeline;

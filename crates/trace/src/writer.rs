//! From the ring into the output: the thread that does it while the process lives, and the batches that it shares with
//! `recover`.
use crate::format::{End, Render};
use crate::map::RingFile;
use crate::output::Output;
use crate::record::decode;
use crate::ring::{Record, Ring};
use crate::signal::Signal;
use crate::Error;
use crossbeam_utils::Backoff;

/// A batch is written when it has this many bytes.
const BATCH: usize = 64 << 10;

/// Renders the records of a ring in order.
pub struct Batches<'a> {
    ring: Ring<'a>,
    render: &'a Render,
    record: Record,
    /// The next position to read.
    pub tail: u64,
    /// Records rendered.
    pub records: u64,
}

impl<'a> Batches<'a> {
    pub fn new(ring: Ring<'a>, render: &'a Render, tail: u64) -> Self {
        Batches { ring, render, record: Record::default(), tail, records: 0 }
    }

    /// Adds the next record to `out`; false if it is not there (yet).
    pub fn next(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(slots) = self.ring.read(self.tail, &mut self.record) else { return false };
        let text = String::from_utf8_lossy(&self.record.text);
        // a record of an unknown kind can't be written by the version that reads it
        if let Some(entry) = decode(&self.record, &text) {
            self.render.entry(self.tail, &entry, out);
            self.records += 1;
        }
        self.tail += slots;
        true
    }
}

/// Writes until the ring is closed and empty, then completes the output and deletes the ring.
pub fn run(file: &RingFile, render: &Render, output: &mut dyn Output, signal: &Signal) -> Result<(), Error> {
    let wrote = |e| Error::Write { output: file.meta().output.clone(), cause: e };
    let ring = file.ring();
    let mut batches = Batches::new(ring, render, 0);
    let mut bytes = Vec::with_capacity(2 * BATCH);
    let pending = Backoff::new();
    render.preamble(&mut bytes);
    loop {
        signal.look();
        let before = batches.tail;
        while bytes.len() < BATCH && batches.next(&mut bytes) {}
        let full = bytes.len() >= BATCH;
        if !bytes.is_empty() {
            output.append(&bytes, render.close()).map_err(wrote)?;
            bytes.clear();
            file.set_checkpoint(batches.tail, output.length());
            ring.free(batches.tail);
            signal.freed();
        }
        let (head, closed) = ring.head();
        if batches.tail != before {
            pending.reset();
            if !full && !closed {
                signal.nap();
            }
        } else if batches.tail == head {
            if closed {
                break;
            }
            signal.sleep(&ring, batches.tail);
        } else if pending.is_completed() {
            // the producer of the next record was interrupted while it wrote
            signal.nap();
        } else {
            pending.snooze();
        }
    }
    render.ending(End { recovered: false, lost: 0 }, &mut bytes);
    output.append(&bytes, render.close()).map_err(wrote)?;
    output.finish(render.close()).map_err(wrote)?;
    file.remove()
}

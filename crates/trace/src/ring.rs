//! The ring: many producers, one reader, slots of 128 bytes, no locks, nothing lost.
//!
//! Positions count slots from 0 and never wrap; position `p` lies in slot `p % len`. A producer takes as many positions
//! as its record needs by one addition to `head`, waits until the reader has freed them (`tail`), fills them, and commits
//! the record by storing `position + 1` as the first word of its first slot. A slot whose first word does not fit its
//! position is still being written, continues a record, or belonged to a process that died while writing it: the first two
//! words of a slot are never payload, so what an older lap left there can't be mistaken for a commit. Words are stored and
//! loaded as relaxed atomics: no access is a data race, and the whole file is safe code.
#![allow(unexpected_cfgs)] // `loom`: see the model tests below

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

/// Words of 8 bytes in a slot: the commit word, the tag, and the payload.
const SLOT_WORDS: usize = if cfg!(loom) { 4 } else { 16 };
/// Words of a slot that carry a record's numbers and text.
const PAYLOAD: usize = SLOT_WORDS - 2;
/// Longest record, in slots. Longer text is cut.
pub const MAX_SLOTS: usize = 64;
/// Set in `head` when nothing more may be recorded.
const CLOSED: u64 = 1 << 63;
/// Set in a tag's kind when the record ends with text.
pub const HAS_TEXT: u8 = 0x80;

/// One slot. The alignment keeps two producers off one pair of cache lines.
#[repr(C, align(128))]
pub struct Slot([AtomicU64; SLOT_WORDS]);

/// A counter with cache lines of its own.
#[repr(C, align(128))]
struct Lonely(AtomicU64);

/// The two ends of the ring.
#[repr(C)]
pub struct Control {
    /// First position not yet taken, and [`CLOSED`].
    head: Lonely,
    /// First position not yet freed by the reader.
    tail: Lonely,
}

/// What a record is, beside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tag {
    /// Not 0; with [`HAS_TEXT`] the words are followed by text.
    pub kind: u8,
    /// Nesting depth of the thread, at most 255.
    pub depth: u8,
    /// The kernel's number of the thread.
    pub thread: u32,
}

/// A record as read back.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Record {
    pub tag: Tag,
    pub words: Vec<u64>,
    pub text: Vec<u8>,
}

/// Where a record was written.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    pub position: u64,
    pub slots: u64,
}

/// The ring's memory. Copied freely; producers and the reader each hold one.
#[derive(Clone, Copy)]
pub struct Ring<'a> {
    control: &'a Control,
    slots: &'a [Slot],
}

impl<'a> Ring<'a> {
    /// The number of slots is a power of two, and no less than a record may have.
    pub fn new(control: &'a Control, slots: &'a [Slot]) -> Self {
        debug_assert!(slots.len().is_power_of_two());
        Ring { control, slots }
    }

    /// Number of slots.
    pub fn len(&self) -> u64 {
        self.slots.len() as u64
    }

    /// Writes a record: `fixed`, then `more`, then `text` if the tag says so. None: the ring is closed, or there was no
    /// room and `wait` gave up. `wait` is called once if the ring is full and gets a closure that tells whether there is
    /// room; it returns true only after that has said so.
    #[inline]
    pub fn emit(
        &self,
        tag: Tag,
        fixed: &[u64],
        more: &[u64],
        text: &[u8],
        wait: impl FnOnce(&dyn Fn() -> bool) -> bool,
    ) -> Option<Written> {
        let words = fixed.len() + more.len();
        let text = &text[..text.len().min((MAX_SLOTS * PAYLOAD - words) * 8)];
        let used = words + text.len().div_ceil(8);
        let slots = used.div_ceil(PAYLOAD).max(1) as u64;

        let position = self.take(slots)?;
        let has_room = || position + slots <= self.control.tail.0.load(Ordering::Acquire) + self.len();
        if !has_room() && !wait(&has_room) {
            return None;
        }

        let put = |at: usize, word: u64| {
            self.slot(position + (at / PAYLOAD) as u64).0[2 + at % PAYLOAD].store(word, Ordering::Relaxed)
        };
        for (at, word) in fixed.iter().chain(more).enumerate() {
            put(at, *word);
        }
        if tag.kind & HAS_TEXT != 0 {
            let mut chunks = text.chunks(8);
            // zeros to the end of the slot, so that no older text shows behind this one
            for at in words..slots as usize * PAYLOAD {
                put(at, chunks.next().map_or(0, word_of));
            }
        }

        let first = self.slot(position);
        let packed = u64::from(tag.kind)
            | slots << 8
            | (words as u64) << 16
            | u64::from(tag.depth) << 24
            | u64::from(tag.thread) << 32;
        first.0[1].store(packed, Ordering::Relaxed);
        first.0[0].store(position + 1, Ordering::Release);
        Some(Written { position, slots })
    }

    fn take(&self, slots: u64) -> Option<u64> {
        let head = &self.control.head.0;
        if head.load(Ordering::Relaxed) & CLOSED != 0 {
            return None;
        }
        // SeqCst: the writer's decision to sleep is ordered against this addition, see `signal`
        let position = head.fetch_add(slots, Ordering::SeqCst);
        if position & CLOSED != 0 {
            head.fetch_sub(slots, Ordering::Relaxed);
            return None;
        }
        Some(position)
    }

    /// Reads the record whose first slot is at `position` into `record` and gives its length in slots; None if there is
    /// none (yet).
    pub fn read(&self, position: u64, record: &mut Record) -> Option<u64> {
        let slot = self.slot(position);
        if slot.0[0].load(Ordering::Acquire) != position + 1 {
            return None;
        }
        let tag = slot.0[1].load(Ordering::Relaxed);
        let [kind, slots, words, depth, ..] = tag.to_le_bytes();
        // a file may hold anything; what this version never writes is no record
        if kind == 0 || slots == 0 || usize::from(slots) > MAX_SLOTS || words as usize > slots as usize * PAYLOAD {
            return None;
        }
        record.tag = Tag { kind, depth, thread: (tag >> 32) as u32 };
        let get = |at: usize| self.slot(position + (at / PAYLOAD) as u64).0[2 + at % PAYLOAD].load(Ordering::Relaxed);
        record.words.clear();
        record.words.extend((0..words as usize).map(get));
        record.text.clear();
        if kind & HAS_TEXT != 0 {
            for at in words as usize..slots as usize * PAYLOAD {
                record.text.extend(get(at).to_le_bytes());
            }
            let end = record.text.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
            record.text.truncate(end);
        }
        Some(u64::from(slots))
    }

    /// Frees all positions before `tail`. Only the reader calls this.
    pub fn free(&self, tail: u64) {
        self.control.tail.0.store(tail, Ordering::Release);
    }

    /// The first position not yet taken, and whether the ring is closed.
    pub fn head(&self) -> (u64, bool) {
        let head = self.control.head.0.load(Ordering::SeqCst);
        (head & !CLOSED, head & CLOSED != 0)
    }

    /// Lets no further record in.
    pub fn close(&self) {
        self.control.head.0.fetch_or(CLOSED, Ordering::SeqCst);
    }

    fn slot(&self, position: u64) -> &'a Slot {
        &self.slots[position as usize & (self.slots.len() - 1)]
    }
}

fn word_of(chunk: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..chunk.len()].copy_from_slice(chunk);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests;

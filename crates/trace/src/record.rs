//! What records mean: the numbers and the text of each kind, in one place for writing and reading.
use crate::ring::{Record, Tag, HAS_TEXT};

/// Kinds of records. 0 is taken by the ring.
pub mod kind {
    use super::HAS_TEXT;
    /// Words: none. Text: the thread's name, at its first record.
    pub const THREAD: u8 = 1 | HAS_TEXT;
    /// Words: start, duration, bytes, function | result << 32, arguments.
    pub const CALL: u8 = 2;
    /// Words: time, function, grid x | y << 32, grid z | block x << 32, block y | z << 32, shared bytes, stream.
    /// Text: the kernel's name.
    pub const LAUNCH: u8 = 3 | HAS_TEXT;
    /// Words: time, [`super::Message`]. Text: the message.
    pub const MESSAGE: u8 = 4 | HAS_TEXT;
    /// Words: start, duration, bytes, [`super::Span`]. Text: the name.
    pub const SPAN: u8 = 5 | HAS_TEXT;
    /// Words: time, value. Text: the name.
    pub const COUNTER: u8 = 6 | HAS_TEXT;
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }
        impl $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The word for it in the output.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
            /// The one that [`Self::name`] calls so.
            pub(crate) fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.name() == name)
            }
            fn from_word(word: u64) -> Option<Self> {
                Self::ALL.get(usize::try_from(word).ok()?).copied()
            }
        }
    };
}
named! {
    /// What a message is about.
    Message {
        /// A driver function, or slot of an export table, that zerogpu does not have.
        Unsupported = "unsupported",
        /// Why something happened: what made a claim necessary, what binds the process, which launch failed.
        Explain = "explain",
        /// More of a call's arguments: a name asked for, the kernel that is deferred.
        Detail = "detail",
        /// Something the user should change.
        Warning = "warning",
    }
}
named! {
    /// What a stretch of time was spent on, beside driver calls.
    Span {
        /// From the request for a GPU until the process may use it.
        Claim = "claim",
        /// In the queue of the broker, as a part of a claim.
        Wait = "wait",
        /// From the decision to leave the GPU until nothing is on it.
        Park = "park",
        /// A GPU held outside any region.
        Borrow = "borrow",
        /// Deferred work run.
        Replay = "replay",
        /// A region, from its begin to its end.
        Region = "region",
    }
}

/// A kernel launch, as a detail of the call that asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch<'a> {
    /// The kernel's name as the module has it (mangled).
    pub kernel: &'a str,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads in x, y and z of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory per block, in bytes.
    pub shared_bytes: u64,
    /// The stream's handle.
    pub stream: u64,
}

impl Launch<'_> {
    /// The words of a [`kind::LAUNCH`] record.
    pub fn words(&self, at: u64, id: u32) -> [u64; 7] {
        let ([gx, gy, gz], [bx, by, bz]) = (self.grid, self.block);
        [at, id.into(), pair(gx, gy), pair(gz, bx), pair(by, bz), self.shared_bytes, self.stream]
    }
}

/// A record, decoded. Times are nanoseconds of CLOCK_MONOTONIC.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub thread: u32,
    pub depth: u8,
    pub event: Event<'a>,
}

/// What happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    Thread { name: &'a str },
    Call { start: u64, duration: u64, bytes: u64, id: u32, result: u32, args: &'a [u64] },
    Launch { at: u64, id: u32, launch: Launch<'a> },
    Message { at: u64, kind: Message, text: &'a str },
    Span { start: u64, duration: u64, bytes: u64, kind: Span, name: &'a str },
    Counter { at: u64, name: &'a str, value: u64 },
}

/// Two numbers in one word.
pub fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// Decodes a record whose text is `text`; None if this version does not know it.
pub fn decode<'a>(record: &'a Record, text: &'a str) -> Option<Entry<'a>> {
    let Tag { kind, depth, thread } = record.tag;
    let event = match (kind, record.words.as_slice()) {
        (kind::THREAD, []) => Event::Thread { name: text },
        (kind::CALL, [start, duration, bytes, call, args @ ..]) => {
            let (id, result) = halves(*call);
            Event::Call { start: *start, duration: *duration, bytes: *bytes, id, result, args }
        }
        (kind::LAUNCH, [at, id, a, b, c, shared, stream]) => {
            let ((gx, gy), (gz, bx), (by, bz)) = (halves(*a), halves(*b), halves(*c));
            let (grid, block) = ([gx, gy, gz], [bx, by, bz]);
            let launch = Launch { kernel: text, grid, block, shared_bytes: *shared, stream: *stream };
            Event::Launch { at: *at, id: *id as u32, launch }
        }
        (kind::MESSAGE, [at, kind]) => Event::Message { at: *at, kind: Message::from_word(*kind)?, text },
        (kind::SPAN, [start, duration, bytes, kind]) => {
            Event::Span { start: *start, duration: *duration, bytes: *bytes, kind: Span::from_word(*kind)?, name: text }
        }
        (kind::COUNTER, [at, value]) => Event::Counter { at: *at, name: text, value: *value },
        _ => return None,
    };
    Some(Entry { thread, depth, event })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, words: &[u64]) -> Record {
        Record { tag: Tag { kind, depth: 3, thread: 42 }, words: words.to_vec(), text: vec![] }
    }

    #[test]
    fn a_launch_decodes_to_what_was_encoded() {
        let launch =
            Launch { kernel: "k", grid: [1, u32::MAX, 3], block: [4, 5, 6], shared_bytes: 1 << 40, stream: u64::MAX };
        let r = record(kind::LAUNCH, &launch.words(77, 672));
        let expected = Entry { thread: 42, depth: 3, event: Event::Launch { at: 77, id: 672, launch } };
        assert_eq!(decode(&r, "k"), Some(expected));
    }

    #[test]
    fn names_follow_their_words() {
        for (word, kind) in Message::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, word);
        }
        for (word, kind) in Span::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, word);
        }
    }

    #[test]
    fn unknown_records_are_refused() {
        let unknown_span = record(kind::SPAN, &[0, 0, 0, Span::ALL.len() as u64]);
        for r in [record(0x7f, &[]), record(kind::CALL, &[1, 2, 3]), record(kind::MESSAGE, &[1, 99]), unknown_span] {
            assert_eq!(decode(&r, ""), None, "{r:?}");
        }
    }
}

//! What stands where in the file.
//!
//! Columns of [`SLOTS`] words, each a page long: the header's page, the slots' page (process id and two lock bytes each),
//! then for each card the columns `asked`, `held` and `contexts`, then the columns of the pieces that processes hold
//! together, then the slots' doors. A column is summed in one pass.

use std::io;
use std::sync::atomic::AtomicU64;

/// The most cards of a file.
pub const MAX_CARDS: u32 = 16;

/// The most processes that can use the cards at once.
pub const SLOTS: usize = 512;

/// The most pieces of memory that can be held together ([`crate::Slot::hold`]).
pub const PIECES: usize = 8192;

/// The longest name of a card, in bytes.
pub const NAME_BYTES: usize = 96;

const PAGE: usize = 4096;
const MAGIC: [u8; 8] = *b"softcuda";
const VERSION: u32 = 3;
const NAME_AT: usize = 32;

/// Length of the file.
pub(crate) const LENGTH: usize = size_of::<Table>();

/// Lock byte held while the file is being made.
pub(crate) const MAKING: u64 = 0;

/// Lock byte that each user of the file holds together with the others: its sizes stand still. Whoever has it alone may
/// make the file anew.
pub(crate) const USING: u64 = 1;

/// Lock byte that a process holds on its slot for as long as it lives.
pub(crate) fn life(slot: usize) -> u64 {
    (PAGE + slot * 8) as u64
}

/// Lock byte that is held for a moment by whoever joins or clears a slot.
pub(crate) fn edit(slot: usize) -> u64 {
    life(slot) + 1
}

/// Lock byte of a piece: read by its holders, written by who makes or clears it.
pub(crate) fn hold(row: usize) -> u64 {
    (std::mem::offset_of!(Table, shared) + row * 8) as u64
}

/// Lock byte that is held by whoever puts a slot's process aside or brings it back.
pub(crate) fn order(slot: usize) -> u64 {
    (std::mem::offset_of!(Table, doors) + slot * size_of::<Door>()) as u64
}

pub(crate) type Column = [AtomicU64; SLOTS];

/// The file as it is mapped.
#[repr(C)]
pub(crate) struct Table {
    /// Read from the file once, never through the mapping.
    header: [AtomicU64; SLOTS],
    /// Process id of each slot's owner, in its own pid namespace; 0: free and empty.
    pub(crate) pids: Column,
    pub(crate) cards: [Shares; MAX_CARDS as usize],
    pub(crate) shared: Pieces,
    pub(crate) doors: [Door; SLOTS],
}

/// What stands between a slot's process and its cards, on a cache line of its own since each call passes it.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Door {
    /// One of [`OPEN`], [`SHUT`], [`ASIDE`] and [`RETURNING`].
    pub(crate) state: AtomicU64,
    /// Calls that are inside.
    pub(crate) inside: AtomicU64,
    /// Pieces that the process holds.
    pub(crate) holds: AtomicU64,
}

/// The process uses its cards.
pub(crate) const OPEN: u64 = 0;
/// Its calls wait; what it has is on the cards.
pub(crate) const SHUT: u64 = 1;
/// Its calls wait, and what it has counts on no card.
pub(crate) const ASIDE: u64 = 2;
/// The same, while it is seen whether there is room for it: what it has counts as asked for.
pub(crate) const RETURNING: u64 = 3;

/// The pieces of memory that processes hold together, a word for each.
#[repr(C)]
pub(crate) struct Pieces {
    /// Card and bytes, see [`shared_word`]; 0: the row is free.
    pub(crate) words: [AtomicU64; PIECES],
    /// What its holders call it.
    pub(crate) ids: [AtomicU64; PIECES],
    /// Slot + 1 of the process that it is shown as; 0: any of its holders.
    pub(crate) owners: [AtomicU64; PIECES],
}

/// Bits of a piece's word that hold its bytes; the card stands above.
const BYTE_BITS: u32 = 56;

/// Card and bytes of a piece as one word. None: there is no such piece.
pub(crate) fn shared_word(card: u32, bytes: u64) -> Option<u64> {
    (bytes != 0 && bytes >> BYTE_BITS == 0).then(|| u64::from(card) << BYTE_BITS | bytes)
}

/// What [`shared_word`] was made of.
pub(crate) fn shared_of(word: u64) -> (u32, u64) {
    ((word >> BYTE_BITS) as u32, word & ((1 << BYTE_BITS) - 1))
}

/// The shares of one card, a word for each slot.
#[repr(C)]
pub(crate) struct Shares {
    /// Bytes held or being asked for. Never less than `held`.
    pub(crate) asked: Column,
    /// Bytes held.
    pub(crate) held: Column,
    /// Contexts.
    pub(crate) contexts: Column,
}

/// The sizes, which never change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) count: u32,
    pub(crate) vram: u64,
    pub(crate) name: String,
}

/// What an opener asks for.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) count: Option<u32>,
    pub(crate) vram: Option<u64>,
    pub(crate) name: Option<String>,
    /// For what is not asked for, where there is no file to follow.
    pub(crate) usual: Header,
}

impl Wanted {
    /// These sizes and no others.
    pub(crate) fn exactly(header: Header) -> Wanted {
        Wanted { count: Some(header.count), vram: Some(header.vram), name: Some(header.name.clone()), usual: header }
    }

    /// The sizes of a file that agrees, as far as possible, with what is there.
    pub(crate) fn beside(&self, found: Option<&Header>) -> io::Result<Header> {
        let rest = found.unwrap_or(&self.usual);
        let name = self.name.as_ref().unwrap_or(&rest.name);
        Header::new(self.count.unwrap_or(rest.count), self.vram.unwrap_or(rest.vram), name)
    }
}

/// What the first page of a file says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Cards(Header),
    /// Not made yet, or its maker was killed.
    Unmade,
    /// Something else; the reason completes "it ...".
    Foreign(String),
}

impl Header {
    pub(crate) fn new(count: u32, vram: u64, name: &str) -> io::Result<Header> {
        let invalid = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if count == 0 || count > MAX_CARDS {
            return invalid(format!("{count} software cards were asked for; a machine has 1 to {MAX_CARDS}"));
        }
        if vram == 0 {
            return invalid("a software card of 0 bytes was asked for; give it memory".to_string());
        }
        if name.is_empty() || name.len() > NAME_BYTES || name.contains('\0') {
            return invalid(format!("'{name}' can't name a software card; use 1 to {NAME_BYTES} bytes without NUL"));
        }
        Ok(Header { count, vram, name: name.to_string() })
    }

    /// The first page, without the magic: that is written last, and makes the file valid.
    pub(crate) fn page(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        page[8..12].copy_from_slice(&VERSION.to_ne_bytes());
        page[12..16].copy_from_slice(&self.count.to_ne_bytes());
        page[16..24].copy_from_slice(&self.vram.to_ne_bytes());
        page[24..32].copy_from_slice(&(LENGTH as u64).to_ne_bytes());
        page[NAME_AT..NAME_AT + self.name.len()].copy_from_slice(self.name.as_bytes());
        page
    }

    /// Reads the first page of a file of `length` bytes. `page` may be short where the file is.
    pub(crate) fn read(page: &[u8], length: u64) -> Reading {
        let word = |at: usize| page.get(at..at + 8).map(|word| u64::from_ne_bytes(word.try_into().expect("8 bytes")));
        let half = |at: usize| page.get(at..at + 4).map(|half| u32::from_ne_bytes(half.try_into().expect("4 bytes")));
        let foreign = |why: String| Reading::Foreign(why);
        match word(0) {
            None if length == 0 => return Reading::Unmade,
            Some(0) if length == LENGTH as u64 => return Reading::Unmade,
            Some(magic) if magic == u64::from_ne_bytes(MAGIC) => {}
            _ => return foreign("is not a file of software cards".to_string()),
        }
        if half(8) != Some(VERSION) {
            return foreign(format!("has format {}, not {VERSION}: another version made it", half(8).unwrap_or(0)));
        }
        if length != LENGTH as u64 || word(24) != Some(length) {
            return foreign(format!("is damaged: it has {length} bytes, not {LENGTH}"));
        }
        let name = page.get(NAME_AT..NAME_AT + NAME_BYTES).unwrap_or_default();
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        match Header::new(half(12).unwrap_or(0), word(16).unwrap_or(0), &String::from_utf8_lossy(name)) {
            Ok(header) => Reading::Cards(header),
            Err(error) => foreign(format!("is damaged: {error}")),
        }
    }
}

/// The magic, to be written at offset 0 once everything else stands.
pub(crate) fn magic() -> [u8; 8] {
    MAGIC
}

/// One reading of the whole file, as plain bytes.
pub(crate) struct Image(pub(crate) Vec<u8>);

impl Image {
    pub(crate) fn pid(&self, slot: usize) -> u64 {
        self.word(PAGE, slot)
    }

    /// Whether what a slot has counts on no card.
    pub(crate) fn is_aside(&self, slot: usize) -> bool {
        let at = std::mem::offset_of!(Table, doors) + slot * size_of::<Door>();
        matches!(self.word(at, 0), ASIDE | RETURNING)
    }

    pub(crate) fn held(&self, card: usize, slot: usize) -> u64 {
        self.word(shares_at(card) + PAGE, slot)
    }

    pub(crate) fn contexts(&self, card: usize, slot: usize) -> u64 {
        self.word(shares_at(card) + 2 * PAGE, slot)
    }

    /// Card, bytes and owner (slot + 1, or 0) of the pieces, by row.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (usize, u32, u64, u64)> + '_ {
        let at = std::mem::offset_of!(Table, shared);
        let used = (0..PIECES).map(move |row| (row, self.word(at, row))).filter(|&(_, word)| word != 0);
        used.map(move |(row, word)| {
            let (card, bytes) = shared_of(word);
            (row, card, bytes, self.word(at + 2 * PIECES * 8, row))
        })
    }

    fn word(&self, column: usize, slot: usize) -> u64 {
        let at = column + slot * 8;
        u64::from_ne_bytes(self.0[at..at + 8].try_into().expect("8 bytes"))
    }
}

fn shares_at(card: usize) -> usize {
    std::mem::offset_of!(Table, cards) + card * size_of::<Shares>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(header: &Header) -> Vec<u8> {
        let mut page = header.page().to_vec();
        page[..8].copy_from_slice(&magic());
        page
    }

    #[test]
    fn the_table_is_made_of_pages() {
        assert_eq!(LENGTH, PAGE * (2 + 3 * MAX_CARDS as usize) + 3 * 8 * PIECES + 64 * SLOTS);
        assert_eq!(hold(0) as usize, PAGE * (2 + 3 * MAX_CARDS as usize));
        assert_eq!(std::mem::offset_of!(Table, pids), PAGE);
        assert_eq!(shares_at(1), PAGE * 5);
    }

    #[test]
    fn a_header_reads_back() {
        let header = Header::new(2, 40 << 30, "NVIDIA A100-SXM4-40GB").unwrap();
        assert_eq!(Header::read(&made(&header), LENGTH as u64), Reading::Cards(header.clone()));
        let longest = Header::new(16, u64::MAX, &"x".repeat(NAME_BYTES)).unwrap();
        assert_eq!(Header::read(&made(&longest), LENGTH as u64), Reading::Cards(longest));
        assert_eq!(Header::read(&header.page(), LENGTH as u64), Reading::Unmade, "the magic comes last");
        assert_eq!(Header::read(&[], 0), Reading::Unmade);
    }

    #[test]
    fn sizes_that_no_file_can_have() {
        for (count, vram, name) in [(0, 1, "x"), (17, 1, "x"), (1, 0, "x"), (1, 1, ""), (1, 1, "a\0b")] {
            assert_eq!(Header::new(count, vram, name).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        assert!(Header::new(1, 1, &"x".repeat(NAME_BYTES + 1)).is_err());
    }

    #[test]
    fn what_is_no_header_is_said_to_be_none() {
        let good = made(&Header::new(1, 1 << 30, "card").unwrap());
        let foreign = |page: &[u8], length: u64| matches!(Header::read(page, length), Reading::Foreign(_));
        assert!(foreign(b"hello", 5));
        assert!(foreign(&[0; 8], 8), "a short file of zeroes is somebody's");
        assert!(foreign(&good, LENGTH as u64 - 1));
        assert!(foreign(&good[..16], 16));
        for (at, byte) in [(8, 1), (12, 0), (12, 17), (24, 1), (NAME_AT, 0)] {
            let mut page = good.clone();
            page[at] = byte;
            assert!(foreign(&page, LENGTH as u64), "byte {at}");
        }
        let mut page = good.clone();
        page[NAME_AT] = 0xff;
        assert!(foreign(&page, LENGTH as u64) || matches!(Header::read(&page, LENGTH as u64), Reading::Cards(_)));
    }
}

//! The limits of the protocol: what either side may send, and must refuse.

/// Bytes of the longest packet.
pub const PACKET_BYTES: usize = 64 << 10;
/// File descriptors that travel with one packet.
pub const PACKET_FDS: usize = 64;
/// Bytes of a Space's name, in UTF-8.
pub const NAME_BYTES: usize = 64;
/// Bytes of a sentence for people, in UTF-8.
pub const TEXT_BYTES: usize = 2048;
/// Bytes of one piece of a report, in UTF-8.
pub const REPORT_BYTES: usize = 48 << 10;
/// Ranges in one packet, all its lists together: each takes 20 bytes at most, so that the packet holds them.
pub const PACKET_RANGES: usize = 3072;
/// Slabs of a Space.
pub const SPACE_SLABS: usize = 65536;
/// Ranges written on the host that one claim may name. A client with more of them joins neighbours.
pub const DIRTY_RANGES: usize = 65536;
/// Bytes of a chunk: ranges of the backing begin and end at multiples of it.
pub const CHUNK_BYTES: u64 = 2 << 20;
/// Bytes of the longest slab: a physical handle of the program's own is one slab, whatever its size.
pub const SLAB_BYTES: u64 = 128 << 30;
/// Bytes of the largest backing: twice the addresses of a card's memory. A few larger ones would leave the broker no addresses
/// for the others.
pub const BACKING_BYTES: u64 = 256 << 30;
/// The longest time that can be asked for, in seconds: some thirty years. Longer is refused, so that sums of times and
/// clocks don't overflow.
pub const SECONDS: f64 = 1e9;

/// The seconds that stand for `seconds` on the wire: not negative, not above [`SECONDS`], zero for what is no number.
pub fn clamp_seconds(seconds: f64) -> f64 {
    if seconds.is_nan() {
        0.0
    } else {
        seconds.clamp(0.0, SECONDS)
    }
}

/// The longest beginning of `text` that is not longer than `bytes` and ends at a character's end.
pub fn clip(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A name that a Space may have, as near to `name` as possible: control characters become `?`, what is too long is cut.
pub fn clean_name(name: &str) -> String {
    clean(name, NAME_BYTES)
}

/// A text of at most `bytes` bytes in one line, as near to `text` as possible: control characters become `?`, what is too long is cut.
pub fn clean(text: &str, bytes: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    clip(&clean, bytes).to_owned()
}

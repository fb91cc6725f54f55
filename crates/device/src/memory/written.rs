//! Which chunks of the backing were written since somebody last took note: what a copy of it elsewhere lacks.
use super::GRANULE;
use std::sync::atomic::{AtomicU64, Ordering};

/// A bit for each chunk of [`GRANULE`] bytes. Marked when a write is planned, which is before its bytes move.
pub struct Written {
    words: Box<[AtomicU64]>,
}

impl Written {
    /// For `len` bytes; nothing is marked.
    pub fn new(len: usize) -> Self {
        let chunks = (len as u64).div_ceil(GRANULE);
        Self { words: (0..chunks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Marks the chunks that a range touches.
    pub fn mark(&self, off: u64, len: u64) {
        if len == 0 {
            return;
        }
        for chunk in off / GRANULE..=(off + len - 1) / GRANULE {
            let (word, bit) = ((chunk / 64) as usize, 1 << (chunk % 64));
            // most writes go where others went before
            if let Some(word) = self.words.get(word).filter(|w| w.load(Ordering::Relaxed) & bit == 0) {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    /// The marked chunks of `[off, off + len)`, neighbours as one range (offset, bytes). `off` and `len` are whole chunks.
    pub fn marked(&self, off: u64, len: u64) -> Vec<(u64, u64)> {
        let mut out: Vec<(u64, u64)> = Vec::new();
        for chunk in off / GRANULE..(off + len) / GRANULE {
            let word = self.words.get((chunk / 64) as usize).map_or(0, |w| w.load(Ordering::Relaxed));
            if word >> (chunk % 64) & 1 == 0 {
                continue;
            }
            let at = chunk * GRANULE;
            match out.last_mut() {
                Some((start, size)) if *start + *size == at => *size += GRANULE,
                _ => out.push((at, GRANULE)),
            }
        }
        out
    }

    /// Takes the marks of a range of whole chunks away.
    pub fn clear(&self, off: u64, len: u64) {
        for chunk in off / GRANULE..(off + len) / GRANULE {
            if let Some(word) = self.words.get((chunk / 64) as usize) {
                word.fetch_and(!(1 << (chunk % 64)), Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_marks_each_chunk_that_it_touches() {
        let w = Written::new(200 * GRANULE as usize);
        w.mark(0, 0);
        assert!(w.marked(0, 200 * GRANULE).is_empty());
        w.mark(GRANULE - 1, 2);
        w.mark(63 * GRANULE, 2 * GRANULE);
        w.mark(199 * GRANULE + 5, 1);
        let all = [(0, 2 * GRANULE), (63 * GRANULE, 2 * GRANULE), (199 * GRANULE, GRANULE)];
        assert_eq!(w.marked(0, 200 * GRANULE), all);
        assert_eq!(w.marked(GRANULE, 63 * GRANULE), [(GRANULE, GRANULE), (63 * GRANULE, GRANULE)]);
        w.clear(0, 64 * GRANULE);
        assert_eq!(w.marked(0, 200 * GRANULE), [(64 * GRANULE, GRANULE), (199 * GRANULE, GRANULE)]);
    }

    #[test]
    fn a_range_beyond_the_end_is_nobodys() {
        let w = Written::new(GRANULE as usize);
        w.mark(1000 * GRANULE, GRANULE);
        w.clear(1000 * GRANULE, GRANULE);
        assert!(w.marked(0, 2000 * GRANULE).is_empty());
    }
}

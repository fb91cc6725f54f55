//! Hands out ranges of a line: first fit, kept sorted, neighbours merged.
use std::collections::BTreeMap;

/// Free ranges by their start.
#[derive(Default, Debug, Clone)]
pub struct Ranges {
    free: BTreeMap<u64, u64>,
}

impl Ranges {
    /// One free range.
    pub fn new(start: u64, len: u64) -> Self {
        Self { free: BTreeMap::from([(start, len)]) }
    }

    /// Takes `len` at the lowest start that is a multiple of `align` (a power of two).
    pub fn take(&mut self, len: u64, align: u64) -> Option<u64> {
        let (start, size, at) = self.free.iter().find_map(|(&start, &size)| {
            let at = start.checked_next_multiple_of(align)?;
            (at.checked_add(len)? <= start + size).then_some((start, size, at))
        })?;
        self.cut(start, size, at, len);
        Some(at)
    }

    /// Takes exactly this range; false if any of it is in use.
    pub fn take_at(&mut self, at: u64, len: u64) -> bool {
        let Some((&start, &size)) = self.free.range(..=at).next_back() else { return false };
        let fits = at.checked_add(len).is_some_and(|end| end <= start + size);
        if fits {
            self.cut(start, size, at, len);
        }
        fits
    }

    fn cut(&mut self, start: u64, size: u64, at: u64, len: u64) {
        self.free.remove(&start);
        if at > start {
            self.free.insert(start, at - start);
        }
        let (end, stop) = (at + len, start + size);
        if stop > end {
            self.free.insert(end, stop - end);
        }
    }

    /// Gives a range back.
    pub fn give(&mut self, mut at: u64, mut len: u64) {
        if let Some((&before, &size)) = self.free.range(..at).next_back() {
            debug_assert!(before + size <= at, "given back twice");
            if before + size == at {
                self.free.remove(&before);
                at = before;
                len += size;
            }
        }
        if let Some(size) = self.free.remove(&(at + len)) {
            len += size;
        }
        self.free.insert(at, len);
    }

    /// Whether the whole of `[start, start + len)` is free.
    pub fn is_whole(&self, start: u64, len: u64) -> bool {
        self.free.get(&start) == Some(&len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_whole_again() {
        let mut r = Ranges::new(0, 1000);
        let a = r.take(100, 64).unwrap();
        let b = r.take(100, 64).unwrap();
        assert_eq!((a, b), (0, 128));
        assert!(!r.take_at(b, 1) && r.take_at(900, 100));
        r.give(a, 100);
        r.give(900, 100);
        assert!(r.take(1000, 1).is_none());
        r.give(b, 100);
        assert!(r.is_whole(0, 1000));
    }

    #[test]
    fn sizes_near_the_end_of_the_number_line_do_not_wrap() {
        let mut r = Ranges::new(1 << 40, 1 << 20);
        assert!(r.take(u64::MAX, 1 << 21).is_none());
        assert!(!r.take_at(1 << 40, u64::MAX));
    }
}

//! How calls nest, where the trace does not say: from the order of the records, which is that of their ends.

/// The calls and marks of one thread. What a call contains was recorded before it and began no earlier.
#[derive(Debug, Default)]
pub struct Nest {
    /// Begin, and the call around it once that has ended.
    items: Vec<(u64, Option<usize>)>,
    /// What no call is around so far.
    outermost: Vec<usize>,
}

impl Nest {
    /// A call (or a mark, which contains nothing) that began at `at`.
    pub fn add(&mut self, at: u64, is_call: bool) {
        let this = self.items.len();
        while is_call && self.outermost.last().is_some_and(|last| self.items[*last].0 >= at) {
            let inner = self.outermost.pop();
            self.items[inner.unwrap_or(this)].1 = Some(this);
        }
        self.items.push((at, None));
        self.outermost.push(this);
    }

    /// How many calls each item is within, in the order of [`Nest::add`].
    pub fn depths(&self) -> Vec<u8> {
        let mut depths = vec![0u8; self.items.len()];
        for (this, (_, around)) in self.items.iter().enumerate().rev() {
            depths[this] = around.map_or(0, |around| depths[around].saturating_add(1));
        }
        depths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn depths(items: &[(u64, bool)]) -> Vec<u8> {
        let mut nest = Nest::default();
        items.iter().for_each(|(at, is_call)| nest.add(*at, *is_call));
        nest.depths()
    }

    #[test]
    fn calls_within_calls() {
        // 5..6 in 3..7 in 1..20, which also contains 10..11; then 30..31
        let calls = [(5, true), (3, true), (10, true), (1, true), (30, true)];
        assert_eq!(depths(&calls), [2, 1, 1, 0, 0]);
    }

    #[test]
    fn a_mark_is_within_the_call_that_ends_after_it_and_contains_nothing() {
        assert_eq!(depths(&[(2, false), (1, true), (9, false), (10, true)]), [1, 0, 0, 0]);
        assert_eq!(depths(&[(5, true), (5, false)]), [0, 0]);
    }
}

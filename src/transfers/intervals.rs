//! Which bytes of a representation were asked for, and which were sent.

use std::collections::BTreeMap;
use std::ops::Range;

/// Most separate stretches that are remembered; a client that reads in more pieces than that with gaps
/// between them is counted as having read less than it has, never as more.
const MAX_STRETCHES: usize = 4096;

/// A set of byte positions, kept as stretches that neither touch nor overlap.
#[derive(Debug, Default, Clone)]
pub struct Intervals {
    stretches: BTreeMap<u64, u64>,
}

impl Intervals {
    /// Adds a stretch (end exclusive).
    pub fn add(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        if let Some((&before, &its_end)) = self.stretches.range(..=start).next_back()
            && its_end >= start
        {
            start = before;
            end = end.max(its_end);
        }
        while let Some((&next, &its_end)) = self.stretches.range(start..=end).next() {
            end = end.max(its_end);
            self.stretches.remove(&next);
        }
        if self.stretches.len() < MAX_STRETCHES {
            self.stretches.insert(start, end);
        }
    }

    /// Removes every position from `end` on.
    pub fn cut_off(&mut self, end: u64) {
        drop(self.stretches.split_off(&end));
        if let Some(mut last) = self.stretches.last_entry() {
            let cut = (*last.get()).min(end);
            *last.get_mut() = cut;
        }
    }

    /// What lies between `position` and the end of the last stretch that begins before it.
    pub fn gap_before(&self, position: u64) -> Range<u64> {
        let before = self.stretches.range(..position).next_back().map_or(0, |(_, end)| *end);
        before.min(position)..position
    }

    /// The stretches in order, at most `most` of them.
    pub fn stretches(&self, most: usize) -> Vec<(u64, u64)> {
        self.stretches.iter().take(most).map(|(start, end)| (*start, *end)).collect()
    }

    /// Number of positions in the set.
    pub fn total(&self) -> u64 {
        self.stretches.iter().map(|(start, end)| end - start).sum()
    }

    /// Whether every position of `other` is in this set.
    pub fn covers(&self, other: &Self) -> bool {
        other.stretches.iter().all(|(start, end)| self.contains(*start..*end))
    }

    /// Whether a whole stretch is in the set.
    pub fn contains(&self, range: Range<u64>) -> bool {
        range.start >= range.end
            || self.stretches.range(..=range.start).next_back().is_some_and(|(_, end)| *end >= range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_gap_before_a_position_ends_at_the_stretch_before_it() {
        let mut set = Intervals::default();
        assert_eq!(set.gap_before(7), 0..7);
        set.add(10..20);
        set.add(50..60);
        let gaps: Vec<_> = [5, 10, 15, 30, 50, 70].into_iter().map(|at| set.gap_before(at)).collect();
        assert_eq!(gaps, [0..5, 0..10, 15..15, 20..30, 20..50, 60..70]);
        assert_eq!((set.stretches(9), set.stretches(1)), (vec![(10, 20), (50, 60)], vec![(10, 20)]));
    }

    #[test]
    fn what_is_cut_off_is_not_in_it_any_more() {
        let mut set = Intervals::default();
        set.add(0..10);
        set.add(20..u64::MAX);
        set.cut_off(30);
        assert_eq!(set.stretches(9), [(0, 10), (20, 30)]);
        set.cut_off(20);
        assert_eq!(set.stretches(9), [(0, 10)]);
        set.cut_off(4);
        assert_eq!(set.stretches(9), [(0, 4)]);
    }

    proptest! {
        #[test]
        fn the_set_equals_a_model_of_single_positions(ranges in proptest::collection::vec((0_u64..200, 0_u64..40), 0..60)) {
            let (mut set, mut model) = (Intervals::default(), vec![false; 300]);
            for (start, len) in ranges {
                set.add(start..start + len);
                model[start as usize..(start + len) as usize].fill(true);
                prop_assert_eq!(set.total(), model.iter().filter(|in_it| **in_it).count() as u64);
            }
            for start in 0..250 {
                for end in [start + 1, start + 7] {
                    let expected = model[start..end].iter().all(|in_it| *in_it);
                    prop_assert_eq!(set.contains(start as u64..end as u64), expected);
                }
            }
        }
    }
}

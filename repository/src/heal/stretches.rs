//! Sets of WAL bytes on one timeline: small, however many objects they were made of. Pure.

use std::collections::BTreeMap;

use crate::format::layout::WalRange;

/// Stretches of WAL of one timeline, by start and end in bytes; what touches or overlaps is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stretches(BTreeMap<u64, u64>);

impl Stretches {
    pub(crate) fn add(&mut self, range: WalRange) {
        let (mut start, mut end) = (range.start.as_bytes(), range.end.as_bytes());
        if start >= end {
            return;
        }
        while let Some((&other_start, &other_end)) = self.0.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            (start, end) = (start.min(other_start), end.max(other_end));
            self.0.remove(&other_start);
        }
        self.0.insert(start, end);
    }

    /// Whether every byte of `range` is in the set.
    pub(crate) fn covers(&self, range: WalRange) -> bool {
        let (start, end) = (range.start.as_bytes(), range.end.as_bytes());
        self.0.range(..=start).next_back().is_some_and(|(_, held)| *held >= end)
    }

    /// In order, as start and end in bytes.
    #[cfg(test)]
    fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(start, end)| (*start, *end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::wal_range;

    #[test]
    fn ranges_that_touch_or_overlap_are_joined() {
        let mut held = Stretches::default();
        for (start, end) in [(10, 20), (30, 40), (5, 6), (20, 25), (50, 50)] {
            held.add(wal_range(1, start, end));
        }
        assert_eq!(held.iter().collect::<Vec<_>>(), [(5, 6), (10, 25), (30, 40)]);
        held.add(wal_range(1, 24, 31));
        assert_eq!(held.iter().collect::<Vec<_>>(), [(5, 6), (10, 40)]);
        for (start, end, covered) in [(10, 40, true), (11, 12, true), (9, 11, false), (39, 41, false), (6, 7, false)] {
            assert_eq!(held.covers(wal_range(1, start, end)), covered, "{start}-{end}");
        }
    }
}

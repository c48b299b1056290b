//! Sets of WAL bytes: small, however many objects they were made of. Pure.

use std::collections::BTreeMap;

use lifeboat_vocabulary::{Lsn, TimelineId};

use crate::format::layout::WalRange;

/// Stretches of WAL of one timeline, by start and end in bytes; what touches or overlaps is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stretches(BTreeMap<u64, u64>);

impl Stretches {
    pub(crate) fn add(&mut self, range: WalRange) {
        self.add_bytes(range.start.as_bytes(), range.end.as_bytes());
    }

    fn add_bytes(&mut self, mut start: u64, mut end: u64) {
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

    /// Takes out all bytes from `start` up to `end`.
    fn remove_bytes(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        // What begins before the end, from behind, until it ends before the start.
        while let Some((&other_start, &other_end)) = self.0.range(..end).next_back() {
            if other_end <= start {
                return;
            }
            self.0.remove(&other_start);
            if other_end > end {
                self.0.insert(end, other_end);
            }
            if other_start < start {
                self.0.insert(other_start, start);
                return;
            }
        }
    }

    /// In order, as start and end in bytes.
    fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(start, end)| (*start, *end))
    }
}

/// WAL of several timelines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WalSet(BTreeMap<TimelineId, Stretches>);

impl WalSet {
    pub(crate) fn add(&mut self, range: WalRange) {
        self.0.entry(range.timeline).or_default().add(range);
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        for (timeline, stretches) in &other.0 {
            let own = self.0.entry(*timeline).or_default();
            stretches.iter().for_each(|(start, end)| own.add_bytes(start, end));
        }
    }

    pub(crate) fn remove(&mut self, timeline: TimelineId, start: u64, end: u64) {
        if let Some(own) = self.0.get_mut(&timeline) {
            own.remove_bytes(start, end);
        }
    }

    /// Takes out all later timelines.
    pub(crate) fn remove_behind(&mut self, timeline: TimelineId) {
        self.0.retain(|other, _| *other <= timeline);
    }

    pub(crate) fn remove_all(&mut self, other: &Self) {
        for (timeline, stretches) in &other.0 {
            let Some(own) = self.0.get_mut(timeline) else { continue };
            stretches.iter().for_each(|(start, end)| own.remove_bytes(start, end));
        }
    }

    /// Where the WAL of a timeline begins, in bytes.
    pub(crate) fn first(&self, timeline: TimelineId) -> Option<u64> {
        self.0.get(&timeline)?.iter().next().map(|(start, _)| start)
    }

    /// Where WAL begins at `at` bytes or behind it, be it in the middle of a stretch.
    pub(crate) fn next(&self, timeline: TimelineId, at: u64) -> Option<u64> {
        let found = self.0.get(&timeline)?.iter().find(|(_, end)| *end > at);
        found.map(|(start, _)| start.max(at))
    }

    /// How many stretches it is made of.
    pub(crate) fn stretches(&self) -> usize {
        self.0.values().map(|stretches| stretches.0.len()).sum()
    }

    /// All of it, in order.
    pub(crate) fn ranges(&self) -> impl DoubleEndedIterator<Item = WalRange> {
        let of_timeline = |(timeline, stretches): (&TimelineId, &Stretches)| {
            let timeline = *timeline;
            let range = move |(start, end)| {
                Some(WalRange { timeline, start: Lsn::from_bytes(start)?, end: Lsn::from_bytes(end)? })
            };
            stretches.iter().filter_map(range).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of_timeline)
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

    #[test]
    fn what_is_taken_out_may_cut_ranges_in_two_and_take_several_at_once() {
        let kept = |start, end| {
            let mut held = Stretches::default();
            [(10, 20), (30, 40), (50, 60)].into_iter().for_each(|(start, end)| held.add_bytes(start, end));
            held.remove_bytes(start, end);
            held.iter().collect::<Vec<_>>()
        };
        for (start, end, expected) in [
            (0, 10, vec![(10, 20), (30, 40), (50, 60)]),
            (20, 30, vec![(10, 20), (30, 40), (50, 60)]),
            (12, 12, vec![(10, 20), (30, 40), (50, 60)]),
            (12, 15, vec![(10, 12), (15, 20), (30, 40), (50, 60)]),
            (15, 55, vec![(10, 15), (55, 60)]),
            (10, 20, vec![(30, 40), (50, 60)]),
            (0, 100, vec![]),
            (35, 100, vec![(10, 20), (30, 35)]),
            (60, u64::MAX, vec![(10, 20), (30, 40), (50, 60)]),
        ] {
            assert_eq!(kept(start, end), expected, "{start}-{end}");
        }
    }

    proptest::proptest! {
        #[test]
        fn sets_hold_the_bytes_that_were_put_in_and_not_taken_out(
            steps in proptest::collection::vec((1_u64..60, 1_u64..60, proptest::bool::ANY), 0..40)
        ) {
            let (mut set, mut bytes) = (WalSet::default(), std::collections::BTreeSet::new());
            for (start, end, is_added) in steps {
                let range = wal_range(1, start, end.max(start));
                if is_added {
                    set.add(range);
                    bytes.extend(start..end);
                } else {
                    set.remove(range.timeline, start, end);
                    bytes.retain(|byte| !(start..end).contains(byte));
                }
            }
            let ranges: Vec<_> = set.ranges().collect();
            let held: std::collections::BTreeSet<u64> =
                ranges.iter().flat_map(|range| range.start.as_bytes()..range.end.as_bytes()).collect();
            proptest::prop_assert_eq!(&held, &bytes);
            proptest::prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            let timeline = wal_range(1, 1, 2).timeline;
            proptest::prop_assert_eq!(set.first(timeline), bytes.first().copied());
            proptest::prop_assert_eq!(set.next(timeline, 30), bytes.range(30..).next().copied());
        }
    }
}

//! Sets of WAL bytes on one timeline. Pure.

use std::collections::BTreeMap;

use lifeboat_repository::format::layout::WalRange;
use lifeboat_vocabulary::Lsn;

/// From a first byte up to, but not including, an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) start: Lsn,
    pub(crate) end: Lsn,
}

impl From<WalRange> for Stretch {
    fn from(WalRange { start, end, .. }: WalRange) -> Self {
        Self { start, end }
    }
}

/// Any number of stretches of one timeline; what touches or overlaps is one. So the set stays small however many objects
/// it was made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeSet {
    /// Start to end; never empty, never touching.
    stretches: BTreeMap<Lsn, Lsn>,
}

impl RangeSet {
    /// Adds the bytes of `added`; an empty stretch adds nothing.
    pub(crate) fn add(&mut self, added: Stretch) {
        if added.start >= added.end {
            return;
        }
        let Stretch { mut start, mut end } = added;
        // Stretches do not overlap, so the last one that starts at or before `end` is the first candidate, backwards.
        while let Some((&other_start, &other_end)) = self.stretches.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            start = start.min(other_start);
            end = end.max(other_end);
            self.stretches.remove(&other_start);
        }
        self.stretches.insert(start, end);
    }

    /// Takes the bytes of `removed` out.
    pub(crate) fn remove(&mut self, removed: Stretch) {
        for Stretch { start, end } in std::mem::take(self).stretches() {
            self.add(Stretch { start, end: end.min(removed.start) });
            self.add(Stretch { start: start.max(removed.end), end });
        }
    }

    /// The stretches, in order.
    fn stretches(self) -> impl Iterator<Item = Stretch> {
        self.stretches.into_iter().map(|(start, end)| Stretch { start, end })
    }

    /// Where the bytes end that follow `from` without a hole; `from` itself if the set does not have that byte.
    pub(crate) fn end_from(&self, from: Lsn) -> Lsn {
        match self.stretches.range(..=from).next_back() {
            Some((_, &end)) if end > from => end,
            _ => from,
        }
    }

    /// Whether every byte of `wanted` is in the set.
    pub(crate) fn covers(&self, wanted: Stretch) -> bool {
        self.end_from(wanted.start) >= wanted.end
    }

    /// Whether any byte of `wanted` is in the set.
    pub(crate) fn overlaps(&self, wanted: Stretch) -> bool {
        self.stretches.range(..wanted.end).next_back().is_some_and(|(_, &end)| end > wanted.start)
    }

    /// After the highest byte; `None` if there is none.
    pub(crate) fn end(&self) -> Option<Lsn> {
        self.stretches.last_key_value().map(|(_, &end)| end)
    }

    /// The bytes of `wanted` that are not in the set, in order.
    pub(crate) fn missing(&self, wanted: Stretch) -> Vec<Stretch> {
        let mut missing = Vec::new();
        let mut at = wanted.start;
        while at < wanted.end {
            let end = self.end_from(at);
            if end > at {
                at = end;
                continue;
            }
            let next = self.stretches.range(at..).next().map_or(wanted.end, |(&start, _)| start.min(wanted.end));
            missing.push(Stretch { start: at, end: next });
            at = next;
        }
        missing
    }

    /// Adds everything that `other` has.
    pub(crate) fn add_all(&mut self, other: &Self) {
        for (&start, &end) in &other.stretches {
            self.add(Stretch { start, end });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn stretch(start: u64, end: u64) -> Stretch {
        Stretch { start: Lsn::from_bytes(start).unwrap(), end: Lsn::from_bytes(end).unwrap() }
    }

    proptest! {
        #[test]
        fn a_set_of_ranges_equals_the_set_of_its_bytes(added in proptest::collection::vec((1u64..60, 0u64..12), 0..30), from in 1u64..70, length in 1u64..30) {
            let mut set = RangeSet::default();
            let mut bytes = BTreeSet::new();
            for (start, length) in added {
                set.add(stretch(start, start + length));
                bytes.extend(start..start + length);
            }
            let reached = (from..).find(|byte| !bytes.contains(byte)).unwrap();
            prop_assert_eq!(set.end_from(Lsn::from_bytes(from).unwrap()).as_bytes(), reached);
            let wanted = stretch(from, from + length);
            prop_assert_eq!(set.covers(wanted), reached >= from + length);
            prop_assert_eq!(set.overlaps(wanted), (from..from + length).any(|byte| bytes.contains(&byte)));
            let missing: BTreeSet<u64> =
                set.missing(wanted).iter().flat_map(|hole| hole.start.as_bytes()..hole.end.as_bytes()).collect();
            let expected: BTreeSet<u64> = (from..from + length).filter(|byte| !bytes.contains(byte)).collect();
            prop_assert_eq!(missing, expected);
            prop_assert_eq!(set.end().map(Lsn::as_bytes), bytes.last().map(|last| last + 1));
        }
    }

    #[test]
    fn adjacent_ranges_are_merged() {
        let mut set = RangeSet::default();
        for start in [1, 21, 11] {
            set.add(stretch(start, start + 10));
        }
        assert_eq!(set.stretches.len(), 1);
        let mut both = RangeSet::default();
        both.add(stretch(31, 40));
        both.add_all(&set);
        assert_eq!(both.stretches.len(), 1);
    }
}

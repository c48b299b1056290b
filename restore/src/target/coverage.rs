//! Which bytes of a timeline are stored anywhere, as a set of stretches.

use lifeboat_vocabulary::{Lsn, SegmentSize};

/// Disjoint stretches of one timeline's WAL, ascending, none touching the next. Each runs from its first position up to,
/// but not including, its second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Coverage(Vec<(Lsn, Lsn)>);

impl Coverage {
    /// The union of these ranges; empty and backward ones count for nothing.
    #[must_use]
    pub(crate) fn of(ranges: impl IntoIterator<Item = (Lsn, Lsn)>) -> Self {
        let mut ranges: Vec<(Lsn, Lsn)> = ranges.into_iter().filter(|(start, end)| start < end).collect();
        ranges.sort_unstable();
        let mut stretches: Vec<(Lsn, Lsn)> = Vec::new();
        for (start, end) in ranges {
            match stretches.last_mut() {
                Some((_, last)) if start <= *last => *last = end.max(*last),
                _ => stretches.push((start, end)),
            }
        }
        Self(stretches)
    }

    /// What is left without these ranges.
    #[must_use]
    pub(crate) fn without(&self, ranges: impl IntoIterator<Item = (Lsn, Lsn)>) -> Self {
        let cut = |stretches: Vec<(Lsn, Lsn)>, (from, to): (Lsn, Lsn)| {
            let parts = stretches.into_iter().flat_map(|(start, end)| [(start, end.min(from)), (start.max(to), end)]);
            parts.filter(|(start, end)| start < end).collect()
        };
        Self(ranges.into_iter().filter(|(from, to)| from < to).fold(self.0.clone(), cut))
    }

    /// What of it lies in a range.
    pub(crate) fn within(&self, (from, to): (Lsn, Lsn)) -> impl Iterator<Item = (Lsn, Lsn)> {
        let parts = self.0.iter().map(move |(start, end)| ((*start).max(from), (*end).min(to)));
        parts.filter(|(start, end)| start < end)
    }

    #[must_use]
    pub(crate) fn stretches(&self) -> &[(Lsn, Lsn)] {
        &self.0
    }

    /// Whether nothing is stored.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn holding(&self, lsn: Lsn) -> Option<(Lsn, Lsn)> {
        self.0.iter().copied().find(|(start, end)| (*start..*end).contains(&lsn))
    }

    /// How far the WAL goes on without a hole from `from`; `None` if the byte at `from` is not stored.
    #[must_use]
    pub(crate) fn end_from(&self, from: Lsn) -> Option<Lsn> {
        self.holding(from).map(|(_, end)| end)
    }

    /// Where the stretch with the byte at `lsn` begins.
    #[must_use]
    pub(crate) fn begin_of(&self, lsn: Lsn) -> Option<Lsn> {
        self.holding(lsn).map(|(start, _)| start)
    }

    /// Where WAL begins again after `lsn`, behind a hole.
    #[must_use]
    pub(crate) fn next_after(&self, lsn: Lsn) -> Option<Lsn> {
        self.0.iter().map(|(start, _)| *start).find(|start| *start > lsn)
    }
}

/// The start of the segment that holds the byte at `lsn`. The first segment of all is never used: the position 0 that
/// would be its start is rounded up.
#[must_use]
pub(crate) fn segment_start(lsn: Lsn, size: SegmentSize) -> Lsn {
    let start = lsn.as_bytes() / size.as_bytes() * size.as_bytes();
    Lsn::from_bytes(start).unwrap_or(lsn)
}

/// The start of the first segment that begins at or after `lsn`; the last position of all if there is none.
#[must_use]
pub(crate) fn next_segment_start(lsn: Lsn, size: SegmentSize) -> Lsn {
    let up = lsn.as_bytes().div_ceil(size.as_bytes()).saturating_mul(size.as_bytes());
    Lsn::from_bytes(up).unwrap_or(lsn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(bytes: u64) -> Lsn {
        Lsn::from_bytes(bytes).unwrap()
    }

    fn coverage(ranges: &[(u64, u64)]) -> Coverage {
        Coverage::of(ranges.iter().map(|(start, end)| (lsn(*start), lsn(*end))))
    }

    #[test]
    fn ranges_in_any_order_become_stretches() {
        let union = coverage(&[(30, 40), (10, 20), (20, 25), (12, 14), (50, 50), (35, 36)]);
        assert_eq!(union, coverage(&[(10, 25), (30, 40)]));
        for (from, end) in [(10, Some(25)), (24, Some(25)), (25, None), (9, None), (30, Some(40))] {
            assert_eq!(union.end_from(lsn(from)), end.map(lsn), "{from}");
        }
        assert_eq!(union.begin_of(lsn(24)), Some(lsn(10)));
        assert_eq!(union.next_after(lsn(25)), Some(lsn(30)));
        assert_eq!(union.next_after(lsn(40)), None);
        assert_eq!(union.stretches().last().unwrap().1, lsn(40));
        assert!(coverage(&[(7, 7)]).is_empty());
        let cut = |ranges: &[(u64, u64)]| union.without(ranges.iter().map(|(from, to)| (lsn(*from), lsn(*to))));
        assert_eq!(cut(&[(12, 14), (25, 35)]), coverage(&[(10, 12), (14, 25), (35, 40)]));
        assert_eq!(cut(&[(1, 99)]), coverage(&[]));
        let within: Vec<_> = union.within((lsn(20), lsn(33))).collect();
        assert_eq!(within, [(lsn(20), lsn(25)), (lsn(30), lsn(33))]);
    }

    #[test]
    fn positions_are_rounded_to_segments() {
        let size = SegmentSize::from_bytes(1 << 20).unwrap();
        let mib = 1 << 20;
        for (at, down, up) in [(mib, mib, mib), (mib + 1, mib, 2 * mib), (5, 5, mib)] {
            assert_eq!((segment_start(lsn(at), size), next_segment_start(lsn(at), size)), (lsn(down), lsn(up)), "{at}");
        }
    }
}

//! Which WAL a region must have, by what was said about it. Pure.

use std::collections::BTreeMap;

use lifeboat_vocabulary::{Lsn, TimelineId, WalPosition};

use crate::format::layout::WalRange;
use crate::heal::stretches::WalSet;
use crate::log::records::wal::WalGapRecord;
use crate::wal::name::PieceSize;

/// The timeline that the server writes, and where its ancestors were left: what the histories say, which are sealed in a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTimelines {
    /// The timeline.
    pub current: TimelineId,
    /// For each ancestor the place up to which it belongs to the history of `current`.
    pub left_at: BTreeMap<TimelineId, Lsn>,
}

impl ServerTimelines {
    fn contains(&self, timeline: TimelineId) -> bool {
        timeline == self.current || self.left_at.contains_key(&timeline)
    }

    /// Where a timeline begins that belongs to the history and is not the first of it.
    fn begins(&self, timeline: TimelineId) -> Option<Lsn> {
        self.contains(timeline).then(|| self.left_at.range(..timeline).next_back().map(|(_, left)| *left))?
    }
}

/// What is known beside the listings.
pub(crate) struct Known<'a> {
    /// Nothing before this is expected.
    pub(crate) from: WalPosition,
    pub(crate) server: Option<&'a ServerTimelines>,
    /// What is there, in all regions together.
    pub(crate) present: &'a WalSet,
    /// Length of the server's segments in **bytes**.
    pub(crate) segment: u64,
}

impl Known<'_> {
    /// What a region must have by the signs of life of its writers: each says up to where it has everything. `floors` say what was deleted.
    ///
    /// Of a timeline before that, as much is known as the server's history says. Where it ended otherwise, nobody knows: WAL of a host that
    /// was lost may lie behind a hole, and belong to nothing. The segment in which a timeline was left is stored with the next one, from
    /// its first byte on: recovery reads it there.
    pub(crate) fn expected(&self, claims: &[WalPosition], floors: &BTreeMap<TimelineId, Lsn>) -> WalSet {
        let mut expected = WalSet::default();
        for claim in claims {
            let left = self.server.and_then(|server| server.left_at.get(&claim.timeline));
            let end = left.map_or(Some(claim.lsn), |left| self.segment_start(*left).map(|start| start.min(claim.lsn)));
            if let Some(end) = end {
                self.expect(&mut expected, claim.timeline, end);
            }
            let server = self.server.filter(|server| server.contains(claim.timeline));
            let before = server.into_iter().flat_map(|server| server.left_at.range(..claim.timeline));
            for (timeline, left) in before {
                if let Some(end) = self.segment_start(*left) {
                    self.expect(&mut expected, *timeline, end);
                }
            }
        }
        for (timeline, floor) in floors {
            expected.remove(*timeline, 0, floor.as_bytes());
        }
        expected
    }

    fn segment_start(&self, at: Lsn) -> Option<Lsn> {
        let at = at.as_bytes();
        Lsn::from_bytes(at - at % self.segment.max(1))
    }

    fn expect(&self, expected: &mut WalSet, timeline: TimelineId, end: Lsn) {
        let begins = || self.server.and_then(|server| server.begins(timeline)).map(Lsn::as_bytes);
        // Without a history: where the first object begins that is still there; if there is none, the last piece at least is missing.
        let seen = || self.present.first(timeline);
        let last =
            || PieceSize::LARGEST.start_of(Lsn::from_bytes(end.as_bytes().saturating_sub(1)).unwrap_or(end)).max(1);
        let start = match timeline.cmp(&self.from.timeline) {
            std::cmp::Ordering::Less => return,
            std::cmp::Ordering::Equal => self.from.lsn.as_bytes(),
            std::cmp::Ordering::Greater => begins().or_else(seen).unwrap_or_else(last),
        };
        if let Some(start) = Lsn::from_bytes(start).filter(|start| *start < end) {
            expected.add(WalRange { timeline, start, end });
        }
    }

    /// Takes a gap that is on record out of what is expected. One without an end reaches to where WAL goes on.
    pub(crate) fn without_gap(&self, expected: &mut WalSet, gap: &WalGapRecord) {
        let from = gap.from.as_bytes();
        let goes_on = || self.present.next(gap.timeline, from).unwrap_or(u64::MAX);
        expected.remove(gap.timeline, from, gap.to.map_or_else(goes_on, Lsn::as_bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::records::wal::{GapReason, GapScope};
    use crate::samples::wal_range;

    fn timeline(id: u32) -> TimelineId {
        TimelineId::new(id).unwrap()
    }

    fn at(id: u32, lsn: u64) -> WalPosition {
        WalPosition { timeline: timeline(id), lsn: Lsn::from_bytes(lsn).unwrap() }
    }

    /// What is expected, as timeline, start and end.
    fn expected(
        from: WalPosition,
        server: Option<&ServerTimelines>,
        present: &[(u32, u64, u64)],
        claims: &[WalPosition],
    ) -> Vec<(u32, u64, u64)> {
        let mut there = WalSet::default();
        present.iter().for_each(|(id, start, end)| there.add(wal_range(*id, *start, *end)));
        let known = Known { from, server, present: &there, segment: 100 };
        let ranges = known.expected(claims, &BTreeMap::new());
        let ranges = ranges.ranges().map(|range| (range.timeline.get(), range.start.as_bytes(), range.end.as_bytes()));
        ranges.collect()
    }

    #[test]
    fn a_region_must_have_everything_from_the_oldest_backup_to_what_its_writers_have_said() {
        let lsn = |at| Lsn::from_bytes(at).unwrap();
        let server = ServerTimelines {
            current: timeline(4),
            left_at: [(timeline(1), lsn(550)), (timeline(2), lsn(700))].into(),
        };
        let server = Some(&server);
        let mib = 1 << 20;
        for (why, from, server, present, claims, wanted) in [
            ("one timeline", at(1, 100), None, vec![], vec![at(1, 400)], vec![(1, 100, 400)]),
            ("the backup is newer", at(1, 100), None, vec![], vec![at(1, 90)], vec![]),
            ("nobody has said anything", at(1, 100), None, vec![(1, 100, 300)], vec![], vec![]),
            ("two writers", at(1, 100), None, vec![], vec![at(1, 400), at(1, 300)], vec![(1, 100, 400)]),
            ("an older timeline is not wanted", at(2, 600), server, vec![], vec![at(1, 400)], vec![]),
            (
                "through the history",
                at(1, 100),
                server,
                vec![],
                vec![at(4, 900)],
                vec![(1, 100, 500), (2, 550, 700), (4, 700, 900)],
            ),
            ("a region that has not come so far", at(1, 100), server, vec![], vec![at(1, 400)], vec![(1, 100, 400)]),
            ("what was sent behind the fork", at(1, 100), server, vec![], vec![at(1, 600)], vec![(1, 100, 500)]),
            (
                "a timeline that is none of the server's",
                at(1, 100),
                server,
                vec![(3, 600, 650)],
                vec![at(3, 800)],
                vec![(3, 600, 800)],
            ),
            (
                "without a history",
                at(1, 100),
                None,
                vec![(1, 100, 200), (2, 480, 600)],
                vec![at(2, 800)],
                vec![(2, 480, 800)],
            ),
            ("and without an object", at(1, 100), None, vec![], vec![at(2, 64 * mib)], vec![(2, 48 * mib, 64 * mib)]),
        ] {
            assert_eq!(expected(from, server, &present, &claims), wanted, "{why}");
        }
    }

    #[test]
    fn what_was_deleted_and_what_is_on_record_as_missing_is_not_expected() {
        let mut present = WalSet::default();
        present.add(wal_range(1, 250, 400));
        let known = Known { from: at(1, 100), server: None, present: &present, segment: 100 };
        let floors = BTreeMap::from([(timeline(1), Lsn::from_bytes(150).unwrap())]);
        let left = |gaps: &[(u64, Option<u64>)]| {
            let mut expected = known.expected(&[at(1, 400)], &floors);
            for (from, to) in gaps {
                let (from, to) = (at(1, *from).lsn, to.and_then(Lsn::from_bytes));
                let (reason, scope) = (GapReason::FreshSlot, GapScope::Everywhere);
                known.without_gap(&mut expected, &WalGapRecord { timeline: timeline(1), from, to, reason, scope });
            }
            expected.ranges().map(|range| (range.start.as_bytes(), range.end.as_bytes())).collect::<Vec<_>>()
        };
        for (why, gaps, wanted) in [
            ("below the floor", vec![], vec![(150, 400)]),
            ("a gap", vec![(200, Some(220))], vec![(150, 200), (220, 400)]),
            ("a gap until WAL goes on", vec![(200, None)], vec![(150, 200), (250, 400)]),
            ("a gap behind which nothing comes", vec![(400, None)], vec![(150, 400)]),
        ] {
            assert_eq!(left(&gaps), wanted, "{why}");
        }
    }
}

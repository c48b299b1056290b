//! Which WAL is missing between two positions, over all timelines in between.

use lifeboat_postgres::TimelineHistory;
use lifeboat_repository::format::layout::WalRange;
use lifeboat_vocabulary::{SegmentName, SegmentSize, WalPosition};

/// What is missing of each timeline between two positions: each up to where the history of the later one leaves it. The WAL of a
/// later timeline begins at the start of the segment that holds the fork.
pub(super) fn missing_between(
    from: WalPosition,
    to: WalPosition,
    history: &TimelineHistory,
    segment: SegmentSize,
) -> Vec<WalRange> {
    let (mut missing, mut start) = (Vec::new(), from.lsn);
    let left = history.entries.iter().map(|entry| entry.timeline);
    for timeline in left.filter(|timeline| (from.timeline..to.timeline).contains(timeline)) {
        let Some(fork) = history.switch_from(timeline) else { continue };
        missing.push(WalRange { timeline, start, end: fork });
        let begins = segment_start(WalPosition { timeline: to.timeline, lsn: fork }, segment);
        start = begins.map_or(fork, |begins| begins.lsn);
    }
    missing.push(WalRange { timeline: to.timeline, start, end: to.lsn });
    missing.retain(|range| range.start < range.end);
    missing
}

/// The start of the segment that holds a position. A position at a segment's end belongs to the next one.
pub(super) fn segment_start(position: WalPosition, segment: SegmentSize) -> Option<WalPosition> {
    let name = SegmentName::holding(position.timeline, position.lsn, segment);
    name.start().map(|lsn| WalPosition { lsn, ..position })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_vocabulary::{Lsn, TimelineId};

    #[test]
    fn what_is_missing_over_a_promotion_is_missing_of_each_timeline_up_to_where_it_was_left() {
        const MIB: u64 = 1 << 20;
        let timeline = |number| TimelineId::new(number).unwrap();
        let at = |number, lsn| WalPosition { timeline: timeline(number), lsn: Lsn::from_bytes(lsn).unwrap() };
        // Forks at 3.5 and at 5.25 MiB.
        let history = TimelineHistory::parse(timeline(3), b"1\t0/380000\tx\n2\t0/540000\tx\n").unwrap();
        let segment = SegmentSize::from_bytes(MIB).unwrap();
        let (first, second) = (3 * MIB + MIB / 2, 5 * MIB + MIB / 4);
        for (why, from, to, expected) in [
            ("one timeline", at(3, 6 * MIB), at(3, 9 * MIB), vec![(3, 6 * MIB, 9 * MIB)]),
            ("over one promotion", at(2, 4 * MIB), at(3, 9 * MIB), vec![(2, 4 * MIB, second), (3, 5 * MIB, 9 * MIB)]),
            (
                "over two",
                at(1, 2 * MIB),
                at(3, 9 * MIB),
                vec![(1, 2 * MIB, first), (2, 3 * MIB, second), (3, 5 * MIB, 9 * MIB)],
            ),
            ("all of the first is stored", at(1, first), at(2, 5 * MIB), vec![(2, 3 * MIB, 5 * MIB)]),
            ("beyond the fork", at(1, first + 9), at(2, 5 * MIB), vec![(2, 3 * MIB, 5 * MIB)]),
        ] {
            let found = missing_between(from, to, &history, segment);
            let found: Vec<_> = found
                .into_iter()
                .map(|WalRange { timeline, start, end }| (timeline.get(), start.as_bytes(), end.as_bytes()))
                .collect();
            assert_eq!(found, expected, "{why}");
        }
    }
}

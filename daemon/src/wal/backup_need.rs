//! Which base backups continuous WAL needs: a first one, and one behind every gap. Pure.

use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::log::records::WalGapRecord;
use lifeboat_vocabulary::{Lsn, TimelineId, WalPosition};

/// Why a base backup is needed before recovery can reach the present; `None` if the newest one will do.
///
/// `newest` is the start of the newest good backup, `gaps` those that no region fills. A gap on another timeline is
/// behind a backup that was made on a later one.
#[must_use]
pub(crate) fn needed<'a>(
    newest: Option<WalPosition>,
    gaps: impl IntoIterator<Item = &'a WalGapRecord>,
) -> Option<String> {
    let Some(newest) = newest else { return Some("there is no base backup yet".to_owned()) };
    let behind = |gap: &&WalGapRecord| must_cross(newest, gap.timeline, gap.to.unwrap_or(gap.from));
    gaps.into_iter().find(behind).map(ToString::to_string)
}

/// Whether recovery from a backup that begins at `newest` has to cross `lost`.
#[must_use]
pub(crate) fn lies_behind(newest: WalPosition, lost: &WalRange) -> bool {
    must_cross(newest, lost.timeline, lost.end)
}

fn must_cross(newest: WalPosition, timeline: TimelineId, end: Lsn) -> bool {
    timeline > newest.timeline || timeline == newest.timeline && end > newest.lsn
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_repository::log::records::{GapReason, GapScope};

    fn at(timeline: u32, lsn: u64) -> WalPosition {
        WalPosition { timeline: TimelineId::new(timeline).unwrap(), lsn: Lsn::from_bytes(lsn).unwrap() }
    }

    fn gap(from: WalPosition, to: Option<u64>) -> WalGapRecord {
        let to = to.and_then(Lsn::from_bytes);
        let (reason, scope) = (GapReason::SegmentRemoved, GapScope::Everywhere);
        WalGapRecord { timeline: from.timeline, from: from.lsn, to, reason, scope }
    }

    #[test]
    fn what_ends_before_the_newest_backup_begins_is_not_crossed() {
        for (timeline, start, end, expected) in
            [(1, 10, 100, false), (1, 90, 101, true), (1, 200, 300, true), (2, 10, 20, true)]
        {
            let lost = WalRange { timeline: at(timeline, 1).timeline, start: at(1, start).lsn, end: at(1, end).lsn };
            assert_eq!(lies_behind(at(1, 100), &lost), expected, "{lost}");
        }
        let earlier = WalRange { timeline: at(1, 1).timeline, start: at(1, 500).lsn, end: at(1, 600).lsn };
        assert!(!lies_behind(at(2, 100), &earlier));
    }

    #[test]
    fn a_backup_is_needed_when_there_is_none_or_a_gap_came_after_it() {
        for (why, newest, gaps, expected) in [
            ("none at all", None, vec![], true),
            ("no gap", Some(at(1, 100)), vec![], false),
            ("the gap is behind it", Some(at(1, 100)), vec![gap(at(1, 10), Some(90))], false),
            ("the gap came later", Some(at(1, 100)), vec![gap(at(1, 10), Some(90)), gap(at(1, 150), Some(160))], true),
            ("the backup began in the gap", Some(at(1, 100)), vec![gap(at(1, 90), Some(160))], true),
            ("a gap without an end", Some(at(1, 100)), vec![gap(at(1, 150), None)], true),
            ("a gap on a later timeline", Some(at(1, 100)), vec![gap(at(2, 20), Some(30))], true),
            ("a gap on an earlier timeline", Some(at(2, 100)), vec![gap(at(1, 500), Some(600))], false),
        ] {
            assert_eq!(needed(newest, &gaps).is_some(), expected, "{why}");
        }
    }
}

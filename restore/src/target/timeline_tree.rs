//! The branches of a cluster's history, and the one way through them that leads to a timeline.
//!
//! Source: PostgreSQL manual, section "Timelines"; `src/backend/access/transam/timeline.c`.

use std::collections::BTreeMap;

use lifeboat_postgres::TimelineHistory;
use lifeboat_vocabulary::{Lsn, TimelineId, WalPosition};

/// All timelines whose history is known. The first one always is: it has no history file.
#[derive(Clone, Debug, Default)]
pub(crate) struct TimelineTree {
    histories: BTreeMap<TimelineId, TimelineHistory>,
}

/// The way from the first timeline to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TimelinePath {
    legs: Vec<Leg>,
}

/// A part of a path: from where a timeline was entered up to where it was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leg {
    pub(crate) timeline: TimelineId,
    /// Where it forked off the one before; `None` for the first.
    pub(crate) begin: Option<Lsn>,
    /// Where the next one forked off; `None` for the last.
    pub(crate) end: Option<Lsn>,
}

impl TimelineTree {
    /// The tree of these histories.
    #[must_use]
    pub(crate) fn new(histories: impl IntoIterator<Item = TimelineHistory>) -> Self {
        Self { histories: histories.into_iter().map(|history| (history.timeline, history)).collect() }
    }

    /// The timelines with a history file.
    pub(crate) fn histories(&self) -> impl Iterator<Item = &TimelineHistory> {
        self.histories.values()
    }

    /// The way to `timeline`; `None` if its history is not known.
    #[must_use]
    pub(crate) fn path(&self, timeline: TimelineId) -> Option<TimelinePath> {
        let mut legs = Vec::new();
        let mut begin = None;
        match self.histories.get(&timeline) {
            Some(history) => {
                for entry in &history.entries {
                    legs.push(Leg { timeline: entry.timeline, begin, end: Some(entry.switch) });
                    begin = Some(entry.switch);
                }
            }
            None if timeline.get() == 1 => {}
            None => return None,
        }
        legs.push(Leg { timeline, begin, end: None });
        Some(TimelinePath { legs })
    }

    /// The path of a timeline whose history file is missing, for a backup that needs nothing but itself.
    #[must_use]
    pub(crate) fn path_or_alone(&self, timeline: TimelineId) -> TimelinePath {
        let alone = || TimelinePath { legs: vec![Leg { timeline, begin: None, end: None }] };
        self.path(timeline).unwrap_or_else(alone)
    }
}

impl TimelinePath {
    /// The parts of the path, oldest first.
    #[must_use]
    pub(crate) fn legs(&self) -> &[Leg] {
        &self.legs
    }

    /// Whether the history of the path's timeline went through this position.
    #[must_use]
    pub(crate) fn contains(&self, position: WalPosition) -> bool {
        self.legs.iter().any(|leg| leg.timeline == position.timeline && leg.end.is_none_or(|end| position.lsn <= end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_postgres::HistoryEntry;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn at(number: u32, bytes: u64) -> WalPosition {
        WalPosition { timeline: timeline(number), lsn: Lsn::from_bytes(bytes).unwrap() }
    }

    /// 1 forks into 2 (at 100) and into 3 (at 150); 2 forks into 11 (at 200).
    fn tree() -> TimelineTree {
        let history = |number: u32, entries: &[(u32, u64)]| TimelineHistory {
            timeline: timeline(number),
            entries: entries
                .iter()
                .map(|(of, switch)| HistoryEntry { timeline: timeline(*of), switch: Lsn::from_bytes(*switch).unwrap() })
                .collect(),
        };
        TimelineTree::new([history(2, &[(1, 100)]), history(3, &[(1, 150)]), history(11, &[(1, 100), (2, 200)])])
    }

    #[test]
    fn a_path_goes_through_its_ancestors_and_no_others() {
        let path = tree().path(timeline(11)).unwrap();
        assert_eq!(path.legs().iter().map(|leg| leg.timeline.get()).collect::<Vec<_>>(), [1, 2, 11]);
        for (position, expected) in [
            (at(1, 100), true),
            (at(1, 101), false),
            (at(2, 150), true),
            (at(2, 201), false),
            (at(11, 9999), true),
            (at(3, 50), false),
        ] {
            assert_eq!(path.contains(position), expected, "{position}");
        }
        let ends: Vec<Option<u64>> = path.legs().iter().map(|leg| leg.end.map(Lsn::as_bytes)).collect();
        assert_eq!(ends, [Some(100), Some(200), None]);
    }

    #[test]
    fn a_timeline_without_a_history_file_is_only_known_if_it_is_the_first() {
        assert_eq!(tree().path(timeline(1)).unwrap().legs().len(), 1);
        assert_eq!(tree().path(timeline(4)), None);
        assert!(tree().path_or_alone(timeline(4)).contains(at(4, 7)));
    }
}

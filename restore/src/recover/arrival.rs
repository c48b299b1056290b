//! Where recovery arrived, compared with where it was to arrive. PostgreSQL ends a recovery without a target wherever it can
//! read no further record, and says nothing about it: neither does a damaged or foreign record look different to it.

use std::path::Path;

use lifeboat_postgres::{HISTORY_MAX, TimelineHistory, read_small};
use lifeboat_vocabulary::{Lsn, TimelineId};

use crate::target::prove::StopAt;
use crate::target::recovery_target::Inclusion;

/// Where a recovery is to arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) stop: StopAt,
    /// The timeline that is followed.
    pub(crate) timeline: TimelineId,
    /// Where the backup is consistent.
    pub(crate) consistent: Lsn,
    /// Where the last whole record of the WAL ends that was handed out; `None` without an archive.
    ///
    /// The error is the first segment of the plan that recovery never asked for.
    pub(crate) replayable: Result<Option<Lsn>, String>,
}

/// Where it has arrived, as far as that can be known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// The end of the last record that was replayed.
    pub(crate) replayed: Option<Lsn>,
    /// The timeline of that record.
    pub(crate) timeline: Option<TimelineId>,
    /// What the server said about where it stopped. Without a target it says nothing.
    pub(crate) stopped_at: Option<String>,
}

impl Expected {
    /// Compares.
    ///
    /// # Errors
    /// A sentence: what is missing, or what there is too much of.
    pub(crate) fn judge(&self, arrived: &Arrived) -> Result<(), String> {
        if let Some(timeline) = arrived.timeline.filter(|timeline| *timeline != self.timeline) {
            return Err(format!("recovery ended on timeline {timeline}, and not on {}", self.timeline));
        }
        let least = self.least()?;
        if self.stop != StopAt::End && arrived.stopped_at.is_none() {
            return Err("the server opened without a word about the target".to_owned());
        }
        match (arrived.replayed, arrived.stopped_at.is_some()) {
            (Some(replayed), _) if replayed < least => {
                return Err(format!("recovery ended at {replayed}, before {least}, up to where there is WAL for it"));
            }
            // A server that stopped at its target has said so in its log, and cannot be asked any more.
            (None, false) => return Err("the server does not say how far it has replayed".to_owned()),
            _ => {}
        }
        Ok(())
    }

    /// The position that must be reached at least.
    fn least(&self) -> Result<Lsn, String> {
        match self.stop {
            StopAt::End => match &self.replayable {
                Ok(end) => Ok((*end).unwrap_or(self.consistent).max(self.consistent)),
                Err(segment) => Err(format!("recovery ended before segment {segment}, which it has never asked for")),
            },
            // It stops behind the record that begins there or later.
            StopAt::Lsn(lsn, Inclusion::Inclusive) => Ok(lsn.max(self.consistent)),
            StopAt::Lsn(_, Inclusion::Exclusive) | StopAt::Immediate => Ok(self.consistent),
        }
    }
}

/// The timeline that was left at the end of a recovery, and where: what an opened copy has written into its newest history.
/// Unlike the server itself it can be asked whatever databases and roles there are.
///
/// Source: PostgreSQL `src/backend/access/transam/xlog.c` (`StartupXLOG`, `writeTimeLineHistory`).
pub(crate) fn left_timeline(data_dir: &Path, opened: TimelineId) -> Option<(TimelineId, Lsn)> {
    let path = data_dir.join("pg_wal").join(format!("{:08X}.history", opened.get()));
    let content = read_small(&path, HISTORY_MAX as u64).ok()?;
    let history = TimelineHistory::parse(opened, &content).ok()?;
    history.entries.last().map(|entry| (entry.timeline, entry.switch))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(number: u64) -> Lsn {
        Lsn::from_bytes(number).unwrap()
    }

    #[test]
    fn every_end_before_the_target_is_an_error_that_says_where() {
        let one = TimelineId::new(1).unwrap();
        let expected = |stop, replayable| Expected { stop, timeline: one, consistent: lsn(1000), replayable };
        let end = |replayable| expected(StopAt::End, replayable);
        let arrived =
            |replayed: u64| Arrived { replayed: Some(lsn(replayed)), timeline: Some(one), ..Arrived::default() };
        let stopped = |replayed| Arrived { stopped_at: Some("after x".to_owned()), ..arrived(replayed) };
        let inclusive = |at| expected(StopAt::Lsn(lsn(at), Inclusion::Inclusive), Ok(None));
        for (why, expected, arrived, fault) in [
            ("all of it", end(Ok(Some(lsn(5000)))), arrived(5000), None),
            ("a record less", end(Ok(Some(lsn(5000)))), arrived(4992), Some("ended at 0/1380, before 0/1388")),
            ("its own WAL", end(Ok(None)), arrived(1000), None),
            ("less than its own WAL", end(Ok(None)), arrived(999), Some("before 0/3E8")),
            ("a segment too early", end(Err("000A".to_owned())), arrived(5000), Some("before segment 000A")),
            (
                "another timeline",
                end(Ok(None)),
                Arrived { timeline: TimelineId::new(2), ..arrived(2000) },
                Some("on timeline 2, and not on 1"),
            ),
            ("nobody knows", end(Ok(None)), Arrived::default(), Some("does not say how far")),
            ("the position", inclusive(3000), stopped(3008), None),
            ("before the position", inclusive(3000), stopped(2999), Some("before 0/BB8")),
            ("without a word", inclusive(3000), arrived(3008), Some("without a word")),
            ("stopped for good", inclusive(3000), Arrived { replayed: None, ..stopped(1) }, None),
            (
                "a time, which is the commit behind it",
                expected(StopAt::Lsn(lsn(3000), Inclusion::Exclusive), Ok(None)),
                stopped(2990),
                None,
            ),
            ("consistent", expected(StopAt::Immediate, Ok(None)), stopped(1000), None),
        ] {
            match (expected.judge(&arrived), fault) {
                (Ok(()), None) => {}
                (Err(text), Some(part)) => assert!(text.contains(part), "{why}: {text}"),
                (found, _) => panic!("{why}: {found:?}"),
            }
        }
    }

    #[test]
    fn the_history_of_an_opened_copy_says_where_its_recovery_ended() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pg_wal")).unwrap();
        let opened = TimelineId::new(11).unwrap();
        assert_eq!(left_timeline(dir.path(), opened), None);
        let text = "1\t0/3000000\tno recovery target specified\n2\t0/5000108\tbefore 2026\n";
        std::fs::File::create(dir.path().join("pg_wal/0000000B.history"))
            .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
            .unwrap();
        assert_eq!(left_timeline(dir.path(), opened), Some((TimelineId::new(2).unwrap(), lsn(0x0500_0108))));
    }
}

//! From where on WAL is kept, timeline by timeline. Pure.
//!
//! Recovery to any moment of the point-in-time window starts from the anchor or from a later backup. It goes through the
//! timeline of that backup and then through timelines that come from it. PostgreSQL gives a new timeline a higher number
//! than all that it knows (`findNewestTimeLine` in `src/backend/access/transam/timeline.c`), so what has a lower number
//! than the lowest of these backups comes from none of them, and is behind all of them; what has a higher number may come
//! from them, and is kept whole. No history has to be read for that, and this program could not: histories are sealed.

use std::time::Duration;

use lifeboat_vocabulary::{Lsn, TimelineId, UtcTime};

use crate::log::records::backup::BackupRecord;
use crate::log::records::record::RecordBody;
use crate::log::region_log::RegionLog;
use crate::log::region_state::RegionState;
use crate::retention::model::{RetentionPlan, RetentionPolicy};
use crate::retention::plan::{StoreFacts, plan_region};
use crate::retention::sweep::settings::SweepSettings;

/// How far back WAL is kept: over the window, and over the grace beyond it.
///
/// Backups that leave the window have their grace; without the same for WAL, a recovery to the far end of the window that
/// is under way would lose what it reads, and a window that was shortened by mistake could not be lengthened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptWindow(Duration);

impl KeptWindow {
    /// The longest window that was in force within the last grace, by what was forgotten, and the grace.
    pub(crate) fn of(log: &RegionLog, settings: &SweepSettings, now: UtcTime) -> Self {
        let mut longest = settings.policy.window;
        for entry in log.entries().iter().rev() {
            let RecordBody::Forget(forget) = &entry.record.body else { continue };
            longest = longest.max(Duration::from_secs(forget.policy.window_seconds));
            // This one was in force when the last grace began; what was before it does not count.
            if now.since(entry.record.origin.time) >= settings.grace {
                break;
            }
        }
        Self(longest.saturating_add(settings.grace))
    }

    /// The plan for this window.
    pub(crate) fn plan(
        self,
        state: &RegionState,
        facts: &StoreFacts,
        settings: &SweepSettings,
        now: UtcTime,
    ) -> RetentionPlan {
        plan_region(state, facts, &RetentionPolicy { window: self.0, ..settings.policy.clone() }, now)
    }
}

/// What recovery within the window may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptWal {
    lowest: TimelineId,
    /// `None` if everything on `lowest` is needed.
    from: Option<Lsn>,
}

/// What of one timeline is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// All of it.
    All,
    /// What ends behind this position.
    From(Lsn),
    /// None of it: it lies behind every backup that matters.
    Nothing,
}

impl KeptWal {
    /// `None` keeps everything: nothing has left the window yet, or there is no backup to start from.
    pub(crate) fn of(state: &RegionState, plan: &RetentionPlan) -> Option<Self> {
        plan.wal_from?;
        let anchor = &state.backups.get(plan.anchor.as_ref()?)?.record;
        // Not only those that are kept: what is forgotten can still be restored.
        let all = state.backups.values().map(|backup| &backup.record);
        let starts: Vec<&BackupRecord> = all.filter(|record| record.stop_time >= anchor.stop_time).collect();
        let lowest = starts.iter().map(|record| record.start_tli).min()?;
        let on_lowest = starts.iter().filter(|record| record.start_tli == lowest);
        let from = on_lowest.map(|record| start_of_segment(record)).min()?;
        Some(Self { lowest, from: Lsn::from_bytes(from) })
    }

    pub(crate) fn of_timeline(&self, timeline: TimelineId) -> Kept {
        match (timeline.cmp(&self.lowest), self.from) {
            (std::cmp::Ordering::Less, _) => Kept::Nothing,
            (std::cmp::Ordering::Equal, Some(from)) => Kept::From(from),
            (std::cmp::Ordering::Equal, None) | (std::cmp::Ordering::Greater, _) => Kept::All,
        }
    }
}

/// Recovery reads whole segments: the one in which the backup starts is needed from its first byte.
fn start_of_segment(record: &BackupRecord) -> u64 {
    let start = record.start_lsn.as_bytes();
    start - start % u64::from(record.pg.wal_segment_bytes.max(1))
}

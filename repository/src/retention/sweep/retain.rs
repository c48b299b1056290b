//! Locks what is kept for as long as it is certain to be kept, in regions with Object Lock.
//!
//! A lock is a promise that cannot be taken back, so it is made only for what is certain: today's backup is the newest of
//! its month, and will not be tomorrow. A day is promised at once, a week or a month only when it is over.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use lifeboat_stores::{ByteRange, OBJECT_BYTES_MAX, ObjectKey, Store};
use lifeboat_vocabulary::{BackupId, UtcTime, error_chain};

use crate::format::aead::sha256;
use crate::format::layout;
use crate::format::packs_list::PacksList;
use crate::log::records::backup::BackupRecord;
use crate::log::region_state::RegionState;
use crate::retention::model::{RetentionPlan, RetentionPolicy};
use crate::retention::reason::Reason;
use crate::retention::sweep::error::SweepError;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// What is kept for a reason without an end is locked for this long at a time...
const SPAN: Duration = Duration::from_secs(7 * 24 * 3600);
/// ... and anew when less than this is left.
const RENEW: Duration = Duration::from_secs(2 * 24 * 3600);
/// Objects that are locked at the same time.
const LOCKS: usize = 8;

/// What [`extend_locks`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetainReport {
    /// Backups whose locks were extended, and until when.
    pub extended: Vec<(BackupId, UtcTime)>,
    /// Objects that were asked for.
    pub objects: u64,
    /// Backups that could not be locked, or not as a whole: why.
    pub failed: Vec<(BackupId, String)>,
}

/// Extends the locks of everything that `plan` keeps. Asks for one object of each backup: its list, which is locked last.
///
/// CRASH SAFETY: objects first, the list of them last. Crash in between: the list's lock ends too early, so the next run
/// finds it and locks everything again, which changes nothing where it is done.
///
/// # Errors
/// [`SweepError`] if the region does not answer; locks are only ever extended, so repeating is harmless. What cannot be locked
/// is in the report, and keeps nothing else from being locked.
pub async fn extend_locks(
    store: &dyn Store,
    state: &RegionState,
    plan: &RetentionPlan,
    policy: &RetentionPolicy,
    now: UtcTime,
) -> Result<RetainReport, SweepError> {
    let mut report = RetainReport::default();
    for (backup, reasons) in &plan.kept {
        let Some(state) = state.backups.get(backup) else { continue };
        match extend_lock(store, &state.record, reasons, policy, now).await {
            Ok(Some((until, objects))) => {
                report.objects += objects;
                report.extended.push((backup.clone(), until));
            }
            Ok(None) => {}
            // A region that does not answer answers about none; what is wrong with one backup is about that one.
            Err(error) if error.may_pass() => return Err(error),
            Err(error) => report.failed.push((backup.clone(), error_chain(&error))),
        }
    }
    Ok(report)
}

/// Extends the lock of one backup if it is due. Until when it lasts then, and how many objects were asked for.
async fn extend_lock(
    store: &dyn Store,
    record: &BackupRecord,
    reasons: &BTreeSet<Reason>,
    policy: &RetentionPolicy,
    now: UtcTime,
) -> Result<Option<(UtcTime, u64)>, SweepError> {
    let list = layout::packs_list(&record.backup);
    let held = store.retained_until(&list).await;
    let held = held.map_err(|source| SweepError::Retain { key: list.clone(), source })?;
    let certain = certain_until(record, reasons, policy, now);
    let until = match certain.filter(|certain| *certain > now.plus(RENEW)) {
        Some(certain) if held.is_none_or(|held| held < certain) => certain,
        None if held.is_none_or(|held| held < now.plus(RENEW)) => now.plus(SPAN),
        _ => return Ok(None),
    };
    Ok(Some((until, lock_backup(store, record, until).await?)))
}

/// The end of the longest class that the backup is in for good. It may be in the past.
fn certain_until(
    record: &BackupRecord,
    reasons: &BTreeSet<Reason>,
    policy: &RetentionPolicy,
    now: UtcTime,
) -> Option<UtcTime> {
    let today = now.civil_in(&policy.timezone).date();
    let this_week = today.iso_week_date();
    let days = |days: u32| record.stop_time.plus(DAY.saturating_mul(days));
    let ends = reasons.iter().filter_map(|reason| match reason {
        Reason::Daily { .. } => Some(days(policy.daily)),
        Reason::Weekly { year, week } if (*year, *week) != (this_week.year(), this_week.week()) => {
            Some(days(policy.weekly.saturating_mul(7)))
        }
        Reason::Monthly { year, month } if (*year, *month) != (today.year(), today.month()) => {
            Some(days(policy.monthly.saturating_mul(31)))
        }
        _ => None,
    });
    // Whole seconds, as stores keep them: otherwise every run would find a lock that is too short.
    ends.max().and_then(|end| UtcTime::from_unix_micros(end.as_unix_seconds().saturating_mul(1_000_000)))
}

async fn lock_backup(store: &dyn Store, record: &BackupRecord, until: UtcTime) -> Result<u64, SweepError> {
    let backup = || record.backup.clone();
    let list_key = layout::packs_list(&record.backup);
    let read = store.get(&list_key, ByteRange::WholeUpTo(OBJECT_BYTES_MAX)).await;
    let bytes = read.map_err(|source| SweepError::Needs { backup: backup(), source })?;
    if sha256(&bytes) != record.packs.sha256 {
        return Err(SweepError::OtherList { backup: backup() });
    }
    let list = PacksList::parse(&bytes).map_err(|source| SweepError::BadList { backup: backup(), source })?;
    let slots = record.epochs.iter().map(|epoch| layout::slots(epoch.id, epoch.slots));
    let keys: Vec<ObjectKey> = list.iter().map(|(key, _)| key.clone()).chain(slots).collect();
    let lock = |key: ObjectKey| async move {
        store.retain(&key, until).await.map_err(|source| SweepError::Retain { key, source })
    };
    let count = keys.len() as u64;
    let mut locks = futures_util::stream::iter(keys).map(lock).buffer_unordered(LOCKS);
    while let Some(locked) = locks.next().await {
        locked?;
    }
    drop(locks);
    lock(list_key).await?;
    Ok(count + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retention::model::RetentionLimits;
    use crate::samples;
    use jiff::tz::TimeZone;

    fn policy() -> RetentionPolicy {
        let (window, limits) = (7 * DAY, RetentionLimits::default());
        RetentionPolicy { timezone: TimeZone::UTC, daily: 7, weekly: 4, monthly: 12, min_keep: 2, window, limits }
    }

    #[test]
    fn weekly_and_monthly_backups_are_locked_only_after_the_week_or_month() {
        // A Friday, in week 47.
        let record = samples::backup_record_named("20261120T020003Z-5f1c09ab", "2026-11-20T02:41:07.5Z");
        let day = Reason::Daily { day: "2026-11-20".parse().unwrap() };
        let week = Reason::Weekly { year: 2026, week: 47 };
        let month = Reason::Monthly { year: 2026, month: 11 };
        let all = [day.clone(), week.clone(), month.clone()];
        for (why, reasons, now, expected) in [
            ("the same day", &all[..], "2026-11-20T12:00:00Z", Some("2026-11-27T02:41:07Z")),
            ("the week is over", &all[..], "2026-11-23T00:00:00Z", Some("2026-12-18T02:41:07Z")),
            ("the month is over", &all[..], "2026-12-01T00:00:00Z", Some("2027-11-27T02:41:07Z")),
            ("no class of its own", &[Reason::Anchor][..], "2026-12-01T00:00:00Z", None),
            ("only an open month", &all[2..], "2026-11-30T00:00:00Z", None),
        ] {
            let reasons = reasons.iter().cloned().collect();
            let found = certain_until(&record, &reasons, &policy(), samples::time(now));
            assert_eq!(found, expected.map(samples::time), "{why}");
        }
    }
}

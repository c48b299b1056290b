//! What the regions' logs say together, as they were read last: the ground for the status page. Decides nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use lifeboat_repository::log::records::{BackupRecord, Integrity, WalGapRecord};
use lifeboat_repository::log::{BackupState, RegionState};
use lifeboat_repository::wal::WalRecords;
use lifeboat_vocabulary::{BackupId, Lsn, RegionName, TimelineId, UtcTime, WalPosition};
use tokio::time::Instant;

use crate::base::supervisor::TaskContext;
use crate::model::snapshot::{BackupStatus, Point, RegionLogStatus};
use crate::model::survey::Survey;
use crate::regions::context::ClusterContext;
use crate::regions::log_follower::FollowedLog;

/// The logs of several regions are read at the same time; what they say together is summarised once.
const SETTLING: Duration = Duration::from_millis(250);
/// What depends on the time of day is summarised anew so often, whether or not the logs grew.
const PERIOD: Duration = Duration::from_secs(60);
/// How long the first summary waits for regions that do not answer, or whose logs are not read on.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the survey works with.
#[derive(Clone)]
pub(crate) struct SurveyParts {
    pub(crate) context: ClusterContext,
    /// Regions that must hold a backup before it counts.
    pub(crate) backup_quorum: usize,
}

/// Summarises what the logs say whenever they were read, until it is told to stop. A region that cannot be read keeps what
/// was read of it last; who watches regions tells of it.
///
/// # Errors
/// None so far; the supervisor wants to know.
pub(crate) async fn survey(context: TaskContext, parts: SurveyParts) -> anyhow::Result<()> {
    let follower = parts.context.regions.logs();
    let names = || parts.context.regions.iter().map(|region| &region.name);
    let mut changes = follower.changes();
    let mut surveyed = None;
    let (mut begun, mut looked_at) = (Instant::now(), 0);
    loop {
        context.progress.working("summarising the logs of the regions");
        changes.mark_unchanged();
        let logs = follower.latest();
        // A long log that is read for the first time takes its time.
        let read = follower.looked_at(names().filter(|name| !follower.has_tried(std::iter::once(*name))));
        if std::mem::replace(&mut looked_at, read) != read {
            begun = Instant::now();
        }
        let heads: Vec<_> = logs.iter().map(|(name, followed)| (name.clone(), followed.log.head())).collect();
        let is_due = match &surveyed {
            // A part of the regions may lack what the others have.
            None => follower.has_tried(names()) || begun.elapsed() >= PATIENCE,
            Some((when, before)) => Instant::elapsed(when) >= PERIOD || *before != heads,
        };
        if is_due {
            parts.context.facts.surveyed(summarise(&logs, parts.backup_quorum, parts.context.now()));
            surveyed = Some((Instant::now(), heads));
        }
        context.progress.waiting("the next look at the logs");
        let changed = async {
            // The follower is as old as the cluster, and stays.
            drop(changes.changed().await);
            tokio::time::sleep(SETTLING).await;
        };
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            () = changed => {}
            () = tokio::time::sleep(if surveyed.is_some() { PERIOD } else { PATIENCE / 4 }) => {}
        }
    }
}

/// What counts as a good backup of a region: intact, there, and not known to be damaged.
fn good(backup: &BackupState) -> bool {
    backup.record.integrity() == Integrity::Intact && backup.damaged.is_none()
}

/// What the logs say together.
fn summarise(logs: &BTreeMap<RegionName, FollowedLog>, quorum: usize, now: UtcTime) -> Survey {
    let states = logs.iter().map(|(name, followed)| (name.clone(), followed.log.state(now))).collect();
    let mut survey = side_by_side(&states, quorum, now);
    for (name, FollowedLog { log, read, .. }) in logs {
        if let Some(status) = survey.regions.get_mut(name) {
            (status.read, status.head_seq) = (*read, log.head().map(|head| head.seq));
        }
    }
    let records = WalRecords::of(logs.iter().map(|(name, followed)| (name, &*followed.log)));
    let oldest = survey.oldest_position;
    let matters = |gap: &&WalGapRecord| {
        oldest.is_some_and(|oldest| gap.timeline > oldest.timeline || gap.to.unwrap_or(gap.from) > oldest.lsn)
    };
    survey.gaps = records.gaps_of_all().filter(matters).map(ToString::to_string).collect();
    survey
}

/// Lays what stands in the regions side by side.
fn side_by_side(states: &BTreeMap<RegionName, RegionState>, quorum: usize, now: UtcTime) -> Survey {
    // Which regions hold each good backup, and how far it leads in the one that keeps it best.
    let mut held: BTreeMap<&BackupId, (&BackupRecord, Vec<&RegionName>, Staying)> = BTreeMap::new();
    for (region, state) in states {
        for (id, backup) in state.backups.iter().filter(|(_, backup)| good(backup)) {
            let (_, regions, staying) = held.entry(id).or_insert((&backup.record, Vec::new(), Staying::No));
            regions.push(region);
            *staying = (*staying).max(Staying::of(backup, state));
        }
    }
    let counted = held.values().filter(|(_, regions, _)| regions.len() >= quorum);
    // One that is dated later than now was made while the clock was ahead: it is the last only if there is no other.
    let age = |record: &BackupRecord| (record.stop_time <= now, record.stop_time);
    let last = counted.max_by_key(|(record, ..)| age(record));
    let that =
        |wanted: Staying| held.values().filter(move |(_, _, staying)| *staying >= wanted).map(|(record, ..)| *record);
    let staying: Vec<&BackupRecord> = that(Staying::Alone).collect();
    let oldest = that(Staying::WithWal).min_by_key(|record| record.stop_time);
    let islands = || held.values().filter(|(_, _, staying)| *staying == Staying::Alone).map(|(record, ..)| *record);
    let newest = staying.iter().max_by_key(|record| age(record));
    let regions = states.iter().map(|(name, state)| (name.clone(), region_status(state, &staying, now)));
    Survey {
        regions: regions.collect(),
        last: last.map(|(record, names, _)| backup_status(record, names.iter().map(ToString::to_string).collect())),
        oldest: oldest.map(|record| (record.backup.clone(), end_of(record))),
        newest: newest.map(|record| end_of(record)),
        newest_start: newest.map(|record| record.start()),
        oldest_position: oldest.map(|record| WalPosition { timeline: record.stop_tli, lsn: record.stop_lsn }),
        islands: islands().count(),
        oldest_island: islands().min_by_key(|record| record.stop_time).map(end_of),
        gaps: Vec::new(),
    }
}

fn region_status(state: &RegionState, staying: &[&BackupRecord], now: UtcTime) -> RegionLogStatus {
    let there: Vec<&BackupState> = state.backups.values().filter(|backup| good(backup)).collect();
    let lacks = |record: &&&BackupRecord| {
        let id = &record.backup;
        !state.swept.contains_key(id) && !state.backups.get(id).is_some_and(good)
    };
    let leads_on = |backup: &&&BackupState| Staying::of(backup, state) == Staying::WithWal;
    let first = there.iter().filter(leads_on).min_by_key(|backup| backup.record.stop_time);
    RegionLogStatus {
        read: now,
        head_seq: None,
        backups: there.len(),
        missing: staying.iter().filter(lacks).count(),
        leaving: there.iter().filter(|backup| backup.leaving.is_some()).count(),
        window_from: first.map(|backup| end_of(&backup.record)),
    }
}

/// How far a backup leads that a region has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Staying {
    /// Nowhere for long: it is given up.
    No,
    /// To its own end, with the WAL that it carries itself.
    Alone,
    /// To every moment since: the WAL behind it is kept too.
    WithWal,
}

impl Staying {
    fn of(backup: &BackupState, state: &RegionState) -> Self {
        let record = &backup.record;
        // What ends at or below a floor is gone. A floor on a later timeline may be above the place where that one begins:
        // then nothing leads there from here.
        let is_behind =
            |(timeline, floor): (&TimelineId, &Lsn)| *timeline >= record.stop_tli && *floor > record.stop_lsn;
        match backup.leaving {
            Some(_) => Self::No,
            None if state.wal_floors.iter().any(is_behind) => Self::Alone,
            None => Self::WithWal,
        }
    }
}

fn end_of(record: &BackupRecord) -> Point {
    Point { time: Some(record.stop_time), lsn: record.stop_lsn.to_string(), timeline: record.stop_tli.get() }
}

fn backup_status(record: &BackupRecord, regions: Vec<String>) -> BackupStatus {
    BackupStatus {
        backup: record.backup.to_string(),
        kind: record.kind.to_string(),
        stop_time: record.stop_time,
        raw_bytes: record.files.raw_bytes.as_bytes(),
        stored_bytes: record.packs.own_bytes.as_bytes(),
        duration_ms: record.duration_ms,
        regions,
    }
}

#[cfg(test)]
mod tests;

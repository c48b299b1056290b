//! What the regions' logs say just now, read again every minute: the ground for the status page. Decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use lifeboat_cli::access::read_region;
use lifeboat_repository::keys::VerifyKey;
use lifeboat_repository::log::records::{BackupRecord, Integrity, WalGapRecord};
use lifeboat_repository::log::{BackupState, RegionLog, RegionState};
use lifeboat_repository::wal::WalRecords;
use lifeboat_vocabulary::{BackupId, Clock, Lsn, RegionName, SystemClock, TimelineId, UtcTime, WalPosition};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::base::supervisor::TaskContext;
use crate::model::snapshot::{BackupStatus, Point, RegionLogStatus};
use crate::model::survey::Survey;
use crate::regions::context::ClusterContext;
use crate::regions::open::OpenRegion;

/// How often logs are read.
const PERIOD: Duration = Duration::from_secs(60);
/// While some region has not been read at all, it is tried sooner.
const PERIOD_UNREAD: Duration = Duration::from_secs(10);
/// How long one region may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the survey works with.
#[derive(Clone)]
pub struct SurveyParts {
    /// The cluster.
    pub context: ClusterContext,
    /// Regions that must hold a backup before it counts.
    pub backup_quorum: usize,
    /// Rung when there is something new, such as a backup.
    pub news: Arc<Notify>,
}

/// Reads until it is told to stop. A region that cannot be read keeps what was read of it last; who watches regions tells
/// of it.
///
/// # Errors
/// None so far; the supervisor wants to know.
pub async fn survey(context: TaskContext, parts: SurveyParts) -> anyhow::Result<()> {
    let signer = parts.context.signer.verify_key();
    let mut logs: BTreeMap<RegionName, (UtcTime, RegionLog)> = BTreeMap::new();
    loop {
        context.progress.working("reading the logs of the regions");
        let asked = parts.context.regions.iter().map(|region| {
            let known = logs.remove(&region.name);
            read(region, known, &signer)
        });
        let read = tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            read = join_all(asked) => read,
        };
        logs.extend(read.into_iter().flatten());
        parts.context.facts.surveyed(summarise(&logs, parts.backup_quorum, SystemClock.now()));
        let unread = logs.len() < parts.context.regions.len();
        context.progress.waiting("the next look at the logs");
        let next = Instant::now() + if unread { PERIOD_UNREAD } else { PERIOD };
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            () = parts.news.notified() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

type Known = (UtcTime, RegionLog);

/// Reads a log, or what was appended since. Whatever fails: what was read before stays valid.
async fn read(region: &OpenRegion, known: Option<Known>, signer: &VerifyKey) -> Option<(RegionName, Known)> {
    let (name, now) = (region.name.clone(), SystemClock.now());
    let failed = |error: anyhow::Error| {
        tracing::debug!(region = %name, why = %format!("{error:#}"), "the region's log cannot be read now");
    };
    if let Some((before, mut log)) = known {
        let read = match tokio::time::timeout(PATIENCE, log.refresh(&*region.store)).await {
            Ok(read) => read.map_err(anyhow::Error::new),
            Err(late) => Err(anyhow::Error::new(late)),
        };
        let time = read.map(|_| now).map_err(failed).unwrap_or(before);
        return Some((name, (time, log)));
    }
    let reading = read_region(&*region.store, Some(signer), Some(name.clone()));
    let read = tokio::time::timeout(PATIENCE, reading).await.map_err(anyhow::Error::new).and_then(|read| read);
    let (_, log) = read.map_err(failed).ok()?;
    Some((name, (now, log)))
}

/// What counts as a good backup of a region: sound, there, and not known to be damaged.
fn good(backup: &BackupState) -> bool {
    backup.record.integrity() == Integrity::Intact && backup.damaged.is_none()
}

/// What the logs say together.
fn summarise(logs: &BTreeMap<RegionName, Known>, quorum: usize, now: UtcTime) -> Survey {
    let standings = logs.iter().map(|(name, (_, log))| (name.clone(), log.state(now))).collect();
    let mut survey = side_by_side(&standings, quorum, now);
    for (name, (read, log)) in logs {
        if let Some(status) = survey.regions.get_mut(name) {
            (status.read, status.head_seq) = (*read, log.head().map(|head| head.seq));
        }
    }
    let records = WalRecords::of(logs.iter().map(|(name, (_, log))| (name, log)));
    let oldest = survey.oldest_position;
    let matters = |gap: &&WalGapRecord| {
        oldest.is_some_and(|oldest| gap.timeline > oldest.timeline || gap.to.unwrap_or(gap.from) > oldest.lsn)
    };
    survey.gaps = records.gaps_everywhere().filter(matters).map(ToString::to_string).collect();
    survey
}

/// Lays what stands in the regions side by side.
fn side_by_side(standings: &BTreeMap<RegionName, RegionState>, quorum: usize, now: UtcTime) -> Survey {
    // Which regions hold each good backup, and how far it leads in the one that keeps it best.
    let mut held: BTreeMap<&BackupId, (&BackupRecord, Vec<&RegionName>, Staying)> = BTreeMap::new();
    for (region, standing) in standings {
        for (id, backup) in standing.backups.iter().filter(|(_, backup)| good(backup)) {
            let (_, regions, staying) = held.entry(id).or_insert((&backup.record, Vec::new(), Staying::No));
            regions.push(region);
            *staying = (*staying).max(Staying::of(backup, standing));
        }
    }
    let counted = held.values().filter(|(_, regions, _)| regions.len() >= quorum);
    let last = counted.max_by_key(|(record, ..)| record.stop_time);
    let that =
        |wanted: Staying| held.values().filter(move |(_, _, staying)| *staying >= wanted).map(|(record, ..)| *record);
    let staying: Vec<&BackupRecord> = that(Staying::Alone).collect();
    let oldest = that(Staying::WithWal).min_by_key(|record| record.stop_time);
    let islands = || held.values().filter(|(_, _, staying)| *staying == Staying::Alone).map(|(record, ..)| *record);
    let regions = standings.iter().map(|(name, standing)| (name.clone(), region_status(standing, &staying, now)));
    Survey {
        regions: regions.collect(),
        last: last.map(|(record, names, _)| backup_status(record, names.iter().map(ToString::to_string).collect())),
        oldest: oldest.map(|record| (record.backup.clone(), end_of(record))),
        newest: staying.iter().max_by_key(|record| record.stop_time).map(|record| end_of(record)),
        oldest_position: oldest.map(|record| WalPosition { timeline: record.stop_tli, lsn: record.stop_lsn }),
        islands: islands().count(),
        oldest_island: islands().min_by_key(|record| record.stop_time).map(end_of),
        gaps: Vec::new(),
    }
}

fn region_status(standing: &RegionState, staying: &[&BackupRecord], now: UtcTime) -> RegionLogStatus {
    let there: Vec<&BackupState> = standing.backups.values().filter(|backup| good(backup)).collect();
    let lacks = |record: &&&BackupRecord| {
        let id = &record.backup;
        !standing.swept.contains_key(id) && !standing.backups.get(id).is_some_and(good)
    };
    let leads_on = |backup: &&&BackupState| Staying::of(backup, standing) == Staying::WithWal;
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
    fn of(backup: &BackupState, standing: &RegionState) -> Self {
        let record = &backup.record;
        // What ends at or below a floor is gone. A floor on a later timeline may be above the place where that one begins:
        // then nothing leads there from here.
        let is_behind =
            |(timeline, floor): (&TimelineId, &Lsn)| *timeline >= record.stop_tli && *floor > record.stop_lsn;
        match backup.leaving {
            Some(_) => Self::No,
            None if standing.wal_floors.iter().any(is_behind) => Self::Alone,
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

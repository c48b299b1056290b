//! What a region lacks, by the logs alone, and in which order it is healed. Pure.
//!
//! **Oldest recoverability first.** What counts is what this region could restore by itself. While it cannot restore
//! anything, it gets the newest good backup and the WAL behind it: then it can restore the present. From then on the
//! oldest hole is closed first: backups and WAL in the order of their WAL positions, from where the kept WAL begins. So
//! the time that can be restored without a break grows from its old end towards the present with every object. Older
//! backups, each of which is one moment, come last, the newest first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::{BackupId, RegionName, TimelineId, UtcTime, WalPosition};

use crate::format::layout::WalRange;
use crate::heal::presence::Missing;
use crate::heal::scope::HealScope;
use crate::log::append::Draft;
use crate::log::damage::{Completeness, DamagedObjects, damaged_objects, damaged_wal};
use crate::log::records::backup::{BackupRecord, Integrity};
use crate::log::records::record::{Origin, RecordBody};
use crate::log::records::wal::GapScope;
use crate::log::region_log::RegionLog;
use crate::log::region_state::RegionState;
use crate::wal::records::{CurrentIncarnation, WalRecords};

/// A backup that a region is to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupTask {
    /// What the record says.
    pub record: BackupRecord,
    /// Where the record comes from: it is written again with the same origin.
    pub origin: Origin,
    /// What is wrong.
    pub lack: Lack,
    /// The regions that have it.
    pub holders: BTreeSet<RegionName>,
}

/// What is wrong with a backup in a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// It does not exist there.
    Record,
    /// It exists there, and some of its objects are damaged or missing.
    Objects {
        /// Which, as far as they are named.
        named: BTreeSet<ObjectKey>,
        /// Whether these are all.
        complete: Completeness,
        /// Places of the `damage` records that say so; none of what only a listing shows.
        records: BTreeSet<u64>,
    },
}

/// What a region lacks, by the logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordPlan {
    /// Backups, in the order in which they are to be healed.
    pub backups: Vec<BackupTask>,
    /// Records that stand in other logs and belong into all, in the order of their origins.
    pub common: Vec<Draft>,
    /// Damaged objects that belong to no backup: WAL and its keys.
    pub wal_damage: BTreeSet<ObjectKey>,
    /// The `damage` records that name them, by their places; what only a listing shows is in none.
    pub wal_records: BTreeMap<u64, Vec<ObjectKey>>,
    /// Backups of which two signed records disagree: which one is right must not be guessed.
    pub disputed: BTreeSet<BackupId>,
    /// Backups that exist in the region with damaged or missing objects, and that no other region has.
    pub without_source: Vec<WithoutSource>,
    /// What is wrong with each of those.
    pub(crate) alone: BTreeMap<BackupId, Lack>,
    /// Whether the region has a good backup that is whole.
    pub can_restore: CanRestore,
    /// What it gets first, if it has none: a backup, and where that begins.
    pub(crate) first: Option<(BackupId, WalPosition)>,
}

/// A backup that cannot be healed, because no other region has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithoutSource {
    /// Which.
    pub backup: BackupId,
    /// Since when it may be swept, if it is about to leave.
    pub leaving: Option<UtcTime>,
}

impl fmt::Display for WithoutSource {
    /// What is the matter with it, without its name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.leaving {
            None => f.write_str("objects of it are damaged or missing, and no other region has it"),
            Some(leaving) => write!(
                f,
                "objects of it are damaged or missing, no other region has it any more, and it leaves this one from \
                 {leaving} on, because retention keeps it no longer"
            ),
        }
    }
}

/// Whether a region could restore anything by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CanRestore {
    /// It has a good backup that is whole.
    #[default]
    Yes,
    /// It has none.
    No,
}

/// What `target` lacks of what `sources` have. `missing` is what a listing did not show.
///
/// What is damaged is healed as long as it exists in the target, also if it is about to leave there: until then it can be
/// restored.
#[must_use]
pub fn plan_records(
    target: &RegionLog,
    sources: &[&RegionLog],
    scope: &HealScope,
    missing: &Missing,
    now: UtcTime,
) -> RecordPlan {
    let state = target.state(now);
    let lacks: BTreeMap<BackupId, Lack> =
        state.backups.keys().filter_map(|id| Some((id.clone(), damaged(target, &state, missing, id)?))).collect();
    let whole = |backup: &BackupId| {
        let there = state.backups.get(backup);
        there.is_some_and(|there| !lacks.contains_key(backup) && there.record.integrity() == Integrity::Intact)
    };
    let can_restore = if state.backups.keys().any(whole) { CanRestore::Yes } else { CanRestore::No };
    let wal_records = damaged_wal(target);
    let mut plan = RecordPlan {
        common: common_records(target, sources),
        wal_damage: wal_records.values().flatten().chain(&missing.of_wal).cloned().collect(),
        wal_records,
        can_restore,
        ..RecordPlan::default()
    };
    let mut tasks: BTreeMap<BackupId, BackupTask> = BTreeMap::new();
    for source in sources {
        let Some(region) = source.region() else { continue };
        let has = source.state(now);
        for entry in source.entries() {
            let Some(record) = entry.record.backup() else { continue };
            let id = &record.backup;
            if !scope.backups.contains(id) && !lacks.contains_key(id) {
                continue;
            }
            // What this region has swept is not healed. Of several records in one log the first counts.
            let counts = has.backups.get(id).is_some_and(|there| there.seq == entry.record.link.seq);
            if state.swept.contains_key(id) || !counts {
                continue;
            }
            let differs = |other: &BackupRecord| other != record;
            let there = state.backups.get(id).map(|there| &there.record);
            if there.is_some_and(differs) || tasks.get(id).map(|task| &task.record).is_some_and(differs) {
                plan.disputed.insert(id.clone());
                continue;
            }
            let lack = match (lacks.get(id), there) {
                (Some(damaged), _) => damaged.clone(),
                (None, Some(_)) => continue,
                (None, None) => Lack::Record,
            };
            let (record, origin) = (record.clone(), entry.record.origin.clone());
            let new = || BackupTask { record, origin, lack, holders: BTreeSet::new() };
            tasks.entry(id.clone()).or_insert_with(new).holders.insert(region.clone());
        }
    }
    tasks.retain(|id, _| !plan.disputed.contains(id));
    let alone = lacks.keys().filter(|id| !tasks.contains_key(*id) && !plan.disputed.contains(*id));
    let leaving = |id: &BackupId| Some(state.backups.get(id)?.leaving.as_ref()?.not_before);
    let alone: Vec<&BackupId> = alone.collect();
    plan.alone = alone.iter().filter_map(|id| Some((BackupId::clone(id), lacks.get(*id)?.clone()))).collect();
    let alone = alone.into_iter().map(|id| WithoutSource { backup: id.clone(), leaving: leaving(id) });
    plan.without_source = alone.collect();
    plan.backups = tasks.into_values().collect();
    plan.first = first_of_all(&plan);
    let mut backups = std::mem::take(&mut plan.backups);
    backups.sort_by_cached_key(|task| plan.rank(&task.record, scope));
    plan.backups = backups;
    plan
}

/// What is wrong with a backup that exists in the target.
fn damaged(target: &RegionLog, state: &RegionState, missing: &Missing, backup: &BackupId) -> Option<Lack> {
    let on_record = state.backups.get(backup)?.damaged.map(|_| damaged_objects(target, backup));
    let listed = missing.backups.get(backup);
    if on_record.is_none() && listed.is_none() {
        return None;
    }
    let none = || DamagedObjects { named: BTreeSet::new(), complete: Completeness::All, records: BTreeSet::new() };
    let DamagedObjects { mut named, complete, records } = on_record.unwrap_or_else(none);
    named.extend(listed.into_iter().flatten().cloned());
    Some(Lack::Objects { named, complete, records })
}

/// Records about the whole repository that the target missed. What happens in one region stays in its log: what it forgot,
/// swept, found damaged, healed, and what it alone has never received.
fn common_records(target: &RegionLog, sources: &[&RegionLog]) -> Vec<Draft> {
    let event = |origin: &Origin| (origin.wseq, origin.writer.clone());
    let known: BTreeSet<_> = target.entries().iter().map(|entry| event(&entry.record.origin)).collect();
    let released: BTreeSet<_> = target
        .entries()
        .iter()
        .filter_map(|entry| match &entry.record.body {
            RecordBody::Release(release) => Some(*release.hold.as_bytes()),
            _ => None,
        })
        .collect();
    let mut missed = BTreeMap::new();
    for entry in sources.iter().flat_map(|log| log.entries()) {
        let (origin, body) = (&entry.record.origin, &entry.record.body);
        let belongs_everywhere = match body {
            // A hold behind its own release would stand again.
            RecordBody::Hold(hold) => !released.contains(hold.hold.as_bytes()),
            RecordBody::Release(_) | RecordBody::Audit(_) => true,
            RecordBody::WalGap(gap) => gap.scope == GapScope::Everywhere,
            _ => false,
        };
        if belongs_everywhere && !known.contains(&event(origin)) {
            missed.entry(event(origin)).or_insert_with(|| Draft { origin: origin.clone(), body: body.clone() });
        }
    }
    missed.extend(missed_incarnation(target, sources).map(|draft| (event(&draft.origin), draft)));
    let mut records = missed_statements(target, sources);
    records.extend(missed.into_values());
    records
}

/// Statements of the root key that the target has not heard, in the order of the logs: before everything else, because they say
/// which keys count.
fn missed_statements(target: &RegionLog, sources: &[&RegionLog]) -> Vec<Draft> {
    fn statement(body: &RecordBody) -> Option<&str> {
        match body {
            RecordBody::Signer(carried) => Some(&carried.statement),
            _ => None,
        }
    }
    let mut known: BTreeSet<&str> = target.entries().iter().filter_map(|entry| statement(&entry.record.body)).collect();
    let mut missed = Vec::new();
    for entry in sources.iter().flat_map(|log| log.entries()) {
        if statement(&entry.record.body).is_some_and(|statement| known.insert(statement)) {
            missed.push(Draft { origin: entry.record.origin.clone(), body: entry.record.body.clone() });
        }
    }
    missed
}

/// The record that says which copy of the cluster writes, if the target has not heard of it. An older one is never
/// copied, and where the logs disagree, a person decides.
fn missed_incarnation(target: &RegionLog, sources: &[&RegionLog]) -> Option<Draft> {
    let logs = || sources.iter().copied().chain([target]);
    let named = logs().filter_map(|log| Some((log.region()?, log)));
    let CurrentIncarnation::One(current) = WalRecords::of(named).incarnation else { return None };
    if target.incarnation() == current {
        return None;
    }
    let last = |log: &&RegionLog| {
        let record = log.entries().iter().rev().find(|entry| matches!(entry.record.body, RecordBody::Incarnation(_)));
        record.map(|entry| entry.record.clone())
    };
    let records = sources.iter().filter_map(last);
    let mut current =
        records.filter(|record| matches!(&record.body, RecordBody::Incarnation(body) if body.incarnation == current));
    current.next().map(|record| Draft { origin: record.origin, body: record.body })
}

/// The backup that comes before everything else: the newest good one, if the region can restore nothing.
fn first_of_all(plan: &RecordPlan) -> Option<(BackupId, WalPosition)> {
    if plan.can_restore == CanRestore::Yes {
        return None;
    }
    let good = plan.backups.iter().filter(|task| task.record.integrity() == Integrity::Intact);
    let newest = good.max_by_key(|task| (task.record.stop_time, task.record.stop_lsn));
    newest.map(|task| (task.record.backup.clone(), task.record.start()))
}

/// The order of healing; see the head of this file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// What makes the region able to restore the present at all.
    Present(TimelineId, u64, u8),
    /// What closes the oldest hole, by position; a backup before the WAL that begins there.
    Hole(TimelineId, u64, u8),
    /// A moment before all holes; the newest first.
    Moment(std::cmp::Reverse<UtcTime>),
}

impl RecordPlan {
    /// When a backup is healed.
    pub(crate) fn rank(&self, record: &BackupRecord, scope: &HealScope) -> Rank {
        let start = record.start();
        let place = (start.timeline, start.lsn.as_bytes());
        if self.first.as_ref().is_some_and(|(first, _)| *first == record.backup) {
            return Rank::Present(place.0, place.1, 0);
        }
        match scope.wal_from {
            Some(from) if place < (from.timeline, from.lsn.as_bytes()) => {
                Rank::Moment(std::cmp::Reverse(record.stop_time))
            }
            _ => Rank::Hole(place.0, place.1, 0),
        }
    }

    /// When WAL of this range is healed.
    pub(crate) fn rank_of_wal(&self, range: WalRange) -> Rank {
        let (timeline, start) = (range.timeline, range.start.as_bytes());
        match &self.first {
            // What holds the start of the backup begins before it.
            Some((_, first)) if (timeline, range.end) > (first.timeline, first.lsn) => {
                Rank::Present(timeline, start, 1)
            }
            _ => Rank::Hole(timeline, start, 1),
        }
    }
}

#[cfg(test)]
mod tests;

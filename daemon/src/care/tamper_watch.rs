//! Watches what the logs of one cluster's regions say, and freezes deletion when something in them looks like tampering.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_config::ClusterSettings;
use lifeboat_repository::log::RegionLog;
use lifeboat_repository::log::records::RecordBody;
use lifeboat_vocabulary::{BackupId, ClusterName, RegionName, UtcTime, error_chain};
use tokio::time::Instant;

use crate::base::supervisor::TaskContext;
use crate::care::audit_delivery::recalled;
use crate::deletion::freeze::Freezer;
use crate::deletion::standstill::Standstill;
use crate::deletion::triggers::{Finding, Observed, SeenBackup, SeenDamage, judge};
use crate::regions::context::ClusterContext;
use crate::settings::timetable::Timetable;

/// How often the logs are looked at.
const LOOK: Duration = Duration::from_secs(600);

/// Watches the logs until it is told to stop.
///
/// # Errors
/// If the configuration has no such cluster.
pub(crate) async fn run(context: TaskContext, parts: ClusterContext) -> anyhow::Result<()> {
    let (regions, freezer) = (&parts.regions, &parts.freezer);
    let mut cluster = parts.settings()?;
    let mut changes = regions.logs().changes();
    let mut looked: Option<Looked> = None;
    while !context.stop.is_cancelled() {
        changes.mark_unchanged();
        let all_tried = regions.logs().has_tried(regions.iter().map(|region| &region.name));
        let logs = regions.logs().current();
        if is_due(looked, all_tried, logs.len(), Instant::now()) {
            // A reload may have changed the schedule; a cluster that it removes is stopped in a moment.
            cluster = parts.settings().unwrap_or(cluster);
            let seen = Seen { logs: &logs, regions: regions.len(), arrivals: None };
            look(freezer, &cluster, seen, parts.now()).await?;
            looked = Some(Looked { when: Instant::now(), read: logs.len() });
        }
        context.progress.waiting("the next look");
        tokio::select! {
            () = context.stop.cancelled() => {}
            changed = changes.changed() => changed?,
        }
    }
    Ok(())
}

/// The last look.
#[derive(Clone, Copy, Debug)]
struct Looked {
    when: Instant,
    /// How many logs could be read.
    read: usize,
}

/// Whether to look now, at `read` logs. A part of the regions, while others have not been tried, may lack the newest backups: that
/// would look like backups that do not come. A region that was not there the last time may know what the others do not.
fn is_due(looked: Option<Looked>, all_tried: bool, read: usize, now: Instant) -> bool {
    all_tried && looked.is_none_or(|looked| now.duration_since(looked.when) >= LOOK || looked.read < read)
}

/// What is looked at.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// The logs that could be read.
    pub(crate) logs: &'a BTreeMap<RegionName, RegionLog>,
    /// How many regions there are: one that cannot be read may know what the others do not.
    pub(crate) regions: usize,
    /// When backups arrived, by the regions' clocks, if they were asked.
    pub(crate) arrivals: Option<&'a BTreeMap<BackupId, UtcTime>>,
}

/// Judges what the logs say: freezes what is to be frozen, and recalls what a host that has lost its state may have
/// forgotten.
///
/// # Errors
/// If the thread that writes it down has ended.
pub(crate) async fn look(
    freezer: &Arc<Freezer>,
    cluster: &ClusterSettings,
    seen: Seen<'_>,
    now: UtcTime,
) -> anyhow::Result<()> {
    let recalled = (seen.logs.len() == seen.regions).then(|| recalled(seen.logs));
    let findings = judge(&observe(cluster, &seen, now));
    let (freezer, cluster) = (Arc::clone(freezer), cluster.name.clone());
    // What is found is written down on a thread that may wait for the disk.
    tokio::task::spawn_blocking(move || act(&freezer, &cluster, recalled, &findings)).await?;
    Ok(())
}

fn act(freezer: &Freezer, cluster: &ClusterName, recalled: Option<Standstill>, findings: &[Finding]) {
    if let Some(recalled) = recalled.filter(|_| freezer.may_have_forgotten(cluster)) {
        let before = freezer.standstill(cluster);
        if let Err(error) = freezer.recall(cluster, recalled) {
            tracing::warn!(%cluster, error = %error_chain(&error), "what is frozen could not be saved");
        }
        let after = freezer.standstill(cluster);
        let (frozen, pauses) = (after.frozen.len(), after.pauses.len());
        if (frozen, pauses) != (before.frozen.len(), before.pauses.len()) {
            tracing::warn!(%cluster, frozen, pauses, "what was frozen and paused is taken from the regions' logs");
        }
    }
    for (trigger, why) in findings {
        if let Err(error) = freezer.freeze(cluster, *trigger, why) {
            tracing::warn!(%cluster, %trigger, error = %error_chain(&error), "the freeze is in force and not saved");
        }
    }
}

fn observe(cluster: &ClusterSettings, seen: &Seen<'_>, now: UtcTime) -> Observed {
    let logs = seen.logs;
    let mut backups = BTreeMap::new();
    for entry in logs.values().flat_map(RegionLog::entries) {
        if let RecordBody::Backup(record) = &entry.record.body {
            backups.entry(record.backup.clone()).or_insert_with(|| SeenBackup::from(&**record));
        }
    }
    let newest = |log: &RegionLog| log.entries().iter().map(|entry| entry.record.origin.time).max();
    let newest_records = logs.iter().filter_map(|(region, log)| Some((region.clone(), newest(log)?))).collect();
    let damage = logs.iter().filter_map(|(region, log)| SeenDamage::of(region, log, now)).collect();
    let backups: Vec<SeenBackup> = backups.into_values().collect();
    let timetable = Timetable::new(cluster.name.clone(), cluster.schedule.clone());
    let arrived = |backup: &SeenBackup| seen.arrivals.and_then(|arrivals| arrivals.get(&backup.backup)).copied();
    let arrivals = backups.iter().map(|backup| arrived(backup).unwrap_or(backup.stop_time)).collect();
    let by_hand = u64::from(cluster.retention.extra_backups_per_day);
    // A backup that failed is made again, and a gap in the WAL orders one: twice as many are nothing unusual.
    let explained_per_day = timetable.most_in_a_day(now).saturating_mul(2).saturating_add(by_hand);
    let void = |(region, log): (&RegionName, &RegionLog)| {
        log.state(now).void_sweeps.into_iter().map(|void| (region.clone(), void)).collect::<Vec<_>>()
    };
    let void_sweeps = logs.iter().flat_map(void).collect();
    let interval = timetable.longest_interval(now);
    Observed { backups, newest_records, damage, arrivals, explained_per_day, void_sweeps, interval, now }
}

#[cfg(test)]
mod tests;

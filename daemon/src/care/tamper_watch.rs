//! Keeps an eye on the logs of one cluster's regions: freezes deletion when something in them smells, and brings audit
//! entries there.
//!
//! The logs stay in memory and only what is new is read, so that a look costs one request per region.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_cli::access::read_region;
use lifeboat_config::{ClusterSettings, Config};
use lifeboat_repository::log::RegionLog;
use lifeboat_repository::log::records::RecordBody;
use lifeboat_vocabulary::{ClusterName, RegionName, UtcTime, error_chain};
use tokio::time::Instant;

use crate::base::supervisor::TaskContext;
use crate::care::audit_delivery::{deliver, recalled};
use crate::deletion::freeze::{Freezer, Standstill};
use crate::deletion::triggers::{Finding, Observed, SeenBackup, SeenDamage, judge};
use crate::regions::context::ClusterContext;
use crate::regions::open::OpenRegions;

/// How often the logs are looked at.
const LOOK: Duration = Duration::from_secs(600);
/// How often the queue of audit entries is.
const QUEUE_LOOK: Duration = Duration::from_secs(5);
/// How long entries wait after a region did not take one.
const RETRY: Duration = Duration::from_secs(60);

/// Keeps an eye on the logs until it is told to stop.
///
/// # Errors
/// If the configuration has no such cluster, or the queue cannot be saved.
pub async fn run(context: TaskContext, parts: ClusterContext) -> anyhow::Result<()> {
    let ClusterContext { regions, freezer, signer, .. } = &parts;
    let mut cluster = parts.settings()?;
    let queue = freezer.audit().queue(&cluster.name);
    let mut logs = BTreeMap::new();
    let mut looked: Option<Instant> = None;
    let mut tried: Option<Instant> = None;
    while !context.stop.is_cancelled() {
        let due = looked.is_none_or(|when| when.elapsed() >= LOOK);
        let waiting = !queue.read().waiting.is_empty() && tried.is_none_or(|when| when.elapsed() >= RETRY);
        if due || waiting {
            // Regions have deadlines of their own.
            context.progress.waiting("the regions' logs");
            // A reload may have changed the schedule; a cluster that it removes is stopped in a moment.
            cluster = parts.settings().unwrap_or(cluster);
            refresh(regions, &mut logs, &signer.verify_key()).await;
            if due {
                look(freezer, (&parts.config(), &cluster), (&logs, regions.len()), parts.now()).await?;
                looked = Some(Instant::now());
            }
            if let Err(error) = deliver(&queue, &regions.stores(), &mut logs, (signer, parts.now())).await {
                // A full disk has an alarm of its own; what waits is delivered when it can be noted.
                tracing::debug!(cluster = %cluster.name, error = format!("{error:#}"), "audit entries wait");
            }
            tried = (!queue.read().waiting.is_empty()).then(Instant::now);
        }
        context.progress.waiting("the next look");
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = tokio::time::sleep(QUEUE_LOOK) => {}
        }
    }
    Ok(())
}

/// Reads what is new in every log. One that cannot be read now is left out until it can.
async fn refresh(
    regions: &OpenRegions,
    logs: &mut BTreeMap<RegionName, RegionLog>,
    key: &lifeboat_repository::keys::VerifyKey,
) {
    let reads = regions.iter().map(|region| {
        let known = logs.remove(&region.name);
        async move {
            let read = match known {
                Some(mut log) => match log.refresh(&*region.store).await {
                    Ok(_) => Ok(log),
                    Err(error) => Err(anyhow::Error::new(error)),
                },
                None => read_region(&*region.store, Some(key), Some(region.name.clone())).await.map(|(_, log)| log),
            };
            (region.name.clone(), read)
        }
    });
    for (name, read) in futures_util::future::join_all(reads).await {
        match read {
            Ok(log) => {
                logs.insert(name, log);
            }
            Err(error) => tracing::debug!(region = %name, error = format!("{error:#}"), "the log is not read now"),
        }
    }
}

/// Judges what the logs say: freezes what is to be frozen, and recalls what a host that has lost its state may have
/// forgotten. `regions` is how many there are: one that cannot be read may know what the others do not.
///
/// # Errors
/// If the thread that writes it down has ended.
pub(crate) async fn look(
    freezer: &Arc<Freezer>,
    (config, cluster): (&Config, &ClusterSettings),
    (logs, regions): (&BTreeMap<RegionName, RegionLog>, usize),
    now: UtcTime,
) -> anyhow::Result<()> {
    let recalled = (logs.len() == regions).then(|| recalled(logs));
    let findings = judge(&observe((config, cluster), logs, now));
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

fn observe(
    (config, cluster): (&Config, &ClusterSettings),
    logs: &BTreeMap<RegionName, RegionLog>,
    now: UtcTime,
) -> Observed {
    let mut backups = BTreeMap::new();
    for entry in logs.values().flat_map(RegionLog::entries) {
        if let RecordBody::Backup(record) = &entry.record.body {
            backups.entry(record.backup.clone()).or_insert_with(|| SeenBackup::from(&**record));
        }
    }
    let newest = |log: &RegionLog| log.entries().iter().map(|entry| entry.record.origin.time).max();
    let newest_records = logs.iter().filter_map(|(region, log)| Some((region.clone(), newest(log)?))).collect();
    let damage = logs.iter().filter_map(|(region, log)| SeenDamage::of(region, log, now)).collect();
    let cluster = config.clusters.iter().find(|other| other.name == cluster.name).unwrap_or(cluster);
    let backups = backups.into_values().collect();
    Observed { backups, newest_records, damage, interval: interval(cluster, now), now }
}

/// The longest time between two of the next scheduled backups.
fn interval(cluster: &ClusterSettings, now: UtcTime) -> Option<Duration> {
    let zone = &cluster.schedule.timezone;
    let begin = jiff::Timestamp::from_microsecond(now.as_unix_micros()).ok()?.to_zoned(zone.clone()).datetime();
    let next = |at: &jiff::civil::DateTime| cluster.schedule.full.next_after(*at);
    let runs: Vec<_> = std::iter::successors(next(&begin), next).take(8).collect();
    let gaps = runs.iter().zip(runs.iter().skip(1)).filter_map(|(a, b)| {
        let seconds = a.duration_until(*b).as_secs();
        u64::try_from(seconds).ok().map(Duration::from_secs)
    });
    gaps.max()
}

#[cfg(test)]
mod tests;

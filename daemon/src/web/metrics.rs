//! The snapshot as metrics, in the text format of Prometheus (version 0.0.4). Pure.
//!
//! Labels are `cluster` and `region`, and where a metric counts kinds, the kind: never the name of an object, so that the
//! number of series stays the same for years.

use std::fmt;
use std::sync::Arc;

use lifeboat_vocabulary::{Lsn, UtcTime};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet, prometheus_text,
};
use prometheus_client::metrics::MetricType as Kind;
use prometheus_client::registry::Registry;

use crate::model::region_health::Health;
use crate::model::snapshot::{ClusterStatus, DurationCounts, Protection, RegionStatus, StatusSnapshot};

pub(crate) use prometheus_text::CONTENT_TYPE;

/// The samples of one metric, behind its name, help and type.
struct Family<'a> {
    samples: MetricEncoder<'a>,
    kind: Kind,
}

/// What stands above the samples of a metric.
#[derive(Clone, Copy)]
struct Metric<'a> {
    name: &'a str,
    kind: Kind,
    help: &'a str,
}

fn gauge<'a>(name: &'a str, help: &'a str) -> Metric<'a> {
    Metric { name, kind: Kind::Gauge, help }
}

fn counter<'a>(name: &'a str, help: &'a str) -> Metric<'a> {
    Metric { name, kind: Kind::Counter, help }
}

fn histogram<'a>(name: &'a str, help: &'a str) -> Metric<'a> {
    Metric { name, kind: Kind::Histogram, help }
}

#[derive(Debug)]
struct Snapshot(Arc<StatusSnapshot>);

/// All metrics.
///
/// # Errors
/// Writing to a `String` cannot fail.
pub(crate) fn metrics(status: Arc<StatusSnapshot>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("lifeboat");
    registry.register_collector(Box::new(Snapshot(status)));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Snapshot {
    fn encode(&self, mut all: DescriptorEncoder<'_>) -> fmt::Result {
        let (all, status) = (&mut all, self.0.as_ref());
        daemon(all, status)?;
        protection(all, status)?;
        wal(all, status)?;
        backups(all, status)?;
        region_requests(all, status)?;
        region_state(all, status)?;
        logs_and_proofs(all, status)?;
        alarms(all, status)
    }
}

fn daemon(all: &mut DescriptorEncoder<'_>, status: &StatusSnapshot) -> fmt::Result {
    let mut family = Family::begin(all, gauge("build_info", "The version of the program; always 1."))?;
    family.sample(&[("version", status.daemon.version.as_str())], 1_u32)?;
    let mut family = Family::begin(all, gauge("start_time_seconds", "When the process began, in seconds since 1970."))?;
    family.sample(&[], unix(status.daemon.started))?;
    let mut family =
        Family::begin(all, gauge("tasks_wedged", "Tasks that work and have made no step for longer than they may."))?;
    family.sample(&[], status.daemon.tasks.iter().filter(|task| task.wedged).count())?;
    let mut family = Family::begin(all, gauge("config_overrides", "Settings that environment variables override."))?;
    family.sample(&[], status.overrides.len())
}

fn protection(all: &mut DescriptorEncoder<'_>, status: &StatusSnapshot) -> fmt::Result {
    let help = "Whether a cluster is protected: 0 OK, 1 at risk, 2 not protected.";
    each(all, status, gauge("protection", help), |cluster| {
        Some(match cluster.verdict.protection {
            Protection::Ok => 0_u32,
            Protection::AtRisk => 1,
            Protection::NotProtected => 2,
        })
    })?;
    let help = "The first moment that can be recovered, in seconds since 1970.";
    each(all, status, gauge("recoverable_from_timestamp_seconds", help), |cluster| {
        cluster.window.as_ref()?.from.time.map(unix)
    })?;
    let help = "The last moment that can be recovered, in seconds since 1970.";
    each(all, status, gauge("recoverable_to_timestamp_seconds", help), |cluster| {
        cluster.window.as_ref()?.to.time.map(unix)
    })?;
    let help = "Findings that have frozen deletion.";
    each(all, status, gauge("deletion_frozen", help), |cluster| Some(cluster.freezes.len()))?;
    let help = "Actions that a person has paused.";
    each(all, status, gauge("paused", help), |cluster| Some(cluster.pauses.len()))
}

fn wal(all: &mut DescriptorEncoder<'_>, status: &StatusSnapshot) -> fmt::Result {
    let help = "1 while WAL streams from the server.";
    each(all, status, gauge("wal_streaming", help), |cluster| Some(usize::from(cluster.wal.as_ref()?.host.is_some())))?;
    let help = "Up to which position in the WAL a region has every byte.";
    let mut family = Family::begin(all, gauge("wal_durable_lsn_bytes", help))?;
    for (cluster, name, holder) in holders(status) {
        if let Some(lsn) = holder.durable.as_deref().and_then(lsn) {
            family.sample(&[("cluster", cluster), ("region", name)], lsn)?;
        }
    }
    let help = "Age of the oldest commit that a region lacks.";
    let mut family = Family::begin(all, gauge("wal_lag_seconds", help))?;
    for (cluster, name, holder) in holders(status) {
        family.sample(&[("cluster", cluster), ("region", name)], holder.exposure_seconds)?;
    }
    let help = "Bytes of WAL that were received and that a region lacks.";
    let mut family = Family::begin(all, gauge("wal_lag_bytes", help))?;
    for (cluster, name, holder) in holders(status) {
        family.sample(&[("cluster", cluster), ("region", name)], holder.lag_bytes)?;
    }
    let help = "Age of the oldest commit that the quorum lacks: what a disaster would cost now.";
    each(all, status, gauge("wal_quorum_lag_seconds", help), |cluster| cluster.rpo.seconds)?;
    let help = "Bytes of WAL that were received and that the quorum lacks.";
    each(all, status, gauge("wal_quorum_lag_bytes", help), |cluster| cluster.rpo.bytes)?;
    let help = "The objective for the age of the oldest commit that the quorum lacks.";
    each(all, status, gauge("rpo_objective_seconds", help), |cluster| Some(cluster.rpo.objective_seconds))?;
    let help = "Bytes in the spool.";
    each(all, status, gauge("spool_bytes", help), |cluster| Some(cluster.wal.as_ref()?.spool_bytes))?;
    let help = "Bytes that the spool may hold.";
    each(all, status, gauge("spool_limit_bytes", help), |cluster| Some(cluster.wal.as_ref()?.spool_limit_bytes))
}

fn backups(all: &mut DescriptorEncoder<'_>, status: &StatusSnapshot) -> fmt::Result {
    let help = "When the newest good backup that enough regions hold was complete, in seconds since 1970.";
    each(all, status, gauge("backup_last_success_timestamp_seconds", help), |cluster| {
        cluster.last_backup.as_ref().map(|backup| unix(backup.stop_time))
    })?;
    let help = "Size of the data of that backup.";
    each(all, status, gauge("backup_last_size_bytes", help), |cluster| {
        cluster.last_backup.as_ref().map(|backup| backup.raw_bytes)
    })?;
    let help = "What a region stores of that backup.";
    each(all, status, gauge("backup_last_stored_bytes", help), |cluster| {
        cluster.last_backup.as_ref().map(|backup| backup.stored_bytes)
    })?;
    let help = "When the next backup is planned, in seconds since 1970.";
    each(all, status, gauge("backup_next_timestamp_seconds", help), |cluster| {
        cluster.next_run.as_ref()?.time.map(unix)
    })?;
    let help = "1 while a backup runs.";
    each(all, status, gauge("backup_running", help), |cluster| Some(usize::from(cluster.running.is_some())))?;
    let mut family = Family::begin(all, counter("backup_runs", "Runs since the process began, by how they ended."))?;
    for cluster in &status.clusters {
        for (ending, runs) in &cluster.counters.runs {
            family.sample(&[("cluster", cluster.cluster.as_str()), ("ending", ending.as_str())], *runs)?;
        }
    }
    let help = "How long backups took that ended since the process began.";
    let mut family = Family::begin(all, histogram("backup_duration_seconds", help))?;
    for cluster in &status.clusters {
        family.histogram(&[("cluster", cluster.cluster.as_str())], &cluster.counters.backup_durations)?;
    }
    let help = "Time that threads of a cluster's backups waited for their turn.";
    each(all, status, counter("work_waiting_seconds", help), |cluster| Some(cluster.counters.waiting_seconds))?;
    let help = "Time that threads of a cluster's backups had their turn.";
    each(all, status, counter("work_running_seconds", help), |cluster| Some(cluster.counters.running_seconds))
}

fn region_requests(all: &mut DescriptorEncoder<'_>, status: &StatusSnapshot) -> fmt::Result {
    let help = "Requests to a region since the process began, each attempt by itself.";
    let mut family = Family::begin(all, counter("region_requests", help))?;
    for (cluster, region) in regions(status) {
        for (operation, counts) in &region.requests {
            for (result, number) in [("ok", counts.ok), ("failed", counts.failed)] {
                let labels = [
                    ("cluster", cluster),
                    ("region", region.name.as_str()),
                    ("op", operation.as_str()),
                    ("result", result),
                ];
                family.sample(&labels, number)?;
            }
        }
    }
    let help = "How long requests to a region took, each attempt by itself.";
    let mut family = Family::begin(all, histogram("region_request_duration_seconds", help))?;
    for (cluster, region) in regions(status) {
        family.histogram(&[("cluster", cluster), ("region", region.name.as_str())], &region.durations)?;
    }
    let help = "Bytes that were written to a region since the process began.";
    of_regions(all, status, counter("uploaded_bytes", help), |region| Some(region.uploaded_bytes))?;
    let help = "Bytes that were read from a region since the process began.";
    of_regions(all, status, counter("downloaded_bytes", help), |region| Some(region.downloaded_bytes))
}

fn region_state(all: &mut DescriptorEncoder<'_>, status: &StatusSnapshot) -> fmt::Result {
    let help = "A region's breaker: 0 closed, 1 half-open, 2 open.";
    of_regions(all, status, gauge("region_breaker_state", help), |region| {
        Some(match region.breaker.as_str() {
            "closed" => 0_u32,
            "half-open" => 1,
            _ => 2,
        })
    })?;
    let help = "How a region is doing: 0 healthy, 1 slow, 2 failing, 3 away.";
    of_regions(all, status, gauge("region_health", help), |region| {
        Some(match region.health {
            Health::Healthy => 0_u32,
            Health::Slow => 1,
            Health::Failing => 2,
            Health::Away => 3,
        })
    })?;
    let help = "Moving average of how long small requests to a region take.";
    of_regions(all, status, gauge("region_latency_seconds", help), |region| region.latency_seconds)?;
    let help = "Share of the requests to a region that failed of late, 0 to 1.";
    of_regions(all, status, gauge("region_error_share", help), |region| Some(region.error_share))?;
    let help = "A region's clock minus this host's.";
    of_regions(all, status, gauge("region_clock_skew_seconds", help), |region| region.clock_skew_seconds)?;
    let help = "1 if conditional writes do not work in a region, so that only one may write there.";
    of_regions(all, status, gauge("region_single_writer", help), |region| Some(usize::from(region.writers == "one")))
}

fn logs_and_proofs(all: &mut DescriptorEncoder<'_>, status: &StatusSnapshot) -> fmt::Result {
    let help = "Place of the last record in a region's log.";
    of_regions(all, status, gauge("log_head_seq", help), |region| region.log.as_ref()?.head_seq)?;
    let help = "Good backups that a region holds.";
    of_regions(all, status, gauge("region_backups", help), |region| Some(region.log.as_ref()?.backups))?;
    let help = "Good backups that others hold and a region lacks.";
    of_regions(all, status, gauge("region_backups_missing", help), |region| Some(region.log.as_ref()?.missing))?;
    let help = "Bytes that were found missing in a region and are not copied yet.";
    of_regions(all, status, gauge("heal_missing_bytes", help), |region| {
        region.heal.as_ref().map(|heal| heal.bytes_total.saturating_sub(heal.bytes_done))
    })?;
    let help = "Objects that were found missing in a region and are not copied yet.";
    of_regions(all, status, gauge("heal_missing_objects", help), |region| {
        region.heal.as_ref().map(|heal| heal.objects_total.saturating_sub(heal.objects_done))
    })?;
    let help = "Bytes that the present healing has copied into a region.";
    of_regions(all, status, gauge("heal_copied_bytes", help), |region| {
        region.heal.as_ref().map(|heal| heal.bytes_done)
    })?;
    let help = "Share of a region's objects that this round of the scrub has verified, 0 to 1.";
    of_regions(all, status, gauge("scrub_done_ratio", help), |region| region.scrub.as_ref()?.share_done)?;
    let help = "Age of what was verified longest ago in a region.";
    of_regions(all, status, gauge("objects_unverified_age_seconds", help), |region| {
        region.scrub.as_ref()?.oldest_unverified_seconds
    })?;
    let help = "Objects of a region that are damaged and not healed.";
    of_regions(all, status, gauge("objects_damaged", help), |region| region.scrub.as_ref().map(|scrub| scrub.damaged))
}

fn alarms(all: &mut DescriptorEncoder<'_>, status: &StatusSnapshot) -> fmt::Result {
    let help = "Alarms that last, by severity; those of the daemon itself have an empty cluster.";
    let mut family = Family::begin(all, gauge("alarms", help))?;
    let of_clusters = status.clusters.iter().map(|cluster| (cluster.cluster.as_str(), &cluster.alarms));
    for (cluster, alarms) in of_clusters.chain([("", &status.alarms)]) {
        for severity in ["critical", "warning"] {
            let number = alarms.iter().filter(|alarm| alarm.severity == severity).count();
            family.sample(&[("cluster", cluster), ("severity", severity)], number)?;
        }
    }
    Ok(())
}

/// One number per cluster, where it is known.
fn each<N: Number>(
    all: &mut DescriptorEncoder<'_>,
    status: &StatusSnapshot,
    metric: Metric<'_>,
    value: impl Fn(&ClusterStatus) -> Option<N>,
) -> fmt::Result {
    let mut family = Family::begin(all, metric)?;
    for cluster in &status.clusters {
        if let Some(value) = value(cluster) {
            family.sample(&[("cluster", cluster.cluster.as_str())], value)?;
        }
    }
    Ok(())
}

/// One number per cluster and region, where it is known.
fn of_regions<N: Number>(
    all: &mut DescriptorEncoder<'_>,
    status: &StatusSnapshot,
    metric: Metric<'_>,
    value: impl Fn(&RegionStatus) -> Option<N>,
) -> fmt::Result {
    let mut family = Family::begin(all, metric)?;
    for (cluster, region) in regions(status) {
        if let Some(value) = value(region) {
            family.sample(&[("cluster", cluster), ("region", region.name.as_str())], value)?;
        }
    }
    Ok(())
}

fn regions(status: &StatusSnapshot) -> impl Iterator<Item = (&str, &RegionStatus)> {
    status
        .clusters
        .iter()
        .flat_map(|cluster| cluster.regions.iter().map(move |region| (cluster.cluster.as_str(), region)))
}

/// How far the WAL of each region is.
fn holders(status: &StatusSnapshot) -> impl Iterator<Item = (&str, &str, &crate::model::wal_status::HolderStatus)> {
    status.clusters.iter().flat_map(|cluster| {
        let regions = cluster.wal.iter().flat_map(|wal| &wal.regions);
        regions.map(move |(name, holder)| (cluster.cluster.as_str(), name.as_str(), holder))
    })
}

/// What may be the value of a sample.
trait Number: EncodeGaugeValue + EncodeCounterValue {}
impl<N: EncodeGaugeValue + EncodeCounterValue> Number for N {}

impl<'a> Family<'a> {
    /// Writes the head. Counters get `_total` behind their name.
    fn begin(all: &'a mut DescriptorEncoder<'_>, Metric { name, kind, help }: Metric<'a>) -> Result<Self, fmt::Error> {
        Ok(Self { samples: all.encode_descriptor(name, help, None, kind)?, kind })
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl Number) -> fmt::Result {
        let mut sample = self.samples.encode_family(&labels)?;
        match self.kind {
            Kind::Counter => sample.encode_counter::<NoLabelSet, _, f64>(&value, None),
            _ => sample.encode_gauge(&value),
        }
    }

    fn histogram(&mut self, labels: &[(&str, &str)], counts: &DurationCounts) -> fmt::Result {
        let all = counts.buckets.iter().map(|(_, number)| number).sum::<u64>() + counts.longer;
        let mut sample = self.samples.encode_family(&labels)?;
        sample.encode_histogram::<NoLabelSet>(counts.sum_seconds, all, &counts.buckets, None)
    }
}

fn unix(time: UtcTime) -> u64 {
    u64::try_from(time.as_unix_seconds()).unwrap_or(0)
}

fn lsn(text: &str) -> Option<u64> {
    text.parse::<Lsn>().ok().map(|lsn| lsn.as_bytes())
}

#[cfg(test)]
mod tests;

//! The snapshot as metrics, in the text format of Prometheus (version 0.0.4). Pure.
//!
//! Labels are `cluster` and `region`, and where a metric counts kinds, the kind: never the name of an object, so that the
//! number of series stays the same for years.

use std::fmt::Write as _;

use lifeboat_vocabulary::{Lsn, UtcTime};

use crate::model::region_health::Health;
use crate::model::snapshot::{ClusterStatus, DurationCounts, Protection, RegionStatus, StatusSnapshot};

pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a metric is.
#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
    Histogram,
}

/// The text, family by family.
#[derive(Default)]
struct Exposition {
    text: String,
}

/// The name of a family whose head stands already.
#[derive(Clone, Copy)]
struct Family(&'static str);

/// All metrics.
pub(crate) fn metrics(status: &StatusSnapshot) -> String {
    let mut all = Exposition::default();
    daemon(&mut all, status);
    protection(&mut all, status);
    wal(&mut all, status);
    backups(&mut all, status);
    region_requests(&mut all, status);
    region_state(&mut all, status);
    logs_and_proofs(&mut all, status);
    alarms(&mut all, status);
    all.text
}

fn daemon(all: &mut Exposition, status: &StatusSnapshot) {
    let family = all.family("build_info", Kind::Gauge, "The version of the program; always 1.");
    all.sample(family, &[("version", status.daemon.version.as_str())], 1.0);
    let family = all.family("start_time_seconds", Kind::Gauge, "When the process began, in seconds since 1970.");
    all.sample(family, &[], unix(status.daemon.started));
    let family =
        all.family("tasks_wedged", Kind::Gauge, "Tasks that work and have made no step for longer than they may.");
    all.sample(family, &[], count(status.daemon.tasks.iter().filter(|task| task.wedged).count()));
    let family = all.family("config_overrides", Kind::Gauge, "Settings that environment variables override.");
    all.sample(family, &[], count(status.overrides.len()));
}

fn protection(all: &mut Exposition, status: &StatusSnapshot) {
    let help = "Whether a cluster is protected: 0 OK, 1 at risk, 2 not protected.";
    each(all, status, ("protection", Kind::Gauge, help), |cluster| {
        Some(match cluster.verdict.protection {
            Protection::Ok => 0.0,
            Protection::AtRisk => 1.0,
            Protection::NotProtected => 2.0,
        })
    });
    let help = "The first moment that can be recovered, in seconds since 1970.";
    each(all, status, ("recoverable_from_timestamp_seconds", Kind::Gauge, help), |cluster| {
        cluster.window.as_ref()?.from.time.map(unix)
    });
    let help = "The last moment that can be recovered, in seconds since 1970.";
    each(all, status, ("recoverable_to_timestamp_seconds", Kind::Gauge, help), |cluster| {
        cluster.window.as_ref()?.to.time.map(unix)
    });
    let help = "Findings that have frozen deletion.";
    each(all, status, ("deletion_frozen", Kind::Gauge, help), |cluster| Some(count(cluster.freezes.len())));
    let help = "Actions that a person has paused.";
    each(all, status, ("paused", Kind::Gauge, help), |cluster| Some(count(cluster.pauses.len())));
}

fn wal(all: &mut Exposition, status: &StatusSnapshot) {
    let help = "1 while WAL streams from the server.";
    each(all, status, ("wal_streaming", Kind::Gauge, help), |cluster| {
        Some(count(usize::from(cluster.wal.as_ref()?.host.is_some())))
    });
    let help = "Up to which position in the WAL a region has every byte.";
    let family = all.family("wal_durable_lsn_bytes", Kind::Gauge, help);
    for (cluster, name, holder) in holders(status) {
        if let Some(lsn) = holder.durable.as_deref().and_then(lsn) {
            all.sample(family, &[("cluster", cluster), ("region", name)], lsn);
        }
    }
    let help = "Age of the oldest commit that a region lacks.";
    let family = all.family("wal_lag_seconds", Kind::Gauge, help);
    for (cluster, name, holder) in holders(status) {
        all.sample(family, &[("cluster", cluster), ("region", name)], holder.exposure_seconds);
    }
    let help = "Bytes of WAL that were received and that a region lacks.";
    let family = all.family("wal_lag_bytes", Kind::Gauge, help);
    for (cluster, name, holder) in holders(status) {
        all.sample(family, &[("cluster", cluster), ("region", name)], large(holder.lag_bytes));
    }
    let help = "Age of the oldest commit that the quorum lacks: what a disaster would cost now.";
    each(all, status, ("wal_quorum_lag_seconds", Kind::Gauge, help), |cluster| cluster.rpo.seconds);
    let help = "Bytes of WAL that were received and that the quorum lacks.";
    each(all, status, ("wal_quorum_lag_bytes", Kind::Gauge, help), |cluster| cluster.rpo.bytes.map(large));
    let help = "The objective for the age of the oldest commit that the quorum lacks.";
    each(all, status, ("rpo_objective_seconds", Kind::Gauge, help), |cluster| Some(cluster.rpo.objective_seconds));
    let help = "Bytes in the spool.";
    each(all, status, ("spool_bytes", Kind::Gauge, help), |cluster| Some(large(cluster.wal.as_ref()?.spool_bytes)));
    let help = "Bytes that the spool may hold.";
    each(all, status, ("spool_limit_bytes", Kind::Gauge, help), |cluster| {
        Some(large(cluster.wal.as_ref()?.spool_limit_bytes))
    });
}

fn backups(all: &mut Exposition, status: &StatusSnapshot) {
    let help = "When the newest good backup that enough regions hold was complete, in seconds since 1970.";
    each(all, status, ("backup_last_success_timestamp_seconds", Kind::Gauge, help), |cluster| {
        cluster.last_backup.as_ref().map(|backup| unix(backup.stop_time))
    });
    let help = "Size of the data of that backup.";
    each(all, status, ("backup_last_size_bytes", Kind::Gauge, help), |cluster| {
        cluster.last_backup.as_ref().map(|backup| large(backup.raw_bytes))
    });
    let help = "What a region stores of that backup.";
    each(all, status, ("backup_last_stored_bytes", Kind::Gauge, help), |cluster| {
        cluster.last_backup.as_ref().map(|backup| large(backup.stored_bytes))
    });
    let help = "When the next backup is planned, in seconds since 1970.";
    each(all, status, ("backup_next_timestamp_seconds", Kind::Gauge, help), |cluster| {
        cluster.next_run.as_ref()?.time.map(unix)
    });
    let help = "1 while a backup runs.";
    each(all, status, ("backup_running", Kind::Gauge, help), |cluster| {
        Some(count(usize::from(cluster.running.is_some())))
    });
    let family = all.family("backup_runs_total", Kind::Counter, "Runs since the process began, by how they ended.");
    for cluster in &status.clusters {
        for (ending, runs) in &cluster.counters.runs {
            all.sample(family, &[("cluster", cluster.cluster.as_str()), ("ending", ending.as_str())], large(*runs));
        }
    }
    let help = "How long backups took that ended since the process began.";
    let family = all.family("backup_duration_seconds", Kind::Histogram, help);
    for cluster in &status.clusters {
        all.histogram(family, &[("cluster", cluster.cluster.as_str())], &cluster.counters.backup_durations);
    }
    let help = "Time that threads of a cluster's backups waited for their turn.";
    each(all, status, ("work_waiting_seconds_total", Kind::Counter, help), |cluster| {
        Some(cluster.counters.waiting_seconds)
    });
    let help = "Time that threads of a cluster's backups had their turn.";
    each(all, status, ("work_running_seconds_total", Kind::Counter, help), |cluster| {
        Some(cluster.counters.running_seconds)
    });
}

fn region_requests(all: &mut Exposition, status: &StatusSnapshot) {
    let help = "Requests to a region since the process began, each attempt by itself.";
    let family = all.family("region_requests_total", Kind::Counter, help);
    for (cluster, region) in regions(status) {
        for (operation, counts) in &region.requests {
            for (result, number) in [("ok", counts.ok), ("failed", counts.failed)] {
                let labels = [
                    ("cluster", cluster),
                    ("region", region.name.as_str()),
                    ("op", operation.as_str()),
                    ("result", result),
                ];
                all.sample(family, &labels, large(number));
            }
        }
    }
    let help = "How long requests to a region took, each attempt by itself.";
    let family = all.family("region_request_duration_seconds", Kind::Histogram, help);
    for (cluster, region) in regions(status) {
        all.histogram(family, &[("cluster", cluster), ("region", region.name.as_str())], &region.durations);
    }
    let help = "Bytes that were written to a region since the process began.";
    of_regions(all, status, ("uploaded_bytes_total", Kind::Counter, help), |region| Some(large(region.uploaded_bytes)));
    let help = "Bytes that were read from a region since the process began.";
    of_regions(all, status, ("downloaded_bytes_total", Kind::Counter, help), |region| {
        Some(large(region.downloaded_bytes))
    });
}

fn region_state(all: &mut Exposition, status: &StatusSnapshot) {
    let help = "A region's breaker: 0 closed, 1 half-open, 2 open.";
    of_regions(all, status, ("region_breaker_state", Kind::Gauge, help), |region| {
        Some(match region.breaker.as_str() {
            "closed" => 0.0,
            "half-open" => 1.0,
            _ => 2.0,
        })
    });
    let help = "How a region is doing: 0 healthy, 1 slow, 2 failing, 3 away.";
    of_regions(all, status, ("region_health", Kind::Gauge, help), |region| {
        Some(match region.health {
            Health::Healthy => 0.0,
            Health::Slow => 1.0,
            Health::Failing => 2.0,
            Health::Away => 3.0,
        })
    });
    let help = "Moving average of how long small requests to a region take.";
    of_regions(all, status, ("region_latency_seconds", Kind::Gauge, help), |region| region.latency_seconds);
    let help = "Share of the requests to a region that failed of late, 0 to 1.";
    of_regions(all, status, ("region_error_share", Kind::Gauge, help), |region| Some(region.error_share));
    let help = "A region's clock minus this host's.";
    of_regions(all, status, ("region_clock_skew_seconds", Kind::Gauge, help), |region| region.clock_skew_seconds);
    let help = "1 if conditional writes do not work in a region, so that only one may write there.";
    of_regions(all, status, ("region_single_writer", Kind::Gauge, help), |region| {
        Some(count(usize::from(region.writers == "one")))
    });
}

fn logs_and_proofs(all: &mut Exposition, status: &StatusSnapshot) {
    let help = "Place of the last record in a region's log.";
    of_regions(all, status, ("log_head_seq", Kind::Gauge, help), |region| region.log.as_ref()?.head_seq.map(large));
    let help = "Good backups that a region holds.";
    of_regions(all, status, ("region_backups", Kind::Gauge, help), |region| Some(count(region.log.as_ref()?.backups)));
    let help = "Good backups that others hold and a region lacks.";
    of_regions(all, status, ("region_backups_missing", Kind::Gauge, help), |region| {
        Some(count(region.log.as_ref()?.missing))
    });
    let help = "Bytes that were found missing in a region and are not copied yet.";
    of_regions(all, status, ("heal_missing_bytes", Kind::Gauge, help), |region| {
        region.heal.as_ref().map(|heal| large(heal.bytes_total.saturating_sub(heal.bytes_done)))
    });
    let help = "Objects that were found missing in a region and are not copied yet.";
    of_regions(all, status, ("heal_missing_objects", Kind::Gauge, help), |region| {
        region.heal.as_ref().map(|heal| large(heal.objects_total.saturating_sub(heal.objects_done)))
    });
    let help = "Bytes that the present healing has copied into a region.";
    of_regions(all, status, ("heal_copied_bytes", Kind::Gauge, help), |region| {
        region.heal.as_ref().map(|heal| large(heal.bytes_done))
    });
    let help = "Share of a region's objects that this round of the scrub has verified, 0 to 1.";
    of_regions(all, status, ("scrub_done_ratio", Kind::Gauge, help), |region| region.scrub.as_ref()?.share_done);
    let help = "Age of what was verified longest ago in a region.";
    of_regions(all, status, ("objects_unverified_age_seconds", Kind::Gauge, help), |region| {
        region.scrub.as_ref()?.oldest_unverified_seconds
    });
    let help = "Objects of a region that are damaged and not healed.";
    of_regions(all, status, ("objects_damaged", Kind::Gauge, help), |region| {
        region.scrub.as_ref().map(|scrub| large(scrub.damaged))
    });
}

fn alarms(all: &mut Exposition, status: &StatusSnapshot) {
    let help = "Alarms that last, by severity; those of the daemon itself have an empty cluster.";
    let family = all.family("alarms", Kind::Gauge, help);
    let of_clusters = status.clusters.iter().map(|cluster| (cluster.cluster.as_str(), &cluster.alarms));
    for (cluster, alarms) in of_clusters.chain([("", &status.alarms)]) {
        for severity in ["critical", "warning"] {
            let number = alarms.iter().filter(|alarm| alarm.severity == severity).count();
            all.sample(family, &[("cluster", cluster), ("severity", severity)], count(number));
        }
    }
}

/// One number per cluster, where it is known.
fn each(
    all: &mut Exposition,
    status: &StatusSnapshot,
    (name, kind, help): (&'static str, Kind, &str),
    value: impl Fn(&ClusterStatus) -> Option<f64>,
) {
    let family = all.family(name, kind, help);
    for cluster in &status.clusters {
        if let Some(value) = value(cluster) {
            all.sample(family, &[("cluster", cluster.cluster.as_str())], value);
        }
    }
}

/// One number per cluster and region, where it is known.
fn of_regions(
    all: &mut Exposition,
    status: &StatusSnapshot,
    (name, kind, help): (&'static str, Kind, &str),
    value: impl Fn(&RegionStatus) -> Option<f64>,
) {
    let family = all.family(name, kind, help);
    for (cluster, region) in regions(status) {
        if let Some(value) = value(region) {
            all.sample(family, &[("cluster", cluster), ("region", region.name.as_str())], value);
        }
    }
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

impl Exposition {
    fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family {
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        };
        self.push(format_args!("# HELP lifeboat_{name} {help}\n# TYPE lifeboat_{name} {kind}\n"));
        Family(name)
    }

    fn sample(&mut self, Family(name): Family, labels: &[(&str, &str)], value: f64) {
        self.line(name, labels, value);
    }

    /// Buckets of a histogram count everything up to their bound.
    fn histogram(&mut self, Family(name): Family, labels: &[(&str, &str)], counts: &DurationCounts) {
        let (bucket, mut sum) = (format!("{name}_bucket"), 0);
        for (bound, number) in &counts.buckets {
            sum += number;
            let bound = bound.to_string();
            self.line(&bucket, &[labels, &[("le", bound.as_str())]].concat(), large(sum));
        }
        sum += counts.longer;
        self.line(&bucket, &[labels, &[("le", "+Inf")]].concat(), large(sum));
        self.line(&format!("{name}_sum"), labels, counts.sum_seconds);
        self.line(&format!("{name}_count"), labels, large(sum));
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.push(format_args!("lifeboat_{name}{labels} {value}\n"));
    }

    /// Writing to a `String` cannot fail.
    fn push(&mut self, what: std::fmt::Arguments<'_>) {
        if self.text.write_fmt(what).is_err() {
            self.text.push('\n');
        }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Exact up to 2^53, which is 8 PiB.
fn large(number: u64) -> f64 {
    let (high, low) = (number >> 32, number & 0xffff_ffff);
    let part = |part: u64| u32::try_from(part).map_or(0.0, f64::from);
    part(high) * 4_294_967_296.0 + part(low)
}

fn count(number: usize) -> f64 {
    large(u64::try_from(number).unwrap_or(u64::MAX))
}

fn unix(time: UtcTime) -> f64 {
    large(u64::try_from(time.as_unix_seconds()).unwrap_or(0))
}

fn lsn(text: &str) -> Option<f64> {
    text.parse::<Lsn>().ok().map(|lsn| large(lsn.as_bytes()))
}

#[cfg(test)]
mod tests;

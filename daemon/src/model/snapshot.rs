//! Everything that the daemon knows about how it stands, at one moment: the one source of the status page, the metrics
//! and the API. A new field may come at any time; what is there keeps its meaning while `version` stays.

use std::collections::BTreeMap;

use lifeboat_vocabulary::UtcTime;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::state::{optional_time_text, time_text};
use crate::model::region_health::Health;
use crate::model::schema_parts;
use crate::model::wal_status::WalStatus;

/// The version of the shape below.
pub(crate) const VERSION: u32 = 1;

/// The whole of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct StatusSnapshot {
    /// Version of this shape.
    #[schema(minimum = 1, maximum = 1)]
    pub(crate) version: u32,
    /// When it was taken.
    #[serde(with = "time_text")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) time: UtcTime,
    /// The process.
    pub(crate) daemon: DaemonStatus,
    /// Every cluster, in the order of the configuration.
    pub(crate) clusters: Vec<ClusterStatus>,
    /// Settings that environment variables override.
    pub(crate) overrides: Vec<OverrideStatus>,
    /// What is wrong with the daemon itself.
    pub(crate) alarms: Vec<AlarmLine>,
}

/// The process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Daemon)]
pub(crate) struct DaemonStatus {
    /// Version of the program.
    pub(crate) version: String,
    /// Its process id.
    pub(crate) pid: u32,
    /// When it began.
    #[serde(with = "time_text")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) started: UtcTime,
    /// Where it answers over HTTP, such as `http://127.0.0.1:9432`; absent if it does not.
    pub(crate) http: Option<String>,
    /// What its core is stuck in; `null` while it moves.
    pub(crate) core_stuck: Option<String>,
    /// Its tasks.
    pub(crate) tasks: Vec<TaskStatus>,
}

/// One task of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Task)]
pub(crate) struct TaskStatus {
    /// Its name, such as `main/wal`.
    pub(crate) name: String,
    /// What it does.
    pub(crate) doing: String,
    /// Whether it works and has not moved for longer than it may.
    pub(crate) wedged: bool,
}

/// In one word, whether a cluster is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protection {
    /// All is well.
    Ok,
    /// Nothing would be lost now, and something needs a person.
    AtRisk,
    /// A disaster now would lose more than it may.
    NotProtected,
}

impl Protection {
    /// As the page says it.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::AtRisk => "AT RISK",
            Self::NotProtected => "NOT PROTECTED",
        }
    }
}

/// The verdict over a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Verdict {
    /// The word.
    pub(crate) protection: Protection,
    /// Why; the worst first. Empty if all is well.
    pub(crate) reasons: Vec<String>,
    /// Why the cluster does not count as ready for a probe from outside; empty if it does.
    pub(crate) not_ready: Vec<String>,
}

/// One cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Cluster)]
pub(crate) struct ClusterStatus {
    /// Its name.
    pub(crate) cluster: String,
    /// In one word.
    pub(crate) verdict: Verdict,
    /// Continuous WAL; `null` until it has begun.
    pub(crate) wal: Option<WalStatus>,
    /// What can be recovered; `null` if nothing can.
    pub(crate) window: Option<WindowStatus>,
    /// What would be lost now.
    pub(crate) rpo: RpoStatus,
    /// The newest good backup; `null` if there is none.
    pub(crate) last_backup: Option<BackupStatus>,
    /// The next scheduled run; `null` if none is scheduled here.
    pub(crate) next_run: Option<NextRun>,
    /// What runs just now.
    pub(crate) running: Option<RunningStatus>,
    /// How long a restore would take, as far as it is known; `null` until restores have been measured.
    pub(crate) forecast: Option<ForecastStatus>,
    /// Every region, in the order of the configuration.
    pub(crate) regions: Vec<RegionStatus>,
    /// Why deletion stopped by itself; empty if it did not.
    pub(crate) freezes: Vec<StopStatus>,
    /// What a person has stopped.
    pub(crate) pauses: Vec<StopStatus>,
    /// What is wrong, the worst first.
    pub(crate) alarms: Vec<AlarmLine>,
    /// The last runs, the newest first.
    pub(crate) runs: Vec<RunStatus>,
    /// Counters of this process.
    pub(crate) counters: ClusterCounters,
    /// Regions that must hold a backup before it counts.
    pub(crate) backup_quorum: usize,
}

/// A place in the WAL and the time that belongs to it, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Point {
    /// The time.
    #[serde(with = "optional_time_text", default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) time: Option<UtcTime>,
    /// Such as `16/B374D848`.
    pub(crate) lsn: String,
    /// The timeline.
    pub(crate) timeline: u32,
}

/// What can be recovered: any moment from the end of the oldest good backup with its WAL to the end of the WAL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Window)]
pub(crate) struct WindowStatus {
    /// The oldest good backup that some region keeps together with all WAL since.
    pub(crate) oldest_backup: String,
    /// The first moment.
    pub(crate) from: Point,
    /// The last: what the quorum holds.
    pub(crate) to: Point,
    /// Ranges inside that recovery cannot cross, in words.
    pub(crate) gaps: Vec<String>,
    /// Whether it ends where WAL was lost that no backup was begun behind: newer WAL is stored, and nothing leads to it.
    #[serde(default)]
    pub(crate) ends_at_lost_wal: bool,
    /// Older backups that are kept for longer than the WAL behind them: each leads to its own end, and no further.
    #[serde(default)]
    pub(crate) older_backups: usize,
    /// Where the oldest of them ends; `null` if there are none.
    #[serde(default)]
    pub(crate) older_from: Option<Point>,
}

/// What would be lost now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Rpo)]
pub(crate) struct RpoStatus {
    /// Age in **seconds** of the oldest commit that the quorum lacks; `null` while nobody knows.
    pub(crate) seconds: Option<f64>,
    /// WAL in **bytes** that the quorum lacks.
    pub(crate) bytes: Option<u64>,
    /// The objective in **seconds**.
    pub(crate) objective_seconds: f64,
}

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Backup)]
pub(crate) struct BackupStatus {
    /// Its id.
    pub(crate) backup: String,
    /// `full`, `incremental`, ...
    pub(crate) kind: String,
    /// When its data was complete.
    #[serde(with = "time_text")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) stop_time: UtcTime,
    /// Size of the data in **bytes**.
    pub(crate) raw_bytes: u64,
    /// What is stored of it per region in **bytes**.
    pub(crate) stored_bytes: u64,
    /// How long it took in **milliseconds**.
    pub(crate) duration_ms: u64,
    /// The regions that hold it.
    pub(crate) regions: Vec<String>,
}

/// The next scheduled run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct NextRun {
    /// What it will be, such as `full backup`.
    pub(crate) what: String,
    /// When; `null` while it waits for something without a time.
    #[serde(with = "optional_time_text", default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) time: Option<UtcTime>,
    /// Why it does not run although it is due, or why then.
    pub(crate) why: Option<String>,
}

/// What runs just now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Running)]
pub(crate) struct RunningStatus {
    /// Such as `full backup`.
    pub(crate) what: String,
    /// Since when.
    #[serde(with = "time_text")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) since: UtcTime,
}

/// How long a restore would take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Forecast)]
pub(crate) struct ForecastStatus {
    /// In **seconds**.
    pub(crate) seconds: f64,
    /// The objective in **seconds**.
    pub(crate) objective_seconds: Option<f64>,
}

/// One region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Region)]
pub(crate) struct RegionStatus {
    /// Its name.
    pub(crate) name: String,
    /// How it is doing.
    pub(crate) health: Health,
    /// Since when.
    #[serde(with = "time_text")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) health_since: UtcTime,
    /// `closed`, `half-open` or `open`.
    #[schema(schema_with = schema_parts::breaker)]
    pub(crate) breaker: String,
    /// `many`, or `one` where conditional writes do not work: this daemon must be the only writer.
    #[schema(schema_with = schema_parts::writers)]
    pub(crate) writers: String,
    /// Moving average in **seconds** of small requests.
    pub(crate) latency_seconds: Option<f64>,
    /// Share of requests that failed of late, 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) error_share: f64,
    /// The region's clock minus ours in **seconds**.
    pub(crate) clock_skew_seconds: Option<f64>,
    /// Requests of this process by operation.
    pub(crate) requests: BTreeMap<String, RequestCounts>,
    /// How long they took.
    pub(crate) durations: DurationCounts,
    /// **Bytes** that were written by this process.
    pub(crate) uploaded_bytes: u64,
    /// **Bytes** that were read by this process.
    pub(crate) downloaded_bytes: u64,
    /// What its log says, as it was read last; `null` until it was read.
    pub(crate) log: Option<RegionLogStatus>,
    /// For how many **seconds** the log has not been read, once that is long: what the region holds now is not known. `null`
    /// while it is read.
    pub(crate) unread_seconds: Option<f64>,
    /// What is being copied there; `null` if nothing is known.
    pub(crate) heal: Option<HealStatus>,
    /// How far its content has been verified; `null` if nothing is known.
    pub(crate) scrub: Option<ScrubStatus>,
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Requests)]
pub(crate) struct RequestCounts {
    /// That worked, or were answered by a plain "no".
    pub(crate) ok: u64,
    /// That failed.
    pub(crate) failed: u64,
}

/// How long requests took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Durations)]
pub(crate) struct DurationCounts {
    /// Upper bound in **seconds** and how many took at most this long (and longer than the bound before).
    pub(crate) buckets: Vec<(f64, u64)>,
    /// How many took longer.
    pub(crate) longer: u64,
    /// All together in **seconds**.
    pub(crate) sum_seconds: f64,
}

/// What a region's log says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = RegionLog)]
pub(crate) struct RegionLogStatus {
    /// When it was read last.
    #[serde(with = "time_text")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) read: UtcTime,
    /// Place of the last record, from 0; `null` while it is empty.
    pub(crate) head_seq: Option<u64>,
    /// Good backups that it holds.
    pub(crate) backups: usize,
    /// Good backups that others hold and it lacks.
    pub(crate) missing: usize,
    /// Of those it holds, the ones that are on their way out.
    pub(crate) leaving: usize,
    /// The first moment that can be recovered from this region alone.
    pub(crate) window_from: Option<Point>,
}

/// What is being copied into a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Heal)]
pub(crate) struct HealStatus {
    /// In a few words.
    pub(crate) doing: String,
    /// Objects that are copied.
    pub(crate) objects_done: u64,
    /// Objects that were found missing.
    pub(crate) objects_total: u64,
    /// **Bytes** that are copied.
    pub(crate) bytes_done: u64,
    /// **Bytes** that were found missing.
    pub(crate) bytes_total: u64,
}

/// How far a region's content has been verified.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Scrub)]
pub(crate) struct ScrubStatus {
    /// Of this period's objects, the share that is verified: 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) share_done: Option<f64>,
    /// Age in **seconds** of what was verified longest ago; `null` while that is not known.
    pub(crate) oldest_unverified_seconds: Option<f64>,
    /// Objects that were found damaged and are not healed.
    pub(crate) damaged: u64,
}

/// Something that is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Stop)]
pub(crate) struct StopStatus {
    /// What: `delete`, `backup`, `heal`, `scrub`.
    pub(crate) what: String,
    /// Since when.
    #[serde(with = "time_text")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) since: UtcTime,
    /// By whom, or by what.
    pub(crate) who: String,
    /// Why.
    pub(crate) why: String,
    /// Until when; `null`: until a person lifts it.
    #[serde(with = "optional_time_text", default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) expires: Option<UtcTime>,
}

/// An environment variable that overrides a setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Override)]
pub(crate) struct OverrideStatus {
    /// The variable.
    pub(crate) variable: String,
    /// The setting.
    pub(crate) setting: String,
    /// Since when it is known.
    #[serde(with = "time_text")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) since: UtcTime,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Alarm)]
pub(crate) struct AlarmLine {
    /// Its name, such as `region-away/eu1`.
    pub(crate) name: String,
    /// `critical` or `warning`.
    #[schema(schema_with = schema_parts::severity)]
    pub(crate) severity: String,
    /// Since when.
    #[serde(with = "time_text")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) since: UtcTime,
    /// What is wrong and what to do.
    pub(crate) text: String,
    /// Where the way out is written.
    pub(crate) runbook: String,
}

/// A run that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Run)]
pub(crate) struct RunStatus {
    /// Such as `full backup`.
    pub(crate) what: String,
    /// When it was to begin; `null` if a person or a gap asked for it.
    #[serde(with = "optional_time_text", default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) planned: Option<UtcTime>,
    /// When it began.
    #[serde(with = "time_text")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) started: UtcTime,
    /// When it ended.
    #[serde(with = "optional_time_text", default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) ended: Option<UtcTime>,
    /// How, in words.
    pub(crate) ending: String,
    /// Whether that is as it should be.
    pub(crate) good: bool,
    /// The backup that it made.
    pub(crate) backup: Option<String>,
    /// **Bytes** that it read.
    pub(crate) bytes: Option<u64>,
}

/// Counters of one cluster since the process began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Counters)]
pub(crate) struct ClusterCounters {
    /// Runs by how they ended.
    pub(crate) runs: BTreeMap<String, u64>,
    /// How long backups took.
    pub(crate) backup_durations: DurationCounts,
    /// **Seconds** that work waited for its turn.
    pub(crate) waiting_seconds: f64,
    /// **Seconds** that work ran.
    pub(crate) running_seconds: f64,
}

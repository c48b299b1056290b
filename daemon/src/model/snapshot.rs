//! Everything that the daemon knows about how it stands, at one moment: the one source of the status page, the metrics
//! and the API. A new field may come at any time; what is there keeps its meaning while `version` stays.

use std::collections::BTreeMap;

use lifeboat_vocabulary::UtcTime;
use serde::{Deserialize, Serialize};

use crate::base::state::{optional_time_text, time_text};
use crate::model::region_health::Health;
use crate::model::wal_status::WalStatus;

/// The version of the shape below.
pub const VERSION: u32 = 1;

/// The whole of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusSnapshot {
    /// [`VERSION`].
    pub version: u32,
    /// When it was taken.
    #[serde(with = "time_text")]
    pub time: UtcTime,
    /// The process.
    pub daemon: DaemonStatus,
    /// Every cluster, in the order of the configuration.
    pub clusters: Vec<ClusterStatus>,
    /// Settings that environment variables override.
    pub overrides: Vec<OverrideStatus>,
    /// What is wrong with the daemon itself.
    pub alarms: Vec<AlarmLine>,
}

/// The process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Version of the program.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it began.
    #[serde(with = "time_text")]
    pub started: UtcTime,
    /// Where it answers over HTTP, such as `http://127.0.0.1:9432`; absent if it does not.
    pub http: Option<String>,
    /// What its core is stuck in; `null` while it moves.
    pub core_stuck: Option<String>,
    /// Its tasks.
    pub tasks: Vec<TaskStatus>,
}

/// One task of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Its name, such as `main/wal`.
    pub name: String,
    /// What it does.
    pub doing: String,
    /// Whether it works and has not moved for longer than it may.
    pub wedged: bool,
}

/// In one word, whether a cluster is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
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
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::AtRisk => "AT RISK",
            Self::NotProtected => "NOT PROTECTED",
        }
    }
}

/// The verdict over a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The word.
    pub protection: Protection,
    /// Why; the worst first. Empty if all is well.
    pub reasons: Vec<String>,
    /// Why the cluster does not count as ready for a probe from outside; empty if it does.
    pub not_ready: Vec<String>,
}

/// One cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Its name.
    pub cluster: String,
    /// In one word.
    pub verdict: Verdict,
    /// Continuous WAL; `null` until it has begun.
    pub wal: Option<WalStatus>,
    /// What can be recovered; `null` if nothing can.
    pub window: Option<WindowStatus>,
    /// What would be lost now.
    pub rpo: RpoStatus,
    /// The newest good backup; `null` if there is none.
    pub last_backup: Option<BackupStatus>,
    /// The next scheduled run; `null` if none is scheduled here.
    pub next_run: Option<NextRun>,
    /// What runs just now.
    pub running: Option<RunningStatus>,
    /// How long a restore would take, as far as it is known; `null` until restores have been measured.
    pub forecast: Option<ForecastStatus>,
    /// Every region, in the order of the configuration.
    pub regions: Vec<RegionStatus>,
    /// Why deletion stopped by itself; empty if it did not.
    pub freezes: Vec<StopStatus>,
    /// What a person has stopped.
    pub pauses: Vec<StopStatus>,
    /// What is wrong, the worst first.
    pub alarms: Vec<AlarmLine>,
    /// The last runs, the newest first.
    pub runs: Vec<RunStatus>,
    /// Counters of this process.
    pub counters: ClusterCounters,
    /// Regions that must hold a backup before it counts.
    pub backup_quorum: usize,
}

/// A place in the WAL and the time that belongs to it, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// The time.
    #[serde(with = "optional_time_text", default)]
    pub time: Option<UtcTime>,
    /// Such as `16/B374D848`.
    pub lsn: String,
    /// The timeline.
    pub timeline: u32,
}

/// What can be recovered: any moment from the end of the oldest good backup with its WAL to the end of the WAL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowStatus {
    /// The oldest good backup that some region keeps together with all WAL since.
    pub oldest_backup: String,
    /// The first moment.
    pub from: Point,
    /// The last: what the quorum holds.
    pub to: Point,
    /// Ranges inside that recovery cannot cross, in words.
    pub gaps: Vec<String>,
    /// Older backups that are kept for longer than the WAL behind them: each leads to its own end, and no further.
    #[serde(default)]
    pub older_backups: usize,
    /// Where the oldest of them ends; `null` if there are none.
    #[serde(default)]
    pub older_from: Option<Point>,
}

/// What would be lost now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RpoStatus {
    /// Age in **seconds** of the oldest commit that the quorum lacks; `null` while nobody knows.
    pub seconds: Option<f64>,
    /// WAL in **bytes** that the quorum lacks.
    pub bytes: Option<u64>,
    /// The objective in **seconds**.
    pub objective_seconds: f64,
}

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupStatus {
    /// Its id.
    pub backup: String,
    /// `full`, `incremental`, ...
    pub kind: String,
    /// When its data was complete.
    #[serde(with = "time_text")]
    pub stop_time: UtcTime,
    /// Size of the data in **bytes**.
    pub raw_bytes: u64,
    /// What is stored of it per region in **bytes**.
    pub stored_bytes: u64,
    /// How long it took in **milliseconds**.
    pub duration_ms: u64,
    /// The regions that hold it.
    pub regions: Vec<String>,
}

/// The next scheduled run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextRun {
    /// What it will be, such as `full backup`.
    pub what: String,
    /// When; `null` while it waits for something without a time.
    #[serde(with = "optional_time_text", default)]
    pub time: Option<UtcTime>,
    /// Why it does not run although it is due, or why then.
    pub why: Option<String>,
}

/// What runs just now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningStatus {
    /// Such as `full backup`.
    pub what: String,
    /// Since when.
    #[serde(with = "time_text")]
    pub since: UtcTime,
}

/// How long a restore would take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForecastStatus {
    /// In **seconds**.
    pub seconds: f64,
    /// The objective in **seconds**.
    pub objective_seconds: Option<f64>,
}

/// One region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegionStatus {
    /// Its name.
    pub name: String,
    /// How it is doing.
    pub health: Health,
    /// Since when.
    #[serde(with = "time_text")]
    pub health_since: UtcTime,
    /// `closed`, `half-open` or `open`.
    pub breaker: String,
    /// `many`, or `one` where conditional writes do not work: this daemon must be the only writer.
    pub writers: String,
    /// Moving average in **seconds** of small requests.
    pub latency_seconds: Option<f64>,
    /// Share of requests that failed of late, 0 to 1.
    pub error_share: f64,
    /// The region's clock minus ours in **seconds**.
    pub clock_skew_seconds: Option<f64>,
    /// Requests of this process by operation.
    pub requests: BTreeMap<String, RequestCounts>,
    /// How long they took.
    pub durations: DurationCounts,
    /// **Bytes** that were written by this process.
    pub uploaded_bytes: u64,
    /// **Bytes** that were read by this process.
    pub downloaded_bytes: u64,
    /// What its log says; `null` until it was read.
    pub log: Option<RegionLogStatus>,
    /// What is being copied there; `null` if nothing is known.
    pub heal: Option<HealStatus>,
    /// How far its content has been verified; `null` if nothing is known.
    pub scrub: Option<ScrubStatus>,
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCounts {
    /// That worked, or were answered by a plain "no".
    pub ok: u64,
    /// That failed.
    pub failed: u64,
}

/// How long requests took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DurationCounts {
    /// Upper bound in **seconds** and how many took at most this long (and longer than the bound before).
    pub buckets: Vec<(f64, u64)>,
    /// How many took longer.
    pub longer: u64,
    /// All together in **seconds**.
    pub sum_seconds: f64,
}

/// What a region's log says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionLogStatus {
    /// When it was read last.
    #[serde(with = "time_text")]
    pub read: UtcTime,
    /// Place of the last record, from 0; `null` while it is empty.
    pub head_seq: Option<u64>,
    /// Good backups that it holds.
    pub backups: usize,
    /// Good backups that others hold and it lacks.
    pub missing: usize,
    /// Of those it holds, the ones that are on their way out.
    pub leaving: usize,
    /// The first moment that can be recovered from this region alone.
    pub window_from: Option<Point>,
}

/// What is being copied into a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealStatus {
    /// In a few words.
    pub doing: String,
    /// Objects that are copied.
    pub objects_done: u64,
    /// Objects that were found missing.
    pub objects_total: u64,
    /// **Bytes** that are copied.
    pub bytes_done: u64,
    /// **Bytes** that were found missing.
    pub bytes_total: u64,
}

/// How far a region's content has been verified.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// Of this period's objects, the share that is verified: 0 to 1.
    pub share_done: Option<f64>,
    /// Age in **seconds** of what was verified longest ago; `null` while that is not known.
    pub oldest_unverified_seconds: Option<f64>,
    /// Objects that were found damaged and are not healed.
    pub damaged: u64,
}

/// Something that is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopStatus {
    /// What: `delete`, `backup`, `heal`, `scrub`.
    pub what: String,
    /// Since when.
    #[serde(with = "time_text")]
    pub since: UtcTime,
    /// By whom, or by what.
    pub who: String,
    /// Why.
    pub why: String,
    /// Until when; `null`: until a person lifts it.
    #[serde(with = "optional_time_text", default)]
    pub expires: Option<UtcTime>,
}

/// An environment variable that overrides a setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideStatus {
    /// The variable.
    pub variable: String,
    /// The setting.
    pub setting: String,
    /// Since when it is known.
    #[serde(with = "time_text")]
    pub since: UtcTime,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlarmLine {
    /// Its name, such as `region-away/eu1`.
    pub name: String,
    /// `critical` or `warning`.
    pub severity: String,
    /// Since when.
    #[serde(with = "time_text")]
    pub since: UtcTime,
    /// What is wrong and what to do.
    pub text: String,
    /// Where the way out is written.
    pub runbook: String,
}

/// A run that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStatus {
    /// Such as `full backup`.
    pub what: String,
    /// When it was to begin; `null` if a person or a gap asked for it.
    #[serde(with = "optional_time_text", default)]
    pub planned: Option<UtcTime>,
    /// When it began.
    #[serde(with = "time_text")]
    pub started: UtcTime,
    /// When it ended.
    #[serde(with = "optional_time_text", default)]
    pub ended: Option<UtcTime>,
    /// How, in words.
    pub ending: String,
    /// Whether that is as it should be.
    pub good: bool,
    /// The backup that it made.
    pub backup: Option<String>,
    /// **Bytes** that it read.
    pub bytes: Option<u64>,
}

/// Counters of one cluster since the process began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterCounters {
    /// Runs by how they ended.
    pub runs: BTreeMap<String, u64>,
    /// How long backups took.
    pub backup_durations: DurationCounts,
    /// **Seconds** that work waited for its turn.
    pub waiting_seconds: f64,
    /// **Seconds** that work ran.
    pub running_seconds: f64,
}

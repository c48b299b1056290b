//! What continuous WAL looks like from outside.

use lifeboat_vocabulary::UtcTime;
use serde::{Deserialize, Serialize};

/// How far a region, or the quorum, has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HolderStatus {
    /// It has everything up to here, such as `16/B374D848`.
    pub durable: Option<String>,
    /// The timeline of `durable`.
    pub timeline: Option<u32>,
    /// **Bytes** of WAL that were received and that it lacks.
    pub lag_bytes: u64,
    /// Age in **seconds** of the oldest commit that it lacks: what a disaster would cost now.
    pub exposure_seconds: f64,
    /// Commits that it has got since the start.
    pub commits: u64,
    /// From commit to durable, in **seconds**.
    pub latency_p50: f64,
    /// Likewise.
    pub latency_p99: f64,
    /// Likewise.
    pub latency_max: f64,
    /// How it is doing, in words.
    pub state: String,
}

/// An alarm that lasts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlarmStatus {
    /// Its name.
    pub alarm: String,
    /// Since when.
    pub since: String,
    /// What is wrong and what to do.
    pub text: String,
}

/// Everything about one cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WalStatus {
    /// The cluster.
    pub cluster: String,
    /// When this was written.
    pub time: String,
    /// The process that writes it.
    pub pid: u32,
    /// The server that WAL comes from; absent while there is none.
    pub host: Option<String>,
    /// Why there is none.
    pub waiting: Option<String>,
    /// When the last stream ended; absent while one runs, and if there was none since the start.
    #[serde(default)]
    pub stream_ended: Option<String>,
    /// The timeline that is received.
    pub timeline: Option<u32>,
    /// After the last byte that was received.
    pub received: Option<String>,
    /// What the server has heard as flushed.
    pub confirmed: Option<String>,
    /// **Bytes** in the spool.
    pub spool_bytes: u64,
    /// **Bytes** that the spool may hold.
    pub spool_limit_bytes: u64,
    /// How many regions are the quorum.
    pub wal_quorum: usize,
    /// The quorum.
    pub quorum: HolderStatus,
    /// Every region by name, in the order of the configuration.
    pub regions: Vec<(String, HolderStatus)>,
    /// The objective in **seconds**.
    pub rpo_objective_seconds: f64,
    /// What is wrong.
    pub alarms: Vec<AlarmStatus>,
}

impl WalStatus {
    /// How long ago it was written; `None` if the time in it makes no sense.
    #[must_use]
    pub fn age(&self, now: UtcTime) -> Option<std::time::Duration> {
        self.time.parse::<UtcTime>().ok().map(|written| now.since(written))
    }
}

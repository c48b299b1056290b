//! What continuous WAL looks like from outside.

use lifeboat_vocabulary::UtcTime;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::schema_parts;

/// How far a region, or the quorum, has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Holder)]
pub(crate) struct HolderStatus {
    /// It has everything up to here, such as `16/B374D848`.
    pub(crate) durable: Option<String>,
    /// The timeline of `durable`.
    pub(crate) timeline: Option<u32>,
    /// Everything that was committed by then is among it, by the server's clock; absent while that is not known.
    #[serde(default)]
    #[schema(format = DateTime)]
    pub(crate) complete_until: Option<String>,
    /// **Bytes** of WAL that were received and that it lacks.
    pub(crate) lag_bytes: u64,
    /// Age in **seconds** of the oldest commit that it lacks: what a disaster would cost now.
    pub(crate) exposure_seconds: f64,
    /// Commits that it has got since the start.
    pub(crate) commits: u64,
    /// From commit to durable, in **seconds**.
    pub(crate) latency_p50: f64,
    /// Likewise.
    pub(crate) latency_p99: f64,
    /// Likewise.
    pub(crate) latency_max: f64,
    /// How it is doing, in words.
    pub(crate) state: String,
}

/// An alarm that lasts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = WalAlarm)]
pub(crate) struct AlarmStatus {
    /// Its name.
    pub(crate) alarm: String,
    /// Since when.
    #[schema(format = DateTime)]
    pub(crate) since: String,
    /// What is wrong and what to do.
    pub(crate) text: String,
}

/// Everything about one cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Wal)]
pub(crate) struct WalStatus {
    /// The cluster.
    pub(crate) cluster: String,
    /// When this was written.
    #[schema(format = DateTime)]
    pub(crate) time: String,
    /// The process that writes it.
    pub(crate) pid: u32,
    /// The server that WAL comes from; absent while there is none.
    pub(crate) host: Option<String>,
    /// Why there is none.
    pub(crate) waiting: Option<String>,
    /// When the last stream ended; absent while one runs, and if there was none since the start.
    #[serde(default)]
    #[schema(format = DateTime)]
    pub(crate) stream_ended: Option<String>,
    /// The timeline that is received.
    pub(crate) timeline: Option<u32>,
    /// After the last byte that was received.
    pub(crate) received: Option<String>,
    /// What the server has heard as flushed.
    pub(crate) confirmed: Option<String>,
    /// **Bytes** in the spool.
    pub(crate) spool_bytes: u64,
    /// **Bytes** that the spool may hold.
    pub(crate) spool_limit_bytes: u64,
    /// How many regions are the quorum.
    pub(crate) wal_quorum: usize,
    /// The quorum.
    pub(crate) quorum: HolderStatus,
    /// Every region by name, in the order of the configuration.
    #[schema(schema_with = schema_parts::named_holders)]
    pub(crate) regions: Vec<(String, HolderStatus)>,
    /// The objective in **seconds**.
    pub(crate) rpo_objective_seconds: f64,
    /// What is wrong.
    pub(crate) alarms: Vec<AlarmStatus>,
}

impl WalStatus {
    /// How long ago it was written; `None` if the time in it makes no sense.
    #[must_use]
    pub(crate) fn age(&self, now: UtcTime) -> Option<std::time::Duration> {
        self.time.parse::<UtcTime>().ok().map(|written| now.since(written))
    }
}

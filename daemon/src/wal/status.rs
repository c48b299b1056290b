//! What continuous WAL looks like from outside: a file that is replaced every second, which `lifeboatd status` reads.

use std::path::{Path, PathBuf};

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

/// The file of a cluster.
#[must_use]
pub fn path(state_directory: &Path) -> PathBuf {
    state_directory.join("wal-status.json")
}

impl WalStatus {
    /// Replaces the file. A reader sees the old one or the new one. Nothing is flushed: after a crash it would be stale
    /// anyway.
    ///
    /// # Errors
    /// If the directory cannot be written to.
    pub fn write(&self, state_directory: &Path) -> std::io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let new = state_directory.join("wal-status.json.new");
        {
            use std::io::Write;
            use std::os::unix::fs::OpenOptionsExt;
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
        }
        rustix::fs::rename(&new, path(state_directory)).map_err(std::io::Error::from)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// If it is missing or not one of ours.
    pub fn read(state_directory: &Path) -> std::io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(path(state_directory))?)?)
    }

    /// How long ago it was written; `None` if the time in it makes no sense.
    #[must_use]
    pub fn age(&self, now: UtcTime) -> Option<std::time::Duration> {
        self.time.parse::<UtcTime>().ok().map(|written| now.since(written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_as_it_was_written_and_garbage_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(WalStatus::read(dir.path()).is_err());
        let time = "2026-11-20T02:41:07Z".to_owned();
        let status =
            WalStatus { cluster: "main".to_owned(), time, received: Some("1/2".to_owned()), ..WalStatus::default() };
        status.write(dir.path()).unwrap();
        status.write(dir.path()).unwrap();
        let read = WalStatus::read(dir.path()).unwrap();
        assert_eq!(read, status);
        let later = "2026-11-20T02:41:09Z".parse().unwrap();
        assert_eq!(read.age(later), Some(std::time::Duration::from_secs(2)));
        std::os::unix::fs::symlink("/dev/null", dir.path().join("x")).unwrap();
        assert!(WalStatus::read(&dir.path().join("x")).is_err());
    }
}

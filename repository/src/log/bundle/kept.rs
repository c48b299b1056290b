//! Logs that are kept on the machine that has read them, over restarts.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_vocabulary::{RegionName, error_chain};

use crate::log::bundle::codec::Bundle;
use crate::log::region_log::RegionLog;

/// Others get their turn after so many notes.
const NOTES_IN_A_ROW: usize = 256;
/// A disk that takes longer is slower than the region.
const LOAD_PATIENCE: Duration = Duration::from_secs(30);

/// What was kept cannot be had now; it may be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what was kept of the log cannot be had now")]
pub struct NotLoaded;

/// Where the notes of logs are kept that were read and verified. What is lost there is read again, and what is damaged is
/// found. Nobody waits for it but for what was kept, and not long.
#[async_trait]
pub trait KeepsLogs: fmt::Debug + Send + Sync {
    /// What was kept of a region's log, from its first record on, as bundles in order; none if nothing was.
    ///
    /// # Errors
    /// If it cannot be read, or somebody is busy with it: then it is left as it is.
    async fn load(&self, region: &RegionName) -> Result<Vec<Bytes>, NotLoaded>;

    /// Keeps more, without waiting: bundles that go on where the last one ended, or begin anew with the first record.
    ///
    /// # Errors
    /// Gives them back if it is busy, to be tried again.
    fn add(&self, region: &RegionName, bundles: Vec<Bytes>) -> Result<(), Vec<Bytes>>;

    /// Removes what was kept, without waiting.
    fn forget(&self, region: &RegionName);
}

/// Reads what was kept into `unread`; `None` if there is nothing, or it is damaged. Whether the region still has it is asked by whoever
/// reads on.
///
/// # Errors
/// If it cannot be had now: it may be whole, and must not be replaced by what is read instead.
pub(crate) async fn load(
    kept: &dyn KeepsLogs,
    region: &RegionName,
    unread: RegionLog,
) -> Result<Option<RegionLog>, NotLoaded> {
    let loaded = tokio::time::timeout(LOAD_PATIENCE, kept.load(region)).await;
    let Ok(Ok(bundles)) = loaded else {
        tracing::warn!(%region, "the disk does not give what was kept of the region's log; the log is read again");
        return Err(NotLoaded);
    };
    if bundles.is_empty() {
        return Ok(None);
    }
    match link(unread, &bundles).await {
        Ok(log) => Ok(Some(log)),
        Err(why) => {
            tracing::warn!(%region, why, "what was kept of the region's log is damaged; the log is read again");
            Ok(None)
        }
    }
}

async fn link(mut log: RegionLog, bundles: &[Bytes]) -> Result<RegionLog, String> {
    for bundle in bundles {
        let bundle = Bundle::decode(bundle).map_err(|error| error_chain(&error))?;
        if bundle.first() != log.next_place() {
            return Err(format!("it goes on with place {} instead of {}", bundle.first(), log.next_place()));
        }
        for (number, note) in bundle.notes().enumerate() {
            log.link_kept(note).map_err(|error| error_chain(&error))?;
            if number % NOTES_IN_A_ROW == NOTES_IN_A_ROW - 1 {
                tokio::task::yield_now().await;
            }
        }
    }
    Ok(log)
}

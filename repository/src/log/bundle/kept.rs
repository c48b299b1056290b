//! Logs that are kept on the machine that has read them, over restarts.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_stores::{Store, StoreError};
use lifeboat_vocabulary::{RegionName, error_chain};

use crate::log::bundle::codec::Bundle;
use crate::log::error::LogError;
use crate::log::region_log::RegionLog;

/// Others get their turn after so many notes.
const NOTES_IN_A_ROW: usize = 256;

/// Where the notes of logs are kept that were read and verified. What is lost there is read again, and what is damaged is
/// found: so nothing here fails.
#[async_trait]
pub trait KeepsLogs: fmt::Debug + Send + Sync {
    /// What was kept of a region's log, from its first record on, as bundles in order.
    async fn load(&self, region: &RegionName) -> Vec<Bytes>;

    /// Keeps more: bundles that go on where the last one ended, or begin anew with the first record.
    async fn add(&self, region: &RegionName, bundles: Vec<Bytes>);

    /// Removes what was kept.
    async fn forget(&self, region: &RegionName);
}

/// Whether what was kept is still what the region has.
pub(crate) enum Kept {
    /// It ends with a record that the region has at that place: the digests in it bind everything before.
    Confirmed(Box<RegionLog>),
    /// There is nothing, it is damaged, or the region has another history now, which others judge.
    Useless,
}

/// Reads what was kept into `unread`, and asks the region for the last record of it.
///
/// # Errors
/// [`LogError`] if the region does not answer.
pub(crate) async fn load(
    kept: &dyn KeepsLogs,
    store: &dyn Store,
    region: &RegionName,
    unread: RegionLog,
) -> Result<Kept, LogError> {
    let bundles = kept.load(region).await;
    if bundles.is_empty() {
        return Ok(Kept::Useless);
    }
    let log = match link(unread, &bundles).await {
        Ok(log) => log,
        Err(why) => {
            tracing::warn!(%region, why, "what was kept of the region's log is damaged; the log is read again");
            return Ok(Kept::Useless);
        }
    };
    match log.confirm_head(store).await {
        Ok(()) => Ok(Kept::Confirmed(Box::new(log))),
        Err(LogError::Store { seq, source }) if !matches!(source, StoreError::Unsupported { .. }) => {
            Err(LogError::Store { seq, source })
        }
        Err(error) => {
            // Whether it may be another one is judged by what is remembered of its end.
            tracing::warn!(%region, error = %error_chain(&error), "the region's log is not the one that was kept; it is read again");
            Ok(Kept::Useless)
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

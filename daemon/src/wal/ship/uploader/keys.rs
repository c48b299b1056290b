//! The keys that WAL is sealed under, and whether a region's log has them on record: without, nobody could read it there.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_repository::format::ids::EpochId;
use lifeboat_repository::log::RegionLog;
use lifeboat_repository::log::records::RecordBody;
use tokio::time::Instant;

use crate::wal::ship::notice::Notice;

/// How often a log is compared with the keys that were used, and how often while it is found changed.
const EVERY: Duration = Duration::from_secs(300);
const AGAIN: Duration = Duration::from_secs(60);

/// What an uploader knows of the keys on record in its region.
#[derive(Debug, Default)]
pub(super) struct KeysOnRecord {
    /// When the log was last compared, and whether it was found changed by then.
    looked: Option<(Instant, bool)>,
    /// The keys on record, or named by a deletion.
    known: Arc<HashSet<EpochId>>,
}

impl KeysOnRecord {
    /// Whether the log is to be compared: at once where it is found changed, and then not so often that reading it keeps WAL from
    /// going there.
    pub(super) fn are_due(&self, has_changed: bool) -> bool {
        let Some((looked, had_changed)) = self.looked else { return true };
        let every = if has_changed { AGAIN } else { EVERY };
        (has_changed && !had_changed) || looked.elapsed() >= every
    }

    /// They are compared now.
    pub(super) fn look(&mut self, has_changed: bool) {
        self.looked = Some((Instant::now(), has_changed));
    }

    /// These are on record.
    pub(super) fn are(&mut self, known: HashSet<EpochId>) {
        self.known = Arc::new(known);
    }

    /// A notice is in the log.
    pub(super) fn has(&mut self, notice: &Notice) {
        if let Some(epoch) = notice.epoch() {
            Arc::make_mut(&mut self.known).insert(epoch);
        }
    }

    /// Those that are on record.
    pub(super) fn known(&self) -> Arc<HashSet<EpochId>> {
        Arc::clone(&self.known)
    }
}

/// The keys that a log has on record, and those that a deletion there has named.
pub(super) fn known_keys(log: &RegionLog) -> HashSet<EpochId> {
    let recorded = log.wal_epochs().map(|record| record.epoch);
    let deleted = log.entries().iter().filter_map(|entry| match &entry.record.body {
        RecordBody::SweepIntent(intent) => Some(intent.epochs.iter().copied()),
        _ => None,
    });
    recorded.chain(deleted.flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_keys_of_a_changed_log_are_looked_at_at_once_and_then_once_a_minute() {
        let looked = |has_changed| {
            let mut keys = KeysOnRecord::default();
            assert!(keys.are_due(has_changed));
            keys.look(has_changed);
            keys
        };
        let (unchanged, changed) = (looked(false), looked(true));
        assert!(unchanged.are_due(true) && !unchanged.are_due(false) && !changed.are_due(false));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(!changed.are_due(true));
        tokio::time::sleep(AGAIN).await;
        assert!(changed.are_due(true) && !unchanged.are_due(false));
        tokio::time::sleep(EVERY).await;
        assert!(unchanged.are_due(false));
    }
}

//! What may not be appended any more, and whether a log still ends where it was seen to end.

use std::collections::BTreeSet;

use lifeboat_stores::Store;
use lifeboat_vocabulary::BackupId;

use crate::format::aead::sha256;
use crate::format::ids::EpochId;
use crate::log::error::LogError;
use crate::log::records::care::SweepIntentRecord;
use crate::log::records::record::RecordBody;
use crate::log::region_log::{Fetched, RegionLog, fetch};

impl RegionLog {
    fn intents(&self) -> impl Iterator<Item = (u64, &SweepIntentRecord)> {
        self.entries().iter().filter_map(|entry| match &entry.record.body {
            RecordBody::SweepIntent(intent) => Some((entry.record.link.seq, intent)),
            _ => None,
        })
    }

    /// Refuses a record that would make something exist which an intent has named: its objects are gone, or will be.
    pub(crate) fn refuse_swept(&self, body: &RecordBody) -> Result<(), LogError> {
        match body {
            RecordBody::Backup(record) => {
                let backups = [Some(&record.backup), record.parent.as_ref()];
                self.refuse_backups(backups.into_iter().flatten())?;
                self.refuse_epochs(record.epochs.iter().map(|epoch| epoch.id))
            }
            RecordBody::WalEpoch(record) => self.refuse_epochs([record.epoch]),
            _ => Ok(()),
        }
    }

    /// Refuses to rely on backups whose objects an intent has named.
    ///
    /// # Errors
    /// [`LogError::Swept`] names the first of them.
    pub(crate) fn refuse_backups<'a>(&self, backups: impl IntoIterator<Item = &'a BackupId>) -> Result<(), LogError> {
        // Not what the records name, but what of it counts: a record that names what was not to go stops no writer.
        let swept = self.state_without_holds().swept;
        match backups.into_iter().find_map(|backup| Some((backup, *swept.get(backup)?))) {
            Some((backup, seq)) => Err(LogError::Swept { what: format!("backup {backup}"), seq }),
            None => Ok(()),
        }
    }

    fn refuse_epochs(&self, epochs: impl IntoIterator<Item = EpochId>) -> Result<(), LogError> {
        let epochs: BTreeSet<EpochId> = epochs.into_iter().collect();
        let named = |intent: &SweepIntentRecord| intent.epochs.iter().find(|named| epochs.contains(named)).copied();
        match self.intents().find_map(|(seq, intent)| Some((seq, named(intent)?))) {
            Some((seq, epoch)) => Err(LogError::Swept { what: format!("key {epoch}"), seq }),
            None => Ok(()),
        }
    }

    /// Asks the store for the last record that was read, and compares: the cheap way to notice that a log was rolled back
    /// or replaced since. What stands before it is bound by the chain.
    ///
    /// # Errors
    /// [`LogError::RolledBack`] or [`LogError::Forked`]; [`LogError::Store`] if it cannot be read; [`LogError::Note`] if what
    /// came has no valid signature: it may have been damaged in transit, and is no evidence of a fork.
    pub async fn confirm_head(&self, store: &dyn Store) -> Result<(), LogError> {
        let Some(head) = self.head() else { return Ok(()) };
        match fetch(store, head.seq).await? {
            Fetched::Nothing => Err(LogError::RolledBack { remembered: head.seq, found: head.seq }),
            Fetched::TooLarge(source) => Err(LogError::Store { seq: head.seq, source }),
            Fetched::Note(bytes) if sha256(&bytes) != head.sha256 => {
                self.check_signature(head.seq, &bytes)?;
                Err(LogError::Forked { seq: head.seq, remembered: head.sha256, found: sha256(&bytes) })
            }
            Fetched::Note(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;

//! What is found damaged is recorded in the log of its region, once.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::{BackupId, Clock};

use crate::format::layout::{self, StoredName};
use crate::log::append::Draft;
use crate::log::damage::{FoundDamage, damaged_objects, damaged_wal};
use crate::log::error::LogError;
use crate::log::note::NoteSigner;
use crate::log::records::care::{DamageRecord, FoundBy, OBJECTS_NAMED_MAX};
use crate::log::records::record::{Origin, RecordBody};
use crate::log::region_log::RegionLog;
use crate::log::region_store::RegionStore;

/// Records damage.
#[derive(Clone, Copy)]
pub struct DamageReporter<'a> {
    /// Signs.
    pub signer: &'a NoteSigner,
    /// The machine's clock.
    pub clock: &'a dyn Clock,
    /// How records name the program.
    pub tool: &'a str,
    /// Who found it.
    pub found_by: FoundBy,
}

/// The backup that an object was written for; the key of an epoch belongs to the backup that names it first.
#[must_use]
pub(crate) fn backup_of(key: &ObjectKey, log: &RegionLog) -> Option<BackupId> {
    match layout::parse(key)? {
        StoredName::Pack { backup, .. } | StoredName::IndexShard { backup, .. } | StoredName::PacksList { backup } => {
            Some(backup)
        }
        StoredName::Slots { epoch, .. } => {
            let mut records = log.entries().iter().filter_map(|entry| entry.record.backup());
            let named = records.find(|record| record.epochs.iter().any(|named| named.id == epoch));
            named.map(|record| record.backup.clone())
        }
        _ => None,
    }
}

impl DamageReporter<'_> {
    /// Appends what the log does not say already. Returns how many objects are new.
    ///
    /// CRASH SAFETY: one record for each hundred objects. A crash in between leaves some of them unrecorded; a later scrub
    /// next finds them again.
    ///
    /// # Errors
    /// [`LogError`]; what was appended before stays.
    pub async fn record(
        &self,
        region: &RegionStore,
        log: &mut RegionLog,
        damage: &[FoundDamage],
    ) -> Result<u64, LogError> {
        log.refresh(&*region.store).await?;
        let state = log.state(self.clock.now());
        let mut by_backup: BTreeMap<Option<BackupId>, BTreeSet<ObjectKey>> = BTreeMap::new();
        for found in damage.iter().filter(|found| found.region == region.name) {
            let backup = backup_of(&found.key, log);
            // What was swept meanwhile is not missed.
            if backup.as_ref().is_some_and(|backup| !state.backups.contains_key(backup)) {
                continue;
            }
            by_backup.entry(backup).or_default().insert(found.key.clone());
        }
        let mut new = 0;
        for (backup, keys) in by_backup {
            // An object that is damaged once more while it is healed goes on record with the next scrub: the open record is that
            // of the first time.
            let known = match &backup {
                Some(backup) => damaged_objects(log, backup).named,
                None => damaged_wal(log).into_values().flatten().collect(),
            };
            let keys: Vec<ObjectKey> = keys.difference(&known).cloned().collect();
            for objects in keys.chunks(OBJECTS_NAMED_MAX) {
                let count = objects.len() as u64;
                let (backup, objects) = (backup.clone(), objects.to_vec());
                let body = RecordBody::Damage(DamageRecord { backup, objects, count, found_by: self.found_by });
                log.append(&*region.store, self.signer, &self.draft(log, body)).await?;
                new += count;
            }
        }
        Ok(new)
    }

    fn draft(&self, log: &RegionLog, body: RecordBody) -> Draft {
        let (writer, time) = (self.signer.name().clone(), self.clock.now());
        let wseq = Origin::next_count(log.last_count(&writer), time);
        Draft { origin: Origin { writer, wseq, time, tool: self.tool.to_owned() }, body }
    }
}

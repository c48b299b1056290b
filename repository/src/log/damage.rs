//! What is damaged in a region, by its log.

use std::collections::BTreeSet;

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::{BackupId, RegionName};

use crate::log::records::record::RecordBody;
use crate::log::region_log::RegionLog;

/// An object that a region should have, and does not have as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundDamage {
    /// Where.
    pub region: RegionName,
    /// Which.
    pub key: ObjectKey,
    /// What is wrong.
    pub what: String,
}

/// Whether a list names everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// It does.
    All,
    /// There are more: every object has to be looked at.
    Some,
}

/// The damaged objects of one backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DamagedObjects {
    /// Which, as far as they are named.
    pub(crate) named: BTreeSet<ObjectKey>,
    /// Whether these are all.
    pub(crate) complete: Completeness,
}

/// What the `damage` records say about a backup since it was healed last.
pub(crate) fn damaged_objects(log: &RegionLog, backup: &BackupId) -> DamagedObjects {
    let mut damaged = DamagedObjects { named: BTreeSet::new(), complete: Completeness::All };
    for entry in log.entries() {
        match &entry.record.body {
            RecordBody::Damage(damage) if damage.backup.as_ref() == Some(backup) => {
                damaged.named.extend(damage.objects.iter().cloned());
                if damage.count > damage.objects.len() as u64 {
                    damaged.complete = Completeness::Some;
                }
            }
            RecordBody::Healed(healed) if healed.backups.contains(backup) => {
                damaged.named.clear();
                damaged.complete = Completeness::All;
            }
            _ => {}
        }
    }
    damaged
}

/// Damage outside of backups. A `healed` record without backups is about these, and settles all before it.
pub(crate) fn damaged_wal(log: &RegionLog) -> BTreeSet<ObjectKey> {
    let mut objects = BTreeSet::new();
    for entry in log.entries() {
        match &entry.record.body {
            RecordBody::Damage(damage) if damage.backup.is_none() => objects.extend(damage.objects.iter().cloned()),
            RecordBody::Healed(healed) if healed.backups.is_empty() => objects.clear(),
            _ => {}
        }
    }
    objects
}

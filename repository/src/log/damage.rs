//! What is damaged in a region, by its log.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::{BackupId, RegionName, UtcTime};

use crate::log::records::care::DamageRecord;
use crate::log::records::record::{Record, RecordBody};
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

/// A `damage` record that no `healed` record names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRecord<'a> {
    /// Its place in the log.
    pub seq: u64,
    /// When it was written, by the clock of its writer.
    pub time: UtcTime,
    /// What it says.
    pub damage: &'a DamageRecord,
}

/// The damage in a region that its log does not say was mended: each `damage` record stands until a `healed` record behind it names
/// its place. A `healed` record that names the backup alone settles nothing: a scrub may have found more while the healing ran.
#[derive(Clone, Debug, Default)]
pub struct OpenDamage<'a>(BTreeMap<u64, OpenRecord<'a>>);

impl<'a> OpenDamage<'a> {
    /// What is open at the end of a log.
    #[must_use]
    pub fn of(log: &'a RegionLog) -> Self {
        let mut open = Self::default();
        for entry in log.entries() {
            open.note(&entry.record);
        }
        open
    }

    /// The open records, in the order of the log.
    pub fn iter(&self) -> impl Iterator<Item = OpenRecord<'a>> {
        self.0.values().copied()
    }

    /// Takes in the next record of the log. Returns the backups about which it changes something.
    pub(crate) fn note(&mut self, record: &'a Record) -> BTreeSet<&'a BackupId> {
        let seq = record.link.seq;
        match &record.body {
            RecordBody::Damage(damage) => {
                self.0.insert(seq, OpenRecord { seq, time: record.origin.time, damage });
                damage.backup.iter().collect()
            }
            RecordBody::Healed(healed) => {
                let settled = healed.settles.iter().filter_map(|place| self.0.remove(place));
                settled.filter_map(|open| open.damage.backup.as_ref()).collect()
            }
            _ => BTreeSet::new(),
        }
    }

    /// The place of the last open record about a backup.
    pub(crate) fn last_of(&self, backup: &BackupId) -> Option<u64> {
        self.0.values().rev().find(|open| open.damage.backup.as_ref() == Some(backup)).map(|open| open.seq)
    }
}

/// The damaged objects of one backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DamagedObjects {
    /// Which, as far as they are named.
    pub(crate) named: BTreeSet<ObjectKey>,
    /// Whether these are all.
    pub(crate) complete: Completeness,
    /// Places of the records that say so.
    pub(crate) records: BTreeSet<u64>,
}

/// What the `damage` records say about a backup that nothing has mended.
pub(crate) fn damaged_objects(log: &RegionLog, backup: &BackupId) -> DamagedObjects {
    let mut damaged = DamagedObjects { named: BTreeSet::new(), complete: Completeness::All, records: BTreeSet::new() };
    for OpenRecord { seq, damage, .. } in OpenDamage::of(log).iter() {
        if damage.backup.as_ref() != Some(backup) {
            continue;
        }
        damaged.named.extend(damage.objects.iter().cloned());
        if damage.count > damage.objects.len() as u64 {
            damaged.complete = Completeness::Some;
        }
        damaged.records.insert(seq);
    }
    damaged
}

/// Damage outside of backups that nothing has mended: the objects, by the place of the record that names them.
pub(crate) fn damaged_wal(log: &RegionLog) -> BTreeMap<u64, Vec<ObjectKey>> {
    let of_wal = |open: &OpenRecord<'_>| open.damage.backup.is_none();
    OpenDamage::of(log).iter().filter(of_wal).map(|open| (open.seq, open.damage.objects.clone())).collect()
}

//! What healing finds missing, and what it did.

use lifeboat_stores::StoreError;
use lifeboat_vocabulary::{BackupId, ByteCount, RegionName};

use crate::heal::plan::{Lack, RecordPlan};
use crate::heal::unread::Unread;
use crate::log::damage::FoundDamage;
use crate::log::error::LogError;
use crate::log::region_store::RegionReadError;

/// What could not be healed is named up to this many times; the rest is counted.
const LEFT_NAMED: usize = 100;

/// What one region lacks.
#[derive(Debug, Default)]
pub struct HealPreview {
    /// What the logs say.
    pub records: RecordPlan,
    /// Objects of WAL.
    pub wal_objects: u64,
    /// Their bytes.
    pub wal_bytes: ByteCount,
    /// Why the WAL could not be compared, if it could not.
    pub wal_unseen: Option<String>,
    /// What could not be read in it: it may lack that, too.
    pub unread: Unread,
}

impl HealPreview {
    /// Whether the region has everything that it should have.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let records = &self.records;
        records.backups.is_empty()
            && records.common.is_empty()
            && records.wal_damage.is_empty()
            && records.disputed.is_empty()
            && records.without_source.is_empty()
            && self.wal_objects == 0
            && self.unread.is_empty()
    }

    /// Bytes that would be copied, as far as is known without looking into the region.
    #[must_use]
    pub fn bytes(&self) -> ByteCount {
        let whole = self.records.backups.iter().filter(|task| task.lack == Lack::Record);
        whole.map(|task| task.record.packs.bytes).sum::<ByteCount>().plus(self.wal_bytes)
    }
}

/// Something that stays as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftUnhealed {
    /// A backup, an object, a record.
    pub what: String,
    /// Why.
    pub why: String,
}

/// What was done for one region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealReport {
    /// Backups that are whole now.
    pub backups: Vec<BackupId>,
    /// Objects of WAL, and histories, that were copied.
    pub wal_objects: u64,
    /// All objects that were copied.
    pub objects: u64,
    /// Their bytes.
    pub bytes: ByteCount,
    /// Records of other logs that the region missed.
    pub records: u64,
    /// What stays (the first hundred).
    pub left: Vec<LeftUnhealed>,
    /// How much stays.
    pub left_count: u64,
    /// Damage in the regions that were read from, and what was missing in this one.
    pub damage: Vec<FoundDamage>,
    /// Why it ended early, if it did.
    pub ended: Option<HealEnd>,
    /// The region that gave most.
    pub from: Option<RegionName>,
}

/// Why healing ended before everything was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealEnd {
    /// It was stopped.
    Stopped,
    /// The region does not take more.
    Region(String),
}

impl HealReport {
    /// Whether nothing is left.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.left_count == 0 && self.ended.is_none()
    }

    pub(crate) fn leave(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.left_count += 1;
        if self.left.len() < LEFT_NAMED {
            self.left.push(LeftUnhealed { what: what.into(), why: why.into() });
        }
    }
}

/// Why a region could not be healed at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HealError {
    /// Its log cannot be read or written.
    #[error("use the log of {region}")]
    Log {
        /// The region.
        region: RegionName,
        /// What is wrong.
        source: LogError,
    },
    /// It cannot be compared with the lists of its backups.
    #[error("look at the objects of {region}")]
    Objects {
        /// The region.
        region: RegionName,
        /// What is wrong.
        source: RegionReadError,
    },
    /// Its WAL cannot be listed.
    #[error("list the WAL of {region}")]
    List {
        /// The region.
        region: RegionName,
        /// What the store said.
        source: StoreError,
    },
}

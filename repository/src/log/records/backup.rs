//! What a record of kind `backup` says: everything that a restore needs to know before it has a key.

use std::fmt;

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::{BackupId, ByteCount, Lsn, Sha256Digest, TimelineId, UtcTime, WalPosition};
use serde::{Deserialize, Serialize};

use crate::format::frame::FRAME_BYTES;
use crate::format::ids::EpochId;
use crate::format::json_text::{as_optional_text, as_text, bytes, timeline};
use crate::format::layout;
use crate::log::records::omissions::Omissions;

const SHARDS_MAX: usize = 4096;
const EPOCHS_MAX: usize = 1024;

/// A backup that exists in the region whose log has this record. Equal in all regions that have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRecord {
    /// Its name.
    #[serde(with = "as_text")]
    pub backup: BackupId,
    /// How it was made.
    #[serde(rename = "type")]
    pub kind: BackupKind,
    /// The backup that it was compared with, where it was.
    #[serde(with = "as_optional_text", default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<BackupId>,
    /// The server.
    pub pg: ServerFacts,
    /// Where recovery starts.
    #[serde(with = "as_text")]
    pub start_lsn: Lsn,
    /// The timeline of `start_lsn`.
    #[serde(with = "timeline")]
    pub start_tli: TimelineId,
    /// Where the backup is consistent.
    #[serde(with = "as_text")]
    pub stop_lsn: Lsn,
    /// The timeline of `stop_lsn`.
    #[serde(with = "timeline")]
    pub stop_tli: TimelineId,
    /// When it began, by the writer's clock.
    #[serde(with = "as_text")]
    pub start_time: UtcTime,
    /// When the data was complete, by the writer's clock.
    #[serde(with = "as_text")]
    pub stop_time: UtcTime,
    /// How long it took in **milliseconds**, by a clock that only runs forwards.
    pub duration_ms: u64,
    /// Size of the frames that files are cut into, in **bytes**.
    pub frame_bytes: u32,
    /// The keys that its objects are sealed under; its own first.
    pub epochs: Vec<EpochRef>,
    /// Its objects.
    pub packs: PacksRef,
    /// The parts of its index, in order.
    pub index: Vec<ShardRef>,
    /// Its content.
    pub files: FilesFacts,
    /// What the check of data pages found; absent if pages were not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<PageFacts>,
    /// What belongs to the cluster and is not in the backup; absent if everything is.
    #[serde(default, skip_serializing_if = "Omissions::is_empty")]
    pub omissions: Omissions,
}

/// How a backup was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupKind {
    /// Everything was uploaded anew.
    Full,
    /// What is unchanged since the last full backup is referenced.
    Differential,
    /// What is unchanged since the last backup is referenced.
    Incremental,
    /// Dumps of databases.
    Logical,
}

impl fmt::Display for BackupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Full => "full",
            Self::Differential => "differential",
            Self::Incremental => "incremental",
            Self::Logical => "logical",
        })
    }
}

/// The server that was backed up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// `server_version_num`, such as 170006.
    pub version: u32,
    /// The system identifier.
    #[serde(with = "as_text")]
    pub sysid: u64,
    /// Size of a WAL segment in **bytes**.
    pub wal_segment_bytes: u32,
}

/// A key that objects of a backup are sealed under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRef {
    /// The epoch.
    #[serde(with = "as_text")]
    pub id: EpochId,
    /// Which set of slots: the number in its key.
    pub slots: u32,
    /// SHA-256 of that set.
    #[serde(with = "as_text")]
    pub keys_sha256: Sha256Digest,
}

/// The objects of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacksRef {
    /// SHA-256 of `packs.sha256`, the list of them all.
    #[serde(with = "as_text")]
    pub sha256: Sha256Digest,
    /// How many objects the list names.
    pub objects: u64,
    /// Their size in **bytes**.
    #[serde(with = "bytes")]
    pub bytes: ByteCount,
    /// How many of them this backup wrote.
    pub own: u64,
    /// The size of those in **bytes**.
    #[serde(with = "bytes")]
    pub own_bytes: ByteCount,
}

/// A part of a backup's index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRef {
    /// Its key.
    #[serde(with = "as_text")]
    pub key: ObjectKey,
    /// SHA-256 of its bytes.
    #[serde(with = "as_text")]
    pub sha256: Sha256Digest,
    /// Its size in **bytes**.
    #[serde(with = "bytes")]
    pub size: ByteCount,
}

/// What a backup contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesFacts {
    /// Regular files.
    pub count: u64,
    /// Their size in **bytes**, before compression.
    #[serde(with = "bytes")]
    pub raw_bytes: ByteCount,
}

/// What the check of data pages found: only counts, because paths are not stored in the clear. `backup` prints which pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageFacts {
    /// Pages whose checksum was computed.
    pub checked: u64,
    /// Pages that are damaged in the database itself.
    pub damaged: u64,
    /// Files that they are in.
    pub damaged_files: u64,
}

/// Whether a backup counts as a good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// No damage is known.
    Intact,
    /// The database had damaged pages when it was made: kept and shown, but never counted as a good backup.
    Damaged,
    /// Data of the cluster is missing in it: likewise.
    Incomplete,
}

impl BackupRecord {
    /// Whether it has all data of the cluster.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.omissions.data == 0
    }

    /// Whether it counts as a good backup: only [`Integrity::Intact`] does, for retention, freshness and restores alike.
    #[must_use]
    pub fn integrity(&self) -> Integrity {
        match self.pages {
            _ if !self.is_complete() => Integrity::Incomplete,
            Some(PageFacts { damaged, damaged_files, .. }) if damaged > 0 || damaged_files > 0 => Integrity::Damaged,
            _ => Integrity::Intact,
        }
    }

    /// Where recovery starts.
    #[must_use]
    pub fn start(&self) -> WalPosition {
        WalPosition { timeline: self.start_tli, lsn: self.start_lsn }
    }

    /// Where the backup is consistent.
    #[must_use]
    pub fn stop(&self) -> WalPosition {
        WalPosition { timeline: self.stop_tli, lsn: self.stop_lsn }
    }

    /// What contradicts itself, if anything does.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.start_tli == self.stop_tli && self.stop_lsn < self.start_lsn {
            return Err("it stops before it starts");
        }
        if !FRAME_BYTES.contains(&self.frame_bytes) || !self.frame_bytes.is_power_of_two() {
            return Err("its frames have a size that does not exist");
        }
        if lifeboat_vocabulary::SegmentSize::from_bytes(u64::from(self.pg.wal_segment_bytes)).is_err() {
            return Err("its WAL segments have a size that does not exist");
        }
        if self.epochs.is_empty() || self.epochs.len() > EPOCHS_MAX {
            return Err("it has no key, or too many");
        }
        if self.index.is_empty() || self.index.len() > SHARDS_MAX {
            return Err("it has no index, or too many parts of one");
        }
        let expected = (0..).map(|number| layout::index_shard(&self.backup, number));
        if self.index.iter().zip(expected).any(|(shard, expected)| shard.key != expected) {
            return Err("the parts of its index are not its own, or not in order");
        }
        if self.packs.own > self.packs.objects || self.packs.own_bytes > self.packs.bytes {
            return Err("it wrote more objects than it has");
        }
        if self.packs.objects < self.index.len() as u64 {
            return Err("it has fewer objects than its index has parts");
        }
        match self.pages {
            Some(pages) if pages.damaged > pages.checked => Err("it has more damaged pages than pages"),
            _ => self.omissions.check(),
        }
    }
}

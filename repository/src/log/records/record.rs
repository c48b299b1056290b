//! Records: what a region's log says happened. Each is one line of JSON, stored as a signed note.
//!
//! A record names its place in the log (`seq`) and the record before it (`prev`), so that nothing can be inserted, left
//! out or exchanged. Readers skip fields and kinds that they do not know; a record of an unknown kind still is a link
//! of the chain.

use lifeboat_vocabulary::{BackupId, RegionName, Sha256Digest, UtcTime};
use serde::{Deserialize, Serialize};

use crate::format::ids::RepositoryId;
use crate::format::json_text::{as_optional_text, as_text};
use crate::format::key_name::KeyName;
use crate::log::records::backup::BackupRecord;
use crate::log::records::bundle::BundleRecord;
use crate::log::records::care::{
    AuditRecord, DamageRecord, ForgetRecord, HealedRecord, HoldRecord, KeepRecord, ReleaseRecord, SweepDoneRecord,
    SweepIntentRecord,
};
use crate::log::records::trust::{CopyRecord, SignerRecord};
use crate::log::records::wal::{IncarnationRecord, WalEpochRecord, WalGapRecord};

/// The version of records that this program writes, and the only one that it reads.
pub(crate) const RECORD_VERSION: u32 = 1;
/// Records that a log may have: one a minute for two years.
pub(crate) const LOG_RECORDS_MAX: u64 = 1_000_000;
/// The notes of one log take at most so many **bytes**: whoever follows it keeps its records in memory.
pub(crate) const LOG_BYTES_MAX: u64 = 1 << 30;
/// The highest count that others are counted on from.
const COUNT_MAX: u64 = u64::MAX / 2;
/// The longest name and version of a program in a record, in **bytes**.
pub(crate) const TOOL_BYTES_MAX: usize = 100;

/// One entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the log.
    pub link: Link,
    /// Who wrote it, and when.
    pub origin: Origin,
    /// What it says.
    pub body: RecordBody,
}

/// Where a record stands in a region's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The region that the log belongs to.
    #[serde(with = "as_text")]
    pub region: RegionName,
    /// Place in the log, from 0.
    pub seq: u64,
    /// SHA-256 of the note before it; absent for the first.
    #[serde(with = "as_optional_text", default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<Sha256Digest>,
}

/// Where a record comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The writer: the name of its signing key.
    #[serde(with = "as_text")]
    pub writer: KeyName,
    /// The writer's own count over all regions. One event has one number: the records about it in several regions
    /// share it, and a writer that finds its number in a log has written there already.
    pub wseq: u64,
    /// When, by the writer's clock. Only information: order is `seq`.
    #[serde(with = "as_text")]
    pub time: UtcTime,
    /// The program and its version, at most `TOOL_BYTES_MAX` bytes.
    pub tool: String,
}

/// Two that count on from the same number with a clock that is behind it get the same one once in so many times.
const APART: u64 = 1 << 20;

/// A number by chance; 0 where the machine has none, which is as good as counting.
fn chance_below(end: u64) -> u64 {
    let mut bytes = [0; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes) % end,
        Err(_) => 0,
    }
}

impl Origin {
    /// The count of a new event: above `last`, the writer's highest in all logs, and not below the time in microseconds.
    ///
    /// So two programs that write under one name (a backup by hand beside the daemon) need not talk to each other: only
    /// events in the same microsecond would get the same count, and a log refuses the second one. A clock that was set back tells
    /// nothing of that kind, and not everybody has read the same logs: then chance keeps the counts apart.
    #[must_use]
    pub fn next_count(last: Option<u64>, now: UtcTime) -> u64 {
        let now = u64::try_from(now.as_unix_micros()).unwrap_or(0);
        // A count that no clock gives was made up, so that nothing could come after it.
        match last.filter(|last| *last <= COUNT_MAX) {
            Some(last) if last >= now => last.saturating_add(1).saturating_add(chance_below(APART)),
            _ => now.max(1),
        }
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordBody {
    /// The log begins. Always the first record, and only that.
    Init(InitRecord),
    /// A backup exists in this region.
    Backup(Box<BackupRecord>),
    /// A new key for WAL.
    WalEpoch(WalEpochRecord),
    /// WAL that is missing for ever.
    WalGap(WalGapRecord),
    /// Which copy of the cluster may write WAL from here on.
    Incarnation(IncarnationRecord),
    /// Backups that leave the kept set.
    Forget(ForgetRecord),
    /// Backups that were to leave, and are kept again.
    Keep(KeepRecord),
    /// What is about to be deleted; from here on it does not exist in this region.
    SweepIntent(SweepIntentRecord),
    /// What was deleted.
    SweepDone(SweepDoneRecord),
    /// A backup stays until further notice.
    Hold(HoldRecord),
    /// A hold has ended.
    Release(ReleaseRecord),
    /// Objects that are not what was stored.
    Damage(DamageRecord),
    /// Objects that were restored from another region.
    Healed(HealedRecord),
    /// What a person, or the program on its own, did and why.
    Audit(AuditRecord),
    /// A statement of the root key about another key.
    Signer(SignerRecord),
    /// A record of another region's log. A log that was read has the record itself in its place, or a void one.
    Copy(CopyRecord),
    /// Records before this one lie together in one object.
    Bundle(BundleRecord),
    /// A link of the chain that says nothing: its key may not say it, or it cannot be understood.
    Void {
        /// What it calls itself.
        kind: String,
        /// Why it does not count.
        why: String,
    },
    /// Something that a newer version wrote.
    Unknown {
        /// What it calls it.
        kind: String,
    },
}

/// The first record of a log: binds it to its repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitRecord {
    /// The repository.
    #[serde(with = "as_text")]
    pub repo: RepositoryId,
    /// PostgreSQL's system identifier of the cluster.
    #[serde(with = "as_text")]
    pub sysid: u64,
    /// SHA-256 of the descriptor's note.
    #[serde(with = "as_text")]
    pub descriptor_sha256: Sha256Digest,
}

/// Why a text is not a record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It is not JSON, or fields are missing or malformed.
    #[error("read the fields of a record")]
    Json(#[from] serde_json::Error),
    /// It is not one line.
    #[error("a record is one line of JSON, ended by a newline")]
    Shape,
    /// It was written by a newer version.
    #[error("the record has version {version}; this program knows {RECORD_VERSION}")]
    Version {
        /// What it says.
        version: u32,
    },
    /// Fields that contradict each other.
    #[error("the record contradicts itself: {what}")]
    Contradiction {
        /// Which.
        what: &'static str,
    },
}

#[derive(Serialize)]
struct Written<'a, T> {
    v: u32,
    kind: &'a str,
    #[serde(flatten)]
    link: &'a Link,
    #[serde(flatten)]
    origin: &'a Origin,
    #[serde(flatten)]
    body: &'a T,
}

impl<'a, T: Serialize> Written<'a, T> {
    fn new(kind: &'a str, link: &'a Link, origin: &'a Origin, body: &'a T) -> Self {
        Self { v: RECORD_VERSION, kind, link, origin, body }
    }

    fn to_line(&self) -> Result<String, RecordError> {
        let mut text = serde_json::to_string(self)?;
        text.push('\n');
        Ok(text)
    }
}

#[derive(Deserialize)]
struct Head {
    v: u32,
    kind: String,
}

impl RecordBody {
    /// The word that stands for the kind in a record.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Init(_) => "init",
            Self::Backup(_) => "backup",
            Self::WalEpoch(_) => "wal-epoch",
            Self::WalGap(_) => "wal-gap",
            Self::Incarnation(_) => "incarnation",
            Self::Forget(_) => "forget",
            Self::Keep(_) => "keep",
            Self::SweepIntent(_) => "sweep-intent",
            Self::SweepDone(_) => "sweep-done",
            Self::Hold(_) => "hold",
            Self::Release(_) => "release",
            Self::Damage(_) => "damage",
            Self::Healed(_) => "healed",
            Self::Audit(_) => "audit",
            Self::Signer(_) => "signer",
            Self::Copy(_) => "copy",
            Self::Bundle(_) => "bundle",
            Self::Void { kind, .. } => kind,
            Self::Unknown { kind } => kind,
        }
    }
}

impl Record {
    /// The record as one line of JSON, with a newline.
    ///
    /// # Errors
    /// [`RecordError::Contradiction`] for a record that no reader would accept; a kind that this version does not know
    /// cannot be written.
    pub fn to_text(&self) -> Result<String, RecordError> {
        self.check()?;
        let Self { link, origin, body } = self;
        let kind = body.kind();
        match body {
            RecordBody::Init(body) => Written::new(kind, link, origin, body).to_line(),
            RecordBody::Backup(body) => Written::new(kind, link, origin, &**body).to_line(),
            RecordBody::WalEpoch(body) => Written::new(kind, link, origin, body).to_line(),
            RecordBody::WalGap(body) => Written::new(kind, link, origin, body).to_line(),
            RecordBody::Incarnation(body) => Written::new(kind, link, origin, body).to_line(),
            RecordBody::Keep(body) => Written::new(kind, link, origin, body).to_line(),
            RecordBody::Forget(body) => Written::new(kind, link, origin, body).to_line(),
            RecordBody::SweepIntent(body) => Written::new(kind, link, origin, body).to_line(),
            RecordBody::SweepDone(body) => Written::new(kind, link, origin, body).to_line(),
            RecordBody::Hold(body) => Written::new(kind, link, origin, body).to_line(),
            RecordBody::Release(body) => Written::new(kind, link, origin, body).to_line(),
            RecordBody::Damage(body) => Written::new(kind, link, origin, body).to_line(),
            RecordBody::Healed(body) => Written::new(kind, link, origin, body).to_line(),
            RecordBody::Audit(body) => Written::new(kind, link, origin, body).to_line(),
            RecordBody::Signer(body) => Written::new(kind, link, origin, body).to_line(),
            RecordBody::Copy(body) => Written::new(kind, link, origin, body).to_line(),
            RecordBody::Bundle(body) => Written::new(kind, link, origin, body).to_line(),
            RecordBody::Unknown { .. } => Err(RecordError::Contradiction { what: "its kind is unknown" }),
            RecordBody::Void { .. } => Err(RecordError::Contradiction { what: "it says nothing" }),
        }
    }

    /// What a text says about its place and its writer, however little else of it can be understood; with its kind.
    pub(crate) fn parse_start(text: &str) -> Option<(Link, Origin, String)> {
        #[derive(Deserialize)]
        struct Kind {
            kind: String,
        }
        let link = serde_json::from_str(text).ok()?;
        let origin: Origin = serde_json::from_str(text).ok()?;
        let Kind { kind } = serde_json::from_str(text).ok()?;
        Some((link, origin, kind.chars().filter(|c| !c.is_control()).take(40).collect()))
    }

    /// Reads the text of a record, whose signature was checked.
    ///
    /// # Errors
    /// [`RecordError`], by meaning.
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        let json = text.strip_suffix('\n').filter(|json| !json.contains('\n')).ok_or(RecordError::Shape)?;
        let head: Head = serde_json::from_str(json)?;
        if head.v != RECORD_VERSION {
            return Err(RecordError::Version { version: head.v });
        }
        let body = match head.kind.as_str() {
            "init" => RecordBody::Init(serde_json::from_str(json)?),
            "backup" => RecordBody::Backup(serde_json::from_str(json)?),
            "wal-epoch" => RecordBody::WalEpoch(serde_json::from_str(json)?),
            "wal-gap" => RecordBody::WalGap(serde_json::from_str(json)?),
            "incarnation" => RecordBody::Incarnation(serde_json::from_str(json)?),
            "forget" => RecordBody::Forget(serde_json::from_str(json)?),
            "keep" => RecordBody::Keep(serde_json::from_str(json)?),
            "sweep-intent" => RecordBody::SweepIntent(serde_json::from_str(json)?),
            "sweep-done" => RecordBody::SweepDone(serde_json::from_str(json)?),
            "hold" => RecordBody::Hold(serde_json::from_str(json)?),
            "release" => RecordBody::Release(serde_json::from_str(json)?),
            "damage" => RecordBody::Damage(serde_json::from_str(json)?),
            "healed" => RecordBody::Healed(serde_json::from_str(json)?),
            "audit" => RecordBody::Audit(serde_json::from_str(json)?),
            "signer" => RecordBody::Signer(serde_json::from_str(json)?),
            "copy" => RecordBody::Copy(serde_json::from_str(json)?),
            "bundle" => RecordBody::Bundle(serde_json::from_str(json)?),
            _ => RecordBody::Unknown { kind: head.kind },
        };
        let record = Self { link: serde_json::from_str(json)?, origin: serde_json::from_str(json)?, body };
        record.check()?;
        Ok(record)
    }

    fn check(&self) -> Result<(), RecordError> {
        let contradiction = |what| Err(RecordError::Contradiction { what });
        let Link { seq, prev, .. } = &self.link;
        // Not by its place: objects that are no records may lie before it.
        if prev.is_none() != matches!(self.body, RecordBody::Init(_)) {
            return contradiction("the first record of a log, and only the first, is of kind init");
        }
        if *seq == 0 && prev.is_some() {
            return contradiction("there is no record before place 0");
        }
        if self.origin.tool.len() > TOOL_BYTES_MAX {
            return contradiction("the name of its program is too long");
        }
        match &self.body {
            RecordBody::Backup(backup) => backup.check().or_else(contradiction),
            RecordBody::WalEpoch(epoch) => epoch.check().or_else(contradiction),
            RecordBody::WalGap(gap) => gap.check().or_else(contradiction),
            RecordBody::Forget(forget) => forget.check().or_else(contradiction),
            RecordBody::Keep(keep) => keep.check().or_else(contradiction),
            RecordBody::SweepIntent(intent) => intent.check().or_else(contradiction),
            RecordBody::SweepDone(done) => done.check(*seq).or_else(contradiction),
            RecordBody::Hold(hold) => hold.check().or_else(contradiction),
            RecordBody::Release(release) => release.check().or_else(contradiction),
            RecordBody::Damage(damage) => damage.check().or_else(contradiction),
            RecordBody::Healed(healed) => healed.check(*seq).or_else(contradiction),
            RecordBody::Audit(audit) => audit.check().or_else(contradiction),
            RecordBody::Signer(signer) => signer.check().or_else(contradiction),
            RecordBody::Copy(copy) => copy.check().or_else(contradiction),
            RecordBody::Bundle(bundle) => bundle.check(*seq).or_else(contradiction),
            RecordBody::Init(_) | RecordBody::Incarnation(_) | RecordBody::Unknown { .. } | RecordBody::Void { .. } => {
                Ok(())
            }
        }
    }

    /// The backup that this record is about, if it is about one.
    #[must_use]
    pub fn backup(&self) -> Option<&BackupRecord> {
        match &self.body {
            RecordBody::Backup(backup) => Some(backup),
            _ => None,
        }
    }

    /// Whether this record makes `backup` exist.
    #[must_use]
    pub fn commits(&self, backup: &BackupId) -> bool {
        self.backup().is_some_and(|record| record.backup == *backup)
    }
}

#[cfg(test)]
mod tests;

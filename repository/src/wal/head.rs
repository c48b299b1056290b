//! A writer's sign of life: a small signed note in every region, replaced about once a minute.
//!
//! For the writer it is the memory of how far the region has everything; for a restore it is evidence that WAL up to that place
//! was stored then (a region that has less has lost it), and of the moment up to which WAL up to a place is all that there was.

use bytes::Bytes;
use lifeboat_stores::{ObjectVersion, PutMode, SealedBody, Store, StoreError};
use lifeboat_vocabulary::{Lsn, RecordMark, RegionName, Sha256Digest, TimelineId, UtcTime, WalPosition};
use serde::{Deserialize, Serialize};

use crate::format::aead::sha256;
use crate::format::ids::{InstanceId, RepositoryId};
use crate::format::json_text::{as_optional_text, as_text, timeline};
use crate::format::key_name::KeyName;
use crate::format::layout::{self, StoredName};
use crate::format::record_text::RecordText;
use crate::log::create_once::small_object;
use crate::log::link::LogHead;
use crate::log::note::{self, NoteError, NoteSigner};
use crate::log::region_log::LogTrust;
use crate::log::roles::Role;

/// The version of heads that this program writes, and the only one that it reads.
const VERSION: u32 = 1;
/// Tells a head from a record of the log: both are notes of the same key.
const KIND: &str = "head";
/// The most writers whose heads are read.
pub(crate) const HEADS_MAX: usize = 64;
/// How often [`HeadFile::write`] looks again when the object has changed.
const ATTEMPTS: u32 = 3;
/// Writings of which one may lie in the region: those whose answers are missing.
const WRITTEN_KEPT: usize = 16;

/// What a writer says about itself in one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The repository.
    pub repository: RepositoryId,
    /// The region.
    pub region: RegionName,
    /// The writer.
    pub writer: KeyName,
    /// The installation of the writer.
    pub instance: InstanceId,
    /// When, by the writer's clock.
    pub time: UtcTime,
    /// The end of the region's log, as the writer knew it.
    pub log: Option<LogHead>,
    /// Up to here the region has all WAL without a gap, from where it began; `None` if it has none.
    pub durable: Option<WalPosition>,
    /// The last whole record before `durable`, if it is known: a server that has another one there does not continue what
    /// is stored.
    pub last_record: Option<RecordMark>,
    /// A moment before which the cluster has written nothing that ends behind a position. Where all WAL up to that position is
    /// stored, everything that was committed by then is. `None` if the writer has seen no such moment.
    pub complete: Option<CompleteMark>,
    /// Up to here PostgreSQL was told that its WAL is safe, which holds for all regions together; `None` if it was told nothing.
    pub confirmed: Option<WalPosition>,
}

/// Everything that the cluster has committed by `time` ends at `at` or before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompleteMark {
    /// The end of the WAL that had been written by then.
    pub at: WalPosition,
    /// The moment, by the server's clock.
    pub time: UtcTime,
}

#[derive(Serialize, Deserialize)]
struct Written {
    v: u32,
    kind: String,
    #[serde(with = "as_text")]
    repo: RepositoryId,
    #[serde(with = "as_text")]
    region: RegionName,
    #[serde(with = "as_text")]
    writer: KeyName,
    #[serde(with = "as_text")]
    instance: InstanceId,
    #[serde(with = "as_text")]
    time: UtcTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log_seq: Option<u64>,
    #[serde(with = "as_optional_text", default, skip_serializing_if = "Option::is_none")]
    log_sha256: Option<Sha256Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tli: Option<Timeline>,
    #[serde(with = "as_optional_text", default, skip_serializing_if = "Option::is_none")]
    durable: Option<Lsn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    record: Option<RecordText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    complete: Option<CompleteText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confirmed: Option<PositionText>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct PositionText {
    #[serde(with = "timeline")]
    tli: TimelineId,
    #[serde(with = "as_text")]
    lsn: Lsn,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct CompleteText {
    #[serde(flatten)]
    at: PositionText,
    #[serde(with = "as_text")]
    time: UtcTime,
}

impl From<WalPosition> for PositionText {
    fn from(WalPosition { timeline: tli, lsn }: WalPosition) -> Self {
        Self { tli, lsn }
    }
}

impl From<PositionText> for WalPosition {
    fn from(PositionText { tli: timeline, lsn }: PositionText) -> Self {
        Self { timeline, lsn }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Timeline(#[serde(with = "timeline")] TimelineId);

/// Why a head cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// The store did not do what was asked.
    #[error("reach the head of {writer}")]
    Store {
        /// The writer.
        writer: KeyName,
        /// What the store said.
        source: StoreError,
    },
    /// It is not signed by a key that may sign it.
    #[error("check the signature of a head")]
    Note(#[from] NoteError),
    /// It is not JSON, or fields are missing or malformed.
    #[error("read the fields of a head")]
    Json(#[from] serde_json::Error),
    /// It says what no head says.
    #[error("the head contradicts itself: {what}")]
    Contradiction {
        /// What.
        what: &'static str,
    },
    /// Written by a newer version.
    #[error("the head has version {version}; this program knows {VERSION}")]
    Version {
        /// What it says.
        version: u32,
    },
    /// A head of another place.
    #[error("the head of {expected} is one of {found}")]
    OtherPlace {
        /// What was asked for.
        expected: String,
        /// What it says.
        found: String,
    },
    /// Another program writes under the same name.
    #[error("another installation of {writer} ({instance}) writes its head too, last at {time}")]
    Overtaken {
        /// The writer.
        writer: KeyName,
        /// The other installation.
        instance: InstanceId,
        /// The time in the head that is there now.
        time: UtcTime,
    },
    /// It is one of more than are read.
    #[error("there are more than {HEADS_MAX} heads; that of {writer} was not read")]
    TooMany {
        /// The writer.
        writer: KeyName,
    },
    /// The object changes faster than it can be read.
    #[error("the head of {writer} changed {ATTEMPTS} times in a row")]
    Contended {
        /// The writer.
        writer: KeyName,
    },
}

impl HeadError {
    /// Whether there may be a head of a writer nevertheless, which could not be read: what it says is not known. What cannot be one,
    /// because it is too large or is not signed as it should be, is somebody else's.
    #[must_use]
    pub fn may_hide_a_head(&self) -> bool {
        match self {
            Self::Store { source: StoreError::Unsupported { .. }, .. } => false,
            Self::Store { .. } | Self::TooMany { .. } | Self::Version { .. } => true,
            _ => false,
        }
    }

    /// Whether it will be no better the next time, unless a person changes something.
    #[must_use]
    pub fn stays_unreadable(&self) -> bool {
        !matches!(self, Self::Store { source, .. } if !matches!(source, StoreError::Misconfigured { .. } | StoreError::Unsupported { .. }))
    }
}

impl Head {
    fn to_note(&self, signer: &NoteSigner) -> Result<Bytes, HeadError> {
        let written = Written {
            v: VERSION,
            kind: KIND.to_owned(),
            repo: self.repository,
            region: self.region.clone(),
            writer: self.writer.clone(),
            instance: self.instance,
            time: self.time,
            log_seq: self.log.map(|log| log.seq),
            log_sha256: self.log.map(|log| log.sha256),
            tli: self.durable.map(|durable| Timeline(durable.timeline)),
            durable: self.durable.map(|durable| durable.lsn),
            record: self.last_record.map(RecordText),
            complete: self.complete.map(|mark| CompleteText { at: mark.at.into(), time: mark.time }),
            confirmed: self.confirmed.map(PositionText::from),
        };
        let text = format!("{}\n", serde_json::to_string(&written)?);
        Ok(note::sign(&text, &[signer])?.into())
    }

    /// Reads a note that was found at the head of `writer`, and checks that it was signed by a key of `trust` and
    /// belongs there.
    ///
    /// # Errors
    /// [`HeadError`], by meaning. Nothing of the head may be used then.
    pub fn from_note(bytes: &[u8], writer: &KeyName, trust: &LogTrust) -> Result<Self, HeadError> {
        let verified = note::verify(bytes, &trust.signers.not_revoked())?;
        if !verified.signers.iter().any(|key| trust.signers.speaks_for(key, writer, Role::Writer)) {
            return Err(HeadError::Note(NoteError::UnknownSigner));
        }
        let text = verified.text;
        let written: Written = serde_json::from_str(text)?;
        if written.v != VERSION {
            return Err(HeadError::Version { version: written.v });
        }
        let contradiction = |what| HeadError::Contradiction { what };
        if written.kind != KIND {
            return Err(contradiction("it is a note of another kind"));
        }
        let region = trust.region.clone().unwrap_or_else(|| written.region.clone());
        let place = |repository, region: &RegionName, writer: &KeyName| format!("{writer} in {region} of {repository}");
        let (expected, found) =
            (place(trust.repository, &region, writer), place(written.repo, &written.region, &written.writer));
        if expected != found {
            return Err(HeadError::OtherPlace { expected, found });
        }
        let log = match (written.log_seq, written.log_sha256) {
            (Some(seq), Some(sha256)) => Some(LogHead { seq, sha256 }),
            (None, None) => None,
            _ => return Err(contradiction("it has half an end of the log")),
        };
        let durable = match (written.tli, written.durable) {
            (Some(Timeline(timeline)), Some(lsn)) => Some(WalPosition { timeline, lsn }),
            (None, None) => None,
            _ => return Err(contradiction("it has half a position")),
        };
        let last_record = written.record.map(|RecordText(record)| record);
        let fits = |record: RecordMark| {
            let before = durable.is_some_and(|at| at.timeline == record.timeline && record.end <= at.lsn);
            before && record.start < record.end
        };
        if last_record.is_some_and(|record| !fits(record)) {
            return Err(contradiction("its last record is not before its position"));
        }
        let Written { repo: repository, region, writer, instance, time, complete, confirmed, .. } = written;
        let complete = complete.map(|mark| CompleteMark { at: mark.at.into(), time: mark.time });
        let confirmed = confirmed.map(WalPosition::from);
        Ok(Self { repository, region, writer, instance, time, log, durable, last_record, complete, confirmed })
    }

    /// Reads the head of `writer`; `None` if it has none in this region.
    ///
    /// # Errors
    /// [`HeadError`], by meaning.
    pub async fn read(store: &dyn Store, writer: &KeyName, trust: &LogTrust) -> Result<Option<Self>, HeadError> {
        let key = StoredName::Head { writer: writer.clone() }.key();
        match store.get(&key, small_object()).await {
            Ok(bytes) => Self::from_note(&bytes, writer, trust).map(Some),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(source) => Err(HeadError::Store { writer: writer.clone(), source }),
        }
    }

    /// Reads the heads of all writers in a region (the first `HEADS_MAX`). One that cannot be used does not hide the
    /// others.
    ///
    /// # Errors
    /// Only if they cannot be listed.
    pub async fn read_all(store: &dyn Store, trust: &LogTrust) -> Result<Vec<FoundHead>, StoreError> {
        Ok(HeadNotes::read_all(store).await?.judge(trust))
    }
}

/// The heads of all writers in a region as they were read, before it is known who may sign them.
#[derive(Debug)]
pub struct HeadNotes(Vec<FoundNote>);

#[derive(Debug)]
struct FoundNote {
    writer: KeyName,
    stored: Option<UtcTime>,
    /// `None` if there were too many to read it.
    bytes: Option<Result<Bytes, StoreError>>,
}

/// The head of one writer, as it was found in a region.
#[derive(Debug)]
pub struct FoundHead {
    /// Whose it is, by its name.
    pub writer: KeyName,
    /// When it was stored, by the region's clock, where the region says so.
    pub stored: Option<UtcTime>,
    /// What it says, or why it cannot be used.
    pub head: Result<Head, HeadError>,
}

impl HeadNotes {
    /// Reads the first `HEADS_MAX` of them; the others are only named, as far as one page of a listing goes.
    ///
    /// # Errors
    /// Only if they cannot be listed.
    pub async fn read_all(store: &dyn Store) -> Result<Self, StoreError> {
        let page = store.list(layout::HEADS_PREFIX, None).await?;
        let mut notes = Vec::new();
        for entry in page.entries {
            let Some(StoredName::Head { writer }) = layout::parse(&entry.key) else { continue };
            let bytes = match notes.len() < HEADS_MAX {
                false => None,
                true => match store.get(&entry.key, small_object()).await {
                    Err(StoreError::NotFound { .. }) => continue,
                    read => Some(read),
                },
            };
            notes.push(FoundNote { writer, stored: entry.meta.modified, bytes });
        }
        Ok(Self(notes))
    }

    /// The heads, as far as they can be used. One that cannot does not hide the others.
    #[must_use]
    pub fn judge(self, trust: &LogTrust) -> Vec<FoundHead> {
        let judge = |FoundNote { writer, stored, bytes }: FoundNote| {
            let head = match bytes {
                Some(Ok(bytes)) => Head::from_note(&bytes, &writer, trust),
                Some(Err(source)) => Err(HeadError::Store { writer: writer.clone(), source }),
                None => Err(HeadError::TooMany { writer: writer.clone() }),
            };
            FoundHead { writer, stored, head }
        };
        self.0.into_iter().map(judge).collect()
    }
}

/// The head of one writer in one region, as its writer keeps it.
#[derive(Debug)]
pub struct HeadFile {
    writer: KeyName,
    trust: LogTrust,
    version: Option<ObjectVersion>,
    /// What was written here, or may have been; the newest last, and no more than [`WRITTEN_KEPT`].
    written: Vec<Sha256Digest>,
    /// What lies there, as it was last read.
    found: Option<Sha256Digest>,
}

/// What [`HeadFile::open`] found of an earlier run.
#[derive(Debug)]
pub enum EarlierHead {
    /// Nothing: the writer is new in this region.
    Nothing,
    /// Its last sign of life.
    Head(Head),
    /// Something that cannot be used, and will be replaced.
    Unusable(HeadError),
}

impl HeadFile {
    /// Looks at what an earlier run of `writer` has left. `trust` names the keys that may sign it, and the region.
    ///
    /// # Errors
    /// [`HeadError::Store`]; nothing is known then.
    pub async fn open(store: &dyn Store, writer: &KeyName, trust: &LogTrust) -> Result<(Self, EarlierHead), HeadError> {
        let mut file =
            Self { writer: writer.clone(), trust: trust.clone(), version: None, written: Vec::new(), found: None };
        let earlier = file.look(store).await?;
        Ok((file, earlier))
    }

    /// Reads what is there, and remembers its version: the version first, so that a change in between is noticed later.
    async fn look(&mut self, store: &dyn Store) -> Result<EarlierHead, HeadError> {
        let key = StoredName::Head { writer: self.writer.clone() }.key();
        let read = async {
            let version = store.head(&key).await?.version;
            Ok((version, store.get(&key, small_object()).await))
        };
        let (version, bytes) = match read.await {
            Ok(found) => found,
            Err(StoreError::NotFound { .. }) => {
                (self.version, self.found) = (None, None);
                return Ok(EarlierHead::Nothing);
            }
            Err(source) => return Err(HeadError::Store { writer: self.writer.clone(), source }),
        };
        self.version = Some(version);
        self.found = bytes.as_ref().ok().map(|bytes| sha256(bytes));
        match bytes {
            Ok(bytes) => Ok(match Head::from_note(&bytes, &self.writer, &self.trust) {
                Ok(head) => EarlierHead::Head(head),
                Err(error) => EarlierHead::Unusable(error),
            }),
            // Larger than any head.
            Err(source @ StoreError::Unsupported { .. }) => {
                Ok(EarlierHead::Unusable(HeadError::Store { writer: self.writer.clone(), source }))
            }
            Err(source) => Err(HeadError::Store { writer: self.writer.clone(), source }),
        }
    }

    /// Replaces the head, if no other installation has done so since. `head` is about this file's writer.
    ///
    /// CRASH SAFETY: one conditional write. Crash or lost answer: the old head or the new one is there; the next write
    /// meets another version, reads it, and finds what it has written. The name of the installation alone says nothing: a copy
    /// of it has the same.
    ///
    /// # Errors
    /// [`HeadError::Overtaken`] if another installation writes under the same name. After [`HeadError::Store`] it may or
    /// may not be written: the next call finds out.
    pub async fn write(&mut self, store: &dyn Store, signer: &NoteSigner, head: &Head) -> Result<(), HeadError> {
        let bytes = head.to_note(signer)?;
        let key = StoredName::Head { writer: self.writer.clone() }.key();
        if self.written.len() >= WRITTEN_KEPT {
            // All of them wait for the same version: the first that arrives is written, and that is most likely the oldest.
            self.written.remove(2);
        }
        self.written.push(sha256(&bytes));
        for _ in 0..ATTEMPTS {
            let mode = self.version.clone().map_or(PutMode::CreateOnly, PutMode::IfUnchanged);
            let body = SealedBody { sha256: sha256(&bytes), bytes: bytes.clone() };
            match store.put(&key, body, mode).await {
                Ok(outcome) => {
                    self.version = Some(outcome.version);
                    self.written.drain(..self.written.len().saturating_sub(1));
                    return Ok(());
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(source) => return Err(HeadError::Store { writer: self.writer.clone(), source }),
            }
            if let EarlierHead::Head(found) = self.look(store).await?
                && !self.found.is_some_and(|found| self.written.contains(&found))
            {
                let Head { writer, instance, time, .. } = found;
                return Err(HeadError::Overtaken { writer, instance, time });
            }
        }
        Err(HeadError::Contended { writer: self.writer.clone() })
    }
}

#[cfg(test)]
mod tests;

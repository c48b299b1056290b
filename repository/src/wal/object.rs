//! WAL as sealed objects: slices, pieces and timeline histories, each signed by itself.
//!
//! No record lists these objects: their name says what they hold, their header repeats it, and the signature of the
//! repository's key binds both. So a new object needs no other write, and a planted or moved one is refused.

use std::sync::Arc;

use bytes::Bytes;
use lifeboat_stores::SealedBody;
use lifeboat_vocabulary::{RecordMark, TimelineId};

use crate::format::compression::{CompressError, Compressor, Decompressor};
use crate::format::header::{HeaderError, ObjectHeader, Trailer, WalPlace};
use crate::format::ids::{EpochId, ObjectId, ObjectKind, RandomError, RepositoryId};
use crate::format::layout::{StoredName, WalForm, WalRange};
use crate::format::seal::{EpochKey, FrameContent, ObjectLayout, SealError};
use crate::format::unseal::{ExpectedObject, ObjectReader, OpenError, check_signed};
use crate::format::wal_mark::WalMark;
use crate::keys::signing::VerifyKey;
use crate::log::note::NoteSigner;
use crate::log::region_log::LogTrust;
use crate::log::roles::Role;
use crate::log::signers::KeyStanding;
use crate::wal::epoch::WalEpoch;
use crate::wal::name::{PIECE_BYTES_MAX, WalObject};

/// The largest timeline history that is written or read, in **bytes**. PostgreSQL writes a line for every promotion.
pub const HISTORY_BYTES_MAX: usize = 1 << 20;
/// Content of a frame before compression, in **bytes**.
const FRAME_RAW_BYTES: usize = 128 << 10;
/// What frames, head, end and trailer add to the content, for objects of others with smaller frames too.
const OVERHEAD_MAX: u64 = 256 << 10;

/// Levels of zstd, 1 to 22.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalLevels {
    /// For slices.
    pub slice: i32,
    /// For pieces and histories.
    pub piece: i32,
}

impl Default for WalLevels {
    /// Level 1 for both: WAL compresses well, and compressing it better is not worth the time.
    fn default() -> Self {
        Self { slice: 1, piece: 1 }
    }
}

/// An object that is ready to be stored. It is sealed once: the same bytes go to all regions and through all retries.
#[derive(Clone, Debug)]
pub struct SealedWal {
    /// Where it belongs.
    pub name: StoredName,
    /// Its bytes.
    pub body: SealedBody,
}

/// Why WAL could not be sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealWalError {
    /// The bytes are not those of the range, or the range is empty or too long.
    #[error("{bytes} bytes are not the WAL of {range} (1 to {PIECE_BYTES_MAX} bytes)")]
    Range {
        /// The range.
        range: WalRange,
        /// How many bytes were given.
        bytes: usize,
    },
    /// A history that no reader would accept.
    #[error("a timeline history of {bytes} bytes is larger than {HISTORY_BYTES_MAX}")]
    HistoryTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The epoch was made for another repository.
    #[error("the key belongs to repository {epoch}, not to {repository}")]
    OtherRepository {
        /// The sealer's repository.
        repository: RepositoryId,
        /// The epoch's.
        epoch: RepositoryId,
    },
    /// There is no randomness.
    #[error("name an object")]
    Random(#[from] RandomError),
    /// The content could not be compressed.
    #[error("compress WAL")]
    Compress(#[from] CompressError),
    /// The object could not be sealed.
    #[error("seal WAL")]
    Seal(#[from] SealError),
}

/// WAL that is to be sealed.
#[derive(Clone, Copy, Debug)]
pub struct PlainWal<'a> {
    /// Where it belongs.
    pub range: WalRange,
    /// All bytes of the range, at most `PIECE_BYTES_MAX`.
    pub bytes: &'a [u8],
    /// The last whole record that ends at the range's end or before it, if one is known.
    pub last_record: Option<RecordMark>,
}

/// Seals WAL; one per thread. Everything here is CPU-bound.
pub struct WalSealer {
    repository: RepositoryId,
    signer: Arc<NoteSigner>,
    levels: WalLevels,
    compressor: Compressor,
    payload: Vec<u8>,
}

impl WalSealer {
    /// A sealer for `repository`, whose root key `signer` holds.
    ///
    /// # Errors
    /// [`CompressError`] for a level that does not exist, or if zstd has no memory.
    pub fn new(repository: RepositoryId, signer: Arc<NoteSigner>, levels: WalLevels) -> Result<Self, CompressError> {
        let mut compressor = Compressor::new(levels.piece)?;
        compressor.set_level(levels.slice)?;
        Ok(Self { repository, signer, levels, compressor, payload: Vec::new() })
    }

    /// Seals what is new, of whose records nothing is known. `bytes` are all bytes of `range`, at most `PIECE_BYTES_MAX`.
    ///
    /// # Errors
    /// [`SealWalError`], by meaning.
    pub fn seal_slice(&mut self, epoch: &WalEpoch, range: WalRange, bytes: &[u8]) -> Result<SealedWal, SealWalError> {
        self.seal_checked(epoch, WalForm::Slice, PlainWal { range, bytes, last_record: None })
    }

    /// Seals a whole piece in the same way. `bytes` are all bytes of `range`; zeros at their end (PostgreSQL fills a segment with them
    /// after a switch) are not stored.
    ///
    /// # Errors
    /// [`SealWalError`], by meaning.
    pub fn seal_piece(&mut self, epoch: &WalEpoch, range: WalRange, bytes: &[u8]) -> Result<SealedWal, SealWalError> {
        self.seal_checked(epoch, WalForm::Piece, PlainWal { range, bytes, last_record: None })
    }

    /// Seals WAL whose records were checked: the object tells which one is its last.
    ///
    /// # Errors
    /// [`SealWalError`], by meaning.
    pub fn seal_checked(
        &mut self,
        epoch: &WalEpoch,
        form: WalForm,
        wal: PlainWal<'_>,
    ) -> Result<SealedWal, SealWalError> {
        let PlainWal { range, bytes, last_record } = wal;
        let object = WalObject::new(form, range).filter(|_| bytes.len() as u64 == range.len());
        let object = object.ok_or(SealWalError::Range { range, bytes: bytes.len() })?;
        let (kind, level, content) = match form {
            WalForm::Slice => (ObjectKind::WalSlice, self.levels.slice, bytes),
            WalForm::Piece => (ObjectKind::WalSegment, self.levels.piece, without_zeros(bytes)),
        };
        let WalRange { timeline, start, end } = range;
        let place = WalPlace::Range { timeline, start, end };
        let record = last_record.filter(|record| record.timeline == timeline && record.end <= end);
        let mark = WalMark { record, content_crc: crc32c::crc32c(bytes) };
        let body = self.seal(epoch, PlainObject { kind, place, level, content, mark })?;
        Ok(SealedWal { name: object.name(), body })
    }

    /// Seals the history file of `timeline`.
    ///
    /// # Errors
    /// [`SealWalError`], by meaning.
    pub fn seal_history(
        &mut self,
        epoch: &WalEpoch,
        timeline: TimelineId,
        content: &[u8],
    ) -> Result<SealedWal, SealWalError> {
        if content.len() > HISTORY_BYTES_MAX {
            return Err(SealWalError::HistoryTooLarge { bytes: content.len() });
        }
        let (place, level) = (WalPlace::History(timeline), self.levels.piece);
        let mark = WalMark { record: None, content_crc: crc32c::crc32c(content) };
        let body = self.seal(epoch, PlainObject { kind: ObjectKind::SmallBlob, place, level, content, mark })?;
        Ok(SealedWal { name: StoredName::TimelineHistory { timeline }, body })
    }

    fn seal(&mut self, epoch: &WalEpoch, plain: PlainObject<'_>) -> Result<SealedBody, SealWalError> {
        let PlainObject { kind, place, level, content, mark } = plain;
        let repository = self.repository;
        if epoch.repository() != repository {
            return Err(SealWalError::OtherRepository { repository, epoch: epoch.repository() });
        }
        // Drawn anew for every object: content under one key and nonce never differs.
        let header = ObjectHeader::new(kind, repository, epoch.id(), ObjectId::random()?)?;
        let header = ObjectHeader { trailer: Trailer::Marked, place, ..header };
        // WAL mostly shrinks to a third; what does not makes the buffer grow.
        let mut layout = ObjectLayout::new(epoch.key(), header, content.len() / 3 + FRAME_RAW_BYTES)?;
        self.compressor.set_level(level)?;
        for raw in content.chunks(FRAME_RAW_BYTES) {
            let codec = self.compressor.compress(raw, &mut self.payload)?;
            let raw_len = u32::try_from(raw.len()).map_err(|_| SealError::FrameTooLarge { bytes: raw.len() })?;
            layout.push(FrameContent { codec, payload: &self.payload, raw_len })?;
        }
        Ok(layout.seal_marked(&mark, self.signer.key().as_ed25519())?)
    }
}

/// An object before it is sealed.
struct PlainObject<'a> {
    kind: ObjectKind,
    place: WalPlace,
    /// Of compression.
    level: i32,
    content: &'a [u8],
    mark: WalMark,
}

/// Content up to its last byte that is not zero.
fn without_zeros(bytes: &[u8]) -> &[u8] {
    const STRIDE: usize = 4096;
    let mut kept = bytes;
    // Whole blocks first, without a branch for every byte: most of a segment may be zeros.
    while let Some((rest, block)) = kept.len().checked_sub(STRIDE).and_then(|at| kept.split_at_checked(at)) {
        if block.iter().fold(0, |all, byte| all | byte) != 0 {
            break;
        }
        kept = rest;
    }
    let length = kept.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    kept.get(..length).unwrap_or(kept)
}

/// What an object says of itself, under a signature that was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedWal {
    /// The epoch that it is sealed under.
    pub epoch: EpochId,
    /// What it says of its content, if it does.
    pub mark: Option<WalMark>,
    /// Whether the key that has signed it was revoked since.
    pub standing: KeyStanding,
}

/// What objects with WAL are measured against.
#[derive(Clone, Debug)]
pub struct WalTrust {
    repository: RepositoryId,
    signers: Vec<ed25519_dalek::VerifyingKey>,
    /// Those of them that were revoked.
    revoked: Vec<ed25519_dalek::VerifyingKey>,
}

/// Why an object is not the WAL that it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenWalError {
    /// The name is not one of WAL.
    #[error("{name} does not name WAL")]
    Name {
        /// The name.
        name: StoredName,
    },
    /// It is not the object that its name says, or not genuine.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its content is longer or shorter than its name says.
    #[error("its content has {found} bytes, its name says {expected}")]
    Length {
        /// What the name says.
        expected: u64,
        /// What was found; where it is too long, what was found before reading stopped.
        found: u64,
    },
}

impl WalTrust {
    /// Objects of `repository`, signed by one of `keys`.
    #[must_use]
    pub fn new(repository: RepositoryId, keys: &[VerifyKey]) -> Self {
        Self { repository, signers: keys.iter().map(|key| *key.as_ed25519()).collect(), revoked: Vec::new() }
    }

    /// Objects of the repository that a log was read with, signed by the keys that may write WAL by that log. Also by keys that were
    /// revoked since: what they have signed before stays readable.
    #[must_use]
    pub fn of(trust: &LogTrust) -> Self {
        let keys = trust.signers.that_had(Role::Writer);
        let revoked = keys.iter().filter(|key| trust.signers.standing(key) == KeyStanding::Revoked);
        Self { revoked: revoked.map(|key| *key.as_ed25519()).collect(), ..Self::new(trust.repository, &keys) }
    }

    /// The repository.
    #[must_use]
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// Under which epoch an object says that it is sealed. Only [`Self::open`] verifies it.
    ///
    /// # Errors
    /// [`OpenError`] if it does not begin like a sealed object.
    pub fn claimed_epoch(object: &[u8]) -> Result<EpochId, OpenError> {
        ObjectHeader::parse(object).map(|header| header.epoch).map_err(|error| match error {
            HeaderError::Truncated => OpenError::Truncated { bytes: object.len() },
            other => other.into(),
        })
    }

    /// Checks an object that was found at `name` without any key: that it was signed for exactly this place, and that
    /// every byte is as its writer left it. The caller compares the epoch that it is sealed under with the logs. What the WAL says cannot be seen this way; two runs of a writer may have sealed the same WAL differently.
    ///
    /// # Errors
    /// [`OpenWalError`], by meaning.
    pub fn check_sealed(&self, name: &StoredName, object: &[u8]) -> Result<SignedWal, OpenWalError> {
        let expected = Expected::of(name).ok_or_else(|| OpenWalError::Name { name: name.clone() })?;
        let epoch = Self::claimed_epoch(object)?;
        let place = Some(expected.place);
        let (kind, repository) = (expected.kind, self.repository);
        let expected = ExpectedObject { kind, repository, epoch, object: None, place };
        let signed = check_signed(&expected, &self.signers, object)?;
        let is_revoked = signed.signer.is_some_and(|signer| self.revoked.contains(&signer));
        let standing = if is_revoked { KeyStanding::Revoked } else { KeyStanding::InForce };
        Ok(SignedWal { epoch, mark: signed.mark, standing })
    }

    /// Opens an object that this process has sealed itself, with the key that it still has. CPU-bound.
    ///
    /// # Errors
    /// [`OpenWalError`], by meaning.
    pub fn open_own(&self, name: &StoredName, epoch: &WalEpoch, object: Bytes) -> Result<Bytes, OpenWalError> {
        let no_memory = |source| OpenError::Decompress { index: 0, source };
        let mut decompressor = Decompressor::new().map_err(no_memory)?;
        self.open(name, epoch.key(), object, &mut decompressor)
    }

    /// Opens an object that was found at `name`: verifies who signed it, that it is what its name says, and that it is
    /// complete. Returns the WAL, exactly as long as the range; what a piece lacks at its end is zeros. Of a history
    /// returns the file. CPU-bound; takes at most twice the length of the range.
    ///
    /// # Errors
    /// [`OpenWalError`], by meaning. Nothing of the object may be used then.
    pub(crate) fn open(
        &self,
        name: &StoredName,
        key: &EpochKey,
        object: Bytes,
        decompressor: &mut Decompressor,
    ) -> Result<Bytes, OpenWalError> {
        let expected = Expected::of(name).ok_or_else(|| OpenWalError::Name { name: name.clone() })?;
        let epoch = Self::claimed_epoch(&object)?;
        let place = Some(expected.place);
        let header = ExpectedObject { kind: expected.kind, repository: self.repository, epoch, object: None, place };
        let mut reader = ObjectReader::new(key, &header, &self.signers, object)?;
        let mut content = Vec::with_capacity(expected.reserve());
        while let Some(raw) = reader.next_frame(decompressor)? {
            let found = content.len() as u64 + raw.len() as u64;
            if found > expected.longest {
                return Err(OpenWalError::Length { expected: expected.longest, found });
            }
            content.extend_from_slice(raw);
        }
        let found = content.len() as u64;
        match expected.kind {
            ObjectKind::WalSlice if found != expected.longest => {
                return Err(OpenWalError::Length { expected: expected.longest, found });
            }
            ObjectKind::WalSegment => content.resize(expected.reserve(), 0),
            _ => {}
        }
        Ok(content.into())
    }
}

/// What a name promises.
struct Expected {
    kind: ObjectKind,
    place: WalPlace,
    /// The most content that it may have, in bytes; of a slice exactly that.
    longest: u64,
}

impl Expected {
    fn of(name: &StoredName) -> Option<Self> {
        let (kind, form, range) = match name {
            StoredName::WalSlice(range) => (ObjectKind::WalSlice, WalForm::Slice, range),
            StoredName::WalSegment(range) => (ObjectKind::WalSegment, WalForm::Piece, range),
            StoredName::TimelineHistory { timeline } => {
                let (kind, place) = (ObjectKind::SmallBlob, WalPlace::History(*timeline));
                return Some(Self { kind, place, longest: HISTORY_BYTES_MAX as u64 });
            }
            _ => return None,
        };
        let WalRange { timeline, start, end } = WalObject::new(form, *range)?.range;
        Some(Self { kind, place: WalPlace::Range { timeline, start, end }, longest: range.len() })
    }

    /// Length of the range; of a history a guess.
    fn reserve(&self) -> usize {
        match self.place {
            WalPlace::Range { .. } => usize::try_from(self.longest).unwrap_or_default(),
            _ => 4096,
        }
    }
}

/// The most **bytes** that an object at this name can have. To read more would be a waste.
#[must_use]
pub fn stored_bytes_max(name: &StoredName) -> u64 {
    Expected::of(name).map_or(0, |expected| expected.longest + expected.longest / 8 + OVERHEAD_MAX)
}

#[cfg(test)]
mod tests;

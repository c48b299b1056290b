//! Packs: objects that hold frames of many files, with a table of contents at the end.
//!
//! The index knows where every frame lies; the table of contents is for the day on which the index is lost.

use lifeboat_stores::SealedBody;

use crate::format::frame::{Codec, END_BYTES, FRAME_OVERHEAD, FrameFault, FramePlace, FrameType};
use crate::format::header::{ObjectHeader, Trailer, WalPlace};
use crate::format::ids::{EpochId, ObjectId, ObjectKind, RandomError, RepositoryId, Salt};
use crate::format::seal::{EpochKey, FrameContent, ObjectLayout, SealError, largest_object};
use crate::format::toc::{FOOTER_BYTES, PackFooter, TocEntry, TocError, TocWriter, parse_toc};
use crate::format::unseal::{ExpectedObject, OpenError, OpenedFrame, Opener};

/// The least room in which a pack makes sense, in **bytes**.
pub const PACK_BYTES_MIN: usize = 64 << 10;
/// Three numbers of at most 32 bits.
const TOC_ENTRY_BYTES_MAX: usize = 15;

/// Why a pack could not be filled or sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The pack has no room for the frame; ask [`PackBuilder::fits`] first.
    #[error("the pack has no room for {payload_len} more bytes")]
    Full {
        /// Bytes of the payload.
        payload_len: usize,
    },
    /// No pack can have this size.
    #[error("a pack cannot have {bytes} bytes ({PACK_BYTES_MIN} to {})", largest_object())]
    Capacity {
        /// What was asked for.
        bytes: usize,
    },
    /// The object could not be sealed.
    #[error("seal the pack")]
    Seal(#[from] SealError),
}

impl From<RandomError> for PackError {
    fn from(error: RandomError) -> Self {
        Self::Seal(error.into())
    }
}

/// Whether a pack has room for one more frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fits {
    /// It has.
    Yes,
    /// It has not: seal it, and begin another.
    No,
}

/// A pack that is being filled: one buffer, in which the frames lie at their final place from the beginning.
pub struct PackBuilder {
    layout: ObjectLayout,
    capacity: usize,
    toc: TocWriter,
}

impl PackBuilder {
    /// Begins a pack of at most `capacity` **bytes**, [`PACK_BYTES_MIN`] to 64 MiB; takes that much memory at once.
    ///
    /// # Errors
    /// [`PackError::Capacity`], or [`PackError::Seal`] without random bytes for its salt.
    pub fn new(
        key: &EpochKey,
        repository: RepositoryId,
        epoch: EpochId,
        object: ObjectId,
        capacity: usize,
    ) -> Result<Self, PackError> {
        let header = ObjectHeader::new(ObjectKind::Pack, repository, epoch, object)?;
        Self::with_header(key, header, capacity)
    }

    /// As [`PackBuilder::new`], with a header whose salt was drawn before. A salt must never be used twice.
    ///
    /// # Errors
    /// [`PackError::Capacity`], or [`PackError::Seal`] if the header is not a pack's.
    pub fn with_header(key: &EpochKey, header: ObjectHeader, capacity: usize) -> Result<Self, PackError> {
        if !(PACK_BYTES_MIN..=largest_object()).contains(&capacity) {
            return Err(PackError::Capacity { bytes: capacity });
        }
        let layout = ObjectLayout::new(key, header, capacity)?;
        Ok(Self { layout, capacity, toc: TocWriter::default() })
    }

    /// The salt, which the index keeps so that frames can be read without the pack's head.
    #[must_use]
    pub fn salt(&self) -> Salt {
        self.layout.header().salt
    }

    /// Size of the pack if it were sealed now, in **bytes**.
    #[must_use]
    pub fn len(&self) -> usize {
        self.layout.len() + 2 * FRAME_OVERHEAD + self.toc.encoded.len() + END_BYTES + FOOTER_BYTES
    }

    /// Whether it holds no frame yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.layout.data_frames() == 0
    }

    /// Whether a frame with `payload_len` bytes has room.
    #[must_use]
    pub fn fits(&self, payload_len: usize) -> Fits {
        let needed = self.len().saturating_add(payload_len).saturating_add(FRAME_OVERHEAD + TOC_ENTRY_BYTES_MAX);
        if needed <= self.capacity { Fits::Yes } else { Fits::No }
    }

    /// Copies a payload to its place. Nothing is encrypted yet. `raw_len` is its length once decoded, in **bytes**.
    ///
    /// # Errors
    /// [`PackError::Full`] if it does not fit, [`PackError::Seal`] if it is larger than a frame may be.
    pub fn push(&mut self, codec: Codec, payload: &[u8], raw_len: u32) -> Result<FramePlace, PackError> {
        if self.fits(payload.len()) == Fits::No {
            return Err(PackError::Full { payload_len: payload.len() });
        }
        let place = self.layout.push(FrameContent { codec, payload, raw_len })?;
        self.toc.push(place.offset, raw_len, place.stored_len);
        Ok(place)
    }

    /// Encrypts all frames in place, adds table of contents, end and footer, and computes the SHA-256. Costs about a
    /// millisecond per MiB: call it on a worker thread.
    ///
    /// # Errors
    /// [`PackError::Seal`] if the cipher fails.
    pub fn seal(mut self) -> Result<SealedBody, PackError> {
        let frames = u32::try_from(self.layout.data_frames()).unwrap_or(u32::MAX);
        let toc = self.layout.lay(FrameType::Toc, Codec::Stored, &self.toc.encoded)?;
        let footer = PackFooter { toc_offset: u64::from(toc.offset), toc_len: toc.stored_len, frames };
        Ok(self.layout.seal_with_footer(&footer.encode())?)
    }
}

/// Opens frames of a pack, read one by one or in stretches.
pub struct PackReader(Opener);

impl PackReader {
    /// A reader for the pack whose first 144 bytes are `head`.
    ///
    /// # Errors
    /// [`OpenError`] if it is another object, or sealed under another key.
    pub fn from_head(key: &EpochKey, expected: &ExpectedObject, head: &[u8]) -> Result<Self, OpenError> {
        Opener::new(key, expected, head).map(Self)
    }

    /// A reader for a pack whose object id and salt come from an authenticated index.
    ///
    /// # Errors
    /// [`OpenError`] if no key can be derived.
    pub fn from_index(
        key: &EpochKey,
        repository: RepositoryId,
        epoch: EpochId,
        object: ObjectId,
        salt: Salt,
    ) -> Result<Self, OpenError> {
        let (kind, trailer, place) = (ObjectKind::Pack, Trailer::Absent, WalPlace::Nowhere);
        let header = ObjectHeader { kind, trailer, repository, epoch, object, salt, place };
        Opener::from_known_header(key, header).map(Self)
    }

    /// Opens a content frame in place; `bytes` are the `stored_len` bytes at its offset.
    ///
    /// # Errors
    /// [`OpenError::Frame`] if they are not that frame, [`OpenError::Truncated`] if they are fewer.
    pub fn open<'a>(&self, place: FramePlace, bytes: &'a mut [u8]) -> Result<OpenedFrame<'a>, OpenError> {
        self.open_as(FrameType::Data, place.frame, bytes)
    }

    /// Opens the table of contents, which lies where the footer says, and checks that it lists as many frames.
    ///
    /// # Errors
    /// [`OpenError`] if it is not the table of contents of this pack.
    pub fn open_toc(&self, footer: &PackFooter, bytes: &mut [u8]) -> Result<Vec<TocEntry>, OpenError> {
        let entries = parse_toc(self.open_as(FrameType::Toc, footer.frames, bytes)?.payload)?;
        if u32::try_from(entries.len()) == Ok(footer.frames) { Ok(entries) } else { Err(TocError::Differs.into()) }
    }

    fn open_as<'a>(&self, kind: FrameType, index: u32, bytes: &'a mut [u8]) -> Result<OpenedFrame<'a>, OpenError> {
        let opened = self.0.open_frame(index, bytes)?;
        if opened.kind == kind { Ok(opened) } else { Err(OpenError::Frame { index, fault: FrameFault::Misplaced }) }
    }
}

//! Packs: objects that hold frames of many files, with a table of contents at the end.
//!
//! The index knows where every frame lies; the table of contents is for the day on which the index is lost.

use lifeboat_stores::SealedBody;

use crate::format::frame::Codec;
use crate::format::frame::{END_BYTES, FRAME_OVERHEAD, FrameFault, FramePlace, FrameType};
use crate::format::header::{ObjectHeader, Trailer, WalPlace};
use crate::format::ids::{EpochId, ObjectId, ObjectKind, RandomError, RepositoryId, Salt};
use crate::format::seal::{EpochKey, FrameContent, ObjectLayout, SealError, largest_object};
use crate::format::unseal::{ExpectedObject, OpenError, OpenedFrame, Opener};
use crate::format::varint;

/// Length of the footer of a pack in **bytes**.
pub const FOOTER_BYTES: usize = 32;
/// The size of packs if memory allows, in **bytes**.
pub const PACK_BYTES_DEFAULT: usize = 16 << 20;
/// The least room in which a pack makes sense, in **bytes**.
pub const PACK_BYTES_MIN: usize = 64 << 10;
const FOOTER_MAGIC: &[u8; 8] = b"LFB1FOOT";
/// The table of contents gives the length of frames without their plain head.
const PLAIN_BYTES: u32 = 8;
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

/// Why a table of contents is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TocError {
    /// It is not a list of frames.
    #[error("it is not a list of frames")]
    Malformed,
    /// It lists other frames than the pack holds, or there is none.
    #[error("it does not list the frames of the pack")]
    Differs,
    /// The footer does not say where it is.
    #[error("the footer does not say where it is")]
    Footer,
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

/// The plain last 32 bytes of a pack. Nothing authenticates them: they only say where the table of contents is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackFooter {
    /// Offset of the frame that holds the table of contents, in **bytes**.
    pub toc_offset: u64,
    /// Length of that frame with head and tag, in **bytes**.
    pub toc_len: u32,
    /// Content frames in the pack; also the number of the frame that holds the table of contents.
    pub frames: u32,
}

impl PackFooter {
    /// Writes the 32 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        let parts = [&self.toc_offset.to_le_bytes()[..], &self.toc_len.to_le_bytes(), &self.frames.to_le_bytes()];
        let encoded = parts.into_iter().flatten().chain(FOOTER_MAGIC);
        bytes.iter_mut().zip(encoded).for_each(|(to, from)| *to = *from);
        bytes
    }

    /// Reads the last 32 bytes of a pack.
    ///
    /// # Errors
    /// [`TocError::Footer`] if they are no footer.
    pub fn parse(bytes: &[u8; FOOTER_BYTES]) -> Result<Self, TocError> {
        let (offset, rest) = bytes.split_first_chunk().ok_or(TocError::Footer)?;
        let (length, rest) = rest.split_first_chunk().ok_or(TocError::Footer)?;
        let (frames, rest) = rest.split_first_chunk().ok_or(TocError::Footer)?;
        let footer = Self {
            toc_offset: u64::from_le_bytes(*offset),
            toc_len: u32::from_le_bytes(*length),
            frames: u32::from_le_bytes(*frames),
        };
        if rest == [&FOOTER_MAGIC[..], &[0; 8]].concat() { Ok(footer) } else { Err(TocError::Footer) }
    }
}

/// A line of a pack's table of contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TocEntry {
    /// Where the frame lies.
    pub place: FramePlace,
    /// Length of its content once decoded, in **bytes**.
    pub raw_len: u32,
}

#[derive(Default)]
struct TocWriter {
    encoded: Vec<u8>,
    last_offset: u32,
}

impl TocWriter {
    fn push(&mut self, offset: u32, raw_len: u32, stored_len: u32) {
        varint::write(u64::from(offset - self.last_offset), &mut self.encoded);
        varint::write(u64::from(raw_len), &mut self.encoded);
        varint::write(u64::from(stored_len.saturating_sub(PLAIN_BYTES)), &mut self.encoded);
        self.last_offset = offset;
    }
}

/// Reads a decrypted table of contents.
///
/// # Errors
/// [`TocError::Malformed`] if it is not a list of frames, each behind the one before it.
pub fn parse_toc(mut bytes: &[u8]) -> Result<Vec<TocEntry>, TocError> {
    let mut entries = Vec::new();
    let (mut offset, mut frame) = (0_u32, 0_u32);
    while !bytes.is_empty() {
        let mut number = || varint::read_u32(&mut bytes).map_err(|_| TocError::Malformed);
        let (delta, raw_len, sealed_len) = (number()?, number()?, number()?);
        offset = offset.checked_add(delta).ok_or(TocError::Malformed)?;
        let stored_len = sealed_len.checked_add(PLAIN_BYTES).ok_or(TocError::Malformed)?;
        entries.push(TocEntry { place: FramePlace { frame, offset, stored_len }, raw_len });
        frame = frame.checked_add(1).ok_or(TocError::Malformed)?;
    }
    Ok(entries)
}

/// Compares a table of contents with the frames that were really there. Its encoding is unique, so bytes are compared.
#[derive(Default)]
pub(crate) struct TocReader {
    found: TocWriter,
    frames: u32,
    filled: Option<PackFooter>,
}

impl TocReader {
    pub(crate) fn is_filled(&self) -> bool {
        self.filled.is_some()
    }

    /// A content frame was read.
    pub(crate) fn saw(&mut self, offset: usize, stored_len: usize, raw_len: usize) -> Result<(), TocError> {
        let narrow = |number: usize| u32::try_from(number).map_err(|_| TocError::Differs);
        self.found.push(narrow(offset)?, narrow(raw_len)?, narrow(stored_len)?);
        self.frames += 1;
        Ok(())
    }

    /// The table of contents was read.
    pub(crate) fn fill(&mut self, toc: &[u8], offset: usize, stored_len: usize) -> Result<(), TocError> {
        if self.is_filled() || toc != self.found.encoded {
            return Err(TocError::Differs);
        }
        let toc_len = u32::try_from(stored_len).map_err(|_| TocError::Differs)?;
        self.filled = Some(PackFooter { toc_offset: offset as u64, toc_len, frames: self.frames });
        Ok(())
    }

    /// The footer was read; it must say what is true.
    pub(crate) fn compare_footer(&self, footer: &PackFooter) -> Result<(), TocError> {
        match &self.filled {
            None => Err(TocError::Differs),
            Some(found) if found == footer => Ok(()),
            Some(_) => Err(TocError::Footer),
        }
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

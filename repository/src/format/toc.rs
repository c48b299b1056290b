//! The table of contents of a pack, and the footer that says where it is.

use crate::format::frame::FramePlace;
use crate::format::varint;

/// Length of the footer of a pack in **bytes**.
pub const FOOTER_BYTES: usize = 32;
const FOOTER_MAGIC: &[u8; 8] = b"LFB1FOOT";
/// The table of contents gives the length of frames without their plain head.
const PLAIN_BYTES: u32 = 8;

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
pub(crate) struct TocWriter {
    pub(crate) encoded: Vec<u8>,
    last_offset: u32,
}

impl TocWriter {
    pub(crate) fn push(&mut self, offset: u32, raw_len: u32, stored_len: u32) {
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

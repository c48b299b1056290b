//! Opening: nothing of an object is used before its header, commitment and frame were proven genuine.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use ed25519_dalek::VerifyingKey;
use lifeboat_vocabulary::counted;

use crate::format::aead::{ObjectAead, TAG_BYTES};
use crate::format::compression::{DecompressError, Decompressor};
use crate::format::derive::{COMMITMENT_BYTES, Derived};
use crate::format::frame::{Codec, END_BYTES, FRAME_BYTES_MAX, FRAME_HEAD_BYTES, FrameFault, FrameHead, FrameType};
use crate::format::header::{HEAD_BYTES, HEADER_BYTES, HeaderError, HeaderField, ObjectHeader, Trailer, WalPlace};
use crate::format::ids::{EpochId, ObjectId, ObjectKind, RepositoryId};
use crate::format::seal::EpochKey;
use crate::format::toc::{FOOTER_BYTES, PackFooter, TocError, TocReader};
use crate::format::trailer::{self, SignatureFault, TRAILER_BYTES};
use crate::format::wal_mark::{WAL_MARK_BYTES, WalMark};

/// Which object a reader expects. What is not known beforehand is `None` and is not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedObject {
    /// What it holds.
    pub kind: ObjectKind,
    /// The repository to which it belongs.
    pub repository: RepositoryId,
    /// The key it is sealed under.
    pub epoch: EpochId,
    /// Its name.
    pub object: Option<ObjectId>,
    /// Its part of the WAL.
    pub place: Option<WalPlace>,
}

/// Why an object is not accepted. By meaning: a wrong key, a wrong object, damage, or a newer format.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The bytes are not a sealed object.
    #[error("this is not a sealed object")]
    NotLfb1,
    /// A later version of the format.
    #[error("format version {found} is not known; a newer release reads it")]
    UnsupportedMajor {
        /// The version.
        found: u8,
    },
    /// Another set of algorithms.
    #[error("cipher suite {found} is not known; a newer release may read it")]
    UnsupportedSuite {
        /// The suite.
        found: u8,
    },
    /// A header that this version never writes.
    #[error("the header's {field} make no sense")]
    Malformed {
        /// The field.
        field: HeaderField,
    },
    /// A genuine-looking object, but not the one that was asked for.
    #[error("this is another object: its {field} is not the one expected")]
    WrongObject {
        /// The field.
        field: HeaderField,
    },
    /// The key is not the one that the object was sealed with, or its header was changed.
    #[error("the key does not fit, or the header was changed")]
    Commitment,
    /// A frame was changed, moved, or comes from another object.
    #[error("frame {index} is not accepted")]
    Frame {
        /// Its number, from 0.
        index: u32,
        /// What is wrong with it.
        #[source]
        fault: FrameFault,
    },
    /// A frame was genuine, and its content does not decompress.
    #[error("decompress frame {index}")]
    Decompress {
        /// Its number, from 0.
        index: u32,
        /// What is wrong with it.
        source: DecompressError,
    },
    /// The object ends before its END frame.
    #[error("the object is cut off after {}", counted(*.bytes as u64, "byte", "bytes"))]
    Truncated {
        /// What there is.
        bytes: usize,
    },
    /// Something follows the end of the object.
    #[error("more follows the end of the object: {}", counted(*.bytes as u64, "byte", "bytes"))]
    TrailingBytes {
        /// How many.
        bytes: usize,
    },
    /// The numbers in the END frame are not those of the frames.
    #[error("the object holds {} with {}, its end says otherwise", counted(*.frames, "frame", "frames"), counted(*.raw_bytes, "byte", "bytes"))]
    Counts {
        /// Content frames found.
        frames: u64,
        /// Bytes in them, decompressed.
        raw_bytes: u64,
    },
    /// A pack's table of contents does not fit its frames, or is missing.
    #[error("read the table of contents")]
    Toc(#[from] TocError),
    /// The signature is missing, by another key, or over other bytes.
    #[error("check the signature")]
    Signature(#[from] SignatureFault),
}

impl From<HeaderError> for OpenError {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::NotLfb1 => Self::NotLfb1,
            HeaderError::Truncated => Self::Truncated { bytes: 0 },
            HeaderError::UnsupportedMajor { found } => Self::UnsupportedMajor { found },
            HeaderError::UnsupportedSuite { found } => Self::UnsupportedSuite { found },
            HeaderError::Malformed { field } => Self::Malformed { field },
        }
    }
}

/// A frame that is proven genuine.
#[derive(Debug, PartialEq, Eq)]
pub struct OpenedFrame<'a> {
    /// What it is for.
    pub kind: FrameType,
    /// How `payload` is encoded.
    pub codec: Codec,
    /// The decrypted payload, in the caller's own buffer.
    pub payload: &'a [u8],
}

/// Opens the frames of one object, in any order.
pub struct Opener {
    header: ObjectHeader,
    keys: Derived<ObjectAead>,
}

impl Opener {
    /// Checks the first 144 bytes of an object: that it is the expected one, and that it was sealed under `key`.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::Commitment`] means the wrong key.
    pub fn new(key: &EpochKey, expected: &ExpectedObject, head: &[u8]) -> Result<Self, OpenError> {
        let truncated = || OpenError::Truncated { bytes: head.len() };
        let header = parse_header(head)?;
        expected.compare(&header)?;
        let (encoded, rest) = head.split_first_chunk::<HEADER_BYTES>().ok_or_else(truncated)?;
        let commitment = rest.first_chunk::<COMMITMENT_BYTES>().ok_or_else(truncated)?;
        let keys = key.derive(encoded).map_err(|_| OpenError::Commitment)?;
        if keys.is_committed_by(commitment) { Ok(Self { header, keys }) } else { Err(OpenError::Commitment) }
    }

    /// An opener for an object whose whole header is known from an authenticated source, such as the index. Saves
    /// reading the object's head; its commitment is not needed, because the header is our own.
    ///
    /// # Errors
    /// [`OpenError::Malformed`] if the header contradicts itself.
    pub(crate) fn from_known_header(key: &EpochKey, header: ObjectHeader) -> Result<Self, OpenError> {
        let keys = key.derive(&header.encode()?).map_err(|_| OpenError::Commitment)?;
        Ok(Self { header, keys })
    }

    /// The header, every byte of which went into the key.
    #[must_use]
    pub fn header(&self) -> &ObjectHeader {
        &self.header
    }

    /// Opens one frame in place; `frame` is the frame and nothing else. Allocates nothing.
    ///
    /// # Errors
    /// [`OpenError::Frame`] if it is not the frame that was sealed under this number.
    pub fn open_frame<'a>(&self, index: u32, frame: &'a mut [u8]) -> Result<OpenedFrame<'a>, OpenError> {
        let bytes = frame.len();
        let fail = |fault| OpenError::Frame { index, fault };
        let truncated = || OpenError::Truncated { bytes };
        let (aad, behind) = frame.split_first_chunk_mut::<FRAME_HEAD_BYTES>().ok_or_else(truncated)?;
        let head = FrameHead::parse(*aad).map_err(fail)?;
        if bytes != head.stored_len() {
            let [_, _, _, _, length @ ..] = *aad;
            return Err(fail(FrameFault::Length { found: u32::from_le_bytes(length) }));
        }
        let (payload, tag) = behind.split_at_mut_checked(head.payload_len).ok_or_else(truncated)?;
        let tag: &[u8; TAG_BYTES] = tag.first_chunk().ok_or_else(truncated)?;
        self.keys.open(index, &*aad, payload, tag).map_err(|_| fail(FrameFault::NotGenuine))?;
        Ok(OpenedFrame { kind: head.kind, codec: head.codec, payload })
    }
}

fn parse_header(bytes: &[u8]) -> Result<ObjectHeader, OpenError> {
    ObjectHeader::parse(bytes).map_err(|error| match OpenError::from(error) {
        OpenError::Truncated { .. } => OpenError::Truncated { bytes: bytes.len() },
        other => other,
    })
}

impl ExpectedObject {
    fn compare(&self, found: &ObjectHeader) -> Result<(), OpenError> {
        let wrong = [
            (self.kind != found.kind, HeaderField::Kind),
            (self.repository != found.repository, HeaderField::Repository),
            (self.epoch != found.epoch, HeaderField::Epoch),
            (self.object.is_some_and(|object| object != found.object), HeaderField::Object),
            (self.place.is_some_and(|place| place != found.place), HeaderField::WalPlace),
        ];
        match wrong.into_iter().find(|(differs, _)| *differs) {
            Some((_, field)) => Err(OpenError::WrongObject { field }),
            None => Ok(()),
        }
    }
}

/// What [`check_signed`] found.
pub(crate) struct SignedObject {
    pub(crate) header: ObjectHeader,
    /// Length of what comes before mark and trailer, in bytes.
    pub(crate) body: usize,
    /// What it says of the WAL in it, if it does.
    pub(crate) mark: Option<WalMark>,
    /// The key that has signed it; `None` if it carries no signature.
    pub(crate) signer: Option<VerifyingKey>,
}

/// Checks what can be checked of a whole object without its key: the header, and the signature over every byte. Without
/// `signers`, an object may be unsigned.
pub(crate) fn check_signed(
    expected: &ExpectedObject,
    signers: &[VerifyingKey],
    object: &[u8],
) -> Result<SignedObject, OpenError> {
    let header = parse_header(object)?;
    expected.compare(&header)?;
    let (signed, signer) = match header.trailer {
        Trailer::Absent if signers.is_empty() => (object, None),
        Trailer::Absent => return Err(SignatureFault::Missing.into()),
        Trailer::Present | Trailer::Marked => {
            let truncated = OpenError::Truncated { bytes: object.len() };
            let (body, found) = object.split_last_chunk::<TRAILER_BYTES>().ok_or(truncated)?;
            let signer = trailer::verify(body, found, signers)?;
            (body, Some(signer))
        }
    };
    let (body, mark) = match header.trailer {
        Trailer::Marked => {
            let truncated = OpenError::Truncated { bytes: object.len() };
            let (body, mark) = signed.split_last_chunk::<WAL_MARK_BYTES>().ok_or(truncated)?;
            (body, Some(WalMark::decode(mark, header.place)))
        }
        Trailer::Absent | Trailer::Present => (signed, None),
    };
    Ok(SignedObject { header, body: body.len(), mark, signer })
}

/// What a whole object turned out to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectSummary {
    /// Its header.
    pub header: ObjectHeader,
    /// Content frames.
    pub data_frames: u64,
    /// Bytes in them, decompressed.
    pub raw_bytes: u64,
}

/// Reads a whole object from front to back, and verifies that it is complete. Decrypts in the buffer that it is given.
///
/// Only after [`ObjectReader::next_frame`] has said `None` is it certain that nothing is missing. After an error, the
/// object must not be read further.
pub struct ObjectReader {
    opener: Opener,
    /// The object without its trailer.
    buffer: BytesMut,
    offset: usize,
    next: u32,
    summary: ObjectSummary,
    toc: Option<TocReader>,
    scratch: Vec<u8>,
    ended: bool,
}

/// What one frame was.
enum Step {
    /// Content, decrypted where it lies.
    Stored(Range<usize>),
    /// Content, decompressed into the scratch buffer.
    Unpacked,
    Toc,
    End,
}

impl ObjectReader {
    /// Begins to read `object`, without copying it if nobody else holds its buffer. Signatures are checked first: a
    /// kind that carries one needs `signers`, and with `signers` given, an object without a signature is refused.
    ///
    /// # Errors
    /// [`OpenError`], by meaning.
    pub fn new(
        key: &EpochKey,
        expected: &ExpectedObject,
        signers: &[VerifyingKey],
        object: Bytes,
    ) -> Result<Self, OpenError> {
        let SignedObject { header, body, .. } = check_signed(expected, signers, &object)?;
        let opener = Opener::new(key, expected, object.get(..body).unwrap_or_default())?;
        let mut buffer = BytesMut::from(object);
        buffer.truncate(body);
        let summary = ObjectSummary { header, data_frames: 0, raw_bytes: 0 };
        let toc = (header.kind == ObjectKind::Pack).then(TocReader::default);
        Ok(Self { opener, buffer, offset: HEAD_BYTES, next: 0, summary, toc, scratch: Vec::new(), ended: false })
    }

    /// The content of the next frame, decompressed; `None` when the object is complete.
    ///
    /// # Errors
    /// [`OpenError`], by meaning.
    pub fn next_frame(&mut self, decompressor: &mut Decompressor) -> Result<Option<&[u8]>, OpenError> {
        while !self.ended {
            match self.step(decompressor)? {
                Step::Stored(range) => return Ok(self.buffer.get(range)),
                Step::Unpacked => return Ok(Some(&self.scratch)),
                Step::Toc => {}
                Step::End => self.ended = true,
            }
        }
        Ok(None)
    }

    /// What was read so far; all there is once [`Self::next_frame`] has said `None`.
    #[must_use]
    pub fn summary(&self) -> ObjectSummary {
        self.summary
    }

    fn step(&mut self, decompressor: &mut Decompressor) -> Result<Step, OpenError> {
        let (index, offset) = (self.next, self.offset);
        let frame = self.claim_frame()?;
        let stored_len = frame.len();
        let payload = frame.start + FRAME_HEAD_BYTES..frame.end - TAG_BYTES;
        let truncated = OpenError::Truncated { bytes: self.buffer.len() };
        let opened = self.opener.open_frame(index, self.buffer.get_mut(frame).ok_or(truncated)?)?;
        let misplaced = || OpenError::Frame { index, fault: FrameFault::Misplaced };
        match opened.kind {
            FrameType::Data => {
                if self.toc.as_ref().is_some_and(TocReader::is_filled) {
                    return Err(misplaced());
                }
                let (step, raw_len) = match opened.codec {
                    Codec::Stored => (Step::Stored(payload), opened.payload.len()),
                    Codec::Zstd => {
                        let unpacked =
                            decompressor.decompress_up_to(opened.payload, FRAME_BYTES_MAX, &mut self.scratch);
                        unpacked.map_err(|source| OpenError::Decompress { index, source })?;
                        (Step::Unpacked, self.scratch.len())
                    }
                };
                self.summary.data_frames += 1;
                self.summary.raw_bytes += raw_len as u64;
                if let Some(toc) = &mut self.toc {
                    toc.saw(offset, stored_len, raw_len)?;
                }
                Ok(step)
            }
            FrameType::Toc => {
                self.toc.as_mut().ok_or_else(misplaced)?.fill(opened.payload, offset, stored_len)?;
                Ok(Step::Toc)
            }
            FrameType::End => {
                let payload: [u8; END_BYTES] = opened.payload.try_into().map_err(|_| misplaced())?;
                self.check_end(payload)?;
                Ok(Step::End)
            }
        }
    }

    /// Where the next frame lies, by the length it claims; nothing but that length is used before it is proven.
    fn claim_frame(&mut self) -> Result<Range<usize>, OpenError> {
        let bytes = self.buffer.len();
        let truncated = || OpenError::Truncated { bytes };
        let rest = self.buffer.get(self.offset..).unwrap_or_default();
        let head = rest.first_chunk::<FRAME_HEAD_BYTES>().ok_or_else(truncated)?;
        let head = FrameHead::parse(*head).map_err(|fault| OpenError::Frame { index: self.next, fault })?;
        if rest.len() < head.stored_len() {
            return Err(truncated());
        }
        let frame = self.offset..self.offset + head.stored_len();
        self.offset = frame.end;
        self.next = self.next.checked_add(1).ok_or(OpenError::TrailingBytes { bytes: rest.len() })?;
        Ok(frame)
    }

    /// Compares the END frame with what was read, and makes sure that nothing follows but what belongs there.
    fn check_end(&self, payload: [u8; END_BYTES]) -> Result<(), OpenError> {
        let ObjectSummary { data_frames: frames, raw_bytes, .. } = self.summary;
        if payload[..] != [frames.to_le_bytes(), raw_bytes.to_le_bytes()].concat() {
            return Err(OpenError::Counts { frames, raw_bytes });
        }
        let rest = self.buffer.get(self.offset..).unwrap_or_default();
        let behind = match &self.toc {
            None => rest,
            Some(toc) => {
                let truncated = OpenError::Truncated { bytes: self.buffer.len() };
                let (footer, behind) = rest.split_first_chunk::<FOOTER_BYTES>().ok_or(truncated)?;
                toc.compare_footer(&PackFooter::parse(footer)?)?;
                behind
            }
        };
        if behind.is_empty() { Ok(()) } else { Err(OpenError::TrailingBytes { bytes: behind.len() }) }
    }
}

/// Verifies that a whole object is genuine and complete, by opening and decompressing all of it.
///
/// # Errors
/// [`OpenError`], by meaning.
pub fn verify_object(
    key: &EpochKey,
    expected: &ExpectedObject,
    signers: &[VerifyingKey],
    object: Bytes,
    decompressor: &mut Decompressor,
) -> Result<ObjectSummary, OpenError> {
    let mut reader = ObjectReader::new(key, expected, signers, object)?;
    while reader.next_frame(decompressor)?.is_some() {}
    Ok(reader.summary())
}

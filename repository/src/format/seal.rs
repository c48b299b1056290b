//! Sealing: frames are laid out in one buffer, and encrypted where they lie when the object is complete.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lifeboat_stores::{OBJECT_BYTES_MAX, SealedBody};
use lifeboat_vocabulary::Secret;

use crate::format::aead::{AeadError, ObjectAead, TAG_BYTES, sha256};
use crate::format::derive::{Derived, HkdfSha256, OBJECT_LABEL, derive};
use crate::format::frame::{
    Codec, END_BYTES, FRAME_BYTES_MAX, FRAME_HEAD_BYTES, FRAME_OVERHEAD, FrameHead, FramePlace, FrameType,
};
use crate::format::header::{HEAD_BYTES, HEADER_BYTES, HeaderError, ObjectHeader, Trailer};
use crate::format::ids::{ObjectKind, RandomError, random_bytes};
use crate::format::trailer::{self, TRAILER_BYTES};
use crate::format::wal_mark::{WAL_MARK_BYTES, WalMark};

/// The key under which a backup, or a day of WAL, is sealed: 32 random bytes, wiped when dropped.
#[derive(Debug)]
pub struct EpochKey(Secret<[u8; 32]>);

impl EpochKey {
    /// A new key.
    ///
    /// # Errors
    /// [`RandomError`] if the operating system has no random bytes to give.
    pub fn random() -> Result<Self, RandomError> {
        random_bytes().map(Secret::new).map(Self)
    }

    /// Takes a key that was unwrapped.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Secret::new(bytes))
    }

    /// The 32 bytes, for wrapping.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// What an object with this header is sealed and opened with.
    pub(crate) fn derive(&self, header: &[u8; HEADER_BYTES]) -> Result<Derived<ObjectAead>, AeadError> {
        derive::<ObjectAead, HkdfSha256>(OBJECT_LABEL, self.expose(), &[header])
    }
}

/// Why an object could not be sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// There is no salt.
    #[error("begin a sealed object")]
    Random(#[from] RandomError),
    /// The header contradicts itself.
    #[error("begin a sealed object")]
    Header(#[from] HeaderError),
    /// A frame is larger than any reader would accept.
    #[error("a frame of {bytes} bytes is larger than {FRAME_BYTES_MAX}")]
    FrameTooLarge {
        /// Its content or payload.
        bytes: usize,
    },
    /// The object would be larger than a store has to take.
    #[error("an object of {bytes} bytes is larger than {OBJECT_BYTES_MAX}")]
    ObjectTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A kind that must be signed without a signing key, or the reverse.
    #[error("a {kind} was given the wrong number of signing keys")]
    Signer {
        /// The kind.
        kind: ObjectKind,
    },
    /// The cipher refused its input.
    #[error("encrypt an object")]
    Cipher(#[from] AeadError),
}

/// What goes into a frame.
#[derive(Clone, Copy, Debug)]
pub struct FrameContent<'a> {
    /// How `payload` is encoded.
    pub codec: Codec,
    /// The bytes to seal; at most `FRAME_BYTES_MAX`.
    pub payload: &'a [u8],
    /// Length of the content once decoded, in **bytes**; at most `FRAME_BYTES_MAX`.
    pub raw_len: u32,
}

impl<'a> FrameContent<'a> {
    /// Content that is stored as it is.
    ///
    /// # Errors
    /// [`SealError::FrameTooLarge`] above `FRAME_BYTES_MAX`.
    pub fn stored(payload: &'a [u8]) -> Result<Self, SealError> {
        let too_large = |_| SealError::FrameTooLarge { bytes: payload.len() };
        Ok(Self { codec: Codec::Stored, payload, raw_len: u32::try_from(payload.len()).map_err(too_large)? })
    }
}

/// Seals a whole object at once, for objects of a few frames. `signer` is needed if and only if the header announces a
/// trailer. CPU-bound.
///
/// # Errors
/// [`SealError`], by meaning.
pub fn seal_object(
    key: &EpochKey,
    header: &ObjectHeader,
    frames: &[FrameContent<'_>],
    signer: Option<&SigningKey>,
) -> Result<SealedBody, SealError> {
    let frame_bytes: usize = frames.iter().map(|frame| frame.payload.len() + FRAME_OVERHEAD).sum();
    let capacity = HEAD_BYTES + frame_bytes + END_BYTES + FRAME_OVERHEAD + TRAILER_BYTES;
    let mut layout = ObjectLayout::new(key, *header, capacity)?;
    for frame in frames {
        layout.push(*frame)?;
    }
    layout.seal(signer)
}

/// An object that is being filled. Payloads lie at their final place from the beginning, still readable; sealing
/// encrypts them there. So an object costs one buffer.
pub(crate) struct ObjectLayout {
    keys: Derived<ObjectAead>,
    header: ObjectHeader,
    buffer: Vec<u8>,
    frames: u32,
    data_frames: u64,
    raw_bytes: u64,
}

impl ObjectLayout {
    pub(crate) fn new(key: &EpochKey, header: ObjectHeader, capacity: usize) -> Result<Self, SealError> {
        let encoded = header.encode()?;
        let keys = key.derive(&encoded)?;
        let mut buffer = Vec::with_capacity(capacity.min(largest_object()));
        buffer.extend_from_slice(&encoded);
        buffer.extend_from_slice(keys.commitment());
        Ok(Self { keys, header, buffer, frames: 0, data_frames: 0, raw_bytes: 0 })
    }

    pub(crate) fn header(&self) -> &ObjectHeader {
        &self.header
    }

    /// Bytes laid out so far.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Content frames so far.
    pub(crate) fn data_frames(&self) -> u64 {
        self.data_frames
    }

    pub(crate) fn push(&mut self, content: FrameContent<'_>) -> Result<FramePlace, SealError> {
        let FrameContent { codec, payload, raw_len } = content;
        if u64::from(raw_len) > FRAME_BYTES_MAX as u64 {
            return Err(SealError::FrameTooLarge { bytes: usize::try_from(raw_len).unwrap_or(usize::MAX) });
        }
        let place = self.lay(FrameType::Data, codec, payload)?;
        self.data_frames += 1;
        self.raw_bytes += u64::from(raw_len);
        Ok(place)
    }

    /// The payload of a frame that was laid, to change it in place before it is sealed.
    pub(crate) fn payload_mut(&mut self, place: FramePlace) -> Option<&mut [u8]> {
        let start = usize::try_from(place.offset).ok()?;
        let stored_len = usize::try_from(place.stored_len).ok()?;
        self.buffer.get_mut(start + FRAME_HEAD_BYTES..(start + stored_len).checked_sub(TAG_BYTES)?)
    }

    /// Lays a frame of any type; the place of the tag stays zero until the frame is encrypted.
    pub(crate) fn lay(&mut self, kind: FrameType, codec: Codec, payload: &[u8]) -> Result<FramePlace, SealError> {
        let head = FrameHead { kind, codec, payload_len: payload.len() };
        let encoded = head.encode().ok_or(SealError::FrameTooLarge { bytes: payload.len() })?;
        let bytes = self.buffer.len() + head.stored_len();
        let too_large = || SealError::ObjectTooLarge { bytes };
        if bytes > largest_object() {
            return Err(too_large());
        }
        let offset = u32::try_from(self.buffer.len()).map_err(|_| too_large())?;
        let stored_len = u32::try_from(head.stored_len()).map_err(|_| too_large())?;
        let place = FramePlace { frame: self.frames, offset, stored_len };
        self.frames = self.frames.checked_add(1).ok_or_else(too_large)?;
        self.buffer.extend_from_slice(&encoded);
        self.buffer.extend_from_slice(payload);
        self.buffer.extend_from_slice(&[0; TAG_BYTES]);
        Ok(place)
    }

    /// Lays the END frame and encrypts everything.
    fn encrypt(&mut self) -> Result<(), SealError> {
        let end = [self.data_frames.to_le_bytes(), self.raw_bytes.to_le_bytes()].concat();
        self.lay(FrameType::End, Codec::Stored, &end)?;
        let mut rest = self.buffer.get_mut(HEAD_BYTES..).ok_or(AeadError)?;
        for number in 0..self.frames {
            let (aad, behind) = rest.split_first_chunk_mut::<FRAME_HEAD_BYTES>().ok_or(AeadError)?;
            let head = FrameHead::parse(*aad).map_err(|_| AeadError)?;
            let (payload, behind) = behind.split_at_mut_checked(head.payload_len).ok_or(AeadError)?;
            let (tag, behind) = behind.split_first_chunk_mut::<TAG_BYTES>().ok_or(AeadError)?;
            *tag = self.keys.seal(number, &*aad, payload)?;
            rest = behind;
        }
        Ok(())
    }

    /// Seals the object; `signer` if and only if the header announces a trailer.
    pub(crate) fn seal(mut self, signer: Option<&SigningKey>) -> Result<SealedBody, SealError> {
        self.encrypt()?;
        match (self.header.trailer, signer) {
            (Trailer::Absent, None) => {}
            (Trailer::Present, Some(signer)) => {
                let trailer = trailer::sign(&self.buffer, signer);
                self.buffer.extend_from_slice(&trailer);
            }
            _ => return Err(SealError::Signer { kind: self.header.kind }),
        }
        Ok(body(self.buffer))
    }

    /// Seals an object whose header announces a mark and a trailer.
    pub(crate) fn seal_marked(mut self, mark: &WalMark, signer: &SigningKey) -> Result<SealedBody, SealError> {
        if self.header.trailer != Trailer::Marked {
            return Err(SealError::Signer { kind: self.header.kind });
        }
        self.encrypt()?;
        self.buffer.extend_from_slice(&mark.encode());
        let trailer = trailer::sign(&self.buffer, signer);
        self.buffer.extend_from_slice(&trailer);
        Ok(body(self.buffer))
    }

    /// Seals the object and appends plain bytes, which nothing authenticates.
    pub(crate) fn seal_with_footer(mut self, footer: &[u8]) -> Result<SealedBody, SealError> {
        self.encrypt()?;
        self.buffer.extend_from_slice(footer);
        Ok(body(self.buffer))
    }
}

fn body(buffer: Vec<u8>) -> SealedBody {
    let sha256 = sha256(&buffer);
    SealedBody { bytes: Bytes::from(buffer), sha256 }
}

/// The size in bytes that every store takes, without what may follow the last frame.
pub(crate) fn largest_object() -> usize {
    usize::try_from(OBJECT_BYTES_MAX.as_bytes()).unwrap_or(usize::MAX) - TRAILER_BYTES - WAL_MARK_BYTES
}

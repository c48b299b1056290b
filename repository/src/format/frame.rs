//! Frames: what a sealed object consists of behind its head.

use crate::format::aead::TAG_BYTES;

/// Length of the plain part in front of every frame in **bytes**. It is the frame's associated data.
pub(crate) const FRAME_HEAD_BYTES: usize = 8;
/// What a frame costs beyond its payload in **bytes**.
pub(crate) const FRAME_OVERHEAD: usize = FRAME_HEAD_BYTES + TAG_BYTES;
/// The largest payload, and the largest content of a frame once decompressed: 16 MiB. Whatever is larger is refused
/// before any memory is taken for it.
pub(crate) const FRAME_BYTES_MAX: usize = 16 << 20;
/// Sizes of frames that a repository may be set to, in **bytes**.
pub(crate) const FRAME_BYTES: std::ops::RangeInclusive<u32> = 32 << 10..=1 << 20;
/// Length of the payload of an END frame in **bytes**.
pub(crate) const END_BYTES: usize = 16;

/// How a frame's payload is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As it is.
    Stored,
    /// One zstd frame (RFC 8878) without magic number, content size and checksum.
    Zstd,
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameType {
    /// Content.
    Data,
    /// The table of contents of a pack; the last but one frame.
    Toc,
    /// The end of the object: how many frames and bytes there are.
    End,
}

/// Where a frame lies in its object. All that is needed to read it with one ranged request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramePlace {
    /// Its number, from 0.
    pub frame: u32,
    /// Offset of its first byte in the object, in **bytes**.
    pub offset: u32,
    /// Its length in the object in **bytes**, with its head and its tag.
    pub stored_len: u32,
}

/// What is wrong with the plain part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameFault {
    /// The type is not known.
    #[error("its type {found} is not known")]
    Type {
        /// The type.
        found: u8,
    },
    /// The codec is not known, or is not allowed here.
    #[error("its codec {found} is not known here")]
    Codec {
        /// The codec.
        found: u8,
    },
    /// The flags are not known.
    #[error("its flags {found:#06x} are not known")]
    Flags {
        /// The flags.
        found: u16,
    },
    /// The length cannot be.
    #[error("its length {found} is out of bounds")]
    Length {
        /// The length that it claims.
        found: u32,
    },
    /// It stands where a frame of its type must not stand.
    #[error("a frame of its type must not stand there")]
    Misplaced,
    /// It is not what was sealed there: changed, moved, or from another object.
    #[error("it is not what was sealed there")]
    NotGenuine,
}

impl Codec {
    /// The byte that stands for the codec.
    #[must_use]
    pub(crate) const fn as_byte(self) -> u8 {
        match self {
            Self::Stored => 0,
            Self::Zstd => 1,
        }
    }
}

impl FrameType {
    const fn as_byte(self) -> u8 {
        match self {
            Self::Data => 0x01,
            Self::Toc => 0x02,
            Self::End => 0xFF,
        }
    }
}

/// The plain part in front of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) kind: FrameType,
    pub(crate) codec: Codec,
    /// Bytes of the payload; without the tag.
    pub(crate) payload_len: usize,
}

impl FrameHead {
    /// `None` if the payload is longer than [`FRAME_BYTES_MAX`].
    pub(crate) fn encode(self) -> Option<[u8; FRAME_HEAD_BYTES]> {
        let length = u32::try_from(self.payload_len + TAG_BYTES).ok()?;
        if self.payload_len > FRAME_BYTES_MAX {
            return None;
        }
        let [a, b, c, d] = length.to_le_bytes();
        Some([self.kind.as_byte(), self.codec.as_byte(), 0, 0, a, b, c, d])
    }

    pub(crate) fn parse(bytes: [u8; FRAME_HEAD_BYTES]) -> Result<Self, FrameFault> {
        let [kind, codec, flags_low, flags_high, a, b, c, d] = bytes;
        let kind = match kind {
            0x01 => FrameType::Data,
            0x02 => FrameType::Toc,
            0xFF => FrameType::End,
            found => return Err(FrameFault::Type { found }),
        };
        let codec = match (codec, kind) {
            (0, _) => Codec::Stored,
            (1, FrameType::Data) => Codec::Zstd,
            (found, _) => return Err(FrameFault::Codec { found }),
        };
        let flags = u16::from_le_bytes([flags_low, flags_high]);
        if flags != 0 {
            return Err(FrameFault::Flags { found: flags });
        }
        let found = u32::from_le_bytes([a, b, c, d]);
        let payload_len = usize::try_from(found).ok().and_then(|length| length.checked_sub(TAG_BYTES));
        let in_bounds = |length: &usize| match kind {
            FrameType::End => *length == END_BYTES,
            FrameType::Data | FrameType::Toc => *length <= FRAME_BYTES_MAX,
        };
        let payload_len = payload_len.filter(in_bounds).ok_or(FrameFault::Length { found })?;
        Ok(Self { kind, codec, payload_len })
    }

    /// Length of the whole frame in bytes.
    pub(crate) fn stored_len(self) -> usize {
        self.payload_len + FRAME_OVERHEAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_with_impossible_claims_are_refused() {
        for (bytes, fault) in [
            ([0x00, 0, 0, 0, 16, 0, 0, 0], FrameFault::Type { found: 0 }),
            ([0x03, 0, 0, 0, 16, 0, 0, 0], FrameFault::Type { found: 3 }),
            ([0x01, 2, 0, 0, 16, 0, 0, 0], FrameFault::Codec { found: 2 }),
            ([0x02, 1, 0, 0, 16, 0, 0, 0], FrameFault::Codec { found: 1 }),
            ([0xFF, 1, 0, 0, 32, 0, 0, 0], FrameFault::Codec { found: 1 }),
            ([0x01, 0, 1, 0, 16, 0, 0, 0], FrameFault::Flags { found: 1 }),
            ([0x01, 0, 0, 128, 16, 0, 0, 0], FrameFault::Flags { found: 0x8000 }),
            ([0x01, 0, 0, 0, 15, 0, 0, 0], FrameFault::Length { found: 15 }),
            ([0x01, 0, 0, 0, 17, 0, 0, 1], FrameFault::Length { found: (16 << 20) + 17 }),
            ([0xFF, 0, 0, 0, 31, 0, 0, 0], FrameFault::Length { found: 31 }),
            ([0xFF, 0, 0, 0, 33, 0, 0, 0], FrameFault::Length { found: 33 }),
        ] {
            assert_eq!(FrameHead::parse(bytes), Err(fault), "{bytes:?}");
        }
        let largest = FrameHead { kind: FrameType::Data, codec: Codec::Zstd, payload_len: FRAME_BYTES_MAX };
        assert_eq!(FrameHead::parse(largest.encode().unwrap()), Ok(largest));
        assert_eq!(FrameHead { payload_len: FRAME_BYTES_MAX + 1, ..largest }.encode(), None);
    }
}

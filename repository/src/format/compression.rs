//! zstd (RFC 8878), one context per worker thread.
//!
//! Frames go without magic number, content size and checksum: the index knows the size, the seal knows about changes.

use zstd::zstd_safe::{CParameter, DParameter, FrameFormat, compress_bound};

pub use crate::format::frame::Codec;
use crate::format::frame::FRAME_BYTES_MAX;

/// The level if nothing else is configured.
pub(crate) const LEVEL_DEFAULT: i32 = 3;
/// Window of at most 2^20 bytes, so that any reader can bound its memory.
const WINDOW_LOG: u32 = 20;
/// Less than this saved, in percent, is not worth decompressing for.
const SAVING_MIN: usize = 3;

/// Why bytes could not be compressed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompressError {
    /// zstd has no such level.
    #[error("zstd level {level} does not exist (1 to 22)")]
    Level {
        /// What was asked for.
        level: i32,
    },
    /// More than a frame may hold.
    #[error("{bytes} bytes are more than a frame holds ({FRAME_BYTES_MAX})")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// zstd failed, for want of memory.
    #[error("compress with zstd")]
    Zstd(#[from] std::io::Error),
}

/// Why bytes could not be decompressed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecompressError {
    /// They are not one zstd frame, or hold more than they may.
    #[error("decompress with zstd")]
    Zstd(#[from] std::io::Error),
    /// They hold another number of bytes than was written.
    #[error("{found} bytes instead of {expected}")]
    Length {
        /// What was written.
        expected: usize,
        /// What was found.
        found: usize,
    },
}

/// Compresses; one per thread.
pub struct Compressor(zstd::bulk::Compressor<'static>);

impl Compressor {
    /// A compressor at zstd level `level`, 1 to 22. Takes a few MiB at the lower levels.
    ///
    /// # Errors
    /// [`CompressError::Level`] or [`CompressError::Zstd`].
    pub fn new(level: i32) -> Result<Self, CompressError> {
        check_level(level)?;
        let mut zstd = zstd::bulk::Compressor::new(level)?;
        zstd.set_parameter(CParameter::Format(FrameFormat::Magicless))?;
        zstd.set_parameter(CParameter::ContentSizeFlag(false))?;
        zstd.set_parameter(CParameter::ChecksumFlag(false))?;
        zstd.set_parameter(CParameter::DictIdFlag(false))?;
        zstd.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
        Ok(Self(zstd))
    }

    /// From now on compresses at level `level`, 1 to 22.
    ///
    /// # Errors
    /// [`CompressError::Level`] or [`CompressError::Zstd`].
    pub(crate) fn set_level(&mut self, level: i32) -> Result<(), CompressError> {
        check_level(level)?;
        Ok(self.0.set_parameter(CParameter::CompressionLevel(level))?)
    }

    /// Replaces the content of `payload` by what is to be stored for `raw`: compressed, or as it is if less than 3 %
    /// would be saved.
    ///
    /// # Errors
    /// [`CompressError::TooLarge`] above `FRAME_BYTES_MAX`, [`CompressError::Zstd`].
    pub fn compress(&mut self, raw: &[u8], payload: &mut Vec<u8>) -> Result<Codec, CompressError> {
        if raw.len() > FRAME_BYTES_MAX {
            return Err(CompressError::TooLarge { bytes: raw.len() });
        }
        payload.clear();
        payload.reserve(compress_bound(raw.len()));
        self.0.compress_to_buffer(raw, payload)?;
        if payload.len() * 100 <= raw.len() * (100 - SAVING_MIN) {
            return Ok(Codec::Zstd);
        }
        payload.clear();
        payload.extend_from_slice(raw);
        Ok(Codec::Stored)
    }
}

fn check_level(level: i32) -> Result<(), CompressError> {
    if (1..=22).contains(&level) { Ok(()) } else { Err(CompressError::Level { level }) }
}

/// Decompresses; one per thread.
pub struct Decompressor(zstd::bulk::Decompressor<'static>);

impl Decompressor {
    /// A decompressor.
    ///
    /// # Errors
    /// [`DecompressError::Zstd`] if zstd has no memory.
    pub fn new() -> Result<Self, DecompressError> {
        let mut zstd = zstd::bulk::Decompressor::new()?;
        zstd.set_parameter(DParameter::Format(FrameFormat::Magicless))?;
        Ok(Self(zstd))
    }

    /// Fills `raw`, which has exactly the length that the content is known to have. Writes nowhere else, whatever the
    /// payload claims.
    ///
    /// # Errors
    /// [`DecompressError`] if the payload holds fewer or more bytes, or is no zstd frame.
    pub fn decompress(&mut self, codec: Codec, payload: &[u8], raw: &mut [u8]) -> Result<(), DecompressError> {
        let expected = raw.len();
        let found = match codec {
            Codec::Stored if payload.len() == expected => {
                raw.copy_from_slice(payload);
                expected
            }
            Codec::Stored => payload.len(),
            Codec::Zstd => self.0.decompress_to_buffer(payload, raw)?,
        };
        if found == expected { Ok(()) } else { Err(DecompressError::Length { expected, found }) }
    }

    /// Replaces the content of `raw` by that of a zstd payload whose length is not known, but at most `limit` bytes.
    ///
    /// # Errors
    /// [`DecompressError`] if the payload holds more, or is no zstd frame.
    pub fn decompress_up_to(&mut self, payload: &[u8], limit: usize, raw: &mut Vec<u8>) -> Result<(), DecompressError> {
        raw.clear();
        // The kernel gives memory for the pages that are written, not for the bound.
        raw.reserve_exact(limit);
        let found = self.0.decompress_to_buffer(payload, raw)?;
        if found <= limit { Ok(()) } else { Err(DecompressError::Length { expected: limit, found }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(raw: &[u8]) -> (Codec, Vec<u8>) {
        let mut payload = Vec::new();
        let codec = Compressor::new(LEVEL_DEFAULT).unwrap().compress(raw, &mut payload).unwrap();
        (codec, payload)
    }

    /// One run-length block: `count` zeros in seven bytes. Frame descriptor, window of 1 KiB, block header, byte.
    fn bomb(count: u32) -> Vec<u8> {
        let block = (count << 3 | 0b011).to_le_bytes();
        vec![0x00, 0x00, block[0], block[1], block[2], 0x00]
    }

    #[test]
    fn a_payload_never_writes_more_than_the_caller_has_room_for() {
        let mut decompressor = Decompressor::new().unwrap();
        let mut exact = vec![1; 1000];
        decompressor.decompress(Codec::Zstd, &bomb(1000), &mut exact).unwrap();
        assert_eq!(exact, vec![0; 1000], "the bomb itself is well formed");
        for (why, length) in [("one too many", 999), ("no room at all", 0), ("one too few", 1001)] {
            let result = decompressor.decompress(Codec::Zstd, &bomb(1000), &mut vec![0; length]);
            assert!(result.is_err(), "{why}");
        }
        let mut raw = Vec::new();
        assert!(decompressor.decompress_up_to(&bomb(1000), 999, &mut raw).is_err());
        decompressor.decompress_up_to(&bomb(1000), 1000, &mut raw).unwrap();
        assert_eq!(raw, vec![0; 1000]);
        // A buffer that is larger than the limit for an older reason does not raise the limit.
        let mut roomy = Vec::with_capacity(5000);
        assert!(decompressor.decompress_up_to(&bomb(1000), 999, &mut roomy).is_err());
    }

    #[test]
    fn damaged_and_cut_payloads_are_refused() {
        let raw: Vec<u8> = (0..8192_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let (codec, payload) = packed(&raw);
        assert_eq!(codec, Codec::Zstd);
        let mut decompressor = Decompressor::new().unwrap();
        let mut out = vec![0; raw.len()];
        for length in 0..payload.len() {
            assert!(decompressor.decompress(Codec::Zstd, &payload[..length], &mut out).is_err(), "cut at {length}");
        }
        let magic = [&[0x28, 0xB5, 0x2F, 0xFD][..], &payload].concat();
        assert!(decompressor.decompress(Codec::Zstd, &magic, &mut out).is_err(), "magic numbers are not stored");
        assert!(decompressor.decompress(Codec::Stored, &payload, &mut out).is_err(), "wrong codec");
        decompressor.decompress(Codec::Zstd, &payload, &mut out).unwrap();
        assert_eq!(out, raw, "a failure leaves nothing behind in the context");
    }

    #[test]
    fn incompressible_content_is_stored_as_it_is() {
        let mut noise = vec![0; 65536];
        getrandom::fill(&mut noise).unwrap();
        assert_eq!(packed(&noise), (Codec::Stored, noise));
        assert_eq!(packed(b""), (Codec::Stored, Vec::new()));
        let (codec, payload) = packed(&[7; 131_072]);
        assert_eq!(codec, Codec::Zstd);
        assert!(payload.len() < 32, "{}", payload.len());
    }

    #[test]
    fn levels_and_lengths_out_of_bounds_are_refused() {
        for level in [-1, 0, 23, i32::MAX] {
            assert!(Compressor::new(level).is_err(), "{level}");
            assert!(Compressor::new(1).unwrap().set_level(level).is_err(), "{level}");
        }
        let mut compressor = Compressor::new(1).unwrap();
        let too_much = vec![0; FRAME_BYTES_MAX + 1];
        assert!(matches!(compressor.compress(&too_much, &mut Vec::new()), Err(CompressError::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_back(seed in proptest::collection::vec(any::<u8>(), 0..200), times in 1_usize..400) {
            let raw = seed.repeat(times);
            let (codec, payload) = packed(&raw);
            prop_assert!(payload.len() <= raw.len());
            let mut out = vec![0xAA; raw.len()];
            Decompressor::new().unwrap().decompress(codec, &payload, &mut out).unwrap();
            prop_assert_eq!(out, raw);
        }

        #[test]
        fn arbitrary_payloads_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Vec::new();
            if Decompressor::new().unwrap().decompress_up_to(&payload, 4096, &mut out).is_ok() {
                prop_assert!(out.len() <= 4096);
            }
        }
    }
}

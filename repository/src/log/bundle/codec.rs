//! The bytes of a bundle: many notes of a log in one object, each as it was signed.
//!
//! ```text
//! off  len  field
//! 0    4    "LBN1"
//! 4    8    place of the first note
//! 12   4    number of notes; each has the place behind the one before it
//! 16   4    length of the content in bytes
//! 20   1    0: the content as it is; 1: one zstd frame without magic number, content size and checksum
//! 21        the content: for each note its length (4) and its bytes
//! ```
//! Numbers are little-endian. Nothing here is trusted: every note is judged as if it had been read by itself.

use std::ops::Range;

use crate::format::compression::{CompressError, Compressor, DecompressError, Decompressor};
use crate::format::frame::Codec;
use crate::log::note::NOTE_BYTES_MAX;

const MAGIC: &[u8; 4] = b"LBN1";
const HEAD_BYTES: usize = 21;
/// Notes of one bundle at most.
pub(crate) const BUNDLE_NOTES_MAX: usize = 4096;
/// Fewer are not put together, and not taken, unless they are so large that no more of them fit in.
pub(crate) const BUNDLED_LEAST: usize = 100;
/// Notes of one bundle, as long as they are small.
pub(crate) const BUNDLED_USUAL: usize = 1000;
/// Its notes with their lengths take at most so many **bytes**.
pub(crate) const BUNDLE_CONTENT_MAX: usize = 8 << 20;
/// The largest object, in **bytes**: content that cannot be compressed is stored as it is.
pub const BUNDLE_OBJECT_MAX: usize = BUNDLE_CONTENT_MAX + HEAD_BYTES;
/// What stands before a note.
const LENGTH_BYTES: usize = 4;
const LEVEL: i32 = 3;

/// Notes of a log, at places that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    first: u64,
    content: Vec<u8>,
    notes: Vec<Range<usize>>,
}

/// Why bytes are no bundle, or notes cannot be one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// It does not begin as one, or was cut.
    #[error("it is no bundle of records")]
    Head,
    /// Lengths and numbers that do not fit.
    #[error("it contradicts itself: {what}")]
    Contradiction {
        /// Which.
        what: &'static str,
    },
    /// More than a bundle may hold.
    #[error("it has more than {BUNDLE_NOTES_MAX} notes, or more than {BUNDLE_CONTENT_MAX} bytes of them")]
    TooLarge,
    /// It cannot be compressed.
    #[error("compress a bundle of records")]
    Compress(#[from] CompressError),
    /// It cannot be decompressed.
    #[error("decompress a bundle of records")]
    Decompress(#[from] DecompressError),
}

fn contradiction<T>(what: &'static str) -> Result<T, BundleError> {
    Err(BundleError::Contradiction { what })
}

/// What a note takes in a bundle, in **bytes**.
pub(crate) fn bytes_in_bundle(note: &[u8]) -> usize {
    note.len().saturating_add(LENGTH_BYTES)
}

fn number_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

impl Bundle {
    /// Puts notes together whose first stands at place `first`. The same notes give the same bytes, as long as zstd does.
    ///
    /// # Errors
    /// [`BundleError::TooLarge`], or [`BundleError::Contradiction`] if there is no note, an empty one, or no such place.
    pub fn encode<'a>(first: u64, notes: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, BundleError> {
        let (mut content, mut count) = (Vec::new(), 0_u32);
        for note in notes {
            if note.is_empty() || note.len() > NOTE_BYTES_MAX {
                return contradiction("a note of it is empty, or too large");
            }
            if content.len() + bytes_in_bundle(note) > BUNDLE_CONTENT_MAX || count as usize >= BUNDLE_NOTES_MAX {
                return Err(BundleError::TooLarge);
            }
            let length = u32::try_from(note.len()).map_err(|_| BundleError::TooLarge)?;
            content.extend_from_slice(&length.to_le_bytes());
            content.extend_from_slice(note);
            count += 1;
        }
        check_places(first, count)?;
        let length = u32::try_from(content.len()).map_err(|_| BundleError::TooLarge)?;
        let mut payload = Vec::new();
        let codec = Compressor::new(LEVEL)?.compress(&content, &mut payload)?;
        let codec = match codec {
            Codec::Stored => 0_u8,
            Codec::Zstd => 1,
        };
        let head = [&MAGIC[..], &first.to_le_bytes(), &count.to_le_bytes(), &length.to_le_bytes(), &[codec]];
        Ok([head.concat(), payload].concat())
    }

    /// Reads a bundle. It takes at most twice [`BUNDLE_CONTENT_MAX`] of memory, whatever the bytes say.
    ///
    /// # Errors
    /// [`BundleError`], by meaning.
    pub fn decode(object: &[u8]) -> Result<Self, BundleError> {
        let head = object.first_chunk::<HEAD_BYTES>().ok_or(BundleError::Head)?;
        let first = number_at(head, 4).map(u64::from_le_bytes).ok_or(BundleError::Head)?;
        let count = number_at(head, 12).map(u32::from_le_bytes).ok_or(BundleError::Head)?;
        let length = number_at(head, 16).map(u32::from_le_bytes).ok_or(BundleError::Head)? as usize;
        let codec = match (head.starts_with(MAGIC), head.last()) {
            (true, Some(0)) => Codec::Stored,
            (true, Some(1)) => Codec::Zstd,
            _ => return Err(BundleError::Head),
        };
        if count as usize > BUNDLE_NOTES_MAX || length > BUNDLE_CONTENT_MAX {
            return Err(BundleError::TooLarge);
        }
        check_places(first, count)?;
        let payload = object.get(HEAD_BYTES..).unwrap_or_default();
        let mut content = vec![0; length];
        Decompressor::new()?.decompress(codec, payload, &mut content)?;
        let notes = split(&content, count)?;
        Ok(Self { first, content, notes })
    }

    /// The places that an object says it has, first and last, without looking at more than its beginning.
    #[must_use]
    pub fn places_of(object: &[u8]) -> Option<(u64, u64)> {
        let head = object.first_chunk::<HEAD_BYTES>().filter(|head| head.starts_with(MAGIC))?;
        let (first, count) = (u64::from_le_bytes(number_at(head, 4)?), u32::from_le_bytes(number_at(head, 12)?));
        Some((first, first.checked_add(u64::from(count.checked_sub(1)?))?))
    }

    /// Place of the first note.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Place of the last note.
    #[must_use]
    pub fn last(&self) -> u64 {
        // There is at least one.
        self.first.saturating_add(self.notes.len() as u64).saturating_sub(1)
    }

    /// Whether it has so many notes, or would have had no room for one more of any size.
    pub(crate) fn is_filled(&self, notes: usize) -> bool {
        let with_another = self.content.len().saturating_add(LENGTH_BYTES).saturating_add(NOTE_BYTES_MAX);
        self.notes.len() >= notes || with_another > BUNDLE_CONTENT_MAX
    }

    /// The notes, in the order of their places.
    pub fn notes(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.notes.iter().filter_map(|range| self.content.get(range.clone()))
    }
}

/// Whether so many notes can stand from there on.
fn check_places(first: u64, count: u32) -> Result<(), BundleError> {
    if count == 0 {
        return contradiction("it has no notes");
    }
    match first.checked_add(u64::from(count)) {
        Some(_) => Ok(()),
        None => contradiction("its notes have no places"),
    }
}

fn split(content: &[u8], count: u32) -> Result<Vec<Range<usize>>, BundleError> {
    let (mut notes, mut at) = (Vec::with_capacity(count as usize), 0_usize);
    for _ in 0..count {
        let Some(length) = number_at(content, at).map(u32::from_le_bytes) else {
            return contradiction("it has fewer notes than it says");
        };
        let begin = at.saturating_add(LENGTH_BYTES);
        let end = begin.saturating_add(length as usize);
        if length == 0 || length as usize > NOTE_BYTES_MAX || end > content.len() {
            return contradiction("a note of it is empty, too large, or cut");
        }
        notes.push(begin..end);
        at = end;
    }
    if at == content.len() { Ok(notes) } else { contradiction("it has more bytes than notes") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(object: &[u8]) -> Result<(u64, Vec<Vec<u8>>), String> {
        let bundle = Bundle::decode(object).map_err(|error| lifeboat_vocabulary::error_chain(&error))?;
        Ok((bundle.first(), bundle.notes().map(<[u8]>::to_vec).collect()))
    }

    #[test]
    fn a_bundle_has_the_documented_bytes() {
        let object = Bundle::encode(7, [&b"a"[..], b"bc"]).unwrap();
        let content = b"\x01\0\0\0a\x02\0\0\0bc";
        let expected = [b"LBN1\x07\0\0\0\0\0\0\0\x02\0\0\0\x0b\0\0\0\0".as_slice(), content].concat();
        assert_eq!(object, expected);
        let bundle = Bundle::decode(&object).unwrap();
        assert_eq!((bundle.first(), bundle.last()), (7, 8));
        assert_eq!((Bundle::places_of(&object), Bundle::places_of(&object[..20])), (Some((7, 8)), None));
        assert_eq!(bundle.notes().next_back(), Some(&b"bc"[..]));
    }

    #[test]
    fn few_notes_fill_a_bundle_if_they_are_large() {
        let of = |notes: usize, size: usize| {
            let note = vec![b'x'; size];
            Bundle::decode(&Bundle::encode(7, vec![&note[..]; notes]).unwrap()).unwrap()
        };
        assert!(of(2, 10).is_filled(2) && !of(2, 10).is_filled(3));
        assert!(!of(6, NOTE_BYTES_MAX).is_filled(100) && of(7, NOTE_BYTES_MAX).is_filled(100));
    }

    #[test]
    fn notes_that_are_alike_are_compressed() {
        let note = vec![b'x'; 1000];
        let object = Bundle::encode(0, vec![&note[..]; 1000]).unwrap();
        assert!(object.len() < 20_000, "{}", object.len());
        assert_eq!(decoded(&object).unwrap(), (0, vec![note; 1000]));
    }

    #[test]
    fn what_is_no_bundle_is_refused_and_says_why() {
        let good = Bundle::encode(7, [&b"a"[..], b"bc"]).unwrap();
        let changed = |at: usize, byte: u8| {
            let mut object = good.clone();
            object[at] = byte;
            object
        };
        for (object, expected) in [
            (Vec::new(), "it is no bundle of records"),
            (good[..20].to_vec(), "it is no bundle of records"),
            (changed(0, b'M'), "it is no bundle of records"),
            (changed(20, 2), "it is no bundle of records"),
            (changed(20, 1), "decompress a bundle of records"),
            (changed(12, 0), "it contradicts itself: it has no notes"),
            (changed(12, 1), "it contradicts itself: it has more bytes than notes"),
            (changed(12, 3), "it contradicts itself: it has fewer notes than it says"),
            (changed(14, 1), "it has more than 4096 notes"),
            (changed(19, 1), "it has more than 4096 notes"),
            (changed(16, 10), "decompress a bundle of records: 11 bytes instead of 10"),
            (changed(21, 0), "it contradicts itself: a note of it is empty, too large, or cut"),
            (changed(21, 200), "it contradicts itself: a note of it is empty, too large, or cut"),
            (good[..good.len() - 1].to_vec(), "decompress a bundle of records: 10 bytes instead of 11"),
        ] {
            let error = decoded(&object).unwrap_err();
            assert!(error.starts_with(expected), "{expected}: {error}");
        }
        let nowhere = [&good[..4], &[0xFF; 8], &good[12..]].concat();
        assert_eq!(decoded(&nowhere).unwrap_err(), "it contradicts itself: its notes have no places");
    }

    #[test]
    fn notes_that_no_reader_would_take_are_not_bundled() {
        let note = vec![b'x'; NOTE_BYTES_MAX];
        assert!(matches!(Bundle::encode(0, vec![&note[..]; 8]), Err(BundleError::TooLarge)));
        assert!(matches!(Bundle::encode(0, vec![&b"a"[..]; BUNDLE_NOTES_MAX + 1]), Err(BundleError::TooLarge)));
        assert!(Bundle::encode(0, vec![&b"a"[..]; BUNDLE_NOTES_MAX]).is_ok());
        for notes in [vec![], vec![&b""[..]]] {
            assert!(matches!(Bundle::encode(0, notes), Err(BundleError::Contradiction { .. })));
        }
        assert!(matches!(Bundle::encode(u64::MAX, [&b"a"[..]]), Err(BundleError::Contradiction { .. })));
    }

    proptest! {
        #[test]
        fn any_notes_are_read_back(
            first in 0_u64..1 << 40,
            notes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 1..40),
        ) {
            let object = Bundle::encode(first, notes.iter().map(Vec::as_slice)).unwrap();
            prop_assert_eq!(decoded(&object).unwrap(), (first, notes));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), codec in 0_u8..3) {
            let head = [&b"LBN1\0\0\0\0\0\0\0\0\x02\0\0\0\x20\0\0\0"[..], &[codec]].concat();
            drop(decoded(&bytes));
            drop(decoded(&[head, bytes].concat()));
        }
    }
}

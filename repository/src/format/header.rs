//! The 112 bytes in front of every sealed object. All of them are the context of its key derivation, so that a changed
//! byte means another key.

use std::fmt;

use lifeboat_vocabulary::{Lsn, TimelineId};

use crate::format::ids::{EpochId, ObjectId, ObjectKind, RandomError, RepositoryId, Salt};

/// Length of a header in **bytes**.
pub(crate) const HEADER_BYTES: usize = 112;
/// Length of a header and the commitment behind it in **bytes**: frames begin here.
pub(crate) const HEAD_BYTES: usize = 144;

const MAGIC: [u8; 8] = *b"\x89LFB1\r\n\x1a";
const MAJOR: u8 = 1;
const SUITE_CHACHA20_POLY1305: u8 = 1;
const FLAG_TRAILER: u8 = 1;
const FLAG_MARK: u8 = 2;

/// Whether an object ends with a signature of its own. Objects that a signed record lists need none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trailer {
    /// Nothing follows the last frame.
    Absent,
    /// A key id and an Ed25519 signature follow the last frame.
    Present,
    /// In front of these lies what the object says of the WAL in it.
    Marked,
}

/// What part of the WAL an object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalPlace {
    /// None.
    Nowhere,
    /// All bytes from `start` up to, not including, `end`.
    Range {
        /// The branch of history.
        timeline: TimelineId,
        /// The first byte.
        start: Lsn,
        /// The first byte that is not included.
        end: Lsn,
    },
    /// The history file of a timeline.
    History(TimelineId),
}

/// The header of a sealed object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectHeader {
    /// What it holds.
    pub kind: ObjectKind,
    /// Whether it carries its own signature.
    pub trailer: Trailer,
    /// The repository to which it belongs.
    pub repository: RepositoryId,
    /// Names the wrapped key it is sealed under.
    pub epoch: EpochId,
    /// Its name.
    pub object: ObjectId,
    /// What makes its key its own.
    pub salt: Salt,
    /// Its part of the WAL.
    pub place: WalPlace,
}

/// A field of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderField {
    /// What the object holds.
    Kind,
    /// The flags, or flags that do not fit the kind.
    Flags,
    /// Bytes that must be zero.
    Reserved,
    /// The repository id.
    Repository,
    /// The epoch id.
    Epoch,
    /// The object id.
    Object,
    /// WAL positions and timeline, or some that do not fit the kind.
    WalPlace,
}

impl fmt::Display for HeaderField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kind => "kind",
            Self::Flags => "flags",
            Self::Reserved => "reserved bytes",
            Self::Repository => "repository id",
            Self::Epoch => "epoch id",
            Self::Object => "object id",
            Self::WalPlace => "WAL positions",
        })
    }
}

/// Why bytes are not a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// They do not begin like one.
    #[error("this is not a sealed object")]
    NotLfb1,
    /// They begin like one and then end.
    #[error("the object ends within its header")]
    Truncated,
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
    /// A field has a value that this version of the format does not have.
    #[error("the header's {field} make no sense")]
    Malformed {
        /// The field.
        field: HeaderField,
    },
}

impl ObjectHeader {
    /// The header of a new object that a signed record will list: no trailer, no part of the WAL, a fresh salt.
    ///
    /// # Errors
    /// [`RandomError`] if the operating system has no random bytes to give.
    pub fn new(
        kind: ObjectKind,
        repository: RepositoryId,
        epoch: EpochId,
        object: ObjectId,
    ) -> Result<Self, RandomError> {
        let salt = Salt::random()?;
        Ok(Self { kind, trailer: Trailer::Absent, repository, epoch, object, salt, place: WalPlace::Nowhere })
    }

    /// Writes the 112 bytes.
    ///
    /// # Errors
    /// [`HeaderError::Malformed`] if trailer or place do not fit the kind.
    pub fn encode(&self) -> Result<[u8; HEADER_BYTES], HeaderError> {
        self.check()?;
        let (start, end, timeline) = match self.place {
            WalPlace::Nowhere => (0, 0, 0),
            WalPlace::Range { timeline, start, end } => (start.as_bytes(), end.as_bytes(), timeline.get()),
            WalPlace::History(timeline) => (0, 0, timeline.get()),
        };
        let flags = match self.trailer {
            Trailer::Absent => 0,
            Trailer::Present => FLAG_TRAILER,
            Trailer::Marked => FLAG_TRAILER | FLAG_MARK,
        };
        let parts: [&[u8]; 11] = [
            &MAGIC,
            &[MAJOR, SUITE_CHACHA20_POLY1305, self.kind.as_byte(), flags],
            &[0; 4],
            self.repository.as_bytes(),
            self.epoch.as_bytes(),
            self.object.as_bytes(),
            self.salt.as_bytes(),
            &start.to_le_bytes(),
            &end.to_le_bytes(),
            &timeline.to_le_bytes(),
            &[0; 4],
        ];
        let mut bytes = [0; HEADER_BYTES];
        let mut rest = &mut bytes[..];
        for part in parts {
            let (field, after) = rest.split_at_mut(part.len());
            field.copy_from_slice(part);
            rest = after;
        }
        Ok(bytes)
    }

    /// Reads a header from the front of `bytes`. Nothing in it is authenticated before the commitment was compared.
    ///
    /// # Errors
    /// [`HeaderError`]: every field has to be known to this version, reserved bytes have to be zero.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        if !bytes.iter().zip(&MAGIC).all(|(found, expected)| found == expected) {
            return Err(HeaderError::NotLfb1);
        }
        let mut rest = bytes.get(MAGIC.len()..).ok_or(HeaderError::Truncated)?;
        let [major, suite, kind, flags] = take(&mut rest)?;
        if major != MAJOR {
            return Err(HeaderError::UnsupportedMajor { found: major });
        }
        if suite != SUITE_CHACHA20_POLY1305 {
            return Err(HeaderError::UnsupportedSuite { found: suite });
        }
        let malformed = |field| HeaderError::Malformed { field };
        let kind = ObjectKind::from_byte(kind).ok_or(malformed(HeaderField::Kind))?;
        let trailer = match flags {
            0 => Trailer::Absent,
            FLAG_TRAILER => Trailer::Present,
            flags if flags == FLAG_TRAILER | FLAG_MARK => Trailer::Marked,
            _ => return Err(malformed(HeaderField::Flags)),
        };
        let first_reserved: [u8; 4] = take(&mut rest)?;
        let repository = RepositoryId::from_bytes(take(&mut rest)?);
        let epoch = EpochId::from_bytes(take(&mut rest)?);
        let object = ObjectId::from_bytes(take(&mut rest)?);
        let salt = Salt::from_bytes(take(&mut rest)?);
        let start = u64::from_le_bytes(take(&mut rest)?);
        let end = u64::from_le_bytes(take(&mut rest)?);
        let timeline = u32::from_le_bytes(take(&mut rest)?);
        let second_reserved: [u8; 4] = take(&mut rest)?;
        if (first_reserved, second_reserved) != ([0; 4], [0; 4]) {
            return Err(malformed(HeaderField::Reserved));
        }
        let place = match (Lsn::from_bytes(start), Lsn::from_bytes(end), TimelineId::new(timeline)) {
            (None, None, None) => WalPlace::Nowhere,
            (None, None, Some(timeline)) => WalPlace::History(timeline),
            (Some(start), Some(end), Some(timeline)) => WalPlace::Range { timeline, start, end },
            _ => return Err(malformed(HeaderField::WalPlace)),
        };
        let header = Self { kind, trailer, repository, epoch, object, salt, place };
        header.check()?;
        Ok(header)
    }

    /// Which trailers and places a kind may have.
    fn check(&self) -> Result<(), HeaderError> {
        let trailer_fits = match self.kind {
            ObjectKind::Pack | ObjectKind::IndexShard => self.trailer == Trailer::Absent,
            ObjectKind::WalSlice | ObjectKind::WalSegment => self.trailer != Trailer::Absent,
            ObjectKind::SmallBlob => self.trailer != Trailer::Marked || matches!(self.place, WalPlace::History(_)),
        };
        if !trailer_fits {
            return Err(HeaderError::Malformed { field: HeaderField::Flags });
        }
        let place_fits = match (self.kind, self.place) {
            (ObjectKind::WalSlice | ObjectKind::WalSegment, WalPlace::Range { start, end, .. }) => start < end,
            (ObjectKind::Pack | ObjectKind::IndexShard | ObjectKind::SmallBlob, WalPlace::Nowhere)
            | (ObjectKind::SmallBlob, WalPlace::History(_)) => true,
            _ => false,
        };
        if place_fits { Ok(()) } else { Err(HeaderError::Malformed { field: HeaderField::WalPlace }) }
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], HeaderError> {
    let (field, rest) = bytes.split_first_chunk().ok_or(HeaderError::Truncated)?;
    *bytes = rest;
    Ok(*field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(kind: ObjectKind, trailer: Trailer, place: WalPlace) -> ObjectHeader {
        ObjectHeader {
            kind,
            trailer,
            repository: RepositoryId::from_bytes([1; 16]),
            epoch: EpochId::from_bytes([2; 16]),
            object: ObjectId::from_bytes([3; 16]),
            salt: Salt::from_bytes([4; 24]),
            place,
        }
    }

    fn range(start: u64, end: u64) -> WalPlace {
        let lsn = |bytes| Lsn::from_bytes(bytes).unwrap();
        WalPlace::Range { timeline: TimelineId::new(7).unwrap(), start: lsn(start), end: lsn(end) }
    }

    #[test]
    fn trailers_and_places_that_do_not_fit_the_kind_are_refused_in_both_directions() {
        use ObjectKind::{IndexShard, Pack, SmallBlob, WalSegment, WalSlice};
        let history = WalPlace::History(TimelineId::new(7).unwrap());
        for (kind, trailer, place, field) in [
            (Pack, Trailer::Present, WalPlace::Nowhere, HeaderField::Flags),
            (IndexShard, Trailer::Present, WalPlace::Nowhere, HeaderField::Flags),
            (WalSlice, Trailer::Absent, range(1, 2), HeaderField::Flags),
            (Pack, Trailer::Marked, WalPlace::Nowhere, HeaderField::Flags),
            (SmallBlob, Trailer::Marked, WalPlace::Nowhere, HeaderField::Flags),
            (WalSegment, Trailer::Absent, range(1, 2), HeaderField::Flags),
            (Pack, Trailer::Absent, range(1, 2), HeaderField::WalPlace),
            (IndexShard, Trailer::Absent, history, HeaderField::WalPlace),
            (SmallBlob, Trailer::Absent, range(1, 2), HeaderField::WalPlace),
            (WalSlice, Trailer::Present, WalPlace::Nowhere, HeaderField::WalPlace),
            (WalSegment, Trailer::Present, history, HeaderField::WalPlace),
            (WalSegment, Trailer::Present, range(2, 2), HeaderField::WalPlace),
            (WalSegment, Trailer::Present, range(2, 1), HeaderField::WalPlace),
        ] {
            let wrong = header(kind, trailer, place);
            assert_eq!(wrong.encode(), Err(HeaderError::Malformed { field }), "{wrong:?}");
        }
        for (kind, trailer, place) in [
            (Pack, Trailer::Absent, WalPlace::Nowhere),
            (IndexShard, Trailer::Absent, WalPlace::Nowhere),
            (WalSlice, Trailer::Present, range(1, 2)),
            (WalSlice, Trailer::Marked, range(1, 2)),
            (WalSegment, Trailer::Present, range(16 << 20, 32 << 20)),
            (SmallBlob, Trailer::Absent, WalPlace::Nowhere),
            (SmallBlob, Trailer::Present, history),
            (SmallBlob, Trailer::Marked, history),
        ] {
            let header = header(kind, trailer, place);
            assert_eq!(ObjectHeader::parse(&header.encode().unwrap()), Ok(header));
        }
    }

    #[test]
    fn every_truncation_and_every_unknown_value_has_its_own_error() {
        let bytes = header(ObjectKind::Pack, Trailer::Absent, WalPlace::Nowhere).encode().unwrap();
        for length in 0..HEADER_BYTES {
            assert_eq!(ObjectHeader::parse(&bytes[..length]), Err(HeaderError::Truncated), "{length}");
        }
        let malformed = |field| HeaderError::Malformed { field };
        for (offset, value, expected) in [
            (0, 0x88, HeaderError::NotLfb1),
            (7, 0, HeaderError::NotLfb1),
            (8, 2, HeaderError::UnsupportedMajor { found: 2 }),
            (9, 2, HeaderError::UnsupportedSuite { found: 2 }),
            (10, 0, malformed(HeaderField::Kind)),
            (10, 6, malformed(HeaderField::Kind)),
            (11, 2, malformed(HeaderField::Flags)),
            (12, 1, malformed(HeaderField::Reserved)),
            (15, 1, malformed(HeaderField::Reserved)),
            (88, 1, malformed(HeaderField::WalPlace)),
            (104, 1, malformed(HeaderField::WalPlace)),
            (111, 1, malformed(HeaderField::Reserved)),
        ] {
            let mut changed = bytes;
            changed[offset] = value;
            assert_eq!(ObjectHeader::parse(&changed), Err(expected), "byte {offset} = {value}");
        }
    }

    proptest! {
        #[test]
        fn a_header_that_can_be_read_is_written_back_the_same(
            fields in proptest::collection::vec(any::<u8>(), 4), tail in proptest::collection::vec(any::<u8>(), 96),
        ) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend([1, 1, fields[0] % 6, fields[1] % 3, 0, 0, 0, 0]);
            bytes.extend(&tail);
            bytes[108..112].fill(0);
            if fields[2] % 2 == 0 {
                bytes[88..108].fill(0);
            }
            if let Ok(header) = ObjectHeader::parse(&bytes) {
                prop_assert_eq!(&header.encode().unwrap()[..], &bytes[..]);
            }
        }
    }
}

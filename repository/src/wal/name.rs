//! How the WAL is divided into objects: pieces, which are aligned parts of segments, and slices, which are parts of
//! pieces.
//!
//! A piece is a whole segment, or 16 MiB of a larger one: so an object stays small whatever the segment size is.

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::{Lsn, SegmentSize, TimelineId, WalPosition};

use crate::format::layout::{self, StoredName, WalForm, WalRange};

/// Length of the largest piece in **bytes**: 16 MiB. No object holds more WAL.
pub(crate) const PIECE_BYTES_MAX: u64 = 16 << 20;

/// Length of the pieces of a cluster's WAL: that of its segments, but at most `PIECE_BYTES_MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PieceSize(u64);

impl PieceSize {
    /// The largest. Who does not know the cluster's may use it to look for WAL: every piece lies within one of these.
    pub const LARGEST: Self = Self(PIECE_BYTES_MAX);

    /// The size of pieces of segments of this size.
    #[must_use]
    pub fn of(segment: SegmentSize) -> Self {
        Self(segment.as_bytes().min(PIECE_BYTES_MAX))
    }

    /// The size in bytes.
    #[must_use]
    pub fn as_bytes(self) -> u64 {
        self.0
    }

    /// Offset in the WAL of the first byte of the piece that holds the byte at `lsn`. 0 in the very first piece, in which
    /// PostgreSQL never writes.
    #[must_use]
    pub fn start_of(self, lsn: Lsn) -> u64 {
        lsn.as_bytes() & !(self.0 - 1)
    }

    /// The piece that holds the byte at `at`; `None` at both ends of the WAL's address space, where no WAL is.
    #[must_use]
    pub fn holding(self, at: WalPosition) -> Option<WalRange> {
        let start = self.start_of(at.lsn);
        let end = start.checked_add(self.0)?;
        Some(WalRange { timeline: at.timeline, start: Lsn::from_bytes(start)?, end: Lsn::from_bytes(end)? })
    }

    /// `range`, cut where pieces end.
    pub fn cut(self, range: WalRange) -> impl Iterator<Item = WalRange> {
        let mut next = Some(range.start);
        std::iter::from_fn(move || {
            let start = next.filter(|start| *start < range.end)?;
            let end = self.start_of(start).checked_add(self.0).and_then(Lsn::from_bytes);
            let end = end.map_or(range.end, |end| end.min(range.end));
            next = Some(end);
            Some(WalRange { start, end, ..range })
        })
    }
}

impl WalRange {
    /// How many **bytes** of WAL it is; 0 if it ends before it starts.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.end.as_bytes().saturating_sub(self.start.as_bytes())
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// Whether there is a byte that both hold.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.timeline == other.timeline && self.start < other.end && other.start < self.end
    }
}

/// One stored object with WAL in it, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalObject {
    /// Piece or slice.
    pub form: WalForm,
    /// What WAL it holds: 1 byte to `PIECE_BYTES_MAX`.
    pub range: WalRange,
}

impl WalObject {
    /// What `key` names, if it is an object with WAL that anybody could have written.
    #[must_use]
    pub fn of_key(key: &ObjectKey) -> Option<Self> {
        let (form, range) = match layout::parse(key)? {
            StoredName::WalSegment(range) => (WalForm::Piece, range),
            StoredName::WalSlice(range) => (WalForm::Slice, range),
            _ => return None,
        };
        Self::new(form, range)
    }

    /// `range` in this form; `None` if there is no such object: an empty range, or one that is too long.
    #[must_use]
    pub fn new(form: WalForm, range: WalRange) -> Option<Self> {
        (1..=PIECE_BYTES_MAX).contains(&range.len()).then_some(Self { form, range })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> StoredName {
        match self.form {
            WalForm::Piece => StoredName::WalSegment(self.range),
            WalForm::Slice => StoredName::WalSlice(self.range),
        }
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        self.name().key()
    }
}

/// The timeline whose folder below `wal/` or `slices/` the key lies in.
pub(crate) fn timeline_of(key: &ObjectKey) -> Option<TimelineId> {
    match layout::parse(key)? {
        StoredName::WalSegment(range) | StoredName::WalSlice(range) => Some(range.timeline),
        StoredName::TimelineHistory { timeline } => Some(timeline),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::wal_range;

    #[test]
    fn a_piece_is_a_segment_or_16_mib_of_one() {
        for (segment, piece, at, expected) in [
            (1_u64 << 20, 1_u64 << 20, 0x1_2345_6789_u64, (0x1_2340_0000, 0x1_2350_0000)),
            (16 << 20, 16 << 20, 0x1_2345_6789, (0x1_2300_0000, 0x1_2400_0000)),
            (64 << 20, 16 << 20, 0x1_2345_6789, (0x1_2300_0000, 0x1_2400_0000)),
            (1 << 30, 16 << 20, 0x1_2300_0000, (0x1_2300_0000, 0x1_2400_0000)),
        ] {
            let size = PieceSize::of(SegmentSize::from_bytes(segment).unwrap());
            assert_eq!(size.as_bytes(), piece);
            let range = wal_range(1, expected.0, expected.1);
            assert_eq!(
                size.holding(WalPosition { timeline: range.timeline, lsn: Lsn::from_bytes(at).unwrap() }),
                Some(range)
            );
        }
        let size = PieceSize::of(SegmentSize::DEFAULT);
        for at in [5, (16 << 20) - 1, u64::MAX] {
            let lsn = Lsn::from_bytes(at).unwrap();
            assert_eq!(size.holding(WalPosition { timeline: TimelineId::new(1).unwrap(), lsn }), None, "{at}");
        }
    }

    #[test]
    fn a_range_is_cut_where_pieces_end() {
        let cut = |start, end| -> Vec<_> {
            let pieces = PieceSize::of(SegmentSize::from_bytes(1 << 20).unwrap()).cut(wal_range(1, start, end));
            pieces.map(|piece| (piece.start.as_bytes(), piece.end.as_bytes())).collect()
        };
        assert_eq!(cut(0x10_0000, 0x10_0000), []);
        assert_eq!(cut(0x10_0005, 0x10_0006), [(0x10_0005, 0x10_0006)]);
        assert_eq!(cut(0x10_0000, 0x20_0000), [(0x10_0000, 0x20_0000)]);
        assert_eq!(cut(0x1f_ffff, 0x30_0001), [(0x1f_ffff, 0x20_0000), (0x20_0000, 0x30_0000), (0x30_0000, 0x30_0001)]);
        assert_eq!(cut(u64::MAX - 1, u64::MAX), [(u64::MAX - 1, u64::MAX)]);
    }

    #[test]
    fn names_that_no_object_has_are_refused() {
        let object = |key: &str| WalObject::of_key(&key.parse().unwrap());
        for (why, key) in [
            ("empty", "slices/00000001/0000000001000000-0000000001000000.lbs"),
            ("backwards", "slices/00000001/0000000001000001-0000000001000000.lbs"),
            ("too long", "wal/00000001/0000000001000000-0000000002000001.lbw"),
            ("a history", "wal/00000001/history.lbb"),
            ("something else", "wal/00000001/readme"),
        ] {
            assert_eq!(object(key), None, "{why}");
        }
        let piece = object("wal/0000000a/0000000001000000-0000000002000000.lbw").unwrap();
        assert_eq!((piece.form, piece.range), (WalForm::Piece, wal_range(10, 16 << 20, 32 << 20)));
        assert_eq!(piece.key().as_str(), "wal/0000000a/0000000001000000-0000000002000000.lbw");
    }
}

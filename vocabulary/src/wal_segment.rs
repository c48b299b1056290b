//! WAL segment files: their size, and their names.

use std::fmt;
use std::str::FromStr;

use crate::{ByteCount, Lsn, TimelineId};

/// The size of a cluster's WAL segments: a power of two from 1 MiB to 1 GiB, fixed when the cluster was made.
///
/// Source: PostgreSQL `initdb --wal-segsize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentSize(u32);

/// A text or number that does not name a WAL segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentNameError {
    /// Not 24 hexadecimal digits, or a timeline or segment 0.
    #[error("`{text}` is not the name of a WAL segment (24 hexadecimal digits)")]
    Name {
        /// What was given.
        text: String,
    },
    /// Not a size that PostgreSQL allows.
    #[error("{bytes} bytes is not a WAL segment size (a power of two from 1 MiB to 1 GiB)")]
    Size {
        /// What was given.
        bytes: u64,
    },
}

impl SegmentSize {
    /// PostgreSQL's default.
    pub const DEFAULT: Self = Self(16 << 20);

    /// The size `bytes`.
    ///
    /// # Errors
    /// [`SegmentNameError::Size`] unless it is a power of two from 1 MiB to 1 GiB.
    pub fn from_bytes(bytes: u64) -> Result<Self, SegmentNameError> {
        match u32::try_from(bytes) {
            Ok(size) if size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size) => Ok(Self(size)),
            _ => Err(SegmentNameError::Size { bytes }),
        }
    }

    /// The size in bytes.
    #[must_use]
    pub fn as_bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// The size as an amount.
    #[must_use]
    pub fn byte_count(self) -> ByteCount {
        ByteCount::from_bytes(self.as_bytes())
    }

    /// Segments per 4 GiB "log file", the unit of the middle part of a segment's name.
    fn per_log(self) -> u64 {
        (1 << 32) / self.as_bytes()
    }
}

/// The name of one WAL segment: timeline and number. The file name depends on the segment size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentName {
    /// The timeline whose name the file carries.
    pub timeline: TimelineId,
    /// Number of the segment, from 1.
    pub number: u64,
    /// The cluster's segment size.
    pub size: SegmentSize,
}

impl SegmentName {
    /// The segment that holds the byte at `lsn`.
    #[must_use]
    pub fn holding(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> Self {
        Self { timeline, number: lsn.as_bytes() / size.as_bytes(), size }
    }

    /// Reads a file name such as `000000010000000A000000FF`.
    ///
    /// # Errors
    /// [`SegmentNameError::Name`] if it is not one for this segment size.
    pub fn parse(text: &str, size: SegmentSize) -> Result<Self, SegmentNameError> {
        let parse = || {
            let hex = |part: Option<&str>| {
                let part = part?;
                let upper_hex = part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
                if upper_hex { u32::from_str_radix(part, 16).ok() } else { None }
            };
            if text.len() != 24 {
                return None;
            }
            let timeline = TimelineId::new(hex(text.get(0..8))?)?;
            let (log, rest) = (u64::from(hex(text.get(8..16))?), u64::from(hex(text.get(16..24))?));
            let number = log * size.per_log() + rest;
            (rest < size.per_log() && number > 0).then_some(Self { timeline, number, size })
        };
        parse().ok_or_else(|| SegmentNameError::Name { text: text.to_owned() })
    }

    /// Position of the segment's first byte; `None` only for a number outside the WAL address space.
    #[must_use]
    pub fn start(self) -> Option<Lsn> {
        self.number.checked_mul(self.size.as_bytes()).and_then(Lsn::from_bytes)
    }

    /// The next segment on the same timeline.
    #[must_use]
    pub fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (log, rest) = (self.number / self.size.per_log(), self.number % self.size.per_log());
        write!(f, "{:08X}{log:08X}{rest:08X}", self.timeline.get())
    }
}

impl FromStr for SegmentSize {
    type Err = SegmentNameError;

    /// Reads the answer of `SHOW wal_segment_size`: a number with `MB` or `GB`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = [("MB", 1u64 << 20), ("GB", 1 << 30)].iter().find_map(|(unit, size)| {
            let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
            number.checked_mul(*size)
        });
        bytes.map_or_else(|| Err(SegmentNameError::Name { text: text.to_owned() }), Self::from_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_are_hexadecimal_in_and_out(tli in 1u32.., number in 1u64..(1 << 24), shift in 20u32..=30) {
            let size = SegmentSize::from_bytes(1 << shift).unwrap();
            let name = SegmentName { timeline: TimelineId::new(tli).unwrap(), number, size };
            prop_assert_eq!(SegmentName::parse(&name.to_string(), size).unwrap(), name);
            prop_assert_eq!(SegmentName::holding(name.timeline, name.start().unwrap(), size), name);
        }
    }

    #[test]
    fn timeline_ten_is_not_parsed_as_decimal() {
        let name = SegmentName::parse("0000000A0000000100000010", SegmentSize::DEFAULT).unwrap();
        assert_eq!((name.timeline.get(), name.number), (10, 272));
    }

    #[test]
    fn names_that_do_not_fit_the_segment_size_are_refused() {
        let large = SegmentSize::from_bytes(64 << 20).unwrap();
        assert!(SegmentName::parse("0000000100000001000000FF", SegmentSize::DEFAULT).is_ok());
        assert!(SegmentName::parse("0000000100000001000000FF", large).is_err(), "64 segments per log at 64 MiB");
        for text in
            ["", "00000002.history", "000000010000000000000000", "00000000000000010000000F", "0000000100000001000000ff"]
        {
            assert!(SegmentName::parse(text, SegmentSize::DEFAULT).is_err(), "{text}");
        }
    }

    #[test]
    fn segment_sizes_come_with_a_unit() {
        assert_eq!("16MB".parse::<SegmentSize>().unwrap(), SegmentSize::DEFAULT);
        assert_eq!("1GB".parse::<SegmentSize>().unwrap().as_bytes(), 1 << 30);
        for text in ["16777216", "3MB", "2GB", "MB", ""] {
            assert!(text.parse::<SegmentSize>().is_err(), "{text}");
        }
    }
}

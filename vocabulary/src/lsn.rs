//! Positions in the write-ahead log.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;

use crate::ByteCount;

/// A position in the write-ahead log: **bytes** since the start of the cluster's WAL, shown as `16/B374D848`.
///
/// Never zero: PostgreSQL uses 0 for "no position", we use `Option<Lsn>`. Positions of different timelines must
/// not be compared. Source: PostgreSQL manual, section "pg_lsn Type".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(NonZeroU64);

/// A text that is not a WAL position or a timeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a WAL position (two hexadecimal numbers with a slash between, such as 16/B374D848)")]
pub struct ParseLsnError {
    text: String,
}

impl Lsn {
    /// The position `bytes` from the start of the WAL, or `None` for PostgreSQL's "no position" (0).
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        NonZeroU64::new(bytes).map(Self)
    }

    /// Bytes since the start of the WAL.
    #[must_use]
    pub fn as_bytes(self) -> u64 {
        self.0.get()
    }

    /// WAL written from `earlier` up to here, or `None` if `earlier` is in fact later.
    #[must_use]
    pub fn bytes_since(self, earlier: Self) -> Option<ByteCount> {
        self.0.get().checked_sub(earlier.0.get()).map(ByteCount::from_bytes)
    }

    /// The position `count` bytes further on, or `None` past the end of the 64-bit WAL address space.
    #[must_use]
    pub fn advanced_by(self, count: ByteCount) -> Option<Self> {
        self.0.checked_add(count.as_bytes()).map(Self)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0.get() >> 32, self.0.get() & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (high, low) = text.split_once('/')?;
            let half = |part: &str| {
                let digits = !part.is_empty() && part.len() <= 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
                if digits { u32::from_str_radix(part, 16).ok() } else { None }
            };
            Self::from_bytes((u64::from(half(high)?) << 32) | u64::from(half(low)?))
        };
        parse().ok_or_else(|| ParseLsnError { text: text.to_owned() })
    }
}

/// Which branch of the cluster's history a WAL position lies on. Starts at 1; promotion opens a new one.
///
/// Source: PostgreSQL manual, section "Timelines".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineId(NonZeroU32);

impl TimelineId {
    /// The timeline `id`, or `None` for 0, which PostgreSQL never uses.
    #[must_use]
    pub fn new(id: u32) -> Option<Self> {
        NonZeroU32::new(id).map(Self)
    }

    /// The number, as PostgreSQL prints it in decimal.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A position together with the timeline that gives it meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WalPosition {
    /// The branch of history.
    pub timeline: TimelineId,
    /// The position on it.
    pub lsn: Lsn,
}

impl fmt::Display for WalPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on timeline {}", self.lsn, self.timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_lsn_survives_its_own_text(bytes in 1u64..) {
            let lsn = Lsn::from_bytes(bytes).unwrap();
            prop_assert_eq!(lsn.to_string().parse::<Lsn>().unwrap(), lsn);
        }
    }

    #[test]
    fn texts_that_are_no_positions_are_refused() {
        for text in ["", "/", "0/0", "1/", "/1", "1/100000000", "g/1", "+1/1", "1/1 ", "1/2/3"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    #[test]
    fn distance_is_never_negative() {
        let (early, late) = (Lsn::from_bytes(10).unwrap(), Lsn::from_bytes(25).unwrap());
        assert_eq!(late.bytes_since(early), Some(ByteCount::from_bytes(15)));
        assert_eq!(early.bytes_since(late), None);
    }
}

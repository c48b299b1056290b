//! One record of the write-ahead log, as far as it takes to recognize it.

use std::fmt;

use crate::{Lsn, TimelineId};

/// A whole record of the write-ahead log: where it is, and what tells it from any other that could be there.
///
/// Two servers that have the same record at the same place have the same WAL before it: `previous` and the checksum, which
/// covers it, chain every record to the one before. Source: PostgreSQL `src/include/access/xlogrecord.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordMark {
    /// The timeline of the segment that it was found in.
    pub timeline: TimelineId,
    /// Its first byte.
    pub start: Lsn,
    /// Where the next record can begin: behind its padding, and for a switch the start of the next segment.
    pub end: Lsn,
    /// Where the record before it begins (`xl_prev`); `None` for the first of a cluster.
    pub previous: Option<Lsn>,
    /// Its checksum (`xl_crc`).
    pub crc: u32,
}

impl fmt::Display for RecordMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the record at {} on timeline {} with checksum {:08X}", self.start, self.timeline, self.crc)
    }
}

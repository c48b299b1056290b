//! The headers of WAL pages.
//!
//! Source: PostgreSQL `src/include/access/xlog_internal.h` (`XLogPageHeaderData`, `XLogLongPageHeaderData`) and
//! `src/backend/access/transam/xlogreader.c` (`XLogReaderValidatePageHeader`), versions 13 to 18, little-endian.

use lifeboat_vocabulary::{Lsn, RecordMark, SegmentSize, TimelineId};

/// Size of a WAL page in bytes; the only one that is supported.
pub(crate) const WAL_PAGE: usize = 8192;
/// The same, for positions.
pub const WAL_PAGE_BYTES: u64 = 8192;
/// Header of a page, in bytes.
pub(crate) const SHORT_HEADER: usize = 24;
/// Header of the first page of a segment, in bytes.
pub(crate) const LONG_HEADER: usize = 40;

const CONTINUED: u16 = 1;
const LONG: u16 = 2;
const OVERWRITES: u16 = 8;
const ALL_FLAGS: u16 = 0xf;

/// The magic numbers of PostgreSQL 13 to 18.
const MAGICS: [u16; 6] = [0xD106, 0xD10D, 0xD110, 0xD113, 0xD116, 0xD118];
/// From this one on a dropped statistics entry takes 16 bytes in a commit record.
const MAGIC_18: u16 = 0xD118;

/// What is wrong with a piece of WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WalFaultKind {
    /// The check was to begin in the middle of a page.
    #[error("WAL can be checked from the start of a page only")]
    Start,
    /// A page that no supported version writes.
    #[error("the page has magic {found:04X}; PostgreSQL 13 to 18 write D106, D10D, D110, D113, D116 and D118")]
    Magic {
        /// What the page says.
        found: u16,
    },
    /// A page of another version than those before.
    #[error("the page has magic {found:04X}, those before it {before:04X}")]
    OtherMagic {
        /// What the page says.
        found: u16,
        /// What came before.
        before: u16,
    },
    /// Flags that are unknown, or do not belong to this page.
    #[error("the page has flags {found:04X}, which cannot be here")]
    Flags {
        /// What the page says.
        found: u16,
    },
    /// A page from another place, such as one of a segment that was used before.
    #[error("the page says that it belongs at {:X}/{:X}", .found >> 32, .found & 0xFFFF_FFFF)]
    Address {
        /// What the page says.
        found: u64,
    },
    /// A page of a timeline that cannot be in this segment.
    #[error("the page is of timeline {found}, where timelines {least} to {most} can be")]
    Timeline {
        /// What the page says.
        found: u32,
        /// The timeline of the page before it.
        least: u32,
        /// The timeline of the segment.
        most: TimelineId,
    },
    /// WAL of another cluster.
    #[error("the segment is of the cluster with system identifier {found}, not {expected}")]
    SystemIdentifier {
        /// What the segment says.
        found: u64,
        /// The cluster's.
        expected: u64,
    },
    /// Another segment size.
    #[error("the segment says that segments have {found} bytes, not {expected}")]
    SegmentBytes {
        /// What the segment says.
        found: u32,
        /// The cluster's.
        expected: u64,
    },
    /// Another page size.
    #[error("the segment says that WAL pages have {found} bytes; only 8192 are supported")]
    PageBytes {
        /// What the segment says.
        found: u32,
    },
    /// The rest of a record is not where it should be.
    #[error("the page goes on with {found} bytes of a record, where {expected} are missing")]
    Continuation {
        /// What the page says.
        found: u32,
        /// What the record before still lacks.
        expected: u32,
    },
    /// A record of impossible length.
    #[error("a record claims {found} bytes")]
    RecordLength {
        /// What the record says.
        found: u32,
    },
    /// A record that does not follow the one before.
    #[error("the record says that the one before it is at {found:#x}, which is at {expected:#x}")]
    Previous {
        /// What the record says.
        found: u64,
        /// Where it is; for the first record of all, its own place, which it must be before.
        expected: u64,
    },
    /// A damaged record.
    #[error("the record has checksum {stored:08X}, its content {computed:08X}")]
    Checksum {
        /// What the record says.
        stored: u32,
        /// What its content gives.
        computed: u32,
    },
    /// Bytes behind the end of a segment that was left early.
    #[error("bytes follow the record that left the rest of the segment empty")]
    NotEmpty,
    /// A record that says that another one was overwritten than the one that was.
    #[error("the record replaces one at {found:#x}, but the one that was cut off is at {expected:#x}")]
    Overwritten {
        /// What the record says.
        found: u64,
        /// The record that ended early.
        expected: u64,
    },
    /// A record whose content is not laid out as its kind is in this version.
    #[error("the content of the record is not understood")]
    Content,
    /// The record that was received from this cluster before is not there.
    #[error("{expected} was received before, and the server has another one there")]
    OtherRecord {
        /// The record that was received before.
        expected: RecordMark,
    },
    /// The end of all positions.
    #[error("there is no position behind this one")]
    End,
}

/// A page's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageHeader {
    magic: u16,
    flags: u16,
    timeline: u32,
    address: u64,
    /// Bytes of a record that began before this page.
    remaining: u32,
}

/// Bytes at an offset; what is beyond the end is 0.
pub(crate) fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes.get(offset..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
}

impl PageHeader {
    fn read(bytes: &[u8]) -> Self {
        Self {
            magic: u16::from_le_bytes(array(bytes, 0)),
            flags: u16::from_le_bytes(array(bytes, 2)),
            timeline: u32::from_le_bytes(array(bytes, 4)),
            address: u64::from_le_bytes(array(bytes, 8)),
            remaining: u32::from_le_bytes(array(bytes, 16)),
        }
    }
}

/// How a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageBegin {
    /// With a record, which replaces the one that went on here if there was one.
    Fresh { overwrites: Overwrites },
    /// With so many bytes of the record before, of which more may follow on further pages.
    Continues(u32),
}

/// Whether a page's first record takes the place of one that was never finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overwrites {
    Yes,
    No,
}

/// What pages are compared with.
#[derive(Clone, Debug)]
pub(crate) struct PageChecks {
    timeline: TimelineId,
    system_identifier: u64,
    segment_size: SegmentSize,
    /// Of the pages so far.
    magic: Option<u16>,
    /// Of the page before.
    least_timeline: u32,
}

impl PageChecks {
    pub(crate) fn new(timeline: TimelineId, system_identifier: u64, segment_size: SegmentSize) -> Self {
        Self { timeline, system_identifier, segment_size, magic: None, least_timeline: 1 }
    }

    pub(crate) fn go_on_as(&mut self, timeline: TimelineId) {
        self.timeline = timeline;
    }

    /// How long the header of the page at `position` is, in bytes.
    pub(crate) fn header_length(&self, position: u64) -> usize {
        if position.is_multiple_of(self.segment_size.as_bytes()) { LONG_HEADER } else { SHORT_HEADER }
    }

    /// Size of a dropped statistics entry in commit records, in bytes. There are none before 15.
    pub(crate) fn statistics_entry(&self) -> u32 {
        if self.magic.is_some_and(|magic| magic >= MAGIC_18) { 16 } else { 12 }
    }

    /// Checks everything but the continuation.
    pub(crate) fn check(&mut self, position: u64, bytes: &[u8]) -> Result<PageBegin, WalFaultKind> {
        let header = PageHeader::read(bytes);
        let found = header.magic;
        match self.magic {
            None if MAGICS.contains(&found) => self.magic = Some(found),
            None => return Err(WalFaultKind::Magic { found }),
            Some(before) if before == found => {}
            Some(before) => return Err(WalFaultKind::OtherMagic { found, before }),
        }
        let long = self.header_length(position) == LONG_HEADER;
        let continued = header.flags & CONTINUED != 0;
        let overwrites = if header.flags & OVERWRITES != 0 { Overwrites::Yes } else { Overwrites::No };
        let contradictory = continued && overwrites == Overwrites::Yes;
        if header.flags & !ALL_FLAGS != 0 || (header.flags & LONG != 0) != long || contradictory {
            return Err(WalFaultKind::Flags { found: header.flags });
        }
        if header.address != position {
            return Err(WalFaultKind::Address { found: header.address });
        }
        let (found, least, most) = (header.timeline, self.least_timeline, self.timeline);
        if found < least || found > most.get() {
            return Err(WalFaultKind::Timeline { found, least, most });
        }
        self.least_timeline = found;
        if long {
            self.check_segment(bytes)?;
        }
        match (continued, header.remaining) {
            (true, 1..) => Ok(PageBegin::Continues(header.remaining)),
            (false, 0) => Ok(PageBegin::Fresh { overwrites }),
            (_, found) => Err(WalFaultKind::Continuation { found, expected: 0 }),
        }
    }

    /// The part that only the first page of a segment has.
    fn check_segment(&self, bytes: &[u8]) -> Result<(), WalFaultKind> {
        let (found, expected) = (u64::from_le_bytes(array(bytes, 24)), self.system_identifier);
        if found != expected {
            return Err(WalFaultKind::SystemIdentifier { found, expected });
        }
        let (found, expected) = (u32::from_le_bytes(array(bytes, 32)), self.segment_size.as_bytes());
        if u64::from(found) != expected {
            return Err(WalFaultKind::SegmentBytes { found, expected });
        }
        match u32::from_le_bytes(array(bytes, 36)) {
            found if u64::from(found) == WAL_PAGE_BYTES => Ok(()),
            found => Err(WalFaultKind::PageBytes { found }),
        }
    }
}

/// WAL that is not what it should be. It must not be stored as if it were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("check WAL at {at}: {what}")]
pub struct WalFault {
    /// The page or record.
    pub at: Lsn,
    /// What is wrong with it.
    pub what: WalFaultKind,
}

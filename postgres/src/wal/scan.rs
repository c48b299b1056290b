//! Checks WAL as it comes by: every page's header, every record's checksum and place, and what of it others must know.
//!
//! Source: PostgreSQL `src/backend/access/transam/xlogreader.c` (`XLogDecodeNextRecord`), versions 13 to 18. Unlike a
//! server that looks for the end of its WAL in files, nothing is guessed here: what is not WAL is a fault.

use lifeboat_vocabulary::{Lsn, RecordMark, SegmentSize, TimelineId};

use crate::wal::page::{LONG_HEADER, Overwrites, PageBegin, PageChecks, WAL_PAGE, WAL_PAGE_BYTES};
pub use crate::wal::page::{WalFault, WalFaultKind};
use crate::wal::record::{ContentReader, RECORD_HEADER, RecordHeader, Told};
pub use crate::wal::record::{WalFact, WalFactKind};

/// Where a check begins, and what the WAL must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanStart {
    /// The timeline whose name the segments carry. Pages copied from its ancestors carry theirs.
    pub timeline: TimelineId,
    /// The cluster's.
    pub system_identifier: u64,
    /// The cluster's.
    pub segment_size: SegmentSize,
    /// The first byte: the start of a segment, or of any page.
    pub at: Lsn,
}

/// What the next byte of a page's content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The rest of a record that began before the check did.
    Foreign { left: u32 },
    /// Header of a record, of which so many bytes are there.
    Header { filled: usize },
    /// Content of a record.
    Content { left: u32 },
    /// Up to where the next record can begin.
    Padding { left: usize, behind: Behind },
    /// Behind a switch to the next segment.
    Empty { left: u64 },
}

/// What came before padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Record,
    Foreign,
}

/// What the WAL must continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Continues {
    /// Nothing that is known, or it was found to.
    Anything,
    /// This record is still to come.
    Record(RecordMark),
    /// The first record must be the next one behind this, whose place is before the first byte; or the one behind that,
    /// whose beginning lies before the first byte as well.
    Behind(RecordMark),
}

/// A page's long header is the most that can lie between two records.
const HEADER_MAX: u64 = LONG_HEADER as u64;

/// Checks WAL that comes in pieces of any size. How it is cut makes no difference.
///
/// Where a check begins in the middle of a record, the rest of that record is not verified: whoever checked what came
/// before has the first half. Memory does not depend on the size of records.
#[derive(Clone, Debug)]
pub struct WalScanner {
    checks: PageChecks,
    timeline: TimelineId,
    segment: u64,
    first: Lsn,
    position: u64,
    /// Bytes up to the end of the page; 0 while its header is gathered.
    page_left: usize,
    page_header: [u8; LONG_HEADER],
    page_filled: usize,
    stage: Stage,
    /// Where the current record begins.
    record: u64,
    header: RecordHeader,
    sum: u32,
    content: ContentReader,
    /// Start of the last whole record.
    previous: Option<u64>,
    /// The last whole record.
    last: Option<RecordMark>,
    continues: Continues,
    /// Start of a record that was never finished.
    cut_off: Option<u64>,
    fault: Option<WalFault>,
}

type Found<'a> = &'a mut dyn FnMut(&WalFact);

impl WalScanner {
    /// A check that expects the byte at `start.at` next.
    #[must_use]
    pub fn new(start: ScanStart) -> Self {
        let at = start.at.as_bytes();
        let segment = start.segment_size.as_bytes();
        let misplaced = !at.is_multiple_of(WAL_PAGE_BYTES) || at > u64::MAX - segment;
        Self {
            checks: PageChecks::new(start.timeline, start.system_identifier, start.segment_size),
            timeline: start.timeline,
            segment,
            first: start.at,
            position: at,
            page_left: 0,
            page_header: [0; LONG_HEADER],
            page_filled: 0,
            stage: Stage::Header { filled: 0 },
            record: at,
            header: RecordHeader::default(),
            sum: 0,
            content: ContentReader::new(),
            previous: None,
            last: None,
            continues: Continues::Anything,
            cut_off: None,
            fault: misplaced.then_some(WalFault { at: start.at, what: WalFaultKind::Start }),
        }
    }

    /// The WAL must hold `mark`, which was received before. If `mark` begins before the first byte, it must be the last
    /// record before it, or the last but one if that one goes on behind it.
    #[must_use]
    pub fn continuing(mut self, mark: RecordMark) -> Self {
        self.continues = if mark.start < self.first { Continues::Behind(mark) } else { Continues::Record(mark) };
        self
    }

    /// Whether what the WAL must continue has come, and was right.
    #[must_use]
    pub fn is_continued(&self) -> bool {
        self.continues == Continues::Anything
    }

    /// The last record that came whole and is right; `None` before the first.
    #[must_use]
    pub fn last_record(&self) -> Option<RecordMark> {
        self.last
    }

    /// The next byte that is expected: behind the last one fed, or where the check stopped at a fault.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.lsn(self.position)
    }

    /// Where the last record ends that came whole and is right; `None` before the first.
    #[must_use]
    pub fn last_record_end(&self) -> Option<Lsn> {
        self.last.map(|record| record.end)
    }

    /// Where the last record begins that came whole and is right; `None` before the first.
    #[must_use]
    pub fn last_record_start(&self) -> Option<Lsn> {
        self.previous.map(|start| self.lsn(start))
    }

    /// What follows comes from segments of another timeline, to which the history goes on here.
    pub fn go_on_as(&mut self, timeline: TimelineId) {
        self.timeline = timeline;
        self.checks.go_on_as(timeline);
    }

    /// Takes the next bytes, and tells of each fact once all bytes up to its end are there.
    ///
    /// # Errors
    /// [`WalFault`]: the bytes are not WAL of this cluster that belongs here. Records before [`WalFault::at`] are right;
    /// every later call fails the same way.
    pub fn feed(&mut self, bytes: &[u8], found: &mut dyn FnMut(&WalFact)) -> Result<(), WalFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let step = self.step(rest, found).and_then(|rest| self.passed().map(|()| rest));
            rest = step.inspect_err(|fault| self.fault = Some(*fault))?;
        }
        Ok(())
    }

    /// What must come has not, and its place is over.
    fn passed(&self) -> Result<(), WalFault> {
        match self.continues {
            Continues::Record(mark) if self.position > mark.end.as_bytes() => Err(self.other_record(mark)),
            _ => Ok(()),
        }
    }

    fn other_record(&self, expected: RecordMark) -> WalFault {
        WalFault { at: expected.start, what: WalFaultKind::OtherRecord { expected } }
    }

    /// Compares the record whose header has come with what must.
    fn compare(&self) -> Result<(), WalFault> {
        let previous = self.header.previous();
        let is_right = match self.continues {
            Continues::Anything => true,
            Continues::Record(mark) if self.record == mark.start.as_bytes() => {
                (Lsn::from_bytes(previous), self.header.checksum()) == (mark.previous, mark.crc)
            }
            Continues::Record(mark) => self.record < mark.start.as_bytes(),
            Continues::Behind(mark) => {
                let end = mark.end.as_bytes();
                previous == mark.start.as_bytes() || (end..=end.saturating_add(HEADER_MAX)).contains(&previous)
            }
        };
        match self.continues {
            Continues::Record(mark) | Continues::Behind(mark) if !is_right => Err(self.other_record(mark)),
            _ => Ok(()),
        }
    }

    /// Takes some of the bytes and returns the others.
    fn step<'a>(&mut self, bytes: &'a [u8], found: Found<'_>) -> Result<&'a [u8], WalFault> {
        if let Stage::Empty { left } = self.stage {
            return self.empty(bytes, left, found);
        }
        if self.page_left == 0 {
            return self.page_header(bytes);
        }
        let wanted = match self.stage {
            Stage::Header { filled } => RECORD_HEADER - filled,
            Stage::Content { left } | Stage::Foreign { left } => left as usize,
            Stage::Padding { left, .. } => left,
            Stage::Empty { .. } => 0,
        };
        let (taken, rest) = bytes.split_at(bytes.len().min(self.page_left).min(wanted));
        match self.stage {
            Stage::Header { filled } => self.header_bytes(filled, taken, found)?,
            Stage::Content { left } => {
                self.sum = crc32c::crc32c_append(self.sum, taken);
                self.content.feed(taken);
                self.advance(taken)?;
                self.content_left(less(left, taken), found)?;
            }
            Stage::Foreign { left } => {
                self.advance(taken)?;
                self.stage = Stage::Foreign { left: less(left, taken) };
                if less(left, taken) == 0 {
                    self.align(Behind::Foreign, found)?;
                }
            }
            Stage::Padding { left, behind } => {
                self.advance(taken)?;
                self.stage = Stage::Padding { left: left - taken.len(), behind };
                if left == taken.len() {
                    self.next_record(behind, found)?;
                }
            }
            Stage::Empty { .. } => {}
        }
        Ok(rest)
    }

    /// The next byte is behind `taken`. The last segment of all positions is never reached: its end has no number.
    fn advance(&mut self, taken: &[u8]) -> Result<(), WalFault> {
        self.page_left = self.page_left.saturating_sub(taken.len());
        self.position += taken.len() as u64;
        if self.position > u64::MAX - self.segment { Err(self.blame(self.position, WalFaultKind::End)) } else { Ok(()) }
    }

    fn page_header<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], WalFault> {
        let page = self.position - self.position % WAL_PAGE_BYTES;
        let length = self.checks.header_length(page);
        let (taken, rest) = bytes.split_at(bytes.len().min(length - self.page_filled));
        copy_to(&mut self.page_header, self.page_filled, taken);
        self.advance(taken)?;
        self.page_filled += taken.len();
        if self.page_filled == length {
            self.page_filled = 0;
            self.page_left = WAL_PAGE - length;
            self.begin_page(page).map_err(|what| self.blame(page, what))?;
        }
        Ok(rest)
    }

    fn begin_page(&mut self, page: u64) -> Result<(), WalFaultKind> {
        let begin = self.checks.check(page, &self.page_header)?;
        let expected = match self.stage {
            Stage::Foreign { left } | Stage::Content { left } => left,
            Stage::Header { filled } if filled > 0 => self.header.length()? - small(filled),
            Stage::Header { .. } | Stage::Padding { .. } | Stage::Empty { .. } => 0,
        };
        match begin {
            PageBegin::Continues(found) if found == expected => {}
            PageBegin::Continues(left) if page == self.first.as_bytes() => self.stage = Stage::Foreign { left },
            PageBegin::Fresh { .. } if expected == 0 => {}
            PageBegin::Fresh { overwrites: Overwrites::Yes } => {
                // The server crashed before it could write the rest of the record, and says so with the next one.
                self.cut_off = (!matches!(self.stage, Stage::Foreign { .. })).then_some(self.record);
                self.stage = Stage::Header { filled: 0 };
            }
            PageBegin::Continues(found) => return Err(WalFaultKind::Continuation { found, expected }),
            PageBegin::Fresh { .. } => return Err(WalFaultKind::Continuation { found: 0, expected }),
        }
        Ok(())
    }

    fn header_bytes(&mut self, filled: usize, taken: &[u8], found: Found<'_>) -> Result<(), WalFault> {
        if filled == 0 {
            self.record = self.position;
        }
        copy_to(&mut self.header.0, filled, taken);
        self.advance(taken)?;
        let filled = filled + taken.len();
        self.stage = Stage::Header { filled };
        if filled < RECORD_HEADER {
            return Ok(());
        }
        let length = self.header.length().map_err(|what| self.blame(self.record, what))?;
        let previous = self.header.previous();
        if self.previous.map_or(previous >= self.record, |expected| previous != expected) {
            let expected = self.previous.unwrap_or(self.record);
            return Err(self.blame(self.record, WalFaultKind::Previous { found: previous, expected }));
        }
        self.compare()?;
        self.sum = 0;
        self.content.begin(&self.header, self.checks.statistics_entry());
        self.content_left(length - small(RECORD_HEADER), found)
    }

    fn content_left(&mut self, left: u32, found: Found<'_>) -> Result<(), WalFault> {
        self.stage = Stage::Content { left };
        if left > 0 {
            return Ok(());
        }
        self.header.check(self.sum).map_err(|what| self.blame(self.record, what))?;
        match self.continues {
            Continues::Record(mark) if mark.start.as_bytes() > self.record => {}
            _ => self.continues = Continues::Anything,
        }
        self.align(Behind::Record, found)
    }

    /// The next record begins at the next position that is a multiple of 8, which is on this page or the next page's start.
    fn align(&mut self, behind: Behind, found: Found<'_>) -> Result<(), WalFault> {
        match self.page_left % 8 {
            0 => self.next_record(behind, found),
            left => {
                self.stage = Stage::Padding { left, behind };
                Ok(())
            }
        }
    }

    fn next_record(&mut self, behind: Behind, found: Found<'_>) -> Result<(), WalFault> {
        self.stage = Stage::Header { filled: 0 };
        if behind == Behind::Foreign {
            return Ok(());
        }
        self.previous = Some(self.record);
        self.last = Some(RecordMark {
            timeline: self.timeline,
            start: self.lsn(self.record),
            end: self.lsn(self.position),
            previous: Lsn::from_bytes(self.header.previous()),
            crc: self.header.checksum(),
        });
        match self.content.finish().map_err(|what| self.blame(self.record, what))? {
            Told::Nothing => {}
            Told::Fact(WalFactKind::Switch) => {
                let left = self.position.next_multiple_of(self.segment) - self.position;
                self.stage = Stage::Empty { left };
                if left == 0 {
                    self.end_of_empty(found);
                }
            }
            Told::Fact(kind) => self.report(kind, found),
            Told::Overwritten(replaced) => {
                if let Some(expected) = self.cut_off.filter(|expected| *expected != replaced) {
                    let what = WalFaultKind::Overwritten { found: replaced, expected };
                    return Err(self.blame(self.record, what));
                }
            }
        }
        self.cut_off = None;
        Ok(())
    }

    /// Positions are behind the first one, which is not 0.
    fn lsn(&self, position: u64) -> Lsn {
        Lsn::from_bytes(position).unwrap_or(self.first)
    }

    fn blame(&self, at: u64, what: WalFaultKind) -> WalFault {
        WalFault { at: self.lsn(at), what }
    }

    fn report(&self, kind: WalFactKind, found: Found<'_>) {
        let (start, end) = (self.lsn(self.record), self.lsn(self.position));
        found(&WalFact { start, end, xid: self.header.xid(), kind });
    }

    /// Not even page headers are written behind a switch (`xlog.c`, `CopyXLogRecordToWAL`).
    fn empty<'a>(&mut self, bytes: &'a [u8], left: u64, found: Found<'_>) -> Result<&'a [u8], WalFault> {
        let (taken, rest) = bytes.split_at(usize::try_from(left).map_or(bytes.len(), |left| bytes.len().min(left)));
        if let Some(offset) = taken.iter().position(|byte| *byte != 0) {
            return Err(self.blame(self.position + offset as u64, WalFaultKind::NotEmpty));
        }
        self.advance(taken)?;
        let left = left - taken.len() as u64;
        self.stage = Stage::Empty { left };
        if left == 0 {
            self.end_of_empty(found);
        }
        Ok(rest)
    }

    fn end_of_empty(&mut self, found: Found<'_>) {
        self.stage = Stage::Header { filled: 0 };
        self.page_left = 0;
        self.last = self.last.map(|switch| RecordMark { end: self.lsn(self.position), ..switch });
        self.report(WalFactKind::Switch, found);
    }
}

fn copy_to(room: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(room) = room.get_mut(offset..offset + bytes.len()) {
        room.copy_from_slice(bytes);
    }
}

/// Of a number of bytes that was bounded by one of 32 bits.
fn small(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn less(left: u32, taken: &[u8]) -> u32 {
    left.saturating_sub(small(taken.len()))
}

#[cfg(test)]
mod tests;

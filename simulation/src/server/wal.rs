//! WAL as a server writes it: pages, records with their checksums, and what a timeline takes over from the one before.
//!
//! Source: PostgreSQL `src/include/access/xlog_internal.h` and `xlogrecord.h`.

use lifeboat_vocabulary::UtcTime;

/// The magic number of PostgreSQL 17.
const MAGIC: u16 = 0xD116;
const PAGE: u64 = 8192;
/// Bytes of a segment: the smallest that there is.
pub const SEGMENT: u64 = 1 << 20;
/// The first byte of the WAL of every simulated cluster.
pub const BEGIN: u64 = 3 * SEGMENT;
/// Seconds from 1970 to 2000, where PostgreSQL's time begins.
const EPOCH_SECONDS: i64 = 946_684_800;
/// The resource managers of records.
const XLOG: u8 = 0;
const XACT: u8 = 1;
const HEAP: u8 = 10;

/// The WAL of one timeline from [`BEGIN`] on, with what it has taken over from its ancestors.
#[derive(Clone, Debug)]
pub struct Wal {
    system_identifier: u64,
    timeline: u32,
    bytes: Vec<u8>,
    /// Where the record before begins.
    previous: u64,
    /// Where each record ends, and where it begins: places to go back to.
    records: Vec<(u64, u64)>,
}

impl Wal {
    /// Without a record.
    #[must_use]
    pub fn new(system_identifier: u64) -> Self {
        Self { system_identifier, timeline: 1, bytes: Vec::new(), previous: 0, records: Vec::new() }
    }

    /// Behind the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        BEGIN + self.bytes.len() as u64
    }

    /// Whose WAL it is.
    #[must_use]
    pub fn timeline(&self) -> u32 {
        self.timeline
    }

    /// The bytes from `start` to `end`, as far as there are any.
    #[must_use]
    pub fn range(&self, start: u64, end: u64) -> &[u8] {
        let at = |lsn: u64| usize::try_from(lsn.saturating_sub(BEGIN)).unwrap_or(usize::MAX).min(self.bytes.len());
        self.bytes.get(at(start)..at(end)).unwrap_or_default()
    }

    /// A transaction that ends at `time`; returns where its commit record ends.
    pub fn commit(&mut self, time: UtcTime, content: usize) -> u64 {
        let filler: Vec<u8> = (0..content).map(|at| u8::try_from(at % 251).unwrap_or(0)).collect();
        self.record(HEAP, 0, 77, &main_data(&filler));
        let micros = time.as_unix_micros() - EPOCH_SECONDS * 1_000_000;
        self.record(XACT, 0, 77, &main_data(&micros.to_le_bytes()));
        self.end()
    }

    /// A checkpoint of a running server; returns where its record begins.
    pub fn checkpoint(&mut self) -> u64 {
        self.record(XLOG, 0x10, 0, &main_data(&[0; 88]))
    }

    /// The rest of the segment stays empty.
    pub fn switch_segment(&mut self) {
        self.record(XLOG, 0x40, 0, &[]);
        let length = self.bytes.len().next_multiple_of(usize::try_from(SEGMENT).unwrap_or(1));
        self.bytes.resize(length, 0);
        // Nothing can follow it in this segment.
        if let Some((end, _)) = self.records.last_mut() {
            *end = BEGIN + self.bytes.len() as u64;
        }
    }

    /// The last place at or before `lsn` where a record ends.
    #[must_use]
    pub fn record_end_before(&self, lsn: u64) -> u64 {
        self.records.iter().map(|(end, _)| *end).filter(|end| *end <= lsn).max().unwrap_or(BEGIN)
    }

    /// Forgets everything behind a record's end, as a server that is set back does.
    pub fn cut(&mut self, lsn: u64) {
        self.records.retain(|(end, _)| *end <= lsn);
        self.previous = self.records.last().map_or(0, |(_, start)| *start);
        self.bytes.truncate(usize::try_from(lsn - BEGIN).unwrap_or(0));
    }

    /// The next timeline goes on here.
    pub fn promote(&mut self, timeline: u32) {
        self.timeline = timeline;
        self.record(XLOG, 0x90, 0, &main_data(&[0; 16]));
    }

    fn page(&mut self, flags: u16, remaining: u32) {
        let position = self.end();
        let is_long = position.is_multiple_of(SEGMENT);
        self.bytes.extend(MAGIC.to_le_bytes());
        self.bytes.extend((flags | if is_long { 2 } else { 0 }).to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(position.to_le_bytes());
        self.bytes.extend(remaining.to_le_bytes());
        self.bytes.extend([0; 4]);
        if is_long {
            self.bytes.extend(self.system_identifier.to_le_bytes());
            self.bytes.extend(u32::try_from(SEGMENT).unwrap_or(0).to_le_bytes());
            self.bytes.extend(8192u32.to_le_bytes());
        }
    }

    fn record(&mut self, manager: u8, info: u8, xid: u32, content: &[u8]) -> u64 {
        let mut record = u32::try_from(24 + content.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        record.extend(xid.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let sum = crc32c::crc32c_append(crc32c::crc32c(content), &record);
        record.extend(sum.to_le_bytes());
        record.extend(content);
        if self.end().is_multiple_of(PAGE) {
            self.page(0, 0);
        }
        let start = self.end();
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            if self.end().is_multiple_of(PAGE) {
                self.page(1, u32::try_from(rest.len()).unwrap_or(u32::MAX));
            }
            let room = usize::try_from(PAGE - self.end() % PAGE).unwrap_or(0);
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.previous = start;
        self.records.push((self.end(), start));
        start
    }
}

/// The main data of a record, with its header.
fn main_data(data: &[u8]) -> Vec<u8> {
    let mut content = match u8::try_from(data.len()) {
        Ok(length) => vec![255, length],
        Err(_) => [vec![254], u32::try_from(data.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec()].concat(),
    };
    content.extend(data);
    content
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_postgres::{ScanStart, WalScanner};
    use lifeboat_vocabulary::{Lsn, SegmentSize, TimelineId};

    fn scan(wal: &Wal, timeline: u32) -> Lsn {
        let start = ScanStart {
            timeline: TimelineId::new(timeline).unwrap(),
            system_identifier: 7,
            segment_size: SegmentSize::from_bytes(SEGMENT).unwrap(),
            at: Lsn::from_bytes(BEGIN).unwrap(),
        };
        let mut scanner = WalScanner::new(start);
        scanner.feed(wal.range(BEGIN, wal.end()), &mut |_| {}).unwrap();
        scanner.last_record_end().unwrap()
    }

    #[test]
    fn the_scanner_takes_it_for_real_over_segments_timelines_and_after_a_set_back() {
        let time = UtcTime::from_unix_micros(1_800_000_000_000_000).unwrap();
        let mut wal = Wal::new(7);
        for size in [0, 10, 9000, 70_000, 300, 1_000_000] {
            wal.commit(time, size);
        }
        wal.switch_segment();
        wal.checkpoint();
        let before = wal.end();
        wal.commit(time, 5);
        assert_eq!(scan(&wal, 1).as_bytes(), wal.end());
        wal.cut(wal.record_end_before(before));
        assert_eq!(wal.end(), before);
        wal.commit(time, 17);
        wal.promote(2);
        wal.commit(time, 3000);
        assert_eq!(scan(&wal, 2).as_bytes(), wal.end());
    }
}

//! Where one segment ends and the next one begins. PostgreSQL takes a record that does not follow the one before it for the
//! end of the WAL, and opens the cluster there: so segments that do not belong together are never handed out.

use std::io::{self, Read};

use lifeboat_postgres::{WalFact, WalScanner, open_to_read};
use lifeboat_vocabulary::Lsn;

use crate::wal_fetch::segment::Fetched;
use crate::wal_fetch::tablespaces::{CreatedTablespace, created};

/// Read at once, in **bytes**: mostly the first record of a segment ends in it.
const STEP: usize = 32 * 1024;

/// The end of a segment that was handed out, as far as what follows has to fit it: the place of the last record, and the
/// first part of one that goes on.
#[derive(Clone, Debug)]
pub(crate) struct Seam {
    /// Where the segment ends.
    at: Lsn,
    scanner: WalScanner,
}

/// A segment that follows the one before it.
#[derive(Debug)]
pub(crate) struct Joined {
    /// Its own end.
    pub(crate) seam: Seam,
    /// The tablespaces that a record which began before it creates.
    pub(crate) tablespaces: Vec<CreatedTablespace>,
}

impl Seam {
    /// Behind WAL that was read up to `at`.
    pub(crate) fn new(at: Lsn, scanner: WalScanner) -> Self {
        Self { at, scanner }
    }

    /// The first byte of the segment that follows.
    pub(crate) fn at(&self) -> Lsn {
        self.at
    }

    /// Where the last record ends that is whole. Replay arrives there, if nothing follows.
    pub(crate) fn last_record_end(&self) -> Option<Lsn> {
        self.scanner.last_record_end()
    }

    /// Reads the next segment until a record that begins in it is whole: that one names the place of the record before it,
    /// and the checksum of one that crosses the seam covers both its parts.
    ///
    /// # Errors
    /// A sentence: the segment does not follow, or its file cannot be read.
    pub(crate) fn join(mut self, next: &Fetched, replay_from: Lsn) -> Result<Joined, String> {
        self.scanner.go_on_as(next.name.timeline);
        let mut tablespaces = Vec::new();
        let mut found = |fact: &WalFact| {
            // What begins in the segment was found when it was fetched.
            if fact.start < next.start {
                tablespaces.extend(created(fact, replay_from));
            }
        };
        let cannot = |error: io::Error| format!("read {} again: {error}", next.path.display());
        let mut file = open_to_read(&next.path).map_err(cannot)?;
        let mut left = usize::try_from(next.end.as_bytes() - next.start.as_bytes()).unwrap_or(usize::MAX);
        let mut bytes = vec![0; STEP];
        while left > 0 {
            let part = bytes.get_mut(..STEP.min(left)).unwrap_or_default();
            file.read_exact(part).map_err(cannot)?;
            self.scanner.feed(part, &mut found).map_err(|fault| {
                format!(
                    "WAL breaks off at {}: {} is whole, and does not continue what comes before it ({fault}). What is \
                     stored on one side of that place is not of this history",
                    next.start, next.name
                )
            })?;
            left -= part.len();
            if self.scanner.last_record_start().is_some_and(|start| start >= next.start) {
                return Ok(Joined { seam: Seam::new(next.end, next.scanner.clone()), tablespaces });
            }
        }
        // One record fills all of the segment: only this scan knows its beginning.
        Ok(Joined { seam: Seam::new(next.end, self.scanner), tablespaces })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;

    use lifeboat_postgres::ScanStart;
    use lifeboat_vocabulary::{SegmentName, SegmentSize, TimelineId};

    use super::*;

    const SEGMENT: usize = 1 << 20;
    const SYSTEM: u64 = 7;

    /// Writes WAL as a server of version 15 does: records of any length, over pages and segments.
    struct Writer {
        bytes: Vec<u8>,
        previous: u64,
        letter: u8,
    }

    impl Writer {
        /// From the start of segment 2 on.
        fn new(letter: u8) -> Self {
            Self { bytes: Vec::new(), previous: 0, letter }
        }

        fn at(&self) -> u64 {
            (2 * SEGMENT + self.bytes.len()) as u64
        }

        fn page_header(&mut self, left: usize) {
            let (at, is_first) = (self.at(), self.bytes.len().is_multiple_of(SEGMENT));
            let flags = u16::from(left > 0) | if is_first { 2 } else { 0 };
            self.bytes.extend(0xD110u16.to_le_bytes());
            self.bytes.extend(flags.to_le_bytes());
            self.bytes.extend(1u32.to_le_bytes());
            self.bytes.extend(at.to_le_bytes());
            self.bytes.extend(u32::try_from(left).unwrap().to_le_bytes());
            self.bytes.extend([0; 4]);
            if is_first {
                self.bytes.extend(SYSTEM.to_le_bytes());
                self.bytes.extend(u32::try_from(SEGMENT).unwrap().to_le_bytes());
                self.bytes.extend(8192u32.to_le_bytes());
            }
        }

        /// A record with this many bytes behind its header.
        fn record(&mut self, content: usize) {
            if self.bytes.len().is_multiple_of(8192) {
                self.page_header(0);
            }
            let start = self.at();
            let mut record = u32::try_from(24 + content).unwrap().to_le_bytes().to_vec();
            record.extend([0; 4]);
            record.extend(self.previous.to_le_bytes());
            // A manager that is of no interest to anybody.
            record.extend([0, 10, 0, 0]);
            let content = vec![self.letter; content];
            let sum = crc32c::crc32c_append(crc32c::crc32c(&content), &record);
            record.extend(sum.to_le_bytes());
            record.extend(&content);
            for (index, byte) in record.iter().enumerate() {
                if self.bytes.len().is_multiple_of(8192) {
                    self.page_header(record.len() - index);
                }
                self.bytes.push(*byte);
            }
            self.previous = start;
            while !self.bytes.len().is_multiple_of(8) {
                self.bytes.push(0);
            }
        }

        /// Records up to the end of so many segments, the last of which crosses it.
        fn up_to(letter: u8, segments: usize, content: usize) -> Self {
            let mut writer = Self::new(letter);
            while writer.bytes.len() < segments * SEGMENT {
                writer.record(content);
            }
            writer
        }
    }

    /// One segment of some WAL, as it is fetched.
    fn fetched(dir: &Path, wal: &[u8], index: usize) -> Fetched {
        let lsn = |bytes: usize| Lsn::from_bytes((2 * SEGMENT + bytes) as u64).unwrap();
        let bytes = wal.get(index * SEGMENT..wal.len().min((index + 1) * SEGMENT)).unwrap();
        let (start, segment_size) = (lsn(index * SEGMENT), SegmentSize::from_bytes(SEGMENT as u64).unwrap());
        let timeline = TimelineId::new(1).unwrap();
        let scan = ScanStart { timeline, system_identifier: SYSTEM, segment_size, at: start };
        let mut scanner = WalScanner::new(scan);
        scanner.feed(bytes, &mut |_| {}).unwrap();
        let path = dir.join(format!("{index}"));
        let file = File::create(&path).and_then(|mut file| io::Write::write_all(&mut file, bytes));
        file.unwrap();
        let (name, end) = (SegmentName::holding(timeline, start, segment_size), lsn(index * SEGMENT + bytes.len()));
        Fetched { path, name, start, end, tablespaces: Vec::new(), scanner }
    }

    fn seam(fetched: &Fetched) -> Seam {
        Seam::new(fetched.end, fetched.scanner.clone())
    }

    #[test]
    fn segments_of_one_history_fit_whatever_crosses_their_seam() {
        let dir = tempfile::tempdir().unwrap();
        for content in [10, 100, 5000, 200_000] {
            let wal = Writer::up_to(1, 3, content).bytes;
            let segments: Vec<Fetched> = (0..4).map(|index| fetched(dir.path(), &wal, index)).collect();
            let mut before = seam(&segments[0]);
            for next in &segments[1..] {
                assert_eq!(before.at(), next.start);
                before = before.join(next, next.start).unwrap().seam;
            }
            let end = before.last_record_end().unwrap();
            assert_eq!(end.as_bytes(), (2 * SEGMENT + wal.len()) as u64, "{content}: all records are known");
        }
    }

    #[test]
    fn segments_of_two_histories_do_not_fit_though_each_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        for (why, mine, other) in [
            ("a record of other content crosses", Writer::up_to(1, 2, 5000).bytes, Writer::up_to(2, 2, 5000).bytes),
            ("a record of other length crosses", Writer::up_to(1, 2, 5000).bytes, Writer::up_to(1, 2, 5008).bytes),
            ("nothing is to cross", whole_segment(1), Writer::up_to(1, 2, 5000).bytes),
            ("the record before is elsewhere", whole_segment(1), whole_segment(8)),
        ] {
            let (first, second) = (fetched(dir.path(), &mine, 0), fetched(dir.path(), &other, 1));
            let text = seam(&first).join(&second, second.start).unwrap_err();
            assert!(text.contains("WAL breaks off at 0/300000"), "{why}: {text}");
        }
    }

    /// Two segments with nothing across their seam; the last record of the first one has `last` times 8 bytes.
    fn whole_segment(last: usize) -> Vec<u8> {
        let mut writer = Writer::new(1);
        let last = 8 * last;
        while writer.bytes.len() < SEGMENT - 16_384 {
            writer.record(1000);
        }
        // The rest of the page before the last, and then of the last, but for one record.
        writer.record(8192 - writer.bytes.len() % 8192 - 24);
        let room = 8192 - 24;
        writer.record(room - 24 - 24 - last);
        writer.record(last);
        assert_eq!(writer.bytes.len() % 8192, 0);
        while writer.bytes.len() < SEGMENT {
            writer.record(8192 - 24 - 24);
        }
        assert_eq!(writer.bytes.len(), SEGMENT);
        writer.record(100);
        writer.bytes
    }

    #[test]
    fn a_record_that_fills_more_than_a_segment_is_followed_through() {
        let dir = tempfile::tempdir().unwrap();
        let mut wal = Writer::new(1);
        wal.record(100);
        wal.record(2 * SEGMENT + SEGMENT / 2);
        wal.record(100);
        let mut other = Writer::new(1);
        other.record(100);
        other.record(2 * SEGMENT + SEGMENT / 2);
        let place = SEGMENT + 5000;
        other.bytes[place] ^= 1;
        let segments: Vec<Fetched> = (0..3).map(|index| fetched(dir.path(), &wal.bytes, index)).collect();
        let joined = seam(&segments[0]).join(&segments[1], segments[1].start).unwrap().seam;
        let end = joined.clone().join(&segments[2], segments[2].start).unwrap().seam.last_record_end();
        assert_eq!(end.unwrap().as_bytes(), wal.at());
        // One bit in the middle, which no check of a segment by itself can see.
        let broken = fetched(dir.path(), &other.bytes, 1);
        let joined = seam(&segments[0]).join(&broken, broken.start).unwrap().seam;
        assert!(joined.join(&segments[2], segments[2].start).is_err());
    }
}

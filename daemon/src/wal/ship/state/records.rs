//! Which record is the last one before which end of what was cut. Pure.

use std::collections::BTreeMap;

use lifeboat_vocabulary::{Lsn, RecordMark, TimelineId, WalPosition};

/// So many ends are remembered; with more, every second of the older half goes.
const KEPT: usize = 4096;

/// The last whole record before each end of an object, as far back as some region may need it for its head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records(BTreeMap<(TimelineId, Lsn), RecordMark>);

impl Records {
    /// WAL up to `end` was cut, or found, and its last record is this.
    pub(crate) fn add(&mut self, end: WalPosition, record: RecordMark) {
        self.0.insert((end.timeline, end.lsn), record);
        if self.0.len() > KEPT {
            let mut number = 0_usize;
            self.0.retain(|_, _| {
                number += 1;
                number > KEPT / 2 || number.is_multiple_of(2)
            });
        }
    }

    /// The last one before exactly this end of an object.
    pub(crate) fn at(&self, end: WalPosition) -> Option<RecordMark> {
        self.0.get(&(end.timeline, end.lsn)).copied()
    }

    /// The newest one that is known to lie before `end`, on its timeline.
    pub(crate) fn before(&self, end: WalPosition) -> Option<RecordMark> {
        let (_, record) = self.0.range(..=(end.timeline, end.lsn)).next_back()?;
        Some(*record).filter(|record| record.timeline == end.timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(timeline: u32, lsn: u64) -> WalPosition {
        WalPosition { timeline: TimelineId::new(timeline).unwrap(), lsn: Lsn::from_bytes(lsn).unwrap() }
    }

    fn record(timeline: u32, end: u64) -> RecordMark {
        let (start, end) = (at(timeline, end - 8).lsn, at(timeline, end).lsn);
        RecordMark { timeline: at(timeline, 1).timeline, start, end, previous: None, crc: 1 }
    }

    #[test]
    fn the_last_record_before_a_position_is_found_however_many_there_are() {
        let mut records = Records::default();
        assert_eq!(records.before(at(1, 100)), None);
        for number in 1..=20_000 {
            records.add(at(2, number * 100), record(2, number * 100 - 4));
        }
        assert!(records.0.len() <= KEPT);
        assert_eq!(records.before(at(2, 2_000_050)), Some(record(2, 1_999_996)));
        assert!(records.before(at(2, 1_000_000)).unwrap().end <= at(2, 1_000_000).lsn);
        assert_eq!(records.before(at(3, 1)), None, "another timeline's says nothing");
    }
}

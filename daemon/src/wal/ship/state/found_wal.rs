//! WAL that regions and the spool held at the start, by its checksums: when the server sends the same bytes again, they are
//! compared, so that a piece never takes the place of slices with other content. Pure.

use std::collections::BTreeMap;

use lifeboat_repository::format::layout::WalRange;
use lifeboat_vocabulary::{Lsn, TimelineId};

/// Checksums of stored WAL that is still to be compared.
#[derive(Clone, Debug, Default)]
pub(crate) struct FoundWal(BTreeMap<(TimelineId, Lsn), Vec<Found>>);

/// One object of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    start: Lsn,
    crc: u32,
}

impl FoundWal {
    /// There is this WAL, and the CRC-32C of its bytes is `crc`.
    pub(crate) fn add(&mut self, range: WalRange, crc: u32) {
        let known = self.0.entry((range.timeline, range.end)).or_default();
        let found = Found { start: range.start, crc };
        if !known.contains(&found) {
            known.push(found);
        }
    }

    /// What ends within `fresh`, which comes now, with its checksum. What ends before can no longer be compared and is
    /// forgotten.
    pub(crate) fn ending_in(&mut self, fresh: WalRange) -> Vec<(WalRange, u32)> {
        let timeline = fresh.timeline;
        let after = |at: Lsn| (timeline, Lsn::from_bytes(at.as_bytes().saturating_add(1)).unwrap_or(at));
        let mut due = self.0.split_off(&after(fresh.start));
        let mut later = due.split_off(&after(fresh.end));
        self.0.retain(|(of, _), _| *of != timeline);
        self.0.append(&mut later);
        let each = |((_, end), found): ((TimelineId, Lsn), Vec<Found>)| {
            found.into_iter().map(move |Found { start, crc }| (WalRange { timeline, start, end }, crc))
        };
        due.into_iter().flat_map(each).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(timeline: u32, start: u64, end: u64) -> WalRange {
        let lsn = |at| Lsn::from_bytes(at).unwrap();
        WalRange { timeline: TimelineId::new(timeline).unwrap(), start: lsn(start), end: lsn(end) }
    }

    #[test]
    fn each_object_is_compared_once_when_its_last_byte_comes() {
        let mut found = FoundWal::default();
        for (known, crc) in [(range(1, 10, 20), 1), (range(1, 20, 30), 2), (range(1, 16, 32), 3), (range(2, 16, 32), 4)]
        {
            found.add(known, crc);
            found.add(known, crc);
        }
        assert_eq!(found.ending_in(range(1, 12, 19)), []);
        assert_eq!(found.ending_in(range(1, 19, 30)), [(range(1, 10, 20), 1), (range(1, 20, 30), 2)]);
        assert_eq!(found.ending_in(range(1, 30, 64)), [(range(1, 16, 32), 3)]);
        assert_eq!(found.ending_in(range(1, 64, 99)), []);
        assert_eq!(found.ending_in(range(2, 16, 40)), [(range(2, 16, 32), 4)]);
        found.add(range(1, 10, 20), 1);
        assert_eq!(found.ending_in(range(1, 40, 50)), [], "it lies behind us");
    }
}

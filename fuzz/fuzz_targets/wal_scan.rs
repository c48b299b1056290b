#![no_main]
//! Pages and records of WAL, in pieces of any size: the size changes nothing.

use lifeboat_postgres::{ScanStart, WalScanner};
use lifeboat_vocabulary::{Lsn, SegmentSize, TimelineId};

fn scan(wal: &[u8], piece: usize) -> (Vec<String>, bool, Lsn) {
    let (timeline, at) = match (TimelineId::new(1), Lsn::from_bytes(SegmentSize::DEFAULT.as_bytes())) {
        (Some(timeline), Some(at)) => (timeline, at),
        _ => unreachable!("neither is 0"),
    };
    let start = ScanStart { timeline, system_identifier: 7, segment_size: SegmentSize::DEFAULT, at };
    let mut scanner = WalScanner::new(start);
    let mut facts = Vec::new();
    let mut whole = true;
    for piece in wal.chunks(piece) {
        if scanner.feed(piece, &mut |fact| facts.push(format!("{fact:?}"))).is_err() {
            whole = false;
            break;
        }
    }
    (facts, whole, scanner.position())
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((size, wal)) = data.split_first() else { return };
    let (facts, whole, end) = scan(wal, usize::from(*size) * 16 + 1);
    let (at_once, whole_at_once, end_at_once) = scan(wal, wal.len().max(1));
    assert_eq!((&facts, whole), (&at_once, whole_at_once));
    assert!(!whole || end == end_at_once);
});

//! What a PostgreSQL server sends, and files of its data directory.

use bytes::{Bytes, BytesMut};
use lifeboat_postgres::{
    BackupLabel, ControlFile, HISTORY_MAX, ManifestFile, ManifestLines, PAGE_BYTES, ScanStart, TarEvent, TarParser,
    TimelineHistory, WalScanner, check_pages, decode_message, judge_reread, server_end_point, split_message,
};
use lifeboat_vocabulary::{Lsn, RelativePath, SegmentSize, TimelineId, WalPosition};

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).expect("it is not 0")
}

fn lsn(bytes: u64) -> Lsn {
    Lsn::from_bytes(bytes).expect("it is not 0")
}

/// Messages of the PostgreSQL protocol: what is split off is what was sent.
pub fn protocol(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    let mut taken = 0;
    while let Ok(Some((tag, body))) = split_message(&mut buffer) {
        assert_eq!(data.get(taken), Some(&tag));
        taken += 5 + body.len();
        assert_eq!(taken + buffer.len(), data.len(), "every byte is in a message or left");
        std::hint::black_box(&decode_message(tag, body));
    }
    std::hint::black_box(&server_end_point(data));
}

/// What came of an archive that was read in pieces: events with the content of a file in one, and whether it ended well.
fn untar(archive: &[u8], piece: usize) -> (Vec<TarEvent>, bool) {
    let mut parser = TarParser::default();
    let mut events: Vec<TarEvent> = Vec::new();
    for piece in archive.chunks(piece) {
        parser.feed(Bytes::copy_from_slice(piece));
        loop {
            match parser.next_event() {
                Ok(Some(TarEvent::Data(more))) => {
                    assert!(!more.is_empty());
                    match events.last_mut() {
                        Some(TarEvent::Data(data)) => *data = [&data[..], &more[..]].concat().into(),
                        _ => events.push(TarEvent::Data(more)),
                    }
                }
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(_) => return (events, false),
            }
        }
    }
    let is_whole = parser.finish().is_ok();
    (events, is_whole)
}

/// The tar stream of a base backup, in pieces of any size: the size changes nothing, and a file has as much content as its
/// header says.
pub fn tar(data: &[u8]) {
    let Some((size, archive)) = data.split_first() else { return };
    let (events, is_whole) = untar(archive, usize::from(*size) * 8 + 1);
    assert_eq!((&events, is_whole), (&untar(archive, archive.len().max(1)).0, untar(archive, archive.len().max(1)).1));
    let mut open = None;
    for event in &events {
        match event {
            TarEvent::Begin(header) => open = Some((header.size, 0)),
            TarEvent::Data(data) => {
                let (size, found) = open.as_mut().expect("content belongs to a file");
                *found += data.len() as u64;
                assert!(found <= size);
            }
            TarEvent::End => {
                let (size, found) = open.take().expect("what ends has begun");
                assert_eq!(size, found);
            }
        }
    }
}

fn manifest_files(manifest: &[u8], piece: usize) -> (Vec<ManifestFile>, bool) {
    let mut lines = ManifestLines::default();
    let mut files = Vec::new();
    for piece in manifest.chunks(piece) {
        if lines.feed(piece, |file| files.push(file)).is_err() {
            return (files, false);
        }
    }
    let is_whole = lines.finish().is_ok();
    (files, is_whole)
}

/// The server's own manifest, line by line: the size of the pieces changes nothing, and only what carries its own checksum
/// is whole.
pub fn backup_manifest(data: &[u8]) {
    let Some((size, manifest)) = data.split_first() else { return };
    let (files, is_whole) = manifest_files(manifest, usize::from(*size) + 1);
    assert!(files.len() <= manifest.len());
    assert_eq!((files, is_whole), manifest_files(manifest, manifest.len().max(1)));
}

/// `backup_label`: what is read stands in it.
pub fn backup_label(data: &[u8]) {
    let Ok(label) = BackupLabel::parse(data) else { return };
    // One at the end of a line belongs to the end of the line.
    if data.contains(&b'\r') {
        return;
    }
    let text = String::from_utf8_lossy(data);
    assert!(text.contains(&label.start_time) && text.contains(&label.label));
    let from = format!("{:?}", label.from).to_lowercase();
    let written = format!(
        "START WAL LOCATION: {} (file 0)\nCHECKPOINT LOCATION: {}\nBACKUP FROM: {from}\nSTART TIME: {}\nLABEL: {}\n\
         START TIMELINE: {}\n",
        label.start, label.checkpoint, label.start_time, label.label, label.timeline
    );
    assert_eq!(BackupLabel::parse(written.as_bytes()), Ok(label));
}

/// `global/pg_control`: the bytes are covered by a checksum, which the input has at will (see the first byte).
pub fn control_file(data: &[u8]) {
    std::hint::black_box(&ControlFile::parse(data));
    let Some((choice, content)) = data.split_first() else { return };
    // The checksum stands behind what it covers.
    let at = if choice & 1 == 0 { 288 } else { 292 };
    let mut content = content.to_vec();
    let Some((covered, rest)) = content.split_at_mut_checked(at) else { return };
    let Some(sum) = rest.first_chunk_mut() else { return };
    *sum = crc32c::crc32c(covered).to_le_bytes();
    if let Ok(control) = ControlFile::parse(&content) {
        let mut flipped = content.clone();
        flipped[usize::from(*choice) % at] ^= 1;
        assert_ne!(ControlFile::parse(&flipped), Ok(control), "a checksum covers it");
    }
}

/// Pages of a relation: every fault is about a page that is there.
pub fn data_pages(data: &[u8]) {
    let path = RelativePath::new(b"base/5/16384.1").expect("it is a path");
    let faults = check_pages(&path, 0, data, lsn(1 << 40));
    assert!(faults.len() <= data.len().div_ceil(PAGE_BYTES));
    let (first, again) = data.split_at(data.len() / 2);
    std::hint::black_box(&judge_reread(first, again));
}

/// Timeline history files, as a server sends them.
pub fn history(data: &[u8]) {
    let newest = timeline(u32::MAX);
    let Ok(history) = TimelineHistory::parse(newest, data) else { return };
    assert!(data.len() <= HISTORY_MAX);
    assert!(history.entries.is_sorted_by(|one, other| one.timeline < other.timeline));
    for entry in &history.entries {
        assert!(entry.timeline < newest);
        if let Some(lsn) = history.switch_from(entry.timeline) {
            assert!(history.contains(WalPosition { timeline: entry.timeline, lsn }));
        }
    }
    let line = |entry: &lifeboat_postgres::HistoryEntry| format!("{}\t{}\tbefore\n", entry.timeline, entry.switch);
    let written: String = history.entries.iter().map(line).collect();
    assert_eq!(TimelineHistory::parse(newest, written.as_bytes()), Ok(history));
}

fn scan(wal: &[u8], piece: usize) -> (Vec<String>, bool, Lsn) {
    let (segment_size, at) = (SegmentSize::DEFAULT, lsn(SegmentSize::DEFAULT.as_bytes()));
    let start = ScanStart { timeline: timeline(1), system_identifier: 7, segment_size, at };
    let mut scanner = WalScanner::new(start);
    let mut facts = Vec::new();
    let mut is_whole = true;
    for piece in wal.chunks(piece) {
        if scanner.feed(piece, &mut |fact| facts.push(format!("{fact:?}"))).is_err() {
            is_whole = false;
            break;
        }
    }
    let end = scanner.position();
    assert!(scanner.last_record_end().is_none_or(|record| scanner.last_record_start().is_some_and(|at| at < record)));
    assert!(end.as_bytes() <= at.as_bytes() + wal.len() as u64, "it cannot be further than what it was fed");
    (facts, is_whole, end)
}

/// Pages and records of WAL, in pieces of any size: the size changes nothing.
pub fn wal_scan(data: &[u8]) {
    let Some((size, wal)) = data.split_first() else { return };
    let (facts, is_whole, end) = scan(wal, usize::from(*size) * 16 + 1);
    let (at_once, whole_at_once, end_at_once) = scan(wal, wal.len().max(1));
    assert_eq!((&facts, is_whole), (&at_once, whole_at_once));
    assert!(!is_whole || end == end_at_once);
}

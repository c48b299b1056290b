//! Tests of reading WAL from regions that lack it, have it damaged, or do not answer.

use super::*;
use crate::format::ids::Incarnation;
use crate::log::append::Draft;
use crate::log::records::record::RecordBody;
use crate::log::records::wal::IncarnationRecord;
use crate::samples::wal::{Archive, epoch_record, new_epoch, overwrite, sealer, wal_bytes};
use crate::samples::{self, wal_range};
use lifeboat_stores::{Fault as StoreFault, Operation, Rule, Store};

const MIB: u64 = 1 << 20;
/// Above 4 GiB, where the two halves of a position matter.
const BASE: u64 = 0x7_0000_0000;

/// A range on timeline 0xA, in KiB from a piece's start.
fn kib(start: u64, end: u64) -> WalRange {
    wal_range(0xA, BASE + start * 1024, BASE + end * 1024)
}

fn found(range: WalRange) -> WalRead {
    WalRead::Found(wal_bytes(range).into())
}

fn damaged(reader: &WalReader) -> Vec<String> {
    reader.damage().iter().map(|damage| format!("{} {}", damage.region, damage.key)).collect()
}

fn troubles(read: WalRead) -> String {
    let WalRead::Undetermined(troubles) = read else { panic!("{read:?}") };
    troubles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn away(archive: &Archive, region: usize) {
    archive.regions[region].faults.add(Rule::always(StoreFault::Lost));
}

#[tokio::test]
async fn objects_damaged_in_one_region_are_read_from_another() {
    let range = kib(0, 64);
    for (why, change) in [
        (
            "a flipped bit",
            (|bytes: &[u8]| {
                let mut bytes = bytes.to_vec();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                bytes
            }) as fn(&[u8]) -> Vec<u8>,
        ),
        ("cut off", |bytes| bytes[..bytes.len() - 1].to_vec()),
        ("empty", |_| Vec::new()),
        ("junk", |_| b"junk".to_vec()),
        ("far too long", |_| vec![0; 1 << 20]),
    ] {
        for form in [WalForm::Slice, WalForm::Piece] {
            let mut archive = Archive::new(&["eu", "us"]).await;
            let object = if form == WalForm::Slice { archive.slice(range) } else { archive.piece(range) };
            archive.store(&object, &[0, 1]).await;
            let bytes = change(&object.body.bytes);
            archive.replace(&object, 0, bytes.into()).await;
            let reader = archive.reader();
            assert_eq!(reader.read(range).await, found(range), "{why}");
            assert_eq!(damaged(&reader), [format!("eu {}", object.name)], "{why}");
        }
    }
}

#[tokio::test]
async fn slices_replace_a_damaged_piece_and_a_piece_replaces_damaged_slices() {
    let (first, second, whole) = (kib(0, 40), kib(40, 100), kib(0, 100));
    let mut archive = Archive::new(&["eu", "us"]).await;
    let (a, b, piece) = (archive.slice(first), archive.slice(second), archive.piece(whole));
    // eu lacks the second slice and has the piece damaged; us has only the second slice.
    archive.store(&a, &[0]).await;
    archive.store(&piece, &[0]).await;
    archive.store(&b, &[1]).await;
    archive.replace(&piece, 0, b.body.bytes.clone()).await;
    let reader = archive.reader();
    assert_eq!(reader.read(whole).await, found(whole));
    assert_eq!(damaged(&reader), [format!("eu {}", piece.name)]);
    // Now the slices are damaged, and the piece is whole again.
    archive.replace(&piece, 0, piece.body.bytes.clone()).await;
    archive.replace(&a, 0, b.body.bytes.clone()).await;
    let reader = archive.reader();
    assert_eq!(reader.read(kib(10, 90)).await, found(kib(10, 90)));
    assert_eq!(damaged(&reader), Vec::<String>::new(), "the piece suffices");
    // Nothing is whole in the end.
    archive.replace(&piece, 0, b.body.bytes.clone()).await;
    let reader = archive.reader();
    let what = troubles(reader.read(kib(10, 90)).await);
    assert!(what.contains(&format!("eu: {}", a.name)) && what.contains(&format!("eu: {}", piece.name)), "{what}");
    assert_eq!(reader.read(kib(40, 90)).await, found(kib(40, 90)), "us has that part");
}

#[tokio::test]
async fn objects_at_another_place_of_another_repository_or_signer_are_refused() {
    let (range, other) = (kib(0, 8), kib(8, 16));
    let archive = Archive::new(&["eu"]).await;
    let bytes = wal_bytes(range);
    let mut stranger = sealer(samples::signer_named("stranger", 1));
    let foreign = stranger.seal_slice(&archive.epoch, range, &bytes).unwrap();
    let own_epoch = new_epoch(archive.identity()).await;
    let unrecorded = sealer(samples::signer()).seal_slice(&own_epoch, range, &bytes).unwrap();
    let moved = sealer(samples::signer()).seal_slice(&archive.epoch, other, &wal_bytes(other)).unwrap();
    let timeline = wal_range(0xB, range.start.as_bytes(), range.end.as_bytes());
    let other_line = sealer(samples::signer()).seal_slice(&archive.epoch, timeline, &bytes).unwrap();
    own_epoch.publish(&*archive.regions[0].memory).await.unwrap();
    let name = StoredName::WalSlice(range);
    for (why, object, expected) in [
        ("another signer", foreign, "is not one of ours"),
        ("an epoch that no log records", unrecorded, "no log records epoch"),
        ("moved", moved, "its WAL positions is not the one expected"),
        ("another timeline", other_line, "its WAL positions is not the one expected"),
    ] {
        overwrite(&archive.regions[0].memory, &name.key(), object.body.bytes).await;
        let reader = archive.reader();
        let what = troubles(reader.read(range).await);
        assert!(what.contains(expected), "{why}: {what}");
        assert_eq!(damaged(&reader), [format!("eu {name}")], "{why}");
    }
}

#[tokio::test]
async fn two_signed_slices_that_disagree_stop_the_reading() {
    let (first, second) = (kib(0, 10), kib(8, 20));
    for offset in [0, 2047, 2048] {
        let mut archive = Archive::new(&["eu", "us"]).await;
        let mut bytes = wal_bytes(second);
        bytes[offset] ^= 1;
        let (a, b) = (archive.slice(first), archive.slice_of(second, &bytes));
        archive.store(&a, &[0]).await;
        archive.store(&b, &[1]).await;
        let reader = archive.reader();
        let read = reader.read(kib(0, 20)).await;
        if offset < 2048 {
            let at = Lsn::from_bytes(second.start.as_bytes() + offset as u64).unwrap();
            assert!(troubles(read).contains(&format!("does not agree with {} at {at}", b.name)));
            assert_eq!(damaged(&reader), [format!("eu {}", a.name), format!("us {}", b.name)]);
        } else {
            assert!(matches!(read, WalRead::Found(_)), "they differ where they do not overlap");
        }
        assert_eq!(reader.read(first).await, found(first), "what was not asked for is not judged");
    }
}

#[tokio::test]
async fn overlapping_doubled_and_disordered_slices_give_the_same_bytes() {
    let mut archive = Archive::new(&["eu", "us", "ap"]).await;
    for (slice, regions) in [
        (kib(30, 50), &[2][..]),
        (kib(0, 10), &[0, 1, 2]),
        (kib(45, 64), &[0]),
        (kib(5, 31), &[1]),
        (kib(0, 7), &[2]),
        (kib(31, 32), &[0, 1]),
    ] {
        let object = archive.slice(slice);
        archive.store(&object, regions).await;
    }
    let reader = archive.reader();
    for range in [kib(0, 64), kib(0, 1), kib(9, 11), kib(31, 46), kib(63, 64), kib(5, 5)] {
        assert_eq!(reader.read(range).await, found(range), "{range}");
    }
    assert_eq!(damaged(&reader), Vec::<String>::new());
}

#[tokio::test]
async fn wal_is_not_there_only_if_every_region_has_said_so() {
    let (held, missing) = (kib(0, 16), kib(16, 32));
    let mut archive = Archive::new(&["eu", "us"]).await;
    let slice = archive.slice(held);
    archive.store(&slice, &[0]).await;
    let reader = archive.reader();
    let beginning = WalRead::Beginning { bytes: wal_bytes(held).into(), later: None };
    assert_eq!(reader.read(missing).await, WalRead::NotThere { later: None });
    assert_eq!(reader.read(kib(0, 32)).await, beginning);
    let later = archive.slice(kib(24, 28));
    archive.store(&later, &[1]).await;
    let at = Some(kib(24, 28).start);
    assert_eq!(reader.read(kib(16, 20)).await, WalRead::NotThere { later: at }, "seen behind the range");
    assert_eq!(reader.read(kib(0, 32)).await, WalRead::Beginning { bytes: wal_bytes(held).into(), later: at });
    // A region that does not answer may have it, unless the others have it anyhow.
    for (why, rule) in [
        ("cannot be listed", Rule { operation: Some(Operation::List), ..Rule::always(StoreFault::Lost) }),
        ("is throttled", Rule::always(StoreFault::Throttled)),
        ("refuses", Rule::always(StoreFault::Denied)),
        ("second page", Rule { skip: 1, operation: Some(Operation::List), ..Rule::always(StoreFault::Lost) }),
    ] {
        archive.regions[1].faults.heal();
        archive.regions[1].faults.add(rule);
        let reader = archive.reader();
        assert_eq!(reader.read(held).await, found(held), "{why}");
        assert!(troubles(reader.read(missing).await).starts_with("us: "), "{why}");
        assert!(troubles(reader.read(kib(0, 32)).await).starts_with("us: "), "{why}");
    }
    // Negative answers are not remembered.
    archive.regions[1].faults.heal();
    let late = archive.slice(kib(16, 32));
    let reader = archive.reader();
    assert!(matches!(reader.read(missing).await, WalRead::NotThere { .. }));
    archive.store(&late, &[1]).await;
    assert_eq!(reader.read(missing).await, found(missing));
}

#[tokio::test]
async fn an_object_that_is_listed_and_cannot_be_read_is_never_the_end() {
    let range = kib(0, 16);
    for (why, rule) in [
        ("lost", Rule { operation: Some(Operation::Get), ..Rule::always(StoreFault::Lost) }),
        (
            "cut on the way",
            Rule {
                operation: Some(Operation::Get),
                key_contains: "slices".into(),
                ..Rule::always(StoreFault::Truncated)
            },
        ),
        ("no key", Rule { key_contains: "keys/".into(), ..Rule::always(StoreFault::Denied) }),
    ] {
        let mut archive = Archive::new(&["eu", "us"]).await;
        let slice = archive.slice(range);
        archive.store(&slice, &[0]).await;
        away(&archive, 1);
        archive.regions[0].faults.add(rule);
        let reader = archive.reader();
        assert!(troubles(reader.read(kib(0, 32)).await).contains(&slice.name.to_string()), "{why}");
        archive.regions[0].faults.heal();
        archive.regions[1].faults.heal();
        assert!(matches!(reader.read(kib(0, 32)).await, WalRead::Beginning { .. }), "{why}");
    }
}

#[tokio::test]
async fn a_place_without_a_repository_is_no_agreement() {
    let archive = Archive::new(&["eu", "us"]).await;
    archive.regions[1].memory.delete(&crate::format::layout::descriptor()).await.unwrap();
    let reader = archive.reader();
    let expected = "us: lifeboat.json: there is no repository here any more";
    assert_eq!(troubles(reader.read(kib(0, 1)).await), expected);
    let history = reader.history(TimelineId::new(2).unwrap()).await;
    assert!(matches!(history, HistoryRead::Undetermined(_)), "{history:?}");
    let nowhere = Archive::new(&[]).await.reader();
    assert_eq!(nowhere.read(kib(0, 1)).await, WalRead::Undetermined(Vec::new()));
    assert_eq!(nowhere.history(TimelineId::new(2).unwrap()).await, HistoryRead::Undetermined(Vec::new()));
    assert!(matches!(archive.reader().read(kib(0, 65 << 10)).await, WalRead::Undetermined(_)), "too much at once");
}

#[tokio::test]
async fn objects_that_were_deleted_since_the_listing_are_listed_again() {
    let range = kib(0, 16);
    let mut archive = Archive::new(&["eu", "us"]).await;
    let (slice, piece) = (archive.slice(range), archive.piece(range));
    archive.store(&slice, &[0]).await;
    let reader = archive.reader();
    assert_eq!(reader.list(WalPosition { timeline: range.timeline, lsn: range.start }, None).await.map.len(), 1);
    archive.regions[0].memory.delete(&slice.name.key()).await.unwrap();
    archive.store(&piece, &[1]).await;
    assert_eq!(reader.read(range).await, found(range));
    archive.regions[1].memory.delete(&piece.name.key()).await.unwrap();
    assert_eq!(reader.read(range).await, WalRead::NotThere { later: None });
}

#[tokio::test]
async fn keys_are_opened_once_and_must_be_those_that_the_log_names() {
    let range = kib(0, 16);
    let mut archive = Archive::new(&["eu", "us"]).await;
    for slice in [kib(0, 4), kib(4, 8), kib(8, 16)] {
        let object = archive.slice(slice);
        archive.store(&object, &[0]).await;
    }
    let slots = archive.epoch.slots_key();
    let others = new_epoch(archive.identity()).await.slots().bytes.clone();
    overwrite(&archive.regions[0].memory, &slots, others).await;
    let reader = archive.reader();
    assert_eq!(reader.read(range).await, found(range), "the key of the other region");
    overwrite(&archive.regions[1].memory, &slots, Bytes::from_static(b"{}")).await;
    assert_eq!(reader.read(range).await, found(range), "it is kept");
    let what = troubles(archive.reader().read(range).await);
    assert!(what.contains("the slots are not those that the log names"), "{what}");
    archive.regions[0].memory.delete(&slots).await.unwrap();
    archive.regions[1].memory.delete(&slots).await.unwrap();
    assert!(troubles(archive.reader().read(range).await).contains("read the key of epoch"));
}

#[tokio::test]
async fn an_epoch_that_began_later_is_looked_up_in_the_logs() {
    let range = kib(0, 16);
    let mut archive = Archive::new(&["eu", "us"]).await;
    let reader = archive.reader();
    let epoch = new_epoch(archive.identity()).await;
    let slice = sealer(samples::signer()).seal_slice(&epoch, range, &wal_bytes(range)).unwrap();
    archive.store(&slice, &[1]).await;
    assert!(troubles(reader.read(range).await).contains("no log records epoch"));
    let region = &mut archive.regions[1];
    epoch.publish(&*region.memory).await.unwrap();
    for (wseq, body) in (2..).zip([
        RecordBody::Incarnation(IncarnationRecord { incarnation: Some(Incarnation::from_bytes([1; 8])) }),
        RecordBody::WalEpoch(epoch_record(&epoch)),
    ]) {
        let draft = Draft { origin: samples::origin(wseq), body };
        region.log.append(&*region.memory, &samples::signer(), &draft).await.unwrap();
    }
    assert_eq!(reader.read(range).await, found(range));
}

#[tokio::test]
async fn a_region_without_a_log_is_checked_by_signatures_alone() {
    let range = kib(0, 16);
    let archive = Archive::new(&["eu", "us"]).await;
    let epoch = new_epoch(archive.identity()).await;
    epoch.publish(&*archive.regions[1].memory).await.unwrap();
    let slice = sealer(samples::signer()).seal_slice(&epoch, range, &wal_bytes(range)).unwrap();
    archive.store(&slice, &[1]).await;
    assert!(troubles(archive.reader().read(range).await).contains("no log records epoch"));
    let reader = archive.reader_with(|region| region.name.as_str() == "eu");
    assert_eq!(reader.read(range).await, found(range), "it may stand in the log that could not be read");
    let stranger = sealer(samples::signer_named("stranger", 1)).seal_slice(&epoch, range, &wal_bytes(range)).unwrap();
    archive.replace(&stranger, 1, stranger.body.bytes.clone()).await;
    let reader = archive.reader_with(|_| false);
    assert!(troubles(reader.read(range).await).contains("is not one of ours"));
}

#[tokio::test]
async fn more_than_a_thousand_slices_are_read_in_order_while_a_region_fails_at_random() {
    let mut archive = Archive::new(&["eu", "us"]).await;
    let slices = 1300;
    for slice in 0..slices {
        let range = wal_range(0xA, BASE + slice * 100, BASE + (slice + 1) * 100);
        let object = archive.slice(range);
        archive.store(&object, if slice % 3 == 0 { &[1] } else { &[0, 1] }).await;
    }
    let chance = lifeboat_stores::Chance {
        seed: 7,
        per_mille: 300,
        faults: vec![StoreFault::Lost, StoreFault::BitFlip, StoreFault::Truncated],
    };
    let reader = archive.reader();
    archive.regions[0].faults.chance(chance);
    let range = wal_range(0xA, BASE, BASE + slices * 100);
    assert_eq!(reader.read(range).await, found(range));
    assert!(archive.regions[0].faults.hits() > 0, "it was asked, and then avoided");
}

#[tokio::test]
async fn a_listing_has_pieces_and_the_slices_between_and_behind_them() {
    let mut archive = Archive::new(&["eu", "us"]).await;
    let piece = |number: u64| wal_range(0xA, BASE + number * 16 * MIB, BASE + (number + 1) * 16 * MIB);
    let range = |piece: u64, start: u64, end: u64| {
        let base = BASE + piece * 16 * MIB;
        wal_range(0xA, base + start * MIB, base + end * MIB)
    };
    for (object, regions) in [
        (archive.piece(piece(0)), &[0][..]),
        (archive.slice(range(0, 0, 1)), &[0]),
        (archive.slice(range(1, 0, 16)), &[1]),
        (archive.piece(piece(2)), &[1]),
        (archive.slice(range(2, 1, 2)), &[1]),
        (archive.slice(range(3, 0, 2)), &[0]),
    ] {
        archive.store(&object, regions).await;
    }
    let reader = archive.reader();
    let from = WalPosition { timeline: piece(0).timeline, lsn: piece(0).start };
    let listing = reader.list(from, None).await;
    assert_eq!((listing.map.len(), listing.troubles), (4, vec![]));
    assert_eq!(listing.map.contiguous_end(from), range(3, 0, 2).end);
    assert_eq!(reader.list(from, Some(piece(1).end)).await.map.contiguous_end(from), piece(1).end);
    away(&archive, 1);
    let partial = archive.reader().list(from, None).await;
    assert_eq!(partial.map.contiguous_end(from), piece(0).end);
    assert_eq!(partial.troubles.iter().map(|trouble| trouble.region.as_str()).collect::<Vec<_>>(), ["us"]);
    // What the listing found suffices for reading, without another listing.
    for region in &archive.regions {
        region.faults.heal();
        region.faults.add(Rule { operation: Some(Operation::List), ..Rule::always(StoreFault::Lost) });
    }
    assert_eq!(reader.read(range(1, 3, 5)).await, found(range(1, 3, 5)));
    reader.forget(from.timeline, piece(1).end);
    assert!(matches!(reader.read(range(1, 3, 5)).await, WalRead::Undetermined(_)));
}

#[tokio::test]
async fn histories_are_found_missing_or_not_known() {
    let mut archive = Archive::new(&["eu", "us"]).await;
    let (two, ten) =
        (archive.history(2, "1\t0/3000000\tx\n"), archive.history(0xA, "1\t0/3000000\tx\n2\t0/5000000\ty\n"));
    archive.store(&two, &[0, 1]).await;
    archive.store(&ten, &[1]).await;
    archive.replace(&two, 0, ten.body.bytes.clone()).await;
    for object in [archive.slice(wal_range(1, 16 * MIB, 17 * MIB)), archive.slice(wal_range(0xC, 16 * MIB, 17 * MIB))] {
        archive.store(&object, &[0]).await;
    }
    let timeline = |id| TimelineId::new(id).unwrap();
    let reader = archive.reader();
    let histories = reader.histories().await;
    let expected: Vec<_> = [(2, "1\t0/3000000\tx\n"), (0xA, "1\t0/3000000\tx\n2\t0/5000000\ty\n")]
        .map(|(id, text)| (timeline(id), Bytes::from_static(text.as_bytes())))
        .into();
    assert_eq!(histories.found.into_iter().collect::<Vec<_>>(), expected);
    assert_eq!((histories.missing, histories.troubles), (vec![timeline(0xC)], vec![]));
    assert_eq!(damaged(&reader), ["eu wal/00000002/history.lbb"]);
    assert_eq!(reader.history(timeline(3)).await, HistoryRead::NotThere);
    away(&archive, 1);
    let reader = archive.reader();
    assert!(matches!(reader.history(timeline(3)).await, HistoryRead::Undetermined(_)));
    assert!(matches!(reader.history(timeline(2)).await, HistoryRead::Undetermined(_)), "damaged here, unknown there");
    assert!(!reader.histories().await.troubles.is_empty());
}

#[test]
fn reading_can_run_in_another_task() {
    fn sendable<T: Send>(work: T) -> T {
        work
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let archive = runtime.block_on(Archive::new(&["eu"]));
    let reader = std::sync::Arc::new(archive.reader());
    let from = WalPosition { timeline: kib(0, 1).timeline, lsn: kib(0, 1).start };
    let task = runtime.spawn(async move {
        sendable(reader.list(from, None)).await;
        sendable(reader.histories()).await;
        sendable(reader.history(from.timeline)).await;
        reader.read(kib(0, 1)).await
    });
    assert_eq!(runtime.block_on(task).unwrap(), WalRead::NotThere { later: None });
}

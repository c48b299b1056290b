//! Tests of listing the WAL of one store.

use super::*;
use crate::samples::wal_range;
use lifeboat_stores::contract::body;
use lifeboat_stores::{Fault, MemoryStore, PutMode, Rule, WithFaults};
use lifeboat_vocabulary::SegmentSize;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

fn pieces() -> PieceSize {
    PieceSize::of(SegmentSize::DEFAULT)
}

fn at(timeline: u32, lsn: u64) -> WalPosition {
    WalPosition { timeline: TimelineId::new(timeline).unwrap(), lsn: Lsn::from_bytes(lsn).unwrap() }
}

async fn put(store: &dyn Store, key: &str) {
    store.put(&key.parse().unwrap(), body("x"), PutMode::CreateOnly).await.unwrap();
}

async fn put_wal(store: &dyn Store, form: WalForm, range: WalRange) {
    put(store, WalObject::new(form, range).unwrap().key().as_str()).await;
}

async fn listed(mut pages: WalPages<'_>) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    while let Some(object) = pages.next().await.unwrap() {
        found.push((object.range.start.as_bytes(), object.range.end.as_bytes()));
    }
    found
}

#[tokio::test]
async fn objects_that_contain_the_position_are_found_and_earlier_ones_are_not() {
    let store = MemoryStore::new();
    let base = 0x3_0000_0000;
    for (start, end) in [(0, 5), (5, 9), (9, 16 * MIB), (16 * MIB, 17 * MIB), (17 * MIB, 32 * MIB)] {
        put_wal(&store, WalForm::Slice, wal_range(0xA, base + start, base + end)).await;
    }
    put_wal(&store, WalForm::Piece, wal_range(0xA, base, base + 16 * MIB)).await;
    let from = |form, lsn, size| listed(WalPages::new(&store, form, at(0xA, base + lsn), size));
    let relative = |found: Vec<(u64, u64)>| found.into_iter().map(|(a, b)| (a - base, b - base)).collect::<Vec<_>>();
    for (lsn, expected) in [
        (0, &[(0, 5), (5, 9), (9, 16 * MIB), (16 * MIB, 17 * MIB), (17 * MIB, 32 * MIB)][..]),
        (5, &[(5, 9), (9, 16 * MIB), (16 * MIB, 17 * MIB), (17 * MIB, 32 * MIB)]),
        (8, &[(5, 9), (9, 16 * MIB), (16 * MIB, 17 * MIB), (17 * MIB, 32 * MIB)]),
        (16 * MIB - 1, &[(9, 16 * MIB), (16 * MIB, 17 * MIB), (17 * MIB, 32 * MIB)]),
        (16 * MIB, &[(16 * MIB, 17 * MIB), (17 * MIB, 32 * MIB)]),
        (32 * MIB, &[]),
    ] {
        for size in [pieces(), PieceSize::LARGEST] {
            assert_eq!(relative(from(WalForm::Slice, lsn, size).await), expected, "from {lsn:#x}");
        }
    }
    assert_eq!(relative(from(WalForm::Piece, 5, pieces()).await), [(0, 16 * MIB)]);
    assert_eq!(from(WalForm::Piece, 16 * MIB, pieces()).await, []);
    assert_eq!(listed(WalPages::new(&store, WalForm::Slice, at(0xB, 1), pieces())).await, []);
}

#[tokio::test]
async fn foreign_objects_in_the_folder_are_skipped() {
    let store = MemoryStore::new();
    put_wal(&store, WalForm::Piece, wal_range(1, 16 * MIB, 32 * MIB)).await;
    put(&store, "wal/00000001/history.lbb").await;
    put(&store, "wal/00000001/zz-notes").await;
    put(&store, "wal/00000001/0000000002000000-0000000002000000.lbw").await;
    put(&store, "wal/00000001/0000000002000000-0000000005000000.lbw").await;
    let found = listed(WalPages::all(&store, WalForm::Piece, TimelineId::new(1).unwrap())).await;
    assert_eq!(found, [(16 * MIB, 32 * MIB)]);
}

#[tokio::test]
async fn more_objects_than_a_page_holds_are_all_listed_and_a_failed_page_is_asked_for_again() {
    let memory = Arc::new(MemoryStore::new());
    for slice in 0..2345 {
        let start = 16 * MIB + slice * 4096;
        put_wal(&*memory, WalForm::Slice, wal_range(1, start, start + 4096)).await;
    }
    let store = WithFaults::new(memory.clone());
    let mut pages = WalPages::new(&store, WalForm::Slice, at(1, 16 * MIB), pieces());
    let (mut count, mut failures) = (0, 0);
    loop {
        if count == 1000 && failures == 0 {
            store.add(Rule { count: 1, ..Rule::always(Fault::Lost) });
        }
        match pages.next().await {
            Ok(Some(object)) => {
                assert_eq!(object.range.start.as_bytes(), 16 * MIB + count * 4096);
                count += 1;
            }
            Ok(None) => break,
            Err(_) => failures += 1,
        }
    }
    assert_eq!((count, failures), (2345, 1));
    let range = wal_range(1, 16 * MIB + 100, 16 * MIB + 5000);
    let (objects, next) = objects_in(&*memory, WalForm::Slice, range, pieces()).await.unwrap();
    assert_eq!((objects.len(), next.unwrap().as_bytes()), (2, 16 * MIB + 8192));
    assert_eq!(contiguous_end(&*memory, at(1, 16 * MIB), pieces()).await.unwrap().as_bytes(), 16 * MIB + 2345 * 4096);
}

#[tokio::test]
async fn timelines_are_found_without_listing_their_wal() {
    let memory = Arc::new(MemoryStore::new());
    for segment in 1..1500 {
        put_wal(&*memory, WalForm::Piece, wal_range(1, segment * 16 * MIB, (segment + 1) * 16 * MIB)).await;
    }
    put_wal(&*memory, WalForm::Piece, wal_range(2, 16 * MIB, 32 * MIB)).await;
    put(&*memory, "wal/0000000a/history.lbb").await;
    put_wal(&*memory, WalForm::Slice, wal_range(0xB, 16 * MIB, 17 * MIB)).await;
    put_wal(&*memory, WalForm::Slice, wal_range(u32::MAX, 16 * MIB, 17 * MIB)).await;
    for stray in 0..1200 {
        put(&*memory, &format!("wal/0000000/stray-{stray}")).await;
    }
    put(&*memory, "wal/zz").await;
    let store = WithFaults::new(memory.clone());
    // Every request is counted as a fault that does nothing.
    store.add(Rule::always(Fault::Slow(std::time::Duration::ZERO)));
    let found: Vec<_> = timelines(&store).await.unwrap().iter().map(|timeline| timeline.get()).collect();
    assert_eq!(found, [1, 2, 0xA, 0xB, u32::MAX]);
    assert!(store.hits() <= 5, "{} requests", store.hits());
    assert_eq!(timelines(&MemoryStore::new()).await.unwrap(), []);
}

#[tokio::test]
async fn the_end_without_a_hole_goes_over_pieces_and_slices() {
    type Case = (&'static str, &'static [(char, u64, u64)], u64, u64);
    let cases: [Case; 10] = [
        ("nothing", &[], 17 * MIB, 17 * MIB),
        ("within a piece", &[('P', 16, 32)], 17 * MIB, 32 * MIB),
        ("at the end", &[('P', 16, 32)], 32 * MIB, 32 * MIB),
        ("a hole behind", &[('P', 16, 32), ('P', 48, 64)], 16 * MIB, 32 * MIB),
        ("slices behind", &[('P', 16, 32), ('s', 32, 33), ('s', 33, 35)], 16 * MIB, 35 * MIB),
        (
            "slices between",
            &[('P', 16, 32), ('s', 32, 40), ('s', 40, 48), ('P', 48, 64), ('s', 64, 65)],
            16 * MIB,
            65 * MIB,
        ),
        ("too few slices between", &[('P', 16, 32), ('s', 32, 40), ('P', 48, 64)], 16 * MIB, 40 * MIB),
        ("overlapping slices", &[('s', 16, 20), ('s', 17, 19), ('s', 19, 23)], 16 * MIB, 23 * MIB),
        ("from within a slice", &[('s', 16, 20), ('s', 20, 23)], 18 * MIB, 23 * MIB),
        ("slices that begin behind it", &[('s', 20, 23)], 18 * MIB, 18 * MIB),
    ];
    for (why, objects, from, expected) in cases {
        let store = MemoryStore::new();
        for (form, start, end) in objects {
            let form = if *form == 'P' { WalForm::Piece } else { WalForm::Slice };
            put_wal(&store, form, wal_range(1, start * MIB, end * MIB)).await;
        }
        assert_eq!(contiguous_end(&store, at(1, from), pieces()).await.unwrap().as_bytes(), expected, "{why}");
        assert_eq!(contiguous_end(&store, at(2, from), pieces()).await.unwrap().as_bytes(), from, "{why}");
    }
}

#[tokio::test]
async fn a_store_that_fails_is_an_error_and_never_an_end() {
    let memory = Arc::new(MemoryStore::new());
    put_wal(&*memory, WalForm::Piece, wal_range(1, 16 * MIB, 32 * MIB)).await;
    for skip in 0..3 {
        let store = WithFaults::new(memory.clone());
        store.add(Rule { skip, ..Rule::always(Fault::Lost) });
        let end = contiguous_end(&store, at(1, 16 * MIB), pieces()).await;
        assert_eq!(end.is_ok(), skip >= 2, "after {skip} answers");
        assert!(timelines(&store).await.is_err(), "after {skip} answers");
    }
}

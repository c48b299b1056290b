//! Tests of which WAL is deleted: what lies behind every backup that matters, and slices that pieces stand in for.

use crate::format::layout::{WalForm, WalRange};
use crate::log::records::record::RecordBody;
use crate::log::records::wal::WalEpochRecord;
use crate::log::region_state::RegionState;
use crate::retention::model::RetentionPlan;
use crate::retention::plan::{StoreFacts, plan_region};
use crate::retention::sweep::epochs::WalEpochs;
use crate::retention::sweep::floor::{Kept, KeptWal};
use crate::retention::sweep::settings::SweepSettings;
use crate::samples;
use crate::samples::sweep::{DAY, SmallBackup, World, at, put, put_body, settings, signed_wal};
use crate::samples::wal::{epoch_record, new_epoch, sealer, wal_bytes};
use crate::wal::epoch::WalEpoch;
use crate::wal::name::WalObject;
use lifeboat_vocabulary::Clock;
use std::time::Duration;

fn piece(timeline: u32, segment: u64) -> WalObject {
    WalObject::new(WalForm::Piece, samples::wal_range(timeline, segment << 24, (segment + 1) << 24)).unwrap()
}

/// A quarter of a segment.
fn slice(timeline: u32, segment: u64, quarter: u64) -> WalObject {
    let start = (segment << 24) + (quarter << 22);
    WalObject::new(WalForm::Slice, samples::wal_range(timeline, start, start + (1 << 22))).unwrap()
}

/// WAL goes as soon as it has left the window.
fn at_once() -> SweepSettings {
    SweepSettings { grace: Duration::ZERO, ..settings() }
}

async fn store(world: &World, objects: &[WalObject]) {
    for object in objects {
        put_body(&*world.memory, &object.key(), signed_wal(*object)).await.unwrap();
    }
}

async fn left(world: &World, objects: &[WalObject]) -> Vec<WalObject> {
    let mut left = Vec::new();
    for object in objects {
        if world.has(&object.key()).await {
            left.push(*object);
        }
    }
    left
}

fn standing_of(backups: &[SmallBackup]) -> RegionState {
    let mut state = RegionState::default();
    for (seq, backup) in (1..).zip(backups) {
        let record = backup.record.clone();
        let standing_backup = crate::log::region_state::BackupState {
            record,
            seq,
            leaving: None,
            damaged: None,
            held: std::collections::BTreeSet::new(),
        };
        state.backups.insert(backup.id(), standing_backup);
    }
    state
}

#[test]
fn the_floor_is_the_segment_of_the_lowest_start_within_the_window() {
    let day = |day: u32, timeline, segment| SmallBackup::new(day, at(u64::from(day) * 24), (timeline, segment), &[]);
    let line = |first: u32, days: std::ops::Range<u32>| -> Vec<SmallBackup> {
        days.map(|number| day(number, first, u64::from(number) + 1)).collect()
    };
    let from = |segment: u64| Kept::From(samples::wal_range(1, segment << 24, u64::MAX).start);
    for (why, backups, expected) in [
        ("nothing at all", vec![], None),
        ("nothing has left the window", line(1, 4..6), None),
        ("the anchor is day 3", line(1, 0..6), Some([(1, from(4)), (2, Kept::All)])),
        ("a promotion on day 4", [line(1, 0..4), line(2, 4..6)].concat(), Some([(1, from(4)), (2, Kept::All)])),
        ("a promotion long ago", [line(1, 0..2), line(2, 2..6)].concat(), Some([(1, Kept::Nothing), (2, from(4))])),
        (
            "the old primary was backed up again",
            [line(2, 0..5), vec![day(5, 1, 3)]].concat(),
            Some([(1, from(3)), (2, Kept::All)]),
        ),
        (
            "a younger backup begins earlier, as those of standbys may",
            [line(1, 0..5), vec![day(5, 1, 2)]].concat(),
            Some([(1, from(2)), (2, Kept::All)]),
        ),
    ] {
        let state = standing_of(&backups);
        let plan = plan_region(&state, &StoreFacts::default(), &settings().policy, at(5 * 24));
        let kept = KeptWal::of(&state, &plan);
        let found = kept.map(|kept| [1, 2].map(|id| (id, kept.of_timeline(samples::wal_range(id, 1, 2).timeline))));
        assert_eq!(found, expected, "{why}");
    }
}

#[test]
fn without_an_anchor_no_wal_is_deleted() {
    let state = standing_of(&[SmallBackup::new(0, at(0), (1, 5), &[])]);
    assert_eq!(KeptWal::of(&state, &RetentionPlan::default()), None);
}

#[tokio::test]
async fn wal_before_the_anchor_is_deleted_and_its_floor_never_goes_back() {
    let (mut world, _) = World::with_days(6).await;
    let pieces: Vec<_> = (1..9).map(|segment| piece(3, segment)).collect();
    let own: Vec<_> = (1..9).map(|segment| piece(1, segment)).collect();
    let slices = [slice(1, 3, 3), slice(1, 4, 0), slice(1, 8, 0)];
    store(&world, &pieces).await;
    store(&world, &own).await;
    store(&world, &slices).await;
    put(&*world.memory, &"wal/00000003/history.lbb".parse().unwrap(), "history").await.unwrap();
    world.sweep(&at_once()).await.unwrap();
    // The anchor is that of day 3, which starts in segment 4.
    assert_eq!(left(&world, &own).await, own[3..]);
    assert_eq!(left(&world, &slices).await, slices[1..]);
    assert_eq!(left(&world, &pieces).await, pieces, "a later timeline may come from here");

    let late = piece(1, 2);
    store(&world, &[late]).await;
    let mut longer = at_once();
    longer.policy.window = 5 * DAY;
    world.sweep(&longer).await.unwrap();
    assert_eq!(left(&world, &[late]).await, [late], "today's plan decides, and not what the log says was given up");
    world.sweep(&at_once()).await.unwrap();
    assert_eq!(left(&world, &[late]).await, []);
    assert_eq!(left(&world, &own).await, own[3..]);
    let floors = world.log.state(at(0)).wal_floors;
    assert_eq!(floors.into_values().collect::<Vec<_>>(), [piece(1, 4).range.start]);
}

#[tokio::test]
async fn wal_outside_the_window_has_the_same_grace_as_backups() {
    let (mut world, _) = World::with_days(9).await;
    let own: Vec<_> = (1..12).map(|segment| piece(1, segment)).collect();
    store(&world, &own).await;
    world.sweep(&settings()).await.unwrap();
    assert_eq!(left(&world, &own).await, own[3..], "two days and three of grace: from the backup of day 3");

    // A window that somebody has made too short by mistake.
    let (mut world, _) = World::with_days(9).await;
    store(&world, &own).await;
    let (mut wide, mut narrow) = (settings(), settings());
    (wide.policy.window, narrow.policy.window) = (6 * DAY, DAY);
    world.forget(&wide).await.unwrap();
    assert_eq!(world.forget(&narrow).await.unwrap().forgotten.len(), 1);
    world.clock.set(at(8 * 24 + 71));
    world.sweep(&narrow).await.unwrap();
    assert_eq!(left(&world, &own).await, own[1..], "six days and three of grace: from the backup of day 1");
    world.clock.set(at(8 * 24 + 73));
    world.sweep(&narrow).await.unwrap();
    assert_eq!(left(&world, &own).await, own[7..], "one day and three of grace: from the backup of day 7");
}

#[tokio::test]
async fn wal_of_abandoned_timelines_is_deleted_once_no_backup_needs_it() {
    let mut world = World::new().await;
    for day in 0..8 {
        world.clock.set(at(u64::from(day) * 24));
        let timeline = if day < 3 { 1 } else { 2 };
        let backup = SmallBackup::new(day, world.clock.now(), (timeline, u64::from(day) + 1), &[]);
        world.add(&backup).await;
    }
    let old: Vec<_> = (1..2000).map(|segment| piece(1, segment)).collect();
    let new: Vec<_> = (1..9).map(|segment| piece(2, segment)).collect();
    let history = "wal/00000002/history.lbb".parse().unwrap();
    store(&world, &old).await;
    store(&world, &new).await;
    put(&*world.memory, &history, "history").await.unwrap();
    world.sweep(&at_once()).await.unwrap();
    assert_eq!(left(&world, &old).await, []);
    assert_eq!(left(&world, &new).await, new[5..], "from the anchor of day 5");
    assert!(world.has(&history).await, "histories stay");
}

#[tokio::test]
async fn a_slice_that_no_piece_holds_is_never_deleted() {
    let mut world = World::new().await;
    let covered: Vec<_> = (0..4).map(|quarter| slice(1, 5, quarter)).collect();
    let alone: Vec<_> = (0..4).map(|quarter| slice(1, 6, quarter)).collect();
    let last: Vec<_> = (0..2).map(|quarter| slice(1, 7, quarter)).collect();
    for objects in [&covered, &alone, &last] {
        store(&world, objects).await;
    }
    world.clock.set(at(20));
    store(&world, &[piece(1, 5), piece(1, 7), piece(2, 6)]).await;
    // Names that somebody has taken who may create objects: junk, and a signed object of another place.
    put(&*world.memory, &piece(1, 8).key(), "planted").await.unwrap();
    put_body(&*world.memory, &piece(1, 9).key(), signed_wal(piece(1, 5))).await.unwrap();
    let planted: Vec<_> = (8..10).map(|segment| slice(1, segment, 0)).collect();
    store(&world, &planted).await;
    world.clock.set(at(23));
    world.sweep(&at_once()).await.unwrap();
    assert_eq!(left(&world, &covered).await, covered, "they may be being read");
    world.clock.set(at(25));
    let young = slice(1, 7, 2);
    store(&world, &[young]).await;
    world.sweep(&at_once()).await.unwrap();
    assert_eq!(left(&world, &covered).await, []);
    assert_eq!(left(&world, &alone).await, alone, "the piece of another timeline is another WAL");
    assert_eq!(left(&world, &last).await, []);
    assert_eq!(left(&world, &[young]).await, [young]);
    world.clock.set(at(98));
    world.sweep(&at_once()).await.unwrap();
    assert_eq!(left(&world, &planted).await, planted, "no piece holds them that a writer has signed");
    world.clock.set(at(99));
    store(&world, &[piece(1, 6)]).await;
    world.sweep(&at_once()).await.unwrap();
    assert_eq!(left(&world, &alone).await, [], "healed: now a piece holds it");
}

async fn epoch_at(world: &mut World, hours: u64, segment: u64) -> WalEpoch {
    let identity = crate::keys::identity::Identity::generate().unwrap();
    let epoch = new_epoch(&identity).await;
    world.clock.set(at(hours));
    epoch.publish(&*world.memory).await.unwrap();
    let range = samples::wal_range(1, segment << 24, (segment + 1) << 24);
    let (timeline, start) = (range.timeline, range.start);
    let record = WalEpochRecord { timeline, start, ..epoch_record(&epoch) };
    world.say(RecordBody::WalEpoch(record)).await;
    epoch
}

async fn seal_piece(world: &World, epoch: &WalEpoch, segment: u64) {
    let range = WalRange { ..piece(1, segment).range };
    let sealed = sealer(samples::signer()).seal_piece(epoch, range, &wal_bytes(range)).unwrap();
    let mode = lifeboat_stores::PutMode::CreateOnly;
    lifeboat_stores::Store::put(&*world.memory, &sealed.name.key(), sealed.body, mode).await.unwrap();
}

#[tokio::test]
async fn keys_for_wal_are_deleted_when_no_object_needs_them_and_histories_keep_theirs() {
    let mut world = World::new().await;
    let mut epochs = Vec::new();
    for day in 0..8 {
        let segment = u64::from(day) + 1;
        let epoch = epoch_at(&mut world, u64::from(day) * 24, segment).await;
        if day == 1 {
            let history = sealer(samples::signer()).seal_history(&epoch, piece(1, 1).range.timeline, b"1\t0/1\tx\n");
            let history = history.unwrap();
            let mode = lifeboat_stores::PutMode::CreateOnly;
            lifeboat_stores::Store::put(&*world.memory, &history.name.key(), history.body, mode).await.unwrap();
        }
        seal_piece(&world, &epoch, segment).await;
        let backup = SmallBackup::new(day, world.clock.now(), (1, segment), &[]);
        world.add(&backup).await;
        epochs.push(epoch);
    }
    // The anchor is that of day 5, in segment 6. The key of day n is followed by that of day n + 1, and the second backup
    // behind it is that of day n + 2: it has to be below the floor.
    world.sweep(&at_once()).await.unwrap();
    let mut kept = Vec::new();
    for (day, epoch) in epochs.iter().enumerate() {
        if world.has(&epoch.slots_key()).await {
            kept.push(day);
        }
    }
    assert_eq!(kept, [1, 3, 4, 5, 6, 7], "1 is that of a history");
}

#[tokio::test]
async fn an_object_that_names_a_key_keeps_it_whatever_the_log_says() {
    let mut world = World::new().await;
    let first = epoch_at(&mut world, 0, 1).await;
    for day in 0..8 {
        let segment = u64::from(day) + 1;
        if day > 0 {
            epoch_at(&mut world, u64::from(day) * 24, segment).await;
        }
        world.add(&SmallBackup::new(day, world.clock.now(), (1, segment), &[])).await;
    }
    // Sealed long ago, and stored for a range that is kept.
    seal_piece(&world, &first, 7).await;
    world.sweep(&at_once()).await.unwrap();
    let wal = WalEpochs::of(&world.log, None);
    assert!(wal.is_of_wal(first.id()));
    assert!(world.has(&first.slots_key()).await);
}

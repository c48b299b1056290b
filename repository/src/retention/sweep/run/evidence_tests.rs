//! What stores and lists say about backups, and orders to delete that others have put into a log.

use super::tests::{ids, reread, six_days, six_days_forgotten, state};
use super::*;
use crate::format::layout;
use crate::samples;
use crate::samples::sweep::{Death, SmallBackup, World, at, dying, settings, sweep_in};
use lifeboat_vocabulary::Clock;
use std::collections::BTreeSet;

/// Takes the list of a backup away, or puts something else in its place.
async fn lose_list(world: &World, backup: &SmallBackup, instead: Option<&str>) {
    let key = layout::packs_list(&backup.id());
    world.memory.delete(&key).await.unwrap();
    if let Some(text) = instead {
        crate::samples::sweep::put(&*world.memory, &key, text).await.unwrap();
    }
}

#[tokio::test]
async fn a_list_that_is_lost_keeps_no_other_backup_from_being_deleted() {
    for (why, which, instead) in [
        ("of a backup that stays", 4, None),
        ("of one that leaves", 1, None),
        ("of one that stays, and is another one", 5, Some("nothing")),
    ] {
        let (mut world, backups) = six_days_forgotten().await;
        lose_list(&world, &backups[which], instead).await;
        let report = world.sweep(&settings()).await.unwrap();
        assert_eq!(report.swept.len(), 3, "{why}: {report:?}");
        for key in backups[..3].iter().flat_map(SmallBackup::keys) {
            assert!(!world.has(&key).await, "{why}: {key}");
        }
        assert!(state(&world.log).open_intents.is_empty(), "{why}");
    }
}

/// Four days of backups, of which the last refers to an object of the first; the first two are forgotten.
async fn incremental_forgotten() -> (World, Vec<SmallBackup>) {
    let (mut world, mut backups) = World::with_days(5).await;
    let shared = backups[0].objects[1].0.clone();
    world.clock.set(at(5 * 24));
    let last = SmallBackup::new(5, world.clock.now(), (1, 6), &[shared]);
    world.add(&last).await;
    backups.push(last);
    world.forget(&settings()).await.unwrap();
    world.clock.set(at(5 * 24 + 73));
    (world, backups)
}

#[tokio::test]
async fn what_a_backup_may_need_whose_list_is_lost_stays_and_is_reported() {
    let (mut world, backups) = incremental_forgotten().await;
    lose_list(&world, &backups[5], None).await;
    let report = world.sweep(&settings()).await.unwrap();
    let stays: BTreeSet<_> = report.undecided.iter().map(|(backup, _)| backup.clone()).collect();
    assert_eq!(stays, ids(&backups[..3]).into_iter().collect(), "{report:?}");
    let (_, why) = &report.undecided[0];
    assert!(why.contains(backups[5].id().as_str()) && why.contains("is missing"), "{why}");
    assert!(report.swept.is_empty() && state(&world.log).open_intents.is_empty(), "{report:?}");
    for key in backups[..3].iter().flat_map(SmallBackup::keys) {
        assert!(world.has(&key).await, "{key} may be needed");
    }
    // It is healed: what it needs is known again.
    backups[5].upload(&*world.memory).await.unwrap();
    let report = world.sweep(&settings()).await.unwrap();
    assert_eq!((report.swept.len(), report.undecided.len(), report.needed), (3, 0, 1), "{report:?}");
    assert!(world.has(&backups[0].objects[1].0).await);
}

#[tokio::test]
async fn a_list_that_is_lost_after_the_intent_keeps_what_it_may_need_and_stops_nothing() {
    let (mut world, backups) = incremental_forgotten().await;
    let (log, now) = (reread(&world).await, world.clock.now());
    // A crash directly behind the intent, and then the list is lost.
    for dies_at in 1.. {
        let mut log = log.clone();
        let killed = dying(&world.memory, dies_at, Death::BeforeIt);
        sweep_in(&killed, &mut log, &settings(), now).await.unwrap_err();
        if !state(&reread(&world).await).open_intents.is_empty() {
            break;
        }
    }
    lose_list(&world, &backups[5], None).await;
    world.log = reread(&world).await;
    let report = world.sweep(&settings()).await.unwrap();
    assert_eq!(report.undecided.len(), 3, "{report:?}");
    assert!(world.has(&backups[0].objects[1].0).await, "it may be needed");
    backups[5].upload(&*world.memory).await.unwrap();
    world.sweep(&settings()).await.unwrap();
    assert!(state(&world.log).open_intents.is_empty(), "the intent is finished");
    assert!(world.has(&backups[0].objects[1].0).await, "it is needed");
    assert!(!world.has(&backups[1].objects[1].0).await);
}

#[tokio::test]
async fn a_crash_at_any_request_with_lists_lost_ends_in_the_same_state() {
    for how in [Death::BeforeIt, Death::AfterIt] {
        for dies_at in 1.. {
            let (mut world, backups) = incremental_forgotten().await;
            lose_list(&world, &backups[1], None).await;
            lose_list(&world, &backups[4], None).await;
            let killed = dying(&world.memory, dies_at, how);
            let (mut log, now) = (reread(&world).await, world.clock.now());
            let survived = sweep_in(&killed, &mut log, &settings(), now).await.is_ok();
            world.log = reread(&world).await;
            world.sweep(&settings()).await.unwrap();
            let state = state(&world.log);
            assert!(state.open_intents.is_empty(), "{how:?} at {dies_at}");
            assert_eq!(state.backups.keys().cloned().collect::<Vec<_>>(), ids(&backups[3..]), "{how:?} at {dies_at}");
            assert!(world.has(&backups[0].objects[1].0).await, "{how:?} at {dies_at}: it is needed");
            let left = world.keys("data/").await.len();
            assert_eq!(left, 1 + 3 * 3 - 1, "{how:?} at {dies_at}: nothing else is left of the first three");
            if survived {
                break;
            }
        }
    }
}

/// What an intruder with a writer's key orders: everything.
fn everything(backups: &[SmallBackup]) -> SweepIntentRecord {
    let floor = samples::wal_range(1, 1 << 24, 99 << 24);
    let epochs = backups.iter().flat_map(|backup| &backup.record.epochs).map(|epoch| epoch.id).collect();
    let wal = vec![WalFloor { timeline: floor.timeline, before: floor.end }];
    SweepIntentRecord { backups: ids(backups), epochs, wal: wal.clone(), slices: wal, leftovers: Vec::new() }
}

#[tokio::test]
async fn an_order_to_delete_what_nobody_has_forgotten_takes_nothing_from_anybody() {
    let (mut world, backups) = six_days().await;
    let piece = samples::wal_range(1, 6 << 24, 7 << 24);
    let piece = crate::format::layout::StoredName::WalSegment(piece).key();
    crate::samples::sweep::put(&*world.memory, &piece, "piece").await.unwrap();
    world.say(RecordBody::SweepIntent(everything(&backups))).await;
    let seen = state(&world.log);
    assert_eq!(seen.backups.len(), 6, "every reader still has them");
    assert_eq!(seen.void_sweeps.iter().map(|void| void.backups.len()).collect::<Vec<_>>(), [6]);
    let report = world.sweep(&settings()).await.unwrap();
    assert_eq!((report.objects, report.swept.len()), (0, 0), "{report:?}");
    assert!(report.refused.iter().any(|text| text.contains("WAL of timeline 1 up to 0/63000000")), "{report:?}");
    for key in backups.iter().flat_map(SmallBackup::keys).chain([piece]) {
        assert!(world.has(&key).await, "{key}");
    }
}

#[tokio::test]
async fn an_open_intent_is_carried_out_only_as_far_as_todays_plan_and_holds_agree() {
    let (mut world, backups) = six_days_forgotten().await;
    let intent = SweepIntentRecord { backups: ids(&backups[..2]), ..SweepIntentRecord::default() };
    world.say(RecordBody::SweepIntent(intent)).await;
    assert_eq!(state(&world.log).backups.len(), 4, "they had been forgotten, and their grace was over");
    let hold = samples::hold(0xd0, backups[0].id().as_str(), None);
    world.say(RecordBody::Hold(hold)).await;
    let report = world.sweep(&settings()).await.unwrap();
    assert!(report.refused.len() == 1 && report.refused[0].contains("hold"), "{report:?}");
    for key in backups[0].keys() {
        assert!(world.has(&key).await, "{key} is held");
    }
    let objects = backups[1..3].iter().flat_map(SmallBackup::keys);
    for key in objects.filter(|key| key.as_str().starts_with("data/")) {
        assert!(!world.has(&key).await, "{key}");
    }
    assert_eq!(state(&world.log).open_intents.len(), 1, "what stays is not said to be gone");
    let records = world.log.entries().len();
    assert_eq!(world.sweep(&settings()).await.unwrap().refused.len(), 1, "it is reported until it is over");
    assert_eq!(world.log.entries().len(), records, "and the log does not grow by that");

    world.say(RecordBody::Release(samples::release(0xd0))).await;
    let report = world.sweep(&settings()).await.unwrap();
    assert!(report.refused.is_empty() && state(&world.log).open_intents.is_empty(), "{report:?}");
    for key in backups[..3].iter().flat_map(SmallBackup::keys) {
        assert!(!world.has(&key).await, "{key}");
    }
}

#[tokio::test]
async fn a_grace_is_as_long_as_the_stores_clock_says() {
    let (mut world, backups) = six_days().await;
    // Forgotten a moment ago, by a record that says that its grace is over.
    let forget = samples::forget(&[backups[0].id().as_str()], "2026-01-02T02:00:00Z");
    world.say(RecordBody::Forget(forget)).await;
    let intent = SweepIntentRecord { backups: ids(&backups[..1]), ..SweepIntentRecord::default() };
    world.say(RecordBody::SweepIntent(intent)).await;
    let report = world.sweep(&settings()).await.unwrap();
    assert!(report.refused.len() == 1 && report.refused[0].contains("its grace lasts until"), "{report:?}");
    for key in backups[0].keys() {
        assert!(world.has(&key).await, "{key}");
    }
}

#[tokio::test]
async fn a_backup_whose_objects_are_not_there_pushes_no_other_one_out() {
    let (mut world, backups) = six_days().await;
    // Records alone, with a time of today each, and one whose objects are cut.
    for number in 90..95 {
        let fake =
            SmallBackup::new(number, world.clock.now().plus(Duration::from_secs(u64::from(number))), (1, 9), &[]);
        fake.commit(&*world.memory, &mut world.log).await.unwrap();
    }
    let cut = SmallBackup::new(99, world.clock.now().plus(Duration::from_secs(200)), (1, 9), &[]);
    for (key, _) in &cut.objects {
        crate::samples::sweep::put(&*world.memory, key, "cut").await.unwrap();
    }
    cut.upload(&*world.memory).await.unwrap();
    cut.commit(&*world.memory, &mut world.log).await.unwrap();
    let before = world.log.state(at(0)).backups.len();
    let report = world.forget(&settings()).await.unwrap();
    assert_eq!(before, 12);
    for backup in &backups[3..] {
        assert!(report.plan.keeps(&backup.id()), "{:?}", report.plan);
    }
}

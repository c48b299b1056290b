//! Healing from region to region: what is copied, what is refused, and what a crash at any step leaves.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_stores::{Fault, ObjectKey, ObjectVersion, Operation, PutOutcome, Request, Rule, Step, WithHooks};
use lifeboat_vocabulary::ByteCount;

use super::*;

use crate::format::ids::HoldId;
use crate::format::layout;
use crate::heal::pace::Pace;
use crate::log::records::backup::BackupRecord;
use crate::log::records::care::{DamageRecord, FoundBy, HoldRecord};
use crate::log::records::record::RecordBody;
use crate::samples;
use crate::samples::heal::{MIB, Scene};

mod claims;

const START: u64 = 16 * MIB;

/// Region 0 has everything; region 1 was away for the second backup and the WAL since; region 2 is as good as 0.
async fn scene() -> Scene {
    let mut scene = Scene::new(&["eu-1", "eu-2", "eu-3"]).await;
    scene.backup(10, START, &[0, 1, 2]).await;
    scene.wal(START, START + MIB, &[0, 1, 2]).await;
    scene.backup(11, START + MIB, &[0, 2]).await;
    for piece in 1..3 {
        scene.wal(START + piece * MIB, START + (piece + 1) * MIB, &[0, 2]).await;
    }
    scene.wal(START + 3 * MIB, START + 3 * MIB + 4096, &[0, 2]).await;
    let history = scene.archive.history(2, "1\t0/1400000\tno recovery target specified\n");
    scene.archive.store(&history, &[0, 2]).await;
    scene
}

#[tokio::test]
async fn a_region_that_was_unavailable_is_healed_and_can_restore_alone() {
    let scene = scene().await;
    let report = scene.heal(1, &[0, 2]).await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!((report.backups.len(), report.wal_objects), (1, 4));
    assert_eq!(scene.contents(1).await, scene.contents(0).await, "as it is, byte for byte");
    assert_eq!(scene.broken_promises(1).await, Vec::<String>::new());
    let (healed, source) = (scene.log(1).await, scene.log(0).await);
    let record = |log: &RegionLog| {
        let backups = log.entries().iter().filter(|entry| entry.record.backup().is_some());
        backups.map(|entry| (entry.record.origin.clone(), entry.record.body.clone())).collect::<Vec<_>>()
    };
    assert_eq!(record(&healed), record(&source), "the same events");
    let healed = healed.entries().last().unwrap().record.body.clone();
    assert!(matches!(&healed, RecordBody::Healed(healed) if healed.backups.len() == 1), "{healed:?}");
    let again = scene.heal(1, &[0, 2]).await;
    assert!(again.is_complete() && again.objects == 0, "nothing is left to do: {again:?}");
}

#[tokio::test]
async fn a_crash_after_any_request_claims_nothing_early_and_the_next_run_completes_it() {
    for answer in [Fault::Lost, Fault::AnswerLost] {
        for step in 0.. {
            let scene = scene().await;
            let faults = &scene.archive.regions[1].faults;
            let rule = |count, fault| Rule { operation: None, key_contains: String::new(), skip: step, count, fault };
            faults.add(rule(1, answer));
            faults.add(rule(u64::MAX, Fault::Lost));
            let first = scene.try_heal(1, &[0, 2]).await;
            let hit = faults.hits() > 0;
            assert_eq!(scene.broken_promises(1).await, Vec::<String>::new(), "after step {step} ({answer:?})");
            faults.heal();
            let second = scene.heal(1, &[0, 2]).await;
            assert!(second.is_complete(), "step {step} ({answer:?}): {second:?}");
            assert_eq!(scene.contents(1).await, scene.contents(0).await, "step {step} ({answer:?})");
            let committed = scene.log(1).await.entries().iter().filter(|entry| entry.record.backup().is_some()).count();
            assert_eq!(committed, 2, "each backup once, step {step} ({answer:?})");
            if !hit {
                assert!(first.unwrap().is_complete());
                assert!(step > 20, "only {step} steps were tried");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_source_that_fails_or_gives_damaged_objects_is_replaced_by_the_next() {
    for (why, operation, fault, damage) in [
        ("dies midway", None, Fault::Lost, false),
        ("flips bits", Some(Operation::Get), Fault::BitFlip, true),
        ("cuts objects", Some(Operation::Get), Fault::Truncated, true),
        ("denies", Some(Operation::Get), Fault::Denied, false),
    ] {
        let scene = scene().await;
        let skip = if operation.is_none() { 9 } else { 0 };
        let rule = Rule { operation, key_contains: String::new(), skip, count: u64::MAX, fault };
        scene.archive.regions[0].faults.add(rule);
        let report = scene.heal(1, &[0, 2]).await;
        assert!(report.is_complete(), "{why}: {report:?}");
        assert_eq!(scene.contents(1).await, scene.contents(2).await, "{why}");
        assert_eq!(!report.damage.is_empty(), damage, "{why}: {:?}", report.damage);
        assert!(report.damage.iter().all(|found| found.region.as_str() == "eu-1"), "{why}");
    }
}

#[tokio::test]
async fn what_no_region_has_intact_is_left_and_the_rest_is_healed() {
    let scene = scene().await;
    let bad = scene
        .contents(0)
        .await
        .into_keys()
        .find(|key| key.as_str().contains("20261111") && key.as_str().contains("/p000001"));
    let bad = bad.unwrap();
    for region in [0, 2] {
        scene.overwrite(region, &bad, Bytes::from_static(b"not what was stored")).await;
    }
    let report = scene.heal(1, &[0, 2]).await;
    assert_eq!((report.left_count, report.backups.len(), report.wal_objects), (1, 0, 4), "{report:?}");
    assert!(report.left[0].why.contains("no region has"), "{report:?}");
    assert_eq!(scene.broken_promises(1).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_a_region_does_not_give_at_present_is_not_called_damaged() {
    for fault in [Fault::Lost, Fault::Denied, Fault::Throttled] {
        let scene = scene().await;
        for region in [0, 2] {
            let rule = Rule { operation: Some(Operation::Get), ..Rule::always(fault) };
            scene.archive.regions[region].faults.add(Rule { key_contains: "/p000001".to_owned(), ..rule });
        }
        let report = scene.heal(1, &[0, 2]).await;
        assert_eq!((report.left_count, report.backups.len(), report.wal_objects), (1, 0, 4), "{fault:?}: {report:?}");
        assert!(report.left[0].why.contains("cannot be read at present"), "{fault:?}: {report:?}");
        assert!(report.damage.is_empty(), "{fault:?}: {report:?}");
        for region in [0, 2] {
            scene.archive.regions[region].faults.heal();
        }
        assert!(scene.heal(1, &[0, 2]).await.is_complete(), "{fault:?}");
    }
}

#[tokio::test]
async fn an_empty_region_gets_everything_and_the_newest_backup_first() {
    let mut scene = Scene::new(&["eu-1", "eu-2"]).await;
    for (day, place) in [(9, 0), (10, 1), (11, 2)] {
        scene.backup(day, START + place * MIB, &[0]).await;
        scene.wal(START + place * MIB, START + (place + 1) * MIB, &[0]).await;
    }
    // It dies after the first backup.
    let faults = &scene.archive.regions[1].faults;
    faults.add(Rule {
        operation: Some(Operation::Put),
        key_contains: ".lbp".into(),
        skip: 3,
        count: u64::MAX,
        fault: Fault::Lost,
    });
    let report = scene.heal(1, &[0]).await;
    let ids: Vec<String> = report.backups.iter().map(ToString::to_string).collect();
    assert_eq!(ids, ["20261111T020003Z-5f1c09ab"], "a region that can restore nothing gets the present first");
    faults.heal();
    let report = scene.heal(1, &[0]).await;
    let ids: Vec<String> = report.backups.iter().map(ToString::to_string).collect();
    assert_eq!(ids, ["20261109T020003Z-5f1c09ab", "20261110T020003Z-5f1c09ab"], "then the oldest hole is closed first");
    assert_eq!(scene.contents(1).await, scene.contents(0).await);
}

#[tokio::test]
async fn damage_is_replaced_and_recorded_and_missing_rights_are_reported() {
    let mut scene = scene().await;
    let record = scene.log(1).await.entries().iter().find_map(|entry| entry.record.backup().cloned()).unwrap();
    let folder = layout::backup_prefix(&record.backup);
    let keys: Vec<ObjectKey> = scene
        .contents(1)
        .await
        .into_keys()
        .filter(|key| key.as_str().starts_with(&folder) && key.as_str().ends_with(".lbp"))
        .collect();
    scene.overwrite(1, &keys[0], Bytes::from_static(b"rotten")).await;
    scene.memory(1).delete(&keys[1]).await.unwrap();
    let piece = scene.contents(1).await.into_keys().find(|key| key.as_str().ends_with(".lbw")).unwrap();
    scene.overwrite(1, &piece, Bytes::from_static(b"rotten")).await;
    let damage = |backup, objects: Vec<ObjectKey>| {
        let count = objects.len() as u64;
        RecordBody::Damage(DamageRecord { backup, objects, count, found_by: FoundBy::Scrub })
    };
    scene.append(1, damage(Some(record.backup.clone()), keys[..2].to_vec())).await;
    scene.append(1, damage(None, vec![piece.clone()])).await;
    let faults = &scene.archive.regions[1].faults;
    faults.add(Rule {
        operation: Some(Operation::Put),
        key_contains: keys[0].to_string(),
        skip: 0,
        count: u64::MAX,
        fault: Fault::Denied,
    });
    let report = scene.heal(1, &[0, 2]).await;
    assert_eq!(report.left_count, 1, "{report:?}");
    assert!(report.left[0].why.contains("delete it with a role that may"), "{report:?}");
    let now = samples::time("2026-11-30T00:00:00Z");
    assert!(scene.log(1).await.state(now).backups[&record.backup].damaged.is_some(), "it stays damaged");
    scene.archive.regions[1].faults.heal();
    let report = scene.heal(1, &[0, 2]).await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(scene.contents(1).await, scene.contents(0).await);
    let log = scene.log(1).await;
    assert!(log.state(now).backups[&record.backup].damaged.is_none());
    assert_eq!(crate::log::damage::damaged_wal(&log).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_bytes_are_copied_than_the_bound_allows() {
    let mut scene = scene().await;
    scene.pace = Pace::new(Some(ByteCount::from_bytes(1000)));
    let begun = tokio::time::Instant::now();
    let report = scene.heal(1, &[0]).await;
    assert!(report.is_complete());
    let largest = scene.contents(1).await.values().map(Bytes::len).max().unwrap() as u64;
    let least = Duration::from_secs((report.bytes.as_bytes() - largest) / 1000);
    assert!(begun.elapsed() >= least, "{:?} for {}", begun.elapsed(), report.bytes);
}

#[tokio::test]
async fn a_stop_ends_it_and_says_so() {
    let scene = scene().await;
    scene.stop.cancel();
    let report = scene.heal(1, &[0, 2]).await;
    assert_eq!(report.ended, Some(HealEnd::Stopped));
    assert_eq!(scene.broken_promises(1).await, Vec::<String>::new());
}

#[tokio::test]
async fn objects_that_a_region_confirmed_but_does_not_have_prevent_the_record() {
    let scene = scene().await;
    let mut target = scene.region(1).await;
    // It says that it stored what it did not store.
    let confirms = |request: &Request<'_>| match request {
        Request::Put { key, .. } if key.as_str().contains("/p000002") => {
            Step::Stored(PutOutcome { version: ObjectVersion("made up".to_owned()), server_time: None })
        }
        _ => Step::Pass,
    };
    target.store.store = Arc::new(WithHooks::new(Arc::clone(&target.store.store), confirms));
    let sources = [scene.region(0).await];
    let (scope, trust) = (scene.scope().await, scene.trust());
    let tools = scene.tools(&trust, Look::AtObjects);
    let report = heal_region(&mut target, &sources, &scope, &tools).await.unwrap();
    assert_eq!(report.left_count, 1, "{report:?}");
    assert!(report.left[0].why.contains("that the region has confirmed, such as"), "{report:?}");
    assert_eq!(scene.broken_promises(1).await, Vec::<String>::new());
}

#[tokio::test]
async fn swept_backups_are_not_healed_and_common_records_are() {
    let mut scene = scene().await;
    let newest = scene.log(0).await.entries().iter().rev().find_map(|entry| entry.record.backup().cloned()).unwrap();
    let swept =
        crate::log::records::care::SweepIntentRecord { leftovers: vec![newest.backup.clone()], ..Default::default() };
    scene.append(1, RecordBody::SweepIntent(swept)).await;
    let hold = HoldRecord {
        hold: HoldId::from_bytes([7; 8]),
        backup: newest.backup.clone(),
        reason: "audit".to_owned(),
        owner: "somebody".to_owned(),
        expires: None,
    };
    scene.append_everywhere(&[0, 2], RecordBody::Hold(hold.clone())).await;
    let report = scene.heal(1, &[0, 2]).await;
    assert_eq!((report.backups.len(), report.records), (0, 1), "{report:?}");
    let log = scene.log(1).await;
    assert!(log.entries().iter().any(|entry| entry.record.body == RecordBody::Hold(hold.clone())));
    assert!(!log.entries().iter().any(|entry| entry.record.commits(&newest.backup)));
}

#[tokio::test]
async fn slices_replace_a_piece_that_is_damaged_in_every_region() {
    let mut scene = Scene::new(&["eu-1", "eu-2"]).await;
    scene.backup(10, START, &[0, 1]).await;
    let piece = scene.wal(START, START + MIB, &[0]).await;
    for part in 0..4 {
        scene.wal(START + part * MIB / 4, START + (part + 1) * MIB / 4, &[0]).await;
    }
    scene.overwrite(0, &piece.name.key(), Bytes::from_static(b"rotten")).await;
    let report = scene.heal(1, &[0]).await;
    assert_eq!((report.wal_objects, report.left_count), (4, 1), "{report:?}");
}

#[tokio::test]
async fn wal_that_the_writer_may_still_upload_is_not_healed() {
    let mut scene = scene().await;
    let terms = crate::wal::lease::LeaseTerms {
        writer: scene.signer.name().clone(),
        instance: crate::format::ids::InstanceId::from_bytes([3; 8]),
        cluster: "main".parse().unwrap(),
        ttl: Duration::from_secs(60),
    };
    let clock = lifeboat_vocabulary::SystemClock;
    let spool = Arc::new(lifeboat_stores::MemoryStore::new());
    let memory = crate::wal::lease_memory::LeaseMemory::new(spool, "lease".parse().unwrap());
    let lease = crate::wal::lease::Lease::acquire(scene.memory(1), terms, &memory, &clock).await.unwrap();
    assert!(matches!(lease, crate::wal::lease::LeaseAnswer::Held(_)));
    let report = scene.heal(1, &[0, 2]).await;
    assert_eq!((report.backups.len(), report.wal_objects), (1, 0), "the writer has not said how far it is: {report:?}");
    let head = crate::wal::head::Head {
        repository: samples::repository(),
        region: "eu-2".parse().unwrap(),
        writer: scene.signer.name().clone(),
        instance: crate::format::ids::InstanceId::from_bytes([3; 8]),
        time: samples::time("2026-11-20T02:00:00Z"),
        log: None,
        last_record: None,
        complete: None,
        confirmed: None,
        durable: Some(lifeboat_vocabulary::WalPosition {
            timeline: lifeboat_vocabulary::TimelineId::new(1).unwrap(),
            lsn: lifeboat_vocabulary::Lsn::from_bytes(START + 16 * MIB + 5).unwrap(),
        }),
    };
    let trust = crate::samples::wal::trust("eu-2");
    let (mut file, _) = crate::wal::head::HeadFile::open(scene.memory(1), scene.signer.name(), &trust).await.unwrap();
    file.write(scene.memory(1), &scene.signer, &head).await.unwrap();
    scene.wal(START + 16 * MIB, START + 17 * MIB, &[0]).await;
    let report = scene.heal(1, &[0, 2]).await;
    assert_eq!(report.wal_objects, 4, "all before the piece that the writer is at: {report:?}");
}

/// Deletes an object of the backup in a region behind everybody's back.
async fn lose_pack(scene: &Scene, region: usize, record: &BackupRecord) -> ObjectKey {
    let key = crate::format::layout::pack(&record.backup, 1, crate::format::ids::ObjectId::from_bytes([2; 16]));
    scene.memory(region).delete(&key).await.unwrap();
    key
}

#[tokio::test]
async fn what_is_missing_is_healed_before_any_scrub_has_found_it() {
    let mut scene = Scene::new(&["eu", "us"]).await;
    let record = scene.backup(20, 16 * MIB, &[0, 1]).await;
    let key = lose_pack(&scene, 1, &record).await;
    let report = scene.heal(1, &[0]).await;
    assert_eq!((&report.backups, report.objects), (&vec![record.backup.clone()], 1), "{report:?}");
    assert!(report.is_complete() && scene.contents(1).await.contains_key(&key), "{report:?}");
    assert_eq!(scene.broken_promises(1).await, Vec::<String>::new());
    assert!(scene.heal(1, &[0]).await.backups.is_empty(), "once is enough");
}

#[tokio::test]
async fn a_backup_that_leaves_is_healed_while_another_region_has_it() {
    let mut scene = Scene::new(&["eu", "us"]).await;
    let record = scene.backup(20, 16 * MIB, &[0, 1]).await;
    scene.backup(21, 17 * MIB, &[0, 1]).await;
    let forget = || RecordBody::Forget(samples::forget(&[record.backup.as_str()], "2026-11-25T02:00:00Z"));
    scene.append(0, forget()).await;
    scene.append(1, forget()).await;
    let key = lose_pack(&scene, 1, &record).await;
    assert!(!scene.scope().await.backups.contains(&record.backup), "it is to stay nowhere");
    let report = scene.heal(1, &[0]).await;
    assert!(report.is_complete() && scene.contents(1).await.contains_key(&key), "{report:?}");
    // A backup that leaves everywhere is brought to no region that lacks it.
    let mut third = Scene::new(&["eu", "us"]).await;
    let only = third.backup(20, 16 * MIB, &[0]).await;
    third.append(0, RecordBody::Forget(samples::forget(&[only.backup.as_str()], "2026-11-25T02:00:00Z"))).await;
    assert!(third.heal(1, &[0]).await.backups.is_empty());
}

#[tokio::test]
async fn what_no_other_region_has_is_said_and_why() {
    let mut scene = Scene::new(&["eu", "us"]).await;
    let kept = scene.backup(20, 16 * MIB, &[1]).await;
    let leaves = scene.backup(19, 15 * MIB, &[1]).await;
    scene.append(1, RecordBody::Forget(samples::forget(&[leaves.backup.as_str()], "2026-11-25T02:00:00Z"))).await;
    lose_pack(&scene, 1, &kept).await;
    lose_pack(&scene, 1, &leaves).await;
    let report = scene.heal(1, &[0]).await;
    assert_eq!(report.left_count, 2, "{report:?}");
    let why = |record: &BackupRecord| {
        let what = format!("backup {}", record.backup);
        report.left.iter().find(|left| left.what == what).map(|left| left.why.clone()).unwrap()
    };
    assert!(why(&kept).ends_with("and no other region has it"), "{}", why(&kept));
    assert!(why(&leaves).contains("it leaves this one from 2026-11-25T02:00:00Z on"), "{}", why(&leaves));
    let missing: Vec<_> = report.damage.iter().map(|found| found.region.as_str()).collect();
    assert_eq!(missing, ["us", "us"], "it goes on record as damage");
}

#[tokio::test]
async fn what_lies_under_a_name_of_wal_counts_only_if_it_is_signed_for_it() {
    let mut scene = Scene::new(&["eu-1", "eu-2"]).await;
    scene.backup(10, START, &[0, 1]).await;
    let piece = scene.wal(START, START + MIB, &[0]).await;
    let slice = scene.wal(START + MIB, START + MIB + 4096, &[0]).await;
    let (piece, slice) = (piece.name.key(), slice.name.key());
    // Somebody takes the name of the piece, and in another region that of a larger object over the slice.
    scene.overwrite(1, &piece, Bytes::from_static(b"planted")).await;
    let wide = crate::samples::wal_range(1, START + MIB, START + 2 * MIB);
    let wide = crate::wal::name::WalObject::new(crate::format::layout::WalForm::Slice, wide).unwrap().key();
    scene.overwrite(1, &wide, Bytes::from_static(b"planted")).await;
    let report = scene.heal(1, &[0]).await;
    assert_eq!(report.wal_objects, 2, "{report:?}");
    for key in [&piece, &slice] {
        assert_eq!(scene.contents(1).await.get(key), scene.contents(0).await.get(key), "{key}");
    }
    // One of ours that was sealed by another run is WAL all the same.
    let report = scene.heal(1, &[0]).await;
    assert_eq!((report.wal_objects, report.left_count), (0, 0), "{report:?}");
}

#[tokio::test]
async fn small_objects_of_a_backup_whose_names_were_taken_are_replaced_before_its_record_is_written() {
    let mut scene = Scene::new(&["eu-1", "eu-2"]).await;
    let record = scene.backup(10, START, &[0]).await;
    let list = layout::packs_list(&record.backup);
    let size = scene.contents(0).await[&list].len();
    scene.overwrite(1, &list, Bytes::from(vec![b'x'; size])).await;
    let report = scene.heal(1, &[0]).await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(scene.contents(1).await.get(&list), scene.contents(0).await.get(&list));
}

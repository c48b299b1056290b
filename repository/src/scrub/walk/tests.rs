//! Everything stored is looked at once per round, and what is wrong is found.

use std::collections::BTreeSet;

use lifeboat_stores::{Fault, Operation, Rule};
use lifeboat_vocabulary::SystemClock;

use super::*;
use crate::heal::presence::{PresenceReport, check_presence};
use crate::log::records::care::{FoundBy, SweepIntentRecord, WalFloor};
use crate::log::region_log::LogTrust;
use crate::samples::heal::{MIB, Scene};
use crate::scrub::damage::DamageReporter;

const START: u64 = 16 * MIB;

fn scrubbed<'a>(
    region: &'a RegionStore,
    others: &'a [RegionStore],
    trust: &'a LogTrust,
    scene: &'a Scene,
) -> ScrubRegion<'a> {
    ScrubRegion { region, others, trust, pace: &scene.pace, progress: &scene.progress, clock: &SystemClock }
}

/// What a listing of region 0 finds, beside these others.
async fn check(scene: &Scene, others: &[RegionStore]) -> PresenceReport {
    let (store, trust, mut log) = (scene.store(0), scene.trust(), scene.log(0).await);
    check_presence(scrubbed(&store, others, &trust, scene), &mut log).await.unwrap()
}

async fn scene() -> Scene {
    let mut scene = Scene::new(&["eu-1", "eu-2"]).await;
    for (day, place) in [(10, 0), (11, 1)] {
        scene.backup(day, START + place * MIB, &[0, 1]).await;
        scene.wal(START + place * MIB, START + (place + 1) * MIB, &[0, 1]).await;
    }
    scene.wal(START + 2 * MIB, START + 2 * MIB + 500, &[0, 1]).await;
    scene
}

/// Everything that one round looks at behind `after`, and what is damaged.
async fn round(scene: &Scene, after: Option<&ObjectKey>) -> (Vec<ObjectKey>, Vec<FoundDamage>) {
    let (store, others, trust) = (scene.store(0), [scene.store(1)], scene.trust());
    let log = scene.log(0).await;
    let mut walk = ScrubWalk::new(scrubbed(&store, &others, &trust, scene), log, after);
    let (mut seen, mut damage) = (Vec::new(), Vec::new());
    while let Some(scrubbed) = walk.next().await.unwrap() {
        seen.push(scrubbed.key);
        damage.extend(scrubbed.damage);
    }
    (seen, damage)
}

#[tokio::test]
async fn every_object_is_looked_at_once_in_order_and_a_restart_goes_on_behind_the_last() {
    let scene = scene().await;
    let (seen, damage) = round(&scene, None).await;
    assert_eq!(damage, []);
    assert!(seen.is_sorted(), "{seen:?}");
    let expected: BTreeSet<ObjectKey> =
        scene.contents(0).await.into_keys().filter(|key| key.as_str() != "lifeboat.json").collect();
    assert_eq!(seen.iter().cloned().collect::<BTreeSet<_>>(), expected);
    assert_eq!(seen.len(), expected.len());
    for (place, last) in seen.iter().enumerate() {
        assert_eq!(round(&scene, Some(last)).await.0, seen[place + 1..], "behind {last}");
    }
}

#[tokio::test]
async fn damage_of_every_kind_is_found_and_put_on_record_once() {
    for (why, part, bytes) in [
        ("a pack", "/p000001", Some(&b"rotten"[..])),
        ("a missing pack", "/p000001", None),
        ("an index", ".lbx", Some(b"rotten")),
        ("the list", "20261110T020003Z-5f1c09ab/packs.sha256", Some(b"rotten")),
        ("a missing list", "20261110T020003Z-5f1c09ab/packs.sha256", None),
        ("a key of a backup", "keys/0b0b", Some(b"rotten")),
        ("a piece", ".lbw", Some(b"rotten")),
        ("a slice", ".lbs", Some(b"rotten")),
    ] {
        let scene = scene().await;
        let key = scene.contents(0).await.into_keys().find(|key| key.as_str().contains(part)).expect(why);
        match bytes {
            Some(bytes) => scene.overwrite(0, &key, Bytes::from_static(bytes)).await,
            None => scene.memory(0).delete(&key).await.unwrap(),
        }
        let (seen, damage) = round(&scene, None).await;
        let found: Vec<&ObjectKey> = damage.iter().map(|found| &found.key).collect();
        assert_eq!(found, [&key], "{why}");
        assert!(seen.len() > 15, "{why}: the rest is looked at too");
        let reporter =
            DamageReporter { signer: &scene.signer, clock: &SystemClock, tool: "test", found_by: FoundBy::Scrub };
        let (store, mut log) = (scene.store(0), scene.log(0).await);
        assert_eq!(reporter.record(&store, &mut log, &damage).await.unwrap(), 1, "{why}");
        assert_eq!(reporter.record(&store, &mut log, &damage).await.unwrap(), 0, "{why}: it is known");
        let report = scene.heal(0, &[1]).await;
        assert!(report.is_complete() && report.objects == 1, "{why}: {report:?}");
        assert_eq!(round(&scene, None).await.1, [], "{why}: it is healed");
    }
}

#[tokio::test]
async fn a_bit_flip_in_transit_and_an_outage_are_not_reported_as_damage() {
    let scene = scene().await;
    let faults = &scene.archive.regions[0].faults;
    faults.add(Rule {
        operation: Some(Operation::Get),
        key_contains: "/p0".into(),
        skip: 0,
        count: 2,
        fault: Fault::BitFlip,
    });
    assert_eq!(round(&scene, None).await.1, []);
    faults.heal();
    faults.add(Rule {
        operation: Some(Operation::Get),
        key_contains: "/p000001".into(),
        skip: 0,
        count: 1,
        fault: Fault::Lost,
    });
    let (store, trust) = (scene.store(0), scene.trust());
    let log = scene.log(0).await;
    let mut walk = ScrubWalk::new(scrubbed(&store, &[], &trust, &scene), log, None);
    let mut seen = 0;
    let error = loop {
        match walk.next().await {
            Ok(found) => seen += u32::from(found.unwrap().damage.is_none()),
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, RegionReadError::Store { .. }), "{error:?}");
    while walk.next().await.unwrap().is_some() {
        seen += 1;
    }
    assert_eq!(seen as usize, round(&scene, None).await.0.len(), "nothing was passed over");
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_reported_and_everything_behind_it_is_looked_at() {
    for (part, fault) in [
        ("/p000001", Fault::Lost),
        ("/p000001", Fault::Denied),
        ("20261110T020003Z-5f1c09ab/packs.sha256", Fault::Lost),
        ("20261110T020003Z-5f1c09ab/packs.sha256", Fault::Denied),
        (".lbs", Fault::Lost),
    ] {
        let scene = scene().await;
        let all = round(&scene, None).await.0;
        let key = all.iter().find(|key| key.as_str().contains(part)).unwrap();
        let key_contains = key.to_string();
        let rule = Rule { operation: Some(Operation::Get), key_contains, skip: 0, count: u64::MAX, fault };
        scene.archive.regions[0].faults.add(rule);
        let (store, others, trust) = (scene.store(0), [scene.store(1)], scene.trust());
        let mut walk = ScrubWalk::new(scrubbed(&store, &others, &trust, &scene), scene.log(0).await, None);
        let (mut seen, mut unread) = (Vec::new(), Vec::new());
        loop {
            match walk.next().await {
                Ok(Some(scrubbed)) => {
                    assert_eq!(scrubbed.damage, None, "{part}, {fault:?}");
                    unread.extend(scrubbed.unread.map(|_| scrubbed.key.clone()));
                    seen.push(scrubbed.key);
                }
                Ok(None) => break,
                Err(RegionReadError::Store { key: failed, .. }) => {
                    assert_eq!((fault, &failed), (Fault::Lost, key), "what is denied is answered");
                    walk.pass_over(failed);
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!((seen, unread), (all.clone(), vec![key.clone()]), "{part}, {fault:?}");
    }
}

#[tokio::test]
async fn swept_objects_are_not_reported_as_missing() {
    let mut scene = scene().await;
    let range = crate::samples::wal_range(1, START, START + MIB);
    let gone: Vec<ObjectKey> = scene
        .contents(0)
        .await
        .into_keys()
        .filter(|key| {
            key.as_str().contains("20261110")
                || key.as_str().starts_with("keys/0a0a")
                || key.as_str().contains(&range.to_string())
        })
        .collect();
    // The walk has read the log before the sweep.
    let (store, trust) = (scene.store(0), scene.trust());
    let log = scene.log(0).await;
    let (backups, floor) =
        (vec!["20261110T020003Z-5f1c09ab".parse().unwrap()], WalFloor { timeline: range.timeline, before: range.end });
    let forget = crate::samples::forget(&["20261110T020003Z-5f1c09ab"], "2026-11-20T02:00:00Z");
    scene.append(0, crate::log::records::record::RecordBody::Forget(forget)).await;
    let intent = SweepIntentRecord { backups, wal: vec![floor], ..SweepIntentRecord::default() };
    scene.append(0, crate::log::records::record::RecordBody::SweepIntent(intent)).await;
    for key in &gone {
        scene.memory(0).delete(key).await.unwrap();
    }
    let mut walk = ScrubWalk::new(scrubbed(&store, &[], &trust, &scene), log, None);
    while let Some(scrubbed) = walk.next().await.unwrap() {
        assert_eq!(scrubbed.damage, None);
    }
    assert_eq!(check(&scene, &[]).await.damage, []);
}

#[tokio::test]
async fn a_listing_alone_finds_what_is_missing() {
    let scene = scene().await;
    let others = [scene.store(1)];
    let sound = check(&scene, &others).await;
    assert_eq!(sound.damage, []);
    assert!(sound.objects > 15 && sound.bytes > ByteCount::from_bytes(5000));
    let missing: Vec<ObjectKey> = scene
        .contents(0)
        .await
        .into_keys()
        .filter(|key| key.as_str().contains("/p000002") || key.as_str().starts_with("keys/0b0b"))
        .collect();
    for key in &missing {
        scene.memory(0).delete(key).await.unwrap();
    }
    let found = check(&scene, &others).await;
    assert_eq!(found.damage.into_iter().map(|found| found.key).collect::<Vec<_>>(), missing);
}

mod sizes;

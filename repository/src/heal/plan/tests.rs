//! What a region lacks, by the logs alone.

use super::*;
use crate::format::ids::{HoldId, Incarnation};
use crate::log::records::care::{DamageRecord, FoundBy, HealedRecord, HoldRecord, ReleaseRecord};
use crate::log::records::wal::{GapReason, IncarnationRecord, WalGapRecord};
use crate::samples;
use crate::samples::heal::Scene;

fn now() -> UtcTime {
    samples::time("2026-11-30T00:00:00Z")
}

async fn plan(scene: &Scene, target: usize, sources: &[usize]) -> RecordPlan {
    let mut logs = Vec::new();
    for source in sources {
        logs.push(scene.log(*source).await);
    }
    plan_records(
        &scene.log(target).await,
        &logs.iter().collect::<Vec<_>>(),
        &scene.scope().await,
        &Missing::default(),
        now(),
    )
}

fn days(plan: &RecordPlan) -> Vec<String> {
    plan.backups.iter().map(|task| task.record.backup.as_str()[6..8].to_owned()).collect()
}

#[tokio::test]
async fn the_oldest_hole_is_closed_first_but_the_present_before_everything() {
    let mut scene = Scene::new(&["a", "b", "c"]).await;
    for (day, start, regions) in
        [(1, 100, &[0][..]), (2, 200, &[0]), (8, 800, &[0, 2]), (9, 900, &[0, 1]), (10, 1000, &[0, 2])]
    {
        scene.backup(day, start << 20, regions).await;
    }
    let mut scope = scene.scope().await;
    let at = |start: u64| WalPosition {
        timeline: TimelineId::new(1).unwrap(),
        lsn: lifeboat_vocabulary::Lsn::from_bytes(start << 20).unwrap(),
    };
    scope.wal_from = Some(at(800));
    let logs = [scene.log(0).await, scene.log(2).await];
    let logs: Vec<&RegionLog> = logs.iter().collect();
    let of = |target: &RegionLog| plan_records(target, &logs, &scope, &Missing::default(), now());
    let plan = of(&scene.log(1).await);
    assert_eq!(plan.can_restore, CanRestore::Yes);
    assert_eq!(
        days(&plan),
        ["08", "10", "02", "01"],
        "holes from the oldest on, then single moments from the newest on"
    );
    let empty = Scene::new(&["b"]).await;
    let plan = of(&empty.log(0).await);
    assert_eq!(plan.can_restore, CanRestore::No);
    assert_eq!(days(&plan), ["10", "08", "09", "02", "01"], "what cannot restore anything gets the present first");
    let range = |start: u64| crate::samples::wal_range(1, start << 20, (start + 1) << 20);
    assert!(plan.rank_of_wal(range(1000)) < plan.rank(&plan.backups[1].record, &scope), "with the WAL behind it");
    assert!(plan.rank_of_wal(range(801)) > plan.rank(&plan.backups[1].record, &scope), "older WAL behind its backup");
}

#[tokio::test]
async fn damage_is_outstanding_until_it_is_healed() {
    let mut scene = Scene::new(&["a", "b"]).await;
    let record = scene.backup(10, 100, &[0, 1]).await;
    let key = |text: &str| text.parse::<ObjectKey>().unwrap();
    let damage = |backup, objects: &[&str], count| {
        let objects = objects.iter().map(|text| key(text)).collect();
        RecordBody::Damage(DamageRecord { backup, objects, count, found_by: FoundBy::Scrub })
    };
    let healed = |backups: Vec<BackupId>, settles| {
        let (bytes, from) = (lifeboat_vocabulary::ByteCount::ZERO, "a".parse().unwrap());
        RecordBody::Healed(HealedRecord { backups, settles, objects: 1, bytes, from })
    };
    let id = || Some(record.backup.clone());
    scene.append(1, damage(id(), &["data/x"], 1)).await;
    scene.append(1, damage(None, &["wal/y"], 1)).await;
    let found = plan(&scene, 1, &[0]).await;
    let objects = |names: &[&str], complete, records: &[u64]| {
        let (named, records) = (names.iter().map(|text| key(text)).collect(), records.iter().copied().collect());
        Lack::Objects { named, complete, records }
    };
    assert_eq!(found.backups[0].lack, objects(&["data/x"], Completeness::All, &[3]));
    assert_eq!(found.wal_damage, [key("wal/y")].into());
    assert_eq!(found.wal_records, [(4, vec![key("wal/y")])].into());
    scene.append(1, damage(id(), &["data/z"], 5)).await;
    assert_eq!(
        plan(&scene, 1, &[0]).await.backups[0].lack,
        objects(&["data/x", "data/z"], Completeness::Some, &[3, 5])
    );
    scene.append(1, healed(vec![record.backup.clone()], vec![3])).await;
    assert_eq!(plan(&scene, 1, &[0]).await.backups[0].lack, objects(&["data/z"], Completeness::Some, &[5]));
    scene.append(1, healed(vec![record.backup.clone()], vec![5])).await;
    let found = plan(&scene, 1, &[0]).await;
    assert_eq!((found.backups.len(), found.wal_damage.len()), (0, 1), "healing a backup says nothing about WAL");
    scene.append(1, healed(vec![], vec![])).await;
    assert_eq!(
        plan(&scene, 1, &[0]).await.wal_damage.len(),
        1,
        "WAL that was copied says nothing about what was damaged"
    );
    scene.append(1, healed(vec![], vec![4])).await;
    assert_eq!(plan(&scene, 1, &[0]).await.wal_damage.len(), 0);
}

#[tokio::test]
async fn records_about_the_whole_repository_are_copied_and_those_about_one_region_are_not() {
    let mut scene = Scene::new(&["a", "b"]).await;
    let record = scene.backup(10, 100, &[0, 1]).await;
    let range = samples::wal_range(1, 100, 200);
    let gap = |scope| {
        let (timeline, from, to, reason) = (range.timeline, range.start, Some(range.end), GapReason::SlotLost);
        RecordBody::WalGap(WalGapRecord { timeline, from, to, reason, scope })
    };
    let id = |byte| HoldId::from_bytes([byte; 8]);
    let (reason, owner) = ("r".to_owned(), "o".to_owned());
    let hold = |byte| {
        let (backup, reason, owner) = (record.backup.clone(), reason.clone(), owner.clone());
        RecordBody::Hold(HoldRecord { hold: id(byte), backup, reason, owner, expires: None })
    };
    let release =
        |byte| RecordBody::Release(ReleaseRecord { hold: id(byte), reason: reason.clone(), owner: owner.clone() });
    scene.append(0, gap(GapScope::Region)).await;
    scene.append(0, gap(GapScope::Everywhere)).await;
    scene.append(0, hold(1)).await;
    scene.append(0, hold(2)).await;
    scene.append_everywhere(&[0, 1], release(2)).await;
    let kinds: Vec<String> =
        plan(&scene, 1, &[0]).await.common.iter().map(|draft| draft.body.kind().to_owned()).collect();
    assert_eq!(kinds, ["wal-gap", "hold"], "a hold behind its own release would stand again");
    assert_eq!(plan(&scene, 0, &[1]).await.common, []);
}

#[tokio::test]
async fn healing_never_restores_an_older_incarnation() {
    let incarnation = |byte| {
        let incarnation = Some(Incarnation::from_bytes([byte; 8]));
        RecordBody::Incarnation(IncarnationRecord { incarnation })
    };
    for (why, first, second, expected) in [
        ("the target missed it", &[0, 1][..], &[0][..], Some(2)),
        ("the target knows more", &[0, 1], &[1], None),
        ("the target is new", &[0], &[0], Some(2)),
        ("a person has to decide", &[0], &[1], None),
    ] {
        let mut scene = Scene::new(&["a", "b"]).await;
        scene.append_everywhere(first, incarnation(1)).await;
        scene.append_everywhere(second, incarnation(2)).await;
        let found: Vec<RecordBody> = plan(&scene, 1, &[0]).await.common.into_iter().map(|draft| draft.body).collect();
        assert_eq!(found, expected.map(incarnation).into_iter().collect::<Vec<_>>(), "{why}");
    }
}

#[tokio::test]
async fn conflicting_signed_records_are_left_to_a_person() {
    let mut scene = Scene::new(&["a", "b", "c"]).await;
    let record = scene.backup(10, 100, &[0]).await;
    let other = BackupRecord { duration_ms: 1, ..record.clone() };
    scene.append(2, RecordBody::Backup(Box::new(other))).await;
    for (target, sources) in [(1, [0, 2]), (0, [1, 2])] {
        let plan = plan(&scene, target, &sources).await;
        assert_eq!((plan.backups.len(), plan.disputed.len()), (0, 1), "region {target}");
    }
}

#[tokio::test]
async fn a_second_record_in_one_log_disputes_nothing() {
    let mut scene = Scene::new(&["a", "b"]).await;
    let record = scene.backup(10, 100, &[0]).await;
    let other = BackupRecord { duration_ms: 1, ..record.clone() };
    scene.append(0, RecordBody::Backup(Box::new(other))).await;
    let plan = plan(&scene, 1, &[0]).await;
    assert_eq!((plan.backups.len(), plan.disputed.len()), (1, 0));
    assert_eq!(plan.backups[0].record, record, "the first one is brought");
}

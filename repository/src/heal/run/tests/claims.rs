//! A `healed` record says no more than the run has mended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_stores::{Fault, Hooks, ObjectKey, Operation, Request, Rule, Step, Store, WithHooks};
use lifeboat_vocabulary::BackupId;

use super::super::*;
use super::{START, scene};

use crate::format::layout;
use crate::log::damage::{damaged_objects, damaged_wal};
use crate::log::records::care::{DamageRecord, FoundBy};
use crate::samples;
use crate::samples::heal::{MIB, Scene};

/// A scrub that puts damage on record while the first object is being healed.
struct ScrubBeside {
    memory: Arc<dyn Store>,
    region: String,
    found: RecordBody,
    is_done: AtomicBool,
}

#[async_trait]
impl Hooks for ScrubBeside {
    async fn before(&self, request: Request<'_>) -> Step {
        let is_object = matches!(request, Request::Put { key, .. } if !key.as_str().starts_with("log/"));
        if is_object && !self.is_done.swap(true, Ordering::SeqCst) {
            let draft = Draft { origin: samples::origin(90), body: self.found.clone() };
            let mut log = RegionLog::read(&*self.memory, samples::wal::trust(&self.region)).await.unwrap();
            log.append(&*self.memory, &samples::signer(), &draft).await.unwrap();
        }
        Step::Pass
    }
}

fn damage(backup: Option<&BackupId>, object: &ObjectKey) -> RecordBody {
    let (backup, objects) = (backup.cloned(), vec![object.clone()]);
    RecordBody::Damage(DamageRecord { backup, objects, count: 1, found_by: FoundBy::Scrub })
}

/// Heals region 1 from the others, by what its log says; meanwhile a scrub finds `found`.
async fn heal_beside_a_scrub(scene: &Scene, found: RecordBody) -> HealReport {
    let mut target = scene.region(1).await;
    let region = &scene.archive.regions[1];
    let scrub = ScrubBeside {
        memory: Arc::clone(&region.memory) as Arc<dyn Store>,
        region: region.name.to_string(),
        found,
        is_done: AtomicBool::new(false),
    };
    target.store.store = Arc::new(WithHooks::new(Arc::clone(&target.store.store), scrub));
    let sources = [scene.region(0).await, scene.region(2).await];
    let (scope, trust) = (scene.scope().await, scene.trust());
    let tools = scene.tools(&trust, Look::AtRecords);
    heal_region(&mut target, &sources, &scope, &tools).await.unwrap()
}

#[tokio::test]
async fn damage_that_is_found_while_the_backup_is_healed_stays_on_record() {
    let mut scene = scene().await;
    let backup = scene.log(1).await.entries().iter().find_map(|entry| entry.record.backup().cloned()).unwrap().backup;
    let packs: Vec<ObjectKey> = scene
        .contents(1)
        .await
        .into_keys()
        .filter(|key| key.as_str().starts_with(&layout::backup_prefix(&backup)) && key.as_str().ends_with(".lbp"))
        .collect();
    for pack in &packs[..2] {
        scene.overwrite(1, pack, Bytes::from_static(b"rotten")).await;
    }
    scene.append(1, damage(Some(&backup), &packs[0])).await;
    let report = heal_beside_a_scrub(&scene, damage(Some(&backup), &packs[1])).await;
    assert!(report.is_complete() && report.backups.contains(&backup), "{report:?}");
    let log = scene.log(1).await;
    let now = samples::time("2026-11-30T00:00:00Z");
    assert!(log.state(now).backups[&backup].damaged.is_some(), "what the scrub found is not healed");
    assert_eq!(damaged_objects(&log, &backup).named, [packs[1].clone()].into(), "and the first is");
    let report = scene.heal(1, &[0, 2]).await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(scene.contents(1).await, scene.contents(0).await);
    assert_eq!(scene.log(1).await.state(now).backups[&backup].damaged, None);
}

#[tokio::test]
async fn wal_that_is_copied_settles_no_damage_that_is_found_meanwhile() {
    let mut scene = Scene::new(&["eu-1", "eu-2", "eu-3"]).await;
    scene.backup(10, START, &[0, 1, 2]).await;
    let piece = scene.wal(START, START + MIB, &[0, 1, 2]).await.name.key();
    scene.wal(START + MIB, START + 2 * MIB, &[0, 2]).await;
    scene.overwrite(1, &piece, Bytes::from_static(b"rotten")).await;
    let report = heal_beside_a_scrub(&scene, damage(None, &piece)).await;
    assert!(report.is_complete() && report.backups.is_empty(), "{report:?}");
    let open: Vec<ObjectKey> = damaged_wal(&scene.log(1).await).into_values().flatten().collect();
    assert_eq!(open, [piece]);
    let report = scene.heal(1, &[0, 2]).await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(damaged_wal(&scene.log(1).await).len(), 0);
}

#[tokio::test]
async fn of_several_records_those_are_settled_whose_objects_are_all_mended() {
    let mut scene = Scene::new(&["eu-1", "eu-2"]).await;
    scene.backup(10, START, &[0, 1]).await;
    let first = scene.wal(START, START + MIB, &[0, 1]).await.name.key();
    let second = scene.wal(START + MIB, START + 2 * MIB, &[0, 1]).await.name.key();
    for (region, key) in [(1, &first), (1, &second), (0, &second)] {
        scene.overwrite(region, key, Bytes::from_static(b"rotten")).await;
    }
    scene.append(1, damage(None, &first)).await;
    scene.append(1, damage(None, &second)).await;
    let report = scene.heal(1, &[0]).await;
    assert!(!report.is_complete(), "{report:?}");
    let open: Vec<ObjectKey> = damaged_wal(&scene.log(1).await).into_values().flatten().collect();
    assert_eq!(open, [second], "no region has it");
}

#[tokio::test]
async fn a_source_that_was_cut_keeps_no_other_region_from_being_healed() {
    let mut scene = Scene::new(&["eu-1", "eu-2", "eu-3"]).await;
    let record = scene.backup(10, START, &[0, 1]).await;
    let packs: Vec<ObjectKey> =
        scene.contents(0).await.into_keys().filter(|key| key.as_str().ends_with(".lbp")).collect();
    scene.overwrite(0, &packs[0], Bytes::new()).await;
    let report = scene.heal(2, &[0, 1]).await;
    assert!(report.is_complete() && report.backups == [record.backup.clone()], "{report:?}");
    assert_eq!(scene.broken_promises(2).await, Vec::<String>::new());
    assert_eq!(scene.contents(2).await, scene.contents(1).await);
    // One other object of it is damaged: the one that is cut in a source is neither believed nor in the way.
    scene.overwrite(2, &packs[1], Bytes::from_static(b"rotten")).await;
    scene.append(2, damage(Some(&record.backup), &packs[1])).await;
    let report = scene.heal(2, &[0, 1]).await;
    assert!(report.is_complete() && report.objects == 1, "{report:?}");
    assert_eq!(scene.broken_promises(2).await, Vec::<String>::new());
    assert_eq!(scene.log(2).await.state(samples::time("2026-11-30T00:00:00Z")).backups[&record.backup].damaged, None);
    // What all sources have cut cannot be copied from them.
    scene.overwrite(1, &packs[0], Bytes::new()).await;
    scene.memory(2).delete(&packs[0]).await.unwrap();
    scene.append(2, damage(Some(&record.backup), &packs[0])).await;
    let report = scene.heal(2, &[0, 1]).await;
    assert!(!report.is_complete() && report.left[0].why.contains("no region has"), "{report:?}");
}

#[tokio::test]
async fn damage_that_is_intact_again_is_settled_where_no_other_region_has_the_backup() {
    let mut scene = Scene::new(&["eu-1"]).await;
    let record = scene.backup(10, START, &[0]).await;
    let piece = scene.wal(START, START + MIB, &[0]).await.name.key();
    let packs: Vec<ObjectKey> =
        scene.contents(0).await.into_keys().filter(|key| key.as_str().ends_with(".lbp")).collect();
    let whole = scene.contents(0).await[&packs[0]].clone();
    scene.append(0, damage(Some(&record.backup), &packs[0])).await;
    scene.append(0, damage(None, &piece)).await;
    scene.overwrite(0, &packs[0], Bytes::from_static(b"rotten")).await;
    let now = samples::time("2026-11-30T00:00:00Z");
    let report = scene.heal(0, &[]).await;
    assert_eq!((report.left_count, report.backups.len()), (1, 0), "it is still damaged: {report:?}");
    assert!(scene.log(0).await.state(now).backups[&record.backup].damaged.is_some());
    assert_eq!(damaged_wal(&scene.log(0).await).len(), 0, "the piece was found intact");
    // What another object lacks is not overlooked because the named one is back.
    scene.overwrite(0, &packs[0], whole).await;
    let other = scene.contents(0).await[&packs[1]].clone();
    scene.memory(0).delete(&packs[1]).await.unwrap();
    assert_eq!(scene.heal(0, &[]).await.left_count, 1);
    scene.put(0, &packs[1], other).await;
    let report = scene.heal(0, &[]).await;
    assert!(report.is_complete() && report.backups == [record.backup.clone()], "{report:?}");
    assert_eq!(scene.log(0).await.state(now).backups[&record.backup].damaged, None);
    let records = scene.log(0).await.entries().len();
    assert!(scene.heal(0, &[]).await.is_complete());
    assert_eq!(scene.log(0).await.entries().len(), records, "nothing is settled twice");
}

#[tokio::test]
async fn what_a_run_has_put_back_is_not_among_what_it_reports_as_missing() {
    let mut scene = Scene::new(&["eu-1", "eu-2"]).await;
    for (day, place) in [(10, 0), (11, 1)] {
        scene.backup(day, START + place * MIB, &[0, 1]).await;
    }
    let packs: Vec<ObjectKey> =
        scene.contents(1).await.into_keys().filter(|key| key.as_str().ends_with(".lbp")).collect();
    let (healed, lost) = (&packs[0], &packs[packs.len() - 1]);
    for (region, key) in [(1, healed), (0, lost), (1, lost)] {
        scene.memory(region).delete(key).await.unwrap();
    }
    let report = scene.heal(1, &[0]).await;
    assert_eq!((report.backups.len(), report.left_count), (1, 1), "{report:?}");
    assert_eq!(report.damage.iter().map(|found| &found.key).collect::<Vec<_>>(), [lost]);
}

#[tokio::test]
async fn one_object_that_gives_no_answer_keeps_no_other_from_being_healed_and_several_in_a_row_do() {
    for (silent, healed, left, ends) in [(1, 4, 1, false), (5, 0, 2, true)] {
        let mut scene = Scene::new(&["eu-1", "eu-2"]).await;
        scene.backup(10, START, &[0, 1]).await;
        let mut pieces = Vec::new();
        for place in 0..5 {
            pieces.push(scene.wal(START + place * MIB, START + (place + 1) * MIB, &[0, 1]).await.name.key());
        }
        for piece in &pieces {
            scene.overwrite(1, piece, Bytes::from_static(b"rotten")).await;
            scene.append(1, damage(None, piece)).await;
        }
        for piece in &pieces[..silent] {
            let rule = Rule { operation: Some(Operation::Get), ..Rule::always(Fault::Lost) };
            scene.archive.regions[1].faults.add(Rule { key_contains: piece.to_string(), ..rule });
        }
        let (mut target, sources) = (scene.region(1).await, [scene.region(0).await]);
        let (scope, trust) = (scene.scope().await, scene.trust());
        let report = heal_region(&mut target, &sources, &scope, &scene.tools(&trust, Look::AtRecords)).await.unwrap();
        let found = (report.wal_objects, report.left_count, report.ended.is_some());
        assert_eq!(found, (healed, left, ends), "{report:?}");
    }
}

#[tokio::test]
async fn a_region_with_wal_that_gives_no_answer_is_not_called_whole() {
    let mut scene = Scene::new(&["eu-1", "eu-2"]).await;
    scene.backup(10, START, &[0, 1]).await;
    let piece = scene.wal(START, START + MIB, &[0, 1]).await.name.key();
    // Of another size than elsewhere: only reading it tells what it is.
    scene.overwrite(1, &piece, Bytes::from_static(b"rotten")).await;
    let rule = Rule { operation: Some(Operation::Get), ..Rule::always(Fault::Lost) };
    scene.archive.regions[1].faults.add(Rule { key_contains: piece.to_string(), ..rule });
    let (mut target, sources) = (scene.region(1).await, [scene.region(0).await]);
    let (scope, trust) = (scene.scope().await, scene.trust());
    let report = heal_region(&mut target, &sources, &scope, &scene.tools(&trust, Look::AtRecords)).await.unwrap();
    assert_eq!((report.left_count, report.is_complete()), (1, false), "{report:?}");
    assert_eq!(report.left[0].what, piece.as_str());
}

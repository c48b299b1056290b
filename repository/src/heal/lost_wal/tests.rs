//! WAL that is gone from all regions is found, and nothing else is called lost.

use lifeboat_stores::{Fault, Operation, Rule};
use lifeboat_vocabulary::{ManualClock, SystemClock};

use super::*;
use crate::heal::faults::ScrubRegion;
use crate::heal::presence::check_presence;
use crate::log::descriptor::Descriptor;
use crate::log::records::care::{DamageRecord, FoundBy, HealedRecord, SweepIntentRecord, WalFloor};
use crate::log::records::record::RecordBody;
use crate::log::records::wal::WalGapRecord;
use crate::samples;
use crate::samples::heal::{MIB, Scene};

const START: u64 = 16 * MIB;
/// Up to where the writer has said that all is there.
const END: u64 = START + 2 * MIB + 500;

/// Two regions with two backups, two pieces and a slice behind them.
async fn scene() -> Scene {
    let mut scene = Scene::new(&["eu-1", "eu-2"]).await;
    for (day, place) in [(10, 0), (11, 1)] {
        scene.backup(day, START + place * MIB, &[0, 1]).await;
        scene.wal(START + place * MIB, START + (place + 1) * MIB, &[0, 1]).await;
    }
    scene.wal(START + 2 * MIB, END, &[0, 1]).await;
    scene.sign_of_life(0, 1, END).await;
    scene.sign_of_life(1, 1, END).await;
    scene
}

async fn check_for(scene: &Scene, scope: &HealScope) -> WalCheck {
    let (regions, trust) = ([scene.region(0).await, scene.region(1).await], scene.trust());
    let needs = WalNeeds { scope, server: None, trust: &trust, progress: &scene.progress, clock: &SystemClock };
    check_wal(&regions, &needs).await
}

async fn check(scene: &Scene) -> WalCheck {
    check_for(scene, &scene.scope().await).await
}

fn bytes(ranges: &[WalRange]) -> Vec<(u64, u64)> {
    ranges.iter().map(|range| (range.start.as_bytes() - START, range.end.as_bytes() - START)).collect()
}

/// The object that begins so many MiB behind the start.
async fn remove(scene: &Scene, region: usize, place: u64) {
    let start = START + place * MIB;
    let is_it = |key: &ObjectKey| WalObject::of_key(key).is_some_and(|object| object.range.start.as_bytes() == start);
    let key = scene.contents(region).await.into_keys().find(is_it).unwrap();
    scene.memory(region).delete(&key).await.unwrap();
}

#[tokio::test]
async fn what_one_region_lacks_is_missing_there_and_what_all_lack_is_lost() {
    for (place, expected) in [(0, (100, MIB)), (1, (MIB, 2 * MIB)), (2, (2 * MIB, END - START))] {
        let scene = scene().await;
        assert_eq!(check(&scene).await, WalCheck::default(), "before");
        remove(&scene, 1, place).await;
        let found = check(&scene).await;
        let (one, other) = ("eu-1".parse().unwrap(), "eu-2".parse().unwrap());
        assert_eq!((bytes(&found.missing[&other]), found.missing.len()), (vec![expected], 1), "{place}");
        assert_eq!((&found.lost, found.lost_in(&other)), (&vec![], vec![]), "{place}: the other one has it");
        remove(&scene, 0, place).await;
        let found = check(&scene).await;
        assert_eq!(bytes(&found.lost), [expected], "{place}");
        assert_eq!((bytes(&found.lost_in(&one)), bytes(&found.lost_in(&other))), (vec![expected], vec![expected]));
        let text = ranges_in_words(&found.lost);
        assert!(text.contains(" on timeline 1") && !text.contains("more"), "{text}");
    }
}

#[tokio::test]
async fn different_pieces_that_two_regions_lack_are_not_lost() {
    let scene = scene().await;
    remove(&scene, 0, 0).await;
    remove(&scene, 1, 1).await;
    let found = check(&scene).await;
    assert_eq!((found.missing.len(), found.lost), (2, vec![]));
}

#[tokio::test]
async fn what_a_region_has_not_come_to_yet_may_still_arrive_there() {
    let scene = scene().await;
    for region in [0, 1] {
        remove(&scene, region, 1).await;
    }
    scene.sign_of_life(1, 1, START + MIB).await;
    let (regions, trust, scope) = ([scene.region(0).await, scene.region(1).await], scene.trust(), scene.scope().await);
    // A day after the signs of life, and later: a region that takes no more writes hides nothing for ever.
    for (now, is_lost) in [("2026-11-21T01:59:00Z", false), ("2026-11-21T02:01:00Z", true)] {
        let clock = ManualClock::at(samples::time(now));
        let progress = &scene.progress;
        let needs = WalNeeds { scope: &scope, server: None, trust: &trust, progress, clock: &clock };
        let found = check_wal(&regions, &needs).await;
        let (expected, one) = (vec![(MIB, 2 * MIB)], "eu-1".parse().unwrap());
        let (lost, pending) = if is_lost { (expected.clone(), vec![]) } else { (vec![], expected.clone()) };
        assert_eq!((bytes(&found.lost), bytes(&found.pending)), (lost, pending), "{now}");
        assert_eq!((bytes(&found.missing[&one]), bytes(&found.lost_in(&one))), (expected.clone(), expected), "{now}");
    }
    scene.sign_of_life(1, 1, END).await;
    assert_eq!(bytes(&check(&scene).await.lost), [(MIB, 2 * MIB)]);
}

#[tokio::test]
async fn a_region_that_does_not_answer_may_have_it() {
    let scene = scene().await;
    remove(&scene, 0, 1).await;
    for fault in [Fault::Lost, Fault::Denied] {
        for part in ["state/", "wal/"] {
            let rule = Rule { operation: Some(Operation::List), key_contains: part.to_owned(), ..Rule::always(fault) };
            scene.archive.regions[1].faults.add(rule);
            let found = check(&scene).await;
            assert_eq!(found.silent.len(), 1, "{fault:?}, {part}");
            scene.archive.regions[1].faults.heal();
        }
    }
    assert_eq!((check(&scene).await.silent, check(&scene).await.lost), (vec![], vec![]));
}

#[tokio::test]
async fn a_sign_of_life_that_stays_unreadable_hides_no_loss() {
    let scene = scene().await;
    for region in [0, 1] {
        remove(&scene, region, 1).await;
    }
    let planted: ObjectKey = "state/head-zz.note".parse().unwrap();
    scene.overwrite(1, &planted, bytes::Bytes::from_static(b"in an archive")).await;
    let refuse =
        |fault| Rule { operation: Some(Operation::Get), key_contains: planted.to_string(), ..Rule::always(fault) };
    scene.archive.regions[1].faults.add(refuse(Fault::Denied));
    let found = check(&scene).await;
    assert_eq!((found.silent, found.unread_heads.len()), (vec![], 1));
    assert_eq!(bytes(&found.lost), [(MIB, 2 * MIB)]);
    // That of a region that does not answer may be read soon.
    scene.archive.regions[1].faults.heal();
    scene.archive.regions[1].faults.add(refuse(Fault::Lost));
    let found = check(&scene).await;
    assert_eq!((found.silent.len(), found.unread_heads.len()), (1, 0));
}

#[tokio::test]
async fn a_name_without_bytes_and_damage_on_record_are_no_wal() {
    let mut scene = scene().await;
    let piece = WalObject::new(WalForm::Piece, samples::wal_range(1, START + MIB, START + 2 * MIB)).unwrap().key();
    let body = |object: &ObjectKey| {
        RecordBody::Damage(DamageRecord {
            backup: None,
            objects: vec![object.clone()],
            count: 1,
            found_by: FoundBy::Scrub,
        })
    };
    scene.append(0, body(&piece)).await;
    scene.overwrite(1, &piece, bytes::Bytes::new()).await;
    assert_eq!(self::bytes(&check(&scene).await.lost), [(MIB, 2 * MIB)]);
}

#[tokio::test]
async fn what_retention_has_deleted_is_not_missed() {
    let mut scene = scene().await;
    let range = samples::wal_range(1, START, START + MIB);
    for region in [0, 1] {
        remove(&scene, region, 0).await;
        let floor = WalFloor { timeline: range.timeline, before: range.end };
        let intent = SweepIntentRecord { wal: vec![floor], ..SweepIntentRecord::default() };
        scene.append(region, RecordBody::SweepIntent(intent)).await;
    }
    assert_eq!(check(&scene).await, WalCheck::default());
}

#[tokio::test]
async fn wal_that_no_kept_backup_needs_is_not_missed() {
    let mut scene = scene().await;
    for region in [0, 1] {
        remove(&scene, region, 0).await;
    }
    assert_eq!(bytes(&check(&scene).await.lost), [(100, MIB)]);
    let everything = scene.scope().await;
    let start = |at| WalPosition { timeline: TimelineId::new(1).unwrap(), lsn: Lsn::from_bytes(at).unwrap() };
    // The first backup is kept longer than the WAL behind it.
    let scope = HealScope { wal_from: Some(start(START + MIB)), ..everything.clone() };
    assert_eq!(check_for(&scene, &scope).await, WalCheck::default());
    // Or it is not kept at all.
    let backups = everything.backups.iter().filter(|backup| backup.as_str().starts_with("20261111")).cloned().collect();
    assert_eq!(check_for(&scene, &HealScope { backups, wal_from: None }).await, WalCheck::default());
    // WAL began behind the oldest backup: with its first key.
    scene.backup(9, START - MIB, &[0, 1]).await;
    assert_eq!(bytes(&check(&scene).await.lost), [(0, MIB)]);
}

#[tokio::test]
async fn wal_behind_a_backup_that_is_damaged_in_every_region_is_not_missed_before_the_next_one() {
    let mut scene = scene().await;
    let backup = Some("20261110T020003Z-5f1c09ab".parse().unwrap());
    let damage = DamageRecord { backup, objects: Vec::new(), count: 1, found_by: FoundBy::Scrub };
    for region in [0, 1] {
        remove(&scene, region, 0).await;
    }
    scene.append(0, RecordBody::Damage(damage.clone())).await;
    assert_eq!(bytes(&check(&scene).await.lost), [(100, MIB)], "the other region can restore it");
    scene.append(1, RecordBody::Damage(damage)).await;
    assert_eq!(check(&scene).await, WalCheck::default());
}

#[tokio::test]
async fn a_gap_of_all_is_known_and_two_regions_that_have_missed_the_same_have_lost_it() {
    for (scope, reason, expected) in [
        (GapScope::Everywhere, GapReason::SlotLost, vec![]),
        (GapScope::Region, GapReason::RegionMissed, vec![(MIB, 2 * MIB)]),
    ] {
        let mut scene = scene().await;
        let range = samples::wal_range(1, START + MIB, START + 2 * MIB);
        let gap = WalGapRecord { timeline: range.timeline, from: range.start, to: Some(range.end), reason, scope };
        for region in [0, 1] {
            remove(&scene, region, 1).await;
            scene.append(region, RecordBody::WalGap(gap.clone())).await;
        }
        let found = check(&scene).await;
        assert_eq!((bytes(&found.lost), found.missing.len()), (expected, 0), "{reason}");
    }
}

#[tokio::test]
async fn a_timeline_that_was_left_must_be_there_up_to_where_its_successor_begins() {
    let mut scene = scene().await;
    // In the next segment.
    let fork = START + 16 * MIB + 200;
    for place in 2..16 {
        scene.wal(START + place * MIB, START + (place + 1) * MIB, &[0, 1]).await;
    }
    let range = samples::wal_range(2, fork, fork + 300);
    let slice = scene.archive.slice(range);
    scene.archive.store(&slice, &[0, 1]).await;
    for region in [0, 1] {
        scene.sign_of_life(region, 2, fork + 300).await;
        remove(&scene, region, 1).await;
    }
    let server = ServerTimelines {
        current: range.timeline,
        left_at: [(TimelineId::new(1).unwrap(), Lsn::from_bytes(fork).unwrap())].into(),
    };
    let (scope, trust) = (scene.scope().await, scene.trust());
    let regions = [scene.region(0).await, scene.region(1).await];
    let needs =
        |server| WalNeeds { scope: &scope, server, trust: &trust, progress: &scene.progress, clock: &SystemClock };
    let found = check_wal(&regions, &needs(Some(&server))).await;
    assert_eq!(bytes(&found.lost), [(MIB, 2 * MIB)]);
    // Nobody knows without the history where the first one was left.
    assert_eq!(check_wal(&regions, &needs(None)).await.lost, vec![]);
}

#[test]
fn of_too_many_ranges_the_last_ones_are_named() {
    let mut set = WalSet::default();
    let holes = RANGES_MAX as u64 + 5;
    (1..=holes).for_each(|number| set.add(samples::wal_range(1, number * 10, number * 10 + 5)));
    let ranges = last_ranges(&set);
    assert_eq!((ranges.len(), ranges[0].start.as_bytes()), (RANGES_MAX, 60));
    assert_eq!(ranges[RANGES_MAX - 1].start.as_bytes(), holes * 10);
}

#[tokio::test]
async fn what_was_healed_since_the_log_was_read_is_not_lost() {
    let mut scene = scene().await;
    let piece = WalObject::new(WalForm::Piece, samples::wal_range(1, START + MIB, START + 2 * MIB)).unwrap().key();
    for region in [0, 1] {
        let (objects, found_by) = (vec![piece.clone()], FoundBy::Scrub);
        scene.append(region, RecordBody::Damage(DamageRecord { backup: None, objects, count: 1, found_by })).await;
    }
    let regions = [scene.region(0).await, scene.region(1).await];
    let (scope, trust) = (scene.scope().await, scene.trust());
    let needs = WalNeeds { scope: &scope, server: None, trust: &trust, progress: &scene.progress, clock: &SystemClock };
    assert_eq!(bytes(&check_wal(&regions, &needs).await.lost), [(MIB, 2 * MIB)]);
    let settles = vec![regions[0].log.head().unwrap().seq];
    let (bytes, from) = (ByteCount::from_bytes(MIB), "eu-2".parse().unwrap());
    let healed = HealedRecord { backups: Vec::new(), settles, objects: 1, bytes, from };
    scene.append(0, RecordBody::Healed(healed)).await;
    let needs = WalNeeds { scope: &scope, server: None, trust: &trust, progress: &scene.progress, clock: &SystemClock };
    assert_eq!(check_wal(&regions, &needs).await.lost, []);
}

#[tokio::test]
async fn a_region_that_is_full_of_made_up_names_is_not_remembered_and_counts_as_silent() {
    let scene = scene().await;
    let mut objects = BTreeSet::new();
    for number in 0..=STRETCHES_MAX as u64 {
        let start = START + MIB + number * 4;
        let slice = WalObject::new(WalForm::Slice, samples::wal_range(1, start, start + 1)).unwrap();
        objects.insert(slice.key());
    }
    remove(&scene, 1, 1).await;
    for key in objects {
        scene.put(1, &key, bytes::Bytes::from_static(b"x")).await;
    }
    let found = check(&scene).await;
    assert_eq!(found.silent.len(), 1);
    assert!(found.silent[0].1.contains("separate stretches"), "{:?}", found.silent);
}

/// What the checks of all regions say, beside the names of the regions.
async fn said(scene: &Scene) -> Vec<String> {
    let mut said = Vec::new();
    let trust = scene.trust();
    let mut regions = Vec::new();
    for region in [0, 1] {
        let store = scene.store(region);
        if let Err(error) = Descriptor::read(&*store.store, None).await {
            said.push(format!("descriptor: {}", error_chain(&error)));
        }
        let name = store.name.clone();
        let log = RegionLog::read(&*store.store, samples::wal::trust(name.as_str())).await;
        let mut log = match log {
            Ok(log) if log.head().is_some() => log,
            Ok(_) => {
                said.push("log: it is empty".to_owned());
                continue;
            }
            Err(error) => {
                said.push(format!("log: {}", error_chain(&error)));
                continue;
            }
        };
        let (pace, progress, clock) = (&scene.pace, &scene.progress, &SystemClock);
        let scrubbed = ScrubRegion { region: &store, others: &[], trust: &trust, pace, progress, clock };
        let report = check_presence(scrubbed, &mut log).await.unwrap();
        said.extend(report.damage.into_iter().map(|found| format!("{}: {}", found.key, found.what)));
        regions.push(HealRegion { store, log });
    }
    if regions.is_empty() {
        return said;
    }
    let scope = scene.scope().await;
    let needs = WalNeeds { scope: &scope, server: None, trust: &trust, progress: &scene.progress, clock: &SystemClock };
    let check = check_wal(&regions, &needs).await;
    said.extend(check.lost.iter().map(|lost| format!("lost: {lost}")));
    if check.reach == Reach::Unknown {
        said.push("nobody says how far WAL must reach".to_owned());
    }
    said
}

#[tokio::test]
async fn a_rule_that_expires_any_prefix_in_all_regions_does_not_go_unnoticed() {
    assert_eq!(said(&scene().await).await, Vec::<String>::new());
    for (prefix, expected) in [
        ("lifeboat.json", "descriptor: "),
        ("log/", "log: "),
        ("keys/", "keys/"),
        ("data/", "data/"),
        ("wal/", "lost: "),
        ("slices/", "lost: "),
        ("state/", "nobody says"),
    ] {
        let scene = scene().await;
        for region in [0, 1] {
            scene.expire(region, prefix).await;
        }
        let said = said(&scene).await;
        assert!(said.iter().any(|text| text.starts_with(expected)), "{prefix}: {said:?}");
    }
}

//! A listing shows what was cut: without it, an object of no bytes is there.

use lifeboat_stores::{Fault, ObjectKey, Operation, Rule};

use super::*;
use crate::heal::faults::READ_MAX;
use crate::heal::presence::check_with_bound;

/// Requests for these objects of region 0 fail.
fn fails(scene: &Scene, part: &str, fault: Fault) {
    let key_contains = part.to_owned();
    let rule = Rule { operation: Some(Operation::Get), key_contains, skip: 0, count: u64::MAX, fault };
    scene.archive.regions[0].faults.add(rule);
}

fn keys(report: &PresenceReport) -> Vec<&ObjectKey> {
    report.damage.iter().map(|found| &found.key).collect()
}

fn unread(report: &PresenceReport) -> Vec<&ObjectKey> {
    report.unread.iter().map(|(key, _)| key).collect()
}

/// The keys of what a listing of region 0 finds.
async fn found(scene: &Scene, others: &[RegionStore]) -> Vec<ObjectKey> {
    check(scene, others).await.damage.into_iter().map(|found| found.key).collect()
}

/// The first object whose key contains `part`.
async fn object(scene: &Scene, part: &str) -> ObjectKey {
    scene.contents(0).await.into_keys().find(|key| key.as_str().contains(part)).expect(part)
}

/// The scene of the walk, on a second timeline as well.
async fn with_history() -> Scene {
    let mut scene = scene().await;
    let history = scene.archive.history(2, "1\t0/1400000\tno recovery target specified\n");
    scene.archive.store(&history, &[0, 1]).await;
    scene
}

const LIST: &str = "20261110T020003Z-5f1c09ab/packs.sha256";

#[tokio::test]
async fn what_was_cut_is_found_by_its_size_and_healed() {
    for (why, part, keep) in [
        ("a pack", "/p000001", 0),
        ("a part of a pack", "/p000001", 700),
        ("an index", ".lbx", 0),
        ("the list", LIST, 0),
        ("the key of a backup", "keys/0b0b", 0),
        ("a piece", ".lbw", 0),
        ("a part of a piece", ".lbw", 100),
        ("a slice", ".lbs", 0),
        ("the history of a timeline", "history.lbb", 0),
    ] {
        let scene = with_history().await;
        let others = [scene.store(1)];
        assert_eq!(found(&scene, &others).await, [], "{why}: before");
        let key = object(&scene, part).await;
        let whole = scene.contents(0).await[&key].clone();
        scene.overwrite(0, &key, whole.slice(..keep)).await;
        let report = check(&scene, &others).await;
        let keys: Vec<&ObjectKey> = report.damage.iter().map(|found| &found.key).collect();
        assert_eq!(keys, [&key], "{why}");
        assert!(!report.damage[0].what.is_empty(), "{why}");
        let needed = report.missing.backups.values().flatten().chain(&report.missing.of_wal).collect::<Vec<_>>();
        assert_eq!(needed, [&key], "{why}: whoever needs it is known");
        let healed = scene.heal(0, &[1]).await;
        assert!(healed.is_complete() && healed.objects == 1, "{why}: {healed:?}");
        assert_eq!(scene.contents(0).await[&key], whole, "{why}");
        assert_eq!(found(&scene, &others).await, [], "{why}: after");
    }
}

#[tokio::test]
async fn a_single_region_shows_what_was_cut_too() {
    for (why, part) in
        [("a pack", "/p000001"), ("the list", LIST), ("a key", "keys/0b0b"), ("a piece", ".lbw"), ("a slice", ".lbs")]
    {
        let scene = with_history().await;
        let key = object(&scene, part).await;
        scene.overwrite(0, &key, Bytes::new()).await;
        assert_eq!(found(&scene, &[]).await, [key], "{why}");
    }
}

#[tokio::test]
async fn what_was_cut_alike_in_all_regions_is_found() {
    let scene = with_history().await;
    let (first, second) = (object(&scene, "20261110T020003Z-5f1c09ab/p000001").await, object(&scene, "/p000002").await);
    for region in [0, 1] {
        scene.overwrite(region, &first, Bytes::from_static(b"half")).await;
    }
    // One more that another region has whole does not hide it.
    scene.overwrite(0, &second, Bytes::new()).await;
    assert_eq!(found(&scene, &[scene.store(1)]).await, [first, second]);
}

#[tokio::test]
async fn a_region_is_not_damaged_because_another_one_is() {
    let scene = with_history().await;
    for part in ["/p000001", LIST, "keys/0b0b", ".lbw", ".lbs", "history.lbb"] {
        let key = object(&scene, part).await;
        scene.overwrite(1, &key, Bytes::new()).await;
    }
    assert_eq!(found(&scene, &[scene.store(1)]).await, []);
    assert_eq!(found(&scene, &[]).await, []);
}

#[tokio::test]
async fn what_cannot_be_read_now_is_no_damage_and_does_not_end_the_check() {
    let scene = with_history().await;
    let (pack, piece) = (object(&scene, "/p000001").await, object(&scene, ".lbw").await);
    for key in [&pack, &piece] {
        scene.overwrite(0, key, Bytes::from_static(b"half")).await;
    }
    for fault in [Fault::Lost, Fault::Denied] {
        for key in [&pack, &piece] {
            fails(&scene, key.as_str(), fault);
            let report = check(&scene, &[scene.store(1)]).await;
            let other = if *key == pack { &piece } else { &pack };
            assert_eq!((keys(&report), unread(&report)), (vec![other], vec![key]), "{fault:?}");
            let text = report.unread.text().unwrap();
            assert!(text.contains("could not be read") && text.contains(key.as_str()), "{text}");
            scene.archive.regions[0].faults.heal();
        }
    }
    assert_eq!(check(&scene, &[scene.store(1)]).await.unread.text(), None);
    assert_eq!(found(&scene, &[scene.store(1)]).await, [pack, piece]);
}

#[tokio::test]
async fn a_search_for_what_explains_a_size_ends_where_something_cannot_be_read() {
    let scene = with_history().await;
    let key = object(&scene, "/p000001").await;
    scene.overwrite(0, &key, Bytes::from_static(b"half")).await;
    fails(&scene, key.as_str(), Fault::Denied);
    let report = check(&scene, &[]).await;
    assert_eq!((keys(&report), unread(&report)), (vec![], vec![&key]));
}

#[tokio::test]
async fn a_region_that_answers_no_read_is_not_checked_and_one_that_may_not_be_read_is() {
    let scene = with_history().await;
    fails(&scene, "keys/", Fault::Lost);
    let (store, trust, mut log) = (scene.store(0), scene.trust(), scene.log(0).await);
    let silent = check_presence(scrubbed(&store, &[], &trust, &scene), &mut log).await;
    assert!(matches!(&silent, Err(RegionReadError::Store { .. })), "{silent:?}");
    scene.archive.regions[0].faults.heal();
    fails(&scene, "keys/", Fault::Denied);
    let report = check(&scene, &[]).await;
    assert_eq!((report.damage.len(), report.unread.len()), (0, 3), "{report:?}");
}

#[tokio::test]
async fn another_region_does_not_decide_how_much_is_read() {
    let scene = with_history().await;
    let pieces: Vec<ObjectKey> =
        scene.contents(0).await.into_keys().filter(|key| key.as_str().ends_with(".lbw")).collect();
    for piece in &pieces {
        scene.overwrite(1, piece, Bytes::from_static(b"of another size")).await;
    }
    let contents = scene.contents(0).await;
    let largest = pieces.iter().map(|piece| ByteCount::of(&contents[piece])).max().unwrap();
    let (store, others, trust) = (scene.store(0), [scene.store(1)], scene.trust());
    for (read_max, left) in [(ByteCount::ZERO, 2), (largest, 1), (READ_MAX, 0)] {
        let mut log = scene.log(0).await;
        let report = check_with_bound(scrubbed(&store, &others, &trust, &scene), &mut log, read_max).await.unwrap();
        assert_eq!((report.damage.len(), report.unread.len()), (0, left), "{read_max}: {report:?}");
        assert_eq!(report.unread.text().is_some(), left > 0);
    }
}

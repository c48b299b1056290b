//! Logs that disagree, and logs that only lack something.

use super::*;
use crate::log::records::record::RecordBody;
use crate::log::records::wal::{GapReason, WalGapRecord};
use crate::samples::heal::Scene;

fn reading<'a>(region: &'a RegionName, log: &'a RegionLog) -> LogReading<'a> {
    LogReading { region, log: Ok(log), heads: Vec::new() }
}

#[tokio::test]
async fn a_region_that_was_unavailable_is_no_disagreement() {
    let mut scene = Scene::new(&["a", "b"]).await;
    scene.backup(10, 100, &[0, 1]).await;
    scene.backup(11, 200, &[0]).await;
    let (a, b) = (scene.log(0).await, scene.log(1).await);
    let (name_a, name_b) = ("a".parse().unwrap(), "b".parse().unwrap());
    let seen = [reading(&name_a, &a), reading(&name_b, &b)];
    assert_eq!(disagreements(&seen, &RememberedHeads::new()), []);
    let heads = remember(&seen, &RememberedHeads::new());
    assert_eq!((heads[&name_a].seq, heads[&name_b].seq), (3, 2));
    assert_eq!(disagreements(&seen, &heads), [], "as it was");
}

#[tokio::test]
async fn a_log_that_was_set_back_or_forked_is_found_and_stays_remembered() {
    let mut scene = Scene::new(&["a"]).await;
    scene.backup(10, 100, &[0]).await;
    let name: RegionName = "a".parse().unwrap();
    let before = scene.log(0).await;
    let heads = remember(&[reading(&name, &before)], &RememberedHeads::new());
    scene.memory(0).delete(&crate::format::layout::log_note(2)).await.unwrap();
    let shorter = scene.log(0).await;
    let found = disagreements(&[reading(&name, &shorter)], &heads);
    let observer = Observer::Memory;
    let expected = Disagreement::RolledBack { region: name.clone(), remembered: 2, found: 2, observer };
    assert_eq!(found, [expected]);
    assert_eq!(remember(&[reading(&name, &shorter)], &heads), heads, "until a person has looked");
    scene.backup(11, 200, &[0]).await;
    let forked = scene.log(0).await;
    let found = disagreements(&[reading(&name, &forked)], &heads);
    assert!(matches!(found.as_slice(), [Disagreement::Forked { seq: 2, observer: Observer::Memory, .. }]), "{found:?}");
    let writer: KeyName = "db1".parse().unwrap();
    let signed = LogReading { heads: vec![(writer.clone(), heads[&name])], ..reading(&name, &shorter) };
    let found = disagreements(&[signed], &RememberedHeads::new());
    assert!(matches!(&found[..], [Disagreement::RolledBack { observer: Observer::Head(by), .. }] if *by == writer));
}

#[tokio::test]
async fn two_records_of_one_event_that_differ_are_found() {
    let mut scene = Scene::new(&["a", "b"]).await;
    let record = scene.backup(10, 100, &[0]).await;
    let other = crate::log::records::backup::BackupRecord { duration_ms: 1, ..record.clone() };
    scene.append(1, RecordBody::Backup(Box::new(other))).await;
    let range = crate::samples::wal_range(1, 100, 200);
    for (region, reason) in [(0, GapReason::SlotLost), (1, GapReason::FreshSlot)] {
        let (timeline, from, to) = (range.timeline, range.start, Some(range.end));
        for scope in [GapScope::Region, GapScope::Everywhere] {
            let body = RecordBody::WalGap(WalGapRecord { timeline, from, to, reason, scope });
            let count = if scope == GapScope::Region { 500 } else { 600 };
            let draft = crate::log::append::Draft { origin: crate::samples::origin(count), body };
            scene.log(region).await.append(scene.memory(region), &scene.signer, &draft).await.unwrap();
        }
    }
    let (a, b) = (scene.log(0).await, scene.log(1).await);
    let (name_a, name_b): (RegionName, RegionName) = ("a".parse().unwrap(), "b".parse().unwrap());
    let found = disagreements(&[reading(&name_a, &a), reading(&name_b, &b)], &RememberedHeads::new());
    let (first, second) = (name_a.clone(), name_b.clone());
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.contains(&Disagreement::Backup { backup: record.backup, first, second }), "{found:?}");
    assert!(
        matches!(&found[1], Disagreement::Event { wseq: 600, .. }),
        "what is said of one region may differ: {found:?}"
    );
}

#[tokio::test]
async fn tampering_is_a_disagreement_and_an_outage_is_not() {
    let scene = Scene::new(&["a"]).await;
    let name: RegionName = "a".parse().unwrap();
    let outage = LogError::List(lifeboat_stores::StoreError::BreakerOpen {
        failures: 3,
        wait: std::time::Duration::from_secs(1),
    });
    let stranger = LogError::Note { seq: 4, source: NoteError::UnknownSigner };
    for (why, error, expected) in [
        ("an outage", outage, 0),
        ("a stranger", stranger, 1),
        ("a gap", LogError::Gap { seq: 3 }, 1),
        ("a broken chain", LogError::Chain { seq: 3 }, 1),
    ] {
        let seen = LogReading { region: &name, log: Err(&error), heads: Vec::new() };
        assert_eq!(disagreements(&[seen], &RememberedHeads::new()).len(), expected, "{why}");
    }
    drop(scene);
}

#[tokio::test]
async fn a_second_record_in_one_log_is_no_disagreement() {
    let mut scene = Scene::new(&["a", "b"]).await;
    let record = scene.backup(10, 100, &[0, 1]).await;
    let other = crate::log::records::backup::BackupRecord { duration_ms: 1, ..record };
    scene.append(1, RecordBody::Backup(Box::new(other))).await;
    let (a, b) = (scene.log(0).await, scene.log(1).await);
    let (name_a, name_b): (RegionName, RegionName) = ("a".parse().unwrap(), "b".parse().unwrap());
    let readings = [reading(&name_a, &a), reading(&name_b, &b)];
    assert_eq!(disagreements(&readings, &RememberedHeads::new()), []);
}

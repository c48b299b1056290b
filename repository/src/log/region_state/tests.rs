//! Tests of what stands in a region.

use super::*;
use crate::format::aead::sha256;
use crate::format::layout;
use crate::log::note;
use crate::log::records::care::{DamageRecord, FoundBy, HealedRecord, KeepRecord, SweepDoneRecord};
use crate::log::records::record::{Link, Origin, Record};
use crate::samples;
use crate::samples::wal::trust;
use lifeboat_stores::{MemoryStore, PutMode, SealedBody, Store};
use lifeboat_vocabulary::ByteCount;

const OLD: &str = "20261118T020003Z-00000001";
const NEW: &str = "20261120T020003Z-00000003";

fn id(text: &str) -> BackupId {
    text.parse().unwrap()
}

fn backup(text: &str) -> RecordBody {
    RecordBody::Backup(Box::new(samples::backup_record_named(text, "2026-11-20T02:41:07Z")))
}

fn forget(backup: &str) -> RecordBody {
    RecordBody::Forget(samples::forget(&[backup], "2026-11-20T02:00:00Z"))
}

fn hold(first: u8, backup: &str) -> RecordBody {
    RecordBody::Hold(samples::hold(first, backup, None))
}

fn release(first: u8) -> RecordBody {
    RecordBody::Release(samples::release(first))
}

fn sweep(backups: &[&str]) -> RecordBody {
    let backups = backups.iter().map(|text| id(text)).collect();
    RecordBody::SweepIntent(SweepIntentRecord { backups, ..SweepIntentRecord::default() })
}

fn floors(wal: u64, slices: u64) -> RecordBody {
    let floor = |start| {
        let range = samples::wal_range(7, start, start + 1);
        vec![WalFloor { timeline: range.timeline, before: range.start }]
    };
    RecordBody::SweepIntent(SweepIntentRecord { wal: floor(wal), slices: floor(slices), ..Default::default() })
}

fn done(intent: u64, locked: u64) -> RecordBody {
    RecordBody::SweepDone(SweepDoneRecord { intent, objects: 1, bytes: ByteCount::from_bytes(1), locked })
}

fn damage(backup: Option<&str>) -> RecordBody {
    let backup = backup.map(id);
    RecordBody::Damage(DamageRecord { backup, objects: Vec::new(), count: 1, found_by: FoundBy::Scrub })
}

fn healed(backup: &str, settles: &[u64]) -> RecordBody {
    let (objects, bytes, from) = (1, ByteCount::from_bytes(1), "us".parse().unwrap());
    RecordBody::Healed(HealedRecord { backups: vec![id(backup)], settles: settles.to_vec(), objects, bytes, from })
}

/// A log of these records behind the first; record `n` of them stands at place `n + 1`. Written by somebody who looks at
/// nothing, not even at what was swept.
async fn log(bodies: &[RecordBody]) -> RegionLog {
    let store = MemoryStore::new();
    let init = RecordBody::Init(samples::init_record());
    let mut prev = None;
    for (seq, body) in (0..).zip(std::iter::once(&init).chain(bodies)) {
        let link = Link { region: "eu-1".parse().unwrap(), seq, prev };
        // Every record is a second younger than the one before.
        let origin = samples::origin(seq);
        let origin = Origin { time: origin.time.plus(std::time::Duration::from_secs(seq)), ..origin };
        let text = Record { link, origin, body: body.clone() }.to_text().unwrap();
        let bytes = bytes::Bytes::from(note::sign(&text, &[&samples::signer()]).unwrap());
        let sha256 = sha256(&bytes);
        prev = Some(sha256);
        store.put(&layout::log_note(seq), SealedBody { sha256, bytes }, PutMode::CreateOnly).await.unwrap();
    }
    RegionLog::read(&store, trust("eu-1")).await.unwrap()
}

async fn state(bodies: &[RecordBody]) -> RegionState {
    log(bodies).await.state(samples::time("2026-11-20T12:00:00Z"))
}

#[tokio::test]
async fn a_forgotten_backup_is_leaving_and_does_not_exist_once_a_sweep_intent_names_it() {
    let history = [backup(OLD), backup(NEW), forget(OLD), sweep(&[OLD])];
    let before = state(&history[..2]).await;
    assert_eq!(before.backups.keys().collect::<Vec<_>>(), [&id(OLD), &id(NEW)]);
    assert!(before.backups.values().all(|backup| backup.leaving.is_none()));
    assert_eq!((before.last_decision, &before.policy), (None, &None));
    let leaving = state(&history[..3]).await;
    let not_before = samples::time("2026-11-20T02:00:00Z");
    let expected = Leaving { seq: 3, not_before, why: "no rule keeps it".to_owned() };
    assert_eq!(leaving.backups[&id(OLD)].leaving, Some(expected));
    assert_eq!(leaving.backups[&id(NEW)].leaving, None);
    let at = samples::time("2026-11-20T02:00:03Z");
    assert_eq!(leaving.policy, Some((samples::policy_text(), at)));
    assert_eq!(leaving.last_decision, Some(at));
    let gone = state(&history).await;
    assert_eq!(gone.backups.keys().collect::<Vec<_>>(), [&id(NEW)]);
    assert_eq!(gone.swept, BTreeMap::from([(id(OLD), 4)]));
    assert_eq!(gone.last_decision, Some(samples::time("2026-11-20T02:00:04Z")));
}

#[tokio::test]
async fn a_swept_backup_does_not_exist_again() {
    for (why, history) in [
        ("a record behind the sweep", vec![backup(OLD), forget(OLD), sweep(&[OLD]), backup(OLD)]),
        ("a record behind the sweep of what was left over", {
            let leftovers = vec![id(OLD)];
            let intent = SweepIntentRecord { leftovers, ..SweepIntentRecord::default() };
            vec![RecordBody::SweepIntent(intent), backup(OLD)]
        }),
    ] {
        let state = state(&history).await;
        assert!(state.backups.is_empty() && state.swept.contains_key(&id(OLD)), "{why}");
    }
}

#[tokio::test]
async fn an_order_to_delete_counts_only_for_what_the_log_says_may_go() {
    let early = RecordBody::Forget(samples::forget(&[OLD], "2026-11-20T03:00:00Z"));
    let keep = RecordBody::Keep(KeepRecord { backups: vec![id(OLD)] });
    let leftover = |text: &str| {
        RecordBody::SweepIntent(SweepIntentRecord { leftovers: vec![id(text)], ..SweepIntentRecord::default() })
    };
    for (why, history) in [
        ("nobody has forgotten it", vec![backup(OLD), sweep(&[OLD])]),
        ("its grace is not over", vec![backup(OLD), early, sweep(&[OLD])]),
        ("it was kept again", vec![backup(OLD), forget(OLD), keep, sweep(&[OLD])]),
        ("it is held", vec![backup(OLD), forget(OLD), hold(1, OLD), sweep(&[OLD])]),
        ("it is no leftover", vec![backup(OLD), leftover(OLD)]),
        ("there is none yet", vec![sweep(&[OLD]), backup(OLD)]),
    ] {
        let state = state(&history).await;
        assert!(state.backups.contains_key(&id(OLD)) && state.swept.is_empty(), "{why}");
        let [VoidSweep { backups, .. }] = &state.void_sweeps[..] else { panic!("{why}: {state:?}") };
        assert_eq!(backups, &[id(OLD)], "{why}");
        assert_eq!(state.open_intents.iter().map(|open| open.intent.is_empty()).collect::<Vec<_>>(), [true], "{why}");
    }
    let twice = state(&[backup(OLD), forget(OLD), sweep(&[OLD]), sweep(&[OLD])]).await;
    assert!(twice.void_sweeps.is_empty(), "what was named before goes by that");
    let [first, ..] = &twice.open_intents[..] else { panic!("{twice:?}") };
    assert_eq!(first.backups.iter().map(|backup| backup.record.backup.clone()).collect::<Vec<_>>(), [id(OLD)]);
}

#[tokio::test]
async fn a_sweep_is_open_until_nothing_is_locked_any_more() {
    let history = [backup(OLD), sweep(&[OLD]), floors(10, 20), done(2, 1), done(3, 0), done(2, 0)];
    let open = |state: &RegionState| -> Vec<(u64, Option<u64>)> {
        state.open_intents.iter().map(|open| (open.seq, open.locked)).collect()
    };
    for (records, expected) in [
        (2, vec![(2, None)]),
        (3, vec![(2, None), (3, None)]),
        (4, vec![(2, Some(1)), (3, None)]),
        (5, vec![(2, Some(1))]),
        (6, vec![]),
    ] {
        assert_eq!(open(&state(&history[..records]).await), expected, "{records} records");
    }
}

#[tokio::test]
async fn floors_of_wal_never_go_back() {
    let state = state(&[floors(100, 300), floors(50, 400), floors(70, 10)]).await;
    let timeline = TimelineId::new(7).unwrap();
    let at = |bytes| BTreeMap::from([(timeline, Lsn::from_bytes(bytes).unwrap())]);
    assert_eq!((state.wal_floors, state.slice_floors), (at(100), at(400)));
}

#[tokio::test]
async fn damage_is_reported_until_it_is_healed() {
    for (why, history, expected) in [
        ("found", vec![backup(OLD), damage(Some(OLD))], Some(2)),
        ("found again", vec![backup(OLD), damage(Some(OLD)), damage(Some(OLD))], Some(3)),
        ("healed", vec![backup(OLD), damage(Some(OLD)), healed(OLD, &[2])], None),
        ("found after it was healed", vec![backup(OLD), healed(OLD, &[]), damage(Some(OLD))], Some(3)),
        ("another one healed", vec![backup(OLD), damage(Some(OLD)), healed(NEW, &[])], Some(2)),
        (
            "found while it was healed",
            vec![backup(OLD), damage(Some(OLD)), damage(Some(OLD)), healed(OLD, &[2])],
            Some(3),
        ),
        ("the later one healed", vec![backup(OLD), damage(Some(OLD)), damage(Some(OLD)), healed(OLD, &[3])], Some(2)),
        ("both healed", vec![backup(OLD), damage(Some(OLD)), damage(Some(OLD)), healed(OLD, &[3, 2])], None),
        ("the backup named alone", vec![backup(OLD), damage(Some(OLD)), healed(OLD, &[])], Some(2)),
        ("damage in the stream of WAL", vec![backup(OLD), damage(None)], None),
    ] {
        assert_eq!(state(&history).await.backups[&id(OLD)].damaged, expected, "{why}");
    }
}

#[tokio::test]
async fn a_hold_is_in_force_until_it_is_released_or_expires() {
    let until = |text| RecordBody::Hold(samples::hold(1, OLD, Some(text)));
    for (why, history, expected) in [
        ("in force", vec![backup(OLD), hold(1, OLD)], 1),
        ("two of them", vec![backup(OLD), hold(1, OLD), hold(2, OLD)], 2),
        ("one of two released", vec![backup(OLD), hold(1, OLD), hold(2, OLD), release(1)], 1),
        ("released", vec![backup(OLD), hold(1, OLD), release(1)], 0),
        ("released in a log that is behind", vec![backup(OLD), release(1), hold(1, OLD)], 0),
        ("not yet ended", vec![backup(OLD), until("2026-11-20T12:00:01Z")], 1),
        ("ended at this moment", vec![backup(OLD), until("2026-11-20T12:00:00Z")], 0),
        ("on another backup", vec![backup(OLD), hold(1, NEW)], 0),
    ] {
        assert_eq!(state(&history).await.backups[&id(OLD)].held.len(), expected, "{why}");
    }
}

#[tokio::test]
async fn after_a_hold_a_forgotten_backup_has_to_be_forgotten_again() {
    for (why, history, leaves) in [
        ("forgotten", vec![backup(OLD), forget(OLD)], Some(2)),
        ("held afterwards", vec![backup(OLD), forget(OLD), hold(1, OLD)], None),
        ("held and released", vec![backup(OLD), forget(OLD), hold(1, OLD), release(1)], None),
        ("forgotten anew", vec![backup(OLD), forget(OLD), hold(1, OLD), release(1), forget(OLD)], Some(5)),
        ("forgotten twice", vec![backup(OLD), forget(OLD), forget(OLD)], Some(2)),
        ("forgotten while it is held", vec![backup(OLD), hold(1, OLD), forget(OLD)], None),
    ] {
        let state = state(&history).await;
        assert_eq!(state.backups[&id(OLD)].leaving.as_ref().map(|leaving| leaving.seq), leaves, "{why}");
    }
}

#[tokio::test]
async fn a_hold_that_a_region_missed_protects_there_too() {
    let now = samples::time("2026-11-20T12:00:00Z");
    let behind = log(&[backup(OLD), forget(OLD)]).await;
    let ahead = log(&[backup(OLD), hold(1, OLD), hold(2, OLD), release(2)]).await;
    let mut state = behind.state(now);
    assert!(state.backups[&id(OLD)].held.is_empty());
    state.adopt_holds(holds_in_force([&behind, &ahead], now));
    let held = &state.backups[&id(OLD)];
    assert_eq!((held.held.len(), &held.leaving), (1, &None));
    let releases = log(&[release(1)]).await;
    assert!(holds_in_force([&ahead, &releases], now).is_empty(), "released in another region");
}

//! Tests of what may not be appended any more, and of ends that are not there any more.

use super::*;
use crate::format::ids::EpochId;
use crate::log::append::Attempt;
use crate::log::records::backup::BackupRecord;
use crate::log::records::record::RecordBody;
use crate::log::records::wal::WalEpochRecord;
use crate::samples;
use crate::samples::sweep::{IgnoresConditions, SmallBackup, World, at, draft};

#[tokio::test]
async fn no_record_is_accepted_about_what_an_intent_has_named() {
    let mut world = World::new().await;
    let named = SmallBackup::new(1, at(0), (1, 1), &[]);
    let leftover = SmallBackup::new(2, at(0), (1, 1), &[]);
    let epoch = EpochId::from_bytes([5; 16]);
    let intent = SweepIntentRecord {
        backups: vec![named.id()],
        leftovers: vec![leftover.id()],
        epochs: vec![epoch],
        ..SweepIntentRecord::default()
    };
    world.add(&named).await;
    world.say(RecordBody::Forget(samples::forget(&[named.id().as_str()], "2026-01-01T02:00:00Z"))).await;
    world.say(RecordBody::SweepIntent(intent)).await;
    let other = SmallBackup::new(3, at(0), (1, 1), &[]).record;
    let mut under_old_key = other.clone();
    under_old_key.epochs[0].id = epoch;
    let with_parent = BackupRecord { parent: Some(named.id()), ..other.clone() };
    let RecordBody::WalEpoch(wal) = samples::wal_entries().remove(0).body else { unreachable!() };
    let backup = |record: &BackupRecord| RecordBody::Backup(Box::new(record.clone()));
    for (why, body, is_refused) in [
        ("its own name", backup(&named.record), true),
        ("a leftover's name", backup(&leftover.record), true),
        ("its parent is gone", backup(&with_parent), true),
        ("its key is gone", backup(&under_old_key), true),
        ("WAL under a key that is gone", RecordBody::WalEpoch(WalEpochRecord { epoch, ..wal.clone() }), true),
        ("WAL under another key", RecordBody::WalEpoch(wal), false),
        ("another backup", backup(&other), false),
    ] {
        let draft = draft(&world.log, body, at(1));
        let appended = world.log.append(&*world.memory, &samples::signer(), &draft).await;
        assert_eq!(matches!(appended, Err(LogError::Swept { .. })), is_refused, "{why}: {appended:?}");
        assert_eq!(appended.is_ok(), !is_refused, "{why}");
    }
}

#[tokio::test]
async fn a_replaced_end_of_a_log_is_detected_with_one_request() {
    let (world, _) = World::with_days(3).await;
    let end = world.log.head().unwrap();
    world.log.confirm_head(&*world.memory).await.unwrap();
    let key = crate::format::layout::log_note(end.seq);
    world.memory.delete(&key).await.unwrap();
    let gone = world.log.confirm_head(&*world.memory).await;
    assert!(matches!(gone, Err(LogError::RolledBack { .. })), "{gone:?}");
    crate::samples::sweep::put(&*world.memory, &key, "another record").await.unwrap();
    let unsigned = world.log.confirm_head(&*world.memory).await;
    assert!(matches!(unsigned, Err(LogError::Note { .. })), "damage is no fork: {unsigned:?}");
    let signed = crate::log::note::sign("another record\n", &[&samples::signer()]).unwrap();
    world.memory.delete(&key).await.unwrap();
    crate::samples::sweep::put(&*world.memory, &key, &String::from_utf8(signed).unwrap()).await.unwrap();
    let other = world.log.confirm_head(&*world.memory).await;
    assert!(matches!(other, Err(LogError::Forked { .. })), "{other:?}");
}

#[tokio::test]
async fn without_conditional_writes_a_stale_log_replaces_nothing() {
    let mut world = World::new().await;
    let inexact = IgnoresConditions::around(&world.memory);
    let mut of_a_long_backup = world.log.clone();
    world.say(RecordBody::Hold(samples::hold(0xd1, "20260101T020000Z-00000000", None))).await;
    let hold = RecordBody::Hold(samples::hold(0xd2, "20260101T020000Z-00000000", None));
    let late = draft(&of_a_long_backup, hold, at(1));
    let attempt = of_a_long_backup.try_append(&inexact, &samples::signer(), &late).await.unwrap();
    assert_eq!(attempt, Attempt::Overtaken { new_from: 1 });
    of_a_long_backup.append(&inexact, &samples::signer(), &late).await.unwrap();
    let again = of_a_long_backup.try_append(&inexact, &samples::signer(), &late).await.unwrap();
    assert_eq!(again, Attempt::Written(of_a_long_backup.head().unwrap()), "it stands there already");
    world.log.refresh(&inexact).await.unwrap();
    assert_eq!(world.log.entries().len(), 3, "the chain holds, and everything that was said stands in it");
}

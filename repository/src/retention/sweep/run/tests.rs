//! Tests of what is deleted, when, and what is not.

use super::*;
use crate::format::ids::EpochId;
use crate::format::layout;
use crate::log::error::LogError;
use crate::log::records::backup::EpochRef;
use crate::log::records::record::Record;
use crate::log::region_log::RegionLog;
use crate::log::region_state::RegionState;
use crate::retention::sweep::author::{DeleteGate, SweepAuthor};
use crate::retention::sweep::evidence::Evidence;
use crate::retention::sweep::settings::{Elsewhere, Others};
use crate::samples;
use crate::samples::sweep::{
    DAY, Death, HOUR, IgnoresConditions, Locks, SmallBackup, World, at, author, draft, dying, settings, sweep_in,
};
use crate::samples::wal::trust;
use lifeboat_stores::{ByteRange, Fault, MemoryStore, ObjectKey, Operation, PutMode, Rule, SealedBody, WithFaults};
use lifeboat_vocabulary::Clock;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Six days of backups, of which the first three are dropped: the last two days stay, and the one that recovery to two days
/// ago starts from.
pub(super) async fn six_days() -> (World, Vec<SmallBackup>) {
    World::with_days(6).await
}

pub(super) async fn six_days_forgotten() -> (World, Vec<SmallBackup>) {
    let (mut world, backups) = six_days().await;
    world.forget(&settings()).await.unwrap();
    world.clock.set(at(5 * 24 + 73));
    (world, backups)
}

pub(super) fn ids(backups: &[SmallBackup]) -> Vec<BackupId> {
    backups.iter().map(SmallBackup::id).collect()
}

fn kinds(log: &RegionLog) -> Vec<&str> {
    log.entries().iter().map(|entry| entry.record.body.kind()).filter(|kind| *kind != "backup").collect()
}

pub(super) async fn reread(world: &World) -> RegionLog {
    RegionLog::read(&*world.memory, trust("eu-1")).await.unwrap()
}

pub(super) fn state(log: &RegionLog) -> RegionState {
    log.state(at(0))
}

#[tokio::test]
async fn forgotten_backups_stay_for_their_grace_and_are_deleted_with_their_keys() {
    let (mut world, backups) = six_days().await;
    let report = world.forget(&settings()).await.unwrap();
    let forgotten: BTreeSet<_> = report.forgotten.into_iter().map(|(backup, _)| backup).collect();
    assert_eq!(forgotten, ids(&backups[..3]).into_iter().collect());
    assert!(world.forget(&settings()).await.unwrap().forgotten.is_empty(), "once is enough");

    world.clock.set(at(5 * 24 + 71));
    let report = world.sweep(&settings()).await.unwrap();
    assert_eq!((report.swept.len(), report.objects, report.waiting.len()), (0, 0, 3));
    assert_eq!(kinds(&world.log), ["init", "forget"], "nothing goes, so nothing is said");

    world.clock.set(at(5 * 24 + 72));
    let report = world.sweep(&settings()).await.unwrap();
    assert_eq!(report.swept.iter().cloned().collect::<BTreeSet<_>>(), forgotten);
    assert_eq!((report.objects, report.locked), (12, 0));
    assert_eq!(kinds(&world.log), ["init", "forget", "sweep-intent", "sweep-done"]);
    for backup in &backups {
        let stays = !forgotten.contains(&backup.id());
        for key in backup.keys() {
            assert_eq!(world.has(&key).await, stays, "{key}");
        }
    }
    let again = world.sweep(&settings()).await.unwrap();
    assert_eq!((again.objects, kinds(&world.log).len()), (0, 4), "everything is done");
}

#[tokio::test]
async fn a_crash_at_any_request_leaves_complete_backups_and_the_next_run_finishes() {
    let (_, backups) = six_days().await;
    let (mut requests, mut intents_left_open) = (0, 0);
    for how in [Death::BeforeIt, Death::AfterIt] {
        for dies_at in 1.. {
            let (world, _) = six_days().await;
            let killed = dying(&world.memory, dies_at, how);
            let mut log = reread(&world).await;
            let mut outcome =
                crate::samples::sweep::forget_in(&killed, &mut log, &settings(), at(120)).await.map(|_| ());
            world.clock.set(at(5 * 24 + 73));
            if outcome.is_ok() {
                outcome = sweep_in(&killed, &mut log, &settings(), world.clock.now()).await.map(|_| ());
            }
            let survived = outcome.is_ok();
            check_promises(&world, &backups, how, dies_at).await;
            intents_left_open += state(&reread(&world).await).open_intents.len();

            // Somebody else goes on, with nothing but what is stored.
            let mut log = reread(&world).await;
            let memory = Arc::clone(&world.memory);
            crate::samples::sweep::forget_in(&*memory, &mut log, &settings(), world.clock.now()).await.unwrap();
            world.clock.set(at(5 * 24 + 73 + 73));
            sweep_in(&*memory, &mut log, &settings(), world.clock.now()).await.unwrap();
            check_promises(&world, &backups, how, dies_at).await;
            let left: BTreeSet<String> =
                world.keys("data/").await.into_iter().chain(world.keys("keys/").await).collect();
            // By then the window has moved on, so that one more may be gone; never the last two.
            let state = state(&log);
            assert!(backups[4..].iter().all(|backup| state.backups.contains_key(&backup.id())));
            assert!(backups[..3].iter().all(|backup| !state.backups.contains_key(&backup.id())));
            let kept = backups.iter().filter(|backup| state.backups.contains_key(&backup.id()));
            let kept = kept.flat_map(SmallBackup::keys);
            assert_eq!(left, kept.map(|key| key.to_string()).collect(), "{how:?} at {dies_at}");
            assert!(state.open_intents.is_empty(), "{how:?} at {dies_at}");
            if survived {
                requests = dies_at;
                break;
            }
        }
    }
    assert!(requests > 30, "the test has gone through all of it: {requests} requests");
    assert!(intents_left_open > 10, "it has died in the middle of deletions: {intents_left_open}");
}

/// A backup whose record stands and that no intent names has all its objects; nothing goes before an intent names it.
async fn check_promises(world: &World, backups: &[SmallBackup], how: Death, dies_at: u64) {
    let state = state(&reread(world).await);
    for backup in backups {
        let whole = state.backups.contains_key(&backup.id());
        for key in backup.keys() {
            assert!(!whole || world.has(&key).await, "{how:?} {dies_at}: {key} is missing");
        }
    }
}

#[tokio::test]
async fn a_sweep_that_was_overtaken_decides_again() {
    let (mut world, backups) = six_days_forgotten().await;
    // Between the reading of the log and the intent, somebody else asks for the first backup to be held.
    let mut stale = reread(&world).await;
    let hold = samples::hold(0xd0, backups[0].id().as_str(), None);
    world.say(RecordBody::Hold(hold)).await;
    let author = author();
    let store = Arc::clone(&world.memory);
    let intent = SweepIntentRecord { backups: ids(&backups[..1]), ..SweepIntentRecord::default() };
    let region = &mut SweepRegion { store: &*store, log: &mut stale, author: &author, evidence: Evidence::default() };
    // Another moment than that of the hold: one writer never has two events of the same count.
    let later = world.clock.now().plus(Duration::from_micros(1));
    let placed = region.append(RecordBody::SweepIntent(intent), later).await.unwrap();
    assert_eq!(placed, None, "an intent stands directly behind what was read, or nowhere");
    let report = sweep_region(region, &settings(), world.clock.now()).await.unwrap();
    assert_eq!(report.swept.into_iter().collect::<BTreeSet<_>>(), ids(&backups[1..3]).into_iter().collect());
    for key in backups[0].keys() {
        assert!(world.has(&key).await, "{key} is held");
    }
}

#[tokio::test]
async fn objects_that_a_kept_backup_refers_to_stay_as_long_as_it() {
    let mut world = World::new().await;
    let old = SmallBackup::new(0, at(0), (1, 1), &[]);
    world.add(&old).await;
    let shared = old.objects[1].0.clone();
    let mut later = Vec::new();
    for day in 1..6 {
        world.clock.set(at(u64::from(day) * 24));
        let refers: &[ObjectKey] = if day == 5 { std::slice::from_ref(&shared) } else { &[] };
        let backup = SmallBackup::new(day, world.clock.now(), (1, u64::from(day) + 1), refers);
        world.add(&backup).await;
        later.push(backup);
    }
    world.forget(&settings()).await.unwrap();
    world.clock.set(at(5 * 24 + 73));
    let report = world.sweep(&settings()).await.unwrap();
    assert!(report.swept.contains(&old.id()), "{report:?}");
    assert_eq!(report.needed, 1);
    assert_eq!(world.keys(&layout::backup_prefix(&old.id())).await, [shared.to_string()]);

    for day in 9..16 {
        world.clock.set(at(u64::from(day) * 24));
        let backup = SmallBackup::new(day, world.clock.now(), (1, u64::from(day) + 1), &[]);
        world.add(&backup).await;
        world.forget(&settings()).await.unwrap();
        world.sweep(&settings()).await.unwrap();
    }
    assert!(!world.has(&shared).await, "the one that referred to it is gone");
    assert!(world.keys(&layout::backup_prefix(&old.id())).await.is_empty());
}

#[tokio::test]
async fn missing_delete_rights_are_reported_before_an_intent_is_written() {
    let (mut world, _) = six_days_forgotten().await;
    let store = WithFaults::new(Arc::clone(&world.memory) as Arc<dyn Store>);
    store.add(Rule { operation: Some(Operation::Delete), ..Rule::always(Fault::Denied) });
    let now = world.clock.now();
    let error = sweep_in(&store, &mut world.log, &settings(), now).await.unwrap_err();
    assert!(matches!(error, SweepError::Forbidden { .. }), "{error:?}");
    assert_eq!(kinds(&reread(&world).await), ["init", "forget"], "no intent without the right to carry it out");
}

#[tokio::test]
async fn locked_objects_are_skipped_counted_and_tried_again() {
    let (mut world, backups) = six_days_forgotten().await;
    let locked = backups[0].keys().into_iter().filter(|key| key.as_str().starts_with("data/")).collect();
    let store = Locks::around(&world.memory, locked);
    let now = world.clock.now();
    let report = sweep_in(&store, &mut world.log, &settings(), now).await.unwrap();
    assert_eq!((report.objects, report.locked), (9, 3));
    let before = store.hooks().deletes.load(std::sync::atomic::Ordering::Relaxed);
    let report = sweep_in(&store, &mut world.log, &settings(), now).await.unwrap();
    assert_eq!((report.objects, report.locked), (0, 3));
    let asked = store.hooks().deletes.load(std::sync::atomic::Ordering::Relaxed) - before;
    assert_eq!(asked, 1, "one question for a locked backup, however many objects it has");
    assert_eq!(kinds(&world.log), ["init", "forget", "sweep-intent", "sweep-done"], "nothing new is said");
    store.hooks().keys.lock().clear();
    let report = sweep_in(&store, &mut world.log, &settings(), now).await.unwrap();
    assert_eq!((report.objects, report.locked), (3, 0));
    assert!(state(&world.log).open_intents.is_empty());
    assert_eq!(kinds(&world.log).last(), Some(&"sweep-done"));
}

#[tokio::test]
async fn leftovers_of_a_crash_are_deleted_when_all_are_old_and_no_region_has_the_backup() {
    let known = |backups: &[BackupId]| {
        Elsewhere::Known(Others {
            backups: backups.iter().cloned().collect(),
            epochs: BTreeSet::new(),
            ..Others::default()
        })
    };
    let crashed = SmallBackup::new(77, at(120), (1, 9), &[]);
    let id = crashed.id();
    for (why, hours, elsewhere, goes) in [
        ("it may still be written", 71, known(&[]), false),
        ("another region has it: it will be healed", 80, known(std::slice::from_ref(&id)), false),
        ("nobody knows what other regions have", 80, Elsewhere::Unknown, false),
        ("old, and of no use to anybody", 72, known(&[]), true),
    ] {
        let (mut world, _) = six_days().await;
        crashed.upload(&*world.memory).await.unwrap();
        world.clock.set(at(120 + hours));
        let report = world.sweep(&SweepSettings { elsewhere, ..settings() }).await.unwrap();
        assert_eq!(report.leftovers, if goes { vec![id.clone()] } else { vec![] }, "{why}");
        assert_eq!(world.keys(&layout::backup_prefix(&id)).await.is_empty(), goes, "{why}");
        let committed = crashed.commit(&*world.memory, &mut world.log).await;
        match goes {
            true => assert!(matches!(committed, Err(LogError::Swept { .. })), "{why}: {committed:?}"),
            false => assert!(committed.is_ok(), "{why}: {committed:?}"),
        }
    }
}

#[tokio::test]
async fn one_recent_object_protects_the_folder_of_a_slow_backup() {
    let (mut world, _) = six_days().await;
    let slow = SmallBackup::new(77, at(120), (1, 9), &[]);
    let (first, rest) = slow.objects.split_first().unwrap();
    crate::samples::sweep::put(&*world.memory, &first.0, &first.1).await.unwrap();
    world.clock.set(at(120 + 90));
    for (key, text) in rest {
        crate::samples::sweep::put(&*world.memory, key, text).await.unwrap();
    }
    world.clock.set(at(120 + 100));
    assert!(world.sweep(&settings()).await.unwrap().leftovers.is_empty());
    slow.upload(&*world.memory).await.unwrap();
    slow.commit(&*world.memory, &mut world.log).await.unwrap();
}

#[tokio::test]
async fn a_backup_committed_while_its_folder_is_swept_is_complete_or_refused() {
    // The writer has read the log before the sweep, and appends behind it.
    let (mut world, _) = six_days().await;
    let slow = SmallBackup::new(77, at(120), (1, 9), &[]);
    slow.upload(&*world.memory).await.unwrap();
    let mut of_writer = reread(&world).await;
    world.clock.set(at(120 + 80));
    world.sweep(&settings()).await.unwrap();
    let refused = slow.commit(&*world.memory, &mut of_writer).await;
    assert!(matches!(refused, Err(LogError::Swept { .. })), "{refused:?}");
    // One that relies on objects of what was swept is refused just the same, with a new name of its own.
    let incremental = SmallBackup::new(78, at(200), (1, 9), std::slice::from_ref(&slow.objects[1].0));
    incremental.upload(&*world.memory).await.unwrap();
    let refused = incremental.commit(&*world.memory, &mut of_writer).await;
    assert!(matches!(refused, Err(LogError::Swept { .. })), "{refused:?}");
    assert!(state(&reread(&world).await).backups.keys().all(|backup| *backup != incremental.id()));
}

#[tokio::test]
async fn wrapped_keys_are_deleted_with_their_last_backup_and_unnamed_ones_much_later() {
    let (mut world, backups) = six_days().await;
    // The newest backup has objects under the key of the oldest, which goes.
    let shared = backups[0].record.epochs[0].clone();
    let mut newest = SmallBackup::new(99, at(121), (1, 7), &[]);
    newest.record.epochs.push(EpochRef { ..shared.clone() });
    world.clock.set(at(121));
    world.add(&newest).await;
    let unnamed = layout::slots(EpochId::from_bytes([9; 16]), 0);
    crate::samples::sweep::put(&*world.memory, &unnamed, "unnamed").await.unwrap();
    world.forget(&settings()).await.unwrap();
    world.clock.set(at(121 + 73));
    world.sweep(&settings()).await.unwrap();
    assert!(world.has(&layout::slots(shared.id, 0)).await, "the newest backup needs it");
    assert!(!world.has(&layout::slots(backups[1].record.epochs[0].id, 0)).await);
    assert!(world.has(&unnamed).await, "WAL under it may be on its way");
    world.clock.set(at(121 + 30 * 24));
    world.sweep(&SweepSettings { elsewhere: Elsewhere::Unknown, ..settings() }).await.unwrap();
    assert!(world.has(&unnamed).await);
    world.sweep(&settings()).await.unwrap();
    assert!(!world.has(&unnamed).await);
}

#[tokio::test]
async fn old_probes_are_deleted_and_leases_are_not() {
    let mut world = World::new().await;
    let probe: ObjectKey = layout::StoredName::Probe { id: crate::format::ids::ObjectId::from_bytes([7; 16]) }.key();
    let lease: ObjectKey = "state/lease-db1.json".parse().unwrap();
    for key in [&probe, &lease] {
        crate::samples::sweep::put(&*world.memory, key, "x").await.unwrap();
    }
    world.clock.set(at(23));
    world.sweep(&settings()).await.unwrap();
    assert!(world.has(&probe).await);
    world.clock.set(at(24));
    let store = WithFaults::new(Arc::clone(&world.memory) as Arc<dyn Store>);
    store.add(Rule { operation: Some(Operation::Delete), ..Rule::always(Fault::Denied) });
    let refused = sweep_in(&store, &mut world.log, &settings(), at(24)).await.unwrap();
    assert_eq!(refused.objects, 0, "a role that may not is not held to have failed");
    assert_eq!(world.sweep(&settings()).await.unwrap().objects, 1);
    assert_eq!(world.keys("state/").await, [lease.to_string()]);
}

#[tokio::test]
async fn a_backup_with_more_objects_than_a_page_is_deleted_completely() {
    let (mut world, backups) = six_days_forgotten().await;
    for number in 0..2500 {
        let object = crate::format::ids::ObjectId::from_bytes([3; 16]);
        let key = layout::pack(&backups[0].id(), number, object);
        crate::samples::sweep::put(&*world.memory, &key, "x").await.unwrap();
    }
    world.sweep(&settings()).await.unwrap();
    assert!(world.keys(&layout::backup_prefix(&backups[0].id())).await.is_empty());
    // And what arrives behind the sweep of its backup goes with the next one.
    let late = layout::pack(&backups[0].id(), 7, crate::format::ids::ObjectId::from_bytes([4; 16]));
    crate::samples::sweep::put(&*world.memory, &late, "x").await.unwrap();
    assert_eq!(world.sweep(&settings()).await.unwrap().objects, 1);
    assert!(!world.has(&late).await);
}

struct Shut;

impl DeleteGate for Shut {
    fn check(&self) -> Result<(), String> {
        Err("a person looks at it".to_owned())
    }
}

#[tokio::test]
async fn every_precondition_stops_forgetting_and_deleting() {
    let (mut world, backups) = six_days_forgotten().await;
    let count = world.keys("").await.len();
    let store = Arc::clone(&world.memory);
    let now = world.clock.now();
    let shut = SweepAuthor::new(Arc::new(samples::signer()), "test".to_owned(), Arc::new(Shut));
    let region = &mut SweepRegion { store: &*store, log: &mut world.log, author: &shut, evidence: Evidence::default() };
    assert!(matches!(forget(region, &settings(), now).await, Err(SweepError::Stopped { .. })));
    assert!(matches!(sweep_region(region, &settings(), now).await, Err(SweepError::Stopped { .. })));

    for ours in [now.plus(2 * HOUR), at(1)] {
        let skewed = sweep_in(&*store, &mut world.log, &settings(), ours).await;
        assert!(matches!(skewed, Err(SweepError::Clock { .. })), "{skewed:?}");
    }
    let mut careful = settings();
    careful.policy.limits.backup_every = Some(DAY);
    let stale = world.sweep(&careful).await;
    assert!(matches!(stale, Err(SweepError::Unusual { .. })), "{stale:?}");

    let inexact = IgnoresConditions::around(&store);
    let alone = |grace| SweepSettings { mode: DeleteMode::SingleWriter, grace, ..settings() };
    for (settings, expected) in
        [(settings(), "the region ignores conditional writes"), (alone(71 * HOUR), "a grace of 255600s is too short")]
    {
        let error = sweep_in(&inexact, &mut world.log, &settings, now).await.unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    let link = world.log.entries().last().unwrap().record.link.clone();
    let newer = Record { link, origin: samples::origin(1), body: RecordBody::Unknown { kind: "pin".to_owned() } };
    assert!(newer.to_text().is_err(), "this version cannot write what it does not know");
    assert_eq!(world.keys("").await.len(), count);

    let report = sweep_in(&inexact, &mut world.log, &alone(72 * HOUR), now).await.unwrap();
    assert_eq!(report.swept.len(), 3, "the only writer may");
    assert!(!world.has(&backups[0].objects[0].0).await);
}

#[tokio::test]
async fn without_conditional_writes_a_second_writer_is_detected() {
    let (mut world, _) = six_days_forgotten().await;
    let store = Arc::clone(&world.memory);
    let inexact = IgnoresConditions::around(&store);
    let mut other = reread(&world).await;
    // Both have read the same end; the second record replaces the first.
    let hold = RecordBody::Hold(samples::hold(0xd1, "20260101T020000Z-00000000", None));
    world.say(hold.clone()).await;
    let theirs = draft(&other, RecordBody::Hold(samples::hold(0xd2, "20260101T020000Z-00000000", None)), at(130));
    let other_signer = samples::signer();
    // Another process does not wait for its turn here, and sees the log as it was before the hold.
    let elsewhere = MemoryStore::new();
    let last = layout::log_note(other.head().unwrap().seq);
    let bytes = store.get(&last, ByteRange::WholeUpTo(ByteCount::from_mib(1))).await.unwrap();
    let body = SealedBody { sha256: crate::format::aead::sha256(&bytes), bytes };
    elsewhere.put(&last, body, PutMode::CreateOnly).await.unwrap();
    other.try_append(&elsewhere, &other_signer, &theirs).await.unwrap();
    let key = layout::log_note(u64::try_from(other.entries().len() - 1).unwrap());
    let bytes = elsewhere.get(&key, ByteRange::WholeUpTo(ByteCount::from_mib(1))).await.unwrap();
    let body = SealedBody { sha256: crate::format::aead::sha256(&bytes), bytes };
    inexact.put(&key, body, PutMode::CreateOnly).await.unwrap();
    let alone = SweepSettings { mode: DeleteMode::SingleWriter, ..settings() };
    let now = world.clock.now();
    let error = sweep_in(&inexact, &mut world.log, &alone, now).await.unwrap_err();
    assert!(matches!(error, SweepError::Log(LogError::Forked { .. })), "{error:?}");
}

#[tokio::test]
async fn a_policy_that_keeps_more_saves_what_was_forgotten_and_not_swept() {
    let (mut world, backups) = six_days_forgotten().await;
    let mut generous = settings();
    generous.policy.daily = 30;
    let report = world.sweep(&generous).await.unwrap();
    assert_eq!((report.swept, report.objects), (vec![], 0));
    let report = world.forget(&generous).await.unwrap();
    assert_eq!(report.kept_again.into_iter().collect::<BTreeSet<_>>(), ids(&backups[..3]).into_iter().collect());
    assert!(state(&reread(&world).await).backups.values().all(|backup| backup.leaving.is_none()), "nothing leaves");
    assert!(world.forget(&generous).await.unwrap().kept_again.is_empty(), "once is enough");

    // What is forgotten anew has its whole grace anew.
    let begin = world.clock.now();
    assert!(world.forget(&settings()).await.unwrap().forgotten.len() >= 3);
    world.clock.set(begin.plus(71 * HOUR));
    assert_eq!(world.sweep(&settings()).await.unwrap().swept, []);
    for key in backups.iter().flat_map(SmallBackup::keys) {
        assert!(world.has(&key).await, "{key}");
    }
    world.clock.set(begin.plus(72 * HOUR));
    assert!(world.sweep(&settings()).await.unwrap().swept.len() >= 3);
}

/// Somebody stops deletion in the middle of it.
struct ClosesAfter(std::sync::atomic::AtomicU64);

impl DeleteGate for ClosesAfter {
    fn check(&self) -> Result<(), String> {
        let left = &self.0;
        let closed = || "a person looks at it".to_owned();
        let one_less = |left: u64| left.checked_sub(1);
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        left.fetch_update(relaxed, relaxed, one_less).map(|_| ()).map_err(|_| closed())
    }
}

#[tokio::test]
async fn a_freeze_counts_from_the_next_object_on() {
    let (mut world, _) = six_days_forgotten().await;
    let store = Arc::clone(&world.memory);
    let (now, before) = (world.clock.now(), world.keys("data/").await.len());
    let gate = Arc::new(ClosesAfter(10.into()));
    let author = SweepAuthor::new(Arc::new(samples::signer()), "test".to_owned(), gate);
    let region =
        &mut SweepRegion { store: &*store, log: &mut world.log, author: &author, evidence: Evidence::default() };
    assert!(matches!(sweep_region(region, &settings(), now).await, Err(SweepError::Stopped { .. })));
    let gone = before - world.keys("data/").await.len();
    assert!((1..=8).contains(&gone), "{gone} of the 9 objects on three pages");
    assert_eq!(state(&reread(&world).await).open_intents.len(), 1, "the next sweep goes on");
}

#[tokio::test]
async fn create_only_orders_a_writer_and_a_sweep() {
    // The same interleaving as with a real store: the record of the writer is first, and the intent is not written.
    let (mut world, backups) = six_days_forgotten().await;
    let mut stale = reread(&world).await;
    let new = SmallBackup::new(50, world.clock.now(), (1, 12), &[]);
    world.add(&new).await;
    let key = layout::log_note(u64::try_from(stale.entries().len()).unwrap());
    let taken = world.memory.put(&key, crate::samples::sweep::body("mine"), PutMode::CreateOnly).await;
    assert!(taken.is_err(), "the place is taken");
    let now = world.clock.now();
    sweep_in(&*Arc::clone(&world.memory), &mut stale, &settings(), now).await.unwrap();
    for key in new.keys().into_iter().chain(backups[5].keys()) {
        assert!(world.has(&key).await, "{key}");
    }
}

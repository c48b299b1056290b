//! Tests of logs that are remembered.

use super::*;
use crate::format::layout;
use crate::log::append::Draft;
use crate::log::records::record::RecordBody;
use crate::samples;
use crate::samples::sweep::{SmallBackup, World, at};
use crate::samples::wal::trust;
use lifeboat_stores::{Hooks, Metrics, Operation, Request, Step, Store, WithHooks, WithMetrics};
use lifeboat_vocabulary::SystemClock;
use std::sync::Arc;
use tokio::sync::Notify;

fn counted(world: &World) -> (RegionStore, Arc<Metrics>) {
    let metrics = Arc::<Metrics>::default();
    let store =
        WithMetrics::new(Arc::clone(&world.memory) as Arc<dyn Store>, Arc::clone(&metrics), Arc::new(SystemClock));
    (RegionStore { name: "eu-1".parse().unwrap(), store: Arc::new(store) }, metrics)
}

fn requests(metrics: &Metrics) -> u64 {
    let snapshot = metrics.snapshot();
    Operation::ALL.iter().map(|operation| snapshot.of(*operation).requests).sum()
}

#[tokio::test]
async fn a_log_is_read_whole_once_and_then_only_where_it_grew() {
    let (mut world, _) = World::with_days(20).await;
    let (region, metrics) = counted(&world);
    let memory = LogMemory::default();
    let first = memory.read(&region, &trust("eu-1")).await.unwrap();
    assert_eq!(first.entries().len(), 21);
    let whole = requests(&metrics);
    assert!(whole > 20);
    memory.read(&region, &trust("eu-1")).await.unwrap();
    assert_eq!(requests(&metrics) - whole, 2, "its end, and that there is nothing behind it");
    let before = requests(&metrics);
    world.add(&SmallBackup::new(77, at(500), (1, 30), &[])).await;
    let grown = memory.read(&region, &trust("eu-1")).await.unwrap();
    assert_eq!((grown.entries(), requests(&metrics) - before), (world.log.entries(), 3));
    memory.forget(&region.name);
    assert_eq!(memory.read(&region, &trust("eu-1")).await.unwrap().entries().len(), 22);
}

#[tokio::test]
async fn a_log_that_lost_its_end_is_refused_however_often_it_is_asked() {
    let (world, _) = World::with_days(4).await;
    let (region, _) = counted(&world);
    let memory = LogMemory::default();
    let log = memory.read(&region, &trust("eu-1")).await.unwrap();
    world.memory.delete(&layout::log_note(log.head().unwrap().seq)).await.unwrap();
    for _ in 0..2 {
        let refused = memory.read(&region, &trust("eu-1")).await;
        assert!(matches!(*refused.unwrap_err(), LogError::RolledBack { .. }));
    }
    let mut other = RegionLog::read(&*world.memory, trust("eu-1")).await.unwrap();
    for backup in [70, 71] {
        let record = samples::backup_record_named(&format!("20261120T020003Z-{backup:08x}"), "2026-11-20T02:41:07Z");
        let draft = Draft { origin: samples::origin(backup), body: RecordBody::Backup(Box::new(record)) };
        other.append(&*world.memory, &samples::signer(), &draft).await.unwrap();
    }
    assert!(other.entries().len() > log.entries().len());
    let refused = memory.read(&region, &trust("eu-1")).await.unwrap_err();
    assert!(matches!(*refused, LogError::Forked { .. }), "nor is another history: {refused:?}");
    memory.forget(&region.name);
    assert_eq!(memory.read(&region, &trust("eu-1")).await.unwrap().entries(), other.entries());
}

#[tokio::test]
async fn readers_at_the_same_time_share_requests_and_all_readers_share_records() {
    let (mut world, _) = World::with_days(3).await;
    let (mut region, metrics) = counted(&world);
    region.store = Arc::new(WithHooks::new(region.store, LetsOthersRun));
    let memory = LogMemory::default();
    let first = memory.read(&region, &trust("eu-1")).await.unwrap();
    world.add(&SmallBackup::new(77, at(500), (1, 30), &[])).await;
    let before = requests(&metrics);
    let trust = trust("eu-1");
    let logs = futures_util::future::join_all((0..5).map(|_| memory.read(&region, &trust))).await;
    assert_eq!(requests(&metrics) - before, 3 + 2, "one goes first, the others go together");
    for log in logs {
        let log = log.unwrap();
        assert_eq!(log.entries(), world.log.entries());
        assert!(first.entries().iter().zip(log.entries()).all(|(one, other)| Arc::ptr_eq(one, other)));
    }
    assert_eq!(memory.known(&region.name).unwrap().entries(), world.log.entries());
}

#[tokio::test]
async fn what_was_asked_before_a_log_was_forgotten_is_not_kept() {
    let (world, _) = World::with_days(3).await;
    let (held, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let store = WithHooks::new(
        Arc::clone(&world.memory) as Arc<dyn Store>,
        HoldLists { held: Arc::clone(&held), release: Arc::clone(&release) },
    );
    let region = RegionStore { name: "eu-1".parse().unwrap(), store: Arc::new(store) };
    let memory = Arc::new(LogMemory::default());
    let reading = tokio::spawn({
        let (memory, region) = (Arc::clone(&memory), region.clone());
        async move { memory.read(&region, &trust("eu-1")).await }
    });
    held.notified().await;
    memory.forget(&region.name);
    let releases = async {
        loop {
            release.notify_one();
            held.notified().await;
        }
    };
    let read = tokio::select! {
        read = reading => read.unwrap(),
        () = releases => unreachable!("it goes on for ever"),
    };
    assert!(read.is_ok());
    assert!(memory.known(&region.name).is_none());
}

/// As a store far away does.
struct LetsOthersRun;

#[async_trait::async_trait]
impl Hooks for LetsOthersRun {
    async fn before(&self, _: Request<'_>) -> Step {
        tokio::task::yield_now().await;
        Step::Pass
    }
}

/// Holds each listing until it is released.
struct HoldLists {
    held: Arc<Notify>,
    release: Arc<Notify>,
}

#[async_trait::async_trait]
impl Hooks for HoldLists {
    async fn before(&self, request: Request<'_>) -> Step {
        if request.operation() == Operation::List && request.key() == layout::LOG_PREFIX {
            self.held.notify_one();
            self.release.notified().await;
        }
        Step::Pass
    }
}

#[tokio::test]
async fn strange_objects_are_read_once_and_told_to_everybody() {
    let (world, _) = World::with_days(4).await;
    let (region, metrics) = counted(&world);
    let memory = LogMemory::default();
    let end = memory.read(&region, &trust("eu-1")).await.unwrap().places();
    for seq in 0..50 {
        let key = layout::log_note(end + seq);
        samples::sweep::put(&*world.memory, &key, "junk").await.unwrap();
    }
    let learned = memory.read(&region, &trust("eu-1")).await.unwrap();
    assert_eq!(learned.outside().len(), 50);
    let before = metrics.snapshot().of(Operation::Get).requests;
    let again = memory.read(&region, &trust("eu-1")).await.unwrap();
    assert_eq!(
        metrics.snapshot().of(Operation::Get).requests - before,
        2,
        "its end, and the next place; strange objects are listed"
    );
    assert_eq!(again.outside(), learned.outside());
}

#[tokio::test(start_paused = true)]
async fn a_log_is_refused_once_a_record_is_found_gone_again_some_minutes_later() {
    let (world, _) = World::with_days(6).await;
    let (region, _) = counted(&world);
    let memory = LogMemory::default();
    memory.read(&region, &trust("eu-1")).await.unwrap();
    let key = layout::log_note(2);
    let whole = lifeboat_stores::ByteRange::WholeUpTo(lifeboat_vocabulary::ByteCount::from_mib(1));
    let note = world.memory.get(&key, whole).await.unwrap();
    let is_gone = async || {
        let error = memory.compare_notes(&region, 0, 100).await.unwrap_err();
        assert!(matches!(*error, LogError::RolledBack { found: 2, .. }), "{error}");
    };
    world.memory.delete(&key).await.unwrap();
    is_gone().await;
    is_gone().await;
    assert!(!memory.is_refused(&region.name), "it may be an old answer");
    crate::samples::long_log::put(&world.memory, &key, note).await;
    assert!(memory.compare_notes(&region, 0, 100).await.is_ok());
    tokio::time::sleep(ASKED_AGAIN).await;
    world.memory.delete(&key).await.unwrap();
    is_gone().await;
    assert!(memory.read(&region, &trust("eu-1")).await.is_ok(), "it was right meanwhile");
    tokio::time::sleep(ASKED_AGAIN).await;
    assert_eq!(memory.compare_notes(&region, 0, 2).await.unwrap(), Some(2), "others say nothing about it");
    is_gone().await;
    assert!(memory.is_refused(&region.name) && memory.read(&region, &trust("eu-1")).await.is_err());
    memory.forget(&region.name);
    assert!(!memory.is_refused(&region.name));
}

/// A store that takes long for each request.
struct Slow;

#[async_trait::async_trait]
impl Hooks for Slow {
    async fn before(&self, _: Request<'_>) -> Step {
        tokio::time::sleep(ASKED_AGAIN * 2).await;
        Step::Pass
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_was_reading_when_a_log_became_refused_does_not_get_it() {
    let (world, _) = World::with_days(6).await;
    let (region, _) = counted(&world);
    let store = Arc::new(WithHooks::new(Arc::clone(&world.memory) as Arc<dyn Store>, Slow));
    let slow = RegionStore { name: region.name.clone(), store };
    let (memory, trust) = (LogMemory::default(), trust("eu-1"));
    memory.read(&region, &trust).await.unwrap();
    world.memory.delete(&layout::log_note(2)).await.unwrap();
    let compared = async {
        memory.compare_notes(&region, 0, 100).await.unwrap_err();
        tokio::time::sleep(ASKED_AGAIN).await;
        memory.compare_notes(&region, 0, 100).await.unwrap_err();
    };
    let (read, ()) = tokio::join!(memory.read(&slow, &trust), compared);
    assert!(matches!(*read.unwrap_err(), LogError::RolledBack { found: 2, .. }));
}

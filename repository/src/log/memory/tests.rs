//! Tests of logs that are remembered.

use super::*;
use crate::format::layout;
use crate::samples::sweep::{SmallBackup, World, at};
use crate::samples::wal::trust;
use lifeboat_stores::{Metrics, Operation, Store, WithMetrics};
use lifeboat_vocabulary::SystemClock;
use std::sync::Arc;

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
        assert!(matches!(refused, Err(LogError::RolledBack { .. })), "{refused:?}");
    }
    let short = RegionLog::read(&*world.memory, trust("eu-1")).await.unwrap();
    memory.keep(&region.name, &short);
    assert!(memory.read(&region, &trust("eu-1")).await.is_err(), "less is never taken for more");
}

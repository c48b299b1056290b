//! A panic in one thread or task of a backup or a restore ends it with an error: what that one had in hand is missed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_repository::backup::read::ReadBackupError;
use lifeboat_repository::backup::write::{BackupError, BackupSettings, BackupWriter, Checked, FrameCheck, MemoryPlan};
use lifeboat_repository::format::ids::RepositoryId;
use lifeboat_repository::log::RegionStore;
use lifeboat_stores::{
    ByteRange, Capabilities, ListPage, MemoryStore, ObjectKey, ObjectMeta, PutMode, PutOutcome, SealedBody, Store,
    StoreError,
};
use lifeboat_vocabulary::{BackupId, ByteCount, EntryKind, FileEntry, FileNumber, RelativePath, UtcTime};
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, Ending};
use crate::region::Region;

const PATIENCE: Duration = Duration::from_secs(60);

/// Panics at the second frame.
#[derive(Debug)]
struct PanickingCheck;

impl FrameCheck for PanickingCheck {
    fn check(&self, _: &RelativePath, offset: u64, _: &[u8]) -> Checked {
        assert!(offset == 0, "on purpose");
        Checked::default()
    }
}

fn noon() -> UtcTime {
    "2026-01-02T12:00:00Z".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_panics_fails_the_backup_instead_of_keeping_it_waiting() {
    let frame = 32 << 10;
    let settings = BackupSettings {
        backup: BackupId::new(noon(), 1),
        repository: RepositoryId::random().unwrap(),
        plan: MemoryPlan::new(ByteCount::from_mib(64), 2, frame, 2 << 20).unwrap(),
        compression_level: 1,
        check: Some(Arc::new(PanickingCheck)),
        upload_concurrency: 2,
        lag_limit: PATIENCE,
        cpu_share: None,
    };
    let region = RegionStore { name: "a".parse().unwrap(), store: Arc::new(MemoryStore::default()) };
    let mut writer = BackupWriter::start(settings, vec![region], &CancellationToken::new()).unwrap();
    let (number, size) = (FileNumber(0), 64 << 20);
    let path = RelativePath::new(b"base/1/1").unwrap();
    let backup = async {
        writer.begin(number, FileEntry { path, kind: EntryKind::File, mode: 0o600, size, modified: 0 }).await?;
        let bytes = vec![7; 1 << 20];
        for part in 0..64 {
            writer.data(number, part << 20, &bytes).await?;
        }
        writer.end(number, size).await?;
        writer.finish().await.map(drop)
    };
    let ended = tokio::time::timeout(PATIENCE, backup).await.expect("it waits for what the dead thread had in hand");
    let error = ended.unwrap_err();
    assert!(matches!(error, BackupError::Thread(_)), "{error:?}");
}

/// Panics when a pack is read.
#[derive(Debug)]
struct PanickingStore {
    inner: Arc<dyn Store>,
    readable: Vec<ObjectKey>,
}

impl fmt::Display for PanickingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Store for PanickingStore {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn put(&self, key: &ObjectKey, body: SealedBody, mode: PutMode) -> Result<PutOutcome, StoreError> {
        self.inner.put(key, body, mode).await
    }

    async fn get(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes, StoreError> {
        assert!(self.readable.contains(key), "on purpose");
        self.inner.get(key, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<ListPage, StoreError> {
        self.inner.list(prefix, after).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_panics_fails_the_restore_instead_of_leaving_a_hole() {
    let cluster = Cluster::new();
    let mut regions = [Region::directory("a", &cluster).await, Region::directory("b", &cluster).await];
    cluster.back_up(&mut regions, 1, noon(), Ending::Done).await;
    let [region, _] = &regions;
    let state = region.log.state(region.now());
    let record = &state.backups.values().next().unwrap().record;
    let readable = record.index.iter().map(|shard| shard.key.clone()).collect();
    let (name, inner) = (region.name().clone(), Arc::clone(&region.store.store));
    let panicking = RegionStore { name, store: Arc::new(PanickingStore { inner, readable }) };
    let restored = cluster.try_restore(&region.store, panicking, record).await;
    let error = restored.expect_err("a file without its bytes is no restored file");
    assert!(matches!(error, ReadBackupError::Thread(_)), "{error:?}");
}

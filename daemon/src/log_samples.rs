//! Regions in memory whose logs say what a test wants.

use std::collections::BTreeMap;
use std::sync::Arc;

use lifeboat_repository::format::ids::{EpochId, RepositoryId};
use lifeboat_repository::format::layout;
use lifeboat_repository::keys::SigningKey;
use lifeboat_repository::log::records::{
    BackupKind, BackupRecord, EpochRef, FilesFacts, InitRecord, Omissions, Origin, PacksRef, RecordBody, ServerFacts,
    ShardRef,
};
use lifeboat_repository::log::{Draft, LogTrust, NoteSigner, RegionLog, RegionStore, Signers};
use lifeboat_stores::MemoryStore;
use lifeboat_vocabulary::{BackupId, ByteCount, Lsn, RegionName, Sha256Digest, TimelineId, UtcTime};

/// Regions with logs that begin.
pub(crate) struct Regions {
    pub(crate) signer: Arc<NoteSigner>,
    pub(crate) stores: Vec<RegionStore>,
    pub(crate) logs: BTreeMap<RegionName, RegionLog>,
}

impl Regions {
    pub(crate) async fn new(names: &[&str]) -> Self {
        let key = SigningKey::generate().unwrap();
        Self::signed_by(Arc::new(NoteSigner::new("lifeboat.main".parse().unwrap(), key)), names).await
    }

    pub(crate) async fn signed_by(signer: Arc<NoteSigner>, names: &[&str]) -> Self {
        let mut regions = Self { signer, stores: Vec::new(), logs: BTreeMap::new() };
        for name in names {
            let name: RegionName = name.parse().unwrap();
            let store = Arc::new(MemoryStore::new());
            let (signers, repository) =
                (Signers::root_only(regions.signer.verify_key()), RepositoryId::from_bytes([7; 16]));
            let trust = LogTrust { repository, signers, region: Some(name.clone()), remembered: None };
            regions.logs.insert(name.clone(), RegionLog::read(&*store, trust).await.unwrap());
            regions.stores.push(RegionStore { name: name.clone(), store });
            let descriptor_sha256 = Sha256Digest::from_bytes([1; 32]);
            let body = RecordBody::Init(InitRecord { repo: repository, sysid: 7, descriptor_sha256 });
            regions.append(name.as_str(), "2026-11-01T00:00:00Z", body).await;
        }
        regions
    }

    /// Appends to one region's log, at this time by the writer's clock.
    pub(crate) async fn append(&mut self, name: &str, time: &str, body: RecordBody) {
        let store = self.stores.iter().find(|region| region.name.as_str() == name).unwrap();
        let log = self.logs.get_mut(&store.name).unwrap();
        let time: UtcTime = time.parse().unwrap();
        let wseq = Origin::next_count(log.last_count(self.signer.name()), time);
        let origin = Origin { writer: self.signer.name().clone(), wseq, time, tool: "test".to_owned() };
        log.append(&*store.store, &self.signer, &Draft { origin, body }).await.unwrap();
    }

    /// All records of a region's log that come from the audit: what was done, and to what.
    pub(crate) fn audited(&self, name: &str) -> Vec<String> {
        let log = &self.logs[&name.parse().unwrap()];
        let audits = log.entries().iter().filter_map(|entry| match &entry.record.body {
            RecordBody::Audit(audit) => Some(format!("{} {}", audit.action, audit.subject.as_deref().unwrap_or("-"))),
            _ => None,
        });
        audits.collect()
    }
}

/// A backup of this size that was made at this time.
pub(crate) fn backup(time: &str, mib: u64) -> BackupRecord {
    let time: UtcTime = time.parse().unwrap();
    let (bytes, sha256) = (ByteCount::from_mib(mib), Sha256Digest::from_bytes([1; 32]));
    let (lsn, timeline) = (Lsn::from_bytes(1 << 24).unwrap(), TimelineId::new(1).unwrap());
    BackupRecord {
        kind: BackupKind::Full,
        parent: None,
        pg: ServerFacts { version: 170_006, sysid: 7, wal_segment_bytes: 16 << 20 },
        start_lsn: lsn,
        start_tli: timeline,
        stop_lsn: lsn,
        stop_tli: timeline,
        start_time: time,
        stop_time: time,
        duration_ms: 1,
        frame_bytes: 128 << 10,
        epochs: vec![EpochRef { id: EpochId::from_bytes([1; 16]), slots: 0, keys_sha256: sha256 }],
        packs: PacksRef { sha256, objects: 2, bytes, own: 2, own_bytes: bytes },
        index: vec![ShardRef { key: layout::index_shard(&BackupId::new(time, 7), 0), sha256, size: bytes }],
        files: FilesFacts { count: 1, raw_bytes: bytes },
        pages: None,
        omissions: Omissions::default(),
        backup: BackupId::new(time, 7),
    }
}

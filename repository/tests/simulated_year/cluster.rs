//! A cluster of one small file, its real sealed backups, and their way back.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_repository::backup::Progress;
use lifeboat_repository::backup::read::{
    self, BackupReader, FileSink, Ranges, ReadBackupError, ReadControl, ReadSettings, SinkFile, StoredBackup,
};
use lifeboat_repository::backup::write::{
    BackupDetails, BackupSettings, BackupWriter, CommitAuthority, ExclusionReason, MemoryPlan,
};
use lifeboat_repository::format::ids::RepositoryId;
use lifeboat_repository::format::{PacksList, layout};
use lifeboat_repository::keys::{self, EpochPlace, Identity, KeyRecipients, Openers, SigningKey};
use lifeboat_repository::log::records::{BackupKind, BackupRecord, Omissions, Origin, ServerFacts};
use lifeboat_repository::log::{Descriptor, LogTrust, NoteSigner, RegionLog, RegionStore, Signers};
use lifeboat_repository::retention::sweep::{OpenGate, SweepAuthor};
use lifeboat_stores::{ByteRange, OBJECT_BYTES_MAX};
use lifeboat_vocabulary::{
    BackupId, ByteCount, EntryKind, FileEntry, FileNumber, Lsn, RegionName, RelativePath, TimelineId, UtcTime,
    WalPosition,
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::region::Region;

pub const SYSID: u64 = 7_400_000_000_000_000_001;
const FRAME: usize = 32 << 10;

/// How a backup ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is committed in every region that has it.
    Done,
    /// Its objects are there, and the process is not any more.
    Killed,
}

/// Who backs up.
pub struct Cluster {
    pub repository: RepositoryId,
    pub signer: Arc<NoteSigner>,
    pub author: SweepAuthor,
    identity: Identity,
}

/// The only file of the cluster, as it was at a backup.
fn content(backup: &BackupId) -> Vec<u8> {
    let seed = backup.as_str().bytes().fold(7_u64, |hash, byte| hash.wrapping_mul(1_099_511_628_211) ^ u64::from(byte));
    (0..3000_u64)
        .map(|at| (seed.rotate_left(u32::try_from(at % 64).unwrap()) >> 5).wrapping_add(at).to_le_bytes()[0])
        .collect()
}

impl Cluster {
    pub fn new() -> Self {
        let signer = Arc::new(NoteSigner::new("lifeboat.main".parse().unwrap(), SigningKey::generate().unwrap()));
        let author = SweepAuthor::new(Arc::clone(&signer), "test".to_owned(), Arc::new(OpenGate));
        Self { repository: RepositoryId::random().unwrap(), signer, author, identity: Identity::generate().unwrap() }
    }

    pub fn descriptor(&self) -> Descriptor {
        let created = "2026-01-01T00:00:00Z".parse().unwrap();
        Descriptor::new(self.repository, SYSID, created, self.signer.verify_key())
    }

    pub fn trust(&self, region: &RegionName) -> LogTrust {
        let signers = Signers::root_only(self.signer.verify_key());
        LogTrust { repository: self.repository, signers, region: Some(region.clone()), remembered: None }
    }

    /// Backs up into all regions that answer.
    pub async fn back_up(&self, regions: &mut [Region; 2], day: u32, now: UtcTime, ending: Ending) {
        let backup = BackupId::new(now, day);
        let mut logs: BTreeMap<RegionName, RegionLog> = BTreeMap::new();
        for region in regions.iter_mut() {
            if region.read_log(self).await.is_ok() {
                logs.insert(region.name().clone(), region.log.clone());
            }
        }
        let settings = BackupSettings {
            backup: backup.clone(),
            repository: self.repository,
            plan: MemoryPlan::new(ByteCount::from_mib(64), 1, FRAME, 2 << 20).unwrap(),
            compression_level: 1,
            check: None,
            upload_concurrency: 2,
            lag_limit: Duration::from_secs(600),
            cpu_share: None,
        };
        let stores = regions.iter().map(|region| (*region.store).clone()).collect();
        let mut writer = BackupWriter::start(settings, stores, &CancellationToken::new()).unwrap();
        for region in regions.iter().filter(|region| !logs.contains_key(region.name())) {
            writer.exclude(region.name(), ExclusionReason::Prepare("it is away".into()));
        }
        let bytes = content(&backup);
        let number = FileNumber(0);
        let size = bytes.len() as u64;
        let path = RelativePath::new(b"base/1/1").unwrap();
        let entry = FileEntry { path, kind: EntryKind::File, mode: 0o600, size, modified: 0 };
        writer.facts(b"{}".to_vec()).await.unwrap();
        writer.begin(number, entry).await.unwrap();
        writer.data(number, 0, &bytes).await.unwrap();
        writer.end(number, size).await.unwrap();
        let sealed = writer.finish().await.unwrap();
        let lsn = |offset| Lsn::from_bytes((u64::from(day) + 1) * (16 << 20) + offset).unwrap();
        let timeline = TimelineId::new(1).unwrap();
        let details = BackupDetails {
            kind: BackupKind::Full,
            pg: ServerFacts { version: 170_006, sysid: SYSID, wal_segment_bytes: 16 << 20 },
            start: WalPosition { timeline, lsn: lsn(0x28) },
            stop: WalPosition { timeline, lsn: lsn(0x1000) },
            start_time: now,
            stop_time: now.plus(Duration::from_secs(60)),
            duration_ms: 60_000,
            frame_bytes: u32::try_from(FRAME).unwrap(),
            pages: None,
            omissions: Omissions::default(),
        };
        let last = logs.values().filter_map(|log| log.last_count(self.signer.name())).max();
        let recipients = [self.identity.recipient()];
        let authority = CommitAuthority {
            signer: &self.signer,
            wseq: Origin::next_count(last, now),
            tool: "test",
            recipients: KeyRecipients { recipients: &recipients, commands: &[] },
        };
        // A process that is killed has uploaded everything and said nothing.
        let logs = if ending == Ending::Killed { BTreeMap::new() } else { logs };
        let expected = logs.len();
        let report = sealed.commit(details, authority, logs).await.unwrap();
        assert_eq!(report.committed(), expected, "day {day}: {:?}", report.regions);
        for region in regions.iter_mut() {
            if report.regions.get(region.name()).is_some_and(Result::is_ok) {
                region.remember(&report.record);
                region.set_file_times();
                region.read_log(self).await.unwrap();
            }
        }
    }

    /// Restores the oldest, the newest and one between from a region, and compares every byte.
    pub async fn restore_some(&self, region: &Region, day: u32) -> usize {
        let state = region.log.state(region.now());
        let all: Vec<&BackupRecord> = state.backups.values().map(|backup| &backup.record).collect();
        let middle = usize::try_from(day).unwrap() % all.len();
        let chosen = [all.first(), all.last(), all.get(middle)];
        for record in chosen.into_iter().flatten() {
            let found = self.restore(region, record).await;
            assert_eq!(found, content(&record.backup), "day {day}: {} from {}", record.backup, region.name());
        }
        chosen.len()
    }

    async fn restore(&self, region: &Region, record: &BackupRecord) -> Vec<u8> {
        self.try_restore(&region.store, (*region.store).clone(), record).await.unwrap()
    }

    /// Opens a backup in one region, and reads its files from another, which may be the same.
    pub async fn try_restore(
        &self,
        region: &RegionStore,
        from: RegionStore,
        record: &BackupRecord,
    ) -> Result<Vec<u8>, ReadBackupError> {
        let store = &*region.store;
        let get = async |key| store.get(&key, ByteRange::WholeUpTo(OBJECT_BYTES_MAX)).await.unwrap();
        let epoch = &record.epochs[0];
        let slots = get(layout::slots(epoch.id, epoch.slots)).await;
        let place = EpochPlace { repository: self.repository, epoch: epoch.id };
        let identities = [Identity::from_text(self.identity.to_text().expose()).unwrap()];
        let key = keys::open_slots(&slots, place, Openers { identities: &identities, commands: &[] }).await.unwrap();
        let list = PacksList::parse(&get(layout::packs_list(&record.backup)).await).unwrap();
        let objects: HashMap<_, _> = list.iter().map(|(key, digest)| (key.clone(), digest)).collect();
        let reader = BackupReader::new(
            vec![from],
            StoredBackup { backup: record.backup.clone(), repository: self.repository, epoch: epoch.id, objects },
            key,
        );
        let sink = Arc::new(Remembered::default());
        let settings = ReadSettings { ranges: Ranges::WholeObjects, connections: 1, workers: 1 };
        let shards = record.index.iter().map(|shard| shard.key.clone()).collect();
        let (progress, stop) = (Arc::new(Progress::default()), CancellationToken::new());
        let sink_of_reader = Arc::clone(&sink) as Arc<dyn FileSink>;
        read::read_backup(Arc::new(reader), shards, sink_of_reader, settings, ReadControl { progress, stop: &stop })
            .await?;
        let bytes = sink.bytes.lock().clone();
        assert_eq!(*sink.complete.lock(), 1);
        Ok(bytes)
    }
}

/// Keeps the one file that is restored.
#[derive(Default)]
struct Remembered {
    bytes: Arc<Mutex<Vec<u8>>>,
    complete: Mutex<u32>,
}

struct File(Arc<Mutex<Vec<u8>>>);

impl SinkFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let mut content = self.0.lock();
        let end = (start + bytes.len()).max(content.len());
        content.resize(end, 0);
        content[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

impl FileSink for Remembered {
    fn make(&self, _: &FileEntry) -> io::Result<()> {
        Ok(())
    }

    fn open(&self, _: &FileEntry) -> io::Result<Box<dyn SinkFile>> {
        Ok(Box::new(File(Arc::clone(&self.bytes))))
    }

    fn complete(&self, _: &FileEntry, _: u32, _: Box<dyn SinkFile>) -> io::Result<()> {
        *self.complete.lock() += 1;
        Ok(())
    }

    fn facts(&self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

//! Regions with backups and WAL that lack something: what the tests of healing, scrub and agreement begin with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_stores::{ByteRange, OBJECT_BYTES_MAX, ObjectKey, PutMode, SealedBody, Store, StoreError};
use lifeboat_vocabulary::{BackupId, ByteCount, Lsn, SystemClock, TimelineId, UtcTime, WalPosition};
use tokio_util::sync::CancellationToken;

use crate::format::aead::sha256;
use crate::format::ids::{EpochId, InstanceId, ObjectId};
use crate::format::layout;
use crate::format::packs_list::PacksList;
use crate::heal::pace::Pace;
use crate::heal::progress::HealProgress;
use crate::heal::report::{HealError, HealReport};
use crate::heal::run::heal_region;
use crate::heal::scope::HealScope;
use crate::heal::tools::{HealRegion, HealTools, Look};
use crate::log::append::Draft;
use crate::log::note::NoteSigner;
use crate::log::records::backup::{BackupRecord, EpochRef, PacksRef, ShardRef};
use crate::log::records::record::RecordBody;
use crate::log::region_log::{LogTrust, RegionLog};
use crate::log::region_state::holds_in_force;
use crate::log::region_store::RegionStore;
use crate::samples;
use crate::samples::wal::{self, Archive};
use crate::wal::head::{Head, HeadFile};
use crate::wal::object::SealedWal;

pub(crate) const MIB: u64 = 1 << 20;

/// Regions, some of which lack something.
pub(crate) struct Scene {
    pub(crate) archive: Archive,
    pub(crate) signer: NoteSigner,
    pub(crate) pace: Pace,
    pub(crate) progress: HealProgress,
    pub(crate) stop: CancellationToken,
    count: u64,
}

/// Bytes that nobody could mistake for those of another object.
pub(crate) fn content(name: &str, size: usize) -> Bytes {
    name.bytes().cycle().take(size).collect::<Vec<u8>>().into()
}

impl Scene {
    pub(crate) async fn new(names: &[&str]) -> Self {
        Self {
            archive: Archive::new(names).await,
            signer: samples::signer(),
            pace: Pace::new(None),
            progress: HealProgress::default(),
            stop: CancellationToken::new(),
            count: 10,
        }
    }

    pub(crate) fn store(&self, region: usize) -> RegionStore {
        let region = &self.archive.regions[region];
        RegionStore { name: region.name.clone(), store: Arc::clone(&region.faults) as Arc<dyn Store> }
    }

    /// What lies in a region, without anything that can go wrong on the way.
    pub(crate) fn memory(&self, region: usize) -> &dyn Store {
        &*self.archive.regions[region].memory
    }

    pub(crate) async fn log(&self, region: usize) -> RegionLog {
        let name = self.archive.regions[region].name.to_string();
        RegionLog::read(self.memory(region), wal::trust(&name)).await.unwrap()
    }

    pub(crate) async fn region(&self, region: usize) -> HealRegion {
        HealRegion { store: self.store(region), log: self.log(region).await }
    }

    pub(crate) async fn append(&mut self, region: usize, body: RecordBody) {
        self.count += 1;
        let draft = Draft { origin: samples::origin(self.count), body };
        self.log(region).await.append(self.memory(region), &self.signer, &draft).await.unwrap();
    }

    pub(crate) async fn append_everywhere(&mut self, regions: &[usize], body: RecordBody) {
        self.count += 1;
        let draft = Draft { origin: samples::origin(self.count), body };
        for region in regions {
            self.log(*region).await.append(self.memory(*region), &self.signer, &draft).await.unwrap();
        }
    }

    pub(crate) async fn put(&self, region: usize, key: &ObjectKey, bytes: Bytes) {
        let body = SealedBody { sha256: sha256(&bytes), bytes };
        match self.memory(region).put(key, body, PutMode::CreateOnly).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn overwrite(&self, region: usize, key: &ObjectKey, bytes: Bytes) {
        wal::overwrite(&self.archive.regions[region].memory, key, bytes).await;
    }

    /// A backup of three packs, complete in these regions. `name` is `DD` of November 2026, and `start` where it begins.
    pub(crate) async fn backup(&mut self, day: u8, start: u64, regions: &[usize]) -> BackupRecord {
        let id: BackupId = format!("202611{day:02}T020003Z-5f1c09ab").parse().unwrap();
        let mut list = PacksList::default();
        let mut objects: Vec<(ObjectKey, Bytes)> = (0..3_u8)
            .map(|number| {
                let key = layout::pack(&id, u32::from(number), ObjectId::from_bytes([number + 1; 16]));
                (key.clone(), content(key.as_str(), 1000 + usize::from(number)))
            })
            .collect();
        let shard = layout::index_shard(&id, 0);
        objects.push((shard.clone(), content(shard.as_str(), 500)));
        for (key, bytes) in &objects {
            list.insert(key.clone(), sha256(bytes)).unwrap();
        }
        let body = list.to_body().unwrap();
        let epoch = EpochId::from_bytes([day; 16]);
        let slots = content(&format!("slots {day}"), 300);
        let template = samples::backup_record_named(id.as_str(), &format!("2026-11-{day:02}T02:41:07Z"));
        let bytes = ByteCount::from_bytes(objects.iter().map(|(_, bytes)| bytes.len() as u64).sum());
        let shard_ref = ShardRef { key: shard, sha256: sha256(&objects[3].1), size: ByteCount::from_bytes(500) };
        let lsn = |at| Lsn::from_bytes(at).unwrap();
        let record = BackupRecord {
            epochs: vec![EpochRef { id: epoch, slots: 0, keys_sha256: sha256(&slots) }],
            packs: PacksRef { sha256: body.sha256, objects: 4, bytes, own: 4, own_bytes: bytes },
            index: vec![shard_ref],
            start_lsn: lsn(start),
            start_tli: TimelineId::new(1).unwrap(),
            stop_lsn: lsn(start + 100),
            stop_tli: TimelineId::new(1).unwrap(),
            ..template
        };
        objects.push((layout::slots(epoch, 0), slots));
        objects.push((layout::packs_list(&id), body.bytes));
        for region in regions {
            for (key, bytes) in &objects {
                self.put(*region, key, bytes.clone()).await;
            }
        }
        self.append_everywhere(regions, RecordBody::Backup(Box::new(record.clone()))).await;
        record
    }

    /// A piece of 1 MiB of WAL, or a part of one, in these regions.
    pub(crate) async fn wal(&mut self, start: u64, end: u64, regions: &[usize]) -> SealedWal {
        let range = samples::wal_range(1, start, end);
        let sealed = match (start.is_multiple_of(MIB), end - start == MIB) {
            (true, true) => self.archive.piece(range),
            _ => self.archive.slice(range),
        };
        self.archive.store(&sealed, regions).await;
        sealed
    }

    /// A region's writer says that the region has everything up to here.
    pub(crate) async fn sign_of_life(&self, region: usize, timeline: u32, durable: u64) {
        let name = &self.archive.regions[region].name;
        let head = Head {
            repository: samples::repository(),
            region: name.clone(),
            writer: self.signer.name().clone(),
            instance: InstanceId::from_bytes([3; 8]),
            time: samples::time("2026-11-20T02:00:00Z"),
            log: None,
            last_record: None,
            complete: None,
            confirmed: None,
            durable: Some(WalPosition {
                timeline: TimelineId::new(timeline).unwrap(),
                lsn: Lsn::from_bytes(durable).unwrap(),
            }),
        };
        let (store, trust) = (self.memory(region), wal::trust(name.as_str()));
        let (mut file, _) = HeadFile::open(store, self.signer.name(), &trust).await.unwrap();
        file.write(store, &self.signer, &head).await.unwrap();
    }

    /// Deletes everything in a region whose key begins with this.
    pub(crate) async fn expire(&self, region: usize, prefix: &str) {
        let store = self.memory(region);
        while let Some(entry) = store.list(prefix, None).await.unwrap().entries.into_iter().next() {
            store.delete(&entry.key).await.unwrap();
        }
    }

    pub(crate) fn trust(&self) -> LogTrust {
        LogTrust { region: None, ..wal::trust("any") }
    }

    pub(crate) async fn scope(&self) -> HealScope {
        let mut logs = Vec::new();
        for region in 0..self.archive.regions.len() {
            logs.push(self.log(region).await);
        }
        everything(&logs, samples::time("2026-11-30T00:00:00Z"))
    }

    /// What a healing works with.
    pub(crate) fn tools<'a>(&'a self, trust: &'a LogTrust, look: Look) -> HealTools<'a> {
        HealTools {
            signer: &self.signer,
            trust,
            pace: &self.pace,
            progress: &self.progress,
            stop: &self.stop,
            clock: &SystemClock,
            tool: "lifeboat test",
            settled: Duration::ZERO,
            look,
        }
    }

    /// Heals one region from others.
    pub(crate) async fn try_heal(&self, target: usize, sources: &[usize]) -> Result<HealReport, HealError> {
        let scope = self.scope().await;
        let mut healed = self.region(target).await;
        let mut others = Vec::new();
        for source in sources {
            others.push(self.region(*source).await);
        }
        let trust = self.trust();
        let tools = self.tools(&trust, Look::AtObjects);
        heal_region(&mut healed, &others, &scope, &tools).await
    }

    pub(crate) async fn heal(&self, target: usize, sources: &[usize]) -> HealReport {
        self.try_heal(target, sources).await.unwrap()
    }

    /// Everything in a region but its log and its writers' state.
    pub(crate) async fn contents(&self, region: usize) -> BTreeMap<ObjectKey, Bytes> {
        let store = self.memory(region);
        let mut contents = BTreeMap::new();
        let mut after = None;
        loop {
            let page = store.list("", after.as_ref()).await.unwrap();
            for entry in &page.entries {
                let text = entry.key.as_str();
                if !text.starts_with("log/") && !text.starts_with("state/") {
                    let bytes = store.get(&entry.key, ByteRange::WholeUpTo(OBJECT_BYTES_MAX)).await.unwrap();
                    contents.insert(entry.key.clone(), bytes);
                }
            }
            match page.entries.last().filter(|_| page.more) {
                Some(last) => after = Some(last.key.clone()),
                None => return contents,
            }
        }
    }

    /// What a region's log says and its objects do not keep: nothing durable is ever claimed early.
    pub(crate) async fn broken_promises(&self, region: usize) -> Vec<String> {
        let (log, contents) = (self.log(region).await, self.contents(region).await);
        let mut broken = Vec::new();
        for entry in log.entries() {
            if let Some(record) = entry.record.backup() {
                let key = layout::packs_list(&record.backup);
                let Some(list) = contents.get(&key).filter(|bytes| sha256(bytes) == record.packs.sha256) else {
                    broken.push(key.to_string());
                    continue;
                };
                let list = PacksList::parse(list).unwrap();
                let slots = record.epochs.iter().map(|epoch| (layout::slots(epoch.id, epoch.slots), epoch.keys_sha256));
                let objects = list.iter().map(|(key, digest)| (key.clone(), digest)).chain(slots);
                let missing =
                    objects.filter(|(key, digest)| contents.get(key).is_none_or(|bytes| sha256(bytes) != *digest));
                broken.extend(missing.map(|(key, _)| key.to_string()));
            }
            if let RecordBody::WalEpoch(epoch) = &entry.record.body
                && !contents.contains_key(&layout::slots(epoch.epoch, 0))
            {
                broken.push(format!("slots of {}", epoch.epoch));
            }
        }
        broken
    }
}

/// Every backup that exists somewhere and is not about to leave there, and all WAL.
fn everything(logs: &[RegionLog], now: UtcTime) -> HealScope {
    let holds = holds_in_force(logs, now);
    let stays = |log: &RegionLog| {
        let mut state = log.state(now);
        state.adopt_holds(holds.clone());
        state.backups.into_iter().filter(|(_, backup)| backup.leaving.is_none()).map(|(backup, _)| backup)
    };
    HealScope { backups: logs.iter().flat_map(stays).collect(), wal_from: None }
}

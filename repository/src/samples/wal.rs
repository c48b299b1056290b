//! A small archive of WAL that several tests begin with: regions that can fail, keys, and objects.

use std::sync::Arc;

use bytes::Bytes;
use lifeboat_stores::{MemoryStore, ObjectKey, PutMode, SealedBody, Store, WithFaults};
use lifeboat_vocabulary::RegionName;

use crate::format::aead::sha256;
use crate::format::layout::WalRange;
use crate::keys::identity::Identity;
use crate::keys::slots::KeyRecipients;
use crate::log::append::Draft;
use crate::log::note::NoteSigner;
use crate::log::records::record::RecordBody;
use crate::log::records::wal::WalEpochRecord;
use crate::log::region_log::{LogTrust, RegionLog};
use crate::log::region_store::RegionStore;
use crate::log::signers::Signers;
use crate::samples;
use crate::wal::epoch::WalEpoch;
use crate::wal::name::PieceSize;
use crate::wal::object::{SealedWal, WalLevels, WalSealer, WalTrust};
use crate::wal::read::keys::{WalOpeners, WalRegion};
use crate::wal::read::reader::WalReader;

/// A region in memory, with its repository and log.
pub(crate) struct Region {
    pub(crate) name: RegionName,
    pub(crate) memory: Arc<MemoryStore>,
    pub(crate) faults: Arc<WithFaults>,
    pub(crate) log: RegionLog,
}

pub(crate) struct Archive {
    identity: Identity,
    pub(crate) epoch: WalEpoch,
    sealer: WalSealer,
    pub(crate) regions: Vec<Region>,
}

pub(crate) fn trust(region: &str) -> LogTrust {
    let signers = Signers::root_only(samples::signer().verify_key());
    LogTrust { repository: samples::repository(), signers, region: Some(region.parse().unwrap()), remembered: None }
}

pub(crate) fn wal_trust() -> WalTrust {
    WalTrust::of(&trust("eu-1"))
}

pub(crate) fn sealer(signer: NoteSigner) -> WalSealer {
    WalSealer::new(samples::repository(), Arc::new(signer), WalLevels::default()).unwrap()
}

pub(crate) async fn new_epoch(identity: &Identity) -> WalEpoch {
    let holders = KeyRecipients { recipients: &[identity.recipient()], commands: &[] };
    WalEpoch::new(samples::repository(), samples::time("2026-11-20T02:00:00Z"), holders).await.unwrap()
}

pub(crate) fn epoch_record(epoch: &WalEpoch) -> WalEpochRecord {
    let range = samples::wal_range(1, 0x100_0000, 0x200_0000);
    WalEpochRecord {
        epoch: epoch.id(),
        keys_sha256: epoch.slots().sha256,
        timeline: range.timeline,
        start: range.start,
        wal_segment_bytes: 16 << 20,
        incarnation: None,
    }
}

/// Bytes that look like WAL: some repeat, some do not, and every position has its own.
pub(crate) fn wal_bytes(range: WalRange) -> Vec<u8> {
    let byte = |at: u64| match at % 16 {
        0..12 => (at / 4096).to_le_bytes()[0] | 1,
        _ => (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56).to_le_bytes()[0] | 1,
    };
    (range.start.as_bytes()..range.end.as_bytes()).map(byte).collect()
}

pub(crate) async fn overwrite(store: &MemoryStore, key: &ObjectKey, bytes: Bytes) {
    store.delete(key).await.unwrap();
    store.put(key, SealedBody { sha256: sha256(&bytes), bytes }, PutMode::CreateOnly).await.unwrap();
}

impl Archive {
    /// Regions with a repository, a log and the key of one epoch, and no WAL yet.
    pub(crate) async fn new(names: &[&str]) -> Self {
        let identity = Identity::generate().unwrap();
        let epoch = new_epoch(&identity).await;
        let mut regions = Vec::new();
        for name in names {
            let memory = Arc::new(MemoryStore::new());
            let signer = samples::signer();
            samples::descriptor().create(&*memory, &signer).await.unwrap();
            let mut log = RegionLog::read(&*memory, trust(name)).await.unwrap();
            epoch.publish(&*memory).await.unwrap();
            for (wseq, body) in
                (0..).zip([RecordBody::Init(samples::init_record()), RecordBody::WalEpoch(epoch_record(&epoch))])
            {
                log.append(&*memory, &signer, &Draft { origin: samples::origin(wseq), body }).await.unwrap();
            }
            let faults = Arc::new(WithFaults::new(Arc::clone(&memory) as Arc<dyn Store>));
            regions.push(Region { name: name.parse().unwrap(), memory, faults, log });
        }
        Self { identity, epoch, sealer: sealer(samples::signer()), regions }
    }

    /// All regions, whether their logs could be read or not.
    pub(crate) fn reader_with(&self, with_log: impl Fn(&Region) -> bool) -> WalReader {
        let region = |region: &Region| {
            let store = RegionStore { name: region.name.clone(), store: Arc::clone(&region.faults) as Arc<dyn Store> };
            WalRegion { store, log: with_log(region).then(|| region.log.clone()) }
        };
        let regions = self.regions.iter().map(region).collect();
        WalReader::new(wal_trust(), self.openers(), regions, PieceSize::LARGEST)
    }

    pub(crate) fn reader(&self) -> WalReader {
        self.reader_with(|_| true)
    }

    pub(crate) fn openers(&self) -> WalOpeners {
        let identity = Identity::from_text(self.identity.to_text().expose()).unwrap();
        WalOpeners { identities: vec![identity], commands: Vec::new() }
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn slice_of(&mut self, range: WalRange, bytes: &[u8]) -> SealedWal {
        self.sealer.seal_slice(&self.epoch, range, bytes).unwrap()
    }

    pub(crate) fn slice(&mut self, range: WalRange) -> SealedWal {
        self.slice_of(range, &wal_bytes(range))
    }

    pub(crate) fn piece(&mut self, range: WalRange) -> SealedWal {
        self.sealer.seal_piece(&self.epoch, range, &wal_bytes(range)).unwrap()
    }

    pub(crate) fn history(&mut self, timeline: u32, content: &str) -> SealedWal {
        let timeline = lifeboat_vocabulary::TimelineId::new(timeline).unwrap();
        self.sealer.seal_history(&self.epoch, timeline, content.as_bytes()).unwrap()
    }

    /// Stores an object in the regions of these numbers.
    pub(crate) async fn store(&self, object: &SealedWal, regions: &[usize]) {
        for region in regions {
            let store = &self.regions[*region].memory;
            store.put(&object.name.key(), object.body.clone(), PutMode::CreateOnly).await.unwrap();
        }
    }

    /// Stores other bytes at the place of an object.
    pub(crate) async fn replace(&self, object: &SealedWal, region: usize, bytes: Bytes) {
        overwrite(&self.regions[region].memory, &object.name.key(), bytes).await;
    }
}

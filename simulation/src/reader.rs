//! A restore host: it has the regions, an identity and the root key, and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use lifeboat_repository::backup::Progress;
use lifeboat_repository::backup::read::{
    self, BackupReader, FileSink, Ranges, ReadControl, ReadSettings, SinkFile, StoredBackup,
};
use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::format::{PacksList, layout};
use lifeboat_repository::keys::{self, EpochPlace, Identity, Openers, VerifyKey};
use lifeboat_repository::log::records::BackupRecord;
use lifeboat_repository::log::{Descriptor, LogTrust, RegionLog, RegionStore, Signers};
use lifeboat_repository::wal::read::{WalOpeners, WalRead, WalReader, WalRegion};
use lifeboat_repository::wal::{PieceSize, WalTrust};
use lifeboat_stores::{ByteRange, OBJECT_BYTES_MAX, Store};
use lifeboat_vocabulary::{FileEntry, SegmentSize};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::server::{SEGMENT, position};

/// The most bytes of WAL that are asked for at once.
const READ: u64 = 4 << 20;

/// A restore host.
pub struct Reader {
    root: VerifyKey,
    identity: Identity,
    regions: Vec<RegionStore>,
}

/// A region with its log.
pub struct ReadRegion {
    /// The region.
    pub store: RegionStore,
    /// Its log.
    pub log: RegionLog,
}

impl Reader {
    /// With these regions, named `r0` and so on.
    #[must_use]
    pub fn new(root: VerifyKey, identity: Identity, regions: &[Arc<dyn Store>]) -> Self {
        let named = |(index, store): (usize, &Arc<dyn Store>)| RegionStore {
            name: format!("r{index}").parse().expect("it is a name"),
            store: Arc::clone(store),
        };
        Self { root, identity, regions: regions.iter().enumerate().map(named).collect() }
    }

    /// Reads a region's log under the root key that was pinned.
    ///
    /// # Errors
    /// If it is not to be trusted, or cannot be read.
    pub async fn region(&self, index: usize) -> anyhow::Result<ReadRegion> {
        let store = self.regions.get(index).context("there is such a region")?.clone();
        let (descriptor, _) = Descriptor::read(&*store.store, Some(&self.root)).await.context("read the descriptor")?;
        let trust = LogTrust {
            repository: descriptor.repo,
            signers: Signers::root_only(self.root),
            region: Some(store.name.clone()),
            remembered: None,
        };
        let log = RegionLog::read(&*store.store, trust).await.context("read the log")?;
        Ok(ReadRegion { store, log })
    }

    /// The files of a backup, from one region alone.
    ///
    /// # Errors
    /// If anything is missing or damaged.
    pub async fn restore(
        &self,
        region: &ReadRegion,
        record: &BackupRecord,
    ) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let store = &*region.store.store;
        let get = async |key| store.get(&key, ByteRange::WholeUpTo(OBJECT_BYTES_MAX)).await;
        let epoch = record.epochs.first().context("it names a key")?;
        let repository = region.log.trust().repository;
        let slots = get(layout::slots(epoch.id, epoch.slots)).await.context("read the wrapped key")?;
        let place = EpochPlace { repository, epoch: epoch.id };
        let identities = [self.identity()?];
        let openers = Openers { identities: &identities, commands: &[] };
        let key = keys::open_slots(&slots, place, openers).await.context("open the key")?;
        let list = get(layout::packs_list(&record.backup)).await.context("read the list of packs")?;
        let list = PacksList::parse(&list).context("read the list of packs")?;
        let objects: HashMap<_, _> = list.iter().map(|(key, digest)| (key.clone(), digest)).collect();
        let stored = StoredBackup { backup: record.backup.clone(), repository, epoch: epoch.id, objects };
        let reader = BackupReader::new(vec![region.store.clone()], stored, key);
        let sink = Arc::new(Files::default());
        let settings = ReadSettings { ranges: Ranges::WholeObjects, connections: 1, workers: 1 };
        let shards = record.index.iter().map(|shard| shard.key.clone()).collect();
        let stop = CancellationToken::new();
        let control = ReadControl { progress: Arc::new(Progress::default()), stop: &stop };
        let files = Arc::clone(&sink) as Arc<dyn FileSink>;
        read::read_backup(Arc::new(reader), shards, files, settings, control).await.context("read the files")?;
        let files = sink.0.lock();
        Ok(files.iter().map(|(name, bytes)| (name.clone(), bytes.lock().clone())).collect())
    }

    fn identity(&self) -> anyhow::Result<Identity> {
        Ok(Identity::from_text(self.identity.to_text().expose())?)
    }

    /// A reader of WAL over some regions.
    ///
    /// # Errors
    /// If the identity cannot be read.
    pub fn wal<'r>(&self, regions: impl IntoIterator<Item = &'r ReadRegion>) -> anyhow::Result<WalReader> {
        let regions: Vec<&ReadRegion> = regions.into_iter().collect();
        let first = regions.first().context("there is a region")?;
        let mut signers = Signers::root_only(self.root);
        regions.iter().for_each(|region| signers.merge(&region.log.trust().signers));
        let repository = first.log.trust().repository;
        let trust = LogTrust { repository, signers, region: None, remembered: None };
        let with_logs =
            regions.iter().map(|region| WalRegion { store: region.store.clone(), log: Some(region.log.clone()) });
        let openers = WalOpeners { identities: vec![self.identity()?], commands: Vec::new() };
        let segment = SegmentSize::from_bytes(SEGMENT).context("segments have a size")?;
        Ok(WalReader::new(WalTrust::of(&trust), Arc::new(openers), with_logs.collect(), PieceSize::of(segment)))
    }
}

/// The WAL of a timeline from `start` to `end`.
///
/// # Errors
/// If it is not all there.
pub async fn read_wal(reader: &WalReader, timeline: u32, start: u64, end: u64) -> anyhow::Result<Vec<u8>> {
    let mut found = Vec::new();
    let mut at = start;
    while at < end {
        let until = (at / READ + 1) * READ;
        let part = end.min(until);
        let (from, to) = (position(timeline, at), position(timeline, part));
        match reader.read(WalRange { timeline: from.timeline, start: from.lsn, end: to.lsn }).await {
            WalRead::Found(bytes) => found.extend_from_slice(&bytes),
            other => bail!("from {from} to {to}: {}", in_words(&other)),
        }
        at = part;
    }
    ensure!(found.len() as u64 == end - start, "{} bytes of {}", found.len(), end - start);
    Ok(found)
}

fn in_words(read: &WalRead) -> String {
    match read {
        WalRead::Found(bytes) => format!("{} bytes", bytes.len()),
        WalRead::Beginning { bytes, later } => format!("only {} bytes; it goes on at {later:?}", bytes.len()),
        WalRead::NotThere { later } => format!("nothing; it goes on at {later:?}"),
        WalRead::Undetermined(troubles) => format!("not known: {troubles:?}"),
    }
}

type Content = Arc<Mutex<Vec<u8>>>;

/// Keeps files in memory.
#[derive(Default)]
struct Files(Mutex<BTreeMap<String, Content>>);

struct OneFile(Content);

impl SinkFile for OneFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let mut content = self.0.lock();
        let end = (start + bytes.len()).max(content.len());
        content.resize(end, 0);
        content.splice(start..start + bytes.len(), bytes.iter().copied());
        Ok(())
    }
}

impl FileSink for Files {
    fn make(&self, _: &FileEntry) -> io::Result<()> {
        Ok(())
    }

    fn open(&self, entry: &FileEntry) -> io::Result<Box<dyn SinkFile>> {
        let content = Content::default();
        self.0.lock().insert(entry.path.to_string(), Arc::clone(&content));
        Ok(Box::new(OneFile(content)))
    }

    fn complete(&self, _: &FileEntry, _: u32, _: Box<dyn SinkFile>) -> io::Result<()> {
        Ok(())
    }

    fn facts(&self, json: &[u8]) -> io::Result<()> {
        drop(Bytes::copy_from_slice(json));
        Ok(())
    }
}

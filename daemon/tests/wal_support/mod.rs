//! Regions that fail on demand, a server's WAL that is made up, and the shipper between them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_daemon::wal::CommitMode;
use lifeboat_daemon::wal::server_memory::ServerMemory;
use lifeboat_daemon::wal::ship::positions::{Offer, Positions};
use lifeboat_daemon::wal::ship::settings::{ShipSettings, WalKeyRecipients};
use lifeboat_daemon::wal::ship::shipper::Shipper;
use lifeboat_repository::format::ids::RepositoryId;
use lifeboat_repository::format::layout::{WalForm, WalRange};
use lifeboat_repository::keys::{Identity, KeyRecipients, SigningKey};
use lifeboat_repository::log::records::{InitRecord, Origin, RecordBody};
use lifeboat_repository::log::{Descriptor, Draft, LogTrust, NoteSigner, RegionLog, RegionStore, Signers};
use lifeboat_repository::wal::read::{WalOpeners, WalRead, WalReader, WalRegion};
use lifeboat_repository::wal::{PieceSize, WalEpoch, WalLevels, WalObject, WalSealer, WalTrust};
use lifeboat_stores::{Fault, MemoryStore, Operation, PutMode, Rule, Store, WithFaults};
use lifeboat_vocabulary::{ByteCount, Clock, Lsn, SegmentSize, SystemClock, TimelineId, WalPosition};
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;

pub fn lsn(bytes: u64) -> Lsn {
    Lsn::from_bytes(bytes).unwrap()
}

pub fn at(timeline: u32, bytes: u64) -> WalPosition {
    WalPosition { timeline: TimelineId::new(timeline).unwrap(), lsn: lsn(bytes) }
}

pub fn range(timeline: u32, start: u64, end: u64) -> WalRange {
    WalRange { timeline: TimelineId::new(timeline).unwrap(), start: lsn(start), end: lsn(end) }
}

pub fn segment(mib: u64) -> SegmentSize {
    SegmentSize::from_bytes(mib * MIB).unwrap()
}

/// The WAL of a made-up server: the same position always has the same bytes, and nothing compresses well.
pub fn wal(timeline: u32, start: u64, end: u64) -> Bytes {
    let mut bytes = Vec::new();
    let mut word = start / 8;
    while word * 8 < end {
        let mut mixed = (word ^ (u64::from(timeline) << 56)).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 27)).to_le_bytes());
        word += 1;
    }
    let from = usize::try_from(start % 8).unwrap();
    Bytes::from(bytes).slice(from..from + usize::try_from(end - start).unwrap())
}

/// A repository in some regions.
pub struct World {
    pub dir: TempDir,
    pub stores: Vec<Arc<WithFaults>>,
    pub signer: Arc<NoteSigner>,
    repository: RepositoryId,
    identity: Identity,
}

impl World {
    pub async fn new(regions: usize) -> Self {
        Self::with((0..regions).map(|_| Arc::new(MemoryStore::new()) as Arc<dyn Store>).collect()).await
    }

    pub async fn with(stores: Vec<Arc<dyn Store>>) -> Self {
        let signer = NoteSigner::new("lifeboat.test".parse().unwrap(), SigningKey::generate().unwrap());
        let world = Self {
            dir: tempfile::tempdir().unwrap(),
            stores: stores.into_iter().map(|store| Arc::new(WithFaults::new(store))).collect(),
            signer: Arc::new(signer),
            repository: RepositoryId::random().unwrap(),
            identity: Identity::generate().unwrap(),
        };
        let descriptor = Descriptor::new(world.repository, 7, SystemClock.now(), world.signer.verify_key());
        for index in 0..world.stores.len() {
            let mut log = world.log(index).await;
            let descriptor_sha256 = descriptor.create(&*world.stores[index], &world.signer).await.unwrap();
            let body = RecordBody::Init(InitRecord { repo: world.repository, sysid: 7, descriptor_sha256 });
            let (writer, time) = (world.signer.name().clone(), SystemClock.now());
            let origin = Origin { writer, wseq: 1, time, tool: "test".to_owned() };
            log.append(&*world.stores[index], &world.signer, &Draft { origin, body }).await.unwrap();
        }
        world
    }

    pub fn region(&self, index: usize) -> RegionStore {
        let store = Arc::clone(&self.stores[index]) as Arc<dyn Store>;
        RegionStore { name: format!("r{index}").parse().unwrap(), store }
    }

    pub async fn log(&self, index: usize) -> RegionLog {
        let region = Some(self.region(index).name);
        let signers = Signers::root_only(self.signer.verify_key());
        let trust = LogTrust { repository: self.repository, signers, region, remembered: None };
        RegionLog::read(&*self.stores[index], trust).await.unwrap()
    }

    pub fn settings(&self) -> ShipSettings {
        ShipSettings {
            flush_interval: Duration::from_millis(50),
            mode: CommitMode::Asynchronous,
            wal_quorum: 1,
            spool_directory: self.spool(),
            spool_limit: ByteCount::from_mib(64),
            memory: ByteCount::from_mib(64),
            cluster: "main".parse().unwrap(),
            repository: self.repository,
            signer: Arc::clone(&self.signer),
            recipients: WalKeyRecipients { recipients: vec![self.identity.recipient()], commands: Vec::new() },
            tool: "test".to_owned(),
            incarnation: None,
            server: ServerMemory::open(self.dir.path()),
            logs: Arc::default(),
        }
    }

    pub fn spool(&self) -> PathBuf {
        self.dir.path().join("spool")
    }

    pub async fn start(&self, settings: ShipSettings) -> Shipper {
        let regions = (0..self.stores.len()).map(|index| self.region(index));
        Shipper::start(settings, regions.collect(), Arc::new(SystemClock)).await.unwrap()
    }

    /// Somebody with the same key stores a piece with other content. Returns the object.
    pub async fn store_other_wal(&self, region: usize, range: WalRange) -> Bytes {
        let recipients = [self.identity.recipient()];
        let recipients = KeyRecipients { recipients: &recipients, commands: &[] };
        let epoch = WalEpoch::new(self.repository, SystemClock.now(), recipients).await.unwrap();
        let mut sealer = WalSealer::new(self.repository, Arc::clone(&self.signer), WalLevels::default()).unwrap();
        let bytes = vec![7; usize::try_from(range.len()).unwrap()];
        let sealed = sealer.seal_piece(&epoch, range, &bytes).unwrap();
        self.stores[region].put(&sealed.name.key(), sealed.body.clone(), PutMode::CreateOnly).await.unwrap();
        sealed.body.bytes
    }

    /// Reads WAL back from one region alone.
    pub async fn read(&self, index: usize, wanted: WalRange, segment: SegmentSize) -> WalRead {
        let trust = WalTrust::new(self.repository, &[self.signer.verify_key()]);
        let identities = vec![Identity::from_text(self.identity.to_text().expose()).unwrap()];
        let openers = WalOpeners { identities, commands: Vec::new() };
        let regions = vec![WalRegion { store: self.region(index), log: Some(self.log(index).await) }];
        WalReader::new(trust, openers, regions, PieceSize::of(segment)).read(wanted).await
    }

    /// The first part of this WAL that a region does not have, byte for byte, and what it has instead.
    pub async fn lacks(&self, region: usize, wanted: WalRange, segment: SegmentSize) -> Option<(WalRange, WalRead)> {
        let mut start = wanted.start.as_bytes();
        while start < wanted.end.as_bytes() {
            let end = (start + MIB).min(wanted.end.as_bytes());
            let part = WalRange { start: lsn(start), end: lsn(end), ..wanted };
            match self.read(region, part, segment).await {
                WalRead::Found(bytes) if bytes == wal(wanted.timeline.get(), start, end) => start = end,
                other => return Some((part, other)),
            }
        }
        None
    }

    /// Every region named has this WAL, byte for byte.
    pub async fn all_have(&self, regions: &[usize], wanted: WalRange, segment: SegmentSize) {
        for &region in regions {
            if let Some((part, read)) = self.lacks(region, wanted, segment).await {
                panic!("region {region} does not have {part}: {read:?}");
            }
        }
    }

    /// The objects of one form that a region has.
    pub async fn objects(&self, region: usize, form: WalForm) -> Vec<WalObject> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = self.stores[region].list(form.prefix(), after.as_ref()).await.unwrap();
            found.extend(page.entries.iter().filter_map(|entry| WalObject::of_key(&entry.key)));
            match page.entries.last().filter(|_| page.more) {
                Some(last) => after = Some(last.key.clone()),
                None => return found,
            }
        }
    }

    /// The files in the spool.
    pub fn spooled(&self) -> BTreeSet<String> {
        let names = std::fs::read_dir(self.spool()).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).filter(|name| name.starts_with('0')).collect()
    }
}

/// Offers WAL as a stream does, in messages of up to 128 KiB. Stops where it is refused for want of room.
pub async fn offer(shipper: &Shipper, timeline: u32, start: u64, end: u64) -> u64 {
    let mut sent = start;
    while sent < end {
        let next = (sent + 128 * 1024).min(end);
        match shipper.offer(at(timeline, sent), wal(timeline, sent, next)).await.unwrap() {
            Offer::Taken => sent = next,
            Offer::Full => break,
        }
    }
    sent
}

/// Waits until positions are as wanted.
pub async fn until(shipper: &Shipper, what: &str, wanted: impl Fn(&Positions) -> bool) -> Positions {
    let mut positions = shipper.watch();
    let reached = tokio::time::timeout(Duration::from_secs(60), positions.wait_for(wanted)).await;
    match reached {
        Ok(reached) => reached.unwrap().clone(),
        Err(_) => panic!("{what} never comes: {:#?}", shipper.positions()),
    }
}

/// Waits until all regions have everything up to `end` of a timeline.
pub async fn everywhere(shipper: &Shipper, timeline: u32, end: u64) -> Positions {
    let end = at(timeline, end);
    until(shipper, "everything everywhere", |now| now.regions.iter().all(|region| region.durable == Some(end))).await
}

/// Waits until something that can only be looked at has come true.
pub async fn eventually(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let patience = tokio::time::Instant::now() + Duration::from_secs(60);
    while !is_true().await {
        assert!(tokio::time::Instant::now() < patience, "{what} never comes true");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The fault meets what is written.
pub fn puts_of_wal(fault: Fault) -> Rule {
    Rule { operation: Some(Operation::Put), ..Rule::always(fault) }
}

/// The host's task ends whenever a part of the shipper fails, and is begun again, as the supervisor does, until everything that
/// the server sends is everywhere: it has WAL from `first` on.
pub async fn begun_again_until_everywhere(world: &World, settings: &ShipSettings, first: u64, sent: u64) {
    for _ in 0..4 {
        let shipper = world.start(settings.clone()).await;
        shipper.begin(at(1, first), segment(1)).unwrap();
        offer(&shipper, 1, first, sent).await;
        let is_done = tokio::select! {
            _ = everywhere(&shipper, 1, sent) => true,
            _ = shipper.failed() => false,
        };
        if is_done {
            return;
        }
    }
    panic!("a part of the shipper fails each time");
}

//! The stream of WAL over bucket stores that misbehave: nothing but a proven absence is the end of the WAL.

#![allow(clippy::unwrap_used, reason = "a scene that cannot be set up is a failed test")]

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_repository::format::ids::{InstanceId, RepositoryId};
use lifeboat_repository::format::layout::{WalForm, WalRange};
use lifeboat_repository::keys::{Identity, KeyRecipients, SigningKey};
use lifeboat_repository::log::records::{InitRecord, Origin, RecordBody, WalEpochRecord};
use lifeboat_repository::log::{Descriptor, Draft, LogTrust, NoteSigner, RegionLog, RegionStore, Signers};
use lifeboat_repository::wal::read::{HistoryRead, WalOpeners, WalRead, WalReader, WalRegion};
use lifeboat_repository::wal::{
    self, EarlierHead, Head, HeadFile, Lease, LeaseAnswer, LeaseMemory, LeaseTerms, PieceSize, SealedWal, WalEpoch,
    WalLevels, WalObject, WalSealer, WalTrust,
};
use lifeboat_s3_testd::{
    Bucket, Config, CorruptGet, Deny, Failure, KeyPattern, Operation, Server, Times, TruncateGet, Truncation,
};
use lifeboat_stores::{MemoryStore, PutMode, RegionSettings, Store, Support, open};
use lifeboat_vocabulary::{Lsn, RegionName, SystemClock, TimelineId, UtcTime, WalPosition};
use tempfile::TempDir;

const SYSID: u64 = 7_400_000_000_000_000_001;
const SEGMENT: u64 = 16 << 20;

struct Region {
    server: Server,
    store: Arc<dyn Store>,
    log: RegionLog,
}

struct Scene {
    _directory: TempDir,
    repository: RepositoryId,
    signer: Arc<NoteSigner>,
    identity: Identity,
    epoch: WalEpoch,
    sealer: WalSealer,
    regions: Vec<Region>,
}

fn now() -> UtcTime {
    "2026-11-20T02:41:07Z".parse().unwrap()
}

fn name(index: usize) -> RegionName {
    format!("region-{index}").parse().unwrap()
}

/// A bucket on a server of its own, with pages of seven keys, and no retries that would hide what it does.
async fn bucket(directory: &TempDir, profile: &str) -> (Server, Arc<dyn Store>) {
    let server =
        Server::start(Config { buckets: vec![Bucket::plain("wal")], page_size: 7, ..Config::default() }).unwrap();
    let path = directory.path().join("credentials");
    if !path.exists() {
        let mut file = tempfile::NamedTempFile::new_in(directory.path()).unwrap();
        file.write_all(b"aws_access_key_id = test-access-key\naws_secret_access_key = test-secret-key\n").unwrap();
        file.persist(&path).unwrap();
    }
    let url = format!("s3://wal/pg?endpoint={}&profile={profile}&credentials_file={}", server.url(), path.display());
    let store = open(&RegionSettings::from_url(name(0), &url).unwrap()).await.unwrap();
    (server, store)
}

fn range(timeline: u32, start: u64, end: u64) -> WalRange {
    let lsn = |bytes| Lsn::from_bytes(bytes).unwrap();
    WalRange { timeline: TimelineId::new(timeline).unwrap(), start: lsn(start), end: lsn(end) }
}

fn wal(range: WalRange) -> Vec<u8> {
    (range.start.as_bytes()..range.end.as_bytes()).map(|at| (at % 251).to_le_bytes()[0] | 1).collect()
}

impl Scene {
    async fn new(regions: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let repository = RepositoryId::random().unwrap();
        let signer = Arc::new(NoteSigner::new("db1".parse().unwrap(), SigningKey::generate().unwrap()));
        let identity = Identity::generate().unwrap();
        let holders = KeyRecipients { recipients: &[identity.recipient()], commands: &[] };
        let epoch = WalEpoch::new(repository, now(), holders).await.unwrap();
        let sealer = WalSealer::new(repository, Arc::clone(&signer), WalLevels::default()).unwrap();
        let mut scene =
            Self { _directory: directory, repository, signer, identity, epoch, sealer, regions: Vec::new() };
        for index in 0..regions {
            let region = scene.region(index).await;
            scene.regions.push(region);
        }
        scene
    }

    fn trust(&self, index: usize) -> LogTrust {
        let signers = Signers::root_only(self.signer.verify_key());
        LogTrust { repository: self.repository, signers, region: Some(name(index)), remembered: None }
    }

    async fn region(&self, index: usize) -> Region {
        let (server, store) = bucket(&self._directory, "minio").await;
        let descriptor = Descriptor::new(self.repository, SYSID, now(), self.signer.verify_key());
        let descriptor_sha256 = descriptor.create(&*store, &self.signer).await.unwrap();
        self.epoch.publish(&*store).await.unwrap();
        let mut log = RegionLog::read(&*store, self.trust(index)).await.unwrap();
        let start = range(1, SEGMENT, 2 * SEGMENT);
        let epoch = WalEpochRecord {
            epoch: self.epoch.id(),
            keys_sha256: self.epoch.slots().sha256,
            timeline: start.timeline,
            start: start.start,
            wal_segment_bytes: 16 << 20,
            incarnation: None,
        };
        let init = InitRecord { repo: self.repository, sysid: SYSID, descriptor_sha256 };
        for (wseq, body) in (0..).zip([RecordBody::Init(init), RecordBody::WalEpoch(epoch)]) {
            let origin = Origin { writer: self.signer.name().clone(), wseq, time: now(), tool: "test".to_owned() };
            log.append(&*store, &self.signer, &Draft { origin, body }).await.unwrap();
        }
        Region { server, store, log }
    }

    fn slice(&mut self, range: WalRange) -> SealedWal {
        self.sealer.seal_slice(&self.epoch, range, &wal(range)).unwrap()
    }

    fn piece(&mut self, range: WalRange) -> SealedWal {
        self.sealer.seal_piece(&self.epoch, range, &wal(range)).unwrap()
    }

    async fn store(&self, object: &SealedWal, regions: &[usize]) {
        for index in regions {
            let (key, body) = (object.name.key(), object.body.clone());
            self.regions[*index].store.put(&key, body, PutMode::CreateOnly).await.unwrap();
        }
    }

    fn reader(&self) -> WalReader {
        let region = |(index, region): (usize, &Region)| {
            let store = RegionStore { name: name(index), store: Arc::clone(&region.store) };
            WalRegion { store, log: Some(region.log.clone()) }
        };
        let regions = self.regions.iter().enumerate().map(region).collect();
        let identities = vec![Identity::from_text(self.identity.to_text().expose()).unwrap()];
        let trust = WalTrust::new(self.repository, &[self.signer.verify_key()]);
        WalReader::new(trust, WalOpeners { identities, commands: Vec::new() }, regions, PieceSize::LARGEST)
    }
}

fn found(range: WalRange) -> WalRead {
    WalRead::Found(wal(range).into())
}

#[tokio::test]
async fn only_absence_in_every_region_means_not_there() {
    let mut scene = Scene::new(2).await;
    let (held, missing) = (range(0xA, SEGMENT, SEGMENT + 5000), range(0xA, SEGMENT + 5000, SEGMENT + 9000));
    let slice = scene.slice(held);
    scene.store(&slice, &[0]).await;
    let timeline = TimelineId::new(0xA).unwrap();
    assert_eq!(scene.reader().read(missing).await, WalRead::NotThere { later: None });
    assert_eq!(scene.reader().history(timeline).await, HistoryRead::NotThere);
    let faults = scene.regions[1].server.faults();
    let deny = |operation| vec![Deny { operation, keys: KeyPattern::any() }];
    for (why, status, code) in [
        ("500", 500, "InternalError"),
        ("503", 503, "SlowDown"),
        ("403", 403, "AccessDenied"),
        ("404", 404, "NoSuchBucket"),
    ] {
        faults.change(|plan| plan.fail_all = Some(Failure::new(status, code)));
        let reader = scene.reader();
        assert_eq!(reader.read(held).await, found(held), "{why}");
        assert!(matches!(reader.read(missing).await, WalRead::Undetermined(_)), "{why}");
        assert!(matches!(reader.history(timeline).await, HistoryRead::Undetermined(_)), "{why}");
        assert!(!reader.histories().await.troubles.is_empty(), "{why}");
    }
    for (why, operation) in [("no listing", Operation::ListObjectsV2), ("no reading", Operation::GetObject)] {
        faults.change(|plan| (plan.fail_all, plan.deny) = (None, deny(operation)));
        assert!(matches!(scene.reader().read(missing).await, WalRead::Undetermined(_)), "{why}");
    }
    faults.change(|plan| (plan.dead, plan.deny) = (true, Vec::new()));
    assert!(matches!(scene.reader().read(missing).await, WalRead::Undetermined(_)), "no answer at all");
    faults.change(|plan| plan.dead = false);
    assert_eq!(scene.reader().read(missing).await, WalRead::NotThere { later: None });
}

#[tokio::test]
async fn pages_of_a_listing_are_joined_and_a_damaged_object_is_read_from_another_region() {
    let mut scene = Scene::new(2).await;
    let count = 60;
    for number in 0..count {
        let start = 3 * SEGMENT + number * 777;
        let slice = scene.slice(range(0xB, start, start + 777));
        scene.store(&slice, &[0, 1]).await;
    }
    let piece = scene.piece(range(0xB, 2 * SEGMENT, 3 * SEGMENT));
    scene.store(&piece, &[0, 1]).await;
    let from = WalPosition { timeline: TimelineId::new(0xB).unwrap(), lsn: Lsn::from_bytes(2 * SEGMENT).unwrap() };
    let end = 3 * SEGMENT + count * 777;
    for region in &scene.regions {
        let found = wal::contiguous_end(&*region.store, from, PieceSize::LARGEST).await.unwrap();
        assert_eq!(found.as_bytes(), end);
        assert_eq!(wal::timelines(&*region.store).await.unwrap(), [from.timeline]);
    }
    let whole = range(0xB, 2 * SEGMENT + 5, end);
    for (why, keep) in [("a flipped bit", None), ("shorter than announced before", Some(900))] {
        let faults = scene.regions[0].server.faults();
        faults.change(|plan| match keep {
            None => plan.corrupt_get = Some(CorruptGet { keys: KeyPattern::new("*/slices/*"), offset: 200, mask: 4 }),
            Some(keep) => {
                let keys = KeyPattern::new("*/slices/*");
                plan.truncate_get = Some(TruncateGet { keys, keep, how: Truncation::ShorterLength });
                plan.corrupt_get = None;
            }
        });
        let reader = scene.reader();
        assert_eq!(reader.read(whole).await, found(whole), "{why}");
    }
    // An object that a region has lost.
    let key = WalObject::new(WalForm::Piece, range(0xB, 2 * SEGMENT, 3 * SEGMENT)).unwrap().key();
    scene.regions[0].server.faults().change(|plan| plan.vanish.extend([format!("pg/{key}")]));
    assert_eq!(scene.reader().read(whole).await, found(whole));
}

fn terms(instance: u8) -> LeaseTerms {
    let instance = InstanceId::from_bytes([instance; 8]);
    let (writer, cluster) = ("db1".parse().unwrap(), "main".parse().unwrap());
    LeaseTerms { writer, instance, cluster, ttl: Duration::from_secs(60) }
}

/// What an installation has kept in a store of its own, which all share here.
fn memory(spool: &Arc<MemoryStore>, instance: u8) -> LeaseMemory {
    LeaseMemory::new(Arc::clone(spool) as Arc<dyn Store>, format!("lease-{instance}").parse().unwrap())
}

async fn race(store: &Arc<dyn Store>, spool: &Arc<MemoryStore>) -> Vec<Lease> {
    let racers: Vec<_> = (1..=6)
        .map(|instance| {
            let (store, memory) = (Arc::clone(store), memory(spool, instance));
            tokio::spawn(async move { Lease::acquire(&*store, terms(instance), &memory, &SystemClock).await })
        })
        .collect();
    let mut held = Vec::new();
    for racer in racers {
        if let Ok(LeaseAnswer::Held(lease)) = racer.await.unwrap() {
            held.push(lease);
        }
    }
    held
}

#[tokio::test]
async fn of_many_that_race_for_a_lease_one_gets_it_and_a_store_without_conditions_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let (server, store) = bucket(&directory, "minio").await;
    let spool = Arc::new(MemoryStore::new());
    let held = race(&store, &spool).await;
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].is_exact(), Support::Unknown, "only a probe can tell");
    assert_eq!(race(&store, &Arc::default()).await.len(), 0, "whoever has only its name is another one");
    let again = race(&store, &spool).await;
    assert_eq!(again.len(), 1, "only the holder itself");
    assert_eq!(again[0].terms(), held[0].terms());
    // The server's clock decides: ten minutes later by it, the lease is over, although nobody else's clock has moved.
    server.faults().change(|plan| plan.clock_offset_seconds = 600);
    let later = race(&store, &spool).await;
    assert_eq!(later.len(), 1);
    let (_server, without) = bucket(&directory, "garage").await;
    let ask = async |instance| {
        Lease::acquire(&*without, terms(instance), &memory(&spool, instance), &SystemClock).await.unwrap()
    };
    let LeaseAnswer::Held(lease) = ask(1).await else { panic!("nobody else asks") };
    assert_eq!(lease.is_exact(), Support::No);
    assert!(matches!(ask(2).await, LeaseAnswer::HeldByOther(_)));
}

#[tokio::test]
async fn a_head_whose_answer_was_lost_is_there_and_can_be_written_again() {
    let scene = Scene::new(1).await;
    let (region, trust) = (&scene.regions[0], scene.trust(0));
    let writer = scene.signer.name();
    let head = |time: &str| Head {
        repository: scene.repository,
        region: name(0),
        writer: writer.clone(),
        instance: InstanceId::from_bytes([1; 8]),
        time: time.parse().unwrap(),
        log: region.log.head(),
        durable: None,
        last_record: None,
        complete: None,
        confirmed: None,
    };
    let (mut file, earlier) = HeadFile::open(&*region.store, writer, &trust).await.unwrap();
    assert!(matches!(earlier, EarlierHead::Nothing));
    for (minute, lost) in [(1, false), (2, true), (3, false), (4, true), (5, true), (6, false)] {
        let times = lost.then_some(Times::of(Operation::PutObject, 1));
        region.server.faults().change(|plan| plan.lose_response_after_commit = times);
        let head = head(&format!("2026-11-20T02:0{minute}:00Z"));
        let written = file.write(&*region.store, &scene.signer, &head).await;
        assert_eq!(written.is_err(), lost, "{minute}: {written:?}");
        assert_eq!(Head::read(&*region.store, writer, &trust).await.unwrap(), Some(head), "{minute}");
    }
    let all = Head::read_all(&*region.store, &trust).await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(region.server.object("wal", "pg/state/head-db1.note").map(|note: Bytes| note.is_empty()), Some(false));
}

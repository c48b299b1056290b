//! A writer of WAL for tests: what lies in a server's `pg_wal`, sealed as the daemon seals it.

use std::sync::Arc;

use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::keys::{KeyRecipients, SigningKey};
use lifeboat_repository::log::records::{Origin, RecordBody, WalEpochRecord};
use lifeboat_repository::log::{Descriptor, Draft, LogTrust, NoteSigner, RegionLog, Signers};
use lifeboat_repository::wal::{CompleteMark, Head, HeadFile, PieceSize, WalEpoch, WalLevels, WalSealer};
use lifeboat_stores::{PutMode, RegionSettings, Store, open_below};
use lifeboat_testkit::PgServer;
use lifeboat_vocabulary::{Clock, Lsn, RegionName, SegmentName, SegmentSize, SystemClock, TimelineId, WalPosition};

use super::Scene;

/// Ships the WAL of one server.
pub struct Shipper {
    runtime: tokio::runtime::Runtime,
    stores: Vec<(RegionName, Arc<dyn Store>, LogTrust)>,
    signer: Arc<NoteSigner>,
    sealer: WalSealer,
    epoch: WalEpoch,
    descriptor: Descriptor,
    segment: SegmentSize,
    pub timeline: TimelineId,
    /// Up to where everything was shipped.
    pub shipped: Lsn,
    /// The size of slices in bytes.
    pub slice: usize,
}

fn lsn(text: &str) -> Lsn {
    text.trim().parse().unwrap()
}

impl Shipper {
    /// A shipper that begins with the segment in which `server` writes now, in the regions of the scene.
    pub fn new(scene: &Scene, server: &PgServer) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let key = SigningKey::parse_file(&std::fs::read_to_string(scene.site.signing_key()).unwrap()).unwrap();
        let signer = Arc::new(NoteSigner::new("test/shipper".parse().unwrap(), key));
        let segment: SegmentSize = server.psql("postgres", "SHOW wal_segment_size").unwrap().parse().unwrap();
        let name = server.psql("postgres", "SELECT pg_walfile_name(pg_current_wal_insert_lsn())").unwrap();
        let first = SegmentName::parse(&name, segment).unwrap();
        let recipient = scene.site.public_key.parse().unwrap();
        let (stores, descriptor, epoch) = runtime.block_on(async {
            let mut stores = Vec::new();
            let mut found = None;
            for index in 0..scene.regions.len() {
                let name: RegionName = format!("r{index}").parse().unwrap();
                let settings = RegionSettings::from_url(name.clone(), &scene.site.address(index)).unwrap();
                let store = open_below(&settings, Some(&"main".parse().unwrap())).await.unwrap();
                let (descriptor, _) = Descriptor::read(&*store, None).await.unwrap();
                let trust = LogTrust {
                    repository: descriptor.repo,
                    signers: Signers::root_only(descriptor.root),
                    region: Some(name.clone()),
                    remembered: None,
                };
                found = Some(descriptor);
                stores.push((name, store, trust));
            }
            let descriptor = found.unwrap();
            let recipients = KeyRecipients { recipients: &[recipient], commands: &[] };
            let epoch = WalEpoch::new(descriptor.repo, SystemClock.now(), recipients).await.unwrap();
            for (_, store, trust) in &stores {
                epoch.publish(&**store).await.unwrap();
                let mut log = RegionLog::read(&**store, trust.clone()).await.unwrap();
                let body = RecordBody::WalEpoch(WalEpochRecord {
                    epoch: epoch.id(),
                    keys_sha256: epoch.slots().sha256,
                    timeline: first.timeline,
                    start: first.start().unwrap(),
                    wal_segment_bytes: u32::try_from(segment.as_bytes()).unwrap(),
                    incarnation: None,
                });
                let origin =
                    Origin { writer: signer.name().clone(), wseq: 1, time: SystemClock.now(), tool: "test".to_owned() };
                log.append(&**store, &signer, &Draft { origin, body }).await.unwrap();
            }
            (stores, descriptor, epoch)
        });
        let sealer = WalSealer::new(descriptor.repo, Arc::clone(&signer), WalLevels::default()).unwrap();
        let (timeline, shipped) = (first.timeline, first.start().unwrap());
        Self { runtime, stores, signer, sealer, epoch, descriptor, segment, timeline, shipped, slice: 200_000 }
    }

    /// Goes on with another server, on its timeline, whose history is stored first.
    pub fn follow(&mut self, server: &PgServer, timeline: u32) {
        self.timeline = TimelineId::new(timeline).unwrap();
        let history = std::fs::read(server.data_dir().join(format!("pg_wal/{timeline:08X}.history"))).unwrap();
        let sealed = self.sealer.seal_history(&self.epoch, self.timeline, &history).unwrap();
        self.put(sealed);
        let fork = String::from_utf8(history).unwrap();
        let fork = lsn(fork.lines().last().unwrap().split('\t').nth(1).unwrap());
        self.shipped = SegmentName::holding(self.timeline, fork, self.segment).start().unwrap();
    }

    fn put(&self, sealed: lifeboat_repository::wal::SealedWal) {
        for (_, store, _) in &self.stores {
            let (key, body) = (sealed.name.key(), sealed.body.clone());
            self.runtime.block_on(store.put(&key, body, PutMode::CreateOnly)).unwrap();
        }
    }

    /// Ships everything that the server has flushed: whole pieces, and the rest as slices.
    pub fn ship(&mut self, server: &PgServer) -> Lsn {
        let flushed = lsn(&server.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap());
        let range = WalRange { timeline: self.timeline, start: self.shipped, end: flushed };
        let size = PieceSize::of(self.segment);
        for part in size.cut(range).collect::<Vec<_>>() {
            let whole = size.holding(WalPosition { timeline: self.timeline, lsn: part.start }).unwrap();
            if part.end == whole.end {
                let sealed = self.sealer.seal_piece(&self.epoch, whole, &self.read(server, whole)).unwrap();
                self.put(sealed);
                continue;
            }
            let bytes = self.read(server, part);
            let mut start = part.start;
            for slice in bytes.chunks(self.slice) {
                let end = Lsn::from_bytes(start.as_bytes() + slice.len() as u64).unwrap();
                let sealed = self.sealer.seal_slice(&self.epoch, WalRange { start, end, ..part }, slice).unwrap();
                self.put(sealed);
                start = end;
            }
        }
        self.shipped = flushed;
        flushed
    }

    fn read(&self, server: &PgServer, range: WalRange) -> Vec<u8> {
        let name = SegmentName::holding(range.timeline, range.start, self.segment);
        let file = std::fs::read(server.data_dir().join("pg_wal").join(name.to_string())).unwrap();
        let offset = usize::try_from(range.start.as_bytes() - name.start().unwrap().as_bytes()).unwrap();
        file[offset..offset + usize::try_from(range.len()).unwrap()].to_vec()
    }

    /// Says that the writer is alive, and that everything shipped so far is stored.
    pub fn sign_of_life(&self) {
        for (region, store, trust) in &self.stores {
            let head = Head {
                repository: self.descriptor.repo,
                region: region.clone(),
                writer: self.signer.name().clone(),
                instance: "0123456789abcdef".parse().unwrap(),
                time: SystemClock.now(),
                log: None,
                durable: Some(WalPosition { timeline: self.timeline, lsn: self.shipped }),
                last_record: None,
                complete: Some(CompleteMark {
                    at: WalPosition { timeline: self.timeline, lsn: self.shipped },
                    time: SystemClock.now(),
                }),
                confirmed: Some(WalPosition { timeline: self.timeline, lsn: self.shipped }),
            };
            self.runtime.block_on(async {
                let opened = HeadFile::open(&**store, self.signer.name(), trust).await.unwrap();
                let (mut file, _) = opened;
                file.write(&**store, &self.signer, &head).await.unwrap();
            });
        }
    }
}

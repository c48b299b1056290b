//! A restorer's walk through keys and records, with nothing but the crate's public face: what one process wrote to two
//! regions, another one finds, checks and opens, and a stranger does not.

#![allow(clippy::unwrap_used, reason = "a scene that cannot be set up is a failed test")]

use std::sync::Arc;

use lifeboat_repository::catalog::{Catalog, Presence, RegionAnswer, RegionView};
use lifeboat_repository::format::aead::sha256;
use lifeboat_repository::format::ids::{EpochId, ObjectId, RepositoryId};
use lifeboat_repository::format::seal::EpochKey;
use lifeboat_repository::format::{PacksList, layout};
use lifeboat_repository::keys::{
    self, EpochPlace, Identity, KeyRecipients, Openers, SigningKey, SlotsError, parse_identity_file,
};
use lifeboat_repository::log::records::{
    BackupKind, BackupRecord, EpochRef, FilesFacts, InitRecord, Omissions, Origin, PacksRef, RecordBody, ServerFacts,
    ShardRef,
};
use lifeboat_repository::log::{Descriptor, DescriptorError, Draft, LogTrust, NoteSigner, RegionLog, Signers};
use lifeboat_stores::{ByteRange, MemoryStore, ObjectKey, PutMode, SealedBody, Store};
use lifeboat_vocabulary::{BackupId, ByteCount, RegionName, TimelineId, UtcTime};

const SYSID: u64 = 7_400_000_000_000_000_001;

struct Region {
    name: RegionName,
    store: Arc<MemoryStore>,
}

fn now() -> UtcTime {
    "2026-11-20T02:41:07Z".parse().unwrap()
}

fn small() -> ByteRange {
    ByteRange::WholeUpTo(ByteCount::from_mib(1))
}

fn body(bytes: &[u8]) -> SealedBody {
    SealedBody { sha256: sha256(bytes), bytes: bytes.to_vec().into() }
}

fn record(backup: &BackupId, epoch: EpochId, keys: &SealedBody, list: &SealedBody, shard: &SealedBody) -> BackupRecord {
    let bytes = ByteCount::of(&shard.bytes);
    let key = layout::index_shard(backup, 0);
    let timeline = TimelineId::new(1).unwrap();
    BackupRecord {
        backup: backup.clone(),
        kind: BackupKind::Full,
        parent: None,
        pg: ServerFacts { version: 170_006, sysid: SYSID, wal_segment_bytes: 16 << 20 },
        start_lsn: "0/2000028".parse().unwrap(),
        start_tli: timeline,
        stop_lsn: "0/2000120".parse().unwrap(),
        stop_tli: timeline,
        start_time: now(),
        stop_time: now(),
        duration_ms: 1,
        frame_bytes: 131_072,
        epochs: vec![EpochRef { id: epoch, slots: 0, keys_sha256: keys.sha256 }],
        packs: PacksRef { sha256: list.sha256, objects: 1, bytes, own: 1, own_bytes: bytes },
        index: vec![ShardRef { key, sha256: shard.sha256, size: bytes }],
        files: FilesFacts { count: 0, raw_bytes: ByteCount::ZERO },
        pages: None,
        omissions: Omissions::default(),
    }
}

/// Makes a repository in `regions` and one backup in those of the first `holders`.
async fn write(regions: &[Region], holders: usize, signer: &NoteSigner, identity: &Identity) -> (BackupId, EpochKey) {
    let repository = RepositoryId::random().unwrap();
    let descriptor = Descriptor::new(repository, SYSID, now(), signer.verify_key());
    let (epoch, key) = (EpochId::random().unwrap(), EpochKey::random().unwrap());
    let recipients = [identity.recipient()];
    let place = EpochPlace { repository, epoch };
    let keys =
        keys::seal_slots(&key, place, now(), KeyRecipients { recipients: &recipients, commands: &[] }).await.unwrap();
    let (keys, shard) = (body(&keys), body(ObjectId::random().unwrap().as_bytes()));
    let backup = BackupId::new(now(), 1);
    let mut list = PacksList::default();
    list.insert(layout::index_shard(&backup, 0), shard.sha256).unwrap();
    let list = list.to_body().unwrap();
    let record = record(&backup, epoch, &keys, &list, &shard);
    for (index, region) in regions.iter().enumerate() {
        let store = &*region.store;
        let descriptor_sha256 = descriptor.create(store, signer).await.unwrap();
        let trust = LogTrust {
            repository,
            signers: Signers::root_only(signer.verify_key()),
            region: Some(region.name.clone()),
            remembered: None,
        };
        let mut log = RegionLog::read(store, trust).await.unwrap();
        let init = InitRecord { repo: repository, sysid: SYSID, descriptor_sha256 };
        let mut bodies = vec![RecordBody::Init(init)];
        if index < holders {
            for (key, body) in [
                (layout::index_shard(&backup, 0), &shard),
                (layout::slots(epoch, 0), &keys),
                (layout::packs_list(&backup), &list),
            ] {
                store.put(&key, body.clone(), PutMode::CreateOnly).await.unwrap();
            }
            bodies.push(RecordBody::Backup(Box::new(record.clone())));
        }
        for (wseq, body) in (0..).zip(bodies) {
            let origin = Origin { writer: signer.name().clone(), wseq, time: now(), tool: "test".to_owned() };
            log.append(store, signer, &Draft { origin, body }).await.unwrap();
        }
    }
    (backup, key)
}

async fn view(region: &Region, verify_key: lifeboat_repository::keys::VerifyKey) -> RegionView {
    let store = &*region.store;
    let (descriptor, _) = Descriptor::read(store, Some(&verify_key)).await.unwrap();
    let trust = LogTrust {
        repository: descriptor.repo,
        signers: Signers::root_only(descriptor.root),
        region: None,
        remembered: None,
    };
    let log = RegionLog::read(store, trust).await.unwrap();
    RegionView {
        name: region.name.clone(),
        answer: RegionAnswer::Read { descriptor: Box::new(descriptor), log: Box::new(log) },
    }
}

#[tokio::test]
async fn bucket_and_key_alone_suffice_to_find_verify_and_open_a_backup() {
    let regions = ["eu", "us"].map(|name| Region { name: name.parse().unwrap(), store: Arc::default() });
    let signer = NoteSigner::new("db1".parse().unwrap(), SigningKey::generate().unwrap());
    let identity = Identity::generate().unwrap();
    let paper = identity.to_file_text(now(), None).unwrap();
    let (backup, key) = write(&regions, 1, &signer, &identity).await;

    let stranger = SigningKey::generate().unwrap().verify_key();
    let refused = Descriptor::read(&*regions[0].store, Some(&stranger)).await;
    assert!(matches!(refused, Err(DescriptorError::OtherRoot { .. })), "a repository of somebody else");

    let views = [view(&regions[0], signer.verify_key()).await, view(&regions[1], signer.verify_key()).await];
    let catalog = Catalog::merge(&views);
    assert_eq!(catalog.findings(), []);
    let row = catalog.newest_intact(now().plus(std::time::Duration::from_secs(86_400))).unwrap();
    assert_eq!(row.record.backup, backup);
    assert_eq!(row.regions[&regions[0].name], Presence::Committed { seq: 1 });
    assert_eq!(row.regions[&regions[1].name], Presence::Absent);

    let store = &*regions[0].store;
    let get = async |key: ObjectKey| store.get(&key, small()).await.unwrap();
    let list = get(layout::packs_list(&backup)).await;
    assert_eq!(sha256(&list), row.record.packs.sha256);
    let list = PacksList::parse(&list).unwrap();
    for (key, expected) in list.iter() {
        assert_eq!(sha256(&get(key.clone()).await), expected);
    }
    let epoch = &row.record.epochs[0];
    let slots = get(layout::slots(epoch.id, epoch.slots)).await;
    assert_eq!(sha256(&slots), epoch.keys_sha256);

    let place = EpochPlace { repository: catalog.descriptor().unwrap().repo, epoch: epoch.id };
    let other = [Identity::generate().unwrap()];
    let refused = keys::open_slots(&slots, place, Openers { identities: &other, commands: &[] }).await;
    assert!(matches!(refused, Err(SlotsError::NoMatchingSlot { .. })));
    let identities = parse_identity_file(paper.expose(), &mut |_| None).unwrap();
    let opened = keys::open_slots(&slots, place, Openers { identities: &identities, commands: &[] }).await.unwrap();
    assert_eq!(opened.expose(), key.expose());
}

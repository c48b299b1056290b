//! Long logs, written straight into a store: appending asks it half a dozen times for each record.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lifeboat_stores::{Hooks, MemoryStore, PutMode, Request, SealedBody, Step, Store, WithHooks};
use lifeboat_vocabulary::Sha256Digest;
use zeroize::Zeroizing;

use crate::format::aead::sha256;
use crate::format::layout::{self, StoredName};
use crate::keys::signing::SigningKey;
use crate::log::bundle::codec::Bundle;
use crate::log::create_once::small_object;
use crate::log::note::{self, NoteSigner};
use crate::log::records::record::{Link, Origin, Record, RecordBody};
use crate::log::records::trust::SignerRecord;
use crate::log::region_log::RegionLog;
use crate::log::roles::Role;
use crate::log::statement::{Delegation, Revocation, Statement};
use crate::samples;
use crate::samples::wal::trust;

fn host(name: &str, first: u8) -> NoteSigner {
    let key = SigningKey::from_seed(&Zeroizing::new(super::counting(first)));
    NoteSigner::under(name.parse().unwrap(), key, samples::signer().verify_key())
}

/// Backs up, and may delete nothing.
pub(crate) fn writer() -> NoteSigner {
    host("lifeboat.main", 0x11)
}

/// May delete.
pub(crate) fn pruner() -> NoteSigner {
    host("pruner.main", 0x51)
}

fn delegation(host: &NoteSigner, role: Role) -> RecordBody {
    let statement = Statement::Delegation(Delegation {
        repo: samples::repository(),
        key: host.verify_key(),
        name: host.name().clone(),
        roles: vec![role],
        from: samples::time("2026-11-01T00:00:00Z"),
        until: None,
    });
    RecordBody::Signer(SignerRecord { statement: statement.sign(&samples::signer()).unwrap() })
}

pub(crate) fn revocation(host: &NoteSigner) -> RecordBody {
    let statement = Statement::Revocation(Revocation {
        repo: samples::repository(),
        key: host.verify_key(),
        time: samples::time("2026-11-21T00:00:00Z"),
        reason: "host lost".to_owned(),
    });
    RecordBody::Signer(SignerRecord { statement: statement.sign(&samples::signer()).unwrap() })
}

pub(crate) fn backup(number: u64) -> RecordBody {
    let id = format!("20261120T020003Z-{number:08x}");
    RecordBody::Backup(Box::new(samples::backup_record_named(&id, "2026-11-20T02:41:07Z")))
}

/// The log of region `eu-1`, to which a root key, a writer and a pruner write.
#[derive(Clone)]
pub(crate) struct LongLog {
    pub(crate) store: Arc<MemoryStore>,
    /// The next place.
    pub(crate) next: u64,
    /// SHA-256 of the note before it.
    pub(crate) prev: Option<Sha256Digest>,
    count: u64,
}

impl LongLog {
    /// Three records: its beginning, and what the two hosts may sign.
    pub(crate) async fn begun() -> Self {
        Self::begun_with([(writer(), Role::Writer), (pruner(), Role::Pruner)]).await
    }

    /// The same, with the pruner before the writer.
    pub(crate) async fn begun_with_the_pruner() -> Self {
        Self::begun_with([(pruner(), Role::Pruner), (writer(), Role::Writer)]).await
    }

    async fn begun_with(hosts: [(NoteSigner, Role); 2]) -> Self {
        let mut log = Self { store: Arc::new(MemoryStore::new()), next: 0, prev: None, count: 0 };
        log.say(&samples::signer(), RecordBody::Init(samples::init_record())).await;
        for (host, role) in hosts {
            log.say(&samples::signer(), delegation(&host, role)).await;
        }
        log
    }

    /// One with so many records.
    pub(crate) async fn with_records(records: u64) -> Self {
        let mut log = Self::begun().await;
        log.grow_to(records).await;
        log
    }

    /// Adds backups, until it has so many records.
    pub(crate) async fn grow_to(&mut self, records: u64) {
        let signer = writer();
        while self.next < records {
            self.say(&signer, backup(self.next)).await;
        }
    }

    /// Adds a record.
    pub(crate) async fn say(&mut self, by: &NoteSigner, body: RecordBody) {
        let note = self.note(by, body);
        put(&self.store, &layout::log_note(self.next), note.clone()).await;
        self.goes_on_behind(&note);
    }

    /// The note of the next record.
    pub(crate) fn note(&mut self, by: &NoteSigner, body: RecordBody) -> Bytes {
        self.count += 1;
        let link = Link { region: "eu-1".parse().unwrap(), seq: self.next, prev: self.prev };
        let origin = Origin { writer: by.name().clone(), ..samples::origin(self.count) };
        let text = Record { link, origin, body }.to_text().unwrap();
        note::sign(&text, &[by]).unwrap().into()
    }

    /// Goes on as if this note stood at the next place.
    pub(crate) fn goes_on_behind(&mut self, note: &[u8]) {
        self.prev = Some(sha256(note));
        self.next += 1;
    }

    pub(crate) async fn read(&self) -> RegionLog {
        RegionLog::read(&*self.store, trust("eu-1")).await.unwrap()
    }

    /// The notes at these places, as they are stored.
    pub(crate) async fn notes(&self, first: u64, last: u64) -> Vec<Bytes> {
        let mut notes = Vec::new();
        for seq in first..=last {
            notes.push(self.store.get(&layout::log_note(seq), small_object()).await.unwrap());
        }
        notes
    }

    /// Stores a bundle of these notes, without a record.
    pub(crate) async fn bundle_of(&self, first: u64, notes: &[Bytes]) -> StoredName {
        let object = Bundle::encode(first, notes.iter().map(AsRef::as_ref)).unwrap();
        let last = first + notes.len() as u64 - 1;
        let name = StoredName::LogBundle { first, last, sha256: sha256(&object) };
        put(&self.store, &name.key(), object.into()).await;
        name
    }
}

pub(crate) async fn put(store: &MemoryStore, key: &lifeboat_stores::ObjectKey, bytes: Bytes) {
    store.put(key, SealedBody { sha256: sha256(&bytes), bytes }, PutMode::CreateOnly).await.unwrap();
}

/// A store that is far away: each request takes so long, and is counted.
pub(crate) fn far_away(store: Arc<dyn Store>, latency: Duration) -> (Arc<dyn Store>, Arc<AtomicU64>) {
    let requests = Arc::<AtomicU64>::default();
    let store = WithHooks::new(store, FarAway { latency, requests: Arc::clone(&requests) });
    (Arc::new(store), requests)
}

struct FarAway {
    latency: Duration,
    requests: Arc<AtomicU64>,
}

#[async_trait::async_trait]
impl Hooks for FarAway {
    async fn before(&self, _: Request<'_>) -> Step {
        self.requests.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(self.latency).await;
        Step::Pass
    }
}

//! A small region that tests of deletion begin with: backups of a few objects, WAL, a clock that stands still, and stores
//! that die, lock and disobey.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::tz::TimeZone;
use lifeboat_stores::{
    Capabilities, Hooks, MemoryStore, ObjectKey, PutMode, PutOutcome, Request, SealedBody, Step, Store, StoreError,
    Support, WithHooks,
};
use lifeboat_vocabulary::{BackupId, ByteCount, Clock, ManualClock, UtcTime};
use parking_lot::Mutex;

use crate::format::aead::sha256;
use crate::format::header::{ObjectHeader, Trailer, WalPlace};
use crate::format::ids::{EpochId, ObjectId, ObjectKind};
use crate::format::layout::{self, WalForm, WalRange};
use crate::format::packs_list::PacksList;
use crate::log::append::Draft;
use crate::log::error::LogError;
use crate::log::link::LogHead;
use crate::log::records::backup::{BackupRecord, EpochRef, PacksRef, ShardRef};
use crate::log::records::record::{Origin, RecordBody};
use crate::log::region_log::RegionLog;
use crate::retention::model::{RetentionLimits, RetentionPolicy};
use crate::retention::sweep::author::{OpenGate, SweepAuthor, SweepRegion};
use crate::retention::sweep::error::SweepError;
use crate::retention::sweep::evidence::Evidence;
use crate::retention::sweep::run::{ForgetReport, SweepReport};
use crate::retention::sweep::settings::{DeleteMode, Elsewhere, Force, Others, SweepSettings};
use crate::samples;
use crate::samples::wal::trust;
use crate::wal::name::WalObject;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// The moment `hours` after the beginning of these tests.
pub(crate) fn at(hours: u64) -> UtcTime {
    samples::time("2026-01-01T02:00:00Z").plus(HOUR * u32::try_from(hours).unwrap())
}

/// Two days, one backup at least, and every moment of two days.
pub(crate) fn settings() -> SweepSettings {
    let limits = RetentionLimits { backup_every: None, share_max_percent: 100 };
    let (timezone, window) = (TimeZone::UTC, 2 * DAY);
    SweepSettings {
        policy: RetentionPolicy { timezone, daily: 2, weekly: 0, monthly: 0, min_keep: 1, window, limits },
        grace: 72 * HOUR,
        mode: DeleteMode::LogOrdered,
        force: Force::No,
        elsewhere: Elsewhere::Known(Others::default()),
        holds: BTreeMap::new(),
    }
}

pub(crate) fn author() -> SweepAuthor {
    SweepAuthor::new(Arc::new(samples::signer()), "test".to_owned(), Arc::new(OpenGate))
}

pub(crate) fn body(text: &str) -> SealedBody {
    SealedBody { sha256: sha256(text.as_bytes()), bytes: Bytes::from(text.to_owned()) }
}

/// An object at the place of WAL that a writer has signed, with nothing in it: enough for whoever checks signatures alone.
pub(crate) fn signed_wal(object: WalObject) -> SealedBody {
    let kind = match object.form {
        WalForm::Piece => ObjectKind::WalSegment,
        WalForm::Slice => ObjectKind::WalSlice,
    };
    let WalRange { timeline, start, end } = object.range;
    let id = ObjectId::from_bytes([7; 16]);
    let mut header = ObjectHeader::new(kind, samples::repository(), samples::epoch(), id).unwrap();
    header.trailer = Trailer::Present;
    header.place = WalPlace::Range { timeline, start, end };
    let body = header.encode().unwrap().to_vec();
    let trailer = crate::format::trailer::sign(&body, samples::signer().key().as_ed25519());
    let bytes = Bytes::from([body, trailer.to_vec()].concat());
    SealedBody { sha256: sha256(&bytes), bytes }
}

pub(crate) async fn put(store: &dyn Store, key: &ObjectKey, text: &str) -> Result<(), StoreError> {
    put_body(store, key, body(text)).await
}

pub(crate) async fn put_body(store: &dyn Store, key: &ObjectKey, body: SealedBody) -> Result<(), StoreError> {
    match store.put(key, body, PutMode::CreateOnly).await {
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What a small backup consists of.
#[derive(Clone, Debug)]
pub(crate) struct SmallBackup {
    pub(crate) record: BackupRecord,
    pub(crate) objects: Vec<(ObjectKey, String)>,
    /// Objects of others that it needs.
    pub(crate) refers: Vec<ObjectKey>,
    list: SealedBody,
}

impl SmallBackup {
    /// A backup that was complete at `stop`, with objects of its own and those of others that it refers to. Its WAL starts
    /// at segment `segment` of timeline `timeline`.
    pub(crate) fn new(number: u32, stop: UtcTime, (timeline, segment): (u32, u64), refers: &[ObjectKey]) -> Self {
        let backup = BackupId::new(stop, number);
        let random = |kind: u8| {
            let mut bytes = [kind; 16];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            bytes
        };
        let epoch = EpochId::from_bytes(random(1));
        let own = [layout::index_shard(&backup, 0), layout::pack(&backup, 0, ObjectId::from_bytes(random(2)))];
        let objects: Vec<_> = own.iter().map(|key| (key.clone(), format!("content of {key}"))).collect();
        let mut list = PacksList::default();
        for (key, text) in &objects {
            list.insert(key.clone(), sha256(text.as_bytes())).unwrap();
        }
        for key in refers {
            list.insert(key.clone(), sha256(format!("content of {key}").as_bytes())).unwrap();
        }
        let list = list.to_body().unwrap();
        let slots = layout::slots(epoch, 0);
        let keys_sha256 = sha256(format!("content of {slots}").as_bytes());
        let range = samples::wal_range(timeline, (segment << 24) + 0x28, (segment << 24) + 0x1000);
        let size = |text: &str| ByteCount::from_bytes(text.len() as u64);
        let own_bytes = objects.iter().map(|(_, text)| size(text)).sum::<ByteCount>();
        let others = refers.iter().map(|key| size(&format!("content of {key}"))).sum::<ByteCount>();
        let id = backup.to_string();
        let shard =
            ShardRef { key: own[0].clone(), sha256: sha256(objects[0].1.as_bytes()), size: size(&objects[0].1) };
        let record = BackupRecord {
            start_lsn: range.start,
            stop_lsn: range.end,
            start_tli: range.timeline,
            stop_tli: range.timeline,
            start_time: stop,
            stop_time: stop,
            epochs: vec![EpochRef { id: epoch, slots: 0, keys_sha256 }],
            packs: PacksRef {
                sha256: list.sha256,
                objects: (own.len() + refers.len()) as u64,
                bytes: own_bytes.plus(others),
                own: own.len() as u64,
                own_bytes,
            },
            index: vec![shard],
            pages: None,
            ..samples::backup_record_named(&id, "2026-01-01T00:00:00Z")
        };
        let mut objects = objects;
        objects.push((slots.clone(), format!("content of {slots}")));
        Self { record, objects, refers: refers.to_vec(), list }
    }

    pub(crate) fn id(&self) -> BackupId {
        self.record.backup.clone()
    }

    /// All its keys, also that of its list.
    pub(crate) fn keys(&self) -> BTreeSet<ObjectKey> {
        let list = layout::packs_list(&self.record.backup);
        self.objects.iter().map(|(key, _)| key.clone()).chain([list]).collect()
    }

    pub(crate) async fn upload(&self, store: &dyn Store) -> Result<(), StoreError> {
        for (key, text) in &self.objects {
            put(store, key, text).await?;
        }
        match store.put(&layout::packs_list(&self.record.backup), self.list.clone(), PutMode::CreateOnly).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn commit(&self, store: &dyn Store, log: &mut RegionLog) -> Result<LogHead, LogError> {
        let list = PacksList::parse(&self.list.bytes).unwrap();
        let folders: BTreeSet<BackupId> = list.iter().filter_map(|(key, _)| layout::folder_of(key)).collect();
        let draft = draft(log, RecordBody::Backup(Box::new(self.record.clone())), self.record.stop_time);
        log.append_while(store, &samples::signer(), &draft, |log| log.refuse_backups(&folders)).await
    }
}

pub(crate) fn draft(log: &RegionLog, body: RecordBody, now: UtcTime) -> Draft {
    let origin = samples::origin(0);
    let wseq = Origin::next_count(log.last_count(&origin.writer), now);
    Draft { origin: Origin { wseq, time: now, ..origin }, body }
}

/// A region with a clock of its own.
pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) memory: Arc<MemoryStore>,
    pub(crate) log: RegionLog,
}

impl World {
    pub(crate) async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(at(0)));
        let memory = Arc::new(MemoryStore::with_clock(Arc::clone(&clock) as Arc<dyn Clock>));
        let mut log = RegionLog::read(&*memory, trust("eu-1")).await.unwrap();
        let init = Draft { origin: samples::origin(0), body: RecordBody::Init(samples::init_record()) };
        log.append(&*memory, &samples::signer(), &init).await.unwrap();
        Self { clock, memory, log }
    }

    /// One backup a day, the first on day 0; the WAL of each starts in a segment of its own on timeline 1.
    pub(crate) async fn with_days(days: u32) -> (Self, Vec<SmallBackup>) {
        let mut world = Self::new().await;
        let mut backups = Vec::new();
        for day in 0..days {
            world.clock.set(at(u64::from(day) * 24));
            let backup = SmallBackup::new(day, world.clock.now(), (1, u64::from(day) + 1), &[]);
            world.add(&backup).await;
            backups.push(backup);
        }
        (world, backups)
    }

    pub(crate) async fn add(&mut self, backup: &SmallBackup) {
        backup.upload(&*self.memory).await.unwrap();
        backup.commit(&*self.memory, &mut self.log).await.unwrap();
    }

    pub(crate) async fn say(&mut self, body: RecordBody) {
        let draft = draft(&self.log, body, self.clock.now());
        self.log.append(&*self.memory, &samples::signer(), &draft).await.unwrap();
    }

    pub(crate) async fn forget(&mut self, settings: &SweepSettings) -> Result<ForgetReport, SweepError> {
        forget_in(&*Arc::clone(&self.memory), &mut self.log, settings, self.clock.now()).await
    }

    pub(crate) async fn sweep(&mut self, settings: &SweepSettings) -> Result<SweepReport, SweepError> {
        sweep_in(&*Arc::clone(&self.memory), &mut self.log, settings, self.clock.now()).await
    }

    pub(crate) async fn keys(&self, prefix: &str) -> Vec<String> {
        keys(&*self.memory, prefix).await
    }

    pub(crate) async fn has(&self, key: &ObjectKey) -> bool {
        self.memory.head(key).await.is_ok()
    }
}

pub(crate) async fn forget_in(
    store: &dyn Store,
    log: &mut RegionLog,
    settings: &SweepSettings,
    now: UtcTime,
) -> Result<ForgetReport, SweepError> {
    let author = author();
    crate::retention::sweep::run::forget(
        &mut SweepRegion { store, log, author: &author, evidence: Evidence::default() },
        settings,
        now,
    )
    .await
}

pub(crate) async fn sweep_in(
    store: &dyn Store,
    log: &mut RegionLog,
    settings: &SweepSettings,
    now: UtcTime,
) -> Result<SweepReport, SweepError> {
    let author = author();
    crate::retention::sweep::run::sweep_region(
        &mut SweepRegion { store, log, author: &author, evidence: Evidence::default() },
        settings,
        now,
    )
    .await
}

/// All keys with this prefix.
pub(crate) async fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    let (mut keys, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(prefix, after.as_ref()).await.unwrap();
        keys.extend(page.entries.iter().map(|entry| entry.key.to_string()));
        match page.entries.last() {
            Some(last) if page.more => after = Some(last.key.clone()),
            _ => return keys,
        }
    }
}

/// How a program ends in the middle of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// The request is not made.
    BeforeIt,
    /// The request takes effect, and nobody hears of it.
    AfterIt,
}

/// A store in front of a program that is killed at its request number `after`, from 1 on.
pub(crate) fn dying(memory: &Arc<MemoryStore>, after: u64, how: Death) -> WithHooks<impl Hooks + use<>> {
    let left = AtomicU64::new(after);
    let dead = || StoreError::Transient { doing: "ask a dead process".to_owned(), source: "it was killed".into() };
    let hooks = move |_: &Request<'_>| {
        let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match (before, how) {
            (Err(_), _) | (Ok(1), Death::BeforeIt) => Step::Fail(dead()),
            (Ok(1), Death::AfterIt) => Step::LoseAnswer(dead()),
            (Ok(_), _) => Step::Pass,
        }
    };
    WithHooks::new(Arc::clone(memory) as Arc<dyn Store>, hooks)
}

/// Keys that cannot be deleted, and how often that was asked.
pub(crate) struct Locks {
    pub(crate) keys: Mutex<BTreeSet<ObjectKey>>,
    pub(crate) deletes: AtomicU64,
}

impl Locks {
    pub(crate) fn around(memory: &Arc<MemoryStore>, keys: BTreeSet<ObjectKey>) -> WithHooks<Self> {
        let locks = Self { keys: Mutex::new(keys), deletes: AtomicU64::new(0) };
        WithHooks::new(Arc::clone(memory) as Arc<dyn Store>, locks)
    }
}

#[async_trait]
impl Hooks for Locks {
    async fn before(&self, request: Request<'_>) -> Step {
        let Request::Delete { key } = request else { return Step::Pass };
        self.deletes.fetch_add(1, Ordering::Relaxed);
        if self.keys.lock().contains(key) {
            return Step::Fail(StoreError::Locked { key: key.clone(), until: None });
        }
        Step::Pass
    }
}

/// Conditions of writes are not read, and the store says so.
pub(crate) struct IgnoresConditions(Arc<MemoryStore>);

impl IgnoresConditions {
    pub(crate) fn around(memory: &Arc<MemoryStore>) -> WithHooks<Self> {
        WithHooks::new(Arc::clone(memory) as Arc<dyn Store>, Self(Arc::clone(memory)))
    }

    async fn replace(&self, key: &ObjectKey, body: SealedBody) -> Result<PutOutcome, StoreError> {
        self.0.delete(key).await?;
        self.0.put(key, body, PutMode::CreateOnly).await
    }
}

#[async_trait]
impl Hooks for IgnoresConditions {
    async fn before(&self, request: Request<'_>) -> Step {
        let Request::Put { key, body, .. } = request else { return Step::Pass };
        self.replace(key, body.clone()).await.map_or_else(Step::Fail, Step::Stored)
    }

    fn capabilities(&self, inner: Capabilities) -> Capabilities {
        Capabilities { conditional_put: Support::No, ..inner }
    }
}

//! The end of a backup: from sealed objects to a record in the log of every region that has them all.
//!
//! CRASH SAFETY, in each region by itself: 1. every pack and index shard is there; 2. the wrapped key and the list of
//! objects are there; 3. the record is appended to the log. Crash before 3: objects that no record names, which is not a
//! backup. Crash or lost answer during 3: appending is create-only at one place, and a repetition with the same draft
//! finds its own record. If a sweep has named this backup, or one that it relies on, before 3, appending is refused: it
//! took the backup for what a crash left. Hence: a record never names an object that is missing from its own region.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_stores::SealedBody;
use lifeboat_vocabulary::{BackupId, ByteCount, RegionName, UtcTime, WalPosition};

use crate::backup::write::packer::StoredObject;
use crate::backup::write::upload::{ExclusionReason, UploadHub};
use crate::backup::write::writer::SealedBackup;
use crate::format::aead::sha256;
use crate::format::ids::RandomError;
use crate::format::layout;
use crate::format::packs_list::{PacksList, PacksListError};
use crate::keys::slots::{EpochPlace, KeyRecipients, SlotsError, seal_slots};
use crate::log::append::Draft;
use crate::log::create_once::{Created, create_once};
use crate::log::link::LogHead;
use crate::log::note::NoteSigner;
use crate::log::records::backup::{
    BackupKind, BackupRecord, EpochRef, FilesFacts, PacksRef, PageFacts, ServerFacts, ShardRef,
};
use crate::log::records::omissions::Omissions;
use crate::log::records::record::{Origin, RecordBody};
use crate::log::region_log::RegionLog;
use crate::log::region_store::RegionStore;

/// What the record says besides what the pipeline knows.
#[derive(Clone, Debug)]
pub struct BackupDetails {
    /// How it was made.
    pub kind: BackupKind,
    /// The server.
    pub pg: ServerFacts,
    /// Where recovery starts.
    pub start: WalPosition,
    /// Where the backup is consistent.
    pub stop: WalPosition,
    /// When it began.
    pub start_time: UtcTime,
    /// When the data was complete.
    pub stop_time: UtcTime,
    /// How long it took in **milliseconds**.
    pub duration_ms: u64,
    /// Size of frames in **bytes**.
    pub frame_bytes: u32,
    /// What the check of pages found.
    pub pages: Option<PageFacts>,
    /// What belongs to the cluster and is not in the backup.
    pub omissions: Omissions,
}

/// Who writes the record, and who shall be able to read the backup.
#[derive(Clone, Copy, Debug)]
pub struct CommitAuthority<'a> {
    /// Signs the record.
    pub signer: &'a Arc<NoteSigner>,
    /// The writer's count for this backup, the same in all regions.
    pub wseq: u64,
    /// The program and its version.
    pub tool: &'a str,
    /// Who can open the backup.
    pub recipients: KeyRecipients<'a>,
}

/// Why nothing could be committed anywhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The epoch key could not be wrapped.
    #[error("wrap the backup's key")]
    Slots(#[from] SlotsError),
    /// The list of objects could not be written.
    #[error("list the backup's objects")]
    List(#[from] PacksListError),
    /// There is no randomness.
    #[error("name an object")]
    Random(#[from] RandomError),
}

/// What became of a backup, region by region.
#[derive(Debug)]
pub struct CommitReport {
    /// The record, as it stands in every log that has it.
    pub record: BackupRecord,
    /// The place of the record in each region's log, or why there is none.
    pub regions: BTreeMap<RegionName, Result<LogHead, ExclusionReason>>,
}

impl CommitReport {
    /// How many regions hold the backup.
    #[must_use]
    pub fn committed(&self) -> usize {
        self.regions.values().filter(|outcome| outcome.is_ok()).count()
    }
}

struct Objects {
    keys: SealedBody,
    list: SealedBody,
    /// The backups below whose folders the listed objects lie.
    folders: BTreeSet<BackupId>,
    draft: Draft,
    signer: Arc<NoteSigner>,
}

impl SealedBackup {
    /// Waits for the uploads, region by region, and commits the backup in each region that has everything. `logs` are
    /// the logs of the regions that take part; a region without one cannot be committed.
    ///
    /// # Errors
    /// [`CommitError`] if no record could be written at all; what happens in one region stands in the report.
    pub async fn commit(
        self,
        details: BackupDetails,
        authority: CommitAuthority<'_>,
        mut logs: BTreeMap<RegionName, RegionLog>,
    ) -> Result<CommitReport, CommitError> {
        let place = EpochPlace { repository: self.identity.repository, epoch: self.identity.epoch };
        let created = details.stop_time;
        let keys = body(seal_slots(&self.identity.key, place, created, authority.recipients).await?.into());
        let mut list = PacksList::default();
        for object in self.packs.iter().chain(&self.packed.shards) {
            list.insert(object.key.clone(), object.sha256)?;
        }
        let folders = list.iter().filter_map(|(key, _)| layout::folder_of(key)).collect();
        let list = list.to_body()?;
        let record = self.record(&details, &keys, &list);
        let body = RecordBody::Backup(Box::new(record.clone()));
        let origin = Origin {
            writer: authority.signer.name().clone(),
            wseq: authority.wseq,
            time: created,
            tool: authority.tool.to_owned(),
        };
        let signer = Arc::clone(authority.signer);
        let objects = Arc::new(Objects { keys, list, folders, draft: Draft { origin, body }, signer });
        let mut tasks = tokio::task::JoinSet::new();
        let mut regions = BTreeMap::new();
        for region in self.hub.regions() {
            let log = logs.remove(&region.name);
            let work =
                commit_region(Arc::clone(&self.hub), self.backup.clone(), region.clone(), log, Arc::clone(&objects));
            // Until it says what became of it: a region that is missing here would not be missed in the verdict either.
            regions.insert(region.name.clone(), Err(ExclusionReason::Commit("the commit has panicked".into())));
            tasks.spawn(async move { (region.name, work.await) });
        }
        while let Some(done) = tasks.join_next().await {
            match done {
                Ok((region, outcome)) => {
                    regions.insert(region, outcome);
                }
                Err(error) => tracing::error!(%error, "a commit has ended without a result"),
            }
        }
        Ok(CommitReport { record, regions })
    }

    fn record(&self, details: &BackupDetails, keys: &SealedBody, list: &SealedBody) -> BackupRecord {
        let shards = &self.packed.shards;
        let all = || self.packs.iter().chain(shards);
        let bytes: ByteCount = all().map(|object| object.size).sum();
        let objects = all().count() as u64;
        BackupRecord {
            backup: self.backup.clone(),
            kind: details.kind,
            parent: None,
            pg: details.pg.clone(),
            start_lsn: details.start.lsn,
            start_tli: details.start.timeline,
            stop_lsn: details.stop.lsn,
            stop_tli: details.stop.timeline,
            start_time: details.start_time,
            stop_time: details.stop_time,
            duration_ms: details.duration_ms,
            frame_bytes: details.frame_bytes,
            epochs: vec![EpochRef { id: self.identity.epoch, slots: 0, keys_sha256: keys.sha256 }],
            packs: PacksRef { sha256: list.sha256, objects, bytes, own: objects, own_bytes: bytes },
            index: shards.iter().map(shard).collect(),
            files: FilesFacts { count: self.packed.files, raw_bytes: self.packed.raw },
            pages: details.pages,
            omissions: details.omissions.clone(),
        }
    }
}

fn shard(object: &StoredObject) -> ShardRef {
    ShardRef { key: object.key.clone(), sha256: object.sha256, size: object.size }
}

fn body(bytes: Bytes) -> SealedBody {
    SealedBody { sha256: sha256(&bytes), bytes }
}

async fn commit_region(
    hub: Arc<UploadHub>,
    backup: BackupId,
    region: RegionStore,
    log: Option<RegionLog>,
    objects: Arc<Objects>,
) -> Result<LogHead, ExclusionReason> {
    hub.drained(&region.name).await?;
    let commit = |error: Box<dyn std::error::Error + Send + Sync>| ExclusionReason::Commit(error);
    let Some(mut log) = log else { return Err(commit("its log could not be read".into())) };
    let Objects { keys, list, folders, draft, signer } = &*objects;
    let RecordBody::Backup(record) = &draft.body else { return Err(commit("there is no record".into())) };
    let slots = record.epochs.first().map(|epoch| layout::slots(epoch.id, epoch.slots));
    let slots = slots.ok_or_else(|| commit("the record names no key".into()))?;
    for (key, object) in [(slots, keys), (layout::packs_list(&backup), list)] {
        // Whoever sees a backup grow knows both names.
        match create_once(&*region.store, &key, object).await {
            Ok(Created::Ours) => {}
            Ok(Created::Others) => return Err(ExclusionReason::Taken { key }),
            Err(source) => return Err(ExclusionReason::Upload { key, source }),
        }
    }
    // A sweep may have deleted what this backup relies on as leftovers of a crash: then the backup does not exist.
    let relied_on = |log: &RegionLog| log.refuse_backups(folders);
    let appended = log.append_while(&*region.store, signer, draft, relied_on).await;
    appended.map_err(|error| commit(error.into()))
}

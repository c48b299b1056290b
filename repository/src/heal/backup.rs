//! One backup from a healthy region into another: all objects, then the key and the list, the record last.
//!
//! CRASH SAFETY, in the target: 1. every object of the list is there, with the size that was verified or that a source has; 2. the wrapped
//! keys and the list are there; 3. the record is appended, directly behind a reading of the log in which nothing has swept
//! the backup. Crash before 3: objects that no record names; a repetition finds them by a listing and goes on behind them.
//! Crash or lost answer during 3: a repetition finds the record by its origin. Hence: what stands in the log is whole.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::{BackupId, ByteCount, RegionName, Sha256Digest, counted, error_chain};

use crate::format::layout::{self, StoredName};
use crate::format::packs_list::{PacksList, PacksListError};
use crate::heal::copy::{Copied, Copier, CopyError, Fetched, Place, Wanted};
use crate::heal::pass_on::{APPEND_ATTEMPTS, PassOn};
use crate::heal::plan::{BackupTask, Lack};
use crate::heal::proof::Proof;
use crate::heal::sizes::{Sizes, folders, sizes};
use crate::log::append::{Attempt, Draft};
use crate::log::damage::Completeness;
use crate::log::error::LogError;
use crate::log::records::record::RecordBody;
use crate::log::region_log::RegionLog;
use crate::log::region_store::{RegionReadError, RegionStore};

/// Why a backup was not healed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HealBackupError {
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error("read the list of objects of backup {backup}")]
    List { backup: BackupId, source: PacksListError },
    #[error("look at what {region} has")]
    Listing { region: RegionName, source: RegionReadError },
    #[error("backup {backup} lacks {} that the region has confirmed, such as {first}", counted(*.missing, "object", "objects"))]
    NotThere { backup: BackupId, missing: u64, first: ObjectKey },
    #[error("backup {backup} was deleted in this region meanwhile")]
    Swept { backup: BackupId },
    #[error("write the record of backup {backup}")]
    Append { backup: BackupId, source: LogError },
}

/// What was done for one backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) objects: u64,
    pub(crate) bytes: ByteCount,
    pub(crate) from: BTreeMap<RegionName, u64>,
}

impl Moved {
    pub(crate) fn note(&mut self, copied: &Copied) {
        if let Copied::Put { size, from } = copied {
            self.objects += 1;
            self.bytes = self.bytes.plus(*size);
            *self.from.entry(from.clone()).or_default() += 1;
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.objects += other.objects;
        self.bytes = self.bytes.plus(other.bytes);
        for (region, objects) in &other.from {
            *self.from.entry(region.clone()).or_default() += objects;
        }
    }

    /// The region that gave most.
    pub(crate) fn mostly_from(&self) -> Option<RegionName> {
        self.from.iter().max_by_key(|(_, objects)| **objects).map(|(region, _)| region.clone())
    }
}

/// The objects of one backup, and where they stand.
struct Inventory {
    /// Every object that the record needs, with its proof; the list itself last.
    objects: Vec<(ObjectKey, Sha256Digest)>,
    /// What the sources have: one of them may hold another size than was stored, and proves nothing against the rest.
    expected: BTreeMap<ObjectKey, BTreeSet<ByteCount>>,
    /// What the target has.
    present: Sizes,
}

/// Heals one backup. Returns what was moved.
pub(crate) async fn heal_backup(
    copier: &Copier<'_>,
    task: &BackupTask,
    log: &mut RegionLog,
    author: PassOn<'_>,
) -> Result<Moved, HealBackupError> {
    let inventory = take_inventory(copier, task).await?;
    let wanted = inventory.wanted(task);
    let bytes = wanted.iter().map(|(key, ..)| inventory.size(key)).sum();
    copier.progress.expect(wanted.len() as u64, bytes);
    let (mut moved, mut verified) = (Moved::default(), Sizes::new());
    for (key, sha256, place) in wanted {
        let (proof, size) = (Proof::Digest(sha256), inventory.size(&key));
        let wanted = Wanted { key: &key, proof: &proof, size, holders: &task.holders };
        let copied = copier.copy(&wanted, place).await?;
        moved.note(&copied);
        let (Copied::Put { size, .. } | Copied::Found { size }) = copied;
        verified.insert(key, size);
    }
    let folders = inventory.folders();
    let present = present(copier.target, &folders, &inventory.names()).await?;
    let is_there = |key: &ObjectKey| match (present.get(key), verified.get(key)) {
        (None, _) => false,
        // Its digest was compared on the way, or in its place.
        (Some(size), Some(verified)) => size == verified,
        (Some(size), None) => inventory.expected.get(key).is_none_or(|expected| expected.contains(size)),
    };
    let missing: Vec<&ObjectKey> = inventory.objects.iter().map(|(key, _)| key).filter(|key| !is_there(key)).collect();
    let backup = task.record.backup.clone();
    if let Some(first) = missing.first() {
        let (missing, first) = (missing.len() as u64, ObjectKey::clone(first));
        return Err(HealBackupError::NotThere { backup, missing, first });
    }
    if task.lack == Lack::Record {
        commit(copier.target, task, log, author, &inventory).await?;
    }
    Ok(moved)
}

/// Looks at the list of objects, and at what lies in the target.
async fn take_inventory(copier: &Copier<'_>, task: &BackupTask) -> Result<Inventory, HealBackupError> {
    let record = &task.record;
    let list_key = layout::packs_list(&record.backup);
    let proof = Proof::Digest(record.packs.sha256);
    let wanted = Wanted { key: &list_key, proof: &proof, size: ByteCount::ZERO, holders: &task.holders };
    let Fetched { body, .. } = copier.fetch(&wanted).await?;
    let failed = |source| HealBackupError::List { backup: record.backup.clone(), source };
    let list = PacksList::parse(&body.bytes).map_err(failed)?;
    let mut objects: Vec<_> = list.iter().map(|(key, sha256)| (key.clone(), sha256)).collect();
    objects.extend(record.epochs.iter().map(|epoch| (layout::slots(epoch.id, epoch.slots), epoch.keys_sha256)));
    objects.push((list_key, record.packs.sha256));
    let inventory = Inventory { objects, expected: BTreeMap::new(), present: Sizes::new() };
    let folders = inventory.folders();
    let names = inventory.names();
    let present = present(copier.target, &folders, &names).await?;
    let mut expected: BTreeMap<ObjectKey, BTreeSet<ByteCount>> = BTreeMap::new();
    for source in copier.sources.iter().filter(|source| task.holders.contains(&source.name)) {
        match sizes(source, &folders, &names).await {
            Ok(found) => found.into_iter().for_each(|(key, size)| {
                expected.entry(key).or_default().insert(size);
            }),
            Err(error) => {
                tracing::debug!(region = %source.name, error = %error_chain(&error), "a region cannot be listed");
            }
        }
    }
    drop(names);
    Ok(Inventory { present, expected, ..inventory })
}

impl Inventory {
    fn names(&self) -> BTreeSet<&ObjectKey> {
        self.objects.iter().map(|(key, _)| key).collect()
    }

    /// The folders that the objects lie in: that of the backup, those that it refers to, and those of its keys.
    fn folders(&self) -> BTreeSet<String> {
        folders(self.objects.iter().map(|(key, _)| key))
    }

    /// How much is read at the most.
    fn size(&self, key: &ObjectKey) -> ByteCount {
        self.expected.get(key).and_then(BTreeSet::last).copied().unwrap_or_default()
    }

    /// What has to be copied: what is missing, what has another size than all sources, and what is known to be damaged.
    fn wanted(&self, task: &BackupTask) -> Vec<(ObjectKey, Sha256Digest, Place)> {
        let is_suspect = |key: &ObjectKey| match &task.lack {
            Lack::Record => false,
            Lack::Objects { named, complete, .. } => *complete == Completeness::Some || named.contains(key),
        };
        let place = |key: &ObjectKey| match self.present.get(key) {
            None => Some(Place::Empty),
            Some(size) if self.expected.get(key).is_some_and(|sizes| !sizes.iter().all(|other| other == size)) => {
                Some(Place::Suspect)
            }
            Some(_) if is_suspect(key) => Some(Place::Suspect),
            // Whoever sees another region knows names and sizes: what the record will vouch for is read.
            Some(_) if task.lack == Lack::Record => Some(Place::Suspect),
            Some(_) => None,
        };
        let wanted = self.objects.iter().filter_map(|(key, sha256)| Some((key.clone(), *sha256, place(key)?)));
        wanted.collect()
    }
}

/// What the target has.
async fn present(
    target: &RegionStore,
    folders: &BTreeSet<String>,
    names: &BTreeSet<&ObjectKey>,
) -> Result<Sizes, HealBackupError> {
    let failed = |source| HealBackupError::Listing { region: target.name.clone(), source };
    sizes(target, folders, names).await.map_err(failed)
}

/// Appends the record, unless the log says meanwhile that the backup, or one that it refers to, does not exist here.
async fn commit(
    target: &RegionStore,
    task: &BackupTask,
    log: &mut RegionLog,
    author: PassOn<'_>,
    inventory: &Inventory,
) -> Result<(), HealBackupError> {
    let backup = || task.record.backup.clone();
    let failed = |source| HealBackupError::Append { backup: backup(), source };
    let draft = Draft { origin: task.origin.clone(), body: RecordBody::Backup(Box::new(task.record.clone())) };
    let named = inventory.objects.iter().filter_map(|(key, _)| backup_of(key));
    let needed: BTreeSet<BackupId> = named.chain([backup()]).collect();
    log.refresh(&*target.store).await.map_err(failed)?;
    for _ in 0..APPEND_ATTEMPTS {
        let swept = log.state(author.now).swept;
        if needed.iter().any(|id| swept.contains_key(id)) {
            return Err(HealBackupError::Swept { backup: backup() });
        }
        if let Attempt::Written(_) = author.once(log, &*target.store, &draft).await.map_err(failed)? {
            return Ok(());
        }
    }
    Err(failed(LogError::Contended { attempts: APPEND_ATTEMPTS }))
}

fn backup_of(key: &ObjectKey) -> Option<BackupId> {
    match layout::parse(key)? {
        StoredName::Pack { backup, .. } | StoredName::IndexShard { backup, .. } | StoredName::PacksList { backup } => {
            Some(backup)
        }
        _ => None,
    }
}

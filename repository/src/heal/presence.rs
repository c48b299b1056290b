//! Whether everything is there, by listings alone: cheap enough for every day.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_stores::{ObjectKey, StoreError};
use lifeboat_vocabulary::{BackupId, ByteCount, Clock, Sha256Digest};

use crate::format::ids::EpochId;
use crate::format::layout;
use crate::format::packs_list::PacksList;
use crate::heal::proof::Proof;
use crate::log::damage::FoundDamage;
use crate::log::records::backup::BackupRecord;
use crate::log::records::record::RecordBody;
use crate::log::region_log::RegionLog;
use crate::log::region_store::{RegionReadError, RegionStore};
use crate::wal::epoch::FIRST_SLOTS;

/// What a listing of a region found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresenceReport {
    /// Objects in the region.
    pub objects: u64,
    /// Their bytes.
    pub bytes: ByteCount,
    /// What should be there and is not, or has another size.
    pub damage: Vec<FoundDamage>,
    /// The same, by what needs it.
    pub missing: Missing,
}

/// Objects that a region should have and that a listing did not show, by what needs them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Of backups that exist in the region.
    pub backups: BTreeMap<BackupId, BTreeSet<ObjectKey>>,
    /// Wrapped keys of WAL.
    pub of_wal: BTreeSet<ObjectKey>,
}

/// Lists a whole region, and compares it with what its log says. Reads only the lists of objects. `others` are regions
/// whose lists stand in for damaged ones.
///
/// # Errors
/// [`RegionReadError`] if the region does not answer; then nothing is known.
pub async fn check_presence(
    region: &RegionStore,
    others: &[RegionStore],
    log: &mut RegionLog,
    clock: &dyn Clock,
) -> Result<PresenceReport, RegionReadError> {
    // First the log: what it names has been there before.
    log.refresh(&*region.store).await?;
    // Then what is wanted, and of the listing nothing else: whoever may create objects must not fill this machine's memory.
    let mut wanted = WantedObjects::default();
    for backup in log.state(clock.now()).backups.into_values() {
        let record = &backup.record;
        for epoch in &record.epochs {
            wanted.add(&layout::slots(epoch.id, epoch.slots), None, Some(&record.backup));
        }
        wanted.add(&layout::packs_list(&record.backup), None, Some(&record.backup));
        let Some(list) = list_of(region, others, record).await? else { continue };
        let shards: BTreeMap<_, _> = record.index.iter().map(|shard| (&shard.key, shard.size)).collect();
        for (key, _) in list.iter() {
            wanted.add(key, shards.get(key).copied(), Some(&record.backup));
        }
    }
    wrapped_keys(log, clock).keys().for_each(|key| wanted.add(key, None, None));
    let mut found = Found::default();
    for prefix in [layout::DATA_PREFIX, layout::KEYS_PREFIX, layout::SLICES_PREFIX, layout::WAL_PREFIX] {
        found.list(region, prefix, &mut wanted).await?;
    }
    let absent = wanted.absent();
    let mut report = PresenceReport { objects: found.objects, bytes: found.bytes, ..PresenceReport::default() };
    if absent.is_empty() {
        return Ok(report);
    }
    // What was swept since the log was read is not missed.
    log.refresh(&*region.store).await?;
    let state = log.state(clock.now());
    let swept: BTreeSet<_> = state.swept.keys().map(layout::backup_prefix).collect();
    let keys = wrapped_keys(log, clock);
    for (key, Absence { what, needed_by }) in absent {
        let is_swept = swept.iter().any(|folder| key.as_str().starts_with(folder.as_str()))
            || key.as_str().starts_with(layout::KEYS_PREFIX) && !keys.contains_key(&key);
        if is_swept {
            continue;
        }
        let needed_by: Vec<&BackupId> = needed_by.iter().filter(|backup| state.backups.contains_key(*backup)).collect();
        if needed_by.is_empty() && keys.contains_key(&key) {
            report.missing.of_wal.insert(key.clone());
        }
        for backup in needed_by {
            report.missing.backups.entry(backup.clone()).or_default().insert(key.clone());
        }
        report.damage.push(FoundDamage { region: region.name.clone(), key, what });
    }
    Ok(report)
}

/// The objects that have to be there.
#[derive(Default)]
struct WantedObjects(BTreeMap<ObjectKey, WantedObject>);

#[derive(Default)]
struct WantedObject {
    /// Its size, where a record says it.
    expected: Option<ByteCount>,
    found: Option<ByteCount>,
    needed_by: BTreeSet<BackupId>,
}

/// What is not there, or has another size.
struct Absence {
    what: String,
    needed_by: BTreeSet<BackupId>,
}

impl WantedObjects {
    fn add(&mut self, key: &ObjectKey, expected: Option<ByteCount>, needed_by: Option<&BackupId>) {
        let wanted = self.0.entry(key.clone()).or_default();
        wanted.expected = wanted.expected.or(expected);
        wanted.needed_by.extend(needed_by.cloned());
    }

    fn absent(self) -> BTreeMap<ObjectKey, Absence> {
        let absence = |(key, wanted): (ObjectKey, WantedObject)| {
            let WantedObject { expected, found, needed_by } = wanted;
            let what = match (found, expected) {
                (None, _) => "it is missing".to_owned(),
                (Some(size), Some(expected)) if size != expected => format!("it has the wrong size, {size}"),
                (Some(_), _) => return None,
            };
            Some((key, Absence { what, needed_by }))
        };
        self.0.into_iter().filter_map(absence).collect()
    }
}

/// All wrapped keys that a region has to have: those of its backups, and those of WAL that it has not swept.
pub(crate) fn wrapped_keys(log: &RegionLog, clock: &dyn Clock) -> BTreeMap<ObjectKey, Sha256Digest> {
    let state = log.state(clock.now());
    let of_backups = state.backups.values().flat_map(|backup| &backup.record.epochs);
    let mut keys: BTreeMap<ObjectKey, Sha256Digest> =
        of_backups.map(|epoch| (layout::slots(epoch.id, epoch.slots), epoch.keys_sha256)).collect();
    let intents = log.entries().iter().filter_map(|entry| match &entry.record.body {
        RecordBody::SweepIntent(intent) => Some(&intent.epochs),
        _ => None,
    });
    let swept: BTreeSet<EpochId> = intents.flatten().copied().collect();
    let of_wal = log.wal_epochs().filter(|epoch| !swept.contains(&epoch.epoch));
    keys.extend(of_wal.map(|epoch| (layout::slots(epoch.epoch, FIRST_SLOTS), epoch.keys_sha256)));
    keys
}

/// How much there is.
#[derive(Default)]
struct Found {
    objects: u64,
    bytes: ByteCount,
}

impl Found {
    async fn list(
        &mut self,
        region: &RegionStore,
        prefix: &str,
        wanted: &mut WantedObjects,
    ) -> Result<(), RegionReadError> {
        let mut after = None;
        loop {
            let page = region.store.list(prefix, after.as_ref()).await;
            let page = page.map_err(|source| RegionReadError::List { prefix: prefix.to_owned(), source })?;
            after = page.entries.last().filter(|_| page.more).map(|last| last.key.clone());
            for entry in page.entries {
                self.objects += 1;
                self.bytes = self.bytes.plus(entry.meta.size);
                if let Some(wanted) = wanted.0.get_mut(&entry.key) {
                    wanted.found = Some(entry.meta.size);
                }
            }
            if after.is_none() {
                return Ok(());
            }
        }
    }
}

/// The list of a backup's objects, from the region itself or from another one. `None` if no region has it whole: the
/// scrub of contents reports that.
async fn list_of(
    region: &RegionStore,
    others: &[RegionStore],
    record: &BackupRecord,
) -> Result<Option<PacksList>, RegionReadError> {
    let key = layout::packs_list(&record.backup);
    let expected: Sha256Digest = record.packs.sha256;
    for (place, region) in [region].into_iter().chain(others).enumerate() {
        match region.store.get(&key, Proof::Digest(expected).bound()).await {
            Ok(bytes) if crate::format::aead::sha256(&bytes) == expected => {
                let list = PacksList::parse(&bytes).ok();
                return Ok(list.filter(|list| list.len() as u64 == record.packs.objects));
            }
            Ok(_) | Err(StoreError::NotFound { .. } | StoreError::Unsupported { .. }) => {}
            Err(source) if place == 0 => return Err(RegionReadError::Store { key, source }),
            Err(_) => {}
        }
    }
    Ok(None)
}

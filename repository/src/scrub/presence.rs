//! Whether everything is there, by listings alone: cheap enough for every day.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_stores::{ObjectKey, StoreError};
use lifeboat_vocabulary::{ByteCount, Clock, Sha256Digest};

use crate::format::layout;
use crate::format::packs_list::PacksList;
use crate::heal::proof::Proof;
use crate::log::damage::FoundDamage;
use crate::log::records::backup::BackupRecord;
use crate::log::region_log::RegionLog;
use crate::log::region_store::RegionStore;
use crate::scrub::walk::{ScrubError, wrapped_keys};

/// What a listing of a region found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresenceReport {
    /// Objects in the region.
    pub objects: u64,
    /// Their bytes.
    pub bytes: ByteCount,
    /// What should be there and is not, or has another size.
    pub damage: Vec<FoundDamage>,
}

/// Lists a whole region, and compares it with what its log says. Reads only the lists of objects. `others` are regions
/// whose lists stand in for damaged ones.
///
/// # Errors
/// [`ScrubError`] if the region does not answer; then nothing is known.
pub async fn check_presence(
    region: &RegionStore,
    others: &[RegionStore],
    log: &mut RegionLog,
    clock: &dyn Clock,
) -> Result<PresenceReport, ScrubError> {
    // First the log: what it names has been there before.
    log.refresh(&*region.store).await?;
    let mut found = Sizes::default();
    for prefix in [layout::DATA_PREFIX, layout::KEYS_PREFIX, layout::SLICES_PREFIX, layout::WAL_PREFIX] {
        found.list(region, prefix).await?;
    }
    let mut missing: BTreeMap<ObjectKey, String> = BTreeMap::new();
    for backup in log.state(clock.now()).backups.into_values() {
        let Some(list) = list_of(region, others, &backup.record).await? else { continue };
        let shards: BTreeMap<_, _> = backup.record.index.iter().map(|shard| (&shard.key, shard.size)).collect();
        let list_key = layout::packs_list(&backup.record.backup);
        for key in list.iter().map(|(key, _)| key).chain([&list_key]) {
            match found.sizes.get(key) {
                None => drop(missing.insert(key.clone(), "it is missing".to_owned())),
                Some(size) if shards.get(key).is_some_and(|expected| expected != size) => {
                    missing.insert(key.clone(), format!("it has the wrong size, {size}"));
                }
                Some(_) => {}
            }
        }
    }
    let keys = wrapped_keys(log, clock).into_keys();
    missing.extend(keys.filter(|key| !found.sizes.contains_key(key)).map(|key| (key, "it is missing".to_owned())));
    let mut report = PresenceReport { objects: found.objects, bytes: found.bytes, damage: Vec::new() };
    if missing.is_empty() {
        return Ok(report);
    }
    // What was swept since the log was read is not missed.
    log.refresh(&*region.store).await?;
    let state = log.state(clock.now());
    let swept: BTreeSet<_> = state.swept.keys().map(layout::backup_prefix).collect();
    let keys = wrapped_keys(log, clock);
    for (key, what) in missing {
        let is_swept = swept.iter().any(|folder| key.as_str().starts_with(folder.as_str()))
            || key.as_str().starts_with(layout::KEYS_PREFIX) && !keys.contains_key(&key);
        if !is_swept {
            report.damage.push(FoundDamage { region: region.name.clone(), key, what });
        }
    }
    Ok(report)
}

/// The objects of a region that a record names; of WAL only how much there is.
#[derive(Default)]
struct Sizes {
    sizes: BTreeMap<ObjectKey, ByteCount>,
    objects: u64,
    bytes: ByteCount,
}

impl Sizes {
    async fn list(&mut self, region: &RegionStore, prefix: &str) -> Result<(), ScrubError> {
        let is_named = prefix == layout::DATA_PREFIX || prefix == layout::KEYS_PREFIX;
        let mut after = None;
        loop {
            let page = region.store.list(prefix, after.as_ref()).await;
            let page = page.map_err(|source| ScrubError::List { prefix: prefix.to_owned(), source })?;
            after = page.entries.last().filter(|_| page.more).map(|last| last.key.clone());
            for entry in page.entries {
                self.objects += 1;
                self.bytes = self.bytes.plus(entry.meta.size);
                if is_named {
                    self.sizes.insert(entry.key, entry.meta.size);
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
) -> Result<Option<PacksList>, ScrubError> {
    let key = layout::packs_list(&record.backup);
    let expected: Sha256Digest = record.packs.sha256;
    for (place, region) in [region].into_iter().chain(others).enumerate() {
        match region.store.get(&key, Proof::Digest(expected).bound()).await {
            Ok(bytes) if crate::format::aead::sha256(&bytes) == expected => return Ok(PacksList::parse(&bytes).ok()),
            Ok(_) | Err(StoreError::NotFound { .. } | StoreError::Unsupported { .. }) => {}
            Err(source) if place == 0 => return Err(ScrubError::Store { key, source }),
            Err(_) => {}
        }
    }
    Ok(None)
}

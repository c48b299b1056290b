//! Everything that a region stores, read back and verified, without any key: packs, indexes and lists by the SHA-256 that
//! signed records name, keys likewise, WAL by its signatures. In the byte order of the keys, so that one key tells
//! how far it has come.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use lifeboat_stores::{ObjectKey, StoreError};
use lifeboat_vocabulary::{BackupId, ByteCount, Clock, Lsn, Sha256Digest, TimelineId, error_chain};

use crate::format::aead::sha256;
use crate::format::layout::{self, SLICES_PREFIX, StoredName, WAL_PREFIX};
use crate::format::packs_list::PacksList;
use crate::heal::faults::{LOOKS, ScrubRegion, wal_name};
use crate::heal::pace::Pace;
use crate::heal::presence::wrapped_keys;
use crate::heal::proof::Proof;
use crate::log::damage::FoundDamage;
use crate::log::records::backup::BackupRecord;
use crate::log::region_log::RegionLog;
use crate::log::region_store::{RegionReadError, RegionStore};
use crate::wal::name::WalObject;
use crate::wal::object::WalTrust;

/// One object that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrubbed {
    /// Which.
    pub key: ObjectKey,
    /// How many bytes were read.
    pub bytes: ByteCount,
    /// What is wrong with it, if anything is.
    pub damage: Option<FoundDamage>,
    /// Why it could not be read: nothing is known of it then.
    pub unread: Option<String>,
}

enum Item {
    /// Named by a record.
    Digest(ObjectKey, Sha256Digest),
    /// Verified by its own signature.
    Signed(ObjectKey, StoredName),
}

impl Item {
    fn key(&self) -> &ObjectKey {
        let (Self::Digest(key, _) | Self::Signed(key, _)) = self;
        key
    }
}

/// Goes through all objects of a region behind a key.
pub struct ScrubWalk<'a> {
    region: &'a RegionStore,
    /// Regions whose lists of objects stand in for damaged ones.
    others: &'a [RegionStore],
    log: RegionLog,
    trust: WalTrust,
    pace: &'a Pace,
    clock: &'a dyn Clock,
    after: Option<ObjectKey>,
    backups: VecDeque<BackupRecord>,
    keys: VecDeque<(ObjectKey, Sha256Digest)>,
    folders: VecDeque<&'static str>,
    listed: Option<ObjectKey>,
    items: VecDeque<Item>,
    floors: BTreeMap<TimelineId, Lsn>,
    /// What is passed over if it cannot be read.
    passed: BTreeSet<ObjectKey>,
}

impl<'a> ScrubWalk<'a> {
    /// What lies behind `after`, by the log as it is now.
    #[must_use]
    pub fn new(scrubbed: ScrubRegion<'a>, log: RegionLog, after: Option<&ObjectKey>) -> Self {
        let ScrubRegion { region, others, trust, pace, clock, .. } = scrubbed;
        let state = log.state(clock.now());
        let is_ahead = |key: &ObjectKey| after.is_none_or(|after| key > after);
        let records = state.backups.into_values().map(|backup| backup.record);
        // The list is the last of a backup's objects in the order of keys.
        let backups: VecDeque<BackupRecord> =
            records.filter(|record| is_ahead(&layout::packs_list(&record.backup))).collect();
        let keys = wrapped_keys(&log, clock).into_iter().filter(|(key, _)| is_ahead(key)).collect();
        Self {
            region,
            others,
            trust: WalTrust::of(trust),
            log,
            pace,
            clock,
            after: after.cloned(),
            backups,
            keys,
            folders: [SLICES_PREFIX, WAL_PREFIX].into(),
            listed: after.cloned(),
            items: VecDeque::new(),
            floors: state.wal_floors,
            passed: BTreeSet::new(),
        }
    }

    /// If this object still cannot be read, it is reported as such, and the walk goes on behind it.
    pub fn pass_over(&mut self, key: ObjectKey) {
        self.passed.insert(key);
    }

    /// Looks at the next object; `None` behind the last one. An object that the region says it does not give (no right, an archive class,
    /// a foreign key) is passed over at once.
    ///
    /// # Errors
    /// [`RegionReadError`]: the object could not be looked at. The same walk can be asked again, and stays there until it can be read
    /// or [`Self::pass_over`] names it.
    pub async fn next(&mut self) -> Result<Option<Scrubbed>, RegionReadError> {
        loop {
            if let Some(item) = self.items.pop_front() {
                match self.look(&item).await {
                    Ok(Some(scrubbed)) => {
                        self.pace.take(scrubbed.bytes).await;
                        return Ok(Some(scrubbed));
                    }
                    Ok(None) => continue,
                    Err(error) => {
                        self.items.push_front(item);
                        return Err(error);
                    }
                }
            }
            if let Some(record) = self.backups.front().cloned() {
                let damage = self.enter_backup(&record).await?;
                self.backups.pop_front();
                if damage.is_some() {
                    return Ok(damage);
                }
            } else if let Some((key, sha256)) = self.keys.pop_front() {
                self.items.push_back(Item::Digest(key, sha256));
            } else if !self.list_on().await? {
                return Ok(None);
            }
        }
    }

    /// The log as far as it was read on.
    #[must_use]
    pub fn log(&self) -> &RegionLog {
        &self.log
    }

    /// Finds out which objects a backup has. If the list is damaged here, another region's stands in for it; without any,
    /// only the damage of the list is known.
    async fn enter_backup(&mut self, record: &BackupRecord) -> Result<Option<Scrubbed>, RegionReadError> {
        let (key, expected) = (layout::packs_list(&record.backup), record.packs.sha256);
        let mut list = self.read_list(self.region, &key, expected).await;
        if list.is_none() {
            let Some(looked) = self.look(&Item::Digest(key.clone(), expected)).await? else { return Ok(None) };
            // Behind it, the list is looked at once more, in its turn.
            for region in [self.region].into_iter().chain(self.others) {
                list = self.read_list(region, &key, expected).await;
                if list.is_some() {
                    break;
                }
            }
            if list.is_none() {
                return Ok(Some(looked));
            }
        }
        // What belongs to other backups is verified with them.
        let folder = layout::backup_prefix(&record.backup);
        let mut items: BTreeMap<ObjectKey, Sha256Digest> = BTreeMap::from([(key, expected)]);
        let listed = list.iter().flat_map(PacksList::iter).filter(|(key, _)| key.as_str().starts_with(&folder));
        items.extend(listed.map(|(key, sha256)| (key.clone(), sha256)));
        let after = self.after.as_ref();
        let ahead = items.into_iter().filter(|(key, _)| after.is_none_or(|after| key > after));
        self.items.extend(ahead.map(|(key, sha256)| Item::Digest(key, sha256)));
        Ok(None)
    }

    async fn read_list(&self, region: &RegionStore, key: &ObjectKey, expected: Sha256Digest) -> Option<PacksList> {
        let bytes = region.store.get(key, Proof::Digest(expected).bound()).await.ok()?;
        if sha256(&bytes) == expected { PacksList::parse(&bytes).ok() } else { None }
    }

    /// The next page of WAL; `false` behind the last one.
    async fn list_on(&mut self) -> Result<bool, RegionReadError> {
        let Some(folder) = self.folders.front().copied() else { return Ok(false) };
        let after = self.listed.clone().filter(|key| key.as_str() >= folder);
        let page = self.region.store.list(folder, after.as_ref()).await;
        let page = page.map_err(|source| RegionReadError::List { prefix: folder.to_owned(), source })?;
        self.listed = page.entries.last().map(|last| last.key.clone()).or(after);
        if !page.more {
            self.folders.pop_front();
        }
        for entry in page.entries {
            if let Some(name) = wal_name(&entry.key) {
                self.items.push_back(Item::Signed(entry.key, name));
            }
        }
        Ok(true)
    }

    /// Reads an object and verifies it. `None` if it was deleted by a sweep.
    async fn look(&mut self, item: &Item) -> Result<Option<Scrubbed>, RegionReadError> {
        let key = item.key();
        if WalObject::of_key(key).is_some_and(|object| self.is_swept(object)) {
            return Ok(None);
        }
        let proof = match item {
            Item::Digest(_, sha256) => Proof::Digest(*sha256),
            Item::Signed(_, name) => Proof::Signed(name.clone()),
        };
        let (mut bytes, mut fault) = (ByteCount::ZERO, None);
        for _ in 0..=LOOKS {
            fault = match self.region.store.get(key, proof.bound()).await {
                Ok(object) => {
                    bytes = bytes.plus(ByteCount::of(&object));
                    self.fault(&proof, &object).await?
                }
                // It was listed a moment ago: swept, or expired by a rule of the bucket.
                Err(StoreError::NotFound { .. }) if matches!(item, Item::Signed(..)) => return Ok(None),
                Err(StoreError::NotFound { .. }) => Some("it is missing".to_owned()),
                Err(StoreError::Unsupported { why, .. }) => Some(why),
                Err(error) if matches!(error, StoreError::Misconfigured { .. }) || self.passed.contains(key) => {
                    let unread = Some(error_chain(&error));
                    return Ok(Some(Scrubbed { key: key.clone(), bytes, damage: None, unread }));
                }
                Err(source) => return Err(RegionReadError::Store { key: key.clone(), source }),
            };
            if fault.is_none() {
                return Ok(Some(Scrubbed { key: key.clone(), bytes, damage: None, unread: None }));
            }
        }
        if self.is_gone_for_good(key).await? {
            return Ok(None);
        }
        let what = fault.unwrap_or_default();
        let damage = FoundDamage { region: self.region.name.clone(), key: key.clone(), what };
        Ok(Some(Scrubbed { key: key.clone(), bytes, damage: Some(damage), unread: None }))
    }

    async fn fault(&mut self, proof: &Proof, object: &Bytes) -> Result<Option<String>, RegionReadError> {
        if let Some(fault) = proof.fault(&self.trust, object) {
            return Ok(Some(fault));
        }
        let Proof::Signed(_) = proof else { return Ok(None) };
        let epoch = match WalTrust::claimed_epoch(object) {
            Ok(epoch) => epoch,
            Err(error) => return Ok(Some(error_chain(&error))),
        };
        if self.log.wal_epoch_keys(epoch).is_none() {
            // It may be newer than our reading of the log.
            self.log.refresh(&*self.region.store).await?;
        }
        let is_known = self.log.wal_epoch_keys(epoch).is_some();
        Ok((!is_known).then(|| format!("no record of this region names its key {epoch}")))
    }

    fn is_swept(&self, object: WalObject) -> bool {
        let floor = self.floors.get(&object.range.timeline);
        floor.is_some_and(|floor| object.range.end <= *floor)
    }

    /// Whether the log says meanwhile that the object was swept.
    async fn is_gone_for_good(&mut self, key: &ObjectKey) -> Result<bool, RegionReadError> {
        self.log.refresh(&*self.region.store).await?;
        let state = self.log.state(self.clock.now());
        self.floors = state.wal_floors;
        Ok(match layout::parse(key) {
            Some(StoredName::Slots { .. }) => !wrapped_keys(&self.log, self.clock).contains_key(key),
            Some(name) => match backup_named(&name) {
                Some(backup) => !state.backups.contains_key(&backup),
                None => WalObject::of_key(key).is_some_and(|object| self.is_swept(object)),
            },
            None => false,
        })
    }
}

fn backup_named(name: &StoredName) -> Option<BackupId> {
    match name {
        StoredName::Pack { backup, .. } | StoredName::IndexShard { backup, .. } | StoredName::PacksList { backup } => {
            Some(backup.clone())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;

//! What a region's store itself says about the backups of its log: when their records arrived, whether their objects are
//! there, and what they need of other backups. A log says what its writers claim; this is what they cannot.
//!
//! Everything here is read before an intent is written. A list that cannot be read, or is not the one that was signed, is a
//! finding about its backup, and no failure: it must never keep another backup from being deleted, or from being kept.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_stores::{ByteRange, OBJECT_BYTES_MAX, ObjectKey, Store, StoreError};
use lifeboat_vocabulary::{BackupId, ByteCount, UtcTime, counted, error_chain};

use crate::format::aead::sha256;
use crate::format::layout::{self, StoredName};
use crate::format::packs_list::PacksList;
use crate::log::records::backup::BackupRecord;
use crate::log::region_log::RegionLog;
use crate::log::region_state::{BackupState, RegionState};
use crate::retention::plan::StoreFacts;
use crate::retention::sweep::error::SweepError;
use crate::retention::sweep::listing::{Pages, Seen};
use crate::retention::sweep::settings::Elsewhere;

/// The backups whose folders one backup refers to, at the most: each is listed.
const FOLDERS_MAX: usize = 1000;
/// Objects of other backups that are kept in mind, for all backups together; each takes some 150 bytes.
const NEEDS_MAX: usize = 4_000_000;

/// What a region's store says about the backups of its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// When records arrived, by the store's clock and their places in the log.
    notes: BTreeMap<u64, UtcTime>,
    contents: BTreeMap<BackupId, Contents>,
    /// How many objects of other backups are kept in mind.
    needed: usize,
}

/// What lies there of one backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Whether all that its list names is there, by a listing.
    pub(crate) presence: Presence,
    pub(crate) needs: BackupNeeds,
}

/// Whether the objects of a backup are there with the sizes that its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Whole,
    /// What is missing, for a person.
    Lacking(String),
    /// The store does not say.
    Unknown,
}

/// What a backup needs of the folders of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BackupNeeds {
    Known(BTreeSet<ObjectKey>),
    /// Its list cannot be read: why.
    Unknown(String),
}

/// What some backups together need of the folders of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    keys: BTreeSet<ObjectKey>,
    unknown: BTreeMap<BackupId, String>,
}

impl Needs {
    pub(crate) fn contains(&self, key: &ObjectKey) -> bool {
        self.keys.contains(key)
    }

    /// The backup that may need any object in this folder, because its own list cannot be read. It can refer only to what
    /// was begun before it.
    pub(crate) fn may_need(&self, folder: &BackupId) -> Option<(&BackupId, &str)> {
        let later = self.unknown.range((std::ops::Bound::Excluded(folder.clone()), std::ops::Bound::Unbounded));
        later.map(|(backup, why)| (backup, why.as_str())).next()
    }
}

impl Evidence {
    /// When the record at this place of the log arrived, by the store's clock.
    #[must_use]
    pub(crate) fn arrived(&self, seq: u64) -> Option<UtcTime> {
        self.notes.get(&seq).copied()
    }

    /// What a plan takes into account, together with what is known of other regions: a region that was healed has an older
    /// backup since yesterday, and the one that it came from has had it for long.
    pub(crate) fn facts(&self, state: &RegionState, elsewhere: &Elsewhere) -> StoreFacts {
        let mut facts =
            StoreFacts { decided: state.decided_by.and_then(|seq| self.arrived(seq)), ..StoreFacts::default() };
        for (id, backup) in &state.backups {
            let there = match elsewhere {
                Elsewhere::Known(others) => others.arrived.get(id).copied(),
                Elsewhere::Unknown => None,
            };
            // A region whose store does not tell the time bears out nothing.
            if let Some(here) = self.arrived(backup.seq) {
                facts.arrived.insert(id.clone(), there.map_or(here, |there| here.min(there)));
            }
            match self.contents.get(id).map(|contents| &contents.presence) {
                Some(Presence::Lacking(_)) => drop(facts.lacking.insert(id.clone())),
                Some(Presence::Unknown) => drop(facts.unknown.insert(id.clone())),
                Some(Presence::Whole) | None => {}
            }
        }
        facts
    }

    /// What these backups need of the folders of others. One that was not looked at may need anything.
    pub(crate) fn needs<'a>(&self, backups: impl Iterator<Item = &'a BackupState>) -> Needs {
        let mut needs = Needs::default();
        for BackupState { record, .. } in backups {
            match self.contents.get(&record.backup).map(|contents| &contents.needs) {
                Some(BackupNeeds::Known(keys)) => needs.keys.extend(keys.iter().cloned()),
                // The signed record says that all of its objects are its own.
                _ if record.packs.own == record.packs.objects => {}
                Some(BackupNeeds::Unknown(why)) => drop(needs.unknown.insert(record.backup.clone(), why.clone())),
                None => drop(needs.unknown.insert(record.backup.clone(), "it was not looked at".to_owned())),
            }
        }
        needs
    }

    /// Looks at what is new in `state` since the last look: arrivals of records, and objects of backups.
    pub(crate) async fn look(
        &mut self,
        store: &dyn Store,
        state: &RegionState,
        now: UtcTime,
    ) -> Result<(), SweepError> {
        self.look_at_arrivals(store, state, now).await?;
        let look = Look { store, now };
        for backup in state.backups.values().map(|backup| &backup.record) {
            if !self.contents.contains_key(&backup.backup) {
                let mut contents = look.contents(backup).await?;
                if let BackupNeeds::Known(keys) = &contents.needs {
                    if self.needed.saturating_add(keys.len()) > NEEDS_MAX {
                        let why = format!("all backups together need more than {NEEDS_MAX} objects of others");
                        contents.needs = BackupNeeds::Unknown(why);
                    } else {
                        self.needed += keys.len();
                    }
                }
                self.contents.insert(backup.backup.clone(), contents);
            }
        }
        Ok(())
    }

    /// Lists the log from the oldest record that matters.
    pub(crate) async fn look_at_arrivals(
        &mut self,
        store: &dyn Store,
        state: &RegionState,
        now: UtcTime,
    ) -> Result<(), SweepError> {
        let backups = state.backups.values();
        let of_backups =
            backups.flat_map(|backup| [Some(backup.seq), backup.leaving.as_ref().map(|leaving| leaving.seq)]);
        let of_intents = state.open_intents.iter().map(|open| open.seq);
        let wanted: BTreeSet<u64> = of_backups.flatten().chain(of_intents).chain(state.decided_by).collect();
        let unknown = wanted.iter().find(|seq| !self.notes.contains_key(seq));
        let Some(first) = unknown.copied() else { return Ok(()) };
        let mut pages = Pages::new(store, layout::LOG_PREFIX, now);
        if let Some(before) = first.checked_sub(1) {
            pages.skip_to(layout::log_note(before));
        }
        while let Some(page) = pages.next().await.map_err(SweepError::List)? {
            for Seen { entry, .. } in page {
                if let Some(StoredName::LogNote { seq }) = layout::parse(&entry.key)
                    && let Some(modified) = entry.meta.modified.filter(|_| wanted.contains(&seq))
                {
                    self.notes.insert(seq, modified);
                }
            }
        }
        Ok(())
    }
}

/// When the records of a region's backups arrived, by its store's clock.
///
/// # Errors
/// [`SweepError::List`] if the region does not list its log.
pub async fn arrivals(
    store: &dyn Store,
    log: &RegionLog,
    now: UtcTime,
) -> Result<BTreeMap<BackupId, UtcTime>, SweepError> {
    let (state, mut evidence) = (log.state(now), Evidence::default());
    evidence.look_at_arrivals(store, &state, now).await?;
    let arrived = state.backups.into_iter().filter_map(|(id, backup)| Some((id, evidence.arrived(backup.seq)?)));
    Ok(arrived.collect())
}

/// What a region's store says about the backups of its log; `elsewhere` is what is known of other regions.
///
/// # Errors
/// [`SweepError::List`] if the region cannot be listed.
pub async fn store_facts(
    store: &dyn Store,
    log: &RegionLog,
    elsewhere: &Elsewhere,
    now: UtcTime,
) -> Result<StoreFacts, SweepError> {
    let (state, mut evidence) = (log.state(now), Evidence::default());
    evidence.look(store, &state, now).await?;
    Ok(evidence.facts(&state, elsewhere))
}

struct Look<'a> {
    store: &'a dyn Store,
    now: UtcTime,
}

impl Look<'_> {
    async fn contents(&self, record: &BackupRecord) -> Result<Contents, SweepError> {
        let list = match self.list_of(record).await {
            Ok(list) => list,
            Err(Unreadable { why, presence }) => return Ok(Contents { presence, needs: BackupNeeds::Unknown(why) }),
        };
        let folder = |key: &ObjectKey| layout::folder_of(key).unwrap_or_else(|| record.backup.clone());
        let folders: BTreeSet<BackupId> = list.iter().map(|(key, _)| folder(key)).collect();
        if folders.len() > FOLDERS_MAX {
            let why = format!("the list of its objects names the folders of {} backups", folders.len());
            return Ok(Contents { presence: Presence::Lacking(why.clone()), needs: BackupNeeds::Unknown(why) });
        }
        // Only of what the list names: whoever may create objects must not fill this machine's memory.
        let mut missing: BTreeSet<&ObjectKey> = list.iter().map(|(key, _)| key).collect();
        let shards: BTreeMap<&ObjectKey, ByteCount> =
            record.index.iter().map(|shard| (&shard.key, shard.size)).collect();
        let mut bytes = ByteCount::ZERO;
        for folder in &folders {
            let mut pages = Pages::new(self.store, layout::backup_prefix(folder), self.now);
            while let Some(page) = pages.next().await.map_err(SweepError::List)? {
                for Seen { entry, .. } in page {
                    let size = entry.meta.size;
                    if shards.get(&entry.key).is_none_or(|expected| *expected == size) && missing.remove(&entry.key) {
                        bytes = bytes.plus(size);
                    }
                }
            }
        }
        let presence = match missing.first() {
            Some(first) => {
                let objects = counted(missing.len() as u64, "object is", "objects are");
                Presence::Lacking(format!("{objects} missing or cut, such as {first}"))
            }
            None if bytes != record.packs.bytes => {
                Presence::Lacking(format!("its objects have {bytes}, and its record says {}", record.packs.bytes))
            }
            None => Presence::Whole,
        };
        let needs = list.iter().map(|(key, _)| key).filter(|key| folder(key) != record.backup);
        Ok(Contents { presence, needs: BackupNeeds::Known(needs.cloned().collect()) })
    }

    /// The list of a backup's objects, as its record signs it.
    async fn list_of(&self, record: &BackupRecord) -> Result<PacksList, Unreadable> {
        let lacking = |why: String| Unreadable { presence: Presence::Lacking(why.clone()), why };
        let key = layout::packs_list(&record.backup);
        let bytes = match self.store.get(&key, ByteRange::WholeUpTo(OBJECT_BYTES_MAX)).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Err(lacking("the list of its objects is missing".to_owned())),
            Err(error @ StoreError::Unsupported { .. }) => {
                return Err(lacking(format!("the list of its objects is none: {}", error_chain(&error))));
            }
            // The store may say more another time.
            Err(error) => {
                let why = format!("the list of its objects cannot be read: {}", error_chain(&error));
                return Err(Unreadable { why, presence: Presence::Unknown });
            }
        };
        if sha256(&bytes) != record.packs.sha256 {
            return Err(lacking("the list of its objects is not the one that its record names".to_owned()));
        }
        let list = PacksList::parse(&bytes);
        let list = list.map_err(|error| lacking(format!("the list of its objects: {}", error_chain(&error))))?;
        match (list.len() as u64, record.packs.objects) {
            (found, expected) if found != expected => {
                Err(lacking(format!("the list of its objects names {found}, and its record says {expected}")))
            }
            _ => Ok(list),
        }
    }
}

struct Unreadable {
    why: String,
    presence: Presence,
}

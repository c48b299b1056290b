//! What lies in a region, as far as deleting has to know it: folders of backups, wrapped keys, probes. By listings alone.

use std::collections::BTreeMap;
use std::time::Duration;

use lifeboat_stores::{Entry, ObjectKey, Store, StoreError};
use lifeboat_vocabulary::{BackupId, UtcTime};

use crate::format::ids::EpochId;
use crate::format::layout::{self, StoredName};
use crate::log::region_state::RegionState;
use crate::retention::sweep::error::SweepError;

/// A trial of what the store can do is left alone for this long.
pub(crate) const PROBE_GRACE: Duration = Duration::from_secs(24 * 3600);

/// What was found. Ages are by the store's clock, from the listing that showed the object.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    /// The earlier of our time and the store's.
    pub(crate) now: UtcTime,
    /// Folders of backups, and how long ago anything was last written there; exact only for backups that neither exist
    /// nor were swept.
    pub(crate) folders: BTreeMap<BackupId, Duration>,
    /// Wrapped keys, and how long ago the youngest set was written.
    pub(crate) epochs: BTreeMap<EpochId, Duration>,
    /// Trials whose time is over.
    pub(crate) probes: Vec<ObjectKey>,
}

/// Goes through a listing page by page.
pub(crate) struct Pages<'a> {
    store: &'a dyn Store,
    prefix: String,
    after: Option<ObjectKey>,
    now: UtcTime,
    ended: Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    No,
    Yes,
}

/// One object of a listing.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) entry: Entry,
    /// How long ago it was written; zero if the store does not say.
    pub(crate) age: Duration,
}

impl<'a> Pages<'a> {
    /// All keys that begin with `prefix`. `now` stands in for the clock of a store that has none of its own.
    pub(crate) fn new(store: &'a dyn Store, prefix: impl Into<String>, now: UtcTime) -> Self {
        Self { store, prefix: prefix.into(), after: None, now, ended: Ended::No }
    }

    /// Goes on behind `key`, which is not before what was seen last.
    pub(crate) fn skip_to(&mut self, key: ObjectKey) {
        self.after = Some(key);
    }

    /// The earliest time that our clock and the store's have shown.
    pub(crate) fn now(&self) -> UtcTime {
        self.now
    }

    /// The next page; `None` behind the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Seen>>, StoreError> {
        if self.ended == Ended::Yes {
            return Ok(None);
        }
        let page = self.store.list(&self.prefix, self.after.as_ref()).await?;
        let clock = page.server_time.unwrap_or(self.now);
        self.now = self.now.min(clock);
        match page.entries.last() {
            Some(last) if page.more => self.after = Some(last.key.clone()),
            _ => self.ended = Ended::Yes,
        }
        let age = |entry: &Entry| entry.meta.modified.map_or(Duration::ZERO, |modified| clock.since(modified));
        Ok(Some(page.entries.into_iter().map(|entry| Seen { age: age(&entry), entry }).collect()))
    }
}

/// Lists what deleting has to know. It must be made after `state` was read from the log.
pub(crate) async fn list_region(store: &dyn Store, state: &RegionState, now: UtcTime) -> Result<Listing, SweepError> {
    let mut listing = Listing { now, folders: BTreeMap::new(), epochs: BTreeMap::new(), probes: Vec::new() };
    let youngest = |ages: &mut Duration, age: Duration| *ages = (*ages).min(age);
    let mut pages = Pages::new(store, layout::DATA_PREFIX, now);
    while let Some(page) = pages.next().await.map_err(SweepError::List)? {
        let mut last = None;
        for Seen { entry, age } in page {
            let Some(backup) = layout::folder_of(&entry.key) else { continue };
            youngest(listing.folders.entry(backup.clone()).or_insert(age), age);
            last = Some(backup);
        }
        // A folder whose fate is known need not be gone through: one request for it, however large it is.
        let is_known = |backup: &BackupId| state.backups.contains_key(backup) || state.swept.contains_key(backup);
        if let Some(backup) = last.filter(is_known) {
            pages.skip_to(layout::behind_backup(&backup));
        }
    }
    listing.now = listing.now.min(pages.now());
    let mut pages = Pages::new(store, layout::KEYS_PREFIX, now);
    while let Some(page) = pages.next().await.map_err(SweepError::List)? {
        for Seen { entry, age } in page {
            if let Some(StoredName::Slots { epoch, .. }) = layout::parse(&entry.key) {
                youngest(listing.epochs.entry(epoch).or_insert(age), age);
            }
        }
    }
    listing.now = listing.now.min(pages.now());
    let mut pages = Pages::new(store, layout::STATE_PREFIX, now);
    while let Some(page) = pages.next().await.map_err(SweepError::List)? {
        let old = page.into_iter().filter(|seen| seen.age >= PROBE_GRACE).map(|seen| seen.entry.key);
        listing.probes.extend(old.filter(|key| matches!(layout::parse(key), Some(StoredName::Probe { .. }))));
    }
    listing.now = listing.now.min(pages.now());
    Ok(listing)
}

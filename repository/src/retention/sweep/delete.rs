//! Deletes what an intent names, page by page. Everything here may be repeated, and cut short at any point.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use lifeboat_stores::{ObjectKey, Store, StoreError};
use lifeboat_vocabulary::{BackupId, ByteCount, UtcTime};

use crate::format::ids::EpochId;
use crate::format::layout::{self, WalForm};
use crate::log::records::care::{SweepIntentRecord, WalFloor};
use crate::log::region_state::RegionState;
use crate::retention::sweep::author::{SweepAuthor, SweepRegion};
use crate::retention::sweep::error::SweepError;
use crate::retention::sweep::evidence::Needs;
use crate::retention::sweep::listing::{Pages, Seen};
use crate::retention::sweep::slices::{Coverage, SLICE_GRACE};
use crate::wal::name::WalObject;
use crate::wal::object::WalTrust;

/// Deletions at the same time.
const DELETIONS: usize = 8;
/// What was deleted, and what was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    pub(crate) objects: u64,
    pub(crate) bytes: ByteCount,
    pub(crate) locked: u64,
    /// Objects that other backups refer to.
    pub(crate) needed: u64,
}

impl Swept {
    fn add(&mut self, other: Self) {
        self.objects += other.objects;
        self.bytes = self.bytes.plus(other.bytes);
        self.locked += other.locked;
        self.needed += other.needed;
    }
}

/// How one deletion ended.
enum Deletion {
    Done,
    Locked,
}

type ToDelete = (ObjectKey, ByteCount);

/// Deletes in one region.
pub(crate) struct Sweeper<'a> {
    store: &'a dyn Store,
    author: &'a SweepAuthor,
    /// What WAL is measured against.
    trust: WalTrust,
    now: UtcTime,
}

impl<'a> Sweeper<'a> {
    pub(crate) fn new(region: &SweepRegion<'a>, now: UtcTime) -> Self {
        let SweepRegion { store, author, log, .. } = region;
        Self { store: *store, author, trust: WalTrust::of(log.trust()), now }
    }

    /// Deletes everything that `intent` names and nothing else. `state` is of a log that has the intent, and `needs` is what
    /// the backups need that exist there.
    ///
    /// CRASH SAFETY: what is kept was read before the intent was written, so nothing here can find out too late that it may
    /// not go on. Keys go last: a crash leaves a key without objects, never objects without their key that could still be
    /// taken for complete.
    pub(crate) async fn intent(
        &self,
        intent: &SweepIntentRecord,
        state: &RegionState,
        needs: &Needs,
    ) -> Result<Swept, SweepError> {
        let backups: BTreeSet<&BackupId> = intent.backups.iter().chain(&intent.leftovers).collect();
        let mut swept = self.folders(&backups, state, needs).await?;
        for floor in &intent.wal {
            swept.add(self.wal(*floor).await?);
        }
        for floor in &intent.slices {
            swept.add(self.slices(*floor).await?);
        }
        swept.add(self.epochs(&intent.epochs, state).await?);
        Ok(swept)
    }

    /// Deletes what lies in the folders of backups that were swept before.
    pub(crate) async fn late(
        &self,
        backups: &BTreeSet<BackupId>,
        state: &RegionState,
        needs: &Needs,
    ) -> Result<Swept, SweepError> {
        self.folders(&backups.iter().collect(), state, needs).await
    }

    async fn folders(
        &self,
        backups: &BTreeSet<&BackupId>,
        state: &RegionState,
        needs: &Needs,
    ) -> Result<Swept, SweepError> {
        let mut swept = Swept::default();
        for backup in backups {
            // A request for a backup that exists is a mistake, and must not delete it; where it is unknown what is needed,
            // everything is.
            if !state.backups.contains_key(*backup) && needs.may_need(backup).is_none() {
                swept.add(self.folder(backup, needs).await?);
            }
        }
        Ok(swept)
    }

    async fn folder(&self, backup: &BackupId, needs: &Needs) -> Result<Swept, SweepError> {
        let mut swept = Swept::default();
        let mut pages = Pages::new(self.store, layout::backup_prefix(backup), self.now);
        let mut first = FirstOfFolder::Unknown;
        while let Some(page) = pages.next().await.map_err(SweepError::List)? {
            self.author.check()?;
            let of_page = page.len() as u64;
            let mut to_delete: Vec<ToDelete> =
                page.into_iter().map(to_delete).filter(|(key, _)| !needs.contains(key)).collect();
            swept.needed += of_page - to_delete.len() as u64;
            if first == FirstOfFolder::Unknown
                && let Some((key, size)) = to_delete.pop()
            {
                let outcome = self.delete(vec![(key, size)]).await?;
                first = if outcome.locked > 0 { FirstOfFolder::Locked } else { FirstOfFolder::Gone };
                swept.add(outcome);
            }
            match first {
                // A backup is locked as a whole: one question a day is enough, however many objects it has.
                FirstOfFolder::Locked => swept.locked += to_delete.len() as u64,
                FirstOfFolder::Unknown | FirstOfFolder::Gone => swept.add(self.delete(to_delete).await?),
            }
        }
        Ok(swept)
    }

    /// Deletes the WAL of a timeline that ends at or below `floor`, in both forms. Histories stay.
    async fn wal(&self, floor: WalFloor) -> Result<Swept, SweepError> {
        let mut swept = Swept::default();
        for form in [WalForm::Piece, WalForm::Slice] {
            let mut pages = Pages::new(self.store, form.folder(floor.timeline), self.now);
            while let Some(page) = pages.next().await.map_err(SweepError::List)? {
                self.author.check()?;
                let objects: Vec<_> =
                    page.into_iter().filter_map(|seen| Some((WalObject::of_key(&seen.entry.key)?, seen))).collect();
                let is_over = objects.last().is_some_and(|(last, _)| last.range.start >= floor.before);
                let below = objects.into_iter().filter(|(object, _)| object.range.end <= floor.before);
                swept.add(self.delete(below.map(|(_, seen)| to_delete(seen)).collect()).await?);
                if is_over {
                    break;
                }
            }
        }
        Ok(swept)
    }

    /// Deletes the slices of a timeline that end at or below `floor`, that pieces of this region hold too, and that are old
    /// enough. A slice that no piece holds is the only copy of its WAL.
    async fn slices(&self, floor: WalFloor) -> Result<Swept, SweepError> {
        let mut swept = Swept::default();
        let mut coverage = Coverage::new(self.store, floor.timeline, &self.trust);
        let mut pages = Pages::new(self.store, WalForm::Slice.folder(floor.timeline), self.now);
        while let Some(page) = pages.next().await.map_err(SweepError::List)? {
            self.author.check()?;
            let (mut covered, mut is_over) = (Vec::new(), false);
            for seen in page {
                let Some(slice) = WalObject::of_key(&seen.entry.key) else { continue };
                is_over |= slice.range.start >= floor.before;
                let may_go = slice.range.end <= floor.before && seen.age >= SLICE_GRACE;
                if may_go && coverage.holds(slice.range).await.map_err(SweepError::List)? {
                    covered.push(to_delete(seen));
                }
            }
            swept.add(self.delete(covered).await?);
            if is_over {
                break;
            }
        }
        Ok(swept)
    }

    /// Deletes the wrapped keys of epochs that no backup has which exists.
    async fn epochs(&self, epochs: &[EpochId], state: &RegionState) -> Result<Swept, SweepError> {
        let kept = state.backups.values().flat_map(|kept| &kept.record.epochs);
        let kept: BTreeSet<EpochId> = kept.map(|epoch| epoch.id).collect();
        let mut swept = Swept::default();
        for epoch in epochs.iter().filter(|epoch| !kept.contains(*epoch)) {
            let mut pages = Pages::new(self.store, layout::epoch_prefix(*epoch), self.now);
            while let Some(page) = pages.next().await.map_err(SweepError::List)? {
                self.author.check()?;
                swept.add(self.delete(page.into_iter().map(to_delete).collect()).await?);
            }
        }
        Ok(swept)
    }

    /// Deletes objects that need no intent: trials of what the store can do.
    pub(crate) async fn keys_of(&self, probes: &[ObjectKey]) -> Result<Swept, SweepError> {
        if probes.is_empty() {
            return Ok(Swept::default());
        }
        self.author.check()?;
        self.delete(probes.iter().map(|key| (key.clone(), ByteCount::ZERO)).collect()).await
    }

    /// Asks for the deletion of a name that nothing has: a role without the right is refused before an intent is written.
    pub(crate) async fn check_right(&self, intent: &SweepIntentRecord) -> Result<(), SweepError> {
        let Some(backup) = intent.backups.iter().chain(&intent.leftovers).next() else { return Ok(()) };
        let key = layout::no_pack(backup);
        self.store.delete(&key).await.map_err(|source| SweepError::of_delete(key, source))
    }

    async fn delete(&self, to_delete: Vec<ToDelete>) -> Result<Swept, SweepError> {
        let one = |(key, size): ToDelete| async move {
            // A page may take minutes, and a freeze or a pause counts from the next object on.
            self.author.check()?;
            match self.store.delete(&key).await {
                Ok(()) => Ok((Deletion::Done, size)),
                Err(StoreError::Locked { .. }) => Ok((Deletion::Locked, size)),
                Err(source) => Err(SweepError::of_delete(key, source)),
            }
        };
        let mut swept = Swept::default();
        let mut outcomes = futures_util::stream::iter(to_delete).map(one).buffer_unordered(DELETIONS);
        while let Some(outcome) = outcomes.next().await {
            match outcome? {
                (Deletion::Done, size) => swept.add(Swept { objects: 1, bytes: size, ..Swept::default() }),
                (Deletion::Locked, _) => swept.locked += 1,
            }
        }
        Ok(swept)
    }
}

/// What the first deletion in a folder has taught.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FirstOfFolder {
    Unknown,
    Locked,
    Gone,
}

fn to_delete(seen: Seen) -> ToDelete {
    (seen.entry.key, seen.entry.meta.size)
}

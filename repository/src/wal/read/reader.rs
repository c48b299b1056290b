//! WAL on its way back: verified bytes from whichever region has them.
//!
//! The one thing that must never happen is that a failure looks like the end of the WAL: a server in recovery would take
//! it for that, and begin a new timeline without the rest. So "not there" is the answer only when every region has
//! answered that, and everything that was listed could be read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, FuturesUnordered, StreamExt};
use lifeboat_stores::StoreError;
use lifeboat_vocabulary::{Lsn, RegionName, TimelineId, UtcTime, WalPosition, error_chain};
use parking_lot::Mutex;

use crate::backup::read::reader::Damage;
use crate::format::layout::{StoredName, WalForm, WalRange};
use crate::log::region_store::RegionStore;
use crate::wal::list::{self, WalPages, objects_in};
use crate::wal::map::{HeldWal, WalChoice, WalMap};
use crate::wal::name::{PieceSize, WalObject};
use crate::wal::object::WalTrust;
use crate::wal::read::assembly::{Disagreement, assemble};
use crate::wal::read::keys::{WalKeys, WalOpeners, WalRegion};
use crate::wal::read::source::{Fault, Fetched, ReadFrom, WalSource, WalTrouble};

/// The longest range that is read at once, in **bytes**. Longer ones are read in parts ([`PieceSize::cut`]).
pub(crate) const READ_BYTES_MAX: u64 = 64 << 20;
/// Objects that are fetched at the same time for one range.
const FETCHES: usize = 8;

/// The answer to [`WalReader::read`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalRead {
    /// All of the range, verified.
    Found(Bytes),
    /// Only its beginning, verified: every region has answered, and none has what follows.
    Beginning {
        /// What there is, from the start of the range.
        bytes: Bytes,
        /// Where WAL goes on behind the hole, if it was seen to.
        later: Option<Lsn>,
    },
    /// Every region has answered, and none has the first byte of the range.
    NotThere {
        /// Where the next WAL of this timeline begins, if there was seen to be any.
        later: Option<Lsn>,
    },
    /// It cannot be said: a region did not answer, or what it has is damaged, and no other region helps out; or there is
    /// no region at all. This is never the end of the WAL.
    Undetermined(Vec<WalTrouble>),
}

/// The answer to [`WalReader::history`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryRead {
    /// The file, verified.
    Found(Bytes),
    /// Every region has answered, and none has it.
    NotThere,
    /// It cannot be said.
    Undetermined(Vec<WalTrouble>),
}

/// The histories of all timelines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalHistories {
    /// All that there are, verified.
    pub found: BTreeMap<TimelineId, Bytes>,
    /// Timelines after the first that have WAL, and no history in any region.
    pub missing: Vec<TimelineId>,
    /// What could not be read. If this is not empty, there may be more timelines.
    pub troubles: Vec<WalTrouble>,
}

/// What WAL there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalListing {
    /// The objects: all pieces, and slices where no region has a piece.
    pub map: WalMap,
    /// Regions that did not answer: they may hold more.
    pub troubles: Vec<WalTrouble>,
}

/// Reads WAL from several regions.
pub struct WalReader {
    source: WalSource,
    pieces: PieceSize,
    /// What was listed so far. Only ever says that something is there, never that something is not.
    seen: Mutex<WalMap>,
}

/// One range on its way.
struct Gathering {
    range: WalRange,
    map: WalMap,
    have: HashMap<WalObject, (RegionName, Bytes)>,
    failed: Vec<(WalObject, WalTrouble)>,
}

/// What one region says about a range: its objects, and where the next one behind it begins.
type Listed = Result<(Vec<WalObject>, Option<Lsn>), StoreError>;

impl WalReader {
    /// A reader for the WAL of one repository. `regions` come in order of preference; one whose log could not be read has
    /// none. `pieces` is the size of the cluster's pieces, or [`PieceSize::LARGEST`].
    #[must_use]
    pub fn new(
        trust: WalTrust,
        openers: impl Into<Arc<WalOpeners>>,
        regions: Vec<WalRegion>,
        pieces: PieceSize,
    ) -> Self {
        let keys = WalKeys::new(trust.repository(), openers.into(), regions);
        Self { source: WalSource::new(trust, keys), pieces, seen: Mutex::default() }
    }

    /// What was found damaged so far, in order of region and key (the first thousand).
    #[must_use]
    pub fn damage(&self) -> Vec<Damage> {
        self.source.damage()
    }

    /// Forgets what was listed of `timeline` up to `before`, which is not going to be read any more.
    pub fn forget(&self, timeline: TimelineId, before: Lsn) {
        self.seen.lock().forget(timeline, before);
    }

    /// Reads `range`, at most `READ_BYTES_MAX`. What was listed before is used if it suffices; else all regions are
    /// asked what they hold now.
    pub async fn read(&self, range: WalRange) -> WalRead {
        if range.len() > READ_BYTES_MAX || self.source.stores().is_empty() {
            let what = format!("more than {READ_BYTES_MAX} bytes of WAL cannot be read at once");
            return WalRead::Undetermined(self.everywhere(&what));
        }
        let map = self.seen.lock().around(range);
        let mut work = Gathering { range, map, have: HashMap::new(), failed: Vec::new() };
        if work.map.choose(range).is_complete() {
            let choice = self.gather(&mut work).await;
            if choice.is_complete() {
                return self.finish(&work, &choice);
            }
        }
        // What was tried in vain is tried once more, if it is still listed.
        work.map = WalMap::new();
        work.failed.clear();
        self.read_listed(work).await
    }

    async fn read_listed(&self, mut work: Gathering) -> WalRead {
        let range = work.range;
        let mut listings: FuturesUnordered<_> =
            self.source.stores().iter().map(async |region| (region, self.list_in(region, range).await)).collect();
        let (mut troubles, mut later) = (Vec::new(), None);
        // A region that is slow or away is not waited for if the others have everything.
        while let Some((region, listed)) = listings.next().await {
            match listed {
                Ok((objects, next)) => {
                    later = earlier(later, next);
                    let mut seen = self.seen.lock();
                    for object in objects {
                        seen.add(&region.name, object);
                        work.map.add(&region.name, object);
                    }
                }
                Err(error) => troubles.push(not_listed(region, &error)),
            }
            if work.map.choose(range).is_complete() {
                let choice = self.gather(&mut work).await;
                if choice.is_complete() {
                    return self.finish(&work, &choice);
                }
            }
        }
        let choice = self.gather(&mut work).await;
        let is_missing = |object: &WalObject| choice.missing.iter().any(|missing| missing.overlaps(&object.range));
        let failed = work.failed.iter().filter(|(object, _)| is_missing(object));
        troubles.extend(failed.map(|(_, trouble)| trouble.clone()));
        let Some(missing) = choice.missing.first() else { return self.finish(&work, &choice) };
        if troubles.is_empty() {
            troubles = self.source.without_repository().await;
        }
        if !troubles.is_empty() {
            return WalRead::Undetermined(troubles);
        }
        let at = WalPosition { timeline: range.timeline, lsn: missing.start };
        let later = earlier(later, work.map.next_start(at));
        self.finish_beginning(&work, &choice, missing.start, later)
    }

    /// Fetches what is chosen, and chooses anew as long as something of it cannot be had.
    async fn gather(&self, work: &mut Gathering) -> WalChoice {
        loop {
            let choice = work.map.choose(work.range);
            let mut fetches = Vec::new();
            for held in choice.objects.iter().filter(|held| !work.have.contains_key(&held.object)) {
                fetches.push(self.fetch(held));
            }
            let fetched: Vec<_> = stream::iter(fetches).buffered(FETCHES).collect().await;
            let mut failed = 0;
            for (object, fetched) in fetched {
                match fetched {
                    Ok(found) => {
                        work.have.insert(object, found);
                    }
                    Err(faults) => {
                        failed += 1;
                        for (region, fault) in faults {
                            self.seen.lock().remove(&region, object);
                            work.map.remove(&region, object);
                            work.failed.push((object, fault.into_trouble(region, object.key())));
                        }
                    }
                }
            }
            if failed == 0 {
                return choice;
            }
        }
    }

    async fn fetch(&self, held: &HeldWal) -> (WalObject, Fetched) {
        (held.object, self.source.fetch(&held.object.name(), ReadFrom::These(&held.regions)).await)
    }

    fn finish(&self, work: &Gathering, choice: &WalChoice) -> WalRead {
        self.assembled(work, choice, work.range).map_or_else(WalRead::Undetermined, WalRead::Found)
    }

    fn finish_beginning(&self, work: &Gathering, choice: &WalChoice, end: Lsn, later: Option<Lsn>) -> WalRead {
        let range = WalRange { end, ..work.range };
        if range.is_empty() {
            return WalRead::NotThere { later };
        }
        match self.assembled(work, choice, range) {
            Ok(bytes) => WalRead::Beginning { bytes, later },
            Err(troubles) => WalRead::Undetermined(troubles),
        }
    }

    /// The bytes of `range`, which is the range of `work` or the beginning of it that is without a hole.
    fn assembled(&self, work: &Gathering, choice: &WalChoice, range: WalRange) -> Result<Bytes, Vec<WalTrouble>> {
        let chosen = choice.objects.iter().filter(|held| held.object.range.start < range.end);
        let content = |object: WalObject| work.have.get(&object).map(|(_, content)| (object, content.clone()));
        let parts: Vec<_> = chosen.filter_map(|held| content(held.object)).collect();
        match assemble(range, &parts) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(self.everywhere(&format!("the parts of {range} do not fit together"))),
            Err(disagreement) => Err(self.disagree(work, disagreement)),
        }
    }

    fn disagree(&self, work: &Gathering, found: Disagreement) -> Vec<WalTrouble> {
        let Disagreement { first, second, at } = found;
        let mut troubles = Vec::new();
        for (object, other) in [(first, second), (second, first)] {
            let Some((region, _)) = work.have.get(&object) else { continue };
            let what = format!("does not agree with {} at {at}, and both are signed", other.key());
            self.source.report(region, &object.key(), what.clone());
            troubles.push(WalTrouble { region: region.clone(), key: Some(object.key()), what });
        }
        troubles
    }

    fn everywhere(&self, what: &str) -> Vec<WalTrouble> {
        let trouble =
            |region: &RegionStore| WalTrouble { region: region.name.clone(), key: None, what: what.to_owned() };
        self.source.stores().iter().map(trouble).collect()
    }

    async fn list_in(&self, region: &RegionStore, range: WalRange) -> Listed {
        let (mut objects, pieces_next) = objects_in(&*region.store, WalForm::Piece, range, self.pieces).await?;
        let (slices, slices_next) = objects_in(&*region.store, WalForm::Slice, range, self.pieces).await?;
        objects.extend(slices);
        Ok((objects, earlier(pieces_next, slices_next)))
    }

    /// Lists what WAL there is on a timeline from a position on, up to `until` or its end: all pieces, and slices where no
    /// region has a piece. What is found is remembered for reading. The map lies in memory: some hundred bytes for each
    /// object.
    pub async fn list(&self, from: WalPosition, until: Option<Lsn>) -> WalListing {
        let end = until.or(Lsn::from_bytes(u64::MAX)).unwrap_or(from.lsn);
        let range = WalRange { timeline: from.timeline, start: from.lsn, end };
        let mut listing = WalListing::default();
        self.list_form(&mut listing, WalForm::Piece, range).await;
        for hole in listing.map.gaps(range) {
            self.list_form(&mut listing, WalForm::Slice, hole).await;
        }
        self.seen.lock().merge(&listing.map);
        listing
    }

    async fn list_form(&self, listing: &mut WalListing, form: WalForm, range: WalRange) {
        // A region that has failed is not asked for every hole again.
        let answering = |region: &&RegionStore| !listing.troubles.iter().any(|trouble| trouble.region == region.name);
        let regions = self.source.stores().iter().filter(answering);
        let listings = regions.map(async |region| (region, objects_in(&*region.store, form, range, self.pieces).await));
        for (region, listed) in join_all(listings).await {
            match listed {
                Ok((objects, _)) => objects.into_iter().for_each(|object| listing.map.add(&region.name, object)),
                Err(error) => listing.troubles.push(not_listed(region, &error)),
            }
        }
    }

    /// When the newest object with WAL of a timeline from a position on was stored, by the clocks of the regions that keep it; `None`
    /// if there is none, or a region does not say.
    ///
    /// # Errors
    /// What kept a region from being listed.
    pub async fn newest_from(&self, from: WalPosition) -> Result<Option<UtcTime>, WalTrouble> {
        let mut newest = None;
        for region in self.source.stores() {
            for form in [WalForm::Piece, WalForm::Slice] {
                let mut pages = WalPages::new(&*region.store, form, from, self.pieces);
                while let Some((_, stored)) = pages.next_stored().await.map_err(|error| not_listed(region, &error))? {
                    let Some(stored) = stored else { return Ok(None) };
                    newest = newest.max(Some(stored));
                }
            }
        }
        Ok(newest)
    }

    /// Reads the history file of a timeline. Timeline 1 has none.
    pub async fn history(&self, timeline: TimelineId) -> HistoryRead {
        let name = StoredName::TimelineHistory { timeline };
        match self.source.fetch(&name, ReadFrom::All).await {
            Ok((_, content)) => HistoryRead::Found(content),
            Err(faults) => {
                let faults = faults.into_iter().filter(|(_, fault)| *fault != Fault::NotThere);
                let mut troubles: Vec<_> =
                    faults.map(|(region, fault)| fault.into_trouble(region, name.key())).collect();
                if troubles.is_empty() {
                    troubles = self.source.without_repository().await;
                }
                let is_certain = troubles.is_empty() && !self.source.stores().is_empty();
                if is_certain { HistoryRead::NotThere } else { HistoryRead::Undetermined(troubles) }
            }
        }
    }

    /// Reads the histories of all timelines that any region knows.
    pub async fn histories(&self) -> WalHistories {
        let mut histories = WalHistories::default();
        let listings = self.source.stores().iter().map(async |region| (region, list::timelines(&*region.store).await));
        let mut timelines = BTreeSet::new();
        for (region, listed) in join_all(listings).await {
            match listed {
                Ok(found) => timelines.extend(found),
                Err(error) => histories.troubles.push(not_listed(region, &error)),
            }
        }
        let later = timelines.into_iter().filter(|timeline| timeline.get() > 1);
        let reads = later.map(async |timeline| (timeline, self.history(timeline).await));
        let mut reads = stream::iter(reads).buffered(FETCHES);
        while let Some((timeline, read)) = reads.next().await {
            match read {
                HistoryRead::Found(content) => {
                    histories.found.insert(timeline, content);
                }
                HistoryRead::NotThere => histories.missing.push(timeline),
                HistoryRead::Undetermined(troubles) => histories.troubles.extend(troubles),
            }
        }
        histories
    }
}

fn not_listed(region: &RegionStore, error: &StoreError) -> WalTrouble {
    let what = error_chain(error);
    tracing::warn!(region = %region.name, %what, "region does not say what WAL it has");
    WalTrouble { region: region.name.clone(), key: None, what }
}

fn earlier(a: Option<Lsn>, b: Option<Lsn>) -> Option<Lsn> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests;

//! Which WAL a region lacks, by the listings of all regions: pieces first, then slices that no piece covers.
//!
//! What is listed is compared page by page, so that months of WAL never lie in memory; what is missing is bounded too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use lifeboat_stores::{Entry, ObjectKey, StoreError};
use lifeboat_vocabulary::{ByteCount, Lsn, RegionName, TimelineId, UtcTime, WalPosition, error_chain};

use crate::format::layout::{StoredName, WalForm, WalRange};
use crate::heal::faults::SILENT;
use crate::heal::proof::Proof;
use crate::heal::stretches::Stretches;
use crate::heal::unread::Unread;
use crate::log::region_store::RegionStore;
use crate::wal::list::timelines;
use crate::wal::name::{PIECE_BYTES_MAX, PieceSize, WalObject};
use crate::wal::object::WalTrust;

/// Objects of one plan at the most; what is beyond them is found by the next one.
const PLAN_MAX: usize = 100_000;

/// Which WAL is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WalBounds {
    /// Nothing that ends at or before this.
    pub(crate) from: Option<WalPosition>,
    /// Nothing that ends at or below these: it was swept.
    pub(crate) floors: BTreeMap<TimelineId, Lsn>,
    /// Nothing that the region's own writer may still bring.
    pub(crate) until: Until,
    /// Nothing that was written later than this long ago: it is on its way to the other regions.
    pub(crate) settled: Duration,
}

/// How far a region's own writer has left everything to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// No writer is at work in the region.
    Everything,
    /// The writer has said that the region has everything up to here, or never will: it brings nothing before it.
    Before(WalPosition),
    /// A writer is at work, and has not said yet how far it is.
    Nothing,
}

impl WalBounds {
    pub(crate) fn admits(&self, range: WalRange) -> bool {
        let timeline = range.timeline;
        let is_wanted = self.from.is_none_or(|from| match timeline.cmp(&from.timeline) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => range.end > from.lsn,
            std::cmp::Ordering::Greater => true,
        });
        let is_kept = self.floors.get(&timeline).is_none_or(|floor| range.end > *floor);
        is_wanted && is_kept && self.is_left_to_us(range)
    }

    fn is_left_to_us(&self, range: WalRange) -> bool {
        match self.until {
            Until::Everything => true,
            Until::Nothing => false,
            // The piece that holds the position is the writer's: it is not complete yet.
            Until::Before(at) if range.timeline == at.timeline => {
                range.end.as_bytes() <= PieceSize::LARGEST.start_of(at.lsn)
            }
            Until::Before(at) => range.timeline < at.timeline,
        }
    }

    fn is_settled(&self, written: Option<UtcTime>, now: Option<UtcTime>) -> bool {
        match (written, now) {
            (Some(written), Some(now)) => now.since(written) >= self.settled,
            _ => true,
        }
    }

    /// Where to begin to list.
    fn first_of(&self, timeline: TimelineId) -> Option<Lsn> {
        let from = self.from.filter(|from| from.timeline == timeline).map(|from| from.lsn);
        from.max(self.floors.get(&timeline).copied())
    }

    fn skips(&self, timeline: TimelineId) -> bool {
        self.from.is_some_and(|from| timeline < from.timeline)
    }
}

/// A WAL object that the target lacks: its size, and the regions that have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MissingWal {
    pub(crate) size: ByteCount,
    pub(crate) regions: BTreeSet<RegionName>,
}

/// What WAL a region lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WalLack {
    pub(crate) objects: BTreeMap<WalObject, MissingWal>,
    pub(crate) histories: BTreeMap<TimelineId, MissingWal>,
    /// Sources that did not answer: what only they hold is not seen.
    pub(crate) silent: Vec<(RegionName, String)>,
    /// Objects of the target that gave no answer: it may lack what their names say.
    pub(crate) unread: Unread,
    /// There is more than one plan holds.
    pub(crate) more: bool,
}

impl WalLack {
    pub(crate) fn count(&self) -> u64 {
        (self.objects.len() + self.histories.len()) as u64
    }

    pub(crate) fn bytes(&self) -> ByteCount {
        self.objects.values().chain(self.histories.values()).map(|missing| missing.size).sum()
    }
}

/// Compares the WAL of `target` with that of `sources`. A name in the target is no WAL: an object counts if a source lists
/// the same with the same size, else it is read where it matters, and has to be signed for its place. `refused` objects have
/// turned out damaged everywhere: they count as nothing, so that slices are looked for in their place.
///
/// # Errors
/// What the target says to a listing. A source that fails is only left out.
pub(crate) async fn lacking_wal(
    target: &RegionStore,
    trust: &WalTrust,
    sources: &[RegionStore],
    bounds: &WalBounds,
    refused: &BTreeSet<WalObject>,
) -> Result<WalLack, StoreError> {
    let mut lack = WalLack::default();
    if bounds.until == Until::Nothing {
        return Ok(lack);
    }
    let (mut lines, mut answering) = (BTreeSet::new(), Vec::new());
    for source in sources {
        match timelines(&*source.store).await {
            Ok(found) => {
                lines.extend(found);
                answering.push(source.clone());
            }
            Err(error) => lack.silent.push((source.name.clone(), error_chain(&error))),
        }
    }
    for timeline in lines.into_iter().filter(|timeline| !bounds.skips(*timeline)) {
        let (stretches, unconfirmed) = (Stretches::default(), BTreeMap::new());
        let unread = std::mem::take(&mut lack.unread);
        let mut held = Held { target, trust, stretches, unconfirmed, unconfirmed_count: 0, silent: 0, unread };
        for form in [WalForm::Piece, WalForm::Slice] {
            held.list(&answering, form, (timeline, bounds), refused).await?;
        }
        history(target, &answering, timeline, &mut lack).await?;
        for form in [WalForm::Piece, WalForm::Slice] {
            let mut found = BTreeMap::new();
            let wanted = WantedWal { form, timeline, bounds, refused, held: &held.stretches };
            for source in &answering {
                if let Err(error) = gather(source, &wanted, &mut found).await {
                    lack.silent.push((source.name.clone(), error_chain(&error)));
                }
            }
            // Of objects that overlap, those are enough that add something.
            for (object, missing) in found {
                if !held.has(object.range).await? {
                    held.stretches.add(object.range);
                    lack.objects.insert(object, missing);
                }
            }
            // The oldest pieces stay: they close the oldest hole.
            while lack.objects.len() > PLAN_MAX {
                lack.more = lack.objects.pop_last().is_some();
            }
        }
        lack.unread = held.unread;
        if lack.more {
            break;
        }
    }
    Ok(lack)
}

/// The WAL that the target has.
struct Held<'a> {
    target: &'a RegionStore,
    trust: &'a WalTrust,
    stretches: Stretches,
    /// Objects that no source lists with the same size, by where they begin in bytes.
    unconfirmed: BTreeMap<u64, Vec<(WalObject, ObjectKey)>>,
    /// How many.
    unconfirmed_count: usize,
    /// Objects in a row that gave no answer.
    silent: u32,
    /// All that gave none.
    unread: Unread,
}

impl Held<'_> {
    async fn list(
        &mut self,
        sources: &[RegionStore],
        form: WalForm,
        (timeline, bounds): (TimelineId, &WalBounds),
        refused: &BTreeSet<WalObject>,
    ) -> Result<(), StoreError> {
        let mut pages = Pages::new(self.target, form, timeline, bounds);
        let cursor = |source| Cursor { pages: Pages::new(source, form, timeline, bounds), ahead: VecDeque::new() };
        let mut cursors: Vec<Cursor<'_>> = sources.iter().map(cursor).collect();
        while let Some((entries, _)) = pages.next().await? {
            let Some(last) = entries.last().map(|entry| entry.key.clone()) else { continue };
            let mut listed: BTreeMap<ObjectKey, (ByteCount, Confirmed)> =
                entries.into_iter().map(|entry| (entry.key, (entry.meta.size, Confirmed::No))).collect();
            for cursor in &mut cursors {
                if let Err(error) = cursor.confirm(&mut listed, &last).await {
                    // It confirms no more; what only it has is asked for elsewhere.
                    tracing::debug!(error = %error_chain(&error), "a source cannot be listed");
                    cursor.pages.after = None;
                }
            }
            for (key, (_, confirmed)) in listed {
                let Some(object) = WalObject::of_key(&key).filter(|object| !refused.contains(object)) else { continue };
                match confirmed {
                    Confirmed::Yes => self.stretches.add(object.range),
                    Confirmed::No if self.unconfirmed_count < PLAN_MAX => {
                        self.unconfirmed_count += 1;
                        self.unconfirmed.entry(object.range.start.as_bytes()).or_default().push((object, key));
                    }
                    Confirmed::No => {}
                }
            }
        }
        Ok(())
    }

    /// Whether the target has all of a range. Reads what nobody has confirmed, once.
    async fn has(&mut self, range: WalRange) -> Result<bool, StoreError> {
        if self.stretches.covers(range) {
            return Ok(true);
        }
        let (start, end) = (range.start.as_bytes(), range.end.as_bytes());
        let near = self.unconfirmed.range_mut(start.saturating_sub(PIECE_BYTES_MAX)..end);
        let overlapping: Vec<_> = near
            .flat_map(|(_, there)| there.extract_if(.., |(object, _)| object.range.end.as_bytes() > start))
            .collect();
        for (object, key) in overlapping {
            let proof = Proof::Signed(object.name());
            let read = self.target.store.get(&key, proof.bound()).await;
            let is_no_answer = read.as_ref().is_err_and(|error| {
                use StoreError::{Misconfigured, NotFound, Unsupported};
                !matches!(error, NotFound { .. } | Unsupported { .. } | Misconfigured { .. })
            });
            self.silent = if is_no_answer { self.silent + 1 } else { 0 };
            match read {
                Ok(bytes) => match proof.fault(self.trust, &bytes) {
                    None => self.stretches.add(object.range),
                    Some(why) => {
                        let region = &self.target.name;
                        tracing::warn!(%region, %key, why, "an object among the WAL is not ours and counts for nothing");
                    }
                },
                // It counts for nothing: what it should hold is copied, and whoever writes it finds out what lies there.
                Err(
                    StoreError::NotFound { .. } | StoreError::Unsupported { .. } | StoreError::Misconfigured { .. },
                ) => {}
                Err(error) if self.silent >= SILENT => return Err(error),
                // What one object holds is not known now, and left as it is: the next run asks again.
                Err(error) => {
                    self.unread.add(key, error_chain(&error));
                    self.stretches.add(object.range);
                }
            }
        }
        Ok(self.stretches.covers(range))
    }
}

/// Whether a source has the same object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Confirmed {
    No,
    Yes,
}

/// A listing that is compared with another one, page by page.
struct Cursor<'a> {
    pages: Pages<'a>,
    ahead: VecDeque<Entry>,
}

impl Cursor<'_> {
    /// Confirms what it lists with the same size, up to and including `last`.
    async fn confirm(
        &mut self,
        listed: &mut BTreeMap<ObjectKey, (ByteCount, Confirmed)>,
        last: &ObjectKey,
    ) -> Result<(), StoreError> {
        loop {
            while let Some(entry) = self.ahead.pop_front_if(|entry| entry.key <= *last) {
                if let Some((size, confirmed)) = listed.get_mut(&entry.key)
                    && *size == entry.meta.size
                {
                    *confirmed = Confirmed::Yes;
                }
            }
            if !self.ahead.is_empty() {
                return Ok(());
            }
            match self.pages.next().await? {
                Some((entries, _)) => self.ahead.extend(entries),
                None => return Ok(()),
            }
        }
    }
}

/// Which objects are looked for in the sources.
struct WantedWal<'a> {
    form: WalForm,
    timeline: TimelineId,
    bounds: &'a WalBounds,
    /// None of these.
    refused: &'a BTreeSet<WalObject>,
    /// What the target has.
    held: &'a Stretches,
}

async fn gather(
    source: &RegionStore,
    wanted: &WantedWal<'_>,
    found: &mut BTreeMap<WalObject, MissingWal>,
) -> Result<(), StoreError> {
    let WantedWal { form, timeline, bounds, refused, held } = *wanted;
    let mut pages = Pages::new(source, form, timeline, bounds);
    let mut added = 0;
    while let Some((entries, now)) = pages.next().await? {
        for entry in entries {
            let Some(object) = WalObject::of_key(&entry.key).filter(|object| object.form == form) else { continue };
            if !bounds.admits(object.range)
                || refused.contains(&object)
                || held.covers(object.range)
                || !bounds.is_settled(entry.meta.modified, now)
            {
                continue;
            }
            let missing = found.entry(object).or_default();
            missing.size = missing.size.max(entry.meta.size);
            missing.regions.insert(source.name.clone());
            added += 1;
        }
        if added > PLAN_MAX {
            return Ok(());
        }
    }
    Ok(())
}

async fn history(
    target: &RegionStore,
    sources: &[RegionStore],
    timeline: TimelineId,
    lack: &mut WalLack,
) -> Result<(), StoreError> {
    if timeline.get() == 1 {
        return Ok(());
    }
    let key = StoredName::TimelineHistory { timeline }.key();
    let find = async |region: &RegionStore| -> Result<Option<Entry>, StoreError> {
        let page = region.store.list(key.as_str(), None).await?;
        Ok(page.entries.into_iter().find(|entry| entry.key == key))
    };
    if find(target).await?.is_some() {
        return Ok(());
    }
    for source in sources {
        match find(source).await {
            Ok(Some(entry)) => {
                let missing = lack.histories.entry(timeline).or_default();
                missing.size = entry.meta.size;
                missing.regions.insert(source.name.clone());
            }
            Ok(None) => {}
            Err(error) => lack.silent.push((source.name.clone(), error_chain(&error))),
        }
    }
    Ok(())
}

/// Pages of one form on one timeline, with sizes and times.
struct Pages<'a> {
    region: &'a RegionStore,
    folder: String,
    after: Option<ObjectKey>,
}

impl<'a> Pages<'a> {
    fn new(region: &'a RegionStore, form: WalForm, timeline: TimelineId, bounds: &WalBounds) -> Self {
        // What holds the first byte begins in the same piece.
        let start = bounds.first_of(timeline).map_or(0, |lsn| PieceSize::LARGEST.start_of(lsn));
        Self { region, folder: form.folder(timeline), after: Some(form.before(timeline, start)) }
    }

    async fn next(&mut self) -> Result<Option<(Vec<Entry>, Option<UtcTime>)>, StoreError> {
        let Some(after) = &self.after else { return Ok(None) };
        let page = self.region.store.list(&self.folder, Some(after)).await?;
        self.after = page.entries.last().filter(|_| page.more).map(|last| last.key.clone());
        Ok(Some((page.entries, page.server_time)))
    }
}

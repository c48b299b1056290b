//! What WAL one store holds: page by page, so that a year of it never lies in memory.

use std::collections::VecDeque;

use lifeboat_stores::{ListPage, ObjectKey, Store, StoreError};
use lifeboat_vocabulary::{Lsn, TimelineId, UtcTime, WalPosition};

use crate::format::layout::{WalForm, WalRange};
use crate::wal::name::{PieceSize, WalObject, timeline_of};

/// Timelines that a cluster may have; PostgreSQL makes one for every promotion.
pub(crate) const TIMELINES_MAX: usize = 100_000;

/// Lists the objects of one form on one timeline, in order of their starts.
#[derive(Debug)]
pub struct WalPages<'a> {
    store: &'a dyn Store,
    form: WalForm,
    timeline: TimelineId,
    /// The first position that is asked for.
    from: u64,
    after: Option<ObjectKey>,
    page: VecDeque<(WalObject, Option<UtcTime>)>,
}

impl<'a> WalPages<'a> {
    /// All objects of `form` that hold WAL of `from.timeline` at `from.lsn` or behind it. An object that begins before
    /// `from` and reaches beyond it is among them: it begins in the same piece, whose size is `pieces`
    /// ([`PieceSize::LARGEST`] if it is not known).
    #[must_use]
    pub fn new(store: &'a dyn Store, form: WalForm, from: WalPosition, pieces: PieceSize) -> Self {
        let WalPosition { timeline, lsn } = from;
        let after = Some(form.before(timeline, pieces.start_of(lsn)));
        Self { store, form, timeline, from: lsn.as_bytes(), after, page: VecDeque::new() }
    }

    /// All objects of `form` on `timeline`.
    #[must_use]
    pub fn all(store: &'a dyn Store, form: WalForm, timeline: TimelineId) -> Self {
        let after = Some(form.before(timeline, 0));
        Self { store, form, timeline, from: 0, after, page: VecDeque::new() }
    }

    /// The next object; `None` behind the last one. Asks the store once for about a thousand objects.
    ///
    /// # Errors
    /// Whatever the store says. The same call may be repeated then: nothing is skipped.
    pub async fn next(&mut self) -> Result<Option<WalObject>, StoreError> {
        Ok(self.next_stored().await?.map(|(object, _)| object))
    }

    /// The same, with the time when it was stored, by the region's clock, where the region says so.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub(crate) async fn next_stored(&mut self) -> Result<Option<(WalObject, Option<UtcTime>)>, StoreError> {
        loop {
            if let Some(object) = self.page.pop_front() {
                return Ok(Some(object));
            }
            let Some(after) = &self.after else { return Ok(None) };
            let page = self.store.list(&self.form.folder(self.timeline), Some(after)).await?;
            self.take(page);
        }
    }

    fn take(&mut self, page: ListPage) {
        self.after = page.entries.last().filter(|_| page.more).map(|last| last.key.clone());
        for entry in page.entries {
            // Foreign objects in the folder do no harm.
            let object = WalObject::of_key(&entry.key).filter(|object| {
                object.form == self.form
                    && object.range.timeline == self.timeline
                    && object.range.end.as_bytes() > self.from
            });
            self.page.extend(object.map(|object| (object, entry.meta.modified)));
        }
    }
}

/// All objects of one form that hold WAL of `range`. What begins behind the range is not among them, but where the first
/// such object begins is told.
///
/// # Errors
/// Whatever the store says.
pub(crate) async fn objects_in(
    store: &dyn Store,
    form: WalForm,
    range: WalRange,
    pieces: PieceSize,
) -> Result<(Vec<WalObject>, Option<Lsn>), StoreError> {
    let from = WalPosition { timeline: range.timeline, lsn: range.start };
    let mut pages = WalPages::new(store, form, from, pieces);
    let mut objects = Vec::new();
    while let Some(object) = pages.next().await? {
        if object.range.start >= range.end {
            return Ok((objects, Some(object.range.start)));
        }
        objects.push(object);
    }
    Ok((objects, None))
}

/// The timelines of which a store has WAL or a history, ascending. Asks once for every timeline, however much WAL it has.
///
/// # Errors
/// Whatever the store says; [`StoreError::Unsupported`] above `TIMELINES_MAX`.
pub async fn timelines(store: &dyn Store) -> Result<Vec<TimelineId>, StoreError> {
    let mut found = Vec::new();
    for form in [WalForm::Piece, WalForm::Slice] {
        let mut after = None;
        loop {
            let page = store.list(form.prefix(), after.as_ref()).await?;
            found.extend(page.entries.iter().filter_map(|entry| timeline_of(&entry.key)));
            found.dedup();
            if found.len() > TIMELINES_MAX {
                let doing = format!("list the timelines in {store}");
                return Err(StoreError::Unsupported { doing, why: format!("there are more than {TIMELINES_MAX}") });
            }
            let Some(last) = page.entries.last().filter(|_| page.more) else { break };
            // Behind the last timeline of this page; a page of strays alone is passed as it is.
            after = match timeline_of(&last.key) {
                Some(timeline) => match form.behind(timeline) {
                    Some(behind) => Some(behind),
                    None => break,
                },
                None => Some(last.key.clone()),
            };
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Where the WAL of a store ends that goes on from `from` without a hole: pieces and slices together, overlaps allowed.
/// `from` itself if nothing does. Slices are listed only where there is no piece.
///
/// # Errors
/// Whatever the store says.
pub async fn contiguous_end(store: &dyn Store, from: WalPosition, pieces: PieceSize) -> Result<Lsn, StoreError> {
    let timeline = from.timeline;
    let mut end = from.lsn;
    let mut listed = WalPages::new(store, WalForm::Piece, from, pieces);
    let mut next = listed.next().await?;
    loop {
        while let Some(piece) = next.filter(|piece| piece.range.start <= end) {
            end = end.max(piece.range.end);
            next = listed.next().await?;
        }
        let until = next.map(|piece| piece.range.start);
        let bridged = end_of_slices(store, WalPosition { timeline, lsn: end }, pieces, until).await?;
        let goes_on = next.is_some_and(|piece| piece.range.start <= bridged);
        end = end.max(bridged);
        if !goes_on {
            return Ok(end);
        }
    }
}

/// Stops at `until`, from where on there are pieces.
async fn end_of_slices(
    store: &dyn Store,
    from: WalPosition,
    pieces: PieceSize,
    until: Option<Lsn>,
) -> Result<Lsn, StoreError> {
    let mut end = from.lsn;
    let mut slices = WalPages::new(store, WalForm::Slice, from, pieces);
    while until.is_none_or(|until| end < until)
        && let Some(slice) = slices.next().await?.filter(|slice| slice.range.start <= end)
    {
        end = end.max(slice.range.end);
    }
    Ok(end)
}

#[cfg(test)]
mod tests;

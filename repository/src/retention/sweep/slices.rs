//! Which slices are not needed any more, because a piece in the same region holds their WAL too.

use std::collections::VecDeque;
use std::time::Duration;

use lifeboat_stores::{Store, StoreError};
use lifeboat_vocabulary::{Lsn, TimelineId, UtcTime, WalPosition};

use crate::format::layout::{WalForm, WalRange};
use crate::retention::sweep::listing::Pages;
use crate::wal::list::WalPages;
use crate::wal::name::{PieceSize, WalObject};

/// A slice is left alone for this long, even where a piece holds its WAL too: who has just listed it may be reading it.
pub(crate) const SLICE_GRACE: Duration = Duration::from_secs(24 * 3600);

/// The pieces of one timeline, asked about range after range in ascending order of their starts.
pub(crate) struct Coverage<'a> {
    store: &'a dyn Store,
    timeline: TimelineId,
    /// Not begun before the first question: earlier pieces do not matter.
    pages: Option<WalPages<'a>>,
    /// Pieces that may hold what is asked for next.
    near: VecDeque<WalObject>,
    next: Option<WalObject>,
}

impl<'a> Coverage<'a> {
    pub(crate) fn new(store: &'a dyn Store, timeline: TimelineId) -> Self {
        Self { store, timeline, pages: None, near: VecDeque::new(), next: None }
    }

    /// Whether one piece holds all of `range`.
    pub(crate) async fn holds(&mut self, range: WalRange) -> Result<bool, StoreError> {
        let pages = match &mut self.pages {
            Some(pages) => pages,
            none => {
                let from = WalPosition { timeline: self.timeline, lsn: range.start };
                let mut pages = WalPages::new(self.store, WalForm::Piece, from, PieceSize::LARGEST);
                self.next = pages.next().await?;
                none.insert(pages)
            }
        };
        self.near.retain(|piece| piece.range.end > range.start);
        while let Some(piece) = self.next.filter(|piece| piece.range.start <= range.start) {
            self.near.push_back(piece);
            self.next = pages.next().await?;
        }
        Ok(self.near.iter().any(|piece| piece.range.start <= range.start && range.end <= piece.range.end))
    }
}

/// Up to where the slices of a timeline can be looked through for those that may go; `None` if none may.
pub(crate) async fn slices_floor(
    store: &dyn Store,
    timeline: TimelineId,
    now: UtcTime,
) -> Result<Option<Lsn>, StoreError> {
    let mut coverage = Coverage::new(store, timeline);
    let mut pages = Pages::new(store, WalForm::Slice.folder(timeline), now);
    while let Some(page) = pages.next().await? {
        for seen in page {
            let Some(slice) = WalObject::of_key(&seen.entry.key) else { continue };
            if seen.age >= SLICE_GRACE && coverage.holds(slice.range).await? {
                return end_of_pieces(store, slice.range).await;
            }
        }
    }
    Ok(None)
}

/// The end of the last piece behind the start of `from`.
async fn end_of_pieces(store: &dyn Store, from: WalRange) -> Result<Option<Lsn>, StoreError> {
    let at = WalPosition { timeline: from.timeline, lsn: from.start };
    let mut pages = WalPages::new(store, WalForm::Piece, at, PieceSize::LARGEST);
    let mut end = None;
    while let Some(piece) = pages.next().await? {
        end = end.max(Some(piece.range.end));
    }
    Ok(end)
}

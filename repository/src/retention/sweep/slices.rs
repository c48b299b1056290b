//! Which slices are not needed any more, because a piece in the same region holds their WAL too.

use std::collections::VecDeque;
use std::time::Duration;

use lifeboat_stores::{ByteRange, OBJECT_BYTES_MAX, Store, StoreError};
use lifeboat_vocabulary::{Lsn, TimelineId, UtcTime, WalPosition, error_chain};

use crate::format::layout::{WalForm, WalRange};
use crate::retention::sweep::listing::Pages;
use crate::wal::list::WalPages;
use crate::wal::name::{PieceSize, WalObject};
use crate::wal::object::WalTrust;

/// A slice is left alone for this long, even where a piece holds its WAL too: who has just listed it may be reading it.
pub(crate) const SLICE_GRACE: Duration = Duration::from_secs(24 * 3600);

/// The pieces of one timeline, asked about range after range in ascending order of their starts. A name alone stands in for
/// nothing: a piece counts once it was read whole and its signature fits, because what it stands in for is deleted.
pub(crate) struct Coverage<'a> {
    store: &'a dyn Store,
    timeline: TimelineId,
    trust: &'a WalTrust,
    /// Not begun before the first question: earlier pieces do not matter.
    pages: Option<WalPages<'a>>,
    /// Pieces that may hold what is asked for next.
    near: VecDeque<Near>,
    next: Option<WalObject>,
}

struct Near {
    piece: WalObject,
    worth: Worth,
}

/// What is known of a piece.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Worth {
    NotRead,
    /// A writer of the repository has signed it, for this place.
    Signed,
    /// It is not what its name says, or nobody's.
    Nothing,
}

impl<'a> Coverage<'a> {
    pub(crate) fn new(store: &'a dyn Store, timeline: TimelineId, trust: &'a WalTrust) -> Self {
        Self { store, timeline, trust, pages: None, near: VecDeque::new(), next: None }
    }

    /// Whether one piece holds all of `range`. Reads each piece once.
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
        self.near.retain(|near| near.piece.range.end > range.start);
        while let Some(piece) = self.next.filter(|piece| piece.range.start <= range.start) {
            self.near.push_back(Near { piece, worth: Worth::NotRead });
            self.next = pages.next().await?;
        }
        let (store, trust) = (self.store, self.trust);
        let around = |piece: WalRange| piece.start <= range.start && range.end <= piece.end;
        for near in self.near.iter_mut().filter(|near| around(near.piece.range)) {
            if near.worth == Worth::NotRead {
                near.worth = worth(store, trust, near.piece).await?;
            }
            if near.worth == Worth::Signed {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

async fn worth(store: &dyn Store, trust: &WalTrust, piece: WalObject) -> Result<Worth, StoreError> {
    let key = piece.key();
    let object = match store.get(&key, ByteRange::WholeUpTo(OBJECT_BYTES_MAX)).await {
        Ok(object) => object,
        Err(StoreError::NotFound { .. } | StoreError::Unsupported { .. }) => return Ok(Worth::Nothing),
        Err(error) => return Err(error),
    };
    match trust.check_sealed(&piece.name(), &object) {
        Ok(_) => Ok(Worth::Signed),
        Err(error) => {
            let why = error_chain(&error);
            tracing::warn!(%key, why, "a piece of WAL is not what was stored; the slices that it stands for stay");
            Ok(Worth::Nothing)
        }
    }
}

/// Up to where the slices of a timeline can be looked through for those that may go; `None` if none may.
pub(crate) async fn slices_floor(
    store: &dyn Store,
    timeline: TimelineId,
    trust: &WalTrust,
    now: UtcTime,
) -> Result<Option<Lsn>, StoreError> {
    let mut coverage = Coverage::new(store, timeline, trust);
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

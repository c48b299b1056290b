//! Missing WAL that a region could not be asked for yet, and what a region tells once it is asked.

use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::log::records::GapReason;
use lifeboat_vocabulary::WalPosition;

use crate::wal::ship::marks::Kept;
use crate::wal::ship::ranges::Stretch;

/// Missing WAL, as long as a region could not be asked whether it has it.
#[derive(Clone, Debug)]
pub(crate) struct NarrowGap {
    pub(super) missing: WalRange,
    pub(super) reason: GapReason,
    /// The regions that were found not to have it.
    pub(super) lacking: Vec<usize>,
}

/// What a region has told that it has.
#[derive(Debug)]
pub(crate) struct Told {
    /// It has everything before this.
    pub(super) durable: Option<WalPosition>,
    /// And this.
    pub(super) held: Vec<WalRange>,
}

impl Told {
    pub(super) fn holds_or_gets(&self, range: WalRange, kept: &Kept) -> bool {
        let WalRange { timeline, start, end } = range;
        let mut held = kept.get(&timeline).cloned().unwrap_or_default();
        self.held.iter().filter(|held| held.timeline == timeline).for_each(|range| held.add((*range).into()));
        let durable = self.durable.filter(|durable| durable.timeline == timeline && durable.lsn > start);
        durable.into_iter().for_each(|durable| held.add(Stretch { start, end: durable.lsn }));
        self.durable.is_some_and(|durable| (durable.timeline, durable.lsn) >= (timeline, end))
            || held.covers(range.into())
    }
}

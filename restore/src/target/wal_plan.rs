//! From what is stored to what can be reached: which stretch of WAL leads on from each backup, without a hole, along one
//! timeline's history.
//!
//! PostgreSQL itself does not reliably notice a backup that is newer than the target (it stops at the first record after
//! the backup that lies beyond the target), nor can it know what a store holds. So both are decided here, before a byte
//! is written.

use std::collections::BTreeMap;

use lifeboat_repository::wal::CompleteMark;
use lifeboat_vocabulary::{BackupId, ByteCount, Lsn, RegionName, SegmentSize, TimelineId, UtcTime, WalPosition};

use crate::target::coverage::{Coverage, segment_start};
use crate::target::timeline_tree::{TimelinePath, TimelineTree};

/// Everything that is known of an archive, from all regions together.
#[derive(Clone, Debug)]
pub(crate) struct ArchiveView {
    /// The cluster's segment size.
    pub(crate) segment: SegmentSize,
    /// All timelines with a known history.
    pub(crate) tree: TimelineTree,
    /// What is stored of each timeline.
    pub(crate) coverage: BTreeMap<TimelineId, Coverage>,
    /// What is on record as missing of each timeline in all regions.
    pub(crate) gaps: BTreeMap<TimelineId, Vec<(Lsn, Lsn)>>,
    /// What there is behind holes that are not on record, by where it begins.
    pub(crate) behind_holes: BTreeMap<(TimelineId, Lsn), BehindHole>,
    /// The backups that can be used, in any order.
    pub(crate) backups: Vec<BackupPoint>,
    /// Signs of life of the writers.
    pub(crate) heads: Vec<HeadFact>,
}

/// A backup, as a place from which recovery can start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackupPoint {
    /// Its name.
    pub(crate) id: BackupId,
    /// Where recovery starts.
    pub(crate) start: WalPosition,
    /// Where it is consistent: nothing before this can be reached from it.
    pub(crate) stop: WalPosition,
    /// When it was complete, by the clock of the machine that made it.
    pub(crate) stop_time: UtcTime,
}

/// What the sign of life of a writer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeadFact {
    pub(crate) region: RegionName,
    /// When it was written, by the writer's clock.
    pub(crate) time: UtcTime,
    /// When it was stored, by the region's clock.
    pub(crate) stored: UtcTime,
    /// Up to where WAL was stored in the region then.
    pub(crate) durable: Option<WalPosition>,
    /// Everything that was committed by a moment ends before a position.
    pub(crate) complete: Option<CompleteMark>,
    /// Up to where PostgreSQL had been told that its WAL is safe.
    pub(crate) confirmed: Option<WalPosition>,
}

/// What there is behind a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BehindHole {
    /// WAL that can be read, the newest of it stored then, by the regions' clocks; `None` if that is not known.
    Wal { newest: Option<UtcTime> },
    /// Objects with names of WAL, and nothing that can be read.
    Unreadable,
}

/// A stretch of WAL of one timeline that recovery reads: whole segments from `from`, bytes up to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChainLeg {
    /// The timeline whose segments are read.
    pub(crate) timeline: TimelineId,
    /// The start of the first segment.
    pub(crate) from: Lsn,
    /// The end of the last byte that is needed.
    pub(crate) to: Lsn,
}

/// WAL that leads on from a backup, without a hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Oldest first; never empty.
    pub(crate) legs: Vec<ChainLeg>,
}

impl Chain {
    #[must_use]
    pub(crate) fn end(&self) -> Option<WalPosition> {
        self.legs.last().map(|leg| WalPosition { timeline: leg.timeline, lsn: leg.to })
    }

    /// How much there is to read.
    #[must_use]
    pub(crate) fn bytes(&self) -> ByteCount {
        let lengths = self.legs.iter().filter_map(|leg| leg.to.bytes_since(leg.from));
        lengths.fold(ByteCount::ZERO, ByteCount::plus)
    }

    /// The same, but not beyond `end`. What lies behind is left to a look at the store when it is asked for.
    #[must_use]
    pub(crate) fn up_to(&self, end: Lsn) -> Self {
        let legs = self.legs.iter().filter(|leg| leg.from < end);
        Self { legs: legs.map(|leg| ChainLeg { to: leg.to.min(end), ..*leg }).collect() }
    }
}

/// How far one can get from a backup along a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    pub(crate) backup: BackupPoint,
    /// The WAL behind it; `None` if the archive has nothing to add to the backup's own.
    pub(crate) chain: Option<Chain>,
    /// The last position that can be reached.
    pub(crate) end: WalPosition,
    /// Where WAL of the path goes on behind a hole, if it does.
    pub(crate) beyond_hole: Option<WalPosition>,
}

impl ArchiveView {
    /// Whether the archive has any WAL at all.
    #[must_use]
    pub(crate) fn has_wal(&self) -> bool {
        self.coverage.values().any(|coverage| !coverage.is_empty())
    }

    /// The newest moment that any clock knows: this machine's, that of the writers' signs of life, that of the backups.
    #[must_use]
    pub(crate) fn latest(&self, now: UtcTime) -> UtcTime {
        let heads = self.heads.iter().map(|head| head.time);
        heads.chain(self.backups.iter().map(|backup| backup.stop_time)).fold(now, UtcTime::max)
    }

    fn covered(&self, timeline: TimelineId) -> Option<&Coverage> {
        self.coverage.get(&timeline).filter(|coverage| !coverage.is_empty())
    }

    /// The newest timeline of which anything is known: PostgreSQL numbers them upwards.
    #[must_use]
    pub(crate) fn newest_timeline(&self) -> Option<TimelineId> {
        let stored = self.coverage.iter().filter(|(_, coverage)| !coverage.is_empty()).map(|(timeline, _)| *timeline);
        let known = self.tree.histories().map(|history| history.timeline);
        stored.chain(known).chain(self.backups.iter().map(|backup| backup.stop.timeline)).max()
    }

    /// All timelines of which anything is known, ascending.
    #[must_use]
    pub(crate) fn timelines(&self) -> Vec<TimelineId> {
        let stored = self.coverage.keys().copied();
        let known = self.tree.histories().map(|history| history.timeline);
        let mut all: Vec<_> =
            stored.chain(known).chain(self.backups.iter().map(|backup| backup.stop.timeline)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// How far one gets from every backup on a path, in the order of their positions.
    #[must_use]
    pub(crate) fn reaches(&self, path: &TimelinePath) -> Vec<Reach> {
        let mut reaches: Vec<Reach> = self.backups.iter().filter_map(|backup| self.reach(backup, path)).collect();
        reaches.sort_by_key(|reach| (reach.backup.stop.lsn, reach.backup.stop_time, reach.backup.id.clone()));
        reaches
    }

    /// How far one gets from a backup along a path; `None` if the path does not lead through it.
    #[must_use]
    pub(crate) fn reach(&self, backup: &BackupPoint, path: &TimelinePath) -> Option<Reach> {
        if !path.contains(backup.stop) {
            return None;
        }
        let chain = self.chain(backup, path);
        let end = chain.as_ref().and_then(Chain::end).unwrap_or(backup.stop);
        let beyond_hole = self.beyond_hole(path, end);
        Some(Reach { backup: backup.clone(), chain, end, beyond_hole })
    }

    /// The WAL from a backup on. It has to begin no later than the segment in which the backup stops: a copy from a
    /// standby carries that segment only in part.
    fn chain(&self, backup: &BackupPoint, path: &TimelinePath) -> Option<Chain> {
        let mut legs = path.legs().iter().skip_while(|leg| leg.timeline != backup.stop.timeline).peekable();
        let stop = segment_start(backup.stop.lsn, self.segment);
        let mut from = self.first_segment(backup, stop)?;
        let mut chain = Vec::new();
        while let Some(leg) = legs.next() {
            let covered = self.covered(leg.timeline)?.end_from(from)?;
            let to = leg.end.map_or(covered, |end| covered.min(end));
            // The next timeline repeats the segment of its fork, and PostgreSQL reads that segment from the newest one.
            let next = legs.peek().zip(leg.end).and_then(|(next, fork)| {
                let fork_segment = segment_start(fork, self.segment);
                let goes_on = self.covered(next.timeline)?.end_from(fork_segment)? > fork;
                (covered >= fork_segment && goes_on).then_some(fork_segment)
            });
            match next {
                Some(fork_segment) => {
                    if fork_segment > from {
                        chain.push(ChainLeg { timeline: leg.timeline, from, to: fork_segment });
                    }
                    // The segments before the fork are the only ones that this timeline has to give.
                    from = fork_segment.max(from);
                }
                None => {
                    chain.push(ChainLeg { timeline: leg.timeline, from, to });
                    break;
                }
            }
        }
        let chain = Chain { legs: chain };
        chain.end().filter(|end| end.lsn >= backup.stop.lsn).map(|_| chain)
    }

    /// The first segment that the archive can give: that of the backup's start, or a later one up to that of its stop.
    fn first_segment(&self, backup: &BackupPoint, stop: Lsn) -> Option<Lsn> {
        let begin = self.covered(backup.stop.timeline)?.begin_of(stop)?;
        let start = segment_start(backup.start.lsn, self.segment);
        let same = backup.start.timeline == backup.stop.timeline;
        let first =
            if same { start.max(crate::target::coverage::next_segment_start(begin, self.segment)) } else { stop };
        Some(first.min(stop))
    }

    /// Whether there is WAL of this path that no chain up to `end` leads to.
    fn beyond_hole(&self, path: &TimelinePath, end: WalPosition) -> Option<WalPosition> {
        let rest = path.legs().iter().skip_while(|leg| leg.timeline != end.timeline);
        rest.enumerate().find_map(|(index, leg)| {
            let coverage = self.covered(leg.timeline)?;
            let after =
                if index == 0 { coverage.next_after(end.lsn) } else { coverage.stretches().first().map(|s| s.0) };
            let lsn = after.filter(|lsn| leg.end.is_none_or(|end| *lsn < end))?;
            Some(WalPosition { timeline: leg.timeline, lsn })
        })
    }

    /// Everything that was committed by then is within what can be reached up to `end`. A moment at the very end of a timeline
    /// proves nothing for the next one: its old server stands there, while the new one commits.
    #[must_use]
    pub(crate) fn complete_until(&self, path: &TimelinePath, end: WalPosition) -> Option<UtcTime> {
        let marks = self.heads.iter().filter_map(|head| head.complete);
        let is_within = |at: WalPosition| {
            let leg = path.legs().iter().find(|leg| leg.timeline == at.timeline);
            leg.is_some_and(|leg| leg.end.is_none_or(|fork| at.lsn < fork))
        };
        marks.filter(|mark| is_within(mark.at) && mark.at.lsn <= end.lsn).map(|mark| mark.time).max()
    }
}

#[cfg(test)]
mod tests;

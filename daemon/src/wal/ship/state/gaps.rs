//! WAL that is missing: where, since when that is certain, and what goes on record about it.

use std::sync::Arc;

use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::log::records::{GapReason, GapScope, WalGapRecord};
use lifeboat_vocabulary::{Lsn, SegmentSize, UtcTime, WalPosition};

use crate::wal::ship::notice::Notice;
use crate::wal::ship::pending::Load;
use crate::wal::ship::ranges::RangeSet;
use crate::wal::ship::state::{Early, Job, ShipState};

/// What a region has told that it has.
#[derive(Debug)]
pub(super) struct Told {
    /// It has everything before this.
    pub(super) durable: Option<WalPosition>,
    /// And this.
    pub(super) held: Vec<WalRange>,
}

impl Told {
    fn holds(&self, range: WalRange) -> bool {
        let WalRange { timeline, end, .. } = range;
        let mut held = RangeSet::default();
        self.held.iter().filter(|held| held.timeline == timeline).for_each(|range| held.add((*range).into()));
        self.durable.is_some_and(|durable| (durable.timeline, durable.lsn) >= (timeline, end))
            || held.covers(range.into())
    }
}

impl ShipState {
    pub(super) fn is_on_record(&self, range: WalRange) -> bool {
        self.gaps.get(&range.timeline).is_some_and(|gaps| gaps.covers(range.into()))
    }

    /// What a region misses for ever is put on record there.
    pub(super) fn record_holes(&mut self, region: usize, time: UtcTime) {
        let mut kept = self.pending_objects.kept_for(region);
        for (timeline, gaps) in &self.gaps {
            kept.entry(*timeline).or_default().add_all(gaps);
        }
        for hole in self.marks.holes(region, &kept) {
            if let Some(uploader_state) = self.regions.get(region) {
                let (from, to) = (hole.start, hole.end);
                tracing::warn!(region = %uploader_state.name, timeline = %hole.timeline, %from, %to, "the region misses WAL that nobody has for it");
            }
            self.notice_gap(hole, GapReason::RegionMissed, Some(vec![region]), time);
        }
    }

    /// This WAL will never come: every region that lacks it gets it on record. Streams begin at the starts of segments, so
    /// what is missing ends at one; as long as their size is not known, the record waits.
    pub(crate) fn gap(&mut self, missing: WalRange, reason: GapReason, time: UtcTime) {
        let Some(segment) = self.segment() else {
            self.early.push(Early::Gap(missing, reason));
            return;
        };
        self.gap_in(segment, missing, reason, time);
    }

    /// As [`Self::gap`], for a server with segments of this size.
    pub(super) fn gap_in(&mut self, segment: SegmentSize, missing: WalRange, reason: GapReason, time: UtcTime) {
        let end = Lsn::from_bytes(missing.end.as_bytes() / segment.as_bytes() * segment.as_bytes());
        let is_open = missing.end <= missing.start;
        let missing = if is_open { missing } else { WalRange { end: end.unwrap_or(missing.start), ..missing } };
        if !is_open && missing.is_empty() {
            // The segment comes again from its start: nothing is missing.
            return;
        }
        self.gaps.entry(missing.timeline).or_default().add(missing.into());
        if is_open || !reason.is_overruled_by_wal() && reason != GapReason::Other {
            self.notice_gap(missing, reason, None, time);
            return;
        }
        let (known, unknown): (Vec<_>, Vec<_>) = (0..self.regions.len()).partition(|&region| self.is_known(region));
        // What waits in the spool for a region it gets.
        let gets = |region| self.marks.holds_or_gets(region, missing, &self.pending_objects.kept_for(region));
        let lacking: Vec<_> = known.iter().copied().filter(|&region| !gets(region)).collect();
        match (lacking.len() == known.len(), unknown.is_empty()) {
            (true, true) => self.notice_gap(missing, reason, None, time),
            // A region that could not be asked may have it: until it answers, the others speak for themselves.
            (true, false) => {
                self.notice_gap(missing, reason, Some(lacking), time);
                self.narrow_gaps.push((missing, reason));
            }
            (false, _) if lacking.is_empty() => {}
            (false, _) => self.notice_gap(missing, GapReason::RegionMissed, Some(lacking), time),
        }
    }

    /// A region has answered: what the others lack is missing everywhere if it lacks it as well, and no region is left that
    /// could not be asked. What it has is what it told: its place may be on a later timeline by now, behind what it lacks.
    pub(super) fn widen_gaps(&mut self, region: usize, told: &Told, time: UtcTime) {
        let all_known = (0..self.regions.len()).all(|region| self.is_known(region));
        for (missing, reason) in std::mem::take(&mut self.narrow_gaps) {
            let holder = (0..self.regions.len()).find(|&other| {
                let holds = if other == region { told.holds(missing) } else { self.marks.holds(other, missing) };
                self.is_known(other) && holds && !self.marks.has_lost(other, missing)
            });
            match (holder, all_known) {
                (Some(_), _) => {}
                (None, true) => self.notice_gap(missing, reason, None, time),
                (None, false) => {
                    self.notice_gap(missing, reason, Some(vec![region]), time);
                    self.narrow_gaps.push((missing, reason));
                }
            }
        }
    }

    /// What a region that has answered has on record as missing there, for a reason that holds for all.
    pub(super) fn missing_in(&mut self, losses: &[(WalRange, GapReason)]) {
        for (range, reason) in losses {
            let is_new = !self.narrow_gaps.iter().any(|(known, _)| known == range);
            if *reason != GapReason::RegionMissed && is_new {
                self.narrow_gaps.push((*range, *reason));
            }
        }
    }

    /// This WAL is there, and recovery cannot cross it.
    pub(crate) fn cannot_be_replayed(&mut self, range: WalRange, time: UtcTime) {
        self.notice_gap(range, GapReason::MinimalWal, None, time);
    }

    /// Puts a gap on record in `regions`, or in all of them.
    pub(super) fn notice_gap(
        &mut self,
        missing: WalRange,
        reason: GapReason,
        regions: Option<Vec<usize>>,
        time: UtcTime,
    ) {
        let WalRange { timeline, start, end } = missing;
        let to = (end > start).then_some(end);
        let scope = if regions.is_some() { GapScope::Region } else { GapScope::Everywhere };
        let record = WalGapRecord { timeline, from: start, to, reason, scope };
        self.jobs.push_back(Job::Notice(Arc::new(Notice::Gap { record, time: time.as_unix_micros() }), regions));
    }

    /// Whether the server may still have the WAL of a load: it was not told that all of it is safe.
    pub(crate) fn can_be_received_again(&self, load: &Load) -> bool {
        let Some(range) = load.what.range() else { return true };
        let confirmed = self.marks.confirmed().map(|at| (at.timeline, at.lsn));
        confirmed.is_none_or(|confirmed| confirmed < (range.timeline, range.end))
    }

    /// Neither memory nor spool nor the server can give an object any more: the region will never get it.
    pub(crate) fn lost(&mut self, region: usize, load: &Load, time: UtcTime) {
        self.pending_objects.done(region, load.file.sequence);
        if let Some(range) = load.what.range().filter(|range| !self.marks.holds(region, *range)) {
            self.notice_gap(range, GapReason::RegionMissed, Some(vec![region]), time);
        }
    }
}

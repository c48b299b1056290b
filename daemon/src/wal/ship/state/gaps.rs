//! WAL that is missing: where, since when that is certain, and what goes on record about it.

use std::sync::Arc;

use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::log::records::{GapReason, GapScope, WalGapRecord};
use lifeboat_vocabulary::{Lsn, SegmentSize, UtcTime};

use crate::wal::ship::notice::Notice;
use crate::wal::ship::pending::{Load, What};
use crate::wal::ship::state::narrow_gap::{NarrowGap, Told};
use crate::wal::ship::state::{Early, Job, ShipState};

/// What becomes of WAL whose key nobody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WithoutKey {
    /// It is not known what the server has been told, or another region may be able to take it: its file stays.
    Waits,
    /// The region does not need it any more.
    Needless,
    /// The server was told that it is safe, in other regions: this one never gets it.
    Lost,
    /// The server still has it, and nobody needs the file.
    ReceiveAgain,
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
        let lacking: Vec<_> = known.iter().copied().filter(|&region| !self.gets(region, missing)).collect();
        let is_missing_in_all = lacking.len() == known.len();
        match (is_missing_in_all, unknown.is_empty()) {
            (true, true) => self.notice_gap(missing, reason, None, time),
            // A region that could not be asked may have it: until it answers, the others speak for themselves.
            (true, false) => self.notice_gap(missing, reason, Some(lacking.clone()), time),
            (false, _) if lacking.is_empty() => {}
            (false, _) => self.notice_gap(missing, GapReason::RegionMissed, Some(lacking.clone()), time),
        }
        if !unknown.is_empty() {
            self.narrow_gaps.push(NarrowGap { missing, reason, lacking });
        }
    }

    /// Whether a region has WAL, or what waits in the spool for it has.
    pub(super) fn gets(&self, region: usize, range: WalRange) -> bool {
        self.marks.holds_or_gets(region, range, &self.pending_objects.kept_for(region))
    }

    /// A region has answered: what the others lack is missing everywhere if it lacks it as well, and no region is left that
    /// could not be asked. Who was found to lack it does not have it, however far it has come since: behind the end of a timeline
    /// all go on on the next one.
    pub(super) fn widen_gaps(&mut self, region: usize, told: &Told, time: UtcTime) {
        let all_known = (0..self.regions.len()).all(|region| self.is_known(region));
        for mut gap in std::mem::take(&mut self.narrow_gaps) {
            let NarrowGap { missing, reason, .. } = gap;
            let has_lost = self.marks.has_lost(region, missing);
            if has_lost || !told.holds_or_gets(missing, &self.pending_objects.kept_for(region)) {
                gap.lacking.push(region);
            }
            let holds = |other| !gap.lacking.contains(&other) && (other == region || self.gets(other, missing));
            let is_held = (0..self.regions.len()).any(|other| self.is_known(other) && holds(other));
            let is_new = gap.lacking.contains(&region) && !has_lost;
            match (is_held, all_known) {
                (false, true) => self.notice_gap(missing, reason, None, time),
                (false, false) => self.notice_gap(missing, reason, Some(vec![region]), time),
                (true, _) if is_new => self.notice_gap(missing, GapReason::RegionMissed, Some(vec![region]), time),
                (true, _) => {}
            }
            if !all_known {
                self.narrow_gaps.push(gap);
            }
        }
    }

    /// What a region that has answered has on record as missing there, for a reason that holds for all.
    pub(super) fn missing_in(&mut self, region: usize, losses: &[(WalRange, GapReason)]) {
        for (range, reason) in losses {
            match self.narrow_gaps.iter_mut().find(|gap| gap.missing == *range) {
                Some(known) => known.lacking.push(region),
                None if *reason == GapReason::RegionMissed => {}
                None => self.narrow_gaps.push(NarrowGap { missing: *range, reason: *reason, lacking: vec![region] }),
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
        let named = regions.iter().flatten().filter_map(|region| Some(self.regions.get(*region)?.name.to_string()));
        let notice = Notice::Gap { record, time: time.as_unix_micros(), regions: named.collect() };
        self.jobs.push_back(Job::Notice(Arc::new(notice), regions));
    }

    /// Whether the server may still have the WAL of a load: it was not told that all of it is safe.
    pub(crate) fn can_be_received_again(&self, load: &Load) -> bool {
        let Some(range) = load.what.range() else { return true };
        let confirmed = self.marks.confirmed().map(|at| (at.timeline, at.lsn));
        confirmed.is_none_or(|confirmed| confirmed < (range.timeline, range.end))
    }

    /// What is to become of WAL that only the spool has, sealed under a key that is neither on record in the region nor kept.
    pub(crate) fn without_key(&self, region: usize, load: &Load) -> WithoutKey {
        let sequence = load.file.sequence;
        if !self.pending_objects.lacks(region, sequence) || self.pending_objects.is_superseded(sequence) {
            return WithoutKey::Needless;
        }
        match (&load.what, self.can_be_received_again(load)) {
            (What::Wal(_), true) if self.open.is_none() || self.pending_objects.others_lack(region, sequence) => {
                WithoutKey::Waits
            }
            (What::Wal(_), true) => WithoutKey::ReceiveAgain,
            // Histories are sent anew with each start.
            _ => WithoutKey::Lost,
        }
    }

    /// Other WAL is in its place.
    pub(crate) fn needless(&mut self, region: usize, load: &Load) {
        self.pending_objects.done(region, load.file.sequence);
    }

    /// Neither memory nor spool nor the server can give an object any more: the region will never get it.
    pub(crate) fn lost(&mut self, region: usize, load: &Load, time: UtcTime) {
        self.pending_objects.done(region, load.file.sequence);
        if let Some(range) = load.what.range().filter(|range| !self.gets(region, *range)) {
            self.notice_gap(range, GapReason::RegionMissed, Some(vec![region]), time);
        }
    }
}

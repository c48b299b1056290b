//! The state: where received bytes, sealed objects and answers of regions meet. Everything that the shipper knows, behind one
//! lock; nothing here waits. It changes through one method for each event, and its parts are private to it.

pub(crate) mod regions;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_repository::format::layout::{WalForm, WalRange};
use lifeboat_repository::log::records::{GapReason, GapScope, WalGapRecord};
use lifeboat_repository::wal::{PieceSize, WalObject};
use lifeboat_vocabulary::{ByteCount, Lsn, RegionName, SegmentSize, TimelineId, UtcTime, WalPosition};
use tokio::time::Instant;

use crate::wal::ship::marks::{Kept, Marks};
use crate::wal::ship::memory::Memory;
use crate::wal::ship::notice::Notice;
use crate::wal::ship::pending::{Load, PendingObjects, SpoolWork, What};
use crate::wal::ship::piece::{Cut, CutPolicy, Moment, OpenPiece};
use crate::wal::ship::positions::{Positions, RegionPosition, ShipError};
use crate::wal::ship::uploader_state::UploaderState;

/// Something to seal.
#[derive(Clone, Debug)]
pub(crate) enum Raw {
    /// WAL.
    Cut(Cut),
    /// A timeline's history.
    History(TimelineId, Bytes),
}

/// Something that the sealing task has to do, in order.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    /// To be sealed for all regions.
    Seal(Raw),
    /// Something for the logs of these regions, or of all.
    Notice(Arc<Notice>, Option<Vec<usize>>),
}

/// What came before the first `begin`, which tells the size of segments.
#[derive(Debug)]
enum Early {
    History(TimelineId, Bytes),
    Gap(WalRange, GapReason),
}

/// What became of bytes that were offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Yes,
    /// There is no room just now.
    NoRoom,
}

/// What a region was found to have.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// It has every byte before this.
    pub(crate) durable: Option<WalPosition>,
    /// All that was found from there on, and before it since the last head.
    pub(crate) objects: Vec<WalObject>,
    /// Missing WAL that is on record there.
    pub(crate) gaps: Vec<WalRange>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Raw and sealed bytes in memory.
    pub(crate) memory: u64,
    pub(crate) wal_quorum: usize,
}

pub(crate) struct ShipState {
    bounds: Bounds,
    policy: CutPolicy,
    /// Counts what the sealed bodies take.
    pub(crate) memory: Arc<Memory>,
    marks: Marks,
    pending_objects: PendingObjects,
    regions: Vec<UploaderState>,
    open: Option<OpenPiece>,
    jobs: VecDeque<Job>,
    job_bytes: u64,
    /// Cut and not yet where they have to be.
    slices: Vec<WalRange>,
    /// Missing WAL that was put on record since the start.
    gaps: Kept,
    early: Vec<Early>,
    /// The key that is in use.
    epoch: Option<Arc<Notice>>,
    /// Where the oldest key begins that some region has not heard of: an empty region is owed everything from there on.
    owed: Option<WalPosition>,
}

impl ShipState {
    pub(crate) fn new(names: Vec<RegionName>, bounds: Bounds, policy: CutPolicy) -> Self {
        Self {
            bounds,
            policy,
            memory: Arc::default(),
            marks: Marks::new(names.len(), bounds.wal_quorum),
            pending_objects: PendingObjects::new(names.len()),
            regions: names.into_iter().map(UploaderState::new).collect(),
            open: None,
            jobs: VecDeque::new(),
            job_bytes: 0,
            slices: Vec::new(),
            gaps: Kept::new(),
            early: Vec::new(),
            epoch: None,
            owed: None,
        }
    }

    /// Something lay in the spool.
    pub(crate) fn reloaded(&mut self, what: What, file: crate::wal::ship::spool::SpoolFile, now: Instant) {
        if let Some(range) = what.range() {
            self.marks.found(start_of(range));
            self.marks.spool(range);
        }
        if let What::Notice(notice) = &what
            && let Notice::Epoch { record, .. } = &**notice
        {
            self.owed = self.owed.or(Some(WalPosition { timeline: record.timeline, lsn: record.start }));
        }
        self.pending_objects.reload(what, file, now);
    }

    /// The next bytes are those at `at`.
    pub(crate) fn begin(&mut self, at: WalPosition, segment: SegmentSize, time: UtcTime) -> Result<(), ShipError> {
        let mut hole = None;
        match &mut self.open {
            Some(open) if open.timeline() > at.timeline => {
                return Err(ShipError::EarlierTimeline { current: open.timeline(), at });
            }
            Some(open) if open.timeline() == at.timeline => {
                let before = open.received();
                let rest = open.begin_again(at, segment)?;
                if before < at.lsn {
                    hole = Some(WalRange { timeline: at.timeline, start: before, end: at.lsn });
                }
                self.marks.begin(at);
                self.marks.receive(at.lsn);
                rest.into_iter().for_each(|cut| self.cut(cut));
            }
            _ => {
                // Refused before anything has changed.
                OpenPiece::begin(at, segment, at.lsn, self.policy)?;
                let rest = self.open.as_mut().and_then(OpenPiece::rest);
                rest.into_iter().for_each(|cut| self.cut(cut));
                self.marks.begin(at);
                let lowest = self.marks.lowest_safe().filter(|lowest| lowest.timeline == at.timeline);
                let cut_from = lowest.map_or(at.lsn, |lowest| lowest.lsn);
                self.open = Some(OpenPiece::begin(at, segment, cut_from, self.policy)?);
                for early in std::mem::take(&mut self.early) {
                    match early {
                        Early::History(timeline, content) => self.history(timeline, content),
                        Early::Gap(missing, reason) => self.gap(missing, reason, time),
                    }
                }
            }
        }
        if let Some(hole) = hole.filter(|hole| !self.is_on_record(*hole)) {
            tracing::warn!(timeline = %hole.timeline, from = %hole.start, to = %hole.end, "WAL goes on behind a hole");
            self.gap(hole, GapReason::Other, time);
        }
        (0..self.regions.len()).for_each(|region| self.record_holes(region, time));
        Ok(())
    }

    fn is_on_record(&self, range: WalRange) -> bool {
        self.gaps.get(&range.timeline).is_some_and(|gaps| gaps.covers(range.into()))
    }

    /// What a region misses for ever is put on record there.
    fn record_holes(&mut self, region: usize, time: UtcTime) {
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
        let end = Lsn::from_bytes(missing.end.as_bytes() / segment.as_bytes() * segment.as_bytes());
        let is_open = missing.end <= missing.start;
        let missing = if is_open { missing } else { WalRange { end: end.unwrap_or(missing.start), ..missing } };
        if !is_open && missing.is_empty() {
            // The segment comes again from its start: nothing is missing.
            return;
        }
        let lacking: Vec<_> = (0..self.regions.len()).filter(|&region| !self.marks.holds(region, missing)).collect();
        self.gaps.entry(missing.timeline).or_default().add(missing.into());
        if lacking.len() == self.regions.len() || is_open {
            self.notice_gap(missing, reason, None, time);
        } else if !lacking.is_empty() {
            self.notice_gap(missing, GapReason::RegionMissed, Some(lacking), time);
        }
    }

    /// Puts a gap on record in `regions`, or in all of them.
    fn notice_gap(&mut self, missing: WalRange, reason: GapReason, regions: Option<Vec<usize>>, time: UtcTime) {
        let WalRange { timeline, start, end } = missing;
        let to = (end > start).then_some(end);
        let scope = if regions.is_some() { GapScope::Region } else { GapScope::Everywhere };
        let record = WalGapRecord { timeline, from: start, to, reason, scope };
        self.jobs.push_back(Job::Notice(Arc::new(Notice::Gap { record, time: time.as_unix_micros() }), regions));
    }

    /// A timeline's history, to be stored before any WAL that comes after this call.
    pub(crate) fn history(&mut self, timeline: TimelineId, content: Bytes) {
        if self.open.is_some() {
            self.jobs.push_back(Job::Seal(Raw::History(timeline, content)));
        } else {
            self.early.push(Early::History(timeline, content));
        }
    }

    /// Takes bytes, if there is room.
    pub(crate) fn take(&mut self, at: WalPosition, bytes: &[u8], now: Instant) -> Result<Taken, ShipError> {
        let open = self.open.as_ref().ok_or(ShipError::NotBegun)?;
        if open.timeline() != at.timeline {
            return Err(ShipError::Hole { expected: open.received(), found: at });
        }
        let wanted = open.kept_bytes() + self.job_bytes + bytes.len() as u64;
        let too_much = || (wanted + self.memory.used()).saturating_sub(self.bounds.memory);
        let excess = too_much();
        if excess > 0 {
            self.pending_objects.free_memory(excess);
            if (wanted + self.memory.used()) > self.bounds.memory {
                return Ok(Taken::NoRoom);
            }
        }
        let moment = self.moment(now);
        let Some(open) = self.open.as_mut() else { return Err(ShipError::NotBegun) };
        let cuts = open.append(at.lsn, bytes, moment)?;
        self.marks.receive(open.received());
        cuts.into_iter().for_each(|cut| self.cut(cut));
        self.tick(now);
        Ok(Taken::Yes)
    }

    fn moment(&mut self, now: Instant) -> Moment {
        Moment { now, slices_in_flight: self.slices_in_flight() }
    }

    /// Slices that were cut and have not returned: not in as many regions as the quorum asks for, of those that take
    /// things as they are made. Regions that do not are not waited for.
    fn slices_in_flight(&mut self) -> usize {
        let prompt = (0..self.regions.len()).filter(|&region| self.is_prompt(region)).count();
        let needed = prompt.min(self.bounds.wal_quorum);
        let open = self.open.as_ref().map(|open| (open.timeline(), open.start()));
        let marks = &self.marks;
        // What lies before the open piece goes in its piece.
        self.slices.retain(|slice| {
            open.is_some_and(|(timeline, start)| slice.timeline == timeline && slice.start >= start)
                && marks.holders(*slice) < needed
        });
        self.slices.len()
    }

    fn is_prompt(&self, region: usize) -> bool {
        let lacking = self.pending_objects.lacking(region);
        self.regions.get(region).is_some_and(|uploader_state| uploader_state.is_prompt(lacking, Instant::now()))
    }

    fn cut(&mut self, cut: Cut) {
        let object = WalObject { form: cut.form, range: cut.range };
        if self.pending_objects.is_everywhere(&object) {
            self.marks.seal(cut.range);
            return;
        }
        if cut.form == WalForm::Slice {
            self.slices.push(cut.range);
        }
        self.job_bytes += cut.bytes.len() as u64;
        self.jobs.push_back(Job::Seal(Raw::Cut(cut)));
    }

    /// Cuts what is due.
    pub(crate) fn tick(&mut self, now: Instant) {
        let moment = self.moment(now);
        let cut = self.open.as_mut().and_then(|open| open.decide(moment));
        cut.into_iter().for_each(|cut| self.cut(cut));
    }

    /// When [`Self::tick`] may have something to do.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        self.open.as_ref().and_then(OpenPiece::next_decision)
    }

    /// Cuts everything now.
    pub(crate) fn flush(&mut self, now: Instant) {
        if let Some(open) = &mut self.open {
            open.wish();
        }
        self.tick(now);
    }

    pub(crate) fn next_job(&mut self) -> Option<Job> {
        self.jobs.pop_front()
    }

    /// The size of segments, once it is known.
    pub(crate) fn segment(&self) -> Option<SegmentSize> {
        self.open.as_ref().map(OpenPiece::segment)
    }

    /// Where WAL is received, for a key that is needed before any was cut.
    pub(crate) fn place(&self) -> Option<WalPosition> {
        self.open.as_ref().map(|open| WalPosition { timeline: open.timeline(), lsn: open.start() })
    }

    /// Neither memory nor spool can give an object any more: the region will never get it.
    pub(crate) fn lost(&mut self, region: usize, load: &Load, time: UtcTime) {
        self.pending_objects.done(region, load.file.sequence);
        if let Some(range) = load.what.range().filter(|range| !self.marks.holds(region, *range)) {
            self.notice_gap(range, GapReason::RegionMissed, Some(vec![region]), time);
        }
    }

    /// What the spool has to do next.
    pub(crate) fn spool_work(&mut self, now: Instant) -> SpoolWork {
        let behind: Vec<_> = (0..self.regions.len()).filter(|&region| !self.is_prompt(region)).collect();
        self.pending_objects.spool_work(now, &behind)
    }

    /// A load survives a crash now.
    pub(crate) fn spooled(&mut self, load: &Load) {
        if let Some(range) = load.what.range() {
            self.marks.spool(range);
        }
        self.pending_objects.spooled(load.file.sequence);
    }

    /// Up to where a region has everything, and whole pieces as one object each.
    pub(crate) fn head(&self, region: usize) -> Option<WalPosition> {
        let durable = self.marks.durable(region)?;
        let queued = self.jobs.iter().filter_map(|job| match job {
            Job::Seal(Raw::Cut(cut)) if cut.form == WalForm::Piece && cut.range.timeline == durable.timeline => {
                Some(cut.range.start)
            }
            _ => None,
        });
        let lacking = self.pending_objects.first_piece_lacking(region, durable.timeline);
        let earlier = self.pieces_awaited(region, durable);
        let lsn = queued.chain(lacking).chain(earlier).min().map_or(durable.lsn, |piece| piece.min(durable.lsn));
        Some(WalPosition { lsn, ..durable })
    }

    /// From where on a region lacks whole pieces since before the start, as long as the server may still send them.
    fn pieces_awaited(&self, region: usize, durable: WalPosition) -> Option<Lsn> {
        let at = self.regions.get(region)?.pieces.filter(|at| at.timeline == durable.timeline)?;
        let Some(received) = self.marks.received_of(at.timeline) else { return Some(at.lsn) };
        if received.start > at.lsn || received.end >= durable.lsn {
            return None;
        }
        let open = self.segment().map_or(PieceSize::LARGEST, PieceSize::of).start_of(received.end);
        Lsn::from_bytes(open).map(|open| open.max(at.lsn))
    }

    /// Whether everything that was received is sealed, in every prompt region, and safe for the others.
    pub(crate) fn is_settled(&self) -> bool {
        let received = self.marks.timeline().zip(self.marks.received());
        let safe = self.marks.lowest_safe().map(|safe| (safe.timeline, safe.lsn));
        self.jobs.is_empty()
            && self.job_bytes == 0
            && safe >= received
            && (0..self.regions.len()).all(|region| !self.is_prompt(region) || self.pending_objects.is_complete(region))
    }

    /// How far everything has come.
    pub(crate) fn positions(&self, spool_bytes: u64, now: Instant) -> Positions {
        let regions = self.regions.iter().enumerate().map(|(region, uploader_state)| RegionPosition {
            region: uploader_state.name.clone(),
            durable: self.marks.durable(region),
            state: uploader_state.state(self.pending_objects.lacking(region), now),
        });
        Positions {
            timeline: self.marks.timeline(),
            received: self.marks.received(),
            sealed: self.marks.sealed(),
            spooled: self.marks.spooled(),
            quorum: self.marks.quorum(),
            confirmed: self.marks.confirmed(),
            spool_bytes: ByteCount::from_bytes(spool_bytes),
            regions: regions.collect(),
        }
    }
}

fn start_of(range: WalRange) -> WalPosition {
    WalPosition { timeline: range.timeline, lsn: range.start }
}

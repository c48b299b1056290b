//! The state: where received bytes, sealed objects and answers of regions meet. Everything that the shipper knows, behind one
//! lock; nothing here waits. It changes through one method for each event, and its parts are private to it.

pub(crate) mod found_wal;
pub(crate) mod gaps;
pub(crate) mod narrow_gap;
pub(crate) mod records;
pub(crate) mod regions;
mod spooled;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_repository::format::ids::EpochId;
use lifeboat_repository::format::layout::{WalForm, WalRange};
use lifeboat_repository::log::records::GapReason;
use lifeboat_repository::wal::{PieceSize, WalObject};
use lifeboat_stores::SealedBody;
use lifeboat_vocabulary::{ByteCount, Lsn, RecordMark, RegionName, SegmentSize, TimelineId, UtcTime, WalPosition};
use tokio::time::Instant;

use crate::wal::ship::marks::{Kept, Marks};
use crate::wal::ship::memory::Memory;
use crate::wal::ship::notice::Notice;
use crate::wal::ship::pending::{Load, PendingObjects, SpoolWork};
use crate::wal::ship::piece::{Cut, CutPolicy, Moment, OpenPiece};
use crate::wal::ship::positions::{Positions, RegionPosition, ShipError};
use crate::wal::ship::state::found_wal::FoundWal;
use crate::wal::ship::state::narrow_gap::NarrowGap;
use crate::wal::ship::state::records::Records;
use crate::wal::ship::uploader_state::UploaderState;

/// Something to seal.
#[derive(Clone, Debug)]
pub(crate) enum Raw {
    /// WAL, and the last whole record in it or before it.
    Cut(Cut, Option<RecordMark>),
    /// A timeline's history.
    History(TimelineId, Bytes),
}

/// Something that the sealing task has to do, in order.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    /// To be sealed for all regions.
    Seal(Raw),
    /// To be opened and sealed again under other names, for one region.
    SealAgain { object: WalObject, load: Load, body: SealedBody, region: usize },
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
    /// Missing WAL that is on record there as missing everywhere.
    pub(crate) gaps: Vec<WalRange>,
    /// Missing WAL that is on record there as missing in this region, and why.
    pub(crate) losses: Vec<(WalRange, GapReason)>,
    /// The last whole record before each end of WAL that is signed there.
    pub(crate) records: Vec<(WalPosition, RecordMark)>,
    /// Checksums of the WAL in `objects`.
    pub(crate) checksums: Vec<(WalRange, u32)>,
    /// Records before this were given up by a person, because the server has lost them.
    pub(crate) given_up: Option<WalPosition>,
    /// Names of WAL that are taken there by what does not count.
    pub(crate) taken: Vec<WalObject>,
    /// What lies there under names of WAL and is not ours.
    pub(crate) unverified: Option<String>,
    /// Whether keys were revoked there.
    pub(crate) has_revoked_keys: bool,
}

/// WAL as the receiver hands it on.
#[derive(Clone, Debug)]
pub struct CheckedWal {
    /// The bytes.
    pub bytes: Bytes,
    /// The last whole record that ends in these bytes or before them; `None` if nobody has looked.
    pub last_record: Option<RecordMark>,
}

impl From<Bytes> for CheckedWal {
    /// WAL in whose records nobody has looked.
    fn from(bytes: Bytes) -> Self {
        Self { bytes, last_record: None }
    }
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
    /// Missing WAL that no region has which could be asked.
    narrow_gaps: Vec<NarrowGap>,
    wants_new_key: bool,
    /// Keys whose objects this run can open.
    own_keys: Vec<EpochId>,
    /// Where the oldest key begins that some region has not heard of: an empty region is owed everything from there on.
    owed: Option<WalPosition>,
    /// The last whole record that was received.
    last_record: Option<RecordMark>,
    records: Records,
    found_wal: FoundWal,
    /// Records of regions that have answered, to be looked for at the server.
    found_records: Vec<RecordMark>,
    /// Whether a region names keys of writers that were revoked: what they have signed counts for nothing any more.
    has_revoked_keys: bool,
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
            narrow_gaps: Vec::new(),
            wants_new_key: false,
            own_keys: Vec::new(),
            owed: None,
            last_record: None,
            records: Records::default(),
            found_wal: FoundWal::default(),
            found_records: Vec::new(),
            has_revoked_keys: false,
        }
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
                let (gaps, histories): (Vec<_>, Vec<_>) =
                    std::mem::take(&mut self.early).into_iter().partition(|early| matches!(early, Early::Gap(..)));
                // Before another timeline begins: from then on everybody has passed the end of the one before.
                for early in gaps {
                    if let Early::Gap(missing, reason) = early {
                        self.gap_in(segment, missing, reason, time);
                    }
                }
                self.marks.begin(at);
                let lowest = self.marks.lowest_safe().filter(|lowest| lowest.timeline == at.timeline);
                let cut_from = lowest.map_or(at.lsn, |lowest| lowest.lsn);
                self.open = Some(OpenPiece::begin(at, segment, cut_from, self.policy)?);
                for early in histories {
                    if let Early::History(timeline, content) = early {
                        self.history(timeline, content);
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

    /// A timeline's history, to be stored before any WAL that comes after this call.
    pub(crate) fn history(&mut self, timeline: TimelineId, content: Bytes) {
        if self.open.is_some() {
            self.jobs.push_back(Job::Seal(Raw::History(timeline, content)));
        } else {
            self.early.push(Early::History(timeline, content));
        }
    }

    /// Takes bytes, if there is room.
    pub(crate) fn take(&mut self, at: WalPosition, wal: &CheckedWal, now: Instant) -> Result<Taken, ShipError> {
        let CheckedWal { bytes, last_record } = wal;
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
        self.compare_with_found(at, bytes)?;
        let Some(open) = self.open.as_mut() else { return Err(ShipError::NotBegun) };
        let cuts = open.append(at.lsn, bytes, moment)?;
        self.marks.receive(open.received());
        self.last_record = last_record.or(self.last_record);
        cuts.into_iter().for_each(|cut| self.cut(cut));
        self.tick(now);
        Ok(Taken::Yes)
    }

    /// What regions held before must be what the server sends now: otherwise its WAL was changed, and a piece would take
    /// the place of other bytes than it holds.
    fn compare_with_found(&mut self, at: WalPosition, bytes: &[u8]) -> Result<(), ShipError> {
        let Some(open) = self.open.as_ref() else { return Err(ShipError::NotBegun) };
        let again = open.received().bytes_since(at.lsn).map_or(0, ByteCount::as_bytes);
        let fresh = usize::try_from(again).ok().and_then(|again| bytes.get(again..)).unwrap_or_default();
        let start = open.received();
        let end = start.advanced_by(ByteCount::of(fresh)).unwrap_or(start);
        let due = self.found_wal.ending_in(WalRange { timeline: at.timeline, start, end });
        let differs = |(range, crc): &&(WalRange, u32)| open.crc_with(*range, fresh).is_some_and(|found| found != *crc);
        match due.iter().find(differs) {
            None => Ok(()),
            Some(&(WalRange { start: from, end: to, .. }, _)) => {
                // Nothing of it is taken, so it is compared again when it comes again.
                due.iter().for_each(|(range, crc)| self.found_wal.add(*range, *crc));
                Err(ShipError::Changed { timeline: at.timeline, from, to })
            }
        }
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
        let before_end = |record: &RecordMark| record.timeline == cut.range.timeline && record.end <= cut.range.end;
        let last_record = self.last_record.filter(before_end);
        if let Some(record) = last_record {
            self.records.add(WalPosition { timeline: cut.range.timeline, lsn: cut.range.end }, record);
        }
        self.jobs.push_back(Job::Seal(Raw::Cut(cut, last_record)));
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

    /// What the spool has to do next.
    pub(crate) fn spool_work(&mut self, now: Instant) -> SpoolWork {
        let behind: Vec<_> = (0..self.regions.len()).filter(|&region| !self.is_prompt(region)).collect();
        self.pending_objects.spool_work(now, &behind)
    }

    /// Up to where a region has everything, and whole pieces as one object each.
    pub(crate) fn head(&self, region: usize) -> Option<WalPosition> {
        let durable = self.marks.durable(region)?;
        let queued = self.jobs.iter().filter_map(|job| match job {
            Job::Seal(Raw::Cut(cut, _)) if cut.form == WalForm::Piece && cut.range.timeline == durable.timeline => {
                Some(cut.range.start)
            }
            _ => None,
        });
        let lacking = self.pending_objects.first_piece_lacking(region, durable.timeline);
        let earlier = self.pieces_awaited(region, durable);
        let lsn = queued.chain(lacking).chain(earlier).min().map_or(durable.lsn, |piece| piece.min(durable.lsn));
        Some(WalPosition { lsn, ..durable })
    }

    /// The last whole record before a position, if it is known.
    pub(crate) fn record_before(&self, at: WalPosition) -> Option<RecordMark> {
        self.records.before(at)
    }

    /// The last whole record before `end`, if an object ends there whose writer has said so.
    pub(crate) fn record_at(&self, end: WalPosition) -> Option<RecordMark> {
        self.records.at(end)
    }

    /// The last whole record that was received.
    pub(crate) fn last_record(&self) -> Option<RecordMark> {
        self.last_record
    }

    /// The records that the server must have, by what regions and spool hold.
    pub(crate) fn found_records(&self) -> &[RecordMark] {
        &self.found_records
    }

    /// Whether a region that has answered names keys that were revoked.
    pub(crate) fn has_revoked_keys(&self) -> bool {
        self.has_revoked_keys
    }

    /// There is WAL up to `end` in a region or in the spool, whose last record is this.
    pub(crate) fn found_record(&mut self, end: WalPosition, record: RecordMark) {
        self.records.add(end, record);
    }

    /// The server must have this record.
    pub(crate) fn must_have(&mut self, record: RecordMark) {
        if !self.found_records.contains(&record) {
            self.found_records.push(record);
        }
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
            unverified: uploader_state.unverified_object(),
            contested: uploader_state.contested.clone().filter(|_| uploader_state.holds_lease()),
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

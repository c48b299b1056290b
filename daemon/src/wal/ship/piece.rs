//! The open piece: bytes come in, decisions come out which of them are sealed as what. Pure; the clock is an argument.
//!
//! A slice is cut when its oldest byte has the age of the flush interval, when it is 1 MiB long, when somebody asks, and
//! in synchronous mode at once; but never while [`SLICES_IN_FLIGHT`] slices are on their way. So under load everything
//! that gathers meanwhile goes together, and at full speed only whole pieces go: no byte goes twice then.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_config::CommitMode;
use lifeboat_repository::format::layout::{WalForm, WalRange};
use lifeboat_repository::wal::PieceSize;
use lifeboat_vocabulary::{Lsn, SegmentSize, TimelineId, WalPosition};
use tokio::time::Instant;

use crate::wal::ship::positions::ShipError;

/// A slice is cut at this length, however young it is.
pub(crate) const SLICE_BYTES: u64 = 1 << 20;
/// Slices that may be on their way before the next one waits.
pub(crate) const SLICES_IN_FLIGHT: usize = 3;

/// When slices are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CutPolicy {
    pub(crate) mode: CommitMode,
    pub(crate) flush_interval: Duration,
}

/// Bytes that shall become an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) form: WalForm,
    pub(crate) range: WalRange,
    pub(crate) bytes: Bytes,
}

/// What the caller knows at the moment of a decision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) now: Instant,
    /// Slices that were cut and are not where they have to be yet.
    pub(crate) slices_in_flight: usize,
}

/// Whether somebody asked for a slice now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    None,
    Now,
}

/// Bytes that come again after a reconnect.
#[derive(Clone, Copy, Debug)]
struct Again {
    /// The next one.
    at: Lsn,
    /// Of what came again of a piece that was completed before.
    crc: u32,
}

/// The WAL of one timeline from its beginning to where it is received.
#[derive(Debug)]
pub(crate) struct OpenPiece {
    policy: CutPolicy,
    timeline: TimelineId,
    segment: SegmentSize,
    /// After the last byte.
    received: Lsn,
    /// The bytes of the open piece from `start` to `received`; `start` is the start of a piece.
    raw: Vec<u8>,
    start: Lsn,
    /// Before this nothing has to be cut any more.
    cut: Lsn,
    /// When the first byte behind `cut` came.
    waiting_since: Option<Instant>,
    wish: Wish,
    again: Option<Again>,
    /// CRC32C of the pieces that were completed in this segment and the one before, by their starts.
    crcs: BTreeMap<Lsn, u32>,
}

impl OpenPiece {
    /// The next byte is the one at `at`. Bytes before `cut_from` are not cut as slices, because nobody lacks them.
    ///
    /// # Errors
    /// [`ShipError::NotAligned`] if `at` is not the start of a segment.
    pub(crate) fn begin(
        at: WalPosition,
        segment: SegmentSize,
        cut_from: Lsn,
        policy: CutPolicy,
    ) -> Result<Self, ShipError> {
        aligned(at, segment)?;
        Ok(Self {
            policy,
            timeline: at.timeline,
            segment,
            received: at.lsn,
            raw: Vec::new(),
            start: at.lsn,
            cut: cut_from.max(at.lsn),
            waiting_since: None,
            wish: Wish::None,
            again: None,
            crcs: BTreeMap::new(),
        })
    }

    pub(crate) fn timeline(&self) -> TimelineId {
        self.timeline
    }

    pub(crate) fn segment(&self) -> SegmentSize {
        self.segment
    }

    pub(crate) fn received(&self) -> Lsn {
        self.received
    }

    /// The piece that is open: what lies before it is complete.
    pub(crate) fn start(&self) -> Lsn {
        self.start
    }

    /// Bytes that are kept in memory.
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.raw.len() as u64
    }

    /// The same timeline begins again at `at`, after a reconnect. What was received is compared when it comes again; behind
    /// it there is a hole, and what was received before it is cut as it is.
    ///
    /// # Errors
    /// [`ShipError`], by meaning; nothing has changed then.
    pub(crate) fn begin_again(&mut self, at: WalPosition, segment: SegmentSize) -> Result<Option<Cut>, ShipError> {
        if segment != self.segment {
            return Err(ShipError::SegmentSize { before: self.segment.as_bytes(), now: segment.as_bytes() });
        }
        aligned(at, segment)?;
        if at.lsn > self.received {
            let rest = self.rest();
            let begun = Self::begin(at, segment, at.lsn, self.policy)?;
            *self = begun;
            return Ok(rest);
        }
        let oldest = self.crcs.first_key_value().map_or(self.start, |(&start, _)| start);
        if at.lsn < oldest {
            return Err(ShipError::TooFarBack { at, oldest });
        }
        self.again = (at.lsn < self.received).then_some(Again { at: at.lsn, crc: 0 });
        Ok(None)
    }

    /// Takes bytes, and says what is to be sealed of them: complete pieces, and perhaps the slice before.
    ///
    /// # Errors
    /// [`ShipError::Hole`] or [`ShipError::Changed`]; nothing was taken then.
    pub(crate) fn append(&mut self, at: Lsn, bytes: &[u8], moment: Moment) -> Result<Vec<Cut>, ShipError> {
        let expected = self.again.map_or(self.received, |again| again.at);
        if at != expected {
            let found = WalPosition { timeline: self.timeline, lsn: at };
            return Err(ShipError::Hole { expected, found });
        }
        let mut rest = self.compare(bytes)?;
        let mut cuts = Vec::new();
        while !rest.is_empty() {
            let end = self.end();
            let room = usize::try_from(end.as_bytes() - self.received.as_bytes()).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(rest.len().min(room));
            rest = later;
            if self.raw.is_empty() {
                let size = PieceSize::of(self.segment).as_bytes();
                self.raw.reserve_exact(usize::try_from(size).unwrap_or(0));
            }
            self.raw.extend_from_slice(now);
            self.received = after(self.received, now.len());
            if self.received > self.cut {
                self.waiting_since = self.waiting_since.or(Some(moment.now));
            }
            if self.received == end {
                self.complete(moment, &mut cuts);
            }
        }
        Ok(cuts)
    }

    /// Compares what comes again, and returns what is new.
    fn compare<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], ShipError> {
        let mut rest = bytes;
        while let Some(Again { at, crc }) = self.again {
            let size = PieceSize::of(self.segment);
            let piece_end = if at >= self.start { self.received } else { piece_end(size, at) };
            let length = usize::try_from(piece_end.as_bytes() - at.as_bytes()).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(rest.len().min(length));
            let end = after(at, now.len());
            let changed = |from| ShipError::Changed { timeline: self.timeline, from, to: end };
            let mut next = Again { at: end, crc: 0 };
            if at >= self.start {
                let from = usize::try_from(at.as_bytes() - self.start.as_bytes()).unwrap_or(usize::MAX);
                if self.raw.get(from..from.saturating_add(now.len())) != Some(now) {
                    return Err(changed(at));
                }
            } else {
                next.crc = crc32c::crc32c_append(crc, now);
                if end == piece_end {
                    let start = Lsn::from_bytes(size.start_of(at)).unwrap_or(at);
                    if self.crcs.get(&start).is_some_and(|crc| *crc != next.crc) {
                        return Err(changed(start));
                    }
                    next.crc = 0;
                }
            }
            rest = later;
            self.again = (end < self.received).then_some(next);
            if rest.is_empty() {
                break;
            }
        }
        Ok(rest)
    }

    /// The checksum of WAL that ends within `fresh`, the bytes that come next; `None` if its first bytes are not here any
    /// more.
    pub(crate) fn crc_with(&self, range: WalRange, fresh: &[u8]) -> Option<u32> {
        let from = usize::try_from(range.start.as_bytes().checked_sub(self.start.as_bytes())?).ok()?;
        let here = self.raw.get(from.min(self.raw.len())..)?;
        let skip = from.saturating_sub(self.raw.len());
        let length = usize::try_from(range.end.as_bytes().checked_sub(self.received.as_bytes())?).ok()?;
        Some(crc32c::crc32c_append(crc32c::crc32c(here), fresh.get(skip..length)?))
    }

    fn end(&self) -> Lsn {
        piece_end(PieceSize::of(self.segment), self.start)
    }

    fn complete(&mut self, moment: Moment, cuts: &mut Vec<Cut>) {
        // A short rest goes ahead of the piece, because a commit may be waiting for it.
        let begun = self.cut > self.start && self.unsliced() <= SLICE_BYTES;
        if begun && moment.slices_in_flight < SLICES_IN_FLIGHT {
            cuts.extend(self.rest());
        }
        let range = WalRange { timeline: self.timeline, start: self.start, end: self.received };
        let bytes = Bytes::from(std::mem::take(&mut self.raw));
        self.crcs.insert(self.start, crc32c::crc32c(&bytes));
        cuts.push(Cut { form: WalForm::Piece, range, bytes });
        self.start = self.received;
        self.cut = self.cut.max(self.received);
        (self.waiting_since, self.wish) = (None, Wish::None);
        let segment = self.segment.as_bytes();
        let forget = (self.received.as_bytes() & !(segment - 1)).saturating_sub(segment);
        self.crcs.retain(|start, _| start.as_bytes() >= forget);
    }

    fn unsliced(&self) -> u64 {
        self.received.as_bytes().saturating_sub(self.cut.as_bytes())
    }

    /// Whether a slice is due.
    pub(crate) fn decide(&mut self, moment: Moment) -> Option<Cut> {
        let since = self.waiting_since.filter(|_| self.unsliced() > 0)?;
        let age = moment.now.saturating_duration_since(since);
        let due = self.policy.mode == CommitMode::Synchronous
            || age >= self.policy.flush_interval
            || self.unsliced() >= SLICE_BYTES;
        let free = moment.slices_in_flight < SLICES_IN_FLIGHT;
        if self.wish == Wish::Now || (due && free) { self.rest() } else { None }
    }

    /// When [`Self::decide`] has something to say by its clock alone.
    pub(crate) fn next_decision(&self) -> Option<Instant> {
        self.waiting_since.filter(|_| self.unsliced() > 0).map(|since| since + self.policy.flush_interval)
    }

    /// What there is now shall not wait.
    pub(crate) fn wish(&mut self) {
        if self.unsliced() > 0 {
            self.wish = Wish::Now;
        }
    }

    /// Everything that was not cut yet, as a slice.
    pub(crate) fn rest(&mut self) -> Option<Cut> {
        let from = usize::try_from(self.cut.as_bytes().checked_sub(self.start.as_bytes())?).ok()?;
        let bytes = self.raw.get(from..).filter(|bytes| !bytes.is_empty())?;
        let bytes = Bytes::copy_from_slice(bytes);
        let range = WalRange { timeline: self.timeline, start: self.cut, end: self.received };
        self.cut = self.received;
        (self.waiting_since, self.wish) = (None, Wish::None);
        Some(Cut { form: WalForm::Slice, range, bytes })
    }
}

fn aligned(at: WalPosition, segment: SegmentSize) -> Result<(), ShipError> {
    if at.lsn.as_bytes().is_multiple_of(segment.as_bytes()) { Ok(()) } else { Err(ShipError::NotAligned { at }) }
}

/// Positions past the end of the address space do not exist; PostgreSQL never gets there.
fn after(at: Lsn, length: usize) -> Lsn {
    Lsn::from_bytes(at.as_bytes().saturating_add(length as u64)).unwrap_or(at)
}

fn piece_end(size: PieceSize, at: Lsn) -> Lsn {
    Lsn::from_bytes(size.start_of(at).saturating_add(size.as_bytes())).unwrap_or(at)
}

#[cfg(test)]
mod tests;

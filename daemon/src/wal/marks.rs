//! How far the WAL has come: received, sealed, spooled, durable per region, in the quorum, confirmed. Pure.
//!
//! The laws, which the property tests beside this file check after every event:
//!
//! 1. A region's durable position is one before which it has *every* byte of the line, and it never moves back.
//! 2. The quorum's position is the k-th highest of the regions' durable positions.
//! 3. A region's safe position is one before which every byte is durable there or was fsynced to the spool.
//! 4. The confirmed position is at most the received one, at most the quorum's, and at most every region's safe position;
//!    on one timeline it never moves back.
//! 5. Positions of different timelines are never compared as numbers: the line is a sequence of *spans*, one per
//!    timeline in the order in which the server followed them, and a position is a place in a span. A region enters a
//!    span only when it has all of the span before.
//!
//! What is held is counted in bytes of WAL and not in objects: so a piece stands for its slices, slices of a process that
//! was killed count as well as ours, and a recorded gap counts like bytes that will never come.

use lifeboat_vocabulary::{Lsn, TimelineId, WalPosition};

use super::ranges::{RangeSet, Stretch};

/// Number of a span, from 0, in the order of the line.
pub(crate) type SpanId = usize;

/// A place on the line. Ordered by span first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) span: SpanId,
    pub(crate) lsn: Lsn,
}

/// Whether more of a timeline may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Open,
    /// The server left it; nothing behind this is needed any more.
    Ended(Lsn),
}

/// The part of the line that lies on one timeline.
#[derive(Clone, Debug)]
struct Span {
    timeline: TimelineId,
    /// Where a region that has all of the span before goes on.
    start: Lsn,
    /// Where this process began to receive.
    begun: Option<Lsn>,
    received: Option<Lsn>,
    sealed: Option<Lsn>,
    spooled: RangeSet,
    course: Course,
}

/// What counts on the way along the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Region,
    RegionAndSpool,
}

/// Whether a region has told what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Knowledge {
    #[default]
    Unknown,
    Known,
}

#[derive(Clone, Debug, Default)]
struct RegionMark {
    knowledge: Knowledge,
    /// What the region has of each span.
    held: Vec<RangeSet>,
    durable: Option<Place>,
    safe: Option<Place>,
}

impl RegionMark {
    fn held(&mut self, span: SpanId) -> &mut RangeSet {
        if self.held.len() <= span {
            self.held.resize_with(span + 1, RangeSet::default);
        }
        // Made just now, if it was not there.
        &mut self.held[span]
    }

    fn holds_anything(&self) -> bool {
        self.held.iter().any(|held| held.end().is_some())
    }
}

/// All marks of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Marks {
    quorum: usize,
    spans: Vec<Span>,
    current: Option<SpanId>,
    regions: Vec<RegionMark>,
}

impl Marks {
    /// Nothing is known yet. `quorum` is at least 1.
    pub(crate) fn new(regions: usize, quorum: usize) -> Self {
        let regions = vec![RegionMark::default(); regions];
        Self { quorum: quorum.max(1), spans: Vec::new(), current: None, regions }
    }

    /// The span of a timeline about which something was found before anything was received. Called in ascending order of
    /// timelines: a server never goes to a timeline with a lower number than the one it comes from.
    pub(crate) fn found(&mut self, timeline: TimelineId, start: Lsn) -> SpanId {
        match self.spans.iter().rposition(|span| span.timeline == timeline) {
            Some(known) => {
                if let Some(span) = self.spans.get_mut(known) {
                    span.start = span.start.min(start);
                }
                known
            }
            None => self.push(timeline, start),
        }
    }

    fn push(&mut self, timeline: TimelineId, start: Lsn) -> SpanId {
        let (begun, received, sealed) = (None, None, None);
        let spooled = RangeSet::default();
        self.spans.push(Span { timeline, start, begun, received, sealed, spooled, course: Course::Open });
        self.spans.len() - 1
    }

    /// The last span of a timeline.
    pub(crate) fn span_of(&self, timeline: TimelineId) -> Option<SpanId> {
        self.spans.iter().rposition(|span| span.timeline == timeline)
    }

    /// The span that is being received.
    pub(crate) fn current(&self) -> Option<SpanId> {
        self.current
    }

    /// After the last byte that was received of a span.
    pub(crate) fn received_of(&self, span: SpanId) -> Option<Lsn> {
        self.spans.get(span)?.received
    }

    /// A region answered: it has everything before `at`, or it has nothing at all and goes on where the line begins.
    pub(crate) fn enter(&mut self, region: usize, at: Option<WalPosition>) {
        let place = at.and_then(|at| Some(Place { span: self.span_of(at.timeline)?, lsn: at.lsn }));
        let place = place.or_else(|| self.spans.first().map(|span| Place { span: 0, lsn: span.start }));
        let Some(mark) = self.regions.get_mut(region) else { return };
        if let (Some(at), Some(place)) = (at, place)
            && let Some(span) = self.spans.get(place.span)
            && span.timeline == at.timeline
        {
            // The byte before the position is proof enough that it holds something.
            let start = Lsn::from_bytes(at.lsn.as_bytes().saturating_sub(1)).unwrap_or(at.lsn);
            mark.held(place.span).add(Stretch { start, end: at.lsn });
        }
        mark.knowledge = Knowledge::Known;
        mark.durable = mark.durable.max(place);
        mark.safe = mark.safe.max(place);
        self.advance(region);
    }

    /// The next bytes are those at `at`. A timeline other than the one before ends that one.
    pub(crate) fn begin(&mut self, at: WalPosition) -> SpanId {
        let from = self.current.unwrap_or(0);
        let known = self.spans.iter().enumerate().skip(from).find(|(_, span)| span.timeline == at.timeline);
        let span = match known {
            Some((span, _)) => span,
            None => self.push(at.timeline, at.lsn),
        };
        for earlier in 0..span {
            self.end_span(earlier);
        }
        if let Some(begun) = self.spans.get_mut(span).filter(|span| span.begun.is_none()) {
            begun.start = begun.start.min(at.lsn);
            begun.begun = Some(at.lsn);
            begun.received = Some(at.lsn);
        }
        self.current = Some(span);
        let here = Some(Place { span, lsn: at.lsn });
        for region in 0..self.regions.len() {
            if let Some(mark) = self.regions.get_mut(region) {
                mark.safe = mark.safe.or(here);
                if mark.knowledge == Knowledge::Known {
                    mark.durable = mark.durable.or(here);
                }
            }
            self.advance(region);
        }
        span
    }

    fn end_span(&mut self, span: SpanId) {
        let held = self.regions.iter().filter_map(|region| region.held.get(span).and_then(RangeSet::end)).max();
        let Some(ended) = self.spans.get_mut(span).filter(|span| span.course == Course::Open) else { return };
        let known = ended.received.or_else(|| held.max(ended.spooled.end()));
        ended.course = Course::Ended(known.unwrap_or(ended.start));
    }

    /// Bytes up to `end` of the current span were taken.
    pub(crate) fn receive(&mut self, end: Lsn) {
        if let Some(span) = self.current.and_then(|span| self.spans.get_mut(span)) {
            span.received = span.received.max(Some(end));
        }
    }

    /// Bytes up to `end` of a span are in sealed objects.
    pub(crate) fn seal(&mut self, span: SpanId, end: Lsn) {
        if let Some(span) = self.spans.get_mut(span) {
            span.sealed = span.sealed.max(Some(end));
        }
    }

    /// These bytes were fsynced to the spool for all regions that lack them. They may be removed there as soon as every
    /// region has them, or a larger object with the same bytes is in the spool.
    pub(crate) fn spool(&mut self, span: SpanId, bytes: Stretch) {
        if let Some(span) = self.spans.get_mut(span) {
            span.spooled.add(bytes);
        }
        (0..self.regions.len()).for_each(|region| self.advance(region));
    }

    /// A region has these bytes, or it is on record there that it never will.
    pub(crate) fn hold(&mut self, region: usize, span: SpanId, bytes: Stretch) {
        let Some(mark) = self.regions.get_mut(region) else { return };
        mark.held(span).add(bytes);
        self.advance(region);
    }

    fn advance(&mut self, region: usize) {
        let Some(mark) = self.regions.get(region) else { return };
        let durable = mark.durable.map(|place| self.reached(place, mark, Over::Region));
        let safe = mark.safe.max(durable).map(|place| self.reached(place, mark, Over::RegionAndSpool));
        if let Some(mark) = self.regions.get_mut(region) {
            mark.durable = durable;
            mark.safe = safe;
        }
    }

    /// How far one comes from `place` without a hole.
    fn reached(&self, mut place: Place, mark: &RegionMark, over: Over) -> Place {
        while let Some(span) = self.spans.get(place.span) {
            let held = mark.held.get(place.span).map_or(place.lsn, |held| held.end_from(place.lsn));
            let spooled = match over {
                Over::Region => place.lsn,
                Over::RegionAndSpool => span.spooled.end_from(place.lsn),
            };
            let further = held.max(spooled);
            if further > place.lsn {
                place.lsn = further;
                continue;
            }
            match (span.course, self.spans.get(place.span + 1)) {
                (Course::Ended(end), Some(next)) if place.lsn >= end => {
                    place = Place { span: place.span + 1, lsn: next.start };
                }
                _ => break,
            }
        }
        place
    }

    /// Whether a region has all of these bytes.
    pub(crate) fn holds(&self, region: usize, span: SpanId, bytes: Stretch) -> bool {
        let Some(mark) = self.regions.get(region) else { return false };
        let before = mark.durable.is_some_and(|at| at >= Place { span, lsn: bytes.end });
        before || mark.held.get(span).is_some_and(|held| held.covers(bytes))
    }

    /// What a region lacks on its way to the bytes that this process receives, and that nobody keeps for it. `kept` is what
    /// there is in objects, span by span.
    pub(crate) fn holes(&self, region: usize, kept: &[RangeSet]) -> Vec<(SpanId, Stretch)> {
        let (Some(mark), Some(current)) = (self.regions.get(region), self.current) else { return Vec::new() };
        let Some(from) = mark.durable else { return Vec::new() };
        let mut holes = Vec::new();
        for (id, span) in self.spans.iter().enumerate().take(current + 1).skip(from.span) {
            let start = if id == from.span { from.lsn } else { span.start };
            let mut known = mark.held.get(id).cloned().unwrap_or_default();
            if let Some(kept) = kept.get(id) {
                known.add_all(kept);
            }
            if let (Some(start), Some(end)) = (span.begun, span.received) {
                known.add(Stretch { start, end });
            }
            let end = match (span.course, span.begun) {
                (Course::Ended(end), _) => end,
                (Course::Open, Some(begun)) => begun,
                (Course::Open, None) => continue,
            };
            holes.extend(known.missing(Stretch { start, end }).into_iter().map(|hole| (id, hole)));
        }
        holes
    }

    /// The place from which on not every region has the bytes, as far as regions are known: nothing before it has to be
    /// cut for anybody. `None` if nothing is known.
    pub(crate) fn lowest_safe(&self) -> Option<Place> {
        self.regions.iter().map(|region| region.safe).min().flatten()
    }

    fn position(&self, place: Place) -> Option<WalPosition> {
        self.spans.get(place.span).map(|span| WalPosition { timeline: span.timeline, lsn: place.lsn })
    }

    /// The position of a place.
    pub(crate) fn timeline_of(&self, span: SpanId) -> Option<TimelineId> {
        self.spans.get(span).map(|span| span.timeline)
    }

    /// The timeline that is being received.
    pub(crate) fn timeline(&self) -> Option<TimelineId> {
        self.current.and_then(|span| self.timeline_of(span))
    }

    /// After the last byte that was received on the current timeline.
    pub(crate) fn received(&self) -> Option<Lsn> {
        self.current.and_then(|span| self.received_of(span))
    }

    /// After the last byte of the current timeline that lies in a sealed object.
    pub(crate) fn sealed(&self) -> Option<Lsn> {
        self.current.and_then(|span| self.spans.get(span)?.sealed)
    }

    /// Up to here on the current timeline the bytes are safe for every region.
    pub(crate) fn spooled(&self) -> Option<Lsn> {
        let place = self.lowest_safe()?;
        (Some(place.span) == self.current).then_some(place.lsn)
    }

    fn durable_place(&self, region: usize) -> Option<Place> {
        self.regions.get(region).filter(|mark| mark.holds_anything())?.durable
    }

    /// Everything before this is in the region.
    pub(crate) fn durable(&self, region: usize) -> Option<WalPosition> {
        self.durable_place(region).and_then(|place| self.position(place))
    }

    fn quorum_place(&self) -> Option<Place> {
        let mut durable: Vec<_> = (0..self.regions.len()).map(|region| self.durable_place(region)).collect();
        durable.sort_unstable_by(|a, b| b.cmp(a));
        durable.get(self.quorum - 1).copied().flatten()
    }

    /// Everything before this is in as many regions as the quorum asks for.
    pub(crate) fn quorum(&self) -> Option<WalPosition> {
        self.quorum_place().and_then(|place| self.position(place))
    }

    /// How many regions have these bytes.
    pub(crate) fn holders(&self, span: SpanId, bytes: Stretch) -> usize {
        (0..self.regions.len()).filter(|&region| self.holds(region, span, bytes)).count()
    }

    /// What PostgreSQL may hear as flushed.
    pub(crate) fn confirmed(&self) -> Option<WalPosition> {
        let span = self.current?;
        let received = Place { span, lsn: self.received()? };
        let place = self.quorum_place()?.min(self.lowest_safe()?).min(received);
        self.position(place)
    }
}

#[cfg(test)]
#[path = "marks_tests.rs"]
mod tests;

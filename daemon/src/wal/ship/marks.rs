//! How far the WAL has come: received, sealed, spooled, durable per region, in the quorum, confirmed. Pure.
//!
//! The invariants, which the property tests beside this file check after every event:
//!
//! 1. A region's durable position is one before which it has *every* byte of the line, and it never moves back.
//! 2. The quorum's position is the k-th highest of the regions' durable positions, but not behind bytes that are lost in a
//!    region and that fewer than k others have (or not all of the others, where there are fewer than k).
//! 3. A region's safe position is one before which every byte is durable there or was fsynced to the spool.
//! 4. The confirmed position is at most the received one, at most the quorum's, and at most every region's safe position;
//!    on one timeline it never moves back.
//! 5. Positions of different timelines are never compared as numbers: the line goes through the timelines in ascending
//!    order, because PostgreSQL gives a new timeline the highest number that it knows, plus one. A region enters a
//!    timeline only when it has all of the one before, up to where the server left it.
//!
//! What is held is counted in bytes of WAL and not in objects: so a piece stands for its slices, slices of a process that
//! was killed count as well as ours, and a recorded gap counts like bytes that will never come.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::log::records::GapReason;
use lifeboat_vocabulary::{Lsn, TimelineId, WalPosition};

use crate::wal::ship::ranges::{RangeSet, Stretch};

/// What there is of each timeline.
pub(crate) type Kept = BTreeMap<TimelineId, RangeSet>;

/// A place on the line, ordered along it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    timeline: TimelineId,
    lsn: Lsn,
}

impl From<WalPosition> for Place {
    fn from(WalPosition { timeline, lsn }: WalPosition) -> Self {
        Self { timeline, lsn }
    }
}

impl From<Place> for WalPosition {
    fn from(Place { timeline, lsn }: Place) -> Self {
        Self { timeline, lsn }
    }
}

/// Whether more of a timeline may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Open,
    /// The server left it here; nothing behind this is needed any more.
    Ended(Lsn),
}

/// The part of the line that lies on one timeline.
#[derive(Clone, Debug)]
struct Span {
    /// Where a region that has all of the timeline before goes on.
    start: Lsn,
    /// Where this process began to receive.
    begun: Option<Lsn>,
    received: Option<Lsn>,
    sealed: Option<Lsn>,
    spooled: RangeSet,
    course: Course,
}

impl Span {
    fn new(start: Lsn) -> Self {
        let (begun, received, sealed) = (None, None, None);
        Self { start, begun, received, sealed, spooled: RangeSet::default(), course: Course::Open }
    }
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
    held: Kept,
    /// What is on record as missing there for ever: one gets past it, and it is no copy.
    lost: Kept,
    /// What the spool has and cannot give it: its names are taken there, and nobody here can open what an earlier run has sealed.
    out_of_reach: Kept,
    durable: Option<Place>,
    safe: Option<Place>,
    /// Where a region began that had no WAL: what lies before, it does not have, though nothing lacks on its way.
    first: Option<Place>,
}

impl RegionMark {
    /// How far the spool has without a hole what it can give the region.
    fn end_of_spooled(&self, from: Place, spooled: &RangeSet) -> Lsn {
        let end = spooled.end_from(from.lsn);
        let Some(out_of_reach) = self.out_of_reach.get(&from.timeline) else { return end };
        let within_reach = out_of_reach.missing(Stretch { start: from.lsn, end });
        within_reach.first().filter(|first| first.start == from.lsn).map_or(from.lsn, |first| first.end)
    }

    fn holds_anything(&self) -> bool {
        self.held.values().any(|held| held.end().is_some())
    }
}

/// All marks of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Marks {
    quorum: usize,
    line: BTreeMap<TimelineId, Span>,
    current: Option<TimelineId>,
    regions: Vec<RegionMark>,
    /// Losses of single regions that too few of the others make up for so far.
    uncovered: Vec<WalRange>,
}

impl Marks {
    /// Nothing is known yet. `quorum` is at least 1.
    pub(crate) fn new(regions: usize, quorum: usize) -> Self {
        let regions = vec![RegionMark::default(); regions];
        Self { quorum: quorum.max(1), line: BTreeMap::new(), current: None, regions, uncovered: Vec::new() }
    }

    /// There is WAL of this timeline in a region or in the spool, from `at` on at the latest.
    pub(crate) fn found(&mut self, at: WalPosition) {
        let is_left = self.current.is_some_and(|current| at.timeline < current);
        if is_left && !self.line.contains_key(&at.timeline) {
            // A region that answered late ends on a timeline that all others have left. What it lacks from there on lies on
            // the timelines that followed, which continue the same positions.
            if let Some((_, next)) = self.line.range_mut(at.timeline..).next() {
                next.start = next.start.min(at.lsn);
            }
            self.line.insert(at.timeline, Span { course: Course::Ended(at.lsn), ..Span::new(at.lsn) });
            return;
        }
        let span = self.line.entry(at.timeline).or_insert_with(|| Span::new(at.lsn));
        span.start = span.start.min(at.lsn);
    }

    /// Where this process began to receive.
    fn begun(&self) -> Option<Place> {
        self.line.iter().find_map(|(&timeline, span)| Some(Place { timeline, lsn: span.begun? }))
    }

    /// A region answered: it has everything before `at`, or it has nothing at all and goes on where this process begins.
    pub(crate) fn enter(&mut self, region: usize, at: Option<WalPosition>) {
        let begun = self.begun();
        let known = at.filter(|at| self.line.contains_key(&at.timeline)).map(Place::from);
        let Some(mark) = self.regions.get_mut(region) else { return };
        if let Some(place) = known {
            // The byte before the position is proof enough that it holds something.
            let start = Lsn::from_bytes(place.lsn.as_bytes() - 1).unwrap_or(place.lsn);
            mark.held.entry(place.timeline).or_default().add(Stretch { start, end: place.lsn });
        }
        let place = known.or(begun);
        mark.knowledge = Knowledge::Known;
        mark.first = if known.is_none() { begun } else { None };
        mark.durable = mark.durable.max(place);
        mark.safe = mark.safe.max(place);
        self.advance(region);
    }

    /// The next bytes are those at `at`. A timeline other than the one before ends that one; it is never a lower one.
    pub(crate) fn begin(&mut self, at: WalPosition) {
        let left: Vec<_> = self.line.range(..at.timeline).map(|(&timeline, _)| timeline).collect();
        left.into_iter().for_each(|timeline| self.end(timeline));
        let span = self.line.entry(at.timeline).or_insert_with(|| Span::new(at.lsn));
        if span.begun.is_none() {
            span.start = span.start.min(at.lsn);
            (span.begun, span.received) = (Some(at.lsn), Some(at.lsn));
        }
        self.current = Some(at.timeline);
        for region in 0..self.regions.len() {
            if let Some(mark) = self.regions.get_mut(region) {
                mark.safe = mark.safe.or(Some(at.into()));
                if mark.knowledge == Knowledge::Known && mark.durable.is_none() {
                    (mark.durable, mark.first) = (Some(at.into()), Some(at.into()));
                }
            }
            self.advance(region);
        }
    }

    fn end(&mut self, timeline: TimelineId) {
        let held = self.regions.iter().filter_map(|region| region.held.get(&timeline)?.end()).max();
        let Some(span) = self.line.get_mut(&timeline).filter(|span| span.course == Course::Open) else { return };
        let known = span.received.or_else(|| held.max(span.spooled.end()));
        span.course = Course::Ended(known.unwrap_or(span.start));
    }

    /// Bytes up to `end` of the current timeline were taken.
    pub(crate) fn receive(&mut self, end: Lsn) {
        if let Some(span) = self.current.and_then(|current| self.line.get_mut(&current)) {
            span.received = span.received.max(Some(end));
        }
    }

    /// These bytes are in a sealed object.
    pub(crate) fn seal(&mut self, bytes: WalRange) {
        if let Some(span) = self.line.get_mut(&bytes.timeline) {
            span.sealed = span.sealed.max(Some(bytes.end));
        }
    }

    /// These bytes were fsynced to the spool for all regions that lack them. They may be removed there as soon as every
    /// region has them, or a larger object with the same bytes is in the spool.
    pub(crate) fn spool(&mut self, bytes: WalRange) {
        if let Some(span) = self.line.get_mut(&bytes.timeline) {
            span.spooled.add(bytes.into());
        }
        for mark in &mut self.regions {
            if let Some(out_of_reach) = mark.out_of_reach.get_mut(&bytes.timeline) {
                out_of_reach.remove(bytes.into());
            }
        }
        (0..self.regions.len()).for_each(|region| self.advance(region));
    }

    /// As [`Self::spool`], where it is fsynced for some regions alone. `kept` is what other objects keep for each of the others.
    pub(crate) fn spool_for(&mut self, bytes: WalRange, kept: &[Option<Kept>]) {
        if let Some(span) = self.line.get_mut(&bytes.timeline) {
            span.spooled.add(bytes.into());
        }
        for (region, kept) in kept.iter().enumerate() {
            match (kept, self.regions.get_mut(region)) {
                (Some(kept), _) => self.out_of_reach(region, bytes, kept),
                (None, Some(mark)) => mark.out_of_reach.entry(bytes.timeline).or_default().remove(bytes.into()),
                (None, None) => {}
            }
        }
        (0..self.regions.len()).for_each(|region| self.advance(region));
    }

    /// The spool has these bytes and cannot give them to a region; but for what it has of them in other objects.
    pub(crate) fn out_of_reach(&mut self, region: usize, bytes: WalRange, kept: &Kept) {
        let Some(mark) = self.regions.get_mut(region) else { return };
        let kept = kept.get(&bytes.timeline).cloned().unwrap_or_default();
        let out_of_reach = mark.out_of_reach.entry(bytes.timeline).or_default();
        kept.missing(bytes.into()).into_iter().for_each(|missing| out_of_reach.add(missing));
    }

    /// It is on record that a region will never have these bytes, which others may have. It gets past them; in the quorum it
    /// counts for nothing there. What is missing for a reason of the server's nobody can wait for.
    pub(crate) fn lose(&mut self, region: usize, bytes: WalRange, reason: GapReason) {
        if let Some(mark) = self.regions.get_mut(region) {
            let missing = mark.held.entry(bytes.timeline).or_default().missing(bytes.into());
            let lost = mark.lost.entry(bytes.timeline).or_default();
            missing.into_iter().for_each(|missing| lost.add(missing));
        }
        if reason == GapReason::RegionMissed {
            self.uncovered.push(bytes);
        }
        self.pass(region, bytes);
        self.cover();
    }

    /// What is made up for is no concern any more: what a region holds it never loses again here. What lies before the place
    /// where this process began cannot be received again, so nobody can wait for it.
    fn cover(&mut self) {
        let uncovered = std::mem::take(&mut self.uncovered);
        self.uncovered = uncovered.into_iter().filter(|lost| !self.is_covered(*lost)).collect();
    }

    fn is_covered(&self, lost: WalRange) -> bool {
        let there = self.line.get(&lost.timeline).and_then(|span| span.begun);
        let end = Place { timeline: lost.timeline, lsn: lost.end };
        if there.is_some_and(|begun| lost.end <= begun) || self.begun().is_some_and(|begun| end <= begun) {
            return true;
        }
        let lost = WalRange { start: there.map_or(lost.start, |begun| begun.max(lost.start)), ..lost };
        let with: Vec<_> = (0..self.regions.len()).filter(|&region| !self.has_lost(region, lost)).collect();
        self.are_enough(&with, lost)
    }

    /// Whether enough of these regions have some bytes that the others lack. Where too few are left that could have them, all that
    /// are left must; where none is left, nobody has them.
    fn are_enough(&self, with: &[usize], bytes: WalRange) -> bool {
        let needed = self.quorum.min(with.len());
        needed > 0 && self.copies(with, bytes) >= needed
    }

    /// How many of these regions have some bytes, and not only a record that they lack them.
    fn copies(&self, of: &[usize], bytes: WalRange) -> usize {
        let start = Place { timeline: bytes.timeline, lsn: bytes.start };
        let began_behind =
            |region: usize| self.regions.get(region).and_then(|mark| mark.first).is_some_and(|first| start < first);
        let has = |region| self.holds(region, bytes) && !self.has_lost(region, bytes) && !began_behind(region);
        of.iter().filter(|&&region| has(region)).count()
    }

    /// Whether enough other regions have bytes that this one lacks.
    pub(crate) fn is_made_up_for(&self, region: usize, bytes: WalRange) -> bool {
        self.are_enough(&self.all_but(region), bytes)
    }

    /// Whether as many other regions have bytes as the quorum asks for.
    pub(crate) fn has_quorum_without(&self, region: usize, bytes: WalRange) -> bool {
        self.copies(&self.all_but(region), bytes) >= self.quorum
    }

    fn all_but(&self, region: usize) -> Vec<usize> {
        (0..self.regions.len()).filter(|&other| other != region).collect()
    }

    /// A region has these bytes, or nobody ever will, which is on record.
    pub(crate) fn hold(&mut self, region: usize, bytes: WalRange) {
        if let Some(lost) = self.regions.get_mut(region).and_then(|mark| mark.lost.get_mut(&bytes.timeline)) {
            lost.remove(bytes.into());
        }
        self.pass(region, bytes);
    }

    fn pass(&mut self, region: usize, bytes: WalRange) {
        let Some(mark) = self.regions.get_mut(region) else { return };
        mark.held.entry(bytes.timeline).or_default().add(bytes.into());
        self.advance(region);
    }

    fn advance(&mut self, region: usize) {
        let Some(mark) = self.regions.get(region) else { return };
        let durable = mark.durable.map(|place| self.reached(place, mark, Over::Region));
        let safe = mark.safe.max(durable).map(|place| self.reached(place, mark, Over::RegionAndSpool));
        if let Some(mark) = self.regions.get_mut(region) {
            (mark.durable, mark.safe) = (durable, safe);
        }
    }

    /// How far one comes from `place` without a hole.
    fn reached(&self, mut place: Place, mark: &RegionMark, over: Over) -> Place {
        while let Some(span) = self.line.get(&place.timeline) {
            let held = mark.held.get(&place.timeline).map_or(place.lsn, |held| held.end_from(place.lsn));
            let spooled = match over {
                Over::Region => place.lsn,
                Over::RegionAndSpool => mark.end_of_spooled(place, &span.spooled),
            };
            if held.max(spooled) > place.lsn {
                place.lsn = held.max(spooled);
                continue;
            }
            let next = self.line.range((Excluded(place.timeline), Unbounded)).next();
            match (span.course, next) {
                (Course::Ended(end), Some((&timeline, next))) if place.lsn >= end => {
                    place = Place { timeline, lsn: next.start };
                }
                _ => break,
            }
        }
        place
    }

    /// Whether a region has all of these bytes.
    pub(crate) fn holds(&self, region: usize, bytes: WalRange) -> bool {
        let Some(mark) = self.regions.get(region) else { return false };
        let end = Place { timeline: bytes.timeline, lsn: bytes.end };
        mark.durable.is_some_and(|durable| durable >= end)
            || mark.held.get(&bytes.timeline).is_some_and(|held| held.covers(bytes.into()))
    }

    /// Whether a region has all of these bytes, or gets what it lacks of them from `kept`.
    pub(crate) fn holds_or_gets(&self, region: usize, bytes: WalRange, kept: &Kept) -> bool {
        let Some(mark) = self.regions.get(region) else { return false };
        let mut all = mark.held.get(&bytes.timeline).cloned().unwrap_or_default();
        if let Some(kept) = kept.get(&bytes.timeline) {
            all.add_all(kept);
        }
        let durable = mark.durable.filter(|durable| durable.timeline == bytes.timeline && durable.lsn > bytes.start);
        durable.into_iter().for_each(|durable| all.add(Stretch { start: bytes.start, end: durable.lsn }));
        all.covers(bytes.into()) || self.holds(region, bytes)
    }

    /// Whether it is on record that a region will never have some of these bytes.
    pub(crate) fn has_lost(&self, region: usize, bytes: WalRange) -> bool {
        let lost = |mark: &RegionMark| mark.lost.get(&bytes.timeline).is_some_and(|lost| lost.overlaps(bytes.into()));
        self.regions.get(region).is_some_and(lost)
    }

    /// How many regions have all of these bytes.
    pub(crate) fn holders(&self, bytes: WalRange) -> usize {
        (0..self.regions.len()).filter(|&region| self.holds(region, bytes)).count()
    }

    /// What a region lacks on its way to the bytes that this process receives, and that nobody keeps for it. `kept` is what
    /// there is in objects.
    pub(crate) fn holes(&self, region: usize, kept: &Kept) -> Vec<WalRange> {
        let (Some(mark), Some(current)) = (self.regions.get(region), self.current) else { return Vec::new() };
        let Some(from) = mark.durable.filter(|from| from.timeline <= current) else { return Vec::new() };
        let mut holes = Vec::new();
        for (&timeline, span) in self.line.range(from.timeline..=current) {
            let start = if timeline == from.timeline { from.lsn } else { span.start };
            let mut known = mark.held.get(&timeline).cloned().unwrap_or_default();
            if let Some(kept) = kept.get(&timeline) {
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
            let missing = known.missing(Stretch { start, end });
            holes.extend(missing.into_iter().map(|Stretch { start, end }| WalRange { timeline, start, end }));
        }
        holes
    }

    /// Where a region that lacks most goes on, spool included: nothing before it has to be cut for anybody. `None` if
    /// that is not known of all regions.
    pub(crate) fn lowest_safe(&self) -> Option<WalPosition> {
        self.lowest_safe_place().map(WalPosition::from)
    }

    /// Everything before this is in the region or in the spool.
    pub(crate) fn safe(&self, region: usize) -> Option<WalPosition> {
        self.regions.get(region)?.safe.map(WalPosition::from)
    }

    fn lowest_safe_place(&self) -> Option<Place> {
        self.regions.iter().map(|region| region.safe).min().flatten()
    }

    /// The timeline that is being received.
    pub(crate) fn timeline(&self) -> Option<TimelineId> {
        self.current
    }

    fn current(&self) -> Option<&Span> {
        self.current.and_then(|current| self.line.get(&current))
    }

    /// What this process has received of a timeline.
    pub(crate) fn received_of(&self, timeline: TimelineId) -> Option<Stretch> {
        let span = self.line.get(&timeline)?;
        Some(Stretch { start: span.begun?, end: span.received? })
    }

    /// After the last byte that was received on the current timeline.
    pub(crate) fn received(&self) -> Option<Lsn> {
        self.current()?.received
    }

    /// After the last byte of the current timeline that lies in a sealed object.
    pub(crate) fn sealed(&self) -> Option<Lsn> {
        self.current()?.sealed
    }

    /// Up to here on the current timeline the bytes are safe for every region.
    pub(crate) fn spooled(&self) -> Option<Lsn> {
        let place = self.lowest_safe_place()?;
        (Some(place.timeline) == self.current).then_some(place.lsn)
    }

    fn durable_place(&self, region: usize) -> Option<Place> {
        self.regions.get(region).filter(|mark| mark.holds_anything())?.durable
    }

    /// Everything before this is in the region.
    pub(crate) fn durable(&self, region: usize) -> Option<WalPosition> {
        self.durable_place(region).map(WalPosition::from)
    }

    fn quorum_place(&self) -> Option<Place> {
        let mut durable: Vec<_> = (0..self.regions.len()).map(|region| self.durable_place(region)).collect();
        durable.sort_unstable_by(|a, b| b.cmp(a));
        let reached = durable.get(self.quorum - 1).copied().flatten()?;
        let uncovered = self.uncovered.iter().filter(|lost| !self.is_covered(**lost));
        let first = uncovered.map(|lost| Place { timeline: lost.timeline, lsn: lost.start }).min();
        Some(first.map_or(reached, |first| first.min(reached)))
    }

    /// Everything before this is in as many regions as the quorum asks for.
    pub(crate) fn quorum(&self) -> Option<WalPosition> {
        self.quorum_place().map(WalPosition::from)
    }

    /// What PostgreSQL may hear as flushed.
    pub(crate) fn confirmed(&self) -> Option<WalPosition> {
        let received = Place { timeline: self.current?, lsn: self.received()? };
        Some(self.quorum_place()?.min(self.lowest_safe_place()?).min(received).into())
    }
}

#[cfg(test)]
mod tests;

//! Which WAL there is, over all regions: what is covered, where it ends, and which objects to read for a range.
//!
//! Pure: it knows names only. What a listing found is put in; what turned out damaged or gone is taken out.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use lifeboat_vocabulary::{Lsn, RegionName, TimelineId, WalPosition};

use crate::format::layout::{WalForm, WalRange};
use crate::wal::name::{PIECE_BYTES_MAX, WalObject};

/// Objects of one form on one timeline, by start and end in bytes, and the numbers of the regions that hold each.
type Line = BTreeMap<(u64, u64), Vec<usize>>;

/// What WAL the regions hold, by the names of their objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalMap {
    regions: Vec<RegionName>,
    lines: BTreeMap<(TimelineId, WalForm), Line>,
}

/// An object, and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldWal {
    /// The object.
    pub object: WalObject,
    /// The regions that hold it, in the order in which they were first seen; at least one.
    pub regions: Vec<RegionName>,
}

/// How a range can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalChoice {
    /// What to read, in the order of the WAL. Objects may overlap, and may reach beyond both ends of the range.
    pub objects: Vec<HeldWal>,
    /// What no object holds, in order.
    pub missing: Vec<WalRange>,
}

impl WalChoice {
    /// Whether all of the range can be read.
    #[must_use]
    pub(crate) fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

impl WalMap {
    /// A map of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `region` holds `object`. May be said repeatedly.
    pub(crate) fn add(&mut self, region: &RegionName, object: WalObject) {
        let number = self.number(region).unwrap_or_else(|| {
            self.regions.push(region.clone());
            self.regions.len() - 1
        });
        let WalRange { timeline, start, end } = object.range;
        let line = self.lines.entry((timeline, object.form)).or_default();
        let holders = line.entry((start.as_bytes(), end.as_bytes())).or_default();
        if !holders.contains(&number) {
            holders.push(number);
        }
    }

    /// `region` does not hold `object`, or holds it damaged.
    pub(crate) fn remove(&mut self, region: &RegionName, object: WalObject) {
        let WalRange { timeline, start, end } = object.range;
        let (Some(number), Some(line)) = (self.number(region), self.lines.get_mut(&(timeline, object.form))) else {
            return;
        };
        if let Entry::Occupied(mut holders) = line.entry((start.as_bytes(), end.as_bytes())) {
            holders.get_mut().retain(|holder| *holder != number);
            if holders.get().is_empty() {
                holders.remove();
            }
        }
    }

    /// Takes over all that `other` knows.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (&(timeline, form), line) in &other.lines {
            for (&span, holders) in line {
                let Some(object) = object(timeline, form, span) else { continue };
                for region in holders.iter().filter_map(|number| other.regions.get(*number)) {
                    self.add(region, object);
                }
            }
        }
    }

    /// Forgets all objects of `timeline` that end at `before` or earlier.
    pub fn forget(&mut self, timeline: TimelineId, before: Lsn) {
        for form in [WalForm::Piece, WalForm::Slice] {
            if let Some(line) = self.lines.get_mut(&(timeline, form)) {
                line.retain(|&(_, end), _| end > before.as_bytes());
            }
        }
    }

    /// How many objects it knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.values().map(BTreeMap::len).sum()
    }

    /// Whether it knows none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The timelines on which there is WAL, ascending.
    #[must_use]
    pub fn timelines(&self) -> Vec<TimelineId> {
        let mut timelines: Vec<_> =
            self.lines.iter().filter(|(_, line)| !line.is_empty()).map(|(&(timeline, _), _)| timeline).collect();
        timelines.dedup();
        timelines
    }

    /// The stretches without a hole that there are on `timeline`, in order, all regions together.
    #[must_use]
    pub fn coverage(&self, timeline: TimelineId) -> Vec<WalRange> {
        stretches(timeline, self.spans(timeline))
    }

    /// Where the WAL ends that goes on from `from` without a hole, all regions together; `from` itself if nothing does.
    #[must_use]
    pub fn contiguous_end(&self, from: WalPosition) -> Lsn {
        end_of(&self.coverage(from.timeline), from.lsn)
    }

    /// What of `range` no object holds, in order.
    #[must_use]
    pub(crate) fn gaps(&self, range: WalRange) -> Vec<WalRange> {
        let mut at = range.start;
        let mut gaps = Vec::new();
        let end = WalRange { start: range.end, ..range };
        let held = self.coverage(range.timeline).into_iter().filter(|held| held.end > range.start);
        for held in held.take_while(|held| held.start < range.end).chain([end]) {
            if at < held.start {
                gaps.push(WalRange { start: at, end: held.start, ..range });
            }
            at = at.max(held.end);
        }
        gaps
    }

    /// Where the first object begins that begins at `from` or later.
    #[must_use]
    pub(crate) fn next_start(&self, from: WalPosition) -> Option<Lsn> {
        let starts = [WalForm::Piece, WalForm::Slice].into_iter().filter_map(|form| {
            let line = self.lines.get(&(from.timeline, form))?;
            line.range((from.lsn.as_bytes(), 0)..).next().map(|(&(start, _), _)| start)
        });
        starts.min().and_then(Lsn::from_bytes)
    }

    /// What to read for `range`: pieces where there are any, slices between them, and of both as few as can be.
    ///
    /// At every place the object is taken that reaches furthest, which is the fewest that there can be (the greedy cover
    /// of a line by intervals). A piece is taken before any slice.
    #[must_use]
    pub(crate) fn choose(&self, range: WalRange) -> WalChoice {
        let timeline = range.timeline;
        let mut candidates = [WalForm::Piece, WalForm::Slice].map(|form| Candidates::new(self.near(range, form)));
        let forms = [WalForm::Piece, WalForm::Slice];
        let mut choice = WalChoice::default();
        let (mut at, end) = (range.start.as_bytes(), range.end.as_bytes());
        while at < end {
            let mut best = None;
            for (form, candidates) in forms.iter().zip(&mut candidates) {
                candidates.advance(at);
                best = best.or_else(|| candidates.best.filter(|(span, _)| span.1 > at).map(|found| (*form, found)));
            }
            if let Some((form, (span, holders))) = best {
                choice.objects.extend(self.held(timeline, form, span, holders));
                at = span.1;
                continue;
            }
            let next = candidates.iter_mut().filter_map(Candidates::next_start).min().unwrap_or(end).min(end);
            if let (Some(start), Some(end)) = (Lsn::from_bytes(at), Lsn::from_bytes(next)) {
                choice.missing.push(WalRange { timeline, start, end });
            }
            at = next;
        }
        choice
    }

    /// The part of the map that [`Self::choose`] looks at for `range`.
    #[must_use]
    pub(crate) fn around(&self, range: WalRange) -> Self {
        let mut part = Self { regions: self.regions.clone(), lines: BTreeMap::new() };
        for form in [WalForm::Piece, WalForm::Slice] {
            let line = self.near(range, form).map(|(span, holders)| (*span, holders.clone())).collect();
            part.lines.insert((range.timeline, form), line);
        }
        part
    }

    fn number(&self, region: &RegionName) -> Option<usize> {
        self.regions.iter().position(|known| known == region)
    }

    fn held(&self, timeline: TimelineId, form: WalForm, span: (u64, u64), holders: &[usize]) -> Option<HeldWal> {
        let regions = holders.iter().filter_map(|number| self.regions.get(*number)).cloned().collect();
        Some(HeldWal { object: object(timeline, form, span)?, regions })
    }

    /// Objects of one form that may hold bytes of `range`, by start. No object is longer than a piece.
    fn near(&self, range: WalRange, form: WalForm) -> impl Iterator<Item = (&(u64, u64), &Vec<usize>)> {
        let from = range.start.as_bytes().saturating_sub(PIECE_BYTES_MAX);
        let to = range.end.as_bytes().max(from);
        let line = self.lines.get(&(range.timeline, form));
        line.into_iter().flat_map(move |line| line.range((from, 0)..(to, 0)))
    }

    /// Spans of both forms, by start; with a region, only its own.
    fn spans(&self, timeline: TimelineId) -> impl Iterator<Item = (u64, u64)> {
        let spans = |form| {
            let line = self.lines.get(&(timeline, form)).into_iter().flatten();
            line.map(|(span, _)| *span)
        };
        let (mut pieces, mut slices) = (spans(WalForm::Piece).peekable(), spans(WalForm::Slice).peekable());
        std::iter::from_fn(move || match (pieces.peek(), slices.peek()) {
            (Some(piece), Some(slice)) if slice < piece => slices.next(),
            (Some(_), _) => pieces.next(),
            (None, _) => slices.next(),
        })
    }
}

/// Objects of one form in order, and of those that begin before a place the one that reaches furthest.
struct Candidates<'a, I: Iterator<Item = (&'a (u64, u64), &'a Vec<usize>)>> {
    rest: std::iter::Peekable<I>,
    best: Option<((u64, u64), &'a Vec<usize>)>,
}

impl<'a, I: Iterator<Item = (&'a (u64, u64), &'a Vec<usize>)>> Candidates<'a, I> {
    fn new(objects: I) -> Self {
        Self { rest: objects.peekable(), best: None }
    }

    fn advance(&mut self, at: u64) {
        while let Some((span, holders)) = self.rest.next_if(|(span, _)| span.0 <= at) {
            if self.best.is_none_or(|(best, _)| best.1 < span.1) {
                self.best = Some((*span, holders));
            }
        }
    }

    fn next_start(&mut self) -> Option<u64> {
        self.rest.peek().map(|(span, _)| span.0)
    }
}

fn object(timeline: TimelineId, form: WalForm, (start, end): (u64, u64)) -> Option<WalObject> {
    let range = WalRange { timeline, start: Lsn::from_bytes(start)?, end: Lsn::from_bytes(end)? };
    WalObject::new(form, range)
}

/// Joins what touches or overlaps; `spans` come by start.
fn stretches(timeline: TimelineId, spans: impl Iterator<Item = (u64, u64)>) -> Vec<WalRange> {
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (start, end) in spans {
        match joined.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => joined.push((start, end)),
        }
    }
    let range = |(start, end)| Some(WalRange { timeline, start: Lsn::from_bytes(start)?, end: Lsn::from_bytes(end)? });
    joined.into_iter().filter_map(range).collect()
}

fn end_of(stretches: &[WalRange], from: Lsn) -> Lsn {
    stretches.iter().find(|range| (range.start..range.end).contains(&from)).map_or(from, |range| range.end)
}

#[cfg(test)]
mod tests;

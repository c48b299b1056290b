//! Looks through WAL for commits, restore points and record bounds before a restore trusts it.

use std::sync::Arc;

use anyhow::Context;
use futures_util::StreamExt;
use lifeboat_postgres::{ScanStart, WalFact, WalScanner};
use lifeboat_repository::format::layout::WalRange;
use lifeboat_vocabulary::{Lsn, SegmentSize, UtcTime};

use crate::target::commit_clock::Decisions;
use crate::target::wal_plan::{Chain, ChainLeg};
use crate::target::wal_source::WalSource;

/// The unit of reading in **bytes**: that of stored objects.
const STEP_MAX: u64 = 16 << 20;
/// What is read behind a unit, so that a record that crosses its end is seen whole, in **bytes**.
const OVERLAP: u64 = 1 << 20;
/// Units that are read at the same time.
const PARALLEL: usize = 4;
/// Units over the whole stretch that are looked at first.
const SAMPLES: usize = 16;
/// Units that are looked through on either side of a target by time.
pub(crate) const NEAR: usize = 64;
/// Records begin at multiples of this (`MAXALIGN`).
const ALIGNMENT: u64 = 8;

/// Reads WAL of one cluster.
#[derive(Clone)]
pub(crate) struct Survey {
    source: Arc<dyn WalSource>,
    system_identifier: u64,
    segment: SegmentSize,
    /// The newest moment that any clock here knows.
    latest: UtcTime,
}

/// A part of the WAL that is scanned at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unit {
    leg: ChainLeg,
    /// What lies behind it, as far as it is read.
    behind: Option<ChainLeg>,
}

impl Survey {
    /// A survey of the cluster with this system identifier. Commits that are dated later than `latest`, the newest moment that
    /// any clock here knows, count for nothing by themselves.
    #[must_use]
    pub(crate) fn new(
        source: Arc<dyn WalSource>,
        system_identifier: u64,
        segment: SegmentSize,
        latest: UtcTime,
    ) -> Self {
        Self { source, system_identifier, segment, latest }
    }

    /// Calls `judge` with the facts of one unit after the other, newest unit first, until it has an answer. Facts of
    /// records that begin before `floor` are left out.
    ///
    /// # Errors
    /// If WAL cannot be read, or is none.
    pub(crate) async fn newest_first<T>(
        &self,
        chain: &Chain,
        floor: Lsn,
        mut judge: impl FnMut(&[WalFact]) -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        let units = units(chain, floor, self.segment);
        let mut scanned = futures_util::stream::iter(units).map(|unit| self.facts(unit)).buffered(PARALLEL);
        while let Some(facts) = scanned.next().await {
            let mut facts = facts?;
            facts.retain(|fact| fact.start >= floor);
            if let Some(answer) = judge(&facts) {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    /// What the commits and aborts between `floor` and the end of a chain say about where recovery has to end, so that what is asked for is
    /// there and nothing that is `past` it. Found by samples and by halves; a gibibyte on either side of the place is looked through, so
    /// that a clock that was wrong there is seen. The rest is not read: a restore must not wait for days of WAL.
    ///
    /// # Errors
    /// If WAL cannot be read, or is none.
    pub(crate) async fn decisions(
        &self,
        chain: &Chain,
        floor: Lsn,
        past: impl Fn(UtcTime) -> bool,
    ) -> anyhow::Result<Decisions> {
        let mut units = units(chain, floor, self.segment);
        units.reverse();
        let count = units.len();
        let mut search = Search { survey: self, floor, past, seen: vec![None; count], units };
        let mut behind = count;
        search.look((0..SAMPLES).map(|sample| sample * count / SAMPLES)).await?;
        loop {
            behind = search.first_past_seen(behind).unwrap_or(behind);
            behind = search.halve(behind).await?;
            search.look(behind.saturating_sub(NEAR)..behind).await?;
            // A clock that was set: what is past the target before that place is what counts.
            if search.first_past_seen(behind).is_none() {
                break;
            }
        }
        // Units without any that counts may lie between.
        let mut hit = behind;
        while hit < count && !search.is_seen(hit, |unit| unit.first_past.is_some()) && hit < behind.saturating_add(NEAR)
        {
            search.look(hit..hit.saturating_add(1)).await?;
            hit += usize::from(!search.is_seen(hit, |unit| unit.first_past.is_some()));
        }
        let until = hit.saturating_add(NEAR + 1).min(count);
        let from = behind.saturating_sub(NEAR);
        search.look(from..until).await?;
        let near = search.seen.get(from..until).unwrap_or_default().iter().flatten();
        Ok(near.fold(Decisions::default(), Decisions::and))
    }

    /// What the newest commits and aborts of a chain say.
    ///
    /// # Errors
    /// If WAL cannot be read, or is none.
    pub(crate) async fn newest_decisions(&self, chain: &Chain, floor: Lsn) -> anyhow::Result<Decisions> {
        let mut all = Decisions::default();
        let judge = |facts: &[WalFact]| {
            all = Decisions::of(facts, self.latest, |_| false).and(&all);
            all.last.is_some().then_some(())
        };
        self.newest_first(chain, floor, judge).await?;
        Ok(all)
    }

    async fn read(&self, leg: ChainLeg) -> anyhow::Result<bytes::Bytes> {
        let range = WalRange { timeline: leg.timeline, start: leg.from, end: leg.to };
        self.source
            .read(range)
            .await
            .with_context(|| format!("read WAL from {} on timeline {}", leg.from, leg.timeline))
    }

    fn scanner(&self, leg: ChainLeg) -> WalScanner {
        let (system_identifier, segment_size) = (self.system_identifier, self.segment);
        WalScanner::new(ScanStart { timeline: leg.timeline, system_identifier, segment_size, at: leg.from })
    }

    async fn facts(&self, unit: Unit) -> anyhow::Result<Vec<WalFact>> {
        let bytes = self.read(unit.leg).await?;
        let behind = match unit.behind {
            Some(behind) => Some(self.read(behind).await?),
            None => None,
        };
        let mut scanner = self.scanner(unit.leg);
        let scan = move || {
            let mut facts = Vec::new();
            let mut found = |fact: &WalFact| facts.push(fact.clone());
            let fault = scanner.feed(&bytes, &mut found).err();
            if let (None, Some(behind)) = (&fault, behind) {
                // The next unit is judged by itself; here it only ends a record of ours.
                if scanner.feed(&behind, &mut found).is_err() {
                    tracing::debug!("the WAL behind a unit is of another timeline");
                }
            }
            facts.retain(|fact| fact.start < unit.leg.to);
            match fault {
                None => Ok(facts),
                Some(fault) => Err(anyhow::Error::new(fault)),
            }
        };
        let leg = unit.leg;
        let scanned = tokio::task::spawn_blocking(scan).await.context("look through WAL")?;
        scanned.with_context(|| format!("check WAL from {} to {} on timeline {}", leg.from, leg.to, leg.timeline))
    }

    /// Where records begin and end around `at`: whether the last record of the chain begins at or after `at`.
    ///
    /// PostgreSQL stops at a position only when it meets a record that begins there or later.
    ///
    /// # Errors
    /// If WAL cannot be read, or is none.
    pub(crate) async fn has_record_from(&self, chain: &Chain, at: Lsn) -> anyhow::Result<bool> {
        let units = units(chain, at, self.segment);
        let Some(oldest) = units.last().copied() else { return Ok(false) };
        let more = units.len() > 1;
        let bytes = self.read(oldest.leg).await?;
        let mut scanner = self.scanner(oldest.leg);
        let look = move || -> anyhow::Result<bool> {
            let offset = usize::try_from(at.as_bytes().saturating_sub(oldest.leg.from.as_bytes()))?;
            let (before, behind) = bytes.split_at(offset.min(bytes.len()));
            let mut nothing = |_: &WalFact| {};
            scanner.feed(before, &mut nothing)?;
            // The end of the first record that is not over before `at`: what comes after it begins late enough.
            let mut first_end = scanner.last_record_end().filter(|end| aligned(*end) >= at.as_bytes());
            for word in behind.chunks(usize::try_from(ALIGNMENT)?) {
                scanner.feed(word, &mut nothing)?;
                match (first_end, scanner.last_record_end()) {
                    (None, Some(end)) if aligned(end) >= at.as_bytes() => first_end = Some(end),
                    (Some(first), Some(end)) if end > first => return Ok(true),
                    _ => {}
                }
            }
            // A record of the next units certainly begins later.
            Ok(more)
        };
        tokio::task::spawn_blocking(look).await.context("look through WAL")?.context("check WAL around the target")
    }
}

/// A search for the first commit that is past something.
struct Search<'s, P> {
    survey: &'s Survey,
    floor: Lsn,
    past: P,
    /// Oldest first.
    units: Vec<Unit>,
    /// What is known of each.
    seen: Vec<Option<Decisions>>,
}

impl<P: Fn(UtcTime) -> bool> Search<'_, P> {
    /// Reads those of these units that were not read yet.
    async fn look(&mut self, wanted: impl Iterator<Item = usize>) -> anyhow::Result<()> {
        let mut wanted: Vec<usize> = wanted.filter(|unit| self.seen.get(*unit).is_some_and(Option::is_none)).collect();
        wanted.dedup();
        let (survey, floor) = (self.survey, self.floor);
        let units: Vec<(usize, Unit)> =
            wanted.into_iter().filter_map(|index| Some((index, *self.units.get(index)?))).collect();
        let read = |(index, unit): (usize, Unit)| async move { (index, survey.facts(unit).await) };
        let mut scanned = futures_util::stream::iter(units).map(read).buffered(PARALLEL);
        while let Some((index, facts)) = scanned.next().await {
            let mut facts = facts?;
            facts.retain(|fact| fact.start >= floor);
            if let Some(seen) = self.seen.get_mut(index) {
                *seen = Some(Decisions::of(&facts, survey.latest, &self.past));
            }
        }
        Ok(())
    }

    fn is_seen(&self, unit: usize, what: impl Fn(&Decisions) -> bool) -> bool {
        self.seen.get(unit).and_then(Option::as_ref).is_some_and(what)
    }

    /// The oldest unit before `behind` that is known to hold one that is past the target.
    fn first_past_seen(&self, behind: usize) -> Option<usize> {
        (0..behind).find(|unit| self.is_seen(*unit, |unit| unit.first_past.is_some()))
    }

    /// The first unit from which on, up to `behind`, nothing counts that is not past the target, if times only rise.
    async fn halve(&mut self, mut behind: usize) -> anyhow::Result<usize> {
        let mut from = 0;
        while from < behind {
            let middle = from + (behind - from) / 2;
            let mut unit = middle;
            let mut is_undated = false;
            // A unit without any that counts is like the next one that has some. Behind many that are dated later than every clock nobody
            // looks for it: recovery ends before them.
            while unit < behind && !(is_undated && unit > middle + NEAR) {
                self.look(unit..unit + 1).await?;
                if self.is_seen(unit, |unit| unit.last.is_some()) {
                    break;
                }
                is_undated |= !self.is_seen(unit, Decisions::are_none);
                unit += 1;
            }
            if unit < behind && self.is_seen(unit, |unit| unit.last.is_some() && unit.first_past.is_none()) {
                from = unit + 1;
            } else {
                behind = middle;
            }
        }
        Ok(behind)
    }
}

fn aligned(end: Lsn) -> u64 {
    end.as_bytes().next_multiple_of(ALIGNMENT)
}

/// A chain in units, newest first, down to the one that holds `floor`.
fn units(chain: &Chain, floor: Lsn, segment: SegmentSize) -> Vec<Unit> {
    let step = segment.as_bytes().min(STEP_MAX);
    let mut units: Vec<Unit> = Vec::new();
    for leg in &chain.legs {
        let mut from = leg.from;
        while from < leg.to {
            let next = Lsn::from_bytes((from.as_bytes() / step + 1).saturating_mul(step)).unwrap_or(leg.to);
            let part = ChainLeg { from, to: next.min(leg.to), ..*leg };
            if let Some(last) = units.last_mut() {
                let to = Lsn::from_bytes(from.as_bytes().saturating_add(OVERLAP.min(step))).unwrap_or(part.to);
                last.behind = Some(ChainLeg { to: to.min(part.to), ..part });
            }
            units.push(Unit { leg: part, behind: None });
            from = part.to;
        }
    }
    units.retain(|unit| unit.leg.to > floor);
    units.reverse();
    units
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_vocabulary::TimelineId;

    #[test]
    fn a_chain_is_cut_into_units_that_see_a_little_of_what_follows() {
        const MIB: u64 = 1 << 20;
        let lsn = |mib| Lsn::from_bytes(mib * MIB).unwrap();
        let leg = |timeline, from, to| ChainLeg { timeline: TimelineId::new(timeline).unwrap(), from, to };
        let end = lsn(65).advanced_by(lifeboat_vocabulary::ByteCount::from_bytes(100)).unwrap();
        let chain = Chain { legs: vec![leg(1, lsn(32), lsn(64)), leg(2, lsn(64), end)] };
        let units = units(&chain, lsn(50), SegmentSize::DEFAULT);
        let expected = [
            Unit { leg: leg(2, lsn(64), end), behind: None },
            Unit { leg: leg(1, lsn(48), lsn(64)), behind: Some(leg(2, lsn(64), lsn(65))) },
        ];
        assert_eq!(units, expected);
    }
}

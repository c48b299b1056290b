//! Looks through WAL for commits, restore points and record bounds, newest first, before a restore trusts it.

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

    /// What the commits and aborts between `floor` and the end of a chain prove: from the end back to the first that is not `past`,
    /// with the rest of its unit. What counts rises with the position, so nothing before that is read.
    ///
    /// # Errors
    /// If WAL cannot be read, or is none.
    pub(crate) async fn decisions(
        &self,
        chain: &Chain,
        floor: Lsn,
        past: impl Fn(UtcTime) -> bool,
    ) -> anyhow::Result<Decisions> {
        let mut decisions = Decisions::new(self.latest);
        self.newest_first(chain, floor, |facts| decisions.go_back(facts, &past).then_some(())).await?;
        Ok(decisions)
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

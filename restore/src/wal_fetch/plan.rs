//! Which files recovery will ask for, and in which order: the prefetcher runs ahead along this list.

use lifeboat_vocabulary::{ByteCount, Lsn, SegmentName, SegmentSize};
use serde::{Deserialize, Serialize};

use crate::target::wal_plan::ChainLeg;
use crate::wal_fetch::segment::Part;

/// What happens at the end of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Recovery ends there.
    Recovery,
    /// A standby waits for more, for ever.
    Standby,
}

/// The files of one recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FetchPlan {
    /// The cluster's segment size.
    pub(crate) segment: SegmentSize,
    /// What happens at the end.
    pub(crate) mode: Mode,
    /// The stretches, oldest first: whole segments from each start.
    pub(crate) legs: Vec<ChainLeg>,
    /// Where replay begins.
    pub(crate) replay_from: Lsn,
}

/// Where a name stands to the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is this one.
    Planned(usize),
    /// The plan takes this part of the WAL from another timeline: PostgreSQL asks for the newest one first.
    Superseded,
    /// It comes before all that is planned: the backup carries it.
    Before,
    /// It comes after all that is planned, or lies beside it.
    After,
}

impl FetchPlan {
    fn leg_segments(&self, leg: &ChainLeg) -> usize {
        let bytes = leg.to.as_bytes().saturating_sub(leg.from.as_bytes());
        usize::try_from(bytes.div_ceil(self.segment.as_bytes())).unwrap_or(usize::MAX)
    }

    /// How many segments there are.
    #[must_use]
    pub(crate) fn count(&self) -> usize {
        self.legs.iter().map(|leg| self.leg_segments(leg)).sum()
    }

    /// What is stored of the segment at a place, from 0: the rest are zeros.
    #[must_use]
    pub(crate) fn segment_at(&self, mut index: usize) -> Option<Part> {
        for leg in &self.legs {
            let count = self.leg_segments(leg);
            if index < count {
                let skipped = (index as u64).checked_mul(self.segment.as_bytes())?;
                let start = leg.from.advanced_by(ByteCount::from_bytes(skipped))?;
                let end = start.advanced_by(self.segment.byte_count())?.min(leg.to);
                return Some(Part { name: SegmentName::holding(leg.timeline, start, self.segment), start, end });
            }
            index -= count;
        }
        None
    }

    /// The whole segment before this one, on whatever timeline the history goes there. `None` before all that is planned.
    #[must_use]
    pub(crate) fn before(&self, part: Part) -> Option<Part> {
        let size = self.segment.as_bytes();
        let start = Lsn::from_bytes(part.start.as_bytes().checked_sub(size)?)?;
        let covers = |leg: &&ChainLeg| start >= leg.from && start < leg.to;
        if let Some(leg) = self.legs.iter().find(covers) {
            let name = SegmentName::holding(leg.timeline, start, self.segment);
            // A leg that ends within it has no more of it: then what follows comes from another history.
            return Some(Part { name, start, end: part.start }).filter(|_| part.start <= leg.to);
        }
        let is_behind = self.legs.last().is_none_or(|last| start >= last.to);
        let name = SegmentName::holding(part.name.timeline, start, self.segment);
        is_behind.then_some(Part { name, start, end: part.start })
    }

    /// Where a name stands.
    #[must_use]
    pub(crate) fn place_of(&self, name: SegmentName) -> Place {
        let Some(start) = name.start() else { return Place::Before };
        let mut before = 0;
        for leg in &self.legs {
            let count = self.leg_segments(leg);
            if start >= leg.from && start < leg.to {
                let skipped = (start.as_bytes() - leg.from.as_bytes()) / self.segment.as_bytes();
                let index = usize::try_from(skipped).map_or(usize::MAX, |skipped| before + skipped);
                return if name.timeline == leg.timeline { Place::Planned(index) } else { Place::Superseded };
            }
            before += count;
        }
        match self.legs.first() {
            Some(first) if start < first.from => Place::Before,
            _ => Place::After,
        }
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_vocabulary::TimelineId;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn lsn(tenths: u64) -> Lsn {
        Lsn::from_bytes(tenths * MIB / 10).unwrap()
    }

    fn plan() -> FetchPlan {
        let leg = |timeline, from, to| ChainLeg {
            timeline: TimelineId::new(timeline).unwrap(),
            from: lsn(from),
            to: lsn(to),
        };
        let segment = SegmentSize::from_bytes(MIB).unwrap();
        let legs = vec![leg(1, 20, 40), leg(11, 40, 65)];
        FetchPlan { segment, mode: Mode::Recovery, legs, replay_from: lsn(22) }
    }

    #[test]
    fn segments_follow_each_other_over_timelines_and_the_last_one_may_be_short() {
        let plan = plan();
        assert_eq!(plan.count(), 5);
        let names: Vec<String> = (0..6).filter_map(|i| plan.segment_at(i)).map(|s| s.name.to_string()).collect();
        let expected = ["000000010000000000000002", "000000010000000000000003", "0000000B0000000000000004"];
        assert_eq!(names[..3], expected);
        assert_eq!(names.len(), 5);
        assert_eq!(plan.segment_at(3).unwrap().end, lsn(60));
        assert_eq!((plan.segment_at(4).unwrap().start, plan.segment_at(4).unwrap().end), (lsn(60), lsn(65)));
        for index in 0..5 {
            assert_eq!(plan.place_of(plan.segment_at(index).unwrap().name), Place::Planned(index));
        }
    }

    #[test]
    fn names_beside_the_plan_are_told_apart() {
        let plan = plan();
        for (name, expected) in [
            ("0000000B0000000000000003", Place::Superseded),
            ("000000010000000000000004", Place::Superseded),
            ("000000010000000000000001", Place::Before),
            ("0000000B0000000000000007", Place::After),
            ("0000000C0000000000000008", Place::After),
        ] {
            assert_eq!(plan.place_of(SegmentName::parse(name, plan.segment).unwrap()), expected, "{name}");
        }
    }
}

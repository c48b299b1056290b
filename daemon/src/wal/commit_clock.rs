//! How old is the oldest commit that a region, or the quorum, does not hold yet? That age is what a disaster would cost.
//!
//! Measured where it counts: from the time in the commit record itself to the moment when the object with its last byte
//! is stored. Pure: positions and times come in, ages go out.

use std::collections::VecDeque;
use std::time::Duration;

use lifeboat_vocabulary::{Lsn, UtcTime, WalPosition};

use crate::wal::latency::Latencies;

/// Commits closer together than this count as one, as old as the first of them.
const WIDTH: Duration = Duration::from_millis(5);
/// The buckets that are kept before they get wider: with a region away for long, memory grows with the logarithm of time.
const BUCKETS: usize = 32_768;

/// Some commits that were made in a row.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Time of the first.
    first: UtcTime,
    /// End of the last one's record.
    end: WalPosition,
}

/// What holds commits: a region, or the quorum.
#[derive(Clone, Debug, Default)]
struct Holder {
    /// Count of the first bucket that it does not hold, from the beginning.
    next: u64,
    latencies: Latencies,
}

/// The commits that somebody does not hold yet, and how long the others took.
#[derive(Clone, Debug)]
pub(crate) struct CommitClock {
    buckets: VecDeque<Bucket>,
    /// Count of the bucket in front, from the beginning.
    front: u64,
    width: Duration,
    holders: Vec<Holder>,
}

impl CommitClock {
    /// A clock for this many holders, numbered from 0.
    #[must_use]
    pub(crate) fn new(holders: usize) -> Self {
        Self { buckets: VecDeque::new(), front: 0, width: WIDTH, holders: vec![Holder::default(); holders] }
    }

    /// A commit: the end of its record, and the server's time in it. Commits come in the order of the WAL.
    pub(crate) fn committed(&mut self, end: WalPosition, time: UtcTime) {
        // A bucket that somebody holds already takes no more.
        let count = self.front + self.buckets.len() as u64;
        let open = self.holders.iter().all(|holder| holder.next < count);
        if let Some(last) = self.buckets.back_mut()
            && open
            && last.end.timeline == end.timeline
            && time.since(last.first) < self.width
        {
            last.end = end;
            return;
        }
        if self.buckets.len() >= BUCKETS {
            // A bucket that grows wider makes ages look greater than they are, never smaller.
            self.width *= 2;
            self.halve();
        }
        self.buckets.push_back(Bucket { first: time, end });
    }

    /// Two neighbours become one.
    fn halve(&mut self) {
        let old = std::mem::take(&mut self.buckets);
        let mut counts = Vec::with_capacity(self.holders.len());
        for holder in &self.holders {
            counts.push(holder.next.saturating_sub(self.front));
        }
        let mut pairs = old.into_iter().peekable();
        while let Some(first) = pairs.next() {
            match pairs.next_if(|second| second.end.timeline == first.end.timeline) {
                Some(second) => self.buckets.push_back(Bucket { first: first.first, end: second.end }),
                None => self.buckets.push_back(first),
            }
        }
        // Rounded down: a bucket that is half held is not held.
        for (holder, count) in self.holders.iter_mut().zip(counts) {
            holder.next = self.front + count / 2;
        }
    }

    /// `holder` has everything up to `durable`, and had it at `now` (by the server's clock).
    pub(crate) fn durable(&mut self, holder: usize, durable: WalPosition, now: UtcTime) {
        let Some(holder) = self.holders.get_mut(holder) else { return };
        while let Some(bucket) = usize::try_from(holder.next - self.front).ok().and_then(|at| self.buckets.get(at)) {
            if !covers(durable, bucket.end) {
                break;
            }
            holder.latencies.note(now.since(bucket.first));
            holder.next += 1;
        }
        let held_by_all = self.holders.iter().map(|holder| holder.next).min().unwrap_or(self.front);
        while self.front < held_by_all && self.buckets.pop_front().is_some() {
            self.front += 1;
        }
        if self.buckets.is_empty() {
            self.width = WIDTH;
        }
    }

    /// The age of the oldest commit that `holder` does not hold; zero if it holds all of them.
    #[must_use]
    pub(crate) fn exposure(&self, holder: usize, now: UtcTime) -> Duration {
        let next = self.holders.get(holder).and_then(|holder| usize::try_from(holder.next - self.front).ok());
        next.and_then(|at| self.buckets.get(at)).map_or(Duration::ZERO, |bucket| now.since(bucket.first))
    }

    /// How long commits took to get to `holder`.
    #[must_use]
    pub(crate) fn latencies(&self, holder: usize) -> Option<&Latencies> {
        self.holders.get(holder).map(|holder| &holder.latencies)
    }
}

/// Whether `durable` includes `end`. What lies on an earlier timeline was sent before anything of a later one.
fn covers(durable: WalPosition, end: WalPosition) -> bool {
    let at = |position: WalPosition| -> (u32, Lsn) { (position.timeline.get(), position.lsn) };
    at(durable) >= at(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_vocabulary::TimelineId;
    use proptest::prelude::*;

    fn at(timeline: u32, lsn: u64) -> WalPosition {
        WalPosition { timeline: TimelineId::new(timeline).unwrap(), lsn: Lsn::from_bytes(lsn).unwrap() }
    }

    fn time(millis: i64) -> UtcTime {
        UtcTime::from_unix_micros(1_800_000_000_000_000 + millis * 1000).unwrap()
    }

    #[test]
    fn commits_age_until_the_holder_has_them() {
        let mut clock = CommitClock::new(2);
        assert_eq!(clock.exposure(0, time(5)), Duration::ZERO, "nothing was committed");
        clock.committed(at(1, 100), time(0));
        clock.committed(at(1, 200), time(300));
        assert_eq!(clock.exposure(0, time(1000)), Duration::from_secs(1));
        clock.durable(0, at(1, 150), time(1000));
        assert_eq!(clock.exposure(0, time(1000)), Duration::from_millis(700), "the second is left");
        assert_eq!(clock.exposure(1, time(1000)), Duration::from_secs(1), "the other holder has none");
        clock.durable(0, at(1, 200), time(1100));
        assert_eq!(clock.exposure(0, time(9000)), Duration::ZERO);
        clock.durable(1, at(2, 1), time(2000));
        assert_eq!(clock.exposure(1, time(9000)), Duration::ZERO, "a later timeline has the earlier one behind it");
        assert_eq!(clock.latencies(0).unwrap().max(), Duration::from_secs(1));
        assert!(clock.buckets.is_empty());
    }

    #[test]
    fn many_commits_are_few_buckets_and_the_oldest_stays_the_oldest() {
        let mut clock = CommitClock::new(1);
        for i in 0..400_000_u32 {
            clock.committed(at(1, u64::from(i) + 1), time(i64::from(i) * 10));
        }
        assert!(clock.buckets.len() <= BUCKETS);
        assert_eq!(clock.exposure(0, time(4_000_000)), Duration::from_secs(4000));
        clock.durable(0, at(1, 200_000), time(4_000_000));
        let left = clock.exposure(0, time(4_000_000));
        assert!(left >= Duration::from_secs(2000), "never younger than it is: {left:?}");
        assert!(left <= Duration::from_secs(2001), "{left:?}");
    }

    proptest! {
        #[test]
        fn exposure_is_never_less_than_the_truth(
            steps in proptest::collection::vec((1u64..50, 0i64..20, any::<bool>()), 1..200)
        ) {
            let mut clock = CommitClock::new(1);
            let (mut lsn, mut now, mut commits, mut held) = (1, 0, Vec::new(), 0);
            for (bytes, millis, ship) in steps {
                (lsn, now) = (lsn + bytes, now + millis);
                clock.committed(at(1, lsn), time(now));
                commits.push((lsn, now));
                if ship {
                    held = lsn;
                    clock.durable(0, at(1, held), time(now));
                }
                let truth = commits.iter().find(|(end, _)| *end > held).map_or(0, |(_, made)| now - made);
                let truth = Duration::from_millis(u64::try_from(truth).unwrap());
                let found = clock.exposure(0, time(now));
                prop_assert!(found >= truth && found <= truth + WIDTH, "{found:?} {truth:?}");
            }
        }
    }
}

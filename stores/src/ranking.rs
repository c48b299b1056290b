//! Which region to read from first.

use std::time::Duration;

use lifeboat_vocabulary::ByteCount;

use crate::wrappers::breaker_state::BreakerState;
use crate::wrappers::counters::{Metrics, MetricsSnapshot, Outcome};

/// What a region that nobody measured yet is taken for: near enough to be tried, not so near that it always wins.
const LATENCY_UNKNOWN: Duration = Duration::from_millis(100);
const THROUGHPUT_UNKNOWN: f64 = 50e6;

/// The expected **seconds** to read `size` from a region: latency plus transfer, times (1 + 4 x error rate), and a second
/// more for each failure that is to be expected, so that a region that fails at once does not look quick.
/// Smaller is better; infinite while its breaker is open.
#[must_use]
fn score(region: &MetricsSnapshot, breaker: BreakerState, size: ByteCount) -> f64 {
    if breaker == BreakerState::Open {
        return f64::INFINITY;
    }
    let latency = region.latency.unwrap_or(LATENCY_UNKNOWN).as_secs_f64();
    let throughput = region.throughput.unwrap_or(THROUGHPUT_UNKNOWN).max(1.0);
    // Objects have at most 64 MiB, so 32 bits always hold the size.
    let bytes = f64::from(u32::try_from(size.as_bytes()).unwrap_or(u32::MAX));
    (latency + bytes / throughput) * (1.0 + 4.0 * region.error_rate) + region.error_rate
}

/// Positions of `regions`, the best for reading `size` first. Equal ones stay in the order of the configuration; those
/// with an open breaker come last, because a last hope is better than none.
#[must_use]
fn ranked(regions: &[(MetricsSnapshot, BreakerState)], size: ByteCount) -> Vec<usize> {
    let mut order: Vec<(usize, f64)> =
        regions.iter().enumerate().map(|(index, (metrics, breaker))| (index, score(metrics, *breaker, size))).collect();
    order.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    order.into_iter().map(|(index, _)| index).collect()
}

/// Several regions, measured by one who reads from them; each is known by its place in the reader's list.
#[derive(Debug)]
pub struct Ranking(Vec<Metrics>);

impl Ranking {
    /// Nothing is known yet of `regions` regions.
    #[must_use]
    pub fn of(regions: usize) -> Self {
        Self(std::iter::repeat_with(Metrics::default).take(regions).collect())
    }

    /// All regions, the best for reading `size` first; equal ones in the order of the list. One that was not measured yet is
    /// tried before the others: nothing else will tell how it does.
    #[must_use]
    pub fn order(&self, size: ByteCount) -> Vec<usize> {
        let regions = self.0.iter().map(|region| {
            let mut seen = region.snapshot();
            if seen.latency.is_none() && seen.throughput.is_none() {
                (seen.latency, seen.throughput) = (Some(Duration::ZERO), Some(f64::MAX));
            }
            (seen, BreakerState::Closed)
        });
        ranked(&regions.collect::<Vec<_>>(), size)
    }

    /// A region gave `bytes` in `took`.
    pub fn answered(&self, region: usize, bytes: ByteCount, took: Duration) {
        if let Some(region) = self.0.get(region) {
            region.read(bytes, took, Outcome::Given);
        }
    }

    /// A region did not give what it was asked for.
    pub fn failed(&self, region: usize) {
        if let Some(region) = self.0.get(region) {
            region.read(ByteCount::ZERO, Duration::ZERO, Outcome::Failed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(millis: u64, megabytes_per_second: u32, error_rate: f64) -> MetricsSnapshot {
        MetricsSnapshot {
            latency: Some(Duration::from_millis(millis)),
            throughput: Some(f64::from(megabytes_per_second) * 1e6),
            error_rate,
            ..MetricsSnapshot::default()
        }
    }

    #[test]
    fn the_region_that_is_expected_to_be_fastest_comes_first() {
        use BreakerState::{Closed, HalfOpen, Open};
        let unknown = MetricsSnapshot::default();
        for (why, regions, size, expected) in [
            (
                "small: latency decides",
                vec![(region(80, 500, 0.0), Closed), (region(5, 10, 0.0), Closed)],
                1000,
                vec![1, 0],
            ),
            (
                "large: throughput",
                vec![(region(5, 10, 0.0), Closed), (region(80, 500, 0.0), Closed)],
                64 << 20,
                vec![1, 0],
            ),
            ("errors weigh", vec![(region(10, 100, 0.5), Closed), (region(20, 100, 0.0), Closed)], 1000, vec![1, 0]),
            ("open is last", vec![(region(1, 900, 0.0), Open), (region(900, 1, 0.9), HalfOpen)], 1000, vec![1, 0]),
            ("unknown is tried", vec![(region(300, 1, 0.0), Closed), (unknown, Closed)], 1 << 20, vec![1, 0]),
            ("equal keep their order", vec![(unknown, Closed), (unknown, Closed), (unknown, Open)], 5, vec![0, 1, 2]),
            ("none", vec![], 5, vec![]),
        ] {
            assert_eq!(ranked(&regions, ByteCount::from_bytes(size)), expected, "{why}");
        }
    }

    #[test]
    fn a_region_that_fails_or_is_slow_comes_later() {
        let (small, large) = (ByteCount::from_bytes(200), ByteCount::from_mib(1));
        let ranking = Ranking::of(3);
        assert_eq!(ranking.order(large), [0, 1, 2], "nothing is known");
        ranking.failed(0);
        assert_eq!(ranking.order(large), [1, 2, 0]);
        for (region, millis) in [(1, 80), (2, 20)] {
            ranking.answered(region, small, Duration::from_millis(millis / 4));
            ranking.answered(region, large, Duration::from_millis(millis));
        }
        assert_eq!(ranking.order(large), [2, 1, 0]);
        for _ in 0..20 {
            ranking.answered(0, small, Duration::from_millis(1));
            ranking.answered(0, large, Duration::from_millis(1));
        }
        assert_eq!(ranking.order(large), [0, 2, 1], "it has recovered");
        (0..20).for_each(|_| ranking.failed(0));
        assert_eq!(ranking.order(small), [2, 1, 0], "however quickly it fails");
    }

    #[test]
    fn every_region_is_tried_once() {
        let size = ByteCount::from_mib(1);
        let ranking = Ranking::of(3);
        ranking.answered(1, size, Duration::from_micros(5));
        assert_eq!(ranking.order(size), [0, 2, 1]);
        ranking.failed(0);
        assert_eq!(ranking.order(size), [2, 1, 0]);
    }

    #[test]
    fn small_objects_say_nothing_about_how_large_ones_come() {
        let (small, large) = (ByteCount::from_bytes(200), ByteCount::from_mib(16));
        let ranking = Ranking::of(2);
        ranking.answered(0, small, Duration::from_millis(30));
        ranking.answered(0, large, Duration::from_millis(100));
        ranking.answered(1, small, Duration::from_millis(10));
        ranking.answered(1, large, Duration::from_secs(2));
        (0..50).for_each(|_| ranking.answered(0, small, Duration::from_millis(30)));
        assert_eq!(ranking.order(small), [1, 0]);
        assert_eq!(ranking.order(large), [0, 1]);
    }
}

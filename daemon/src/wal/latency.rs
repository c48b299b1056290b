//! How long things took, in constant memory: counts per bucket, each an eighth wider than its neighbour.

use std::time::Duration;

/// Eight buckets per doubling, from 1 ms to about 18 h.
const PER_DOUBLING: u32 = 8;
const DOUBLINGS: u32 = 26;
const BUCKETS: usize = (PER_DOUBLING * DOUBLINGS) as usize;

/// Durations that were noted.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    counts: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], count: 0, max: Duration::ZERO }
    }
}

impl Latencies {
    /// Counts one.
    pub(crate) fn note(&mut self, took: Duration) {
        let last = BUCKETS - 1;
        if let Some(count) = self.counts.get_mut(bucket(took).min(last)) {
            *count += 1;
        }
        self.count += 1;
        self.max = self.max.max(took);
    }

    /// How many were noted.
    #[must_use]
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The longest.
    #[must_use]
    pub(crate) fn max(&self) -> Duration {
        self.max
    }

    /// What `percent` of them (1 to 100) did not exceed; at most an eighth too long, never longer than the longest.
    #[must_use]
    pub(crate) fn percentile(&self, percent: u64) -> Duration {
        let wanted = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && *count > 0 {
                return upper_bound(index).min(self.max);
            }
        }
        self.max
    }
}

/// Microseconds in units of 125: below a millisecond there is one bucket per unit.
fn bucket(took: Duration) -> usize {
    let units = took.as_micros() / 125;
    let Some(top) = units.checked_ilog2().filter(|top| *top >= 3) else {
        return usize::try_from(units).unwrap_or(0);
    };
    let part = (units >> (top - 3)) - 8;
    let index = u128::from(top - 3) * u128::from(PER_DOUBLING) + u128::from(PER_DOUBLING) + part;
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn upper_bound(index: usize) -> Duration {
    let index = u64::try_from(index).unwrap_or(u64::MAX);
    if index < 8 {
        return Duration::from_micros((index + 1) * 125);
    }
    let (doubling, part) = (index / 8 - 1, index % 8);
    let units = (8 + part + 1).checked_shl(u32::try_from(doubling).unwrap_or(u32::MAX)).unwrap_or(u64::MAX >> 10);
    Duration::from_micros(units.saturating_mul(125))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_histogram_reports_zero() {
        let none = Latencies::default();
        assert_eq!((none.count(), none.percentile(99), none.max()), (0, Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_list_within_an_eighth() {
        let mut noted = Latencies::default();
        for millis in (1..=1000).rev() {
            noted.note(Duration::from_millis(millis));
        }
        for (percent, exact) in [(50, 500), (99, 990), (100, 1000), (1, 10)] {
            let found = noted.percentile(percent).as_millis();
            assert!((exact..=exact + exact / 8 + 1).contains(&found), "p{percent}: {found}");
        }
    }

    proptest! {
        #[test]
        fn every_duration_lies_in_its_bucket(micros in 0u64..100_000_000_000) {
            let took = Duration::from_micros(micros);
            let index = bucket(took);
            prop_assert!(took <= upper_bound(index));
            prop_assert!(index == 0 || took >= upper_bound(index - 1), "{took:?} {index}");
            prop_assert!(upper_bound(index) <= took + took / 8 + Duration::from_micros(125));
        }
    }
}

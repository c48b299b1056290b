//! Which region to read from first: measured while reading.

use std::time::Duration;

use parking_lot::Mutex;

/// Weight of the newest measurement in a region's averages.
const NEWEST: f64 = 0.2;

/// Speed and failures of several regions, each known by its place in the caller's list.
#[derive(Debug)]
pub(crate) struct RegionHealth(Mutex<Vec<Health>>);

#[derive(Debug, Clone, Copy, Default)]
struct Health {
    seconds_per_mib: f64,
    errors: f64,
}

impl Health {
    fn score(self) -> f64 {
        self.seconds_per_mib * (1.0 + 4.0 * self.errors) + self.errors
    }

    fn learn(&mut self, seconds_per_mib: Option<f64>) {
        match seconds_per_mib {
            Some(seconds) if self.seconds_per_mib == 0.0 => self.seconds_per_mib = seconds,
            Some(seconds) => self.seconds_per_mib += NEWEST * (seconds - self.seconds_per_mib),
            None => {}
        }
        let failed = if seconds_per_mib.is_none() { 1.0 } else { 0.0 };
        self.errors += NEWEST * (failed - self.errors);
    }
}

impl RegionHealth {
    /// Nothing is known yet of `regions` regions.
    pub(crate) fn of(regions: usize) -> Self {
        Self(Mutex::new(vec![Health::default(); regions]))
    }

    /// All regions, the best first; equal ones in the order of the list.
    pub(crate) fn order(&self) -> Vec<usize> {
        let health = self.0.lock();
        let mut order: Vec<usize> = (0..health.len()).collect();
        order.sort_by(|a, b| {
            let score = |index: &usize| health.get(*index).copied().unwrap_or_default().score();
            score(a).total_cmp(&score(b)).then(a.cmp(b))
        });
        order
    }

    /// A region gave `bytes` bytes in `time`.
    pub(crate) fn answered(&self, region: usize, bytes: usize, time: Duration) {
        let mib = (bytes.max(1) as f64) / f64::from(1 << 20);
        self.learn(region, Some(time.as_secs_f64() / mib));
    }

    /// A region did not give what it was asked for.
    pub(crate) fn failed(&self, region: usize) {
        self.learn(region, None);
    }

    fn learn(&self, region: usize, seconds_per_mib: Option<f64>) {
        if let Some(health) = self.0.lock().get_mut(region) {
            health.learn(seconds_per_mib);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_that_fails_or_is_slow_comes_later() {
        let health = RegionHealth::of(3);
        assert_eq!(health.order(), [0, 1, 2], "nothing is known");
        health.failed(0);
        assert_eq!(health.order(), [1, 2, 0]);
        health.answered(1, 1 << 20, Duration::from_millis(80));
        health.answered(2, 1 << 20, Duration::from_millis(20));
        assert_eq!(health.order(), [2, 1, 0]);
        (0..20).for_each(|_| health.answered(0, 1 << 20, Duration::from_millis(1)));
        assert_eq!(health.order(), [0, 2, 1], "it has recovered");
    }
}

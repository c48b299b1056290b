//! What one run cost, and what many runs say together.

use serde::Serialize;

/// What one run used of the machine.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Cost {
    /// Seconds from start to end.
    pub(crate) wall_seconds: f64,
    /// Processor seconds of the command and everything that it started.
    pub(crate) cpu_seconds: f64,
    /// Of these, in the kernel.
    pub(crate) kernel_seconds: f64,
    /// Processor seconds of the PostgreSQL server.
    pub(crate) postgres_cpu_seconds: f64,
    /// Processor seconds of the S3 servers, which also terminate TLS.
    pub(crate) region_cpu_seconds: f64,
    /// Processor seconds of everybody else.
    pub(crate) other_cpu_seconds: f64,
    /// The most memory of a single process, in bytes.
    pub(crate) largest_process_bytes: u64,
    /// The most memory of all processes together, in bytes: sampled, shared pages counted in each.
    pub(crate) all_processes_bytes: u64,
}

impl Cost {
    /// Whether other processes took no more than `percent` of the command's own processor time.
    pub(crate) fn is_clean(&self, percent: u32) -> bool {
        self.other_cpu_seconds * 100.0 <= self.cpu_seconds * f64::from(percent)
    }
}

/// One run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Run {
    /// What it used of the machine.
    #[serde(flatten)]
    pub(crate) cost: Cost,
    /// Bytes in the tool's buckets afterwards, all regions together.
    pub(crate) stored_bytes: u64,
    /// Objects there.
    pub(crate) objects: u64,
    /// Requests to all regions.
    pub(crate) requests: u64,
}

/// The middle of several measurements, and how far they went.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// The middle one; the mean of the two middle ones of an even number.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Spread {
    /// Of any measurements; `None` if there are none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let lower = if values.len().is_multiple_of(2) { *values.get(middle.checked_sub(1)?)? } else { upper };
        Some(Self { median: f64::midpoint(lower, upper), min: *values.first()?, max: *values.last()? })
    }
}

/// How many times `other` is `own`; `None` where a ratio says nothing.
pub(crate) fn ratio(other: f64, own: f64) -> Option<f64> {
    (own > 0.0).then(|| other / own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_measurements_have_no_median_and_no_ratio_is_to_zero() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(ratio(1.0, 0.0), None);
    }

    #[test]
    fn the_median_ignores_one_outlier() {
        for (values, expected) in [
            (vec![3.0], (3.0, 3.0, 3.0)),
            (vec![9.0, 1.0], (5.0, 1.0, 9.0)),
            (vec![2.0, 100.0, 1.0], (2.0, 1.0, 100.0)),
            (vec![4.0, 1.0, 3.0, 2.0], (2.5, 1.0, 4.0)),
        ] {
            let (median, min, max) = expected;
            assert_eq!(Spread::of(values.clone()), Some(Spread { median, min, max }), "{values:?}");
        }
        assert_eq!(ratio(6.0, 2.0), Some(3.0));
    }

    #[test]
    fn a_run_beside_another_busy_program_is_not_clean() {
        let run = |other| Cost { cpu_seconds: 20.0, other_cpu_seconds: other, ..Cost::default() };
        assert!(!run(2.1).is_clean(10));
        assert!(run(2.0).is_clean(10));
        assert!(run(2.1).is_clean(11));
    }
}

//! What a disaster would have cost at each moment, and how long WAL took to where it is safe: from what the server said
//! and from when objects were in the regions. Nothing here is a tool's own account.

use serde::Serialize;

/// What the server had flushed at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// **Microseconds** since 1970.
    pub(crate) at: i64,
    /// WAL position.
    pub(crate) flushed: u64,
}

/// A piece of WAL that is in a region: from `start` up to, but not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Since when, in **microseconds** since 1970.
    pub(crate) at: i64,
    /// WAL position.
    pub(crate) start: u64,
    /// WAL position.
    pub(crate) end: u64,
}

/// From a moment on, everything up to a position was stored without a hole. A list of them ascends in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// **Microseconds** since 1970.
    pub(crate) at: i64,
    /// WAL position.
    pub(crate) end: u64,
}

/// How many regions must hold something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InRegions {
    /// One is enough.
    Any,
    /// All of them.
    All,
}

/// How far one region had everything behind `from`, over time. What arrives out of order counts once the hole is filled.
pub(crate) fn steps(from: u64, mut stored: Vec<Stored>) -> Vec<Step> {
    stored.sort_by_key(|piece| (piece.at, piece.start));
    let (mut steps, mut waiting, mut end) = (Vec::new(), Vec::<Stored>::new(), from);
    for piece in stored {
        waiting.push(piece);
        let before = end;
        while let Some(next) = waiting.iter().position(|piece| piece.start <= end) {
            end = end.max(waiting.swap_remove(next).end);
        }
        if end > before {
            steps.push(Step { at: piece.at, end });
        }
    }
    steps
}

/// The same of several regions together; before its first step a region holds up to `from`.
pub(crate) fn together(from: u64, regions: &[Vec<Step>], wanted: InRegions) -> Vec<Step> {
    let mut events: Vec<(i64, usize, u64)> = Vec::new();
    for (region, steps) in regions.iter().enumerate() {
        events.extend(steps.iter().map(|step| (step.at, region, step.end)));
    }
    events.sort_unstable();
    let mut ends = vec![from; regions.len()];
    let (mut steps, mut end) = (Vec::new(), from);
    for (at, region, reached) in events {
        if let Some(own) = ends.get_mut(region) {
            *own = reached;
        }
        let now = match wanted {
            InRegions::Any => ends.iter().copied().max(),
            InRegions::All => ends.iter().copied().min(),
        };
        if let Some(now) = now.filter(|now| *now > end) {
            end = now;
            steps.push(Step { at, end });
        }
    }
    steps
}

/// When everything up to `position` was stored; `None` if it never was.
pub(crate) fn reached(steps: &[Step], position: u64) -> Option<i64> {
    let index = steps.partition_point(|step| step.end < position);
    steps.get(index).map(|step| step.at)
}

/// At each sample: the age in **seconds** of the oldest sample beyond what was stored then, 0 if there was none. Before
/// the first step everything up to `from` is stored.
pub(crate) fn exposures(from: u64, samples: &[Sample], steps: &[Step]) -> Vec<f64> {
    let (mut oldest, mut stored) = (0, from);
    let mut exposures = Vec::with_capacity(samples.len());
    for sample in samples {
        let passed = steps.partition_point(|step| step.at <= sample.at);
        stored = passed.checked_sub(1).and_then(|last| steps.get(last)).map_or(stored, |step| step.end);
        while samples.get(oldest).is_some_and(|old| old.flushed <= stored) {
            oldest += 1;
        }
        let exposed = samples.get(oldest).filter(|old| old.at <= sample.at);
        exposures.push(exposed.map_or(0.0, |old| seconds_between(old.at, sample.at)));
    }
    exposures
}

/// For each sample with new WAL that was stored in the end: how many **seconds** later that was.
pub(crate) fn latencies(samples: &[Sample], steps: &[Step]) -> Vec<f64> {
    let pairs = samples.iter().zip(samples.iter().skip(1));
    let new = pairs.filter(|(before, sample)| sample.flushed > before.flushed).map(|(_, sample)| sample);
    new.filter_map(|sample| Some(seconds_between(sample.at, reached(steps, sample.flushed)?))).collect()
}

/// 0 if `to` is earlier.
pub(crate) fn seconds_between(from: i64, to: i64) -> f64 {
    to.saturating_sub(from).max(0) as f64 / 1e6
}

/// How a list of delays is spread, in **seconds**.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Delays {
    /// Half of them are no longer.
    pub(crate) p50: f64,
    /// Of a hundred, 99 are no longer.
    pub(crate) p99: f64,
    /// The longest.
    pub(crate) max: f64,
    /// How many there were.
    pub(crate) count: u64,
}

impl Delays {
    /// By nearest rank; all 0 if there are none.
    pub(crate) fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let rank = |percent: usize| {
            let index = (seconds.len() * percent).div_ceil(100).saturating_sub(1);
            seconds.get(index).copied().unwrap_or(0.0)
        };
        Self { p50: rank(50), p99: rank(99), max: rank(100), count: seconds.len() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn stored(at: i64, start: u64, end: u64) -> Stored {
        Stored { at: at * SECOND, start, end }
    }

    fn step(at: i64, end: u64) -> Step {
        Step { at: at * SECOND, end }
    }

    #[test]
    fn what_lies_behind_a_hole_does_not_count_until_it_is_filled() {
        for (why, pieces, expected) in [
            ("nothing", vec![], vec![]),
            ("a hole", vec![stored(1, 200, 300)], vec![]),
            ("filled later", vec![stored(2, 200, 300), stored(5, 100, 200)], vec![step(5, 300)]),
            ("in order", vec![stored(1, 100, 200), stored(2, 200, 300)], vec![step(1, 200), step(2, 300)]),
            ("all of it earlier than what is asked for", vec![stored(1, 0, 100)], vec![]),
            (
                "a part and then the whole",
                vec![stored(1, 100, 150), stored(3, 96, 200)],
                vec![step(1, 150), step(3, 200)],
            ),
            ("the whole and then a part", vec![stored(1, 96, 200), stored(3, 100, 150)], vec![step(1, 200)]),
            ("not sorted", vec![stored(2, 200, 300), stored(1, 100, 200)], vec![step(1, 200), step(2, 300)]),
        ] {
            assert_eq!(steps(100, pieces), expected, "{why}");
        }
    }

    #[test]
    fn all_regions_have_what_the_slowest_has_and_any_what_the_fastest_has() {
        let (first, second) = (vec![step(1, 200), step(4, 400)], vec![step(2, 300), step(9, 400)]);
        let both = [first, second];
        assert_eq!(together(100, &both, InRegions::Any), [step(1, 200), step(2, 300), step(4, 400)]);
        assert_eq!(together(100, &both, InRegions::All), [step(2, 200), step(4, 300), step(9, 400)]);
        assert_eq!(together(100, &[both[0].clone(), vec![]], InRegions::All), []);
        assert_eq!(reached(&both[0], 200), Some(SECOND));
        assert_eq!(reached(&both[0], 201), Some(4 * SECOND));
        assert_eq!(reached(&both[0], 401), None);
    }

    #[test]
    fn exposure_is_the_age_of_the_oldest_wal_that_is_nowhere_else() {
        let sample = |at: i64, flushed| Sample { at: at * SECOND, flushed };
        let samples = [sample(0, 100), sample(1, 110), sample(2, 120), sample(3, 120), sample(4, 130), sample(5, 130)];
        let steps = [step(2, 110), step(4, 130)];
        // At 3 s the sample of 2 s is the oldest that is stored nowhere; at 4 s everything is stored.
        assert_eq!(exposures(100, &samples, &steps), [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(exposures(99, &samples, &steps), [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(exposures(100, &samples, &[]), [0.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(latencies(&samples, &steps), [1.0, 2.0, 0.0]);
        assert_eq!(latencies(&samples, &[step(2, 110)]), [1.0], "what never arrives has no delay");
        assert_eq!(latencies(&samples, &[step(0, 500)]), [0.0, 0.0, 0.0], "stored before the sample was taken");
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        assert_eq!(Delays::of(vec![]), Delays::default());
        let hundred = Delays::of((1..=100).rev().map(f64::from).collect());
        assert_eq!(hundred, Delays { p50: 50.0, p99: 99.0, max: 100.0, count: 100 });
        assert_eq!(Delays::of(vec![7.0]), Delays { p50: 7.0, p99: 7.0, max: 7.0, count: 1 });
    }
}

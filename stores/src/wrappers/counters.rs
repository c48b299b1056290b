//! What one region was asked, how often it failed, and how fast it is.

use std::time::Duration;

use lifeboat_vocabulary::{ByteCount, UtcTime, error_chain};
use parking_lot::Mutex;

use crate::error::StoreError;

/// What a store can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Write an object.
    Put,
    /// Read an object.
    Get,
    /// Look at an object.
    Head,
    /// List keys.
    List,
    /// Remove an object.
    Delete,
}

impl Operation {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 5] = [Self::Put, Self::Get, Self::Head, Self::List, Self::Delete];

    /// The name as a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Put => 0,
            Self::Get => 1,
            Self::Head => 2,
            Self::List => 3,
            Self::Delete => 4,
        }
    }
}

/// Counters of one kind of request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationCounts {
    /// Requests that came to an end, each attempt by itself.
    pub requests: u64,
    /// Of these, the ones that failed. `NotFound`, `Conflict` and `Locked` are answers and do not count.
    pub errors: u64,
}

/// Upper bounds in **seconds** of the buckets that durations are counted in; a last bucket takes the rest.
pub const DURATION_BOUNDS: [f64; 11] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// How long requests took, each attempt by itself, whether it failed or not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Durations {
    /// Requests per bucket of [`DURATION_BOUNDS`], and those that took longer.
    pub counts: [u64; DURATION_BOUNDS.len() + 1],
    /// All of them together, in **seconds**.
    pub sum_seconds: f64,
}

impl Durations {
    fn note(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let place = DURATION_BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(DURATION_BOUNDS.len());
        if let Some(count) = self.counts.get_mut(place) {
            *count += 1;
        }
        self.sum_seconds += seconds;
    }
}

/// What of a region's averages outlives the process, so that a restart does not begin with a blank page.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Averages {
    /// See [`MetricsSnapshot::latency`].
    pub latency: Option<Duration>,
    /// See [`MetricsSnapshot::throughput`].
    pub throughput: Option<f64>,
    /// See [`MetricsSnapshot::error_rate`].
    pub error_rate: f64,
}

/// Everything that is known about a region's behaviour, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MetricsSnapshot {
    /// Counters in the order of [`Operation::ALL`].
    pub operations: [OperationCounts; 5],
    /// Bytes of objects that were written.
    pub bytes_written: ByteCount,
    /// Bytes of objects that were read.
    pub bytes_read: ByteCount,
    /// Answers that asked us to slow down; also counted as errors.
    pub throttled: u64,
    /// Bodies that did not arrive as they were sent; also counted as errors.
    pub corrupted: u64,
    /// Requests that are under way.
    pub in_flight: u64,
    /// Moving average of how long small requests take; `None` until there was one.
    pub latency: Option<Duration>,
    /// Moving average of **bytes per second** of one transfer after the latency; `None` until there was a large one.
    pub throughput: Option<f64>,
    /// Moving average of the share of requests that fail: 0 to 1.
    pub error_rate: f64,
    /// The server's clock minus ours in **microseconds**, at the latest answer that told.
    pub clock_skew_micros: Option<i64>,
    /// How long requests took.
    pub durations: Durations,
}

impl MetricsSnapshot {
    /// The counters of one kind of request.
    #[must_use]
    pub fn of(&self, operation: Operation) -> OperationCounts {
        self.operations[operation.index()]
    }

    /// All requests together.
    #[must_use]
    pub fn total(&self) -> OperationCounts {
        self.operations.iter().fold(OperationCounts::default(), |sum, one| OperationCounts {
            requests: sum.requests + one.requests,
            errors: sum.errors + one.errors,
        })
    }
}

/// The counters of one region; cheap to read at any time.
#[derive(Debug, Default)]
pub struct Metrics {
    inner: Mutex<MetricsSnapshot>,
    failure: Mutex<Option<String>>,
}

/// The longest text of a failure that is kept, in characters.
const FAILURE_MAX: usize = 400;

/// How much one new observation moves an average.
const WEIGHT: f64 = 0.2;
/// Requests up to this size show the latency; larger ones the throughput.
const SMALL: ByteCount = ByteCount::from_bytes(64 << 10);

fn average(old: Option<f64>, new: f64) -> f64 {
    old.map_or(new, |old| old + WEIGHT * (new - old))
}

/// How a reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Given,
    Failed,
}

/// One request that came to an end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observation {
    pub(crate) operation: Operation,
    pub(crate) took: Duration,
    /// Bytes of the object that moved.
    pub(crate) bytes: ByteCount,
}

impl Metrics {
    /// The present counters.
    #[must_use]
    pub fn snapshot(&self) -> MetricsSnapshot {
        *self.inner.lock()
    }

    /// The error of the last request that failed, with its causes; `None` if none has failed. Those who ask look first
    /// whether requests fail at present.
    #[must_use]
    pub fn last_failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Takes over what an earlier process had learned. What this one has learned already stays.
    pub fn recall(&self, earlier: Averages) {
        let mut inner = self.inner.lock();
        inner.latency = inner.latency.or(earlier.latency);
        inner.throughput = inner.throughput.or(earlier.throughput.filter(|rate| rate.is_finite() && *rate > 0.0));
        if inner.total().requests == 0 {
            inner.error_rate = earlier.error_rate.clamp(0.0, 1.0);
        }
    }

    pub(crate) fn begin(&self) {
        self.inner.lock().in_flight += 1;
    }

    pub(crate) fn end(&self) {
        let mut inner = self.inner.lock();
        inner.in_flight = inner.in_flight.saturating_sub(1);
    }

    pub(crate) fn record(&self, seen: Observation, error: Option<&StoreError>) {
        let answer = |e: &StoreError| {
            matches!(e, StoreError::NotFound { .. } | StoreError::Conflict { .. } | StoreError::Locked { .. })
        };
        let failure = error.filter(|e| !answer(e));
        if let Some(failure) = failure {
            *self.failure.lock() = Some(in_words(failure));
        }
        let mut inner = self.inner.lock();
        inner.count(seen, failure);
        if error.is_none() {
            match seen.operation {
                Operation::Put => inner.bytes_written = inner.bytes_written.plus(seen.bytes),
                Operation::Get => inner.bytes_read = inner.bytes_read.plus(seen.bytes),
                Operation::Head | Operation::List | Operation::Delete => {}
            }
        }
    }

    /// One reading, as its reader judges it.
    pub(crate) fn read(&self, bytes: ByteCount, took: Duration, outcome: Outcome) {
        let seen = Observation { operation: Operation::Get, took, bytes };
        let mut inner = self.inner.lock();
        inner.error_rate = average(Some(inner.error_rate), f64::from(u8::from(outcome == Outcome::Failed)));
        if outcome == Outcome::Given {
            inner.learn_speed(seen);
        }
    }

    pub(crate) fn server_time(&self, server: UtcTime, ours: UtcTime) {
        self.inner.lock().clock_skew_micros = Some(server.as_unix_micros().saturating_sub(ours.as_unix_micros()));
    }
}

fn in_words(error: &StoreError) -> String {
    error_chain(error).chars().take(FAILURE_MAX).collect()
}

impl MetricsSnapshot {
    fn count(&mut self, seen: Observation, failure: Option<&StoreError>) {
        let counts = &mut self.operations[seen.operation.index()];
        counts.requests += 1;
        counts.errors += u64::from(failure.is_some());
        self.durations.note(seen.took);
        self.error_rate = average(Some(self.error_rate), f64::from(u8::from(failure.is_some())));
        match failure {
            Some(StoreError::Throttled { .. }) => self.throttled += 1,
            Some(StoreError::Corrupted { .. }) => self.corrupted += 1,
            // How fast a failure came says nothing about the speed of the region.
            Some(_) => {}
            None => self.learn_speed(seen),
        }
    }

    fn learn_speed(&mut self, seen: Observation) {
        if seen.bytes <= SMALL {
            let old = self.latency.map(|latency| latency.as_secs_f64());
            self.latency = Some(Duration::from_secs_f64(average(old, seen.took.as_secs_f64())));
            return;
        }
        // A transfer shorter than the latency of small requests was served from a buffer: half of it is credible.
        let latency = self.latency.unwrap_or_default().min(seen.took / 2);
        let seconds = (seen.took - latency).as_secs_f64().max(1e-6);
        let bytes = f64::from(u32::try_from(seen.bytes.as_bytes()).unwrap_or(u32::MAX));
        self.throughput = Some(average(self.throughput, bytes / seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(operation: Operation, millis: u64, bytes: u64) -> Observation {
        Observation { operation, took: Duration::from_millis(millis), bytes: ByteCount::from_bytes(bytes) }
    }

    #[test]
    fn the_last_failure_is_known_with_its_cause_and_answers_are_none() {
        let metrics = Metrics::default();
        assert_eq!(metrics.last_failure(), None);
        let gone = StoreError::NotFound { key: "a".parse().unwrap() };
        metrics.record(seen(Operation::Get, 1, 0), Some(&gone));
        assert_eq!(metrics.last_failure(), None, "an answer is no failure");
        let denied = |source: String| {
            let (doing, advice) = ("put a".to_owned(), "check the key".to_owned());
            StoreError::Misconfigured { doing, advice, source: source.into() }
        };
        metrics.record(seen(Operation::Put, 1, 0), Some(&denied("403 AccessDenied".to_owned())));
        assert_eq!(metrics.last_failure().as_deref(), Some("put a: check the key: 403 AccessDenied"));
        metrics.record(seen(Operation::Put, 1, 0), Some(&denied("ä".repeat(9000))));
        assert_eq!(metrics.last_failure().unwrap().chars().count(), FAILURE_MAX);
    }

    #[test]
    fn durations_fall_into_the_bucket_that_bounds_them() {
        let metrics = Metrics::default();
        for millis in [1, 10, 11, 700, 45_000] {
            metrics.record(seen(Operation::Get, millis, 0), None);
        }
        let durations = metrics.snapshot().durations;
        assert_eq!(durations.counts, [2, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]);
        assert!((durations.sum_seconds - 45.722).abs() < 1e-9);
    }

    #[test]
    fn what_an_earlier_process_learned_counts_until_there_is_something_newer() {
        let earlier = Averages { latency: Some(Duration::from_millis(80)), throughput: Some(5e6), error_rate: 0.5 };
        let metrics = Metrics::default();
        metrics.recall(earlier);
        let known = metrics.snapshot();
        assert_eq!((known.latency, known.throughput, known.error_rate), (earlier.latency, Some(5e6), 0.5));
        let metrics = Metrics::default();
        metrics.record(seen(Operation::Get, 10, 0), None);
        metrics.recall(earlier);
        let known = metrics.snapshot();
        assert_eq!((known.latency, known.error_rate), (Some(Duration::from_millis(10)), 0.0));
    }

    #[test]
    fn failures_count_as_errors_and_answers_do_not() {
        let metrics = Metrics::default();
        let key = || "a".parse().unwrap();
        let doing = String::new;
        metrics.record(seen(Operation::Get, 1, 0), Some(&StoreError::NotFound { key: key() }));
        metrics.record(seen(Operation::Put, 1, 0), Some(&StoreError::Conflict { key: key() }));
        assert_eq!(metrics.snapshot().error_rate, 0.0);
        let throttled = StoreError::Throttled { doing: doing(), retry_after: None };
        metrics.record(seen(Operation::Put, 1, 0), Some(&throttled));
        let corrupted = StoreError::Corrupted { doing: doing(), source: "x".into() };
        metrics.record(seen(Operation::Put, 1, 9), Some(&corrupted));
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.of(Operation::Put), OperationCounts { requests: 3, errors: 2 });
        assert_eq!(snapshot.of(Operation::Get), OperationCounts { requests: 1, errors: 0 });
        assert_eq!((snapshot.throttled, snapshot.corrupted), (1, 1));
        assert_eq!(snapshot.bytes_written, ByteCount::ZERO, "a failed write moved nothing");
        assert!(snapshot.error_rate > 0.3);
    }

    #[test]
    fn small_requests_show_the_latency_and_large_ones_the_throughput() {
        let metrics = Metrics::default();
        assert_eq!((metrics.snapshot().latency, metrics.snapshot().throughput), (None, None));
        metrics.record(seen(Operation::Put, 100, 1000), None);
        metrics.record(seen(Operation::Get, 1100, 16 << 20), None);
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.latency, Some(Duration::from_millis(100)));
        let throughput = snapshot.throughput.unwrap();
        assert!((throughput - f64::from(16 << 20)).abs() < 1.0, "{throughput}");
        for _ in 0..50 {
            metrics.record(seen(Operation::Head, 300, 0), None);
        }
        assert!(metrics.snapshot().latency.unwrap() > Duration::from_millis(295), "the average follows");
        assert_eq!(snapshot.bytes_written.plus(snapshot.bytes_read), ByteCount::from_bytes(1000 + (16 << 20)));
    }

    #[test]
    fn a_clock_that_differs_is_noted_with_its_sign() {
        let metrics = Metrics::default();
        let at = |micros| UtcTime::from_unix_micros(micros).unwrap();
        metrics.server_time(at(1_000_000), at(5_000_000));
        assert_eq!(metrics.snapshot().clock_skew_micros, Some(-4_000_000));
    }
}

//! The wrappers that every region gets, in the one order that makes sense.

use std::sync::Arc;

use lifeboat_vocabulary::{Clock, SystemClock};

use crate::lane::{Lane, Precedence};
use crate::settings::RegionSettings;
use crate::store::Store;
use crate::wrappers::breaker::WithBreaker;
use crate::wrappers::breaker_state::Breaker;
use crate::wrappers::counters::Metrics;
use crate::wrappers::limit::{Limits, WithLimit};
use crate::wrappers::metrics::WithMetrics;
use crate::wrappers::own_task::InOwnTask;
use crate::wrappers::retry::{Jitter, RandomJitter, RetryPolicy, WithRetry};

/// A store with its wrappers, and the handles that tell how the region is doing.
#[derive(Clone, Debug)]
pub struct Stack {
    /// The store to use.
    pub store: Arc<dyn Store>,
    /// Counts every attempt.
    pub metrics: Arc<Metrics>,
    /// Opens when operations keep failing that are not bulk data: it tells whether the region is there.
    pub breaker: Arc<Breaker>,
}

/// How the wrappers are set.
#[derive(Clone, Debug)]
pub struct StackOptions {
    /// Bounds per region.
    pub limits: Limits,
    /// Deadline, and which keys nobody else can have written.
    pub retry: RetryPolicy,
    /// Chance for the pauses.
    pub jitter: Arc<dyn Jitter>,
    /// The lane of a key, or of the prefix of a listing.
    pub lane: fn(&str) -> Lane,
    /// What is urgent, in all regions of this process: they share its line.
    pub precedence: Arc<Precedence>,
}

impl StackOptions {
    /// The region's own bounds and patience; everything in one lane, and nothing else of this process on the line.
    #[must_use]
    pub fn of(settings: &RegionSettings) -> Self {
        Self {
            limits: Limits { concurrency: settings.max_concurrency, bandwidth: settings.max_bandwidth },
            retry: RetryPolicy { deadline: settings.patience, ..RetryPolicy::default() },
            jitter: Arc::new(RandomJitter),
            lane: |_| Lane::Urgent,
            precedence: Arc::default(),
        }
    }

    /// For tests: so many requests at once, and pauses that are over soon.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn with_short_pauses(concurrency: u16) -> Self {
        Self {
            limits: Limits { concurrency, bandwidth: None },
            retry: RetryPolicy::default(),
            jitter: Arc::new(crate::wrappers::retry::FixedJitter(0.01)),
            lane: |_| Lane::Urgent,
            precedence: Arc::default(),
        }
    }
}

/// Puts the wrappers around a bare store: own task(breaker(retry(limit(metrics(store))))).
///
/// - **Metrics** innermost: they see every attempt, and measure the region and not the queue before it.
/// - **Limit** inside retry: an operation that pauses before its next attempt holds no permit meanwhile.
/// - **Breaker** outermost: it judges operations that failed after all their attempts. Further in, one short blip under
///   eight parallel uploads would open it at once, and the attempts that were about to succeed would be refused. Bulk data has
///   one of its own, inside of that for everything: packs that time out on a narrow line do not keep WAL from the region.
/// - Around all of it **a task for each request**: one that holds a turn goes on also while its caller awaits another one.
#[must_use]
pub fn standard_stack(store: Arc<dyn Store>, options: StackOptions) -> Stack {
    standard_stack_with(store, options, Arc::new(SystemClock))
}

/// As [`standard_stack`]; the region's clock is compared with this one.
#[must_use]
pub fn standard_stack_with(store: Arc<dyn Store>, options: StackOptions, clock: Arc<dyn Clock>) -> Stack {
    let metrics = Arc::<Metrics>::default();
    let breaker = Breaker::new();
    let store = WithMetrics::new(store, Arc::clone(&metrics), clock);
    let store = WithLimit::new(Arc::new(store), options.limits, options.lane, options.precedence);
    let store = WithRetry::new(Arc::new(store), options.retry, options.jitter);
    let store = WithBreaker::new(Arc::new(store), Arc::clone(&breaker), options.lane);
    let store = InOwnTask::new(Arc::new(store));
    Stack { store: Arc::new(store), metrics, breaker }
}

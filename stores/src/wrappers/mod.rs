//! Stores around stores: retries, breaker, limits, metrics, and faults for tests.

pub(crate) mod breaker;
pub(crate) mod breaker_state;
pub(crate) mod counters;
#[cfg(feature = "testing")]
pub(crate) mod faults;
#[cfg(feature = "testing")]
pub(crate) mod hooks;
pub(crate) mod limit;
pub(crate) mod metrics;
pub(crate) mod own_task;
pub(crate) mod retry;

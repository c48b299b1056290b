//! The clocks of the simulation: one time for all, and a difference for each host.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use lifeboat_vocabulary::{Clock, UtcTime};
use tokio::time::Instant;

/// 2026-11-20 06:00 UTC, in microseconds since 1970: far enough from midnight for an hour.
const BEGIN_MICROS: i64 = 1_795_154_400_000_000;

/// The clock of a host or a region. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct HostClock {
    begun: Instant,
    /// Microseconds that it is ahead.
    ahead: Arc<AtomicI64>,
}

impl HostClock {
    /// A clock that is right, beside another one.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { begun: self.begun, ahead: Arc::default() }
    }

    /// The first clock: time begins.
    #[must_use]
    pub fn begin() -> Self {
        Self { begun: Instant::now(), ahead: Arc::default() }
    }

    /// Sets it wrong by so many seconds.
    pub fn set_ahead(&self, seconds: i64) {
        self.ahead.store(seconds * 1_000_000, Ordering::Relaxed);
    }
}

impl Clock for HostClock {
    fn now(&self) -> UtcTime {
        let passed = i64::try_from(self.begun.elapsed().as_micros()).unwrap_or(i64::MAX / 4);
        let micros = BEGIN_MICROS + passed + self.ahead.load(Ordering::Relaxed);
        UtcTime::from_unix_micros(micros).expect("the simulation does not last for thousands of years")
    }
}

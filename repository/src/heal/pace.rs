//! How fast bytes may move: work in the background takes no more than its share.

use std::time::Duration;

use lifeboat_vocabulary::ByteCount;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// A bound in **bytes per second**, shared by all that move bytes under it.
///
/// Moving an object waits until the objects before it would have passed at this rate. So the bound holds on
/// average, and never more than one object is ahead of it.
#[derive(Debug)]
pub struct Pace {
    rate: Option<ByteCount>,
    next_free: Mutex<Option<Instant>>,
}

impl Pace {
    /// At most `rate` bytes per second; `None` for no bound. Less than one byte per second is one.
    #[must_use]
    pub fn new(rate: Option<ByteCount>) -> Self {
        Self { rate, next_free: Mutex::new(None) }
    }

    /// Waits until `bytes` may move. Dropping the future gives nothing back: they count as moved.
    pub(crate) async fn take(&self, bytes: ByteCount) {
        if let Some(start) = self.book(bytes) {
            sleep_until(start).await;
        }
    }

    fn book(&self, bytes: ByteCount) -> Option<Instant> {
        let rate = self.rate?.as_bytes().max(1);
        let micros = u128::from(bytes.as_bytes()) * 1_000_000 / u128::from(rate);
        let takes = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        let mut next_free = self.next_free.lock();
        let now = Instant::now();
        let start = next_free.map_or(now, |free| free.max(now));
        *next_free = start.checked_add(takes).or(Some(start));
        Some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_passes_than_the_rate_allows_and_idle_time_is_not_saved_up() {
        let pace = Pace::new(Some(ByteCount::from_mib(10)));
        let begin = Instant::now();
        for _ in 0..6 {
            pace.take(ByteCount::from_mib(5)).await;
        }
        assert_eq!(begin.elapsed(), Duration::from_millis(2500), "the sixth waits for the five before it");
        tokio::time::sleep(Duration::from_secs(60)).await;
        let after = Instant::now();
        pace.take(ByteCount::from_mib(5)).await;
        pace.take(ByteCount::from_mib(5)).await;
        assert_eq!(after.elapsed(), Duration::from_millis(500), "a minute of rest buys nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_bound_nothing_waits() {
        let pace = Pace::new(None);
        let begin = Instant::now();
        pace.take(ByteCount::from_mib(1 << 20)).await;
        pace.take(ByteCount::from_mib(1 << 20)).await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}

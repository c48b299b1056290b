//! How far a healing has come, for people who wait for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lifeboat_vocabulary::ByteCount;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Counters that a running healing or scrub moves. What is to be done is added as it becomes known.
#[derive(Debug, Default)]
pub struct HealProgress {
    total: AtomicU64,
    done: AtomicU64,
    objects: AtomicU64,
    objects_total: AtomicU64,
    doing: Mutex<String>,
    began: Mutex<Option<Instant>>,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealSnapshot {
    /// Bytes that are to be moved, as far as is known.
    pub total: ByteCount,
    /// Bytes that were moved, or turned out to be there.
    pub done: ByteCount,
    /// Objects that were moved, or turned out to be there.
    pub objects: u64,
    /// Objects that are to be moved, as far as is known.
    pub objects_total: u64,
    /// What is being done.
    pub doing: String,
    /// Since the first byte was expected.
    pub elapsed: Duration,
    /// How long it takes from now on, if it goes on like this; `None` while it is unknown.
    pub left: Option<Duration>,
}

impl HealProgress {
    /// More is to be done: so many objects with so many bytes.
    pub fn expect(&self, objects: u64, bytes: ByteCount) {
        self.began.lock().get_or_insert_with(Instant::now);
        self.objects_total.fetch_add(objects, Ordering::Relaxed);
        self.total.fetch_add(bytes.as_bytes(), Ordering::Relaxed);
    }

    /// One object of this size is done.
    pub fn did(&self, bytes: ByteCount) {
        self.done.fetch_add(bytes.as_bytes(), Ordering::Relaxed);
        self.objects.fetch_add(1, Ordering::Relaxed);
    }

    /// What is being done from now on, such as `backup 20261120T020003Z-5f1c09ab`.
    pub fn doing(&self, what: impl Into<String>) {
        *self.doing.lock() = what.into();
    }

    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> HealSnapshot {
        let (total, done) = (self.total.load(Ordering::Relaxed), self.done.load(Ordering::Relaxed));
        let objects = self.objects.load(Ordering::Relaxed);
        let elapsed = self.began.lock().map_or(Duration::ZERO, |began| began.elapsed());
        let rest = u128::from(total.saturating_sub(done));
        let micros = elapsed.as_micros().checked_mul(rest).and_then(|product| product.checked_div(u128::from(done)));
        let left = micros.and_then(|micros| u64::try_from(micros).ok()).map(Duration::from_micros);
        HealSnapshot {
            total: ByteCount::from_bytes(total.max(done)),
            done: ByteCount::from_bytes(done),
            objects,
            objects_total: self.objects_total.load(Ordering::Relaxed).max(objects),
            doing: self.doing.lock().clone(),
            elapsed,
            left,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_remaining_time_follows_from_the_rate_so_far() {
        let progress = HealProgress::default();
        assert_eq!(progress.snapshot().left, None, "nobody can tell");
        progress.expect(3, ByteCount::from_mib(30));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(progress.snapshot().left, None, "nothing has moved yet");
        progress.did(ByteCount::from_mib(10));
        let now = progress.snapshot();
        assert_eq!((now.left, now.objects, now.objects_total), (Some(Duration::from_secs(20)), 1, 3));
    }
}

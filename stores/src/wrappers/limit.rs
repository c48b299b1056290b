//! Bounds what one region is asked for at once, and optionally the bytes per second.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_vocabulary::{ByteCount, UtcTime};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

use crate::error::StoreError;
use crate::key::ObjectKey;
use crate::store::{ByteRange, Capabilities, ListPage, ObjectMeta, PutMode, PutOutcome, SealedBody, Store};

/// What one region may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests at once; at least 1. Fewer for a while after the region asked to slow down.
    pub concurrency: u16,
    /// Bytes per second in both directions together; `None` for no limit.
    pub bandwidth: Option<ByteCount>,
}

/// A store with a bounded number of requests at once.
#[derive(Debug)]
pub struct WithLimit {
    inner: Arc<dyn Store>,
    permits: Semaphore,
    flow: Mutex<Flow>,
    limits: Limits,
    next_free: Mutex<Option<Instant>>,
}

/// Additive increase, multiplicative decrease: halved when the region is throttling, one more after a round of success.
#[derive(Debug)]
struct Flow {
    /// Requests that may run at once now.
    allowed: usize,
    /// Permits that must vanish when they are returned.
    owed: usize,
    /// Successes since the last change.
    successes: usize,
    /// When it was last halved: one burst of refusals is one reason, not eight.
    halved: Option<Instant>,
}

const HALVE_AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// What happened to the number of permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    OneMore,
}

impl Flow {
    fn throttled(&mut self, now: Instant) {
        if self.halved.is_some_and(|last| now < last + HALVE_AT_MOST_EVERY) {
            return;
        }
        let next = (self.allowed / 2).max(1);
        self.owed += self.allowed - next;
        (self.allowed, self.successes, self.halved) = (next, 0, Some(now));
    }

    fn succeeded(&mut self, most: usize) -> Change {
        self.successes += 1;
        if self.allowed >= most || self.successes < self.allowed {
            return Change::None;
        }
        (self.allowed, self.successes) = (self.allowed + 1, 0);
        if self.owed > 0 {
            self.owed -= 1;
            return Change::None;
        }
        Change::OneMore
    }
}

impl WithLimit {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, limits: Limits) -> Self {
        let allowed = usize::from(limits.concurrency.max(1));
        let flow = Flow { allowed, owed: 0, successes: 0, halved: None };
        Self { inner, permits: Semaphore::new(allowed), flow: Mutex::new(flow), limits, next_free: Mutex::default() }
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        self.permits.acquire().await.map_err(|error| StoreError::Unsupported {
            doing: format!("wait for a turn at {self}"),
            why: error.to_string(),
        })
    }

    /// Returns the permit, or lets it vanish, and learns from the result.
    fn settle<T>(&self, permit: SemaphorePermit<'_>, result: &Result<T, StoreError>) {
        let mut flow = self.flow.lock();
        let change = match result {
            Ok(_) => flow.succeeded(usize::from(self.limits.concurrency.max(1))),
            Err(StoreError::Throttled { .. }) => {
                flow.throttled(Instant::now());
                Change::None
            }
            Err(_) => Change::None,
        };
        if flow.owed > 0 {
            flow.owed -= 1;
            permit.forget();
            // Turns that nobody uses vanish at once, the others when they are returned.
            flow.owed -= self.permits.forget_permits(flow.owed);
        }
        if change == Change::OneMore {
            self.permits.add_permits(1);
        }
    }

    /// Books `bytes` and gives when they may move. Bytes that moved already push back those that come later.
    fn book(&self, bytes: ByteCount) -> Option<Instant> {
        let rate = self.limits.bandwidth?.as_bytes().max(1);
        let micros = u128::from(bytes.as_bytes()) * 1_000_000 / u128::from(rate);
        let takes = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        let mut next_free = self.next_free.lock();
        let start = next_free.map_or_else(Instant::now, |free| free.max(Instant::now()));
        *next_free = Some(start + takes);
        Some(start)
    }

    async fn wait_to_move(&self, bytes: ByteCount) {
        if let Some(start) = self.book(bytes) {
            sleep_until(start).await;
        }
    }
}

impl fmt::Display for WithLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl Store for WithLimit {
    async fn put(&self, key: &ObjectKey, body: SealedBody, mode: PutMode) -> Result<PutOutcome, StoreError> {
        let permit = self.permit().await?;
        self.wait_to_move(ByteCount::of(&body.bytes)).await;
        let result = self.inner.put(key, body, mode).await;
        self.settle(permit, &result);
        result
    }

    async fn get(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes, StoreError> {
        let permit = self.permit().await?;
        // How much an object holds is known only afterwards: earlier reads are waited for, this one is booked behind.
        self.wait_to_move(ByteCount::ZERO).await;
        let result = self.inner.get(key, range).await;
        if let Ok(bytes) = &result {
            self.book(ByteCount::of(bytes));
        }
        self.settle(permit, &result);
        result
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        let permit = self.permit().await?;
        let result = self.inner.head(key).await;
        self.settle(permit, &result);
        result
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<ListPage, StoreError> {
        let permit = self.permit().await?;
        let result = self.inner.list(prefix, after).await;
        self.settle(permit, &result);
        result
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let permit = self.permit().await?;
        let result = self.inner.delete(key).await;
        self.settle(permit, &result);
        result
    }

    async fn retain(&self, key: &ObjectKey, until: UtcTime) -> Result<(), StoreError> {
        let permit = self.permit().await?;
        let result = self.inner.retain(key, until).await;
        self.settle(permit, &result);
        result
    }

    async fn retained_until(&self, key: &ObjectKey) -> Result<Option<UtcTime>, StoreError> {
        let permit = self.permit().await?;
        let result = self.inner.retained_until(key).await;
        self.settle(permit, &result);
        result
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

#[cfg(test)]
mod tests;

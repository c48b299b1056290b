//! A store whose every request is counted.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_vocabulary::{ByteCount, Clock, UtcTime};
use tokio::time::Instant;

use crate::error::StoreError;
use crate::key::ObjectKey;
use crate::store::{ByteRange, Capabilities, ListPage, ObjectMeta, PutMode, PutOutcome, SealedBody, Store};
use crate::wrappers::counters::{Metrics, Observation, Operation};

/// Wraps a store and counts into [`Metrics`].
pub struct WithMetrics {
    inner: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

/// Keeps the number of requests under way right even when a request is cancelled.
struct InFlight<'a>(&'a Metrics);

impl<'a> InFlight<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.begin();
        Self(metrics)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl WithMetrics {
    /// Wraps `inner`; `clock` is ours, which the server's is compared with.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        Self { inner, metrics, clock }
    }

    async fn counted<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, StoreError>>,
        moved: impl Fn(&T) -> ByteCount,
    ) -> Result<T, StoreError> {
        let start = Instant::now();
        let in_flight = InFlight::new(&self.metrics);
        let result = call.await;
        drop(in_flight);
        let bytes = result.as_ref().map_or(ByteCount::ZERO, moved);
        self.metrics.record(Observation { operation, took: start.elapsed(), bytes }, result.as_ref().err());
        result
    }

    fn compare_clocks(&self, server: Option<UtcTime>) {
        if let Some(server) = server {
            self.metrics.server_time(server, self.clock.now());
        }
    }
}

impl fmt::Debug for WithMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WithMetrics({:?})", self.inner)
    }
}

impl fmt::Display for WithMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl Store for WithMetrics {
    async fn put(&self, key: &ObjectKey, body: SealedBody, mode: PutMode) -> Result<PutOutcome, StoreError> {
        let length = ByteCount::of(&body.bytes);
        let result = self.counted(Operation::Put, self.inner.put(key, body, mode), |_| length).await;
        self.compare_clocks(result.as_ref().ok().and_then(|outcome| outcome.server_time));
        result
    }

    async fn get(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes, StoreError> {
        self.counted(Operation::Get, self.inner.get(key, range), |bytes| ByteCount::of(bytes)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.counted(Operation::Head, self.inner.head(key), |_| ByteCount::ZERO).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<ListPage, StoreError> {
        let result = self.counted(Operation::List, self.inner.list(prefix, after), |_| ByteCount::ZERO).await;
        self.compare_clocks(result.as_ref().ok().and_then(|page| page.server_time));
        result
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.counted(Operation::Delete, self.inner.delete(key), |()| ByteCount::ZERO).await
    }

    async fn retain(&self, key: &ObjectKey, until: UtcTime) -> Result<(), StoreError> {
        self.counted(Operation::Put, self.inner.retain(key, until), |()| ByteCount::ZERO).await
    }

    async fn retained_until(&self, key: &ObjectKey) -> Result<Option<UtcTime>, StoreError> {
        self.counted(Operation::Head, self.inner.retained_until(key), |_| ByteCount::ZERO).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

//! A store that is left alone for a while when it keeps failing.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_vocabulary::UtcTime;

use crate::error::StoreError;
use crate::key::ObjectKey;
use crate::store::{ByteRange, Capabilities, ListPage, ObjectMeta, PutMode, PutOutcome, SealedBody, Store};
use crate::wrappers::breaker_state::{Breaker, Verdict};

/// Wraps a store with a [`Breaker`].
#[derive(Debug)]
pub struct WithBreaker {
    inner: Arc<dyn Store>,
    breaker: Arc<Breaker>,
}

impl WithBreaker {
    /// Wraps `inner`; the breaker is shared with whoever shows its state.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, breaker: Arc<Breaker>) -> Self {
        Self { inner, breaker }
    }

    async fn guarded<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let permit = self.breaker.enter()?;
        let result = call.await;
        permit.report(Verdict::of(&result));
        result
    }
}

impl fmt::Display for WithBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl Store for WithBreaker {
    async fn put(&self, key: &ObjectKey, body: SealedBody, mode: PutMode) -> Result<PutOutcome, StoreError> {
        self.guarded(self.inner.put(key, body, mode)).await
    }

    async fn get(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes, StoreError> {
        self.guarded(self.inner.get(key, range)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.guarded(self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<ListPage, StoreError> {
        self.guarded(self.inner.list(prefix, after)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.guarded(self.inner.delete(key)).await
    }

    async fn retain(&self, key: &ObjectKey, until: UtcTime) -> Result<(), StoreError> {
        self.guarded(self.inner.retain(key, until)).await
    }

    async fn retained_until(&self, key: &ObjectKey) -> Result<Option<UtcTime>, StoreError> {
        self.guarded(self.inner.retained_until(key)).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

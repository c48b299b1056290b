//! A store that hangs is given up operation by operation: so `doctor` can say at which one, and looks at the rest.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_stores::{
    ByteRange, Capabilities, ListPage, ObjectKey, ObjectMeta, PutMode, PutOutcome, SealedBody, Store, StoreError,
};

/// Asks once, and waits for each answer no longer than `each`.
#[derive(Debug)]
pub(crate) struct BoundedStore {
    pub(crate) inner: Arc<dyn Store>,
    pub(crate) each: Duration,
}

impl BoundedStore {
    async fn within<T>(
        &self,
        doing: String,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let after = self.each;
        let answer = tokio::time::timeout(after, call).await;
        answer.unwrap_or_else(|_| Err(StoreError::DeadlineExceeded { doing, after }))
    }
}

impl fmt::Display for BoundedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl Store for BoundedStore {
    async fn put(&self, key: &ObjectKey, body: SealedBody, mode: PutMode) -> Result<PutOutcome, StoreError> {
        self.within(format!("write {key} to {self}"), self.inner.put(key, body, mode)).await
    }

    async fn get(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes, StoreError> {
        self.within(format!("read {key} from {self}"), self.inner.get(key, range)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.within(format!("look at {key} in {self}"), self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<ListPage, StoreError> {
        self.within(format!("list {prefix}* in {self}"), self.inner.list(prefix, after)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.within(format!("delete {key} from {self}"), self.inner.delete(key)).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_stores::{Check, Finding, Hooks, MemoryStore, Request, Step, WithHooks, probe};
    use lifeboat_vocabulary::SystemClock;

    /// Never answers a listing.
    struct HangingList;

    #[async_trait]
    impl Hooks for HangingList {
        async fn before(&self, request: Request<'_>) -> Step {
            if matches!(request, Request::List { .. }) {
                std::future::pending::<()>().await;
            }
            Step::Pass
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_operation_that_hangs_is_named_and_the_others_are_tried() {
        let inner = Arc::new(WithHooks::new(Arc::new(MemoryStore::new()), HangingList));
        let store = BoundedStore { inner, each: Duration::from_secs(20) };
        let report = probe(&store, &SystemClock).await.unwrap();
        let Some(Finding::Unclear { why }) = report.of(Check::List) else { panic!("{report:?}") };
        assert!(why.starts_with("list state/probe-") && why.ends_with("gave up after 20s"), "{why}");
        let others = report.findings.iter().filter(|(check, _)| *check != Check::List);
        assert!(others.clone().all(|(_, finding)| *finding == Finding::Holds), "{report:?}");
        assert_eq!(others.count(), 6);
    }
}

//! A store that is left alone for a while when it keeps failing.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_vocabulary::UtcTime;

use crate::error::StoreError;
use crate::key::ObjectKey;
use crate::lane::{Lane, lane_of};
use crate::store::{ByteRange, Capabilities, ListPage, ObjectMeta, PutMode, PutOutcome, SealedBody, Store};
use crate::wrappers::breaker_state::{Breaker, BreakerState, Permit, Verdict};

/// Wraps a store with a [`Breaker`] for everything, and one more for bulk data.
#[derive(Debug)]
pub struct WithBreaker {
    inner: Arc<dyn Store>,
    breaker: Arc<Breaker>,
    bulk: Arc<Breaker>,
    lane: fn(&str) -> Lane,
}

impl WithBreaker {
    /// Wraps `inner`; the breaker is shared with whoever shows its state. `lane` says of a key, or of the prefix of a listing,
    /// which lane it has.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, breaker: Arc<Breaker>, lane: fn(&str) -> Lane) -> Self {
        Self { inner, breaker, bulk: Breaker::new(), lane }
    }

    /// A region that is away is away for all, and whoever comes first finds out whether it is back; what is urgent does not wait
    /// until a pack has. Where only bulk data fails, only bulk data waits.
    fn enter(&self, lane: Lane) -> Result<Permit, StoreError> {
        match lane {
            Lane::Bulk if self.breaker.state() == BreakerState::Closed => self.bulk.enter(lane),
            Lane::Bulk | Lane::Urgent => self.breaker.enter(lane),
        }
    }

    async fn guarded<T>(
        &self,
        about: &str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let permit = self.enter(lane_of(self.lane, about))?;
        let was_away = self.breaker.state() != BreakerState::Closed;
        let result = call.await;
        permit.report(Verdict::of(&result));
        if was_away && self.breaker.state() == BreakerState::Closed {
            // What failed while it was away says nothing about how it is now that it is back.
            self.bulk.forget();
        }
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
        self.guarded(key.as_str(), self.inner.put(key, body, mode)).await
    }

    async fn get(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes, StoreError> {
        self.guarded(key.as_str(), self.inner.get(key, range)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.guarded(key.as_str(), self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<ListPage, StoreError> {
        self.guarded(prefix, self.inner.list(prefix, after)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.guarded(key.as_str(), self.inner.delete(key)).await
    }

    async fn retain(&self, key: &ObjectKey, until: UtcTime) -> Result<(), StoreError> {
        self.guarded(key.as_str(), self.inner.retain(key, until)).await
    }

    async fn retained_until(&self, key: &ObjectKey) -> Result<Option<UtcTime>, StoreError> {
        self.guarded(key.as_str(), self.inner.retained_until(key)).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::contract::body;
    use crate::memory::MemoryStore;
    use crate::wrappers::breaker_state::FAILURES_TO_OPEN;
    use crate::wrappers::faults::{Fault, Rule, WithFaults};

    fn lane(key: &str) -> Lane {
        if key.starts_with("data/") { Lane::Bulk } else { Lane::Urgent }
    }

    fn guarded() -> (WithBreaker, Arc<WithFaults>) {
        let faults = Arc::new(WithFaults::new(Arc::new(MemoryStore::new())));
        (WithBreaker::new(faults.clone(), Breaker::new(), lane), faults)
    }

    async fn put(store: &WithBreaker, key: &str) -> Result<(), StoreError> {
        store.put(&key.parse().unwrap(), body("x"), PutMode::CreateOnly).await.map(|_| ())
    }

    fn is_refused(result: &Result<(), StoreError>) -> bool {
        matches!(result, Err(StoreError::BreakerOpen { .. }))
    }

    #[tokio::test(start_paused = true)]
    async fn packs_that_time_out_do_not_keep_wal_from_a_region() {
        let (store, faults) = guarded();
        let late = Fault::TimedOut(Duration::from_secs(60));
        faults.add(Rule { key_contains: "data/".to_owned(), ..Rule::always(late) });
        for _ in 0..FAILURES_TO_OPEN {
            assert!(put(&store, "data/p1").await.unwrap_err().is_timeout());
        }
        assert!(is_refused(&put(&store, "data/p1").await), "bulk data is left alone for a while");
        put(&store, "wal/1").await.unwrap();
        assert_eq!(store.breaker.state(), BreakerState::Closed);
        faults.heal();
        tokio::time::advance(Duration::from_secs(30)).await;
        put(&store, "data/p1").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_region_that_is_away_is_away_for_all_and_back_for_all() {
        let (store, faults) = guarded();
        faults.add(Rule::always(Fault::Lost));
        for key in ["data/p1", "wal/1", "data/p1", "wal/1", "data/p1", "wal/1"] {
            assert!(!is_refused(&put(&store, key).await), "{key}");
        }
        assert!(is_refused(&put(&store, "data/p1").await) && is_refused(&put(&store, "wal/1").await));
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!(!is_refused(&put(&store, "data/p1").await), "a pack finds out as well as anything");
        faults.heal();
        tokio::time::advance(Duration::from_secs(60)).await;
        put(&store, "wal/1").await.unwrap();
        put(&store, "data/p1").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn wal_does_not_wait_for_a_pack_to_find_out_whether_a_region_is_back() {
        let (store, faults) = guarded();
        faults.add(Rule::always(Fault::Lost));
        for _ in 0..FAILURES_TO_OPEN {
            put(&store, "wal/1").await.unwrap_err();
        }
        faults.heal();
        let slow = Fault::Slow(Duration::from_secs(300));
        faults.add(Rule { key_contains: "data/".to_owned(), ..Rule::always(slow) });
        tokio::time::advance(Duration::from_secs(30)).await;
        let pack = put(&store, "data/p1");
        tokio::pin!(pack);
        assert!(futures_util::poll!(&mut pack).is_pending());
        assert!(is_refused(&put(&store, "data/p2").await), "of packs, one is enough");
        put(&store, "wal/1").await.unwrap();
        assert_eq!(store.breaker.state(), BreakerState::Closed);
        pack.await.unwrap();
    }
}

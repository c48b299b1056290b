//! A store whose every request runs in a task of its own.
//!
//! A request that waits for a turn or holds one must go on also while its caller does something else: of several that were begun
//! together, the caller awaits one, and makes another request with what it learned. If the others stood still meanwhile, with the turns
//! that it waits for, nothing would ever move again.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_vocabulary::UtcTime;
use tokio::task::JoinSet;

use crate::error::StoreError;
use crate::key::ObjectKey;
use crate::lane;
use crate::store::{ByteRange, Capabilities, ListPage, ObjectMeta, PutMode, PutOutcome, SealedBody, Store};
use crate::transfer;

/// Runs each request in a task that ends with it, or when nobody waits for it any more.
#[derive(Debug)]
pub(crate) struct InOwnTask {
    inner: Arc<dyn Store>,
}

impl InOwnTask {
    /// Wraps `inner`.
    #[must_use]
    pub(crate) fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner }
    }

    async fn run<T, C>(&self, doing: &'static str, call: impl FnOnce(Arc<dyn Store>) -> C) -> Result<T, StoreError>
    where
        T: Send + 'static,
        C: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let mut task = JoinSet::new();
        task.spawn(lane::carried(transfer::carried(call(Arc::clone(&self.inner)))));
        match task.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(error)) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends.
                Err(ended) => Err(StoreError::Transient { doing: format!("{doing} {self}"), source: ended.into() }),
            },
            None => Err(StoreError::Unsupported { doing: format!("{doing} {self}"), why: "no task".to_owned() }),
        }
    }
}

impl fmt::Display for InOwnTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl Store for InOwnTask {
    async fn put(&self, key: &ObjectKey, body: SealedBody, mode: PutMode) -> Result<PutOutcome, StoreError> {
        let key = key.clone();
        self.run("write to", |store| async move { store.put(&key, body, mode).await }).await
    }

    async fn get(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes, StoreError> {
        let key = key.clone();
        self.run("read from", |store| async move { store.get(&key, range).await }).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        let key = key.clone();
        self.run("look into", |store| async move { store.head(&key).await }).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<ListPage, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        self.run("list", |store| async move { store.list(&prefix, after.as_ref()).await }).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let key = key.clone();
        self.run("delete from", |store| async move { store.delete(&key).await }).await
    }

    async fn retain(&self, key: &ObjectKey, until: UtcTime) -> Result<(), StoreError> {
        let key = key.clone();
        self.run("lock in", |store| async move { store.retain(&key, until).await }).await
    }

    async fn retained_until(&self, key: &ObjectKey) -> Result<Option<UtcTime>, StoreError> {
        let key = key.clone();
        self.run("look into", |store| async move { store.retained_until(&key).await }).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::StreamExt;
    use lifeboat_vocabulary::ByteCount;
    use tokio::time::Instant;

    use super::*;
    use crate::memory::MemoryStore;
    use crate::settings::RegionSettings;
    use crate::sha256::digest;
    use crate::stack::{StackOptions, standard_stack};
    use crate::transfer::Transfer;
    use crate::wrappers::faults::{Fault, Rule, WithFaults};

    fn settings() -> RegionSettings {
        RegionSettings::at("eu-1".parse().unwrap(), "file:///srv/region".parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn who_watches_a_request_hears_how_long_our_own_limits_hold_it_back() {
        let limited = RegionSettings { max_bandwidth: Some(ByteCount::from_bytes(64 << 10)), ..settings() };
        let store = standard_stack(Arc::new(MemoryStore::new()), StackOptions::of(&limited)).store;
        let watched = Transfer::begin();
        let begun = Instant::now();
        for number in 0..3 {
            let bytes = Bytes::from(vec![number; 256 << 10]);
            let body = SealedBody { sha256: digest(&bytes), bytes };
            let key: ObjectKey = format!("data/{number}").parse().unwrap();
            watched.carry(store.put(&key, body, PutMode::CreateOnly)).await.unwrap();
        }
        assert!(begun.elapsed() >= Duration::from_secs(8), "{:?}", begun.elapsed());
        assert!(watched.active(Instant::now()) < Duration::from_secs(1), "{watched:?}");
    }

    const ALL: ByteRange = ByteRange::WholeUpTo(ByteCount::from_mib(1));

    #[tokio::test(start_paused = true)]
    async fn requests_that_were_begun_together_do_not_wait_for_one_that_the_first_of_them_leads_to() {
        let faults = WithFaults::new(Arc::new(MemoryStore::new()));
        faults.add(Rule::always(Fault::Slow(Duration::from_millis(10))));
        let options = StackOptions::of(&RegionSettings { max_concurrency: 2, ..settings() });
        let store = standard_stack(Arc::new(faults), options).store;
        let keys: Vec<ObjectKey> = (0..8).map(|number| format!("log/{number}").parse().unwrap()).collect();
        let mut reads = futures_util::stream::iter(&keys).map(|key| store.get(key, ALL)).buffered(8);
        while let Some(read) = reads.next().await {
            assert!(matches!(read, Err(StoreError::NotFound { .. })), "{read:?}");
            let next = tokio::time::timeout(Duration::from_secs(10), store.get(&keys[0], ALL)).await;
            assert!(matches!(next, Ok(Err(StoreError::NotFound { .. }))), "{next:?}");
        }
    }
}

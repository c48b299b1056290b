//! A region that could not be opened when the daemon began, such as a directory that is not mounted: it is opened as soon as
//! it can be, whenever somebody asks it for something. Until then it fails like a region that does not answer, and only it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_stores::{
    ByteRange, Capabilities, ListPage, ObjectKey, ObjectMeta, OpenError, PutMode, PutOutcome, RegionSettings,
    SealedBody, Store, StoreError, Support, open_below,
};
use lifeboat_vocabulary::{ClusterName, UtcTime, error_chain};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How often opening is tried.
const PAUSE: Duration = Duration::from_secs(5);
/// What a request may take as long as nobody knows better.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// See the head of this file.
pub(crate) struct LateStore {
    settings: RegionSettings,
    cluster: ClusterName,
    state: Mutex<State>,
}

enum State {
    Open(Arc<dyn Store>),
    Closed { why: String, next: Instant },
}

impl LateStore {
    /// For a region that could not be opened just now.
    #[must_use]
    pub(crate) fn new(settings: &RegionSettings, cluster: &ClusterName, error: &OpenError) -> Self {
        let state = State::Closed { why: error_chain(error), next: Instant::now() + PAUSE };
        Self { settings: settings.clone(), cluster: cluster.clone(), state: Mutex::new(state) }
    }

    async fn opened(&self) -> Result<Arc<dyn Store>, StoreError> {
        let mut state = self.state.lock().await;
        if let State::Open(store) = &*state {
            return Ok(Arc::clone(store));
        }
        if let State::Closed { why, next } = &mut *state {
            if Instant::now() < *next {
                return Err(self.closed(why));
            }
            *next = Instant::now() + PAUSE;
        }
        match open_below(&self.settings, Some(&self.cluster)).await {
            Ok(store) => {
                tracing::info!(cluster = %self.cluster, region = %self.settings.name, "the region could be opened");
                *state = State::Open(Arc::clone(&store));
                Ok(store)
            }
            Err(error) => {
                let why = error_chain(&error);
                let refused = self.closed(&why);
                *state = State::Closed { why, next: Instant::now() + PAUSE };
                Err(refused)
            }
        }
    }

    fn closed(&self, why: &str) -> StoreError {
        StoreError::Transient { doing: format!("use region {}", self.settings.name), source: why.into() }
    }
}

impl fmt::Debug for LateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LateStore({})", self.settings.name)
    }
}

impl fmt::Display for LateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.settings.url)
    }
}

#[async_trait]
impl Store for LateStore {
    async fn put(&self, key: &ObjectKey, body: SealedBody, mode: PutMode) -> Result<PutOutcome, StoreError> {
        self.opened().await?.put(key, body, mode).await
    }

    async fn get(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes, StoreError> {
        self.opened().await?.get(key, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.opened().await?.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<ListPage, StoreError> {
        self.opened().await?.list(prefix, after).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.opened().await?.delete(key).await
    }

    async fn retain(&self, key: &ObjectKey, until: UtcTime) -> Result<(), StoreError> {
        self.opened().await?.retain(key, until).await
    }

    async fn retained_until(&self, key: &ObjectKey) -> Result<Option<UtcTime>, StoreError> {
        self.opened().await?.retained_until(key).await
    }

    fn capabilities(&self) -> Capabilities {
        match self.state.try_lock().as_deref() {
            Ok(State::Open(store)) => store.capabilities(),
            _ => Capabilities {
                conditional_put: Support::Unknown,
                checks_sha256: Support::Unknown,
                request_timeout: REQUEST_TIMEOUT,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_stores::StoreUrl;

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_is_mounted_later_is_used_from_then_on() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("mount");
        let url: StoreUrl = format!("file://{}", directory.display()).parse().unwrap();
        let settings = RegionSettings::at("disk".parse().unwrap(), url);
        let cluster: ClusterName = "main".parse().unwrap();
        let error = open_below(&settings, Some(&cluster)).await.unwrap_err();
        let store = LateStore::new(&settings, &cluster, &error);
        let refused = store.list("", None).await;
        assert!(matches!(refused, Err(StoreError::Transient { .. })), "{refused:?}");
        std::fs::create_dir(&directory).unwrap();
        assert!(store.list("", None).await.is_err(), "it was tried just now");
        tokio::time::advance(PAUSE).await;
        assert!(store.list("", None).await.unwrap().entries.is_empty());
        assert_eq!(store.capabilities().conditional_put, Support::Yes);
    }
}

//! A region's store, with what probes have found out about it: settings may promise what a server does not keep.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_stores::{
    ByteRange, Capabilities, ListPage, ObjectKey, ObjectMeta, PutMode, PutOutcome, SealedBody, Store, StoreError,
    Support,
};
use lifeboat_vocabulary::UtcTime;

use crate::model::capabilities::Writers;

const NOT_PROBED: u8 = 0;
const MANY: u8 = 1;
const ONE: u8 = 2;

/// How many may write into a region, as far as is known.
#[derive(Debug)]
pub(crate) struct Judgement {
    probed: AtomicU8,
    by_settings: Writers,
}

impl Judgement {
    /// Nobody has looked yet.
    pub(crate) fn of(bare: &dyn Store) -> Self {
        let is_inexact = bare.capabilities().conditional_put == Support::No;
        let by_settings = if is_inexact { Writers::One } else { Writers::Many };
        Self { probed: AtomicU8::new(NOT_PROBED), by_settings }
    }

    /// What a probe found, or else what the settings say.
    pub(crate) fn writers(&self) -> Writers {
        self.probed().unwrap_or(self.by_settings)
    }

    /// What a probe found; `None` until there was one.
    pub(crate) fn probed(&self) -> Option<Writers> {
        match self.probed.load(Ordering::Acquire) {
            MANY => Some(Writers::Many),
            ONE => Some(Writers::One),
            _ => None,
        }
    }

    pub(crate) fn set(&self, writers: Writers) {
        // Where settings say that conditions are ignored, each is looked up before it is relied on: that passes a probe,
        // and still orders nobody.
        let one = writers == Writers::One || self.by_settings == Writers::One;
        self.probed.store(if one { ONE } else { MANY }, Ordering::Release);
    }
}

/// The store without retries, breaker and limits, and the judgement of it.
pub(crate) struct JudgedStore {
    pub(crate) bare: Arc<dyn Store>,
    pub(crate) judgement: Arc<Judgement>,
}

impl fmt::Debug for JudgedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JudgedStore({:?})", self.bare)
    }
}

impl fmt::Display for JudgedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bare.fmt(f)
    }
}

#[async_trait]
impl Store for JudgedStore {
    async fn put(&self, key: &ObjectKey, body: SealedBody, mode: PutMode) -> Result<PutOutcome, StoreError> {
        self.bare.put(key, body, mode).await
    }

    async fn get(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes, StoreError> {
        self.bare.get(key, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.bare.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<ListPage, StoreError> {
        self.bare.list(prefix, after).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.bare.delete(key).await
    }

    async fn retain(&self, key: &ObjectKey, until: UtcTime) -> Result<(), StoreError> {
        self.bare.retain(key, until).await
    }

    async fn retained_until(&self, key: &ObjectKey) -> Result<Option<UtcTime>, StoreError> {
        self.bare.retained_until(key).await
    }

    fn capabilities(&self) -> Capabilities {
        let capabilities = self.bare.capabilities();
        match self.judgement.writers() {
            Writers::One => Capabilities { conditional_put: Support::No, ..capabilities },
            Writers::Many => capabilities,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_stores::MemoryStore;

    #[test]
    fn a_probe_can_withdraw_conditional_writes_and_cannot_grant_them_against_the_settings() {
        let exact = |writers| {
            let bare: Arc<dyn Store> = Arc::new(MemoryStore::new());
            let judgement = Arc::new(Judgement::of(&*bare));
            judgement.set(writers);
            JudgedStore { bare, judgement }.capabilities().conditional_put
        };
        assert_eq!((exact(Writers::Many), exact(Writers::One)), (Support::Yes, Support::No));
        let inexact = Judgement { probed: AtomicU8::new(NOT_PROBED), by_settings: Writers::One };
        assert_eq!((inexact.probed(), inexact.writers()), (None, Writers::One));
        inexact.set(Writers::Many);
        assert_eq!(inexact.writers(), Writers::One, "looking before writing passes a probe, and orders nobody");
    }
}

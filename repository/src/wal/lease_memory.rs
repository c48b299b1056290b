//! What a writer remembers of its own writings of a lease: by them it tells its own lease from that of a copy of itself.
//!
//! Whoever copies a state directory copies the name of the installation in it, and the copy would take any lease of the
//! original for its own. Both write on, and neither knows what the other one has drawn since.

use std::sync::Arc;

use bytes::Bytes;
use lifeboat_stores::{ObjectKey, PutMode, SealedBody, Store, StoreError};
use parking_lot::Mutex;

use crate::format::aead::sha256;
use crate::format::ids::{ObjectId, RandomError};
use crate::log::create_once::small_object;

/// The nonces of one lease that may lie in its region: of the last writing that is known to have succeeded, and of those whose
/// answers may be missing: one of this process, and one of the process before.
///
/// CRASH SAFETY: a nonce is kept before it is written into the region. Crash in between: the one before is kept too. What
/// cannot be kept (a full disk) costs a wait for the lease to end, after the next start, and nothing else.
pub struct LeaseMemory {
    store: Arc<dyn Store>,
    key: ObjectKey,
    /// What this process has kept; `None` until then.
    kept: Mutex<Option<Vec<String>>>,
}

impl LeaseMemory {
    /// Kept at `key` of a store that outlives this process; one nonce a line, the newest last.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, key: ObjectKey) -> Self {
        Self { store, key, kept: Mutex::new(None) }
    }

    /// `None` if nothing was kept, or it cannot be read.
    pub(crate) async fn nonces(&self) -> Option<Vec<String>> {
        if let Some(kept) = &*self.kept.lock() {
            return Some(kept.clone());
        }
        match self.store.get(&self.key, small_object()).await {
            Ok(bytes) => Some(String::from_utf8_lossy(&bytes).lines().map(ToOwned::to_owned).collect()),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => {
                let error = lifeboat_vocabulary::error_chain(&error);
                tracing::warn!(key = %self.key, error, "what was written into a lease before is not known");
                None
            }
        }
    }

    /// The nonce for the next writing, kept. `confirmed` is that of our own lease, if it is there.
    ///
    /// A writing whose answer was lost may still arrive: as long as nothing is known of it, the next one bears its nonce too,
    /// so that there are never more than three to remember. A process draws its first one itself, whatever it finds: a copy of the
    /// state directory was left the same unanswered nonce, and both would know it for their own.
    pub(crate) async fn next(&self, confirmed: Option<&str>) -> Result<String, RandomError> {
        let is_first = self.kept.lock().is_none();
        let mut known = self.nonces().await.unwrap_or_default();
        let unanswered = known.pop().filter(|last| confirmed != Some(last));
        let other = known.into_iter().rev().find(|other| confirmed != Some(other));
        let confirmed = confirmed.map(ToOwned::to_owned);
        let (may_lie_there, next) = match unanswered {
            Some(unanswered) if !is_first => ([confirmed, other], unanswered),
            unanswered => ([confirmed.or(other), unanswered], ObjectId::random()?.to_string()),
        };
        self.keep(may_lie_there.into_iter().flatten().chain([next.clone()]).collect()).await;
        Ok(next)
    }

    async fn keep(&self, nonces: Vec<String>) {
        let text = format!("{}\n", nonces.join("\n"));
        *self.kept.lock() = Some(nonces);
        let kept = async {
            let mode = match self.store.head(&self.key).await {
                Ok(meta) => PutMode::IfUnchanged(meta.version),
                Err(StoreError::NotFound { .. }) => PutMode::CreateOnly,
                Err(error) => return Err(error),
            };
            let bytes = Bytes::from(text);
            self.store.put(&self.key, SealedBody { sha256: sha256(&bytes), bytes }, mode).await
        };
        if let Err(error) = kept.await {
            let error = lifeboat_vocabulary::error_chain(&error);
            tracing::warn!(key = %self.key, error, "what is written into a lease cannot be kept");
            // What is out of date must not be believed by anybody.
            if let Err(error) = self.store.delete(&self.key).await {
                tracing::debug!(key = %self.key, %error, "what was kept before cannot be removed");
            }
        }
    }
}

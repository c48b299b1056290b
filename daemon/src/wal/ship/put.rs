//! One object into one region, and what to think if there is one already.

use std::time::Duration;

use bytes::Bytes;
use lifeboat_repository::format::header::ObjectHeader;
use lifeboat_repository::log::RegionStore;
use lifeboat_stores::{ByteRange, Entry, ObjectKey, PutMode, SealedBody, StoreError};
use lifeboat_vocabulary::{ByteCount, UtcTime};

/// A request of a process that was killed may arrive this long after its successor has taken the lease.
const STRAGGLER: Duration = Duration::from_secs(10);

/// How often an object that differs is read again.
const LOOKS: u32 = 3;
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

/// How one put ended.
#[derive(Debug)]
pub(crate) enum Put {
    /// The object is there: ours, or that of an earlier run.
    Stored,
    /// Another writer's object is there.
    Conflict(String),
    /// To be tried again.
    Failed(StoreError),
    /// The spool cannot give it any more.
    Unreadable(StoreError),
}

/// Puts an object. `entered` is when we took the lease, by the region's clock.
pub(crate) async fn put(region: &RegionStore, key: &ObjectKey, body: SealedBody, entered: UtcTime) -> Put {
    match region.store.put(key, body.clone(), PutMode::CreateOnly).await {
        Ok(_) => Put::Stored,
        // Or the answer to our own first request was lost, and a role that may only create cannot look.
        Err(StoreError::Conflict { .. }) => judge(region, key, &body, entered).await,
        Err(error) => Put::Failed(error),
    }
}

/// Decides whose object it is. Nothing is ever overwritten, so this only decides whether to go on.
async fn judge(region: &RegionStore, key: &ObjectKey, body: &SealedBody, entered: UtcTime) -> Put {
    let size = ByteCount::of(&body.bytes);
    let content = match region.store.get(key, ByteRange::WholeUpTo(size)).await {
        Ok(found) if found == body.bytes => return Put::Stored,
        Ok(found) => match look_again(region, key, body, found).await {
            Ok(content) => content,
            Err(put) => return put,
        },
        Err(StoreError::Unsupported { .. }) => Content::Differs,
        // The role may not read.
        Err(StoreError::Misconfigured { .. }) => Content::Unseen,
        Err(error) => return Put::Failed(error),
    };
    let page = match region.store.list(key.as_str(), None).await {
        Ok(page) => page,
        Err(error) => return Put::Failed(error),
    };
    let Some(Entry { meta, .. }) = page.entries.into_iter().find(|entry| entry.key == *key) else {
        let doing = format!("find {key} in {}, which was said to exist", region.store);
        return Put::Failed(StoreError::Transient { doing, source: "it is not listed".into() });
    };
    if content == Content::Unseen && meta.size == size {
        return Put::Stored;
    }
    match meta.modified {
        // The same WAL, sealed by the run before: it was listed a moment too early to be seen.
        Some(modified) if modified <= entered.plus(STRAGGLER) => {
            tracing::info!(region = %region.name, %key, %modified, "the object of an earlier run is there already");
            Put::Stored
        }
        _ => {
            let (theirs, when) = (meta.size, meta.modified.map_or("an unknown time".to_owned(), |at| at.to_string()));
            Put::Conflict(format!("{key} was written at {when} with {theirs} by another writer"))
        }
    }
}

/// An object that differs is read some more times: what stops a region for good must not be a bit that flipped on the way,
/// or an error that came with status 200.
async fn look_again(region: &RegionStore, key: &ObjectKey, body: &SealedBody, first: Bytes) -> Result<Content, Put> {
    let unclear = |what: &'static str| {
        let doing = format!("compare {key} in {} with what was sent", region.store);
        Err(Put::Failed(StoreError::Transient { doing, source: what.into() }))
    };
    let size = ByteCount::of(&body.bytes);
    for _ in 0..LOOKS {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        match region.store.get(key, ByteRange::WholeUpTo(size)).await {
            Ok(again) if again == body.bytes => return Err(Put::Stored),
            Ok(again) if again != first => return unclear("it reads differently each time"),
            Ok(_) => {}
            Err(StoreError::Unsupported { .. }) => return Ok(Content::Differs),
            Err(error) => return Err(Put::Failed(error)),
        }
    }
    match (ObjectHeader::parse(&first), ObjectHeader::parse(&body.bytes)) {
        (Ok(theirs), Ok(ours)) if theirs.object == ours.object => {
            unclear("it is ours and does not read as it was sent")
        }
        _ => Ok(Content::Differs),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Differs,
    Unseen,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use lifeboat_repository::format::aead::sha256;
    use lifeboat_stores::{MemoryStore, Store};
    use lifeboat_vocabulary::{Clock, SystemClock};

    fn body(text: &'static [u8]) -> SealedBody {
        SealedBody { bytes: Bytes::from_static(text), sha256: sha256(text) }
    }

    #[tokio::test(start_paused = true)]
    async fn another_object_is_a_conflict_and_our_own_is_none() {
        let store = Arc::new(MemoryStore::default());
        let key: ObjectKey = "slices/00000001/a.lbs".parse().unwrap();
        store.put(&key, body(b"somebody else's"), PutMode::CreateOnly).await.unwrap();
        let region = RegionStore { name: "r".parse().unwrap(), store };
        let long_ago = UtcTime::from_unix_micros(0).unwrap();
        let other = put(&region, &key, body(b"of no other's length"), long_ago).await;
        assert!(matches!(other, Put::Conflict(_)), "{other:?}");
        let same = put(&region, &key, body(b"somebody else's"), SystemClock.now()).await;
        assert!(matches!(same, Put::Stored), "{same:?}");
    }
}

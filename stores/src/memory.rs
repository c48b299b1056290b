//! A store in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_vocabulary::{ByteCount, Clock, SystemClock, UtcTime};
use parking_lot::Mutex;

use crate::error::StoreError;
use crate::key::ObjectKey;
use crate::sha256;
use crate::store::OBJECT_BYTES_MAX;
use crate::store::{
    ByteRange, Capabilities, Entry, ListPage, ObjectMeta, ObjectVersion, PutMode, PutOutcome, SealedBody, Store,
    Support,
};

const PAGE_ENTRIES: usize = 1000;

/// A store in memory that keeps the whole contract; its life is that of the process.
pub struct MemoryStore {
    objects: Mutex<Objects>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Objects {
    by_key: BTreeMap<ObjectKey, Object>,
    /// Versions are numbered across all keys, so no content ever shares one with another.
    writes: u64,
}

struct Object {
    bytes: Bytes,
    version: u64,
    modified: UtcTime,
}

impl MemoryStore {
    /// An empty store with the machine's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// An empty store whose "server time" is that of `clock`.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { objects: Mutex::default(), clock }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Object {
    fn meta(&self) -> ObjectMeta {
        let size = ByteCount::of(&self.bytes);
        ObjectMeta { size, modified: Some(self.modified), version: named(self.version) }
    }
}

fn named(version: u64) -> ObjectVersion {
    ObjectVersion(version.to_string())
}

impl fmt::Display for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({} objects)", self.objects.lock().by_key.len())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn put(&self, key: &ObjectKey, body: SealedBody, mode: PutMode) -> Result<PutOutcome, StoreError> {
        let doing = || format!("write {key} to {self}");
        if ByteCount::of(&body.bytes) > OBJECT_BYTES_MAX {
            let why = format!("objects are at most {OBJECT_BYTES_MAX}");
            return Err(StoreError::Unsupported { doing: doing(), why });
        }
        if sha256::digest(&body.bytes) != body.sha256 {
            let source = "the body does not have the SHA-256 that came with it".into();
            return Err(StoreError::Corrupted { doing: doing(), source });
        }
        let now = self.clock.now();
        let mut objects = self.objects.lock();
        let allowed = match (&mode, objects.by_key.get(key)) {
            (PutMode::CreateOnly, found) => found.is_none(),
            (PutMode::IfUnchanged(expected), Some(found)) => named(found.version) == *expected,
            (PutMode::IfUnchanged(_), None) => false,
        };
        if !allowed {
            return Err(StoreError::Conflict { key: key.clone() });
        }
        objects.writes += 1;
        let version = objects.writes;
        objects.by_key.insert(key.clone(), Object { bytes: body.bytes, version, modified: now });
        Ok(PutOutcome { version: named(version), server_time: Some(now) })
    }

    async fn get(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes, StoreError> {
        let missing = || StoreError::NotFound { key: key.clone() };
        let bytes = self.objects.lock().by_key.get(key).ok_or_else(missing)?.bytes.clone();
        let refused = |why| Err(StoreError::Unsupported { doing: format!("read {key} from {self}"), why });
        match range {
            ByteRange::WholeUpTo(bound) if ByteCount::of(&bytes) > bound => {
                refused(format!("it has {} bytes, more than {}", bytes.len(), bound.as_bytes()))
            }
            ByteRange::WholeUpTo(_) => Ok(bytes),
            ByteRange::Part { start, length } => match usize::try_from(start) {
                Ok(start) if start < bytes.len() => {
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    Ok(bytes.slice(start..start.saturating_add(length).min(bytes.len())))
                }
                _ => refused(format!("byte {start} lies past its end at {}", bytes.len())),
            },
        }
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        let objects = self.objects.lock();
        objects.by_key.get(key).map(Object::meta).ok_or_else(|| StoreError::NotFound { key: key.clone() })
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<ListPage, StoreError> {
        let now = self.clock.now();
        let objects = self.objects.lock();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let found = objects.by_key.range((start, Bound::Unbounded)).filter(|(key, _)| key.as_str().starts_with(prefix));
        let mut entries: Vec<Entry> =
            found.take(PAGE_ENTRIES + 1).map(|(key, object)| Entry { key: key.clone(), meta: object.meta() }).collect();
        let more = entries.len() > PAGE_ENTRIES;
        entries.truncate(PAGE_ENTRIES);
        Ok(ListPage { entries, more, server_time: Some(now) })
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.objects.lock().by_key.remove(key);
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        let request_timeout = Duration::from_secs(30);
        Capabilities { conditional_put: Support::Yes, checks_sha256: Support::Yes, request_timeout }
    }
}

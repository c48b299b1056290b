//! The seam between everything that keeps objects and everything that needs them kept.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_vocabulary::{ByteCount, Sha256Digest, UtcTime};

use crate::error::StoreError;
use crate::key::ObjectKey;

/// The largest object that a store has to take or give in one piece: 64 MiB.
pub const OBJECT_BYTES_MAX: ByteCount = ByteCount::from_mib(64);

/// Bytes that are ready to be stored, with the one SHA-256 that everybody uses: record, upload check, blind check.
///
/// Cloning shares the buffer: the same bytes go to every region and through every attempt.
#[derive(Clone, Debug)]
pub struct SealedBody {
    /// The object's content, at most [`OBJECT_BYTES_MAX`].
    pub bytes: Bytes,
    /// SHA-256 of `bytes`. A store that can check it on arrival must do so before it publishes the object.
    pub sha256: Sha256Digest,
}

/// When a write may happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutMode {
    /// Only if no object has this key.
    CreateOnly,
    /// Only if the object still is this version (leases, heads).
    IfUnchanged(ObjectVersion),
}

/// What a successful [`Store::put`] reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutOutcome {
    /// Names what was written, for [`PutMode::IfUnchanged`].
    pub version: ObjectVersion,
    /// The server's own clock, where it told us.
    pub server_time: Option<UtcTime>,
}

/// A store's opaque name for one content of one key (an ETag).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectVersion(pub String);

/// Which bytes of an object to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// All of it, which must not be more than this many bytes.
    WholeUpTo(ByteCount),
    /// `length` bytes from `start`; fewer only if the object ends before. `length` is at least 1.
    Part {
        /// Offset of the first byte, from 0.
        start: u64,
        /// Number of bytes.
        length: u64,
    },
}

/// What a store knows about an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Size.
    pub size: ByteCount,
    /// When it was last written, by the store's clock.
    pub modified: Option<UtcTime>,
    /// Version, for [`PutMode::IfUnchanged`].
    pub version: ObjectVersion,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The object's name.
    pub key: ObjectKey,
    /// Its size, age and version.
    pub meta: ObjectMeta,
}

/// Part of a listing, in ascending byte order of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPage {
    /// At most about a thousand entries.
    pub entries: Vec<Entry>,
    /// Whether there are more: ask again with `after` set to the last key of this page.
    pub more: bool,
    /// The server's clock at the time of the answer, where it told us.
    pub server_time: Option<UtcTime>,
}

/// A place that keeps objects. The contract, which `contract::run` checks for every implementation:
///
/// - **Atomic.** `put` writes all of the body or nothing; no reader ever sees a part, not even after a crash.
/// - **Durable.** After `Ok` the object lasts as long as the store itself, with no further call.
/// - **Create-only is exact.** Of any number of concurrent `CreateOnly` puts of one key exactly one succeeds; all
///   others get [`StoreError::Conflict`]. (A store for which [`Store::capabilities`] says otherwise is used by one
///   writer only.)
/// - **A failed `put` may have happened**: after `Transient` or `DeadlineExceeded` the object may or may not be there.
/// - **Read your writes.** After `Ok`, `get`, `head` and `list` see the object.
/// - `get` of a missing key is [`StoreError::NotFound`]; a range that starts at or past the end gives `Unsupported`;
///   `WholeUpTo` of a larger object is `Unsupported` and reads no more than the bound.
/// - `list` gives keys that begin with `prefix` (any text, not only whole parts), strictly after `after`, ascending by
///   bytes, each exactly once, without temporary objects. There is no limit to the number of pages.
/// - `delete` of a missing key is `Ok`.
/// - Dropping a future cancels the request; like a failed `put`, it may have happened.
#[async_trait]
pub trait Store: fmt::Display + fmt::Debug + Send + Sync {
    /// Writes one object. See the contract above.
    async fn put(&self, key: &ObjectKey, body: SealedBody, mode: PutMode) -> Result<PutOutcome, StoreError>;

    /// Reads an object or a part of it into one buffer.
    async fn get(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes, StoreError>;

    /// Size, age and version of an object. Roles that may not read may not `head` either: `list` serves them.
    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError>;

    /// One page of the keys that begin with `prefix`; empty `prefix` means all.
    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<ListPage, StoreError>;

    /// Removes an object. Where the region's settings say that it has Object Lock, all its versions, or
    /// [`StoreError::Locked`].
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError>;

    /// Makes an object impossible to delete before `until`. A lock is only ever extended: one that ends later stays.
    ///
    /// Only regions whose settings name a mode of [`crate::settings::ObjectLock`] can; all others say `Unsupported`.
    async fn retain(&self, key: &ObjectKey, until: UtcTime) -> Result<(), StoreError> {
        let doing = format!("lock {key} in {self} until {until}");
        Err(StoreError::Unsupported { doing, why: "this store has no Object Lock".to_owned() })
    }

    /// Until when an object cannot be deleted; `None` if it is not locked, or the store knows no locks.
    async fn retained_until(&self, _key: &ObjectKey) -> Result<Option<UtcTime>, StoreError> {
        Ok(None)
    }

    /// What this store can and cannot do, as far as is known without asking it.
    fn capabilities(&self) -> Capabilities;
}

/// What a store can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// `CreateOnly` and `IfUnchanged` are exact.
    pub conditional_put: Support,
    /// A `put` whose body does not match its SHA-256 is refused.
    pub checks_sha256: Support,
    /// How long one request for [`OBJECT_BYTES_MAX`] may take at the most.
    pub request_timeout: Duration,
}

/// Whether a store has an ability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It has.
    Yes,
    /// It has not.
    No,
    /// Only a probe can tell.
    Unknown,
}

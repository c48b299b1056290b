//! Buckets, keys, versions, locks: what is stored, without HTTP and without a clock of its own.

use std::collections::BTreeMap;

use lifeboat_vocabulary::UtcTime;
use s3s::dto::Checksum;
use tokio::time::Instant;

use crate::body::StoredBody;
use crate::config::{Bucket, History};

/// The version id of everything in a bucket without versioning.
const NULL_VERSION: &str = "null";

/// Why the store says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("The specified bucket does not exist")]
    NoSuchBucket,
    #[error("Your previous request to create the named bucket succeeded and you already own it.")]
    BucketExists,
    #[error("The specified key does not exist.")]
    NoSuchKey,
    #[error("The specified version does not exist.")]
    NoSuchVersion,
    #[error("The specified method is not allowed against this resource.")]
    IsDeleteMarker,
    #[error("At least one of the pre-conditions you specified did not hold")]
    ConditionFailed,
    #[error("Access Denied because object protected by object lock.")]
    Locked,
    #[error("Bucket is missing Object Lock Configuration")]
    NoLockInBucket,
    #[error("The retain until date must be in the future!")]
    RetentionInThePast,
}

/// One content of a key, or its deletion.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) id: String,
    pub(crate) modified: UtcTime,
    /// When it was written by this machine's steady clock, for the lag of listings.
    pub(crate) written: Instant,
    /// `None` is a delete marker.
    pub(crate) content: Option<Content>,
    pub(crate) retention: Option<Retention>,
}

/// The bytes of an object and what is known about them.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) size: u64,
    /// `None` if the body was dropped to save memory.
    pub(crate) body: Option<StoredBody>,
    pub(crate) etag: String,
    pub(crate) checksum: Checksum,
}

/// Until when a version cannot be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    pub(crate) mode: LockMode,
    pub(crate) until: UtcTime,
}

/// Who may lift a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockMode {
    /// Whoever sends the bypass header.
    Governance,
    /// Nobody.
    Compliance,
}

/// Whether the client sent the header that overrules governance locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bypass {
    Yes,
    No,
}

/// What must hold for the current version before it is replaced or removed. A delete marker counts as absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    None,
    Absent,
    Present,
    Etag(String),
}

impl Condition {
    fn holds(&self, current: Option<&Content>) -> Result<(), Refusal> {
        match (self, current) {
            (Self::None, _) | (Self::Absent, None) | (Self::Present, Some(_)) => Ok(()),
            (Self::Etag(etag), Some(content)) if *etag == content.etag => Ok(()),
            (Self::Present | Self::Etag(_), None) => Err(Refusal::NoSuchKey),
            _ => Err(Refusal::ConditionFailed),
        }
    }
}

/// What a write wants to publish.
#[derive(Debug)]
pub(crate) struct NewVersion {
    pub(crate) content: Content,
    pub(crate) retention: Option<Retention>,
    pub(crate) condition: Condition,
}

/// What a delete wants to remove.
#[derive(Debug)]
pub(crate) struct Removal<'a> {
    /// This version for good; without, the key is hidden (versioned) or gone (plain).
    pub(crate) version: Option<&'a str>,
    pub(crate) condition: Condition,
    pub(crate) bypass: Bypass,
}

/// What a delete did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Removed {
    /// The delete marker that was made, or the version that was removed.
    pub(crate) version: Option<String>,
    /// Whether that version is a delete marker.
    pub(crate) marker: bool,
}

/// The time that a request happens at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// The server's clock.
    pub(crate) now: UtcTime,
    /// The clock that locks are judged by.
    pub(crate) lock_now: UtcTime,
}

/// One bucket.
#[derive(Debug)]
pub(crate) struct BucketState {
    history: History,
    /// Versions of each key, oldest first; never an empty list.
    pub(crate) keys: BTreeMap<String, Vec<Version>>,
    versions_made: u64,
}

impl BucketState {
    fn new(history: History) -> Self {
        Self { history, keys: BTreeMap::new(), versions_made: 0 }
    }

    fn current(&self, key: &str) -> Option<&Content> {
        self.keys.get(key)?.last()?.content.as_ref()
    }

    fn push(&mut self, key: &str, version: Version) {
        let versions = self.keys.entry(key.to_owned()).or_default();
        if self.history == History::Latest {
            versions.clear();
        }
        versions.push(version);
    }

    /// Ids sort like their age, so that listings can go on behind a version that has since been removed.
    fn next_id(&mut self) -> String {
        self.versions_made += 1;
        match self.history {
            History::Latest => NULL_VERSION.to_owned(),
            History::Versions | History::ObjectLock => format!("{:020}", self.versions_made),
        }
    }

    fn version_mut(&mut self, key: &str, version: Option<&str>) -> Result<&mut Version, Refusal> {
        let versions = self.keys.get_mut(key).ok_or(Refusal::NoSuchKey)?;
        match version {
            None => versions.last_mut().filter(|version| version.content.is_some()).ok_or(Refusal::NoSuchKey),
            Some(id) => versions.iter_mut().find(|version| version.id == id).ok_or(Refusal::NoSuchVersion),
        }
    }

    /// The id to tell the client: none without versioning.
    pub(crate) fn shown_id(&self, id: &str) -> Option<String> {
        (self.history != History::Latest).then(|| id.to_owned())
    }
}

/// All buckets.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    buckets: BTreeMap<String, BucketState>,
}

impl Objects {
    pub(crate) fn new(buckets: Vec<Bucket>) -> Self {
        Self { buckets: buckets.into_iter().map(|bucket| (bucket.name, BucketState::new(bucket.history))).collect() }
    }

    pub(crate) fn create_bucket(&mut self, name: &str, history: History) -> Result<(), Refusal> {
        if self.buckets.contains_key(name) {
            return Err(Refusal::BucketExists);
        }
        self.buckets.insert(name.to_owned(), BucketState::new(history));
        Ok(())
    }

    pub(crate) fn bucket(&self, name: &str) -> Result<&BucketState, Refusal> {
        self.buckets.get(name).ok_or(Refusal::NoSuchBucket)
    }

    fn bucket_mut(&mut self, name: &str) -> Result<&mut BucketState, Refusal> {
        self.buckets.get_mut(name).ok_or(Refusal::NoSuchBucket)
    }

    /// Publishes a version if its condition holds, in one step, and gives its id where the bucket has versions.
    pub(crate) fn put(
        &mut self,
        bucket: &str,
        key: &str,
        new: NewVersion,
        at: Moment,
    ) -> Result<Option<String>, Refusal> {
        let bucket = self.bucket_mut(bucket)?;
        new.condition.holds(bucket.current(key))?;
        if let Some(retention) = new.retention {
            bucket.check_retention(retention, at)?;
        }
        let id = bucket.next_id();
        let shown = bucket.shown_id(&id);
        let NewVersion { content, retention, .. } = new;
        let version = Version { id, modified: at.now, written: Instant::now(), content: Some(content), retention };
        bucket.push(key, version);
        Ok(shown)
    }

    /// The current version, or the one with this id.
    pub(crate) fn get(&self, bucket: &str, key: &str, version: Option<&str>) -> Result<(&Version, &Content), Refusal> {
        let versions = self.bucket(bucket)?.keys.get(key).ok_or(Refusal::NoSuchKey)?;
        let found = match version {
            None => versions.last().filter(|version| version.content.is_some()).ok_or(Refusal::NoSuchKey)?,
            Some(id) => versions.iter().find(|version| version.id == id).ok_or(Refusal::NoSuchVersion)?,
        };
        found.content.as_ref().map(|content| (found, content)).ok_or(Refusal::IsDeleteMarker)
    }

    /// Removes or hides; a key that is not there is no fault.
    pub(crate) fn delete(
        &mut self,
        bucket: &str,
        key: &str,
        removal: &Removal,
        at: Moment,
    ) -> Result<Removed, Refusal> {
        let bucket = self.bucket_mut(bucket)?;
        if removal.condition != Condition::None {
            removal.condition.holds(bucket.current(key)).map_err(|_| Refusal::ConditionFailed)?;
        }
        match (bucket.history, removal.version) {
            (History::Latest, None) => {
                bucket.keys.remove(key);
                Ok(Removed { version: None, marker: false })
            }
            (_, None) => {
                let id = bucket.next_id();
                let marker = Version {
                    id: id.clone(),
                    modified: at.now,
                    written: Instant::now(),
                    content: None,
                    retention: None,
                };
                bucket.push(key, marker);
                Ok(Removed { version: Some(id), marker: true })
            }
            (_, Some(id)) => {
                let Some(versions) = bucket.keys.get_mut(key) else {
                    return Ok(Removed { version: Some(id.to_owned()), marker: false });
                };
                let position = versions.iter().position(|version| version.id == id);
                let Some(position) = position else {
                    return Ok(Removed { version: Some(id.to_owned()), marker: false });
                };
                let locked = |version: &Version| version.retention.is_some_and(|lock| lock.binds(removal.bypass, at));
                if versions.get(position).is_some_and(locked) {
                    return Err(Refusal::Locked);
                }
                let gone = versions.remove(position);
                if versions.is_empty() {
                    bucket.keys.remove(key);
                }
                Ok(Removed { version: Some(gone.id), marker: gone.content.is_none() })
            }
        }
    }

    /// Locks a version or changes its lock; longer is always allowed, anything else only where the lock can be bypassed.
    pub(crate) fn retain(&mut self, target: Locking, retention: Option<Retention>, at: Moment) -> Result<(), Refusal> {
        let bucket = self.bucket_mut(target.bucket)?;
        match retention {
            Some(retention) => bucket.check_retention(retention, at)?,
            None if bucket.history != History::ObjectLock => return Err(Refusal::NoLockInBucket),
            None => {}
        }
        let version = bucket.version_mut(target.key, target.version)?;
        if version.content.is_none() {
            return Err(Refusal::IsDeleteMarker);
        }
        if let Some(held) = version.retention {
            let extends = retention.is_some_and(|new| new.until >= held.until && new.mode.is_at_least(held.mode));
            if held.binds(target.bypass, at) && !extends {
                return Err(Refusal::Locked);
            }
        }
        version.retention = retention;
        Ok(())
    }

    /// Removes all versions of a key behind the back of every rule.
    pub(crate) fn erase(&mut self, bucket: &str, key: &str) -> Result<bool, Refusal> {
        Ok(self.bucket_mut(bucket)?.keys.remove(key).is_some())
    }
}

/// Which version a lock is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Locking<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) key: &'a str,
    pub(crate) version: Option<&'a str>,
    pub(crate) bypass: Bypass,
}

impl BucketState {
    fn check_retention(&self, retention: Retention, at: Moment) -> Result<(), Refusal> {
        if self.history != History::ObjectLock {
            return Err(Refusal::NoLockInBucket);
        }
        if retention.until <= at.lock_now {
            return Err(Refusal::RetentionInThePast);
        }
        Ok(())
    }
}

impl Retention {
    fn binds(self, bypass: Bypass, at: Moment) -> bool {
        self.until > at.lock_now && (self.mode == LockMode::Compliance || bypass == Bypass::No)
    }
}

impl LockMode {
    fn is_at_least(self, other: Self) -> bool {
        self == Self::Compliance || other == Self::Governance
    }
}

//! A directory as a store.
//!
//! An object is a file; the parts of its key are directories. Whatever begins with a dot is ours and never an object:
//! `.tmp-<random>` is a write that is not finished, `.lock` orders replacements. Keys `a` and `a/b` exclude each other,
//! because a directory has no room for both.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_vocabulary::UtcTime;
use rustix::io::Errno;

use crate::error::StoreError;
use crate::key::ObjectKey;
use crate::local::content::{Content, Received};
use crate::local::files::{Read, Root};
use crate::local::list;
use crate::local::pool::{FIRST_PATIENCE, PATIENCE, Pool, Steps, patience_for};
use crate::store::OBJECT_BYTES_MAX;
use crate::store::{ByteRange, Capabilities, ListPage, ObjectMeta, PutMode, PutOutcome, SealedBody, Store, Support};

/// How long a file of an unfinished write is left alone before it counts as the remains of a crash.
pub const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Entries per page of a listing.
pub(crate) const PAGE_ENTRIES: usize = 1000;

/// A store in a directory of a local file system that honours `fsync`.
#[derive(Clone, Debug)]
pub struct LocalDir {
    root: Arc<Root>,
    pool: Arc<Pool>,
}

impl LocalDir {
    /// Uses the existing directory `root`, and in it the folder `below` (made by the first write).
    ///
    /// Files that unfinished writes left more than a day before `now` are removed where the rights suffice.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] if `root` is missing (it is never created: an unmounted file system would be
    /// mistaken for an empty one) or is not a directory that we may enter.
    pub async fn open(root: PathBuf, below: Option<ObjectKey>, now: UtcTime) -> Result<Self, StoreError> {
        let pool = Pool::of(&root);
        let store = Self { root: Arc::new(Root::new(root, below)), pool };
        let doing = format!("open directory {store}");
        store.blocking(doing.clone(), FIRST_PATIENCE, |root, _| root.folder().map(drop)).await?;
        let sweep = move |root: &Root, steps: &Steps| list::remove_leftovers(root, steps, now, LEFTOVER_AGE);
        store.blocking(doing, PATIENCE, sweep).await?;
        Ok(store)
    }

    /// Calls the system, and waits as long as no longer than `patience` nothing of it gets on.
    async fn blocking<T, W>(&self, doing: String, patience: Duration, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&Root, &Steps) -> io::Result<T> + Send + 'static,
    {
        let root = Arc::clone(&self.root);
        let ended = self.pool.call(&doing, patience, move |steps| work(&root, steps)).await?;
        ended.map_err(|error| classified(doing, error))
    }
}

/// Translates what the file system said. `EDQUOT` and `ENOSPC` are a full store; what a person must mend is told apart
/// from what may pass by itself. Source: Linux errno(3).
fn classified(doing: String, error: io::Error) -> StoreError {
    let advice = match Errno::from_io_error(&error) {
        Some(Errno::NOSPC | Errno::DQUOT) => return StoreError::Full { doing, source: error.into() },
        Some(Errno::ACCESS | Errno::PERM) => "give this user the right to enter, read and write the directory",
        Some(Errno::ROFS) => "the file system is mounted read-only: mount it for writing",
        Some(Errno::NOENT) => "the directory is missing: create it, or mount its file system",
        Some(Errno::NOTDIR | Errno::LOOP | Errno::ISDIR) => {
            "something in the way is not what it should be (a file, a directory or a symbolic link): move it away"
        }
        Some(Errno::NAMETOOLONG) => "the file system takes no names of this length: choose another",
        Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            "the file system lacks hard links or exclusive renames: choose another"
        }
        _ => return StoreError::Transient { doing, source: error.into() },
    };
    StoreError::Misconfigured { doing, advice: advice.to_owned(), source: error.into() }
}

impl fmt::Display for LocalDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.root, f)
    }
}

#[async_trait]
impl Store for LocalDir {
    async fn put(&self, key: &ObjectKey, body: SealedBody, mode: PutMode) -> Result<PutOutcome, StoreError> {
        let doing = format!("write {key} to {self}");
        if body.bytes.len() as u64 > OBJECT_BYTES_MAX.as_bytes() {
            return Err(StoreError::Unsupported { doing, why: format!("objects are at most {OBJECT_BYTES_MAX}") });
        }
        let (name, length) = (key.clone(), body.bytes.len() as u64);
        let SealedBody { bytes, sha256 } = body;
        let (content, _lent) = Content::lend(bytes);
        let written = self.blocking(doing.clone(), patience_for(length), move |root, steps| {
            if content.sha256()? != sha256 {
                return Ok(Written::OtherBytes);
            }
            let version = match mode {
                PutMode::CreateOnly => root.create(steps, &name, &content),
                PutMode::IfUnchanged(version) => root.replace(steps, &name, &content, &version),
            };
            version.map(|version| version.map_or(Written::Conflict, Written::Done))
        });
        match written.await? {
            Written::Done(version) => Ok(PutOutcome { version, server_time: None }),
            Written::Conflict => Err(StoreError::Conflict { key: key.clone() }),
            Written::OtherBytes => Err(StoreError::Corrupted {
                doing,
                source: "the body does not have the SHA-256 that came with it".into(),
            }),
        }
    }

    async fn get(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes, StoreError> {
        let doing = format!("read {key} from {self}");
        let name = key.clone();
        let most = match range {
            ByteRange::WholeUpTo(most) => most.as_bytes(),
            ByteRange::Part { length, .. } => length,
        };
        let patience = patience_for(most.min(OBJECT_BYTES_MAX.as_bytes()));
        let (received, _lent) = Received::lend();
        match self
            .blocking(doing.clone(), patience, move |root, steps| root.read(steps, &name, range, &received))
            .await?
        {
            Read::Bytes(bytes) => Ok(bytes),
            Read::Missing => Err(StoreError::NotFound { key: key.clone() }),
            Read::Refused(why) => Err(StoreError::Unsupported { doing, why }),
        }
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        let name = key.clone();
        let meta = self.blocking(format!("look at {key} in {self}"), PATIENCE, move |root, _| root.meta(&name)).await?;
        meta.ok_or_else(|| StoreError::NotFound { key: key.clone() })
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<ListPage, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        let doing = format!("list {prefix}* in {self}");
        let page = move |root: &Root, steps: &Steps| list::page(root, steps, &prefix, after.as_ref(), PAGE_ENTRIES);
        self.blocking(doing, PATIENCE, page).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let name = key.clone();
        self.blocking(format!("delete {key} in {self}"), PATIENCE, move |root, _| root.delete(&name)).await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_put: Support::Yes,
            checks_sha256: Support::Yes,
            request_timeout: patience_for(OBJECT_BYTES_MAX.as_bytes()),
        }
    }
}

/// How a write ended.
enum Written {
    Done(crate::store::ObjectVersion),
    Conflict,
    OtherBytes,
}

#[cfg(test)]
mod tests;

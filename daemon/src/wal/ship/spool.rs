//! The spool: sealed objects in a directory of this host, for regions that cannot take them now.
//!
//! One file per object: `<sequence>-<size>-<sha256>-<name>`, the name of the object with `_` for `/`. The directory is a
//! store like a region in a directory, so a file is there whole or not at all, and its name is durable.
//!
//! CRASH SAFETY: a file is whole and fsynced, and its directory is, before anybody counts on it; it is removed only when
//! nobody needs it. Crash in between: a file too many, which the next start sends once more to regions that have it, and
//! which create-only makes harmless.

mod kept_keys;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use lifeboat_repository::format::InstanceId;
use lifeboat_repository::format::aead::sha256;
use lifeboat_repository::format::layout::{self, StoredName};
use lifeboat_repository::wal::LeaseMemory;
use lifeboat_stores::{ByteRange, LEFTOVER_AGE, LocalDir, ObjectKey, PutMode, SealedBody, Store, StoreError};
use lifeboat_vocabulary::{ByteCount, RegionName, Sha256Digest, TimelineId, UtcTime, error_chain};
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::wal::ship::unkept_keys::UnkeptKeys;

/// Names the process that uses the directory. Begins with a dot, so that it is no object.
const LOCK_NAME: &str = ".in-use";
/// A process that was killed lets go of the lock when its last write is over.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(50);
const INSTANCE_KEY: &str = "instance";
/// Tells the machine, and the place on it, that the installation was named on.
const MACHINE_KEY: &str = "machine";
const MACHINE_ID_FILE: &str = "/etc/machine-id";
/// Names what was written into the leases of regions.
const LEASE_PREFIX: &str = "lease-";
const NOTICE_NAME: &str = "notice";
/// Nothing that is kept beside the objects is larger.
const SMALL_BYTES_MAX: ByteCount = ByteCount::from_mib(4);

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SpoolName {
    /// A sealed object.
    Object(StoredName),
    /// A notice, as JSON.
    Notice,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpoolFile {
    /// Its place in the order.
    pub(crate) sequence: u64,
    pub(crate) name: SpoolName,
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) sha256: Sha256Digest,
}

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// The bound, or the disk.
    #[error("the spool has no room for {bytes} more bytes")]
    Full { bytes: u64 },
    /// Something else.
    #[error("write to the spool")]
    Store(#[from] StoreError),
}

impl SpoolFile {
    fn key(&self) -> anyhow::Result<ObjectKey> {
        let name = match &self.name {
            SpoolName::Object(name) => name.to_string().replace('/', "_"),
            SpoolName::Notice => NOTICE_NAME.to_owned(),
        };
        Ok(format!("{:020}-{:08x}-{}-{name}", self.sequence, self.size, self.sha256).parse()?)
    }

    fn parse(key: &ObjectKey) -> Option<Self> {
        let mut parts = key.as_str().splitn(4, '-');
        let sequence = parts.next()?.parse().ok()?;
        let size = u64::from_str_radix(parts.next()?, 16).ok()?;
        let sha256 = parts.next()?.parse().ok()?;
        let name = match parts.next()? {
            NOTICE_NAME => SpoolName::Notice,
            name => SpoolName::Object(layout::parse(&name.replace('_', "/").parse().ok()?)?),
        };
        let file = Self { sequence, name, size, sha256 };
        (file.key().ok()? == *key).then_some(file)
    }
}

/// The directory, which belongs to this process as long as this value lives.
#[derive(Debug)]
pub(crate) struct Spool {
    store: Arc<LocalDir>,
    limit: u64,
    held: Mutex<Held>,
    unkept_keys: Mutex<UnkeptKeys>,
    _lock: OwnedFd,
}

/// The files that count, each once: a file may be removed by several who find that nobody needs it or can read it.
#[derive(Debug, Default)]
struct Held {
    /// Bytes of each, by its place in the order.
    sizes: BTreeMap<u64, u64>,
    /// The sum of them.
    used: u64,
}

impl Held {
    /// Whether it did not count before.
    fn add(&mut self, file: &SpoolFile) -> bool {
        let Entry::Vacant(place) = self.sizes.entry(file.sequence) else { return false };
        place.insert(file.size);
        self.used += file.size;
        true
    }

    fn remove(&mut self, file: &SpoolFile) {
        if let Some(size) = self.sizes.remove(&file.sequence) {
            self.used -= size;
        }
    }
}

/// The name of the installation whose spool this is; `None` before WAL was first received.
pub(crate) async fn installation(spool_directory: &Path) -> Option<InstanceId> {
    let text = tokio::fs::read_to_string(spool_directory.join(INSTANCE_KEY)).await.ok()?;
    text.trim().parse().ok()
}

/// What the installation has written into the lease of a region, for who does not have the spool open.
///
/// # Errors
/// If the directory cannot be opened.
pub(crate) async fn lease_memory(
    spool_directory: &Path,
    region: &RegionName,
    now: UtcTime,
) -> anyhow::Result<LeaseMemory> {
    let store = LocalDir::open(spool_directory.to_owned(), None, now).await?;
    Ok(LeaseMemory::new(Arc::new(store), lease_key(region)?))
}

fn lease_key(region: &RegionName) -> anyhow::Result<ObjectKey> {
    Ok(format!("{LEASE_PREFIX}{region}").parse()?)
}

/// The machine and the place of the directory on it, as text. A copy of a disk has the same; a directory that was copied, moved
/// or restored elsewhere has not.
fn machine(directory: &Path, machine_id: &Path) -> std::io::Result<String> {
    use std::os::unix::fs::MetadataExt;
    // Containers may have none.
    let id = std::fs::read_to_string(machine_id).unwrap_or_default();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // Not its device: those are numbered anew when a machine starts.
    let inode = std::fs::metadata(directory)?.ino();
    Ok(sha256(format!("{}\n{host}\n{inode}\n", id.trim()).as_bytes()).to_string())
}

impl Spool {
    /// Takes the directory, makes it if it is missing, and returns what lies in it, in order. Files that are not as long
    /// as their name says are removed: a file system that loses writes in a crash leaves such files.
    pub(crate) async fn open(
        directory: &Path,
        limit: ByteCount,
        now: UtcTime,
    ) -> anyhow::Result<(Self, Vec<SpoolFile>)> {
        let opening = || format!("open the spool {}", directory.display());
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(opening)?;
        let lock = lock(directory.to_owned()).await.with_context(opening)?;
        // Nobody else writes here, so every unfinished file is the remains of a crash, however young it is.
        let store =
            LocalDir::open(directory.to_owned(), None, now.plus(2 * LEFTOVER_AGE)).await.with_context(opening)?;
        let spool = Self {
            store: Arc::new(store),
            limit: limit.as_bytes(),
            held: Mutex::default(),
            unkept_keys: Mutex::default(),
            _lock: lock,
        };
        let files = spool.load().await.with_context(opening)?;
        Ok((spool, files))
    }

    async fn load(&self) -> anyhow::Result<Vec<SpoolFile>> {
        let mut files = Vec::new();
        let mut after = None;
        loop {
            let page = self.store.list("", after.as_ref()).await?;
            for entry in &page.entries {
                let Some(file) = SpoolFile::parse(&entry.key) else { continue };
                if file.size == entry.meta.size.as_bytes() {
                    self.held.lock().add(&file);
                    files.push(file);
                } else {
                    tracing::warn!(key = %entry.key, size = %entry.meta.size, "a file of the spool is torn and goes");
                    self.store.delete(&entry.key).await?;
                }
            }
            match page.entries.last().filter(|_| page.more) {
                Some(last) => after = Some(last.key.clone()),
                None => return Ok(files),
            }
        }
    }

    /// Bytes in it.
    pub(crate) fn used(&self) -> u64 {
        self.held.lock().used
    }

    /// What it may hold.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Writes a file; when this returns `Ok`, it survives a crash.
    pub(crate) async fn put(&self, file: &SpoolFile, body: SealedBody) -> Result<(), SpoolError> {
        let (key, full) = (key(file)?, || SpoolError::Full { bytes: file.size });
        // Reserved first, so that parallel writes never go beyond the bound together.
        let is_new = {
            let mut held = self.held.lock();
            if !held.sizes.contains_key(&file.sequence) && held.used.saturating_add(file.size) > self.limit {
                return Err(full());
            }
            held.add(file)
        };
        let written = match self.store.put(&key, body, PutMode::CreateOnly).await {
            // It was written, and the answer was lost.
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(StoreError::Full { .. }) => Err(full()),
            Err(error) => Err(error.into()),
        };
        if written.is_err() && is_new {
            self.held.lock().remove(file);
        }
        written
    }

    /// Reads a file, and verifies that it is what was written.
    pub(crate) async fn read(&self, file: &SpoolFile) -> Result<SealedBody, StoreError> {
        let bytes = self.store.get(&key(file)?, ByteRange::WholeUpTo(ByteCount::from_bytes(file.size))).await?;
        let found = sha256(&bytes);
        if found != file.sha256 {
            let doing = format!("read file {} of the spool", file.sequence);
            return Err(StoreError::Corrupted { doing, source: format!("it has the SHA-256 {found}").into() });
        }
        Ok(SealedBody { bytes, sha256: found })
    }

    /// Removes a file; to be repeated until it succeeds. One that is not there any more is no error.
    pub(crate) async fn remove(&self, file: &SpoolFile) -> Result<(), StoreError> {
        self.store.delete(&key(file)?).await?;
        self.held.lock().remove(file);
        Ok(())
    }

    /// Names this installation: drawn at the first start, so that after a restart it knows its own lease. On another machine, or
    /// at another place, it is another installation: the state directory was copied, and the original may be at work.
    ///
    /// CRASH SAFETY: the old name goes first, then the new place is kept, then a name is drawn. Crash in between: there is no
    /// name, and one is drawn.
    pub(crate) async fn instance(&self, directory: &Path) -> anyhow::Result<InstanceId> {
        self.settle(directory, Path::new(MACHINE_ID_FILE)).await.context("find out whether the spool was copied")?;
        let key: ObjectKey = INSTANCE_KEY.parse()?;
        match self.store.get(&key, ByteRange::WholeUpTo(SMALL_BYTES_MAX)).await {
            Ok(bytes) => Ok(std::str::from_utf8(&bytes)?.trim().parse()?),
            Err(StoreError::NotFound { .. }) => {
                let instance = InstanceId::random()?;
                self.keep_if_possible(&key, format!("{instance}\n").into()).await?;
                Ok(instance)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn settle(&self, directory: &Path, machine_id: &Path) -> anyhow::Result<()> {
        let key: ObjectKey = MACHINE_KEY.parse()?;
        let here = format!("{}\n", machine(directory, machine_id)?);
        match self.store.get(&key, ByteRange::WholeUpTo(SMALL_BYTES_MAX)).await {
            Ok(known) if known == here.as_bytes() => return Ok(()),
            Ok(_) => {
                tracing::warn!(
                    directory = %directory.display(),
                    "the spool was copied, moved or restored from elsewhere: this is another installation now, and waits for the \
                     leases of the one before to end"
                );
                self.store.delete(&INSTANCE_KEY.parse()?).await?;
                self.store.delete(&key).await?;
            }
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.keep_if_possible(&key, here.into()).await
    }

    /// What this installation has written into the lease of a region.
    pub(crate) fn lease_memory(&self, region: &RegionName) -> anyhow::Result<LeaseMemory> {
        let store: Arc<dyn Store> = Arc::<LocalDir>::clone(&self.store);
        Ok(LeaseMemory::new(store, lease_key(region)?))
    }

    /// Remembers the history of a timeline, and returns the one that was remembered before, if it is another.
    pub(crate) async fn history(&self, timeline: TimelineId, content: &Bytes) -> anyhow::Result<Option<Bytes>> {
        let key: ObjectKey = format!("history-{:08x}", timeline.get()).parse()?;
        match self.store.get(&key, ByteRange::WholeUpTo(SMALL_BYTES_MAX)).await {
            Ok(known) if known == *content => Ok(None),
            Ok(known) => Ok(Some(known)),
            Err(StoreError::NotFound { .. }) => self.keep(&key, content.clone()).await.map(|()| None),
            Err(error) => Err(error.into()),
        }
    }

    /// A disk that is full must not end the stream of WAL: regions take it while nothing needs the spool. What is not kept is drawn
    /// anew at the next start, which then waits for its own lease to end.
    async fn keep_if_possible(&self, key: &ObjectKey, bytes: Bytes) -> anyhow::Result<()> {
        let body = SealedBody { sha256: sha256(&bytes), bytes };
        match self.store.put(key, body, PutMode::CreateOnly).await {
            Ok(_) => Ok(()),
            Err(error @ StoreError::Full { .. }) => {
                tracing::warn!(%key, error = error_chain(&error), "it holds until the next start only");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn keep(&self, key: &ObjectKey, bytes: Bytes) -> anyhow::Result<()> {
        let body = SealedBody { sha256: sha256(&bytes), bytes };
        self.store.put(key, body, PutMode::CreateOnly).await?;
        Ok(())
    }
}

fn key(file: &SpoolFile) -> Result<ObjectKey, StoreError> {
    let doing = || format!("name file {} of the spool", file.sequence);
    file.key().map_err(|error| StoreError::Unsupported { doing: doing(), why: error.to_string() })
}

/// Waits for the directory to be free. The lock ends with the process, however that ends.
async fn lock(directory: PathBuf) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(directory.join(LOCK_NAME), flags, Mode::RUSR | Mode::WUSR)?;
    let patience = tokio::time::Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        anyhow::ensure!(tokio::time::Instant::now() < patience, "another process uses it");
        tokio::time::sleep(LOCK_PAUSE).await;
    }
}

#[cfg(test)]
mod tests;

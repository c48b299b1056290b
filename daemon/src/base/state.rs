//! What must outlive a restart: small JSON files in the state directory, replaced as a whole, that the daemon and the
//! commands change together.
//!
//! Losing one costs at most a full backup, so a file that cannot be read is moved aside and work goes on without it. A
//! file that cannot be written (a full disk) stays as it was; this process then works with what it has in memory and
//! saves it with the next change.
//!
//! CRASH SAFETY: the new content goes to a file beside it, which is flushed, renamed over the old one, and the directory
//! is flushed. A crash before the rename leaves the old content and a `.new` file that the next change overwrites; a
//! crash after it leaves the new content. Nothing in between can be seen.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lifeboat_vocabulary::{Clock, SystemClock};
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest file that is read, in bytes.
const BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Nobody holds the lock for longer than one write takes.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// What the name of a file that was put aside has behind that of the file.
const DAMAGED: &str = ".damaged-";
/// So many of them are reported one by one.
const DAMAGED_TOLD: usize = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Why state was not saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The directory, the lock or the file cannot be written. The change is in force in this process only.
    #[error("save {}", path.display())]
    NotSaved {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is there and cannot be read: not damaged content, but a disk or rights that refuse. Nothing was changed.
    #[error("read {}", path.display())]
    NotRead {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The work was given up before it was done.
    #[error("change {} in the background", path.display())]
    GivenUp {
        /// The file.
        path: PathBuf,
    },
}

/// What a file held when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// There is none: this is the first time, or the state was lost.
    Fresh,
    /// It was read.
    Read,
    /// It could not be understood; it lies aside under another name and the default is in its place.
    Damaged {
        /// Where it lies now; `None` if it could not be moved.
        aside: Option<PathBuf>,
        /// What is wrong with it.
        why: String,
    },
}

/// A value in a file. Clones are the same file, and share what could not be saved yet.
pub(crate) struct Durable<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    path: PathBuf,
    unsaved: Mutex<Option<Unsaved<T>>>,
}

/// A change that the disk did not take.
struct Unsaved<T> {
    value: T,
    /// What the file held when the change was made: if it holds something else now, another process has changed it.
    over: Option<Vec<u8>>,
}

impl<T> Clone for Durable<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> std::fmt::Debug for Durable<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Durable({})", self.shared.path.display())
    }
}

impl<T: Clone + Default + Serialize + DeserializeOwned> Durable<T> {
    /// Opens `<somewhere>/NAME.json`; its lock is `NAME.lock`. Nothing is written before the first change, except that a
    /// damaged file is moved to `NAME.json.damaged-<time>`.
    #[must_use]
    pub(crate) fn open(path: PathBuf) -> (Self, Loaded) {
        let durable = Self { shared: Arc::new(Shared { path, unsaved: Mutex::new(None) }) };
        let loaded = match durable.content() {
            Ok(None) => Loaded::Fresh,
            Ok(Some(bytes)) => match serde_json::from_slice::<T>(&bytes) {
                Ok(_) => Loaded::Read,
                Err(error) => durable.set_aside(error.to_string()),
            },
            Err(error) => Loaded::Damaged { aside: None, why: error.to_string() },
        };
        (durable, loaded)
    }

    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }

    /// What is in force now: what this process could not save, or else what the file holds, or else the default. Reads the
    /// file, because another process may have changed it.
    #[must_use]
    pub(crate) fn read(&self) -> T {
        self.try_read().unwrap_or_default()
    }

    /// As [`Durable::read`], for those who must not take the default for the truth.
    ///
    /// # Errors
    /// If the file is there and cannot be read or understood.
    pub(crate) fn try_read(&self) -> Result<T, StateError> {
        if let Some(unsaved) = &*self.shared.unsaved.lock() {
            return Ok(unsaved.value.clone());
        }
        let content = self.content().map_err(|source| self.not_read(source))?;
        content.map_or_else(|| Ok(T::default()), |bytes| self.understood(&bytes))
    }

    /// Changes the value under the lock, so that nobody's change is lost, and saves it if it became another. Blocks for as
    /// long as the disk takes; [`Durable::change_in_background`] does not.
    ///
    /// # Errors
    /// [`StateError::NotSaved`]: the change is in force in this process and is saved with the next one.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> Result<R, StateError> {
        let mut unsaved = self.shared.unsaved.lock();
        let lock = self.lock();
        let content = self.content().map_err(|source| self.not_read(source))?;
        let pending = unsaved.take();
        let was_pending = pending.is_some();
        let mut value = match pending {
            Some(pending) if pending.over == content => pending.value,
            Some(_) => {
                tracing::warn!(file = %self.path().display(), "another process has changed it meanwhile; its content counts");
                self.start_from(content.as_deref())
            }
            None => self.start_from(content.as_deref()),
        };
        let answer = change(&mut value);
        let text = serde_json::to_vec_pretty(&value).map_err(|error| self.not_saved(error.into()))?;
        if content.as_deref() == Some(text.as_slice()) && !was_pending {
            return Ok(answer);
        }
        match lock.and_then(|_lock| replace(self.path(), &text)) {
            Ok(()) => Ok(answer),
            Err(source) => {
                *unsaved = Some(Unsaved { value, over: content });
                Err(self.not_saved(source))
            }
        }
    }

    /// As [`Durable::change`], on a thread where it may wait for the disk.
    ///
    /// # Errors
    /// As [`Durable::change`].
    pub(crate) async fn change_in_background<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, StateError>
    where
        T: Send + 'static,
    {
        let durable = self.clone();
        let done = tokio::task::spawn_blocking(move || durable.change(change)).await;
        done.unwrap_or_else(|_| Err(StateError::GivenUp { path: self.path().to_owned() }))
    }

    fn start_from(&self, content: Option<&[u8]>) -> T {
        let Some(bytes) = content else { return T::default() };
        serde_json::from_slice(bytes).unwrap_or_else(|error| {
            self.set_aside(error.to_string());
            T::default()
        })
    }

    fn understood(&self, bytes: &[u8]) -> Result<T, StateError> {
        serde_json::from_slice(bytes).map_err(|error| self.not_read(io::Error::new(io::ErrorKind::InvalidData, error)))
    }

    fn set_aside(&self, why: String) -> Loaded {
        let mut name = self.path().as_os_str().to_owned();
        name.push(format!("{DAMAGED}{}", SystemClock.now().compact()));
        let aside = PathBuf::from(name);
        let moved = rustix::fs::rename(self.path(), &aside);
        let (file, aside) = (self.path().display(), moved.is_ok().then_some(aside));
        tracing::warn!(%file, why, ?aside, "a file of the state is damaged; work goes on without what it held");
        Loaded::Damaged { aside, why }
    }

    fn content(&self) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::open(self.path(), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let mut bytes = Vec::new();
        file.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than 16 MiB"));
        }
        Ok(Some(bytes))
    }

    fn lock(&self) -> io::Result<OwnedFd> {
        if let Some(directory) = self.path().parent() {
            make_directory(directory)?;
        }
        let file = open_own(&self.path().with_extension("lock"), OFlags::RDWR | OFlags::CREATE)?;
        lock_file(&file)?;
        Ok(file)
    }

    fn not_saved(&self, source: io::Error) -> StateError {
        StateError::NotSaved { path: self.path().to_owned(), source }
    }

    fn not_read(&self, source: io::Error) -> StateError {
        StateError::NotRead { path: self.path().to_owned(), source }
    }
}

/// Waits until nobody else holds the lock of a file, but not for ever.
pub(crate) fn lock_file(file: &impl AsFd) -> io::Result<()> {
    let patience = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            // Anything but "held by another" is trouble with the file itself.
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < patience => std::thread::sleep(LOCK_PAUSE),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The names of files of the state that were damaged and lie aside in a directory.
///
/// # Errors
/// If the directory cannot be read.
pub(crate) fn damaged_files(directory: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.contains(DAMAGED) && found.len() < DAMAGED_TOLD {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

/// Makes a directory that only its owner can enter, with its parents. Made by root, it belongs to the owner of its parent,
/// so that the daemon's account can work in it.
///
/// # Errors
/// If it cannot be made.
pub(crate) fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make_directory(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error),
    }
    give_to_owner_of_parent(&File::open(directory)?, directory)
}

/// Opens a file of the state for its owner alone.
pub(crate) fn open_own(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    give_to_owner_of_parent(&file, path)?;
    Ok(file)
}

/// What root makes in the daemon's directory belongs to the daemon's account.
fn give_to_owner_of_parent(file: &impl AsFd, path: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let Some(parent) = path.parent() else { return Ok(()) };
    let owner = std::fs::metadata(parent)?;
    let (user, group) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    rustix::fs::fchown(file, Some(user), Some(group))?;
    Ok(())
}

/// Replaces a file; see the head of this file for what a crash leaves.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let written = File::from(open_own(&new, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?);
    let saved = (&written).write_all(bytes).and_then(|()| written.sync_all());
    if let Err(error) = saved {
        // What it takes on a full disk is given back.
        if let Err(errno) = rustix::fs::unlink(&new) {
            tracing::debug!(file = %new.display(), %errno, "an unfinished file of the state stays until the next change");
        }
        return Err(error);
    }
    rustix::fs::rename(&new, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Points in time as RFC 3339 text; for `#[serde(with = "time_text")]`.
pub(crate) mod time_text {
    use lifeboat_vocabulary::UtcTime;
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// As text.
    ///
    /// # Errors
    /// Those of the format.
    pub(crate) fn serialize<S: Serializer>(time: &UtcTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(time)
    }

    /// From text.
    ///
    /// # Errors
    /// If it is no point in time.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UtcTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// As [`time_text`], for a point in time that may be absent; add `#[serde(default)]`.
pub(crate) mod optional_time_text {
    use lifeboat_vocabulary::UtcTime;
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// As text, or null.
    ///
    /// # Errors
    /// Those of the format.
    pub(crate) fn serialize<S: Serializer>(time: &Option<UtcTime>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => serializer.collect_str(time),
            None => serializer.serialize_none(),
        }
    }

    /// From text, or null.
    ///
    /// # Errors
    /// If it is no point in time.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<UtcTime>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(de::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests;

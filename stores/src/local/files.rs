//! Files below one directory, written so that a crash leaves either all of one or none of it.
//!
//! Every path is walked part by part from the root with symbolic links refused, so nothing outside can be reached.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_vocabulary::{ByteCount, UtcTime};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::key::ObjectKey;
use crate::local::content::{Content, PIECE, Received};
use crate::local::pool::Steps;
use crate::store::OBJECT_BYTES_MAX;
use crate::store::{ByteRange, ObjectMeta, ObjectVersion};

/// How a read ended.
pub(crate) enum Read {
    /// What was asked for.
    Bytes(Bytes),
    /// There is no such file.
    Missing,
    /// The range makes no sense for this file.
    Refused(String),
}

/// Begins the name of a file whose write is not finished.
pub(crate) const TEMP_PREFIX: &str = ".tmp-";
const LOCK_NAME: &str = ".lock";
const LOCK_TRIES: u32 = 3000;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// Another process may remove a directory that just became empty between our entering it and our first file in it.
const PARENT_TRIES: u32 = 5;

/// The directory that a store lives in.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
    below: Option<ObjectKey>,
    sync: SyncDirectory,
}

/// Makes the names in a directory durable: `fsync`, or a test's failing disk.
pub(crate) type SyncDirectory = fn(&OwnedFd) -> io::Result<()>;

fn sync_directory(directory: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::fsync(directory)?)
}

/// What to do about directories that are not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Report,
}

pub(crate) fn open_directory(parent: &impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// Splits a key into the directories that lead to its file, and the file's name.
fn split(key: &ObjectKey) -> (Vec<&str>, &str) {
    let mut parts: Vec<&str> = key.as_str().split('/').collect();
    let name = parts.pop().unwrap_or("");
    (parts, name)
}

/// Answers "not there" with `None`. A symbolic link or a file where a directory should be hides what lies behind it.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            _ => Err(error),
        },
    }
}

impl Root {
    pub(crate) fn new(path: PathBuf, below: Option<ObjectKey>) -> Self {
        Self { path, below, sync: sync_directory }
    }

    /// The same on a disk that fails as `sync` says.
    #[cfg(test)]
    pub(crate) fn with_sync(self, sync: SyncDirectory) -> Self {
        Self { sync, ..self }
    }

    /// The root itself: opened anew each time, so that a file system that was mounted or unmounted meanwhile is noticed.
    fn top(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&self.path, flags, Mode::empty())?)
    }

    /// The folder that keys are relative to, or `None` if nothing was ever written.
    pub(crate) fn folder(&self) -> io::Result<Option<OwnedFd>> {
        let top = self.top()?;
        present(self.descend(top, &[], Missing::Report).map(|chain| chain.into_last()))
    }

    fn descend(&self, top: OwnedFd, parts: &[&str], missing: Missing) -> io::Result<Chain> {
        let mut chain = Chain { directories: vec![top] };
        let below = self.below.iter().flat_map(|key| key.as_str().split('/'));
        for part in below.chain(parts.iter().copied()) {
            let next = match open_directory(chain.last(), part) {
                Err(error) if missing == Missing::Create && Errno::from_io_error(&error) == Some(Errno::NOENT) => {
                    match rustix::fs::mkdirat(chain.last(), part, Mode::RWXU) {
                        Ok(()) | Err(Errno::EXIST) => open_directory(chain.last(), part)?,
                        Err(errno) => return Err(errno.into()),
                    }
                }
                other => other?,
            };
            chain.directories.push(next);
        }
        Ok(chain)
    }

    fn parent(&self, parts: &[&str]) -> io::Result<Option<OwnedFd>> {
        let top = self.top()?;
        present(self.descend(top, parts, Missing::Report).map(Chain::into_last))
    }

    /// Writes a new file. `None` if the key is taken.
    ///
    // CRASH SAFETY. 1. the bytes go to a temporary file; 2. fsync it; 3. rename it without replacing; 4. fsync every
    // directory from the root down to it. Crash before 3: a temporary file that no reader sees, removed a day later.
    // Crash between 3 and 4: the object may or may not be there, but never in part; nobody was told `Ok`.
    pub(crate) fn create(&self, steps: &Steps, key: &ObjectKey, body: &Content) -> io::Result<Option<ObjectVersion>> {
        let (parts, name) = split(key);
        let (chain, mut temp) = self.temp_file(&parts)?;
        if rustix::fs::statat(chain.last(), name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            // Saves writing 64 MiB only to be refused; the rename below is what decides.
            return self.make_durable(&chain).map(|()| None);
        }
        temp.fill(steps, body)?;
        match temp.publish_new(name) {
            Ok(()) => {}
            Err(Errno::EXIST) => return self.make_durable(&chain).map(|()| None),
            Err(errno) => return Err(errno.into()),
        }
        self.make_durable(&chain)?;
        Ok(Some(version(&temp.file.metadata()?)))
    }

    /// Replaces a file that still is `expected`. `None` if it is not. Same steps as [`Root::create`], under the lock.
    pub(crate) fn replace(
        &self,
        steps: &Steps,
        key: &ObjectKey,
        body: &Content,
        expected: &ObjectVersion,
    ) -> io::Result<Option<ObjectVersion>> {
        let (parts, name) = split(key);
        let Some(_lock) = self.lock()? else { return Ok(None) };
        let Some(parent) = self.parent(&parts)? else { return Ok(None) };
        let Some(old) = open_file(&parent, name)? else { return Ok(None) };
        let old = old.metadata()?;
        if version(&old) != *expected {
            let chain = self.descend(self.top()?, &parts, Missing::Report)?;
            return self.make_durable(&chain).map(|()| None);
        }
        let (chain, mut temp) = self.temp_file(&parts)?;
        temp.fill(steps, body)?;
        temp.make_newer_than(&old)?;
        rustix::fs::renameat(chain.last(), &temp.name, chain.last(), name)?;
        temp.state = TempState::Published;
        self.make_durable(&chain)?;
        Ok(Some(version(&temp.file.metadata()?)))
    }

    /// Makes the name of what was written durable. No errno any more if that fails: the object is there, so nothing may say
    /// that it is not.
    ///
    /// Also where a key is taken: whoever hears that may find that it is its own object, from an attempt whose last step failed, and
    /// take it for stored. So its name is made durable first (its bytes were before it had one), and if that fails, this attempt has
    /// failed like the one before.
    fn make_durable(&self, chain: &Chain) -> io::Result<()> {
        chain.sync(self.sync).map_err(io::Error::other)
    }

    /// Removes a file, and the directories that become empty. A missing file is fine.
    pub(crate) fn delete(&self, key: &ObjectKey) -> io::Result<()> {
        let (parts, name) = split(key);
        let Some(_lock) = self.lock()? else { return Ok(()) };
        let Some(chain) = present(self.descend(self.top()?, &parts, Missing::Report))? else { return Ok(()) };
        match rustix::fs::unlinkat(chain.last(), name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::ISDIR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        (self.sync)(chain.last())?;
        for (depth, part) in parts.iter().enumerate().rev() {
            let above = chain.directories.len() - parts.len() + depth - 1;
            match rustix::fs::unlinkat(&chain.directories[above], *part, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(_) => break, // not empty, or not ours to remove: an empty directory harms nobody
            }
        }
        Ok(())
    }

    pub(crate) fn read(
        &self,
        steps: &Steps,
        key: &ObjectKey,
        range: ByteRange,
        received: &Received,
    ) -> io::Result<Read> {
        let (parts, name) = split(key);
        let Some(parent) = self.parent(&parts)? else { return Ok(Read::Missing) };
        let Some(mut file) = open_file(&parent, name)? else { return Ok(Read::Missing) };
        let size = file.metadata()?.len();
        let (start, length) = match range {
            ByteRange::WholeUpTo(bound) if size > bound.as_bytes() => {
                return Ok(Read::Refused(format!("it has {size} bytes, more than {}", bound.as_bytes())));
            }
            ByteRange::WholeUpTo(_) => (0, size),
            ByteRange::Part { start, .. } if start >= size => {
                return Ok(Read::Refused(format!("byte {start} lies past its end at {size}")));
            }
            ByteRange::Part { start, length } => (start, length.min(size - start)),
        };
        if length > OBJECT_BYTES_MAX.as_bytes() {
            return Ok(Read::Refused(format!("more than {OBJECT_BYTES_MAX} at once")));
        }
        file.seek(SeekFrom::Start(start))?;
        let wanted = usize::try_from(length).map_err(io::Error::other)?;
        let (mut file, mut piece) = (file.take(length), Vec::new());
        loop {
            piece.clear();
            if file.by_ref().take(PIECE as u64).read_to_end(&mut piece)? == 0 {
                break;
            }
            received.push(&piece, wanted)?;
            steps.step();
        }
        let bytes = received.take()?;
        if bytes.len() != wanted {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was read"));
        }
        Ok(Read::Bytes(bytes))
    }

    pub(crate) fn meta(&self, key: &ObjectKey) -> io::Result<Option<ObjectMeta>> {
        let (parts, name) = split(key);
        let Some(parent) = self.parent(&parts)? else { return Ok(None) };
        let Some(file) = open_file(&parent, name)? else { return Ok(None) };
        Ok(Some(meta(&file.metadata()?)))
    }

    /// Makes a temporary file in the directory `parts`, which is made if it is missing.
    fn temp_file(&self, parts: &[&str]) -> io::Result<(Chain, TempFile)> {
        let mut tries = 0;
        loop {
            tries += 1;
            let chain = self.descend(self.top()?, parts, Missing::Create);
            match chain.and_then(|chain| TempFile::new(chain.last().try_clone()?).map(|temp| (chain, temp))) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) && tries < PARENT_TRIES => {}
                other => return other,
            }
        }
    }

    /// Waits for the right to replace and remove; released when dropped. `None` if nothing was ever written here.
    fn lock(&self) -> io::Result<Option<OwnedFd>> {
        let Some(folder) = self.folder()? else { return Ok(None) };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&folder, LOCK_NAME, flags, Mode::RUSR | Mode::WUSR)?;
        for _ in 0..LOCK_TRIES {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(lock)),
                Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(LOCK_PAUSE),
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "another process holds the lock for 30 s"))
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file://{}", self.path.display())?;
        self.below.as_ref().map_or(Ok(()), |below| write!(f, "/{below}"))
    }
}

/// The directories from the root down to one that is being written to.
struct Chain {
    /// Never empty: the first is the root.
    directories: Vec<OwnedFd>,
}

impl Chain {
    fn last(&self) -> &OwnedFd {
        &self.directories[self.directories.len() - 1]
    }

    fn into_last(mut self) -> OwnedFd {
        self.directories.swap_remove(self.directories.len() - 1)
    }

    /// Makes every name on the way durable. All of them, because another process may have made a directory a moment
    /// ago and not have come to its own fsync yet.
    fn sync(&self, sync: SyncDirectory) -> io::Result<()> {
        self.directories.iter().rev().try_for_each(sync)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TempState {
    Unpublished,
    Published,
}

/// A file that is not an object yet; removed when dropped, unless it was published.
struct TempFile {
    directory: OwnedFd,
    name: String,
    file: File,
    state: TempState,
}

impl TempFile {
    fn new(directory: OwnedFd) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = format!("{TEMP_PREFIX}{:016x}", u64::from_le_bytes(random));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, &name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Self { directory, name, file: file.into(), state: TempState::Unpublished })
    }

    fn fill(&mut self, steps: &Steps, body: &Content) -> io::Result<()> {
        let (mut piece, mut offset) = (Vec::new(), 0);
        loop {
            body.piece(offset, &mut piece)?;
            if piece.is_empty() {
                break;
            }
            self.file.write_all(&piece)?;
            offset += piece.len();
            steps.step();
        }
        self.file.sync_all()?;
        steps.step();
        Ok(())
    }

    /// Keeps versions of one key apart even if the file system hands out the same inode twice within a clock tick.
    fn make_newer_than(&self, old: &std::fs::Metadata) -> io::Result<()> {
        let (old, new) = (old.modified()?, self.file.metadata()?.modified()?);
        if new <= old {
            self.file.set_modified(old + Duration::from_micros(1))?;
            self.file.sync_all()?;
        }
        Ok(())
    }

    fn publish_new(&mut self, name: &str) -> Result<(), Errno> {
        let directory = &self.directory;
        match rustix::fs::renameat_with(directory, &self.name, directory, name, RenameFlags::NOREPLACE) {
            Ok(()) => self.state = TempState::Published,
            // Some network file systems know no exclusive rename; a hard link is just as exclusive, and the temporary
            // name goes away when this value is dropped.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rustix::fs::linkat(directory, &self.name, directory, name, AtFlags::empty())?;
            }
            Err(errno) => return Err(errno),
        }
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if self.state == TempState::Unpublished
            && let Err(errno) = rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty())
        {
            tracing::warn!(name = self.name, %errno, "a temporary file could not be removed; the next start will try again");
        }
    }
}

/// Opens a regular file for reading; anything else is as good as missing.
fn open_file(parent: &OwnedFd, name: &str) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(io::Error::from);
    let Some(file) = present(opened)?.map(File::from) else { return Ok(None) };
    Ok(file.metadata()?.is_file().then_some(file))
}

/// A new file has a new inode or a later time; see [`TempFile::make_newer_than`].
fn version(file: &std::fs::Metadata) -> ObjectVersion {
    ObjectVersion(format!("{:x}-{:x}.{:x}-{:x}", file.ino(), file.mtime(), file.mtime_nsec(), file.size()))
}

fn meta(file: &std::fs::Metadata) -> ObjectMeta {
    let micros = file.mtime().checked_mul(1_000_000).and_then(|micros| micros.checked_add(file.mtime_nsec() / 1000));
    ObjectMeta {
        size: ByteCount::from_bytes(file.size()),
        modified: micros.and_then(UtcTime::from_unix_micros),
        version: version(file),
    }
}

/// What a listing says about a file that was found in `parent`.
pub(crate) fn meta_of(parent: &OwnedFd, name: &str) -> io::Result<Option<ObjectMeta>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(io::Error::from);
    let Some(file) = present(opened)?.map(File::from) else { return Ok(None) };
    let found = file.metadata()?;
    Ok(found.is_file().then(|| meta(&found)))
}

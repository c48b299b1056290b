//! A directory and what lies below it, reached from its open file, one step at a time, and never through a link.
//!
//! Who restores as root gives what is made to another account while it goes on. That account could put a link in place of a
//! directory or a file at any moment; a path that is looked up from `/` again would then lead root out of the directory.

use std::ffi::{OsStr, OsString};
use std::fs::{File, FileType};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};

use lifeboat_postgres::{give_new_directory, not_private, open_file, open_or_make_file};
use rustix::fs::{AtFlags, Dir, Gid, Mode, OFlags, Uid};

pub(crate) use lifeboat_postgres::Owner;

/// What the owner of a directory may do in any case: without it he could not fill it.
const OWNER_ENTERS: u32 = 0o700;

/// A directory that shall be filled: its path without links, found out once, and what lay there then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedPlace {
    pub(crate) path: PathBuf,
    /// The path as it was asked for; only what lies above its last name is without links.
    named: PathBuf,
    /// Device and number of the directory; `None` if nothing was there.
    found: Option<(u64, u64)>,
}

impl PlannedPlace {
    /// Follows the links on the way to a directory.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let fault = |error: io::Error| at(path, error);
        let wanted = std::path::absolute(path).map_err(fault)?;
        let path = without_links(&wanted).map_err(fault)?;
        let named = match (wanted.parent(), wanted.file_name()) {
            (Some(above), Some(name)) => without_links(above).map_err(fault)?.join(name),
            _ => path.clone(),
        };
        let found = match std::fs::symlink_metadata(&path) {
            Ok(metadata) => Some((metadata.dev(), metadata.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(fault(error)),
        };
        Ok(Self { path, named, found })
    }

    /// A directory of ours beside it, named after it. Where the directory is a link, that is beside the link: what lies beside its
    /// end need not be ours to write in.
    #[must_use]
    pub(crate) fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.named.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    }
}

/// Follows the links in what exists of an absolute path.
fn without_links(wanted: &Path) -> io::Result<PathBuf> {
    let there = existing(wanted);
    let mut path = std::fs::canonicalize(there)?;
    // Component by component: an empty rest adds no slash.
    path.extend(wanted.strip_prefix(there).unwrap_or(Path::new("")).components());
    Ok(path)
}

/// The directory itself, or the nearest one above it that exists.
pub(crate) fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

/// A directory that is ours to fill.
#[derive(Debug)]
pub(crate) struct Beneath {
    /// For messages.
    path: PathBuf,
    directory: File,
    owner: Option<Owner>,
}

impl Beneath {
    /// Takes over a directory, which is made if it is missing.
    ///
    /// # Errors
    /// Whatever the operating system says; `DirectoryNotEmpty` if there is something in it.
    pub(crate) fn take(PlannedPlace { path, found, .. }: &PlannedPlace, owner: Option<Owner>) -> io::Result<Self> {
        let fault = |error: io::Error| at(path, error);
        // From here on the path is not looked up again.
        let (directory, is_new) = open_or_make_directory(path, owner).map_err(fault)?;
        let metadata = directory.metadata().map_err(fault)?;
        let is_it = found.map_or(is_new, |found| found == (metadata.dev(), metadata.ino()));
        if !is_it {
            let text =
                "another directory has taken its place while the restore began; look who did that, and begin again";
            return Err(fault(io::Error::other(text)));
        }
        let taken = Self { path: path.to_owned(), directory, owner };
        if !taken.names()?.is_empty() {
            return Err(fault(io::ErrorKind::DirectoryNotEmpty.into()));
        }
        let mode = metadata.mode() & 0o7777;
        if mode != 0o700 && mode != 0o750 {
            taken.directory.set_permissions(PermissionsExt::from_mode(0o700)).map_err(fault)?;
        }
        taken.give_away(&taken.directory).map_err(fault)?;
        Ok(taken)
    }

    /// Takes a directory that may hold something already, and is made if it is missing. The one above it must be there.
    ///
    /// # Errors
    /// Whatever the operating system says, above all if it is a link; if it is somebody else's, or others may use it.
    pub(crate) fn keep(path: &Path, owner: Option<Owner>) -> io::Result<Self> {
        let fault = |error: io::Error| at(path, error);
        let is_new = match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(fault(error)),
            made => made.is_ok(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| fault(error.into()))?;
        let kept = Self { path: path.to_owned(), directory: directory.into(), owner };
        let about = kept.directory.metadata().map_err(fault)?;
        let us = rustix::process::geteuid().as_raw();
        let user = owner.filter(|_| !is_new).map_or(us, |(user, _)| user);
        if let Some(why) = not_private(&about, user) {
            return Err(fault(io::Error::other(why)));
        }
        if let Some(owner) = owner.filter(|_| is_new) {
            give_new_directory(&kept.directory, owner).map_err(fault)?;
        }
        Ok(kept)
    }

    /// A directory in it, which is made if it is missing.
    ///
    /// # Errors
    /// Whatever the operating system says, above all if it is a link.
    pub(crate) fn folder(&self, name: &str) -> io::Result<Self> {
        let opened = self.step(self.directory.as_fd(), name.as_bytes(), 0o700);
        let directory = opened.map_err(|error| self.at(name.as_bytes(), error))?;
        Ok(Self { path: self.path.join(name), directory: directory.into(), owner: self.owner })
    }

    /// What is in it.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn names(&self) -> io::Result<Vec<OsString>> {
        let fault = |error: rustix::io::Errno| at(&self.path, error.into());
        let mut names = Vec::new();
        for member in Dir::read_from(&self.directory).map_err(fault)? {
            let member = member.map_err(fault)?;
            let name = member.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    /// Removes a file or a link in it, if there is one.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(self.at(name.as_bytes(), error.into())),
        }
    }

    /// Opens a file in it for writing, with what it holds; it is made if it is missing.
    ///
    /// # Errors
    /// Whatever the operating system says, above all if it is a link.
    pub(crate) fn open_or_make(&self, name: &str) -> io::Result<File> {
        self.open_or_create(name.as_bytes(), OFlags::WRONLY, 0o600)
    }

    /// Gives the socket of this name to the owner.
    ///
    /// # Errors
    /// Whatever the operating system says, above all if it is no socket.
    pub(crate) fn give_socket_away(&self, name: &str) -> io::Result<()> {
        let given = self.give_away_by_name(self.directory.as_fd(), OsStr::new(name), |it| it.is_socket());
        given.map_err(|error| self.at(name.as_bytes(), error))
    }

    /// Gives away what cannot be opened. What has the name may be something else by now.
    fn give_away_by_name(&self, parent: BorrowedFd<'_>, name: &OsStr, is_it: fn(&FileType) -> bool) -> io::Result<()> {
        let Some((user, group)) = self.owner else { return Ok(()) };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = File::from(rustix::fs::openat(parent, name, flags, Mode::empty())?);
        let metadata = found.metadata()?;
        if !is_it(&metadata.file_type()) || metadata.nlink() > 1 {
            return Err(io::Error::other("somebody has put something else in its place"));
        }
        let (user, group) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
        Ok(rustix::fs::chownat(&found, "", user, group, AtFlags::EMPTY_PATH)?)
    }

    /// The open directory as a path, for what takes nothing but paths. It is one as long as `self` lives.
    pub(crate) fn open_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()))
    }

    /// Its path, as it was given.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The device that it lies on.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn device(&self) -> io::Result<u64> {
        Ok(self.directory.metadata().map_err(|error| at(&self.path, error))?.dev())
    }

    /// Flushes the whole file system.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn flush_file_system(&self) -> io::Result<()> {
        rustix::fs::syncfs(&self.directory).map_err(|error| at(&self.path, error.into()))
    }

    /// Makes a directory, and those above it. One that is there already is left as it is.
    ///
    /// # Errors
    /// Whatever the operating system says, above all if a part of the path is a link.
    pub(crate) fn make_directory(&self, path: &[u8], mode: u32) -> io::Result<()> {
        let Some((parent, name)) = split(path) else { return Ok(()) };
        let made = self.open_parent(parent).and_then(|parent| self.step(parent.as_fd(), name, mode));
        made.map(drop).map_err(|error| self.at(path, error))
    }

    /// Makes a file, and the directories above it. Its owner may always write it.
    ///
    /// # Errors
    /// Whatever the operating system says; `AlreadyExists` also for a link, wherever it leads.
    pub(crate) fn create(&self, path: &[u8], mode: u32) -> io::Result<File> {
        let made = self.open_flags(path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, mode);
        made.and_then(|file| self.give_away(&file).map(|()| file)).map_err(|error| self.at(path, error))
    }

    /// Reads a file that is not longer than `most` **bytes**.
    ///
    /// # Errors
    /// Whatever the operating system says, above all if it is a link; `InvalidData` if it is longer.
    pub(crate) fn read(&self, path: &[u8], most: u64) -> io::Result<Vec<u8>> {
        let read = || -> io::Result<Vec<u8>> {
            let mut content = Vec::new();
            self.open_flags(path, OFlags::RDONLY, 0)?.take(most.saturating_add(1)).read_to_end(&mut content)?;
            if content.len() as u64 > most {
                return Err(io::ErrorKind::InvalidData.into());
            }
            Ok(content)
        };
        read().map_err(|error| self.at(path, error))
    }

    /// Opens a file to read it.
    ///
    /// # Errors
    /// Whatever the operating system says, above all if it is a link.
    pub(crate) fn open_to_read(&self, path: &[u8]) -> io::Result<File> {
        self.open_existing(path, OFlags::RDONLY)
    }

    /// Removes a file or a link, if there is one.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn remove_below(&self, path: &[u8]) -> io::Result<()> {
        let removed = || -> io::Result<()> {
            let (parent, name) = split(path).ok_or(io::ErrorKind::InvalidInput)?;
            let parent = self.open_parent(parent)?;
            match rustix::fs::unlinkat(&parent, OsStr::from_bytes(name), AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
                Err(error) => Err(error.into()),
            }
        };
        removed().map_err(|error| self.at(path, error))
    }

    /// Opens a file to add to its end; it is made if it is missing.
    ///
    /// # Errors
    /// Whatever the operating system says, above all if it is a link.
    pub(crate) fn append(&self, path: &[u8], mode: u32) -> io::Result<File> {
        self.open_or_create(path, OFlags::WRONLY | OFlags::APPEND, mode)
    }

    /// Opens a file that is open already a second time, past the page cache.
    ///
    /// # Errors
    /// Whatever the operating system says; `InvalidInput` if the file system cannot do that.
    pub(crate) fn reopen_direct(&self, path: &[u8], opened: &File) -> io::Result<File> {
        let again = self.open_existing(path, OFlags::WRONLY | OFlags::DIRECT)?;
        let same = |a: &std::fs::Metadata, b: &std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        if !same(&again.metadata()?, &opened.metadata()?) {
            return Err(self.at(path, io::Error::other("somebody has put another file in its place")));
        }
        Ok(again)
    }

    fn open_or_create(&self, path: &[u8], flags: OFlags, mode: u32) -> io::Result<File> {
        let opened = || {
            let (parent, name) = split(path).ok_or(io::ErrorKind::InvalidInput)?;
            open_or_make_file(self.open_parent(parent)?, OsStr::from_bytes(name), flags, mode, self.owner)
        };
        opened().map_err(|error| self.at(path, error))
    }

    fn open_existing(&self, path: &[u8], flags: OFlags) -> io::Result<File> {
        self.open_flags(path, flags, 0).map_err(|error| self.at(path, error))
    }

    fn open_flags(&self, path: &[u8], flags: OFlags, mode: u32) -> io::Result<File> {
        let (parent, name) = split(path).ok_or(io::ErrorKind::InvalidInput)?;
        open_file(self.open_parent(parent)?, OsStr::from_bytes(name), flags, mode)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn link(&self, path: &[u8], target: &Path) -> io::Result<()> {
        let made = || -> io::Result<()> {
            let (parent, name) = split(path).ok_or(io::ErrorKind::InvalidInput)?;
            let (parent, name) = (self.open_parent(parent)?, OsStr::from_bytes(name));
            rustix::fs::symlinkat(target, &parent, name)?;
            self.give_away_by_name(parent.as_fd(), name, |it| it.is_symlink())
        };
        made().map_err(|error| self.at(path, error))
    }

    /// Gives a file in `directory` another name.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn rename(&self, directory: &[u8], from: &str, to: &str) -> io::Result<()> {
        let renamed = || -> io::Result<()> {
            let parts = directory.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
            let directory = File::from(self.open_parent(parts)?);
            Ok(rustix::fs::renameat(&directory, from, &directory, to)?)
        };
        renamed().map_err(|error| self.at(directory, error))
    }

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn flush(&self, directory: &[u8]) -> io::Result<()> {
        let parts = directory.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
        let flushed = self.open_parent(parts).and_then(|directory| File::from(directory).sync_all());
        flushed.map_err(|error| self.at(directory, error))
    }

    /// The directory at the end of these names; what is missing is made.
    fn open_parent<'p>(&self, parts: impl Iterator<Item = &'p [u8]>) -> io::Result<OwnedFd> {
        let mut directory = OwnedFd::from(self.directory.try_clone()?);
        for part in parts {
            directory = self.step(directory.as_fd(), part, 0o700)?;
        }
        Ok(directory)
    }

    /// One step down.
    fn step(&self, parent: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<OwnedFd> {
        let name = OsStr::from_bytes(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(parent, name, flags, Mode::empty());
        match open() {
            Err(rustix::io::Errno::NOENT) => {}
            other => return Ok(other?),
        }
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode & 0o777 | OWNER_ENTERS)) {
            Ok(()) => {
                let made = open()?;
                self.give_away(&made)?;
                Ok(made)
            }
            // Another thread was quicker, and gives it away.
            Err(rustix::io::Errno::EXIST) => Ok(open()?),
            Err(error) => Err(error.into()),
        }
    }

    fn give_away(&self, file: impl AsFd) -> io::Result<()> {
        match self.owner {
            Some((user, group)) => fchown(file, Some(user), Some(group)),
            None => Ok(()),
        }
    }

    fn at(&self, path: &[u8], error: io::Error) -> io::Error {
        at(&self.path.join(OsStr::from_bytes(path)), error)
    }
}

/// Opens a directory, step by step from `/` and through no link; what is missing on the way is made, and
/// given to the owner, who would not get through otherwise. Says whether it is new.
fn open_or_make_directory(path: &Path, owner: Option<Owner>) -> io::Result<(File, bool)> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let names = path.components().filter(|part| *part != Component::RootDir).map(|part| match part {
        Component::Normal(name) => Ok(name),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the path leads up again")),
    });
    let names = names.collect::<io::Result<Vec<&OsStr>>>()?;
    let (last, above) = names.split_last().ok_or(io::ErrorKind::InvalidInput)?;
    // To pass through a directory one need not be able to list it.
    let mut parent = rustix::fs::open("/", OFlags::PATH | flags, Mode::empty())?;
    for name in above {
        let open = || rustix::fs::openat(&parent, *name, OFlags::PATH | flags, Mode::empty());
        parent = match open() {
            Err(rustix::io::Errno::NOENT) => {
                let is_new = make_directory(&parent, name)?;
                let made = rustix::fs::openat(&parent, *name, OFlags::RDONLY | flags, Mode::empty())?;
                if let Some(owner) = owner.filter(|_| is_new) {
                    give_new_directory(&made, owner)?;
                }
                made
            }
            other => other?,
        };
    }
    let is_new = make_directory(&parent, last)?;
    Ok((File::from(rustix::fs::openat(&parent, *last, OFlags::RDONLY | flags, Mode::empty())?), is_new))
}

/// False if something has the name already.
fn make_directory(parent: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The names above the last one, and the last one.
fn split(path: &[u8]) -> Option<(impl Iterator<Item = &[u8]>, &[u8])> {
    let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash)?, path.get(slash + 1..)?),
        None => (&[][..], path),
    };
    let is_name = |part: &[u8]| !part.is_empty() && part != b"." && part != b"..";
    let parts = move || parent.split(|byte| *byte == b'/').filter(move |_| !parent.is_empty());
    (is_name(name) && parts().all(is_name)).then(|| (parts(), name))
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;

//! Walks the files below a store's directory in the byte order of their keys, page by page, in bounded memory.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use lifeboat_vocabulary::UtcTime;
use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use crate::key::ObjectKey;
use crate::local::files::{Root, TEMP_PREFIX, meta_of, open_directory};
use crate::local::pool::Steps;
use crate::store::{Entry, ListPage};

/// Names of one directory that are held in memory at once, whatever the directory holds.
const NAMES_AT_ONCE: usize = 1024;

/// The first `limit` keys that begin with `prefix` and come after `after`.
pub(crate) fn page(
    root: &Root,
    steps: &Steps,
    prefix: &str,
    after: Option<&ObjectKey>,
    limit: usize,
) -> io::Result<ListPage> {
    let after = after.map_or("", ObjectKey::as_str);
    let mut walk = Walk { steps, prefix, after, limit, entries: Vec::new() };
    if let Some(folder) = root.folder()? {
        walk.directory(&folder, "")?;
    }
    let more = walk.entries.len() > limit;
    walk.entries.truncate(limit);
    Ok(ListPage { entries: walk.entries, more, server_time: None })
}

struct Walk<'a> {
    steps: &'a Steps,
    prefix: &'a str,
    after: &'a str,
    limit: usize,
    /// One more than `limit` tells that there is more.
    entries: Vec<Entry>,
}

impl Walk<'_> {
    fn is_full(&self) -> bool {
        self.entries.len() > self.limit
    }

    /// Visits a directory whose keys begin with `path` (empty, or ending in `/`).
    fn directory(&mut self, directory: &OwnedFd, path: &str) -> io::Result<()> {
        let mut last = String::new();
        loop {
            let names = self.names_after(directory, path, &last)?;
            let complete = names.len() < NAMES_AT_ONCE;
            for name in &names {
                self.visit(directory, path, name)?;
                if self.is_full() {
                    return Ok(());
                }
            }
            match names.into_iter().next_back() {
                Some(name) if !complete => last = name,
                _ => return Ok(()),
            }
        }
    }

    fn visit(&mut self, directory: &OwnedFd, path: &str, name: &str) -> io::Result<()> {
        self.steps.step();
        let whole = format!("{path}{name}");
        if let Some(folder) = name.strip_suffix('/') {
            return match open_directory(directory, folder) {
                Ok(inner) => self.directory(&inner, &whole),
                Err(error) => vanished(error),
            };
        }
        let Ok(key) = whole.parse::<ObjectKey>() else { return Ok(()) }; // longer than any key: not ours
        if let Some(meta) = meta_of(directory, name)? {
            self.entries.push(Entry { key, meta });
        }
        Ok(())
    }

    /// The first names in key order that may lead to something wanted. A directory's name carries its `/`, because
    /// that is what the next byte of its keys is: `a-b` comes before `a/c`, and `a0` after it.
    fn names_after(&self, directory: &OwnedFd, path: &str, last: &str) -> io::Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            self.steps.step();
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name.parse::<ObjectKey>().is_err() {
                continue; // temporary files, the lock, and whatever a person or a file system keeps here
            }
            let name = match kind(directory, &entry)? {
                FileType::Directory => format!("{name}/"),
                FileType::RegularFile => name.to_owned(),
                _ => continue,
            };
            if name.as_str() > last && self.may_lead_on(&format!("{path}{name}")) {
                names.insert(name);
                if names.len() > NAMES_AT_ONCE {
                    names.pop_last();
                }
            }
        }
        Ok(names)
    }

    fn may_lead_on(&self, path: &str) -> bool {
        if path.ends_with('/') {
            let leads_to_prefix = path.starts_with(self.prefix) || self.prefix.starts_with(path);
            leads_to_prefix && (path > self.after || self.after.starts_with(path))
        } else {
            path.starts_with(self.prefix) && path > self.after
        }
    }
}

fn kind(directory: &OwnedFd, entry: &rustix::fs::DirEntry) -> io::Result<FileType> {
    match entry.file_type() {
        FileType::Unknown => match rustix::fs::statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode)),
            Err(Errno::NOENT) => Ok(FileType::Unknown),
            Err(errno) => Err(errno.into()),
        },
        known => Ok(known),
    }
}

/// A directory that is removed while we walk held nothing any more.
fn vanished(error: io::Error) -> io::Result<()> {
    match Errno::from_io_error(&error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
        _ => Err(error),
    }
}

/// Removes temporary files that are older than `age`, as far as the rights go: whoever only reads is not stopped here.
///
/// # Errors
/// Only if the root itself cannot be entered, or the disk fails.
pub(crate) fn remove_leftovers(root: &Root, steps: &Steps, now: UtcTime, age: Duration) -> io::Result<()> {
    root.folder()?.map_or(Ok(()), |folder| sweep(&folder, steps, now, age))
}

/// Directories are opened one inside the other, so that no more are open than one key has parts.
fn sweep(directory: &OwnedFd, steps: &Steps, now: UtcTime, age: Duration) -> io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        steps.step();
        let Ok(name) = entry.file_name().to_str() else { continue };
        let kind = kind(directory, &entry)?;
        if kind == FileType::RegularFile && name.starts_with(TEMP_PREFIX) {
            let written = meta_of(directory, name)?.and_then(|meta| meta.modified);
            if written.is_some_and(|written| now.since(written) > age) {
                tolerated(rustix::fs::unlinkat(directory, name, AtFlags::empty()).map_err(io::Error::from))?;
            }
        } else if kind == FileType::Directory && name.parse::<ObjectKey>().is_ok() {
            tolerated(open_directory(directory, name).and_then(|inner| sweep(&inner, steps, now, age)))?;
        }
    }
    Ok(())
}

fn tolerated(result: io::Result<()>) -> io::Result<()> {
    match result.as_ref().map_err(Errno::from_io_error) {
        Err(Some(Errno::NOENT | Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::NOTDIR | Errno::LOOP)) => Ok(()),
        _ => result,
    }
}

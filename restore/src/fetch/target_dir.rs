//! Where a restore puts files: a new data directory and its tablespaces.
//!
//! CRASH SAFETY. 1. every file is written; 2. everything is flushed (`syncfs` of every file system involved: one
//! barrier instead of one per file); 3. `global/pg_control`, which was written under another name, is renamed and its
//! directory flushed. Crash before 3: a directory without `pg_control`, which no server starts. Crash after: a whole
//! copy. Nothing that existed before is ever overwritten or removed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use lifeboat_repository::backup::read::{FileSink, SinkFile};
use lifeboat_vocabulary::{EntryKind, FileEntry, RelativePath};
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, OFlags};

const PG_CONTROL: &[u8] = b"global/pg_control";
const PG_CONTROL_WAITING: &str = "global/pg_control.lifeboat-restoring";
/// Smaller files go through the page cache: reserving and aligning costs more than it saves.
const DIRECT_FROM: u64 = 256 << 10;
const PAGE: usize = 4096;

/// Who shall own what is restored: the numbers of user and group.
pub(crate) type Owner = (u32, u32);

/// A file of the restored directory, for its manifest.
#[derive(Clone, Debug)]
pub(crate) struct RestoredFile {
    /// What was written.
    pub(crate) entry: FileEntry,
    /// CRC-32C of its content.
    pub(crate) crc32c: u32,
}

/// A data directory that is being filled.
#[derive(Debug)]
pub(crate) struct TargetDir {
    root: PathBuf,
    tablespaces: BTreeMap<u32, PathBuf>,
    owner: Option<Owner>,
    files: Mutex<Vec<RestoredFile>>,
}

impl TargetDir {
    /// Takes over `root` (made if missing, else it must be empty) and the tablespace directories, by OID.
    ///
    /// # Errors
    /// Whatever the operating system says; `DirectoryNotEmpty` if there is something in one of them.
    pub(crate) fn prepare(root: &Path, tablespaces: BTreeMap<u32, PathBuf>, owner: Option<Owner>) -> io::Result<Self> {
        let target = Self { root: root.to_owned(), tablespaces, owner, files: Mutex::default() };
        for directory in std::iter::once(&target.root).chain(target.tablespaces.values()) {
            target.take_directory(directory)?;
        }
        if !target.tablespaces.is_empty() {
            target.make_directory(&target.root.join("pg_tblspc"), 0o700)?;
        }
        for (oid, directory) in &target.tablespaces {
            let link = target.root.join("pg_tblspc").join(oid.to_string());
            std::os::unix::fs::symlink(directory, &link)?;
            target.give_away(&link)?;
        }
        Ok(target)
    }

    fn take_directory(&self, directory: &Path) -> io::Result<()> {
        match std::fs::read_dir(directory) {
            Ok(mut members) => match members.next() {
                None => {}
                Some(_) => return Err(at(directory, io::ErrorKind::DirectoryNotEmpty.into())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(directory)
                    .map_err(|e| at(directory, e))?;
            }
            Err(error) => return Err(at(directory, error)),
        }
        let mode = std::fs::metadata(directory)?.mode() & 0o7777;
        if mode != 0o700 && mode != 0o750 {
            std::fs::set_permissions(directory, PermissionsExt::from_mode(0o700)).map_err(|e| at(directory, e))?;
        }
        self.give_away(directory)
    }

    fn give_away(&self, path: &Path) -> io::Result<()> {
        match self.owner {
            Some((user, group)) => std::os::unix::fs::lchown(path, Some(user), Some(group)).map_err(|e| at(path, e)),
            None => Ok(()),
        }
    }

    fn make_directory(&self, path: &Path, mode: u32) -> io::Result<()> {
        match std::fs::DirBuilder::new().mode(mode).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = path.parent() {
                    self.make_directory(parent, 0o700)?;
                }
                std::fs::DirBuilder::new().mode(mode).create(path).map_err(|e| at(path, e))?;
            }
            Err(error) => return Err(at(path, error)),
        }
        self.give_away(path)
    }

    /// Where a member of the backup goes; `pg_control` goes to its waiting name.
    fn place(&self, path: &RelativePath) -> PathBuf {
        if path.as_bytes() == PG_CONTROL {
            return self.root.join(PG_CONTROL_WAITING);
        }
        let in_tablespace = path.as_bytes().strip_prefix(b"pg_tblspc/").and_then(|rest| {
            let slash = rest.iter().position(|b| *b == b'/')?;
            let (oid, below) = rest.split_at(slash);
            let oid: u32 = std::str::from_utf8(oid).ok()?.parse().ok()?;
            Some(self.tablespaces.get(&oid)?.join(OsStr::from_bytes(below.get(1..)?)))
        });
        in_tablespace.unwrap_or_else(|| self.root.join(OsStr::from_bytes(path.as_bytes())))
    }

    /// Writes a small file of our own making, and lists it like the others. Replaces nothing.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn add_file(&self, name: &str, content: &str) -> io::Result<()> {
        let path = RelativePath::new(name.as_bytes()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let size = content.len() as u64;
        let entry = FileEntry { path, kind: EntryKind::File, mode: 0o600, size, modified: 0 };
        let file = self.open(&entry)?;
        file.write_at(content.as_bytes(), 0)?;
        self.complete(&entry, crc32c::crc32c(content.as_bytes()), file)
    }

    /// Adds to the end of a restored text file, which is made if the backup had none.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn append(&self, name: &str, text: &str) -> io::Result<()> {
        let path = self.root.join(name);
        let mut file =
            OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(|e| at(&path, e))?;
        io::Write::write_all(&mut file, text.as_bytes()).map_err(|e| at(&path, e))?;
        self.give_away(&path)
    }

    /// All files so far, sorted by path.
    #[must_use]
    pub(crate) fn files(&self) -> Vec<RestoredFile> {
        let mut files = self.files.lock().clone();
        files.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
        files
    }

    /// Makes everything durable and the copy startable. See the head of this file.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn publish(&self) -> io::Result<()> {
        self.flush()?;
        let waiting = self.root.join(PG_CONTROL_WAITING);
        let global = self.root.join("global");
        rustix::fs::rename(&waiting, self.root.join(OsStr::from_bytes(PG_CONTROL)))
            .map_err(|e| at(&waiting, e.into()))?;
        File::open(&global)?.sync_all().map_err(|e| at(&global, e))
    }

    fn flush(&self) -> io::Result<()> {
        let mut flushed = Vec::new();
        for directory in std::iter::once(&self.root).chain(self.tablespaces.values()) {
            let opened = File::open(directory).map_err(|e| at(directory, e))?;
            let device = opened.metadata()?.dev();
            if !flushed.contains(&device) {
                rustix::fs::syncfs(&opened).map_err(|e| at(directory, e.into()))?;
                flushed.push(device);
            }
        }
        Ok(())
    }
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl FileSink for TargetDir {
    fn make(&self, entry: &FileEntry) -> io::Result<()> {
        let path = self.place(&entry.path);
        match &entry.kind {
            EntryKind::Directory => self.make_directory(&path, entry.mode),
            // The links of tablespaces are ours; any other link would lead out of the directory that was asked for.
            EntryKind::Symlink { .. } | EntryKind::File => Ok(()),
        }
    }

    fn open(&self, entry: &FileEntry) -> io::Result<Box<dyn SinkFile>> {
        let path = self.place(&entry.path);
        let create = || OpenOptions::new().write(true).create_new(true).mode(entry.mode & 0o777).open(&path);
        let buffered = match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = path.parent() {
                    self.make_directory(parent, 0o700)?;
                }
                create()
            }
            other => other,
        };
        let buffered = buffered.map_err(|e| at(&path, e))?;
        self.give_away(&path)?;
        let direct = if entry.size >= DIRECT_FROM { reserve_and_reopen(&buffered, &path, entry.size)? } else { None };
        Ok(Box::new(OpenFile { buffered, direct }))
    }

    fn complete(&self, entry: &FileEntry, crc32c: u32, _file: Box<dyn SinkFile>) -> io::Result<()> {
        self.files.lock().push(RestoredFile { entry: entry.clone(), crc32c });
        Ok(())
    }

    fn facts(&self, _json: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Reserves the file's room, so that a full disk shows now and blocks lie together, and opens it a second time past the
/// page cache. File systems that cannot do one of them are used without.
fn reserve_and_reopen(buffered: &File, path: &Path, size: u64) -> io::Result<Option<File>> {
    match rustix::fs::fallocate(buffered, FallocateFlags::empty(), 0, size) {
        Ok(()) => {}
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => return Ok(None),
        Err(error) => return Err(at(path, error.into())),
    }
    let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
    match OpenOptions::new().write(true).custom_flags(flags).open(path) {
        Ok(direct) => Ok(Some(direct)),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(at(path, error)),
    }
}

#[derive(Debug)]
struct OpenFile {
    buffered: File,
    direct: Option<File>,
}

impl SinkFile for OpenFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let aligned = bytes.as_ptr().align_offset(PAGE) == 0 && offset.is_multiple_of(PAGE as u64);
        match &self.direct {
            Some(direct) if aligned => {
                let (whole, tail) = bytes.split_at(bytes.len() / PAGE * PAGE);
                direct.write_all_at(whole, offset)?;
                self.buffered.write_all_at(tail, offset + whole.len() as u64)
            }
            _ => self.buffered.write_all_at(bytes, offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, size: u64) -> FileEntry {
        FileEntry {
            path: RelativePath::new(path.as_bytes()).unwrap(),
            kind: EntryKind::File,
            mode: 0o600,
            size,
            modified: 0,
        }
    }

    fn write(target: &TargetDir, path: &str, content: &[u8]) {
        let entry = entry(path, content.len() as u64);
        let file = target.open(&entry).unwrap();
        file.write_at(content, 0).unwrap();
        target.complete(&entry, crc32c::crc32c(content), file).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_empty_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        File::create(&precious).unwrap();
        let error = TargetDir::prepare(dir.path(), BTreeMap::new(), None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::DirectoryNotEmpty);
        assert!(precious.exists());
    }

    #[test]
    fn the_control_file_appears_last_and_only_when_published() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("pgdata");
        let target = TargetDir::prepare(&root, BTreeMap::new(), None).unwrap();
        write(&target, "global/pg_control", &[7; 8192]);
        assert!(!root.join("global/pg_control").exists());
        target.publish().unwrap();
        assert_eq!(std::fs::read(root.join("global/pg_control")).unwrap(), [7; 8192]);
        assert_eq!(std::fs::read_dir(root.join("global")).unwrap().count(), 1);
    }

    #[test]
    fn files_of_a_tablespace_go_where_it_was_mapped_to() {
        let dir = tempfile::tempdir().unwrap();
        let (root, space) = (dir.path().join("pgdata"), dir.path().join("fast"));
        let target = TargetDir::prepare(&root, BTreeMap::from([(16384, space.clone())]), None).unwrap();
        write(&target, "pg_tblspc/16384/PG_17_202406281/5/16390", b"rows");
        assert_eq!(std::fs::read(space.join("PG_17_202406281/5/16390")).unwrap(), b"rows");
        assert_eq!(std::fs::read_link(root.join("pg_tblspc/16384")).unwrap(), space);
    }

    #[test]
    fn large_files_are_written_right_at_every_alignment() {
        let dir = tempfile::tempdir().unwrap();
        let target = TargetDir::prepare(&dir.path().join("pgdata"), BTreeMap::new(), None).unwrap();
        let content: Vec<u8> = (0..1_000_003u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let entry = entry("base/5/16384", content.len() as u64);
        let file = target.open(&entry).unwrap();
        for (from, to) in [(524_288, 1_000_003), (0, 4096), (4096, 5000), (5000, 524_288)] {
            file.write_at(&content[from..to], from as u64).unwrap();
        }
        target.complete(&entry, 0, file).unwrap();
        assert_eq!(std::fs::read(target.root.join("base/5/16384")).unwrap(), content);
    }
}

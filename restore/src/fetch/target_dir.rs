//! Where a restore puts files: a new data directory and its tablespaces.
//!
//! CRASH SAFETY. 1. every file is written; 2. everything is flushed (`syncfs` of every file system involved: one
//! barrier instead of one per file); 3. `global/pg_control`, which was written under another name, is renamed and its
//! directory flushed. Crash before 3: a directory without `pg_control`, which no server starts. Crash after: a whole
//! copy. Nothing that existed before is ever overwritten or removed.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use lifeboat_postgres::belongs_to_a_copy;
use lifeboat_repository::backup::read::{FileSink, SinkFile};
use lifeboat_vocabulary::{EntryKind, FileEntry, RelativePath};
use parking_lot::Mutex;
use rustix::fs::FallocateFlags;

use crate::fetch::beneath::{Beneath, Owner, PlannedPlace};

const PG_CONTROL: &[u8] = b"global/pg_control";
const PG_CONTROL_WAITING: &str = "pg_control.lifeboat-restoring";
/// Its path, which no backup has.
const PG_CONTROL_WAITING_PATH: &[u8] = b"global/pg_control.lifeboat-restoring";
/// Smaller files go through the page cache: reserving and aligning costs more than it saves.
const DIRECT_FROM: u64 = 256 << 10;
const PAGE: usize = 4096;

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
    root: Beneath,
    tablespaces: BTreeMap<u32, Beneath>,
    /// How the one directory in a tablespace begins: its name has the version of the system catalogs at its end.
    version_directory: String,
    files: Mutex<BTreeMap<RelativePath, RestoredFile>>,
    /// The directories of the backup.
    directories: Mutex<BTreeSet<RelativePath>>,
}

/// Where everything goes, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TargetPlaces {
    /// The data directory.
    pub(crate) root: PlannedPlace,
    /// Tablespaces, by OID.
    pub(crate) tablespaces: BTreeMap<u32, PlannedPlace>,
    /// Who gets the files, when that is not the one who restores.
    pub(crate) owner: Option<Owner>,
    /// The major version of PostgreSQL that the files are of.
    pub(crate) major: u32,
}

impl TargetDir {
    /// Takes over the data directory and the tablespace directories: each is made if it is missing, else it must be empty.
    ///
    /// # Errors
    /// Whatever the operating system says; `DirectoryNotEmpty` if there is something in one of them.
    pub(crate) fn prepare(places: &TargetPlaces) -> io::Result<Self> {
        let TargetPlaces { root, tablespaces, owner, major } = places;
        let root = Beneath::take(root, *owner)?;
        let take = |(oid, place): (&u32, &PlannedPlace)| Ok((*oid, Beneath::take(place, *owner)?));
        let tablespaces: BTreeMap<u32, Beneath> = tablespaces.iter().map(take).collect::<io::Result<_>>()?;
        for (oid, directory) in &tablespaces {
            root.link(format!("pg_tblspc/{oid}").as_bytes(), directory.path())?;
        }
        Ok(Self {
            root,
            tablespaces,
            version_directory: format!("PG_{major}_"),
            files: Mutex::default(),
            directories: Mutex::default(),
        })
    }

    /// Where a member of the backup goes; `pg_control` goes to its waiting name. In a tablespace there is nothing but the
    /// directory of one version of PostgreSQL: the paths come from the backup, and another place could mean something to
    /// another program.
    fn place<'p>(&self, path: &'p RelativePath) -> io::Result<(&Beneath, Cow<'p, [u8]>)> {
        if path.as_bytes() == PG_CONTROL {
            return Ok((&self.root, Cow::Borrowed(PG_CONTROL_WAITING_PATH)));
        }
        let in_tablespace = path.as_bytes().strip_prefix(b"pg_tblspc/").and_then(|rest| {
            let slash = rest.iter().position(|b| *b == b'/')?;
            let (oid, below) = rest.split_at(slash);
            let oid: u32 = std::str::from_utf8(oid).ok()?.parse().ok()?;
            Some((self.tablespaces.get(&oid)?, below.get(1..)?))
        });
        let Some((tablespace, below)) = in_tablespace else { return Ok((&self.root, Cow::Borrowed(path.as_bytes()))) };
        let directory = below.split(|byte| *byte == b'/').next().unwrap_or_default();
        let catalog = directory.strip_prefix(self.version_directory.as_bytes());
        if catalog.is_none_or(|catalog| catalog.is_empty() || !catalog.iter().all(u8::is_ascii_digit)) {
            let text = format!("{path} does not lie in the directory {}... of its tablespace", self.version_directory);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok((tablespace, Cow::Borrowed(below)))
    }

    /// Reads a restored file that is no longer than `most` **bytes**; `None` if there is none, or it is longer.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn read_small(&self, name: &str, most: u64) -> io::Result<Option<Vec<u8>>> {
        let Ok(path) = RelativePath::new(name.as_bytes()) else { return Ok(None) };
        let is_it = self.files.lock().get(&path).is_some_and(|file| file.entry.size <= most);
        if name.starts_with("pg_tblspc/") || !is_it {
            return Ok(None);
        }
        self.root.read(name.as_bytes(), most).map(Some)
    }

    /// Opens a restored file to read it.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn open_to_read(&self, name: &str) -> io::Result<File> {
        self.root.open_to_read(name.as_bytes())
    }

    /// The names of the files that lie in a directory below the data directory, not deeper; `None` if there is no such directory.
    #[must_use]
    pub(crate) fn names(&self, directory: &str) -> Option<Vec<String>> {
        let path = RelativePath::new(directory.as_bytes()).ok()?;
        let below = format!("{directory}/");
        let files = self.files.lock();
        let from = files.range(&path..).skip_while(|(path, _)| path.as_bytes() < below.as_bytes());
        let inside = from.map_while(|(path, _)| path.as_bytes().strip_prefix(below.as_bytes()));
        let (mut names, mut is_there) = (Vec::new(), self.directories.lock().contains(&path));
        for name in inside {
            is_there = true;
            if !name.contains(&b'/') {
                names.extend(std::str::from_utf8(name).ok().map(str::to_owned));
            }
        }
        is_there.then_some(names)
    }

    /// Writes a small file of our own making, or replaces a restored one by it, and lists it like the others. Before
    /// [`TargetDir::publish`] nobody starts the copy, so a crash in the middle leaves nothing that counts.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn put_file(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let path = RelativePath::new(name.as_bytes()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let mode = self.files.lock().remove(&path).map_or(0o600, |file| file.entry.mode);
        let (directory, place) = self.place(&path)?;
        directory.remove_below(&place)?;
        let entry = FileEntry { path, kind: EntryKind::File, mode, size: content.len() as u64, modified: 0 };
        let file = self.open(&entry)?;
        file.write_at(content, 0)?;
        self.complete(&entry, crc32c::crc32c(content), file)
    }

    /// Adds to the end of a restored text file, which is made if the backup had none.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn append(&self, name: &str, text: &str) -> io::Result<()> {
        let mut file = self.root.append(name.as_bytes(), 0o600)?;
        io::Write::write_all(&mut file, text.as_bytes())
            .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))
    }

    /// All files so far, sorted by path.
    #[must_use]
    pub(crate) fn files(&self) -> Vec<RestoredFile> {
        self.files.lock().values().cloned().collect()
    }

    /// Makes everything durable and the copy startable. See the head of this file.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn publish(&self) -> io::Result<()> {
        self.flush()?;
        self.root.rename(b"global", PG_CONTROL_WAITING, "pg_control")?;
        self.root.flush(b"global")
    }

    fn flush(&self) -> io::Result<()> {
        let mut flushed = Vec::new();
        for directory in std::iter::once(&self.root).chain(self.tablespaces.values()) {
            let device = directory.device()?;
            if !flushed.contains(&device) {
                directory.flush_file_system()?;
                flushed.push(device);
            }
        }
        Ok(())
    }
}

impl FileSink for TargetDir {
    fn make(&self, entry: &FileEntry) -> io::Result<()> {
        refuse_foreign(&entry.path)?;
        match &entry.kind {
            EntryKind::Directory => {
                let oid =
                    entry.path.as_bytes().strip_prefix(b"pg_tblspc/").and_then(|oid| std::str::from_utf8(oid).ok());
                // Our link stands there.
                if oid.and_then(|oid| oid.parse().ok()).is_some_and(|oid: u32| self.tablespaces.contains_key(&oid)) {
                    return Ok(());
                }
                let (directory, path) = self.place(&entry.path)?;
                directory.make_directory(&path, entry.mode)?;
                self.directories.lock().insert(entry.path.clone());
                Ok(())
            }
            // The links of tablespaces are ours; any other link would lead out of the directory that was asked for.
            EntryKind::Symlink { .. } | EntryKind::File => Ok(()),
        }
    }

    fn open(&self, entry: &FileEntry) -> io::Result<Box<dyn SinkFile>> {
        refuse_foreign(&entry.path)?;
        let (directory, path) = self.place(&entry.path)?;
        let buffered = directory.create(&path, entry.mode)?;
        let direct = match entry.size {
            DIRECT_FROM.. => reserve_and_reopen(directory, &path, &buffered, entry.size)?,
            _ => None,
        };
        Ok(Box::new(OpenFile { buffered, direct }))
    }

    fn complete(&self, entry: &FileEntry, crc32c: u32, _file: Box<dyn SinkFile>) -> io::Result<()> {
        self.files.lock().insert(entry.path.clone(), RestoredFile { entry: entry.clone(), crc32c });
        Ok(())
    }

    fn facts(&self, _json: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Refuses what no backup of ours has. Some of it a server would follow, as to where tablespaces are (`tablespace_map`) or how to
/// recover (signal files): whoever writes backups could lead a copy past what was asked for.
pub(crate) fn refuse_foreign(path: &RelativePath) -> io::Result<()> {
    if belongs_to_a_copy(path) && path.as_bytes() != PG_CONTROL_WAITING_PATH {
        return Ok(());
    }
    let text = format!(
        "{path}: lifeboat writes no backup with such a file, so somebody else made it (docs/THREATS.md); choose another with --backup"
    );
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// Reserves the file's room, so that a full disk shows now and blocks lie together, and opens it a second time past the
/// page cache. File systems that cannot do one of them are used without.
fn reserve_and_reopen(directory: &Beneath, path: &[u8], buffered: &File, size: u64) -> io::Result<Option<File>> {
    match rustix::fs::fallocate(buffered, FallocateFlags::empty(), 0, size) {
        Ok(()) => {}
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    match directory.reopen_direct(path, buffered) {
        Ok(direct) => Ok(Some(direct)),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(error),
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
    use std::path::{Path, PathBuf};

    fn target(root: &Path, tablespaces: BTreeMap<u32, PathBuf>) -> io::Result<TargetDir> {
        let place = |path: &Path| PlannedPlace::of(path).unwrap();
        let tablespaces = tablespaces.into_iter().map(|(oid, path)| (oid, place(&path))).collect();
        TargetDir::prepare(&TargetPlaces { root: place(root), tablespaces, owner: None, major: 17 })
    }

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
        let error = target(dir.path(), BTreeMap::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::DirectoryNotEmpty);
        assert!(precious.exists());
    }

    #[test]
    fn the_control_file_appears_last_and_only_when_published() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("pgdata");
        let target = target(&root, BTreeMap::new()).unwrap();
        write(&target, "global/pg_control", &[7; 8192]);
        assert!(!root.join("global/pg_control").exists());
        target.publish().unwrap();
        assert_eq!(std::fs::read(root.join("global/pg_control")).unwrap(), [7; 8192]);
        assert_eq!(std::fs::read_dir(root.join("global")).unwrap().count(), 1);
    }

    #[test]
    fn nothing_that_a_server_would_follow_comes_from_a_backup() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(&dir.path().join("pgdata"), BTreeMap::new()).unwrap();
        for name in ["tablespace_map", "standby.signal", "recovery.signal", "global/pg_control.lifeboat-restoring"] {
            let refused = target.open(&entry(name, 15)).map(drop).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{name}: {refused}");
        }
        write(&target, "base/1/1259", b"data");
    }

    #[test]
    fn files_of_a_tablespace_go_where_it_was_mapped_to() {
        let dir = tempfile::tempdir().unwrap();
        let (root, space) = (dir.path().join("pgdata"), dir.path().join("fast"));
        let target = target(&root, BTreeMap::from([(16384, space.clone())])).unwrap();
        write(&target, "pg_tblspc/16384/PG_17_202406281/5/16390", b"rows");
        assert_eq!(std::fs::read(space.join("PG_17_202406281/5/16390")).unwrap(), b"rows");
        assert_eq!(std::fs::read_link(root.join("pg_tblspc/16384")).unwrap(), space);
    }

    #[test]
    fn a_tablespace_gets_nothing_but_the_directory_of_its_version() {
        let dir = tempfile::tempdir().unwrap();
        let (root, space) = (dir.path().join("pgdata"), dir.path().join("fast"));
        let target = target(&root, BTreeMap::from([(16384, space.clone())])).unwrap();
        for below in ["authorized_keys", "PG_17_", "PG_16_202406281/5/1", "PG_17_2024x/1", "PG_17_202406281.bak/1"] {
            let path = format!("pg_tblspc/16384/{below}");
            assert_eq!(target.open(&entry(&path, 1)).err().unwrap().kind(), io::ErrorKind::InvalidData, "{below}");
            let directory = FileEntry { kind: EntryKind::Directory, ..entry(&path, 0) };
            assert!(target.make(&directory).is_err(), "{below}");
        }
        assert!(target.open(&entry("pg_tblspc/16384", 1)).is_err(), "that is the link itself");
        write(&target, "pg_tblspc/16385/x", b"inside of the data directory");
        assert_eq!(std::fs::read_dir(&space).unwrap().count(), 0);
    }

    #[test]
    fn large_files_are_written_right_at_every_alignment() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(&dir.path().join("pgdata"), BTreeMap::new()).unwrap();
        let content: Vec<u8> = (0..1_000_003u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let entry = entry("base/5/16384", content.len() as u64);
        let file = target.open(&entry).unwrap();
        for (from, to) in [(524_288, 1_000_003), (0, 4096), (4096, 5000), (5000, 524_288)] {
            file.write_at(&content[from..to], from as u64).unwrap();
        }
        target.complete(&entry, 0, file).unwrap();
        assert_eq!(std::fs::read(target.root.path().join("base/5/16384")).unwrap(), content);
    }
}

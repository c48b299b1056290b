//! The files that wait to be replayed: complete ones under their own names, beside the data directory and never in it.
//!
//! CRASH SAFETY. A file is written under another name and renamed when all of it is there and was checked. Whatever lies
//! in the directory when a prefetcher starts is from before: it is removed unread, so that no restore ever replays what
//! another one has fetched.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, lchown};
use std::path::{Path, PathBuf};

use crate::fetch::target_dir::Owner;

const FOLDER: &str = "segments";
const UNFINISHED: &str = "fetching-";

/// The directory of complete files.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFiles {
    folder: PathBuf,
    owner: Option<Owner>,
}

impl SegmentFiles {
    /// The empty folder for files in `directory`, which is ours.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn emptied(directory: &Path, owner: Option<Owner>) -> io::Result<Self> {
        let folder = directory.join(FOLDER);
        match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let files = Self { folder, owner };
        files.give_away(&files.folder)?;
        for entry in std::fs::read_dir(&files.folder)? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(files)
    }

    fn give_away(&self, path: &Path) -> io::Result<()> {
        match self.owner {
            Some((user, group)) => lchown(path, Some(user), Some(group)),
            None => Ok(()),
        }
    }

    fn unfinished(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{UNFINISHED}{name}"))
    }

    /// A new file of `size` zeros, not visible under its name yet.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn begin(&self, name: &str, size: u64) -> io::Result<File> {
        let path = self.unfinished(name);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        self.give_away(&path)?;
        file.set_len(size)?;
        Ok(file)
    }

    /// Shows a complete file under its name.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn publish(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.folder.join(name);
        rustix::fs::rename(self.unfinished(name), &path)?;
        Ok(path)
    }

    /// Removes a file that nobody asked for.
    pub(crate) fn discard(&self, path: &Path) {
        if let Err(error) = std::fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "a fetched segment stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_has_its_name_only_when_it_is_complete_and_none_outlives_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let files = SegmentFiles::emptied(dir.path(), None).unwrap();
        let names = || std::fs::read_dir(dir.path().join("segments")).unwrap().count();
        let mut file = files.begin("0000", 8192).unwrap();
        file.write_all(b"wal").unwrap();
        assert!(!dir.path().join("segments/0000").exists());
        let path = files.publish("0000").unwrap();
        assert_eq!(std::fs::read(&path).unwrap().len(), 8192);
        files.begin("0001", 1).unwrap();
        assert_eq!(names(), 2);
        SegmentFiles::emptied(dir.path(), None).unwrap();
        assert_eq!(names(), 0, "what another start has left is never replayed");
        files.discard(&path);
    }
}

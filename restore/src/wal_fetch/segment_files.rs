//! The files that wait to be replayed: complete ones under their own names, beside the data directory and never in it.
//!
//! CRASH SAFETY. A file is written under another name and renamed when all of it is there and was checked. Whatever lies
//! in the directory when a prefetcher starts is from before: it is removed unread, so that no restore ever replays what
//! another one has fetched.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fetch::beneath::Beneath;

const FOLDER: &str = "segments";
const UNFINISHED: &str = "fetching-";

/// The directory of complete files.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFiles {
    folder: Arc<Beneath>,
}

impl SegmentFiles {
    /// The empty folder for files in `directory`, which is ours.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn emptied(directory: &Beneath) -> io::Result<Self> {
        let folder = directory.folder(FOLDER)?;
        for name in folder.names()? {
            folder.remove(&name)?;
        }
        Ok(Self { folder: Arc::new(folder) })
    }

    /// A new file of `size` zeros, not visible under its name yet.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn begin(&self, name: &str, size: u64) -> io::Result<File> {
        let name = format!("{UNFINISHED}{name}");
        self.folder.remove(name.as_ref())?;
        let file = self.folder.create(name.as_bytes(), 0o600)?;
        file.set_len(size)?;
        Ok(file)
    }

    /// Shows a complete file under its name.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn publish(&self, name: &str) -> io::Result<PathBuf> {
        self.folder.rename(b"", &format!("{UNFINISHED}{name}"), name)?;
        Ok(self.folder.path().join(name))
    }

    /// Removes a file that nobody asked for.
    pub(crate) fn discard(&self, path: &Path) {
        if let Some(Err(error)) = path.file_name().map(|name| self.folder.remove(name)) {
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
        let kept = dir.path().join("kept");
        let files = SegmentFiles::emptied(&Beneath::keep(&kept, None).unwrap()).unwrap();
        let names = || std::fs::read_dir(kept.join("segments")).unwrap().count();
        let mut file = files.begin("0000", 8192).unwrap();
        file.write_all(b"wal").unwrap();
        assert!(!kept.join("segments/0000").exists());
        let path = files.publish("0000").unwrap();
        assert_eq!(std::fs::read(&path).unwrap().len(), 8192);
        files.begin("0001", 1).unwrap();
        assert_eq!(names(), 2);
        SegmentFiles::emptied(&Beneath::keep(&kept, None).unwrap()).unwrap();
        assert_eq!(names(), 0, "what another start has left is never replayed");
        files.discard(&path);
    }
}

//! What a cluster is made of: files, directories and links below its data directory.

use std::fmt;

/// A path below the data directory, as the bytes that the file system has; always with `/` between the parts.
///
/// Invariants: not empty, not absolute, no empty part, no part `.` or `..`, no NUL byte: joined to a directory it stays
/// inside. Files of a tablespace have the path that leads through its link: `pg_tblspc/16384/PG_17_202406281/5/16390`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelativePath(Vec<u8>);

/// Bytes that are not a path below a directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is not a path below the data directory")]
pub struct PathError {
    shown: String,
}

impl RelativePath {
    /// Checks and takes the path. A trailing `/` is dropped, as tar writes one after a directory.
    ///
    /// # Errors
    /// [`PathError`] if one of the invariants would not hold.
    pub fn new(bytes: &[u8]) -> Result<Self, PathError> {
        let trimmed = bytes.strip_suffix(b"/").unwrap_or(bytes);
        let part_fits = |part: &[u8]| !part.is_empty() && part != b"." && part != b"..";
        if trimmed.len() <= 4096 && !trimmed.contains(&0) && trimmed.split(|b| *b == b'/').all(part_fits) {
            Ok(Self(trimmed.to_vec()))
        } else {
            Err(PathError { shown: String::from_utf8_lossy(bytes).chars().take(200).collect() })
        }
    }

    /// The path as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The last part.
    #[must_use]
    pub fn file_name(&self) -> &[u8] {
        self.0.rsplit(|b| *b == b'/').next().unwrap_or(&self.0)
    }

    /// Whether the path lies below `directory` (given without a trailing `/`).
    #[must_use]
    pub fn is_below(&self, directory: &[u8]) -> bool {
        self.0.strip_prefix(directory).is_some_and(|rest| rest.first() == Some(&b'/'))
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// One member of a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Where it lies.
    pub path: RelativePath,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, such as 0o600.
    pub mode: u32,
    /// Content length in bytes; 0 for what is not a file.
    pub size: u64,
    /// Modification time in **seconds** since 1970-01-01 00:00 UTC.
    pub modified: i64,
}

/// Identifies a file within one run over a data directory: consecutive from 0, in order of appearance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileNumber(pub u32);

/// What a member of a data directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it points, as stored.
        target: Vec<u8>,
    },
}

/// A tablespace other than the two built-in ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    /// Its OID: the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// The absolute path of its directory on the server.
    pub location: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_directory_are_refused() {
        for path in ["", "/", "/etc/passwd", "..", "a/../b", "a//b", "./a", "a/.", "a\0b"] {
            assert!(RelativePath::new(path.as_bytes()).is_err(), "{path}");
        }
        assert_eq!(RelativePath::new(b"base/5/").unwrap().as_bytes(), b"base/5");
        assert_eq!(RelativePath::new(b"base/5/16384").unwrap().file_name(), b"16384");
    }

    #[test]
    fn below_compares_whole_parts() {
        let path = RelativePath::new(b"pg_wal/0000").unwrap();
        assert!(path.is_below(b"pg_wal"));
        assert!(!path.is_below(b"pg_w"));
        assert!(!RelativePath::new(b"pg_wal").unwrap().is_below(b"pg_wal"));
    }
}

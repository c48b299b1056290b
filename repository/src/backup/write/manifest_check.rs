//! Compares what arrived with what the server says that it sent.
//!
//! The server's own manifest comes after the data, a line per file, with a CRC-32C that the server computed while it
//! read. Ours was computed from what arrived. A difference means a fault in transport or in memory on one of the two
//! hosts, and nothing of such a backup can be trusted. Memory: 24 bytes per file.

use std::hash::{DefaultHasher, Hash, Hasher};

use lifeboat_vocabulary::{RelativePath, counted};

/// How the server's manifest and what arrived differ.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestMismatch {
    /// The server lists a file that never came.
    #[error("the server lists {path}, which did not arrive")]
    NotReceived {
        /// The file.
        path: RelativePath,
    },
    /// A file came with another length.
    #[error("{path} arrived with {received} bytes, the server sent {sent}")]
    Size {
        /// The file.
        path: RelativePath,
        /// Bytes that arrived.
        received: u64,
        /// Bytes that the server sent.
        sent: u64,
    },
    /// A file came with another content.
    #[error("{path} arrived with CRC-32C {received:08x}, the server computed {sent:08x}")]
    Content {
        /// The file.
        path: RelativePath,
        /// Of what arrived.
        received: u32,
        /// Of what the server read.
        sent: u32,
    },
    /// Files came that the server does not list.
    #[error("{} arrived that the server's manifest does not list", counted(*.count as u64, "file", "files"))]
    NotListed {
        /// How many.
        count: usize,
    },
}

#[derive(Debug, Clone, Copy)]
struct FileSum {
    path_hash: u64,
    size: u64,
    crc32c: u32,
    state: SumState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SumState {
    Unlisted,
    Listed,
}

/// Gathers our sums, then takes the server's lines.
#[derive(Debug, Default)]
pub(crate) struct ManifestCheck {
    sums: Vec<FileSum>,
    lines: usize,
}

fn hash(path: &RelativePath) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

impl ManifestCheck {
    /// A file has arrived whole. WAL is not part of the server's manifest.
    pub(crate) fn received(&mut self, path: &RelativePath, size: u64, crc32c: u32) {
        if !path.is_below(b"pg_wal") {
            self.sums.push(FileSum { path_hash: hash(path), size, crc32c, state: SumState::Unlisted });
        }
    }

    /// The server lists a file.
    pub(crate) fn listed(
        &mut self,
        path: &RelativePath,
        sent: u64,
        sent_crc: Option<u32>,
    ) -> Result<(), ManifestMismatch> {
        if self.lines == 0 {
            self.sums.sort_unstable_by_key(|sum| sum.path_hash);
        }
        self.lines += 1;
        // The server lists the status files of its archiver, though not the WAL itself.
        if path.is_below(b"pg_wal") {
            return Ok(());
        }
        let wanted = hash(path);
        let from = self.sums.partition_point(|sum| sum.path_hash < wanted);
        let same_hash = self.sums.get_mut(from..).unwrap_or_default().iter_mut();
        let found = same_hash
            .take_while(|sum| sum.path_hash == wanted)
            .find(|sum| sum.state == SumState::Unlisted)
            .ok_or_else(|| ManifestMismatch::NotReceived { path: path.clone() })?;
        found.state = SumState::Listed;
        if found.size != sent {
            return Err(ManifestMismatch::Size { path: path.clone(), received: found.size, sent });
        }
        match sent_crc {
            Some(sent) if sent != found.crc32c => {
                Err(ManifestMismatch::Content { path: path.clone(), received: found.crc32c, sent })
            }
            _ => Ok(()),
        }
    }

    /// There are no more lines. A source without a manifest has nothing to compare.
    pub(crate) fn finish(&self) -> Result<(), ManifestMismatch> {
        let count = self.sums.iter().filter(|sum| sum.state == SumState::Unlisted).count();
        if self.lines > 0 && count > 0 { Err(ManifestMismatch::NotListed { count }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelativePath {
        RelativePath::new(text.as_bytes()).unwrap()
    }

    fn check() -> ManifestCheck {
        let mut check = ManifestCheck::default();
        check.received(&path("base/5/1"), 8192, 7);
        check.received(&path("base/5/2"), 0, 0);
        check.received(&path("pg_wal/000000010000000000000001"), 1 << 24, 9);
        check
    }

    #[test]
    fn matching_manifests_agree_and_wal_files_need_no_entry() {
        let mut check = check();
        check.listed(&path("base/5/2"), 0, Some(0)).unwrap();
        check.listed(&path("pg_wal/archive_status/000000010000000000000001.done"), 0, Some(0)).unwrap();
        check.listed(&path("base/5/1"), 8192, Some(7)).unwrap();
        check.finish().unwrap();
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let size = check().listed(&path("base/5/1"), 8191, Some(7)).unwrap_err();
        assert!(matches!(size, ManifestMismatch::Size { received: 8192, sent: 8191, .. }));
        let content = check().listed(&path("base/5/1"), 8192, Some(8)).unwrap_err();
        assert!(matches!(content, ManifestMismatch::Content { received: 7, sent: 8, .. }));
        let missing = check().listed(&path("base/5/3"), 0, None).unwrap_err();
        assert!(matches!(missing, ManifestMismatch::NotReceived { .. }));
        let mut one_line = check();
        one_line.listed(&path("base/5/2"), 0, Some(0)).unwrap();
        assert_eq!(one_line.finish(), Err(ManifestMismatch::NotListed { count: 1 }));
    }

    #[test]
    fn a_source_without_a_manifest_has_nothing_to_compare() {
        check().finish().unwrap();
    }
}

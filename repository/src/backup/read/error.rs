//! Why a backup could not be read.

use crate::backup::read::reader::ReadError;
use crate::format::index::error::IndexError;

/// Why a backup could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadBackupError {
    /// An object could not be read from any region.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The index is not what was written.
    #[error("read the index")]
    Index(#[from] IndexError),
    /// The index names a pack that it did not introduce, or that the record does not list.
    #[error("the index names pack {pack}, which the record does not list")]
    UnknownPack {
        /// The pack's number.
        pack: u32,
    },
    /// A pack is sealed under the key of another backup. No release writes such backups yet.
    #[error("pack {pack} is sealed under epoch {epoch}, whose key was not opened; a newer release reads it")]
    OtherEpoch {
        /// The pack's number.
        pack: u32,
        /// Its epoch.
        epoch: crate::format::ids::EpochId,
    },
    /// A pack's key cannot be derived.
    #[error("open pack {pack}")]
    Open {
        /// The pack's number.
        pack: u32,
        /// Why.
        source: crate::format::unseal::OpenError,
    },
    /// A file is not what was backed up although every frame of it is.
    #[error("{path} has CRC-32C {found:08x}, the index says {expected:08x}")]
    FileChecksum {
        /// The file.
        path: lifeboat_vocabulary::RelativePath,
        /// What was read.
        found: u32,
        /// What was backed up.
        expected: u32,
    },
    /// The facts about the cluster cannot be used.
    #[error("read the facts about the cluster")]
    Facts(#[source] std::io::Error),
    /// zstd has no memory.
    #[error("prepare to decompress")]
    Decompressor(#[from] crate::format::compression::DecompressError),
    /// A file could not be written.
    #[error("write {path}")]
    Write {
        /// The file.
        path: lifeboat_vocabulary::RelativePath,
        /// Why.
        source: std::io::Error,
    },
    /// Not all frames of some files have come, though nothing has failed.
    #[error("{}, and nothing says why", lifeboat_vocabulary::counted(*files, "file is not complete", "files are not complete"))]
    Unfinished {
        /// How many.
        files: u64,
    },
    /// A thread could not be started, or has died.
    #[error("run a worker thread")]
    Thread(#[source] std::io::Error),
    /// The run was asked to stop.
    #[error("stopped on request")]
    Stopped,
}

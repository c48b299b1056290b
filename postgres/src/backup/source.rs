//! The seam between a running server and everything that keeps its data.

use crate::backup::left_out::LeftOut;
use crate::backup::manifest_lines::ManifestFile;
use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_vocabulary::{ByteCount, FileEntry, FileNumber, RelativePath, Tablespace, WalPosition};

/// Where a base backup comes from: the replication protocol, or (later) the files beside the server.
///
/// Events come in this order: one `Started`; any number of `FileBegin`, `Data`, `FileEnd`; `ManifestFile`s; one
/// `Finished`, after which `next` must not be called again. Files may overlap; the bytes of one file come in ascending
/// order without holes. Whatever is behind the seam, nothing in front of it knows of tar or of copying directories.
/// Dropping the source ends the backup on the server.
#[async_trait]
pub trait BackupSource: Send {
    /// The next event. Cancel-safe only in that a cancelled source must be dropped.
    async fn next(&mut self) -> Result<SourceEvent, crate::backup::error::SourceError>;

    /// Reads 8 KiB of a data file again, at byte `offset`, to tell a page that is damaged from one that was just being
    /// written. `None` if this source is not allowed to, or the file is gone.
    async fn reread_page(
        &mut self,
        path: &RelativePath,
        offset: u64,
    ) -> Result<Option<Bytes>, crate::backup::error::SourceError>;
}

/// What a source has to say.
#[derive(Clone, Debug)]
pub enum SourceEvent {
    /// The server has made its checkpoint and the backup runs.
    Started(BackupStart),
    /// A file, directory or link; `Data` follows only for files that are not empty, `FileEnd` for all files.
    FileBegin(FileNumber, FileEntry),
    /// The next bytes of a file; never empty.
    Data {
        /// Which file.
        file: FileNumber,
        /// Where in the file, in bytes from 0.
        offset: u64,
        /// The bytes, sharing the receive buffer.
        bytes: Bytes,
    },
    /// All bytes of a file have come; its length is now certain.
    FileEnd {
        /// Which file.
        file: FileNumber,
        /// Its length in bytes.
        size: u64,
    },
    /// A line of the server's own manifest, in the order in which the files were sent.
    ManifestFile(ManifestFile),
    /// Something that belongs to the cluster and is not in the backup, such as a link that the server did not follow.
    LeftOut(LeftOut),
    /// Something else that an operator has to know.
    Finding(String),
    /// The backup is complete.
    Finished(BackupEnd),
}

/// How a backup began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupStart {
    /// The redo position of the backup's checkpoint.
    pub position: WalPosition,
    /// The tablespaces outside the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// The server's estimate of what will come, without WAL.
    pub estimated: Option<ByteCount>,
    /// Who has to verify page checksums.
    pub page_checks: PageChecks,
}

/// Who verifies page checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageChecks {
    /// The cluster has none.
    None,
    /// The receiver: [`crate::backup::page_checksum`] over every relation file, `reread_page` for those that fail.
    Receiver,
    /// The server does while it sends, because this role may not re-read pages.
    Server,
}

/// How a backup ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupEnd {
    /// Replay to here makes the copy consistent.
    pub position: WalPosition,
    /// Pages whose checksum the server found wrong (`PageChecks::Server` only); empty if none.
    pub damaged: Vec<String>,
}

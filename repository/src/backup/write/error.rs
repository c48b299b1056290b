//! Why a backup could not be written.

use lifeboat_vocabulary::RegionName;

use crate::backup::write::manifest_check::ManifestMismatch;
use crate::backup::write::upload::ExclusionReason;
use crate::format::compression::CompressError;
use crate::format::index::error::IndexError;
use crate::format::pack::PackError;

/// Why a backup could not be written. Whatever it is, nothing was committed: no region lists such a backup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// Every region was excluded.
    #[error("every region was excluded ({})", list(reasons))]
    NoRegionLeft {
        /// Why each one was.
        reasons: Vec<(RegionName, ExclusionReason)>,
    },
    /// What arrived is not what the server sent.
    #[error("compare with the server's manifest")]
    Manifest(#[from] ManifestMismatch),
    /// There is no randomness for keys and names.
    #[error("begin a backup")]
    Random(#[from] crate::format::ids::RandomError),
    /// A frame could not be compressed.
    #[error("compress a frame")]
    Compress(#[from] CompressError),
    /// A pack could not be filled or sealed.
    #[error("seal a pack")]
    Pack(#[from] PackError),
    /// The index could not be written.
    #[error("write the index")]
    Index(#[from] IndexError),
    /// The source broke its promise about the order of events.
    #[error("the source sent {what}, which does not fit what it sent before")]
    Source {
        /// The event.
        what: String,
    },
    /// More bytes in one frame than the format allows.
    #[error("a frame of {bytes} bytes is too large")]
    FrameTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A worker thread could not be started, or has died.
    #[error("run a worker thread")]
    Thread(#[source] std::io::Error),
    /// The run was asked to stop.
    #[error("stopped on request")]
    Stopped,
}

fn list(reasons: &[(RegionName, ExclusionReason)]) -> String {
    let each: Vec<_> = reasons
        .iter()
        .map(|(region, reason)| format!("{region}: {}", lifeboat_vocabulary::error_chain(reason)))
        .collect();
    each.join("; ")
}

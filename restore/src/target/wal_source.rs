//! The seam between those who need WAL and the regions that keep it.

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_repository::format::layout::WalRange;
use lifeboat_vocabulary::{Lsn, TimelineId};

/// Why WAL could not be had. It says nothing about whether it exists: "not there" is an answer, not a fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub(crate) struct SourceError {
    /// What every region that was asked said.
    pub(crate) what: String,
}

/// WAL that was verified, from whichever region gives it.
#[async_trait]
pub(crate) trait WalSource: Send + Sync {
    /// All bytes of a range that is stored, at most 16 MiB.
    ///
    /// # Errors
    /// [`SourceError`] if no region gave them, or what they gave was not what was written.
    async fn read(&self, range: WalRange) -> Result<Bytes, SourceError>;

    /// The history file of a timeline; `None` if every region said that it has none.
    ///
    /// # Errors
    /// [`SourceError`] if a region could not be asked and no other has the file.
    async fn history(&self, timeline: TimelineId) -> Result<Option<Bytes>, SourceError>;

    /// How far WAL of `timeline` goes on without a hole from `from`, up to `until`: asked of the regions now.
    async fn extent(&self, timeline: TimelineId, from: Lsn, until: Lsn) -> Extent;
}

/// See [`WalSource::extent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The end, at most what was asked for; `None` if no region that answered has the first byte.
    pub(crate) end: Option<Lsn>,
    /// What regions said that could not be asked, if there are any and the others have not everything.
    pub(crate) unanswered: Option<SourceError>,
}

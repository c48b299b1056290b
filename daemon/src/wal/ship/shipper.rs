//! The shipper: takes checked WAL bytes, and brings them to every region.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::future::join_all;
use lifeboat_config::CommitMode;
use lifeboat_repository::format::Incarnation;
use lifeboat_repository::format::ids::RepositoryId;
use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::keys::{KeyCommand, Recipient};
use lifeboat_repository::log::records::GapReason;
use lifeboat_repository::log::{NoteSigner, RegionLog, RegionStore};
use lifeboat_repository::wal::HISTORY_BYTES_MAX;
use lifeboat_vocabulary::{ByteCount, Clock, ClusterName, SegmentSize, TimelineId, WalPosition};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::wal::ship::context::Works;
use crate::wal::ship::entry::Answer;
use crate::wal::ship::launch;
use crate::wal::ship::lease_keeper::LaneKeeper;
use crate::wal::ship::positions::{Offer, Positions, ResumePoint, ShipError};
use crate::wal::ship::sealing::Sealing;
use crate::wal::ship::spool_task::{keep_spool, keep_time};
use crate::wal::ship::state::{Desk, Taken};
use crate::wal::ship::uploader::Lane;

/// How long the start waits for a region.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
/// How long bytes wait for room before they are refused.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);
/// How long the regions have for the last heads and leases.
const LAST_WORDS: Duration = Duration::from_secs(5);
const SETTLE_LOOK: Duration = Duration::from_millis(100);

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
    works: Arc<Works>,
    resume: Option<ResumePoint>,
    tasks: JoinSet<()>,
    keepers: JoinSet<()>,
    end: CancellationToken,
}

impl Shipper {
    /// Reads spool and regions, and starts. A region that does not answer within [`ANSWER_PATIENCE`] is asked again later.
    ///
    /// # Errors
    /// If the spool cannot be used or the settings cannot work.
    pub async fn start(
        settings: ShipSettings,
        regions: Vec<ShipRegion>,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let (works, mut beginning) = launch::open(settings, &regions, clock).await?;
        let end = CancellationToken::new();
        let (mut tasks, mut keepers) = (JoinSet::new(), JoinSet::new());
        let mut lanes = Vec::new();
        for (index, ShipRegion { store: region, log }) in regions.into_iter().enumerate() {
            let (sender, keys) = mpsc::channel(1);
            lanes.push(Lane::new((index, region.clone()), log, Arc::clone(&works), sender));
            keepers.spawn(LaneKeeper { index, works: Arc::clone(&works), region, keys, end: end.clone() }.run());
        }
        for (index, asked) in join_all(lanes.into_iter().map(launch::ask)).await.into_iter().enumerate() {
            let (mut lane, answer) = asked;
            match answer {
                Ok(Answer::Entry(entry)) => {
                    beginning.answered(index, &entry.found);
                    lane.enter(*entry).await;
                }
                other => lane.outside(other),
            }
            tasks.spawn(lane.run());
        }
        let resume = works.quietly(|desk| beginning.resume(desk));
        tasks.spawn(Sealing::new(Arc::clone(&works)).run());
        tasks.spawn(keep_spool(Arc::clone(&works)));
        tasks.spawn(keep_time(Arc::clone(&works)));
        Ok(Self { works, resume, tasks, keepers, end })
    }

    /// Where the stream must begin so that no region misses anything it can still get, as it was found at the start;
    /// `None` if neither a region nor the spool has any WAL.
    #[must_use]
    pub fn resume(&self) -> Option<ResumePoint> {
        self.resume.clone()
    }

    /// Announces that the next bytes are those at `at`, the start of a segment. After a reconnect that is the start of the
    /// segment with the last byte received: its bytes come again and are compared. Another timeline ends the one before.
    /// A hole that was not recorded before is recorded now.
    ///
    /// # Errors
    /// [`ShipError`] by meaning; nothing has changed then.
    pub fn begin(&self, at: WalPosition, segment: SegmentSize) -> Result<(), ShipError> {
        let time = self.works.now();
        self.works.change(|desk| desk.begin(at, segment, time))
    }

    /// Takes WAL bytes; waits up to five seconds for room.
    ///
    /// # Errors
    /// [`ShipError`] if they do not fit to what came before; nothing was taken then.
    pub async fn offer(&self, at: WalPosition, bytes: Bytes) -> Result<Offer, ShipError> {
        let deadline = Instant::now() + ROOM_PATIENCE;
        loop {
            let freed = self.works.memory.freed.notified();
            tokio::pin!(freed);
            // Before looking: what is freed in between counts.
            freed.as_mut().enable();
            if self.works.is_full() {
                return Ok(Offer::Full);
            }
            if self.works.receive(|desk| desk.take(at, &bytes, Instant::now()))? == Taken::Yes {
                return Ok(Offer::Taken);
            }
            if tokio::time::timeout_at(deadline, freed).await.is_err() {
                return Ok(Offer::Full);
            }
        }
    }

    /// Stores a timeline's history file in every region, before any WAL that is offered after this call.
    ///
    /// # Errors
    /// If it cannot be one, or if this host has seen another history of the same timeline: two servers were promoted
    /// independently, and only one of them can go on in this repository.
    pub async fn add_history(&self, timeline: TimelineId, content: Bytes) -> anyhow::Result<()> {
        let size = content.len();
        ensure!(size <= HISTORY_BYTES_MAX, "the history of timeline {timeline} has {size} bytes");
        let known = self.works.spool.history(timeline, &content).await.context("remember the history of a timeline")?;
        ensure!(
            known.is_none(),
            "the server's history of timeline {timeline} is not the one that was stored before: another server was \
             promoted to the same timeline"
        );
        self.works.change(|desk| desk.history(timeline, content));
        Ok(())
    }

    /// Records in the log of every region that lacks this WAL that it is missing, before any WAL that is offered after
    /// this call. If it ends before it begins, it is not known where WAL goes on.
    ///
    /// # Errors
    /// None today; a record that cannot be written yet waits in the spool.
    pub async fn record_gap(&self, missing: WalRange, reason: GapReason) -> anyhow::Result<()> {
        let time = self.works.now();
        self.works.change(|desk| desk.gap(missing, reason, time));
        Ok(())
    }

    /// Cuts what there is now, without waiting for the interval.
    pub fn flush(&self) {
        self.works.change(|desk| desk.flush(Instant::now()));
    }

    /// How far everything has come.
    #[must_use]
    pub fn positions(&self) -> Positions {
        self.works.positions.borrow().clone()
    }

    /// Tells of every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Positions> {
        self.works.positions.subscribe()
    }

    /// Ships everything that was taken, as far as that is possible before the deadline, then writes the heads and gives
    /// the leases back. What could not be shipped stays in the spool or with the server.
    pub async fn stop(mut self, deadline: Duration) -> Positions {
        let deadline = Instant::now() + deadline;
        self.flush();
        let mut positions = self.watch();
        while !self.works.look(Desk::is_settled) && Instant::now() < deadline {
            let until = deadline.min(Instant::now() + SETTLE_LOOK);
            // Every change is worth a look; so is the passing of time.
            tokio::select! {
                _ = positions.changed() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
        self.works.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.end.cancel();
        let last_words = async { while self.keepers.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WORDS, last_words).await.is_err() {
            tracing::warn!("a region did not take the last head or the lease back; both end by themselves");
        }
        self.works.announce();
        self.positions()
    }
}

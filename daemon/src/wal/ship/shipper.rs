//! The shipper: takes checked WAL bytes, and brings them to every region.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::future::join_all;
use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::log::RegionStore;
use lifeboat_repository::log::records::GapReason;
use lifeboat_repository::wal::HISTORY_BYTES_MAX;
use lifeboat_vocabulary::{Clock, RecordMark, SegmentSize, TimelineId, UtcTime, WalPosition};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::wal::ship::children::Children;
use crate::wal::ship::context::ShipContext;
use crate::wal::ship::entry::Answer;
use crate::wal::ship::launch;
use crate::wal::ship::lease_keeper::LeaseKeeper;
use crate::wal::ship::positions::{Offer, Positions, ResumePoint, ShipError};
use crate::wal::ship::sealing::Sealing;
use crate::wal::ship::settings::ShipSettings;
use crate::wal::ship::spool_task::{keep_spool, keep_time};
use crate::wal::ship::state::{CheckedWal, ShipState, Taken};
use crate::wal::ship::uploader::RegionUploader;

/// How long bytes wait for room before they are refused.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);
/// How long the regions have for the last heads and leases.
const LAST_WORDS: Duration = Duration::from_secs(5);
const SETTLE_LOOK: Duration = Duration::from_millis(100);

/// Brings WAL to regions. Owns all its tasks: dropping it ends them at once, [`Shipper::stop`] in order.
pub struct Shipper {
    ship: Arc<ShipContext>,
    resume: Option<ResumePoint>,
    tasks: Children,
    keepers: Children,
    end: CancellationToken,
}

impl Shipper {
    /// Reads spool and regions, and starts. A region that does not answer within [`ANSWER_PATIENCE`](crate::wal::ship::settings::ANSWER_PATIENCE) is asked again later.
    ///
    /// # Errors
    /// If the spool cannot be used or the settings cannot work.
    pub async fn start(
        settings: ShipSettings,
        regions: Vec<RegionStore>,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let (ship, mut beginning) = launch::open(settings, &regions, clock).await?;
        let end = CancellationToken::new();
        let (mut tasks, mut keepers) = (Children::new(), Children::new());
        let mut uploaders = Vec::new();
        for (index, region) in regions.into_iter().enumerate() {
            let (sender, keys) = mpsc::channel(1);
            uploaders.push(RegionUploader::new(index, region.clone(), Arc::clone(&ship), sender)?);
            let keeper = LeaseKeeper { index, ship: Arc::clone(&ship), region, keys, end: end.clone() };
            keepers.spawn("lease and head of a region", &end, keeper.run());
        }
        for (index, asked) in join_all(uploaders.into_iter().map(launch::ask)).await.into_iter().enumerate() {
            let (mut uploader, answer) = asked;
            match answer {
                Ok(Answer::Entry(entry)) => {
                    beginning.answered(index, &entry.found);
                    uploader.enter(*entry).await;
                }
                other => uploader.outside(other),
            }
            tasks.spawn("upload into a region", &ship.stop, uploader.run());
        }
        let resume = ship.quietly(|ship_state| beginning.resume(ship_state));
        tasks.spawn("sealing", &ship.stop, Sealing::new(Arc::clone(&ship)).run());
        tasks.spawn("spool", &ship.stop, keep_spool(Arc::clone(&ship)));
        tasks.spawn("time", &ship.stop, keep_time(Arc::clone(&ship)));
        Ok(Self { ship, resume, tasks, keepers, end })
    }

    /// Where the stream must begin so that no region misses anything it can still get, as it was found at the start;
    /// `None` if neither a region nor the spool has any WAL.
    #[must_use]
    pub fn resume(&self) -> Option<ResumePoint> {
        self.resume.clone()
    }

    /// At `time`, by its own clock, the server had flushed nothing behind `at`.
    pub(crate) fn flushed(&self, at: WalPosition, time: UtcTime) {
        self.ship.complete.flushed(at, time, self.ship.now());
    }

    /// The newest moment that a restore can prove to reach where WAL is stored up to `durable`.
    pub(crate) fn complete_until(&self, durable: WalPosition) -> Option<UtcTime> {
        self.ship.complete.newest(durable).map(|mark| mark.time)
    }

    /// The time, by this host's clock.
    pub(crate) fn now(&self) -> UtcTime {
        self.ship.now()
    }

    /// The last whole record that was received from a server since the start.
    pub(crate) fn last_record(&self) -> Option<RecordMark> {
        self.ship.look(ShipState::last_record)
    }

    /// The last whole record before `end`, if an object that a region holds ends there and says so.
    pub(crate) fn record_at(&self, end: WalPosition) -> Option<RecordMark> {
        self.ship.look(|ship_state| ship_state.record_at(end))
    }

    /// The records that a server must have, by what the regions that have answered and the spool hold.
    pub(crate) fn found_records(&self) -> Vec<RecordMark> {
        self.ship.look(|ship_state| ship_state.found_records().to_vec())
    }

    /// Whether every region has told what it has.
    pub(crate) fn knows_all_regions(&self) -> bool {
        self.ship.look(|ship_state| (0..ship_state.region_count()).all(|region| ship_state.is_known(region)))
    }

    /// Whether a region that has answered names keys that were revoked.
    pub(crate) fn has_revoked_keys(&self) -> bool {
        self.ship.look(ShipState::has_revoked_keys)
    }

    /// Announces that the next bytes are those at `at`, the start of a segment. After a reconnect that is the start of the
    /// segment with the last byte received: its bytes come again and are compared. Another timeline ends the one before.
    /// A hole that was not recorded before is recorded now.
    ///
    /// # Errors
    /// [`ShipError`] by meaning; nothing has changed then.
    pub fn begin(&self, at: WalPosition, segment: SegmentSize) -> Result<(), ShipError> {
        let time = self.ship.now();
        self.ship.change(|ship_state| ship_state.begin(at, segment, time))
    }

    /// Takes WAL bytes; waits up to five seconds for room.
    ///
    /// # Errors
    /// [`ShipError`] if they do not fit to what came before; nothing was taken then.
    pub async fn offer(&self, at: WalPosition, wal: impl Into<CheckedWal>) -> Result<Offer, ShipError> {
        let wal = wal.into();
        let deadline = Instant::now() + ROOM_PATIENCE;
        loop {
            let freed = self.ship.memory.freed.notified();
            tokio::pin!(freed);
            // Before looking: what is freed in between counts.
            freed.as_mut().enable();
            if self.ship.is_full() {
                return Ok(Offer::Full);
            }
            if self.ship.receive(|ship_state| ship_state.take(at, &wal, Instant::now()))? == Taken::Yes {
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
        let known = self.ship.spool.history(timeline, &content).await.context("remember the history of a timeline")?;
        ensure!(
            known.is_none(),
            "the server's history of timeline {timeline} is not the one that was stored before: another server was \
             promoted to the same timeline"
        );
        self.ship.change(|ship_state| ship_state.history(timeline, content));
        Ok(())
    }

    /// Records in the log of every region that lacks this WAL that it is missing, before any WAL that is offered after
    /// this call. If it ends before it begins, it is not known where WAL goes on.
    ///
    /// # Errors
    /// None today; a record that cannot be written yet waits in the spool.
    pub async fn record_gap(&self, missing: WalRange, reason: GapReason) -> anyhow::Result<()> {
        let time = self.ship.now();
        self.ship.change(|ship_state| ship_state.gap(missing, reason, time));
        Ok(())
    }

    /// Records in the log of every region that recovery cannot cross this WAL, before any that is offered after this call.
    pub(crate) fn record_minimal_wal(&self, range: WalRange) {
        let time = self.ship.now();
        self.ship.change(|ship_state| ship_state.cannot_be_replayed(range, time));
    }

    /// Cuts what there is now, without waiting for the interval.
    pub fn flush(&self) {
        self.ship.change(|ship_state| ship_state.flush(Instant::now()));
    }

    /// How far everything has come.
    #[must_use]
    pub fn positions(&self) -> Positions {
        self.ship.positions.borrow().clone()
    }

    /// Tells of every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Positions> {
        self.ship.positions.subscribe()
    }

    /// Waits until one of the tasks has ended although nobody told it to, and names it. From then on WAL may stand still: the
    /// shipper is to be stopped and begun again.
    pub async fn failed(&self) -> &'static str {
        let (mut tasks, mut keepers) = (self.tasks.failed(), self.keepers.failed());
        let failed = |failed: &Option<&'static str>| failed.is_some();
        let ended = tokio::select! {
            ended = tasks.wait_for(failed) => ended.ok().and_then(|name| *name),
            ended = keepers.wait_for(failed) => ended.ok().and_then(|name| *name),
        };
        ended.unwrap_or("all of it")
    }

    /// Ships everything that was taken, as far as that is possible before the deadline, then writes the heads and gives
    /// the leases back. What could not be shipped stays in the spool or with the server.
    pub async fn stop(mut self, deadline: Duration) -> Positions {
        let deadline = Instant::now() + deadline;
        self.flush();
        let mut positions = self.watch();
        while !self.ship.look(ShipState::is_settled) && Instant::now() < deadline {
            let until = deadline.min(Instant::now() + SETTLE_LOOK);
            // Every change is worth a look; so is the passing of time.
            tokio::select! {
                _ = positions.changed() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
        self.ship.stop.cancel();
        self.tasks.join().await;
        self.end.cancel();
        if tokio::time::timeout(LAST_WORDS, self.keepers.join()).await.is_err() {
            tracing::warn!("a region did not take the last head or the lease back; both end by themselves");
        }
        self.ship.announce();
        self.positions()
    }
}

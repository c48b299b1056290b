//! What all tasks of the shipper share: the desk with its lock, the spool, and the bells that wake them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lifeboat_repository::format::InstanceId;
use lifeboat_repository::log::RegionLog;
use lifeboat_repository::wal::PieceSize;
use lifeboat_vocabulary::{Clock, UtcTime};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::wal::ship::memory::Memory;
use crate::wal::ship::positions::Positions;
use crate::wal::ship::settings::ShipSettings;
use crate::wal::ship::spool::Spool;
use crate::wal::ship::state::Desk;

/// What a piece may be longer than its WAL once it is sealed, at the most.
const PIECE_OVERHEAD: u64 = 256 << 10;

/// Wakes one task each. A ring that nobody waits for is kept.
#[derive(Debug)]
pub(crate) struct Bells {
    pub(crate) cutting: Notify,
    pub(crate) sealing: Notify,
    pub(crate) spooling: Notify,
    pub(crate) lanes: Vec<Notify>,
}

pub(crate) struct Works {
    pub(crate) settings: ShipSettings,
    pub(crate) instance: InstanceId,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) spool: Spool,
    pub(crate) memory: Arc<Memory>,
    pub(crate) bells: Bells,
    /// Ends everything but the last words to the regions.
    pub(crate) stop: CancellationToken,
    pub(crate) positions: watch::Sender<Positions>,
    desk: Mutex<Desk>,
    /// The last number of an event in the logs.
    events: AtomicU64,
    /// The spool was too full for another piece, and is not empty enough again.
    full: AtomicBool,
    /// The disk of the spool has no space.
    no_space: AtomicBool,
}

impl Works {
    pub(crate) fn new(
        settings: ShipSettings,
        (spool, instance): (Spool, InstanceId),
        clock: Arc<dyn Clock>,
        (desk, memory): (Desk, Arc<Memory>),
    ) -> Self {
        let lanes = desk.regions.iter().map(|_| Notify::new()).collect();
        let bells = Bells { cutting: Notify::new(), sealing: Notify::new(), spooling: Notify::new(), lanes };
        let positions = watch::Sender::new(desk.positions(spool.used(), Instant::now()));
        Self {
            settings,
            instance,
            clock,
            spool,
            memory,
            bells,
            stop: CancellationToken::new(),
            positions,
            desk: Mutex::new(desk),
            events: AtomicU64::new(0),
            full: AtomicBool::new(false),
            no_space: AtomicBool::new(false),
        }
    }

    pub(crate) fn now(&self) -> UtcTime {
        self.clock.now()
    }

    /// Looks at the desk.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Desk) -> T) -> T {
        look(&self.desk.lock())
    }

    /// Does something at the desk that concerns nobody else.
    pub(crate) fn quietly<T>(&self, work: impl FnOnce(&mut Desk) -> T) -> T {
        work(&mut self.desk.lock())
    }

    /// Changes something at the desk, tells everybody how far things are now, and wakes all who may go on.
    pub(crate) fn change<T>(&self, work: impl FnOnce(&mut Desk) -> T) -> T {
        let result = {
            let mut desk = self.desk.lock();
            let result = work(&mut desk);
            self.publish(&desk);
            result
        };
        for bell in
            [&self.bells.cutting, &self.bells.sealing, &self.bells.spooling].into_iter().chain(&self.bells.lanes)
        {
            bell.notify_one();
        }
        self.memory.freed.notify_waiters();
        result
    }

    /// Takes received bytes: as [`Self::change`], but wakes only those whom new bytes concern.
    pub(crate) fn receive<T>(&self, work: impl FnOnce(&mut Desk) -> T) -> T {
        let mut desk = self.desk.lock();
        let result = work(&mut desk);
        self.publish(&desk);
        drop(desk);
        self.bells.cutting.notify_one();
        self.bells.sealing.notify_one();
        result
    }

    /// Tells everybody how far things are now.
    pub(crate) fn announce(&self) {
        self.publish(&self.desk.lock());
    }

    fn publish(&self, desk: &Desk) {
        let now = desk.positions(self.spool.used(), Instant::now());
        self.positions.send_if_modified(|known| {
            let is_new = *known != now;
            *known = now;
            is_new
        });
    }

    /// Counts of events are above all that any log has.
    pub(crate) fn heard_of(&self, log: &RegionLog) {
        let last = log.last_count(self.settings.signer.name()).unwrap_or(0);
        self.events.fetch_max(last, Ordering::Relaxed);
    }

    /// The number of a new event.
    pub(crate) fn next_event(&self) -> u64 {
        self.events.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Bytes that one lane may read back from the spool at the same time: all together a quarter of the memory.
    pub(crate) fn read_back_share(&self) -> u64 {
        self.settings.memory.as_bytes() / 4 / (self.bells.lanes.len() as u64).max(1)
    }

    /// Whether the disk of the spool has no space.
    pub(crate) fn set_no_space(&self, no_space: bool) {
        self.no_space.store(no_space, Ordering::Relaxed);
    }

    /// Whether the spool has no room for another piece. Once it has none, it counts as full until a fifth of it is free.
    pub(crate) fn is_full(&self) -> bool {
        let piece = self.look(Desk::segment).map_or(PieceSize::LARGEST, PieceSize::of).as_bytes() + PIECE_OVERHEAD;
        let (used, limit) = (self.spool.used(), self.spool.limit());
        let enough = (limit / 5 * 4).min(limit.saturating_sub(2 * piece));
        let full = if self.full.load(Ordering::Relaxed) { used > enough } else { used + piece > limit };
        self.full.store(full, Ordering::Relaxed);
        full || self.no_space.load(Ordering::Relaxed)
    }
}

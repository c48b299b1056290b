//! What all tasks of the shipper share: the state with its lock, the spool, and the wakeups that wake them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lifeboat_repository::format::InstanceId;
use lifeboat_repository::log::records::Origin;
use lifeboat_repository::log::{LogTrust, RegionLog, RegionStore, Signers};
use lifeboat_repository::wal::PieceSize;
use lifeboat_vocabulary::{Clock, UtcTime};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::wal::complete_times::CompleteTimes;
use crate::wal::ship::memory::Memory;
use crate::wal::ship::positions::Positions;
use crate::wal::ship::settings::ShipSettings;
use crate::wal::ship::spool::Spool;
use crate::wal::ship::state::ShipState;

/// What a piece may be longer than its WAL once it is sealed, at the most.
const PIECE_OVERHEAD: u64 = 256 << 10;

/// Wakes one task each. A notification that nobody waits for is kept.
#[derive(Debug)]
pub(crate) struct Wakeups {
    pub(crate) cutting: Notify,
    pub(crate) sealing: Notify,
    pub(crate) spooling: Notify,
    pub(crate) uploaders: Vec<Notify>,
}

pub(crate) struct ShipContext {
    pub(crate) settings: ShipSettings,
    pub(crate) instance: InstanceId,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) spool: Spool,
    pub(crate) memory: Arc<Memory>,
    pub(crate) wakeups: Wakeups,
    /// Ends everything but the last words to the regions.
    pub(crate) stop: CancellationToken,
    pub(crate) positions: watch::Sender<Positions>,
    /// Up to when WAL is complete, by the server's clock.
    pub(crate) complete: CompleteTimes,
    ship_state: Mutex<ShipState>,
    /// The last number of an event in the logs.
    events: AtomicU64,
    /// The spool was too full for another piece, and is not empty enough again.
    full: AtomicBool,
    /// The disk of the spool has no space.
    no_space: AtomicBool,
}

impl ShipContext {
    pub(crate) fn new(
        settings: ShipSettings,
        spool: Spool,
        instance: InstanceId,
        clock: Arc<dyn Clock>,
        ship_state: ShipState,
    ) -> Self {
        let uploaders = (0..ship_state.region_count()).map(|_| Notify::new()).collect();
        let wakeups = Wakeups { cutting: Notify::new(), sealing: Notify::new(), spooling: Notify::new(), uploaders };
        let positions = watch::Sender::new(ship_state.positions(spool.used(), Instant::now()));
        Self {
            settings,
            instance,
            clock,
            spool,
            memory: Arc::clone(&ship_state.memory),
            wakeups,
            stop: CancellationToken::new(),
            positions,
            complete: CompleteTimes::default(),
            ship_state: Mutex::new(ship_state),
            events: AtomicU64::new(0),
            full: AtomicBool::new(false),
            no_space: AtomicBool::new(false),
        }
    }

    /// What records and heads of a region are measured against.
    pub(crate) fn trust(&self, region: &RegionStore) -> LogTrust {
        LogTrust {
            repository: self.settings.repository,
            signers: Signers::root_only(self.settings.signer.root()),
            region: Some(region.name.clone()),
            remembered: None,
        }
    }

    pub(crate) fn now(&self) -> UtcTime {
        self.clock.now()
    }

    /// Looks at the state.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&ShipState) -> T) -> T {
        look(&self.ship_state.lock())
    }

    /// Does something at the state that concerns nobody else.
    pub(crate) fn quietly<T>(&self, work: impl FnOnce(&mut ShipState) -> T) -> T {
        work(&mut self.ship_state.lock())
    }

    /// Changes something at the state, tells everybody how far things are now, and wakes all who may go on.
    pub(crate) fn change<T>(&self, work: impl FnOnce(&mut ShipState) -> T) -> T {
        let result = {
            let mut ship_state = self.ship_state.lock();
            let result = work(&mut ship_state);
            self.publish(&ship_state);
            result
        };
        for wakeup in [&self.wakeups.cutting, &self.wakeups.sealing, &self.wakeups.spooling]
            .into_iter()
            .chain(&self.wakeups.uploaders)
        {
            wakeup.notify_one();
        }
        self.memory.freed.notify_waiters();
        result
    }

    /// Takes received bytes: as [`Self::change`], but wakes only those whom new bytes concern.
    pub(crate) fn receive<T>(&self, work: impl FnOnce(&mut ShipState) -> T) -> T {
        let mut ship_state = self.ship_state.lock();
        let result = work(&mut ship_state);
        self.publish(&ship_state);
        drop(ship_state);
        self.wakeups.cutting.notify_one();
        self.wakeups.sealing.notify_one();
        result
    }

    /// Tells everybody how far things are now.
    pub(crate) fn announce(&self) {
        self.publish(&self.ship_state.lock());
    }

    fn publish(&self, ship_state: &ShipState) {
        let now = ship_state.positions(self.spool.used(), Instant::now());
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

    /// The number of a new event. Above all that was heard of, and not below the time: an instance before this one may have
    /// said something in a region that could not be asked since.
    pub(crate) fn next_event(&self) -> u64 {
        let mut number = 0;
        let next = |last| {
            number = Origin::next_count(Some(last), self.now());
            Some(number)
        };
        let counted = self.events.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        counted.map_or_else(|last| last, |_| number)
    }

    /// Bytes that one uploader may read back from the spool at the same time: all together a quarter of the memory.
    pub(crate) fn read_back_share(&self) -> u64 {
        self.settings.memory.as_bytes() / 4 / (self.wakeups.uploaders.len() as u64).max(1)
    }

    /// Whether the disk of the spool has no space.
    pub(crate) fn set_no_space(&self, no_space: bool) {
        self.no_space.store(no_space, Ordering::Relaxed);
    }

    /// Whether the spool has no room for another piece. Once it has none, it counts as full until a fifth of it is free.
    pub(crate) fn is_full(&self) -> bool {
        let piece = self.look(ShipState::segment).map_or(PieceSize::LARGEST, PieceSize::of).as_bytes() + PIECE_OVERHEAD;
        let (used, limit) = (self.spool.used(), self.spool.limit());
        let enough = (limit / 5 * 4).min(limit.saturating_sub(2 * piece));
        let full = if self.full.load(Ordering::Relaxed) { used > enough } else { used + piece > limit };
        self.full.store(full, Ordering::Relaxed);
        full || self.no_space.load(Ordering::Relaxed)
    }
}

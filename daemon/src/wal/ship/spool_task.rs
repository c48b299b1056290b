//! The task that fills and empties the spool, and the one that watches the clock.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_vocabulary::error_chain;
use tokio::time::Instant;

use crate::wal::ship::context::ShipContext;
use crate::wal::ship::pending::{Load, SpoolWork};
use crate::wal::ship::spool::{SpoolError, SpoolFile};

/// Before a write that failed is tried again, and between two looks at a region that may have fallen behind.
const PAUSE: Duration = Duration::from_secs(1);

/// Brings into the spool what regions cannot take, and out what nobody needs, until the stop.
pub(crate) async fn keep_spool(ship: Arc<ShipContext>) {
    let mut leftovers = Vec::new();
    loop {
        leftovers.extend(ship.quietly(|ship_state| ship_state.take_removals()));
        remove(&ship, &mut leftovers).await;
        let until = match ship.quietly(|ship_state| ship_state.spool_work(Instant::now())) {
            SpoolWork::Write(load) => {
                if let Err(error) = write(&ship, load).await {
                    // It stays in memory. When that is full as well, bytes are refused and the server keeps them.
                    ship.set_no_space(matches!(error, SpoolError::Full { .. }));
                    let error = error_chain(&error);
                    tracing::warn!(error, again_in = ?PAUSE, "an object for a region that lags stays in memory");
                    tokio::select! {
                        () = ship.stop.cancelled() => return,
                        () = tokio::time::sleep(PAUSE) => {}
                    }
                }
                continue;
            }
            SpoolWork::Wait(until) => until,
        };
        if ship.look(|ship_state| ship_state.is_all_spooled()) {
            ship.set_no_space(false);
        }
        let until = until.unwrap_or_else(|| Instant::now() + PAUSE);
        tokio::select! {
            () = ship.stop.cancelled() => return,
            () = ship.wakeups.spooling.notified() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
}

async fn write(ship: &ShipContext, load: Load) -> Result<(), SpoolError> {
    // Whatever is not in the spool is in memory.
    let Some(body) = load.body.as_ref().map(|body| body.sealed()) else { return Ok(()) };
    match ship.spool.put(&load.file, body).await {
        Ok(()) => {
            ship.set_no_space(false);
            ship.change(|ship_state| ship_state.spooled(&load));
            Ok(())
        }
        Err(error) => {
            ship.quietly(|ship_state| ship_state.not_spooled(&load));
            Err(error)
        }
    }
}

/// A file that cannot be removed now is removed later; it is counted as long as it is there.
async fn remove(ship: &ShipContext, leftovers: &mut Vec<SpoolFile>) {
    let before = leftovers.len();
    let mut kept = Vec::new();
    for file in std::mem::take(leftovers) {
        if let Err(error) = ship.spool.remove(&file).await {
            let error = error_chain(&error);
            tracing::warn!(
                error,
                sequence = file.sequence,
                "a file of the spool that nobody needs could not be removed"
            );
            kept.push(file);
        }
    }
    *leftovers = kept;
    if leftovers.len() < before {
        ship.announce();
    }
}

/// Cuts slices when they are due, and tells at least every second how the regions are doing, until the stop.
pub(crate) async fn keep_time(ship: Arc<ShipContext>) {
    loop {
        let now = Instant::now();
        let next = ship.quietly(|ship_state| {
            ship_state.tick(now);
            ship_state.next_tick()
        });
        ship.wakeups.sealing.notify_one();
        ship.announce();
        // What is due and could not be cut waits for a slice to return, which rings the wakeup.
        let until = next.filter(|next| *next > now).map_or(now + PAUSE, |next| next.min(now + PAUSE));
        tokio::select! {
            () = ship.stop.cancelled() => return,
            () = ship.wakeups.cutting.notified() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
}

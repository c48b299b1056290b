//! The task that fills and empties the spool, and the one that watches the clock.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::wal::ship::context::Works;
use crate::wal::ship::pending::{Load, SpoolWork};
use crate::wal::ship::spool::{SpoolError, SpoolFile};

/// Before a write that failed is tried again, and between two looks at a region that may have fallen behind.
const PAUSE: Duration = Duration::from_secs(1);

/// Brings into the spool what regions cannot take, and out what nobody needs, until the stop.
pub(crate) async fn keep_spool(works: Arc<Works>) {
    let mut leftovers = Vec::new();
    loop {
        leftovers.extend(works.quietly(|desk| desk.ledger.take_removals()));
        remove(&works, &mut leftovers).await;
        let until = match works.quietly(|desk| desk.spool_work(Instant::now())) {
            SpoolWork::Write(load) => {
                if let Err(error) = write(&works, load).await {
                    // It stays in memory. When that is full as well, bytes are refused and the server keeps them.
                    works.set_no_space(matches!(error, SpoolError::Full { .. }));
                    let error = format!("{:#}", anyhow::Error::new(error));
                    tracing::warn!(error, again_in = ?PAUSE, "an object for a region that lags stays in memory");
                    tokio::select! {
                        () = works.stop.cancelled() => return,
                        () = tokio::time::sleep(PAUSE) => {}
                    }
                }
                continue;
            }
            SpoolWork::Wait(until) => until,
        };
        if works.look(|desk| desk.ledger.is_all_spooled()) {
            works.set_no_space(false);
        }
        let until = until.unwrap_or_else(|| Instant::now() + PAUSE);
        tokio::select! {
            () = works.stop.cancelled() => return,
            () = works.bells.spooling.notified() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
}

async fn write(works: &Works, load: Load) -> Result<(), SpoolError> {
    // Whatever is not in the spool is in memory.
    let Some(body) = load.body.as_ref().map(|body| body.sealed()) else { return Ok(()) };
    match works.spool.put(&load.file, body).await {
        Ok(()) => {
            works.set_no_space(false);
            works.change(|desk| desk.spooled(&load));
            Ok(())
        }
        Err(error) => {
            works.quietly(|desk| desk.ledger.not_spooled(load.file.sequence));
            Err(error)
        }
    }
}

/// A file that cannot be removed now is removed later; it is counted as long as it is there.
async fn remove(works: &Works, leftovers: &mut Vec<SpoolFile>) {
    let before = leftovers.len();
    let mut kept = Vec::new();
    for file in std::mem::take(leftovers) {
        if let Err(error) = works.spool.remove(&file).await {
            let error = format!("{:#}", anyhow::Error::new(error));
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
        works.announce();
    }
}

/// Cuts slices when they are due, and tells at least every second how the regions are doing, until the stop.
pub(crate) async fn keep_time(works: Arc<Works>) {
    loop {
        let now = Instant::now();
        let next = works.quietly(|desk| {
            desk.tick(now);
            desk.next_tick()
        });
        works.bells.sealing.notify_one();
        works.announce();
        // What is due and could not be cut waits for a slice to return, which rings the bell.
        let until = next.filter(|next| *next > now).map_or(now + PAUSE, |next| next.min(now + PAUSE));
        tokio::select! {
            () = works.stop.cancelled() => return,
            () = works.bells.cutting.notified() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
}

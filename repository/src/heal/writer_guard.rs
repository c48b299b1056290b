//! Healing beside a writer: what the region's own writer may still bring is left to it.
//!
//! The writer seals anew what it receives again after a restart. If healing put the earlier object of the same name there
//! first, the writer would meet bytes that are not its own, and take them for another writer's. So WAL is healed only
//! where the writer has said, in its head, that the region has everything or never will; or where no writer is at work.

use std::time::Duration;

use lifeboat_vocabulary::{Clock, error_chain};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::format::key_name::KeyName;
use crate::heal::wal::Until;
use crate::log::region_log::LogTrust;
use crate::log::region_store::RegionStore;
use crate::log::roles::Role;
use crate::wal::head::Head;
use crate::wal::lease::Lease;

/// A writer that begins takes what was written up to 10 s later for that of an earlier run, so it is looked for more often.
const LOOK_EVERY: Duration = Duration::from_secs(4);

/// Watches the writer of one region.
pub(crate) struct WriterGuard<'a> {
    region: &'a RegionStore,
    trust: LogTrust,
    /// Whoever may write WAL there.
    writers: Vec<KeyName>,
    clock: &'a dyn Clock,
    seen: Mutex<Option<(Instant, Until)>>,
}

impl<'a> WriterGuard<'a> {
    pub(crate) fn new(region: &'a RegionStore, trust: LogTrust, own: &KeyName, clock: &'a dyn Clock) -> Self {
        let mut writers = trust.signers.names_of(Role::Writer);
        if !writers.contains(own) {
            writers.push(own.clone());
        }
        Self { region, trust, writers, clock, seen: Mutex::new(None) }
    }

    /// How far WAL may be healed now; looked up again when the last look is too long ago.
    ///
    /// # Errors
    /// Why it is unknown, in words.
    pub(crate) async fn until(&self) -> Result<Until, String> {
        let seen = *self.seen.lock();
        if let Some((at, until)) = seen
            && at.elapsed() < LOOK_EVERY
        {
            return Ok(until);
        }
        let at = Instant::now();
        let until = self.look().await?;
        *self.seen.lock() = Some((at, until));
        Ok(until)
    }

    async fn look(&self) -> Result<Until, String> {
        let store = &*self.region.store;
        let mut until = Until::Everything;
        for writer in &self.writers {
            if !Lease::is_held(store, writer, self.clock).await.map_err(|error| error_chain(&error))? {
                continue;
            }
            // Of two that are at work nobody knows which one goes on.
            if until != Until::Everything {
                return Ok(Until::Nothing);
            }
            let head = Head::read(store, writer, &self.trust).await.map_err(|error| error_chain(&error))?;
            until = head.and_then(|head| head.durable).map_or(Until::Nothing, Until::Before);
        }
        Ok(until)
    }
}

//! Another installation that holds the lease of a region: it is told that this one asks for it, so that both raise the alarm.

use lifeboat_repository::log::RegionStore;
use lifeboat_repository::wal::{Lease, LeaseHolder, LeaseMemory, LeaseText};
use lifeboat_vocabulary::error_chain;

use crate::wal::ship::context::ShipContext;
use crate::wal::ship::entry::lease_terms;

/// Who was met in a region when its lease was asked for.
#[derive(Debug, Default)]
pub(crate) struct Rival {
    seen: Option<LeaseText>,
}

impl Rival {
    /// The lease is another's. If it has been renewed since it was last met, its holder is alive, and hears of us.
    pub(crate) async fn met(
        &mut self,
        ship: &ShipContext,
        region: &RegionStore,
        memory: &LeaseMemory,
        holder: &LeaseHolder,
    ) {
        let before = std::mem::replace(&mut self.seen, holder.lease.clone());
        let Some(before) = before else { return };
        let asked = Lease::contest(&*region.store, &lease_terms(ship), memory, &before, &*ship.clock).await;
        match asked {
            Ok(true) => {
                tracing::warn!(region = %region.name, "the holder of the lease is told that this daemon asks for it too")
            }
            Ok(false) => {}
            Err(error) => {
                let error = error_chain(&error);
                tracing::debug!(region = %region.name, error, "the holder of the lease cannot be told of this daemon");
            }
        }
    }
}

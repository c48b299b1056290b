//! What all clusters of one daemon share when they back up: turns at the processor, and how many back up at once.

use std::sync::Arc;

use lifeboat_config::LimitSettings;
use lifeboat_repository::backup::write::{CpuShare, CpuShares};
use lifeboat_vocabulary::ClusterName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The processor and the memory that backups share. Each backup takes `limits.memory`, so at most `limits.backups` times
/// as much is taken; those who come later wait in the order in which they came.
#[derive(Clone, Debug)]
pub(crate) struct Capacity {
    share: Arc<CpuShares>,
    places: Arc<Semaphore>,
}

/// Held while a backup runs.
#[derive(Debug)]
pub(crate) struct Place(#[expect(dead_code, reason = "it is held, not used")] OwnedSemaphorePermit);

impl Capacity {
    /// As the configuration says; it stays so until the daemon is started again.
    #[must_use]
    pub(crate) fn new(limits: &LimitSettings) -> Self {
        let places = Arc::new(Semaphore::new(limits.backups.max(1)));
        Self { share: CpuShares::new(limits.workers), places }
    }

    /// The share of a cluster.
    #[must_use]
    pub(crate) fn cpu_share(&self, cluster: &ClusterName) -> CpuShare {
        self.share.of(cluster)
    }

    /// A place, if one is free and nobody waits for it.
    #[must_use]
    pub(crate) fn try_place(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok().map(Place)
    }

    /// Waits for a place. `None` never comes: places are not taken away.
    pub(crate) async fn place(&self) -> Option<Place> {
        Arc::clone(&self.places).acquire_owned().await.ok().map(Place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_vocabulary::ByteCount;

    #[tokio::test(start_paused = true)]
    async fn places_are_given_in_the_order_in_which_they_were_asked_for() {
        let limits = LimitSettings { memory: ByteCount::from_mib(64), workers: 2, backups: 1, spool: ByteCount::ZERO };
        let capacity = Capacity::new(&limits);
        let first = capacity.place().await.unwrap();
        assert!(capacity.try_place().is_none());
        let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for name in ["b", "c", "d"] {
            let (capacity, order) = (capacity.clone(), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let place = capacity.place().await;
                order.lock().push(name);
                drop(place);
            }));
            tokio::task::yield_now().await;
        }
        drop(first);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), ["b", "c", "d"]);
    }
}

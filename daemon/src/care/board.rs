//! What the tasks that care for a cluster's regions share.

use tokio::sync::Notify;

/// One cluster's care.
#[derive(Debug, Default)]
pub(crate) struct CareBoard {
    /// Somebody found work for the healing.
    wake: Notify,
}

impl CareBoard {
    /// Heal now and not only when it is time: something is known to be missing or damaged.
    pub(crate) fn wake_healing(&self) {
        self.wake.notify_one();
    }

    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }
}

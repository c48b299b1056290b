//! Where the care for what is stored can be seen: what is copied, how far everything is proved, what is damaged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_repository::heal::{HealProgress, HealSnapshot};
use lifeboat_repository::log::LogMemory;
use lifeboat_vocabulary::RegionName;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// How far a region is proved.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ScrubSeen {
    /// Of what is stored, the share that this round has read: 0 to 1.
    pub share_done: f64,
    /// The longest that any object has gone without proof.
    pub oldest: Duration,
    /// Objects that are damaged and not healed.
    pub damaged: u64,
}

/// One cluster's care, as others see it.
#[derive(Debug, Default)]
pub struct CareBoard {
    regions: Mutex<BTreeMap<RegionName, Seen>>,
    /// Somebody found work for the healing.
    wake: Notify,
    /// The logs as they were read: afterwards only what is new is read.
    logs: LogMemory,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    healing: Option<Arc<HealProgress>>,
    scrub: Option<ScrubSeen>,
    damaged: u64,
}

impl CareBoard {
    /// What is being copied into a region; `None` if nothing is.
    #[must_use]
    pub fn healing_of(&self, region: &RegionName) -> Option<HealSnapshot> {
        let progress = self.regions.lock().get(region)?.healing.clone()?;
        Some(progress.snapshot())
    }

    /// How far a region is proved; `None` while nobody has looked.
    #[must_use]
    pub fn scrub_of(&self, region: &RegionName) -> Option<ScrubSeen> {
        let regions = self.regions.lock();
        let seen = regions.get(region)?;
        seen.scrub.map(|scrub| ScrubSeen { damaged: seen.damaged, ..scrub })
    }

    /// Heal now and not only when it is time: something is known to be missing or damaged.
    pub fn wake_healing(&self) {
        self.wake.notify_one();
    }

    pub(crate) fn logs(&self) -> &LogMemory {
        &self.logs
    }

    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(crate) fn healing(&self, region: &RegionName, progress: Option<Arc<HealProgress>>) {
        self.regions.lock().entry(region.clone()).or_default().healing = progress;
    }

    pub(crate) fn scrubbing(&self, region: &RegionName, scrub: ScrubSeen) {
        self.regions.lock().entry(region.clone()).or_default().scrub = Some(scrub);
    }

    pub(crate) fn damaged(&self, region: &RegionName, objects: u64) {
        self.regions.lock().entry(region.clone()).or_default().damaged = objects;
    }
}

//! What the tasks of one cluster tell of themselves, for those who look.

use std::collections::BTreeMap;
use std::sync::Arc;

use lifeboat_vocabulary::RegionName;
use parking_lot::Mutex;

use crate::model::snapshot::{
    ClusterCounters, ForecastStatus, HealStatus, NextRun, RunStatus, RunningStatus, ScrubStatus,
};
use crate::model::survey::Survey;
use crate::model::wal_status::WalStatus;

/// What there is to know about runs, from whoever keeps their history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunsView {
    /// The last five, the newest first.
    pub last: Vec<RunStatus>,
    /// Counters of this process.
    pub counters: ClusterCounters,
}

/// Told by the tasks, each its own part; read once a second. No lock is held over an await.
#[derive(Debug, Default)]
pub struct ClusterFacts {
    told: Mutex<Told>,
}

/// Everything that was told, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Continuous WAL.
    pub wal: Option<WalStatus>,
    /// What the logs say.
    pub survey: Option<Arc<Survey>>,
    /// The next scheduled run.
    pub next_run: Option<NextRun>,
    /// What runs just now.
    pub running: Option<RunningStatus>,
    /// How long a restore would take.
    pub forecast: Option<ForecastStatus>,
    /// What is being copied into each region.
    pub heal: BTreeMap<RegionName, HealStatus>,
    /// How far each region has been proved.
    pub scrub: BTreeMap<RegionName, ScrubStatus>,
}

impl ClusterFacts {
    /// Everything that was told.
    #[must_use]
    pub fn told(&self) -> Told {
        self.told.lock().clone()
    }

    /// How continuous WAL is doing; every second, or it counts as gone.
    pub fn wal(&self, status: WalStatus) {
        self.told.lock().wal = Some(status);
    }

    /// What the logs say.
    pub fn surveyed(&self, survey: Survey) {
        self.told.lock().survey = Some(Arc::new(survey));
    }

    /// The next scheduled run; `None` if there is none.
    pub fn next_run(&self, next: Option<NextRun>) {
        self.told.lock().next_run = next;
    }

    /// What runs just now; `None` if nothing does.
    pub fn running(&self, running: Option<RunningStatus>) {
        self.told.lock().running = running;
    }

    /// How long a restore would take.
    pub fn forecast(&self, forecast: Option<ForecastStatus>) {
        self.told.lock().forecast = forecast;
    }

    /// What is being copied into a region; `None` if nothing is.
    pub fn healing(&self, region: &RegionName, heal: Option<HealStatus>) {
        let mut told = self.told.lock();
        match heal {
            Some(heal) => told.heal.insert(region.clone(), heal),
            None => told.heal.remove(region),
        };
    }

    /// How far a region has been proved.
    pub fn scrubbed(&self, region: &RegionName, scrub: ScrubStatus) {
        self.told.lock().scrub.insert(region.clone(), scrub);
    }
}

//! What the tasks of one cluster tell of themselves, for those who look.

use std::collections::BTreeMap;
use std::sync::Arc;

use lifeboat_repository::backup::write::CpuShare;
use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::heal::HealProgress;
use lifeboat_vocabulary::RegionName;
use parking_lot::Mutex;

use crate::model::snapshot::{ClusterCounters, HealStatus, NextRun, RunStatus, RunningStatus, ScrubStatus};
use crate::model::survey::Survey;
use crate::model::wal_status::WalStatus;

/// What there is to know about runs, from whoever keeps their history.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RunsView {
    /// The last five, the newest first.
    pub(crate) last: Vec<RunStatus>,
    /// Counters of this process.
    pub(crate) counters: ClusterCounters,
}

/// Reported by the tasks, each its own part; read once a second. No lock is held over an await.
#[derive(Debug, Default)]
pub struct ClusterFacts {
    known: Mutex<Known>,
}

/// What was reported, and where the rest of it is read.
#[derive(Debug, Default)]
struct Known {
    facts: Facts,
    /// How long the threads of the cluster waited and worked.
    cpu_share: Option<CpuShare>,
    /// What counts the objects that are copied into a region.
    healing: BTreeMap<RegionName, Arc<HealProgress>>,
    /// Objects of a region that are damaged and not healed.
    damaged: BTreeMap<RegionName, u64>,
}

/// Everything that was reported, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) wal: Option<WalStatus>,
    /// What the logs say.
    pub(crate) survey: Option<Arc<Survey>>,
    pub(crate) next_run: Option<NextRun>,
    /// What runs just now.
    pub(crate) running: Option<RunningStatus>,
    pub(crate) runs: RunsView,
    /// What is being copied into each region.
    pub(crate) heal: BTreeMap<RegionName, HealStatus>,
    /// How far each region has been verified.
    pub(crate) scrub: BTreeMap<RegionName, ScrubStatus>,
    /// WAL that no region has any more, in order.
    pub(crate) lost_wal: Vec<WalRange>,
}

impl ClusterFacts {
    /// Everything that was reported.
    #[must_use]
    pub(crate) fn read(&self) -> Facts {
        let known = self.known.lock();
        let mut facts = known.facts.clone();
        if let Some(times) = known.cpu_share.as_ref().map(CpuShare::times) {
            facts.runs.counters.waiting_seconds = times.waiting.as_secs_f64();
            facts.runs.counters.running_seconds = times.running.as_secs_f64();
        }
        facts.heal = known.healing.iter().map(|(region, progress)| (region.clone(), heal_status(progress))).collect();
        for (region, scrub) in &mut facts.scrub {
            scrub.damaged = known.damaged.get(region).copied().unwrap_or(0);
        }
        facts
    }

    /// How continuous WAL is doing; every second, or it counts as gone.
    pub(crate) fn wal(&self, status: WalStatus) {
        self.known.lock().facts.wal = Some(status);
    }

    /// What the logs say.
    pub(crate) fn surveyed(&self, survey: Survey) {
        self.known.lock().facts.survey = Some(Arc::new(survey));
    }

    /// The next scheduled run; `None` if there is none.
    pub(crate) fn next_run(&self, next: Option<NextRun>) {
        self.known.lock().facts.next_run = next;
    }

    /// What runs just now; `None` if nothing does.
    pub(crate) fn running(&self, running: Option<RunningStatus>) {
        self.known.lock().facts.running = running;
    }

    /// What was run.
    pub(crate) fn runs(&self, runs: RunsView) {
        self.known.lock().facts.runs = runs;
    }

    /// Where the cluster takes turns at the processor: how long it waited is read when somebody asks.
    pub(crate) fn cpu_share(&self, share: CpuShare) {
        self.known.lock().cpu_share = Some(share);
    }

    /// What is being copied into a region, as it counts; `None` if nothing is.
    pub(crate) fn healing(&self, region: &RegionName, progress: Option<Arc<HealProgress>>) {
        let mut known = self.known.lock();
        match progress {
            Some(progress) => known.healing.insert(region.clone(), progress),
            None => known.healing.remove(region),
        };
    }

    /// Objects of a region that are damaged and not healed.
    pub(crate) fn damaged(&self, region: &RegionName, objects: u64) {
        self.known.lock().damaged.insert(region.clone(), objects);
    }

    /// WAL that no region has any more, in order: all of it.
    pub(crate) fn lost_wal(&self, lost: Vec<WalRange>) {
        self.known.lock().facts.lost_wal = lost;
    }

    /// How far a region has been verified.
    pub(crate) fn scrubbed(&self, region: &RegionName, scrub: ScrubStatus) {
        self.known.lock().facts.scrub.insert(region.clone(), scrub);
    }
}

fn heal_status(progress: &HealProgress) -> HealStatus {
    let now = progress.snapshot();
    HealStatus {
        objects_done: now.objects,
        objects_total: now.objects_total,
        bytes_done: now.done.as_bytes(),
        bytes_total: now.total.as_bytes(),
        doing: now.doing,
    }
}

//! What the care for one cluster works with.

use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_config::{ClusterSettings, Config};
use lifeboat_repository::heal::{HealProgress, HealScope, HealTools};
use lifeboat_repository::log::{LogTrust, NoteSigner, RegionLog};
use lifeboat_repository::scrub::Pace;
use lifeboat_vocabulary::{ByteCount, Clock, UtcTime};
use tokio_util::sync::CancellationToken;

use crate::base::alarms::board::AlarmBoard;
use crate::care::board::CareBoard;
use crate::deletion::freeze::Freezer;
use crate::regions::open::OpenRegions;
use crate::settings::retention_policy::policy;
use crate::settings::wiring;

/// What the care for one cluster works with.
#[derive(Clone)]
pub struct CareParts {
    /// All of the configuration.
    pub config: Arc<Config>,
    /// The cluster.
    pub cluster: ClusterSettings,
    /// Its regions, shared with everybody else.
    pub regions: OpenRegions,
    /// Signs what goes on record.
    pub signer: Arc<NoteSigner>,
    /// What must not be done now.
    pub freezer: Arc<Freezer>,
    /// Where alarms go.
    pub alarms: Arc<AlarmBoard>,
    /// Where it is seen how far everything is.
    pub board: Arc<CareBoard>,
    /// The folder of the cluster below the state directory.
    pub state: PathBuf,
    /// The machine's clock.
    pub clock: Arc<dyn Clock>,
}

impl CareParts {
    pub(crate) fn now(&self) -> UtcTime {
        self.clock.now()
    }

    /// What every region is to have.
    pub(crate) fn scope(&self, logs: &[&RegionLog]) -> HealScope {
        let now = self.now();
        HealScope::planned(logs, &policy(&self.cluster, now), now)
    }

    /// The most bytes per second that care may move.
    pub(crate) fn bandwidth(&self) -> ByteCount {
        self.config.heal.max_bandwidth
    }

    pub(crate) fn tools<'a>(
        &'a self,
        trust: &'a LogTrust,
        (pace, progress): (&'a Pace, &'a HealProgress),
        stop: &'a CancellationToken,
    ) -> HealTools<'a> {
        HealTools {
            signer: &self.signer,
            trust,
            pace,
            progress,
            stop,
            clock: &*self.clock,
            tool: wiring::TOOL,
            settled: lifeboat_repository::heal::SETTLED_AFTER,
        }
    }
}

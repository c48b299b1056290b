//! The care for what is stored: regions that lack something are healed from others, everything is read back and proved in
//! turn, and the regions' logs are compared with each other and with what was seen before.

pub mod agree;
pub mod ask;
pub mod board;
pub mod heal_command;
pub mod heal_task;
pub mod scrub_command;
pub mod scrub_task;
mod standing;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_config::{ClusterSettings, Config};
use lifeboat_repository::heal::{HealProgress, HealScope, HealTools};
use lifeboat_repository::log::{LogTrust, NoteSigner, RegionLog};
use lifeboat_repository::scrub::Pace;
use lifeboat_vocabulary::{ByteCount, Clock, UtcTime};
use tokio_util::sync::CancellationToken;

pub use board::CareBoard;
pub use heal_task::heal_task;
pub use scrub_task::scrub_task;
pub use watch::agreement_task;

use crate::alarm_board::AlarmBoard;
use crate::freeze::Freezer;
use crate::regions::OpenRegions;
use crate::{retention, wiring};

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
        HealScope::planned(logs, &retention::policy(&self.cluster, now), now)
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

//! What the care for one cluster works with.

use std::collections::BTreeMap;
use std::sync::Arc;

use lifeboat_config::{ClusterSettings, Config};
use lifeboat_repository::heal::{HealProgress, HealRegion, HealScope, HealTools, Look, Pace};
use lifeboat_repository::log::records::FoundBy;
use lifeboat_repository::log::{LogTrust, RegionLog};
use lifeboat_repository::retention::sweep;
use lifeboat_repository::scrub::DamageReporter;
use lifeboat_vocabulary::{ByteCount, UtcTime, error_chain};
use tokio_util::sync::CancellationToken;

use crate::care::board::CareBoard;
use crate::regions::context::ClusterContext;
use crate::settings::retention_policy::policy;
use crate::settings::wiring;
use crate::wal::backup_requests::BackupRequests;

/// What the care for one cluster works with.
#[derive(Clone)]
pub(crate) struct CareParts {
    pub(crate) context: ClusterContext,
    /// The configuration that the task was begun with.
    pub(crate) config: Arc<Config>,
    /// What it says of the cluster.
    pub(crate) cluster: ClusterSettings,
    /// Where it is seen how far everything is.
    pub(crate) board: Arc<CareBoard>,
    /// Where base backups are requested.
    pub(crate) requests: Arc<BackupRequests>,
}

impl CareParts {
    pub(crate) fn now(&self) -> UtcTime {
        self.context.now()
    }

    /// What every region is to have.
    pub(crate) async fn scope(&self, regions: &[HealRegion]) -> HealScope {
        let now = self.now();
        let mut arrived = BTreeMap::new();
        for HealRegion { store, log } in regions {
            match sweep::arrivals(&*store.store, log, now).await {
                Ok(there) => {
                    for (backup, time) in there {
                        let first = arrived.entry(backup).or_insert(time);
                        *first = (*first).min(time);
                    }
                }
                Err(error) => {
                    let (region, error) = (&store.name, error_chain(&error));
                    tracing::warn!(%region, error, "when records arrived there is not known");
                }
            }
        }
        let logs: Vec<&RegionLog> = regions.iter().map(|region| &region.log).collect();
        HealScope::planned(&logs, &policy(&self.cluster, now), &arrived, now)
    }

    /// The most bytes per second that care may move.
    pub(crate) fn bandwidth(&self) -> ByteCount {
        self.config.heal.max_bandwidth
    }

    /// Puts damage on record in a region's log.
    pub(crate) fn damage_reporter(&self, found_by: FoundBy) -> DamageReporter<'_> {
        let ClusterContext { signer, clock, .. } = &self.context;
        DamageReporter { signer, clock: &**clock, tool: wiring::TOOL, found_by }
    }

    pub(crate) fn tools<'a>(
        &'a self,
        trust: &'a LogTrust,
        pace: &'a Pace,
        progress: &'a HealProgress,
        stop: &'a CancellationToken,
    ) -> HealTools<'a> {
        HealTools {
            signer: &self.context.signer,
            trust,
            pace,
            progress,
            stop,
            clock: &*self.context.clock,
            tool: wiring::TOOL,
            settled: lifeboat_repository::heal::SETTLED_AFTER,
            look: Look::AtObjects,
        }
    }
}

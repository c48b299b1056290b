//! What every task of one cluster works with.

use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_config::{ClusterSettings, Config};
use lifeboat_repository::log::NoteSigner;
use lifeboat_vocabulary::{Clock, ClusterName, UtcTime};
use tokio::sync::watch;

use crate::base::alarms::board::AlarmBoard;
use crate::deletion::freeze::Freezer;
use crate::model::facts::ClusterFacts;
use crate::regions::open::OpenRegions;
use crate::settings::wiring;

/// What the tasks of one cluster share, whatever each of them does. Cheap to clone.
#[derive(Clone)]
pub struct ClusterContext {
    /// The cluster.
    pub cluster: ClusterName,
    /// Its folder in the state directory.
    pub directory: PathBuf,
    /// The configuration in force; a reload changes it.
    pub config: watch::Receiver<Arc<Config>>,
    /// Its regions, opened once.
    pub regions: Arc<OpenRegions>,
    /// Where tasks report how they stand.
    pub facts: Arc<ClusterFacts>,
    /// Where alarms go.
    pub alarms: Arc<AlarmBoard>,
    /// What is frozen and paused.
    pub freezer: Arc<Freezer>,
    /// Signs what goes on record.
    pub signer: Arc<NoteSigner>,
    /// The machine's clock.
    pub clock: Arc<dyn Clock>,
}

impl ClusterContext {
    /// The time.
    #[must_use]
    pub fn now(&self) -> UtcTime {
        self.clock.now()
    }

    /// The configuration as it is now.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    /// What the configuration says of the cluster now.
    ///
    /// # Errors
    /// If the cluster is not in it any more.
    pub fn settings(&self) -> anyhow::Result<ClusterSettings> {
        Ok(wiring::cluster(&self.config.borrow(), Some(&self.cluster))?.clone())
    }
}

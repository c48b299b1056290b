//! The daemon of one cluster inside another program: its tasks as `lifeboatd run` begins them, with regions and a clock that are
//! given, and without signals, service manager and web server.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lifeboat_config::Config;
use lifeboat_vocabulary::{Clock, ClusterName};
use tokio::sync::watch;

use crate::base::alarms::board::RaisedAlarm;
use crate::base::state;
use crate::base::supervisor::Watchdog;
use crate::regions::open::OpenRegions;
use crate::run::cluster::{self, Common};

/// A daemon that protects one cluster. Dropping it does not end its tasks.
pub struct ClusterDaemon {
    common: Common,
    _config: watch::Sender<Arc<Config>>,
}

impl ClusterDaemon {
    /// Begins the tasks that the roles of the configuration name.
    ///
    /// # Errors
    /// If the state directory cannot be made.
    pub fn begin(
        config: Config,
        cluster: &ClusterName,
        regions: Arc<OpenRegions>,
        clock: &Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let directory = &config.state_directory;
        state::make_directory(directory)
            .with_context(|| format!("make the state directory {}", directory.display()))?;
        let config = watch::Sender::new(Arc::new(config));
        let common = Common::new(config.subscribe(), Watchdog::Nobody, clock, Some(regions));
        common.begin_alarms();
        cluster::begin(&common, cluster);
        Ok(Self { common, _config: config })
    }

    /// The alarms that are raised now.
    #[must_use]
    pub fn alarms(&self) -> Vec<RaisedAlarm> {
        self.common.board.all()
    }

    /// Ends all tasks in order, and returns those that had to be cut off. Without patience they are all cut off where they are,
    /// as by the end of the process.
    pub async fn stop(&self, patience: Duration) -> Vec<&'static str> {
        let cut_off = self.common.supervisor.stop_all(patience).await;
        if !patience.is_zero() {
            self.common.board.save().await;
        }
        cut_off
    }
}

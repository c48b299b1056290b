//! Makes the backups of the daemon, and knows whether it may.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::join_all;
use lifeboat_config::Role;
use lifeboat_repository::backup::write::CpuShare;
use lifeboat_repository::catalog::{Catalog, RegionAnswer, RegionView};
use lifeboat_repository::format::InstanceId;
use lifeboat_repository::log::RegionLog;
use lifeboat_repository::log::records::BackupRecord;
use lifeboat_repository::wal;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::backup::history::{RunEnding, RunResult};
use crate::backup::run::{Shown, make, result_of};
use crate::base::progress::Progress;
use crate::regions::context::ClusterContext;
use crate::settings::wiring::{self, ClusterConfig};
use crate::wal::shared::Shared;
use crate::wal::ship::lease_keeper::holder_text;
use crate::wal::ship::spool::{installation, lease_memory};

/// How long one region may take for an answer: one that hangs must not hide what the others say.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);

/// Makes backups of one cluster.
#[async_trait::async_trait]
pub(crate) trait BackupMaker: Send + Sync {
    /// Makes one; what went wrong stands in the result.
    async fn make(&self, progress: &Progress, stop: &CancellationToken) -> RunResult;

    /// Another installation that protects the cluster in some region: two must not.
    async fn other_writer(&self) -> Option<String>;

    /// Why the server is another one than the repository is of, as far as continuous WAL has found out.
    fn foreign(&self) -> Option<String>;

    /// The newest good backup that the regions know.
    ///
    /// # Errors
    /// If no region can be read.
    async fn newest_backup(&self) -> anyhow::Result<Option<BackupRecord>>;
}

/// Makes them into the regions, by the configuration that is in force when each begins.
pub(crate) struct Maker {
    pub(crate) context: ClusterContext,
    /// Where it takes turns with backups of other clusters.
    pub(crate) cpu_share: CpuShare,
    /// What continuous WAL knows of the server.
    pub(crate) shared: Arc<Shared>,
}

#[async_trait::async_trait]
impl BackupMaker for Maker {
    async fn make(&self, progress: &Progress, stop: &CancellationToken) -> RunResult {
        let config = Arc::clone(&self.context.config.borrow());
        let cluster = match wiring::cluster(&config, Some(&self.context.cluster)) {
            Ok(cluster) => cluster,
            Err(error) => return RunResult::without_backup(RunEnding::Failed, format!("{error:#}")),
        };
        let shown = Shown::Daemon { progress, cpu_share: &self.cpu_share };
        let of = ClusterConfig { config: &config, cluster };
        result_of(&make(of, &self.context.regions, &*self.context.clock, shown, stop).await, stop)
    }

    /// Where this daemon receives WAL, it holds the lease of each region, or waits for it. A region that gives no answer
    /// says nothing; the log of each region orders writers in any case.
    async fn other_writer(&self) -> Option<String> {
        let config = Arc::clone(&self.context.config.borrow());
        if !config.daemon.does(Role::Wal) {
            return None;
        }
        let cluster = wiring::cluster(&config, Some(&self.context.cluster)).ok()?;
        let of = ClusterConfig { config: &config, cluster };
        let signer = of.signer().ok()?;
        // Before WAL has begun here, there is no name yet, and whoever holds a lease is somebody else.
        let spool = &of.state_directory().join("spool");
        let named = installation(spool).await;
        let ours = match named {
            Some(ours) => ours,
            None => InstanceId::random().ok()?,
        };
        let name = signer.name();
        let asked = self.context.regions.stores().into_iter().map(|region| async move {
            let asked = async {
                let clock = &*self.context.clock;
                let memory = match named {
                    Some(_) => Some(lease_memory(spool, &region.name, clock.now()).await?),
                    None => None,
                };
                anyhow::Ok(wal::other_holder(&*region.store, name, ours, memory.as_ref(), clock).await?)
            };
            let why = match timeout(ANSWER_PATIENCE, asked).await {
                Ok(Ok(holder)) => return Some(format!("region {}: {}", region.name, holder_text(&holder?, ours))),
                Ok(Err(error)) => format!("{error:#}"),
                Err(late) => late.to_string(),
            };
            tracing::debug!(cluster = %self.context.cluster, region = %region.name, why, "who holds the lease is not known");
            None
        });
        join_all(asked).await.into_iter().flatten().next()
    }

    fn foreign(&self) -> Option<String> {
        self.shared.receiver().foreign
    }

    async fn newest_backup(&self) -> anyhow::Result<Option<BackupRecord>> {
        let config = Arc::clone(&self.context.config.borrow());
        let key = wiring::signer(&config, &self.context.cluster)?.root();
        let key = &key;
        let reads = self.context.regions.stores().into_iter().map(|region| async move {
            let logs = self.context.regions.logs();
            let read = logs.while_reading([&region.name], ANSWER_PATIENCE, logs.read(&region, key)).await;
            let answer = match read {
                Ok(Ok((descriptor, log))) => {
                    RegionAnswer::Read { descriptor: Box::new(descriptor), log: Box::new(RegionLog::clone(&log)) }
                }
                Ok(Err(error)) => RegionAnswer::Unreadable { why: format!("{error:#}") },
                Err(late) => RegionAnswer::Unreadable { why: late.to_string() },
            };
            RegionView { name: region.name, answer }
        });
        let views: Vec<RegionView> = join_all(reads).await;
        let catalog = Catalog::merge(&views);
        let why = || catalog.findings().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        catalog.descriptor().with_context(why)?;
        Ok(catalog.newest_intact(self.context.clock.now()).map(|row| row.record.clone()))
    }
}

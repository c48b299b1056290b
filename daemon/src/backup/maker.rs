//! Makes the backups of the daemon, and knows whether it may.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use lifeboat_config::Role;
use lifeboat_repository::backup::write::CpuShare;
use lifeboat_repository::catalog::{Catalog, RegionAnswer, RegionView};
use lifeboat_repository::format::InstanceId;
use lifeboat_repository::log::records::BackupRecord;
use lifeboat_repository::log::{RegionLog, RegionStore};
use lifeboat_repository::wal;
use tokio::time::{Instant, timeout};
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

/// Once one region has answered, others that are still being read are waited for so long.
const OTHERS_PATIENCE: Duration = Duration::from_secs(60);

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
        let stores = self.context.regions.stores();
        let reads = stores.clone().into_iter().map(|region| async move {
            let logs = self.context.regions.logs();
            let read = logs.while_reading([&region.name], ANSWER_PATIENCE, logs.read(&region, key)).await;
            match read {
                Ok(Ok((descriptor, log))) => {
                    RegionAnswer::Read { descriptor: Box::new(descriptor), log: Box::new(RegionLog::clone(&log)) }
                }
                Ok(Err(error)) => RegionAnswer::Unreadable { why: format!("{error:#}") },
                Err(late) => RegionAnswer::Unreadable { why: late.to_string() },
            }
        });
        let answers = in_time(reads, |answer| matches!(answer, RegionAnswer::Read { .. })).await;
        let view = |(region, answer): (&RegionStore, Option<RegionAnswer>)| {
            let late = || RegionAnswer::Unreadable { why: "it is still being read".to_owned() };
            RegionView { name: region.name.clone(), answer: answer.unwrap_or_else(late) }
        };
        let views: Vec<RegionView> = stores.iter().zip(answers).map(view).collect();
        let catalog = Catalog::merge(&views);
        let why = || catalog.findings().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        catalog.descriptor().with_context(why)?;
        Ok(catalog.newest_intact(self.context.clock.now()).map(|row| row.record.clone()))
    }
}

/// What the regions answer, in their order. A log that is read for hours, because its region hardly gets on, is not waited for once
/// another one is there; what was read of it stays read.
async fn in_time<T>(
    reads: impl Iterator<Item = impl Future<Output = T>>,
    is_answer: impl Fn(&T) -> bool,
) -> Vec<Option<T>> {
    let mut reads: FuturesUnordered<_> =
        reads.enumerate().map(|(number, read)| async move { (number, read.await) }).collect();
    let mut answers: Vec<Option<T>> = (0..reads.len()).map(|_| None).collect();
    let mut end: Option<Instant> = None;
    loop {
        let next = match end {
            Some(end) => tokio::time::timeout_at(end, reads.next()).await.ok().flatten(),
            None => reads.next().await,
        };
        let Some((number, answer)) = next else { return answers };
        if end.is_none() && is_answer(&answer) {
            end = Some(Instant::now() + OTHERS_PATIENCE);
        }
        if let Some(at) = answers.get_mut(number) {
            *at = Some(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answers(regions: &[(u64, bool)]) -> (Vec<Option<bool>>, u64) {
        let begun = Instant::now();
        let reads = regions.iter().map(|(seconds, is_good)| async move {
            tokio::time::sleep(Duration::from_secs(*seconds)).await;
            *is_good
        });
        let answers = in_time(reads, |is_good| *is_good).await;
        (answers, begun.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_region_that_trickles_is_not_waited_for_once_another_has_answered() {
        let hour = 3600;
        let (answered, lasts) = answers(&[(100 * hour, true), (5, true), (30, true), (1, false)]).await;
        assert_eq!((answered, lasts), (vec![None, Some(true), Some(true), Some(false)], 65));
        let (answered, lasts) = answers(&[(100 * hour, true), (5, false)]).await;
        assert_eq!((answered, lasts), (vec![Some(true), Some(false)], 100 * hour), "it is better than none");
        assert_eq!(answers(&[]).await, (Vec::new(), 0));
    }
}

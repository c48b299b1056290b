//! The task that keeps what is known of the regions' logs up to date.

use std::time::Duration;

use futures_util::future::join_all;
use lifeboat_repository::log::RegionStore;
use tokio::sync::watch;

use crate::base::supervisor::TaskContext;
use crate::regions::context::ClusterContext;

/// How often logs are read.
const PERIOD: Duration = Duration::from_secs(60);
/// A region that has not been read at all is tried sooner.
const PERIOD_UNREAD: Duration = Duration::from_secs(10);

/// Reads all logs every minute, and at each good backup, until it is told to stop. A region that hangs holds up no other.
///
/// # Errors
/// None so far; the supervisor wants to know.
pub(crate) async fn follow(
    context: TaskContext,
    cluster: ClusterContext,
    good: watch::Receiver<u64>,
) -> anyhow::Result<()> {
    // Regions have deadlines of their own.
    context.progress.waiting("the regions' logs");
    let stores = cluster.regions.stores();
    join_all(stores.iter().map(|region| follow_region(&context, &cluster, region, good.clone()))).await;
    Ok(())
}

async fn follow_region(
    context: &TaskContext,
    cluster: &ClusterContext,
    region: &RegionStore,
    mut good: watch::Receiver<u64>,
) {
    let (follower, key) = (cluster.regions.logs(), cluster.signer.root());
    let mut forgotten = follower.forgets();
    // Without a scheduler nobody counts backups.
    let mut counts = true;
    loop {
        let read = tokio::select! {
            () = context.stop.cancelled() => return,
            read = follower.read(region, &key) => read,
        };
        if let Err(error) = read {
            let error = format!("{error:#}");
            tracing::debug!(cluster = %cluster.cluster, region = %region.name, error, "the region's log cannot be read now");
        }
        let pause = if follower.latest().contains_key(&region.name) { PERIOD } else { PERIOD_UNREAD };
        tokio::select! {
            () = context.stop.cancelled() => return,
            changed = good.changed(), if counts => counts = changed.is_ok(),
            _ = forgotten.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

//! When the daemon may say that it is ready: once every cluster has been looked at, however that went.

use std::collections::BTreeMap;
use std::time::Duration;

use lifeboat_vocabulary::{ClusterName, counted};
use tokio::sync::watch;

/// A look that takes longer than this does not hold up the start of the service: it starts degraded.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How the first look at a cluster's regions went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    /// So many regions could be read, of so many that are needed.
    Regions {
        /// That could be read.
        read: usize,
        /// That are the quorum.
        quorum: usize,
    },
    /// The cluster cannot be protected yet.
    Failed(String),
}

/// What every cluster's first look has found; shared by all of them.
#[derive(Debug)]
pub(crate) struct Readiness {
    looks: watch::Sender<BTreeMap<ClusterName, Option<Looked>>>,
}

impl Readiness {
    /// For these clusters.
    #[must_use]
    pub(crate) fn of<'a>(clusters: impl IntoIterator<Item = &'a ClusterName>) -> Self {
        let looks = clusters.into_iter().map(|cluster| (cluster.clone(), None)).collect();
        Self { looks: watch::Sender::new(looks) }
    }

    /// A cluster has been looked at. Later looks replace earlier ones.
    pub(crate) fn looked(&self, cluster: &ClusterName, looked: Looked) {
        self.looks.send_modify(|looks| {
            looks.insert(cluster.clone(), Some(looked));
        });
    }

    /// Waits until every cluster has been looked at, or for [`PATIENCE`]; then says how it stands.
    pub(crate) async fn wait(&self) -> String {
        let mut looks = self.looks.subscribe();
        let all = looks.wait_for(|looks| looks.values().all(Option::is_some));
        // Whether it came or not, what is there is what can be said.
        let complete = matches!(tokio::time::timeout(PATIENCE, all).await, Ok(Ok(_)));
        tracing::debug!(complete, "the clusters have been looked at");
        self.in_words()
    }

    /// How it stands, in a line.
    #[must_use]
    pub(crate) fn in_words(&self) -> String {
        let looks = self.looks.borrow();
        let degraded = looks.iter().filter_map(|(cluster, looked)| {
            Some(match looked {
                Some(Looked::Regions { read, quorum }) if read >= quorum => return None,
                Some(Looked::Regions { read, quorum }) => {
                    let needed = counted(*quorum as u64, "needed region answers", "needed regions answer");
                    format!("{cluster}: {read} of {needed}")
                }
                Some(Looked::Failed(why)) => format!("{cluster}: {why}"),
                None => format!("{cluster}: no answer yet"),
            })
        });
        let degraded: Vec<String> = degraded.collect();
        let clusters = counted(looks.len() as u64, "cluster", "clusters");
        if degraded.is_empty() { clusters } else { format!("{clusters}, degraded: {}", degraded.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_daemon_is_ready_once_every_cluster_was_looked_at_or_patience_has_ended() {
        let (a, b): (ClusterName, ClusterName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let readiness = Readiness::of([&a, &b]);
        readiness.looked(&a, Looked::Regions { read: 2, quorum: 2 });
        let begun = tokio::time::Instant::now();
        assert_eq!(readiness.wait().await, "2 clusters, degraded: b: no answer yet");
        assert_eq!(begun.elapsed(), PATIENCE);
        readiness.looked(&b, Looked::Regions { read: 1, quorum: 2 });
        assert_eq!(readiness.wait().await, "2 clusters, degraded: b: 1 of 2 needed regions answer");
        readiness.looked(&b, Looked::Regions { read: 2, quorum: 2 });
        assert_eq!(readiness.wait().await, "2 clusters");
        assert_eq!(begun.elapsed(), PATIENCE, "nothing is waited for any more");
    }
}

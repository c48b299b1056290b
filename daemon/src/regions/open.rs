//! The regions of one cluster, opened once: WAL, backups, deletion, healing and scrub share what is learned about each.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_config::Config;
use lifeboat_repository::log::RegionStore;
use lifeboat_stores::{
    Breaker, Finding, Metrics, OpenError, Precedence, RegionSettings, Stack, Store, StoreError, open_below, probe,
};
use lifeboat_vocabulary::{Clock, ClusterName, RegionName, SystemClock, error_chain};

use crate::model::capabilities::{CONDITIONAL, Capabilities, Writers};
use crate::regions::judged_store::{JudgedStore, Judgement};
use crate::regions::late_store::LateStore;
use crate::regions::log_follower::LogFollower;
use crate::settings::wiring;

/// How long a probe may take.
const PROBE_PATIENCE: Duration = Duration::from_secs(90);

/// One region of one cluster, with the only wrappers around it in this process.
#[derive(Clone)]
pub struct OpenRegion {
    /// Its name.
    pub name: RegionName,
    /// The store, with retries, breaker and limits.
    pub store: Arc<dyn Store>,
    /// The store without them, for the probe that looks at what a region really does.
    pub bare: Arc<dyn Store>,
    /// What it was asked, and how it did.
    pub metrics: Arc<Metrics>,
    /// Opens while operations keep failing.
    pub breaker: Arc<Breaker>,
    /// What the configuration says about it.
    pub settings: RegionSettings,
    judgement: Arc<Judgement>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for OpenRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenRegion").field("name", &self.name).field("store", &self.store).finish_non_exhaustive()
    }
}

impl OpenRegion {
    fn new(
        settings: &RegionSettings,
        bare: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        precedence: &Arc<Precedence>,
    ) -> Self {
        let judgement = Arc::new(Judgement::of(&*bare));
        let judged = JudgedStore { bare: Arc::clone(&bare), judgement: Arc::clone(&judgement) };
        let Stack { store, metrics, breaker } = wiring::stacked(settings, Arc::new(judged), &clock, precedence);
        Self {
            name: settings.name.clone(),
            store,
            bare,
            metrics,
            breaker,
            settings: settings.clone(),
            judgement,
            clock,
        }
    }

    /// The clock of this host.
    #[must_use]
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// How many may write there, as far as is known.
    #[must_use]
    pub fn writers(&self) -> Writers {
        self.judgement.writers()
    }

    /// A probe has found out how many may write there. Every clone of this region hears of it.
    pub fn set_writers(&self, writers: Writers) {
        self.judgement.set(writers);
    }

    /// How many may write there, by what a probe has found: one that was made before, or one that is made now. Whoever
    /// deletes asks this and not the settings, which may promise what the server does not keep.
    ///
    /// # Errors
    /// Why it could not be found out; then nothing may be deleted.
    pub async fn judge_writers(&self) -> Result<Writers, String> {
        match self.judgement.probed() {
            Some(writers) => Ok(writers),
            None => self.probe_writers().await,
        }
    }

    /// How many may write there, by a probe that is made now. What was found lost is not taken for regained by it: the
    /// watch over the regions decides about that.
    ///
    /// # Errors
    /// Why it could not be found out.
    pub async fn probe_writers(&self) -> Result<Writers, String> {
        let unknown =
            |why: String| Err(format!("whether conditional writes work there cannot be found out now: {why}"));
        let report = match tokio::time::timeout(PROBE_PATIENCE, probe(&*self.bare, &*self.clock)).await {
            Ok(Ok(report)) => report,
            // A role that may write nothing but records: what is known without a probe has to do.
            Ok(Err(StoreError::Misconfigured { .. })) => return Ok(self.writers()),
            Ok(Err(error)) => return unknown(error_chain(&error)),
            Err(_) => return unknown(format!("no answer within {} s", PROBE_PATIENCE.as_secs())),
        };
        if let Some(why) = CONDITIONAL.iter().find_map(|check| match report.of(*check) {
            Some(Finding::Unclear { why }) => Some(why.clone()),
            _ => None,
        }) {
            return unknown(why);
        }
        if self.judgement.probed() != Some(Writers::One) {
            self.set_writers(Capabilities::learn(None, &report, self.clock.now()).0.writers());
        }
        Ok(self.writers())
    }

    /// As backups and WAL take it.
    #[must_use]
    pub fn region_store(&self) -> RegionStore {
        RegionStore { name: self.name.clone(), store: Arc::clone(&self.store) }
    }
}

/// All regions of one cluster, in the order of the configuration.
#[derive(Clone, Debug)]
pub struct OpenRegions {
    cluster: ClusterName,
    regions: Vec<OpenRegion>,
    logs: Arc<LogFollower>,
}

impl OpenRegions {
    /// Opens every region of the configuration for one cluster; nothing is asked of an S3 server yet. One that cannot be
    /// opened now fails by itself, and is opened as soon as it can be.
    ///
    /// # Errors
    /// If the settings of one cannot work, however often they are tried.
    pub async fn open(config: &Config, cluster: &ClusterName) -> anyhow::Result<Self> {
        let precedence = wiring::precedence();
        let mut regions = Vec::new();
        for settings in &config.regions {
            let bare: Arc<dyn Store> = match open_below(settings, Some(cluster)).await {
                Ok(store) => store,
                // A directory that is not mounted, credentials that are not there: only that region fails.
                Err(error @ OpenError::Store { .. }) => {
                    tracing::warn!(%cluster, error = %error_chain(&error), "the region cannot be opened yet; it is tried again");
                    Arc::new(LateStore::new(settings, cluster, &error))
                }
                Err(error) => return Err(anyhow::Error::new(error)),
            };
            regions.push(OpenRegion::new(settings, bare, Arc::new(SystemClock), &precedence));
        }
        Ok(Self { cluster: cluster.clone(), regions, logs: Arc::default() })
    }

    /// The regions of the configuration with stores that are open already, in the same order, and a line of their own.
    #[must_use]
    pub fn given(
        config: &Config,
        cluster: &ClusterName,
        stores: impl IntoIterator<Item = Arc<dyn Store>>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let precedence = Arc::default();
        let open = |(settings, bare)| OpenRegion::new(settings, bare, Arc::clone(clock), &precedence);
        let regions = config.regions.iter().zip(stores).map(open).collect();
        Self { cluster: cluster.clone(), regions, logs: Arc::default() }
    }

    /// Whose regions they are.
    #[must_use]
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// Reads their logs.
    #[must_use]
    pub fn logs(&self) -> &Arc<LogFollower> {
        &self.logs
    }

    /// All of them, in the order of the configuration.
    pub fn iter(&self) -> std::slice::Iter<'_, OpenRegion> {
        self.regions.iter()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, name: &RegionName) -> Option<&OpenRegion> {
        self.regions.iter().find(|region| region.name == *name)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.regions.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// As backups and WAL take them.
    #[must_use]
    pub fn stores(&self) -> Vec<RegionStore> {
        self.regions.iter().map(OpenRegion::region_store).collect()
    }
}

impl<'a> IntoIterator for &'a OpenRegions {
    type Item = &'a OpenRegion;
    type IntoIter = std::slice::Iter<'a, OpenRegion>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use lifeboat_stores::MemoryStore;

    fn region(name: &str) -> OpenRegion {
        let settings = RegionSettings::at(name.parse().unwrap(), "file:///nowhere".parse().unwrap());
        OpenRegion::new(&settings, Arc::new(MemoryStore::new()), Arc::new(SystemClock), &Arc::default())
    }

    /// Two empty regions in memory.
    pub(crate) fn two_regions() -> OpenRegions {
        OpenRegions {
            cluster: "main".parse().unwrap(),
            regions: vec![region("r0"), region("r1")],
            logs: Arc::default(),
        }
    }

    #[tokio::test]
    async fn every_user_of_a_region_sees_the_same_region() {
        let region = region("eu");
        let other = region.clone();
        assert_eq!(other.writers(), Writers::Many, "a store in memory orders its writers");
        region.set_writers(Writers::One);
        assert_eq!(other.writers(), Writers::One);
        other.region_store().store.list("", None).await.unwrap();
        assert_eq!(region.metrics.snapshot().total().requests, 1);
    }
}

//! What is known of the regions of one cluster, kept over restarts in `regions.json` of its state directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use lifeboat_stores::{Averages, BreakerMemory};
use lifeboat_vocabulary::{RegionName, UtcTime};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::base::state::{Durable, Loaded, StateError, time_text};
use crate::model::capabilities::Capabilities;
use crate::model::region_health::RegionHealth;
use crate::regions::behind::Behind;
use crate::regions::open::{OpenRegion, OpenRegions};

const FILE: &str = "regions.json";

/// What is known of one region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RegionMemory {
    /// How it is doing.
    pub(crate) health: RegionHealth,
    /// What it can do; `None` until it was probed.
    #[serde(default)]
    pub(crate) capabilities: Option<Capabilities>,
    /// Since when it has lacked what others have.
    #[serde(default)]
    pub(crate) behind: Option<Behind>,
    #[serde(default)]
    breaker: Option<KeptBreaker>,
    #[serde(default)]
    averages: KeptAverages,
}

/// An open breaker in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptBreaker {
    #[serde(with = "time_text")]
    until: UtcTime,
    failures: u32,
    openings: u32,
}

/// Averages in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct KeptAverages {
    latency_seconds: Option<f64>,
    bytes_per_second: Option<f64>,
    error_rate: f64,
}

/// In the file: by the names of the regions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Kept(BTreeMap<String, RegionMemory>);

/// The regions of one cluster. Written by the watch, read by whoever shows how it stands.
pub(crate) struct RegionBook {
    regions: Mutex<BTreeMap<RegionName, RegionMemory>>,
    kept: Durable<Kept>,
}

impl RegionBook {
    /// Opens the book of a cluster and tells its regions what the last process knew of them. Do it before they are used.
    #[must_use]
    pub(crate) fn open(state_directory: &Path, regions: &OpenRegions, now: UtcTime) -> (Self, Loaded) {
        let (kept, loaded) = Durable::<Kept>::open(state_directory.join(FILE));
        let mut remembered = kept.read().0;
        let known = regions.iter().map(|region| {
            let memory = match remembered.remove(region.name.as_str()) {
                Some(memory) => {
                    let memory = RegionMemory { health: memory.health.clone().recalled(), ..memory };
                    memory.tell(region, now);
                    memory
                }
                None => RegionMemory {
                    health: RegionHealth::new(now),
                    capabilities: None,
                    behind: None,
                    breaker: None,
                    averages: KeptAverages::default(),
                },
            };
            (region.name.clone(), memory)
        });
        (Self { regions: Mutex::new(known.collect()), kept }, loaded)
    }

    /// What is known of a region.
    #[must_use]
    pub(crate) fn of(&self, region: &RegionName) -> Option<RegionMemory> {
        self.regions.lock().get(region).cloned()
    }

    /// Changes what is known of a region.
    pub(crate) fn change<R>(&self, region: &RegionName, change: impl FnOnce(&mut RegionMemory) -> R) -> Option<R> {
        self.regions.lock().get_mut(region).map(change)
    }

    /// Saves everything, with the present state of breakers and averages.
    ///
    /// # Errors
    /// If the state directory takes no writes.
    pub(crate) async fn save(&self, regions: &OpenRegions, now: UtcTime) -> Result<(), StateError> {
        let kept = {
            let mut known = self.regions.lock();
            for region in regions {
                if let Some(memory) = known.get_mut(&region.name) {
                    memory.hear(region, now);
                }
            }
            Kept(known.iter().map(|(name, memory)| (name.to_string(), memory.clone())).collect())
        };
        self.kept.change_in_background(move |file| *file = kept).await
    }
}

impl RegionMemory {
    /// Gives a region what the last process knew.
    fn tell(&self, region: &OpenRegion, now: UtcTime) {
        let KeptAverages { latency_seconds, bytes_per_second, error_rate } = self.averages;
        let latency = latency_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        region.metrics.recall(Averages { latency, throughput: bytes_per_second, error_rate });
        if let Some(KeptBreaker { until, failures, openings }) = self.breaker {
            region.breaker.recall(BreakerMemory { wait: until.since(now), failures, openings });
        }
        if let Some(capabilities) = &self.capabilities {
            region.set_writers(capabilities.writers());
        }
    }

    /// Takes from a region what the next process shall know.
    fn hear(&mut self, region: &OpenRegion, now: UtcTime) {
        let seen = region.metrics.snapshot();
        self.averages = KeptAverages {
            latency_seconds: seen.latency.map(|latency| latency.as_secs_f64()),
            bytes_per_second: seen.throughput,
            error_rate: seen.error_rate,
        };
        self.breaker = region.breaker.memory().map(|memory| KeptBreaker {
            until: now.plus(memory.wait),
            failures: memory.failures,
            openings: memory.openings,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::capabilities::Writers;
    use crate::regions::open::tests::two_regions;
    use lifeboat_stores::{BreakerState, Check, Finding, ProbeReport};

    fn at(seconds: u64) -> UtcTime {
        UtcTime::from_unix_micros(1_800_000_000_000_000).unwrap().plus(Duration::from_secs(seconds))
    }

    #[tokio::test]
    async fn a_restart_knows_what_the_last_process_knew_of_every_region() {
        let directory = tempfile::tempdir().unwrap();
        let regions = two_regions();
        let (book, loaded) = RegionBook::open(directory.path(), &regions, at(0));
        assert_eq!(loaded, Loaded::Fresh);
        let [first, second] = regions.iter().collect::<Vec<_>>()[..] else { panic!("two regions") };
        first.metrics.recall(Averages {
            latency: Some(Duration::from_millis(80)),
            throughput: Some(4e6),
            error_rate: 0.5,
        });
        first.breaker.recall(BreakerMemory { wait: Duration::from_secs(60), failures: 4, openings: 2 });
        let lacks = Finding::Lacks { what: "twice".to_owned() };
        let report = ProbeReport {
            findings: vec![(Check::CreateOnce, lacks)],
            clock_skew_micros: None,
            first_write: Duration::ZERO,
        };
        let capabilities = Capabilities::learn(None, &report, at(5)).0;
        book.change(&second.name, |memory| memory.capabilities = Some(capabilities)).unwrap();
        book.save(&regions, at(10)).await.unwrap();

        let after = two_regions();
        let (book, loaded) = RegionBook::open(directory.path(), &after, at(20));
        assert_eq!(loaded, Loaded::Read);
        let [first, second] = after.iter().collect::<Vec<_>>()[..] else { panic!("two regions") };
        assert_eq!(first.breaker.state(), BreakerState::Open);
        let memory = first.breaker.memory().unwrap();
        assert_eq!((memory.failures, memory.openings), (4, 2));
        assert!((45..=50).contains(&memory.wait.as_secs()), "ten of sixty seconds have passed: {memory:?}");
        let seen = first.metrics.snapshot();
        assert_eq!((seen.latency, seen.throughput, seen.error_rate), (Some(Duration::from_millis(80)), Some(4e6), 0.5));
        assert_eq!((first.writers(), second.writers()), (Writers::Many, Writers::One));
        assert!(book.of(&second.name).unwrap().capabilities.is_some());
    }
}

//! The histories of one cluster's regions, read whole once and afterwards only where they grew: whoever backs up, forgets
//! or looks every day costs the same number of requests after years.

use std::collections::BTreeMap;

use anyhow::Context;
use lifeboat_repository::keys::VerifyKey;
use lifeboat_repository::log::{Descriptor, LogMemory, LogTrust, RegionLog, RegionStore};
use lifeboat_vocabulary::RegionName;
use parking_lot::Mutex;

/// What this process knows of the regions of one cluster.
#[derive(Debug, Default)]
pub struct RegionLogs {
    descriptors: Mutex<BTreeMap<RegionName, Descriptor>>,
    logs: LogMemory,
}

impl RegionLogs {
    /// Reads and checks a region's descriptor and log, of a repository that `key` has signed.
    ///
    /// # Errors
    /// If one of them is missing, is not what it should be, or does not continue what was read before.
    pub async fn read(&self, region: &RegionStore, key: &VerifyKey) -> anyhow::Result<(Descriptor, RegionLog)> {
        let known = self.descriptors.lock().get(&region.name).filter(|known| known.root == *key).cloned();
        let descriptor = match known {
            Some(known) => known,
            None => {
                let read = Descriptor::read(&*region.store, Some(key)).await;
                read.context("read the repository's descriptor")?.0
            }
        };
        let keys = vec![descriptor.root];
        let trust = LogTrust { repository: descriptor.repo, keys, region: Some(region.name.clone()), remembered: None };
        let log = self.logs.read(region, &trust).await.context("read the log")?;
        self.descriptors.lock().insert(region.name.clone(), descriptor.clone());
        Ok((descriptor, log))
    }

    /// Forgets a region's log, because a person has accepted that it is another one now: it is read from its first record
    /// next time.
    pub fn forget(&self, region: &RegionName) {
        self.logs.forget(region);
    }

    /// Takes over what somebody has appended.
    pub fn keep(&self, region: &RegionName, log: &RegionLog) {
        self.logs.keep(region, log);
    }
}

//! Logs that were read and checked once, so that afterwards only what is new has to be read.
//!
//! A log grows for ever. A program that looks at it every day must not read all of it every day: one that keeps running
//! keeps what it has verified, asks whether the log still ends there, and goes on behind it. A program that starts anew
//! reads everything once.

use std::collections::BTreeMap;

use lifeboat_vocabulary::RegionName;
use parking_lot::Mutex;

use crate::log::error::LogError;
use crate::log::region_log::{LogTrust, RegionLog};
use crate::log::region_store::RegionStore;

/// What one program knows of the logs of one cluster.
#[derive(Debug, Default)]
pub struct LogMemory {
    logs: Mutex<BTreeMap<RegionName, RegionLog>>,
}

impl LogMemory {
    /// The log of `region` as it is now: two requests if nothing is new, and all of it the first time. `trust` must be of
    /// the same repository and keys every time.
    ///
    /// # Errors
    /// [`LogError`], by meaning. A log that does not continue what was read before is refused, also later on, until
    /// [`Self::forget`].
    pub async fn read(&self, region: &RegionStore, trust: &LogTrust) -> Result<RegionLog, LogError> {
        let store = &*region.store;
        let known = self.logs.lock().get(&region.name).cloned();
        let log = match known {
            Some(mut log) if log.trusts_like(trust) => {
                log.confirm_head(store).await?;
                log.refresh(store).await?;
                log.compare_with(trust.remembered)?;
                log
            }
            _ => RegionLog::read(store, trust.clone()).await?,
        };
        self.keep(&region.name, &log);
        Ok(log)
    }

    /// Takes over what was read or appended elsewhere, if it is more than what is known.
    pub fn keep(&self, region: &RegionName, log: &RegionLog) {
        let mut logs = self.logs.lock();
        if logs.get(region).is_none_or(|known| known.entries().len() <= log.entries().len()) {
            logs.insert(region.clone(), log.clone());
        }
    }

    /// Forgets one log: it is read from its first record next time.
    pub fn forget(&self, region: &RegionName) {
        self.logs.lock().remove(region);
    }
}

#[cfg(test)]
mod tests;

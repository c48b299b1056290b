//! The one reader of the logs of a cluster's regions: whoever judges, backs up, ships or deletes gets them from here.
//!
//! A log is read whole once and afterwards only where it grew, so that a look costs the same after years; and each time it
//! is confirmed that it still ends where it ended. What was read is kept in the state directory, for the next start. What was read is published for those who only judge; who is about to
//! write or to delete reads anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lifeboat_repository::keys::VerifyKey;
use lifeboat_repository::log::{Descriptor, LogError, LogHead, LogMemory, LogTrust, RegionLog, RegionStore, Signers};
use lifeboat_vocabulary::{Clock, RegionName, SystemClock, UtcTime};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::regions::kept_logs::KeptLogs;

/// A region that hangs is not current for longer.
const CURRENT_FOR: Duration = Duration::from_secs(180);
/// A changed log is read from nothing this often: what else is taken from its middle is seen then.
const CHANGED_FOR: Duration = Duration::from_secs(3600);

/// The logs of one cluster's regions, as this process knows them.
#[derive(Debug)]
pub struct LogFollower {
    descriptors: Mutex<BTreeMap<RegionName, Descriptor>>,
    logs: LogMemory,
    reads: Mutex<BTreeMap<RegionName, Read>>,
    /// Logs that are refused, as they are now.
    changed: Mutex<BTreeMap<RegionName, ChangedLog>>,
    /// Counts what was published.
    published: watch::Sender<u64>,
    /// Counts logs that were forgotten.
    forgotten: watch::Sender<u64>,
}

/// When a log was read.
#[derive(Clone, Copy, Debug)]
struct Read {
    /// When it succeeded last, by the machine's clock and by one that nobody sets.
    last: Option<(UtcTime, Instant)>,
    freshness: Freshness,
    /// Whether the log is refused because it does not continue what was read before.
    has_changed: bool,
}

/// A log that does not continue what was read before, as it was read for WAL.
#[derive(Clone, Debug)]
struct ChangedLog {
    trust: LogTrust,
    log: RegionLog,
    /// When it was read from nothing.
    begun: Instant,
}

/// Whether the last attempt to read a log succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freshness {
    /// It did.
    Current,
    /// It did not: the log may have grown since, or is refused now.
    Outdated,
}

/// A region does not answer, or with hardly anything new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {} s", .patience.as_secs())]
pub(crate) struct NoProgress {
    patience: Duration,
}

/// A log as it was read last.
#[derive(Clone, Debug)]
pub(crate) struct FollowedLog {
    pub(crate) log: Arc<RegionLog>,
    /// When it was read.
    pub(crate) read: UtcTime,
}

impl Default for LogFollower {
    fn default() -> Self {
        let (descriptors, logs, reads, changed) = Default::default();
        let (published, forgotten) = (watch::Sender::new(0), watch::Sender::new(0));
        Self { descriptors, logs, reads, changed, published, forgotten }
    }
}

impl LogFollower {
    /// Keeps what is read in a cluster's folder of the state directory, and begins with what was kept there. To be called once,
    /// before anything is read.
    pub(crate) fn keep_in(&self, cluster: &Path) {
        self.logs.keep_in(Arc::new(KeptLogs::in_directory(cluster)));
    }

    /// Counts what is read of the logs of these regions.
    pub(crate) fn looked_at<'a>(&self, regions: impl IntoIterator<Item = &'a RegionName>) -> u64 {
        regions.into_iter().map(|region| self.logs.looked_at(region)).fold(0, u64::wrapping_add)
    }

    /// Waits for what depends on the logs of these regions: for as long as reading them gets on, by a record a second at least, and
    /// `patience` longer. One that gives a record from time to time would be waited for for days. What was read stays read, whoever
    /// gives up.
    pub(crate) async fn while_reading<'a, T>(
        &self,
        regions: impl IntoIterator<Item = &'a RegionName> + Clone,
        patience: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, NoProgress> {
        let looked_at = || self.looked_at(regions.clone());
        let least = patience.as_secs().max(1);
        let mut work = std::pin::pin!(work);
        let mut before = looked_at();
        loop {
            match tokio::time::timeout(patience, &mut work).await {
                Ok(done) => return Ok(done),
                Err(_) if looked_at().wrapping_sub(before) < least => return Err(NoProgress { patience }),
                Err(_) => before = looked_at(),
            }
        }
    }

    /// Reads and checks a region's descriptor and log, of a repository that `key` has signed.
    ///
    /// # Errors
    /// If one of them is missing, is not what it should be, or does not continue what was read before.
    pub(crate) async fn read(
        &self,
        region: &RegionStore,
        key: &VerifyKey,
    ) -> anyhow::Result<(Descriptor, Arc<RegionLog>)> {
        let descriptor = self.descriptor(region, key).await.inspect_err(|_| self.failed(&region.name, false))?;
        let log = self.read_log(region, &trust_in(&descriptor, &region.name)).await.context("read the log")?;
        Ok((descriptor, log))
    }

    async fn descriptor(&self, region: &RegionStore, key: &VerifyKey) -> anyhow::Result<Descriptor> {
        let known = self.descriptors.lock().get(&region.name).filter(|known| known.root == *key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let read = Descriptor::read(&*region.store, Some(key)).await;
        let (descriptor, _) = read.context("read the repository's descriptor")?;
        self.descriptors.lock().insert(region.name.clone(), descriptor.clone());
        Ok(descriptor)
    }

    /// The descriptor of the first of these regions that was read.
    pub(crate) fn descriptor_of_any<'a>(
        &self,
        mut regions: impl Iterator<Item = &'a RegionName>,
    ) -> Option<Descriptor> {
        let descriptors = self.descriptors.lock();
        regions.find_map(|region| descriptors.get(region).cloned())
    }

    /// Reads and checks a region's log, where it is known already to which repository it belongs.
    ///
    /// # Errors
    /// [`LogError`], by meaning; a log that does not continue what was read before is refused.
    pub async fn read_log(&self, region: &RegionStore, trust: &LogTrust) -> Result<Arc<RegionLog>, Arc<LogError>> {
        let read = self.logs.read(region, trust).await;
        match &read {
            Ok(_) => self.succeeded(&region.name),
            Err(error) => self.failed(&region.name, has_changed(error)),
        }
        read
    }

    /// Compares the notes of at most `most` records of a region's log, from place `from` on, with what was read, and returns where to go
    /// on: what bundles, and what was kept over a restart, spare the reader is looked at here. A log of which notes are gone or
    /// others, and still are some minutes later, is refused from then on, as one whose end is.
    ///
    /// # Errors
    /// [`LogError`], by meaning.
    pub(crate) async fn compare_notes(
        &self,
        region: &RegionStore,
        from: u64,
        most: usize,
    ) -> Result<Option<u64>, Arc<LogError>> {
        let compared = self.logs.compare_notes(region, from, most).await;
        if compared.is_err() && self.logs.is_refused(&region.name) {
            self.failed(&region.name, true);
        }
        compared
    }

    /// As [`Self::read`], but as [`Self::read_log_even_if_changed`].
    ///
    /// # Errors
    /// If the descriptor or the log is missing or not what it should be.
    pub(crate) async fn read_even_if_changed(
        &self,
        region: &RegionStore,
        key: &VerifyKey,
    ) -> anyhow::Result<(Descriptor, RegionLog)> {
        let descriptor = self.descriptor(region, key).await.inspect_err(|_| self.failed(&region.name, false))?;
        let read = self.read_log_even_if_changed(region, &trust_in(&descriptor, &region.name)).await;
        Ok((descriptor, read.context("read the log")?))
    }

    /// As [`Self::read_log`], and a log that does not continue what was read before is read as it is now. For WAL alone,
    /// which is safer in such a region than nowhere: that the log has changed freezes deletion, and waits for a person. It is read
    /// whole once, and then only where it grew: nobody who ships WAL may wait for all of a long log at each look.
    ///
    /// # Errors
    /// If the log is not what it should be.
    pub(crate) async fn read_log_even_if_changed(
        &self,
        region: &RegionStore,
        trust: &LogTrust,
    ) -> Result<RegionLog, Arc<LogError>> {
        let error = match self.read_log(region, trust).await {
            Ok(log) => return Ok(RegionLog::clone(&log)),
            Err(error) if !has_changed(&error) => return Err(error),
            Err(error) => error,
        };
        let known = self.changed.lock().get(&region.name).cloned();
        let known = known.filter(|known| known.trust == *trust && known.begun.elapsed() < CHANGED_FOR);
        let now = match known {
            Some(known) => known.read_on(region).await.map_err(Arc::new)?,
            None => None,
        };
        let now = match now {
            Some(now) => now,
            None => ChangedLog::read(region, trust).await.map_err(Arc::new)?,
        };
        // Of an empty region nothing is known, not even that it belongs to the repository.
        if now.log.head().is_none() {
            return Err(error);
        }
        let log = now.log.clone();
        self.changed.lock().insert(region.name.clone(), now);
        Ok(log)
    }

    /// Forgets a region's log, because a person has accepted that it is another one now: it is read from its first record
    /// next time, which is soon.
    pub(crate) fn forget(&self, region: &RegionName) {
        self.logs.forget(region);
        self.reads.lock().remove(region);
        self.changed.lock().remove(region);
        self.forgotten.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Whether all of these were read, or could not be, since this process began or since they were forgotten: before that, what is
    /// known is a part, and what the others have may be missing from it.
    #[must_use]
    pub(crate) fn has_tried<'a>(&self, mut regions: impl Iterator<Item = &'a RegionName>) -> bool {
        let reads = self.reads.lock();
        regions.all(|region| reads.contains_key(region))
    }

    /// A region's log as it was read last.
    #[must_use]
    pub(crate) fn known(&self, region: &RegionName) -> Option<Arc<RegionLog>> {
        self.logs.known(region)
    }

    /// The end of a region's log as it was read last.
    #[must_use]
    pub(crate) fn head(&self, region: &RegionName) -> Option<LogHead> {
        self.logs.known(region)?.head()
    }

    /// The logs as they were read last, of all regions that could be read since this process began.
    #[must_use]
    pub(crate) fn latest(&self) -> BTreeMap<RegionName, FollowedLog> {
        let reads = self.reads.lock().clone();
        let followed = reads.into_iter().filter_map(|(name, Read { last, .. })| {
            let (log, (read, _)) = (self.logs.known(&name)?, last?);
            Some((name, FollowedLog { log, read }))
        });
        followed.collect()
    }

    /// The logs that could be read the last time that it was tried, and not long ago.
    #[must_use]
    pub(crate) fn current(&self) -> BTreeMap<RegionName, RegionLog> {
        let reads = self.reads.lock().clone();
        let is_recent = |read: &Read| read.last.is_some_and(|(_, when)| when.elapsed() <= CURRENT_FOR);
        let current = reads.into_iter().filter(|(_, read)| read.freshness == Freshness::Current && is_recent(read));
        current.filter_map(|(name, _)| Some((name.clone(), RegionLog::clone(&*self.logs.known(&name)?)))).collect()
    }

    /// Whether a region's log was refused when it was read last, because it does not continue what was read before.
    #[must_use]
    pub(crate) fn has_changed(&self, region: &RegionName) -> bool {
        self.reads.lock().get(region).is_some_and(|read| read.has_changed)
    }

    /// Changes whenever a log is forgotten.
    #[must_use]
    pub(crate) fn forgets(&self) -> watch::Receiver<u64> {
        self.forgotten.subscribe()
    }

    /// Changes whenever a region was read, or could not be.
    #[must_use]
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    fn succeeded(&self, region: &RegionName) {
        let last = Some((SystemClock.now(), Instant::now()));
        let read = Read { last, freshness: Freshness::Current, has_changed: false };
        self.reads.lock().insert(region.clone(), read);
        self.changed.lock().remove(region);
        self.publish();
    }

    fn failed(&self, region: &RegionName, has_changed: bool) {
        let mut reads = self.reads.lock();
        let last = reads.get(region).and_then(|read| read.last);
        reads.insert(region.clone(), Read { last, freshness: Freshness::Outdated, has_changed });
        drop(reads);
        self.publish();
    }

    fn publish(&self) {
        self.published.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Whether a log is refused because it does not continue what was read before.
pub(crate) fn has_changed(error: &LogError) -> bool {
    matches!(error, LogError::RolledBack { .. } | LogError::Forked { .. })
}

impl ChangedLog {
    async fn read(region: &RegionStore, trust: &LogTrust) -> Result<Self, LogError> {
        let begun = Instant::now();
        let log = RegionLog::read(&*region.store, trust.clone()).await?;
        Ok(Self { trust: trust.clone(), log, begun })
    }

    /// What has come behind it; `None` if it has changed once more.
    async fn read_on(mut self, region: &RegionStore) -> Result<Option<Self>, LogError> {
        let store = &*region.store;
        let read = async {
            self.log.confirm_head(store).await?;
            self.log.refresh(store).await
        };
        match read.await {
            Ok(_) => Ok(Some(self)),
            // What is known of it is still known after a request that failed.
            Err(error @ LogError::Store { .. }) => Err(error),
            Err(_) => Ok(None),
        }
    }
}

/// What the log of a region is measured against.
fn trust_in(descriptor: &Descriptor, region: &RegionName) -> LogTrust {
    let (repository, signers) = (descriptor.repo, Signers::root_only(descriptor.root));
    LogTrust { repository, signers, region: Some(region.clone()), remembered: None }
}

#[cfg(test)]
mod tests;

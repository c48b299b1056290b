//! Reads the logs of all regions as they are now, with the heads that writers have signed: the heads first, so that a log
//! that goes on meanwhile is not behind its own heads.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use lifeboat_repository::catalog::{LogReading, RegionAnswer, RegionView};
use lifeboat_repository::format::KeyName;
use lifeboat_repository::format::ids::RepositoryId;
use lifeboat_repository::heal::HealRegion;
use lifeboat_repository::log::{
    Descriptor, DescriptorError, LogError, LogHead, LogTrust, NoteSigner, RegionLog, RegionStore, Signers,
};
use lifeboat_repository::wal::{FoundHead, HeadNotes};
use lifeboat_stores::StoreError;
use lifeboat_vocabulary::{RegionName, error_chain};

use crate::regions::log_follower::{LogFollower, has_changed};
use crate::regions::open::OpenRegions;

/// What was read of one region.
#[derive(Debug)]
pub(crate) struct RegionReading {
    /// The region.
    pub(crate) store: RegionStore,
    /// Its log, or why there is none.
    pub(crate) log: Result<Arc<RegionLog>, NoLog>,
    /// The ends of the log that writers have signed.
    pub(crate) heads: Vec<(KeyName, LogHead)>,
}

/// Why there is no log of a region.
#[derive(Debug, thiserror::Error)]
pub enum NoLog {
    /// It holds another repository.
    #[error("it holds another repository ({0}); correct its url")]
    Foreign(RepositoryId),
    /// It holds nothing.
    #[error("it has no repository yet: run `lifeboatd init`, which adds it")]
    Missing,
    /// It does not answer.
    #[error("read the repository's descriptor")]
    Away(#[source] DescriptorError),
    /// Its writers' heads cannot be listed.
    #[error("list the heads")]
    Heads(#[source] StoreError),
    /// Its log cannot be used.
    #[error("read the log")]
    Log(#[source] Arc<LogError>),
}

/// What was read of all regions.
#[derive(Debug)]
pub(crate) struct RegionReadings {
    /// What all regions belong to.
    pub(crate) descriptor: Descriptor,
    /// What the logs were measured against.
    pub(crate) trust: LogTrust,
    /// The regions, in the order of the configuration.
    pub(crate) regions: Vec<RegionReading>,
}

/// Reads all regions at once, as they are now.
///
/// # Errors
/// If none of them says which repository this is.
pub(crate) async fn read_all(opened: &OpenRegions, signer: &NoteSigner) -> anyhow::Result<RegionReadings> {
    let regions = opened.stores();
    let root = signer.root();
    let descriptors = join_all(regions.iter().map(|region| Descriptor::read(&*region.store, Some(&root)))).await;
    // What this process knows already counts before what a region says that happens to answer first.
    let known =
        opened.logs().descriptor_of_any(regions.iter().map(|region| &region.name)).filter(|known| known.root == root);
    let answered = descriptors.iter().find_map(|read| read.as_ref().ok()).map(|(descriptor, _)| descriptor.clone());
    let Some(first) = answered.map(|answered| known.unwrap_or(answered)) else {
        let why = regions
            .iter()
            .zip(&descriptors)
            .filter_map(|(region, read)| Some(format!("{}: {}", region.name, error_chain(read.as_ref().err()?))));
        anyhow::bail!("no region says which repository this is ({})", why.collect::<Vec<_>>().join("; "));
    };
    let trust =
        LogTrust { repository: first.repo, signers: Signers::root_only(first.root), region: None, remembered: None };
    let answers = regions.iter().zip(descriptors).map(async |(region, descriptor)| {
        let (log, heads) = match descriptor {
            Ok((found, _)) if found != first => (Err(NoLog::Foreign(found.repo)), Vec::new()),
            Ok(_) => match history(region, &trust, opened.logs()).await {
                Ok((log, heads)) => (Ok(log), heads),
                Err((error, heads)) => (Err(error), heads),
            },
            Err(DescriptorError::Missing) => (Err(NoLog::Missing), Vec::new()),
            Err(error) => (Err(NoLog::Away(error)), Vec::new()),
        };
        RegionReading { store: region.clone(), log, heads }
    });
    let regions: Vec<RegionReading> = join_all(answers).await;
    // What any log says about keys counts for what is stored anywhere.
    let mut all = trust.clone();
    for log in regions.iter().filter_map(|region| region.log.as_ref().ok()) {
        all.signers.merge(&log.trust().signers);
    }
    Ok(RegionReadings { descriptor: first.clone(), trust: all, regions })
}

type Heads = Vec<(KeyName, LogHead)>;

async fn history(
    region: &RegionStore,
    trust: &LogTrust,
    follower: &LogFollower,
) -> Result<(Arc<RegionLog>, Heads), (NoLog, Heads)> {
    let trust = LogTrust { region: Some(region.name.clone()), ..trust.clone() };
    let store = &*region.store;
    // Read before the log, judged after it: the log says whose they may be.
    let notes = HeadNotes::read_all(store).await.map_err(|error| (NoLog::Heads(error), Vec::new()))?;
    let signed = |notes: HeadNotes, trust: &LogTrust| {
        let heads = notes.judge(trust).into_iter();
        let signed = heads.filter_map(|FoundHead { writer, head, .. }| match head {
            Ok(head) => Some((writer, head.log?)),
            Err(error) => {
                tracing::warn!(region = %region.name, %writer, error = %error_chain(&error), "a head cannot be used");
                None
            }
        });
        signed.collect::<Heads>()
    };
    match follower.read_log(region, &trust).await {
        Ok(log) => Ok((Arc::clone(&log), signed(notes, log.trust()))),
        Err(error) => {
            // What was known of the keys before the log was refused.
            let known = follower.known(&region.name);
            let heads = signed(notes, known.as_ref().map_or(&trust, |log| log.trust()));
            Err((NoLog::Log(error), heads))
        }
    }
}

impl RegionReadings {
    /// As the comparison of the logs takes them. A region that does not answer says nothing.
    #[must_use]
    pub(crate) fn to_compare(&self) -> Vec<LogReading<'_>> {
        let reading = |reading| {
            let RegionReading { store, log, heads }: &RegionReading = reading;
            let log = match log {
                Ok(log) => Ok(&**log),
                Err(NoLog::Log(error)) => Err(&**error),
                Err(_) => return None,
            };
            Some(LogReading { region: &store.name, log, heads: heads.clone() })
        };
        self.regions.iter().filter_map(reading).collect()
    }

    /// The logs that could be read.
    #[must_use]
    pub(crate) fn logs(&self) -> BTreeMap<RegionName, RegionLog> {
        let log = |reading: &RegionReading| Some((reading.store.name.clone(), (**reading.log.as_ref().ok()?).clone()));
        self.regions.iter().filter_map(log).collect()
    }

    /// The regions whose logs could be read, without those named.
    #[must_use]
    pub(crate) fn readable(&self, without: &[&RegionName]) -> Vec<HealRegion> {
        let region = |reading: &RegionReading| {
            let log = (**reading.log.as_ref().ok()?).clone();
            (!without.contains(&&reading.store.name)).then(|| HealRegion { store: reading.store.clone(), log })
        };
        self.regions.iter().filter_map(region).collect()
    }

    /// The regions that gave no log, and why not.
    #[must_use]
    pub(crate) fn unreadable(&self) -> Vec<(RegionName, String)> {
        let unreadable = |reading: &RegionReading| {
            let error = reading.log.as_ref().err()?;
            Some((reading.store.name.clone(), error_chain(error)))
        };
        self.regions.iter().filter_map(unreadable).collect()
    }

    /// The regions that hold another repository than the first one that answered. Which of them is the right one, nobody knows
    /// here.
    #[must_use]
    pub(crate) fn foreign(&self) -> Vec<String> {
        let foreign = self.regions.iter().filter(|reading| matches!(reading.log, Err(NoLog::Foreign(_))));
        foreign.filter_map(|reading| Some(format!("{}: {}", reading.store.name, reading.log.as_ref().err()?))).collect()
    }

    /// Whether a region's log is refused because it does not continue what was read before.
    #[must_use]
    pub(crate) fn has_changed(&self, region: &RegionName) -> bool {
        let is_it = |reading: &RegionReading| match &reading.log {
            Err(NoLog::Log(error)) => reading.store.name == *region && has_changed(error),
            _ => false,
        };
        self.regions.iter().any(is_it)
    }

    /// As a catalog takes them.
    #[must_use]
    pub(crate) fn views(&self) -> Vec<RegionView> {
        let view = |reading: &RegionReading| {
            let answer = match &reading.log {
                Ok(log) => RegionAnswer::Read {
                    descriptor: Box::new(self.descriptor.clone()),
                    log: Box::new(RegionLog::clone(log)),
                },
                Err(error) => RegionAnswer::Unreadable { why: error_chain(error) },
            };
            RegionView { name: reading.store.name.clone(), answer }
        };
        self.regions.iter().map(view).collect()
    }
}

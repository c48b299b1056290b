//! Asks all regions for their histories: heads first, then logs, each checked from its first record.

use futures_util::future::join_all;
use lifeboat_repository::catalog::LogReading;
use lifeboat_repository::heal::HealRegion;
use lifeboat_repository::log::{
    Descriptor, DescriptorError, LogError, LogHead, LogMemory, LogTrust, NoteSigner, RegionLog, RegionStore,
};
use lifeboat_repository::wal::Head;
use lifeboat_stores::StoreError;
use lifeboat_vocabulary::{RegionName, error_chain};

/// What one region said.
#[derive(Debug)]
pub struct Answered {
    /// The region.
    pub store: RegionStore,
    /// Its log, or why there is none.
    pub log: Result<RegionLog, NoLog>,
    /// The ends of the log that writers have signed.
    pub heads: Vec<(lifeboat_repository::format::KeyName, LogHead)>,
}

/// Why there is no log of a region.
#[derive(Debug, thiserror::Error)]
pub enum NoLog {
    /// It is not a region of this repository.
    #[error("{0}")]
    NotOurs(String),
    /// It does not answer.
    #[error("read the repository's descriptor")]
    Away(#[source] DescriptorError),
    /// Its writers' heads cannot be listed.
    #[error("list the heads")]
    Heads(#[source] StoreError),
    /// Its log cannot be used.
    #[error("read the log")]
    Log(#[source] LogError),
}

/// What all regions said.
#[derive(Debug)]
pub struct Roundup {
    /// What the logs were measured against.
    pub trust: LogTrust,
    /// The regions, in the order of the configuration.
    pub regions: Vec<Answered>,
}

/// Asks all regions at once. Of each log only what is new since `memory` saw it.
///
/// # Errors
/// If none of them says which repository this is.
pub async fn ask(regions: &[RegionStore], signer: &NoteSigner, memory: &LogMemory) -> anyhow::Result<Roundup> {
    let root = signer.verify_key();
    let descriptors = join_all(regions.iter().map(|region| Descriptor::read(&*region.store, Some(&root)))).await;
    let first = descriptors.iter().find_map(|read| read.as_ref().ok()).map(|(descriptor, _)| descriptor.clone());
    let Some(first) = first else {
        let why = regions
            .iter()
            .zip(&descriptors)
            .filter_map(|(region, read)| Some(format!("{}: {}", region.name, error_chain(read.as_ref().err()?))));
        anyhow::bail!("no region says which repository this is ({})", why.collect::<Vec<_>>().join("; "));
    };
    let trust = LogTrust { repository: first.repo, keys: vec![first.root], region: None, remembered: None };
    let answers = regions.iter().zip(descriptors).map(async |(region, descriptor)| {
        let (log, heads) = match descriptor {
            Ok((found, _)) if found != first => (
                Err(NoLog::NotOurs(format!("it holds another repository ({}); correct its url", found.repo))),
                Vec::new(),
            ),
            Ok(_) => match history(region, &trust, memory).await {
                Ok((log, heads)) => (Ok(log), heads),
                Err((error, heads)) => (Err(error), heads),
            },
            Err(DescriptorError::Missing) => {
                let what = "it has no repository yet: run `lifeboatd init`, which adds it";
                (Err(NoLog::NotOurs(what.to_owned())), Vec::new())
            }
            Err(error) => (Err(NoLog::Away(error)), Vec::new()),
        };
        Answered { store: region.clone(), log, heads }
    });
    Ok(Roundup { regions: join_all(answers).await, trust: trust.clone() })
}

type Heads = Vec<(lifeboat_repository::format::KeyName, LogHead)>;

async fn history(
    region: &RegionStore,
    trust: &LogTrust,
    memory: &LogMemory,
) -> Result<(RegionLog, Heads), (NoLog, Heads)> {
    let trust = LogTrust { region: Some(region.name.clone()), ..trust.clone() };
    let store = &*region.store;
    let heads = Head::read_all(store, &trust).await.map_err(|error| (NoLog::Heads(error), Vec::new()))?;
    let signed = heads.into_iter().filter_map(|(writer, head)| match head {
        Ok(head) => Some((writer, head.log?)),
        Err(error) => {
            tracing::warn!(region = %region.name, %writer, error = %error_chain(&error), "a head cannot be used");
            None
        }
    });
    let heads: Heads = signed.collect();
    match memory.read(region, &trust).await {
        Ok(log) => Ok((log, heads)),
        Err(error) => Err((NoLog::Log(error), heads)),
    }
}

impl Roundup {
    /// The regions as witnesses.
    #[must_use]
    pub fn testimonies(&self) -> Vec<LogReading<'_>> {
        self.regions
            .iter()
            .filter_map(|answered| {
                let log = match &answered.log {
                    Ok(log) => Ok(log),
                    Err(NoLog::Log(error)) => Err(error),
                    Err(_) => return None,
                };
                Some(LogReading { region: &answered.store.name, log, heads: answered.heads.clone() })
            })
            .collect()
    }

    /// The regions whose logs could be read, without those named.
    #[must_use]
    pub fn readable(&self, without: &[&RegionName]) -> Vec<HealRegion> {
        let region = |answered: &Answered| {
            let log = answered.log.as_ref().ok()?;
            (!without.contains(&&answered.store.name))
                .then(|| HealRegion { store: answered.store.clone(), log: log.clone() })
        };
        self.regions.iter().filter_map(region).collect()
    }

    /// The regions that gave no log, and why not.
    #[must_use]
    pub fn silent(&self) -> Vec<(RegionName, String)> {
        let silent = |answered: &Answered| {
            let error = answered.log.as_ref().err()?;
            Some((answered.store.name.clone(), error_chain(error)))
        };
        self.regions.iter().filter_map(silent).collect()
    }
}

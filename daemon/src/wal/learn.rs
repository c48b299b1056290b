//! What the regions tell before any WAL is received: whose repository it is, who may write, and what is missing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lifeboat_repository::catalog::{Catalog, RegionAnswer, RegionView};
use lifeboat_repository::format::ids::{Incarnation, RepositoryId};
use lifeboat_repository::keys::VerifyKey;
use lifeboat_repository::log::{Descriptor, KeyStanding, RegionLog, RegionStore};
use lifeboat_repository::wal::{CurrentIncarnation, WalRecords};
use lifeboat_vocabulary::{RegionName, UtcTime, WalPosition};
use tokio::time::Instant;

use crate::regions::log_follower::LogFollower;
use crate::regions::open::OpenRegions;
use crate::settings::wiring::ClusterConfig;
use crate::wal::backup_need::needed;
use crate::wal::receive::upstream::Belonging;

/// What was found.
pub(crate) struct Known {
    pub(crate) regions: Vec<RegionStore>,
    /// How many of them could be read.
    pub(crate) read: usize,
    pub(crate) belonging: Belonging,
    pub(crate) repository: RepositoryId,
    pub(crate) incarnation: Option<Incarnation>,
    /// Where WAL is wanted from, if none is stored: the end of the newest good backup.
    pub(crate) wanted: Option<WalPosition>,
    /// Why a base backup is needed.
    pub(crate) backup_needed: Option<String>,
}

/// How long the others are waited for, once as many regions have answered as WAL needs.
const LATE: Duration = Duration::from_secs(5);
/// And how long once one of them has: WAL flows to that one meanwhile.
const LATE_TO_THE_FIRST: Duration = Duration::from_secs(60);

/// Reads all regions, at the same time: those that are away do not hold up the others, and one that hangs, or hardly gives any
/// records, does so for [`LATE`] at most if the others are enough, and for [`LATE_TO_THE_FIRST`] if they are not.
pub(crate) async fn learn(begun_with: ClusterConfig<'_>, opened: &OpenRegions, now: UtcTime) -> anyhow::Result<Known> {
    let ClusterConfig { config, cluster } = begun_with;
    let signer = begun_with.signer()?;
    let (key, stores) = (signer.root(), opened.stores());
    let mut answers = first_answers(opened.logs(), &stores, &key, config.durability.wal_quorum).await;
    let (mut views, mut descriptor) = (Vec::new(), None::<Descriptor>);
    for store in &stores {
        let late = || Err(anyhow::anyhow!("it has not answered yet, and the others have"));
        let read = answers.remove(&store.name).unwrap_or_else(late);
        let name = store.name.clone();
        let answer = match read {
            Ok((found, log)) => {
                anyhow::ensure!(
                    descriptor.as_ref().is_none_or(|first| *first == found),
                    "region {name} holds another repository ({}); correct its url",
                    found.repo
                );
                descriptor.get_or_insert(found.clone());
                RegionAnswer::Read { descriptor: Box::new(found), log: Box::new(log) }
            }
            Err(error) => {
                let why = format!("{error:#}");
                tracing::warn!(cluster = %cluster.name, region = %name, why, "the region cannot be read yet");
                RegionAnswer::Unreadable { why }
            }
        };
        views.push(RegionView { name, answer });
    }
    let descriptor = descriptor.context("no region can be read; a new repository is made by `lifeboatd init`")?;
    judge(stores, &views, &descriptor, now)
}

type Answer = anyhow::Result<(Descriptor, RegionLog)>;

/// What the regions answer until one of them could be read and [`LATE_TO_THE_FIRST`] thereafter, or until `enough` of them could, and
/// [`LATE`] thereafter.
async fn first_answers(
    follower: &LogFollower,
    stores: &[RegionStore],
    key: &VerifyKey,
    enough: usize,
) -> BTreeMap<RegionName, Answer> {
    let reads = stores.iter().map(async |store| (store.name.clone(), follower.read_even_if_changed(store, key).await));
    let mut reads: FuturesUnordered<_> = reads.collect();
    let (mut answers, mut until) = (BTreeMap::new(), None::<Instant>);
    loop {
        let next = match until {
            None => Ok(reads.next().await),
            Some(until) => tokio::time::timeout_at(until, reads.next()).await,
        };
        let Ok(Some((name, read))) = next else { return answers };
        answers.insert(name, read);
        let late = match answers.values().filter(|answer| answer.is_ok()).count() {
            0 => continue,
            read if read >= enough => LATE,
            _ => LATE_TO_THE_FIRST,
        };
        let late = Instant::now() + late;
        until = Some(until.map_or(late, |until| until.min(late)));
    }
}

fn judge(
    regions: Vec<RegionStore>,
    views: &[RegionView],
    descriptor: &Descriptor,
    now: UtcTime,
) -> anyhow::Result<Known> {
    let log = |view: &'_ RegionView| match &view.answer {
        RegionAnswer::Read { log, .. } => Some((view.name.clone(), RegionLog::clone(log))),
        RegionAnswer::Unreadable { .. } => None,
    };
    let logs: BTreeMap<RegionName, RegionLog> = views.iter().filter_map(log).collect();
    let records = WalRecords::of(&logs);
    let incarnation = match records.incarnation {
        CurrentIncarnation::One(incarnation) => incarnation,
        CurrentIncarnation::Disputed(ref regions) => anyhow::bail!(
            "the regions disagree about which copy of the cluster may write ({}); decide with `lifeboatd adopt` on the right server",
            regions.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ),
    };
    let catalog = Catalog::merge(views);
    let newest = catalog.newest_intact(now);
    let revoked = newest.filter(|row| row.standing == KeyStanding::Revoked);
    // Where such a backup says that it ends, WAL need not be.
    let newest = newest.filter(|_| revoked.is_none()).map(|row| &row.record);
    let start = newest.map(|record| WalPosition { timeline: record.start_tli, lsn: record.start_lsn });
    let wanted = newest.map(|record| WalPosition { timeline: record.stop_tli, lsn: record.stop_lsn });
    let backup_needed = match revoked {
        Some(row) => Some(format!("the key that has signed {}, the newest backup, was revoked", row.record.backup)),
        None => needed(start, records.gaps_of_all()),
    };
    let belonging = Belonging {
        system_identifier: descriptor.sysid,
        incarnation: incarnation.map(|incarnation| incarnation.to_string()),
    };
    Ok(Known { regions, read: logs.len(), belonging, repository: descriptor.repo, incarnation, wanted, backup_needed })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lifeboat_stores::{Hooks, Request, Step, WithHooks};

    use super::*;
    use crate::log_samples::Regions;

    /// A store that answers nothing for an hour.
    struct Hangs;

    #[async_trait::async_trait]
    impl Hooks for Hangs {
        async fn before(&self, _: Request<'_>) -> Step {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Step::Pass
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_region_that_hangs_is_waited_for_a_minute_where_the_others_are_not_enough() {
        let mut regions = Regions::new(&["a", "b"]).await;
        let key = regions.signer.verify_key();
        let repository = regions.logs.values().next().unwrap().trust().repository;
        let descriptor = Descriptor::new(repository, 7, "2026-11-01T00:00:00Z".parse().unwrap(), key);
        descriptor.create(&*regions.stores[0].store, &regions.signer).await.unwrap();
        let hung = Arc::clone(&regions.stores[1].store);
        regions.stores[1].store = Arc::new(WithHooks::new(hung, Hangs));
        for (enough, late) in [(1, LATE), (2, LATE_TO_THE_FIRST)] {
            let begun = Instant::now();
            let answers = first_answers(&LogFollower::default(), &regions.stores, &key, enough).await;
            assert_eq!(answers.keys().map(RegionName::as_str).collect::<Vec<_>>(), ["a"], "{enough}");
            assert!(answers.values().all(Result::is_ok), "{enough}");
            let waited = begun.elapsed();
            assert!(waited >= late && waited < late + Duration::from_secs(2), "{enough}: {waited:?}");
        }
    }
}

//! What the regions tell before any WAL is received: whose repository it is, who may write, and what is missing.

use anyhow::Context;
use lifeboat_config::{ClusterSettings, Config};
use lifeboat_repository::ids::{Incarnation, RepositoryId};
use lifeboat_repository::{Catalog, CurrentIncarnation, Descriptor, RegionAnswer, RegionView, WalRecords};
use lifeboat_restore::access::read_region;
use lifeboat_vocabulary::WalPosition;

use super::ShipRegion;
use super::keeper::needed;
use super::upstream::Belonging;
use crate::regions::OpenRegions;
use crate::wiring;

/// What was found.
pub(crate) struct Known {
    pub(crate) regions: Vec<ShipRegion>,
    pub(crate) belonging: Belonging,
    pub(crate) repository: RepositoryId,
    pub(crate) incarnation: Option<Incarnation>,
    /// Where WAL is wanted from, if none is stored: the end of the newest good backup.
    pub(crate) wanted: Option<WalPosition>,
    /// Why a base backup is needed.
    pub(crate) order: Option<String>,
}

impl Known {
    /// How many regions could be read.
    pub(crate) fn read(&self) -> usize {
        self.regions.iter().filter(|region| region.log.is_some()).count()
    }
}

/// Reads all regions, at the same time: those that are away do not hold up the others.
pub(crate) async fn learn(config: &Config, cluster: &ClusterSettings, opened: &OpenRegions) -> anyhow::Result<Known> {
    let signer = wiring::signer(config, &cluster.name)?;
    let key = signer.verify_key();
    let reads = opened.stores().into_iter().map(async |store| {
        let read = read_region(&*store.store, Some(&key), Some(store.name.clone())).await;
        (store, read)
    });
    let (mut regions, mut views, mut descriptor) = (Vec::new(), Vec::new(), None::<Descriptor>);
    for (store, read) in futures_util::future::join_all(reads).await {
        let name = store.name.clone();
        let (log, answer) = match read {
            Ok((found, log)) => {
                anyhow::ensure!(
                    descriptor.as_ref().is_none_or(|first| *first == found),
                    "region {name} holds another repository ({}); correct its url",
                    found.repo
                );
                descriptor.get_or_insert(found.clone());
                (Some(log.clone()), RegionAnswer::Read { descriptor: Box::new(found), log })
            }
            Err(error) => {
                let why = format!("{error:#}");
                tracing::warn!(cluster = %cluster.name, region = %name, why, "the region cannot be read yet");
                (None, RegionAnswer::Unreadable { why })
            }
        };
        views.push(RegionView { name, answer });
        regions.push(ShipRegion { store, log });
    }
    let descriptor = descriptor.context("no region can be read; a new repository is made by `lifeboatd init`")?;
    judge(regions, &views, &descriptor)
}

fn judge(regions: Vec<ShipRegion>, views: &[RegionView], descriptor: &Descriptor) -> anyhow::Result<Known> {
    let logs = regions.iter().filter_map(|region| Some((&region.store.name, region.log.as_ref()?)));
    let records = WalRecords::of(logs);
    let incarnation = match records.incarnation {
        CurrentIncarnation::One(incarnation) => incarnation,
        CurrentIncarnation::Disputed(ref regions) => anyhow::bail!(
            "the regions disagree about which copy of the cluster may write ({}); decide with `lifeboatd adopt` on the right server",
            regions.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ),
    };
    let catalog = Catalog::merge(views);
    let newest = catalog.newest_sound().map(|row| &row.record);
    let start = newest.map(|record| WalPosition { timeline: record.start_tli, lsn: record.start_lsn });
    let wanted = newest.map(|record| WalPosition { timeline: record.stop_tli, lsn: record.stop_lsn });
    let order = needed(start, records.gaps_everywhere());
    let belonging = Belonging {
        system_identifier: descriptor.sysid,
        incarnation: incarnation.map(|incarnation| incarnation.to_string()),
    };
    Ok(Known { regions, belonging, repository: descriptor.repo, incarnation, wanted, order })
}

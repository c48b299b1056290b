//! `lifeboatd run`: continuous WAL of every cluster, until it is told to stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lifeboat_config::{ClusterSettings, Config};
use lifeboat_repository::{Catalog, CurrentIncarnation, RegionAnswer, RegionView, WalRecords};
use lifeboat_restore::access::read_region;
use lifeboat_restore::exit_code::Ending;
use lifeboat_stores::Verdict;
use lifeboat_vocabulary::{ByteCount, SystemClock, WalPosition};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::wal::keeper::{BackupMaker, keep, needed};
use crate::wal::receive::Receiver;
use crate::wal::reporter::{Reporter, ReporterSettings};
use crate::wal::shared::Shared;
use crate::wal::slot_watch::{self, SlotOutlook};
use crate::wal::upstream::{Belonging, Finder};
use crate::wal::{self, KeyHolders, ShipRegion, ShipSettings, Shipper};
use crate::{backup, wiring};

/// What the WAL of one cluster may take of the memory, raw and sealed.
const WAL_MEMORY: ByteCount = ByteCount::from_mib(64);
/// How long what was received may take on its way out, when everything stops.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Protects every cluster of the configuration.
///
/// # Errors
/// If nothing could be begun at all.
pub async fn run(config: Arc<Config>, stop: &CancellationToken) -> anyhow::Result<Ending> {
    let mut clusters = JoinSet::new();
    for cluster in config.clusters.clone() {
        clusters.spawn(protect(Arc::clone(&config), cluster, stop.clone()));
    }
    while let Some(ended) = clusters.join_next().await {
        ended.context("protect a cluster")?;
    }
    Ok(Ending::Done)
}

/// Protects one cluster; what fails as a whole is begun again, so that one cluster never ends the others.
async fn protect(config: Arc<Config>, cluster: ClusterSettings, stop: CancellationToken) {
    let mut pause = PAUSE_MIN;
    while !stop.is_cancelled() {
        match attempt(&config, &cluster, &stop).await {
            Ok(()) => pause = PAUSE_MIN,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(cluster = %cluster.name, error, again_in = ?pause, "the cluster is not protected");
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// The folder of one cluster below the state directory.
#[must_use]
pub fn state_directory(config: &Config, cluster: &ClusterSettings) -> PathBuf {
    config.state_directory.join(cluster.name.as_str())
}

fn make_private(directory: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.with_context(|| format!("make the state directory {}", directory.display()))
}

/// What the regions tell before anything is received.
struct Known {
    regions: Vec<ShipRegion>,
    belonging: Belonging,
    repository: lifeboat_repository::ids::RepositoryId,
    incarnation: Option<lifeboat_repository::ids::Incarnation>,
    /// Where WAL is wanted from, if none is stored: the end of the newest good backup.
    wanted: Option<WalPosition>,
    /// Why a base backup is needed.
    order: Option<String>,
}

async fn learn(config: &Config, cluster: &ClusterSettings) -> anyhow::Result<Known> {
    let signer = wiring::signer(config, &cluster.name)?;
    let (mut regions, mut views, mut descriptor) = (Vec::new(), Vec::new(), None);
    for settings in &config.regions {
        let store = wiring::open_region(settings, &cluster.name).await?;
        let name = store.name.clone();
        let read = read_region(&*store.store, Some(&signer.verify_key()), Some(name.clone())).await;
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
    let logs = regions.iter().filter_map(|region| Some((&region.store.name, region.log.as_ref()?)));
    let records = WalRecords::of(logs);
    let incarnation = match records.incarnation {
        CurrentIncarnation::One(incarnation) => incarnation,
        CurrentIncarnation::Disputed(ref regions) => anyhow::bail!(
            "the regions disagree about which copy of the cluster may write ({}); decide with `lifeboatd adopt` on the right server",
            regions.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ),
    };
    let catalog = Catalog::merge(&views);
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

async fn attempt(config: &Arc<Config>, cluster: &ClusterSettings, stop: &CancellationToken) -> anyhow::Result<()> {
    let directory = state_directory(config, cluster);
    make_private(&directory)?;
    let known = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        known = learn(config, cluster) => known?,
    };
    let settings = ship_settings((config, cluster), &known, &directory)?;
    let clock: Arc<SystemClock> = Arc::new(SystemClock);
    let count = known.regions.len();
    let shipper = Shipper::start(settings, known.regions, Arc::<SystemClock>::clone(&clock)).await;
    let shipper = Arc::new(shipper.context("begin to ship WAL")?);
    let shared = Arc::new(Shared::new(cluster.name.clone(), count, clock));
    if let Some(why) = known.order {
        shared.order_backup(why);
    }
    let finder = Finder::new(cluster.clone(), known.belonging.clone(), Arc::clone(&shipper), known.wanted)?;
    let receiver = Receiver {
        finder,
        belonging: known.belonging,
        shipper: Arc::clone(&shipper),
        shared: Arc::clone(&shared),
        apply: cluster.wal.apply,
    };
    let outlook = Arc::<SlotOutlook>::default();
    let reporter = Reporter {
        settings: ReporterSettings {
            state_directory: directory,
            rpo: cluster.objectives.rpo,
            wal_quorum: config.durability.wal_quorum,
            spool_limit: config.limits.spool,
        },
        shared: Arc::clone(&shared),
        shipper: Arc::clone(&shipper),
        outlook: Arc::clone(&outlook),
    };
    let maker = Arc::new(Maker { config: Arc::clone(config), cluster: cluster.clone() });
    // A task that ends by itself has failed: then all of them end, and the cluster is begun again.
    let inner = stop.child_token();
    let slot = cluster.wal.slot.parse().context("name the slot")?;
    let watched = (cluster.connection.clone(), slot);
    let mut tasks = JoinSet::new();
    let seen = (outlook, Arc::clone(&shipper));
    tasks.spawn(reporter.run(inner.clone()));
    tasks.spawn(keep(shared, maker, inner.clone()));
    tasks.spawn(slot_watch::watch(watched, seen, inner.clone()));
    tasks.spawn(receiver.run(inner.clone()));
    let first = tasks.join_next().await;
    inner.cancel();
    let mut failed = first.and_then(Result::err);
    while let Some(ended) = tasks.join_next().await {
        failed = failed.or(ended.err());
    }
    if let Some(shipper) = Arc::into_inner(shipper) {
        let positions = shipper.stop(STOP_PATIENCE).await;
        let (received, quorum) = (positions.received, positions.quorum);
        tracing::info!(cluster = %cluster.name, ?received, ?quorum, "WAL shipping has ended");
    }
    failed.map_or(Ok(()), |error| Err(anyhow::Error::new(error).context("a task of continuous WAL failed")))
}

fn ship_settings(
    (config, cluster): (&Config, &ClusterSettings),
    known: &Known,
    directory: &Path,
) -> anyhow::Result<ShipSettings> {
    Ok(ShipSettings {
        flush_interval: config.durability.flush_interval,
        mode: match cluster.wal.commit {
            lifeboat_config::CommitMode::Asynchronous => wal::CommitMode::Asynchronous,
            lifeboat_config::CommitMode::Synchronous => wal::CommitMode::Synchronous,
        },
        wal_quorum: config.durability.wal_quorum,
        spool_directory: directory.join("spool"),
        spool_limit: config.limits.spool,
        memory: WAL_MEMORY,
        cluster: cluster.name.clone(),
        repository: known.repository,
        signer: wiring::signer(config, &cluster.name)?,
        holders: KeyHolders { recipients: config.keys.recipients.clone(), commands: config.keys.wrap_commands.clone() },
        tool: wiring::TOOL.to_owned(),
        incarnation: known.incarnation,
    })
}

/// Makes base backups the way `lifeboatd backup` does.
struct Maker {
    config: Arc<Config>,
    cluster: ClusterSettings,
}

#[async_trait::async_trait]
impl BackupMaker for Maker {
    async fn make(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        let outcome = backup::make((&self.config, &self.cluster), backup::Shown::Nothing, stop).await?;
        for (region, outcome) in &outcome.commit.regions {
            if let Err(error) = outcome {
                let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
                let why = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
                tracing::warn!(cluster = %self.cluster.name, %region, why, "the region does not have the base backup");
            }
        }
        let committed = outcome.commit.committed();
        anyhow::ensure!(
            outcome.verdict != Verdict::Failed,
            "the backup is in {committed} regions, which is below the quorum"
        );
        Ok(())
    }
}

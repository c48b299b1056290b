//! Continuous WAL of one cluster, as one task: begun as a whole, ended as a whole.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lifeboat_config::{ClusterSettings, Config};
use lifeboat_vocabulary::ByteCount;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::base::readiness::{Looked, Readiness};
use crate::base::supervisor::TaskContext;
use crate::regions::context::ClusterContext;
use crate::regions::log_follower::LogFollower;
use crate::settings::wiring::{self, ClusterConfig};
use crate::wal::learn::{Known, learn};
use crate::wal::receive::receiver::Receiver;
use crate::wal::receive::upstream::Finder;
use crate::wal::reporter::{Reporter, ReporterSettings};
use crate::wal::server_memory::ServerMemory;
use crate::wal::shared::Shared;
use crate::wal::ship::settings::{ShipSettings, WalKeyRecipients};
use crate::wal::ship::shipper::Shipper;
use crate::wal::slot_watch::{self, SlotOutlook};

/// What the WAL of one cluster may take of the memory, raw and sealed.
const WAL_MEMORY: ByteCount = ByteCount::from_mib(64);
/// How long what was received may take on its way out when everything stops, first while the server still listens, then
/// without it: each at most a sixth of the stop time-out, of which those that end last have five twelfths.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What continuous WAL works with.
#[derive(Clone)]
pub(crate) struct WalParts {
    pub(crate) context: ClusterContext,
    /// The configuration that it was begun with.
    pub(crate) config: Arc<Config>,
    /// What it says of the cluster.
    pub(crate) cluster: ClusterSettings,
    /// What others of this cluster know and want to know.
    pub(crate) shared: Arc<Shared>,
    /// Who waits for the first look at the regions.
    pub(crate) readiness: Arc<Readiness>,
}

/// Receives and ships until it is told to stop. What fails as a whole ends as a whole, and is begun again by whoever
/// supervises it.
///
/// # Errors
/// If the regions tell nothing or contradict each other, if the spool cannot be used, or if a part of it failed.
pub(crate) async fn run(context: TaskContext, parts: WalParts) -> anyhow::Result<()> {
    let outcome = attempt(&context, &parts).await;
    if let Err(error) = &outcome {
        let why = format!("{error:#}");
        parts.readiness.looked(&parts.cluster.name, Looked::Failed(why.clone()));
        parts.shared.waiting(why);
    }
    outcome
}

async fn attempt(context: &TaskContext, parts: &WalParts) -> anyhow::Result<()> {
    let WalParts { config, cluster, shared, .. } = parts;
    let ClusterContext { directory, regions, alarms, facts, clock, .. } = &parts.context;
    let begun_with = ClusterConfig { config, cluster };
    crate::base::state::make_directory(directory)
        .with_context(|| format!("make the state directory {}", directory.display()))?;
    let memory = ServerMemory::open(directory);
    if let Some(lost) = memory.read().refused {
        shared.foreign(lost.why);
    }
    // Regions and spool have deadlines of their own.
    context.progress.waiting("the regions");
    let known = tokio::select! {
        () = context.stop.cancelled() => return Ok(()),
        known = learn(begun_with, regions, clock.now()) => known?,
    };
    let looked = Looked::Regions { read: known.read, quorum: config.durability.wal_quorum };
    parts.readiness.looked(&cluster.name, looked);
    let settings = ship_settings(begun_with, &known, regions.logs(), directory, memory.clone())?;
    let Known { regions, belonging, wanted, backup_needed, .. } = known;
    let shipper = Shipper::start(settings, regions, Arc::clone(clock)).await;
    let shipper = Arc::new(shipper.context("begin to ship WAL")?);
    if let Some(why) = backup_needed {
        shared.request_backup(why);
    }
    let finder = Finder::new(cluster.clone(), belonging.clone(), Arc::clone(&shipper), wanted, memory.clone());
    let receiver = Receiver {
        finder,
        belonging,
        shipper: Arc::clone(&shipper),
        memory,
        shared: Arc::clone(shared),
        apply: cluster.wal.apply,
        progress: context.progress.clone(),
        drain: STOP_PATIENCE.min(config.daemon.stop_timeout / 6),
    };
    let outlook = Arc::<SlotOutlook>::default();
    let reporter = Reporter {
        settings: ReporterSettings {
            rpo: cluster.objectives.rpo,
            wal_quorum: config.durability.wal_quorum,
            spool_limit: config.limits.spool,
        },
        shared: Arc::clone(shared),
        shipper: Arc::clone(&shipper),
        outlook: Arc::clone(&outlook),
        board: Arc::clone(alarms),
        facts: Arc::clone(facts),
    };
    // A part that ends by itself has failed: then all of them end.
    let inner = context.stop.child_token();
    let mut tasks: JoinSet<&'static str> = JoinSet::new();
    tasks.spawn(named("reports", reporter.run(inner.clone())));
    let (connection, slot) = (cluster.connection.clone(), cluster.wal.slot.clone());
    let watch = slot_watch::watch(connection, slot, outlook, Arc::clone(&shipper), inner.clone());
    tasks.spawn(named("the watch over the slot", watch));
    tasks.spawn(named("the receiver", receiver.run(inner.clone())));
    let (shipping, until) = (Arc::clone(&shipper), inner.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = until.cancelled() => "shipping",
            name = shipping.failed() => name,
        }
    });
    let ended = end_together(tasks, &context.stop, &inner).await;
    context.progress.waiting("the regions to take what was received");
    if let Some(shipper) = Arc::into_inner(shipper) {
        let patience = STOP_PATIENCE.min(config.daemon.stop_timeout / 6);
        let positions = shipper.stop(patience).await;
        let (received, quorum) = (positions.received, positions.quorum);
        tracing::info!(cluster = %cluster.name, ?received, ?quorum, "WAL shipping has ended");
    }
    ended
}

async fn named(name: &'static str, work: impl Future<Output = ()>) -> &'static str {
    work.await;
    name
}

/// Waits for the stop, or for the first task that ends before: then all of them end, and it is an error.
async fn end_together(
    mut tasks: JoinSet<&'static str>,
    stop: &CancellationToken,
    inner: &CancellationToken,
) -> anyhow::Result<()> {
    let first = tasks.join_next().await;
    let too_early = !stop.is_cancelled();
    inner.cancel();
    let mut failed = match first {
        Some(Err(error)) => Some(anyhow::Error::new(error).context("a part of continuous WAL failed")),
        Some(Ok(name)) if too_early => Some(anyhow::anyhow!("a part of continuous WAL ended by itself: {name}")),
        _ => None,
    };
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            failed.get_or_insert(anyhow::Error::new(error).context("a part of continuous WAL failed"));
        }
    }
    failed.map_or(Ok(()), Err)
}

fn ship_settings(
    ClusterConfig { config, cluster }: ClusterConfig<'_>,
    known: &Known,
    logs: &Arc<LogFollower>,
    directory: &Path,
    server: ServerMemory,
) -> anyhow::Result<ShipSettings> {
    Ok(ShipSettings {
        flush_interval: config.durability.flush_interval,
        mode: cluster.wal.commit,
        wal_quorum: config.durability.wal_quorum,
        spool_directory: directory.join("spool"),
        spool_limit: config.limits.spool,
        memory: WAL_MEMORY,
        cluster: cluster.name.clone(),
        repository: known.repository,
        signer: wiring::signer(config, &cluster.name)?,
        recipients: WalKeyRecipients {
            recipients: config.keys.recipients.clone(),
            commands: config.keys.wrap_commands.clone(),
        },
        tool: wiring::TOOL.to_owned(),
        incarnation: known.incarnation,
        server,
        logs: Arc::clone(logs),
    })
}

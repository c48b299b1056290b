//! One base backup, step by step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lifeboat_cli::omissions::incomplete_text;
use lifeboat_cli::terminal::{Output, ProgressLine};
use lifeboat_config::Config;
use lifeboat_postgres::{
    BackupEnd, BackupFacts, BackupSource, BackupStart, PageChecks, ReplicationSource, ServerFacts, SourceEvent,
};
use lifeboat_repository::backup::write::{
    BackupDetails, BackupSettings, BackupWriter, CommitAuthority, CpuShare, ExclusionReason, FrameCheck, MemoryPlan,
    SealedBackup,
};
use lifeboat_repository::keys::KeyRecipients;
use lifeboat_repository::log::records::{BackupKind, Origin, PageFacts};
use lifeboat_repository::log::{Descriptor, NoteSigner, RegionLog, RegionStore, Role};
use lifeboat_repository::wal::{CurrentIncarnation, WalRecords};
use lifeboat_stores::{Verdict, verdict};
use lifeboat_vocabulary::{BackupId, ByteCount, Clock, RegionName, UtcTime, WalPosition, error_chain};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::backup::config_watch::ConfigWatch;
use crate::backup::content_check::{ContentCheck, segment_size};
use crate::backup::history::{RunEnding, RunResult};
use crate::backup::omissions::OmissionWatch;
use crate::backup::page_check::{Judge, PageCheck, second_look};
use crate::backup::report::BackupOutcome;
use crate::base::progress::Progress;
use crate::regions::open::OpenRegions;
use crate::settings::wiring::{self, ClusterConfig};

/// Uploads at the same time per region: enough to hide a store's latency, few enough to leave packs for the others.
const UPLOADS_PER_REGION: usize = 4;
/// A server that sends nothing for so long in the middle of a backup is given up: less than what the scheduler may go
/// without a step, because it is this backup that has failed and not the daemon.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// How often somebody looks whether a backup gets on.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The regions as they were found: descriptor, logs of those that can be used, and why the others cannot.
struct Regions {
    descriptor: Descriptor,
    stores: Vec<RegionStore>,
    logs: BTreeMap<RegionName, RegionLog>,
    unusable: Vec<(RegionName, anyhow::Error)>,
}

/// What was read from the server.
struct Transfer {
    start: BackupStart,
    end: BackupEnd,
    findings: Vec<String>,
    omissions: OmissionWatch,
}

/// What is remembered of a backup.
#[must_use]
pub(crate) fn result_of(outcome: &anyhow::Result<BackupOutcome>, stop: &CancellationToken) -> RunResult {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(_) if stop.is_cancelled() => return RunResult::without_backup(RunEnding::Stopped, "it was told to stop"),
        Err(error) => return RunResult::without_backup(RunEnding::Failed, format!("{error:#}")),
    };
    let left = outcome.commit.regions.iter().filter_map(|(region, result)| {
        let reason = result.as_ref().err()?;
        Some(format!("{region}: {}", error_chain(reason)))
    });
    let record = &outcome.commit.record;
    let missing = (!record.is_complete()).then(|| incomplete_text(record));
    let why: Vec<String> = missing.into_iter().chain(left).collect();
    RunResult {
        ending: match outcome.verdict {
            Verdict::Failed => RunEnding::BelowQuorum,
            _ if !record.is_complete() => RunEnding::Incomplete,
            Verdict::Ok => RunEnding::Done,
            Verdict::Degraded => RunEnding::Degraded,
        },
        backup: Some(record.backup.to_string()),
        bytes: Some(record.files.raw_bytes.as_bytes()),
        why: (!why.is_empty()).then(|| why.join("; ")),
        damaged_pages: record.pages.map_or(0, |pages| pages.damaged),
    }
}

/// Who watches a backup.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shown<'w> {
    /// A person, for whom progress is drawn.
    To(Output),
    /// The daemon.
    Daemon {
        /// Where it looks whether the backup gets on.
        progress: &'w Progress,
        /// Where backups of other clusters take turns with this one.
        cpu_share: &'w CpuShare,
    },
}

impl Shown<'_> {
    /// The server or the regions have to do something first.
    fn waits(self, reason: &str) {
        if let Self::Daemon { progress, .. } = self {
            progress.waiting(reason);
        }
    }

    fn cpu_share(self) -> Option<CpuShare> {
        match self {
            Self::Daemon { cpu_share, .. } => Some(cpu_share.clone()),
            Self::To(_) => None,
        }
    }

    /// Lets whoever watches see how the counters grow, until it is dropped.
    fn follow(self, counters: Arc<lifeboat_repository::backup::Progress>, estimated: Option<ByteCount>) -> Following {
        match self {
            Self::To(output) => Following::Line(ProgressLine::start("backup", counters, estimated, output)),
            Self::Daemon { progress, .. } => {
                progress.working("a backup");
                Following::Task(AbortOnDropHandle::new(tokio::spawn(tell_steps(progress.clone(), counters))))
            }
        }
    }
}

/// See [`Shown::follow`]; it ends when it is dropped.
#[expect(dead_code, reason = "they are held, not used")]
enum Following {
    Line(ProgressLine),
    Task(AbortOnDropHandle<()>),
}

async fn tell_steps(progress: Progress, counters: Arc<lifeboat_repository::backup::Progress>) {
    let mut known = counters.snapshot();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = counters.snapshot();
        if now != known {
            progress.moved();
            known = now;
        }
    }
}

/// Makes a full backup into the regions of a cluster and returns what became of it.
///
/// # Errors
/// Whatever stopped it. Nothing that looks like a backup is left behind then.
pub(crate) async fn make(
    of: ClusterConfig<'_>,
    regions: &OpenRegions,
    clock: &dyn Clock,
    shown: Shown<'_>,
    stop: &CancellationToken,
) -> anyhow::Result<BackupOutcome> {
    let ClusterConfig { config, cluster } = of;
    shown.waits("the regions");
    let (begun, start_time) = (Instant::now(), clock.now());
    let signer = of.signer()?;
    let regions = read_regions(regions, &signer, clock.now()).await?;
    let plan = memory_plan(config, &regions.descriptor)?;
    tracing::info!("{plan}");
    let backup = BackupId::new(start_time, random()?);
    let options = wiring::base_backup_options(cluster, format!("lifeboat {backup}"));
    shown.waits("the server's checkpoint");
    let connected = ReplicationSource::start(&cluster.connection, &options);
    let mut source = stoppable(stop, connected).await?.context("begin the backup on the server")?;
    let facts = source.facts().clone();
    anyhow::ensure!(
        facts.system_identifier == regions.descriptor.sysid,
        "this server is system {}, the repository belongs to system {}; check the connection, or give the cluster another name",
        facts.system_identifier,
        regions.descriptor.sysid
    );
    let Some(SourceEvent::Started(started)) = stoppable(stop, first_event(&mut source)).await?? else {
        anyhow::bail!("the server sent data before the backup began");
    };
    belongs(facts.incarnation.as_deref(), started.position, &regions.logs)?;
    let settings = settings(of, &backup, &regions.descriptor, plan, check(&started));
    let settings = BackupSettings { cpu_share: shown.cpu_share(), ..settings };
    let mut writer = BackupWriter::start(settings, regions.stores.clone(), stop).context("start the pipeline")?;
    for (region, error) in regions.unusable {
        writer.exclude(&region, ExclusionReason::Prepare(error.into()));
    }
    let following = shown.follow(writer.progress(), started.estimated);
    let mut transfer = transfer(&mut source, started, &facts, &mut writer, stop).await?;
    let sealed = writer.finish().await.context("seal the backup")?;
    drop(following);
    shown.waits("the regions to take what is left");
    let (pages, damaged) = judge_pages(&mut source, &sealed, &transfer).await?;
    compare_databases(&mut source, &facts, &mut transfer).await;
    drop(source);
    let details = BackupDetails {
        kind: BackupKind::Full,
        pg: record_facts(&facts)?,
        start: transfer.start.position,
        stop: transfer.end.position,
        start_time,
        stop_time: clock.now(),
        duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        frame_bytes: regions.descriptor.frame_bytes,
        pages,
        omissions: transfer.omissions.finish(),
    };
    let last = regions.logs.values().filter_map(|log| log.last_count(signer.name())).max();
    let wseq = Origin::next_count(last, clock.now());
    let recipients = KeyRecipients { recipients: &config.keys.recipients, commands: &config.keys.wrap_commands };
    let authority = CommitAuthority { signer: &signer, wseq, tool: wiring::TOOL, recipients };
    // Not cut short: a request to stop ends the uploads, and what is complete by then is committed or not, for certain.
    let commit = sealed.commit(details, authority, regions.logs).await.context("commit the backup")?;
    anyhow::ensure!(!stop.is_cancelled() || commit.committed() > 0, "stopped on request");
    let verdict = verdict(commit.regions.len(), commit.committed(), config.durability.backup_quorum);
    Ok(BackupOutcome { commit, verdict, damaged, findings: transfer.findings })
}

/// Waits for `work`, but not after the request to stop: what is cut short leaves nothing that looks like a backup.
async fn stoppable<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => anyhow::bail!("stopped on request"),
        done = work => Ok(done),
    }
}

/// A copy of the cluster has its system identifier, and so has a primary from before a failover: a backup of one of them
/// would be the newest in the history of another server, and what that one needs would be dropped for it.
fn belongs(server: Option<&str>, start: WalPosition, logs: &BTreeMap<RegionName, RegionLog>) -> anyhow::Result<()> {
    let word = |incarnation: Option<&str>| match incarnation {
        Some(id) => format!("the restored copy {id}"),
        None => "the original".to_owned(),
    };
    let current = match WalRecords::of(logs).incarnation {
        CurrentIncarnation::One(current) => current.map(|current| current.to_string()),
        CurrentIncarnation::Disputed(_) => anyhow::bail!(
            "the regions disagree about which copy of the cluster may write; decide with `lifeboatd adopt` on the right server"
        ),
    };
    anyhow::ensure!(
        current.as_deref() == server,
        "this server is {}, the repository belongs to {}: two clusters would write into one history. If this server has \
         taken over for good, say so with `lifeboatd adopt`",
        word(server),
        word(current.as_deref())
    );
    let records = logs.values().flat_map(RegionLog::entries).filter_map(|entry| entry.record.backup());
    let newest = records.map(|record| record.stop_tli).max();
    anyhow::ensure!(
        newest.is_none_or(|newest| newest <= start.timeline),
        "this server is on timeline {}, and there is a backup of timeline {}: it is a former primary or a copy. Take it out \
         of the connection string, or rebuild it with pg_rewind as a standby",
        start.timeline,
        newest.unwrap_or(start.timeline)
    );
    Ok(())
}

/// What is wrong with a key that may not back up, and what to do.
const NOT_A_WRITER: &str =
    "back up with the signing key of this host: let the root key name it with `lifeboatd delegate`";

async fn read_regions(regions: &OpenRegions, signer: &Arc<NoteSigner>, now: UtcTime) -> anyhow::Result<Regions> {
    let (mut stores, mut logs, mut unusable) = (Vec::new(), BTreeMap::new(), Vec::new());
    let mut descriptor: Option<Descriptor> = None;
    for region in regions.stores() {
        let name = region.name.clone();
        match regions.logs().read(&region, &signer.root()).await {
            Ok((found, _)) if descriptor.as_ref().is_some_and(|first| *first != found) => {
                let other = anyhow::anyhow!("it holds another repository ({})", found.repo);
                unusable.push((name.clone(), other));
            }
            Ok((found, log)) => {
                descriptor.get_or_insert(found);
                // Before anything is uploaded that no record could name.
                match log.trust().signers.allows(signer, Role::Writer, now) {
                    Ok(()) => drop(logs.insert(name.clone(), RegionLog::clone(&log))),
                    Err(error) => unusable.push((name.clone(), anyhow::Error::new(error).context(NOT_A_WRITER))),
                }
            }
            Err(error) => unusable.push((name.clone(), error)),
        }
        stores.push(region);
    }
    let Some(descriptor) = descriptor.filter(|_| !logs.is_empty()) else {
        let why: Vec<String> = unusable.iter().map(|(region, error)| format!("{region}: {error:#}")).collect();
        anyhow::bail!("no region can be used ({}); a new repository is made by `lifeboatd init`", why.join("; "));
    };
    Ok(Regions { descriptor, stores, logs, unusable })
}

fn memory_plan(config: &Config, descriptor: &Descriptor) -> anyhow::Result<MemoryPlan> {
    let limits = config.limits;
    let bytes = |size: u32| usize::try_from(size).unwrap_or(usize::MAX);
    let (frame, pack) = (bytes(descriptor.frame_bytes), bytes(descriptor.pack_bytes));
    Ok(MemoryPlan::new(limits.memory, limits.workers, frame, pack)?)
}

fn settings(
    ClusterConfig { config, cluster }: ClusterConfig<'_>,
    backup: &BackupId,
    descriptor: &Descriptor,
    plan: MemoryPlan,
    check: Option<Arc<dyn FrameCheck>>,
) -> BackupSettings {
    BackupSettings {
        backup: backup.clone(),
        repository: descriptor.repo,
        plan,
        compression_level: cluster.backup.compression_level,
        check,
        upload_concurrency: UPLOADS_PER_REGION,
        lag_limit: config.durability.region_lag_limit,
        cpu_share: None,
    }
}

fn check(started: &BackupStart) -> Option<Arc<dyn FrameCheck>> {
    let judge = match started.page_checks {
        PageChecks::None => return None,
        PageChecks::Receiver => Judge::Workers,
        PageChecks::Server => Judge::Server,
    };
    Some(Arc::new(PageCheck { start: started.position.lsn, judge }))
}

async fn first_event(source: &mut ReplicationSource) -> anyhow::Result<Option<SourceEvent>> {
    loop {
        match source.next().await.context("wait for the server's checkpoint")? {
            SourceEvent::Finding(text) => tracing::warn!(%text, "the server says"),
            event => return Ok(Some(event)),
        }
    }
}

/// Moves everything from the server into the pipeline.
async fn transfer(
    source: &mut ReplicationSource,
    start: BackupStart,
    facts: &ServerFacts,
    writer: &mut BackupWriter,
    stop: &CancellationToken,
) -> anyhow::Result<Transfer> {
    let tablespaces = start.tablespaces.iter().map(Into::into).collect();
    let facts = BackupFacts { server: facts.clone(), tablespaces };
    writer.facts(serde_json::to_vec(&facts).context("write the facts about the cluster")?).await?;
    let mut content = ContentCheck::new(&start, &facts.server)?;
    let (mut findings, mut omissions, mut watch) = (Vec::new(), OmissionWatch::default(), ConfigWatch::default());
    loop {
        let next = stoppable(stop, tokio::time::timeout(SILENCE_MAX, source.next())).await?;
        let next = next.with_context(|| format!("the server has sent nothing for {} s", SILENCE_MAX.as_secs()))?;
        let next = next.context("receive the backup")?;
        content.see(&next)?;
        match next {
            SourceEvent::Started(_) => anyhow::bail!("the server began the backup twice"),
            SourceEvent::FileBegin(number, entry) => {
                omissions.came(&entry);
                watch.began(number, &entry);
                writer.begin(number, entry).await?;
            }
            SourceEvent::Data { file, offset, bytes } => {
                watch.data(file, &bytes);
                writer.data(file, offset, &bytes).await?;
            }
            SourceEvent::FileEnd { file, size } => {
                watch.ended(file);
                writer.end(file, size).await?;
            }
            SourceEvent::ManifestFile(file) => writer.listed(file.path, file.size, file.crc32c).await?,
            SourceEvent::LeftOut(left_out) => {
                watch.left_out(&left_out.path);
                omissions.left_out(&left_out);
            }
            SourceEvent::Finding(text) => findings.push(text),
            SourceEvent::Finished(end) => {
                content.finish(end.position)?;
                omissions.configuration(&facts.server, &watch);
                return Ok(Transfer { start, end, findings, omissions });
            }
        }
    }
}

/// Asks the server once more which databases there are. Without an answer the backup is what its own warnings say.
async fn compare_databases(source: &mut ReplicationSource, facts: &ServerFacts, transfer: &mut Transfer) {
    match source.databases().await {
        Ok(after) => transfer.omissions.compare(&facts.databases, &after),
        Err(error) => {
            let why = error_chain(&error);
            transfer.findings.push(format!("whether all databases came could not be asked: {why}"));
        }
    }
}

/// What the record says about pages, and which ones are damaged.
async fn judge_pages(
    source: &mut ReplicationSource,
    sealed: &SealedBackup,
    transfer: &Transfer,
) -> anyhow::Result<(Option<PageFacts>, Vec<String>)> {
    match transfer.start.page_checks {
        PageChecks::None => Ok((None, Vec::new())),
        PageChecks::Server => {
            let checked = sealed.packed.pages_checked;
            let damaged = (transfer.end.damaged.len() as u64).min(checked);
            Ok((Some(PageFacts { checked, damaged, damaged_files: damaged }), transfer.end.damaged.clone()))
        }
        PageChecks::Receiver => {
            let pages = second_look(source, &sealed.packed.suspects).await.context("look at suspect pages again")?;
            let files: std::collections::BTreeSet<_> = pages.iter().map(|page| &page.path).collect();
            // Beyond the first thousand nobody looks twice: a cluster with that many is damaged beyond doubt.
            let unseen = sealed.packed.suspect_count - sealed.packed.suspects.len() as u64;
            let damaged = pages.len() as u64 + unseen;
            let facts = PageFacts { checked: sealed.packed.pages_checked, damaged, damaged_files: files.len() as u64 };
            let names = pages.iter().map(|page| format!("{} at byte {}", page.path, page.offset)).collect();
            Ok((Some(facts), names))
        }
    }
}

fn record_facts(facts: &ServerFacts) -> anyhow::Result<lifeboat_repository::log::records::ServerFacts> {
    let wal_segment_bytes = u32::try_from(segment_size(facts)?.as_bytes()).context("read wal_segment_size")?;
    Ok(lifeboat_repository::log::records::ServerFacts {
        version: facts.version_num,
        sysid: facts.system_identifier,
        wal_segment_bytes,
    })
}

fn random() -> anyhow::Result<u32> {
    let [a, b, c, d, ..] = *lifeboat_repository::format::ids::ObjectId::random()?.as_bytes();
    Ok(u32::from_le_bytes([a, b, c, d]))
}

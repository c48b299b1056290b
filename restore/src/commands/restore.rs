//! One restore, step by step.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lifeboat_cli::access::{Keys, Repository};
use lifeboat_cli::exit_code::{Ending, Exit};
use lifeboat_cli::omissions::incomplete_text;
use lifeboat_cli::place::PlaceArgs;
use lifeboat_cli::terminal::{Output, ProgressLine};
use lifeboat_postgres::BackupFacts;
use lifeboat_postgres::find_server_bin;
use lifeboat_repository::backup::Progress;
use lifeboat_repository::backup::read::{self, BackupReader, Ranges, ReadControl, ReadSettings};
use lifeboat_repository::format::ids::Incarnation;
use lifeboat_repository::log::records::BackupRecord;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::command_line::RestoreArgs;
use crate::commands::verify::workers;
use crate::fetch::archive::{Archive, segment_size};
use crate::fetch::plan::{TablespaceWish, Unmapped, plan};
use crate::fetch::target_dir::{TargetDir, TargetPlaces};
use crate::recover::carried_wal::CarriedWal;
use crate::recover::decide::decide;
use crate::recover::decided::{Done, Restore};
use crate::recover::watch::{Awaited, Recovered, Recovery};
use crate::recover::{files, report};
use crate::wal_fetch::prefetch::Limits;
use crate::wal_fetch::prepare;
use crate::wal_fetch::serve::Serving;
use crate::wal_fetch::settings::{Parts, WalFetchSettings};
use crate::wal_fetch::tablespaces::{Refusal, TablespaceGuard};

/// Bytes that one request asks for.
const RANGE_BYTES: u64 = 8 << 20;

/// Restores: decision, plan, files, recovery settings, flush, `pg_control` last, and the server if it was asked for.
///
/// # Errors
/// Whatever stopped it. A target that is not complete has no `pg_control` and cannot be started.
pub async fn run(
    place: &PlaceArgs,
    args: &RestoreArgs,
    repository: &Repository,
    output: Output,
    stop: &CancellationToken,
) -> anyhow::Result<Ending> {
    let keys = Keys::load(place)?;
    let decision = decide(place, args, repository, &keys).await?;
    let record = &decision.row.record;
    let reader = repository.open_backup(record, repository.holders(&decision.row), &keys).await?;
    let facts = facts_of(&reader, record).await?;
    let wanted = TablespaceWish { mappings: &args.tablespace_map, unmapped: Unmapped::of(args) };
    let plan = plan(&args.to, &facts.tablespaces, wanted, record.files.raw_bytes)?;
    if decision.fetch.is_some() {
        let directory = prepare::directory_of(&plan.root);
        prepare::check(&directory, plan.owner)?;
        prepare::check_can_be_made(&directory)?;
    }
    if args.start {
        prepare::check_can_start(&plan.root, plan.owner)?;
        let directory = prepare::run_directory_of(&plan.root);
        prepare::check_private(&directory, plan.owner)?;
        prepare::check_can_be_made(&directory)?;
    }
    let bin_dir = if args.start { Some(find_server_bin(facts.server.major())?) } else { None };
    let restore = Restore { place, args, repository, keys, decision, plan, facts, output };
    report::print_plan(&restore);
    if args.dry_run {
        return Ok(Ending::Done);
    }
    if !restore.decision.row.record.is_complete() && !args.accept_incomplete {
        let what = incomplete_text(&restore.decision.row.record);
        let message = format!(
            "{what}. Nothing was written. Choose another backup with --backup (see `list`), or say --accept-incomplete"
        );
        return Err(Exit::error(Ending::Damaged, message));
    }
    let done = restore.carry_out(&reader, bin_dir, stop).await?;
    report::print(&restore, &reader, &done);
    Ok(Ending::Done)
}

async fn facts_of(reader: &Arc<BackupReader>, record: &BackupRecord) -> anyhow::Result<BackupFacts> {
    let first = record.index.first().context("the record names no index")?;
    let json = read::read_facts(reader, &first.key).await?.context("the index has no facts about the cluster")?;
    serde_json::from_slice(&json).context("read the facts about the cluster")
}

impl Restore<'_> {
    async fn carry_out(
        &self,
        reader: &Arc<BackupReader>,
        bin_dir: Option<PathBuf>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Done> {
        let begun = Instant::now();
        let record = &self.decision.row.record;
        let places = TargetPlaces {
            root: self.plan.root.clone(),
            tablespaces: self.plan.tablespaces.iter().map(|(oid, (_, place))| (*oid, place.clone())).collect(),
            owner: self.plan.owner,
            major: record.pg.version / 10_000,
        };
        let target = Arc::new(TargetDir::prepare(&places).context("prepare the target directory")?);
        self.fetch(reader, &target, stop).await?;
        let fetched = begun.elapsed();
        let tablespaces_to_make = self.tablespaces_to_make(&target).await?;
        let (serving, command) = self.prefetcher(bin_dir.is_some()).await?;
        let settings = files::settings(&self.decision, self.args, command)?;
        let finish = {
            let (target, facts, record) = (Arc::clone(&target), self.facts.clone(), record.clone());
            tokio::task::spawn_blocking(move || files::finish(&target, &facts, &record, &settings))
        };
        let mut configuration = finish.await.context("finish the restored directory")??;
        if !tablespaces_to_make.is_empty() && bin_dir.is_some() {
            report::print_notes(&configuration, self.output);
            let (what, root) = (tablespaces_to_make.join(". "), self.plan.root.path.display());
            let text = format!("{what}. All of {root} is restored; no server was started");
            return Err(Exit::error(Ending::BadTarget, text));
        }
        configuration.extend(tablespaces_to_make);
        let flushed = begun.elapsed().saturating_sub(fetched);
        let recovered = match bin_dir {
            Some(bin_dir) => Some(self.recover(bin_dir, serving.as_ref(), stop).await?),
            None => None,
        };
        Ok(Done { fetched, flushed, recovered, configuration })
    }

    /// Looks for tablespaces that the backup's own WAL creates. Returns what to do before the server is started.
    ///
    /// # Errors
    /// If a server over the copy could write into what belongs to another one: then it is not to be startable.
    async fn tablespaces_to_make(&self, target: &Arc<TargetDir>) -> anyhow::Result<Vec<String>> {
        let carried = CarriedWal::of(&self.decision, segment_size(&self.decision.row.record)?);
        let target = Arc::clone(target);
        let created = tokio::task::spawn_blocking(move || {
            carried.check_label(&target)?;
            carried.tablespaces(&target)
        });
        let created = created.await;
        let guard = TablespaceGuard::new(self.plan.root.path.clone());
        let mut to_make = Vec::new();
        for tablespace in created.context("read the WAL of the backup")?? {
            match guard.allows(&tablespace) {
                Ok(()) => {}
                Err(Refusal::Missing(what)) => to_make.push(what),
                Err(refusal @ Refusal::InUse(_)) => {
                    let text = format!("{refusal}. What was restored cannot be started; remove it");
                    return Err(Exit::error(Ending::BadTarget, text));
                }
            }
        }
        Ok(to_make)
    }

    async fn fetch(
        &self,
        reader: &Arc<BackupReader>,
        target: &Arc<TargetDir>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let record = &self.decision.row.record;
        let progress = Arc::new(Progress::default());
        let _line = ProgressLine::start("restore", Arc::clone(&progress), Some(record.files.raw_bytes), self.output);
        let shards = record.index.iter().map(|shard| shard.key.clone()).collect();
        let connections = usize::from(self.args.connections);
        let settings = ReadSettings { ranges: Ranges::Parts(RANGE_BYTES), connections, workers: workers() };
        let sink = Arc::clone(target);
        read::read_backup(Arc::clone(reader), shards, sink, settings, ReadControl { progress, stop })
            .await
            .context("restore the files")
    }

    /// Writes what the prefetcher has to know. With a server to start, it serves from here on: it fetches while the files
    /// are flushed.
    async fn prefetcher(&self, starts: bool) -> anyhow::Result<(Option<Serving>, Option<String>)> {
        let Some(fetch) = &self.decision.fetch else { return Ok((None, None)) };
        let descriptor = self.repository.descriptor()?;
        let restore = Incarnation::random().context("name this restore")?.to_string();
        let settings = WalFetchSettings::new(
            self.place,
            &Parts {
                restore: &restore,
                signer: &descriptor.root,
                cluster: &self.repository.cluster,
                without: &self.decision.without,
                system_identifier: descriptor.sysid,
                data_dir: &self.plan.root.path,
                plan: fetch,
                limits: Limits { patience: self.patience(), ..Limits::default() },
            },
        )?;
        let directory = prepare::directory_of(&self.plan.root);
        let place = prepare::take(&directory, self.plan.owner)?;
        settings.write(place.directory()).context("write the prefetcher's settings")?;
        let command = prepare::restore_command(&directory, &restore)?;
        if !starts {
            return Ok((None, Some(command)));
        }
        let (without, segment) = (&self.decision.without, settings.plan.plan()?.segment);
        let archive = Archive::new(self.place, self.repository, &self.keys, without, segment).await?;
        let serving = Serving::start(place, &settings, Arc::new(archive))?;
        Ok((Some(serving), Some(command)))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(u64::from(self.args.wal_patience))
    }

    async fn recover(
        &self,
        bin_dir: PathBuf,
        serving: Option<&Serving>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Recovered> {
        let awaited = if self.args.standby { Awaited::Following } else { Awaited::of(self.decision.target.action) };
        let recovery = Recovery {
            data_dir: &self.plan.root.path,
            run_directory: prepare::run_directory_of(&self.plan.root),
            bin_dir,
            user: self.facts.server.bootstrap_role.clone(),
            awaited,
            replay_from: self.decision.row.record.start_lsn,
            replay_to: self.decision.proof.expected,
            stop: self.decision.proof.stop,
            timeline: self.decision.proof.timeline,
            consistent: self.decision.row.record.stop_lsn,
            patience: self.patience(),
            serving,
            output: self.output,
        };
        recovery.run(stop).await
    }
}

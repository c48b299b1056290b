//! Back to the last commit: a base backup, a minute of load, and everything gone but the regions.

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::ground::{Archiver, Ground, PATIENCE};
use super::load::{self, Load};
use super::recovered::Recovered;
use super::table::{Column, Heading, Measured, Shown};
use super::watch::{Crew, Share, Watch, Watched};
use crate::cluster;
use crate::tools::wal::Phases;

/// Rounds of load at the most, until there is as much WAL as is wanted.
const ROUNDS_MAX: u32 = 100;

/// One recovery.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct RecoveryRun {
    /// Bytes of WAL behind the base backup.
    pub(crate) wal_bytes: u64,
    /// Transactions in it, by pgbench's account.
    pub(crate) transactions: u64,
    /// Those that were found after the recovery.
    pub(crate) found: u64,
    pub(crate) phases: Phases,
    /// Who used what.
    #[serde(flatten)]
    pub(crate) share: Share,
}

impl RecoveryRun {
    fn total(&self) -> f64 {
        self.phases.fetch_seconds + self.phases.recover_seconds
    }
}

/// The heading, and what a reader must know.
pub(crate) const TEXT: Heading = Heading {
    title: "Recovery to the last commit",
    rules: "\
All tools make a base backup and archive at the same time while pgbench runs with four clients, so that they recover from
the same cluster and the same WAL, each from its first region, to the end of the WAL. The first recovery with each tool
is not measured: all its rows are compared with the original's, and after each one the number of transactions with
pgbench's account; a tool that has lost one ends the benchmark.

- `fetch s` is until all files of the base backup are there and on disk, `recover s` from then until the server takes
  writes, with the end-of-recovery checkpoint; `total s` is the sum.
- pgBackRest's restored server is started by the harness, with `hot_standby = off` as Lifeboat starts it.
- `CPU s` is that of the tool's programs, those that are run as `restore_command` too; `PG CPU` that of the recovering
  server without them.",
};

/// The columns.
pub(crate) const COLUMNS: [Column<RecoveryRun>; 15] = [
    Column::new("WAL MB", 0, Shown::Median, |run| run.wal_bytes as f64 / 1e6),
    Column::new("transactions", 0, Shown::Median, |run| run.transactions as f64),
    Column::new("found", 0, Shown::Median, |run| run.found as f64),
    Column::new("fetch s", 2, Shown::Range, |run| run.phases.fetch_seconds),
    Column::new("recover s", 2, Shown::Range, |run| run.phases.recover_seconds),
    Column::new("total s", 2, Shown::Range, RecoveryRun::total),
    Column::new("CPU s", 2, Shown::Median, |run| run.share.cpu_seconds),
    Column::new("PG CPU", 1, Shown::Median, |run| run.share.postgres_cpu_seconds),
    Column::new("S3 CPU", 1, Shown::Median, |run| run.share.region_cpu_seconds),
    Column::new("other", 1, Shown::Median, |run| run.share.other_cpu_seconds),
    Column::new("RSS one", 0, Shown::Median, |run| run.share.largest_process_bytes as f64 / f64::from(1 << 20)),
    Column::new("RSS all", 0, Shown::Median, |run| run.share.all_processes_bytes as f64 / f64::from(1 << 20)),
    Column::new("fetch x", 2, Shown::Times, |run| run.phases.fetch_seconds),
    Column::new("total x", 2, Shown::Times, RecoveryRun::total),
    Column::new("CPU x", 2, Shown::Times, |run| run.share.cpu_seconds),
];

/// What is in the regions, and what must come out again.
struct Lost {
    wal_bytes: u64,
    transactions: u64,
    facts: String,
}

/// Recoveries with every tool.
pub(crate) fn measure(ground: &mut Ground<'_>, tools: &[Archiver<'_>]) -> Result<Vec<Measured<RecoveryRun>>> {
    let lost = archive_and_load(ground, tools)?;
    for tool in tools {
        let (_, server) =
            recover(ground, *tool, &lost).with_context(|| format!("try a recovery with {}", tool.title))?;
        let facts = cluster::facts_of(|database, query| server.psql(database, query))?;
        ensure!(facts == lost.facts, "{} has recovered other rows:\n{facts}not\n{}", tool.title, lost.facts);
        eprintln!("{} recovers every row, and {} transactions", tool.title, lost.transactions);
    }
    let row = |tool: &Archiver<'_>| Measured::new("recovery to the end, 1 region", tool.title, "latest");
    let mut rows: Vec<_> = tools.iter().map(row).collect();
    ground.take_turns(
        &mut rows,
        |run: &RecoveryRun| &run.share,
        |ground, index| match tools.get(index) {
            Some(tool) => recover(ground, *tool, &lost).map(|(run, _)| run),
            None => Ok(RecoveryRun::default()),
        },
    )?;
    Ok(rows)
}

/// Fills the regions: a base backup by each tool, then the load, with all of them archiving.
fn archive_and_load(ground: &mut Ground<'_>, tools: &[Archiver<'_>]) -> Result<Lost> {
    load::prepare(ground.stage.cluster())?;
    let mut all = Vec::new();
    for tool in tools {
        ground.clear(*tool)?;
        let manner = tool.wal.manners().first().context("a tool that archives in no manner")?;
        let mut archiving = tool.wal.archive(ground.stage, *manner)?;
        let from = ground.settle(*tool)?;
        archiving.back_up(ground.stage).with_context(|| format!("base backup with {}", tool.title))?;
        all.push((*tool, archiving, from));
    }
    let home = ground.stage.home("pgbench")?;
    let server = ground.stage.cluster();
    let (begin, mut transactions) = (load::flushed(server)?, 0);
    for _ in 0..ROUNDS_MAX {
        transactions += load::run(server, &home, Load::Full, ground.plan.recovery_seconds)?.transactions;
        if load::flushed(server)? >= begin + ground.plan.wal_bytes {
            break;
        }
    }
    let counted = load::transactions(server)?;
    ensure!(counted == transactions, "the cluster has {counted} transactions, and pgbench counted {transactions}");
    let facts = cluster::facts(server)?;
    let end = load::switch(server)?;
    for (tool, archiving, from) in all {
        ground.wait_until_stored(tool, from, end, PATIENCE)?;
        archiving.end(ground.stage)?;
    }
    Ok(Lost { wal_bytes: end - begin, transactions, facts })
}

/// One recovery into an empty directory; the server runs on for questions.
fn recover(ground: &mut Ground<'_>, tool: Archiver<'_>, lost: &Lost) -> Result<(RecoveryRun, Recovered)> {
    ground.stage.clear_target()?;
    rustix::fs::sync();
    let crew = Crew { helper: "startup", ..tool.wal.crew() };
    let watch = Watch::start(ground.stage, &crew, Watched::Restored)?;
    let phases = tool.wal.recover(ground.stage)?;
    let server = Recovered::find(ground.stage)?;
    let share = watch.finish(ground.stage, phases.cpu_seconds)?;
    let found = server.psql("bench", "select count(*) from pgbench_history")?.parse().context("count transactions")?;
    let Lost { wal_bytes, transactions, .. } = *lost;
    ensure!(found == transactions, "{found} of {transactions} transactions were found after the recovery");
    Ok((RecoveryRun { wal_bytes, transactions, found, phases, share }, server))
}

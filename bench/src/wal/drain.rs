//! How fast WAL leaves that has gathered while nobody took it.

use anyhow::{Context, Result};
use lifeboat_vocabulary::{Clock, SystemClock};
use serde::Serialize;

use super::exposure::seconds_between;
use super::ground::{Archiver, Ground, PATIENCE};
use super::load;
use super::table::{Column, Heading, Measured, Shown};
use super::watch::{Share, Watch, Watched};
use crate::tools::wal::Manner;

/// One backlog.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct DrainRun {
    pub(crate) wal_bytes: u64,
    /// From when archiving was taken up until both regions held all of it.
    pub(crate) seconds: f64,
    /// From the first of its objects in a region until then.
    pub(crate) flow_seconds: f64,
    /// Who used what.
    #[serde(flatten)]
    pub(crate) share: Share,
}

/// The heading, and what a reader must know.
pub(crate) const TEXT: Heading = Heading {
    title: "A backlog of WAL",
    rules: "\
The receiver is stopped (Lifeboat's daemon is ended, pgBackRest's `archive_command` is replaced by `/bin/false`), random
rows are updated right behind checkpoints until the server has written the backlog, and the receiver is started again.

- `wall s` is from that start, the daemon's own start included, until both regions hold everything; `MB/s` is the backlog
  divided by it, `flow MB/s` divided by the time since its first object was in a region.
- `wall x` and `CPU x` are multiples of the first tool's medians.",
};

/// The columns.
pub(crate) const COLUMNS: [Column<DrainRun>; 12] = [
    Column::new("WAL MB", 0, Shown::Median, |run| run.wal_bytes as f64 / 1e6),
    Column::new("wall s", 2, Shown::Range, |run| run.seconds),
    Column::new("MB/s", 0, Shown::Median, |run| run.wal_bytes as f64 / 1e6 / run.seconds),
    Column::new("flow MB/s", 0, Shown::Median, |run| run.wal_bytes as f64 / 1e6 / run.flow_seconds),
    Column::new("CPU s", 2, Shown::Range, |run| run.share.cpu_seconds),
    Column::new("PG CPU", 1, Shown::Median, |run| run.share.postgres_cpu_seconds),
    Column::new("S3 CPU", 1, Shown::Median, |run| run.share.region_cpu_seconds),
    Column::new("other", 1, Shown::Median, |run| run.share.other_cpu_seconds),
    Column::new("RSS one", 0, Shown::Median, |run| run.share.largest_process_bytes as f64 / f64::from(1 << 20)),
    Column::new("RSS all", 0, Shown::Median, |run| run.share.all_processes_bytes as f64 / f64::from(1 << 20)),
    Column::new("wall x", 2, Shown::Times, |run| run.seconds),
    Column::new("CPU x", 2, Shown::Times, |run| run.share.cpu_seconds),
];

/// A backlog with every tool.
pub(crate) fn measure(ground: &mut Ground<'_>, tools: &[Archiver<'_>]) -> Result<Vec<Measured<DrainRun>>> {
    let cells: Vec<(Archiver<'_>, Manner)> =
        tools.iter().filter_map(|tool| Some((*tool, *tool.wal.manners().first()?))).collect();
    let row = |(tool, manner): &(Archiver<'_>, Manner)| Measured::new("backlog, 2 regions", tool.title, manner.title());
    let mut rows: Vec<_> = cells.iter().map(row).collect();
    ground.take_turns(
        &mut rows,
        |run: &DrainRun| &run.share,
        |ground, index| match cells.get(index) {
            Some((tool, manner)) => run(ground, *tool, *manner),
            None => Ok(DrainRun::default()),
        },
    )?;
    Ok(rows)
}

fn run(ground: &mut Ground<'_>, tool: Archiver<'_>, manner: Manner) -> Result<DrainRun> {
    ground.clear(tool)?;
    load::prepare(ground.stage.cluster())?;
    let mut archiving = tool.wal.archive(ground.stage, manner)?;
    let from = ground.settle(tool)?;
    archiving.pause(ground.stage)?;
    let begin = load::flushed(ground.stage.cluster())?;
    load::write_wal(ground.stage.cluster(), ground.plan.wal_bytes)?;
    rustix::fs::sync();

    let watch = Watch::start(ground.stage, &tool.wal.crew(), Watched::Cluster)?;
    let resumed = SystemClock.now().as_unix_micros();
    archiving.resume(ground.stage)?;
    let end = load::switch(ground.stage.cluster())?;
    let stored = ground.wait_until_stored(tool, from, end, PATIENCE)?;
    let share = watch.finish(ground.stage, 0.0)?;

    let regions = ground.stored(tool)?;
    let first = regions.iter().flatten().filter(|piece| piece.end > begin).map(|piece| piece.at).min();
    archiving.end(ground.stage)?;
    Ok(DrainRun {
        wal_bytes: end - begin,
        seconds: seconds_between(resumed, stored),
        flow_seconds: seconds_between(first.context("no region holds anything")?, stored),
        share,
    })
}

//! How long WAL is on the server only, and what commits cost meanwhile.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::exposure::{Delays, InRegions, Sample, Step, exposures, latencies, together};
use super::ground::{Archiver, Ground};
use super::load::{self, Done, Load};
use super::sampler::Sampler;
use super::table::{Column, Heading, Measured, Shown};
use super::watch::{Share, Watch, Watched};
use crate::tools::wal::Manner;

/// How long the last WAL of a load is waited for.
const GRACE: Duration = Duration::from_secs(5);

/// How long WAL was not where it should be.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Held {
    /// From when the server had flushed it until it was there.
    pub(crate) latency: Delays,
    /// What a disaster would have cost at each sample.
    pub(crate) exposure: Delays,
}

/// One load with one tool.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct LatencyRun {
    /// Seconds that the load took.
    pub(crate) seconds: u32,
    /// What pgbench has counted.
    pub(crate) pgbench: Done,
    pub(crate) wal_bytes: u64,
    /// Until both regions hold it.
    pub(crate) both: Held,
    /// Until one of them does.
    pub(crate) one: Held,
    /// Requests to both regions meanwhile.
    pub(crate) requests: u64,
    /// Who used what.
    #[serde(flatten)]
    pub(crate) share: Share,
}

/// The heading, and what a reader must know.
pub(crate) const TEXT: Heading = Heading {
    title: "From commit to the regions",
    rules: "\
The standard transactions of pgbench run with four clients as fast as they can, and with one client at ten a second.
Every 50 ms one session asks the server up to where its WAL is flushed, and notes the time before the question. When an
object was completely in a region is that server's own account; which WAL it holds is in its name. No tool's own account
is used.

- `p50 s`, `p99 s`, `max s`: for each sample with new WAL, the time until both regions held everything up to there, without
  a hole. `one p99` is until the first of them did.
- `exp p50`, `exp p99`, `exp max`: at each sample, the age of the oldest sample that was not in both regions: seconds of
  commits that the loss of the server would have cost. `max s` and `exp max` are those of the worst run.
- `tps` and `commit ms` (mean) are what pgbench prints, `commit p99` is from its list of all transactions, without their
  waiting for their turn.
- A run begins behind a checkpoint and with a new segment. The quiet load of tools that archive segments takes a quarter
  longer than `archive_timeout`; WAL that was still missing in the end counts in `exp`, not in `p50 s`, `p99 s`, `max s`.
- `CPU s` is that of the tool's programs during the load, whoever has started them; `PG CPU`, `S3 CPU` and `other` as
  above. A run in which others used more than a tenth both of all the work and of one processor is thrown away. Memory is
  sampled every 50 ms.",
};

/// The columns.
pub(crate) const COLUMNS: [Column<LatencyRun>; 20] = [
    Column::new("tps", 0, Shown::Median, |run| run.pgbench.tps),
    Column::new("commit ms", 2, Shown::Median, |run| run.pgbench.mean_seconds * 1e3),
    Column::new("commit p99", 2, Shown::Median, |run| run.pgbench.times.p99 * 1e3),
    Column::new("p50 s", 3, Shown::Median, |run| run.both.latency.p50),
    Column::new("p99 s", 3, Shown::Median, |run| run.both.latency.p99),
    Column::new("max s", 3, Shown::Worst, |run| run.both.latency.max),
    Column::new("p99 x", 2, Shown::Times, |run| run.both.latency.p99),
    Column::new("one p99", 3, Shown::Median, |run| run.one.latency.p99),
    Column::new("exp p50", 3, Shown::Median, |run| run.both.exposure.p50),
    Column::new("exp p99", 3, Shown::Median, |run| run.both.exposure.p99),
    Column::new("exp max", 3, Shown::Worst, |run| run.both.exposure.max),
    Column::new("WAL MB/s", 1, Shown::Median, |run| run.wal_bytes as f64 / 1e6 / f64::from(run.seconds)),
    Column::new("requests/s", 1, Shown::Median, |run| run.requests as f64 / f64::from(run.seconds)),
    Column::new("CPU s", 2, Shown::Median, |run| run.share.cpu_seconds),
    Column::new("PG CPU", 1, Shown::Median, |run| run.share.postgres_cpu_seconds),
    Column::new("S3 CPU", 1, Shown::Median, |run| run.share.region_cpu_seconds),
    Column::new("other", 1, Shown::Median, |run| run.share.other_cpu_seconds),
    Column::new("RSS one", 0, Shown::Median, |run| run.share.largest_process_bytes as f64 / f64::from(1 << 20)),
    Column::new("RSS all", 0, Shown::Median, |run| run.share.all_processes_bytes as f64 / f64::from(1 << 20)),
    Column::new("CPU x", 2, Shown::Times, |run| run.share.cpu_seconds),
];

/// Both loads with all tools, in all their manners.
pub(crate) fn measure(ground: &mut Ground<'_>, tools: &[Archiver<'_>]) -> Result<Vec<Measured<LatencyRun>>> {
    let mut cells = Vec::new();
    for load in [Load::Full, Load::Quiet] {
        for tool in tools {
            cells.extend(tool.wal.manners().iter().map(|manner| Cell { tool: *tool, manner: *manner, load }));
        }
    }
    let mut rows: Vec<_> =
        cells.iter().map(|cell| Measured::new(cell.load.title(), cell.tool.title, cell.manner.title())).collect();
    ground.take_turns(
        &mut rows,
        |run: &LatencyRun| &run.share,
        |ground, index| match cells.get(index) {
            Some(cell) => cell.run(ground),
            None => Ok(LatencyRun::default()),
        },
    )?;
    Ok(rows)
}

/// One row of the table.
struct Cell<'t> {
    tool: Archiver<'t>,
    manner: Manner,
    load: Load,
}

impl Cell<'_> {
    fn seconds(&self, ground: &Ground<'_>) -> u32 {
        let least = ground.plan.cell_seconds;
        match (self.load, self.manner) {
            (Load::Quiet, Manner::Segments) => {
                let timeout = u32::try_from(ground.stage.archive_timeout().as_secs()).unwrap_or(u32::MAX);
                least.max(timeout.saturating_add(timeout.div_ceil(4)))
            }
            _ => least,
        }
    }

    fn run(&self, ground: &mut Ground<'_>) -> Result<LatencyRun> {
        let Self { tool, manner, load } = *self;
        let seconds = self.seconds(ground);
        ground.clear(tool)?;
        load::prepare(ground.stage.cluster())?;
        let archiving = tool.wal.archive(ground.stage, manner)?;
        rustix::fs::sync();
        let from = ground.settle(tool)?;
        let before = ground.requests(tool)?;
        let home = ground.stage.home("pgbench")?;

        let watch = Watch::start(ground.stage, &tool.wal.crew(), Watched::Cluster)?;
        let sampler = Sampler::start(ground.stage.cluster())?;
        let pgbench = load::run(ground.stage.cluster(), &home, load, seconds);
        let samples = sampler.finish()?;
        let share = watch.finish(ground.stage, 0.0)?;
        let requests = ground.requests(tool)? - before;

        let end = samples.last().map_or(from, |sample| sample.flushed);
        // What comes too late for this is seen in the exposure.
        // What is not there by then is seen in the exposure; a segment that is not full waits for archive_timeout.
        let in_time = ground.wait_until_stored(tool, from, end, GRACE);
        if let (Err(error), false) = (in_time, manner == Manner::Segments) {
            eprintln!("{}, {}: {error:#}", tool.title, manner.title());
        }
        let regions = ground.steps(tool, from)?;
        archiving.end(ground.stage)?;
        Ok(LatencyRun {
            seconds,
            pgbench: pgbench?,
            wal_bytes: end - samples.first().map_or(end, |sample| sample.flushed),
            both: held(from, &samples, &together(from, &regions, InRegions::All)),
            one: held(from, &samples, &together(from, &regions, InRegions::Any)),
            requests,
            share,
        })
    }
}

fn held(from: u64, samples: &[Sample], steps: &[Step]) -> Held {
    Held { latency: Delays::of(latencies(samples, steps)), exposure: Delays::of(exposures(from, samples, steps)) }
}

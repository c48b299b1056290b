//! The measurements of continuous WAL: how long commits are in one place only, how fast a backlog leaves, how long a
//! recovery takes.

mod drain;
mod exposure;
mod latency;
mod load;
pub mod recovered;
mod recovery;
mod sampler;
pub mod table;
pub mod watch;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use self::drain::DrainRun;
use self::exposure::{Holders, Step, Stored, reached, steps, together};
use self::latency::LatencyRun;
use self::recovery::RecoveryRun;
use self::table::{Measured, Section};
use self::watch::Share;
use crate::cli::Scenario;
use crate::rounds::Plan;
use crate::stage::Stage;
use crate::tools::Tool;
use crate::tools::wal::WalTool;

/// How often the regions are asked how far they are.
const POLL: Duration = Duration::from_millis(100);
/// How long archiving may take to begin, and a backlog to leave.
const PATIENCE: Duration = Duration::from_secs(1800);

/// All figures on WAL.
#[derive(Debug, Default, Serialize)]
pub struct WalReport {
    /// From commit to the regions.
    pub latency: Vec<Measured<LatencyRun>>,
    /// How fast a backlog leaves.
    pub drain: Vec<Measured<DrainRun>>,
    /// Recovery to the end of the WAL.
    pub recovery: Vec<Measured<RecoveryRun>>,
}

impl WalReport {
    /// The tables, those without rows left out.
    pub fn sections(&self) -> Vec<Section> {
        let sections = [
            Section::of(latency::TEXT, &self.latency, &latency::COLUMNS),
            Section::of(drain::TEXT, &self.drain, &drain::COLUMNS),
            Section::of(recovery::TEXT, &self.recovery, &recovery::COLUMNS),
        ];
        sections.into_iter().flatten().collect()
    }
}

/// Measures one scenario with all tools that have continuous WAL.
pub fn measure(
    (plan, stage): (&Plan, &mut Stage),
    scenario: Scenario,
    tools: &[Box<dyn Tool>],
    report: &mut WalReport,
) -> Result<()> {
    let tools: Vec<Archiver<'_>> = tools.iter().filter_map(|tool| Archiver::of(tool.as_ref())).collect();
    let mut ground = Ground { plan, stage };
    match scenario {
        Scenario::WalLatency => report.latency = latency::measure(&mut ground, &tools)?,
        Scenario::WalDrain => report.drain = drain::measure(&mut ground, &tools)?,
        Scenario::Recovery => report.recovery = recovery::measure(&mut ground, &tools)?,
        Scenario::Backup | Scenario::BackupTwo | Scenario::Restore => {}
    }
    Ok(())
}

/// A tool that has continuous WAL.
#[derive(Clone, Copy)]
struct Archiver<'t> {
    title: &'static str,
    bucket: &'static str,
    wal: &'t dyn WalTool,
}

impl<'t> Archiver<'t> {
    fn of(tool: &'t dyn Tool) -> Option<Self> {
        Some(Self { title: tool.title(), bucket: tool.bucket(), wal: tool.wal()? })
    }
}

/// Where measurements take place.
struct Ground<'a> {
    plan: &'a Plan,
    stage: &'a mut Stage,
}

impl Ground<'_> {
    /// Runs until there are enough that count; the rows take turns.
    fn take_turns<R>(
        &mut self,
        rows: &mut [Measured<R>],
        share: fn(&R) -> &Share,
        mut turn: impl FnMut(&mut Self, usize) -> Result<R>,
    ) -> Result<()> {
        for _ in 0..self.plan.turns_max() {
            for (index, row) in rows.iter_mut().enumerate() {
                if row.runs.len() >= self.plan.runs as usize {
                    continue;
                }
                let Measured { what, tool, manner, .. } = &*row;
                let label = format!("{what}: {tool}, {manner}");
                let run = turn(self, index).context(label.clone())?;
                let used = share(&run);
                let clean = used.is_clean(self.plan.foreign_percent_max);
                let verdict = if clean { "" } else { ", thrown away" };
                eprintln!("{label}: {:.1} s, others used {:.2} s{verdict}", used.wall_seconds, used.other_cpu_seconds);
                if clean {
                    row.runs.push(run);
                } else {
                    row.thrown_away += 1;
                }
            }
        }
        Ok(())
    }

    /// Makes the tool's buckets empty and counts requests from 0.
    fn clear(&mut self, tool: Archiver<'_>) -> Result<()> {
        for region in self.stage.regions_mut() {
            region.empty(tool.bucket)?;
            region.count_from_0()?;
        }
        Ok(())
    }

    /// Makes sure that archiving works, and returns up to where everything is in both regions.
    fn settle(&mut self, tool: Archiver<'_>) -> Result<u64> {
        let server = self.stage.cluster();
        let from = load::flushed(server)?;
        // A server that has written nothing since the last switch does not switch.
        server.psql("postgres", "select pg_logical_emit_message(false, 'bench', 'here')")?;
        let end = load::switch(server)?;
        self.wait_until_stored(tool, (from, end), PATIENCE)?;
        Ok(end)
    }

    /// Waits until both regions hold everything from one position to another, and returns the moment.
    fn wait_until_stored(&mut self, tool: Archiver<'_>, (from, to): (u64, u64), patience: Duration) -> Result<i64> {
        let begun = Instant::now();
        loop {
            let regions = self.steps(tool, from)?;
            if let Some(at) = reached(&together(from, &regions, Holders::All), to) {
                return Ok(at);
            }
            ensure!(begun.elapsed() < patience, "WAL does not reach both regions within {patience:?}");
            std::thread::sleep(POLL);
        }
    }

    /// How far each region had everything behind `from`, over time.
    fn steps(&mut self, tool: Archiver<'_>, from: u64) -> Result<Vec<Vec<Step>>> {
        Ok(self.stored(tool)?.into_iter().map(|stored| steps(from, stored)).collect())
    }

    /// The WAL that each region holds.
    fn stored(&mut self, tool: Archiver<'_>) -> Result<Vec<Vec<Stored>>> {
        let regions = self.stage.regions_mut().iter_mut();
        let stored = regions.map(|region| {
            let arrivals = region.arrivals(tool.bucket)?.into_iter().filter_map(|arrival| {
                let range = tool.wal.range(&arrival.key)?;
                Some(Stored { at: arrival.unix_micros, start: range.start, end: range.end })
            });
            Ok(arrivals.collect())
        });
        stored.collect()
    }

    /// Requests to both regions since [`Ground::clear`].
    fn requests(&mut self, tool: Archiver<'_>) -> Result<u64> {
        let regions = self.stage.regions_mut().iter_mut();
        regions.map(|region| Ok(region.contents(tool.bucket)?.requests)).sum()
    }
}

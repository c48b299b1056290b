//! Where measurements of continuous WAL take place.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::plan::Plan;
use crate::stage::Stage;
use crate::tools::tool::Tool;
use crate::tools::wal::WalTool;
use crate::wal::exposure::{InRegions, Step, Stored, reached, steps, together};
use crate::wal::load;
use crate::wal::table::Measured;
use crate::wal::watch::Share;

/// How often the regions are asked how far they are.
pub(super) const POLL: Duration = Duration::from_millis(100);
/// How long archiving may take to begin, and a backlog to leave.
pub(super) const PATIENCE: Duration = Duration::from_secs(1800);

/// A tool that has continuous WAL.
#[derive(Clone, Copy)]
pub(super) struct Archiver<'t> {
    pub(super) title: &'static str,
    pub(super) bucket: &'static str,
    pub(super) wal: &'t dyn WalTool,
}

impl<'t> Archiver<'t> {
    pub(super) fn of(tool: &'t dyn Tool) -> Option<Self> {
        Some(Self { title: tool.title(), bucket: tool.bucket(), wal: tool.wal()? })
    }
}

/// Where measurements take place.
pub(super) struct Ground<'a> {
    pub(super) plan: &'a Plan,
    pub(super) stage: &'a mut Stage,
}

impl Ground<'_> {
    /// Runs until there are enough that count; the rows take turns.
    pub(super) fn take_turns<R>(
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
    pub(super) fn clear(&mut self, tool: Archiver<'_>) -> Result<()> {
        for region in self.stage.regions_mut() {
            region.empty(tool.bucket)?;
            region.count_from_0()?;
        }
        Ok(())
    }

    /// Makes sure that archiving works, and returns up to where everything is in both regions.
    pub(super) fn settle(&mut self, tool: Archiver<'_>) -> Result<u64> {
        let server = self.stage.cluster();
        let from = load::flushed(server)?;
        // A server that has written nothing since the last switch does not switch.
        server.psql("postgres", "select pg_logical_emit_message(false, 'bench', 'here')")?;
        let end = load::switch(server)?;
        self.wait_until_stored(tool, from, end, PATIENCE)?;
        Ok(end)
    }

    /// Waits until both regions hold everything from one position to another, and returns the moment.
    pub(super) fn wait_until_stored(
        &mut self,
        tool: Archiver<'_>,
        from: u64,
        to: u64,
        patience: Duration,
    ) -> Result<i64> {
        let begun = Instant::now();
        loop {
            let regions = self.steps(tool, from)?;
            if let Some(at) = reached(&together(from, &regions, InRegions::All), to) {
                return Ok(at);
            }
            ensure!(begun.elapsed() < patience, "WAL does not reach both regions within {patience:?}");
            std::thread::sleep(POLL);
        }
    }

    /// How far each region had everything behind `from`, over time.
    pub(super) fn steps(&mut self, tool: Archiver<'_>, from: u64) -> Result<Vec<Vec<Step>>> {
        Ok(self.stored(tool)?.into_iter().map(|stored| steps(from, stored)).collect())
    }

    /// The WAL that each region holds.
    pub(super) fn stored(&mut self, tool: Archiver<'_>) -> Result<Vec<Vec<Stored>>> {
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
    pub(super) fn requests(&mut self, tool: Archiver<'_>) -> Result<u64> {
        let regions = self.stage.regions_mut().iter_mut();
        regions.map(|region| Ok(region.contents(tool.bucket)?.requests)).sum()
    }
}

//! The order of the runs: tools take turns, so that a machine that grows slower does so for all of them.

use anyhow::{Context, Result, ensure};
use lifeboat_testkit::{RestoredServer, Stop};
use lifeboat_vocabulary::{Clock, SystemClock};

use crate::cluster;
use crate::figures::{Cost, Run};
use crate::machine::Machine;
use crate::meter;
use crate::plan::{Plan, Scenario};
use crate::report::{Report, Row, ToolReport};
use crate::stage::{Stage, warm};
use crate::tools::tool::Tool;
use crate::tools::{self};
use crate::wal::{self, WalReport, watch};

/// Sets the stage, measures everything and takes the stage down again.
pub(crate) fn run(plan: &Plan) -> Result<Report> {
    for name in &plan.tools {
        tools::check(*name, plan)?;
    }
    watch::adopt_orphans()?;
    let mut stage = Stage::set(plan)?;
    let tools = plan.tools.iter().map(|name| tools::open(*name, plan, &stage)).collect::<Result<Vec<_>>>()?;
    let (mut rows, mut wal) = (Vec::new(), WalReport::default());
    for scenario in &plan.scenarios {
        match scenario {
            Scenario::Backup | Scenario::BackupTwo | Scenario::Restore => {
                let mut round = Round { plan, stage: &mut stage, scenario: *scenario };
                rows.extend(round.measure(&tools)?);
            }
            Scenario::WalLatency | Scenario::WalDrain | Scenario::Recovery => {
                wal::measure(plan, &mut stage, *scenario, &tools, &mut wal).context(scenario.title())?;
            }
        }
    }
    let described = |tool: &dyn Tool| ToolReport {
        title: tool.title(),
        version: tool.version().to_owned(),
        settings: tool.settings(),
    };
    Ok(Report {
        measured_at: SystemClock.now().for_tables(),
        machine: Machine::here()?,
        postgres: stage.cluster().psql("postgres", "show server_version")?,
        data_bytes: stage.data_bytes(),
        runs: plan.runs,
        tools: tools.iter().map(|tool| described(tool.as_ref())).collect(),
        rows,
        wal,
    })
}

/// All runs of one operation.
struct Round<'a> {
    plan: &'a Plan,
    stage: &'a mut Stage,
    scenario: Scenario,
}

impl Round<'_> {
    fn measure(&mut self, tools: &[Box<dyn Tool>]) -> Result<Vec<Row>> {
        let mut rows: Vec<_> = tools.iter().map(|tool| Row::new(self.scenario, tool.title())).collect();
        if self.scenario == Scenario::Restore {
            for tool in tools {
                self.prove(tool.as_ref())?;
            }
        }
        for _ in 0..self.plan.turns_max() {
            for (tool, row) in tools.iter().zip(&mut rows) {
                if row.runs.len() < self.plan.runs as usize {
                    let run = self.turn(tool.as_ref())?;
                    self.take(run, row);
                }
            }
        }
        Ok(rows)
    }

    fn turn(&mut self, tool: &dyn Tool) -> Result<Run> {
        let (scenario, title) = (self.scenario.title(), tool.title());
        let turn = match self.scenario {
            Scenario::Restore => self.restore(tool),
            _ => self.backup(tool),
        };
        turn.with_context(|| format!("{scenario} with {title}"))
    }

    fn take(&self, run: Run, row: &mut Row) {
        let Cost { wall_seconds, other_cpu_seconds, .. } = run.cost;
        let clean = run.cost.is_clean(self.plan.foreign_percent_max);
        let verdict = if clean { "" } else { ", thrown away" };
        let (scenario, tool) = (row.scenario, row.tool);
        eprintln!("{scenario}: {tool}: {wall_seconds:.2} s, others used {other_cpu_seconds:.2} s{verdict}");
        if clean {
            row.runs.push(run);
        } else {
            row.thrown_away += 1;
        }
    }

    /// One full backup into empty buckets.
    fn backup(&mut self, tool: &dyn Tool) -> Result<Run> {
        let copies = self.scenario.copies();
        for region in self.stage.regions_mut() {
            region.empty(tool.bucket())?;
        }
        tool.prepare(self.stage, copies)?;
        // Whoever comes first would otherwise pay for writing what the tools before left in the buffers.
        self.stage.cluster().psql("postgres", "checkpoint")?;
        rustix::fs::sync();
        warm(self.stage.cluster().data_dir())?;
        let command = tool.backup(self.stage, copies);
        let run = self.observed(tool, |stage| meter::measure(stage, &command, &format!("{}-backup", tool.bucket())));
        tool.finish(self.stage)?;
        run
    }

    /// One restore into an empty directory.
    fn restore(&mut self, tool: &dyn Tool) -> Result<Run> {
        self.stage.clear_target()?;
        rustix::fs::sync();
        let command = tool.restore(self.stage);
        self.observed(tool, |stage| meter::measure(stage, &command, &format!("{}-restore", tool.bucket())))
    }

    /// Makes the backup that the measured restores read, restores it once without measuring, and compares what the
    /// restored cluster says. The first restore is slower than all later ones, so it is none of them.
    fn prove(&mut self, tool: &dyn Tool) -> Result<()> {
        let title = tool.title();
        self.backup(tool).and_then(|_| self.restore(tool)).with_context(|| format!("try a restore with {title}"))?;
        let mut server = RestoredServer::start(&self.stage.target(), self.plan.postgres)
            .with_context(|| format!("start what {title} has restored"))?;
        let facts = cluster::facts(&server)?;
        ensure!(facts == self.stage.facts(), "{title} has restored other rows:\n{facts}not\n{}", self.stage.facts());
        server.stop(Stop::Fast)?;
        eprintln!("{title} restores every row");
        Ok(())
    }

    fn observed(&mut self, tool: &dyn Tool, measure: impl FnOnce(&Stage) -> Result<Cost>) -> Result<Run> {
        for region in self.stage.regions_mut() {
            region.count_from_0()?;
        }
        let mut run = Run { cost: measure(self.stage)?, ..Run::default() };
        for region in self.stage.regions_mut() {
            let contents = region.contents(tool.bucket())?;
            run.stored_bytes += contents.bytes;
            run.objects += contents.objects;
            run.requests += contents.requests;
        }
        Ok(run)
    }
}

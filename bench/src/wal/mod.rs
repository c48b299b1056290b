//! The measurements of continuous WAL: how long commits are in one place only, how fast a backlog leaves, how long a
//! recovery takes.

mod drain;
mod exposure;
mod ground;
mod latency;
mod load;
pub(crate) mod recovered;
mod recovery;
mod sampler;
pub(crate) mod table;
pub(crate) mod watch;

use anyhow::Result;
use serde::Serialize;

use self::drain::DrainRun;
use self::ground::{Archiver, Ground};
use self::latency::LatencyRun;
use self::recovery::RecoveryRun;
use self::table::{Measured, Section};
use crate::plan::Plan;
use crate::plan::Scenario;
use crate::stage::Stage;
use crate::tools::tool::Tool;

/// All figures on WAL.
#[derive(Debug, Default, Serialize)]
pub(crate) struct WalReport {
    /// From commit to the regions.
    pub(crate) latency: Vec<Measured<LatencyRun>>,
    /// How fast a backlog leaves.
    pub(crate) drain: Vec<Measured<DrainRun>>,
    /// Recovery to the end of the WAL.
    pub(crate) recovery: Vec<Measured<RecoveryRun>>,
}

impl WalReport {
    /// The tables, those without rows left out.
    pub(crate) fn sections(&self) -> Vec<Section> {
        let sections = [
            Section::of(latency::TEXT, &self.latency, &latency::COLUMNS),
            Section::of(drain::TEXT, &self.drain, &drain::COLUMNS),
            Section::of(recovery::TEXT, &self.recovery, &recovery::COLUMNS),
        ];
        sections.into_iter().flatten().collect()
    }
}

/// Measures one scenario with all tools that have continuous WAL.
pub(crate) fn measure(
    plan: &Plan,
    stage: &mut Stage,
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

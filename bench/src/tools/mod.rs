//! What is measured: one struct per tool, which knows its programs, its settings and its commands.

mod lifeboat;
mod lifeboat_wal;
mod pgbackrest;
mod pgbackrest_wal;
mod script;
pub mod wal;

use std::collections::BTreeMap;

use anyhow::Result;

use self::wal::WalTool;
use crate::cli::ToolName;
use crate::prerequisites;
use crate::rounds::Plan;
use crate::stage::Stage;

/// The bucket of each tool, in every region.
pub const BUCKETS: [&str; 3] = [lifeboat::BUCKET, pgbackrest::BUCKET, script::BUCKET];

/// In how many regions a backup is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// In the first.
    One,
    /// In both.
    Two,
}

impl Copies {
    /// The number of regions.
    pub fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// A command for `bash`.
#[derive(Clone, Debug)]
pub struct Shell {
    /// What it runs.
    pub text: String,
    /// Variables that it needs.
    pub environment: BTreeMap<&'static str, String>,
}

impl Shell {
    /// A command without an environment of its own.
    pub fn new(text: String) -> Self {
        Self { text, environment: BTreeMap::new() }
    }
}

/// A backup tool.
pub trait Tool {
    /// Its name in the report.
    fn title(&self) -> &'static str;
    /// Its programs and their versions.
    fn version(&self) -> &str;
    /// How it is set up, for the reader of the report.
    fn settings(&self) -> &'static str;
    /// Its bucket in every region.
    fn bucket(&self) -> &'static str;
    /// Makes everything that a first backup needs, in empty buckets. Not measured.
    fn prepare(&self, stage: &Stage, copies: Copies) -> Result<()>;
    /// The command that makes a full backup.
    fn backup(&self, stage: &Stage, copies: Copies) -> Shell;
    /// Takes back what `prepare` changed in the cluster. Not measured.
    fn finish(&self, stage: &Stage) -> Result<()>;
    /// The command that restores the backup from the first region into the empty target directory.
    fn restore(&self, stage: &Stage) -> Shell;
    /// What it does with continuous WAL; `None` if it has no such thing.
    fn wal(&self) -> Option<&dyn WalTool>;
}

/// Finds a tool's programs, or installs them: before a large cluster is made for nothing.
pub fn check(name: ToolName, plan: &Plan) -> Result<()> {
    match name {
        ToolName::Lifeboat => lifeboat::programs(plan.bin_dir.as_deref()).map(drop),
        ToolName::Pgbackrest => prerequisites::pgbackrest().map(drop),
        ToolName::Script => script::programs().map(drop),
    }
}

/// Sets a tool up on stage.
pub fn open(name: ToolName, plan: &Plan, stage: &Stage) -> Result<Box<dyn Tool>> {
    Ok(match name {
        ToolName::Lifeboat => Box::new(lifeboat::Lifeboat::open(plan.bin_dir.as_deref(), stage)?),
        ToolName::Pgbackrest => Box::new(pgbackrest::Pgbackrest::open(stage)?),
        ToolName::Script => Box::new(script::Script::open(stage)?),
    })
}

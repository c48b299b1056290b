//! What is measured: one struct per tool, which knows its programs, its settings and its commands.

mod lifeboat;
mod lifeboat_wal;
mod pgbackrest;
mod pgbackrest_wal;
mod script;
pub(crate) mod tool;
pub(crate) mod wal;

use anyhow::Result;

use self::tool::Tool;
use crate::plan::{Plan, ToolName};
use crate::prerequisites;
use crate::stage::Stage;

/// Finds a tool's programs, or installs them: before a large cluster is made for nothing.
pub(crate) fn check(name: ToolName, plan: &Plan) -> Result<()> {
    match name {
        ToolName::Lifeboat => lifeboat::programs(plan.bin_dir.as_deref()).map(drop),
        ToolName::Pgbackrest => prerequisites::pgbackrest().map(drop),
        ToolName::Script => script::programs().map(drop),
    }
}

/// Sets a tool up on stage.
pub(crate) fn open(name: ToolName, plan: &Plan, stage: &Stage) -> Result<Box<dyn Tool>> {
    Ok(match name {
        ToolName::Lifeboat => Box::new(lifeboat::Lifeboat::open(plan.bin_dir.as_deref(), stage)?),
        ToolName::Pgbackrest => Box::new(pgbackrest::Pgbackrest::open(stage)?),
        ToolName::Script => Box::new(script::Script::open(stage)?),
    })
}

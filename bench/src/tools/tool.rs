//! What a backup tool has to do, whichever it is.

use anyhow::Result;

use crate::plan::Copies;
use crate::shell::Shell;
use crate::stage::Stage;
use crate::tools::wal::WalTool;

/// A backup tool.
pub(crate) trait Tool {
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

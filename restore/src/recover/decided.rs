//! A restore whose every step is decided, and what it took.

use std::time::Duration;

use lifeboat_cli::access::{Keys, Repository};
use lifeboat_cli::place::PlaceArgs;
use lifeboat_cli::terminal::Output;
use lifeboat_postgres::BackupFacts;

use crate::command_line::RestoreArgs;
use crate::fetch::plan::RestorePlan;
use crate::recover::decide::Decision;
use crate::recover::watch::Recovered;

/// A restore whose every step is decided.
pub(crate) struct Restore<'a> {
    pub(crate) place: &'a PlaceArgs,
    pub(crate) args: &'a RestoreArgs,
    pub(crate) repository: &'a Repository,
    pub(crate) keys: Keys,
    pub(crate) decision: Decision,
    pub(crate) plan: RestorePlan,
    pub(crate) facts: BackupFacts,
    pub(crate) output: Output,
}

/// What a restore took.
pub(crate) struct Done {
    pub(crate) fetched: Duration,
    pub(crate) flushed: Duration,
    pub(crate) recovered: Option<Recovered>,
    /// What became of the configuration, where it is not as it was.
    pub(crate) configuration: Vec<String>,
}

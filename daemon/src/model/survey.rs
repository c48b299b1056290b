//! What the logs of a cluster's regions say together.

use std::collections::BTreeMap;

use lifeboat_vocabulary::{BackupId, RegionName, WalPosition};

use crate::model::snapshot::{BackupStatus, Point, RegionLogStatus};

/// What the logs say together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Survey {
    /// Every region that was read, by name.
    pub(crate) regions: BTreeMap<RegionName, RegionLogStatus>,
    /// The newest good backup that enough regions hold.
    pub(crate) last: Option<BackupStatus>,
    /// The oldest good backup that nobody gives up and from which the kept WAL leads on: its name and where it ends.
    pub(crate) oldest: Option<(BackupId, Point)>,
    /// Good backups that are kept for longer than the WAL behind them: each of them leads to its own end, and no further.
    pub(crate) islands: usize,
    /// Where the oldest of them ends.
    pub(crate) oldest_island: Option<Point>,
    /// Where the newest good backup ends, whoever holds it.
    pub(crate) newest: Option<Point>,
    /// Where that one begins, to compare with.
    pub(crate) newest_start: Option<WalPosition>,
    /// Where the oldest ends, to compare with.
    pub(crate) oldest_position: Option<WalPosition>,
    /// Ranges behind it that recovery cannot cross, in words.
    pub(crate) gaps: Vec<String>,
}

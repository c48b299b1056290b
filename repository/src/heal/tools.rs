//! What healing works on, and what it works with.

use std::time::Duration;

use lifeboat_vocabulary::Clock;
use tokio_util::sync::CancellationToken;

use crate::heal::pace::Pace;
use crate::heal::progress::HealProgress;
use crate::log::note::NoteSigner;
use crate::log::region_log::{LogTrust, RegionLog};
use crate::log::region_store::RegionStore;

/// WAL that was written later than this is on its way to all regions by itself.
pub const SETTLED_AFTER: Duration = Duration::from_secs(120);

/// A region with its log, read and checked.
#[derive(Clone, Debug)]
pub struct HealRegion {
    /// The region.
    pub store: RegionStore,
    /// Its log.
    pub log: RegionLog,
}

/// What healing works with.
#[derive(Clone, Copy)]
pub struct HealTools<'a> {
    /// Signs the records that are written into the region's log.
    pub signer: &'a NoteSigner,
    /// What logs and WAL are measured against.
    pub trust: &'a LogTrust,
    /// The bound for bytes that are copied.
    pub pace: &'a Pace,
    /// Where it reports how far it is.
    pub progress: &'a HealProgress,
    /// Ends it between two objects, or within one.
    pub stop: &'a CancellationToken,
    /// The machine's clock.
    pub clock: &'a dyn Clock,
    /// How records name the program.
    pub tool: &'a str,
    /// How old WAL must be, see [`SETTLED_AFTER`].
    pub settled: Duration,
    /// How it is found out what the region lacks of the backups that its log has.
    pub look: Look,
}

/// How it is found out what a region lacks of the backups that its log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The region is listed, and compared with the lists of the backups.
    AtObjects,
    /// By the records of damage in its log: somebody else lists it.
    AtRecords,
}

//! What is to be measured, and how.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

/// The bucket of each tool, in every region: that of Lifeboat, of pgBackRest and of the script.
pub(crate) const BUCKETS: [&str; 3] = ["lifeboat", "pgbackrest", "script"];

/// A tool to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ToolName {
    /// This project.
    Lifeboat,
    /// pgBackRest from the system's packages.
    Pgbackrest,
    /// `pg_basebackup`, zstd, openssl and awscli in a pipe.
    Script,
}

/// An operation to measure. Those that change the cluster come last, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Scenario {
    /// A full backup to one region.
    Backup,
    /// A full backup to two regions.
    BackupTwo,
    /// A restore from one region.
    Restore,
    /// How long commits are on the server only, under load and without.
    WalLatency,
    /// How fast a backlog of WAL gets to two regions.
    WalDrain,
    /// A restore from one region and the replay of all WAL.
    Recovery,
}

impl Scenario {
    /// What a reader of the report sees.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Backup => "full backup, 1 region",
            Self::BackupTwo => "full backup, 2 regions",
            Self::Restore => "restore, 1 region",
            Self::WalLatency => "from commit to 2 regions",
            Self::WalDrain => "backlog of WAL, 2 regions",
            Self::Recovery => "recovery, 1 region",
        }
    }

    /// In how many regions the backup is.
    pub(crate) fn copies(self) -> Copies {
        match self {
            Self::Backup | Self::Restore | Self::Recovery => Copies::One,
            Self::BackupTwo | Self::WalLatency | Self::WalDrain => Copies::Two,
        }
    }
}

/// In how many regions a backup is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copies {
    /// In the first.
    One,
    /// In both.
    Two,
}

impl Copies {
    /// The number of regions.
    pub(crate) fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// `archive_timeout` of tools that archive segments, unless everything is to be quick.
pub(crate) const ARCHIVE_TIMEOUT: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The tools, the one to compare with first.
    pub(crate) tools: Vec<ToolName>,
    /// The operations.
    pub(crate) scenarios: Vec<Scenario>,
    /// The least size of the cluster, in bytes.
    pub(crate) bytes: u64,
    /// Measured runs of each.
    pub(crate) runs: u32,
    /// The most that others may use of a run's own processor time, in percent.
    pub(crate) foreign_percent_max: u32,
    /// **Seconds** of each load under which the way of commits is measured.
    pub(crate) cell_seconds: u32,
    /// `archive_timeout` of tools that archive segments.
    pub(crate) archive_timeout: Duration,
    /// Bytes of WAL in a backlog, and at least in a recovery.
    pub(crate) wal_bytes: u64,
    /// **Seconds** of load before a recovery.
    pub(crate) recovery_seconds: u32,
    /// PostgreSQL's major version.
    pub(crate) postgres: u32,
    /// Where Lifeboat's binaries are; `None`: beside this program.
    pub(crate) bin_dir: Option<PathBuf>,
}

impl Plan {
    /// Turns of each tool at the most: a machine that is never quiet must not keep us for ever.
    pub(crate) fn turns_max(&self) -> u32 {
        self.runs * 2 + 2
    }
}

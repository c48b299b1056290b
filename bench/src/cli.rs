//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::measured::Measured;
use crate::plan::{ARCHIVE_TIMEOUT, Plan, Scenario, ToolName};
use crate::serve_s3::ServeS3;

/// Measures backups, restores, continuous WAL and recovery of Lifeboat, pgBackRest and a hand-made script on a
/// PostgreSQL cluster that it makes for the purpose. Nothing else should run on the machine.
#[derive(Debug, Parser)]
#[command(name = "lifeboat-bench", version, about, args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    /// What to measure; ratios are relative to the first.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "lifeboat,pgbackrest,script")]
    pub(crate) tools: Vec<ToolName>,
    /// Which operations.
    #[arg(long, value_enum, value_delimiter = ',', default_value = ALL_SCENARIOS)]
    pub(crate) scenarios: Vec<Scenario>,
    /// Size of the cluster, in GiB.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) gib: u32,
    /// Measured runs of each tool and operation; medians are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) runs: u32,
    /// Seconds of each load in wal-latency; tools that archive segments get at least 75 for the quiet one.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) cell_seconds: u32,
    /// WAL in wal-drain, and at least so much in recovery, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=65536))]
    pub(crate) wal_mib: u32,
    /// Seconds of load between base backup and recovery.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) recovery_seconds: u32,
    /// A cluster of some 50 MB, short loads, and no run thrown away: shows that everything works, its figures mean
    /// nothing.
    #[arg(long, conflicts_with_all = ["gib", "cell_seconds", "wal_mib", "recovery_seconds"])]
    pub(crate) quick: bool,
    /// Throw a run away when other processes used more than this share of its own processor time, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) foreign_limit: u32,
    /// PostgreSQL's major version.
    #[arg(long, value_name = "MAJOR", default_value_t = 15)]
    pub(crate) postgres: u32,
    /// Where `lifeboatd` and `lifeboat-restore` are [default: beside this program]
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Also write the report as a Markdown page.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// Parts of the harness that it starts itself.
    #[command(subcommand)]
    pub(crate) part: Option<Part>,
}

/// The default of `--scenarios`.
const ALL_SCENARIOS: &str = "backup,backup-two,restore,wal-latency,wal-drain,recovery";

/// Parts of the harness that run as processes of their own.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Serve one region; commands on standard input
    #[command(hide = true)]
    ServeS3(ServeS3),
    /// Run one command and print what it used
    #[command(hide = true)]
    Measured(Measured),
}

/// What everything comes to with `--quick`.
const QUICK: Amounts = Amounts {
    bytes: 50_000_000,
    foreign_percent_max: u32::MAX,
    cell_seconds: 1,
    archive_timeout: Duration::from_secs(2),
    wal_bytes: 20_000_000,
    recovery_seconds: 1,
};

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Amounts {
    bytes: u64,
    foreign_percent_max: u32,
    cell_seconds: u32,
    archive_timeout: Duration,
    wal_bytes: u64,
    recovery_seconds: u32,
}

impl Arguments {
    /// What to do, with the defaults of `--quick` applied, and in an order in which nothing changes what comes after.
    pub(crate) fn plan(&self) -> Plan {
        let asked = Amounts {
            bytes: u64::from(self.gib) << 30,
            foreign_percent_max: self.foreign_limit,
            cell_seconds: self.cell_seconds,
            archive_timeout: ARCHIVE_TIMEOUT,
            wal_bytes: u64::from(self.wal_mib) << 20,
            recovery_seconds: self.recovery_seconds,
        };
        let amounts = if self.quick { QUICK } else { asked };
        let mut scenarios = self.scenarios.clone();
        scenarios.sort_unstable();
        scenarios.dedup();
        Plan {
            tools: self.tools.clone(),
            scenarios,
            bytes: amounts.bytes,
            runs: self.runs,
            foreign_percent_max: amounts.foreign_percent_max,
            cell_seconds: amounts.cell_seconds,
            archive_timeout: amounts.archive_timeout,
            wal_bytes: amounts.wal_bytes,
            recovery_seconds: amounts.recovery_seconds,
            postgres: self.postgres,
            bin_dir: self.bin_dir.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn a_command_line_that_contradicts_itself_is_refused_and_the_definition_does_not() {
        for arguments in [
            ["--gib", "4", "--quick"].as_slice(),
            &["--quick", "--cell-seconds", "30"],
            &["--wal-mib", "1"],
            &["--recovery-seconds", "0"],
            &["--runs", "0"],
            &["--gib", "0"],
            &["--tools", "barman"],
            &["--scenarios", "backup,nothing"],
            &["--foreign-limit", "0"],
            &["--json", "serve-s3"],
            &["measured", "--log", "/dev/null", "--limit-seconds", "1"],
        ] {
            let line = ["lifeboat-bench"].iter().chain(arguments);
            assert!(Arguments::try_parse_from(line).is_err(), "{arguments:?}");
        }
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_default_plan_is_the_one_that_is_published() {
        let plan = Arguments::try_parse_from(["lifeboat-bench"]).unwrap().plan();
        assert_eq!(plan.tools, [ToolName::Lifeboat, ToolName::Pgbackrest, ToolName::Script]);
        let wal = [Scenario::WalLatency, Scenario::WalDrain, Scenario::Recovery];
        assert_eq!(plan.scenarios, [[Scenario::Backup, Scenario::BackupTwo, Scenario::Restore], wal].concat());
        assert_eq!((plan.bytes, plan.runs, plan.foreign_percent_max, plan.postgres), (4 << 30, 5, 10, 15));
        assert_eq!((plan.cell_seconds, plan.wal_bytes, plan.recovery_seconds), (30, 1 << 30, 60));
        let quick = Arguments::try_parse_from(["lifeboat-bench", "--quick", "--runs", "1"]).unwrap().plan();
        assert_eq!((quick.bytes, quick.runs, quick.foreign_percent_max), (50_000_000, 1, u32::MAX));
        assert_eq!((quick.cell_seconds, quick.archive_timeout.as_secs()), (1, 2));
    }

    #[test]
    fn scenarios_that_change_the_cluster_come_last_and_none_comes_twice() {
        let arguments = ["lifeboat-bench", "--scenarios", "recovery,backup,wal-drain,backup"];
        let plan = Arguments::try_parse_from(arguments).unwrap().plan();
        assert_eq!(plan.scenarios, [Scenario::Backup, Scenario::WalDrain, Scenario::Recovery]);
    }
}

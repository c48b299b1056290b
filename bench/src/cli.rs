//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::rounds::Plan;
use crate::tools::Copies;

/// Measures full backups and restores of Lifeboat, pgBackRest and a hand-made script on a PostgreSQL cluster that it
/// makes for the purpose. Nothing else should run on the machine.
#[derive(Debug, Parser)]
#[command(name = "lifeboat-bench", version, about, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// What to measure; ratios are relative to the first.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "lifeboat,pgbackrest,script")]
    pub tools: Vec<ToolName>,
    /// Which operations.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "backup,backup-two,restore")]
    pub scenarios: Vec<Scenario>,
    /// Size of the cluster, in GiB.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub gib: u32,
    /// Measured runs of each tool and operation; medians are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub runs: u32,
    /// A cluster of some 50 MB and no run thrown away: shows that everything works, its figures mean nothing.
    #[arg(long, conflicts_with = "gib")]
    pub quick: bool,
    /// Throw a run away when other processes used more than this share of its own processor time, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub foreign_limit: u32,
    /// PostgreSQL's major version.
    #[arg(long, value_name = "MAJOR", default_value_t = 15)]
    pub postgres: u32,
    /// Where `lifeboatd` and `lifeboat-restore` are [default: beside this program]
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
    /// Also write the report as a Markdown page.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Parts of the harness that it starts itself.
    #[command(subcommand)]
    pub part: Option<Part>,
}

/// A tool to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ToolName {
    /// This project.
    Lifeboat,
    /// pgBackRest from the system's packages.
    Pgbackrest,
    /// `pg_basebackup`, zstd, openssl and awscli in a pipe.
    Script,
}

/// An operation to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// A full backup to one region.
    Backup,
    /// A full backup to two regions.
    BackupTwo,
    /// A restore from one region.
    Restore,
}

impl Scenario {
    /// What a reader of the report sees.
    pub fn title(self) -> &'static str {
        match self {
            Self::Backup => "full backup, 1 region",
            Self::BackupTwo => "full backup, 2 regions",
            Self::Restore => "restore, 1 region",
        }
    }

    /// In how many regions the backup is.
    pub fn copies(self) -> Copies {
        match self {
            Self::Backup | Self::Restore => Copies::One,
            Self::BackupTwo => Copies::Two,
        }
    }
}

/// Parts of the harness that run as processes of their own.
#[derive(Debug, Subcommand)]
pub enum Part {
    /// Serve one region; commands on standard input
    #[command(hide = true)]
    ServeS3(ServeS3),
    /// Run one command and print what it used
    #[command(hide = true)]
    Measured(Measured),
}

/// One region.
#[derive(Debug, Args)]
pub struct ServeS3 {
    /// Where to listen.
    #[arg(long)]
    pub listen: SocketAddr,
    /// Buckets that exist from the start.
    #[arg(long = "bucket")]
    pub buckets: Vec<String>,
    /// PEM file with the certificate chain.
    #[arg(long)]
    pub tls_cert: PathBuf,
    /// PEM file with its key.
    #[arg(long)]
    pub tls_key: PathBuf,
}

/// One command.
#[derive(Debug, Args)]
pub struct Measured {
    /// File for the command's output.
    #[arg(long)]
    pub log: PathBuf,
    /// Kill the command after this many seconds.
    #[arg(long)]
    pub limit_seconds: u64,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// Size of the cluster for `--quick`, in bytes.
const QUICK_BYTES: u64 = 50_000_000;
/// Nobody else's work is too much for `--quick`.
const ANY_PERCENT: u32 = u32::MAX;

impl Arguments {
    /// What to do, with the defaults of `--quick` applied.
    pub fn plan(&self) -> Plan {
        let (bytes, foreign_percent_max) =
            if self.quick { (QUICK_BYTES, ANY_PERCENT) } else { (u64::from(self.gib) << 30, self.foreign_limit) };
        Plan {
            tools: self.tools.clone(),
            scenarios: self.scenarios.clone(),
            bytes,
            runs: self.runs,
            foreign_percent_max,
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
        assert_eq!(plan.scenarios, [Scenario::Backup, Scenario::BackupTwo, Scenario::Restore]);
        assert_eq!((plan.bytes, plan.runs, plan.foreign_percent_max, plan.postgres), (4 << 30, 5, 10, 15));
        let quick = Arguments::try_parse_from(["lifeboat-bench", "--quick", "--runs", "1"]).unwrap().plan();
        assert_eq!((quick.bytes, quick.runs, quick.foreign_percent_max), (QUICK_BYTES, 1, ANY_PERCENT));
    }
}

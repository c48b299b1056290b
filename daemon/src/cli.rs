//! The command line of `lifeboatd`.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use lifeboat_vocabulary::ClusterName;

/// Backs up PostgreSQL to several regions in one pass, encrypted and signed.
#[derive(Debug, Parser)]
#[command(name = "lifeboatd", version, about, arg_required_else_help = true)]
pub struct Cli {
    /// The configuration file.
    #[arg(long, value_name = "FILE", global = true, default_value = "/etc/lifeboat/lifeboat.toml")]
    pub config: PathBuf,
    /// The cluster, where the configuration has several.
    #[arg(long, value_name = "NAME", global = true)]
    pub cluster: Option<ClusterName>,
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create the repository in every region, and the signing key where its file does not exist yet.
    Init,
    /// Check the configuration and say where every value came from.
    CheckConfig,
    /// Try everything that a backup needs: server, rights, regions, keys, clock, memory.
    Doctor,
    /// Make a backup now.
    Backup {
        /// Which kind.
        #[arg(long = "type", value_enum, default_value_t = BackupKind::Full)]
        kind: BackupKind,
    },
    /// Protect every cluster: receive its WAL without a break, and make the base backups that it needs.
    Run,
    /// Show how it stands: what would be lost now, and how far every region is.
    Status,
    /// Let a restored copy take over: it writes into the repository from now on, and the original is refused.
    Adopt,
    /// List all backups and where they are.
    List,
    /// Print a completion script.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

/// Kinds of backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackupKind {
    /// Everything is read and uploaded anew.
    Full,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

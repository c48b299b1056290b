//! The command line of `lifeboatd`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lifeboat_repository::format::HoldId;
use lifeboat_vocabulary::{BackupId, ClusterName};

use crate::base::expiry::Expiry;

use crate::commands::pause::{PauseArgs, ResumeArgs};

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
    Status(StatusArgs),
    /// Stop deletion, scheduled backups, healing or scrub by hand, with a reason, an owner and an end.
    Pause(PauseArgs),
    /// Let go on what was paused; for deletion also what froze by itself.
    Resume(ResumeArgs),
    /// Let a restored copy take over: it writes into the repository from now on, and the original is refused.
    Adopt,
    /// Bring every region what it lacks of what is kept, from regions that have it.
    Heal(crate::commands::heal::HealArgs),
    /// Check that everything that is stored is there; with `--full`, read it back and prove it.
    Scrub(crate::commands::scrub::ScrubArgs),
    /// List all backups and where they are.
    List,
    /// Show or carry out what the retention policy says.
    Retention {
        /// Which of both.
        #[command(subcommand)]
        command: RetentionCommand,
    },
    /// Keep backups whatever the retention policy says.
    Hold {
        /// What to do.
        #[command(subcommand)]
        command: HoldCommand,
    },
    /// Print a completion script.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, for packages.
    #[command(hide = true)]
    Manual,
}

/// Where to look.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Where the daemon keeps its state [default: as the configuration says, even if it has faults].
    #[arg(long, value_name = "DIRECTORY")]
    pub state_directory: Option<PathBuf>,
}

/// What to do about retention.
#[derive(Debug, Subcommand)]
pub enum RetentionCommand {
    /// Show what stays and why, what goes, and what that frees. Changes nothing.
    Plan,
    /// Forget what no rule keeps, and delete what was forgotten longer ago than the grace.
    Apply(ApplyArgs),
}

/// How to carry out a plan.
#[derive(Clone, Copy, Debug, Args)]
pub struct ApplyArgs {
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
    /// Carry out a plan that is unusual: look at `retention plan` first.
    #[arg(long)]
    pub force: bool,
}

/// What to do about holds.
#[derive(Debug, Subcommand)]
pub enum HoldCommand {
    /// Keep a backup. Saying it again brings the hold to regions that were away.
    Add {
        /// Which backup.
        #[arg(value_name = "BACKUP")]
        backup: BackupId,
        /// Why.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Who wants it.
        #[arg(long, value_name = "NAME")]
        owner: String,
        /// When the hold ends by itself: a time with an offset (2026-12-31T12:00:00Z), or how long (36h, 30d).
        #[arg(long, value_name = "END")]
        expires: Option<Expiry>,
    },
    /// End a hold.
    Remove {
        /// Which hold; `hold list` shows them.
        #[arg(value_name = "HOLD")]
        hold: HoldId,
        /// Why.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Who ends it [default: whose hold it is]
        #[arg(long, value_name = "NAME")]
        owner: Option<String>,
    },
    /// Show the holds that are in force.
    List,
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

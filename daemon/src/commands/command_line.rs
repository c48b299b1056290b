//! The command line of `lifeboatd`.

use clap::{Parser, Subcommand, ValueEnum};

use crate::commands::delegate::DelegateArgs;
use crate::commands::heal::HealArgs;
use crate::commands::hold::HoldCommand;
use crate::commands::init::InitArgs;
use crate::commands::pause::{PauseArgs, ResumeArgs};
use crate::commands::retention_apply::ApplyArgs;
use crate::commands::scrub::ScrubArgs;
use crate::commands::selection::GlobalArgs;
use crate::commands::status::StatusArgs;

/// Backs up PostgreSQL to several regions in one pass, encrypted and signed.
#[derive(Debug, Parser)]
#[command(name = "lifeboatd", version, about, arg_required_else_help = true)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create the repository in every region, and the signing key where its file does not exist yet.
    Init(InitArgs),
    /// Write into every region what the root key says about another key: what it may sign, or that it is revoked.
    Delegate(Box<DelegateArgs>),
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
    Adopt(AdoptArgs),
    /// Bring every region what it lacks of what is kept, from regions that have it.
    Heal(HealArgs),
    /// Check that everything that is stored is there; with `--full`, read it back and verify it.
    Scrub(ScrubArgs),
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

/// How to take over.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct AdoptArgs {
    /// Go on with a server that was set back and is refused because it lost WAL: what it lost is put on record as missing,
    /// and a base backup is made. What the regions hold stays.
    #[arg(long)]
    pub lost_wal: bool,
}

/// What to do about retention.
#[derive(Debug, Subcommand)]
pub enum RetentionCommand {
    /// Show what stays and why, what goes, and what that frees. Changes nothing.
    Plan,
    /// Forget what no rule keeps, and delete what was forgotten longer ago than the grace.
    Apply(ApplyArgs),
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

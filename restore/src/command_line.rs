//! The command line of `lifeboat-restore`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use lifeboat_cli::place::PlaceArgs;
use lifeboat_vocabulary::{BackupId, RegionName};

use crate::commands::keys::KeysCommand;
use crate::target::recovery_target::TargetArgs;

/// Brings PostgreSQL back from object storage: a bucket, a key and this program are enough.
#[derive(Debug, Parser)]
#[command(name = "lifeboat-restore", version, about, arg_required_else_help = true)]
pub struct Cli {
    /// Where the backups are.
    #[command(flatten)]
    pub place: PlaceArgs,
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
    /// Make a key pair: the private key goes into a file, the public key is printed. With --signing: a key that signs.
    Keygen(KeygenArgs),
    /// Show who may sign in the repository, and sign what the root key says about other keys.
    Keys {
        /// What to do.
        #[command(subcommand)]
        command: Box<KeysCommand>,
    },
    /// List all backups and where they are.
    List,
    /// Show everything that is known of a backup.
    Show {
        /// Which one [default: the newest good one]
        #[arg(value_name = "BACKUP")]
        backup: Option<BackupId>,
    },
    /// Prove that what is stored is what was written: with an identity everything is decrypted, without one it is hashed.
    Verify {
        /// Which one [default: the newest good one]
        #[arg(value_name = "BACKUP")]
        backup: Option<BackupId>,
    },
    /// Restore into a new data directory: the last good state, or any moment that `window` shows.
    Restore(Box<RestoreArgs>),
    /// Show which moments can be restored, as times and WAL positions, per timeline. With an identity it tells the last
    /// commits too.
    Window,
    /// PostgreSQL's restore_command, as `restore` writes it: never called by hand. With --serve: the process behind it.
    WalFetch {
        /// Serve the files of the restore that these settings describe (wal-fetch.json).
        #[arg(long, value_name = "FILE")]
        serve: PathBuf,
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

/// How to make a key.
#[derive(Debug, Args)]
pub struct KeygenArgs {
    /// The file to write, with mode 0600. It must not exist.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Ask for a passphrase and keep the key under it.
    #[arg(long)]
    pub(crate) passphrase: bool,
    /// Make a key that signs, such as the root key of a repository, and not one that reads backups.
    #[arg(long, conflicts_with = "passphrase")]
    pub(crate) signing: bool,
}

/// What to restore, and where to.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The new data directory: missing or empty.
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    /// Start from this backup [default: the newest good one from which the target can be reached]
    #[arg(long, value_name = "BACKUP")]
    pub(crate) backup: Option<BackupId>,
    /// How far to go.
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Go on without what this region may hold; repeat for several.
    #[arg(long = "without-region", value_name = "NAME")]
    pub without_regions: Vec<RegionName>,
    /// Write a standby: it follows what the regions receive, until it is promoted.
    #[arg(long, conflicts_with_all = ["target-kind", "exclusive", "target_action"])]
    pub(crate) standby: bool,
    /// The primary that the standby follows too (libpq keywords or URI).
    #[arg(long, value_name = "CONNINFO", requires = "standby", conflicts_with = "start")]
    pub(crate) primary: Option<String>,
    /// Let subscriptions of the copy run: they use up the changes that are meant for the original.
    #[arg(long)]
    pub(crate) keep_subscriptions: bool,
    /// How many seconds recovery waits for WAL that no region gives before it is told to stop.
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) wal_patience: u32,
    /// Put the tablespace that was at OLD into NEW; repeat for several.
    #[arg(long = "tablespace-map", value_name = "OLD=NEW")]
    pub(crate) tablespace_map: Vec<TablespaceMapping>,
    /// Put each tablespace that no --tablespace-map names where the backup says that it was.
    #[arg(long)]
    pub(crate) original_tablespaces: bool,
    /// Restore a backup in which data of the cluster is missing, as the plan says: databases or tables of the copy cannot be
    /// read.
    #[arg(long)]
    pub(crate) accept_incomplete: bool,
    /// Print the plan and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Start the restored server and wait until it has recovered.
    #[arg(long)]
    pub(crate) start: bool,
    /// Requests at the same time.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) connections: u16,
}

/// Where a tablespace was, and where it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablespaceMapping {
    /// Its directory on the server that was backed up.
    pub(crate) old: String,
    /// Its new directory, absolute.
    pub(crate) new: PathBuf,
}

impl std::str::FromStr for TablespaceMapping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (old, new) = text.split_once('=').ok_or("expected OLD=NEW")?;
        if !old.starts_with('/') || !new.starts_with('/') {
            return Err("both directories must be absolute paths".to_owned());
        }
        Ok(Self { old: old.trim_end_matches('/').to_owned(), new: PathBuf::from(new) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn tablespaces_are_mapped_from_absolute_to_absolute() {
        let mapping: TablespaceMapping = "/srv/fast/=/mnt/new".parse().unwrap();
        assert_eq!(mapping, TablespaceMapping { old: "/srv/fast".to_owned(), new: PathBuf::from("/mnt/new") });
        for text in ["", "/a", "a=/b", "/a=b"] {
            assert!(text.parse::<TablespaceMapping>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_command_of_this_program_is_in_its_page() {
        let about = lifeboat_cli::manual::About { section: 1, files: &[], variables: &[], see_also: &[] };
        let page = lifeboat_cli::manual::page(Cli::command(), about);
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name().replace('-', "\\-");
            assert!(page.contains(&format!("\n.SS {name}")), "{name} is missing");
        }
    }
}

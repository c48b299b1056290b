//! `lifeboat-restore`: arguments, then one command, then an exit code.

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use lifeboat_cli::access::Repository;
use lifeboat_cli::exit_code::{Ending, report};
use lifeboat_cli::output::{self, Purpose, StandardError};
use lifeboat_cli::terminal::Output;
use lifeboat_cli::{backups, manual, signals};
use lifeboat_cli::{errln, out};
use lifeboat_restore::command_line::{Cli, Command};
use lifeboat_restore::commands::{keygen, keys, restore, verify, window};
use lifeboat_restore::wal_fetch::{client, serve};
use tracing_subscriber::EnvFilter;

/// How long threads that are still at work may take at the end.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    // Before anything that costs time: PostgreSQL starts this program once for every segment.
    if let Some(code) = client::run(std::env::args_os()) {
        return ExitCode::from(code);
    }
    let cli = Cli::parse();
    // The prefetcher's log is all that tells of it.
    let usual = if matches!(cli.command, Command::WalFetch { .. }) { "info" } else { "error" };
    let filter = EnvFilter::try_from_env("LIFEBOAT_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let log = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    log.with_writer(StandardError::default).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&anyhow::Error::new(error).context("start")),
    };
    let ended = runtime.block_on(command(&cli));
    // A thread that waits for a directory that does not answer must not keep the process: nothing depends on it any more.
    runtime.shutdown_timeout(LAST_PATIENCE);
    match ended {
        Ok(ending) => output::ending(ending, purpose(&cli.command)).into(),
        Err(error) => report(&error),
    }
}

fn purpose(command: &Command) -> Purpose {
    match command {
        Command::List
        | Command::Show { .. }
        | Command::Window
        | Command::Keygen(_)
        | Command::Keys { .. }
        | Command::Completions { .. }
        | Command::Manual => Purpose::Show,
        Command::Verify { .. } | Command::Restore(_) | Command::WalFetch { .. } => Purpose::Work,
    }
}

async fn command(cli: &Cli) -> anyhow::Result<Ending> {
    let output = if cli.json { Output::Json } else { Output::Text };
    let stop = signals::stop_token(|text| errln!("{text}"))?;
    match &cli.command {
        Command::Keygen(args) => keygen::run(args),
        Command::Keys { command } => keys::run(&cli.place, command, output).await,
        Command::Completions { shell } => {
            // It panics where it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "lifeboat-restore", &mut script);
            out!("{}", String::from_utf8_lossy(&script));
            Ok(Ending::Done)
        }
        Command::Manual => {
            out!("{}", manual());
            Ok(Ending::Done)
        }
        Command::List => {
            let repository = Repository::open(&cli.place).await?;
            backups::print_list(&repository, output);
            Ok(repository.ending())
        }
        Command::Show { backup } => {
            let repository = Repository::open(&cli.place).await?;
            backups::print_backup(&repository, repository.choose(backup.as_ref())?, output);
            Ok(repository.ending())
        }
        Command::Verify { backup } => {
            let repository = Repository::open(&cli.place).await?;
            let row = repository.choose(backup.as_ref())?;
            verify::ensure_held(&repository, row)?;
            verify::run(&cli.place, &repository, row, output, &stop).await
        }
        Command::Restore(args) => {
            let repository = Repository::open_without(&cli.place, &args.without_regions).await?;
            restore::run(&cli.place, args, &repository, output, &stop).await
        }
        Command::Window => {
            let repository = Repository::open(&cli.place).await?;
            window::run(&cli.place, &repository, output).await
        }
        Command::WalFetch { serve: settings } => {
            serve::run(settings, &stop).await?;
            Ok(Ending::Done)
        }
    }
}

/// The manual page; the package is made with it.
fn manual() -> String {
    let about = manual::About {
        section: 1,
        files: &[
            ("/etc/lifeboat/lifeboat.toml", "the regions, where no --region is given"),
            ("DIR-wal-fetch/", "beside a restored data directory DIR: WAL that was fetched ahead, and the log of that"),
        ],
        variables: &[
            ("LIFEBOAT_LOG", "what is logged to standard error: error, info, lifeboat_stores=debug"),
            ("LIFEBOAT_PASSPHRASE_FILE", "a file with the passphrase of an identity, where there is no terminal"),
            ("AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SHARED_CREDENTIALS_FILE", "as for every program of AWS"),
            ("NO_COLOR", "no colours, even on a terminal"),
        ],
        see_also: &["lifeboatd(8)", "lifeboat.toml(5)"],
    };
    manual::page(Cli::command(), about)
}

//! `lifeboatd`: arguments, configuration, one command, an exit code.

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use lifeboat_cli::access::Repository;
use lifeboat_cli::backups;
use lifeboat_cli::exit_code::{Ending, ending_of, in_words, report};
use lifeboat_cli::output::{self, Purpose};
use lifeboat_cli::terminal::Output;
use lifeboat_cli::{errln, out};
use lifeboat_cli::{manual, signals};
use lifeboat_config::Loaded;
use lifeboat_daemon::base::logs;
use lifeboat_daemon::commands::command_line::{Cli, Command, RetentionCommand};
use lifeboat_daemon::commands::hold::HoldCommand;
use lifeboat_daemon::commands::{
    adopt, adopt_lost_wal, backup, check_config, delegate, doctor, heal, hold, init, pause, retention_apply,
    retention_plan, scrub, selection, status,
};
use lifeboat_daemon::run::daemon;
use lifeboat_daemon::settings::reload::ConfigSource;
use lifeboat_daemon::settings::wiring::{self, ClusterConfig};

/// How long threads that are still at work may take at the end.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let logs = match logs::init() {
        Ok(logs) => logs,
        Err(error) => return report(&anyhow::Error::new(error).context("begin to log")),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&anyhow::Error::new(error).context("start")),
    };
    let ended = runtime.block_on(command(&cli));
    // A thread that waits for a disk that does not answer must not keep the process: nothing depends on it any more.
    runtime.shutdown_timeout(LAST_PATIENCE);
    match ended {
        Ok(ending) => {
            logs.flush();
            output::ending(ending, purpose(&cli.command)).into()
        }
        Err(error) => {
            logs.last_words(&in_words(&error));
            ending_of(&error).into()
        }
    }
}

fn purpose(command: &Command) -> Purpose {
    match command {
        Command::CheckConfig
        | Command::Doctor
        | Command::Status(_)
        | Command::List
        | Command::Retention { command: RetentionCommand::Plan }
        | Command::Hold { command: HoldCommand::List }
        | Command::Completions { .. }
        | Command::Manual => Purpose::Show,
        Command::Pause(args) if args.list => Purpose::Show,
        Command::Init(_)
        | Command::Delegate(_)
        | Command::Backup { .. }
        | Command::Run
        | Command::Pause(_)
        | Command::Resume(_)
        | Command::Adopt(_)
        | Command::Heal(_)
        | Command::Scrub(_)
        | Command::Retention { .. }
        | Command::Hold { .. } => Purpose::Work,
    }
}

async fn command(cli: &Cli) -> anyhow::Result<Ending> {
    let output = if cli.global.json { Output::Json } else { Output::Text };
    if let Command::Completions { shell } = &cli.command {
        // It panics where it cannot write.
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut Cli::command(), "lifeboatd", &mut script);
        out!("{}", String::from_utf8_lossy(&script));
        return Ok(Ending::Done);
    }
    if matches!(cli.command, Command::Manual) {
        out!("{}", manual());
        return Ok(Ending::Done);
    }
    if let Command::Status(args) = &cli.command {
        return status::run(&cli.global, args, output);
    }
    let loaded = selection::load(&cli.global)?;
    if matches!(cli.command, Command::CheckConfig) {
        return Ok(check_config::run(&loaded, output));
    }
    let config = &loaded.config;
    if let Command::Pause(args) = &cli.command
        && args.list
    {
        return Ok(pause::list(config, output));
    }
    if matches!(cli.command, Command::Run) {
        return protect(cli, loaded).await;
    }
    let cluster = wiring::cluster(config, cli.global.cluster.as_ref())?;
    let chosen = ClusterConfig { config, cluster };
    let stop = signals::stop_token(|text| errln!("{text}"))?;
    match &cli.command {
        Command::Init(args) => init::run(chosen, args, output).await,
        Command::Delegate(args) => delegate::run(chosen, args, output).await,
        Command::Doctor => Ok(doctor::run::run(chosen, output).await),
        Command::Backup { .. } => backup::run(chosen, output, &stop).await,
        Command::List => {
            let pinned = chosen.signer()?.root();
            let repository = Repository::read(&config.regions, cluster.name.clone(), &pinned).await?;
            backups::print_list(&repository, output);
            Ok(repository.ending())
        }
        Command::Adopt(args) if args.lost_wal => adopt_lost_wal::run(chosen, output).await,
        Command::Adopt(_) => adopt::run(chosen, output).await,
        Command::Pause(args) => pause::pause(chosen, args),
        Command::Resume(args) => pause::resume(chosen, args),
        Command::Heal(args) => heal::run(chosen, args, output, &stop).await,
        Command::Scrub(args) => scrub::run(chosen, args, output, &stop).await,
        Command::Retention { command: RetentionCommand::Plan } => retention_plan::run(chosen, output).await,
        Command::Retention { command: RetentionCommand::Apply(args) } => {
            retention_apply::run(chosen, *args, output, &stop).await
        }
        Command::Hold { command } => hold::run(chosen, command, output).await,
        Command::CheckConfig | Command::Completions { .. } | Command::Manual | Command::Run | Command::Status(_) => {
            Ok(Ending::Done)
        }
    }
}

/// Runs the daemon, for the chosen cluster only, if one was chosen.
async fn protect(cli: &Cli, mut loaded: Loaded) -> anyhow::Result<Ending> {
    loaded.config = selection::chosen(&cli.global, &loaded.config)?;
    let source = ConfigSource { path: cli.global.config.clone(), cluster: cli.global.cluster.clone() };
    daemon::run(source, loaded, &signals::stop_token(|text| tracing::info!("{text}"))?).await
}

/// The manual page; the package is made with it.
fn manual() -> String {
    let about = manual::About {
        section: 8,
        files: &[
            ("/etc/lifeboat/lifeboat.toml", "the configuration"),
            ("/etc/lifeboat/credentials/", "the signing key and access keys, for the account lifeboat alone"),
            ("/var/lib/lifeboat/", "what must outlive a restart, one folder per cluster"),
            ("/usr/share/doc/lifeboat/", "INSTALL.md, CONFIGURE.md, CHECKLIST.md, and a runbook for every alarm"),
        ],
        variables: &[
            ("LIFEBOAT_SECTION__KEY", "overrides a key of the configuration, as lifeboat.toml(5) says"),
            ("LIFEBOAT_LOG", "what is logged to standard error: error, info, lifeboat_stores=debug"),
            ("CREDENTIALS_DIRECTORY", "where credential:NAME is looked for; set by systemd"),
            ("AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SHARED_CREDENTIALS_FILE", "as for every program of AWS"),
            ("NO_COLOR", "no colours, even on a terminal"),
        ],
        see_also: &["lifeboat.toml(5)", "lifeboat-restore(1)", "systemd.exec(5)"],
    };
    manual::page(Cli::command(), about)
}

//! `lifeboatd`: arguments, configuration, one command, an exit code.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser};
use lifeboat_config::Config;
use lifeboat_daemon::cli::{Cli, Command};
use lifeboat_daemon::{adopt, backup, check_config, doctor, init, run, status, wiring};
use lifeboat_restore::access::Repository;
use lifeboat_restore::exit_code::{Ending, report};
use lifeboat_restore::terminal::Output;
use lifeboat_restore::{list, signals};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&anyhow::Error::new(error).context("start")),
    };
    match runtime.block_on(command(&cli)) {
        Ok(ending) => ending.into(),
        Err(error) => report(&error),
    }
}

/// Text on a terminal, JSON elsewhere. `LIFEBOAT_LOG` takes tracing's filter syntax.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("LIFEBOAT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if std::io::stderr().is_terminal() { log.compact().init() } else { log.json().init() }
}

async fn command(cli: &Cli) -> anyhow::Result<Ending> {
    let output = if cli.json { Output::Json } else { Output::Text };
    if let Command::Completions { shell } = &cli.command {
        clap_complete::generate(*shell, &mut Cli::command(), "lifeboatd", &mut std::io::stdout());
        return Ok(Ending::Done);
    }
    let loaded = wiring::load(cli)?;
    if matches!(cli.command, Command::CheckConfig) {
        return Ok(check_config::run(&loaded, output));
    }
    let config = &loaded.config;
    match &cli.command {
        Command::Status => return Ok(status::run(config, output)),
        Command::Run => return run::run(Arc::new(chosen(config, cli)?), &signals::stop_token()?).await,
        _ => {}
    }
    let cluster = wiring::cluster(config, cli.cluster.as_ref())?;
    let stop = signals::stop_token()?;
    match &cli.command {
        Command::Init => init::run(config, cluster, output).await,
        Command::Doctor => Ok(doctor::run(config, cluster, output).await),
        Command::Backup { .. } => backup::run((config, cluster), output, &stop).await,
        Command::List => {
            let signer = wiring::signer(config, &cluster.name)?;
            let pinned = signer.verify_key();
            let repository = Repository::read(&config.regions, cluster.name.clone(), (Some(&pinned), true)).await?;
            list::print_list(&repository, output);
            Ok(Ending::Done)
        }
        Command::Adopt => adopt::run(config, cluster, output).await,
        Command::CheckConfig | Command::Completions { .. } | Command::Run | Command::Status => Ok(Ending::Done),
    }
}

/// The configuration with the chosen cluster only, if one was chosen.
fn chosen(config: &Config, cli: &Cli) -> anyhow::Result<Config> {
    let mut config = config.clone();
    if cli.cluster.is_some() {
        config.clusters = vec![wiring::cluster(&config, cli.cluster.as_ref())?.clone()];
    }
    Ok(config)
}

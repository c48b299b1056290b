//! Which configuration, and which cluster of it: what every command takes.

use std::path::PathBuf;

use clap::Args;
use lifeboat_cli::errln;
use lifeboat_cli::exit_code::{Ending, Exit};
use lifeboat_config::{Config, Environment, Loaded};
use lifeboat_vocabulary::ClusterName;

use crate::settings::wiring;

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub struct GlobalArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", global = true, default_value = "/etc/lifeboat/lifeboat.toml")]
    pub config: PathBuf,
    /// The cluster, where the configuration has several.
    #[arg(long, value_name = "NAME", global = true)]
    pub cluster: Option<ClusterName>,
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    pub json: bool,
}

/// Reads the configuration; every override that is in force is logged, because nobody sees it in the file.
///
/// # Errors
/// All faults at once.
pub fn load(args: &GlobalArgs) -> anyhow::Result<Loaded> {
    let loaded = Config::load(&args.config, &Environment::of_process()).map_err(|faults| {
        errln!("{faults}");
        Exit::error(Ending::BadConfig, format!("{} cannot be used as it is", args.config.display()))
    })?;
    for active in &loaded.overrides {
        tracing::info!(variable = active.variable, setting = active.path, value = active.shown, "override in force");
    }
    for warning in &loaded.warnings {
        errln!("warning: {warning}");
    }
    Ok(loaded)
}

/// The configuration with the chosen cluster only, if one was chosen.
///
/// # Errors
/// If there is no such cluster.
pub fn chosen(args: &GlobalArgs, config: &Config) -> anyhow::Result<Config> {
    let mut config = config.clone();
    if args.cluster.is_some() {
        config.clusters = vec![wiring::cluster(&config, args.cluster.as_ref())?.clone()];
    }
    Ok(config)
}

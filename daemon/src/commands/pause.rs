//! `lifeboatd pause` and `lifeboatd resume`: a person stops an action, or lets it go on, and says why.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use lifeboat_cli::exit_code::{Ending, Exit};
use lifeboat_cli::terminal::{Align, Output, Table, Tone, toned};
use lifeboat_cli::{out, outln};
use lifeboat_config::{Config, parse_duration};
use lifeboat_repository::log::records::{OWNER_BYTES_MAX, REASON_BYTES_MAX, is_plain_text};
use lifeboat_vocabulary::{Clock, SystemClock, UtcTime};
use serde_json::json;

use crate::deletion::audit::Responsible;
use crate::deletion::freeze::Freezer;
use crate::deletion::standstill::{Action, Resumed, Stopped};
use crate::settings::wiring::ClusterConfig;

/// What can be chosen on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Chosen {
    /// Removing backups and WAL that retention has dropped.
    Delete,
    /// Scheduled backups.
    Backup,
    /// Copying from region to region.
    Heal,
    /// Reading back what is stored.
    Scrub,
    /// All of these. WAL is never paused.
    All,
}

impl Chosen {
    fn actions(self) -> Vec<Action> {
        match self {
            Self::Delete => vec![Action::Delete],
            Self::Backup => vec![Action::Backup],
            Self::Heal => vec![Action::Heal],
            Self::Scrub => vec![Action::Scrub],
            Self::All => Action::ALL.to_vec(),
        }
    }
}

/// The options of `pause`.
#[derive(Clone, Debug, Args)]
pub struct PauseArgs {
    /// Show what is paused and frozen, of every cluster.
    #[arg(long, conflicts_with_all = ["action", "reason", "owner", "expires"])]
    pub list: bool,
    /// What is paused.
    #[arg(long, value_enum, required_unless_present = "list")]
    pub action: Option<Chosen>,
    /// Why: at most 500 bytes, for those who find it paused.
    #[arg(long, required_unless_present = "list")]
    pub reason: Option<String>,
    /// Who is responsible: at most 100 bytes.
    #[arg(long, required_unless_present = "list")]
    pub owner: Option<String>,
    /// After how long it goes on by itself, such as 4h or 2d.
    #[arg(long, value_name = "DURATION", value_parser = span)]
    pub expires: Option<Duration>,
}

/// The options of `resume`.
#[derive(Clone, Debug, Args)]
pub struct ResumeArgs {
    /// What goes on. `delete` also lifts every freeze: look into its reason first.
    #[arg(long, value_enum)]
    pub action: Chosen,
    /// Why: at most 500 bytes.
    #[arg(long)]
    pub reason: String,
    /// Who is responsible: at most 100 bytes.
    #[arg(long)]
    pub owner: String,
}

fn span(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("give a time that is not over at once, such as 4h".to_owned()),
        Ok(span) => Ok(span),
        Err(error) => Err(error.to_string()),
    }
}

/// Pauses an action.
///
/// # Errors
/// If a text cannot be kept, or the state directory cannot be written.
pub fn pause(ClusterConfig { config, cluster }: ClusterConfig<'_>, args: &PauseArgs) -> anyhow::Result<Ending> {
    let freezer = freezer(&config.state_directory);
    let (Some(action), Some(reason), Some(owner)) = (args.action, &args.reason, &args.owner) else {
        anyhow::bail!("nothing was chosen");
    };
    let who = responsible(reason, owner)?;
    let expires = args.expires.map(|span| SystemClock.now().plus(span));
    for action in action.actions() {
        freezer.pause(&cluster.name, action, &who, expires).context("remember the pause")?;
        let until = expires.map_or_else(|| "somebody resumes it".to_owned(), |end| end.to_string());
        outln!("{action} of cluster {} is paused until {until}", cluster.name);
    }
    Ok(Ending::Done)
}

/// Lets an action go on.
///
/// # Errors
/// If a text cannot be kept, or the state directory cannot be written.
pub fn resume(ClusterConfig { config, cluster }: ClusterConfig<'_>, args: &ResumeArgs) -> anyhow::Result<Ending> {
    let freezer = freezer(&config.state_directory);
    let who = responsible(&args.reason, &args.owner)?;
    for action in args.action.actions() {
        let Resumed { thawed, ended } = freezer.resume(&cluster.name, action, &who).context("remember it")?;
        for frozen in &thawed {
            outln!("lifted since {}: {}: {}", frozen.since, frozen.trigger, frozen.why);
        }
        for pause in &ended {
            outln!("{action} goes on; it was paused by {} since {}: {}", pause.owner, pause.since, pause.reason);
        }
        if thawed.is_empty() && ended.is_empty() {
            outln!("{action} of cluster {} was neither paused nor frozen", cluster.name);
        }
    }
    Ok(Ending::Done)
}

/// Shows what is paused and frozen.
#[must_use]
pub fn list(config: &Config, output: Output) -> Ending {
    let (freezer, now) = (freezer(&config.state_directory), SystemClock.now());
    let mut documents = Vec::new();
    let columns = ["cluster", "stopped", "by", "since (UTC)", "until (UTC)", "why"];
    let mut table = Table::new(&columns.map(|name| (name, Align::Left)));
    for cluster in &config.clusters {
        let standstill = freezer.standstill(&cluster.name);
        let pauses: Vec<_> = standstill.pauses.iter().filter(|pause| pause.in_force(now)).collect();
        documents.push(json!({ "cluster": cluster.name.as_str(), "frozen": standstill.frozen, "pauses": pauses }));
        let frozen = standstill.frozen.iter().map(|frozen| {
            let stops = frozen.stops(&cluster.name);
            Stopped { who: format!("freeze: {}", stops.who), ..stops }
        });
        let stopped = frozen.chain(pauses.iter().map(|pause| pause.stops(&cluster.name)));
        stopped.for_each(|stopped| table.row(&row(stopped).each_ref().map(String::as_str)));
    }
    match output {
        Output::Json => outln!("{}", json!({ "clusters": documents })),
        Output::Text if table.is_empty() => outln!("{}", toned("nothing is paused or frozen", Tone::Good)),
        Output::Text => out!("{table}"),
    }
    Ending::Done
}

fn row(Stopped { cluster, what, since, who, why, expires }: Stopped) -> [String; 6] {
    let until = expires.map_or_else(|| "resumed".to_owned(), UtcTime::for_tables);
    [cluster.to_string(), what.to_string(), who, since.for_tables(), until, why]
}

fn freezer(state_directory: &Path) -> Freezer {
    Freezer::new(state_directory, Arc::new(SystemClock))
}

/// What goes into a signed log has to be one line that somebody can read.
fn responsible(reason: &str, owner: &str) -> anyhow::Result<Responsible> {
    for (what, text, max) in [("reason", reason, REASON_BYTES_MAX), ("owner", owner, OWNER_BYTES_MAX)] {
        if !is_plain_text(text, max) {
            let message = format!("the {what} must be one line of at most {max} bytes, and not empty");
            return Err(Exit::error(Ending::BadCommandLine, message));
        }
    }
    Ok(Responsible::new(reason.trim(), owner.trim()))
}

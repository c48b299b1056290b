//! `lifeboatd status`: the state of every cluster, for a person or a program.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;
use lifeboat_cli::exit_code::Ending;
use lifeboat_cli::terminal::{Output, Tone};
use lifeboat_cli::{out, outln};
use lifeboat_config::{Config, Environment, Faults};
use lifeboat_vocabulary::{Clock, SystemClock, UtcTime};
use serde_json::{Map, Value, json};

use crate::commands::selection::{self, GlobalArgs};
use crate::model::snapshot::{self, Protection, StatusSnapshot};
use crate::status::file::Found;
use crate::status::page::first_line;
use crate::status::{file, page};

/// Where to look.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Where the daemon keeps its state [default: as the configuration says, even if it has faults].
    #[arg(long, value_name = "DIRECTORY")]
    pub state_directory: Option<PathBuf>,
}

/// What is to be shown.
struct Wanted {
    /// Where the daemon writes it.
    state_directory: PathBuf,
    clusters: Clusters,
}

enum Clusters {
    /// These, by name.
    Configured(Vec<String>),
    /// The configuration is refused: those that the daemon shows, or one of them.
    Shown { only: Option<String>, refused: String },
}

/// Prints what the running daemon last wrote. 0 if all is well, 4 if something is wrong, 3 if the configuration has faults
/// (what the daemon wrote is shown nevertheless), 1 if no daemon runs or its status cannot be read.
///
/// # Errors
/// If the configuration has no such cluster.
pub fn run(global: &GlobalArgs, args: &StatusArgs, output: Output) -> anyhow::Result<Ending> {
    let environment = Environment::of_process();
    let named = args.state_directory.clone();
    let wanted = match Config::load(&global.config, &environment) {
        Ok(loaded) => {
            let config = selection::chosen(global, &loaded.config)?;
            let names = config.clusters.iter().map(|cluster| cluster.name.to_string()).collect();
            let state_directory = named.unwrap_or(config.state_directory);
            Wanted { state_directory, clusters: Clusters::Configured(names) }
        }
        // Whoever looks at night has not always broken the file, and the daemon goes on with the one that it has.
        Err(faults) => {
            let probable = || Config::probable_state_directory(&global.config, &environment);
            let only = global.cluster.as_ref().map(ToString::to_string);
            let refused = refusal(&global.config, &faults);
            Wanted { state_directory: named.unwrap_or_else(probable), clusters: Clusters::Shown { only, refused } }
        }
    };
    Ok(wanted.show(SystemClock.now(), output))
}

fn refusal(path: &Path, faults: &Faults) -> String {
    let path = path.display();
    match faults.as_slice() {
        [only] => format!("{path}: {}; {} (`lifeboatd check-config`)", only.problem, only.fix),
        all => format!("{path} has {} faults; `lifeboatd check-config` shows them", all.len()),
    }
}

impl Wanted {
    fn show(&self, now: UtcTime, output: Output) -> Ending {
        match file::read(&self.state_directory, now) {
            Found::Fresh(status) => self.fresh(*status, output),
            Found::Stale(last) => {
                let problem = if last.time > now {
                    format!("no daemon is seen to run: its last status is dated {}, later than now", last.time)
                } else {
                    format!("no daemon runs; the last one was seen {} ago", page::rough(now.since(last.time)))
                };
                self.absent(output, &problem, Absence::NotRunning(Some(last)))
            }
            Found::Nothing => {
                let directory = self.state_directory.display();
                let problem = format!("no daemon runs, and none has left a status in {directory}");
                self.absent(output, &problem, Absence::NotRunning(None))
            }
            Found::Denied => {
                let directory = self.state_directory.display();
                let who = owner(&self.state_directory);
                let problem = format!("this account may not read {directory}: run `sudo -u {who} lifeboatd status`");
                self.absent(output, &problem, Absence::Unknown)
            }
            Found::Unreadable(why) => {
                let problem = format!(
                    "nobody knows whether a daemon runs: cannot read {why}; see `systemctl status lifeboatd`, and \
                     restart it if it is of another version"
                );
                self.absent(output, &problem, Absence::Unknown)
            }
        }
    }

    /// Which of the daemon's clusters are shown, and which it does not know.
    fn choose(&self, status: &mut StatusSnapshot) -> Vec<String> {
        let names = match &self.clusters {
            Clusters::Configured(names) => names.clone(),
            Clusters::Shown { only: None, .. } => return Vec::new(),
            Clusters::Shown { only: Some(only), .. } => vec![only.clone()],
        };
        status.clusters.retain(|cluster| names.contains(&cluster.cluster));
        let known = |name: &String| status.clusters.iter().any(|cluster| cluster.cluster == *name);
        names.into_iter().filter(|name| !known(name)).collect()
    }

    fn refused(&self) -> Option<&str> {
        match &self.clusters {
            Clusters::Configured(_) => None,
            Clusters::Shown { refused, .. } => Some(refused),
        }
    }

    /// What a daemon that runs shows.
    fn fresh(&self, mut status: StatusSnapshot, output: Output) -> Ending {
        let unknown = self.choose(&mut status);
        match output {
            Output::Json => outln!("{}", self.json(serde_json::to_value(&status).unwrap_or_default())),
            Output::Text => {
                self.print_refusal();
                out!("{}", page::page(&status));
                for name in &unknown {
                    let why = "the daemon that runs does not know this cluster; reload it";
                    out!("\n{}", first_line(name, name.len(), "NOT PROTECTED", Tone::Bad, why));
                }
            }
        }
        let well = status.alarms.is_empty()
            && status.daemon.core_stuck.is_none()
            && unknown.is_empty()
            && status.clusters.iter().all(|cluster| cluster.verdict.protection == Protection::Ok);
        match (self.refused(), well) {
            (Some(_), _) => Ending::BadConfig,
            (None, true) => Ending::Done,
            (None, false) => Ending::Degraded,
        }
    }

    /// What there is to say when nobody answers.
    fn absent(&self, output: Output, problem: &str, absence: Absence) -> Ending {
        let (word, mut last) = match absence {
            Absence::NotRunning(last) => ("NOT PROTECTED", last),
            Absence::Unknown => ("UNKNOWN", None),
        };
        if let Some(last) = &mut last {
            self.choose(last);
        }
        let names = match (&self.clusters, &last) {
            (Clusters::Configured(names), _) => names.clone(),
            (Clusters::Shown { only: Some(only), .. }, _) => vec![only.clone()],
            (_, Some(last)) => last.clusters.iter().map(|cluster| cluster.cluster.clone()).collect(),
            (_, None) => vec!["lifeboatd".to_owned()],
        };
        if output == Output::Json {
            let clusters: Vec<_> = names.iter().map(|name| json!({ "cluster": name, "wal": null })).collect();
            let seen = last.as_ref().map(|last| last.time.to_string());
            let last = serde_json::to_value(&last).unwrap_or_default();
            let version = snapshot::VERSION;
            let said = json!({
                "version": version, "problem": problem, "last_seen": seen, "clusters": clusters, "last": last,
            });
            outln!("{}", self.json(said));
            return Ending::Failed;
        }
        self.print_refusal();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        for name in &names {
            out!("{}", first_line(name, width, word, Tone::Bad, problem));
        }
        if word == "NOT PROTECTED" {
            outln!("\nStart it with `systemctl start lifeboatd`, or `lifeboatd run` in a terminal.");
        }
        if let Some(last) = last {
            outln!("\nThis is what it wrote last, at {} UTC. It is true no more.", last.time.for_tables());
            out!("{}", page::figures(&last));
        }
        Ending::Failed
    }

    fn print_refusal(&self) {
        if let Some(refused) = self.refused() {
            let name = "configuration";
            outln!("{}", first_line(name, name.len(), "REFUSED", Tone::Bad, refused));
        }
    }

    fn json(&self, mut said: Value) -> Value {
        if let (Some(refused), Some(fields)) = (self.refused(), said.as_object_mut()) {
            let fields: &mut Map<String, Value> = fields;
            fields.insert("config_refused".to_owned(), Value::from(refused));
        }
        said
    }
}

/// Why there is no present status.
enum Absence {
    /// Nothing runs; what the last one wrote.
    NotRunning(Option<Box<StatusSnapshot>>),
    /// Perhaps one runs.
    Unknown,
}

/// The account whose directory this is, as far as it can be found out. Source: passwd(5).
fn owner(directory: &Path) -> String {
    let id = std::fs::metadata(directory).ok().map(|found| found.uid().to_string());
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (Some(number) == id.as_deref()).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| "lifeboat".to_owned())
}

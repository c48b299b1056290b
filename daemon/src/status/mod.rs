//! `lifeboatd status`: how it stands with every cluster, for a tired person or a program.

pub mod board;
pub mod facts;
pub mod file;
pub mod page;
#[cfg(test)]
pub(crate) mod samples;
pub mod snapshot;
pub mod verdict;

use lifeboat_config::Config;
use lifeboat_restore::exit_code::Ending;
use lifeboat_restore::terminal::{Output, Tone, toned};
use lifeboat_vocabulary::{Clock, SystemClock, UtcTime};
use serde_json::json;

use self::file::Found;
use self::snapshot::{Protection, StatusSnapshot};

/// Prints what the running daemon last wrote. 0 if all is well, 4 if something is wrong, 1 if no daemon runs or its status
/// cannot be read.
#[must_use]
pub fn run(config: &Config, output: Output) -> Ending {
    let now = SystemClock.now();
    match file::read(&config.state_directory, now) {
        Found::Fresh(status) => show(*status, config, output),
        Found::Stale(last) => {
            let ago = page::rough(now.since(last));
            absent(config, output, (&format!("no daemon runs; the last one was seen {ago} ago"), Some(last)))
        }
        Found::Nothing => {
            let directory = config.state_directory.display();
            absent(config, output, (&format!("no daemon runs, and none has left a status in {directory}"), None))
        }
        Found::Unreadable(why) => {
            let hint = "run it as the account of the daemon, or as root";
            absent(config, output, (&format!("nobody knows whether a daemon runs: cannot read {why}; {hint}"), None))
        }
    }
}

/// The clusters of the configuration, as the daemon shows them.
fn show(mut status: StatusSnapshot, config: &Config, output: Output) -> Ending {
    status.clusters.retain(|cluster| config.clusters.iter().any(|wanted| wanted.name.as_str() == cluster.cluster));
    let unknown: Vec<&str> = config
        .clusters
        .iter()
        .map(|cluster| cluster.name.as_str())
        .filter(|name| status.clusters.iter().all(|cluster| cluster.cluster != *name))
        .collect();
    match output {
        Output::Json => println!("{}", serde_json::to_value(&status).unwrap_or_default()),
        Output::Text => {
            print!("{}", page::page(&status));
            for name in &unknown {
                let what = toned("NOT PROTECTED", Tone::Bad);
                println!("\n{name}  {what}  the daemon that runs does not know this cluster; reload it");
            }
        }
    }
    let well = status.alarms.is_empty()
        && unknown.is_empty()
        && status.clusters.iter().all(|cluster| cluster.verdict.protection == Protection::Ok);
    if well { Ending::Done } else { Ending::Degraded }
}

fn absent(config: &Config, output: Output, (problem, last): (&str, Option<UtcTime>)) -> Ending {
    match output {
        Output::Json => {
            let clusters: Vec<_> = config
                .clusters
                .iter()
                .map(|cluster| json!({ "cluster": cluster.name.as_str(), "wal": null }))
                .collect();
            let last = last.map(|last| last.to_string());
            println!(
                "{}",
                json!({ "version": snapshot::VERSION, "problem": problem, "last_seen": last, "clusters": clusters })
            );
        }
        Output::Text => {
            for cluster in &config.clusters {
                let word = toned("NOT PROTECTED", Tone::Bad);
                println!("{}  {word}  {problem}", toned(cluster.name.as_str(), Tone::Strong));
            }
            println!("\nStart it with `systemctl start lifeboatd`, or `lifeboatd run` in a terminal.");
        }
    }
    Ending::Failed
}

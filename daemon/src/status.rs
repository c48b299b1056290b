//! `lifeboatd status`: how it stands with every cluster, for a tired person or a program.

use std::time::Duration;

use lifeboat_config::{ClusterSettings, Config};
use lifeboat_restore::exit_code::Ending;
use lifeboat_restore::terminal::{Align, Output, Table, Tone, spoken, toned};
use lifeboat_vocabulary::{ByteCount, Clock, SystemClock};
use serde_json::json;

use crate::run::state_directory;
use crate::wal::status::{HolderStatus, WalStatus};

/// A status that is older comes from a daemon that is gone.
const STALE: Duration = Duration::from_secs(10);

/// Prints what the running daemon last wrote. 0 if all is well, 4 if something is wrong, 1 if no daemon runs.
#[must_use]
pub fn run(config: &Config, output: Output) -> Ending {
    let mut worst = Ending::Done;
    let mut documents = Vec::new();
    for cluster in &config.clusters {
        let read = WalStatus::read(&state_directory(config, cluster)).ok();
        let fresh = read.filter(|status| status.age(SystemClock.now()).is_some_and(|age| age < STALE));
        let ending = match &fresh {
            None => Ending::Failed,
            Some(status) if status.alarms.is_empty() => Ending::Done,
            Some(_) => Ending::Degraded,
        };
        if worst == Ending::Done || ending == Ending::Failed {
            worst = ending;
        }
        match output {
            Output::Json => documents.push(json!({ "cluster": cluster.name.as_str(), "wal": fresh })),
            Output::Text => print(cluster, fresh.as_ref()),
        }
    }
    if output == Output::Json {
        println!("{}", json!({ "clusters": documents }));
    }
    worst
}

fn print(cluster: &ClusterSettings, status: Option<&WalStatus>) {
    println!("cluster {}", toned(cluster.name.as_str(), Tone::Strong));
    let Some(status) = status else {
        println!(
            "  {}: no daemon runs for this cluster; start it with `lifeboatd run`",
            toned("NOT PROTECTED", Tone::Bad)
        );
        return;
    };
    match (&status.host, &status.waiting) {
        (Some(host), _) => {
            let timeline = status.timeline.map_or_else(String::new, |timeline| format!(", timeline {timeline}"));
            let received = status.received.as_deref().unwrap_or("nothing yet");
            println!("  WAL       from {host}{timeline}, received to {received}");
        }
        (None, why) => println!(
            "  WAL       {}: {}",
            toned("does not stream", Tone::Bad),
            why.as_deref().unwrap_or("not connected yet")
        ),
    }
    let exposure = Duration::from_secs_f64(status.quorum.exposure_seconds.max(0.0));
    let tone = if exposure.as_secs_f64() > status.rpo_objective_seconds { Tone::Bad } else { Tone::Good };
    let objective = spoken(Duration::from_secs_f64(status.rpo_objective_seconds.max(0.0)));
    println!("  RPO now   {} (objective {objective})", toned(&spoken(exposure), tone));
    println!(
        "  spool     {} of {}",
        ByteCount::from_bytes(status.spool_bytes),
        ByteCount::from_bytes(status.spool_limit_bytes)
    );
    let columns = [
        ("region", Align::Left),
        ("durable to", Align::Right),
        ("lag", Align::Right),
        ("oldest commit", Align::Right),
        ("p99", Align::Right),
        ("state", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for (name, region) in &status.regions {
        table.toned_row(row(name, region));
    }
    let quorum = HolderStatus {
        state: format!("{} of {} regions", status.wal_quorum, status.regions.len()),
        ..status.quorum.clone()
    };
    table.toned_row(row("(quorum)", &quorum));
    print!("{}", indented(&table.to_string()));
    for alarm in &status.alarms {
        println!("  {} {} since {}: {}", toned("ALARM", Tone::Bad), alarm.alarm, alarm.since, alarm.text);
    }
    if status.alarms.is_empty() {
        println!("  {}", toned("no alarms", Tone::Good));
    }
}

fn row(name: &str, holder: &HolderStatus) -> Vec<(String, Option<Tone>)> {
    let seconds = |seconds: f64| spoken(Duration::from_secs_f64(seconds.max(0.0)));
    vec![
        (name.to_owned(), None),
        (holder.durable.clone().unwrap_or_else(|| "-".to_owned()), None),
        (ByteCount::from_bytes(holder.lag_bytes).to_string(), None),
        (seconds(holder.exposure_seconds), None),
        (seconds(holder.latency_p99), None),
        (holder.state.clone(), (holder.state.starts_with("CONFLICT")).then_some(Tone::Bad)),
    ]
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

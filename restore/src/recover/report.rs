//! What a restore says: the plan before it writes, and the times and the place that it reached in the end.

use lifeboat_vocabulary::counted;
use std::collections::BTreeMap;
use std::path::Path;

use lifeboat_cli::omissions::print_omissions;
use lifeboat_cli::outln;
use lifeboat_cli::terminal::{Output, Tone, rate, spoken, toned};
use lifeboat_repository::backup::read::BackupReader;
use lifeboat_repository::catalog::CatalogRow;
use serde_json::{Value, json};

use crate::recover::decide::Decision;
use crate::recover::decided::{Done, Restore};
use crate::recover::watch::{Awaited, Recovered};
use crate::target::recovery_target::TargetAction;
use crate::target::wal_plan::Chain;

/// Says what is going to happen.
pub(crate) fn print_plan(restore: &Restore<'_>) {
    let Restore { decision, plan, output, .. } = restore;
    let record = &decision.row.record;
    if *output == Output::Json {
        let tablespaces: BTreeMap<&str, &Path> =
            plan.tablespaces.values().map(|(old, new)| (old.as_str(), new.path.as_path())).collect();
        let line = json!({
            "event": "plan", "backup": record.backup.as_str(), "to": plan.root.path, "tablespaces": tablespaces,
            "needed_bytes": plan.room.needed.as_bytes(), "available_bytes": plan.room.available.as_bytes(),
            "target": decision.target.goal.to_string(), "found": decision.proof.found,
            "timeline": decision.proof.timeline.get(), "path": path(decision),
            "wal_bytes": decision.proof.chain.as_ref().map(|chain| chain.bytes().as_bytes()),
            "without_regions": decision.without.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "warnings": decision.proof.warnings, "omissions": record.omissions,
        });
        outln!("{line}");
        return;
    }
    for warning in &decision.proof.warnings {
        outln!("{} {warning}", toned("attention:", Tone::Warning));
    }
    print_omissions(&record.omissions);
    outln!("restore backup {} of {}", toned(record.backup.as_str(), Tone::Strong), record.stop_time);
    outln!("  into       {}", plan.root.path.display());
    for (old, new) in plan.tablespaces.values() {
        outln!("  tablespace {old} into {}", new.path.display());
    }
    outln!("  to fetch   {} from {}", record.packs.bytes, regions_of(&decision.row));
    let files = counted(record.files.count, "file", "files");
    outln!("  to write   {} in {files} ({} free)", plan.room.needed, plan.room.available);
    if let Some((user, group)) = plan.owner {
        outln!("  owner      user {user}, group {group} (those of the directory)");
    }
    outln!("  target     {}", target(restore));
    outln!("  proof      {}", decision.proof.found);
    if let Some(chain) = &decision.proof.chain {
        outln!("  replay     up to {} of WAL: {}", chain.bytes(), path(decision));
    }
}

fn target(restore: &Restore<'_>) -> String {
    let Decision { target, .. } = &restore.decision;
    let then = match target.action {
        _ if restore.args.standby => "then follow as a standby",
        TargetAction::Promote => "then open for writes",
        TargetAction::Pause => "then wait, open for reading",
        TargetAction::Shutdown => "then stop",
    };
    format!("{}, {then}", target.goal)
}

/// The way through the timelines.
fn path(decision: &Decision) -> String {
    let leg = |chain: &Chain| {
        let legs = chain.legs.iter().map(|leg| format!("timeline {} from {} to {}", leg.timeline, leg.from, leg.to));
        legs.collect::<Vec<_>>().join(", ")
    };
    decision.proof.chain.as_ref().map_or_else(|| format!("timeline {}", decision.proof.timeline), leg)
}

fn regions_of(row: &CatalogRow) -> String {
    row.holders().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Says what was done, and what it took.
pub(crate) fn print(restore: &Restore<'_>, reader: &BackupReader, done: &Done) {
    let damage = reader.damage();
    let Restore { decision, plan, output, .. } = restore;
    let record = &decision.row.record;
    if *output == Output::Json {
        let damage: Vec<_> = damage
            .iter()
            .map(|d| json!({ "region": d.region.as_str(), "key": d.key.as_str(), "what": d.what }))
            .collect();
        let recovered = done.recovered.as_ref();
        let line = json!({
            "event": "restored", "backup": record.backup.as_str(), "to": plan.root.path,
            "fetch_seconds": done.fetched.as_secs_f64(), "flush_seconds": done.flushed.as_secs_f64(),
            "recovery_seconds": recovered.map(|r| (r.phases.start + r.phases.redo + r.phases.open).as_secs_f64()),
            "connection": recovered.and_then(|recovered| recovered.connection.as_deref()),
            "recovery": recovered.map(recovery_json), "damage_cured": damage, "configuration": done.configuration,
        });
        outln!("{line}");
        return;
    }
    for damage in &damage {
        outln!(
            "{} {} in region {}: {}; taken from another region",
            toned("damaged:", Tone::Warning),
            damage.key,
            damage.region,
            damage.what
        );
    }
    print_notes(&done.configuration, *output);
    let files = record.files;
    let count = counted(files.count, "file", "files");
    outln!("{} {} in {count}", toned("restored", Tone::Good), files.raw_bytes);
    outln!("  fetch and write  {:>10}  {}", spoken(done.fetched), rate(files.raw_bytes, done.fetched));
    outln!("  flush to disk    {:>10}", spoken(done.flushed));
    match &done.recovered {
        Some(recovered) => print_recovered(decision, recovered),
        None => print_next_steps(restore),
    }
}

/// What a person has to know about the configuration of a copy.
pub(crate) fn print_notes(notes: &[String], output: Output) {
    if output == Output::Json {
        outln!("{}", json!({ "event": "configuration", "configuration": notes }));
        return;
    }
    for note in notes {
        outln!("{} {note}", toned("configuration:", Tone::Warning));
    }
}

fn recovery_json(recovered: &Recovered) -> Value {
    json!({
        "state": match recovered.awaited {
            Awaited::Open => "open",
            Awaited::Paused => "paused",
            Awaited::Stopped => "stopped",
            Awaited::Following => "following",
        },
        "reached_lsn": recovered.reached, "last_commit": recovered.last_commit, "timeline": recovered.timeline,
        "stopped_at": recovered.stopped_at,
        "start_seconds": recovered.phases.start.as_secs_f64(),
        "redo_seconds": recovered.phases.redo.as_secs_f64(),
        "open_seconds": recovered.phases.open.as_secs_f64(),
    })
}

fn print_recovered(decision: &Decision, recovered: &Recovered) {
    let phases = recovered.phases;
    outln!("  server start     {:>10}", spoken(phases.start));
    match &decision.proof.chain {
        Some(chain) => outln!("  replay           {:>10}  {}", spoken(phases.redo), rate(chain.bytes(), phases.redo)),
        None => outln!("  replay           {:>10}", spoken(phases.redo)),
    }
    outln!("  open             {:>10}", spoken(phases.open));
    if let Some(lsn) = &recovered.reached {
        outln!("reached WAL position {lsn}");
    }
    if let Some(time) = &recovered.last_commit {
        outln!("last commit at {time}");
    }
    if let Some(what) = &recovered.stopped_at {
        outln!("stopped {what}");
    }
    if let Some(timeline) = recovered.timeline {
        outln!("writes on timeline {timeline} from now on");
    }
    match (&recovered.connection, recovered.awaited) {
        (Some(connection), Awaited::Paused) => {
            outln!("the server waits at the target; look with: psql \"{connection}\"");
            outln!("open it with: SELECT pg_catalog.pg_wal_replay_resume()");
        }
        (Some(connection), Awaited::Following) => {
            outln!("the standby follows; look with: psql \"{connection}\"");
            outln!("open it with: SELECT pg_catalog.pg_promote()");
        }
        (Some(connection), _) => outln!("the server runs; connect with: psql \"{connection}\""),
        (None, _) => outln!("the server has stopped at the target"),
    }
    if recovered.connection.is_some() {
        outln!("stop it with: {}", recovered.stop_command);
    }
}

fn print_next_steps(restore: &Restore<'_>) {
    outln!("start it with: pg_ctl -D {} start", restore.plan.root.path.display());
    if restore.decision.fetch.is_some() {
        outln!("it fetches its WAL by itself: its account must be able to read the identity and to reach the regions");
    }
}

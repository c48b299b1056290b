//! One restore, step by step.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lifeboat_postgres::{
    ManifestVersion, ManifestWriter, RECOVERY_SIGNAL, WalRange, find_server_bin, minimal_pg_hba_conf,
    minimal_pg_ident_conf, minimal_postgresql_conf, recovered_copy_settings,
};
use lifeboat_repository::{
    BackupReader, BackupRecord, CatalogRow, Progress, Ranges, ReadSettings, read_backup, read_facts,
};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::access::{Keys, Repository};
use crate::cli::{PlaceArgs, RestoreArgs};
use crate::exit_code::Ending;
use crate::facts::BackupFacts;
use crate::plan::{RestorePlan, plan};
use crate::start::start_server;
use crate::target_dir::TargetDir;
use crate::terminal::{Output, ProgressLine, Tone, rate, spoken, toned};
use crate::verify::workers;

/// Bytes that one request asks for.
const RANGE_BYTES: u64 = 8 << 20;

/// Restores a backup: plan, files, recovery settings, flush, `pg_control` last, and the server if it was asked for.
///
/// # Errors
/// Whatever stopped it. A target that is not complete has no `pg_control` and cannot be started.
pub async fn run(
    (place, args): (&PlaceArgs, &RestoreArgs),
    (repository, row): (&Repository, &CatalogRow),
    output: Output,
    stop: &CancellationToken,
) -> anyhow::Result<Ending> {
    let begun = Instant::now();
    let record = &row.record;
    let keys = Keys::load(place)?;
    let reader = repository.open_backup(record, repository.holders(row), &keys).await?;
    let facts = facts_of(&reader, record).await?;
    let plan = plan(&args.to, &facts.tablespaces, &args.tablespace_map, record.files.raw_bytes)?;
    print_plan(&plan, row, output);
    let bin_dir = if args.start { Some(find_server_bin(facts.server.major())?) } else { None };
    if args.dry_run {
        return Ok(Ending::Done);
    }
    let directories = plan.tablespaces.iter().map(|(oid, (_, place))| (*oid, place.clone())).collect();
    let target = TargetDir::prepare(&plan.root, directories, plan.owner).context("prepare the target directory")?;
    let target = Arc::new(target);
    fetch((&reader, record), &target, usize::from(args.connections), (output, stop)).await?;
    let fetched = begun.elapsed();
    let finish = {
        let (target, facts, record) = (Arc::clone(&target), facts.clone(), record.clone());
        tokio::task::spawn_blocking(move || finish(&target, &facts, &record))
    };
    finish.await.context("finish the restored directory")??;
    let written = begun.elapsed();
    let recovered = match bin_dir {
        Some(bin_dir) => Some(start_server(&plan.root, bin_dir, &facts).await?),
        None => None,
    };
    report((&plan, record), &reader, (fetched, written), recovered.as_ref(), output);
    Ok(Ending::Done)
}

async fn facts_of(reader: &Arc<BackupReader>, record: &BackupRecord) -> anyhow::Result<BackupFacts> {
    let first = record.index.first().context("the record names no index")?;
    let json = read_facts(reader, &first.key).await?.context("the index has no facts about the cluster")?;
    serde_json::from_slice(&json).context("read the facts about the cluster")
}

async fn fetch(
    (reader, record): (&Arc<BackupReader>, &BackupRecord),
    target: &Arc<TargetDir>,
    connections: usize,
    (output, stop): (Output, &CancellationToken),
) -> anyhow::Result<()> {
    let progress = Arc::new(Progress::default());
    let _line = ProgressLine::start("restore", Arc::clone(&progress), Some(record.files.raw_bytes), output);
    let shards = record.index.iter().map(|shard| shard.key.clone()).collect();
    let settings = ReadSettings { ranges: Ranges::Parts(RANGE_BYTES), connections, workers: workers() };
    let sink = Arc::clone(target);
    read_backup(Arc::clone(reader), shards, sink, settings, (progress, stop)).await.context("restore the files")
}

/// Adds what a copy needs to start by itself, writes its manifest, makes everything durable.
fn finish(target: &TargetDir, facts: &BackupFacts, record: &BackupRecord) -> anyhow::Result<()> {
    let files = target.files();
    let has = |name: &str| files.iter().any(|file| file.entry.path.as_bytes() == name.as_bytes());
    for (name, content) in missing_config(facts) {
        if !has(name) {
            target.add_file(name, &content).with_context(|| format!("write {name}"))?;
        }
    }
    target
        .append("postgresql.auto.conf", &recovered_copy_settings(record.pg.version))
        .context("write recovery settings")?;
    target.append(RECOVERY_SIGNAL, "").context("write the recovery signal")?;
    let range = WalRange { timeline: record.start_tli, start: record.start_lsn, end: record.stop_lsn };
    let mut out = Vec::new();
    let version = ManifestVersion::for_server(record.pg.version, record.pg.sysid);
    let mut manifest = ManifestWriter::new(&mut out, version)?;
    for file in target.files() {
        let entry = &file.entry;
        // PostgreSQL's own manifests leave WAL out: it is checked by reading it.
        if !entry.path.is_below(b"pg_wal") {
            manifest.file(&entry.path, entry.size, entry.modified, file.crc32c)?;
        }
    }
    manifest.finish(&[range])?;
    target.append("backup_manifest", &String::from_utf8(out).context("write the manifest")?)?;
    target.publish().context("flush the restored files")
}

/// Configuration that lay outside of the data directory: as it was, if the backup could read it, else a minimal one.
fn missing_config(facts: &BackupFacts) -> Vec<(&'static str, String)> {
    let kept = |name: &str| facts.server.config_files.get(name).cloned();
    let needed = [
        "max_connections",
        "max_worker_processes",
        "max_wal_senders",
        "max_prepared_transactions",
        "max_locks_per_transaction",
        "wal_level",
        "shared_preload_libraries",
    ];
    let settings: Vec<(String, String)> =
        needed.iter().filter_map(|name| Some(((*name).to_owned(), facts.server.setting(name)?.to_owned()))).collect();
    let mut original = String::new();
    if let Some(text) = kept("postgresql.conf") {
        original = "\n# The configuration of the server that was backed up, for reference:\n".to_owned();
        original.extend(text.lines().map(|line| format!("# {line}\n")));
    }
    vec![
        ("postgresql.conf", minimal_postgresql_conf(&settings) + &original),
        ("pg_hba.conf", kept("pg_hba.conf").unwrap_or_else(|| minimal_pg_hba_conf().to_owned())),
        ("pg_ident.conf", kept("pg_ident.conf").unwrap_or_else(|| minimal_pg_ident_conf().to_owned())),
    ]
}

fn print_plan(plan: &RestorePlan, row: &CatalogRow, output: Output) {
    let record = &row.record;
    if output == Output::Json {
        let tablespaces: BTreeMap<&str, &Path> =
            plan.tablespaces.values().map(|(old, new)| (old.as_str(), new.as_path())).collect();
        let line = json!({
            "event": "plan", "backup": record.backup.as_str(), "to": plan.root, "tablespaces": tablespaces,
            "needed_bytes": plan.room.needed.as_bytes(), "available_bytes": plan.room.available.as_bytes(),
        });
        println!("{line}");
        return;
    }
    println!("restore backup {} of {}", toned(record.backup.as_str(), Tone::Strong), record.stop_time);
    println!("  into       {}", plan.root.display());
    for (old, new) in plan.tablespaces.values() {
        println!("  tablespace {old} into {}", new.display());
    }
    println!("  to fetch   {} from {}", record.packs.bytes, holders(row));
    println!("  to write   {} in {} files ({} free)", plan.room.needed, record.files.count, plan.room.available);
    if let Some((user, group)) = plan.owner {
        println!("  owner      user {user}, group {group} (those of the directory)");
    }
}

fn holders(row: &CatalogRow) -> String {
    row.holders().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The server that was started.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// How to connect.
    pub connection: String,
    /// How to stop it.
    pub stop_command: String,
    /// How long recovery took.
    pub took: Duration,
}

fn report(
    (plan, record): (&RestorePlan, &BackupRecord),
    reader: &BackupReader,
    (fetched, written): (Duration, Duration),
    recovered: Option<&Recovered>,
    output: Output,
) {
    let damage = reader.damage();
    let flushed = written.saturating_sub(fetched);
    if output == Output::Json {
        let damage: Vec<_> = damage
            .iter()
            .map(|d| json!({ "region": d.region.as_str(), "key": d.key.as_str(), "what": d.what }))
            .collect();
        let line = json!({
            "event": "restored", "backup": record.backup.as_str(), "to": plan.root,
            "fetch_seconds": fetched.as_secs_f64(), "flush_seconds": flushed.as_secs_f64(),
            "recovery_seconds": recovered.map(|recovered| recovered.took.as_secs_f64()),
            "connection": recovered.map(|recovered| recovered.connection.as_str()), "damage_cured": damage,
        });
        println!("{line}");
        return;
    }
    for damage in &damage {
        println!(
            "{} {} in region {}: {}; taken from another region",
            toned("damaged:", Tone::Warning),
            damage.key,
            damage.region,
            damage.what
        );
    }
    let files = record.files;
    println!("{} {} in {} files", toned("restored", Tone::Good), files.raw_bytes, files.count);
    println!("  fetch and write  {:>10}  {}", spoken(fetched), rate(files.raw_bytes, fetched));
    println!("  flush to disk    {:>10}", spoken(flushed));
    match recovered {
        Some(recovered) => {
            println!("  recovery         {:>10}", spoken(recovered.took));
            println!("the server runs; connect with: psql \"{}\"", recovered.connection);
            println!("stop it with: {}", recovered.stop_command);
        }
        None => println!("start it with: pg_ctl -D {} start", plan.root.display()),
    }
}

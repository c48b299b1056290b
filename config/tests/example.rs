//! The example is the documentation of every key, and stays true.

mod common;

use std::path::Path;

use common::{RECIPIENTS, load};
use lifeboat_config::{Config, Environment};

const EXAMPLE: &str = include_str!("../lifeboat.example.toml");

/// The example with recipients that are not the example's.
fn own() -> String {
    let mut recipients = RECIPIENTS.iter();
    let line = |line: &str| match line.trim_start().starts_with("\"lifeboat-pk-") {
        true => format!("    \"{}\",", recipients.next().unwrap_or(&"")),
        false => line.to_owned(),
    };
    EXAMPLE.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// A commented line that shows a key or the head of a section.
fn shown(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("# ")?;
    let key = rest.split(" = ").next()?;
    let is_key = rest.contains(" = ") && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit());
    (is_key || rest.starts_with("[[") && rest.ends_with("]]")).then_some(rest)
}

#[test]
fn the_example_as_it_is_would_seal_to_nobody_and_is_refused() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("lifeboat.example.toml");
    let faults = Config::load(&path, &Environment::default()).unwrap_err();
    assert_eq!(faults.as_slice().len(), 1, "{faults}");
    assert!(faults.as_slice()[0].problem.contains("still the example's"), "{faults}");
}

#[test]
fn the_example_loads_once_the_recipients_are_replaced() {
    let loaded = load(&own(), &[]).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(loaded.warnings.is_empty());
    assert_eq!(loaded.config.regions.len(), 2);
}

#[test]
fn every_key_of_the_program_is_in_the_example() {
    let loaded = load(&own(), &[]).unwrap_or_else(|faults| panic!("{faults}"));
    let documented: Vec<&str> = EXAMPLE.lines().map(|line| shown(line).unwrap_or(line)).collect();
    assert!(loaded.explained.len() > 30);
    for row in &loaded.explained {
        let key = row.path.rsplit('.').next().unwrap();
        let there = documented.iter().any(|line| line.starts_with(&format!("{key} = ")));
        assert!(there, "`{}` is not in the example", row.path);
    }
}

#[test]
fn every_key_of_the_example_is_one_of_the_program() {
    let commented = own().lines().map(|line| shown(line).unwrap_or(line).to_owned()).collect::<Vec<_>>().join("\n");
    let faults = load(&commented, &[]).err().map_or_else(Vec::new, |faults| faults.as_slice().to_vec());
    // Two ways to give credentials exclude each other; everything else must stand beside everything else.
    let problems: Vec<&str> = faults.iter().map(|fault| fault.problem.as_str()).collect();
    assert_eq!(problems, ["`region.frankfurt.aws_profile`: given together with credentials_file"]);
    assert!(commented.contains("\n[[keys.wrap_commands]]"));
}

#[test]
fn defaults_in_the_example_are_the_programs() {
    let loaded = load(&own(), &[]).unwrap_or_else(|faults| panic!("{faults}"));
    for (path, key) in [
        ("cluster.main.backup.checkpoint", "checkpoint"),
        ("cluster.main.backup.compression_level", "compression_level"),
        ("region.virginia.max_concurrency", "max_concurrency"),
        ("region.virginia.allow_plain_http", "allow_plain_http"),
        ("region.virginia.patience", "patience"),
        ("durability.region_lag_limit", "region_lag_limit"),
        ("limits.memory", "memory"),
        ("limits.spool", "spool"),
        ("durability.wal_quorum", "wal_quorum"),
        ("durability.flush_interval", "flush_interval"),
        ("cluster.main.wal.slot", "slot"),
        ("cluster.main.wal.application_name", "application_name"),
        ("cluster.main.wal.synchronous", "synchronous"),
        ("cluster.main.objectives.rpo", "rpo"),
        ("cluster.main.schedule.timezone", "timezone"),
        ("cluster.main.schedule.full", "full"),
        ("cluster.main.schedule.jitter", "jitter"),
        ("cluster.main.schedule.blackout", "blackout"),
        ("cluster.main.retention.daily", "daily"),
        ("cluster.main.retention.weekly", "weekly"),
        ("cluster.main.retention.monthly", "monthly"),
        ("cluster.main.retention.pitr_window", "pitr_window"),
        ("cluster.main.retention.min_keep", "min_keep"),
        ("cluster.main.retention.extra_backups_per_day", "extra_backups_per_day"),
        ("cluster.main.retention.grace", "grace"),
        ("region.virginia.object_lock", "object_lock"),
        ("limits.backups", "backups"),
        ("daemon.roles", "roles"),
        ("daemon.stop_timeout", "stop_timeout"),
        ("heal.max_bandwidth", "max_bandwidth"),
        ("scrub.period", "period"),
        ("http.listen", "listen"),
        ("state.directory", "directory"),
    ] {
        let row = loaded.explained.iter().find(|row| row.path == path).unwrap();
        assert!(EXAMPLE.contains(&format!("# {key} = {}\n", row.value)), "{path} = {}", row.value);
    }
}

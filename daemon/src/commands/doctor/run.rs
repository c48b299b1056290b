//! `lifeboatd doctor`: tries everything that backups and continuous WAL need, and says what to do about each thing that fails.

use std::sync::Arc;

use futures_util::future::join_all;
use lifeboat_cli::access::read_region;
use lifeboat_cli::exit_code::Ending;
use lifeboat_cli::terminal::{Align, Output, Table, Tone};
use lifeboat_cli::{out, outln};
use lifeboat_config::{ClusterSettings, Config, Role};
use lifeboat_postgres::{Purpose, ServerFacts, Session, SessionError};
use lifeboat_repository::backup::write::MemoryPlan;
use lifeboat_repository::log::{Descriptor, NoteSigner};
use lifeboat_stores::{Check, Finding, RegionSettings, StoreUrl, open_below, probe};
use lifeboat_vocabulary::{ByteCount, SystemClock, counted, error_chain};
use serde_json::json;

use crate::commands::doctor::bounded_store::BoundedStore;
use crate::commands::doctor::lines::{Line, Lines, State};
use crate::commands::doctor::{roles, wal};
use crate::settings::wiring::{self, ClusterConfig};

/// A clock that is off by more makes signed requests fail at 15 minutes, and reports wrong much earlier.
const SKEW_WARNING_MICROS: i64 = 30_000_000;

/// How many files of the configuration that are not kept are named.
const CONFIGURATION_SHOWN: usize = 10;

/// Runs every probe and prints a table with what to do about each line that is not good.
pub async fn run(chosen: ClusterConfig<'_>, output: Output) -> Ending {
    let ClusterConfig { config, cluster } = chosen;
    let mut lines = Lines::default();
    let signer = keys(chosen, &mut lines);
    let facts = server(cluster, &mut lines).await;
    // All at once: what one that hangs takes of time is not added to what the others take.
    let regions = join_all(config.regions.iter().map(async |settings| {
        let mut lines = Lines::default();
        region(settings, chosen, signer.as_ref(), facts.as_ref(), &mut lines).await;
        lines
    }));
    for of_region in regions.await {
        lines.0.extend(of_region.0);
    }
    wal::check(chosen, &mut lines).await;
    memory(config, &mut lines);
    print(&lines.0, output);
    let worst = lines.0.iter().any(|line| line.state == State::Bad);
    if worst { Ending::Failed } else { Ending::Done }
}

fn keys(chosen: ClusterConfig<'_>, lines: &mut Lines) -> Option<Arc<NoteSigner>> {
    let config = chosen.config;
    let recipients = config.keys.recipients.len();
    match recipients {
        0 | 1 => {
            let fix =
                "make a second key with `lifeboat-restore keygen`, keep it offline, and add it to keys.recipients";
            lines.warning("keys", "recipients", "only one key will read new backups".to_owned(), fix);
        }
        _ => lines.good("keys", "recipients", format!("{recipients} keys, each of which will read new backups")),
    }
    if !config.keys.wrap_commands.is_empty() {
        lines.good("keys", "wrap commands", format!("{} configured", config.keys.wrap_commands.len()));
    }
    match chosen.signer() {
        Ok(signer) => {
            lines.good("keys", "signing key", signer.verify_key().to_string());
            roles::of_key(&signer, lines);
            Some(signer)
        }
        Err(error) => {
            let fix = "run `lifeboatd init`, or put the key where keys.signing_key says";
            lines.failed("keys", "signing key", format!("{error:#}"), fix);
            None
        }
    }
}

async fn server(cluster: &ClusterSettings, lines: &mut Lines) -> Option<ServerFacts> {
    let mut session = match Session::connect(&cluster.connection, Purpose::Sql).await {
        Ok(session) => session,
        Err(error) => {
            refused("connect for SQL", &error, lines);
            return None;
        }
    };
    lines.good("server", "connect for SQL", session.host().to_owned());
    let facts = match ServerFacts::ask(&mut session).await {
        Ok(facts) => facts,
        Err(error) => {
            refused("ask for facts", &error, lines);
            return None;
        }
    };
    let version = format!("PostgreSQL {}.{}", facts.major(), facts.version_num % 10_000);
    if facts.major() < 13 {
        let fix = "upgrade the server: 13 is the oldest version that can be backed up";
        lines.failed("server", "version", version, fix);
    } else {
        lines.good("server", "version", version);
    }
    rights(&facts, lines);
    configuration(&facts, lines);
    limits(&mut session, &facts, lines).await;
    match Session::connect(&cluster.connection, Purpose::PhysicalReplication).await {
        Ok(replication) => {
            lines.good("server", "connect for replication", replication.host().to_owned());
            replication.close().await;
        }
        Err(error) => refused("connect for replication", &error, lines),
    }
    session.close().await;
    Some(facts)
}

fn refused(check: &str, error: &SessionError, lines: &mut Lines) {
    let fix = error.remedy().unwrap_or_else(|| "see the server's log".to_owned());
    lines.failed("server", check, error_chain(error), &fix);
}

fn rights(facts: &ServerFacts, lines: &mut Lines) {
    if facts.may_replicate {
        lines.good("server", "right to replicate", "yes");
    } else {
        let fix = "as a superuser: ALTER ROLE <role> REPLICATION";
        lines.failed("server", "right to replicate", "the role lacks it".to_owned(), fix);
    }
    checksums(facts.setting("data_checksums") == Some("on"), facts.may_reread, lines);
}

fn checksums(are_on: bool, may_reread: bool, lines: &mut Lines) {
    match (are_on, may_reread) {
        (false, _) => {
            let detail = "off: damage on the server's disk cannot be noticed".to_owned();
            let fix = "at the next downtime: pg_checksums --enable";
            lines.warning("server", "page checksums", detail, fix);
        }
        (true, true) => lines.good("server", "page checksums", "on; verified by Lifeboat, on all cores"),
        (true, false) => {
            let detail = "on; verified by the server, on one core".to_owned();
            let fix = "GRANT EXECUTE ON FUNCTION pg_read_binary_file(text,bigint,bigint,boolean) TO <role> (faster)";
            lines.advice("server", "page checksums", detail, fix);
        }
    }
}

/// Configuration that a base backup does not have and that the role may not read: a copy starts with something in its place.
fn configuration(facts: &ServerFacts, lines: &mut Lines) {
    let fix = "move it into the data directory, or let the role read it: GRANT pg_read_all_settings, pg_read_server_files TO \
        <role>; GRANT EXECUTE ON FUNCTION pg_read_binary_file(text,bigint,bigint,boolean), pg_ls_dir(text,boolean,boolean) TO <role>";
    let Some(directory) = facts.setting("data_directory") else {
        let detail =
            "whether some lies outside of the data directory cannot be seen; the backup says what it lacks".to_owned();
        lines.advice("server", "configuration", detail, "GRANT pg_read_all_settings TO <role>");
        return;
    };
    let inside = format!("{}/", directory.trim_end_matches('/'));
    let outside = facts.config.not_kept.iter().filter(|(path, _)| !path.starts_with(&inside));
    let mut is_whole = true;
    for (path, why) in outside.take(CONFIGURATION_SHOWN) {
        lines.warning("server", "configuration", format!("{path} is not kept: {why}"), fix);
        is_whole = false;
    }
    if is_whole {
        lines.good("server", "configuration", "in the data directory, or readable: kept with each backup");
    }
}

async fn limits(session: &mut Session, facts: &ServerFacts, lines: &mut Lines) {
    match facts.setting("wal_level") {
        Some(level @ ("replica" | "logical")) => lines.good("server", "wal_level", level),
        other => {
            let fix = "set wal_level = replica and restart the server";
            lines.failed("server", "wal_level", other.unwrap_or("not visible").to_owned(), fix);
        }
    }
    for (setting, used, needed) in [
        ("max_wal_senders", "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication", 3),
        ("max_replication_slots", "SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots", 2),
    ] {
        let limit: i64 = facts.setting(setting).and_then(|text| text.parse().ok()).unwrap_or(0);
        let used: i64 = match session.query_one_text(used).await {
            Ok(text) => text.and_then(|text| text.parse().ok()).unwrap_or(0),
            Err(error) => {
                refused(setting, &error, lines);
                continue;
            }
        };
        let detail = format!("{used} of {limit} in use, a backup needs {needed}");
        if limit - used >= needed {
            lines.good("server", setting, detail);
        } else {
            lines.failed("server", setting, detail, "raise it and restart the server");
        }
    }
}

async fn region(
    settings: &RegionSettings,
    ClusterConfig { config, cluster }: ClusterConfig<'_>,
    signer: Option<&Arc<NoteSigner>>,
    facts: Option<&ServerFacts>,
    lines: &mut Lines,
) {
    let area = format!("region {}", settings.name);
    let store = match open_below(settings, Some(&cluster.name)).await {
        Ok(inner) => BoundedStore { inner, each: wiring::PROBE_TIMEOUT.min(settings.patience) },
        Err(error) => {
            let detail = error_chain(&error);
            lines.failed(&area, "open", detail, "correct the region's settings");
            return;
        }
    };
    let report = match probe(&store, &SystemClock).await {
        Ok(report) => report,
        Err(error) => {
            let detail = error_chain(&error);
            lines.failed(&area, "create an object", detail, "see that it is reachable, and the credentials");
            return;
        }
    };
    for (check, finding) in &report.findings {
        match finding {
            Finding::Holds if *check == Check::Delete => {
                let detail = "allowed: this host could destroy history".to_owned();
                let fix = "use credentials that may create but not delete";
                lines.warning(&area, "delete", detail, fix);
            }
            Finding::Holds => lines.good(&area, &check.to_string(), "yes"),
            Finding::NotAllowed { .. } => lines.good(&area, &check.to_string(), "not allowed for this role"),
            Finding::Unclear { why } => {
                let fix = "run `lifeboatd doctor` again; see how the region is reached if it stays";
                lines.warning(&area, &check.to_string(), why.clone(), fix);
            }
            Finding::Lacks { what } => {
                let fix = "only one writer may use this region; choose another provider if you can";
                lines.warning(&area, &check.to_string(), what.clone(), fix);
            }
        }
    }
    if config.daemon.does(Role::Wal) {
        wal::verifies(&area, &store, lines).await;
    }
    clock(&area, report.clock_skew_micros, lines);
    room(&area, settings, facts, lines);
    let Some(signer) = signer else { return };
    match read_region(&store, Some(&signer.root()), Some(settings.name.clone())).await {
        Ok((descriptor, log)) => {
            repository(&area, &descriptor, log.entries().len(), facts, lines);
            roles::of_region(&area, signer, config, &log.trust().signers, lines);
        }
        Err(error) => lines.failed(&area, "repository", format!("{error:#}"), "run `lifeboatd init`"),
    }
}

fn repository(area: &str, descriptor: &Descriptor, records: usize, facts: Option<&ServerFacts>, lines: &mut Lines) {
    match facts {
        Some(facts) if facts.system_identifier != descriptor.sysid => {
            let detail =
                format!("it belongs to system {}, the server is {}", descriptor.sysid, facts.system_identifier);
            let fix = "check the connection, or give the new cluster another name";
            lines.failed(area, "repository", detail, fix);
        }
        _ => lines.good(
            area,
            "repository",
            format!("{}, signed and in order", counted(records as u64, "record", "records")),
        ),
    }
}

fn clock(area: &str, skew: Option<i64>, lines: &mut Lines) {
    let Some(skew) = skew else { return };
    let detail = format!("{:.1} s apart", skew.unsigned_abs() as f64 / 1e6);
    if skew.abs() > SKEW_WARNING_MICROS {
        lines.warning(area, "clock", detail, "let this host keep its time by NTP (chrony, timesyncd)");
    } else {
        lines.good(area, "clock", detail);
    }
}

fn room(area: &str, settings: &RegionSettings, facts: Option<&ServerFacts>, lines: &mut Lines) {
    let StoreUrl::Directory(path) = &settings.url else { return };
    let free = match rustix::fs::statvfs(path) {
        Ok(space) => ByteCount::from_bytes(space.f_bavail.saturating_mul(space.f_frsize)),
        Err(error) => {
            lines.failed(area, "disk", error.to_string(), "see that the directory exists and is mounted");
            return;
        }
    };
    let size = facts.and_then(|facts| facts.size_bytes).map(ByteCount::from_bytes);
    match size {
        Some(size) if size > free => {
            let detail = format!("{free} free, the cluster has {size}");
            lines.warning(area, "disk", detail, "make room: a full backup may not fit");
        }
        _ => lines.good(area, "disk", format!("{free} free")),
    }
}

fn memory(config: &Config, lines: &mut Lines) {
    let limits = config.limits;
    match MemoryPlan::new(limits.memory, limits.workers, 128 << 10, 16 << 20) {
        Ok(plan) => lines.good("memory", "budget", plan.to_string()),
        Err(error) => {
            lines.failed("memory", "budget", error.to_string(), "raise limits.memory or lower limits.workers")
        }
    }
}

fn print(lines: &[Line], output: Output) {
    let word = |state| match state {
        State::Good => ("ok", Tone::Good),
        State::Warning => ("warning", Tone::Warning),
        State::Bad => ("FAILED", Tone::Bad),
    };
    if output == Output::Json {
        let checks: Vec<_> = lines
            .iter()
            .map(|line| {
                let state = word(line.state).0.to_lowercase();
                json!({ "area": line.area, "check": line.check, "state": state, "detail": line.detail, "cure": line.fix })
            })
            .collect();
        outln!("{}", json!({ "checks": checks }));
        return;
    }
    let columns = [("area", Align::Left), ("check", Align::Left), ("state", Align::Left), ("detail", Align::Left)];
    let mut table = Table::new(&columns);
    for line in lines {
        let (word, tone) = word(line.state);
        table.toned_row(vec![
            (line.area.clone(), None),
            (line.check.clone(), None),
            (word.to_owned(), Some(tone)),
            (line.detail.clone(), None),
        ]);
        if let Some(fix) = &line.fix {
            table.toned_row(vec![
                (String::new(), None),
                (String::new(), None),
                (String::new(), None),
                (format!("-> {fix}"), Some(Tone::Quiet)),
            ]);
        }
    }
    out!("{table}");
    let count = |state| lines.iter().filter(|line| line.state == state).count() as u64;
    let checks = counted(lines.len() as u64, "check", "checks");
    let warnings = counted(count(State::Warning), "warning", "warnings");
    outln!("{checks}: {} failed, {warnings}", count(State::Bad));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_and_checksums_that_are_off_are_told() {
        let told = |work: &dyn Fn(&mut Lines)| {
            let mut lines = Lines::default();
            work(&mut lines);
            lines.states()
        };
        assert_eq!(told(&|lines| clock("region r", None, lines)), []);
        for (skew, expected) in [(0, State::Good), (-SKEW_WARNING_MICROS - 1, State::Warning)] {
            assert_eq!(told(&|lines| clock("region r", Some(skew), lines)), [expected], "{skew}");
        }
        let checksums = |are_on, may_reread| {
            let mut lines = Lines::default();
            checksums(are_on, may_reread, &mut lines);
            let line = lines.0.pop().unwrap();
            (line.state, line.detail)
        };
        assert_eq!(checksums(false, true).0, State::Warning);
        assert!(checksums(true, true).1.contains("verified by Lifeboat"));
        assert!(checksums(true, false).1.contains("verified by the server"));
    }
}

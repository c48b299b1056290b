//! `list` and `show`: what there is, and where. Both programs print the same tables.

use std::time::Duration;

use lifeboat_repository::catalog::{CatalogRow, Presence};
use lifeboat_repository::log::KeyStanding;
use lifeboat_repository::log::records::{BackupRecord, HoldRecord, Integrity, OmittedPart};
use lifeboat_vocabulary::{Clock, RegionName, SystemClock, UtcTime, counted};
use serde_json::{Value, json};

use crate::access::Repository;
use crate::omissions::incomplete_text;
use crate::terminal::{Align, Output, Table, Tone, spoken, toned};
use crate::{out, outln};

/// Prints all backups, newest first, then what a person has to look at.
pub fn print_list(repository: &Repository, output: Output) {
    let (catalog, now) = (&repository.catalog, SystemClock.now());
    if output == Output::Json {
        let rows: Vec<Value> = catalog.rows().iter().map(|row| row_json(row, now)).collect();
        let findings: Vec<String> = catalog.findings().iter().map(ToString::to_string).collect();
        outln!("{}", json!({ "cluster": repository.cluster.as_str(), "backups": rows, "findings": findings }));
        return;
    }
    if catalog.rows().is_empty() {
        let seen = if repository.unread().next().is_some() { " in the regions that were read" } else { "" };
        outln!("no backups of cluster {} yet{seen}", repository.cluster);
    } else {
        let mut columns = vec![
            ("backup", Align::Left),
            ("type", Align::Left),
            ("stopped (UTC)", Align::Left),
            ("took", Align::Right),
            ("data", Align::Right),
            ("stored", Align::Right),
            ("state", Align::Left),
        ];
        columns.push(("regions", Align::Left));
        let mut table = Table::new(&columns);
        for row in catalog.rows() {
            let BackupRecord { backup, kind, files, packs, .. } = &row.record;
            let (state, tone) = state(row, now);
            let held = if row.holds_at(now).next().is_some() { ", held" } else { "" };
            let mut cells: Vec<(String, Option<Tone>)> = [
                backup.to_string(),
                kind.to_string(),
                row.record.stop_time.for_tables(),
                spoken(Duration::from_millis(row.record.duration_ms)),
                files.raw_bytes.to_string(),
                packs.bytes.to_string(),
            ]
            .map(|text| (text, None))
            .into();
            cells.push((format!("{state}{held}"), Some(tone)));
            cells.push((regions(row, now), None));
            table.toned_row(cells);
        }
        out!("{table}");
        for row in catalog.rows().iter().filter(|row| !row.record.is_complete()) {
            outln!("{} {}", toned("incomplete:", Tone::Bad), incomplete_text(&row.record));
        }
    }
    for finding in catalog.findings() {
        outln!("{} {finding}", toned("attention:", Tone::Warning));
    }
}

fn regions(row: &CatalogRow, now: UtcTime) -> String {
    let leaving = leaving(row, now);
    let each = row.regions.iter().map(|(region, presence)| match presence {
        Presence::Committed { .. } => match leaving.iter().find(|(leaving, _)| leaving == region) {
            _ if row.damaged.contains(region) => format!("{region} (damaged)"),
            Some((_, not_before)) => format!("{region} (leaves {} UTC)", not_before.for_tables()),
            None => region.to_string(),
        },
        Presence::Different { .. } => format!("{region} (different!)"),
        Presence::Swept => format!("{region} (left)"),
        Presence::Absent => format!("{region} (missing)"),
        Presence::Unknown => format!("{region} (?)"),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// The regions that are to give the backup up, and from when on they may. A hold keeps it in all of them.
fn leaving(row: &CatalogRow, now: UtcTime) -> Vec<(RegionName, UtcTime)> {
    match row.holds_at(now).next() {
        Some(_) => Vec::new(),
        None => row.leaving.iter().map(|(region, leaving)| (region.clone(), leaving.not_before)).collect(),
    }
}

/// One word for what a backup is worth.
fn state(row: &CatalogRow, now: UtcTime) -> (&'static str, Tone) {
    let everywhere = row.regions.values().all(|presence| matches!(presence, Presence::Committed { .. }));
    let leaves = row.regions.values().any(|presence| *presence == Presence::Swept) || !leaving(row, now).is_empty();
    match row.record.integrity() {
        _ if row.is_disputed() => ("disputed", Tone::Bad),
        Integrity::Incomplete => ("incomplete", Tone::Bad),
        Integrity::Damaged => ("damaged", Tone::Bad),
        // Whoever stole the key may have made it.
        Integrity::Intact if row.standing == KeyStanding::Revoked => ("key-revoked", Tone::Warning),
        Integrity::Intact if leaves => ("leaving", Tone::Quiet),
        Integrity::Intact if everywhere && row.damaged.is_empty() => ("ok", Tone::Good),
        Integrity::Intact => ("degraded", Tone::Warning),
    }
}

fn row_json(row: &CatalogRow, now: UtcTime) -> Value {
    let regions = row.regions.iter().map(|(region, presence)| {
        let word = match presence {
            Presence::Committed { .. } => "committed",
            Presence::Different { .. } => "different",
            Presence::Swept => "swept",
            Presence::Absent => "absent",
            Presence::Unknown => "unknown",
        };
        (region.to_string(), Value::from(word))
    });
    let leaving = leaving(row, now).into_iter().map(|(region, at)| (region.to_string(), Value::from(at.to_string())));
    json!({
        "state": state(row, now).0,
        "regions": regions.collect::<serde_json::Map<String, Value>>(),
        "leaving": leaving.collect::<serde_json::Map<String, Value>>(),
        "damaged_in": row.damaged.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "holds": row.holds_at(now).collect::<Vec<_>>(),
        "record": row.record,
    })
}

fn hold_text(hold: &HoldRecord) -> String {
    let until = hold.expires.map_or_else(String::new, |expires| format!(", until {expires}"));
    format!("{} by {}: {}{until}", hold.hold, hold.owner, hold.reason)
}

/// Prints everything that is known of one backup without a key.
pub fn print_backup(repository: &Repository, row: &CatalogRow, output: Output) {
    let now = SystemClock.now();
    if output == Output::Json {
        outln!("{}", row_json(row, now));
        return;
    }
    let record = &row.record;
    let (word, tone) = state(row, now);
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
    let mut line = |name: &str, value: String| table.row(&[name, &value]);
    line("backup", record.backup.to_string());
    line("cluster", format!("{} (system {})", repository.cluster, record.pg.sysid));
    line("type", record.kind.to_string());
    line("PostgreSQL", format!("{}.{}", record.pg.version / 10_000, record.pg.version % 10_000));
    line("started", record.start_time.to_string());
    line("stopped", format!("{} (took {})", record.stop_time, spoken(Duration::from_millis(record.duration_ms))));
    line("WAL", format!("{} to {}", record.start(), record.stop()));
    line("data", format!("{} in {}", record.files.raw_bytes, counted(record.files.count, "file", "files")));
    line("stored", format!("{} in {}", record.packs.bytes, counted(record.packs.objects, "object", "objects")));
    match record.pages {
        None => line("pages", "not checked (the cluster has no page checksums)".to_owned()),
        Some(pages) if pages.damaged == 0 => line("pages", format!("{} checked, all intact", pages.checked)),
        Some(pages) => {
            let files = counted(pages.damaged_files, "file", "files");
            let text = format!("{} DAMAGED in {files}, of {}", pages.damaged, pages.checked);
            line("pages", text);
        }
    }
    for omission in &record.omissions.named {
        let name = match omission.what {
            OmittedPart::Data => "MISSING DATA",
            OmittedPart::Configuration => "not kept",
            OmittedPart::Other => "left out",
        };
        line(name, omission.to_string());
    }
    line("regions", regions(row, now));
    let why = row.leaving.values().next().filter(|_| !leaving(row, now).is_empty());
    why.into_iter().for_each(|leaving| line("leaves because", leaving.why.clone()));
    row.holds_at(now).for_each(|hold| line("hold", hold_text(hold)));
    outln!("{}", toned(word, tone));
    // The first line is the table's empty heading.
    out!("{}", table.to_string().split_once('\n').map_or("", |(_, rows)| rows));
    print_unread(repository);
}

/// Names the regions of which is not known what they hold: something newer may lie there.
pub fn print_unread(repository: &Repository) {
    for (region, why) in repository.unread() {
        outln!("{} region {region} cannot be read, and may have more: {why}", toned("attention:", Tone::Warning));
    }
}

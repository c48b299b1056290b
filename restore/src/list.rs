//! `list` and `show`: what there is, and where. Both programs print the same tables.

use std::time::Duration;

use lifeboat_repository::{BackupRecord, CatalogRow, Presence, Soundness};
use serde_json::{Value, json};

use crate::access::Repository;
use crate::terminal::{Align, Output, Table, Tone, spoken, toned};

/// Prints all backups, newest first, then what a person has to look at.
pub fn print_list(repository: &Repository, output: Output) {
    let catalog = &repository.catalog;
    if output == Output::Json {
        let rows: Vec<Value> = catalog.rows().iter().map(row_json).collect();
        let findings: Vec<String> = catalog.findings().iter().map(ToString::to_string).collect();
        println!("{}", json!({ "cluster": repository.cluster.as_str(), "backups": rows, "findings": findings }));
        return;
    }
    if catalog.rows().is_empty() {
        println!("no backups of cluster {} yet", repository.cluster);
    } else {
        let mut columns = vec![
            ("backup", Align::Left),
            ("type", Align::Left),
            ("stopped (UTC)", Align::Left),
            ("took", Align::Right),
            ("files", Align::Right),
            ("data", Align::Right),
            ("stored", Align::Right),
            ("state", Align::Left),
        ];
        columns.push(("regions", Align::Left));
        let mut table = Table::new(&columns);
        for row in catalog.rows() {
            let BackupRecord { backup, kind, files, packs, .. } = &row.record;
            let (state, tone) = state(row);
            let mut cells: Vec<(String, Option<Tone>)> = [
                backup.to_string(),
                kind.to_string(),
                row.record.stop_time.for_tables(),
                spoken(Duration::from_millis(row.record.duration_ms)),
                files.count.to_string(),
                files.raw_bytes.to_string(),
                packs.bytes.to_string(),
            ]
            .map(|text| (text, None))
            .into();
            cells.push((state.to_owned(), Some(tone)));
            cells.push((regions(row), None));
            table.toned_row(cells);
        }
        print!("{table}");
    }
    for finding in catalog.findings() {
        println!("{} {finding}", toned("attention:", Tone::Warning));
    }
}

fn regions(row: &CatalogRow) -> String {
    let each = row.regions.iter().map(|(region, presence)| match presence {
        Presence::Committed { .. } => region.to_string(),
        Presence::Different { .. } => format!("{region} (different!)"),
        Presence::Absent => format!("{region} (missing)"),
        Presence::Unknown => format!("{region} (?)"),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// One word for what a backup is worth.
fn state(row: &CatalogRow) -> (&'static str, Tone) {
    let everywhere = row.regions.values().all(|presence| matches!(presence, Presence::Committed { .. }));
    match row.record.soundness() {
        _ if row.is_disputed() => ("disputed", Tone::Bad),
        Soundness::Damaged => ("damaged", Tone::Bad),
        Soundness::Sound if everywhere => ("ok", Tone::Good),
        Soundness::Sound => ("degraded", Tone::Warning),
    }
}

fn row_json(row: &CatalogRow) -> Value {
    let regions = row.regions.iter().map(|(region, presence)| {
        let word = match presence {
            Presence::Committed { .. } => "committed",
            Presence::Different { .. } => "different",
            Presence::Absent => "absent",
            Presence::Unknown => "unknown",
        };
        (region.to_string(), Value::from(word))
    });
    json!({
        "state": state(row).0,
        "regions": regions.collect::<serde_json::Map<String, Value>>(),
        "record": row.record,
    })
}

/// Prints everything that is known of one backup without a key.
pub fn print_backup(repository: &Repository, row: &CatalogRow, output: Output) {
    if output == Output::Json {
        println!("{}", row_json(row));
        return;
    }
    let record = &row.record;
    let (word, tone) = state(row);
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
    let mut line = |name: &str, value: String| table.row(&[name, &value]);
    line("backup", record.backup.to_string());
    line("cluster", format!("{} (system {})", repository.cluster, record.pg.sysid));
    line("type", record.kind.to_string());
    line("PostgreSQL", format!("{}.{}", record.pg.version / 10_000, record.pg.version % 10_000));
    line("started", record.start_time.to_string());
    line("stopped", format!("{} (took {})", record.stop_time, spoken(Duration::from_millis(record.duration_ms))));
    line("WAL", format!("{} to {}", record.start(), record.stop()));
    line("data", format!("{} in {} files", record.files.raw_bytes, record.files.count));
    line("stored", format!("{} in {} objects", record.packs.bytes, record.packs.objects));
    match record.pages {
        None => line("pages", "not checked (the cluster has no page checksums)".to_owned()),
        Some(pages) if pages.damaged == 0 => line("pages", format!("{} checked, all sound", pages.checked)),
        Some(pages) => {
            let text = format!("{} DAMAGED in {} files, of {}", pages.damaged, pages.damaged_files, pages.checked);
            line("pages", text);
        }
    }
    line("regions", regions(row));
    println!("{}", toned(word, tone));
    // The first line is the table's empty heading.
    print!("{}", table.to_string().split_once('\n').map_or("", |(_, rows)| rows));
}

//! What a backup prints when it is over.

use std::time::Duration;

use lifeboat_cli::omissions::print_omissions;
use lifeboat_cli::terminal::{Align, Output, Table, Tone, rate, spoken, toned};
use lifeboat_cli::{out, outln};
use lifeboat_repository::backup::write::CommitReport;
use lifeboat_repository::log::records::BackupRecord;
use lifeboat_stores::Verdict;
use lifeboat_vocabulary::{counted, error_chain};
use serde_json::json;

/// What a finished backup reports.
pub(crate) struct BackupOutcome {
    /// What happened in each region.
    pub(crate) commit: CommitReport,
    /// Whether it counts.
    pub(crate) verdict: Verdict,
    /// Pages that are damaged in the database.
    pub(crate) damaged: Vec<String>,
    /// What the server left out or complained about.
    pub(crate) findings: Vec<String>,
}

fn word(outcome: &BackupOutcome) -> (&'static str, Tone) {
    match outcome.verdict {
        Verdict::Failed => ("below quorum", Tone::Bad),
        _ if !outcome.commit.record.is_complete() => ("incomplete", Tone::Bad),
        _ if !outcome.damaged.is_empty() => ("damaged", Tone::Bad),
        Verdict::Degraded => ("degraded", Tone::Warning),
        Verdict::Ok => ("ok", Tone::Good),
    }
}

/// Prints the outcome for people or for machines.
pub(crate) fn print(outcome: &BackupOutcome, quorum: usize, output: Output) {
    let record = &outcome.commit.record;
    let (word, tone) = word(outcome);
    if output == Output::Json {
        let regions = outcome.commit.regions.iter().map(|(region, result)| {
            let value = match result {
                Ok(head) => json!({ "state": "committed", "seq": head.seq }),
                Err(reason) => json!({ "state": "excluded", "why": error_chain(reason) }),
            };
            (region.to_string(), value)
        });
        let line = json!({
            "event": "finished", "state": word, "quorum": quorum,
            "regions": regions.collect::<serde_json::Map<_, _>>(),
            "damaged_pages": outcome.damaged, "findings": outcome.findings, "record": record,
        });
        outln!("{line}");
        return;
    }
    let BackupRecord { backup, files, packs, duration_ms, .. } = record;
    let took = Duration::from_millis(*duration_ms);
    outln!("backup {backup} is {}", toned(word, tone));
    outln!(
        "  data     {} in {}, {} ({})",
        files.raw_bytes,
        counted(files.count, "file", "files"),
        spoken(took),
        rate(files.raw_bytes, took)
    );
    outln!("  stored   {} in {} per region", packs.bytes, counted(packs.objects, "object", "objects"));
    outln!("  WAL      {} to {}", record.start(), record.stop());
    match record.pages {
        None => outln!("  pages    the cluster has no page checksums"),
        Some(pages) if pages.damaged > 0 => {
            outln!("  pages    {} damaged in the database", counted(pages.damaged, "is", "are"));
        }
        Some(pages) => outln!("  pages    {} verified", counted(pages.checked, "checksum", "checksums")),
    }
    let mut table = Table::new(&[("  region", Align::Left), ("state", Align::Left), ("", Align::Left)]);
    for (region, result) in &outcome.commit.regions {
        let region = format!("  {region}");
        match result {
            Ok(_) => {
                table.toned_row(vec![(region, None), ("committed".into(), Some(Tone::Good)), (String::new(), None)])
            }
            Err(reason) => {
                table.toned_row(vec![
                    (region, None),
                    ("excluded".into(), Some(Tone::Bad)),
                    (error_chain(reason), None),
                ]);
            }
        }
    }
    out!("{table}");
    if outcome.verdict == Verdict::Failed {
        let held = counted(outcome.commit.committed() as u64, "region holds it", "regions hold it");
        let required = counted(quorum as u64, "is required", "are required");
        outln!("{} {held}, {required}: it does not count", toned("attention:", Tone::Bad));
    }
    for page in outcome.damaged.iter().take(20) {
        outln!("{} {page}", toned("damaged page:", Tone::Bad));
    }
    print_omissions(&record.omissions);
    for finding in &outcome.findings {
        outln!("{} {finding}", toned("attention:", Tone::Warning));
    }
}

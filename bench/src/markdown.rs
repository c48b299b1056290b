//! The report as a page for `docs/BENCHMARKS.md`.

use crate::report::{HEADS, Report};
use crate::wal::table::TEXT_COLUMNS;

/// What every reader must know before quoting a figure.
const RULES: &str = "\
All tools back up the same cluster to the same S3 servers, one process per region, over TLS with a private certificate
authority. These servers keep objects in memory and run **on the same machine**, so they take processor time from the
tool that is measured; their share stands in a column of its own.

- `wall s` is the time from start to end, `MB/s` the cluster's size divided by it (MB = 10^6 bytes).
- `CPU s` is what the command and all its children used; `PG CPU` the PostgreSQL server, `S3 CPU` the S3 servers with
  their TLS, `other` everything else on the machine. A run in which others used more than a tenth of the command's own
  time is thrown away; `runs` counts both kinds.
- `RSS one` is the largest process, `RSS all` all processes of the command at once, sampled every 100 ms, with shared
  pages counted in each (MiB).
- `stored MB`, `objects` and `requests` are those of all regions together.
- `wall x` and `CPU x` are multiples of the first tool's medians.

The tools take turns. The cluster is read once before each backup, so that it is in memory; file systems are synced and
the target is empty before each restore. Before restores are measured, each tool restores once, the restored cluster is
started, and its rows are compared with the original's.
";

/// The whole page.
pub(crate) fn of(report: &Report) -> String {
    let mut page =
        "# Benchmarks\n\nWritten by `cargo xtask bench`; see [bench/README.md](../bench/README.md).\n\n".to_owned();
    page += &format!(
        "{}. PostgreSQL {} with data checksums, {:.2} GB without WAL: pgbench tables, JSON documents, random bytes.\n\
         Measured {}; medians of {} runs (min-max).\n",
        report.machine.line(),
        report.postgres,
        report.data_bytes as f64 / 1e9,
        report.measured_at,
        report.runs
    );
    if !report.rows.is_empty() {
        page += "\n## Backups and restores\n\n";
        page += &line(&HEADS);
        page += &line(&HEADS.map(|head| if head == "operation" || head == "tool" { "---" } else { "---:" }));
        for cells in report.cells() {
            page += &line(&cells);
        }
    }
    let sections = report.wal.sections();
    for section in &sections {
        page += &format!("\n## {}\n\n", section.title);
        page += &line(&section.heads);
        let rules = (0..section.heads.len()).map(|column| if column < TEXT_COLUMNS { "---" } else { "---:" });
        page += &line(&rules.collect::<Vec<_>>());
        for cells in &section.lines {
            page += &line(cells);
        }
    }
    page += "\n## Tools\n\n";
    page += &line(&["tool", "version", "set up"]);
    page += &line(&["---"; 3]);
    for tool in &report.tools {
        page += &line(&[tool.title, &tool.version, &tool.settings.replace('|', "\\|")]);
    }
    page += "\n## How it was measured\n\n";
    page += RULES;
    for section in &sections {
        page += &format!("\n### {}\n\n{}\n", section.title, section.rules);
    }
    page
}

fn line<T: AsRef<str>>(cells: &[T]) -> String {
    let cells: Vec<_> = cells.iter().map(AsRef::as_ref).collect();
    format!("| {} |\n", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;
    use crate::wal::table::Measured;

    #[test]
    fn every_line_of_a_table_has_the_same_number_of_columns() {
        let mut report = report();
        report.tools[0].settings = "dump | zstd";
        report.wal.drain = vec![Measured::new("backlog", "Lifeboat", "flush 1 s")];
        let page = of(&report);
        let columns = |line: &str| line.replace("\\|", "").matches('|').count();
        let tables: Vec<_> = page.split("\n\n").filter(|block| block.starts_with('|')).collect();
        assert_eq!(tables.len(), 3, "{page}");
        for table in tables {
            let first = table.lines().next().map(columns);
            assert!(table.lines().all(|line| Some(columns(line)) == first), "{table}");
        }
        assert!(page.contains("| full backup, 1 region | Lifeboat | 7.50 (6.00-9.00) | 720 |"), "{page}");
        assert_eq!(page.matches("# A backlog of WAL\n").count(), 2, "its figures, and how they were measured: {page}");
        assert!(!page.contains("Recovery to the last commit"), "{page}");
    }
}

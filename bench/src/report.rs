//! All figures of a run of the benchmark, and how they are shown.

use serde::Serialize;

use crate::figures::{Run, Spread, ratio};
use crate::machine::Machine;
use crate::plan::Scenario;
use crate::wal::WalReport;
use crate::wal::table::{TEXT_COLUMNS, aligned};

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// When, in UTC.
    pub(crate) measured_at: String,
    /// Where.
    pub(crate) machine: Machine,
    /// The server's version.
    pub(crate) postgres: String,
    /// The cluster's size in bytes, without WAL.
    pub(crate) data_bytes: u64,
    /// How many runs of each were wanted.
    pub(crate) runs: u32,
    /// What was measured.
    pub(crate) tools: Vec<ToolReport>,
    /// One per operation and tool.
    pub(crate) rows: Vec<Row>,
    /// Continuous WAL and recovery.
    pub(crate) wal: WalReport,
}

#[derive(Debug, Serialize)]
pub(crate) struct ToolReport {
    /// Its name.
    pub(crate) title: &'static str,
    /// Its programs and their versions.
    pub(crate) version: String,
    /// How it was set up.
    pub(crate) settings: &'static str,
}

/// All runs of one operation with one tool.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// The operation.
    pub(crate) scenario: &'static str,
    pub(crate) tool: &'static str,
    /// The runs that count.
    pub(crate) runs: Vec<Run>,
    /// How many did not, because others used too much of the machine.
    pub(crate) thrown_away: u32,
}

impl Row {
    /// No runs yet.
    pub(crate) fn new(scenario: Scenario, tool: &'static str) -> Self {
        Self { scenario: scenario.title(), tool, runs: Vec::new(), thrown_away: 0 }
    }

    fn spread(&self, figure: impl Fn(&Run) -> f64) -> Option<Spread> {
        Spread::of(self.runs.iter().map(figure))
    }
}

/// The heads of the columns of [`Report::cells`]. Seconds are processor seconds except for `wall s`.
pub(crate) const HEADS: [&str; 16] = [
    "operation",
    "tool",
    "wall s",
    "MB/s",
    "CPU s",
    "PG CPU",
    "S3 CPU",
    "other",
    "RSS one",
    "RSS all",
    "stored MB",
    "objects",
    "requests",
    "wall x",
    "CPU x",
    "runs",
];

impl Report {
    /// One line per row, in the order of [`HEADS`].
    pub(crate) fn cells(&self) -> Vec<[String; HEADS.len()]> {
        self.rows.iter().map(|row| self.line(row)).collect()
    }

    fn line(&self, row: &Row) -> [String; HEADS.len()] {
        let own = self.rows.iter().find(|other| other.scenario == row.scenario).unwrap_or(row);
        let wall = |run: &Run| run.cost.wall_seconds;
        let cpu = |run: &Run| run.cost.cpu_seconds;
        let median = |figure: fn(&Run) -> f64, digits: usize| text(row.spread(figure).map(|all| all.median), digits);
        let times = |figure: fn(&Run) -> f64| {
            let both = row.spread(figure).zip(own.spread(figure));
            both.and_then(|(this, own)| ratio(this.median, own.median)).map_or("-".to_owned(), |x| format!("{x:.2}"))
        };
        let speed = row.spread(|run| self.data_bytes as f64 / 1e6 / run.cost.wall_seconds);
        [
            row.scenario.to_owned(),
            row.tool.to_owned(),
            with_range(row.spread(wall)),
            text(speed.map(|all| all.median), 0),
            with_range(row.spread(cpu)),
            median(|run| run.cost.postgres_cpu_seconds, 1),
            median(|run| run.cost.region_cpu_seconds, 1),
            median(|run| run.cost.other_cpu_seconds, 1),
            median(|run| run.cost.largest_process_bytes as f64 / f64::from(1 << 20), 0),
            median(|run| run.cost.all_processes_bytes as f64 / f64::from(1 << 20), 0),
            median(|run| run.stored_bytes as f64 / 1e6, 1),
            median(|run| run.objects as f64, 0),
            median(|run| run.requests as f64, 0),
            times(wall),
            times(cpu),
            format!("{}+{}", row.runs.len(), row.thrown_away),
        ]
    }

    /// Aligned tables with a line about the machine above and a legend below.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{}\nPostgreSQL {}, {:.2} GB without WAL, {}\n\n",
            self.machine.line(),
            self.postgres,
            self.data_bytes as f64 / 1e9,
            self.measured_at
        );
        if !self.rows.is_empty() {
            let cells = self.cells().into_iter().map(|cells| cells.to_vec());
            let lines: Vec<_> = std::iter::once(HEADS.map(str::to_owned).to_vec()).chain(cells).collect();
            text += &aligned(&lines, 2);
            text.push('\n');
        }
        for section in self.wal.sections() {
            let lines: Vec<_> = std::iter::once(section.heads).chain(section.lines).collect();
            text += &format!("{}\n{}\n", section.title, aligned(&lines, TEXT_COLUMNS));
        }
        text + "Medians (min-max). RSS in MiB. Columns with x: times the first tool's. runs: counted+thrown away.\n"
    }
}

fn text(figure: Option<f64>, digits: usize) -> String {
    figure.map_or("-".to_owned(), |figure| format!("{figure:.digits$}"))
}

fn with_range(spread: Option<Spread>) -> String {
    spread.map_or("-".to_owned(), |Spread { median, min, max }| format!("{median:.2} ({min:.2}-{max:.2})"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::figures::Cost;

    /// Two tools; the second is twice as slow and its restore never had a clean run.
    pub(crate) fn report() -> Report {
        let run = |wall: f64, cpu: f64| Run {
            cost: Cost {
                wall_seconds: wall,
                cpu_seconds: cpu,
                kernel_seconds: 0.5,
                postgres_cpu_seconds: 0.1,
                region_cpu_seconds: 4.25,
                other_cpu_seconds: 0.3,
                largest_process_bytes: 40 << 20,
                all_processes_bytes: 97 << 20,
            },
            stored_bytes: 825_700_000,
            objects: 17,
            requests: 205,
        };
        let row = |scenario, tool, runs, thrown_away| Row { runs, thrown_away, ..Row::new(scenario, tool) };
        Report {
            measured_at: "2026-01-02 03:04:05 UTC".to_owned(),
            machine: Machine {
                processor: "Test 1".to_owned(),
                cores: 2,
                memory_bytes: 24 << 30,
                kernel: "6.1".to_owned(),
                system: "Debian".to_owned(),
            },
            postgres: "15.18".to_owned(),
            data_bytes: 5_400_000_000,
            runs: 3,
            tools: vec![ToolReport { title: "Lifeboat", version: "0.1.0".to_owned(), settings: "defaults" }],
            rows: vec![
                row(Scenario::Backup, "Lifeboat", vec![run(7.5, 10.0), run(9.0, 12.0), run(6.0, 9.0)], 0),
                row(Scenario::Backup, "other", vec![run(15.0, 20.0)], 2),
                row(Scenario::Restore, "Lifeboat", vec![run(1.0, 2.0)], 0),
                row(Scenario::Restore, "other", vec![], 8),
            ],
            wal: WalReport::default(),
        }
    }

    #[test]
    fn a_row_without_a_clean_run_shows_no_figures() {
        let cells = report().cells();
        assert_eq!(cells[3][2..].iter().filter(|cell| *cell == "-").count(), HEADS.len() - 3, "{cells:?}");
        assert_eq!(cells[3][HEADS.len() - 1], "0+8");
    }

    #[test]
    fn ratios_are_those_of_the_medians_to_the_first_tools() {
        let cells = report().cells();
        let expected = [
            "full backup, 1 region",
            "Lifeboat",
            "7.50 (6.00-9.00)",
            "720",
            "10.00 (9.00-12.00)",
            "0.1",
            "4.2",
            "0.3",
            "40",
            "97",
            "825.7",
            "17",
            "205",
            "1.00",
            "1.00",
            "3+0",
        ];
        assert_eq!(cells[0], expected);
        assert_eq!(cells[1][13..], ["2.00", "2.00", "1+2"]);
        assert_eq!(cells[2][13..], ["1.00", "1.00", "1+0"]);
    }

    #[test]
    fn columns_stand_below_their_heads() {
        let table = report().table();
        let lines: Vec<_> = table.lines().skip(3).take(5).collect();
        let ends = |line: &str| line.find("2.00").map(|at| at + 4);
        assert_eq!(lines[0].find("wall x").map(|at| at + 6), ends(lines[2]), "{table}");
        assert!(table.starts_with("Test 1, 2 cores, 24 GiB, Debian, Linux 6.1\nPostgreSQL 15.18, 5.40 GB"), "{table}");
    }
}

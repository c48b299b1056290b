//! Figures of any kind in a table: all runs of one load or operation with one tool are a row.

use serde::Serialize;

use crate::figures::{Spread, ratio};

/// All runs of one kind with one tool.
#[derive(Debug, Serialize)]
pub(crate) struct Measured<R> {
    /// The load or operation. Ratios are relative to the first row with the same one.
    pub(crate) what: String,
    pub(crate) tool: &'static str,
    /// How it was used.
    pub(crate) manner: &'static str,
    /// The runs that count.
    pub(crate) runs: Vec<R>,
    /// How many did not, because others used too much of the machine.
    pub(crate) thrown_away: u32,
}

impl<R> Measured<R> {
    /// No runs yet.
    pub(crate) fn new(what: &str, tool: &'static str, manner: &'static str) -> Self {
        Self { what: what.to_owned(), tool, manner, runs: Vec::new(), thrown_away: 0 }
    }

    fn spread(&self, figure: fn(&R) -> f64) -> Option<Spread> {
        Spread::of(self.runs.iter().map(figure))
    }
}

/// How a figure of several runs is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The middle one.
    Median,
    /// The middle one, the smallest and the largest.
    Range,
    /// The largest.
    Worst,
    /// The middle one, in multiples of that of the first row with the same operation.
    Times,
}

/// One column.
#[derive(Debug)]
pub(crate) struct Column<R> {
    pub(crate) head: &'static str,
    /// What stands in it.
    pub(crate) figure: fn(&R) -> f64,
    /// Digits behind the point.
    pub(crate) digits: usize,
    /// How it is shown.
    pub(crate) shown: Shown,
}

impl<R> Column<R> {
    /// A column.
    pub(crate) const fn new(head: &'static str, digits: usize, shown: Shown, figure: fn(&R) -> f64) -> Self {
        Self { head, figure, digits, shown }
    }

    fn cell(&self, row: &Measured<R>, first: &Measured<R>) -> String {
        let Some(own) = row.spread(self.figure) else { return "-".to_owned() };
        let digits = self.digits;
        let number = match self.shown {
            Shown::Median => Some(own.median),
            Shown::Worst => Some(own.max),
            Shown::Range => {
                return format!("{:.digits$} ({:.digits$}-{:.digits$})", own.median, own.min, own.max);
            }
            Shown::Times => first.spread(self.figure).and_then(|first| ratio(own.median, first.median)),
        };
        number.map_or("-".to_owned(), |number| format!("{number:.digits$}"))
    }
}

/// How many columns of a [`Section`] are text, from the left.
pub(crate) const TEXT_COLUMNS: usize = 3;

/// What stands above a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heading {
    /// The heading.
    pub(crate) title: &'static str,
    /// What a reader must know, as Markdown.
    pub(crate) rules: &'static str,
}

/// A table with its heading, ready to be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    /// The heading.
    pub(crate) title: &'static str,
    /// What a reader must know, as Markdown.
    pub(crate) rules: &'static str,
    /// The heads of the columns.
    pub(crate) heads: Vec<String>,
    /// One line per row.
    pub(crate) lines: Vec<Vec<String>>,
}

impl Section {
    /// Of rows; `None` if there are none.
    pub(crate) fn of<R>(heading: Heading, rows: &[Measured<R>], columns: &[Column<R>]) -> Option<Self> {
        let Heading { title, rules } = heading;
        let line = |row: &Measured<R>| {
            let first = rows.iter().find(|other| other.what == row.what).unwrap_or(row);
            let mut line = vec![row.what.clone(), row.tool.to_owned(), row.manner.to_owned()];
            line.extend(columns.iter().map(|column| column.cell(row, first)));
            line.push(format!("{}+{}", row.runs.len(), row.thrown_away));
            line
        };
        let heads = ["load", "tool", "how"].into_iter().chain(columns.iter().map(|column| column.head)).chain(["runs"]);
        let heads = heads.map(str::to_owned).collect();
        (!rows.is_empty()).then(|| Self { title, rules, heads, lines: rows.iter().map(line).collect() })
    }
}

/// Lines whose columns stand below each other: the first ones are text, the others numbers.
pub(crate) fn aligned(lines: &[Vec<String>], text_columns: usize) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths = vec![0; columns];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            _ if column < text_columns => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADING: Heading = Heading { title: "t", rules: "r" };
    const COLUMNS: [Column<f64>; 4] = [
        Column::new("s", 1, Shown::Range, |run| *run),
        Column::new("p50", 2, Shown::Median, |run| *run),
        Column::new("max", 0, Shown::Worst, |run| *run),
        Column::new("x", 2, Shown::Times, |run| *run),
    ];

    #[test]
    fn a_row_without_a_run_that_counts_shows_no_figures_and_no_rows_are_no_section() {
        assert_eq!(Section::of(HEADING, &[], &COLUMNS), None);
        let none = [Measured::<f64>::new("load", "tool", "how")];
        let section = Section::of(HEADING, &none, &COLUMNS).unwrap();
        assert_eq!(section.lines[0], ["load", "tool", "how", "-", "-", "-", "-", "0+0"]);
    }

    #[test]
    fn ratios_are_to_the_first_row_of_the_same_load() {
        let row = |what, tool, runs: &[f64]| Measured { runs: runs.to_vec(), ..Measured::new(what, tool, "how") };
        let rows = [row("full", "a", &[2.0, 1.0, 4.0]), row("full", "b", &[5.0]), row("quiet", "b", &[7.0])];
        let section = Section::of(HEADING, &rows, &COLUMNS).unwrap();
        assert_eq!(section.heads, ["load", "tool", "how", "s", "p50", "max", "x", "runs"]);
        assert_eq!(section.lines[0][3..], ["2.0 (1.0-4.0)", "2.00", "4", "1.00", "3+0"]);
        assert_eq!(section.lines[1][6..], ["2.50", "1+0"]);
        assert_eq!(section.lines[2][6..], ["1.00", "1+0"]);
    }

    #[test]
    fn text_stands_left_and_numbers_right() {
        let lines = [["tool", "s"], ["x", "10.5"]].map(|line| line.map(str::to_owned).to_vec());
        assert_eq!(aligned(&lines, 1), "tool     s\nx     10.5\n");
    }
}

//! What people and machines see: aligned tables, a progress line, colours only where somebody looks.

use std::fmt::{self, Write as _};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use crate::{errln, outln};
/// How many columns of a terminal a text takes, and a text without its colours.
pub use console::{measure_text_width, strip_ansi_codes};
use indicatif::{ProgressBar, ProgressStyle};
use lifeboat_repository::backup::{Progress, ProgressSnapshot};
use lifeboat_vocabulary::{ByteCount, counted};

/// Where the last column of a table is broken on a terminal, unless less than [`NARROWEST`] columns are left for it.
const WIDTH: usize = 100;
const NARROWEST: usize = 20;

/// For whom a command writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Tables and sentences.
    Text,
    /// One JSON document, or JSON lines while something runs.
    Json,
}

/// How a word is set off on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// All is well.
    Good,
    /// Somebody should look.
    Warning,
    /// Something is wrong.
    Bad,
    /// Of less interest.
    Quiet,
    /// A heading.
    Strong,
}

/// Sets `text` off in colour if standard output is a terminal and `NO_COLOR` is not set (<https://no-color.org>).
#[must_use]
pub fn toned(text: &str, tone: Tone) -> String {
    let wanted = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if !wanted {
        return text.to_owned();
    }
    let code = match tone {
        Tone::Good => "32",
        Tone::Warning => "33",
        Tone::Bad => "31;1",
        Tone::Quiet => "2",
        Tone::Strong => "1",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table with aligned columns, for `Display`.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<(String, Option<Tone>)>>,
}

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row of plain cells.
    pub fn row(&mut self, cells: &[&str]) {
        self.rows.push(cells.iter().map(|cell| ((*cell).to_owned(), None)).collect());
    }

    /// Adds a row of cells that may be set off.
    pub fn toned_row(&mut self, cells: Vec<(String, Option<Tone>)>) {
        self.rows.push(cells);
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize, heading: &str| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|(text, _)| measure_text_width(text));
            cells.chain([measure_text_width(heading)]).max().unwrap_or(0)
        };
        // In a pipe every row is one line, for those who search in it.
        let wraps = std::io::stdout().is_terminal();
        let widths: Vec<usize> = self.columns.iter().enumerate().map(|(i, (heading, _))| width(i, heading)).collect();
        let line = |cells: &[(String, Option<Tone>)]| {
            let mut line = String::new();
            for (index, (text, tone)) in cells.iter().enumerate() {
                let last = index + 1 == cells.len();
                let (align, width) = match (self.columns.get(index), widths.get(index)) {
                    (Some((_, align)), Some(width)) => (*align, *width),
                    _ => (Align::Left, 0),
                };
                let gap = " ".repeat(width.saturating_sub(measure_text_width(text)));
                let shown = tone.map_or_else(|| text.clone(), |tone| toned(text, tone));
                match align {
                    Align::Right => line.extend([gap.as_str(), shown.as_str()]),
                    Align::Left if last && tone.is_none() && wraps => {
                        let indent = widths.iter().take(index).map(|width| width + 2).sum();
                        line.push_str(&wrapped(text, indent, WIDTH));
                    }
                    Align::Left if last => line.push_str(&shown),
                    Align::Left => line.extend([shown.as_str(), gap.as_str()]),
                }
                if !last {
                    line.push_str("  ");
                }
            }
            line
        };
        let headings: Vec<_> = self.columns.iter().map(|(text, _)| ((*text).to_owned(), Some(Tone::Strong))).collect();
        writeln!(f, "{}", line(&headings))?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{}", line(row)))
    }
}

/// Breaks a text that begins in column `indent` at spaces, so that each line ends before column `width`, and goes on below
/// its beginning. Words are never cut, and nothing is broken where less than [`NARROWEST`] columns are left.
#[must_use]
pub fn wrapped(text: &str, indent: usize, width: usize) -> String {
    if indent + NARROWEST > width {
        return text.to_owned();
    }
    let (mut out, mut column) = (String::new(), indent);
    for word in text.split(' ') {
        let columns = measure_text_width(word);
        if column > indent && column + 1 + columns > width {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if column > indent {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += columns;
    }
    out
}

/// A duration as people say it: `850 ms`, `12.4 s`, `3 min 05 s`, `2 h 07 min`.
#[must_use]
pub fn spoken(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{}.{} s", seconds, duration.subsec_millis() / 100),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Bytes per second as people say it.
#[must_use]
pub fn rate(bytes: ByteCount, time: Duration) -> String {
    let micros = time.as_micros().max(1);
    let per_second = u128::from(bytes.as_bytes()) * 1_000_000 / micros;
    format!("{}/s", ByteCount::from_bytes(u64::try_from(per_second).unwrap_or(u64::MAX)))
}

/// Draws how far a run has come until it is dropped: a bar with rate and ETA on a terminal, a plain line every ten
/// seconds in a pipe, a JSON line every second with `--json`.
#[derive(Debug)]
pub struct ProgressLine {
    task: tokio::task::JoinHandle<()>,
    bar: Option<ProgressBar>,
}

impl ProgressLine {
    /// Starts drawing. `total` is the expected number of plain bytes, where there is an estimate.
    #[must_use]
    pub fn start(verb: &'static str, progress: Arc<Progress>, total: Option<ByteCount>, output: Output) -> Self {
        let bar = (output == Output::Text && std::io::stderr().is_terminal()).then(|| bar(verb, total));
        let task = tokio::spawn(draw(verb, progress, total, output, bar.clone()));
        Self { task, bar }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(verb: &'static str, total: Option<ByteCount>) -> ProgressBar {
    let template = match total {
        Some(_) => "{msg} {percent:>3}% [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        None => "{msg} {spinner} {bytes}, {bytes_per_sec}, {elapsed}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = total.map_or_else(ProgressBar::new_spinner, |total| ProgressBar::new(total.as_bytes()));
    bar.set_style(style.progress_chars("━╸─"));
    bar.set_message(verb);
    bar
}

async fn draw(
    verb: &'static str,
    progress: Arc<Progress>,
    total: Option<ByteCount>,
    output: Output,
    bar: Option<ProgressBar>,
) {
    let begun = tokio::time::Instant::now();
    let period = match (&bar, output) {
        (Some(_), _) => Duration::from_millis(200),
        (None, Output::Json) => Duration::from_secs(1),
        (None, Output::Text) => Duration::from_secs(10),
    };
    let mut tick = tokio::time::interval(period);
    tick.tick().await;
    loop {
        tick.tick().await;
        let now = progress.snapshot();
        match (&bar, output) {
            (Some(bar), _) => {
                // The server's estimate leaves out WAL: the bar never claims to be done before it is.
                if let Some(total) = total {
                    bar.set_length(total.as_bytes().max(now.raw.as_bytes()));
                }
                bar.set_position(now.done().as_bytes());
            }
            (None, Output::Json) => outln!("{}", json_line(verb, now, total, begun.elapsed())),
            (None, Output::Text) => errln!("{}", plain_line(verb, now, total, begun.elapsed())),
        }
    }
}

fn left(now: ProgressSnapshot, total: Option<ByteCount>, elapsed: Duration) -> Option<Duration> {
    let (done, total) = (now.done().as_bytes(), total?.as_bytes());
    let micros =
        elapsed.as_micros().checked_mul(u128::from(total.checked_sub(done)?))?.checked_div(u128::from(done))?;
    u64::try_from(micros).ok().map(Duration::from_micros)
}

fn plain_line(verb: &str, now: ProgressSnapshot, total: Option<ByteCount>, elapsed: Duration) -> String {
    let mut line = format!("{verb}: {}", now.raw);
    if let Some(total) = total {
        let percent = u128::from(now.raw.as_bytes()) * 100 / u128::from(total.as_bytes().max(1));
        line = format!("{line} of about {total} ({}%)", percent.min(100));
    }
    line = format!("{line}, {}, {}", counted(now.files, "file", "files"), rate(now.raw, elapsed));
    if let Some(left) = left(now, total, elapsed) {
        // Writing to a String cannot fail.
        if write!(line, ", {} left", spoken(left)).is_err() {
            return line;
        }
    }
    line
}

fn json_line(verb: &str, now: ProgressSnapshot, total: Option<ByteCount>, elapsed: Duration) -> serde_json::Value {
    serde_json::json!({
        "event": "progress",
        "doing": verb,
        "raw_bytes": now.raw.as_bytes(),
        "stored_bytes": now.stored.as_bytes(),
        "files": now.files,
        "objects": now.objects,
        "total_bytes": total.map(ByteCount::as_bytes),
        "elapsed_seconds": elapsed.as_secs_f64(),
        "seconds_left": left(now, total, elapsed).map(|left| left.as_secs_f64()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_headings() {
        let mut table = Table::new(&[("backup", Align::Left), ("size", Align::Right), ("state", Align::Left)]);
        table.row(&["a", "1 B", "ok"]);
        table.row(&["longer", "1024.0 KiB", "damaged"]);
        let expected = "backup        size  state\na              1 B  ok\nlonger  1024.0 KiB  damaged\n";
        assert_eq!(table.to_string(), expected);
        let mut table = Table::new(&[("who", Align::Left), ("why", Align::Left)]);
        for who in ["anna", "\u{5c71}\u{7530}", "Ame\u{301}lie"] {
            table.row(&[who, "audit"]);
        }
        let expected = "who     why\nanna    audit\n\u{5c71}\u{7530}    audit\nAme\u{301}lie  audit\n";
        assert_eq!(table.to_string(), expected, "two columns for a wide letter, none for an accent of its own");
    }

    #[test]
    fn a_long_last_cell_goes_on_below_its_beginning() {
        let reasons = "day 2026-11-20, week 2026-W47, month 2026-11, newest 2, anchor of the window";
        let indent = 60;
        let broken = wrapped(reasons, indent, WIDTH);
        let mut lines = broken.lines();
        assert_eq!(lines.next(), Some("day 2026-11-20, week 2026-W47, month"));
        assert_eq!(lines.next(), Some(format!("{:indent$}2026-11, newest 2, anchor of the window", "").as_str()));
        assert_eq!(lines.next(), None);
        assert_eq!(wrapped(reasons, 85, WIDTH), reasons, "no room is left for that");
        let coloured = "\x1b[31;1mdamaged\x1b[0m since yesterday";
        assert_eq!(strip_ansi_codes(coloured), "damaged since yesterday");
        assert_eq!(wrapped(coloured, 0, 23), coloured, "colours take no room");
        assert_eq!(wrapped(coloured, 0, 22).lines().count(), 2);
    }

    #[test]
    fn durations_are_spoken_with_two_figures() {
        for (millis, text) in
            [(7, "7 ms"), (12_450, "12.4 s"), (185_000, "3 min 05 s"), (7_620_000, "2 h 07 min"), (0, "0 ms")]
        {
            assert_eq!(spoken(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn a_plain_line_says_how_long_it_will_take() {
        let now = ProgressSnapshot { raw: ByteCount::from_mib(100), files: 7, ..ProgressSnapshot::default() };
        let line = plain_line("backup", now, Some(ByteCount::from_mib(400)), Duration::from_secs(10));
        assert_eq!(line, "backup: 100 MiB of about 400 MiB (25%), 7 files, 10.0 MiB/s, 30.0 s left");
        let (stored, on_their_way) = (ByteCount::from_mib(10), ByteCount::from_mib(40));
        let slow = ProgressSnapshot { stored, on_their_way, ..now };
        let line = plain_line("backup", slow, Some(ByteCount::from_mib(400)), Duration::from_secs(10));
        assert!(line.ends_with("3 min 10 s left"), "what lies in our buffers still has to go over the line: {line}");
    }
}

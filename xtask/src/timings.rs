//! Where the time of a build goes: processor time in all, and the crates that took longest.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::steps::{run, shown};
use crate::{build, tools};

/// Crates that are named.
const CRATES_SHOWN: usize = 25;
/// Kernel ticks per second, as `/proc` counts them. Source: proc_pid_stat(5), USER_HZ.
const TICKS_PER_SECOND: f64 = 100.0;

/// What to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Built {
    /// What `cargo xtask demo` builds before it begins.
    Demo,
    /// Both programs, optimised.
    Release,
    /// All tests.
    Tests,
}

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct TimingsArgs {
    /// What to build.
    #[arg(value_enum, default_value = "demo")]
    built: Built,
}

/// Builds in a folder of its own, which is emptied first, and prints where the time went.
pub(crate) fn main(args: &TimingsArgs) -> Result<()> {
    let target = tools::root().join("target/timings");
    if target.exists() {
        std::fs::remove_dir_all(&target).with_context(|| format!("empty {}", target.display()))?;
    }
    let mut build = match args.built {
        Built::Demo => build::command(&[]),
        Built::Release => cargo(&["build", "--release"]),
        Built::Tests => cargo(&["test", "--workspace", "--no-run"]),
    };
    build.arg("--timings").env("CARGO_TARGET_DIR", &target);
    println!("building: {}", shown(&build));
    let (begun, before) = (Instant::now(), processor_time_of_children()?);
    if args.built == Built::Demo {
        // `cargo xtask` itself is compiled before it can build anything.
        let mut xtask = cargo(&["build", "--package", "lifeboat-xtask"]);
        run(xtask.env("CARGO_TARGET_DIR", &target))?;
    }
    run(&mut build)?;
    let (wall, processor) = (begun.elapsed(), processor_time_of_children()?.saturating_sub(before));
    let crates = crates(&target.join("cargo-timings/cargo-timing.html"))?;
    println!("\n{:<32} {:>8}  {:>6}", "crate", "units", "wall s");
    for (name, units, seconds) in crates.iter().take(CRATES_SHOWN) {
        println!("{name:<32} {units:>8}  {seconds:>6.1}");
    }
    let rest: f64 = crates.iter().skip(CRATES_SHOWN).map(|(_, _, seconds)| seconds).sum();
    println!("{:<32} {:>8}  {rest:>6.1}", "the others", crates.len().saturating_sub(CRATES_SHOWN));
    println!("\nprocessor time {}, wall {}", minutes(processor), minutes(wall));
    Ok(())
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(tools::cargo());
    cargo.args(arguments).current_dir(tools::root());
    cargo
}

/// Every crate of the last build, with its units and their seconds, the longest first. Source: the report of
/// `cargo build --timings`, whose data is JSON.
fn crates(report: &Path) -> Result<Vec<(String, usize, f64)>> {
    let text = std::fs::read_to_string(report).with_context(|| format!("read {}", report.display()))?;
    let (_, data) = text.split_once("const UNIT_DATA = ").context("the report of cargo has no data")?;
    let (data, _) = data.split_once("];").context("the data of cargo's report has no end")?;
    let units: Vec<Value> = serde_json::from_str(&format!("{data}]")).context("read the data of cargo's report")?;
    ensure!(!units.is_empty(), "nothing was compiled");
    let mut crates: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for unit in &units {
        let name = unit["name"].as_str().context("a unit of cargo's report has no name")?;
        let (count, seconds) = crates.entry(name).or_default();
        *count += 1;
        *seconds += unit["duration"].as_f64().unwrap_or_default();
    }
    let mut crates: Vec<_> =
        crates.into_iter().map(|(name, (count, seconds))| (name.to_owned(), count, seconds)).collect();
    crates.sort_by(|a, b| b.2.total_cmp(&a.2));
    Ok(crates)
}

/// User and system time of all children that have ended. Source: proc_pid_stat(5), fields 16 and 17.
fn processor_time_of_children() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    // The name of the program, in parentheses, may contain anything.
    let (_, fields) = stat.rsplit_once(')').context("/proc/self/stat has no name")?;
    let ticks = fields.split_whitespace().skip(13).take(2).map(str::parse::<f64>);
    let ticks = ticks.sum::<Result<f64, _>>().context("read the times in /proc/self/stat")?;
    Ok(Duration::from_secs_f64(ticks / TICKS_PER_SECOND))
}

fn minutes(time: Duration) -> String {
    format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn units_of_one_crate_are_added_up_and_the_longest_crate_comes_first() {
        let directory = tempfile::tempdir().unwrap();
        let report = directory.path().join("cargo-timing.html");
        let unit =
            |name: &str, seconds: f64| format!(r#"{{"name": "{name}", "duration": {seconds}, "sections": null}}"#);
        let units = [unit("short", 1.0), unit("long", 2.0), unit("long", 0.5)].join(",\n");
        write(&report, &format!("<script>\nconst UNIT_DATA = [\n{units}\n];\nlet x = [];\n"));
        let expected = [("long".to_owned(), 2, 2.5), ("short".to_owned(), 1, 1.0)];
        assert_eq!(crates(&report).unwrap(), expected);
        write(&report, "<html>");
        assert!(crates(&report).unwrap_err().to_string().contains("no data"));
    }

    #[test]
    fn processor_time_of_children_grows_with_what_they_use() {
        let before = processor_time_of_children().unwrap();
        let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        assert!(Command::new("sh").args(["-c", script]).status().unwrap().success());
        assert!(processor_time_of_children().unwrap() > before);
    }
}

//! `cargo xtask test`: everything that has to hold, on a machine that may have nothing yet.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use lifeboat_vocabulary::counted;

use crate::package::trial;
use crate::steps::{self, Steps, shown};
use crate::test_programs::{self, TestProgram};
use crate::torture::{backups, wal};
use crate::{house, tools};

/// Oldest, and newest two: before and after each change of the replication protocol, beside the system's own.
const SHORT_VERSIONS: &str = "13,17,18";

/// More programs with servers of their own at once would fill a large machine, and gain little.
const PROGRAMS_AT_A_TIME: usize = 4;

/// How to test.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Major versions of PostgreSQL to test with, such as 13,15,17,18 [default: the system's]
    #[arg(long, value_name = "MAJORS")]
    pg: Option<String>,
}

/// Runs all steps and prints a summary whose last line is the verdict.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    let root = tools::root();
    let mut steps = Steps::default();
    steps.step("packages", "what has to be on the machine", tools::ensure_packages);
    steps.step("postgresql", "the versions to test with", || tools::ensure_postgres(args.pg.as_deref()));
    if !steps.all_passed() {
        bail!("nothing was tested\n{}", steps.summary());
    }
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new(tools::cargo());
        command.args(arguments).current_dir(&root);
        if let Some(majors) = &args.pg {
            command.env("LIFEBOAT_TEST_PG", majors);
        }
        command
    };
    let quiet = |mut command: Command| steps::run(&mut command).map(|()| "clean".to_owned());
    let format = cargo(&["fmt", "--all", "--check"]);
    steps.step("format", &shown(&format), || quiet(format));
    house::add_steps(&mut steps, &root);
    let clippy = cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    steps.step("clippy", &shown(&clippy), || quiet(clippy));
    let has_deny = tools::works("cargo", &["deny", "--version"]);
    let licences = cargo(&["deny", "--workspace", "check", "licenses", "bans", "sources"]);
    steps.step("licences", &shown(&licences), || match has_deny {
        true => quiet(licences),
        false => Ok("not checked: cargo-deny is not installed".to_owned()),
    });
    let (mut fetch, advisories) =
        (cargo(&["deny", "fetch", "db"]), cargo(&["deny", "--workspace", "check", "advisories"]));
    steps.step("advisories", &shown(&advisories), || match has_deny {
        // It comes over the network; all else can be tested without one.
        true if steps::run(&mut fetch).is_err() => Ok("not checked: their database cannot be fetched".to_owned()),
        true => quiet(advisories),
        false => Ok("not checked: cargo-deny is not installed".to_owned()),
    });
    let mut built = Vec::new();
    let mut tests = cargo(&["test", "--workspace"]);
    steps.step("test programs", &format!("{} --no-run", shown(&tests)), || {
        built = test_programs::build(&mut tests)?;
        Ok(counted(built.len() as u64, "program", "programs"))
    });
    let at_a_time = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get).min(PROGRAMS_AT_A_TIME);
    let majors: Vec<(&str, &str)> = args.pg.as_deref().map(|majors| ("LIFEBOAT_TEST_PG", majors)).into_iter().collect();
    let doing = format!("what `{}` runs, {at_a_time} programs at a time", shown(&cargo(&["test", "--workspace"])));
    steps.step("tests", &doing, || run_programs(built, at_a_time, &majors));
    let documentation = cargo(&["test", "--workspace", "--doc"]);
    steps.step("doc tests", &shown(&documentation), || run_tests(documentation));
    if args.pg.is_none() {
        // The whole walk once with every version that has a way of its own; the same programs, no rebuild.
        let mut versions = cargo(&["test", "--workspace", "--test", "end_to_end", "is_restored"]);
        versions.env("LIFEBOAT_TEST_PG", SHORT_VERSIONS);
        steps.step("versions", &shown(&versions), || run_tests(versions));
    }
    steps.step("torture", "two backups are killed", || backups::short().map(|()| "all is whole".to_owned()));
    let lost = || wal::short().map(|()| "only the youngest commits are gone".to_owned());
    steps.step("lost host", "the host is lost four times", lost);
    steps.step("package", "it is installed in a systemd of its own, as the documentation says", trial::run);
    println!("\n{}", steps.summary());
    if steps.all_passed() { Ok(()) } else { bail!("not everything passed") }
}

/// What the test harnesses said, added up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tally {
    /// Adds a line such as `test result: ok. 8 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for part in counts.split(';') {
            match part.trim().split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                Some((number, "ignored")) => self.ignored += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }

    fn verdict(&self) -> Result<String> {
        if self.ignored > 0 || self.passed == 0 {
            bail!("skipped: {}; {} passed; a test that does not run proves nothing", tests(self.ignored), self.passed);
        }
        Ok(format!("{} passed, none skipped", tests(self.passed)))
    }
}

fn run_programs(programs: Vec<TestProgram>, at_a_time: usize, environment: &[(&str, &str)]) -> Result<String> {
    let mut tally = Tally::default();
    let ended = test_programs::run(programs, at_a_time, environment, &mut |line| tally.add(line));
    if let Err(failed) = ended {
        bail!("{} failed, {} passed: {failed:#}", tests(tally.failed), tally.passed);
    }
    tally.verdict()
}

fn run_tests(mut command: Command) -> Result<String> {
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("start {}", shown(&command)))?;
    let stdout = child.stdout.take().context("the tests have no output")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("read the output of the tests")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.add(&line);
    }
    let status = child.wait().context("wait for the tests")?;
    if !status.success() || tally.failed > 0 {
        bail!("{} failed, {} passed ({status})", tests(tally.failed), tally.passed);
    }
    tally.verdict()
}

fn tests(count: u64) -> String {
    counted(count, "test", "tests")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(script: &str) -> Result<String> {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        run_tests(shell)
    }

    #[test]
    fn tests_that_fail_or_are_skipped_fail_the_step() {
        let line = |passed, failed, ignored| {
            format!("echo 'test result: ok. {passed} passed; {failed} failed; {ignored} ignored; 0 measured';")
        };
        assert!(said(&(line(3, 1, 0))).is_err());
        assert!(said(&(line(3, 0, 1))).is_err());
        assert!(said("echo nothing").is_err());
        assert!(said(&(line(3, 0, 0) + "exit 101")).is_err());
        assert_eq!(said(&(line(3, 0, 0) + &line(4, 0, 0))).unwrap(), "7 tests passed, none skipped");
    }

    #[test]
    fn lines_that_are_not_results_do_not_count() {
        let mut tally = Tally::default();
        tally.add("test 7 passed; ... ok");
        tally.add("test result: FAILED. 2 passed; 5 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.5s");
        assert_eq!(tally, Tally { passed: 2, failed: 5, ignored: 0 });
    }
}

//! The test programs of the workspace, several at a time: most tests wait, for servers and for time-outs.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::steps::{output_of, seconds};

/// One program with tests in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TestProgram {
    /// As `cargo test` names it: `tests/end_to_end.rs`.
    pub(crate) name: String,
    program: PathBuf,
    /// Of its package, where tests expect to be started.
    directory: PathBuf,
    kind: Kind,
}

/// Those that take longest come first, so that none of them is left to run alone at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Everything together, with servers.
    Integration,
    Unit,
}

/// Builds all test programs by `cargo test`, whose other arguments `command` has.
///
/// # Errors
/// If one cannot be built, or there is none.
pub(crate) fn build(command: &mut Command) -> Result<Vec<TestProgram>> {
    let messages = output_of(command.args(["--no-run", "--message-format=json-render-diagnostics"]))?;
    let mut programs = Vec::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).context("read what cargo says")?;
        programs.extend(TestProgram::of(&message));
    }
    if programs.is_empty() {
        bail!("no test program was built");
    }
    programs.sort_by_key(|program| program.kind);
    Ok(programs)
}

impl TestProgram {
    /// The program that a message of cargo is about, if it is about one. Source: Cargo book, "External tools", "Artifact Messages".
    fn of(message: &Value) -> Option<Self> {
        if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
            return None;
        }
        let program = PathBuf::from(message["executable"].as_str()?);
        let directory = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_owned();
        let source = PathBuf::from(message["target"]["src_path"].as_str()?);
        let source = source.strip_prefix(directory.parent()?).unwrap_or(&source).display().to_string();
        let is_integration = message["target"]["kind"].as_array()?.iter().any(|kind| kind == "test");
        let kind = if is_integration { Kind::Integration } else { Kind::Unit };
        Some(Self { name: source, program, directory, kind })
    }

    fn run(&self, environment: &[(&str, &str)]) -> Result<(String, bool)> {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.directory).env("CARGO_MANIFEST_DIR", &self.directory);
        let output = command.envs(environment.iter().copied()).output();
        let output = output.with_context(|| format!("start {}", self.program.display()))?;
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        Ok((text, output.status.success()))
    }
}

/// Runs all of them, `at_a_time` at once, and shows what each says when it ends, in one piece. `said` gets every line.
///
/// # Errors
/// The names of those that failed.
pub(crate) fn run(
    programs: Vec<TestProgram>,
    at_a_time: usize,
    environment: &[(&str, &str)],
    said: &mut (dyn FnMut(&str) + Send),
) -> Result<()> {
    let waiting = Mutex::new(VecDeque::from(programs));
    let next = || waiting.lock().ok()?.pop_front();
    let told = Mutex::new((said, Vec::new()));
    let work = || -> Result<()> {
        while let Some(program) = next() {
            let begun = Instant::now();
            let (text, is_passed) = program.run(environment)?;
            let Ok(mut told) = told.lock() else { bail!("another program's output could not be shown") };
            let (said, failed) = &mut *told;
            println!("\n     Ran {} ({})", program.name, seconds(begun.elapsed()));
            for line in text.lines() {
                println!("{line}");
                said(line);
            }
            if !is_passed {
                failed.push(program.name);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..at_a_time).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            match worker.join() {
                Ok(ended) => ended?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })?;
    let failed = told.into_inner().map(|(_, failed)| failed).unwrap_or_default();
    if !failed.is_empty() {
        bail!("{}", failed.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn script(below: &std::path::Path, name: &str, text: &str) -> TestProgram {
        use std::io::Write;
        use std::os::unix::fs::PermissionsExt;
        let directory = below.join(name);
        std::fs::create_dir(&directory).unwrap();
        let program = directory.join("program");
        write!(std::fs::File::create(&program).unwrap(), "#!/bin/sh\n{text}\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        TestProgram { name: name.to_owned(), program, directory, kind: Kind::Unit }
    }

    #[test]
    fn every_program_runs_in_its_package_and_one_failure_fails_all() {
        let below = tempfile::tempdir().unwrap();
        let below = below.path().canonicalize().unwrap();
        let mut lines = Vec::new();
        let first = script(&below, "first", "pwd; echo $CARGO_MANIFEST_DIR");
        let programs = vec![first, script(&below, "second", "echo no $WHY; exit 3")];
        let directory = programs[0].directory.display().to_string();
        let failed = run(programs, 2, &[("WHY", "reason")], &mut |line| lines.push(line.to_owned())).unwrap_err();
        assert_eq!(failed.to_string(), "second");
        lines.sort();
        assert_eq!(lines, [directory.clone(), directory, "no reason".to_owned()]);
        run(vec![script(&below, "third", "true")], 2, &[], &mut |_| {}).unwrap();
    }

    #[test]
    fn what_cargo_builds_for_tests_is_found_and_nothing_else() {
        let message = |test: bool, executable: Option<&str>| {
            json!({
                "reason": "compiler-artifact", "manifest_path": "/w/daemon/Cargo.toml", "profile": { "test": test },
                "target": { "kind": ["test"], "src_path": "/w/daemon/tests/healing.rs" }, "executable": executable,
            })
        };
        let found = TestProgram::of(&message(true, Some("/w/target/healing-1"))).unwrap();
        assert_eq!((found.name.as_str(), found.kind), ("daemon/tests/healing.rs", Kind::Integration));
        assert_eq!(found.directory, PathBuf::from("/w/daemon"));
        assert_eq!(TestProgram::of(&message(false, Some("/w/target/lifeboatd"))), None);
        assert_eq!(TestProgram::of(&message(true, None)), None);
        assert_eq!(TestProgram::of(&json!({ "reason": "build-finished", "success": true })), None);
    }
}

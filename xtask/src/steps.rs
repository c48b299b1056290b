//! Steps that say what they do, how long it took and how it ended.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What has been done so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<Done>,
}

#[derive(Debug)]
struct Done {
    name: &'static str,
    took: Duration,
    outcome: Result<String, String>,
}

impl Steps {
    /// Does one step; a failure is noted, and the steps after it are done all the same. `doing` tells what is about to
    /// happen, the step itself what came of it.
    pub(crate) fn step(&mut self, name: &'static str, doing: &str, work: impl FnOnce() -> Result<String>) {
        println!("\n==> {name}: {doing}");
        let begun = Instant::now();
        let outcome = work().map_err(|error| format!("{error:#}"));
        let took = begun.elapsed();
        match &outcome {
            Ok(text) => println!("    {text} ({})", seconds(took)),
            Err(text) => eprintln!("    FAILED: {text} ({})", seconds(took)),
        }
        self.done.push(Done { name, took, outcome });
    }

    /// A table of all steps, and as the last line the verdict.
    pub(crate) fn summary(&self) -> String {
        let mut text = format!("{:<14} {:>8}  {}\n", "step", "time", "result");
        for done in &self.done {
            let outcome = match &done.outcome {
                Ok(text) => format!("ok: {text}"),
                Err(text) => format!("FAILED: {}", text.lines().next().unwrap_or("")),
            };
            text.push_str(&format!("{:<14} {:>8}  {outcome}\n", done.name, seconds(done.took)));
        }
        let total = seconds(self.done.iter().map(|done| done.took).sum());
        let failed: Vec<&str> = self.done.iter().filter(|done| done.outcome.is_err()).map(|done| done.name).collect();
        match failed.is_empty() {
            true => text.push_str(&format!("PASSED: all {} steps in {total}", self.done.len())),
            false => {
                text.push_str(&format!("FAILED: {} of {} steps: {}", failed.len(), self.done.len(), failed.join(", ")))
            }
        }
        text
    }

    pub(crate) fn all_passed(&self) -> bool {
        self.done.iter().all(|done| done.outcome.is_ok())
    }
}

/// `12.3 s`, or `4 min 05 s`.
pub(crate) fn seconds(took: Duration) -> String {
    if took.as_secs() < 100 {
        format!("{:.1} s", took.as_secs_f64())
    } else {
        format!("{} min {:02} s", took.as_secs() / 60, took.as_secs() % 60)
    }
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    let quoted = |word: String| if word.is_empty() || word.contains(' ') { format!("'{word}'") } else { word };
    words.into_iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// Runs a command that talks to the terminal itself.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs a command and returns what it wrote to standard output; standard error goes to the terminal.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let output = command.stderr(std::process::Stdio::inherit()).output();
    let output = output.with_context(|| format!("start {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}: {}", shown(command), output.status, String::from_utf8_lossy(&output.stdout).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("read the output of {}", shown(command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_fails_the_whole_and_the_rest_is_done_all_the_same() {
        let mut steps = Steps::default();
        steps.step("first", "fails", || bail!("no"));
        steps.step("second", "works", || Ok("7 things".to_owned()));
        assert!(!steps.all_passed());
        let summary = steps.summary();
        assert!(summary.contains("ok: 7 things") && summary.ends_with("FAILED: 1 of 2 steps: first"), "{summary}");
        let mut steps = Steps::default();
        steps.step("only", "works", || Ok(String::new()));
        assert!(steps.all_passed() && steps.summary().lines().last().unwrap().starts_with("PASSED: all 1 steps"));
    }

    #[test]
    fn commands_are_shown_as_typed_and_times_as_read() {
        assert_eq!(shown(Command::new("a").args(["b c", "", "d"])), "a 'b c' '' d");
        assert_eq!(seconds(Duration::from_millis(1250)), "1.2 s");
        assert_eq!(seconds(Duration::from_secs(245)), "4 min 05 s");
        assert!(run(&mut Command::new("false")).is_err());
        assert_eq!(output_of(Command::new("echo").arg("x")).unwrap(), "x\n");
    }
}

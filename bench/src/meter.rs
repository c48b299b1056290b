//! One measured run: what the command used, and what its servers and everybody else used meanwhile.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use lifeboat_testkit::run_as_postgres;

use crate::figures::Cost;
use crate::measured::Usage;
use crate::proc;
use crate::shell::Shell;
use crate::stage::{Stage, set_environment};

/// A run that takes longer than this is killed.
const LIMIT_SECONDS: u64 = 3600;
/// How much of a failed command's output is shown, from its end, in characters.
const SHOWN: usize = 2000;

/// Processor seconds at one moment.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    postgres: f64,
    regions: f64,
    machine: f64,
}

impl Clocks {
    fn read(stage: &Stage) -> Result<Self> {
        let all = proc::processes()?;
        let postmaster = stage.cluster().pid().context("the cluster's server has ended")?;
        Ok(Self {
            postgres: proc::tree_seconds(&all, postmaster),
            regions: stage.regions().iter().map(|region| proc::tree_seconds(&all, region.pid())).sum(),
            machine: proc::machine_busy_seconds()?,
        })
    }
}

/// Runs a command as the servers' account and measures it.
pub(crate) fn measure(stage: &Stage, shell: &Shell, label: &str) -> Result<Cost> {
    let before = Clocks::read(stage)?;
    let usage = usage(stage, shell, label)?;
    let after = Clocks::read(stage)?;
    let own = usage.user_seconds + usage.system_seconds;
    let (postgres, regions) = (after.postgres - before.postgres, after.regions - before.regions);
    // The kernel's counters tick in hundredths of a second and not at the same moment.
    let others = (after.machine - before.machine - own - postgres - regions).max(0.0);
    Ok(Cost {
        wall_seconds: usage.wall_seconds,
        cpu_seconds: own,
        kernel_seconds: usage.system_seconds,
        postgres_cpu_seconds: postgres,
        region_cpu_seconds: regions,
        other_cpu_seconds: others,
        largest_process_bytes: usage.largest_bytes,
        all_processes_bytes: usage.sum_bytes,
    })
}

/// Runs a command as the servers' account, its output into a log; fails if it does.
pub(crate) fn usage(stage: &Stage, shell: &Shell, label: &str) -> Result<Usage> {
    let log = stage.log(label);
    let mut command = Command::new(stage.harness());
    command.arg("measured").arg("--log").arg(&log).args(["--limit-seconds", &LIMIT_SECONDS.to_string(), "--"]);
    command.args(["/bin/bash", "-o", "pipefail", "-c", &shell.text]);
    set_environment(&mut command, &shell.environment);
    let said = run_as_postgres(&mut command)?;
    let usage: Usage = serde_json::from_str(&said).context("understand what was used")?;
    if usage.exit_code != 0 {
        bail!("{label} ended with {}: {}", usage.exit_code, log_tail(&log));
    }
    Ok(usage)
}

/// The end of a log, or why it cannot be read.
pub(crate) fn log_tail(log: &Path) -> String {
    match fs::read_to_string(log) {
        Ok(text) => tail(&text),
        Err(error) => format!("its log {} cannot be read: {error}", log.display()),
    }
}

/// The end of a command's output.
fn tail(text: &str) -> String {
    let text = text.trim();
    let skipped = text.chars().count().saturating_sub(SHOWN);
    text.chars().skip(skipped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_output_the_end_is_shown() {
        assert_eq!(tail("  short\n"), "short");
        assert!(log_tail(Path::new("/nonexistent/log")).contains("/nonexistent/log cannot be read"));
        let long = format!("{}ü the end\n", "x".repeat(SHOWN));
        assert!(tail(&long).ends_with("xü the end") && tail(&long).chars().count() == SHOWN);
    }
}

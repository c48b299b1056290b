//! The part of the harness that runs one command as the servers' account and prints what it used, as JSON.
//!
//! It is a process of its own so that the kernel's account of "children that were waited for" holds this command alone.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use crate::proc;

/// One command.
#[derive(Debug, Args)]
pub(crate) struct Measured {
    /// File for the command's output.
    #[arg(long)]
    pub(crate) log: PathBuf,
    /// Kill the command after this many seconds.
    #[arg(long)]
    pub(crate) limit_seconds: u64,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}

/// How often the memory of the command's processes is looked at.
const SAMPLE: Duration = Duration::from_millis(100);

/// What a command used.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Usage {
    /// Its exit code; 128 and the signal's number if a signal ended it, as shells count.
    pub(crate) exit_code: i32,
    /// Seconds from its start to its end.
    pub(crate) wall_seconds: f64,
    /// Processor seconds in user mode, of the command and everything that it waited for.
    pub(crate) user_seconds: f64,
    /// The same in the kernel.
    pub(crate) system_seconds: f64,
    /// The most memory that a single process held, in bytes.
    pub(crate) largest_bytes: u64,
    /// The most memory that all its processes held at once, in bytes: sampled, shared pages counted in each.
    pub(crate) sum_bytes: u64,
}

/// Runs the command to its end.
pub(crate) fn run(arguments: &Measured) -> Result<ExitCode> {
    let usage = usage_of(arguments)?;
    let text = serde_json::to_string(&usage).context("write what was used as JSON")?;
    writeln!(std::io::stdout(), "{text}").context("print what was used")?;
    Ok(ExitCode::SUCCESS)
}

fn usage_of(arguments: &Measured) -> Result<Usage> {
    let (program, rest) = arguments.command.split_first().context("there is no command")?;
    let log = File::options().create(true).append(true).open(&arguments.log);
    let log = log.with_context(|| format!("open {}", arguments.log.display()))?;
    let mut command = Command::new(program);
    command.args(rest).process_group(0).stdin(Stdio::null());
    command.stdout(log.try_clone().context("share the log")?).stderr(log);

    let begun = Instant::now();
    let mut child = command.spawn().with_context(|| format!("start {program}"))?;
    let (ended, end) = sync_channel(1);
    let limit = Duration::from_secs(arguments.limit_seconds);
    let group = child.id();
    let watch = std::thread::spawn(move || watch(group, &end, limit));
    let status = child.wait().with_context(|| format!("wait for {program}"))?;
    let wall = begun.elapsed();
    drop(ended);
    let sum_bytes = watch.join().map_err(|_| anyhow!("the watcher panicked"))??;

    let used = getrusage(UsageWho::RUSAGE_CHILDREN).context("ask what the command used")?;
    let kib = u64::try_from(used.max_rss()).context("understand the largest process")?;
    Ok(Usage {
        exit_code: status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1),
        wall_seconds: wall.as_secs_f64(),
        user_seconds: seconds(used.user_time()),
        system_seconds: seconds(used.system_time()),
        largest_bytes: kib * 1024,
        sum_bytes,
    })
}

/// Samples the group's memory until the command has ended; kills a command that takes too long.
fn watch(group: u32, end: &Receiver<()>, limit: Duration) -> Result<u64> {
    let begun = Instant::now();
    let mut most = 0;
    while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(SAMPLE) {
        most = most.max(proc::group_bytes(&proc::processes()?, group));
        if begun.elapsed() > limit {
            let pid = i32::try_from(group).ok().and_then(Pid::from_raw).context("process id out of range")?;
            kill_process_group(pid, Signal::KILL).context("kill a command that takes too long")?;
        }
    }
    Ok(most)
}

fn seconds(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(limit_seconds: u64, script: &str) -> Usage {
        let command = ["bash", "-c", script].map(str::to_owned).to_vec();
        usage_of(&Measured { log: "/dev/null".into(), limit_seconds, command }).unwrap()
    }

    #[test]
    fn a_command_that_fails_or_takes_too_long_is_reported() {
        assert_eq!(usage(60, "exit 7").exit_code, 7);
        let begun = Instant::now();
        assert_eq!(usage(1, "sleep 60 & wait").exit_code, 128 + 9);
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn the_work_of_grandchildren_is_counted_and_waiting_is_not() {
        let busy = "timeout 1 sh -c 'while :; do :; done'; sleep 0.5";
        let used = usage(60, busy);
        let cpu = used.user_seconds + used.system_seconds;
        assert!(used.wall_seconds >= 1.5, "{used:?}");
        assert!(cpu > 0.2 && cpu < used.wall_seconds, "{used:?}");
        assert!(used.largest_bytes > 1 << 20 && used.sum_bytes > 1 << 20, "{used:?}");
    }
}

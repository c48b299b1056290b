//! `lifeboatd run` beside a scratch cluster.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::scenario::Scenario;
use crate::steps::seconds;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running `lifeboatd run`.
pub(crate) struct Daemon {
    child: Child,
    status: std::process::Command,
}

impl Daemon {
    /// Starts it, its log in a file.
    pub(crate) fn start(scenario: &Scenario) -> Result<Self> {
        let log = std::fs::File::options().create(true).append(true).open(scenario.path("lifeboatd.log"));
        let child = scenario.lifeboatd().arg("run").stdout(Stdio::null()).stderr(log.context("open the log")?).spawn();
        let mut status = scenario.lifeboatd();
        status.args(["--json", "status"]);
        Ok(Self { child: child.context("start the daemon")?, status })
    }

    /// SIGKILL, and its end.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill().context("kill the daemon")?;
        self.child.wait().context("wait for the daemon").map(drop)
    }

    /// The value of a key with a text in the status, wherever it stands; empty if there is none.
    fn says(&mut self, key: &str) -> Vec<String> {
        let said = self.status.output().map(|said| String::from_utf8_lossy(&said.stdout).into_owned());
        let said = said.unwrap_or_default();
        let mark = format!("\"{key}\":\"");
        said.split(&mark).skip(1).filter_map(|rest| rest.split('"').next().map(str::to_owned)).collect()
    }

    /// The largest value of a key with a number in the status, wherever it stands.
    pub(crate) fn largest(&mut self, key: &str) -> f64 {
        let said = self.status.output().map(|said| String::from_utf8_lossy(&said.stdout).into_owned());
        let said = said.unwrap_or_default();
        let mark = format!("\"{key}\":");
        let numbers = said.split(&mark).skip(1).filter_map(|rest| rest.split([',', '}']).next()?.parse::<f64>().ok());
        numbers.fold(0.0, f64::max)
    }

    fn wait(&mut self, what: &str, done: impl Fn(&mut Self) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !done(self) {
            ensure!(begun.elapsed() < PATIENCE, "{what} does not come within {}", seconds(PATIENCE));
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// WAL comes in.
    pub(crate) fn wait_until_streaming(&mut self) -> Result<()> {
        self.wait("a stream", |daemon| !daemon.says("host").is_empty())
    }

    /// A first base backup, and a stream.
    pub(crate) fn wait_until_protected(&mut self) -> Result<()> {
        self.wait_until_streaming()?;
        self.wait("the first base backup", |daemon| !daemon.says("alarm").contains(&"wal-gap".to_owned()))
    }

    /// The quorum and every region have everything up to `lsn`.
    pub(crate) fn wait_until_durable(&mut self, lsn: &str) -> Result<()> {
        let wanted = number(lsn).context("understand a position")?;
        self.wait("all WAL in all regions", |daemon| {
            let durable = daemon.says("durable");
            durable.len() > 2 && durable.iter().all(|text| number(text).is_some_and(|at| at >= wanted))
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none())
            && let Err(error) = self.kill()
        {
            eprintln!("end the daemon: {error:#}");
        }
    }
}

/// `16/B374D848` as a number.
fn number(lsn: &str) -> Option<u64> {
    let (high, low) = lsn.trim().split_once('/')?;
    Some((u64::from_str_radix(high, 16).ok()? << 32) | u64::from_str_radix(low, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_hexadecimal() {
        assert_eq!(number("x"), None);
        assert_eq!(number(" 1/10\n"), Some((1 << 32) + 16));
    }
}

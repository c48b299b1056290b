//! `lifeboatd run` beside a scratch cluster.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lifeboat_vocabulary::Lsn;
use serde_json::Value;

use crate::scene::scenario::Scenario;
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

    /// All that it says of itself; null while it says nothing.
    fn says(&mut self) -> Value {
        let said = self.status.output().map(|said| said.stdout).unwrap_or_default();
        serde_json::from_slice(&said).unwrap_or_default()
    }

    /// The largest value of a key with a number in the status, wherever it stands.
    pub(crate) fn largest(&mut self, key: &str) -> f64 {
        found(&self.says(), key).into_iter().filter_map(Value::as_f64).fold(0.0, f64::max)
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
        self.wait("a stream", |daemon| found(&daemon.says(), "host").into_iter().any(Value::is_string))
    }

    /// A first base backup, and a stream.
    pub(crate) fn wait_until_protected(&mut self) -> Result<()> {
        self.wait_until_streaming()?;
        self.wait("the first base backup", |daemon| {
            let status = daemon.says();
            status.is_object() && !found(&status, "alarm").into_iter().any(|alarm| alarm == "wal-gap")
        })
    }

    /// The quorum and every region have everything up to `lsn`.
    pub(crate) fn wait_until_durable(&mut self, lsn: &str) -> Result<()> {
        let wanted: Lsn = lsn.trim().parse()?;
        self.wait("all WAL in all regions", |daemon| {
            let status = daemon.says();
            let durable: Vec<_> = found(&status, "durable").into_iter().filter_map(Value::as_str).collect();
            durable.len() > 2 && durable.iter().all(|text| text.parse::<Lsn>().is_ok_and(|at| at >= wanted))
        })
    }
}

/// All values of a key, wherever it stands.
fn found<'v>(value: &'v Value, key: &str) -> Vec<&'v Value> {
    match value {
        Value::Object(map) => {
            let below = map
                .iter()
                .flat_map(|(name, value)| (name == key).then_some(value).into_iter().chain(found(value, key)));
            below.collect()
        }
        Value::Array(list) => list.iter().flat_map(|value| found(value, key)).collect(),
        _ => Vec::new(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_wherever_it_stands() {
        let status = serde_json::json!({"a": [{"lsn": 1, "b": {"lsn": 2}}], "lsn": {"lsn": 3}, "c": "lsn"});
        let mut found: Vec<_> = found(&status, "lsn").into_iter().filter_map(Value::as_u64).collect();
        found.sort_unstable();
        assert_eq!(found, [1, 2, 3]);
    }
}
